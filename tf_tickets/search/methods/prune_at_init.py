"""Pruning at initialization: prune first, then train."""

import keras
import numpy as np

from tf_tickets import arguments
from tf_tickets.configuration import defaults
from tf_tickets.pruning import allocation as allocations
from tf_tickets.pruning import criteria, targets
from tf_tickets.pruning.allocation import Allocation
from tf_tickets.search.plan import Run
from tf_tickets.search.prune_and_rewind import Masks, PruneAndRewind, starts
from tf_tickets.search.ticket_search import TicketSearch
from tf_tickets.structures import registry as structures
from tf_tickets.structures.structure import Structure
from tf_tickets.tickets.monitor import Monitor
from tf_tickets.tickets.ticket import Ticket
from tf_tickets.training import checks, snapshots
from tf_tickets.wrapping import Kernels


@keras.saving.register_keras_serializable("tf_tickets")
class PruneAtInit(TicketSearch):
    """Prunes by scores of the untrained network, before the first training step.

    A callback for one `fit`, or `search.prune(model)` without any training.

    Args:
        final_sparsity: Fraction of zeros in the ticket, by default 0.9; with channels
            or blocks, the fraction of units that are pruned.
        epochs: Epochs that the ticket is trained.
        criterion: `tf_tickets.saliency.SNIP(x, y)`, `GraSP(x, y)`, "synflow",
            "magnitude", "random" or another criterion.
        allocation: "global", "uniform", "erk" or a function: how many weights each
            kernel keeps.
        passes: Number of pruning steps, of equal ratios; scores are recomputed before
            each. None means 100 with "synflow" and 1 otherwise.
        monitor: The metric by which tickets are judged, as in `tf_tickets.IMP`.
        seed: Seed of the "random" criterion.
        structure: Which weights are kept or pruned together, as in `tf_tickets.wrap`;
            None for what the model was wrapped with.
        target: The fraction of the multiply-adds or parameters that remains, in place
            of `final_sparsity`, as in `tf_tickets.IMP`.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)])
    >>> model = tt.wrap(model, verbose=False)
    >>> search = PruneAtInit(0.8, epochs=1, criterion="synflow", monitor="loss")
    >>> search.prune(model).sparsity
    0.8
    """

    method = "at_init"
    follows_structures = True
    _serializers = {"criterion": criteria.serialize}

    def __init__(
        self,
        final_sparsity: float = 0.9,
        epochs: int = 20,
        criterion: str | criteria.Criterion = "magnitude",
        allocation: str | Allocation = "global",
        passes: int | None = None,
        *,
        monitor: str | Monitor = "val_accuracy",
        seed: int = 0,
        structure: str | Structure | None = None,
        target: dict[str, float] | None = None,
    ) -> None:
        arguments.check_counts(epochs=epochs, passes=1 if passes is None else passes)
        arguments.check_fraction(final_sparsity=final_sparsity)
        self.final_sparsity = final_sparsity
        self.criterion = criteria.get(criterion)
        self.allocation = allocation
        self.passes = passes
        self.structure = structures.optional(structure)
        self.target = target
        usual = defaults(PruneAtInit)["final_sparsity"]
        self._target = targets.optional(target, final_sparsity=(final_sparsity, usual))
        self._allocate = allocations.get(allocation)
        super().__init__(
            _PruneFirst(epochs, self._next_masks, monitor), "init", monitor, seed
        )

    @property
    def asked_sparsity(self) -> dict[str, float]:
        if self._target is not None:
            return {}
        return {"final_sparsity": self.final_sparsity}

    def prune(self, model: keras.Model) -> Ticket:
        """Prunes the model without training it, and returns the ticket.

        Args:
            model: A wrapped model; compiled, if the criterion needs the loss.
        """
        checks.check_fixed(model)
        self.set_model(model)
        self.engine.reset()
        self.check_structure()
        kernels = self.engine.kernels
        before = model.get_weights()
        masks = self._prune_in_passes(kernels, kernels.weights)
        model.set_weights(before)
        ticket = Ticket(
            masks,
            snapshots.present_weights(model),
            provenance={
                **self.engine.provenance(),
                **self.engine.cost(masks),
                "step": 0,
            },
        )
        kernels.set_masks(masks)
        return ticket

    def _next_masks(self, run: Run) -> Masks:
        return self._prune_in_passes(run.kernels, starts(run))

    def _prune_in_passes(self, kernels: Kernels, start: dict[str, np.ndarray]) -> Masks:
        for done in range(1, self._number_of_passes + 1):
            rng, progress = self.engine.rng(0), done / self._number_of_passes
            scores = criteria.score_units(self.criterion, kernels, start, rng)
            keep = self._keep(kernels.layout.units(kernels.masks), progress)
            kernels.set_masks(targets.choose(kernels, scores, keep, self._allocate))
        return kernels.masks

    def _keep(self, units, progress):
        if self._target is not None:
            return self._target.after(progress)
        return allocations.at_sparsity(units, self.final_sparsity, progress)

    @property
    def _number_of_passes(self):
        usual = 100 if criteria.name(self.criterion) == "synflow" else 1
        return self.passes or usual


class _PruneFirst(PruneAndRewind):
    """One round, which begins with the pruning: no dense network is trained."""

    def __init__(self, epochs, next_masks, monitor):
        super().__init__(1, epochs, next_masks, monitor=monitor)

    def epochs_of(self, round_: int) -> int:
        return self.epochs_per_round if round_ else 0

    def epochs_before(self, round_: int, run: Run) -> int:
        return 0

    def begin(self, run: Run) -> None:
        run.state.turn_due = True
