"""The report on a model: kernels, weights kept and multiply-adds."""

import csv
import dataclasses
import io
import json
import math
import os

import keras
import numpy as np

from tf_tickets import arguments, files, keras_internals, wrapping
from tf_tickets.reports import flops, tables
from tf_tickets.structures.blocks import Blocks
from tf_tickets.structures.channels import Channels
from tf_tickets.structures.structure import Unstructured
from tf_tickets.wrapping import paths
from tf_tickets.wrapping.choosing import NOT_KERNELS, why_not

_COLUMNS = (
    "path",
    "shape",
    "size",
    "kept",
    "sparsity",
    "flops",
    "flops_kept",
    "skipped_because",
)


@dataclasses.dataclass(frozen=True)
class KernelRow:
    """One kernel of a report.

    Args:
        path: Path in the plain model.
        shape: Shape of the kernel.
        size: Number of weights.
        kept: Number of weights kept.
        flops: Multiply-adds per example of the dense kernel, or None if unknown.
        flops_kept: Multiply-adds per example of the weights kept.

    Example:

    >>> KernelRow("d/kernel", (3, 2), size=6, kept=3, flops=6, flops_kept=3).sparsity
    0.5
    """

    path: str
    shape: tuple[int, ...]
    size: int
    kept: int
    flops: int | None
    flops_kept: int | None

    @property
    def sparsity(self) -> float:
        """Fraction of zeros."""
        return tables.fraction(self.size - self.kept, self.size)


@dataclasses.dataclass(frozen=True)
class SkippedRow:
    """One variable that is not pruned, and why.

    Example:

    >>> SkippedRow("d/bias", (2,), 2, "rank 1").reason
    'rank 1'
    """

    path: str
    shape: tuple[int, ...]
    size: int
    reason: str


