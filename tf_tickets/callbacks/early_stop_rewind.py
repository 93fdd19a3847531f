"""Early stopping that rewinds the whole state of a training."""

import math
import os
import pathlib
import warnings
from collections.abc import Mapping

import keras

from tf_tickets import arguments, files, schema
from tf_tickets.callbacks.base import Progress, ResumableCallback
from tf_tickets.tickets.monitor import Monitor
from tf_tickets.training import checks, snapshots
from tf_tickets.training.fidelity import PARTS, Fidelity


@keras.saving.register_keras_serializable("tf_tickets")
class EarlyStopRewind(ResumableCallback):
    """Stops a training that no longer improves, and rewinds the whole state.

    A callback for any `fit`. `keras.callbacks.EarlyStopping` restores only weights;
    this one also restores the optimizer, its position on the schedule, moving averages
    and random generators. It goes back to the best epoch, or back by a number of
    epochs. It warns if it never stopped; the state is then that of the last epoch.

    Args:
        patience: Epochs without improvement after which to stop; None never stops.
        min_delta: The smallest change that counts as an improvement.
        rewind: "best" for the best epoch, or the number of epochs to go back from the
            stop, at most to the first epoch.
        monitor: The name of the logged metric to watch.
        fidelity: What is rewound, as in `tf_tickets.Rewind`.
        directory: Folder for the snapshots that are still needed; None keeps them in
            memory.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> model.compile("adam", "mse")
    >>> stop = EarlyStopRewind(patience=2, monitor="loss")
    >>> x, y = np.ones((8, 4)), np.zeros((8, 2))
    >>> stop.begin(model)
    >>> [stop.watch(i, {"loss": loss}) for i, loss in enumerate([3.0, 1.0, 2.0, 2.0])]
    [False, False, False, True]
    >>> stop.go_back(), stop.stopped_epoch, stop.rewound_epoch
    ({'loss': 1.0}, 3, 1)
    """

    method = "early_stop"
    _packed = {
        "stopped_epoch": schema.optional(schema.count),
        "rewound_epoch": schema.optional(schema.count),
        "rewound_logs": schema.mapping(schema.number),
        "best_merit": schema.number,
        "best_epoch": schema.count,
        "wait": schema.count,
        "shelf": schema.mapping(schema.mapping(schema.number)),
    }

    def __init__(
        self,
        patience: int | None = 5,
        min_delta: float = 0.0,
        rewind: str | int = "best",
        monitor: str = "val_loss",
        fidelity: str | dict | Fidelity = "exact",
        directory: os.PathLike | str | None = None,
    ) -> None:
        super().__init__()
        if patience is not None:
            arguments.check_counts(patience=patience)
        arguments.check_numbers(min_delta=min_delta)
        arguments.check_between(0.0, float("inf"), min_delta=min_delta)
        arguments.check_type(str, monitor=monitor)
        if not isinstance(rewind, str):
            arguments.check_counts(rewind=rewind)
        else:
            arguments.check_choice(("best",), rewind=rewind)
        # How many epochs to go back, or 0 for the best.
        self._back = 0 if isinstance(rewind, str) else int(rewind)
        self.patience = patience
        self.min_delta = min_delta
        self.rewind = rewind
        self.monitor = monitor
        self.fidelity = Fidelity.get(fidelity)
        if directory is not None:
            directory = str(arguments.check_path(directory=directory))
        self.directory = directory
        self._shelf = _Shelf(directory)
        self._forget()

    @property
    def restore_best_weights(self) -> bool:
        """Whether it may go back to an earlier epoch, as Keras's callbacks name it."""
        return self.patience is not None

    def _forget(self):
        self.stopped_epoch: int | None = None
        self.rewound_epoch: int | None = None
        self.rewound_logs: Mapping[str, float] = {}
        # Not a number until an epoch has a merit that others can be compared with.
        self._best_merit = math.nan
        self._best_epoch = 0
        self._wait = 0

    def begin(self, model: keras.Model) -> None:
        """Resets the callback at the beginning of a training."""
        arguments.check_type(keras.Model, model=model)
        self.set_model(model)
        self._forget()
        self._shelf.keep([])
        self._fresh = snapshots.record(model)

    def watch(self, epoch: int, logs: dict[str, float]) -> bool:
        """Records a finished epoch; returns whether to stop the training."""
        arguments.check_not_negative(epoch=epoch)
        merit = Monitor(self.monitor).merit(logs)
        known = not math.isnan(self._best_merit)
        improves = not known or merit > self._best_merit + self.min_delta
        if improves:
            self._best_merit, self._best_epoch = merit, epoch
        self._wait = 0 if improves else self._wait + 1
        if self.patience is None:
            return False
        if improves or self.rewind != "best":
            self._shelf.put(epoch, snapshots.record(self.model), logs)
            self._shelf.keep(self._wanted(epoch))
        if self._wait < self.patience:
            return False
        self.stopped_epoch = epoch
        return True

    def _wanted(self, epoch):
        """Returns the epochs that may still be restored."""
        if self.rewind == "best":
            return [self._best_epoch]
        return range(max(0, epoch - self._back), epoch + 1)

    def go_back(self) -> dict[str, float]:
        """Rewinds the model and returns the logs of the epoch that it goes back to."""
        epoch = self._goal()
        state, logs = self._shelf.get(epoch)
        snapshots.restore(self.model, state, self.fidelity, self._fresh)
        snapshots.zero_slots(self.model)
        self.rewound_epoch = epoch
        self.rewound_logs = logs
        self._shelf.keep([])
        return logs

    def _goal(self):
        """Returns the epoch to go back to."""
        if not self._shelf.rows:
            raise RuntimeError(
                "No epoch has been recorded, so there is none to go back to. Received: "
                f"patience={self.patience!r}. Set a number of epochs, and call `begin` "
                "before the training and `watch` after each epoch."
            )
        if self.rewind == "best":
            return self._best_epoch
        if self.stopped_epoch is None:
            raise RuntimeError(
                f"rewind={self.rewind} counts back from the epoch at which the "
                "training stops, but it has not stopped. Call `go_back` once `watch` "
                "has returned True, or use rewind='best'."
            )
        return max(min(self._shelf.rows), self.stopped_epoch - self._back)

    def end(self) -> None:
        """Warns that the training has ended without a stop."""
        self._shelf.keep([])
        if self.patience is not None:
            warnings.warn(
                f"{self.monitor!r} never went {self.patience} epochs without "
                "improvement, so nothing was stopped or rewound: the state is that of "
                "the last epoch. Train longer, or lower `patience`.",
                stacklevel=2,
            )

    # What `find_tickets` stores.

    @property
    def most_states(self) -> int:
        """The largest number of snapshots that are still needed."""
        return 0 if self.patience is None else 1 + self._back

    def pack(self) -> Progress:
        rows = {str(epoch): self._shelf.get(epoch) for epoch in self._shelf.rows}
        content = {
            "stopped_epoch": self.stopped_epoch,
            "rewound_epoch": self.rewound_epoch,
            "rewound_logs": self.rewound_logs,
            "best_merit": self._best_merit,
            "best_epoch": self._best_epoch,
            "wait": self._wait,
            "shelf": {name: logs for name, (_, logs) in rows.items()},
        }
        return Progress(content, {name: state for name, (state, _) in rows.items()})

    def unpack(self, progress: Progress, fresh: snapshots.State) -> None:
        super().unpack(progress, fresh)
        content, states = progress
        self._check_shelf(content, states)
        self.stopped_epoch = content["stopped_epoch"]
        self.rewound_epoch = content["rewound_epoch"]
        self.rewound_logs = content["rewound_logs"]
        self._best_merit = content["best_merit"]
        self._best_epoch = content["best_epoch"]
        self._wait = content["wait"]
        self._fresh = fresh
        self._shelf.keep([])
        for name, logs in content["shelf"].items():
            self._shelf.put(int(name), states[name], logs)

    def _check_shelf(self, content, states):
        """Refuses snapshots other than those that may still be restored."""
        shelf = content["shelf"]
        epochs = {name for name in shelf if name.isdecimal()}
        missing = {str(content["best_epoch"])} - epochs if self.rewind == "best" else ()
        if not set(shelf) == set(states) == epochs or (shelf and missing):
            raise ValueError(
                f"The snapshots of epochs {sorted(states)} are not those that may be "
                f"restored. Received: epochs {sorted(shelf)}, best epoch "
                f"{content['best_epoch']}."
            )

    # The events of `fit`.

    def on_train_begin(self, logs=None):
        checks.check_unlearned(self.model)
        snapshots.built_optimizer(self.model)
        self.begin(self.model)

    def on_epoch_end(self, epoch, logs=None):
        if self.watch(epoch, dict(logs or {})):
            self.go_back()
            self.model.stop_training = True

    def on_train_end(self, logs=None):
        if self.stopped_epoch is None:
            self.end()

    def __repr__(self):
        return (
            f"EarlyStopRewind(patience={self.patience}, min_delta={self.min_delta}, "
            f"rewind={self.rewind!r})"
        )


