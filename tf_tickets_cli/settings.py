"""The settings of a command: data, network, recipe and seed."""

import argparse
import math
import os
from typing import Self

import keras

import tf_tickets as tt
from tf_tickets import arguments

# Not from a paper: small enough to finish in two minutes on two cores.
_DIGITS = {"rounds": 12, "epochs": 15, "batch_size": 32}
_COUNTS = ("epochs", "batch_size", "take", "rounds")
# Wider networks fit no memory.
_MAX_WIDTH = 100.0
_OPTIONS = (
    "epochs",
    "batch_size",
    "width",
    "take",
    "scaling",
    "rounds",
    "rate",
    "rewind_to",
    "tolerance",
    "structure",
    "target",
)


class Setting:
    """The data, the network and how it is trained and pruned.

    Args:
        dataset: "digits", "mnist", "cifar10" or the path of an `.npz` file.
        model: A name in `tf_tickets.recipes.RECIPES`.
        data_dir: Folder of the data.
        seed: Seed of everything.
        options: Dict with any of `epochs`, `batch_size`, `width`, `take`, `scaling`,
            `rounds`, `rate`, `rewind_to`, `tolerance`, `structure` and `target`, such
            as "macs=0.5". Missing or None values come from the recipe.

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
        options: dict | None = None,
    ) -> None:
        given = options or {}
        options = {k: given[k] for k in _OPTIONS if given.get(k) is not None}
        _check(options, seed)
        if dataset == "digits":
            options = {**_DIGITS, **options}
        scaling = options.get("scaling", "standard")
        self.data = tt.datasets.load(dataset, data_dir, scaling=scaling)
        if "take" in options:
            self.data = self.data.take(options["take"])
        self.recipe = tt.recipes.recipe(model)
        if "epochs" in options:
            self.recipe = self.recipe.with_epochs(options["epochs"])
        self.seed = seed
        self.options = options
        self.batch_size = options.get("batch_size", self.recipe.batch_size)
        self.width = options.get("width", 1.0)
        self.rewind_to = options.get("rewind_to", self.recipe.rewind_to)
        self.rounds = options.get("rounds", 12)
        self.rate = options.get("rate", self.recipe.rate)
        self.tolerance = options.get("tolerance", 0.01)
        self.allocation = self.recipe.allocation or "uniform"
        self.target = _target(options["target"]) if "target" in options else None
        # Other structures make no network cheaper.
        structure = options.get("structure", "channels" if self.target else None)
        self.structure = None if structure is None else tt.structures.get(structure)

    @classmethod
    def from_options(cls, options: argparse.Namespace) -> Self:
        """Returns the setting that a command line describes.

        Args:
            options: The parsed options.
        """
        return cls(
            options.dataset,
            options.model,
            options.data_dir,
            options.seed,
            vars(options),
        )

    def summary(self) -> str:
        """Returns one line about data, network and backend."""
        devices = ", ".join(keras.distribution.list_devices())
        return (
            f"{self.recipe.name} on {self.data.name}: {len(self.data.x_train):,} "
            f"training images; {keras.config.backend()} on {devices}"
        )

    def build_model(self) -> keras.Model:
        """Returns a compiled model by the recipe."""
        return tt.recipes.build(
            self.recipe.name,
            self.data.input_shape,
            self.data.num_classes,
            steps_per_epoch=len(self.data.x_train) // self.batch_size,
            epochs=self.recipe.epochs,
            width=self.width,
            steps_per_execution=_steps_per_execution(self.rewind_to),
        )

    def trainer(self) -> tt.TicketTrainer:
        """Returns a trainer that trains tickets as the search does."""
        return tt.TicketTrainer(self.build_model, self.data, self.seed, self.batch_size)


def _target(text):
    """Returns the target that an option describes, such as "macs=0.5"."""
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


def _steps_per_execution(rewind_to):
    """Returns more than 1 on TensorFlow, whose overhead slows small networks."""
    if keras.config.backend() != "tensorflow":
        return 1
    count, _, unit = rewind_to.partition(" ")
    return math.gcd(16, int(count)) if unit.startswith("step") else 16
