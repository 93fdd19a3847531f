"""The frontier of sparsity and accuracy over several searches and seeds."""

import dataclasses
import math
import os
from collections.abc import Iterable, Mapping
from typing import Any, Self

from tf_tickets import arguments
from tf_tickets.reports import plots, tables
from tf_tickets.reports.statistics import Mean, check_confidence
from tf_tickets.search import frontier_file, points
from tf_tickets.search.frontier_lines import lines_of
from tf_tickets.search.points import MeanPoint, Point
from tf_tickets.tickets.monitor import Monitor

# Settings that differ between seeds.
_OF_SEED = ("seed", "teachers")


@dataclasses.dataclass(repr=False)
class Frontier:
    """The trained tickets of several searches, and which of them are optimal.

    `print(frontier)` shows a table in which `*` marks the optimal tickets. With
    several seeds, it shows means and standard deviations, and `optimal` and
    `first_matching` compare means.

    Args:
        points: The tickets, by search, seed and round.
        dense: Metrics of the dense network, trained from the same start. With several
            seeds, their means.
        monitor: The metric that is reported.
        provenance: Seeds, epochs, versions and the settings of the searches.
        dense_by_seed: The dense network's metrics by seed.
        selected_by: The metric by which `optimal` and `first_matching` choose. By
            default, a `monitor` of test data such as "test_accuracy" is replaced by
            that of validation data, "val_accuracy", if all points and the dense
            network have it. Otherwise it is `monitor`.

    Example:

    >>> points = [Point("a", 1, 0.5, 3, {"accuracy": 0.9}),
    ...           Point("a", 2, 0.7, 6, {"accuracy": 0.95})]
    >>> frontier = Frontier(points, {"accuracy": 0.94}, "accuracy")
    >>> [point.sparsity for point in frontier.optimal]
    [0.7]
    >>> frontier.first_matching().search_epochs
    6
    >>> frontier
    Frontier(2 points of 1 search, accuracy, dense 0.9400)
    >>> print(frontier)
    search  round  search epochs  kept weights  accuracy
    dense                              100.00%   0.9400
    a           1              3        50.00%   0.9000
    a           2              6        30.00%   0.9500*
    * Pareto-optimal by accuracy, selected and reported on the same data, so optimistic.

    Three seeds, selected by validation data and reported on test data:

    >>> measured = [(0.93, 0.90), (0.95, 0.92), (0.94, 0.94)]
    >>> points = [
    ...     Point("a", 1, 0.5, 3, {"val_accuracy": v, "test_accuracy": t}, seed=seed)
    ...     for seed, (v, t) in enumerate(measured)
    ... ]
    >>> dense = {"val_accuracy": 0.95, "test_accuracy": 0.94}
    >>> frontier = Frontier(points, dense, "test_accuracy")
    >>> [mean] = frontier.means
    >>> mean.statistic("test_accuracy").count
    3
    >>> print(frontier)
    search  round  seeds  search epochs  kept weights     test_accuracy
    dense                                     100.00%           0.9400
    a           1      3              3        50.00%  0.9200 ± 0.0200*
    Mean ± standard deviation over the seeds 0, 1 and 2.
    * Pareto-optimal by val_accuracy, which selects; test_accuracy is reported.
    """

    points: list[Point]
    dense: dict[str, float]
    monitor: str
    provenance: dict = dataclasses.field(default_factory=dict)
    dense_by_seed: dict[int, dict[str, float]] = dataclasses.field(default_factory=dict)
    selected_by: str | None = None

    def __post_init__(self):
        arguments.listed(Point, points=self.points)
        arguments.check_table(str, float, dense=self.dense)
        arguments.check_type(dict, provenance=self.provenance)
        Monitor(self.monitor)
        arguments.check_table(int, dict, dense_by_seed=self.dense_by_seed)
        for metrics in self.dense_by_seed.values():
            arguments.check_table(str, float, dense_by_seed=metrics)
        if self.selected_by is None:
            self.selected_by = self._metric_of_selection()
        arguments.check_type(str, selected_by=self.selected_by)

    def _metric_of_selection(self):
        validation = self.monitor.replace("test_", "val_", 1)
        tables = [point.metrics for point in self.points]
        if self.monitor in self.dense:
            tables.append(self.dense)
        is_test = self.monitor.startswith("test_")
        known = self.points and all(validation in table for table in tables)
        return validation if is_test and known else self.monitor

    @classmethod
    def load(cls, path: os.PathLike | str) -> Self:
        """Reads a frontier that `save` or `find_frontier` wrote as JSON.

        Tickets are found in the folders beside the file and read when `point.ticket`
        is first used. It is None where there is no such file.

        Args:
            path: The file, or the directory of `find_frontier`, in which it is named
                "frontier.json".
        """
        return cls(**frontier_file.read_json(arguments.check_path(path=path)))

    @classmethod
    def join(cls, frontiers: Iterable["Frontier"]) -> Self:
        """Returns the points of several frontiers, such as those of several machines.

        Args:
            frontiers: Frontiers of different seeds or searches, with equal `monitor`,
                `selected_by`, epochs and batch size. Searches of one label must have
                the same settings.

        Example:

        >>> def of(seed):
        ...     point = Point("a", 1, 0.5, 3, {"loss": 0.2 + seed}, seed=seed)
        ...     return Frontier([point], {"loss": 0.1 + seed}, "loss", {"seed": seed})
        >>> joined = Frontier.join([of(0), of(2)])
        >>> joined.seeds, joined.dense
        ([0, 2], {'loss': 1.1})
        """
        listed = arguments.listed(Frontier, frontiers=frontiers)
        if not listed:
            raise ValueError(
                "`frontiers` must have at least one frontier. Received: []. Load some "
                "by Frontier.load."
            )
        _check_alike(listed)
        tickets = [point for frontier in listed for point in frontier.points]
        places = [(point.label, point.seed, point.round) for point in tickets]
        if len(set(places)) < len(places):
            [twice, *_] = [place for place in places if places.count(place) > 1]
            raise ValueError(
                "`frontiers` must have different seeds or searches. Received twice: "
                f"label {twice[0]!r}, seed {twice[1]}, round {twice[2]}."
            )
        by_seed: dict[int, dict[str, float]] = {}
        for frontier in listed:
            by_seed |= frontier._known_dense()
        dense = {n: m.mean for n, m in _means(by_seed).items()}
        origin = _joined_provenance([frontier.provenance for frontier in listed])
        first = listed[0]
        return cls(tickets, dense, first.monitor, origin, by_seed, first.selected_by)

    def _known_dense(self):
        """The dense network's metrics by seed, also if there is one seed only."""
        if self.dense_by_seed or not self.dense:
            return self.dense_by_seed
        seeds = self.seeds or [self.provenance.get("seed", 0)]
        return {seeds[0]: self.dense} if len(seeds) == 1 else {}

    @property
    def seeds(self) -> list[int]:
        """The seeds of the points, in ascending order."""
        return sorted({point.seed for point in self.points})

    @property
    def means(self) -> list[MeanPoint]:
        """The means over seeds: one point for each round of each search.

        Searches whose rounds reach other sparsities with other seeds, such as
        Continuous Sparsification, have the mean sparsity of the round.
        """
        return points.over_seeds(self.points)

    @property
    def dense_means(self) -> dict[str, Mean]:
        """Mean and deviation of the dense network's metrics."""
        if self.dense_by_seed:
            return _means(self.dense_by_seed)
        return {name: Mean.of([value]) for name, value in self.dense.items()}

    def of_seed(self, seed: int) -> Self:
        """Returns the frontier of one seed.

        Args:
            seed: One of `seeds`.
        """
        arguments.check_seed(seed)
        if seed not in self.seeds:
            raise ValueError(f"`seed` must be one of {self.seeds}. Received: {seed}")
        own = [point for point in self.points if point.seed == seed]
        by_seed = {k: v for k, v in self.dense_by_seed.items() if k == seed}
        dense = by_seed.get(seed, self.dense)
        return type(self)(
            own, dense, self.monitor, self.provenance, by_seed, self.selected_by
        )

    @property
    def optimal(self) -> list[Point] | list[MeanPoint]:
        """The Pareto-optimal points by the metric `selected_by`, sparsest first.

        With several seeds, these are means. Means over fewer seeds than others have
        are left out, since the missing seeds may be the worse ones. So are points
        whose metric is NaN.
        """
        if len(self.seeds) > 1:
            return points.pareto(self._comparable(), self._merit)
        return points.pareto(self.points, self._merit)

    def _comparable(self):
        means = self.means
        most = max(len(mean.points) for mean in means)
        return [mean for mean in means if len(mean.points) == most]

    def first_matching(
        self, sparsity: float = 0.0, tolerance: float = 0.0
    ) -> Point | MeanPoint | None:
        """Returns the cheapest point that is as good as the dense network.

        Points are compared with it by the metric `selected_by`. With several seeds,
        the means are compared.

        Args:
            sparsity: Minimum sparsity.
            tolerance: Maximum drop below the dense network.
        """
        arguments.check_between(0.0, 1.0, sparsity=sparsity)
        arguments.check_numbers(tolerance=tolerance)
        least = Monitor(self._selection).merit(self.dense) - tolerance
        choice = self._comparable() if len(self.seeds) > 1 else self.points
        good = [p for p in choice if p.sparsity >= sparsity]
        good = [p for p in good if self._merit(p) >= least]
        return min(good, key=lambda p: p.search_epochs, default=None)

    @property
    def _selection(self):
        return self.selected_by or self.monitor

    def _merit(self, point):
        return Monitor(self._selection).merit(point.metrics)

    def rows(self, mean: bool = False) -> list[dict]:
        """Returns the points as plain dicts, without their tickets.

        Args:
            mean: Whether to return the means over seeds. Beside each mean, in
                "metrics", are then the deviations and the ends of the 95 % confidence
                intervals.
        """
        arguments.check_flags(mean=mean)
        optimal = self._optimal_members()
        if not mean:
            return [_row(point, id(point) in optimal) for point in self.points]
        return [_mean_row(m, id(m.points[0]) in optimal) for m in self.means]

    def _optimal_members(self):
        """The identities of all points that are optimal or part of an optimal mean."""
        return {
            id(member)
            for point in self.optimal
            for member in (point.points if isinstance(point, MeanPoint) else [point])
        }

    def to_pandas(self, mean: bool = False) -> Any:
        """Returns a pandas DataFrame with one row for each point.

        Its columns are "label", "round", "seed", "sparsity", "search_epochs",
        "optimal" and the metrics.

        Args:
            mean: Whether to have one row for each mean over seeds. A metric then has
                four columns: the mean, its `_deviation`, and the ends of its 95 %
                confidence interval, `_low` and `_high`.
        """
        flat = self._flat_rows(mean)
        try:
            import pandas
        except ImportError as error:
            raise ImportError("to_pandas requires pandas: pip install pandas") from (
                error
            )
        return pandas.DataFrame(flat)

    def _flat_rows(self, mean):
        return [_flat(row) for row in self.rows(mean)]

    def __str__(self):
        return "\n".join([tables.align(self._cells(), left=1), *self._notes()])

    def __repr__(self):
        count = tables.count_of(len(self.points), "point")
        labels = len({point.label for point in self.points})
        searches = f"{labels:,} search{'' if labels == 1 else 'es'}"
        seeds = len(self.seeds)
        of = f"{searches} and {seeds:,} seeds" if seeds > 1 else searches
        facts = [f"{count} of {of}", self.monitor]
        if self.monitor in self.dense:
            facts.append(f"dense {self.dense[self.monitor]:.4f}")
        return f"Frontier({', '.join(facts)})"

    def _repr_html_(self):
        caption = " ".join([f"{self!r}.", *self._notes()])
        return tables.html(self._cells(), left=1, caption=caption)

    def _cells(self):
        rows = self.rows(mean=len(self.seeds) > 1)
        return tables.frontier_cells(rows, self.dense_means, self.monitor)

    def _notes(self):
        return tables.frontier_notes(
            self.rows(mean=True), self.seeds, self.monitor, self._selection
        )

    def save(self, path: os.PathLike | str) -> None:
        """Writes the frontier as JSON, which `load` reads, or its points as CSV.

        Args:
            path: The file to write. Its suffix selects the format: `.json` or `.csv`.
        """
        path = arguments.check_path(path=path)
        if frontier_file.check_suffix(path) == ".csv":
            frontier_file.write_csv(path, self._flat_rows(mean=False))
            return
        content: dict[str, Any] = {
            "monitor": self.monitor,
            "selected_by": self.selected_by,
            "dense": self.dense,
            "points": self.rows(),
            "provenance": self.provenance,
        }
        if self.dense_by_seed:
            content["dense_by_seed"] = self.dense_by_seed
        if len(self.seeds) > 1:
            content["means"] = self.rows(mean=True)
        frontier_file.write_json(path, content)

    def plot(
        self,
        path: os.PathLike | str,
        title: str = "Frontier",
        *,
        confidence: float = 0.95,
        lines: Mapping[str, str] | None = None,
    ) -> None:
        """Plots the searches as lines, and the optimal points as a broad line.

        Searches that differ only in the sparsity to reach are one line. Several seeds
        are drawn as their means, with confidence intervals of the mean as bands.

        Args:
            path: The file to write. Its suffix selects the format: `.png`, `.svg`
                or `.pdf`.
            title: Title of the plot.
            confidence: Confidence level of the bands.
            lines: Dict from the label of a search to the name of its line, if it
                should be on another one.
        """
        check_confidence(confidence)
        if lines is not None:
            arguments.check_type(Mapping, lines=lines)
        drawn: dict[str, list[tuple[float, ...]]] = {}
        searches = self.provenance.get("searches")
        names = lines_of(
            [point.label for point in self.points],
            searches if isinstance(searches, Mapping) else {},
            lines or {},
        )
        optimal = self._optimal_members()
        best = []
        for mean in self.means:
            value = mean.statistic(self.monitor)
            ends = value.interval(confidence) or ()
            spot = (1 - mean.sparsity, value.mean)
            drawn.setdefault(names[mean.label], []).append((*spot, *ends))
            if id(mean.points[0]) in optimal:
                best.append(spot)
        dense = self.dense_means.get(self.monitor)
        if dense is not None and not math.isfinite(dense.mean):
            dense = None  # It diverged, and has no place on the axis.
        monitor = Monitor(self.monitor)
        plots.plot_frontier(
            drawn,
            best,
            path,
            None if dense is None else dense.mean,
            self.monitor,
            title,
            dense_interval=None if dense is None else dense.interval(confidence),
            smaller_is_better=monitor.merit({self.monitor: 1.0}) < 0,
            note=self._note_of_plot(confidence),
        )

    def _note_of_plot(self, confidence):
        facts = []
        if len(self.seeds) > 1:
            level = f"{100 * confidence:.3g} %"
            facts.append(f"mean of {len(self.seeds)} seeds, band: {level} interval")
        facts.append(f"optimal: selected by {self._selection.replace('_', ' ')}")
        dense = self.dense_means.get(self.monitor)
        if dense is not None and not math.isfinite(dense.mean):
            facts.append("the dense network has no finite metric")
        return "; ".join(facts)


