"""The report on a compaction: widths, what stayed and why, costs and the check."""

import dataclasses
import json
import os

from tf_tickets import arguments, files
from tf_tickets.compaction.dead_units import Kept
from tf_tickets.reports import plots, tables
from tf_tickets.reports.costs import Cost

_COSTS = {"params": "parameters", "macs": "MACs", "bytes": "bytes"}


@dataclasses.dataclass(frozen=True)
class WidthRow:
    """How many outputs of one kernel remain.

    Args:
        path: Path of the kernel in the plain model.
        before: Number of outputs before: channels, units of recurrent layers, which
            have a column for each gate, or heads of attention.
        after: Number of outputs that remain.
        pinned: Why outputs could not be removed, or None if they could.
        whole: Why no output was removed, though some could be, or None.

    Example:

    >>> WidthRow("a/kernel", before=4, after=3).removed
    1
    """

    path: str
    before: int
    after: int
    pinned: str | None = None
    whole: str | None = None

    @property
    def removed(self) -> int:
        """Number of outputs removed."""
        return self.before - self.after


@dataclasses.dataclass(frozen=True, repr=False)
class CompactReport:
    """The report that `compact` returns. Prints as a table.

    Args:
        name: Name of the model.
        rows: One `WidthRow` for each kernel that produces channels.
        kept: Units that do not depend on the inputs, or are not read, but stayed, and
            why. Often there are none.
        units: Number of units before.
        removed: Number of units removed.
        dense: Parameters, multiply-adds (MACs) and bytes of the given model with its
            pruned weights.
        masked: The same of the weights that are not pruned, in the column "weights
            kept": what a sparse format and a sparse runtime would take. If it is much
            less than `compact`, the pruned weights are not whole units.
        compact: The same of the smaller model, zeros in it included.
        folded: Number of layers whose bias took over constants.
        difference: The largest difference between the outputs of the two models on a
            few examples, relative to the range of the outputs.
        seconds: How long it took.
        unknown: Paths of kernels whose multiply-adds are unknown, and not in the
            costs.
        notes: Assumptions behind the multiply-adds.

    Example:

    >>> costs = Cost(40, 32, 160), Cost(30, 24, 120), Cost(30, 24, 120)
    >>> print(CompactReport("net", [WidthRow("a/kernel", 4, 3)], [], 4, 1, *costs,
    ...                     folded=0, difference=1e-7, seconds=0.25))
    Model 'net': 1 of 4 units removed
    <BLANKLINE>
    kernel    width  compact
    a/kernel      4        3
    <BLANKLINE>
                dense  weights kept  compact  compact / dense
    parameters     40            30       30           0.7500
    MACs           32            24       24           0.7500
    bytes         160           120      120           0.7500
    <BLANKLINE>
    checked difference 1e-07 of the outputs' range, 0.2 s
    """

    name: str
    rows: list[WidthRow]
    kept: list[Kept]
    units: int
    removed: int
    dense: Cost
    masked: Cost
    compact: Cost
    folded: int
    difference: float
    seconds: float
    unknown: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, object]:
        """Returns the report as plain Python data."""
        return {
            "model": self.name,
            "units": self.units,
            "removed": self.removed,
            "kernels": [dataclasses.asdict(row) for row in self.rows],
            "kept": [dataclasses.asdict(row) for row in self.kept],
            "dense": _plain(self.dense),
            "masked": _plain(self.masked),
            "compact": _plain(self.compact),
            "folded": self.folded,
            "difference": self.difference,
            "seconds": self.seconds,
            "unknown": list(self.unknown),
            "notes": list(self.notes),
        }

    def to_json(self, path: os.PathLike | str) -> None:
        """Writes `to_dict()` to a JSON file, atomically."""
        with files.replacing(arguments.check_path(path=path)) as draft:
            draft.write_text(json.dumps(self.to_dict(), indent=1) + "\n", "utf-8")

    def plot(self, path: os.PathLike | str) -> None:
        """Draws the widths before and after, by kernel.

        Args:
            path: The file to write. Its suffix selects the format: `.png`, `.svg` or
                `.pdf`.
        """
        widths = {row.path: (row.before, row.after) for row in self.rows}
        plots.plot_widths(widths, path, self._title())

    def __str__(self):
        parts = [
            self._title(),
            tables.align(self._widths(), left=1),
            tables.align(self._costs(), left=1),
            "\n".join(self._remarks()),
        ]
        return "\n\n".join(parts)

    __repr__ = __str__

    def _repr_html_(self):
        widths = tables.html(self._widths(), left=1, caption=self._title())
        costs = tables.html(self._costs(), left=1)
        return widths + costs + tables.html_lines(self._remarks())

    def _title(self):
        units = tables.count_of(self.units, "unit")
        return f"Model {self.name!r}: {self.removed:,} of {units} removed"

    def _widths(self):
        yield ("kernel", "width", "compact")
        for row in self.rows:
            yield (row.path, f"{row.before:,}", f"{row.after:,}")

    def _costs(self):
        yield ("", "dense", "weights kept", "compact", "compact / dense")
        for name, title in _COSTS.items():
            numbers = [
                getattr(c, name) for c in (self.dense, self.masked, self.compact)
            ]
            ratio = tables.fraction(numbers[2], numbers[0])
            yield (title, *(f"{n:,}" for n in numbers), f"{ratio:.4f}")

    def _remarks(self):
        if self.folded:
            layers = tables.count_of(self.folded, "layer")
            yield f"constants of removed units were added to the biases of {layers}"
        yield (
            f"checked difference {self.difference:.2g} of the outputs' range, "
            f"{self.seconds:.1f} s"
        )
        if not self.removed:
            yield self.why_nothing()
        if self.unknown:
            count = tables.count_of(len(self.unknown), "kernel")
            yield f"? MACs of {count} are unknown and not in the table: " + _listed(
                self.unknown
            )
        yield from self.notes
        yield from self._reasons("pinned", "Cannot be removed:")
        yield from self._reasons("whole", "Could be removed, but was not:")
        if self.kept:
            yield "Constant or unused units that stayed:"
        for row in self.kept:
            yield f"  {tables.count_of(row.count, 'unit')} of {row.group}: {row.reason}"

    def _reasons(self, field, title):
        """A line for each reason, with the first few paths."""
        reasons: dict[str, list[str]] = {}
        for row in self.rows:
            if getattr(row, field) is not None:
                reasons.setdefault(getattr(row, field), []).append(row.path)
        if reasons:
            yield title
        for reason, paths in reasons.items():
            yield f"  {_listed(paths)}: {reason}"

    def why_nothing(self) -> str:
        """Returns why no unit was removed, and what to do."""
        if not self.units:
            return (
                "Nothing was removed: no layer has units that can be removed. Give "
                "layers of custom classes a rule (tf_tickets.register_rule)."
            )
        if self.masked == self.dense:
            return (
                "Nothing was removed: no weight is zero. Pass a wrapped model, or one "
                "that was pruned."
            )
        return (
            "Nothing was removed: each unit has weights that reach the outputs, or is "
            "the last of its layer. Prune more, or prune whole units: "
            'tf_tickets.wrap(model, structure="channels").'
        )


def _listed(paths):
    """Returns the first few paths, and how many more there are."""
    more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    return f"{', '.join(paths[:3])}{more}"


def _plain(cost):
    return {name: getattr(cost, name) for name in _COSTS}
