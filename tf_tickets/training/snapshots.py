"""Records and restores the state of training, without pruned weights.

The state has five parts. Masks are not among them:

- `weights`: the trainable variables;
- `statistics`: the other variables of the model, such as moving averages;
- `optimizer`: its slots;
- `learning_rate`: step and learning rate, the position on the schedule;
- `seeds`: the random generators of dropout and other random layers.
"""

import keras
import numpy as np

from tf_tickets import arguments, distribution, keras_internals, optimizers, wrapping
from tf_tickets.distillation.distiller import Distiller
from tf_tickets.training.fidelity import PARTS, Fidelity
from tf_tickets.wrapping import paths
from tf_tickets.wrapping.kernels import to_numpy

__all__ = [
    "present_weights",
    "record",
    "reset_optimizer",
    "restore",
    "start_weights",
    "zero_slots",
]

State = dict[str, dict[str, np.ndarray]]

# From an optimizer variable's name to its part and its name in that part.
_PLACES = {
    name: ("learning_rate", name)
    for name in (keras_internals.STEP_COUNTER, keras_internals.LEARNING_RATE)
}


def record(model: keras.Model) -> State:
    """Returns a copy of the state: dict from part to dict from name to array.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="d")],
    ...                          name="net")
    >>> model.compile("sgd", "mse")
    >>> list(record(tt.wrap(model, verbose=False))["weights"])
    ['net/d/kernel', 'net/d/bias']
    """
    return {
        part: {name: to_numpy(v) for name, v in variables.items()}
        for part, variables in variables_by_part(model).items()
    }


def start_weights(model: keras.Model, state: State) -> dict[str, np.ndarray]:
    """Returns the start weights for a ticket: weights and statistics of a state.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="d")],
    ...                          name="net")
    >>> model.compile("sgd", "mse")
    >>> list(start_weights(model, record(model)))
    ['net/d/kernel', 'net/d/bias']
    """
    _check_state({"weights", "statistics"}, state=state)
    values = {**state["weights"], **state["statistics"]}
    names = wrapping.plain_paths(network(model))
    return {path: values[path] for path in names if path in values}


def present_weights(model: keras.Model) -> dict[str, np.ndarray]:
    """Returns start weights for a ticket from the present values of any model.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="d")],
    ...                          name="net")
    >>> list(present_weights(model))
    ['net/d/kernel', 'net/d/bias']
    """
    table = wrapping.plain_paths(network(model))
    is_seed_state = keras_internals.is_seed_state
    return {p: to_numpy(v) for p, v in table.items() if not is_seed_state(v)}


def network(model: keras.Model) -> keras.Model:
    """Returns the network that is trained: the student of a `Distiller`, or the model.

    Example:

    >>> model = keras.Sequential([keras.Input((2,))])
    >>> network(model) is model
    True
    """
    arguments.check_type(keras.Model, model=model)
    return model.student if isinstance(model, Distiller) else model


def adopt(model: keras.Model, state: State) -> State:
    """Returns the state of another build of a model, with the names of this one."""
    return {
        part: {name: state.get(part, {})[old] for name, old in names.items()}
        for part, variables in variables_by_part(model).items()
        for names in [_names(variables, state.get(part, {}))]
    }


def restore(
    model: keras.Model, snapshot: State, fidelity: Fidelity, fresh: State | None
) -> None:
    """Restores the parts of a state that a fidelity rewinds.

    Args:
        model: A compiled, wrapped model.
        snapshot: The state to rewind to, from `record`.
        fidelity: A `Fidelity`.
        fresh: The state at the start of the search, for a fresh optimizer.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> state = record(model)
    >>> history = model.fit(np.ones((4, 2)), np.ones((4, 1)), verbose=0)
    >>> restore(model, state, Fidelity.get("exact"), state)
    >>> iteration(model)
    0
    """
    arguments.check_type(Fidelity, fidelity=fidelity)
    parts = {part for part in PARTS if getattr(fidelity, part) == "rewind"}
    _check_state(parts, snapshot=snapshot)
    if fidelity.optimizer == "fresh":
        _check_state({"optimizer"}, fresh=fresh)
    for part, variables in variables_by_part(model).items():
        source = {"rewind": snapshot, "fresh": fresh}.get(getattr(fidelity, part))
        if source is not None:
            assign(variables, source[part])
    if fidelity.optimizer == "fresh":
        _restart_averages(model)


def assign(variables: dict[str, keras.Variable], values: dict[str, np.ndarray]) -> None:
    """Assigns arrays to variables of the same names.

    Running numbers in names (`dense_7`) may differ, since Keras counts on with
    every build of a model.
    """
    for name, value_name in _names(variables, values).items():
        variables[name].assign(values[value_name])


def _names(variables, values):
    """Maps the names of variables to the names of their values."""
    names = paths.match(variables, values)
    if names is None or len(names) != len(values):
        raise ValueError(
            "The state does not fit the model. Only in the model: "
            f"{sorted(set(variables) - set(values))}; only in the state: "
            f"{sorted(set(values) - set(variables))}."
        )
    return names


