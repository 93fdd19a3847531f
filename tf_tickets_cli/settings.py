"""The settings of a command: data, network, recipe and seed."""

import argparse
import copy
import dataclasses
import math
import os
import re
from typing import Any, Self

import keras

import tf_tickets as tt
from tf_tickets import arguments
from tf_tickets_cli import own_data, own_model

# Not from a paper: small enough to finish in two minutes on two cores.
_DIGITS = {"rounds": 12, "epochs": 15, "batch_size": 32}
_COUNTS = ("epochs", "batch_size", "take", "rounds")
# Wider networks fit no memory.
_MAX_WIDTH = 100.0
# Options of the data, by their names on the command line.
_OF_DATA = ("take", "scaling", "target_column", "task", "drop_columns", "image_size")
_OPTIONS = (
    *("epochs", "batch_size", "width", "rounds", "rate", "rewind_to", "tolerance"),
    *("structure", "target", *_OF_DATA),
)


@dataclasses.dataclass(frozen=True)
class OwnRecipe:
    """Holds how a network of the user's own is trained and pruned.

    Args:
        name: Name of the network.
        epochs: Epochs of a training.
        batch_size: Batch size.
        rate: Fraction of the kept weights that each round prunes.
        allocation: How rounds divide weights among kernels.
        rewind_to: The point that tickets start from.

    Example:

    >>> OwnRecipe("mine").with_epochs(3).epochs
    3
    """

    name: str
    epochs: int = 10
    batch_size: int = 32
    rate: float = 0.2
    allocation: str = "global"
    rewind_to: str = "init"

    def with_epochs(self, epochs: int) -> Self:
        """Returns the recipe with another number of epochs."""
        return dataclasses.replace(self, epochs=epochs)


