"""The report of an export: sizes, encodings, errors and latency."""

import collections
import dataclasses
import json
import os
from typing import Any

from tf_tickets import arguments, files, schema
from tf_tickets.reports import tables

# Models with fewer zeros are dense: there is nothing to say about their zeros.
FEW_ZEROS = 0.01
_COLUMNS = ("tensor", "shape", "zeros", "stored", "because")
# The columns of files whose tensors have known sizes.
_SIZED_COLUMNS = ("tensor", "shape", "zeros", "bytes", "stored", "because")
# Converters join the names of fused operators. Texts of reports have their ends; the
# JSON and the page of a notebook have all of them.
_LONGEST_NAME = 40
# So many of the largest errors of layers are printed.
_WORST = 5


@dataclasses.dataclass(frozen=True)
class Stored:
    """Describes how a tensor is stored.

    Args:
        name: Name of the tensor.
        shape: Shape of the tensor.
        sparsity: Fraction of zeros.
        encoding: Encoding of the values.
        reason: Reason for the encoding.
        bytes_before: Size of the dense values in bytes, if known.
        bytes_after: Size of the stored values with their indices, if known.
    """

    name: str
    shape: tuple[int, ...]
    sparsity: float
    encoding: str
    reason: str
    bytes_before: int | None = None
    bytes_after: int | None = None

    def cells(self, sized: bool = False) -> list[str]:
        """Returns the cells of a table row.

        Args:
            sized: Whether the table has a column of sizes.
        """
        sizes = [f"{self.bytes_before:,} -> {self.bytes_after:,}"] if sized else []
        shape = tables.shape_text(self.shape)
        zeros = f"{self.sparsity:.1%}"
        return [self.name, shape, zeros, *sizes, self.encoding, self.reason]


