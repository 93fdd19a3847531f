"""Writes a model in the requested format, verifies it and creates the report."""

import contextlib
import errno
import gzip
import io
import os
import pathlib
import tarfile
from typing import Any

import numpy as np

from tf_tickets import wrapping
from tf_tickets.exporting import (
    keras_file,
    onnx_file,
    remarks,
    replaced_kernels,
    storage,
    verification,
)
from tf_tickets.exporting.conversion_runner import CALIBRATED
from tf_tickets.exporting.export_report import ExportReport, Stored
from tf_tickets.exporting.formats import BY_TENSORFLOW, SUFFIXES
from tf_tickets.exporting.micro import comparison, micro_file
from tf_tickets.exporting.order import Order, Written
from tf_tickets.exporting.saved_model import inference, packing, trainable
from tf_tickets.exporting.tflite import converter, layers, zeros
from tf_tickets.wrapping import signature

_BITS = {"float32": 32, "float16": 16, "dynamic": 8, "int8": 8, "int16x8": 8}


def perform(order: Order, folder: pathlib.Path) -> ExportReport:
    """Writes the artefacts `sparse` and, for comparison, `dense` to a folder.

    Args:
        order: The export to perform.
        folder: An empty folder.

    Returns:
        The `ExportReport`.
    """
    suffix = micro_file.SUFFIX if _is_micro(order) else SUFFIXES[order.format]
    artefacts = {kind: folder / f"{kind}{suffix}" for kind in ("sparse", "dense")}
    with _with_errors_of_the_system(order.format):
        written = _WRITERS[order.format](order, artefacts)
    artefacts = {kind: path for kind, path in artefacts.items() if path.exists()}
    result = _check(order, artefacts) if order.verify else verification.Check()
    sizes = _sizes(artefacts)
    explained = written.remarks + _remarks(order, result.ratios, artefacts, sizes)
    path = artefacts["sparse"]
    if order.array:
        path = micro_file.write_array(path, order.array)
    return ExportReport(
        path=os.fspath(path),
        format=order.format,
        precision=order.precision,
        sparsity=order.subject.sparsity,
        sizes={**sizes, "bound": _bound(order)},
        tensors=written.tensors,
        errors=result.errors,
        ratios=result.ratios,
        remarks=explained + result.remarks,
        provenance=order.subject.provenance,
        arena=written.arena,
        layers=result.layers,
    )


def _is_micro(order):
    return order.format == "tflite-micro"


@contextlib.contextmanager
def _with_errors_of_the_system(format):
    """Turns TensorFlow's errors about a full or read-only disk into OSErrors."""
    if format not in BY_TENSORFLOW:
        yield
        return
    import tensorflow as tf

    codes = {
        tf.errors.OutOfRangeError: errno.EFBIG,
        tf.errors.PermissionDeniedError: errno.EACCES,
        tf.errors.ResourceExhaustedError: errno.ENOSPC,
    }
    try:
        yield
    except tuple(codes) as error:
        if "OOM" in str(error):  # Memory is exhausted, not the disk.
            raise
        code = codes[type(error)]
        raise OSError(code, os.strerror(code)) from error


def _remarks(order, ratios, artefacts, sizes):
    if order.trainable:
        return _trainable_remarks(order)
    plain = order.subject.plain
    explained = []
    if not _is_micro(order):
        explained = remarks.remarks(plain, order.format, order.precision, ratios)
    if order.precision in CALIBRATED:
        dense = artefacts["dense"].read_bytes()
        explained.append(storage.recommendation(dense, sizes, order.format))
    return explained + replaced_kernels.remarks(plain, order.format)


def _trainable_remarks(order):
    if order.format != "saved_model":
        return []
    plain = order.subject.plain
    plain(order.takes.nested(order.rows), **signature.told(plain, training=False))
    regularized = sum(v.regularizer is not None for v in plain.trainable_variables)
    return (
        [_TRAINABLE, _NO_PENALTIES] if len(plain.losses) > regularized else [_TRAINABLE]
    )


_NO_PENALTIES = (
    "The file does not contain activity penalties (`activity_regularizer`, "
    "`add_loss`). `regularization_losses` contains only weight penalties."
)
_TRAINABLE = (
    "Every call assembles the kernels from the kept weights, which is meant for "
    "training. For serving, export without trainable=True."
)