class Setting:
    """The data, the network and how it is trained and pruned.

    Args:
        dataset: What `--data` names: a built-in data set or the user's own.
        model: What `--model` names: a name in `tf_tickets.recipes.RECIPES`, or the
            user's own network.
        data_dir: Folder of the built-in data.
        seed: Seed of everything.
        options: Dict with any of `epochs`, `batch_size`, `width`, `take`, `scaling`,
            `rounds`, `rate`, `rewind_to`, `tolerance`, `structure`, `target`, such
            as "macs=0.5", and of the options of the data. Missing or None values come
            from the recipe.

    Example:

    >>> setting = Setting("digits", "lenet300", options={"take": 64, "epochs": 2})
    >>> setting.batch_size, setting.recipe.epochs, setting.rewind_to
    (32, 2, 'init')
    """

    def __init__(
        self,
        dataset: os.PathLike | str,
        model: str,
        data_dir: os.PathLike | str | None = None,
        seed: int = 0,
        options: dict[str, Any] | None = None,
    ) -> None:
        given = options or {}
        options = {k: given[k] for k in _OPTIONS if given.get(k) not in (None, [])}
        _check(options, seed)
        self.spec, self.model_spec, self.data_dir = str(dataset), model, data_dir
        self.seed = seed
        self.given = options
        if self.spec == "digits":
            options = {**_DIGITS, **options}
        self.options = options
        self.own_model: own_model.OwnModel | None = None
        self.recipe: tt.recipes.Recipe | OwnRecipe
        if own_model.is_built_in(model):
            self.recipe = tt.recipes.recipe(model)
        else:
            _refuse_width(options)
            own_data.kind_of(self.spec)
            self.own_model = own_model.OwnModel(model)
            self.recipe = OwnRecipe(self.own_model.name)
        if "epochs" in options:
            self.recipe = self.recipe.with_epochs(options["epochs"])
        self.batch_size = options.get("batch_size", self.recipe.batch_size)
        self.own_data = own_data.load(self.spec, self._options_of_data())
        self.data = self.own_data.data
        self._refuse_batch_size()
        self.width = options.get("width", 1.0)
        self.rewind_to = options.get("rewind_to", self.recipe.rewind_to)
        self.rounds = options.get("rounds", 12)
        self.rate = options.get("rate", self.recipe.rate)
        self.tolerance = options.get("tolerance", 0.01)
        self.allocation = self.recipe.allocation or "uniform"
        self.target = parse_target(options["target"]) if "target" in options else None
        # Other structures make no network cheaper.
        structure = options.get("structure", "channels" if self.target else None)
        self.structure = None if structure is None else tt.structures.get(structure)
        self.compiled: str | None = None
        self.metric = self._probe()

    @classmethod
    def from_options(cls, options: argparse.Namespace) -> Self:
        """Returns the setting that a command line describes.

        Args:
            options: The parsed options.
        """
        return cls(
            options.data,
            options.model,
            options.data_dir,
            options.seed,
            vars(options),
        )

    def seeded(self, seed: int) -> Self:
        """Returns the setting with another seed of weights and data order.

        Args:
            seed: The seed. The split of the data remains that of the first one.

        Example:

        >>> Setting("digits", "lenet300", options={"take": 64}).seeded(1).seed
        1
        """
        arguments.check_seed(seed)
        other = copy.copy(self)
        other.seed = seed
        return other

    def _options_of_data(self):
        return {
            **{name: self.options[name] for name in _OF_DATA if name in self.options},
            "data_dir": self.data_dir,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "own_model": self.own_model is not None,
        }

    def _refuse_batch_size(self):
        """Refuses a batch size that the data do not follow."""
        if not self.own_data.has_batches or self._sets_batches:
            return
        if "batch_size" in self.given:
            raise ValueError(
                f"--batch-size does not apply to --data {self.spec}, which makes its "
                "own batches. Give the function a parameter batch_size, or leave the "
                f"option out. Received: --batch-size {self.batch_size}"
            )

    @property
    def _sets_batches(self):
        """Whether the batch size is passed to what makes the batches."""
        if own_data.kind_of(self.spec) != "function":
            return True
        return own_data.takes_batch_size(self.spec)

    @property
    def fit_batch_size(self) -> int | None:
        """The batch size of `fit`, or None for data that make their own batches."""
        return None if self.own_data.has_batches else self.batch_size

    @property
    def has_test(self) -> bool:
        """Whether there are test data."""
        return "test" in self.own_data.parts

    @property
    def monitor(self) -> str:
        """The name of the validation metric that tickets are compared by."""
        return f"val_{self.metric}"

    @property
    def reported(self) -> str:
        """The name of the metric that is reported: of test data if there are some."""
        return f"test_{self.metric}" if self.has_test else self.monitor

    def steps_per_epoch(self) -> int | None:
        """Returns the number of training batches per epoch, or None where unknown."""
        return self.own_data.steps_per_epoch(self.batch_size)

    def summary(self) -> str:
        """Returns a few lines about data, network and backend."""
        devices = ", ".join(keras.distribution.list_devices())
        rows, steps = self.own_data.rows, self.steps_per_epoch()
        what = "images" if len(self.own_data.input_shape or ()) == 3 else "examples"
        size = f"{rows:,} training {what}" if rows is not None else f"{steps} batches"
        first = (
            f"{self.recipe.name} on {self.own_data.name}: {size}; "
            f"{keras.config.backend()} on {devices}"
        )
        notes = [*self.own_data.notes]
        if self.own_model is not None:
            notes += self.own_model.notes
            compiled = self.compiled or "as its own settings say"
            notes.append(f"compiled: {compiled}; tickets compared by {self.monitor}")
        return "\n".join([first, *(f"  {note}" for note in notes)])

    def build_model(self) -> keras.Model:
        """Returns a new, compiled model."""
        if self.own_model is not None:
            model = self._build_own(self.own_model)
            self._compile_own(model)
            return model
        shape, classes = self._refuse_without_classes()
        return tt.recipes.build(
            self.recipe.name,
            shape,
            classes,
            steps_per_epoch=self.steps_per_epoch(),
            epochs=self.recipe.epochs,
            width=self.width,
            steps_per_execution=_steps_per_execution(self.rewind_to),
        )

    def _refuse_without_classes(self) -> tuple[tuple[int, ...], int]:
        """Returns shape and classes; refuses data that a classifier cannot take."""
        shape, classes = self.own_data.input_shape, self.own_data.num_classes
        if shape is None or None in shape or classes is None:
            raise ValueError(
                f"The network {self.recipe.name} classifies images, and the data "
                f"{self.own_data.name} have no known classes. Received: inputs of "
                f"shape {shape}, {classes} classes. Pass a network of your own: "
                "--model FILE.keras or module:function."
            )
        return tuple(size or 0 for size in shape), classes

    def _build_own(self, own):
        return own.build(self.own_data.input_shape, self.own_data.num_classes)

    def _compile_own(self, model):
        return own_model.compile_by_targets(
            model,
            self.own_data.sample,
            f"--model {self.model_spec}",
            self.own_data.known_targets,
            steps_per_execution=_steps_per_execution(self.rewind_to),
        )

    def _probe(self):
        """Returns the metric to compare by; refuses data that the network cannot take.

        A network of the user's own is evaluated on a few rows.
        """
        if self.own_model is None:
            self._refuse_without_classes()
            return "accuracy"
        model = self._build_own(self.own_model)
        self.compiled = self._compile_own(model)
        if self.own_data.sample is None:
            return "loss"
        x, y = self.own_data.sample
        try:
            logged = model.evaluate(x, y, verbose=0, return_dict=True)
        # Keras and the backends raise errors of any kind about shapes.
        except Exception as error:
            # Keras writes parts of its messages in bold type.
            text = re.sub(r"\x1b\[\d*m", "", str(error))
            reason = " ".join(text.split())[:300]
            raise ValueError(
                f"The network {self.model_spec} does not fit the data "
                f"{self.own_data.name}: inputs of shape {own_data.shown(x)}, targets "
                f"of shape {own_data.shown(y)}. {reason}"
            ) from error
        found = [name for name in logged if "accuracy" in name or name == "acc"]
        return "accuracy" if "accuracy" in found else (found or ["loss"])[0]

    def trainer(self) -> tt.TicketTrainer:
        """Returns a trainer that trains tickets as the search does."""
        return tt.TicketTrainer(
            self.build_model, self.data, self.seed, self.fit_batch_size
        )

    def effective(self) -> dict[str, Any]:
        """Returns the value of each option that a run depends on.

        Example:

        >>> setting = Setting("digits", "lenet300", options={"take": 64})
        >>> setting.effective()["epochs"], setting.effective()["rewind_to"]
        (15, 'init')
        """
        spec = self.spec
        values = {
            "data": own_data.absolute(spec),
            "data_dir": self.data_dir and os.path.abspath(self.data_dir),
            "model": own_data.absolute(self.model_spec),
            "seed": self.seed,
            "epochs": self.recipe.epochs,
            "rounds": self.rounds,
            "rewind_to": self.rewind_to,
            "rate": self.rate if self.target is None else self.given.get("rate"),
            "tolerance": self.tolerance,
            "scaling": own_data.scaling_of(spec, self._options_of_data()),
            **{name: self.given.get(name) for name in ("structure", "target")},
            **{name: self.given.get(name) for name in _OF_DATA if name != "scaling"},
        }
        if self.own_model is None:
            values["width"] = self.width
        if not self.own_data.has_batches or self._sets_batches:
            values["batch_size"] = self.batch_size
        if own_data.kind_of(spec) == "folder":
            values["image_size"] = list((self.own_data.input_shape or ())[:2])
        if own_data.kind_of(spec) == "table":
            has_labels = self.own_data.num_classes is not None
            values["task"] = "classification" if has_labels else "regression"
        return {name: value for name, value in values.items() if value is not None}


