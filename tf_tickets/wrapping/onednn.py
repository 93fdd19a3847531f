"""Warns of networks whose training damages memory, through a defect of oneDNN.

TensorFlow computes convolutions on CPUs with oneDNN. In the gradient of a strided
convolution of one pixel with few input channels it writes past a buffer
(github.com/uxlfoundation/oneDNN/issues/6035): the program crashes, or other numbers
change. Shortcuts of narrow or compact residual networks are such layers.
"""

import inspect
import os
import pathlib
import platform
import sys
import warnings

import keras

from tf_tickets.wrapping import paths

# TensorFlow uses oneDNN by default if the processor has any of these features.
_SWITCHED_ON_BY = {
    "avx512_vnni",
    "avx512_bf16",
    "avx_vnni",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
}
_PROCESSOR = pathlib.Path("/proc/cpuinfo")
_KINDS = (
    keras.layers.Conv1D,
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2D,
    keras.layers.Conv2DTranspose,
)
_told: set[tuple[str, ...]] = set()


def warn(model: keras.Model, trainer: keras.Model | None = None) -> None:
    """Warns if TensorFlow may damage memory while it trains a model.

    Networks with the same layers are reported once per process. Those that are
    compiled with XLA are safe.

    Args:
        model: A built model.
        trainer: The model whose `fit` trains it, if it is another one.

    Example:

    >>> warn(keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)]))
    """
    trainer = model if trainer is None else trainer
    if trainer.compiled and trainer.jit_compile:
        return
    points = list(_strided_points(model))
    unsafe = unsafe_below() if points else 0
    layers = [
        f"{paths.bare(layer.name)!r} ({channels})"
        for layer, channels in points
        if channels < unsafe
    ]
    # Searches build their model again and again, with other numbers in its names.
    if not layers or tuple(layers) in _told:
        return
    _told.add(tuple(layers))
    warnings.warn(
        f"If TensorFlow trains {model.name!r} on this CPU, oneDNN may write past "
        "its memory in the gradients of these strided convolutions of one pixel with "
        f"fewer than {unsafe} input channels: {', '.join(layers)}. The program may "
        "crash, or other numbers change without a message "
        "(github.com/uxlfoundation/oneDNN/issues/6035). Set the environment variable "
        "TF_ENABLE_ONEDNN_OPTS=0 before TensorFlow is imported, compile with "
        "jit_compile=True, or train on JAX.",
        stacklevel=_stack_level(),
    )


def _stack_level():
    """Returns the level, for the caller, of the first line outside of the package."""
    package = f"{pathlib.Path(__file__).parents[1]}{os.sep}"
    frame, level = inspect.currentframe(), 0
    while frame is not None and frame.f_code.co_filename.startswith(package):
        frame, level = frame.f_back, level + 1
    return level


def unsafe_below() -> int:
    """Returns the smallest safe number of input channels, 0 if all are safe.

    Example:

    >>> unsafe_below() in (0, 8, 16)
    True
    """
    if keras.config.backend() != "tensorflow" or platform.machine() not in (
        "x86_64",
        "AMD64",
    ):
        return 0
    features = _features()
    if not _switched_on(features) or _has_gpu():
        return 0
    # On Windows the features are not known: what is safe on every processor.
    if features is None or "avx512f" in features:
        return 16
    return 8 if "avx2" in features else 0


def _features():
    """Returns the feature flags of the processor, None if they are not known."""
    try:
        lines = _PROCESSOR.read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, values = line.partition(":")
        if name.strip() == "flags":
            return set(values.split())
    return None


def _switched_on(features):
    switch = os.environ.get("TF_ENABLE_ONEDNN_OPTS", "").lower()
    if switch in ("0", "false"):
        return False
    if switch in ("1", "true"):
        return True
    if sys.platform == "win32":
        return True
    return features is not None and bool(features & _SWITCHED_ON_BY)


def _has_gpu():
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))


def _strided_points(model):
    """Yields the convolutions of one pixel with a stride, and their input channels."""
    for layer in paths.walk(model):
        if (
            isinstance(layer, _KINDS)
            and layer.built
            and set(layer.kernel_size) == {1}
            and max(layer.strides) > 1
            and getattr(layer, "groups", 1) == 1
            and layer.data_format == "channels_last"
        ):
            # A transposed convolution is the gradient of one that reads its filters.
            yield layer, layer.kernel.shape[-2]
