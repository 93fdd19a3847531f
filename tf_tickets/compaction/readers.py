"""How Dense and convolutional layers read a constant channel."""

import keras
import numpy as np

CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
READERS = (keras.layers.Dense, *CONVOLUTIONS)


def channel_axis(layer: keras.layers.Layer, rank: int) -> int:
    """Returns the axis of the channels that a Dense or convolutional layer reads.

    Args:
        layer: The layer.
        rank: The number of axes of its input, with the batch.

    Example:

    >>> channel_axis(keras.layers.Dense(2), 3)
    2
    """
    first = getattr(layer, "data_format", None) == "channels_first"
    return 1 if first else rank - 1


def input_axis(layer: keras.layers.Layer) -> int:
    """Returns the axis of the kernel along which channels are read.

    Example:

    >>> input_axis(keras.layers.Dense(2))
    0
    """
    return 0 if isinstance(layer, keras.layers.Dense) else layer.rank


def by_kernel(layer: keras.layers.Layer, channels: np.ndarray) -> np.ndarray:
    """Returns the values along the input axis of the kernel; NaN where groups differ.

    Args:
        layer: A Dense or convolutional layer.
        channels: A value for each channel of its input.

    Example:

    >>> conv = keras.layers.Conv1D(4, 1, groups=2)
    >>> by_kernel(conv, np.array([0.0, 5.0, 0.0, 6.0]))
    array([ 0., nan])
    """
    rows = channels.reshape(getattr(layer, "groups", 1), -1)
    return np.where((rows == rows[0]).all(axis=0), rows[0], np.nan)


def why_not_folded(layer: keras.layers.Layer) -> str | None:
    """Returns why a constant input of a layer cannot move to its bias.

    Args:
        layer: A layer that reads channels.

    Example:

    >>> why_not_folded(keras.layers.Dense(2)) is None
    True
    >>> why_not_folded(keras.layers.Conv2D(2, 3, padding="same"))
    "padding 'same' makes it smaller at the borders"
    """
    kind = next((kind for kind in READERS if isinstance(layer, kind)), None)
    if kind is None or type(layer).call is not kind.call:
        return f"a {type(layer).__name__} has no bias for it"
    if not layer.use_bias and type(layer) is not kind:
        # The constructor of a subclass need not take one.
        return f"a {type(layer).__name__} has no bias for it"
    if kind is keras.layers.Dense:
        return None
    if layer.groups > 1:
        return "a convolution in groups has no bias for it"
    if layer.padding != "valid" and any(size > 1 for size in layer.kernel_size):
        return f"padding {layer.padding!r} makes it smaller at the borders"
    return None


def response(
    layer: keras.layers.Layer, kernel: np.ndarray, constants: np.ndarray
) -> np.ndarray:
    """Returns what constant channels add to each output of a layer.

    Args:
        layer: A layer whose constant inputs can move to its bias.
        kernel: The value of its kernel.
        constants: A value for each position of the input axis, 0 where there is none.

    Example:

    >>> response(keras.layers.Dense(2), np.array([[1, 2], [3, 4]]), np.array([0, 10]))
    array([30., 40.])
    """
    rows = kernel.astype(float).reshape(-1, *kernel.shape[-2:]).sum(axis=0)
    return constants @ rows
