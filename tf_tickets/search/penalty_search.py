"""Searches that press weights to zero by a growing penalty before they prune them.

Stage one trains the dense network, without a penalty, until the validation loss no
longer falls, and rewinds to where it was least; a search may have no stage one. Then
every round chooses the weights that it will prune, lets the penalty on them grow and
stand, removes them, and, where told to, rewinds and trains the ticket. A round that
does not train its ticket is followed by the next from where it stands.
"""

from typing import Any

import keras
import numpy as np

from tf_tickets import optimizers, wrapping
from tf_tickets.callbacks.early_stop_rewind import EarlyStopRewind
from tf_tickets.masks.annealing import GrowingPenalty
from tf_tickets.masks.penalized import PenalizedMask
from tf_tickets.pruning import allocation
from tf_tickets.search.pruning_search import RankedSearch
from tf_tickets.search.round_search import RoundSearch
from tf_tickets.training import checks, snapshots
from tf_tickets.training.fidelity import Fidelity

# New optimizer and the schedule from its beginning, as a phase of its own has.
_RENEWED = Fidelity("keep", "keep", "fresh", "rewind", "keep")
# Before the names of metrics that a ticket has not by training.
_PRESSED = "pressed_"


class ExtrusionSearch(RankedSearch):
    """Chooses, penalizes, removes; the methods differ in what they choose and when.

    Args:
        final_sparsity: Sparsity of the last ticket, in [0, 1); or a dict from regular
            expressions over kernel paths to sparsities, the first match counts.
            Round r of R leaves the fraction `(1 - final_sparsity) ** (r / R)`.
        rounds: In how many rounds.
        penalty_epochs: Epochs in which a round's penalty grows and stands.
        epochs_per_round: Epochs for which a ticket is trained.
        penalty: Schedule of the penalty's strength; None for `default_penalty`.
        stage_one_epochs: Epochs of stage one at most; 0 for no stage one.
        early_stop: When stage one stops and where it rewinds to.
        criterion: What is kept; a weight that is not is penalized, then removed.
        allocation: How one sparsity is spread over the kernels.
        train: Which tickets are trained: "each", "last" or "none".
        penalty_learning_rate: Learning rate under the penalty; None for that of
            the optimizer.
        **kwargs: As in `PruningSearch`.
    """

    kept = (*RoundSearch.kept, "stage_one")
    default_penalty = GrowingPenalty()
    mask: PenalizedMask

    def __init__(
        self,
        final_sparsity: float | dict[str, float],
        penalty_epochs: int,
        *,
        penalty: GrowingPenalty | dict | None,
        stage_one_epochs: int = 0,
        early_stop: EarlyStopRewind | dict | None = None,
        train: str,
        penalty_learning_rate: float | None,
        **kwargs: Any,
    ) -> None:
        # First what the engine asks for while it is being made.
        self.stage_one_epochs = stage_one_epochs
        self.penalty_epochs = penalty_epochs
        super().__init__(**kwargs)
        self.final_sparsity = final_sparsity
        self.mask = PenalizedMask(penalty or self.default_penalty)
        self.early_stop = _early_stop(early_stop)
        self.train = train
        self.penalty_learning_rate = penalty_learning_rate
        self._check_arguments()

    def clear(self) -> None:
        super().clear()
        self.stage_one: dict[str, int | None] = {}

    @property
    def first_round(self) -> int:  # type: ignore[override]
        return 0 if self.stage_one_epochs else 1

    @property
    def penalty(self) -> Any:
        """The schedule of the penalty's strength."""
        return self.mask.penalty

    def _check_arguments(self):
        for name in ("stage_one_epochs", "penalty_epochs"):
            count = getattr(self, name)
            if not isinstance(count, int) or count < 0:
                raise ValueError(
                    f"`{name}` must be a whole number of 0 or more. Received: {count!r}"
                )
        if self.train not in ("each", "last", "none"):
            raise ValueError(
                "`train` says which tickets are trained and must be 'each', 'last' or "
                f"'none'. Received: {self.train!r}"
            )
        _check_sparsity(self.final_sparsity)
        if not self.penalty_epochs and self.train != "each":
            raise ValueError(
                "Without epochs under a penalty each ticket must be trained. Received: "
                f"penalty_epochs=0, train={self.train!r}. Use train='each'."
            )
        if not self.penalty_epochs and getattr(self.penalty, "cap", None) != 0.0:
            raise ValueError(
                "penalty_epochs=0 leaves the penalty no time to grow. Received: "
                f"penalty={self.penalty!r}. Give it epochs, or "
                "penalty=GrowingPenalty(cap=0.0) for none."
            )
        self._check_start()

    def _check_start(self):
        if self.train != "none" and self.epochs_of_tickets < 1:
            raise ValueError(
                "A ticket that is rewound has no epochs left to train. Received: "
                f"rewind_to={self.rewind_to!r}, "
                f"epochs_per_round={self.epochs_per_round}."
            )
        if not self.stage_one_epochs and self.rewind_to != "init":
            raise ValueError(
                "Without a stage one there is no training to rewind to. Received: "
                f"stage_one_epochs=0, rewind_to={self.rewind_to!r}. Use 'init'."
            )

    # How long it takes.

    @property
    def epochs_unseen(self) -> int:
        """Callbacks of a round see stage one, and the training of tickets."""
        return self.penalty_epochs if self.round else 0

    @property
    def epochs_of_first_round(self) -> int:
        return self.stage_one_epochs or self.penalty_epochs or self.epochs_per_round

    @property
    def trains_ticket(self) -> bool:
        """Whether the ticket of the present round is trained."""
        last = self.train == "last" and self.round == self.rounds
        return self.train == "each" or last

    @property
    def epochs_of_round(self) -> int:
        if self.round == 0:
            return self.stage_one_epochs
        training = self.epochs_of_tickets if self.trains_ticket else 0
        return self.penalty_epochs + training

    @property
    def epochs(self) -> int:
        """How many epochs `fit` needs at most; an early stop saves some."""
        penalized = self.rounds * self.penalty_epochs
        return self.stage_one_epochs + penalized + self._trained_before(self.rounds + 1)

    def _trained_before(self, round_):
        trained = {"each": round_ - 1, "last": int(round_ > self.rounds), "none": 0}
        return trained[self.train] * self.epochs_of_tickets

    def epochs_before(self, round_: int) -> int:
        first = self.stage_one.get("epochs") or self.stage_one_epochs
        return first + round_ * self.penalty_epochs + self._trained_before(round_)

    @property
    def epochs_of_trained_ticket(self) -> int | None:
        return self.epochs_of_tickets if self.train == "each" else None

    # What is asked of the model.

    def check_model(self) -> None:
        super().check_model()
        checks.check_masks(self.model, self.mask)
        if isinstance(self.final_sparsity, dict):
            allocation.check_matched(self._penalized, self.final_sparsity)
        checks.check_tells_training(self.model)
        checks.check_length_known(self.params)
        if self.stage_one_epochs:
            checks.check_unforced(self.model)
        if self.penalty_learning_rate is not None:
            optimizers.check_settable(snapshots.built_optimizer(self.model))
        self._check_time()

    def _check_time(self):
        needed = getattr(self.penalty, "steps", 0)
        steps = self.params["steps"]
        if needed > self.penalty_epochs * steps:
            raise ValueError(
                f"{self.penalty!r} needs {needed} steps, {self.penalty_epochs} epochs "
                f"of {steps} steps have {self.penalty_epochs * steps}. Use "
                f"penalty_epochs={-(-needed // steps)}, or GrowingPenalty() without an "
                "increment, which fits the epochs there are."
            )

    # The parts of a round.

    def begin(self) -> None:
        # A search that was cut off may have left a penalty.
        for mask in self._penalized.values():
            mask.rest()
        super().begin()
        self.early_stop.begin(self.model)
        if self.round:
            self._choose()

    def turn(self) -> None:
        """Chooses what the round that begins is to prune."""
        RoundSearch.turn(self)
        self._choose()

    def _choose(self):
        present = self._present
        coming = self.next_masks(self.model)
        if not self.penalty_epochs:
            self._remove(coming)
            return
        snapshots.restore(self.model, self.fresh, _RENEWED, self.fresh)
        if self.penalty_learning_rate is not None:
            rate = self.penalty_learning_rate
            optimizers.set_learning_rate(self.model.optimizer, rate)
        steps = self.params["steps"] * self.penalty_epochs
        for path, mask in self._penalized.items():
            chosen = present[path] & ~coming[path]
            mask.choose(chosen, steps, self.penalty_epochs)

    @property
    def _penalized(self) -> dict[str, Any]:
        return wrapping.mask_layers(self.model)

    def counts(
        self, scores: dict[str, np.ndarray], masks: dict[str, np.ndarray]
    ) -> dict[str, int]:
        way = self.round / self.rounds
        if isinstance(self.final_sparsity, dict):
            return allocation.at_sparsities(masks, self.final_sparsity, way)
        keep = allocation.at_sparsity(masks, self.final_sparsity, way)
        return self.allocate(scores, masks, keep)

    def prepare_epoch(self) -> None:
        if self._removal_due and self.trains_ticket:
            self._remove(self._without_chosen())

    def data_key(self, seed: int) -> tuple[int, int, int]:
        """Where seeds are rewound, a ticket's epochs are counted from its own first."""
        seed, round_, epoch = super().data_key(seed)
        trained = self.epoch_in_round >= self.epochs_unseen > 0
        if trained and self.fidelity.seeds == "rewind":
            epoch -= self.epochs_unseen
        return seed, round_, epoch

    @property
    def _removal_due(self):
        grown = self.round and self.epoch_in_round == self.penalty_epochs
        return grown and len(self.tickets) < self.round

    def _without_chosen(self):
        return {
            path: mask & ~self._penalized[path].chosen_value()
            for path, mask in self._present.items()
        }

    @property
    def _present(self):
        """The masks; not those of the model, which callbacks may have put back."""
        return self.masks or wrapping.masks(self.model)

    def _remove(self, masks):
        """Prunes, and makes the ticket; rewinds where it is to be trained."""
        for mask in self._penalized.values():
            mask.rest()
        if self.trains_ticket:
            snapshots.restore(self.model, self.snapshot, self.fidelity, self.fresh)
        self.apply_masks(masks)
        self.tickets.append(self.ticket(masks, self.ticket_start(), self._ticket_step))

    @property
    def _ticket_step(self):
        if self.fidelity.learning_rate == "rewind":
            return snapshots.iteration_in(self.snapshot)
        return snapshots.iteration(self.model)

    def stopped_in_round(self, logs: dict) -> bool:
        stopped = super().stopped_in_round(logs)
        if self.round == 0:
            return self.early_stop.watch(self.epoch_in_round - 1, logs) or stopped
        return stopped

    def end_round(self, logs: dict) -> bool:
        if self.round == 0:
            logs = self._end_stage_one(logs)
        elif self._removal_due:
            self._remove(self._without_chosen())
            # What was measured is the network before the removal.
            logs = {_PRESSED + name: value for name, value in logs.items()}
        return super().end_round(logs)

    def _end_stage_one(self, logs):
        """Rewinds where it was stopped; gives the logs of the epoch it ends with."""
        stop = self.early_stop
        self.stage_one = {"epochs": self.epoch_in_round, "stopped": None}
        if stop.stopped_epoch is None:
            stop.end()
            return logs
        logs = stop.go_back()
        self.stage_one |= {"stopped": stop.stopped_epoch, "rewound": stop.rewound_epoch}
        return logs

    def measures(self) -> dict[str, float]:
        """The penalty, its strength, and what is left of the chosen weights."""
        checks.check_counted(self.model)
        return {
            **super().measures(),
            "penalty": self._penalty(),
            "penalty_strength": self._first.present_strength,
            "residue": self._residue(),
        }

    @property
    def _first(self):
        return next(iter(self._penalized.values()))

    def _penalty(self):
        kernels = snapshots.kernels(self.model)
        masks = self._penalized.items()
        return sum(mask.present_penalty(kernels[path]) for path, mask in masks)

    def _residue(self):
        """Sum of sizes of the chosen weights over that of the kept ones."""
        chosen = kept = 0.0
        for path, kernel in snapshots.kernels(self.model).items():
            sizes = np.abs(kernel.astype("float64"))
            of_chosen = sizes[self._penalized[path].chosen_value()].sum()
            chosen += of_chosen
            kept += sizes.sum() - of_chosen
        return float(chosen / kept) if kept else 0.0

    # Its configuration.

    def provenance(self) -> dict:
        return {**super().provenance(), "stage_one": self.stage_one}

    def settings(self) -> dict:
        config = super().settings()
        del config["stop_at"]
        config |= {
            "final_sparsity": self.final_sparsity,
            "penalty_epochs": self.penalty_epochs,
            "penalty": keras.saving.serialize_keras_object(self.penalty),
            "train": self.train,
            "penalty_learning_rate": self.penalty_learning_rate,
        }
        return config


def _early_stop(given):
    if isinstance(given, dict):
        return keras.saving.deserialize_keras_object(given)
    if given is not None and not isinstance(given, EarlyStopRewind):
        raise TypeError(
            "`early_stop` must be an EarlyStopRewind, or None for one with its "
            f"defaults. Received: {given!r}"
        )
    return given or EarlyStopRewind()


def _check_sparsity(sparsity):
    values = sparsity.values() if isinstance(sparsity, dict) else [sparsity]
    for value in values:
        if not isinstance(value, int | float) or not 0.0 <= value < 1.0:
            raise ValueError(
                "`final_sparsity` is the fraction of zeros in the last ticket and must "
                f"lie in [0, 1). Received: final_sparsity={sparsity}"
            )
