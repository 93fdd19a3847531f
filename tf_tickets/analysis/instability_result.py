"""Instability: the error along straight lines between trained networks."""

import dataclasses
import itertools
import json
import os
import statistics
from collections.abc import Iterable
from typing import Any, Self

import numpy as np

from tf_tickets import arguments, files, schema
from tf_tickets.reports import plots, tables
from tf_tickets.search import frontier_file
from tf_tickets.tickets.monitor import Monitor
from tf_tickets.training.rewind import Rewind

# The file that `instability` writes into its directory.
FILE = "instability.json"
_REMEDY = (
    "Delete it and run the analysis again with the same directory: it is written anew."
)
# Below this instability, Frankle et al. call a network stable.
STABLE = 0.02
_ALIKE = ("metric", "part", "batch_statistics")


def moment_of(rewind_to: str | int) -> Rewind:
    """Returns the `Rewind` of a moment; a number counts epochs.

    Example:

    >>> moment_of(2), moment_of(0).moment
    (Rewind('2 epochs', 'weights'), 'init')
    """
    if not isinstance(rewind_to, str) and arguments.is_whole(rewind_to):
        arguments.check_not_negative(rewind_to=rewind_to)
        rewind_to = f"{rewind_to} epochs"
    moment = Rewind(rewind_to)  # type: ignore[arg-type]
    return Rewind("init") if moment.to_init else moment


def name_of(rewind_to: str | int) -> str:
    """Returns the name of a moment in results.

    Example:

    >>> [name_of(moment) for moment in (0, 1, "2 epochs", "500 steps")]
    ['init', '1 epoch', '2 epochs', '500 steps']
    """
    moment = moment_of(rewind_to)
    if moment.to_init:
        return "init"
    unit = moment.unit if moment.count > 1 else moment.unit.removesuffix("s")
    return f"{moment.count} {unit}"


@dataclasses.dataclass(frozen=True)
class Line:
    """The straight line between two networks that were trained from one point.

    Args:
        rewind_to: The point from which both were trained.
        seeds: The seeds of their data orders.
        positions: Where on the line networks were evaluated, from 0, the first of
            the two, to 1, the second.
        errors: The error at each position.
        losses: The loss at each position.
        distance: Euclidean distance between the weights of the two, if it is known.

    Example:

    >>> line = Line("init", (0, 1), (0.0, 0.5, 1.0), (0.2, 0.5, 0.3), (1.0, 2.0, 1.0))
    >>> line.end_error, line.instability
    (0.25, 0.25)
    """

    rewind_to: str
    seeds: tuple[int, int]
    positions: tuple[float, ...]
    errors: tuple[float, ...]
    losses: tuple[float, ...]
    distance: float | None = None

    def __post_init__(self):
        object.__setattr__(self, "rewind_to", name_of(self.rewind_to))
        seeds = arguments.listed(object, seeds=self.seeds)
        for seed in seeds:
            arguments.check_seed(seed)
        if len(seeds) != 2:
            raise ValueError(
                "`seeds` must be two seeds, one for each end of the line. Received: "
                f"{arguments.shown(self.seeds)}"
            )
        object.__setattr__(self, "seeds", tuple(map(int, seeds)))
        for name in ("positions", "errors", "losses"):
            self._set_numbers(name)
        if self.distance is not None and not arguments.is_real(self.distance):
            received = arguments.shown(self.distance)
            raise TypeError(f"`distance` must be a number. Received: {received}")
        positions = self.positions
        rising = all(low < high for low, high in itertools.pairwise(positions))
        if len(positions) < 3 or (positions[0], positions[-1]) != (0, 1) or not rising:
            raise ValueError(
                "`positions` must be at least three numbers that rise from 0 to 1, "
                f"such as (0, 0.5, 1). Received: {arguments.shown(positions)}"
            )

    def _set_numbers(self, name):
        values = arguments.listed(object, **{name: getattr(self, name)})
        if not all(map(arguments.is_real, values)):
            raise TypeError(
                f"`{name}` must be a list of numbers. Received: "
                f"{arguments.shown(values)}"
            )
        if name != "positions" and len(values) != len(self.positions):
            raise ValueError(
                f"`{name}` must have one number for each of the {len(self.positions)} "
                f"positions. Received: {len(values)} numbers."
            )
        object.__setattr__(self, name, tuple(map(float, values)))

    @property
    def end_error(self) -> float:
        """The mean error of the two trained networks."""
        return (self.errors[0] + self.errors[-1]) / 2

    @property
    def instability(self) -> float:
        """The largest error on the line, minus the mean error of its ends."""
        return float(np.max(self.errors)) - self.end_error


