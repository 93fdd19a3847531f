"""Writes a subject into a folder, measures and checks it."""

import dataclasses
import gzip
import io
import os
import pathlib
import tarfile
from typing import Any

import numpy as np

from tf_tickets import wrapping
from tf_tickets.exporting import keras_file, onnx_file, remarks, signature, verification
from tf_tickets.exporting.export_report import ExportReport, Stored
from tf_tickets.exporting.formats import SUFFIXES
from tf_tickets.exporting.saved_model import inference, packing, trainable
from tf_tickets.exporting.signature import Interface
from tf_tickets.exporting.source import Subject
from tf_tickets.exporting.tflite import converter

_BITS = {"float32": 32, "float16": 16, "dynamic": 8, "int8": 8}


@dataclasses.dataclass(frozen=True)
class Order:
    """What is to be written.

    Args:
        subject: The model.
        takes: Its inputs.
        inputs: Dict from an input to examples.
        expected: What the model gives for the first of them.
        format: As in `export`, and so are the others.
        precision: Of TFLite files.
        trainable: Whether it is to be trained on.
        verify: Whether to run it.
        tolerance: The largest relative error.
    """

    subject: Subject
    takes: Interface
    inputs: dict[str, np.ndarray]
    expected: dict[str, np.ndarray]
    format: str
    precision: str
    trainable: bool
    verify: bool
    tolerance: float

    @property
    def rows(self) -> dict[str, np.ndarray]:
        """The examples that `expected` belongs to."""
        count = len(next(iter(self.expected.values())))
        return {name: array[:count] for name, array in self.inputs.items()}


def perform(order: Order, folder: pathlib.Path) -> ExportReport:
    """Writes `sparse` and, to compare with, `dense` into a folder; gives the report.

    Args:
        order: What is to be written.
        folder: An empty folder.
    """
    suffix = SUFFIXES[order.format]
    artefacts = {kind: folder / f"{kind}{suffix}" for kind in ("sparse", "dense")}
    tensors = _WRITERS[order.format](order, artefacts)
    artefacts = {kind: path for kind, path in artefacts.items() if path.exists()}
    checked = _check(order, artefacts) if order.verify else verification.Check({}, {})
    about = order.format, order.precision
    return ExportReport(
        os.fspath(artefacts["sparse"]),
        *about,
        order.subject.sparsity,
        {**_sizes(artefacts), "bound": _bound(order)},
        tensors,
        checked.errors,
        checked.ratios,
        _remarks(order, checked.ratios),
        order.subject.provenance,
    )


def _remarks(order, ratios):
    if order.trainable:
        return _remarks_to_train(order)
    about = order.format, order.precision
    return remarks.remarks(order.subject.plain, *about, ratios)


def _remarks_to_train(order):
    if order.format != "saved_model":
        return []
    plain = order.subject.plain
    plain(order.takes.nested(order.rows), **signature.told(plain, training=False))
    regularized = sum(v.regularizer is not None for v in plain.trainable_variables)
    return (
        [_TO_TRAIN, _NO_PENALTIES] if len(plain.losses) > regularized else [_TO_TRAIN]
    )


_NO_PENALTIES = (
    "Penalties of activities (`activity_regularizer`, `add_loss`) are not in the file: "
    "`regularization_losses` are those of weights."
)
_TO_TRAIN = (
    "Kernels are put together from the kept weights in every call: that is for "
    "training. To serve, export without trainable=True."
)


def _check(order, artefacts):
    return verification.check(
        artefacts,
        order.takes,
        order.rows,
        order.expected,
        format=order.format,
        tolerance=order.tolerance,
        trainable=order.trainable,
    )


# Each writer gives how every tensor is stored.


def _saved_model(order, artefacts):
    found, takes = order.subject, order.takes
    inference.write(found.plain, takes, artefacts["dense"], sparse=False)
    if order.trainable:
        to = artefacts["sparse"]
        ways = trainable.write(found.plain, takes, to, found.masks)
    else:
        ways = inference.write(found.plain, takes, artefacts["sparse"])
    return _stored(found, ways)


def _tflite(order, artefacts):
    found = order.subject
    given = found.plain, order.takes, artefacts["dense"], order.precision
    converter.write(*given, order.inputs)
    rows = converter.encode(artefacts["dense"], artefacts["sparse"], found.provenance)
    return [
        Stored(row.tensor, tuple(row.shape), row.sparsity, row.encoding, row.reason)
        for row in rows
    ]


def _keras(order, artefacts):
    found = order.subject
    if order.trainable:
        found.wrapped().save(artefacts["dense"])
    else:
        keras_file.save_for_inference(found.plain, artefacts["dense"])
    keras_file.deflate(artefacts["dense"], artefacts["sparse"])
    return _stored(found, ["deflated"] * len(found.plain.variables))


def _onnx(order, artefacts):
    model, to = order.subject.plain, artefacts["sparse"]
    onnx_file.write(model, to, order.takes, order.rows)
    return _stored(order.subject, ["as it is"] * len(model.variables))


_WRITERS = {
    "saved_model": _saved_model,
    "tflite": _tflite,
    "keras": _keras,
    "onnx": _onnx,
}
_REASONS = {
    "joined": "small dense tensors share a variable, for each takes room in the graph",
    "packed": "gaps and values take less room; decoded once, at load",
    "kept weights": "only these are variables, so that zeros stay zeros",
    "as it is": "ONNX runtimes take dense tensors",
    "deflated": "as its zip allows; Keras loads it as it is",
}


def _stored(found, ways):
    rows = zip(wrapping.plain_paths(found.plain), found.arrays(), ways, strict=True)
    return [_row(path, array, way) for path, array, way in rows]


def _row(path, array, way):
    sparsity = 1 - np.count_nonzero(array) / array.size if array.size else 0.0
    reason = _REASONS.get(way) or _why_dense(array, sparsity)
    return Stored(path, tuple(array.shape), float(sparsity), way, reason)


def _why_dense(array, sparsity):
    if array.ndim < 2:
        return "no kernel"
    if sparsity == 0:
        return "it has no zeros"
    return "packing it would save too little"


# Sizes.


def _sizes(artefacts):
    found = {}
    for kind, path in artefacts.items():
        found[kind], found[f"{kind}_gzipped"] = sizes(path)
    return found


def sizes(path: pathlib.Path) -> tuple[int, int]:
    """Bytes of a file or a folder, raw and gzipped (a folder as a tar).

    Example:

    >>> (tmp_path / "a").write_bytes(bytes(1000))
    1000
    >>> raw, gzipped = sizes(tmp_path / "a")
    >>> raw, gzipped < 100
    (1000, True)
    """
    if path.is_file():
        content = path.read_bytes()
        return len(content), len(gzip.compress(content, 9, mtime=0))
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.add(path, arcname=path.name)
    raw = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return raw, len(gzip.compress(packed.getvalue(), 9, mtime=0))


def _bound(order):
    arrays = order.subject.arrays()
    kernels = [a for a in arrays if packing.is_kernel(a)]
    rest: Any = [a for a in arrays if not packing.is_kernel(a)]
    bits = min(
        _BITS[order.precision], 8 * max((k.itemsize for k in kernels), default=4)
    )
    return packing.bound(kernels, bits) + sum(a.nbytes for a in rest)
