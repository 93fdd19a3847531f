"""What a comparison of searches has done, and about how long it takes."""

import time
from collections.abc import Mapping, Sequence

import tf_tickets as tt

# With more trainings of tickets than this, not each of them has a line.
_FEW = 40


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
        together: Whether several trainings run at the same time in this process.

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
        together: bool = False,
    ) -> None:
        self.together = together
        self.began = time.monotonic()
        # Epochs by the names of searches and of trainings, in their order.
        self.searches: dict[str, int] = {}
        self.trainings: dict[str, int] = {}
        # From each name to that of its search.
        self.owners: dict[str, str] = {}
        # What was announced and what is being trained, if several run together.
        self.announced: set[str] = set()
        self.open: set[str] = set()
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
        """Counts a search or training, which may be complete already."""
        self.announced.add(name)
        if name in self.owners:
            self.counted.setdefault(self.owners[name], len(self.counted) + 1)

    def begin(self, name: str, elsewhere: bool = False) -> str:
        """Returns the title of a search or training that begins.

        Args:
            name: Its name.
            elsewhere: Whether it has run in another process. Otherwise those before
                it have ended, unless several run together.
        """
        self.watch(name)
        self.elsewhere = elsewhere
        if self.together or elsewhere:
            # What was announced and is not trained is complete already.
            for other in (self.announced & set(self.done)) - self.open - {name}:
                self.done[other] = self._epochs[other]
            # Another one may have begun between its announcement and its first epoch.
            if name in self.done and name not in self.open:
                self.done[name] = 0
            self.open.add(name)
        else:
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

    def end(self, name: str) -> None:
        """Notes that a search or training is complete, or stopped early.

        Args:
            name: Its name.
        """
        self.open.discard(name)
        if self.together and name in self.done:
            self.done[name] = self._epochs[name]

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
