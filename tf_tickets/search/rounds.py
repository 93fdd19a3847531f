"""The round engine: one `fit` in which a network is trained, pruned and rewound.

Round 0 trains the dense network. Each later round begins by pruning what the
round before has trained and by rewinding; that makes its ticket, which is then
trained. A search of `rounds` rounds therefore gives as many tickets and trains
once more than that.
"""

import warnings
from typing import Self

import keras
import numpy as np

import tf_tickets.version as version
from tf_tickets import paths, snapshots, tickets, wrapping
from tf_tickets.search import arguments, judging


class RoundSearch(keras.callbacks.Callback):
    """Owns the rounds of one `fit`; what a round does is the subclass's.

    A subclass gives `next_masks(model)`, the masks of the round to come. All
    variables are touched at the edges of epochs only, which is where both
    backends allow it; the compiled step is the same in every round.

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

    method = "rounds"

    def __init__(
        self,
        rounds: int,
        epochs_per_round: int,
        rewind_to: str = "init",
        fidelity: str | dict | snapshots.Fidelity = "weights",
        stop_at: float | str | None = None,
        monitor: str = "val_accuracy",
        tolerance: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        arguments.check_counts(rounds=rounds, epochs_per_round=epochs_per_round)
        self.rounds = rounds
        self.epochs_per_round = epochs_per_round
        self.rewind_to = rewind_to
        self.rewind_point = arguments.parse_moment(rewind_to, epochs_per_round)
        self.fidelity = snapshots.get(fidelity)
        self.stop_at = arguments.check_stop(stop_at)
        self.monitor = monitor
        self.tolerance = tolerance
        self._judge = judging.Judge(monitor, tolerance)
        self.seed = seed
        self.round_callbacks: list[keras.callbacks.Callback] = []
        self.context: dict = {}
        self.clear()

    def clear(self) -> None:
        """Forgets all rounds, as `fit` from epoch 0 does."""
        self.tickets: list[tickets.Ticket] = []
        self.dense: dict[str, float] = {}
        self.round = 0
        self.epoch_in_round = 0
        self.complete = False
        self.snapshot: snapshots.State | None = None
        self.fresh: snapshots.State | None = None
        self._turn_due = False
        self._next_epoch = 0
        self._step = 0
        self.start_masks: dict[str, np.ndarray] = {}

    def in_round(self, *callbacks: keras.callbacks.Callback) -> Self:
        """Adds callbacks that see each round as a training of its own.

        Their epochs count from the round's beginning, and where they stop the
        training (`keras.callbacks.EarlyStopping`) the round ends early.

        Returns:
            The search itself.
        """
        self.round_callbacks += callbacks
        return self

    @property
    def epochs(self) -> int:
        """How many epochs `fit` needs for the whole search."""
        return self.epochs_per_round + self.rounds * self.epochs_of_tickets

    @property
    def epochs_of_tickets(self) -> int:
        """Epochs that a ticket trains: one rewound to epoch N, for those left."""
        unit, count = self.rewind_point
        rewound = unit == "epochs" and self.fidelity.learning_rate == "rewind"
        return self.epochs_per_round - (count if rewound else 0)

    @property
    def sparsity(self) -> float:
        """Sparsity of the network that is being trained."""
        masks = self._masks.values()
        size = sum(mask.size for mask in masks)
        return sum(mask.size - int(mask.sum()) for mask in masks) / max(size, 1)

    @property
    def _masks(self):
        return self.tickets[-1].masks if self.tickets else self.start_masks

    @property
    def best(self) -> tickets.Ticket:
        """The sparsest ticket whose metric is within tolerance of the dense one.

        Where none is, the ticket of the best metric.
        """
        return self._judge.best(self.tickets, self.dense)

    @property
    def next_epoch(self) -> int:
        """The epoch of `fit` before which the search stands."""
        return self._next_epoch

    @property
    def round_is_over(self) -> bool:
        """Whether the present round has been trained to its end."""
        return self.complete or self._turn_due

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of the network that is being trained, filled at its end."""
        return self.tickets[-1].metrics if self.tickets else self.dense

    def data_key(self, seed: int) -> tuple[int, int, int]:
        """What the order of the data depends on: another one in each epoch.

        Where seeds are rewound, every round sees the order of round 0, from the
        epoch on to which it was rewound.
        """
        if self.fidelity.seeds == "rewind":
            unit, count = self.rewind_point
            skipped = count if self.round and unit == "epochs" else 0
            return seed, 0, self.epoch_in_round + skipped
        return seed, self.round, self.epoch_in_round

    def state(self, model: keras.Model) -> tuple[dict, dict[str, np.ndarray]]:
        """What to keep of a search between two rounds: (content, arrays)."""
        own = self.snapshot is not None and self.snapshot is not self.fresh
        parts = {
            "now": snapshots.record(model),
            "fresh": self.fresh,
            "snapshot": self.snapshot if own else {},
        }
        arrays = {
            f"{kind}|{part}|{name}": array
            for kind, table in parts.items()
            for part, values in table.items()
            for name, array in values.items()
        }
        names = ("dense", "round", "complete", "_next_epoch", "_step")
        content = {name: getattr(self, name) for name in names}
        content["metrics"] = [ticket.metrics for ticket in self.tickets]
        return content, arrays

    def load_state(
        self, content: dict, arrays: dict[str, np.ndarray], model: keras.Model
    ) -> None:
        """Goes back to what `state` gave; the tickets are loaded already."""
        for ticket, metrics in zip(self.tickets, content.pop("metrics"), strict=True):
            ticket.metrics = metrics
        for name, value in content.items():
            setattr(self, name, value)
        tables: dict[str, snapshots.State] = {"now": {}, "fresh": {}, "snapshot": {}}
        for key, array in arrays.items():
            kind, part, name = key.split("|", 2)
            tables[kind].setdefault(part, {})[name] = array
        for part, variables in snapshots.variables_by_part(model).items():
            snapshots.assign(variables, tables["now"].get(part, {}))
        self.fresh = snapshots.adopt(model, tables["fresh"])
        self.snapshot = self.fresh if self.rewind_point == ("steps", 0) else None
        if tables["snapshot"]:
            self.snapshot = snapshots.adopt(model, tables["snapshot"])
        names = paths.match(self._masks, wrapping.kernels(model)) or {}
        self._apply_to(model, {names[p]: mask for p, mask in self._masks.items()})

    # What Keras calls.

    def on_train_begin(self, logs=None):
        if not wrapping.prunables(self.model):
            raise ValueError(
                f"Model {self.model.name!r} has no Prunable layers. Wrap it before "
                "compiling: model = tf_tickets.wrap(model)."
            )
        self._check_length()
        snapshots.built_optimizer(self.model)
        for callback in self.round_callbacks:
            callback.set_params({**self.params, "epochs": self.epochs_per_round})
            callback.set_model(self.model)

    def _check_length(self):
        if self.params["epochs"] < self.epochs and self.stop_at is None:
            raise ValueError(
                f"This search needs {self.epochs} epochs, `fit` was called with "
                f"epochs={self.params['epochs']}. Call fit(..., epochs=search.epochs)."
            )
        unit, count = self.rewind_point
        steps = self.params.get("steps")
        if unit == "steps" and steps and count > steps * self.epochs_per_round:
            self._refuse_moment(steps * self.epochs_per_round)

    def _refuse_moment(self, steps):
        raise ValueError(
            f"rewind_to={self.rewind_to!r} is not reached: round 0 comes to step "
            f"{steps} without it. Choose an earlier moment, or one that is a multiple "
            "of steps_per_execution."
        )

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 0:
            self._begin()
        elif epoch != self._next_epoch:
            raise ValueError(
                f"The search stands before epoch {self._next_epoch}, `fit` began at "
                f"epoch {epoch}. Use fit from epoch 0, or find_ticket to resume."
            )
        if self._turn_due:
            self._turn()
        if self.epoch_in_round == 0:
            self._tell_round("on_train_begin")
        self._tell_round("on_epoch_begin", self.epoch_in_round)
        self._steps_before = self._step

    def on_train_batch_begin(self, batch, logs=None):
        self._step = self._steps_before + batch
        unit, count = self.rewind_point
        if self.snapshot is None and unit == "steps" and self._step >= count:
            if self._step > count:
                self._refuse_moment(self._step)
            self._record()

    def on_epoch_end(self, epoch, logs=None):
        self._next_epoch = epoch + 1
        self.epoch_in_round += 1
        self._count_steps()
        if self.snapshot is None and self._at_snapshot():
            self._record()
        logs.update({"sparsity": self.sparsity, "round": self.round})
        stopped = self._stopped_in_round(logs)
        length = self.epochs_of_tickets if self.round else self.epochs_per_round
        if stopped or self.epoch_in_round >= length:
            self._finish_round(logs)

    def on_train_end(self, logs=None):
        # Keras has just written averaged weights (use_ema) over the kernels.
        self._apply(self._masks)
        if not self.complete:
            warnings.warn(
                f"`fit` ended in round {self.round} of {self.rounds}: the search is "
                "not complete, its last ticket may be untrained.",
                stacklevel=2,
            )

    # The parts of a round.

    def _begin(self):
        self.clear()
        self.fresh = snapshots.record(self.model)
        self.start_masks = wrapping.masks(self.model)
        if self.rewind_point == ("steps", 0):
            self.snapshot = self.fresh

    def _turn(self):
        """Prunes, rewinds and makes the ticket of the round that begins."""
        masks = self.next_masks(self.model)
        snapshots.restore(self.model, self.snapshot, self.fidelity, self.fresh)
        self._apply(masks)
        self.round += 1
        self.epoch_in_round = 0
        self._turn_due = False
        self.tickets.append(self._ticket(masks))

    def next_masks(self, model: keras.Model) -> dict[str, np.ndarray]:
        """The masks of the round to come, by kernel path."""
        raise NotImplementedError

    def _apply(self, masks):
        self._apply_to(self.model, masks)

    def _apply_to(self, model, masks):
        wrapping.set_masks(model, masks or wrapping.masks(model))
        snapshots.zero_slots(model)

    def _ticket(self, masks):
        provenance = {
            "method": self.method,
            "settings": self.settings(),
            "round": self.round,
            "step": snapshots.iteration(self.model),
            "seed": self.seed,
            "order": self.data_key(0)[1:],
            "parent": self.tickets[-1].id if self.tickets else None,
            "versions": version.versions(),
            **self.context,
        }
        return tickets.Ticket(masks, self._start(), {}, provenance)

    def _start(self):
        """Unmasked where rewound, so that other masks can be tried with them."""
        now = snapshots.record(self.model)
        parts = {
            part: self.snapshot[part]
            if getattr(self.fidelity, part) == "rewind"
            else now[part]
            for part in ("weights", "statistics")
        }
        return snapshots.start_weights(self.model, parts)

    def _finish_round(self, logs):
        self._tell_round("on_train_end")
        self.metrics.update(
            {k: float(v) for k, v in logs.items() if k not in ("round",)}
        )
        self.complete = self.round == self.rounds or self._stops()
        self._turn_due = not self.complete
        if self._turn_due and self.snapshot is None:
            self._refuse_moment(self._step)
        if self.complete:
            self.model.stop_training = True

    def _stops(self):
        if isinstance(self.stop_at, float):
            return sum(int(m.sum()) for m in self._masks.values()) <= self._floor()
        if self.stop_at != "below_dense":
            return False
        if self.monitor not in self.dense:
            raise ValueError(
                f"stop_at='below_dense' needs the metric {self.monitor!r}. "
                f"Logged: {sorted(self.dense)}."
            )
        return bool(self.tickets) and self._judge.falls_below(self.metrics, self.dense)

    def _floor(self):
        """How many weights remain where a sparsity to stop at is reached."""
        size = sum(mask.size for mask in self._masks.values())
        return size - int(round(self.stop_at * size))

    def _record(self):
        self.snapshot = snapshots.record(self.model)

    def _at_snapshot(self):
        unit, count = self.rewind_point
        return count == (self._step if unit == "steps" else self.epoch_in_round)

    def _count_steps(self):
        """Steps since the search began: by the optimizer's own counter."""
        if self.round == 0:
            self._step = snapshots.iteration(self.model) - _iteration_in(self.fresh)

    def _stopped_in_round(self, logs):
        """Whether a callback of the round ends it; a stop of `fit` goes on."""
        if not self.round_callbacks:
            return False
        before, self.model.stop_training = self.model.stop_training, False
        self._tell_round("on_epoch_end", self.epoch_in_round - 1, logs=logs)
        stopped, self.model.stop_training = self.model.stop_training, before
        return stopped

    def _tell_round(self, event, *epoch, logs=None):
        for callback in self.round_callbacks:
            getattr(callback, event)(*epoch, {} if logs is None else logs)

    def settings(self) -> dict:
        """The configuration for a ticket's provenance: functions by name only."""
        return self.get_config()

    def get_config(self):
        return {
            "rounds": self.rounds,
            "epochs_per_round": self.epochs_per_round,
            "rewind_to": self.rewind_to,
            "fidelity": self.fidelity.get_config(),
            "stop_at": self.stop_at,
            "monitor": self.monitor,
            "tolerance": self.tolerance,
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config):
        return cls(**config)


def _iteration_in(snapshot):
    places = snapshot["learning_rate"].items()
    return [int(value) for name, value in places if name.endswith("iteration")][-1]
