"""Compares the outputs of a smaller model with those of the model it was made from."""

from typing import Any

import keras
import numpy as np

from tf_tickets.wrapping import paths, signature

# Tolerances relative to the part of the outputs that depends on the inputs.
_TOLERANCES = {"float16": 5e-2, "bfloat16": 5e-2, "float32": 1e-4, "float64": 1e-10}
# Rounding errors of a network relative to its largest output, as a part of them.
_ROUNDING = 0.04


def check(model: keras.Model, small: keras.Model, inputs: Any) -> float:
    """Compares two models, and raises a ValueError if they do not agree.

    Args:
        model: The model.
        small: The smaller model.
        inputs: Examples for both.

    Returns:
        The largest difference of an output, relative to the largest difference between
        two examples, or to the largest output if all examples have the same.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> check(model, model, np.ones((1, 2)))
    0.0
    """
    expected, actual = _outputs(model, inputs), _outputs(small, inputs)
    tolerance = _tolerance(model, expected)
    differences = [_difference(*pair) for pair in zip(expected, actual, strict=True)]
    relative = max(error / scale for error, scale, _ in differences)
    if not all(
        error <= tolerance * (scale + _ROUNDING * largest)
        for error, scale, largest in differences
    ):
        raise ValueError(
            f"The smaller model does not agree with {model.name!r}, so it is not "
            f"returned. Received: outputs that differ by {relative:.2g} of their range "
            f"over {len(keras.tree.flatten(inputs)[0])} examples. Expected: at most "
            f"{tolerance:g}. A rule of one of its layers may be wrong: check those "
            "that you registered. Or the model is random when it predicts, or takes "
            "other inputs: pass examples, data=x."
        )
    return relative


def _outputs(model, inputs):
    outputs = model(inputs, **signature.told(model, training=False))
    flat = keras.tree.flatten(outputs)
    return [np.asarray(keras.ops.convert_to_numpy(output)) for output in flat]


def _difference(expected, actual):
    """Returns the largest error, the range over the examples and the largest output."""
    expected, actual = expected.astype(float), actual.astype(float)
    if expected.shape != actual.shape or not np.isfinite(expected).all():
        return np.inf, 1.0, 0.0
    error = float(np.abs(expected - actual).max(initial=0.0))
    largest = float(np.abs(expected).max(initial=0.0))
    scale = float(np.ptp(expected, axis=0).max(initial=0.0))
    if not scale > 1e-6 * largest:
        scale = largest
    return error if np.isfinite(actual).all() else np.inf, scale or 1.0, largest


def _tolerance(model, outputs):
    """Returns the tolerance for the layer or output of least precision."""
    dtypes = {str(layer.compute_dtype) for layer in paths.walk(model)}
    # JAX computes in float32 if float64 is not enabled.
    dtypes |= {output.dtype.name for output in outputs}
    return max(_TOLERANCES[dtype] for dtype in dtypes & set(_TOLERANCES))
