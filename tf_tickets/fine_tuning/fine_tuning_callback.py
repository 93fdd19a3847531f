"""Gradual pruning that ends with the best epoch after the last pruning."""

import time
from collections.abc import Callable, Mapping

import keras

from tf_tickets import arguments, schema
from tf_tickets.callbacks.base import Progress
from tf_tickets.callbacks.gradual_pruning import GradualPruning
from tf_tickets.pruning.allocation import Allocation
from tf_tickets.structures.structure import Structure
from tf_tickets.tickets.monitor import Monitor
from tf_tickets.training import checks, snapshots
from tf_tickets.training.fidelity import Fidelity

# The name under which the state of the best epoch is stored.
_BEST = "best"
# Decides between epochs that are equally good.
_TIE = Monitor("val_loss")


@keras.saving.register_keras_serializable("tf_tickets")
class PruningAndFineTuning(GradualPruning):
    """Prunes by a schedule, and goes back to the best epoch after its end.

    Epochs before the last pruning are denser than asked, so they do not count. Unlike
    `EarlyStopping` in `GradualPruning.once_pruned`, the best epoch is stored by
    `find_tickets`. So a training resumes after any epoch.

    Args:
        schedule: As in `GradualPruning`.
        allocation: As in `GradualPruning`.
        structure: As in `GradualPruning`.
        target: As in `GradualPruning`.
        monitor: The logged metric by which epochs are compared. Of equal ones the
            validation loss decides, then the earlier epoch.
        patience: Epochs without improvement after which the training stops.

    Example:

    >>> schedule = tt.schedules.ConstantSparsity(0.5, begin_step=1, frequency=1)
    >>> PruningAndFineTuning(schedule, monitor="val_loss", patience=3).patience
    3
    """

    method = "prune"
    _packed = {
        **GradualPruning._packed,
        "best": schema.items(schema.number),
        "best_epoch": schema.count,
        "best_logs": schema.mapping(schema.number),
        "waited": schema.count,
        "trained": schema.count,
        "first_epoch": schema.count,
        "seconds": schema.finite,
    }

    def __init__(
        self,
        schedule: Callable[..., tuple],
        allocation: str | Allocation = "global",
        structure: str | Structure | None = None,
        target: dict[str, float] | None = None,
        monitor: str = "val_loss",
        patience: int = 5,
    ) -> None:
        super().__init__(
            schedule, allocation=allocation, structure=structure, target=target
        )
        arguments.check_counts(patience=patience)
        self.monitor = monitor
        self.patience = patience
        self._monitor = Monitor(monitor)
        # The first epoch that counts: the one after the last pruning.
        self.first_epoch = 0
        # Whether epochs were trained now, not only loaded.
        self.has_begun = False
        self._forget()

    def _forget(self):
        # The merits of the best epoch; empty until there is one.
        self._best: tuple[float, ...] = ()
        self._best_state: snapshots.State | None = None
        self.best_epoch = 0
        self.best_logs: Mapping[str, float] = {}
        self._waited = 0
        self.trained = 0
        self._seconds = 0.0
        self._since = time.monotonic()

    @property
    def seconds(self) -> float:
        """How long the training has taken, interruptions left out."""
        return self._seconds + time.monotonic() - self._since

    # The events of `fit`.

    def on_train_begin(self, logs=None):
        checks.check_length_known(self.params)
        super().on_train_begin(logs)
        if self._first_epoch >= self.params["epochs"]:
            raise ValueError(
                "No epoch is left after the last pruning, which comes within epoch "
                f"{self._first_epoch} of {self.params['epochs']}. Train longer, or let "
                "the schedule end earlier."
            )
        self._forget()
        self.first_epoch = self._first_epoch
        self.has_begun = True

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        self.trained = epoch + 1
        if epoch >= self.first_epoch and self._watch(epoch, logs):
            self.model.stop_training = True

    def _watch(self, epoch, logs):
        """Compares an epoch with the best one; returns whether to stop."""
        merits = [self._monitor.merit(logs)]
        merits += [_TIE.merit(logs)] if _TIE.metric in logs else []
        # Not a number is worse than everything.
        found = tuple(-float("inf") if m != m else float(m) for m in merits)
        if not self._best or found > self._best:
            self._best, self.best_epoch, self._waited = found, epoch, 0
            self.best_logs = {name: float(value) for name, value in logs.items()}
            self._best_state = snapshots.record(self.model)
            return False
        self._waited += 1
        return self._waited >= self.patience

    # What `find_tickets` stores and asks for.

    @property
    def most_states(self) -> int:
        return 1

    def end_training(self, logs: dict[str, float]) -> Mapping[str, float]:
        state = self._best_state
        if state is None:
            raise RuntimeError(
                "The training ended before an epoch of the final sparsity was "
                f"complete: in epoch {self.trained}, and the last pruning comes within "
                f"epoch {self.first_epoch}. A callback stopped it too early."
            )
        snapshots.restore(self.model, state, Fidelity.get("exact"), state)
        snapshots.zero_slots(self.model)
        self._best_state = None
        self._seconds, self._since = self.seconds, time.monotonic()
        return self.best_logs

    def pack(self) -> Progress:
        content, states = super().pack()
        content |= {
            "best": list(self._best),
            "best_epoch": self.best_epoch,
            "best_logs": dict(self.best_logs),
            "waited": self._waited,
            "trained": self.trained,
            "first_epoch": self.first_epoch,
            "seconds": self.seconds,
        }
        if self._best_state is not None:
            states = {**states, _BEST: self._best_state}
        return Progress(content, states)

    def unpack(self, progress: Progress, fresh: snapshots.State) -> None:
        super().unpack(progress, fresh)
        content = progress.content
        self._best = tuple(content["best"])
        self._best_state = progress.states.get(_BEST)
        self.best_epoch = content["best_epoch"]
        self.best_logs = content["best_logs"]
        self._waited = content["waited"]
        self.trained = content["trained"]
        self.first_epoch = content["first_epoch"]
        self._seconds, self._since = content["seconds"], time.monotonic()
