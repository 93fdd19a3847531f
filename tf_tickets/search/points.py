"""The points of a frontier: trained tickets, and their means over seeds."""

import dataclasses
import pathlib
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, TypeVar

from tf_tickets.reports.statistics import Mean
from tf_tickets.tickets.ticket import Ticket


@dataclasses.dataclass
class Point:
    """One trained ticket.

    Args:
        label: The search that found it.
        round: The round of that search.
        sparsity: Fraction of zeros among the prunable weights.
        search_epochs: Epochs trained before the ticket was known.
        metrics: Metrics after training the ticket.
        ticket: The ticket. None if it is not known, as in a frontier that was loaded
            without its tickets.
        seed: The seed of start weights and data order.
    """

    label: str
    round: int
    sparsity: float
    search_epochs: int
    metrics: dict[str, float]
    ticket: Ticket | None = dataclasses.field(default=None, repr=False)
    seed: int = 0


class StoredPoint(Point):
    """A point of a saved frontier. Its ticket is read when it is first used."""

    _file: pathlib.Path
    _ticket: Ticket | None = None

    @classmethod
    def beside(cls, file: pathlib.Path, **fields: Any) -> "StoredPoint":
        """Returns a point with the file of its ticket.

        Args:
            file: The ticket file.
            **fields: The fields of a point, except the ticket.
        """
        point = cls(**fields)
        point._file = file
        return point

    @property
    def ticket(self) -> Ticket | None:
        """The ticket; a ValueError if the file holds that of another search."""
        if self._ticket is None:
            ticket = Ticket.load(self._file)
            self._check(ticket)
            self._ticket = ticket
        return self._ticket

    @ticket.setter
    def ticket(self, ticket: Ticket | None) -> None:
        self._ticket = ticket

    def _check(self, ticket):
        if ticket.sparsity != self.sparsity:
            raise ValueError(
                f"{self._file} must have the ticket of {self.label!r}, round "
                f"{self.round}, with the sparsity {self.sparsity!r}. Received: the "
                f"sparsity {ticket.sparsity!r}. The file was written by another run: "
                "load the frontier of that run."
            )


@dataclasses.dataclass
class MeanPoint:
    """The mean of the points of one search and round over seeds.

    Its attributes are those of a `Point`, each the mean over the seeds.

    Args:
        points: The points, one for each seed.

    Example:

    >>> points = [Point("imp", 2, 0.5, 8, {"accuracy": value}, seed=seed)
    ...           for seed, value in enumerate([0.90, 0.92, 0.94])]
    >>> mean = MeanPoint(points)
    >>> mean.label, mean.round, mean.seeds, mean.search_epochs
    ('imp', 2, [0, 1, 2], 8)
    >>> print(mean.statistic("accuracy"))
    0.9200 ± 0.0200
    """

    points: list[Point]

    @property
    def label(self) -> str:
        """The search that found the tickets."""
        return self.points[0].label

    @property
    def round(self) -> int:
        """The round of that search."""
        return self.points[0].round

    @property
    def seeds(self) -> list[int]:
        """The seeds that have this round."""
        return [point.seed for point in self.points]

    @property
    def sparsity(self) -> float:
        """The mean sparsity."""
        return self.statistic("sparsity").mean

    @property
    def search_epochs(self) -> float:
        """The mean of the epochs trained before the tickets were known."""
        epochs = [point.search_epochs for point in self.points]
        return epochs[0] if len(set(epochs)) == 1 else Mean.of(epochs).mean

    @property
    def metrics(self) -> dict[str, float]:
        """The mean of each metric that all points have."""
        return {name: mean.mean for name, mean in self.statistics().items()}

    @property
    def tickets(self) -> dict[int, Ticket | None]:
        """The tickets by seed."""
        return {point.seed: point.ticket for point in self.points}

    def statistic(self, name: str) -> Mean:
        """Returns mean and deviation of "sparsity", or else of a metric.

        Args:
            name: "sparsity" or the name of a metric.
        """
        if name == "sparsity":
            return Mean.of(point.sparsity for point in self.points)
        known = self.statistics()
        if name not in known:
            raise ValueError(
                f'`name` must be "sparsity" or one of the metrics {list(known)}. '
                f"Received: {name!r}"
            )
        return known[name]

    def statistics(self) -> dict[str, Mean]:
        """Returns mean and deviation of each metric that all points have."""
        return means_of(point.metrics for point in self.points)


def means_of(tables: Iterable[dict[str, float]]) -> dict[str, Mean]:
    """Returns the mean of each metric that all dicts have.

    Example:

    >>> means_of([{"loss": 1.0, "accuracy": 0.5}, {"loss": 3.0}])
    {'loss': Mean(mean=2.0, deviation=1.4142135623730951, count=2)}
    """
    first, *others = tables
    names = [name for name in first if all(name in other for other in others)]
    return {n: Mean.of([first[n], *(other[n] for other in others)]) for n in names}


def over_seeds(points: Iterable[Point]) -> list[MeanPoint]:
    """Returns the mean points, in the order in which the points begin.

    Points of one label and round belong together. If a seed has several such points,
    its first ones belong together, its second ones, and so on.

    Example:

    >>> points = [Point("a", 1, 0.5, 3, {}, seed=seed) for seed in (0, 1)]
    >>> [mean.seeds for mean in over_seeds([*points, Point("b", 1, 0.5, 3, {})])]
    [[0, 1], [0]]
    """
    groups: dict[Hashable, list[Point]] = {}
    earlier: dict[Hashable, int] = {}
    for point in points:
        own = (point.label, point.round, point.seed)
        earlier[own] = earlier.get(own, 0) + 1
        groups.setdefault((*own[:2], earlier[own]), []).append(point)
    return [MeanPoint(group) for group in groups.values()]


Compared = TypeVar("Compared", Point, MeanPoint)


def pareto(
    points: Sequence[Compared], merit: Callable[[Compared], float]
) -> list[Compared]:
    """Returns the Pareto-optimal points, sparsest first.

    Args:
        points: Points. Those with a merit of NaN are left out.
        merit: Function from a point to a number; larger is better.
    """
    rated = [(point, merit(point)) for point in points]
    rated = [(point, value) for point, value in rated if value == value]
    rated.sort(key=lambda pair: (-pair[0].sparsity, -pair[1]))
    optimal: list[Compared] = []
    best = None
    for point, value in rated:
        if best is None or value > best:
            optimal.append(point)
            best = value
    return optimal
