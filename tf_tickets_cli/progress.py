"""Progress of searches and trainings: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Self

import keras
from rich import console, progress

import tf_tickets as tt
from tf_tickets.pruning import targets
from tf_tickets_cli.comparison import Comparison, clock

# Seconds between two lines about one training if there is no terminal.
_PAUSE = 10.0
# In a long comparison, the pause is this part of the time so far.
_PART = 0.01


class Progress:
    """Shows the progress of a training, and one line per finished training.

    Example:

    >>> with Progress() as shown:
    ...     shown.say("ready")
    ...     line = shown.start("round 1", epochs=2)
    ...     shown.update(1)
    ...     shown.update(2, "val_accuracy 0.9000")
    ready
    round 1  epoch 2/2  val_accuracy 0.9000  0:00
    """

    def __init__(self) -> None:
        self.bar: progress.Progress | None = None
        self.comparison: Comparison | None = None
        # The trainings that are shown; several only if they run together.
        self.lines: list[Line] = []
        self.written = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error):
        self.end()
        self.close()

    def say(self, line: str) -> None:
        """Shows a line.

        Args:
            line: The text.
        """
        print(line, flush=True)

    def start(self, title: str, epochs: int, seconds: float = 0.0) -> "Line":
        """Starts a training; returns what shows it.

        Args:
            title: What is trained.
            epochs: How many epochs it takes at most.
            seconds: How long it has been going on.
        """
        if not self.comparison:
            self.written = time.monotonic()
        if not self.comparison or not self.comparison.together:
            self.end()
        self.lines.append(Line(self, title, epochs, seconds))
        return self.lines[-1]

    def update(self, done: int, result: str = "") -> None:
        """Shows the number of completed epochs of the training that began last.

        Args:
            done: Number of completed epochs.
            result: The metrics, as text.
        """
        if self.lines:
            self.lines[-1].update(done, result)

    def end(self) -> None:
        """Replaces the bars of trainings by lines."""
        for line in tuple(self.lines):
            line.end()

    def close(self) -> None:
        """Removes all bars."""
        if self.bar:
            self.bar.stop()
        self.bar = None

    def add_bar(self, title: str, epochs: int) -> progress.TaskID | None:
        """Returns a new bar; None if there is no terminal.

        Args:
            title: The text beside it.
            epochs: Its length.
        """
        if not sys.stdout.isatty():
            return None
        self.bar = self.bar or _bar(self.comparison)
        return self.bar.add_task(title, total=epochs, result="")

    def update_total(self) -> None:
        """Shows how much of a comparison is done, if there is a terminal."""
        if self.comparison and self.bar:
            self.bar.update(
                self.bar.task_ids[0],
                completed=self.comparison.finished,
                total=self.comparison.total,
                result=self.comparison.remaining(),
            )

    def waited(self, since: float) -> bool:
        """Whether it is time for another line.

        Args:
            since: The time of the line before.
        """
        spent = self.comparison.spent if self.comparison else 0.0
        return time.monotonic() - since > max(_PAUSE, _PART * spent)

    def of_rounds(self, search: tt.TicketSearch) -> list[keras.callbacks.Callback]:
        """Returns callbacks that show each round of a search.

        Args:
            search: The search.
        """
        return [_Rounds(self, search)]

    def of_training(
        self, title: str, measure: str | None = None
    ) -> list[keras.callbacks.Callback]:
        """Returns callbacks that show a whole `fit`.

        Args:
            title: What is trained.
            measure: "macs" or "params", to show the fraction that remains of it in
                place of the sparsity.
        """
        return [_Training(self, title, measure)]

    def of_comparison(
        self,
        searches: Mapping[str, tt.TicketSearch],
        epochs: int,
        seeds: Sequence[int] | None = None,
        together: bool = False,
    ) -> Callable[[str], list[keras.callbacks.Callback]]:
        """Returns the argument `watch` of `find_frontier`.

        Each line then says which of how many searches it is about, how much time has
        passed in all, and about how much is left. On a terminal, a second bar does.

        Args:
            searches: As in `find_frontier`.
            epochs: As in `find_frontier`.
            seeds: As in `find_frontier`.
            together: Whether several trainings run at the same time in this process.
        """
        self.end()
        self.comparison = comparison = Comparison(searches, epochs, seeds, together)

        def watch(name):
            comparison.watch(name)
            return self.of_training(name)

        return watch


class Line:
    """Shows one training: by a bar on a terminal, by lines elsewhere.

    Args:
        shown: Where it is shown.
        name: What is trained.
        epochs: How many epochs it takes at most.
        seconds: How long it has been going on.

    Example:

    >>> line = Line(Progress(), "ticket", epochs=2, seconds=75.0)
    >>> line.update(2, "val_accuracy 0.9000")
    ticket  epoch 2/2  val_accuracy 0.9000  1:15
    """

    def __init__(
        self, shown: Progress, name: str, epochs: int, seconds: float = 0.0
    ) -> None:
        self.shown = shown
        self.name = self.title = name
        self.epochs = epochs
        self.began = time.monotonic() - seconds
        self.done, self.result = 0, ""
        if shown.comparison:
            self.title = shown.comparison.begin(name, elsewhere=seconds > 0)
        self.task = shown.add_bar(self.title, epochs)

    def update(self, done: int, result: str = "") -> None:
        """Shows the number of completed epochs.

        Args:
            done: Number of completed epochs.
            result: The metrics, as text.
        """
        shown = self.shown
        self.done, self.result = done, result
        if shown.comparison:
            shown.comparison.update(self.name, done)
        if shown.bar and self.task is not None:
            shown.bar.update(self.task, completed=done, result=result)
            shown.update_total()
        elif done < self.epochs and shown.waited(max(self.began, shown.written)):
            self._write()
        if done >= self.epochs:
            self.end()

    def end(self) -> None:
        """Replaces the bar by a line, if an epoch is complete."""
        shown = self.shown
        if shown.bar and self.task is not None:
            # The bar of a whole comparison stays.
            shown.bar.remove_task(self.task)
            if not shown.comparison:
                shown.close()
        if self.done and self._is_due():
            self._write()
        self.task = None
        self.done = 0
        if self in shown.lines:
            shown.lines.remove(self)

    def finish(self) -> None:
        """Ends, and notes that the training is over, be it before its last epoch."""
        if self.shown.comparison:
            self.shown.comparison.end(self.name)
        self.end()

    def _is_due(self):
        """Whether a finished training has a line of its own."""
        shown = self.shown
        few = not shown.comparison or shown.comparison.has_line(self.name)
        return few or shown.waited(shown.written)

    def _write(self):
        shown = self.shown
        shown.written = time.monotonic()
        parts = [self.title, f"epoch {self.done}/{self.epochs}", self.result]
        parts.append(clock(shown.written - self.began))
        if shown.comparison:
            parts.append(f"in all {clock(shown.comparison.spent)}")
            left = shown.comparison.remaining()
            parts[-1] += f", {left}" if left else ""
        shown.say("  ".join(part for part in parts if part))


def _bar(comparison=None):
    bar = progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("epochs"),
        progress.TimeElapsedColumn(),
        progress.TextColumn("{task.fields[result]}", markup=False),
        console=console.Console(highlight=False),
        transient=True,
    )
    if comparison:
        total = bar.add_task("in all", total=comparison.total, result="")
        bar.tasks[0].start_time = bar.get_time() - comparison.spent
        bar.update(total, completed=comparison.finished)
    bar.start()
    return bar


class _Rounds(keras.callbacks.Callback):
    """Counts a round's epochs itself, so the order of callbacks does not matter."""

    changes_results = False

    def __init__(self, shown, search):
        super().__init__()
        self.shown = shown
        self.search = search
        self.round = None
        self.done = self.epochs = 0
        self.is_settled = True

    def on_train_begin(self, logs=None):
        self.is_first = True

    def on_epoch_begin(self, epoch, logs=None):
        if self.is_first and epoch:
            epochs = self.search.engine.plan.epochs
            self.shown.say(f"Resuming after epoch {epoch} of {epochs}.")
        self.is_first = False

    def on_train_batch_begin(self, batch, logs=None):
        if batch == 0 and self.search.round != self.round:
            self.round = self.search.round
            self.done = 0
            plan = self.search.engine.plan
            name = f"round {self.round}/{plan.rounds}" if self.round else "dense"
            self.epochs = plan.epochs_of(self.round)
            # Masks that are learned have no sparsity before their round ends.
            masks = plan.masks(self.search.engine)
            self.is_settled = len(plan.settled_masks(self.search.engine)) == len(masks)
            if self.is_settled:
                name = f"{name:11}  sparsity {self.search.sparsity:6.1%}"
            self.shown.start(name, self.epochs)

    def on_epoch_end(self, epoch, logs=None):
        self.done += 1
        names = ["val_accuracy"]
        if not self.is_settled and self.done == self.epochs:
            names.insert(0, "sparsity")
        self.shown.update(self.done, _result(logs, *names))


