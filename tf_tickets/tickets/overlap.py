"""How much the masks of two tickets overlap, beside chance."""

import dataclasses
import json
import math
import os
from typing import Any

import numpy as np

from tf_tickets import arguments, files
from tf_tickets.reports import tables
from tf_tickets.structures.structure import Layout, Tables


@dataclasses.dataclass(frozen=True)
class OverlapRow:
    """The overlap of one kernel, or of one group of channels.

    The chance level is that of random masks that keep as many weights of it. Their
    number in common has the hypergeometric distribution.

    Args:
        path: Path of the kernel in the first ticket, or name of the group.
        size: Number of weights, or of the units of the structure.
        first: How many the first ticket keeps.
        second: How many the second ticket keeps.
        shared: How many both keep.
        expected: How many two random masks share on average.
        deviation: The standard deviation of that number.

    Example:

    >>> row = OverlapRow("k", size=100, first=20, second=20, shared=10, expected=4.0,
    ...                  deviation=1.6080605)
    >>> round(row.jaccard, 4), round(row.chance, 4), round(row.z, 2)
    (0.3333, 0.1111, 3.73)
    """

    path: str
    size: int
    first: int
    second: int
    shared: int
    expected: float
    deviation: float

    @property
    def jaccard(self) -> float:
        """Kept in both, divided by kept in either; 0 if nothing is kept."""
        return tables.fraction(self.shared, self.first + self.second - self.shared)

    @property
    def chance(self) -> float:
        """`jaccard` at the expected number of shared weights."""
        return tables.fraction(self.expected, self.first + self.second - self.expected)

    @property
    def z(self) -> float | None:
        """How many standard deviations the shared number lies above the expected one.

        None if chance leaves no choice, since a mask keeps all weights or none.
        """
        if not self.deviation:
            return None
        return (self.shared - self.expected) / self.deviation


@dataclasses.dataclass(frozen=True, repr=False)
class OverlapReport:
    """What `Ticket.overlap` returns. Prints as a table.

    Args:
        noun: What is counted: "weight", or the unit of the tickets' structure.
        rows: One `OverlapRow` for each kernel, or for each group of channels.
        left_out: Paths that only one of the tickets has, or with another shape.

    Example:

    >>> a, b = tt.Ticket({"k": [1, 1, 0, 0]}), tt.Ticket({"k": [1, 0, 1, 0]})
    >>> print(a.overlap(b))
    kernel  size  first  second  shared  expected  overlap  chance     z
    k          4      2       2       1    1±0.58   0.3333  0.3333  +0.0
    total      4      2       2       1    1±0.58   0.3333  0.3333  +0.0
    <BLANKLINE>
    overlap: weights kept in both / kept in either
    chance: the overlap of random masks that keep as many weights of each kernel
    z: shared - expected, in standard deviations of the random masks
    """

    noun: str
    rows: tuple[OverlapRow, ...]
    left_out: tuple[str, ...] = ()

    @property
    def total(self) -> OverlapRow:
        """The overlap of all kernels; the masks of each are chosen independently."""
        sums = {
            name: sum(getattr(row, name) for row in self.rows)
            for name in ("size", "first", "second", "shared", "expected")
        }
        deviation = math.sqrt(sum(row.deviation**2 for row in self.rows))
        return OverlapRow("total", **sums, deviation=deviation)

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as plain Python data.

        Example:

        >>> row = OverlapRow("k", 4, 2, 2, 1, 1.0, 0.5)
        >>> OverlapReport("weight", (row,)).to_dict()["total"]["z"]
        0.0
        """
        return {
            "unit": self.noun,
            "rows": [_plain(row) for row in self.rows],
            "total": _plain(self.total),
            "left_out": list(self.left_out),
        }

    def to_json(self, path: os.PathLike | str) -> None:
        """Writes `to_dict()` to a JSON file, atomically."""
        with files.replacing(arguments.check_path(path=path)) as draft:
            draft.write_text(json.dumps(self.to_dict(), indent=1) + "\n", "utf-8")

    def __str__(self):
        table = tables.align(self._cells(), left=1)
        return "\n\n".join([table, "\n".join(self._remarks())])

    __repr__ = __str__

    def _repr_html_(self):
        return tables.html(self._cells(), left=1) + tables.html_lines(self._remarks())

    def _cells(self):
        first = "kernel" if self.noun != "unit" else "group"
        yield (
            *(first, "size", "first", "second", "shared", "expected"),
            *("overlap", "chance", "z"),
        )
        for row in (*self.rows, self.total):
            yield (
                row.path,
                *(f"{n:,}" for n in (row.size, row.first, row.second, row.shared)),
                f"{row.expected:,.4g}±{row.deviation:.2g}",
                f"{row.jaccard:.4f}",
                f"{row.chance:.4f}",
                "-" if row.z is None else f"{row.z:+.1f}",
            )

    def _remarks(self):
        whole = "group" if self.noun == "unit" else "kernel"
        yield f"overlap: {self.noun}s kept in both / kept in either"
        yield (
            f"chance: the overlap of random masks that keep as many {self.noun}s of "
            f"each {whole}"
        )
        yield "z: shared - expected, in standard deviations of the random masks"
        for path in self.left_out:
            yield f"left out: {path}"


def _plain(row):
    content = dataclasses.asdict(row)
    return {**content, "jaccard": row.jaccard, "chance": row.chance, "z": row.z}


def overlap_of(
    layout: Layout, first: Tables, second: Tables, left_out: tuple[str, ...] = ()
) -> OverlapReport:
    """Returns the overlap of tables of units with equal names.

    Args:
        layout: The layout of both.
        first: Which units the first ticket keeps, by table.
        second: Which units the second ticket keeps, by table.
        left_out: What the report says is left out.

    Example:

    >>> kept = {"k": np.array([True, False])}
    >>> overlap_of(Layout(), kept, kept).total.jaccard
    1.0
    """
    strata = layout.strata(first)
    rows = tuple(
        _row(path, kept, second[path], strata[path]) for path, kept in first.items()
    )
    return OverlapReport(layout.noun, rows, left_out)


def _row(path, first, second, strata):
    groups = strata.ravel()
    # Exact in float64 below 2**53.
    n = np.bincount(groups).astype("float64")
    a = np.bincount(groups, first.ravel())
    b = np.bincount(groups, second.ravel())
    several = np.maximum(n - 1, 1)
    variances = (a / n) * (b / n) * (n - a) * (n - b) / several
    return OverlapRow(
        path,
        int(first.size),
        int(first.sum()),
        int(second.sum()),
        int((first & second).sum()),
        float((a * b / n).sum()),
        math.sqrt(float(variances.sum())),
    )
