"""Rounds that press weights to zero by a growing penalty before they remove them.

Stage one, which a search may leave out, trains the dense network without a penalty
until the validation loss stops falling, and rewinds to its minimum. Each round then
chooses the weights that it will remove, lets the penalty on them grow and hold, removes
them, and, if asked, rewinds and trains the ticket. A round that does not train its
ticket is followed by the next one from where it stands.
"""

from typing import Any

import numpy as np

from tf_tickets import arguments, optimizers
from tf_tickets.callbacks.early_stop_rewind import EarlyStopRewind
from tf_tickets.masks import PenalizedMask
from tf_tickets.pruning import allocation as allocations
from tf_tickets.pruning import criteria
from tf_tickets.search.phases import PenaltyPhase, StageOne
from tf_tickets.search.plan import RoundPlan, Run
from tf_tickets.search.prune_and_rewind import (
    Masks,
    apply_masks,
    epochs_after,
    present_masks,
    ranked,
    rewind,
    ticket_start,
)
from tf_tickets.training import checks, snapshots
from tf_tickets.training.fidelity import Fidelity
from tf_tickets.training.rewind import Rewind

# A new optimizer and a schedule that restarts: the penalty phase is a training of its
# own.
_RENEWED = Fidelity("keep", "keep", "fresh", "rewind", "keep")
# Prefix of metrics that were measured under the penalty, before the removal.
_PRESSED = "pressed_"