class _Training(keras.callbacks.Callback):
    changes_results = False

    def __init__(self, shown, title, measure=None):
        super().__init__()
        self.shown = shown
        self.title = title
        self.measure = measure

    def on_train_begin(self, logs=None):
        # Of a training in another process, all is shown when it has ended.
        seconds = self.params.get("seconds", 0.0)
        self.line = self.shown.start(self.title, self.params["epochs"], seconds)
        self.is_first = not seconds

    def on_epoch_begin(self, epoch, logs=None):
        if self.is_first and epoch:
            epochs = self.params["epochs"]
            self.shown.say(f"{self.title}: resuming after epoch {epoch} of {epochs}.")
        self.is_first = False

    def on_epoch_end(self, epoch, logs=None):
        names = ["round", "sparsity", "val_accuracy"]
        # Of masks that are learned, only the last one is a ticket's.
        if "soft_sparsity" in (logs or {}) and epoch + 1 < self.params["epochs"]:
            names.remove("sparsity")
        remaining = ""
        if self.measure and (left := self._remaining()) is not None:
            names = ["val_accuracy"]
            remaining = f"{_MEASURES[self.measure]} {left:.1%}  "
        self.line.update(epoch + 1, remaining + _result(logs, *names))

    def _remaining(self):
        kernels = tt.kernels(self.model)
        return targets.remaining(kernels, kernels.masks).get(self.measure)

    def on_train_end(self, logs=None):
        self.line.finish()


_MEASURES = {"macs": "MACs", "params": "parameters"}
_FORMATS = {"round": ".0f", "sparsity": ".1%", "val_accuracy": ".4f"}


def _result(logs, *names):
    known = [name for name in names if name in (logs or {})]
    return "  ".join(f"{name} {logs[name]:{_FORMATS[name]}}" for name in known)
