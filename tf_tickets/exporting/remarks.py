"""Explains why an export is no faster than the dense model."""

import pathlib
import platform
from collections.abc import Iterable

import keras
import numpy as np

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
        List of sentences. Empty if the export is faster with every batch size.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
    >>> remarks(model, "tflite", "float32", {1: {"median": 0.3}})
    []
    """
    slow = [b for b, ratio in ratios.items() if ratio["median"] > _FASTER]
    if ratios and not slow:
        return []
    if format != "tflite":
        return [_AS_DENSE[format]]
    return list(_tflite_remarks(model, precision, slow))


_AS_DENSE = {
    "saved_model": "Not faster: sparse kernels are decoded when the model is loaded, "
    "and TensorFlow computes with dense kernels.",
    "keras": "Not faster: only the file is smaller; the loaded model is dense.",
    "onnx": "Neither smaller before compression nor faster: ONNX runtimes require "
    "dense tensors.",
}


def _tflite_remarks(model, precision, slow):
    if precision == "int8" or precision == "dynamic":
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
            "Sparse fully connected layers are faster with batch size 1 and a sparsity "
            "of about 90 % or more, if they dominate the latency. With larger batch "
            "sizes, dense layers are faster."
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
    sparsity = 1 - sum(map(np.count_nonzero, pointwise)) / max(
        1, sum(k.size for k in pointwise)
    )
    if sparsity <= _MIN_SPARSITY:
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