class PressAndRemove(RoundPlan):
    """Chooses, penalizes, removes; the methods differ in what they choose and when.

    Args:
        final_sparsity: Sparsity of the last ticket, or a dict from patterns of kernel
            paths to sparsities. Round r of R leaves `(1 - final_sparsity) ** (r / R)`.
        rounds: Number of rounds.
        epochs_per_round: Epochs for which a ticket is trained.
        penalty: The penalty phase of each round.
        stage_one: The dense training before the rounds.
        criterion: What is kept; other weights are penalized, then removed.
        allocate: How the sparsity is distributed over the kernels.
        rewind_to: Where tickets start from, and what is rewound before they are
            trained.
        train: Which tickets are trained: "each", "last" or "none".
    """

    mask: PenalizedMask

    def __init__(
        self,
        final_sparsity: float | dict[str, float],
        rounds: int,
        epochs_per_round: int,
        penalty: PenaltyPhase,
        stage_one: StageOne,
        criterion: criteria.Criterion,
        allocate: allocations.Allocation,
        rewind_to: Rewind,
        train: str,
    ) -> None:
        arguments.check_fractions(final_sparsity=final_sparsity)
        arguments.check_type(PenaltyPhase, penalty=penalty)
        arguments.check_type(StageOne, stage_one=stage_one)
        arguments.check_type(Rewind, rewind_to=rewind_to)
        arguments.check_choice(("each", "last", "none"), train=train)
        criterion, allocate = criteria.get(criterion), allocations.get(allocate)
        first_round = 0 if stage_one.epochs else 1
        mask = PenalizedMask(penalty.strength)
        super().__init__(rounds, epochs_per_round, first_round, mask)
        self.final_sparsity = final_sparsity
        self.penalty = penalty
        self.stage_one = stage_one
        # A copy, since the callback keeps state.
        self.early_stop = EarlyStopRewind.from_config(stage_one.early_stop.get_config())
        self.rewind = rewind_to
        self.train = train
        self._next_masks = ranked(
            criterion, allocate, self._keep, lambda run: run.rng()
        )
        self._check_settings()

    # Numbers of epochs.

    def trains_ticket(self, round_: int) -> bool:
        """Whether the ticket of a round is trained."""
        return self.train == "each" or (self.train == "last" and round_ == self.rounds)

    @property
    def _trained_epochs(self):
        return epochs_after(self.rewind, self.epochs_per_round)

    @property
    def epochs_of_tickets(self) -> int | None:
        return self._trained_epochs if self.train == "each" else None

    def epochs_of(self, round_: int) -> int:
        if round_ == 0:
            return self.stage_one.epochs
        training = self._trained_epochs if self.trains_ticket(round_) else 0
        return self.penalty.epochs + training

    def epochs_before(self, round_: int, run: Run) -> int:
        stopped = run.state.notes.get("stage_one", {}).get("epochs")
        earlier = sum(self.epochs_of(other) for other in range(1, round_))
        return (stopped or self.stage_one.epochs) + earlier + self.penalty.epochs

    def hidden_epochs(self, round_: int) -> int:
        """Callbacks of rounds see stage one and the training of tickets."""
        return self.penalty.epochs if round_ else 0

    # The hooks of the engine.

    def check(self, run: Run) -> None:
        checks.check_fixed(run.model)
        checks.check_masks(run.model, self.mask)
        if isinstance(self.final_sparsity, dict):
            allocations.check_matched(run.kernels, self.final_sparsity)
        checks.check_tells_training(run.model)
        checks.check_length_known(run.params)
        if self.stage_one.epochs:
            checks.check_unforced(run.model)
        if self.penalty.learning_rate is not None:
            optimizers.check_settable(snapshots.built_optimizer(run.model))
        self._check_time(run.params["steps"])

    def masks(self, run: Run) -> Masks:
        return present_masks(run)

    def setup(self, run: Run) -> None:
        # A search that was interrupted may have left a penalty.
        _end_penalty(run)

    def begin(self, run: Run) -> None:
        run.state.notes["stage_one"] = {}
        if run.state.round:
            self._choose(run)

    def turn(self, run: Run) -> None:
        self._choose(run)

    def before_epoch(self, run: Run) -> None:
        # Not in `begin`: a search that was killed in stage one begins it again.
        if run.state.round == 0 and run.state.epoch_in_round == 0:
            self.early_stop.begin(run.model)
        if self._removal_is_due(run) and self.trains_ticket(run.state.round):
            self._remove(run, self._without_chosen(run))

    def data_order(self, run: Run) -> tuple[int, int]:
        """Rewound seeds give a ticket's training the data order of round 0."""
        round_, epoch = run.state.round, run.state.epoch_in_round
        if self.rewind.fidelity.seeds != "rewind":
            return round_, epoch
        hidden = self.hidden_epochs(round_)
        if epoch >= hidden > 0:
            epoch -= hidden
        rewound = round_ and self.rewind.unit == "epochs"
        return 0, epoch + (self.rewind.count if rewound else 0)

    def stops_round(self, run: Run, logs: dict) -> bool:
        """Stage one ends where its early stop says so."""
        if run.state.round:
            return False
        return self.early_stop.watch(run.state.epoch_in_round - 1, logs)

    def end_round(self, run: Run, logs: dict) -> bool:
        if run.state.round == 0:
            logs = self._end_stage_one(run, logs)
        elif self._removal_is_due(run):
            self._remove(run, self._without_chosen(run))
            # The logs are those of the network before the removal.
            logs = {_PRESSED + name: value for name, value in logs.items()}
        run.note_metrics(logs)
        return super().end_round(run, logs)

    def end(self, run: Run) -> None:
        # Keras has just written averaged weights (use_ema) over the kernels.
        apply_masks(run, present_masks(run))

    def measures(self, run: Run) -> dict[str, float]:
        """Returns the penalty, its strength, and the residue of the chosen weights."""
        checks.check_counted(run.model)
        weights = run.kernels.weights
        masks = _penalized(run)
        penalties = [m.present_penalty(weights[path]) for path, m in masks.items()]
        return {
            **super().measures(run),
            "penalty": sum(penalties),
            "penalty_strength": next(iter(masks.values())).present_strength,
            "residue": _residue(weights, masks),
        }

    def provenance(self, run: Run) -> dict:
        return {"stage_one": run.state.notes.get("stage_one", {})}

    # The parts of a round.

    def _choose(self, run):
        """Chooses what the round is to remove, and starts the penalty on it."""
        present = present_masks(run)
        coming = self._next_masks(run)
        if not self.penalty.epochs:
            self._remove(run, coming)
            return
        snapshots.restore(run.model, run.state.fresh, _RENEWED, run.state.fresh)
        if self.penalty.learning_rate is not None:
            rate = self.penalty.learning_rate
            optimizers.set_learning_rate(run.model.optimizer, rate)
        steps = run.params["steps"] * self.penalty.epochs
        for path, mask in _penalized(run).items():
            mask.choose(present[path] & ~coming[path], steps, self.penalty.epochs)

    def _keep(self, run, units):
        progress = run.state.round / self.rounds
        if isinstance(self.final_sparsity, dict):
            return allocations.at_sparsities(units, self.final_sparsity, progress)
        return allocations.at_sparsity(units, self.final_sparsity, progress)

    def _removal_is_due(self, run):
        state = run.state
        grown = state.round and state.epoch_in_round == self.penalty.epochs
        return grown and len(state.tickets) < state.round

    def _without_chosen(self, run):
        penalized = _penalized(run)
        return {
            path: mask & ~penalized[path].chosen_value()
            for path, mask in present_masks(run).items()
        }

    def _remove(self, run, masks):
        """Prunes and makes the ticket; rewinds if it is to be trained."""
        _end_penalty(run)
        if self.trains_ticket(run.state.round):
            rewind(run)
        apply_masks(run, masks)
        if self.rewind.fidelity.learning_rate == "rewind":
            step = snapshots.iteration_in(run.state.snapshot)
        else:
            step = snapshots.iteration(run.model)
        run.add_ticket(masks, ticket_start(run), step)

    def _end_stage_one(self, run, logs):
        """Rewinds if it was stopped; returns the logs of the epoch it ends with."""
        stop = self.early_stop
        note = {"epochs": run.state.epoch_in_round, "stopped": None}
        run.state.notes["stage_one"] = note
        if stop.stopped_epoch is None:
            stop.end()
            return logs
        logs = stop.go_back()
        note |= {"stopped": stop.stopped_epoch, "rewound": stop.rewound_epoch}
        return logs

    # Checks.

    def _check_settings(self):
        if not self.penalty.epochs and self.train != "each":
            raise ValueError(
                "Without epochs under a penalty each ticket must be trained. Received: "
                f"penalty={self.penalty!r}, train={self.train!r}. Use train='each'."
            )
        if self.train != "none" and self._trained_epochs < 1:
            raise ValueError(
                "A ticket that is rewound has no epochs left to train. Received: "
                f"rewind_to={self.rewind!r}, epochs_per_round={self.epochs_per_round}."
            )
        if not self.stage_one.epochs and not self.rewind.to_init:
            raise ValueError(
                "Without a stage one there is no training to rewind to. Received: "
                f"rewind_to={self.rewind!r} and no stage one. Use 'init'."
            )

    def _check_time(self, steps):
        needed = getattr(self.penalty.strength, "steps", 0)
        available = self.penalty.epochs * steps
        if needed > available:
            raise ValueError(
                f"{self.penalty.strength!r} needs {needed} steps, but "
                f"{self.penalty.epochs} epochs of {steps} steps have {available}. Use "
                f"PenaltyPhase(epochs={-(-needed // steps)}, ...), or GrowingPenalty() "
                "without an increment, which fits the available epochs."
            )


def asked(final_sparsity: float | dict[str, float]) -> dict[str, float]:
    """Returns the largest final sparsity by the name of the setting.

    Example:

    >>> asked({"output": 0.5, ".": 0.9})
    {'final_sparsity': 0.9}
    """
    if isinstance(final_sparsity, dict):
        final_sparsity = max(final_sparsity.values())
    return {"final_sparsity": final_sparsity}


def _penalized(run) -> dict[str, Any]:
    return run.kernels.mask_layers


def _end_penalty(run):
    for mask in _penalized(run).values():
        mask.rest()


def _residue(weights, masks):
    """Returns the sum of sizes of the chosen weights over that of the kept ones."""
    chosen = kept = 0.0
    for path, weight in weights.items():
        sizes = np.abs(weight.astype("float64"))
        of_chosen = sizes[masks[path].chosen_value()].sum()
        chosen += of_chosen
        kept += sizes.sum() - of_chosen
    return float(chosen / kept) if kept else 0.0
