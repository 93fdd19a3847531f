"""The round engine: one `fit` in which a network is trained round by round.

What happens between two rounds is the search's: `pruning` prunes and rewinds,
`learning` resets the scores of learned masks.
"""

import copy
import warnings
from collections.abc import Iterable
from typing import Any, Self

import keras
import numpy as np

import tf_tickets.environment as version
from tf_tickets import wrapping
from tf_tickets.masks.base import Mask
from tf_tickets.tickets import judging
from tf_tickets.tickets.ticket import Ticket
from tf_tickets.training import checks, snapshots


class RoundSearch(keras.callbacks.Callback):
    """Owns the rounds of one `fit`; what a round does is the subclass's.

    A subclass gives `turn()`, which leads from one round to the next, and `masks`,
    the hard masks of the present. All variables are touched at the edges of epochs
    only, which is where both backends allow it; the compiled step is the same in
    every round.

    Args:
        rounds: How many tickets to find, one a round.
        epochs_per_round: Epochs that each training takes.
        rewind_to: "init", "N steps" or "N epochs": the moment of the first round
            from which the tickets start.
        monitor: The logged metric by which tickets are judged.
        tolerance: How far below the dense network a ticket may be.
        seed: Seed of what the search draws at random.
    """

    method = "rounds"
    first_round = 0
    # What of it is kept between rounds, beside variables and tickets.
    kept: tuple[str, ...] = ("dense", "round", "complete", "_next_epoch", "_step")
    mask: str | Mask = "fixed"
    score_optimizer: keras.optimizers.Optimizer | None = None

    def __init__(
        self,
        rounds: int,
        epochs_per_round: int,
        rewind_to: str = "init",
        monitor: str = "val_accuracy",
        tolerance: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        checks.check_counts(rounds=rounds, epochs_per_round=epochs_per_round)
        self.rounds = rounds
        self.epochs_per_round = epochs_per_round
        self.rewind_to = rewind_to
        first = self.epochs_of_first_round
        self.rewind_point = checks.parse_moment(rewind_to, first)
        self.monitor = monitor
        self.tolerance = float(tolerance)
        self._judge = judging.Judge(monitor, tolerance)
        self.seed = seed
        self.round_callbacks: list[keras.callbacks.Callback] = []
        self.context: dict = {}
        self.clear()

    def clear(self) -> None:
        """Forgets all rounds, as `fit` from epoch 0 does."""
        self.tickets: list[Ticket] = []
        self.dense: dict[str, float] = {}
        self.round = self.first_round
        self.epoch_in_round = 0
        self.complete = False
        self.snapshot: snapshots.State | None = None
        self.fresh: snapshots.State | None = None
        self._turn_due = False
        self._next_epoch = 0
        self._step = 0

    def in_round(self, *callbacks: keras.callbacks.Callback) -> Self:
        """Adds callbacks that see each round as a training of its own.

        Their epochs count from the round's beginning, and where they stop the
        training (`keras.callbacks.EarlyStopping`) the round ends early.

        Returns:
            The search itself.
        """
        self.round_callbacks += callbacks
        return self

    def wrap(
        self,
        model: keras.Model,
        filters: wrapping.Filters = None,
        embeddings: bool = False,
        verbose: bool = True,
    ) -> keras.Model:
        """The model wrapped as this search needs it.

        Args:
            model: A plain model. If it is compiled, so is the wrapped one, learned
                masks with an optimizer for their scores beside that of the weights.
            filters: As in `tf_tickets.wrap`.
            embeddings: As in `tf_tickets.wrap`.
            verbose: As in `tf_tickets.wrap`.
        """
        scores = self.score_optimizer if model.compiled else None
        wrapped = wrapping.wrap(model, filters, embeddings, self.mask, verbose, scores)
        return self.prepare(wrapped)

    def prepare(self, wrapped: keras.Model) -> keras.Model:
        """What a search makes of a model that it has wrapped."""
        return wrapped

    @property
    def epochs(self) -> int:
        """How many epochs `fit` needs for the whole search."""
        return self.rounds * self.epochs_per_round

    @property
    def epochs_of_first_round(self) -> int:
        """Epochs of the round in which the moment to rewind to lies."""
        return self.epochs_per_round

    def epochs_before(self, round_: int) -> int:
        """How many epochs are trained before the ticket of a round is known."""
        return round_ * self.epochs_per_round

    @property
    def epochs_of_trained_ticket(self) -> int | None:
        """Epochs that the search trains its tickets; None where it does not."""
        return None

    def varied(self, **values: Iterable) -> dict[str, Self]:
        """Searches like this one, in which one argument takes several values.

        Args:
            **values: The name of the argument with its values, such as
                `initial_score=[-0.1, 0.0]`.

        Returns:
            Dict from a label to the search, for `find_frontier`.
        """
        if len(values) != 1 or not set(values) <= set(self.same()):
            raise ValueError(
                "Give one of the search's arguments with several values. Received: "
                f"{sorted(values)}. The arguments: {sorted(self.same())}."
            )
        if self.round_callbacks:
            raise ValueError(
                "Callbacks of a round belong to one search. Call in_round on each of "
                "the varied searches."
            )
        [(name, choices)] = values.items()
        return {
            f"{name}={value}": type(self).from_config({**self.same(), name: value})
            for value in choices
        }

    def same(self) -> dict[str, Any]:
        """The arguments that make another search like this one, in this process."""
        return self.get_config()

    @property
    def masks(self) -> dict[str, np.ndarray]:
        """The hard masks of the network that is being trained, by kernel path."""
        raise NotImplementedError

    @property
    def sparsity(self) -> float:
        """Sparsity of the network that is being trained."""
        masks = self.masks.values()
        size = sum(mask.size for mask in masks)
        return sum(mask.size - int(mask.sum()) for mask in masks) / max(size, 1)

    @property
    def best(self) -> Ticket:
        """The sparsest ticket whose metric is within tolerance of the dense one.

        Where none is, the ticket of the best metric. A search that trains no dense
        network compares with the best of its tickets.
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
        """What the order of the data depends on: another one in each epoch."""
        return seed, self.round, self.epoch_in_round

    def state(self, model: keras.Model) -> tuple[dict, dict[str, np.ndarray]]:
        """What to keep of a search between two rounds: (content, arrays)."""
        arrays = {
            f"{kind}|{part}|{name}": array
            for kind, table in self.tables(model).items()
            for part, values in table.items()
            for name, array in values.items()
        }
        content = {name: getattr(self, name) for name in self.kept}
        content["metrics"] = [ticket.metrics for ticket in self.tickets]
        return content, arrays

    def tables(self, model: keras.Model) -> dict[str, snapshots.State]:
        """The recorded states that belong to the search's state, by name."""
        own = self.snapshot is not None and self.snapshot is not self.fresh
        states = _mask_states(model).items()
        return {
            "now": snapshots.record(model),
            "fresh": self.fresh,
            "snapshot": self.snapshot if own else {},
            "masks": {
                path: {name: snapshots.to_numpy(v) for name, v in state.items()}
                for path, state in states
            },
        }

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
            tables.setdefault(kind, {}).setdefault(part, {})[name] = array
        self.load_tables(tables, model)

    def load_tables(
        self, tables: dict[str, snapshots.State], model: keras.Model
    ) -> None:
        """Goes back to what `tables` gave."""
        for part, variables in snapshots.variables_by_part(model).items():
            snapshots.assign(variables, tables["now"].get(part, {}))
        self.fresh = snapshots.adopt(model, tables["fresh"])
        self.snapshot = self.fresh if self.rewind_point == ("steps", 0) else None
        if tables["snapshot"]:
            self.snapshot = snapshots.adopt(model, tables["snapshot"])
        # In order, for the running numbers in paths may be others now.
        kept = list(tables["masks"].values())
        for variables, values in zip(_mask_states(model).values(), kept, strict=True):
            snapshots.assign(variables, values)

    # What Keras calls.

    def on_train_begin(self, logs=None):
        self.check_model()
        self._check_length()
        snapshots.built_optimizer(self.model)
        for callback in self.round_callbacks:
            callback.set_params({**self.params, "epochs": self.epochs_per_round})
            callback.set_model(self.model)

    def check_model(self) -> None:
        """Refuses a model that this search cannot work on."""
        checks.check_wrapped(self.model)

    def _check_length(self):
        if self.params["epochs"] < self.epochs and not self.may_stop:
            raise ValueError(
                f"This search needs {self.epochs} epochs, `fit` was called with "
                f"epochs={self.params['epochs']}. Call fit(..., epochs=search.epochs)."
            )
        unit, count = self.rewind_point
        steps = self.params.get("steps")
        if unit == "steps" and steps and count > steps * self.epochs_of_first_round:
            self._refuse_moment(steps * self.epochs_of_first_round)

    def _refuse_moment(self, steps):
        raise ValueError(
            f"rewind_to={self.rewind_to!r} is not reached: the first round comes to "
            f"step {steps} without it. Choose an earlier moment, or one that is a "
            "multiple of steps_per_execution."
        )

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 0:
            self.begin()
        elif epoch != self._next_epoch:
            raise ValueError(
                f"The search stands before epoch {self._next_epoch}, `fit` began at "
                f"epoch {epoch}. Use fit from epoch 0, or find_ticket to resume."
            )
        if self._turn_due:
            self._turn_due = False
            self.turn()
        self.prepare_epoch()
        seen = self.epoch_in_round - self.epochs_unseen
        if seen == 0:
            self._tell_round("on_train_begin")
        if seen >= 0:
            self._tell_round("on_epoch_begin", seen)
        self._steps_before = self._step

    def on_train_batch_begin(self, batch, logs=None):
        self._step = self._steps_before + batch
        unit, count = self.rewind_point
        if self.snapshot is None and unit == "steps" and self._step >= count:
            if self._step > count:
                self._refuse_moment(self._step)
            self.record()

    def on_epoch_end(self, epoch, logs=None):
        self._next_epoch = epoch + 1
        self.epoch_in_round += 1
        self._count_steps()
        if self.snapshot is None and self._at_snapshot():
            self.record()
        logs.update(self.measures())
        stopped = self.stopped_in_round(logs)
        if stopped or self.epoch_in_round >= self.epochs_of_round:
            self._finish_round(logs)

    def on_train_end(self, logs=None):
        if not self.complete:
            warnings.warn(
                f"`fit` ended in round {self.round} of {self.rounds}: the search is "
                "not complete, its last ticket may be untrained.",
                stacklevel=2,
            )

    # The parts of a round.

    @property
    def epochs_of_round(self) -> int:
        """Epochs that the present round trains."""
        return self.epochs_per_round

    @property
    def may_stop(self) -> bool:
        """Whether the search may end before its last round."""
        return False

    def begin(self) -> None:
        """The search begins: `fit` is at epoch 0."""
        self.clear()
        self.fresh = snapshots.record(self.model)
        if self.rewind_point == ("steps", 0):
            self.snapshot = self.fresh

    def prepare_epoch(self) -> None:
        """What is due before an epoch within a round."""

    @property
    def epochs_unseen(self) -> int:
        """Epochs at the beginning of a round that its callbacks are not told of."""
        return 0

    def turn(self) -> None:
        """Leads to the next round, before the first epoch of it."""
        self.round += 1
        self.epoch_in_round = 0

    def end_round(self, logs: dict) -> bool:
        """The round is trained; gives whether the search ends with it."""
        return self.round == self.rounds

    def measures(self) -> dict[str, float]:
        """What the search adds to the logs of an epoch."""
        return {"sparsity": self.sparsity, "round": self.round}

    def ticket(
        self, masks: dict[str, np.ndarray], start: snapshots.State, step: int
    ) -> Ticket:
        """A ticket of the present round.

        Args:
            masks: Its masks.
            start: The state whose weights and statistics it starts from.
            step: Where on the learning-rate schedule its training begins.
        """
        provenance = {**self.provenance(), "step": step}
        weights = snapshots.start_weights(self.model, start)
        scales = wrapping.scales(self.model)
        return Ticket(masks, weights, {}, provenance, scales)

    def provenance(self) -> dict:
        """Where a ticket of the present round comes from."""
        return {
            "method": self.method,
            "settings": self.settings(),
            "round": self.round,
            "seed": self.seed,
            "order": self.data_key(0)[1:],
            "parent": self.tickets[-1].id if self.tickets else None,
            "versions": version.versions(),
            **self.context,
        }

    def _finish_round(self, logs):
        if self.epoch_in_round > self.epochs_unseen:
            self._tell_round("on_train_end")
        if self.snapshot is None:
            self._refuse_moment(self._step)
        self.complete = self.end_round(logs)
        self._turn_due = not self.complete
        if self.complete:
            self.model.stop_training = True

    def note_metrics(self, logs: dict) -> None:
        """Keeps the logs of a round's last epoch as the metrics of its network."""
        self.metrics.update({k: float(v) for k, v in logs.items() if k != "round"})

    def record(self) -> None:
        """Takes the snapshot to rewind to."""
        self.snapshot = snapshots.record(self.model)

    def _at_snapshot(self):
        unit, count = self.rewind_point
        return count == (self._step if unit == "steps" else self.epoch_in_round)

    def _count_steps(self):
        """Steps since the search began: by the optimizer's own counter."""
        if self.round == self.first_round:
            self._step = snapshots.iteration(self.model) - snapshots.iteration_in(
                self.fresh
            )

    def stopped_in_round(self, logs: dict) -> bool:
        """Whether a callback of the round ends it; a stop of `fit` goes on."""
        seen = self.epoch_in_round - self.epochs_unseen
        if not self.round_callbacks or seen <= 0:
            return False
        before, self.model.stop_training = self.model.stop_training, False
        self._tell_round("on_epoch_end", seen - 1, logs=logs)
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
            "monitor": self.monitor,
            "tolerance": self.tolerance,
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config):
        # Keras writes into the configurations that it reads.
        return cls(**copy.deepcopy(config))


def _mask_states(model):
    """Dict from kernel path to dict from name to variable of its mask."""
    return {
        path: {f"{i}:{v.name}": v for i, v in enumerate(mask.variables)}
        for path, mask in wrapping.mask_layers(model).items()
    }