def _row(point, optimal):
    return {
        "label": point.label,
        "round": point.round,
        "seed": point.seed,
        "sparsity": point.sparsity,
        "search_epochs": point.search_epochs,
        "metrics": point.metrics,
        "optimal": optimal,
    }


def _mean_row(mean, optimal):
    known = mean.statistics()
    ends = {name: value.interval() or (None, None) for name, value in known.items()}
    return {
        "label": mean.label,
        "round": mean.round,
        "seeds": mean.seeds,
        "sparsity": mean.sparsity,
        "sparsity_deviation": mean.statistic("sparsity").deviation,
        "search_epochs": mean.search_epochs,
        "metrics": {name: value.mean for name, value in known.items()},
        "deviations": {name: value.deviation for name, value in known.items()},
        "low": {name: low for name, (low, _) in ends.items()},
        "high": {name: high for name, (_, high) in ends.items()},
        "optimal": optimal,
    }


def _flat(row):
    """A row whose metrics are columns of their own; fields of points come first."""
    flat = {k: v for k, v in row.items() if not isinstance(v, dict)}
    if "seeds" in flat:
        flat["seeds"] = len(flat["seeds"])
    columns = {}
    for name, value in row["metrics"].items():
        columns[name] = value
        for part in ("deviations", "low", "high"):
            if part in row:
                columns[f"{name}_{part.removesuffix('s')}"] = row[part][name]
    return flat | {name: v for name, v in columns.items() if name not in flat}


