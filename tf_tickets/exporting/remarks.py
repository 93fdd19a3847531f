"""Why an exported model is not faster than its dense twin, where it is not."""

import pathlib
import platform
from collections.abc import Iterable

import keras
import numpy as np

from tf_tickets.wrapping import paths

# XNNPACK multiplies sparsely above this share of zeros in 1x1 convolutions.
_LEAST = 2 / 3
_FASTER = 0.9


def remarks(
    model: keras.Model, format: str, precision: str, ratios: dict[int, dict]
) -> list[str]:
    """A sentence for each cause.

    Args:
        model: The plain model.
        format: As in `export`.
        precision: As in `export`.
        ratios: What was measured; where it is faster at every batch, nothing is said.

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
    return list(_of_tflite(model, precision, slow))


_AS_DENSE = {
    "saved_model": "Not faster: sparse kernels are decoded when the model is loaded, "
    "and TensorFlow multiplies zeros like other numbers.",
    "keras": "Not faster: the file is smaller, the loaded model is an ordinary one.",
    "onnx": "Neither smaller nor faster before it is compressed: ONNX runtimes take "
    "dense tensors.",
}


def _of_tflite(model, precision, slow):
    if precision == "int8" or precision == "dynamic":
        yield (
            "Not faster: there are no sparse kernels for weights of 8 bits; gzip makes "
            "the file small."
        )
        return
    if precision == "float16":
        yield "Not faster: half-precision weights are made dense when it is loaded."
        return
    kernels = list(_convolutions(model))
    if kernels:
        yield from _of_convolutions(model, kernels)
    if _has_dense(model):
        yield (
            "Sparse fully connected layers pay at batch 1 and from about 90 % zeros "
            "on, where they are what takes the time; with larger batches dense ones "
            "are faster."
        )
    elif not kernels:
        yield "Not faster: there are sparse operators for layers of other kinds only."


def _of_convolutions(model, kernels):
    if has_avx():
        yield (
            "Convolutions are not faster on this processor: it has AVX, and XNNPACK "
            "takes its sparse convolutions only where there is none (ARM)."
        )
    pointwise = [k for k in kernels if k.shape[:-2] == (1,) * (k.ndim - 2)]
    zeros = 1 - sum(map(np.count_nonzero, pointwise)) / max(
        1, sum(k.size for k in pointwise)
    )
    if zeros <= _LEAST:
        yield (
            f"XNNPACK's sparse convolutions are 1x1 and want more than two thirds of "
            f"zeros; there are {zeros:.0%} in {len(pointwise)} such kernels."
        )
    if not _begins_as_wanted(model):
        yield (
            "XNNPACK's sparse convolutions want a first convolution of 3x3 with stride "
            "2 and 3 channels, padded by ZeroPadding2D(1)."
        )


def _convolutions(model: keras.Model) -> Iterable[np.ndarray]:
    for layer in paths.walk(model):
        if isinstance(layer, keras.layers.Conv1D | keras.layers.Conv2D):
            yield keras.ops.convert_to_numpy(layer.kernel.value)


def _has_dense(model):
    return any(isinstance(x, keras.layers.Dense) for x in paths.walk(model))


def _begins_as_wanted(model):
    convolutions = (x for x in paths.walk(model) if isinstance(x, keras.layers.Conv2D))
    first = next(convolutions, None)
    return first is not None and (
        tuple(first.kernel.shape[:3]) == (3, 3, 3)
        and tuple(first.strides) == (2, 2)
        and first.padding == "valid"
    )


def has_avx() -> bool:
    """Whether this processor has AVX; on x86 that is assumed where it cannot be read.

    Example:

    >>> has_avx() in (True, False)
    True
    """
    if platform.machine().lower() not in ("x86_64", "amd64", "i386", "i686"):
        return False
    info = pathlib.Path("/proc/cpuinfo")
    return " avx" in info.read_text() if info.exists() else True
