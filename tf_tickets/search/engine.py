"""The round engine: one `fit` in which a network is trained round by round."""

import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from tf_tickets import distribution, wrapping
from tf_tickets.environment import versions
from tf_tickets.pruning import targets
from tf_tickets.search.plan import RoundPlan
from tf_tickets.search.state import SearchState
from tf_tickets.structures import registry as structures
from tf_tickets.tickets.ticket import Ticket
from tf_tickets.training import checks, snapshots
from tf_tickets.training.rewind import Rewind
from tf_tickets.training.round_callbacks import RoundCallbacks
from tf_tickets.wrapping import Kernels


class RoundEngine:
    """Runs the rounds of a plan inside one `fit`, with one compiled step.

    Variables are read and assigned at the edges of epochs only. The engine takes the
    snapshot to rewind to, counts epochs and rounds, notifies callbacks of rounds, and
    makes tickets with their provenance.

    Args:
        callback: The Keras callback that passes the events of `fit` on; it has the
            model.
        plan: What happens in the rounds.
        rewind: Where tickets start from.
        seed: Seed of everything that the search draws.
        origin: Returns the method and the settings, for the provenance of tickets.
    """

    def __init__(
        self,
        callback: keras.callbacks.Callback,
        plan: RoundPlan,
        rewind: Rewind,
        seed: int,
        origin: Callable[[], dict],
    ) -> None:
        rewind.check_within(plan.epochs_of(plan.first_round))
        self.plan = plan
        self.rewind = rewind
        self.seed = seed
        self.callbacks = RoundCallbacks()
        # What a runner adds to the provenance: data set, batch size, build seed, model.
        self.context: dict[str, Any] = {}
        self.state = SearchState(plan.first_round)
        self._callback = callback
        self.origin = origin
        self._kernels: Kernels | None = None
        self._steps_before = 0
        self._resumed = False
        self._masks: dict[str, np.ndarray] = {}

    @property
    def model(self) -> keras.Model:
        """The model in training."""
        # By the callback: on JAX this brings the variables up to date.
        return self._callback.model

    @property
    def params(self) -> dict[str, Any]:
        """The parameters of `fit`: "epochs" and, where known, "steps"."""
        return self._callback.params

    @property
    def kernels(self) -> Kernels:
        """The prunable kernels of the model, with their masks."""
        model = self.model
        if self._kernels is None or self._kernels.model is not model:
            self._kernels = wrapping.kernels(model)
        return self._kernels

    def rng(self, *key: int) -> np.random.Generator:
        """Returns a random generator for this round, or for another key."""
        return np.random.default_rng([self.seed, *(key or (self.state.round,))])

    def reset(self) -> None:
        """Resets the engine for a new search."""
        self.state = SearchState(self.plan.first_round)
        self._kernels = None
        self._resumed = False

    def resume(self, state: SearchState) -> None:
        """Continues from a recorded state."""
        self.state = state
        self._resumed = True
        if self.rewind.to_init:
            state.reached = state.fresh
        self.plan.resume(self)

    def data_key(self, seed: int) -> tuple[int, int, int]:
        """Returns the key of the data order: seed, round and epoch."""
        return seed, *self.plan.data_order(self)

    def epochs_before(self, round_: int) -> int:
        """Returns the number of epochs before the ticket of a round is known."""
        return self.plan.epochs_before(round_, self)

    def add_ticket(
        self,
        masks: dict[str, np.ndarray],
        start: snapshots.State | None = None,
        step: int | None = None,
    ) -> Ticket:
        """Makes the ticket of the present round and keeps it.

        Args:
            masks: Its masks.
            start: The state it starts from; by default the snapshot.
            step: Where on the learning-rate schedule its training begins; by default
                the snapshot's step.
        """
        start = self.state.snapshot if start is None else start
        if step is None:
            step = snapshots.iteration_in(self.state.snapshot)
        ticket = Ticket(
            masks,
            snapshots.start_weights(self.model, start),
            provenance={**self.provenance(), **self.cost(masks), "step": step},
            scales=self.kernels.scales,
        )
        self.state.tickets.append(ticket)
        return ticket

    def provenance(self) -> dict[str, Any]:
        """Returns the provenance of a ticket of the present round."""
        tickets = self.state.tickets
        return {
            **self.origin(),
            "round": self.state.round,
            "seed": self.seed,
            "order": self.data_key(0)[1:],
            "parent": tickets[-1].id if tickets else None,
            "versions": versions(),
            **structures.stored(self.kernels.layout, self.kernels.structure),
            **self.plan.provenance(self),
            **self.context,
        }

    def cost(self, masks: dict[str, np.ndarray]) -> dict[str, Any]:
        """Returns what the provenance of a ticket of channels says about its cost."""
        left = targets.remaining(self.kernels, masks)
        return {"remaining": left} if left else {}

    def note_metrics(self, logs: dict[str, float]) -> None:
        """Keeps the logs of a round's last epoch as the metrics of its network."""
        numbers = {name: float(v) for name, v in logs.items() if name != "round"}
        self.state.metrics.update(numbers)

    # The events of `fit`.

    def train_begin(self) -> None:
        self._kernels = None
        self._masks = {}
        distribution.check_outside_scope()
        distribution.check_one_process(self.model)
        checks.check_one_optimizer(self.model)
        self.plan.check(self)
        self._check_length()
        snapshots.built_optimizer(self.model)
        epochs = self.plan.epochs_per_round
        self.callbacks.attach(self.model, {**self.params, "epochs": epochs})

    def epoch_begin(self, epoch: int) -> None:
        resumed, self._resumed = self._resumed, False
        if epoch == 0 and not resumed:
            self._begin()
        elif epoch != self.state.next_epoch:
            raise ValueError(
                f"The search continues at epoch {self.state.next_epoch}, but `fit` "
                f"began at epoch {epoch}. Call fit from epoch 0, or use find_tickets "
                "to resume."
            )
        self._check_masks()
        if self.state.turn_due:
            self.state.turn_due = False
            self.state.round += 1
            self.state.epoch_in_round = 0
            self.plan.turn(self)
        self.plan.before_epoch(self)
        seen = self.state.epoch_in_round - self._hidden_epochs
        if seen == 0:
            self.callbacks.begin()
        if seen >= 0:
            self.callbacks.tell("on_epoch_begin", seen)
        self._steps_before = self.state.step
        self._masks = self.plan.settled_masks(self)

    def batch_begin(self, batch: int) -> None:
        self.state.step = self._steps_before + batch
        waiting = self.state.reached is None and self.rewind.unit == "steps"
        if waiting and self.state.step >= self.rewind.count:
            if self.state.step > self.rewind.count:
                self._refuse_moment(self.state.step)
            self._take_snapshot()

    def epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        self._check_masks()
        distribution.unify_trained(self._callback)
        state = self.state
        state.next_epoch = epoch + 1
        state.epoch_in_round += 1
        self._count_steps()
        if state.reached is None and self._at_moment():
            self._take_snapshot()
        logs.update({**self.plan.measures(self), "round": state.round})
        seen = state.epoch_in_round - self._hidden_epochs
        stopped = seen > 0 and self.callbacks.stopped(self.model, seen - 1, logs)
        stopped = self.plan.stops_round(self, logs) or stopped
        if stopped or state.epoch_in_round >= self.plan.epochs_of(state.round):
            self._finish_round(logs)
        self._masks = self.plan.settled_masks(self)

    def train_end(self) -> None:
        self._check_masks()
        self.plan.end(self)
        if not self.state.complete:
            warnings.warn(
                f"`fit` ended in round {self.state.round} of {self.plan.rounds}: the "
                "search is not complete, its last ticket may be untrained.",
                stacklevel=2,
            )

    # The parts of a round.

    def _begin(self):
        self.reset()
        self.plan.setup(self)
        self.state.fresh = snapshots.record(self.model)
        if self.rewind.to_init:
            self.state.reached = self.state.fresh
        self.plan.begin(self)

    def _finish_round(self, logs):
        state = self.state
        if state.epoch_in_round > self._hidden_epochs:
            logs = self.callbacks.end(self.model, logs)
        if state.reached is None:
            self._refuse_moment(state.step)
        state.complete = self.plan.end_round(self, logs)
        if state.complete and not state.tickets:
            raise ValueError(
                f"The search ended without a ticket: {type(self.plan).__name__} never "
                "made one. Call run.add_ticket(masks) in its `turn` or `end_round`."
            )
        state.turn_due = not state.complete
        if state.complete:
            self.model.stop_training = True

    @property
    def _hidden_epochs(self):
        return self.plan.hidden_epochs(self.state.round)

    def _take_snapshot(self):
        distribution.unify_trained(self._callback)
        self.state.reached = snapshots.record(self.model)

    def _at_moment(self):
        reached = {"steps": self.state.step, "epochs": self.state.epoch_in_round}
        return reached[self.rewind.unit] == self.rewind.count

    def _count_steps(self):
        """Counts the steps of the first round, by the optimizer's own counter."""
        if self.state.round == self.plan.first_round:
            begun = snapshots.iteration_in(self.state.fresh)
            self.state.step = snapshots.iteration(self.model) - begun

    # Checks.

    def _check_masks(self):
        """Refuses masks that a callback next to the search has changed."""
        present = self.plan.settled_masks(self) if self._masks else {}
        changed = [p for p in present if (present[p] != self._masks[p]).any()]
        if changed:
            raise ValueError(
                f"The masks of {changed} were changed in round {self.state.round}, not "
                "by the search. A callback that restores the weights of an earlier "
                "epoch restores its masks too. Pass it to search.in_round(...). The "
                "tickets so far are in search.tickets."
            )

    def _check_length(self):
        if self.params["epochs"] < self.plan.epochs and not self.plan.may_end_early:
            raise ValueError(
                f"This search needs {self.plan.epochs} epochs, `fit` was called with "
                f"epochs={self.params['epochs']}. Call fit(..., epochs=search.epochs)."
            )
        steps = self.params.get("steps")
        if self.rewind.unit == "steps" and steps:
            last = steps * self.plan.epochs_of(self.plan.first_round)
            if self.rewind.count > last:
                self._refuse_moment(last)

    def _refuse_moment(self, steps):
        raise ValueError(
            f"rewind_to={self.rewind.moment!r} is not reached: the first round comes "
            f"to step {steps} without it. Choose an earlier moment, or one that is a "
            "multiple of steps_per_execution."
        )
