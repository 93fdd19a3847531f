"""Optimizers for groups of variables, such as weights and mask scores."""

import re
from collections.abc import Iterable
from typing import Any

import keras

from tf_tickets import arguments, keras_internals, xla

__all__ = [
    "Grouped",
    "with_scores",
]

# Pattern of the paths of trainable mask variables.
SCORES = r"(^|/)mask_scores$"
# Packages whose optimizers and schedules XLA can compile.
_KNOWN = ("keras", "tf_tickets")


@keras.saving.register_keras_serializable("tf_tickets")
class Grouped(keras.optimizers.Optimizer):
    """Trains groups of variables with different optimizers.

    Each optimizer has its own learning rate, schedule, weight decay and clipping by
    norm. Callbacks read and set the learning rate of `default`. Newer versions of
    Keras have `keras.optimizers.MultiOptimizer`, which has no learning rate and does
    not say which optimizer trains a variable.

    Args:
        default: The optimizer for variables in no group.
        groups: Dict from regular expression to optimizer. A variable belongs to the
            first group whose expression is found in its path.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    >>> fast = keras.optimizers.SGD(1.0)
    >>> model.compile(Grouped("adam", {"bias": fast}), "mse")
    >>> history = model.fit(np.ones((4, 3)), np.ones((4, 2)), verbose=0)
    >>> [len(optimizer.variables) for optimizer in model.optimizer.members]
    [4, 2]
    """

    def __init__(
        self,
        default: str | dict | keras.optimizers.Optimizer,
        groups: dict[str, str | dict | keras.optimizers.Optimizer],
        name: str = "grouped",
    ) -> None:
        arguments.check_type(str, name=name)
        if not isinstance(groups, dict):
            raise ValueError(
                "`groups` must be a dict from a regular expression for variable paths "
                f"to an optimizer. Received: {arguments.shown(groups)}"
            )
        arguments.check_patterns(groups=groups)
        super().__init__(learning_rate=0.0, name=name)
        self.default = get(default)
        self.groups = {pattern: get(member) for pattern, member in groups.items()}
        self._known: list[keras.Variable] = []

    @property
    def members(self) -> list[keras.optimizers.Optimizer]:
        """The default optimizer and those of the groups.

        The name is not `optimizers`, since Keras's callbacks would set the learning
        rate of all optimizers in an attribute of that name to the same value.
        """
        return [self.default, *self.groups.values()]

    def build(self, variables):
        if self.built:
            return
        self._known = list(variables)
        for optimizer, places in self._places(self._known):
            if not optimizer.built:
                optimizer.build([self._known[place] for place in places])
        super().build(self._known)

    def _places(self, variables):
        """Pairs of an optimizer and the indices of its variables."""
        owners = [self.optimizer_of(variable) for variable in variables]
        return [
            (optimizer, [i for i, owner in enumerate(owners) if owner is optimizer])
            for optimizer in self.members
        ]

    def optimizer_of(self, variable: keras.Variable) -> keras.optimizers.Optimizer:
        """Returns the optimizer that trains a variable."""
        arguments.check_type(keras.Variable, variable=variable)
        for pattern, optimizer in self.groups.items():
            if re.search(pattern, variable.path):
                return optimizer
        return self.default

    @property
    def variables(self) -> list[keras.Variable]:
        return [v for optimizer in self.members for v in optimizer.variables]

    @property
    def iterations(self) -> Any:
        return self._leading().iterations

    def _leading(self):
        """The default optimizer, or the first with variables if it has none."""
        for optimizer, places in self._places(self._known):
            if places:
                return optimizer
        return self.default

    @property
    def learning_rate(self) -> Any:
        return self._leading().learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate: Any) -> None:
        self._leading().learning_rate = learning_rate

    def apply(
        self,
        grads: Iterable,
        trainable_variables: Iterable[keras.Variable] | None = None,
    ) -> None:
        if not self.built:
            self.build(trainable_variables)
        known = self._known
        variables = known if trainable_variables is None else list(trainable_variables)
        grads = list(grads)
        for optimizer, places in self._places(variables):
            if places:
                group = [variables[place] for place in places]
                self._apply(optimizer, [grads[place] for place in places], group)

    def _apply(self, optimizer, grads, variables):
        """Updates variables; scores with as few passes over the memory as possible."""
        has_scores = optimizer is self.groups.get(SCORES)
        if has_scores and _can_be_compiled(optimizer):
            xla.run(lambda: optimizer.apply(grads, variables))
        else:
            optimizer.apply(grads, variables)

    def finalize_variable_values(self, var_list: Iterable[keras.Variable]) -> None:
        variables = list(var_list)
        for optimizer, places in self._places(variables):
            optimizer.finalize_variable_values([variables[i] for i in places])

    def exclude_from_weight_decay(
        self,
        var_list: list[keras.Variable] | None = None,
        var_names: list[str] | None = None,
    ) -> None:
        for optimizer in self.members:
            optimizer.exclude_from_weight_decay(var_list, var_names)

    def get_config(self):
        serialize = keras.optimizers.serialize
        return {
            "default": serialize(self.default),
            "groups": {p: serialize(o) for p, o in self.groups.items()},
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        get = keras.optimizers.deserialize
        groups = {p: get(o) for p, o in config["groups"].items()}
        return cls(get(config["default"]), groups, config["name"])


def _can_be_compiled(optimizer):
    """Returns whether nothing in an optimizer is the user's, which XLA may refuse."""
    parts = [optimizer, keras_internals.learning_rate(optimizer)]
    return all(type(part).__module__.partition(".")[0] in _KNOWN for part in parts)


def get(
    identifier: str | dict | keras.optimizers.Optimizer,
) -> keras.optimizers.Optimizer:
    """Returns an optimizer from its name, its configuration or an instance.

    Example:

    >>> type(get("sgd")).__name__
    'SGD'
    """
    config = isinstance(identifier, dict) and {"class_name", "config"} <= set(
        identifier
    )
    found, reason = identifier, ""
    if isinstance(identifier, str) or config:
        try:
            found = keras.optimizers.get(identifier)
        except ValueError as error:
            reason = f". {error}"
    if not isinstance(found, keras.optimizers.Optimizer):
        raise ValueError(
            "An optimizer must be the name of one in keras.optimizers, an instance or "
            f"its configuration. Received: {arguments.shown(identifier)}{reason}"
        )
    return found


def with_scores(
    optimizer: str | dict | keras.optimizers.Optimizer,
    scores: str | dict | keras.optimizers.Optimizer | None = None,
) -> keras.optimizers.Optimizer:
    """Returns an optimizer that trains the scores of learned masks separately.

    Args:
        optimizer: The optimizer of the weights.
        scores: The optimizer of the scores. By default a copy of `optimizer` without
            weight decay, which would pull scores to 0.

    Returns:
        A `Grouped` optimizer. If `optimizer` has a group for the scores already, it
        is returned unchanged.

    Example:

    >>> both = with_scores(keras.optimizers.AdamW(3e-4), scores="sgd")
    >>> [type(optimizer).__name__ for optimizer in both.members]
    ['AdamW', 'SGD']
    """
    optimizer = get(optimizer)
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        inner = with_scores(optimizer.inner_optimizer, scores)
        config = {**optimizer.get_config(), "inner_optimizer": inner}
        return keras.optimizers.LossScaleOptimizer(**config)
    groups = optimizer.groups if isinstance(optimizer, Grouped) else {}
    default = optimizer.default if isinstance(optimizer, Grouped) else optimizer
    if SCORES in groups:
        _check_equal(groups[SCORES], scores)
        return optimizer
    own = _without_decay(default) if scores is None else twin(get(scores))
    return Grouped(default, {SCORES: own, **groups})


def _check_equal(present, wanted):
    if wanted is not None and not same(present, get(wanted)):
        raise ValueError(
            "The scores have an optimizer already, and it differs from `scores`. "
            f"Received: {settings(get(wanted))}; present: "
            f"{settings(present)}. Compile with the optimizer of the weights only."
        )


def settings(optimizer: keras.optimizers.Optimizer) -> dict:
    """Returns class and configuration, without the name, which Keras numbers.

    Example:

    >>> settings(keras.optimizers.SGD(0.5))["class_name"]
    'SGD'
    """
    config = {k: v for k, v in optimizer.get_config().items() if k != "name"}
    return {"class_name": type(optimizer).__name__, **config}


def same(left: keras.optimizers.Optimizer, right: keras.optimizers.Optimizer) -> bool:
    """Whether two optimizers have the same class and configuration.

    Example:

    >>> same(keras.optimizers.SGD(0.5), keras.optimizers.SGD(0.1))
    False
    """
    return settings(left) == settings(right)


def trainer_of(
    optimizer: keras.optimizers.Optimizer, variable: keras.Variable
) -> keras.optimizers.Optimizer:
    """Returns the optimizer that trains a variable, inside loss scaling and groups.

    Example:

    >>> sgd, variable = keras.optimizers.SGD(), keras.Variable([1.0], name="v")
    >>> trainer_of(Grouped("adam", {"v": sgd}), variable) is sgd
    True
    """
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    if isinstance(inner, Grouped):
        return trainer_of(inner.optimizer_of(variable), variable)
    return inner


def twin(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """Returns a new optimizer with the same configuration.

    Example:

    >>> twin(keras.optimizers.SGD(0.5)).get_config()["learning_rate"]
    0.5
    """
    return type(optimizer).from_config(optimizer.get_config())


def set_learning_rate(
    optimizer: keras.optimizers.Optimizer, learning_rate: float
) -> None:
    """Sets the learning rate of an optimizer without a schedule.

    Example:

    >>> sgd = keras.optimizers.SGD(0.5)
    >>> set_learning_rate(sgd, 0.25)
    >>> float(sgd.learning_rate)
    0.25
    """
    check_settable(optimizer)
    optimizer.learning_rate = learning_rate


def check_settable(optimizer: keras.optimizers.Optimizer) -> None:
    """Raises a ValueError if the learning rate of an optimizer is a schedule.

    Example:

    >>> check_settable(keras.optimizers.SGD(0.5))
    """
    if not any(keras_internals.is_learning_rate(v) for v in optimizer.variables):
        raise ValueError(
            f"The learning rate of optimizer {optimizer.name!r} cannot be set, since "
            "it follows a schedule. Compile with a number as learning rate, or do not "
            "set it."
        )


def _without_decay(optimizer):
    config = optimizer.get_config()
    if config.get("weight_decay"):
        config["weight_decay"] = 0.0
    return type(optimizer).from_config(config)


def decays(
    optimizer: keras.optimizers.Optimizer, variables: Iterable[keras.Variable]
) -> bool:
    """Whether an optimizer may apply weight decay to any of the variables.

    Variables excluded from weight decay count as decayed, since an optimizer does
    not say which variables it excludes.

    Example:

    >>> decays(keras.optimizers.Adam(), [])
    False
    """
    trainers = [trainer_of(optimizer, variable) for variable in variables]
    # Keras's MultiOptimizer does not say which optimizer trains a variable.
    members = [m for one in trainers for m in getattr(one, "optimizers", [one])]
    return any(bool(member.weight_decay) for member in members)
