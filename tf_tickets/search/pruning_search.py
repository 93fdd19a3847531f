"""Searches that prune between rounds: train, prune, rewind, again.

Round 0 trains the dense network. Each later round begins by pruning what the
round before has trained and by rewinding; that makes its ticket, which is then
trained. A search of `rounds` rounds therefore gives as many tickets and trains
once more than that.
"""

from typing import Any

import keras
import numpy as np

from tf_tickets import wrapping
from tf_tickets.pruning import allocation, criteria, selection
from tf_tickets.pruning.allocation import Allocation, named_allocation
from tf_tickets.search.round_search import RoundSearch
from tf_tickets.training import checks, snapshots
from tf_tickets.training.fidelity import Fidelity


class PruningSearch(RoundSearch):
    """Prunes and rewinds between rounds; a subclass gives `next_masks(model)`.

    Args:
        rounds: How many times to prune.
        epochs_per_round: Epochs that each training takes.
        rewind_to: "init", "N steps" or "N epochs": the moment of round 0 from
            which the tickets start.
        fidelity: What is rewound: "weights", "exact", "learning_rate",
            "fine_tune" or a `Fidelity`.
        stop_at: None for all rounds; a sparsity at which to stop; or
            "below_dense", to stop after the first ticket whose metric falls
            below that of the dense network by more than `tolerance`.
        monitor: The logged metric by which tickets are judged.
        tolerance: How far below the dense network a ticket may be.
        seed: Seed of what the search draws at random.
    """

    def __init__(
        self,
        rounds: int,
        epochs_per_round: int,
        rewind_to: str = "init",
        fidelity: str | dict | Fidelity = "weights",
        stop_at: float | str | None = None,
        monitor: str = "val_accuracy",
        tolerance: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__(rounds, epochs_per_round, rewind_to, monitor, tolerance, seed)
        self.fidelity = Fidelity.get(fidelity)
        self.stop_at = checks.check_stop(stop_at)

    def clear(self) -> None:
        super().clear()
        self.start_masks: dict[str, np.ndarray] = {}

    @property
    def epochs(self) -> int:
        return self.epochs_per_round + self.rounds * self.epochs_of_tickets

    def epochs_before(self, round_: int) -> int:
        return self.epochs_per_round + (round_ - 1) * self.epochs_of_tickets

    @property
    def epochs_of_trained_ticket(self) -> int | None:
        return self.epochs_of_tickets

    @property
    def epochs_of_tickets(self) -> int:
        """Epochs that a ticket trains: one rewound to epoch N, for those left."""
        unit, count = self.rewind_point
        rewound = unit == "epochs" and self.fidelity.learning_rate == "rewind"
        return self.epochs_per_round - (count if rewound else 0)

    @property
    def epochs_of_round(self) -> int:
        return self.epochs_of_tickets if self.round else self.epochs_per_round

    @property
    def may_stop(self) -> bool:
        return self.stop_at is not None

    @property
    def masks(self) -> dict[str, np.ndarray]:
        return self.tickets[-1].masks if self.tickets else self.start_masks

    def check_model(self) -> None:
        super().check_model()
        checks.check_fixed(self.model)

    def data_key(self, seed: int) -> tuple[int, int, int]:
        """What the order of the data depends on: another one in each epoch.

        Where seeds are rewound, every round sees the order of round 0, from the
        epoch on to which it was rewound.
        """
        if self.fidelity.seeds == "rewind":
            unit, count = self.rewind_point
            skipped = count if self.round and unit == "epochs" else 0
            return seed, 0, self.epoch_in_round + skipped
        return super().data_key(seed)

    def on_train_end(self, logs=None):
        # Keras has just written averaged weights (use_ema) over the kernels.
        self.apply_masks(self.masks)
        super().on_train_end(logs)

    def begin(self) -> None:
        super().begin()
        self.start_masks = wrapping.masks(self.model)

    def turn(self) -> None:
        """Prunes, rewinds and makes the ticket of the round that begins."""
        masks = self.next_masks(self.model)
        snapshots.restore(self.model, self.snapshot, self.fidelity, self.fresh)
        self.apply_masks(masks)
        super().turn()
        step = snapshots.iteration(self.model)
        self.tickets.append(self.ticket(masks, self.ticket_start(), step))

    def next_masks(self, model: keras.Model) -> dict[str, np.ndarray]:
        """The masks of the round to come, by kernel path."""
        raise NotImplementedError

    def apply_masks(self, masks: dict[str, np.ndarray]) -> None:
        """Sets masks, in the weights and in the optimizer too."""
        wrapping.set_masks(self.model, masks or wrapping.masks(self.model))
        snapshots.zero_slots(self.model)

    def ticket_start(self) -> snapshots.State:
        """Unmasked where rewound, so that other masks can be tried with them."""
        now = snapshots.record(self.model)
        return {
            part: self.snapshot[part]
            if getattr(self.fidelity, part) == "rewind"
            else now[part]
            for part in ("weights", "statistics")
        }

    def end_round(self, logs: dict) -> bool:
        self.note_metrics(logs)
        return super().end_round(logs) or self._stops()

    def _stops(self):
        if isinstance(self.stop_at, float):
            return sum(int(m.sum()) for m in self.masks.values()) <= self.floor()
        if self.stop_at != "below_dense":
            return False
        if self.monitor not in self.dense:
            raise ValueError(
                f"stop_at='below_dense' needs the metric {self.monitor!r}. "
                f"Logged: {sorted(self.dense)}."
            )
        return bool(self.tickets) and self._judge.falls_below(self.metrics, self.dense)

    def floor(self) -> int:
        """How many weights remain where a sparsity to stop at is reached."""
        size = sum(mask.size for mask in self.masks.values())
        return size - int(round(float(self.stop_at or 0.0) * size))

    def get_config(self):
        return {
            **super().get_config(),
            "fidelity": self.fidelity.get_config(),
            "stop_at": self.stop_at,
        }


class RankedSearch(PruningSearch):
    """Keeps the weights of the highest scores; a subclass gives how many.

    Args:
        criterion: What is kept: a name of `tf_tickets.criteria` or a function.
        allocation: How what the whole model keeps is spread over its kernels.
    """

    def __init__(
        self,
        criterion: str | criteria.Criterion,
        allocation: str | dict | Allocation,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.criterion = criteria.get(criterion)
        self.allocation, self.allocate = named_allocation(allocation)

    def next_masks(self, model: keras.Model) -> dict[str, np.ndarray]:
        masks = wrapping.masks(model)
        scores = criteria.score_all(
            self.criterion,
            model,
            snapshots.kernels(model),
            self.snapshot["weights"],
            np.random.default_rng([self.seed, self.round]),
        )
        counts = allocation.guard(self.counts(scores, masks), masks)
        return selection.select(scores, masks, counts)

    def counts(
        self, scores: dict[str, np.ndarray], masks: dict[str, np.ndarray]
    ) -> dict[str, int]:
        """How many weights each kernel is to keep in the round to come."""
        raise NotImplementedError

    def settings(self) -> dict:
        return {
            **super().get_config(),
            "criterion": criteria.name(self.criterion),
            "allocation": getattr(self.allocation, "__name__", self.allocation),
        }

    def same(self) -> dict[str, Any]:
        """With the criterion itself, which need not be registered."""
        given = {"criterion": self.criterion, "allocation": self.allocation}
        return {**self.settings(), **given}

    def get_config(self):
        return {
            **self.settings(),
            "criterion": criteria.serialize(self.criterion),
            "allocation": keras.saving.serialize_keras_object(self.allocation),
        }
