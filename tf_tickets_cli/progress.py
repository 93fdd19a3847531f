"""Progress of searches and trainings: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Self

import keras
from rich import console, progress

import tf_tickets as tt
from tf_tickets.pruning import targets

# Seconds between two lines about one training if there is no terminal.
_PAUSE = 10.0
# In a long comparison, the pause is this part of the time so far.
_PART = 0.01
# With more trainings of tickets than this, not each of them has a line.
_FEW = 40


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
        self.task: progress.TaskID | None = None
        self.comparison: Comparison | None = None
        self.title = self.name = ""
        self.done = self.epochs = 0
        self.result = ""
        self.began = self.written = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error):
        self.end()
        self._close()

    def say(self, line: str) -> None:
        """Shows a line.

        Args:
            line: The text.
        """
        print(line, flush=True)

    def start(self, title: str, epochs: int, seconds: float = 0.0) -> None:
        """Starts a training.

        Args:
            title: What is trained.
            epochs: How many epochs it takes at most.
            seconds: How long it has been going on.
        """
        self.end()
        self.name, self.epochs = title, epochs
        now = time.monotonic()
        self.began = now - seconds
        if self.comparison:
            title = self.comparison.begin(title, elsewhere=seconds > 0)
        else:
            self.written = now
        self.title = title
        if sys.stdout.isatty():
            self.bar = self.bar or _bar(self.comparison)
            self.task = self.bar.add_task(title, total=epochs, result="")

    def update(self, done: int, result: str = "") -> None:
        """Shows the number of completed epochs.

        Args:
            done: Number of completed epochs.
            result: The metrics, as text.
        """
        self.done, self.result = done, result
        if self.comparison:
            self.comparison.update(self.name, done)
        if self.bar and self.task is not None:
            self.bar.update(self.task, completed=done, result=result)
            self._update_total()
        elif done < self.epochs and self._waited(max(self.began, self.written)):
            self._write()
        if done >= self.epochs:
            self.end()

    def end(self) -> None:
        """Replaces the bar by a line, if a training has begun."""
        if self.bar and self.task is not None:
            # The bar of a whole comparison stays.
            self.bar.remove_task(self.task)
            if not self.comparison:
                self._close()
        if self.done and self._is_due():
            self._write()
        self.task = None
        self.done = 0

    def _close(self):
        if self.bar:
            self.bar.stop()
        self.bar = None

    def _update_total(self):
        if self.comparison and self.bar:
            total, _ = self.bar.task_ids
            self.bar.update(
                total,
                completed=self.comparison.finished,
                total=self.comparison.total,
                result=self.comparison.remaining(),
            )

    def _waited(self, since):
        spent = self.comparison.spent if self.comparison else 0.0
        return time.monotonic() - since > max(_PAUSE, _PART * spent)

    def _is_due(self):
        """Whether a finished training has a line of its own."""
        few = not self.comparison or self.comparison.has_line(self.name)
        return few or self._waited(self.written)

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
    ) -> Callable[[str], list[keras.callbacks.Callback]]:
        """Returns the argument `watch` of `find_frontier`.

        Each line then says which of how many searches it is about, how much time has
        passed in all, and about how much is left. On a terminal, a second bar does.

        Args:
            searches: As in `find_frontier`.
            epochs: As in `find_frontier`.
            seeds: As in `find_frontier`.
        """
        self.end()
        self.comparison = comparison = Comparison(searches, epochs, seeds)

        def watch(name):
            comparison.watch(name)
            return self.of_training(name)

        return watch

    def _write(self):
        self.written = time.monotonic()
        parts = [self.title, f"epoch {self.done}/{self.epochs}", self.result]
        parts.append(clock(self.written - self.began))
        if self.comparison:
            parts.append(f"in all {clock(self.comparison.spent)}")
            parts[-1] += f", {left}" if (left := self.comparison.remaining()) else ""
        self.say("  ".join(part for part in parts if part))


def clock(seconds: float) -> str:
    """Returns a time as text.

    Example:

    >>> clock(75.9), clock(3 * 3600 + 5)
    ('1:15', '3:00:05')
    """
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    start = f"{hours}:{minutes:02}" if hours else f"{minutes}"
    return f"{start}:{seconds:02}"


class Comparison:
    """Counts the searches and the epochs of `find_frontier`, and estimates its end.

    Args:
        searches: As in `find_frontier`.
        epochs: As in `find_frontier`.
        seeds: As in `find_frontier`.

    Example:

    >>> searches = {"a": tt.IMP(2, 4), "b": tt.PruneAtInit(epochs=4)}
    >>> comparison = Comparison(searches, epochs=4, seeds=[0, 1])
    >>> comparison.total
    40
    >>> comparison.begin("a seed 1"), comparison.begin("dense seed 0")
    ('a seed 1, 1 of 4', 'dense seed 0')
    """

    def __init__(
        self,
        searches: Mapping[str, tt.TicketSearch],
        epochs: int,
        seeds: Sequence[int] | None = None,
    ) -> None:
        self.began = time.monotonic()
        # Epochs by the names of searches and of trainings, in their order.
        self.searches: dict[str, int] = {}
        self.trainings: dict[str, int] = {}
        # From each name to that of its search.
        self.owners: dict[str, str] = {}
        ends = [""] if seeds is None else [f" seed {seed}" for seed in seeds]
        for label, search in searches.items():
            for end in ends:
                self._add(f"{label}{end}", search, epochs)
        self.trainings |= {f"dense{end}": epochs for end in ends}
        self.done = dict.fromkeys({**self.searches, **self.trainings}, 0)
        self.counted: dict[str, int] = {}
        self.trained = 0
        self.elsewhere = False

    def _add(self, name, search, epochs):
        plan = search.engine.plan
        self.searches[name] = plan.epochs
        self.owners[name] = name
        if plan.epochs_of_tickets == epochs:
            return
        for round_ in range(1, plan.rounds + 1):
            self.trainings[f"{name} round {round_}"] = epochs
            self.owners[f"{name} round {round_}"] = name

    @property
    def _epochs(self):
        return {**self.searches, **self.trainings}

    @property
    def total(self) -> int:
        """The epochs of all searches and trainings, at most."""
        return sum(self._epochs.values())

    @property
    def finished(self) -> int:
        """The epochs that need not be trained any more."""
        return sum(self.done.values())

    @property
    def spent(self) -> float:
        """The seconds since the beginning."""
        return time.monotonic() - self.began

    def watch(self, name: str) -> None:
        """Counts a search, which may be complete already."""
        if name in self.owners:
            self.counted.setdefault(self.owners[name], len(self.counted) + 1)

    def begin(self, name: str, elsewhere: bool = False) -> str:
        """Returns the title of a search or training that begins.

        Args:
            name: Its name.
            elsewhere: Whether it has run in another process. Otherwise those before
                it have ended.
        """
        self.watch(name)
        self.elsewhere = elsewhere
        if not elsewhere:
            self._end_before(name)
        if name not in self.owners or len(self.searches) == 1:
            return name
        number = self.counted[self.owners[name]]
        return f"{name}, {number} of {len(self.searches)}"

    def update(self, name: str, done: int) -> None:
        """Notes how many epochs of a search or training are complete.

        Args:
            name: Its name.
            done: Its complete epochs.
        """
        if name not in self.done:
            return
        before = self.done[name]
        # A resumed search begins after epoch 0; those before cost no time now.
        self.trained += done - before if before or self.elsewhere else 1
        self.done[name] = done

    def _end_before(self, name):
        """Notes that all before a search or training is complete, or stopped early."""
        names = list(self.searches)
        if name in self.searches:
            ended = names[: names.index(name)]
        elif name in self.owners:
            ended = names[: names.index(self.owners[name]) + 1]
        else:
            ended = names
        if name in self.trainings:
            names = list(self.trainings)
            ended += names[: names.index(name)]
        epochs = self._epochs
        self.done |= {earlier: epochs[earlier] for earlier in ended}

    def has_line(self, name: str) -> bool:
        """Whether a training has a line in any case: the searches have."""
        return name not in self.trainings or len(self.trainings) <= _FEW

    def remaining(self) -> str:
        """Returns about how long the rest takes, as text; "" if that is not known."""
        left = self.total - self.finished
        if not left or not self.trained:
            return ""
        return f"about {clock(self.spent / self.trained * left)} left"


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
        self.shown.start(self.title, self.params["epochs"], seconds)
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
        self.shown.update(epoch + 1, remaining + _result(logs, *names))

    def _remaining(self):
        kernels = tt.kernels(self.model)
        return targets.remaining(kernels, kernels.masks).get(self.measure)

    def on_train_end(self, logs=None):
        self.shown.end()


_MEASURES = {"macs": "MACs", "params": "parameters"}
_FORMATS = {"round": ".0f", "sparsity": ".1%", "val_accuracy": ".4f"}


def _result(logs, *names):
    known = [name for name in names if name in (logs or {})]
    return "  ".join(f"{name} {logs[name]:{_FORMATS[name]}}" for name in known)
