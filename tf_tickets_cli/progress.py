"""Progress of searches and trainings: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from typing import Self

import keras
from rich import console, progress

import tf_tickets as tt

# Seconds between two lines about one training if there is no terminal.
_PAUSE = 10.0


class Progress:
    """Shows the progress of a training, and one line per finished training.

    Example:

    >>> with Progress() as shown:
    ...     shown.say("ready")
    ...     shown.start("round 1", epochs=2)
    ...     shown.update(1)
    ...     shown.update(2, "val_accuracy 0.9000")
    ready
    round 1  epoch 2/2  val_accuracy 0.9000  0:00
    """

    def __init__(self) -> None:
        self.bar: progress.Progress | None = None
        self.title = ""
        self.done = self.epochs = 0
        self.result = ""
        self.began = self.written = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error):
        self.end()

    def say(self, line: str) -> None:
        """Shows a line.

        Args:
            line: The text.
        """
        print(line, flush=True)

    def start(self, title: str, epochs: int) -> None:
        """Starts a training.

        Args:
            title: What is trained.
            epochs: How many epochs it takes at most.
        """
        self.end()
        self.title, self.epochs = title, epochs
        self.began = self.written = time.monotonic()
        if sys.stdout.isatty():
            self.bar = _bar()
            self.bar.add_task(title, total=epochs, result="")
            self.bar.start()

    def update(self, done: int, result: str = "") -> None:
        """Shows the number of completed epochs.

        Args:
            done: Number of completed epochs.
            result: The metrics, as text.
        """
        self.done, self.result = done, result
        if self.bar:
            self.bar.update(self.bar.task_ids[0], completed=done, result=result)
        elif time.monotonic() - self.written > _PAUSE and done < self.epochs:
            self._write()
        if done >= self.epochs:
            self.end()

    def end(self) -> None:
        """Replaces the bar by a line, if a training has begun."""
        if self.bar:
            self.bar.stop()
        if self.done:
            self._write()
        self.bar = None
        self.done = 0

    def of_rounds(self, search: tt.TicketSearch) -> list[keras.callbacks.Callback]:
        """Returns callbacks that show each round of a search.

        Args:
            search: The search.
        """
        return [_Rounds(self, search)]

    def of_training(self, title: str) -> list[keras.callbacks.Callback]:
        """Returns callbacks that show a whole `fit`.

        Args:
            title: What is trained.
        """
        return [_Training(self, title)]

    def _write(self):
        self.written = time.monotonic()
        minutes, seconds = divmod(int(self.written - self.began), 60)
        parts = (self.title, f"epoch {self.done}/{self.epochs}", self.result)
        line = "  ".join(part for part in parts if part)
        self.say(f"{line}  {minutes}:{seconds:02}")


def _bar():
    return progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("epochs"),
        progress.TimeElapsedColumn(),
        progress.TextColumn("{task.fields[result]}", markup=False),
        console=console.Console(highlight=False),
        transient=True,
    )


class _Rounds(keras.callbacks.Callback):
    """Counts a round's epochs itself, so the order of callbacks does not matter."""

    changes_results = False

    def __init__(self, shown, search):
        super().__init__()
        self.shown = shown
        self.search = search
        self.round = None
        self.done = 0

    def on_train_batch_begin(self, batch, logs=None):
        if batch == 0 and self.search.round != self.round:
            self.round = self.search.round
            self.done = 0
            plan = self.search.engine.plan
            name = f"round {self.round}/{plan.rounds}" if self.round else "dense"
            title = f"{name:11}  sparsity {self.search.sparsity:6.1%}"
            self.shown.start(title, plan.epochs_of(self.round))

    def on_epoch_end(self, epoch, logs=None):
        self.done += 1
        self.shown.update(self.done, _result(logs, "val_accuracy"))


class _Training(keras.callbacks.Callback):
    changes_results = False

    def __init__(self, shown, title):
        super().__init__()
        self.shown = shown
        self.title = title

    def on_train_begin(self, logs=None):
        self.shown.start(self.title, self.params["epochs"])

    def on_epoch_end(self, epoch, logs=None):
        result = _result(logs, "round", "sparsity", "val_accuracy")
        self.shown.update(epoch + 1, result)

    def on_train_end(self, logs=None):
        self.shown.end()


_FORMATS = {"round": ".0f", "sparsity": ".1%", "val_accuracy": ".4f"}


def _result(logs, *names):
    known = [name for name in names if name in (logs or {})]
    return "  ".join(f"{name} {logs[name]:{_FORMATS[name]}}" for name in known)
