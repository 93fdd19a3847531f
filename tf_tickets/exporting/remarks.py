"""Explains why an export is no smaller or faster, and what would make it so."""

import pathlib
import platform
from collections.abc import Iterable

import keras
import numpy as np

from tf_tickets.compaction import dead_units
from tf_tickets.compaction.finding import find_units
from tf_tickets.exporting.export_report import FEW_ZEROS, ExportReport
from tf_tickets.reports.costs import CostCounter
from tf_tickets.units import registry
from tf_tickets.wrapping import paths

# XNNPACK uses sparse kernels in 1x1 convolutions above this sparsity.
_MIN_SPARSITY = 2 / 3
# An export counts as faster below this latency relative to dense.
_FASTER = 0.9


def remarks(
    model: keras.Model, format: str, precision: str, ratios: dict[int, dict]
) -> list[str]:
    """Returns one explanation for each reason why an export is no faster.

    Args:
        model: The plain model.
        format: See `export`.
        precision: See `export`.
        ratios: Dict from batch size to the measured latency relative to dense.

    Returns:
        List of sentences. Empty if the export is faster with every batch size, or the
        model has no zeros to be faster by.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
    >>> remarks(model, "tflite", "float32", {1: {"median": 0.3}})
    []
    """
    fast = all(ratio["median"] <= _FASTER for ratio in ratios.values())
    if (ratios and fast) or _zeros(_matrices(model)) < FEW_ZEROS:
        return []
    if format != "tflite":
        return [_AS_DENSE[format]]
    return list(_tflite_remarks(model, precision))


def _matrices(model):
    values = (keras.ops.convert_to_numpy(v.value) for v in model.variables)
    return [array for array in values if array.ndim > 1]


def _zeros(arrays):
    """Returns the fraction of zeros."""
    size = sum(array.size for array in arrays)
    return 1 - sum(map(np.count_nonzero, arrays)) / size if size else 0.0


def general(model: keras.Model, report: ExportReport) -> list[str]:
    """Returns what would make an export smaller, in whatever format.

    Args:
        model: The plain model.
        report: The report of its export.

    Returns:
        List of sentences.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
    >>> sizes = {"sparse": 9, "sparse_gzipped": 8, "dense_gzipped": 5, "bound": 3}
    >>> general(model, ExportReport("a.tflite", "tflite", "float32", 0.5, sizes))
    ["After gzip, this is 60.0% larger than the dense tflite of the same precision: ...
    """
    return [*_compact_first(model), *_larger_after_gzip(report)]


def _compact_first(model):
    """Yields how much `compact` would save, if channels have no weights."""
    if not registry.is_graph(model) or not _has_empty_columns(model):
        return
    units = find_units(model)
    dead = dead_units.likely(model, units)
    counter = CostCounter(model, units)
    before, after = counter.dense, counter.count(~dead)
    rows = {"parameters": (before.params, after.params)}
    if not counter.unknown and before.macs:
        rows["multiply-adds"] = (before.macs, after.macs)
    left = {name: now / then for name, (then, now) in rows.items() if then}
    if min(left.values(), default=1.0) > 1 - FEW_ZEROS:
        return
    shares = " and ".join(f"{share:.0%} of the {name}" for name, share in left.items())
    yield (
        f"{dead.sum()} of {units.size} channels and neurons have no weights. Call "
        f"tt.compact(model) first and export its result: about {shares} would be left, "
        "in every format and on every device."
    )


def _has_empty_columns(model):
    """Returns whether a kernel that is not empty has an output without weights."""
    return any(
        array.any() and not array.any(axis=tuple(range(array.ndim - 1))).all()
        for array in _matrices(model)
    )