@dataclasses.dataclass(frozen=True, repr=False)
class ExportReport:
    """Reports sizes, encodings, errors and latency of an export; prints as a table.

    If the model has no zeros, the number of tensors by encoding replaces the table.

    Args:
        path: Path of the artefact.
        format: Format of the artefact.
        precision: Precision of its weights.
        sparsity: Fraction of zeros in weights of rank 2 or more.
        sizes: Sizes in bytes: "sparse" and "dense", both also with "_gzipped", and
            "bound", the theoretical minimum for indices and values of the nonzeros.
        tensors: Encoding of every tensor.
        errors: Dict from batch size to the largest relative error. Empty if the
            export was not verified.
        ratios: Dict from batch size to the latency relative to the dense artefact, as
            "median" and "quartiles" of interleaved pairs, and the "seconds" of both.
        remarks: Explanations, such as why the artefact is no faster than dense.
        provenance: Origin of the weights, and versions.
        arena: For "tflite-micro", the predicted size of the tensor arena in bytes,
            "sparse" and "dense". The interpreter's own structures come on top.
        layers: For "int8" and "int16x8", dict from tensor to the error of its values
            compared with float32: the root of the mean squared difference, relative
            to that of the values.

    Example:

    >>> sizes = {"sparse": 50, "dense": 100, "bound": 40}
    >>> report = ExportReport("a.keras", "keras", "float32", 0.5, sizes)
    >>> report.over_bound
    1.25
    """

    path: str
    format: str
    precision: str
    sparsity: float
    sizes: dict[str, int]
    tensors: list[Stored] = dataclasses.field(default_factory=list)
    errors: dict[int, float] = dataclasses.field(default_factory=dict)
    ratios: dict[int, dict] = dataclasses.field(default_factory=dict)
    remarks: list[str] = dataclasses.field(default_factory=list)
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)
    arena: dict[str, int] = dataclasses.field(default_factory=dict)
    layers: dict[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        texts = {name: getattr(self, name) for name in ("path", "format", "precision")}
        arguments.check_type(str, **texts)
        arguments.check_between(0.0, 1.0, sparsity=self.sparsity)
        arguments.check_not_negative(**_checked_sizes(self.sizes))
        arguments.listed(Stored, tensors=self.tensors)
        arguments.listed(str, remarks=self.remarks)
        arguments.check_table(int, float, errors=self.errors)
        arguments.check_table(int, dict, ratios=self.ratios)
        arguments.check_table(str, object, provenance=self.provenance)
        arguments.check_table(str, float, layers=self.layers)
        _check_arena(self.arena)

    @property
    def over_bound(self) -> float:
        """The size relative to the theoretical minimum."""
        bound = self.sizes["bound"]
        return self.sizes["sparse"] / bound if bound else float("inf")

    def to_json(self) -> str:
        """Returns the report as JSON."""
        return json.dumps(dataclasses.asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> "ExportReport":
        """Returns a report from the output of `to_json`."""
        content = _parsed(text)
        content["tensors"] = [
            Stored(**{**row, "shape": tuple(row["shape"])})
            for row in content["tensors"]
        ]
        for name in ("errors", "ratios"):
            content[name] = {int(k): value for k, value in content[name].items()}
        return cls(**content)

    def save(self, path: os.PathLike | str) -> None:
        """Writes the report as JSON."""
        with files.replacing(arguments.check_path(path=path)) as draft:
            draft.write_text(self.to_json())

    def __str__(self):
        table = [] if self._is_dense() else ["", self._table()]
        return "\n".join([*self._head(), *table, *self._rest()])

    __repr__ = __str__

    def _repr_html_(self):
        head = tables.html_lines(self._head())
        table = "" if self._is_dense() else tables.html(self._cells(), left=2)
        return head + table + tables.html_lines(self._rest())

    def _is_dense(self):
        return self.sparsity < FEW_ZEROS

    def _head(self):
        zeros = f"{self.sparsity:.1%} zeros" if self.sparsity else "no zeros"
        yield f"{self.path}: {self.format}, {self.precision}, {zeros}"
        for kind in ("sparse", "dense"):
            if kind in self.sizes:
                gzipped = self.sizes.get(f"{kind}_gzipped")
                suffix = "" if gzipped is None else f", gzipped {gzipped:,}"
                yield f"  {kind:6} {self.sizes[kind]:>12,} bytes{suffix}"
        if self._is_dense():
            yield self._encodings()
        else:
            ratio = f"the file is {self.over_bound:.2f} times the theoretical minimum"
            yield f"  bound  {self.sizes['bound']:>12,} bytes; {ratio}"
        if self.arena:
            yield (
                f"  arena  {self.arena['sparse']:>12,} bytes predicted, dense "
                f"{self.arena['dense']:,}"
            )

    def _encodings(self):
        counts = collections.Counter(row.encoding for row in self.tensors)
        stored = ", ".join(f"{count} {name}" for name, count in counts.items())
        return f"  tensors: {stored or 'none'}"

    def _table(self):
        head, *rows = self._cells()
        short = [[_shortened(name), *others] for name, *others in rows]
        return tables.align([head, *short], left=2)

    def _cells(self):
        sized = bool(self.tensors) and all(
            row.bytes_before is not None and row.bytes_after is not None
            for row in self.tensors
        )
        columns = _SIZED_COLUMNS if sized else _COLUMNS
        return [columns, *(row.cells(sized) for row in self.tensors)]

    def _rest(self):
        for batch, error in self.errors.items():
            largest = f"largest error {error:.1e} of the largest output"
            yield f"batch {batch}: {largest}{self._latency(batch)}"
        if not self.errors:
            yield "Not verified."
        yield from self._layer_lines()
        yield from self.remarks

    def _layer_lines(self):
        worst = sorted(self.layers.items(), key=lambda pair: -pair[1])[:_WORST]
        if worst:
            errors = ", ".join(f"{name} {error:.1%}" for name, error in worst)
            yield f"Largest errors of quantized layers, accumulated: {errors}."

    def _latency(self, batch):
        if batch not in self.ratios:
            return ""
        low, high = self.ratios[batch]["quartiles"]
        median = self.ratios[batch]["median"]
        return f", latency relative to dense {median:.2f} ({low:.2f} to {high:.2f})"


def _shortened(name):
    """Returns a name without its middle, if it is long."""
    if len(name) <= _LONGEST_NAME:
        return name
    half = (_LONGEST_NAME - 3) // 2
    return f"{name[:half]}...{name[-half:]}"


def _checked_sizes(sizes):
    arguments.check_type(dict, sizes=sizes)
    if not {"sparse", "bound"} <= set(sizes):
        raise ValueError(
            '`sizes` must be a dict with the sizes in bytes of "sparse" and "bound". '
            f"Received: {arguments.shown(sizes)}"
        )
    return {f"sizes: {name}": size for name, size in sizes.items()}


def _check_arena(arena):
    arguments.check_type(dict, arena=arena)
    if arena and set(arena) != {"sparse", "dense"}:
        raise ValueError(
            '`arena` must be empty, or a dict with the sizes in bytes of "sparse" and '
            f'"dense". Received: {arguments.shown(arena)}'
        )
    sizes = {f"arena: {name}": size for name, size in arena.items()}
    arguments.check_not_negative(**sizes)


def _parsed(text):
    """Returns the content of a report in JSON; refuses everything else."""
    arguments.check_type(str, text=text)
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ValueError(
            "`text` must be the output of `to_json`. Received: "
            f"{arguments.shown(text)}: {error}"
        ) from None
    checks: dict[str, schema.Check] = _accepted(ExportReport)
    row = _accepted(Stored)
    sizes = {name: row.pop(name) for name in ("bytes_before", "bytes_after")}
    checks["tensors"] = schema.items(schema.fields(row, sizes))
    checks["errors"] = checks["ratios"] = schema.mapping()
    # Reports of earlier versions lack these.
    later = {name: checks.pop(name) for name in ("arena", "layers")}
    try:
        schema.fields(checks, later)(content, "text")
    except ValueError as error:
        raise ValueError(f"{error}. Received: {arguments.shown(text)}") from None
    return content


def _accepted(kind) -> dict[str, schema.Check]:
    return dict.fromkeys((f.name for f in dataclasses.fields(kind)), schema.accept)