def parse_target(text: str) -> dict[str, float]:
    """Returns the target that an option describes.

    Example:

    >>> parse_target("macs=0.5")
    {'macs': 0.5}
    """
    measure, _, fraction = text.partition("=")
    try:
        return {measure: float(fraction)}
    except ValueError:
        raise ValueError(
            "`target` must be macs=F or params=F, where F is the fraction that "
            f"remains, such as macs=0.5. Received: {text!r}"
        ) from None


def _check(options, seed):
    arguments.check_seed(seed)
    arguments.check_counts(**{k: v for k, v in options.items() if k in _COUNTS})
    width = options.get("width", 1.0)
    if not 0.0 < width <= _MAX_WIDTH:
        raise ValueError(
            f"`width` must be above 0 and at most {_MAX_WIDTH:g}. Received: {width}"
        )


def _refuse_width(options):
    if "width" in options:
        raise ValueError(
            "--width applies to the networks of this library, not to your own. "
            f"Received: --width {options['width']:g}. Leave it out."
        )


def _steps_per_execution(rewind_to):
    """Returns more than 1 on TensorFlow, whose overhead slows small networks."""
    if keras.config.backend() != "tensorflow":
        return 1
    count, _, unit = rewind_to.partition(" ")
    return math.gcd(16, int(count)) if unit.startswith("step") else 16
