"""The frontier of sparsity and accuracy over several searches."""

import dataclasses
import json
import os

from tf_tickets import arguments, files
from tf_tickets.reports import plots, tables
from tf_tickets.tickets.monitor import Monitor
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
        ticket: The ticket.
    """

    label: str
    round: int
    sparsity: float
    search_epochs: int
    metrics: dict[str, float]
    ticket: Ticket


@dataclasses.dataclass(repr=False)
class Frontier:
    """The trained tickets of several searches, and which of them are optimal.

    `print(frontier)` shows a table in which `*` marks the optimal tickets.

    Args:
        points: The tickets, by search and round.
        dense: Metrics of the dense network, trained from the same start.
        monitor: The metric by which tickets are compared.
        provenance: Seed, epochs, versions and the settings of the searches.

    Example:

    >>> ticket = tt.Ticket({"k": np.array([1, 0])})
    >>> points = [Point("a", 1, 0.5, 3, {"accuracy": 0.9}, ticket),
    ...           Point("a", 2, 0.7, 6, {"accuracy": 0.95}, ticket)]
    >>> frontier = Frontier(points, {"accuracy": 0.94}, "accuracy")
    >>> [point.sparsity for point in frontier.optimal]
    [0.7]
    >>> frontier.first_matching().search_epochs
    6
    >>> frontier
    Frontier(2 points of 1 search, accuracy, dense 0.9400)
    >>> print(frontier)
    search  round  search epochs  kept weights  accuracy
    dense                              100.00%    0.9400
    a           1              3        50.00%    0.9000
    a           2              6        30.00%   0.9500*
    """

    points: list[Point]
    dense: dict[str, float]
    monitor: str
    provenance: dict = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        arguments.listed(Point, points=self.points)
        arguments.check_table(str, float, dense=self.dense)
        arguments.check_type(dict, provenance=self.provenance)
        Monitor(self.monitor)

    @property
    def optimal(self) -> list[Point]:
        """The Pareto-optimal points, sparsest first."""
        found: list[Point] = []
        by_sparsity = sorted(
            self.points, key=lambda p: (-p.sparsity, -self._merit(p.metrics))
        )
        for point in by_sparsity:
            if not found or self._merit(point.metrics) > self._merit(found[-1].metrics):
                found.append(point)
        return found

    def first_matching(
        self, sparsity: float = 0.0, tolerance: float = 0.0
    ) -> Point | None:
        """Returns the cheapest point that is as good as the dense network.

        Args:
            sparsity: Minimum sparsity.
            tolerance: Maximum drop below the dense network.
        """
        arguments.check_between(0.0, 1.0, sparsity=sparsity)
        arguments.check_numbers(tolerance=tolerance)
        least = self._merit(self.dense) - tolerance
        good = [p for p in self.points if p.sparsity >= sparsity]
        good = [p for p in good if self._merit(p.metrics) >= least]
        return min(good, key=lambda p: p.search_epochs, default=None)

    def _merit(self, metrics):
        return Monitor(self.monitor).merit(metrics)

    def rows(self) -> list[dict]:
        """Returns the points as plain dicts, without their tickets."""
        optimal = self.optimal
        return [
            {
                "label": point.label,
                "round": point.round,
                "sparsity": point.sparsity,
                "search_epochs": point.search_epochs,
                "metrics": point.metrics,
                "optimal": point in optimal,
            }
            for point in self.points
        ]

    def __str__(self):
        return tables.align(self._cells(), left=1)

    def __repr__(self):
        points = tables.count_of(len(self.points), "point")
        labels = len({point.label for point in self.points})
        searches = f"{labels:,} search{'' if labels == 1 else 'es'}"
        facts = [f"{points} of {searches}", self.monitor]
        if self.monitor in self.dense:
            facts.append(f"dense {self.dense[self.monitor]:.4f}")
        return f"Frontier({', '.join(facts)})"

    def _repr_html_(self):
        return tables.html(self._cells(), left=1, caption=repr(self))

    def _cells(self):
        return tables.frontier_cells(self.rows(), self.dense, self.monitor)

    def save(self, path: os.PathLike | str) -> None:
        """Writes points, dense metrics and provenance as JSON."""
        path = arguments.check_path(path=path)
        content = {
            "monitor": self.monitor,
            "dense": self.dense,
            "points": self.rows(),
            "provenance": self.provenance,
        }
        with files.replacing(path) as draft:
            draft.write_text(json.dumps(content, indent=1))

    def plot(self, path: os.PathLike | str, title: str = "Frontier") -> None:
        """Plots every search as a line and the optimal points as a band.

        Args:
            path: The file to write. Its suffix selects the format: `.png`, `.svg`
                or `.pdf`.
            title: Title of the plot.
        """
        lines: dict[str, list[tuple[float, float]]] = {}
        for point in self.points:
            value = point.metrics[self.monitor]
            lines.setdefault(point.label, []).append((1 - point.sparsity, value))
        optimal = [(1 - p.sparsity, p.metrics[self.monitor]) for p in self.optimal]
        dense = self.dense.get(self.monitor)
        plots.plot_frontier(lines, optimal, path, dense, self.monitor, title)