class _Shelf:
    """Snapshots by epoch, in memory or as files.

    A row holds a snapshot, or the path of its file, and the logs of the epoch.
    """

    def __init__(self, directory):
        self.directory = None if directory is None else pathlib.Path(directory)
        self.rows: dict[int, tuple[snapshots.State | pathlib.Path, dict]] = {}

    def put(self, epoch, state, logs):
        logs = {name: float(value) for name, value in logs.items()}
        if self.directory is not None:
            state = _written(state, self.directory / f"epoch_{epoch:05}.snapshot")
        self.rows[epoch] = state, logs

    def get(self, epoch):
        stored, logs = self.rows[epoch]
        return _read(stored) if isinstance(stored, pathlib.Path) else stored, logs

    def keep(self, epochs):
        """Drops all other snapshots."""
        for epoch in set(self.rows) - set(epochs):
            stored, _ = self.rows.pop(epoch)
            if isinstance(stored, pathlib.Path):
                stored.unlink(missing_ok=True)


def _written(state, path):
    """Writes a snapshot to a file and returns the path."""
    arrays = {
        f"{part}|{name}": array
        for part, values in state.items()
        for name, array in values.items()
    }
    files.write(path, "snapshot", {}, arrays)
    return path


def _read(path):
    """Returns the snapshot that a file holds."""
    state: snapshots.State = {part: {} for part in PARTS}
    for key, array in files.read(path, "snapshot", None)[1].items():
        part, name = key.split("|", 1)
        state[part][name] = array
    return state