@dataclasses.dataclass(frozen=True, repr=False)
class Instability:
    """How far the outcome of a training depends on the order of the data.

    `print(result)` shows a table with one row for each rewind point. A network is
    stable if the error hardly rises on the line between two copies of it that were
    trained with different orders of the data (Frankle et al. 2020).

    Args:
        lines: The lines, by rewind point and pair of seeds.
        metric: The metric from which the error was computed.
        part: The part of the data on which networks were evaluated.
        batch_statistics: How the statistics of batch normalization were set between
            the ends: "interpolated" or "recomputed".
        provenance: Epochs, seed, ticket, versions and other settings.

    Example:

    >>> ends, between = (0.0, 0.5, 1.0), (0.1, 0.4, 0.1)
    >>> lines = [Line("init", (0, 1), ends, between, between),
    ...          Line("2 epochs", (0, 1), ends, (0.1, 0.1, 0.1), (0.3, 0.3, 0.3))]
    >>> result = Instability(lines)
    >>> result.is_stable("init"), result.is_stable(2), result.first_stable()
    (False, True, '2 epochs')
    >>> print(result)
    rewind to  lines  error of the ends  largest error  instability
    init           1             0.1000         0.4000       0.3000
    2 epochs       1             0.1000         0.1000      0.0000*
    * Stable: instability below 0.02. Error: 1 - accuracy, on test data.
    """

    lines: tuple[Line, ...]
    metric: str = "accuracy"
    part: str = "test"
    batch_statistics: str = "interpolated"
    provenance: dict = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        lines = arguments.listed(Line, lines=self.lines)
        object.__setattr__(self, "lines", tuple(lines))
        if not lines:
            raise ValueError(
                "`lines` must have at least one line. Received: []. Run "
                "tf_tickets.analysis.instability(...), which measures them."
            )
        for name in ("metric", "part", "batch_statistics"):
            arguments.check_type(str, **{name: getattr(self, name)})
        arguments.check_type(dict, provenance=self.provenance)
        places = [(line.rewind_to, line.seeds) for line in lines]
        if len(set(places)) < len(places):
            [twice, *_] = [place for place in places if places.count(place) > 1]
            raise ValueError(
                "`lines` must be different lines. Received twice: the line from "
                f"{twice[0]!r} with the seeds {twice[1]}. Remove one of them."
            )
        if any(line.positions != lines[0].positions for line in lines):
            raise ValueError(
                "`lines` must have the same positions. Received: lines of "
                f"{sorted({len(line.positions) for line in lines})} points. Measure "
                "them again with the same `points`."
            )

    @classmethod
    def load(cls, path: os.PathLike | str) -> Self:
        """Reads a result that `save` or `instability` wrote as JSON.

        Args:
            path: The file, or the directory of `instability`, in which it is named
                "instability.json".
        """
        path = arguments.check_path(path=path)
        if path.is_dir():
            path = path / FILE
        if not path.is_file():
            raise FileNotFoundError(
                f"There is no instability analysis at {path}. Pass the path of a "
                "file that `Instability.save` wrote, or the directory of "
                "`tf_tickets.analysis.instability`."
            )
        content = files.read_json(path, _CHECK, _REMEDY)
        with files.checking(path, "JSON"):
            lines = [Line(**line) for line in content.pop("lines")]
            return cls(tuple(lines), **content)

    @classmethod
    def join(cls, results: Iterable["Instability"]) -> Self:
        """Returns the lines of several results, such as those of several tickets.

        Args:
            results: Results of different rewind points or seeds, with equal `metric`,
                `part`, `batch_statistics` and positions.

        Example:

        >>> def of(moment):
        ...     line = Line(moment, (0, 1), (0.0, 0.5, 1.0), (0, 0, 0), (0, 0, 0))
        ...     return Instability([line])
        >>> Instability.join([of("init"), of(1)]).rewind_points
        ['init', '1 epoch']
        """
        listed = arguments.listed(Instability, results=results)
        if not listed:
            raise ValueError(
                "`results` must have at least one result. Received: []. Load some by "
                "Instability.load."
            )
        for name in _ALIKE:
            values = sorted({getattr(result, name) for result in listed})
            if len(values) > 1:
                raise ValueError(
                    f"`results` must have the same `{name}`. Received: {values}. "
                    "Measure them again with equal settings."
                )
        first = listed[0]
        return cls(
            tuple(line for result in listed for line in result.lines),
            first.metric,
            first.part,
            first.batch_statistics,
            {"joined": [result.provenance for result in listed]},
        )

    @property
    def rewind_points(self) -> list[str]:
        """The names of the rewind points, such as "init" and "2 epochs", by time.

        Points in steps and in epochs are compared by the steps per epoch in
        `provenance`. Without them, those in epochs come last.
        """
        names = dict.fromkeys(line.rewind_to for line in self.lines)
        steps = _steps_per_epoch(self.provenance)
        return sorted(names, key=lambda name: _order(name, steps))

    @property
    def positions(self) -> np.ndarray:
        """Where on the lines networks were evaluated, from 0 to 1."""
        return np.array(self.lines[0].positions)

    @property
    def errors(self) -> dict[str, np.ndarray]:
        """Dict from rewind point to the errors along the line, means over its lines."""
        return self._means("errors")

    @property
    def losses(self) -> dict[str, np.ndarray]:
        """Dict from rewind point to the losses along the line, means over its lines."""
        return self._means("losses")

    @property
    def instability(self) -> dict[str, float]:
        """Dict from rewind point to the mean instability of its lines."""
        return {
            name: statistics.fmean(line.instability for line in self._of(name))
            for name in self.rewind_points
        }

    def _of(self, name):
        return [line for line in self.lines if line.rewind_to == name]

    def _means(self, values):
        return {
            name: np.mean([getattr(line, values) for line in self._of(name)], axis=0)
            for name in self.rewind_points
        }

    def is_stable(
        self, rewind_to: str | int | None = None, *, threshold: float = STABLE
    ) -> bool:
        """Returns whether the instability of a rewind point is below a threshold.

        Args:
            rewind_to: The rewind point; may be left out if there is only one.
            threshold: The instability from which on it is unstable. The default is
                that of Frankle et al., two points of classification error; for an
                error that is a loss, choose your own.
        """
        arguments.check_numbers(threshold=threshold)
        points = self.rewind_points
        if rewind_to is None and len(points) > 1:
            raise ValueError(
                "`rewind_to` must be given, since there are several rewind points. "
                f"Expected one of {points}. Received: None. `first_stable` returns the "
                "first stable one."
            )
        name = points[0] if rewind_to is None else name_of(rewind_to)
        if name not in points:
            raise ValueError(
                f"`rewind_to` must be one of {points}. Received: "
                f"{arguments.shown(rewind_to)}"
            )
        return bool(self.instability[name] < threshold)

    def first_stable(self, threshold: float = STABLE) -> str | None:
        """Returns the rewind point from which on all are stable, or None.

        Args:
            threshold: As in `is_stable`.
        """
        arguments.check_numbers(threshold=threshold)
        units = {moment_of(n).unit for n in self.rewind_points if n != "init"}
        if len(units) > 1 and _steps_per_epoch(self.provenance) is None:
            raise ValueError(
                "Rewind points in steps and in epochs can only be compared if "
                '`provenance` has one "steps_per_epoch" for all results. Received: '
                f"{self.rewind_points}. Name all points in the same unit."
            )
        found = None
        for name in reversed(self.rewind_points):
            if not self.is_stable(name, threshold=threshold):
                break
            found = name
        return found

    def rows(self) -> list[dict[str, Any]]:
        """Returns one plain dict for each evaluated network."""
        return [
            {
                "rewind_to": line.rewind_to,
                "first_seed": line.seeds[0],
                "second_seed": line.seeds[1],
                "position": position,
                "error": error,
                "loss": loss,
            }
            for line in self.lines
            for position, error, loss in zip(
                line.positions, line.errors, line.losses, strict=True
            )
        ]

    def to_pandas(self) -> Any:
        """Returns a pandas DataFrame with one row for each evaluated network.

        Its columns are "rewind_to", "first_seed", "second_seed", "position", "error"
        and "loss".
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError("to_pandas requires pandas: pip install pandas") from (
                error
            )
        return pandas.DataFrame(self.rows())

    def save(self, path: os.PathLike | str) -> None:
        """Writes the result as JSON, which `load` reads, or its rows as CSV.

        Args:
            path: The file to write. Its suffix selects the format: `.json` or `.csv`.
        """
        path = arguments.check_path(path=path)
        suffix = path.suffix.lower()
        if suffix not in (".csv", ".json"):
            raise ValueError(
                "The suffix of a result's file must be '.json', which "
                f"`Instability.load` reads, or '.csv'. Received: {os.fspath(path)!r}"
            )
        if suffix == ".csv":
            frontier_file.write_csv(path, self.rows())
            return
        content = json.dumps(dataclasses.asdict(self), default=arguments.plain)
        with files.replacing(path) as draft:
            draft.write_text(content)

    def plot(
        self,
        path: os.PathLike | str,
        title: str = "Error between two trained copies",
        *,
        threshold: float = STABLE,
    ) -> None:
        """Plots the error along the lines and, of several points, the instability.

        Args:
            path: The file to write. Its suffix selects the format: `.png`, `.svg`
                or `.pdf`.
            title: Title of the plot.
            threshold: As in `is_stable`; drawn as a dashed line.
        """
        arguments.check_numbers(threshold=threshold)
        plots.plot_lines(
            self.positions.tolist(),
            {name: [line.errors for line in self._of(name)] for name in self.errors},
            {n: [line.instability for line in self._of(n)] for n in self.errors},
            path,
            title,
            error=f"{self._error}, {self.part} data",
            threshold=threshold,
        )

    @property
    def _error(self):
        return error_name(self.metric)

    def __str__(self):
        return "\n".join([tables.align(self._cells(), left=1), self._note()])

    def __repr__(self):
        values = ", ".join(f"{n}: {v:.4f}" for n, v in self.instability.items())
        return f"Instability({values})"

    def _repr_html_(self):
        return tables.html(self._cells(), left=1, caption=self._note())

    def _cells(self):
        head = ("rewind to", "lines", "error of the ends", "largest error")
        cells = [(*head, "instability")]
        for name, value in self.instability.items():
            lines = self._of(name)
            ends = statistics.fmean(line.end_error for line in lines)
            largest = statistics.fmean(float(np.max(line.errors)) for line in lines)
            mark = "*" if self.is_stable(name) else ""
            numbers = (f"{ends:.4f}", f"{largest:.4f}", f"{value:.4f}{mark}")
            cells.append((name, str(len(lines)), *numbers))
        return cells

    def _note(self):
        normalized = ""
        if self.batch_statistics == "recomputed":
            normalized = " Statistics of batch normalization: recomputed."
        return (
            f"* Stable: instability below {STABLE}. Error: {self._error}, on "
            f"{self.part} data.{normalized}"
        )


def _steps_per_epoch(provenance):
    """Returns the steps per epoch of a result or of all joined ones, or None."""
    if "joined" in provenance:
        found = {_steps_per_epoch(each) for each in provenance["joined"]}
        return found.pop() if len(found) == 1 else None
    steps = provenance.get("steps_per_epoch")
    return steps if arguments.is_whole(steps) else None


def _order(name, steps):
    """Returns what rewind points are sorted by."""
    moment = moment_of(name)
    if moment.to_init:
        return 0, 0
    if moment.unit == "steps":
        return 0, moment.count
    return (1, moment.count) if steps is None else (0, moment.count * steps)


def error_name(metric: str) -> str:
    """Returns how an error is computed from a metric.

    Example:

    >>> error_name("accuracy"), error_name("loss")
    ('1 - accuracy', 'loss')
    """
    return metric if Monitor(metric).merit({metric: 1.0}) < 0 else f"1 - {metric}"


_NUMBERS = schema.items(schema.number)
_CHECK = schema.fields(
    {
        "lines": schema.items(
            schema.fields(
                {
                    "rewind_to": schema.text,
                    "seeds": schema.items(schema.count, length=2),
                    "positions": _NUMBERS,
                    "errors": _NUMBERS,
                    "losses": _NUMBERS,
                    "distance": schema.optional(schema.number),
                }
            )
        ),
        "metric": schema.text,
        "part": schema.text,
        "batch_statistics": schema.text,
        "provenance": schema.mapping(),
    }
)
