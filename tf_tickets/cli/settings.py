"""What a command of the command line is about: data, network, recipe, seed."""

import math
import os

import keras

from tf_tickets.experiments import datasets, recipes
from tf_tickets.search import ticket_trainer
from tf_tickets.search.methods.imp import IMP
from tf_tickets.tickets.monitor import Monitor

# Not a paper's: small enough to be done in two minutes on two cores.
_DIGITS = {"rounds": 12, "epochs": 15, "batch_size": 32}
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
)


class Setting:
    """Data, network and recipe: what the network is and what it is trained on.

    Args:
        dataset: "digits", "mnist", "cifar10" or a path to an `.npz`.
        model: A name of `tf_tickets.recipes.RECIPES`.
        data_dir: Where prepared data lie.
        seed: Seed of everything.
        options: Dict of `epochs`, `batch_size`, `width`, `take`, `scaling`, and for
            a search `rounds`, `rate`, `rewind_to`, `tolerance`; where left out or
            None, the recipe's.
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
        if dataset == "digits":
            options = {**_DIGITS, **options}
        scaling = options.get("scaling", "standard")
        self.data = datasets.load(dataset, data_dir, scaling=scaling)
        if "take" in options:
            self.data = self.data.take(options["take"])
        self.recipe = recipes.recipe(model)
        if "epochs" in options:
            self.recipe = self.recipe.with_epochs(options["epochs"])
        self.seed = seed
        self.options = options
        self.batch_size = options.get("batch_size", self.recipe.batch_size)
        self.width = options.get("width", 1.0)
        self.rewind_to = options.get("rewind_to", self.recipe.rewind_to)
        self.rounds = options.get("rounds", 12)
        self.rate = options.get("rate", self.recipe.rate)

    def build_model(self) -> keras.Model:
        """A compiled model by the recipe."""
        return recipes.build(
            self.recipe.name,
            self.data.input_shape,
            self.data.num_classes,
            steps_per_epoch=len(self.data.x_train) // self.batch_size,
            epochs=self.recipe.epochs,
            width=self.width,
            steps_per_execution=_steps_per_execution(self.rewind_to),
        )

    def search(self) -> IMP:
        """The search by the recipe."""
        return IMP(
            rounds=self.rounds,
            epochs_per_round=self.recipe.epochs,
            rate=self.rate,
            rewind_to=self.rewind_to,
            allocation=self.recipe.allocation or "uniform",
            monitor=Monitor(tolerance=self.options.get("tolerance", 0.01)),
            seed=self.seed,
        )

    def trainer(self) -> ticket_trainer.TicketTrainer:
        """Trains tickets as the search does."""
        return ticket_trainer.TicketTrainer(
            self.build_model, self.data, self.seed, self.batch_size
        )


def _steps_per_execution(rewind_to):
    """Several steps a call save most of TensorFlow's overhead with small nets."""
    if keras.config.backend() != "tensorflow":
        return 1
    count, _, unit = rewind_to.partition(" ")
    return math.gcd(16, int(count)) if unit.startswith("step") else 16