def _larger_after_gzip(report):
    sparse = report.sizes.get("sparse_gzipped", 0)
    dense = report.sizes.get("dense_gzipped", sparse)
    is_small = report.sparsity < FEW_ZEROS or sparse <= (1 + FEW_ZEROS) * dense
    if is_small or report.format not in _DENSE_WRITERS:
        return
    yield (
        f"After gzip, this is {sparse / dense - 1:.1%} larger than the dense "
        f"{report.format} of the same precision: {sparse:,} against {dense:,} bytes, "
        "as indices compress less than zeros. To send it gzipped, use "
        f"{_DENSE_WRITERS[report.format]}."
    )


# What writes dense files in formats that are not compressed themselves.
_DENSE_WRITERS = {
    "tflite": "the file of TensorFlow's converter",
    "saved_model": "that of model.export",
}


_AS_DENSE = {
    "saved_model": "Not faster: sparse kernels are decoded when the model is loaded, "
    "and TensorFlow computes with dense kernels.",
    "keras": "Not faster: only the file is smaller; the loaded model is dense.",
    "onnx": "Neither smaller before compression nor faster: ONNX runtimes require "
    "dense tensors.",
}


def _tflite_remarks(model, precision):
    if precision in ("int8", "int16x8", "dynamic"):
        yield (
            "Not faster: there are no sparse kernels for 8-bit weights. Compress the "
            "file with gzip to reduce its size."
        )
        return
    if precision == "float16":
        yield "Not faster: float16 weights are decoded when the model is loaded."
        return
    kernels = list(_convolutions(model))
    if kernels:
        yield from _convolution_remarks(model, kernels)
    if _has_dense(model):
        yield (
            "Fully connected layers become faster from about 90 % zeros on in blocks "
            'of four inputs (structure="4x1"), with any batch size, and from about '
            "95 % single zeros on with batch size 1; with larger batches, single zeros "
            "make them slower below about 98 %. Below 88 % zeros (80 % in blocks), 2:4 "
            "included, they are decoded when the file is loaded, and as fast as dense."
        )
    elif not kernels:
        yield "Not faster: there are no sparse operators for the layers of this model."


def _convolution_remarks(model, kernels):
    if has_avx():
        yield (
            "Convolutions are not faster on this processor: XNNPACK uses sparse "
            "convolutions only on processors without AVX, such as ARM."
        )
    pointwise = [k for k in kernels if k.shape[:-2] == (1,) * (k.ndim - 2)]
    sparsity = _zeros(pointwise)
    if pointwise and sparsity <= _MIN_SPARSITY:
        yield (
            "XNNPACK's sparse convolutions require 1x1 kernels with a sparsity above "
            f"two thirds. This model has {len(pointwise)} such kernels with a sparsity "
            f"of {sparsity:.0%}."
        )
    if not _has_supported_stem(model):
        yield (
            "XNNPACK's sparse convolutions require a first 3x3 convolution with 3 "
            "input channels and stride 2, padded by ZeroPadding2D(1)."
        )


def _convolutions(model: keras.Model) -> Iterable[np.ndarray]:
    for layer in paths.walk(model):
        if isinstance(layer, keras.layers.Conv1D | keras.layers.Conv2D):
            yield keras.ops.convert_to_numpy(layer.kernel.value)


def _has_dense(model):
    return any(isinstance(x, keras.layers.Dense) for x in paths.walk(model))


def _has_supported_stem(model):
    convolutions = (x for x in paths.walk(model) if isinstance(x, keras.layers.Conv2D))
    first = next(convolutions, None)
    return first is not None and (
        tuple(first.kernel.shape[:3]) == (3, 3, 3)
        and tuple(first.strides) == (2, 2)
        and first.padding == "valid"
    )


def has_avx() -> bool:
    """Returns whether this processor has AVX.

    On x86 it is assumed if it cannot be determined.

    Example:

    >>> has_avx() in (True, False)
    True
    """
    if platform.machine().lower() not in ("x86_64", "amd64", "i386", "i686"):
        return False
    info = pathlib.Path("/proc/cpuinfo")
    return " avx" in info.read_text() if info.exists() else True