def variables_by_part(model: keras.Model) -> dict[str, dict[str, keras.Variable]]:
    """Returns a dict from part to dict from name to variable."""
    arguments.check_type(keras.Model, model=model)
    table: dict[str, dict[str, keras.Variable]] = {part: {} for part in PARTS}
    trainable = {id(v) for v in model.trainable_variables}
    for path, variable in wrapping.plain_paths(model).items():
        table[_part(variable, trainable)][path] = variable
    for index, variable in enumerate(built_optimizer(model).variables):
        # The names of slots differ from one build of the model to the next.
        part, name = _PLACES.get(variable.name, ("optimizer", "slot"))
        table[part][f"{index}:{name}"] = variable
    return table


def _check_state(parts, **states):
    """Refuses what is not a state as `record` returns it."""
    for argument, state in states.items():
        arguments.check_type(dict, **{argument: state})
        if not parts <= set(state) <= set(PARTS) or not all(
            isinstance(values, dict) for values in state.values()
        ):
            raise ValueError(
                f"`{argument}` must be a state that `record` returns: a dict with the "
                f"parts {', '.join(PARTS)}. Received: {arguments.shown(state)}"
            )


def iteration(model: keras.Model) -> int:
    """Returns the number of steps that the optimizer has taken.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> iteration(model)
    0
    """
    # The largest one: a LossScaleOptimizer does not count, nor does an optimizer
    # in a group without variables.
    variables = built_optimizer(model).variables
    counters = [v for v in variables if keras_internals.is_step_counter(v)]
    return max(int(to_numpy(v)) for v in counters)


def iteration_in(state: State) -> int:
    """Returns the number of optimizer steps in a recorded state."""
    values = state["learning_rate"].items()
    counter = f":{keras_internals.STEP_COUNTER}"
    return max(int(value) for name, value in values if name.endswith(counter))


def _part(variable, trainable):
    if keras_internals.is_seed_state(variable):
        return "seeds"
    return "weights" if id(variable) in trainable else "statistics"


def built_optimizer(model: keras.Model) -> keras.optimizers.Optimizer:
    """Returns the model's optimizer, and builds it first if necessary."""
    arguments.check_type(keras.Model, model=model)
    if not model.compiled or model.optimizer is None:
        raise ValueError(
            f"Model {model.name!r} has no optimizer. Call model.compile(...) first."
        )
    if not model.optimizer.built:
        with distribution.scope(model):
            model.optimizer.build(model.trainable_variables)
    return model.optimizer


def zero_slots(model: keras.Model) -> None:
    """Sets the optimizer's slots to zero at pruned weights.

    Old momentum would otherwise revive pruned weights. So would the averages that
    `use_ema` writes over the weights at the end of `fit`.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> model = tt.wrap(model, verbose=False)
    >>> model.compile(keras.optimizers.SGD(momentum=0.9), "mse")
    >>> history = model.fit(np.ones((4, 2)), np.ones((4, 1)), verbose=0)
    >>> model.layers[0].set_masks({"kernel": [[1], [0]]})
    >>> zero_slots(model)
    >>> slots = list(record(model)["optimizer"].values())
    >>> (slots[0] != 0).tolist()
    [[True], [False]]
    """
    kernels = wrapping.kernels(model)
    masks = kernels.masks
    owners = {id(v): path for path, v in kernels.variables.items()}
    for slot, variable in _slots(model):
        # A divisor only scales the update, and must not be 0.
        divisor = keras_internals.is_divisor(slot, variable)
        if id(variable) in owners and not divisor:
            slot.assign(to_numpy(slot) * masks[owners[id(variable)]])


def reset_optimizer(model: keras.Model, step: int) -> None:
    """Resets the optimizer's slots, and sets its step.

    Slots get the initial values of a new optimizer, since not all start at zero.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> reset_optimizer(model, step=500)
    >>> iteration(model)
    500
    """
    arguments.check_not_negative(step=step)
    arguments.check_between(0, 2**31 - 1, step=step)
    optimizer = built_optimizer(model)
    with distribution.scope(model):
        twin = optimizers.twin(optimizer)
        twin.build(model.trainable_variables)
    for variable, initial in zip(optimizer.variables, twin.variables, strict=True):
        variable.assign(initial.value)
        if keras_internals.is_step_counter(variable):
            variable.assign(step)
    _restart_averages(model)
    zero_slots(model)


def _slots(model):
    """Pairs of an optimizer's slot and the variable that it belongs to."""
    return keras_internals.slots(built_optimizer(model), model.trainable_variables)


def _restart_averages(model):
    """Sets moving averages of weights to the present weights."""
    for slot, variable in _slots(model):
        if keras_internals.is_average(slot, variable):
            # A copy: JAX refuses to train on a buffer that is used twice.
            slot.assign(to_numpy(variable))