def _check(order, artefacts):
    if _is_micro(order):
        return comparison.check(order, artefacts)
    return verification.check(
        artefacts,
        order.takes,
        order.rows,
        order.expected,
        format=order.format,
        tolerance=order.tolerance,
        trainable=order.trainable,
        layers=_layers(order, artefacts),
    )


def _layers(order, artefacts):
    """Returns what to compare of a quantized file with its float32 counterpart."""
    if order.format != "tflite" or order.precision not in CALIBRATED:
        return None
    return layers.comparison(artefacts["dense"], layers.counterpart(artefacts["dense"]))


# Every writer returns a `Written`.


def _saved_model(order, artefacts):
    plain, takes = order.subject.plain, order.takes
    inference.write(plain, takes, artefacts["dense"], sparse=False)
    if order.trainable:
        encodings = trainable.write(
            plain, takes, artefacts["sparse"], order.subject.masks
        )
    else:
        encodings = inference.write(plain, takes, artefacts["sparse"])
    return Written(_stored(order.subject, encodings))


def _tflite(order, artefacts):
    dense = artefacts["dense"]
    files = [converter.Conversion(dense, order.precision)]
    calibrated = order.precision in CALIBRATED
    if calibrated and order.verify:
        files.append(converter.Conversion(layers.counterpart(dense)))
    converter.write(
        order.subject.plain, order.takes, files, order.inputs, order.isolated
    )
    rows = converter.encode(dense, artefacts["sparse"], order.subject.provenance)
    explained = [zeros.explain(dense.read_bytes(), order.subject)] if calibrated else []
    return Written(converter.stored(rows), remarks=explained)


def _keras(order, artefacts):
    subject = order.subject
    if order.trainable:
        subject.wrapped().save(artefacts["dense"])
    else:
        keras_file.save_for_inference(subject.plain, artefacts["dense"])
    keras_file.deflate(artefacts["dense"], artefacts["sparse"])
    rows = _stored(subject, ["deflated"] * len(subject.plain.variables))
    return Written(rows)


def _onnx(order, artefacts):
    model = order.subject.plain
    onnx_file.write(model, artefacts["sparse"], order.takes, order.rows)
    return Written(_stored(order.subject, ["unchanged"] * len(model.variables)))


_WRITERS = {
    "saved_model": _saved_model,
    "tflite": _tflite,
    "keras": _keras,
    "onnx": _onnx,
    "tflite-micro": micro_file.write,
}
_REASONS = {
    "joined": "small dense tensors share one variable to save graph nodes",
    "packed": "gaps and values are smaller; decoded once at load time",
    "kept weights": "only kept weights are variables, and pruned weights stay zero",
    "unchanged": "ONNX runtimes require dense tensors",
    "deflated": "compressed in the zip archive; Keras loads it directly",
}


def _stored(subject, encodings):
    table = wrapping.plain_paths(subject.plain)
    rows = zip(table, subject.arrays(), encodings, strict=True)
    return [_row(path, array, encoding) for path, array, encoding in rows]


def _row(path, array, encoding):
    sparsity = 1 - np.count_nonzero(array) / array.size if array.size else 0.0
    reason = _REASONS.get(encoding) or _why_dense(array, sparsity)
    return Stored(path, tuple(array.shape), float(sparsity), encoding, reason)


def _why_dense(array, sparsity):
    if array.ndim < 2:
        return "not a kernel"
    if sparsity == 0:
        return "contains no zeros"
    return "packing would save too little"


# Sizes.


def _sizes(artefacts):
    table = {}
    for kind, path in artefacts.items():
        table[kind], table[f"{kind}_gzipped"] = sizes(path)
    return table


def sizes(path: pathlib.Path) -> tuple[int, int]:
    """Returns the raw and gzipped size of a file or folder in bytes.

    A folder is archived as a tar file before compression.

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
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add(path, arcname=path.name)
    raw = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return raw, len(gzip.compress(archive.getvalue(), 9, mtime=0))


def _bound(order):
    arrays = order.subject.arrays()
    kernels = [a for a in arrays if packing.is_kernel(a)]
    rest: Any = [a for a in arrays if not packing.is_kernel(a)]
    bits = min(
        _BITS[order.precision], 8 * max((k.itemsize for k in kernels), default=4)
    )
    return packing.bound(kernels, bits) + sum(a.nbytes for a in rest)
