"""Pruning at initialization: prune first, then train."""

from typing import Any

import keras
import numpy as np

from tf_tickets import wrapping
from tf_tickets.pruning import allocation, criteria
from tf_tickets.pruning.allocation import Allocation
from tf_tickets.search.pruning_search import RankedSearch
from tf_tickets.tickets.ticket import Ticket
from tf_tickets.training import checks, snapshots


@keras.saving.register_keras_serializable("tf_tickets")
class PruneAtInit(RankedSearch):
    """Prunes before the first step, by scores of the untrained network, and trains.

    A callback for one `fit`, or `search.prune(model)` without any training.

    Args:
        final_sparsity: Fraction of zeros in the ticket.
        epochs: Epochs that the ticket is trained.
        criterion: `tf_tickets.saliency.SNIP(x, y)`, `GraSP(x, y)`, "synflow",
            "magnitude", "random" or another criterion.
        allocation: "global", "uniform", "erk" or a function: how many weights each
            kernel keeps.
        passes: In how many steps, of equal ratios, the sparsity is reached; scores
            are taken anew before each. None for 100 with "synflow" and 1 with others.
        monitor: The logged metric by which tickets are judged.
        seed: Seed of the "random" criterion.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)])
    >>> model = tt.wrap(model, verbose=False)
    >>> search = PruneAtInit(0.8, epochs=1, criterion="synflow", monitor="loss")
    >>> search.prune(model).sparsity
    0.8
    """

    method = "at_init"

    def __init__(
        self,
        final_sparsity: float = 0.9,
        epochs: int = 20,
        criterion: str | criteria.Criterion = "magnitude",
        allocation: str | dict | Allocation = "global",
        passes: int | None = None,
        *,
        monitor: str = "val_accuracy",
        seed: int = 0,
    ) -> None:
        checks.check_counts(epochs=epochs, passes=1 if passes is None else passes)
        checks.check_sparsity(final_sparsity=final_sparsity)
        trained: Any = {"rounds": 1, "epochs_per_round": epochs}
        super().__init__(criterion, allocation, monitor=monitor, seed=seed, **trained)
        self.final_sparsity = final_sparsity
        self.passes = passes

    @property
    def epochs(self) -> int:
        return self.epochs_per_round

    def epochs_before(self, round_: int) -> int:
        return 0

    def prune(self, model: keras.Model) -> Ticket:
        """Prunes the model and gives the ticket; nothing is trained.

        Args:
            model: A wrapped model; compiled, where the criterion asks for the loss.
        """
        self.set_model(model)
        checks.check_wrapped(model)
        checks.check_fixed(model)
        self.clear()
        self.snapshot = {"weights": snapshots.kernels(model)}
        before = model.get_weights()
        masks = self.next_masks(model)
        model.set_weights(before)
        ticket = self._untrained(model, masks)
        wrapping.set_masks(model, masks)
        return ticket

    def _untrained(self, model, masks):
        provenance = {**self.provenance(), "step": 0}
        weights = snapshots.present_weights(model)
        return Ticket(masks, weights, {}, provenance)

    def begin(self) -> None:
        super().begin()
        # There is no round 0: it turns to the first before anything is trained.
        self._turn_due = True

    def next_masks(self, model: keras.Model) -> dict[str, np.ndarray]:
        masks = wrapping.masks(model)
        for done in range(1, self._passes + 1):
            self._way = done / self._passes
            masks = super().next_masks(model)
            wrapping.set_masks(model, masks)
        return masks

    @property
    def _passes(self):
        usual = 100 if criteria.name(self.criterion) == "synflow" else 1
        return self.passes or usual

    def counts(
        self, scores: dict[str, np.ndarray], masks: dict[str, np.ndarray]
    ) -> dict[str, int]:
        keep = allocation.at_sparsity(masks, self.final_sparsity, self._way)
        return self.allocate(scores, masks, keep)

    def settings(self) -> dict:
        given = super().settings()
        kept = ("criterion", "allocation", "monitor", "seed")
        return {
            "final_sparsity": self.final_sparsity,
            "epochs": self.epochs_per_round,
            "passes": self.passes,
            **{name: given[name] for name in kept},
        }
