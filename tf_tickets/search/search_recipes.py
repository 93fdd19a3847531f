"""Settings of searches from the papers.

`tf_tickets.recipes` holds those of iterative magnitude pruning.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import keras

from tf_tickets import arguments
from tf_tickets.experiments import models, recipes
from tf_tickets.masks.annealing import ExponentialTemperature, GrowingPenalty
from tf_tickets.search.methods.continuous import ContinuousSparsification
from tf_tickets.search.methods.dlth import DLTH
from tf_tickets.search.phases import PenaltyPhase
from tf_tickets.search.ticket_search import TicketSearch

__all__ = ["SearchRecipe", "recipe"]


@dataclasses.dataclass(frozen=True)
class SearchRecipe:
    """Holds the settings with which a paper runs a search on a network.

    Args:
        name: Name of the recipe.
        network: Function (input_shape, classes, width) that returns an uncompiled
            model.
        method: The class of the search.
        settings: Dict of the arguments of the search.
        optimizer: Function that returns the optimizer from the number of steps in a
            round.
        batch_size: Number of rows per batch.
        filters: Regular expression for the layers that are pruned, as in
            `tf_tickets.wrap`; None for all.
        source: Publication of the settings.

    Example:

    >>> conv6 = recipe("cs_conv6")
    >>> search = conv6.search(initial_score=-0.03)
    >>> search.penalty, search.epochs
    (1e-10, 160)
    """

    name: str
    network: Callable[..., keras.Model]
    method: Callable[..., TicketSearch]
    settings: dict[str, Any]
    optimizer: Callable[..., keras.optimizers.Optimizer]
    batch_size: int
    filters: str | None
    source: str

    def __post_init__(self):
        arguments.check_type(str, name=self.name, source=self.source)
        arguments.check_functions(3, network=self.network)
        arguments.check_functions(1, optimizer=self.optimizer)
        arguments.check_table(str, object, settings=self.settings)
        arguments.check_counts(batch_size=self.batch_size)
        if not callable(self.method):
            raise TypeError(
                "`method` must be the class of a search, such as tf_tickets.IMP. "
                f"Received: {arguments.shown(self.method)}"
            )
        if self.filters is not None:
            arguments.check_pattern(filters=self.filters)

    def search(self, **changes: Any) -> Any:
        """Returns the search.

        Args:
            **changes: Arguments of the search that differ from the recipe.
        """
        return self.method(**{**self.settings, **changes})

    def build(
        self,
        input_shape: tuple[int, ...],
        classes: int,
        steps_per_epoch: int,
        width: float = 1.0,
    ) -> keras.Model:
        """Returns the network, compiled and wrapped for the search.

        Args:
            input_shape: Shape of one image.
            classes: Number of logits.
            steps_per_epoch: Number of batches per epoch.
            width: Factor of the number of units, for narrow networks.
        """
        arguments.check_counts(steps_per_epoch=steps_per_epoch)
        model = self.network(input_shape, classes, width)
        search = self.search()
        steps = steps_per_epoch * self.settings["epochs_per_round"]
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(self.optimizer(steps), loss, metrics=["accuracy"])
        return search.wrap(model, self.filters, verbose=False)


_SAVARESE = "Savarese et al. 2020, Winning the Lottery with Continuous Sparsification"

RECIPES = {
    entry.name: entry
    for entry in (
        SearchRecipe(
            name="cs_conv6",
            network=models.conv6,
            method=ContinuousSparsification,
            # The paper varies the initial score from -0.03 to 0.03.
            settings={
                "rounds": 4,
                "epochs_per_round": 40,
                "initial_score": 0.0,
                "final_temperature": 100.0,
                "penalty": 1e-10,
            },
            optimizer=recipes.adam(3e-4),
            batch_size=60,
            filters=None,
            source=_SAVARESE,
        ),
        SearchRecipe(
            name="cs_resnet20",
            network=models.resnet20,
            method=ContinuousSparsification,
            settings={
                "rounds": 3,
                "epochs_per_round": 85,
                "initial_score": 0.0,
                "final_temperature": ExponentialTemperature(1.0, 200.0, "epoch"),
                "penalty": 1e-8,
                "rewind_to": "2 epochs",
                "between_rounds": "code",
            },
            optimizer=functools.partial(
                recipes.sgd_in_three_stages, drops=(56, 71, 85), nesterov=True
            ),
            batch_size=128,
            filters=r"^(?!output|.*_shortcut)",
            source=f"Published code of {_SAVARESE}",
        ),
        SearchRecipe(
            name="dlth_resnet20",
            network=models.resnet20,
            method=DLTH,
            # 90,000 steps of the penalty, at 391 steps per epoch. The published code
            # takes them with 64 rows per batch.
            settings={
                "final_sparsity": 0.9,
                "rounds": 1,
                "epochs_per_round": 200,
                "penalty": PenaltyPhase(230, GrowingPenalty(1e-4, interval=5), 1e-3),
            },
            optimizer=functools.partial(
                recipes.sgd_in_three_stages, drops=(100, 150, 200), weight_decay=5e-4
            ),
            batch_size=128,
            filters="^(?!stem|output)",
            source=(
                "Published code of Bai et al. 2022, Dual Lottery Ticket Hypothesis, "
                "for ResNet-56"
            ),
        ),
    )
}


def recipe(name: str) -> SearchRecipe:
    """Returns the recipe of a search by name.

    The names are "cs_conv6", "cs_resnet20" and "dlth_resnet20".

    Example:

    >>> recipe("cs_resnet20").filters
    '^(?!output|.*_shortcut)'
    """
    if not arguments.is_one_of(name, RECIPES):
        raise ValueError(
            f"Unknown recipe of a search. Received: {arguments.shown(name)}. Expected "
            f"one of: {', '.join(RECIPES)}."
        )
    return RECIPES[str(name)]
