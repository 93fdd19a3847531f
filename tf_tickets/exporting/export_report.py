"""What an export has written: bytes, encodings, errors, times."""

import dataclasses
import json
import os
from typing import Any

from tf_tickets import files
from tf_tickets.reports import tables

_COLUMNS = ("tensor", "shape", "zeros", "stored", "because")


@dataclasses.dataclass(frozen=True)
class Stored:
    """How one tensor is stored.

    Args:
        name: Its name.
        shape: Its shape.
        sparsity: Fraction of zeros.
        encoding: How it is stored.
        reason: Why so.
    """

    name: str
    shape: tuple[int, ...]
    sparsity: float
    encoding: str
    reason: str

    def cells(self) -> list[str]:
        """As a row of text."""
        shape = tables.shape_text(self.shape)
        return [self.name, shape, f"{self.sparsity:.1%}", self.encoding, self.reason]


@dataclasses.dataclass(frozen=True, repr=False)
class ExportReport:
    """What was written, how small it is, how right and how fast; prints as a table.

    Args:
        path: The artefact.
        format: Its format.
        precision: Of its weights.
        sparsity: Fraction of zeros in the weights of rank 2 and more.
        sizes: Bytes: "sparse", "dense", each "gzipped" too, and the "bound", what
            places and values of the nonzeros take by information theory.
        tensors: How each tensor is stored.
        errors: Dict from a batch size to the largest relative error; empty where it
            was not verified.
        ratios: Dict from a batch size to the time of a call over the dense artefact's,
            "median" and "quartiles" of interleaved pairs.
        remarks: What else is to be known, such as why it is not faster.
        provenance: Where the weights come from, and the versions.

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
        """Bytes over the information bound."""
        bound = self.sizes["bound"]
        return self.sizes["sparse"] / bound if bound else float("inf")

    def to_json(self) -> str:
        """Everything, as JSON."""
        return json.dumps(dataclasses.asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> "ExportReport":
        """The report that `to_json` has written."""
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

    def _head(self):
        yield f"{self.path}: {self.format}, {self.precision}, {self.sparsity:.1%} zeros"
        for kind in ("sparse", "dense"):
            if kind in self.sizes:
                gzipped = self.sizes.get(f"{kind}_gzipped")
                more = "" if gzipped is None else f", gzipped {gzipped:,}"
                yield f"  {kind:6} {self.sizes[kind]:>12,} bytes{more}"
        over = f"the file is {self.over_bound:.2f} times that"
        yield f"  bound  {self.sizes['bound']:>12,} bytes; {over}"

    def _table(self):
        rows = [row.cells() for row in self.tensors]
        return tables.align([_COLUMNS, *rows], left=2)

    def _rest(self):
        for batch, error in self.errors.items():
            largest = f"largest error {error:.1e} of the largest value"
            yield f"batch {batch}: {largest}{self._time(batch)}"
        if not self.errors:
            yield "Not verified."
        yield from self.remarks

    def _time(self, batch):
        if batch not in self.ratios:
            return ""
        low, high = self.ratios[batch]["quartiles"]
        median = self.ratios[batch]["median"]
        return f", time over dense {median:.2f} ({low:.2f} to {high:.2f})"
