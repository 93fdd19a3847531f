"""The report of an export: sizes, encodings, errors and latency."""

import dataclasses
import json
import os
from typing import Any

from tf_tickets import files
from tf_tickets.reports import tables

_COLUMNS = ("tensor", "shape", "zeros", "stored", "because")


@dataclasses.dataclass(frozen=True)
class Stored:
    """Describes how a tensor is stored.

    Args:
        name: Name of the tensor.
        shape: Shape of the tensor.
        sparsity: Fraction of zeros.
        encoding: Encoding of the values.
        reason: Reason for the encoding.
    """

    name: str
    shape: tuple[int, ...]
    sparsity: float
    encoding: str
    reason: str

    def cells(self) -> list[str]:
        """Returns the cells of a table row."""
        shape = tables.shape_text(self.shape)
        return [self.name, shape, f"{self.sparsity:.1%}", self.encoding, self.reason]


@dataclasses.dataclass(frozen=True, repr=False)
class ExportReport:
    """Reports sizes, encodings, errors and latency of an export; prints as a table.

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
            "median" and "quartiles" of interleaved pairs.
        remarks: Explanations, such as why the artefact is no faster than dense.
        provenance: Origin of the weights, and versions.

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
        content = json.loads(text)
        content["tensors"] = [
            Stored(**{**row, "shape": tuple(row["shape"])})
            for row in content["tensors"]
        ]
        for name in ("errors", "ratios"):
            content[name] = {int(k): value for k, value in content[name].items()}
        return cls(**content)

    def save(self, path: os.PathLike | str) -> None:
        """Writes the report as JSON."""
        with files.replacing(path) as draft:
            draft.write_text(self.to_json())

    def __str__(self):
        return "\n".join([*self._head(), "", self._table(), *self._rest()])

    __repr__ = __str__

    def _repr_html_(self):
        head = tables.html_lines(self._head())
        table = tables.html(self._cells(), left=2)
        return head + table + tables.html_lines(self._rest())

    def _head(self):
        yield f"{self.path}: {self.format}, {self.precision}, {self.sparsity:.1%} zeros"
        for kind in ("sparse", "dense"):
            if kind in self.sizes:
                gzipped = self.sizes.get(f"{kind}_gzipped")
                suffix = "" if gzipped is None else f", gzipped {gzipped:,}"
                yield f"  {kind:6} {self.sizes[kind]:>12,} bytes{suffix}"
        ratio = f"the file is {self.over_bound:.2f} times the theoretical minimum"
        yield f"  bound  {self.sizes['bound']:>12,} bytes; {ratio}"

    def _table(self):
        return tables.align(self._cells(), left=2)

    def _cells(self):
        return [_COLUMNS, *(row.cells() for row in self.tensors)]

    def _rest(self):
        for batch, error in self.errors.items():
            largest = f"largest error {error:.1e} of the largest output"
            yield f"batch {batch}: {largest}{self._latency(batch)}"
        if not self.errors:
            yield "Not verified."
        yield from self.remarks

    def _latency(self, batch):
        if batch not in self.ratios:
            return ""
        low, high = self.ratios[batch]["quartiles"]
        median = self.ratios[batch]["median"]
        return f", latency relative to dense {median:.2f} ({low:.2f} to {high:.2f})"