@dataclasses.dataclass(frozen=True, repr=False)
class Report:
    """The report that `summary` returns. Prints as a table.

    Args:
        name: Name of the model.
        rows: One `KernelRow` per kernel.
        skipped: One `SkippedRow` for each other weight.
        weights: Number of weights of the model, prunable or not.
        notes: Assumptions behind the numbers.

    Example:

    >>> report = Report("net", [KernelRow("d/kernel", (3, 2), 6, 3, 6, 3)], [], 8)
    >>> report.sparsity, report.sparsity_of_all_weights, report.flops_kept
    (0.5, 0.375, 0.5)
    """

    name: str
    rows: list[KernelRow]
    skipped: list[SkippedRow]
    weights: int
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Number of prunable weights."""
        return sum(row.size for row in self.rows)

    @property
    def kept(self) -> int:
        """Number of prunable weights kept."""
        return sum(row.kept for row in self.rows)

    @property
    def sparsity(self) -> float:
        """Fraction of zeros among the prunable weights."""
        return tables.fraction(self.size - self.kept, self.size)

    @property
    def sparsity_of_all_weights(self) -> float:
        """Number of pruned weights divided by the number of all weights."""
        return tables.fraction(self.size - self.kept, self.weights)

    @property
    def flops(self) -> int:
        """Multiply-adds per example of the dense kernels, where known."""
        return sum(row.flops for row in self._counted)

    @property
    def flops_kept(self) -> float | None:
        """Fraction of `flops` that is kept, or None if none are known."""
        kept = sum(row.flops_kept for row in self._counted)
        return kept / self.flops if self.flops else None

    @property
    def _counted(self):
        return [row for row in self.rows if row.flops is not None]

    def to_dict(self) -> dict[str, object]:
        """Returns the report as plain Python data."""
        return {
            "model": self.name,
            "kernels": [
                {
                    **dataclasses.asdict(row),
                    "shape": list(row.shape),
                    "sparsity": row.sparsity,
                }
                for row in self.rows
            ],
            "skipped": [
                {**dataclasses.asdict(row), "shape": list(row.shape)}
                for row in self.skipped
            ],
            "totals": {
                "weights": self.weights,
                "size": self.size,
                "kept": self.kept,
                "sparsity": self.sparsity,
                "sparsity_of_all_weights": self.sparsity_of_all_weights,
                "flops": self.flops,
                "flops_kept": self.flops_kept,
            },
            "notes": list(self.notes),
        }

    def to_json(self, path: os.PathLike | str) -> None:
        """Writes `to_dict()` to a JSON file, atomically."""
        with files.replacing(arguments.check_path(path=path)) as draft:
            draft.write_text(json.dumps(self.to_dict(), indent=1) + "\n", "utf-8")

    def to_csv(self, path: os.PathLike | str) -> None:
        """Writes one line per variable to a CSV file, kernels first, atomically."""
        text = io.StringIO()
        writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
        writer.writeheader()
        for row in self.rows:
            cells = {**dataclasses.asdict(row), "sparsity": row.sparsity}
            writer.writerow({**cells, "shape": tables.shape_text(row.shape)})
        for left in self.skipped:
            cells = {"path": left.path, "shape": tables.shape_text(left.shape)}
            cells |= {"size": left.size, "skipped_because": left.reason}
            writer.writerow(cells)
        with files.replacing(arguments.check_path(path=path)) as draft:
            draft.write_text(text.getvalue(), "utf-8")

    def __str__(self):
        lines = [f"Model {self.name!r}", "", tables.align(self._cells(), left=2), ""]
        return "\n".join([*lines, *self._remarks(), *self._left_alone()])

    __repr__ = __str__

    def _repr_html_(self):
        table = tables.html(self._cells(), left=2, caption=f"Model {self.name!r}")
        return table + tables.html_lines([*self._remarks(), *self._left_alone()])

    def _cells(self):
        yield ("kernel", "shape", "size", "kept", "sparsity", "MACs", "MACs kept")
        for row in self.rows:
            yield (
                row.path,
                tables.shape_text(row.shape),
                f"{row.size:,}",
                f"{row.kept:,}",
                f"{row.sparsity:.4f}",
                tables.number(row.flops),
                tables.number(row.flops_kept),
            )
        kept = sum(row.flops_kept for row in self._counted) if self._counted else None
        yield (
            "total",
            "",
            f"{self.size:,}",
            f"{self.kept:,}",
            f"{self.sparsity:.4f}",
            tables.number(self.flops if self._counted else None),
            tables.number(kept),
        )

    def _remarks(self):
        yield (
            f"sparsity {self.sparsity:.4f} among {self.size:,} prunable weights, "
            f"{self.sparsity_of_all_weights:.4f} among all {self.weights:,}"
        )
        if self.flops_kept is not None:
            yield f"MACs (multiply-adds per example) kept: {self.flops_kept:.4f}"
        unknown = len(self.rows) - len(self._counted)
        if unknown:
            kernels = tables.count_of(unknown, "kernel")
            yield f"? MACs of {kernels} are unknown and not in the totals"
        yield from self.notes

    def _left_alone(self):
        """One line per reason, with the first few paths."""
        groups: dict[str, list[SkippedRow]] = {}
        for row in self.skipped:
            groups.setdefault(row.reason, []).append(row)
        if groups:
            yield "Not prunable:"
        for reason, rows in groups.items():
            size = sum(row.size for row in rows)
            shown = ", ".join(row.path for row in rows[:3])
            more = f" and {len(rows) - 3} more" if len(rows) > 3 else ""
            variables = tables.count_of(len(rows), "variable")
            count = f"{variables} of {tables.count_of(size, 'value')}"
            yield f"  {reason}: {count}: {shown}{more}"


def summary(model: keras.Model) -> Report:
    """Reports sparsity and multiply-adds of a model by kernel.

    The attributes `flops` count multiply-adds (MACs) per example, padding included.
    Each is two floating-point operations. A shared layer counts once per call. The
    numbers are None for layers that are not from Keras, and where a dimension, such as
    the sequence length, is not fixed.

    Args:
        model: A built Keras model. In a wrapped model the masks are counted. In a
            plain model every zero of a kernel counts as pruned, so a stripped model
            shows its sparsity.

    Returns:
        A `Report`. It prints as a table, has the numbers in `rows`, `skipped` and
        its properties, and writes them with `to_csv` and `to_json`.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, name="d")],
    ...                          name="net")
    >>> print(summary(model))
    Model 'net'
    <BLANKLINE>
    kernel        shape  size  kept  sparsity  MACs  MACs kept
    net/d/kernel  3x4      12    12    0.0000    12         12
    total                  12    12    0.0000    12         12
    <BLANKLINE>
    sparsity 0.0000 among 12 prunable weights, 0.0000 among all 16
    MACs (multiply-adds per example) kept: 1.0000
    Not prunable:
      rank 1: 1 variable of 4 values: net/d/bias
    """
    _check_model(model)
    names = {id(v): path for path, v in wrapping.plain_paths(model).items()}
    kernels = _kernels(model, names)
    counter = flops.UseCounter(model)
    rows = [
        _row(path, variable, kept, counter.uses.get(id(variable)))
        for path, (variable, kept) in kernels.items()
    ]
    weights = sum(_size(v) for v in model.weights if id(v) in names)
    notes = counter.notes([variable for variable, _ in kernels.values()])
    notes = (*notes, *_about_units(model))
    return Report(model.name, rows, _skipped(model, kernels), weights, notes)


def _about_units(model):
    """Returns a line on the units of a model whose channels or blocks are pruned."""
    kernels = wrapping.kernels(model)
    if not isinstance(_common_structure(kernels), Blocks | Channels):
        return []
    units = kernels.layout.units(kernels.masks)
    kept = sum(int(alive.sum()) for alive in units.values())
    size = sum(alive.size for alive in units.values())
    groups = tables.count_of(len(units), "group")
    return [f"{kept:,} of {size:,} {kernels.layout.noun}s kept in {groups}"]


def _common_structure(kernels):
    """Returns the structure of a model; none if its layers have several."""
    found = {layer.structure for layer in kernels.layers}
    return kernels.structure if len(found) == 1 else Unstructured()


def _check_model(model):
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"`model` must be a Keras model, plain or wrapped. Received: {model!r} of "
            f"type {type(model).__name__}. Pass the model itself."
        )
    if not model.built:
        raise ValueError(
            f"Model {model.name!r} is not built, so it has no kernels yet. Call it on "
            "data, call model.build(input_shape), or start it with keras.Input(shape)."
        )


def _kernels(model, names):
    """Dict from path to (variable, number of weights kept)."""
    if wrapping.prunables(model):
        masks = wrapping.kernels(model).masks
        found = wrapping.kernels(model).variables
        return {path: (v, int(masks[path].sum())) for path, v in found.items()}
    return {
        names[id(o.variable)]: (o.variable, _count_nonzero(o.variable))
        for leaf in wrapping.leaves(model)
        for o in paths.variables_of(leaf)
        if why_not(o, depthwise=_has_zeros(o.variable)) is None
    }


def _has_zeros(variable):
    return _count_nonzero(variable) < _size(variable)


def _count_nonzero(variable):
    return int(np.count_nonzero(keras.ops.convert_to_numpy(variable)))


def _row(path, variable, kept, uses):
    size = _size(variable)
    if len(variable.shape) < 2 or any(word in variable.name for word in NOT_KERNELS):
        # A bias or normalization of a channel, which counts as no multiplication.
        return KernelRow(path, tuple(variable.shape), size, kept, 0, 0)
    flops = (None, None) if uses is None else (size * uses, kept * uses)
    return KernelRow(path, tuple(variable.shape), size, kept, *flops)


def _skipped(model, kernels):
    reasons: dict[int, str] = {}
    structure = _common_structure(wrapping.kernels(model))
    for leaf in wrapping.leaves(model):
        for owned in paths.variables_of(flops.unwrapped(leaf)):
            reason = why_not(owned, structure=structure) or "excluded by filters"
            if isinstance(structure, Channels):
                reason = "not a part of units that can be pruned"
            reasons.setdefault(id(owned.variable), reason)
    return [
        SkippedRow(
            path,
            tuple(v.shape),
            _size(v),
            reasons.get(id(v), "held by the model itself, not by a layer of it"),
        )
        for path, v in wrapping.plain_paths(model).items()
        if path not in kernels and not keras_internals.is_seed_state(v)
    ]


def _size(variable):
    return math.prod(variable.shape)
