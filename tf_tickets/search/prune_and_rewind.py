"""Rounds that train, prune and rewind.

Round 0 trains the dense network. Each later round first prunes the weights trained in
the previous round and rewinds. This makes its ticket, which is then trained. A search
of N rounds therefore finds N tickets and trains N + 1 times.
"""

from collections.abc import Callable

import numpy as np

from tf_tickets import arguments
from tf_tickets.pruning import allocation, criteria, targets
from tf_tickets.pruning.allocation import Allocation
from tf_tickets.search.plan import RoundPlan, Run
from tf_tickets.tickets.monitor import Monitor
from tf_tickets.training import checks, snapshots
from tf_tickets.training.rewind import Rewind

Masks = dict[str, np.ndarray]
NextMasks = Callable[[Run], Masks]


class PruneAndRewind(RoundPlan):
    """Prunes and rewinds between rounds.

    Args:
        rounds: How many times to prune.
        epochs_per_round: Epochs of each training.
        next_masks: Function of the engine that returns the masks of the next round, by
            kernel path. `ranked` makes one from a criterion and an allocation.
        rewind_to: Where tickets start from: a moment or a `Rewind`.
        stop_at: None for all rounds; a sparsity at which to stop; or "below_dense", to
            stop after the first ticket that falls below the dense network.
        monitor: What "below_dense" compares.
    """

    def __init__(
        self,
        rounds: int,
        epochs_per_round: int,
        next_masks: NextMasks,
        rewind_to: str | Rewind = "init",
        stop_at: float | str | None = None,
        monitor: str | Monitor = "val_accuracy",
    ) -> None:
        arguments.check_functions(1, next_masks=next_masks)
        super().__init__(rounds, epochs_per_round, first_round=0)
        self.next_masks = next_masks
        self.rewind = Rewind.get(rewind_to)
        self.stop_at = checks.check_stop(stop_at)
        self.monitor = Monitor.get(monitor)

    @property
    def epochs_of_tickets(self) -> int:
        return epochs_after(self.rewind, self.epochs_per_round)

    def epochs_of(self, round_: int) -> int:
        return self.epochs_of_tickets if round_ else self.epochs_per_round

    def epochs_before(self, round_: int, run: Run) -> int:
        return sum(self.epochs_of(earlier) for earlier in range(round_))

    @property
    def may_end_early(self) -> bool:
        return self.stop_at is not None

    def check(self, run: Run) -> None:
        checks.check_fixed(run.model)

    def masks(self, run: Run) -> Masks:
        return present_masks(run)

    def data_order(self, run: Run) -> tuple[int, int]:
        """Rewound seeds give every round the data order of round 0.

        The order begins at the epoch to which the round was rewound.
        """
        if run.rewind.fidelity.seeds != "rewind":
            return super().data_order(run)
        rewound = run.state.round and run.rewind.unit == "epochs"
        return 0, run.state.epoch_in_round + (run.rewind.count if rewound else 0)

    def turn(self, run: Run) -> None:
        """Prunes, rewinds and makes the ticket of the round that begins."""
        masks = self.next_masks(run)
        rewind(run)
        apply_masks(run, masks)
        run.add_ticket(masks, ticket_start(run), snapshots.iteration(run.model))

    def end_round(self, run: Run, logs: dict) -> bool:
        run.note_metrics(logs)
        return super().end_round(run, logs) or self._stops(run)

    def _stops(self, run):
        if isinstance(self.stop_at, float):
            layout = run.kernels.layout
            units = layout.units(present_masks(run))
            kept = sum(int(alive.sum()) for alive in units.values())
            fewest = sum(layout.fewest(units).values())
            return kept <= max(allocation.weights_at(self.stop_at, units), fewest)
        if self.stop_at != "below_dense":
            return False
        dense, metric = run.state.dense, self.monitor.metric
        if metric not in dense:
            raise ValueError(
                f"stop_at='below_dense' needs the metric {metric!r}. "
                f"Logged: {sorted(dense)}."
            )
        tickets = run.state.tickets
        return bool(tickets) and self.monitor.falls_below(tickets[-1].metrics, dense)

    def end(self, run: Run) -> None:
        # Keras has just written averaged weights (use_ema) over the kernels.
        apply_masks(run, present_masks(run))


def ranked(
    criterion: criteria.Criterion,
    allocate: Allocation,
    keep: Callable[[Run, Masks], int | dict[str, int] | targets.Target],
    rng: Callable[[Run], np.random.Generator] | None = None,
) -> NextMasks:
    """Returns a rule that keeps the weights with the highest scores.

    Args:
        criterion: What scores the weights.
        allocate: How the weights that the model keeps are distributed over its kernels.
        keep: Function of the engine and the present units, which are the masks if the
            model has no structure: how many are kept, of the model or, as a dict, of
            every kernel; or a target.
        rng: Function of the engine that returns the generator of random criteria; by
            default that of the round that has just been trained.
    """

    def trained_round(run: Run) -> np.random.Generator:
        return run.rng(run.state.round - 1)

    def next_masks(run: Run) -> Masks:
        kernels, generator = run.kernels, (rng or trained_round)(run)
        scores = criteria.score_units(criterion, kernels, starts(run), generator)
        count = keep(run, kernels.layout.units(kernels.masks))
        return targets.choose(kernels, scores, count, allocate)

    return next_masks


def starts(run: Run) -> dict[str, np.ndarray]:
    """Returns the state to rewind to, of all weights and statistics by path."""
    return {**run.state.snapshot["weights"], **run.state.snapshot["statistics"]}


def epochs_after(rewind: Rewind, epochs: int) -> int:
    """Returns the number of epochs that a ticket trains after its moment.

    Example:

    >>> epochs_after(tt.Rewind("2 epochs"), 5), epochs_after(tt.Rewind("9 steps"), 5)
    (3, 5)
    """
    rewound = rewind.unit == "epochs" and rewind.fidelity.learning_rate == "rewind"
    return epochs - (rewind.count if rewound else 0)


def present_masks(run: Run) -> Masks:
    """Returns the masks of the last ticket; callbacks may have changed the model's."""
    tickets = run.state.tickets
    return tickets[-1].masks if tickets else run.kernels.masks


def rewind(run: Run) -> None:
    """Rewinds the model as the search's `Rewind` says."""
    state = run.state
    snapshots.restore(run.model, state.snapshot, run.rewind.fidelity, state.fresh)


def apply_masks(run: Run, masks: Masks) -> None:
    """Sets masks, and clears what they prune in weights and optimizer slots."""
    run.kernels.set_masks(masks)
    snapshots.zero_slots(run.model)


def ticket_start(run: Run) -> snapshots.State:
    """Returns the state a ticket starts from.

    Rewound parts are not masked, which lets controls try other masks with them.
    """
    parts = ("weights", "statistics")
    rewound = [p for p in parts if getattr(run.rewind.fidelity, p) == "rewind"]
    snapshot = run.state.snapshot
    # Recorded only if needed: it copies the weights and slots of the whole model.
    now = snapshot if len(rewound) == len(parts) else snapshots.record(run.model)
    return {part: (snapshot if part in rewound else now)[part] for part in parts}
