"""The report of `Ticket.apply`: what a model took from a ticket, and what not."""

import dataclasses
import json
import math
import os
from typing import Any

from tf_tickets import arguments, files
from tf_tickets.reports import tables

# What a row says about where the mask of a kernel comes from.
TICKET, UNITS, OWN, NONE = "ticket", "channels", "own", "none"


@dataclasses.dataclass(frozen=True)
class KernelRow:
    """A kernel of the model after `Ticket.apply`.

    Args:
        path: Its path in the plain model.
        shape: Its shape.
        kept: How many of its weights are kept.
        mask: Where its mask comes from: "ticket"; "channels" if it follows from the
            channels that the ticket prunes; "own" for the mask that a wrapped model
            had before; "none" for a kernel that is left dense.

    Example:

    >>> KernelRow("d/kernel", (4, 2), 6, "ticket").size
    8
    """

    path: str
    shape: tuple[int, ...]
    kept: int
    mask: str

    @property
    def size(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)


@dataclasses.dataclass(frozen=True)
class Skipped:
    """A part of the ticket that was not used.

    Args:
        path: The path in the ticket.
        part: "mask" or "weights".
        reason: Why.

    Example:

    >>> Skipped("head/kernel", "mask", "no such variable").part
    'mask'
    """

    path: str
    part: str
    reason: str


@dataclasses.dataclass(frozen=True, repr=False)
class ApplyReport:
    """What `Ticket.apply` used of a ticket. Prints as a table.

    Args:
        model: Name of the model.
        masks: Dict from the path of each mask that was used, in the ticket, to that in
            the model.
        weights: The same of the start weights.
        masks_in_ticket: Number of masks of the ticket.
        weights_in_ticket: Number of its start weights and statistics; 0 with
            `masks_only`.
        kernels: One `KernelRow` for each kernel of the model.
        skipped: The parts of the ticket that were not used, and why.
        unchanged: Paths of variables of the model that keep their values.

    Example:

    >>> ticket = tt.Ticket({"net/a/kernel": [[1, 0]], "net/b/kernel": [[1], [0]]})
    >>> layers = [keras.layers.Dense(2, name="a"), keras.layers.Dense(3, name="head")]
    >>> model = keras.Sequential([keras.Input((1,)), *layers], name="net")
    >>> model, report = ticket.apply(
    ...     model, strict=False, masks_only=True, return_report=True)
    >>> print(report)
    Model 'net': 1 of 2 masks of the ticket applied, sparsity 0.1250
    <BLANKLINE>
    kernel           mask    shape  kept/total  sparsity
    net/a/kernel     ticket    1x2         1/2    0.5000
    net/head/kernel  none      2x3         6/6    0.0000
    total                                  7/8    0.1250
    <BLANKLINE>
    Not used:
      mask of net/b/kernel: no such variable
    All 4 variables of the model keep their values.
    """

    model: str
    masks: dict[str, str]
    weights: dict[str, str]
    masks_in_ticket: int
    weights_in_ticket: int
    kernels: tuple[KernelRow, ...]
    skipped: tuple[Skipped, ...]
    unchanged: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether the whole ticket was used."""
        return not self.skipped

    @property
    def dense(self) -> list[str]:
        """Paths of the kernels that are left dense, without a mask."""
        return [row.path for row in self.kernels if row.mask == NONE]

    @property
    def sparsity(self) -> float:
        """Fraction of pruned weights in all kernels of the model, dense ones too."""
        size = sum(row.size for row in self.kernels)
        return tables.fraction(size - sum(row.kept for row in self.kernels), size)

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as plain Python data.

        Example:

        >>> rows = (KernelRow("d/kernel", (4, 2), 6, "ticket"),)
        >>> masks = {"d/kernel": "d/kernel"}
        >>> report = ApplyReport("net", masks, {}, 1, 0, rows, (), ())
        >>> report.to_dict()["sparsity"]
        0.25
        """
        content = dataclasses.asdict(self)
        return {
            **content,
            "kernels": list(content["kernels"]),
            "skipped": list(content["skipped"]),
            "unchanged": list(self.unchanged),
            "dense": self.dense,
            "sparsity": self.sparsity,
        }

    def to_json(self, path: os.PathLike | str) -> None:
        """Writes `to_dict()` to a JSON file, atomically."""
        with files.replacing(arguments.check_path(path=path)) as draft:
            draft.write_text(json.dumps(self.to_dict(), indent=1) + "\n", "utf-8")

    def __str__(self):
        table = tables.align(self._cells(), left=2)
        remarks = "\n".join(self._remarks())
        return "\n\n".join(filter(None, [self.title(), table, remarks]))

    __repr__ = __str__

    def _repr_html_(self):
        table = tables.html(self._cells(), left=2, caption=self.title())
        return table + tables.html_lines(self._remarks())

    def title(self) -> str:
        """Returns the report in one line."""
        used = f"{len(self.masks):,} of {tables.count_of(self.masks_in_ticket, 'mask')}"
        if self.weights_in_ticket:
            total = tables.count_of(self.weights_in_ticket, "start value")
            used += f" and {len(self.weights):,} of {total}"
        return (
            f"Model {self.model!r}: {used} of the ticket applied, sparsity "
            f"{self.sparsity:.4f}"
        )

    def why_skipped(self) -> str:
        """Returns the first parts that were not used, and why, as a sentence."""
        shown = [f"{r.part} of {r.path}: {r.reason}" for r in self.skipped[:3]]
        more = len(self.skipped) - 3
        end = f"; and {more:,} more" if more > 0 else ""
        return f"Not used: {'; '.join(shown)}{end}."

    def _cells(self):
        yield ("kernel", "mask", "shape", "kept/total", "sparsity")
        for row in self.kernels:
            yield (row.path, row.mask, tables.shape_text(row.shape), *_counts([row]))
        yield ("total", "", "", *_counts(self.kernels))

    def _remarks(self):
        if self.skipped:
            yield "Not used:"
        for row in self.skipped:
            yield f"  {row.part} of {row.path}: {row.reason}"
        if self.unchanged and not self.weights:
            count = tables.count_of(len(self.unchanged), "variable")
            yield f"All {count} of the model keep their values."
        elif self.unchanged:
            shown = ", ".join(self.unchanged[:3])
            more = len(self.unchanged) - 3
            shown += f" and {more:,} more" if more > 0 else ""
            count = tables.count_of(len(self.unchanged), "variable")
            yield f"{count} of the model kept as before: {shown}"


def _counts(rows):
    size, kept = sum(row.size for row in rows), sum(row.kept for row in rows)
    return f"{kept:,}/{size:,}", f"{tables.fraction(size - kept, size):.4f}"