def _means(by_seed):
    return points.means_of(by_seed.values()) if by_seed else {}


def _check_alike(frontiers):
    """Refuses frontiers whose tickets were compared under other conditions."""
    for name in ("monitor", "selected_by"):
        values = {getattr(frontier, name) for frontier in frontiers}
        if len(values) > 1:
            raise ValueError(
                f"`frontiers` must have the same `{name}`. Received: {sorted(values)}. "
                f"Set `{name}` of each to the metric to compare."
            )
    for name in ("epochs", "batch_size"):
        known = [f.provenance[name] for f in frontiers if name in f.provenance]
        if any(value != known[0] for value in known):
            raise ValueError(
                f"The tickets of `frontiers` must be trained alike. Received: {name} "
                f"{arguments.shown(known)}. Train them again with the same {name}."
            )
    _check_settings([frontier.provenance for frontier in frontiers])


def _check_settings(origins):
    """Refuses searches of one label whose known settings differ beyond the seed."""
    known: dict[str, dict] = {}
    for origin in origins:
        for label, settings in origin.get("searches", {}).items():
            first = known.setdefault(label, settings)
            common = [n for n in first if n in settings and n not in _OF_SEED]
            names = [n for n in common if first[n] != settings[n]]
            if names:
                raise ValueError(
                    "The searches of one label in `frontiers` must have the same "
                    f"settings. Received: {label!r} with {names[0]} "
                    f"{arguments.shown(first[names[0]])} and "
                    f"{arguments.shown(settings[names[0]])}. Give one of them another "
                    "label, or join the others."
                )


def _joined_provenance(origins):
    searches: dict = {}
    for origin in origins:
        searches |= origin.get("searches", {})
    return {
        **{n: origins[0][n] for n in ("epochs", "batch_size") if n in origins[0]},
        "searches": searches,
        "joined": origins,
    }
