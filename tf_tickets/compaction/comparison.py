"""Compares the outputs of a smaller model with those of the model it was made from."""

from typing import Any

import keras
import numpy as np

from tf_tickets.compaction.compiling import Caller
from tf_tickets.wrapping import paths, signature

# Tolerances relative to the part of an output that depends on the inputs.
_TOLERANCES = {"float16": 5e-2, "bfloat16": 5e-2, "float32": 1e-4, "float64": 1e-10}
# Rounding errors of a network relative to its largest output.
_ROUNDING = {"float16": 1e-2, "bfloat16": 5e-2, "float32": 4e-6, "float64": 4e-12}


class Comparison:
    """Compares smaller models with a model on examples.

    Each feature of each output is compared by its own range, so that large outputs do
    not hide errors of small ones.

    Args:
        model: The model. If its outputs on the examples are not finite, a ValueError is
            raised.
        inputs: The examples.
        call: What calls the models.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> Comparison(model, np.ones((1, 2)), Caller()).check(model)
    0.0
    """

    def __init__(self, model: keras.Model, inputs: Any, call: Caller) -> None:
        self._model = model
        self._inputs = inputs
        self._call = call
        self._expected = self._outputs(model)
        self._check_finite()

    def check(self, small: keras.Model) -> float:
        """Compares a smaller model, and raises a ValueError if it does not agree.

        Args:
            small: The smaller model.

        Returns:
            The largest difference of a feature, relative to its range over the examples
            and to the rounding errors of the largest feature.
        """
        actual = self._outputs(small)
        dtypes = self._dtypes()
        tolerance = max(_TOLERANCES[dtype] for dtype in dtypes)
        rounding = max(_ROUNDING[dtype] for dtype in dtypes) / tolerance
        largest = max(_largest(array) for array in self._expected)
        relative = max(
            _difference(*pair, rounding, largest)
            for pair in zip(self._expected, actual, strict=True)
        )
        if not relative <= tolerance:
            count = len(keras.tree.flatten(self._inputs)[0])
            raise ValueError(
                f"The smaller model does not agree with {self._model.name!r}, so it is "
                f"not returned. Received: outputs that differ by {relative:.2g} of "
                f"their range over {count} examples. Expected: at most {tolerance:g}. "
                "A rule of one of its layers may be wrong: check those that you "
                "registered. Or the model is random when it predicts, or takes other "
                "inputs: pass examples, data=x."
            )
        return relative

    def _outputs(self, model):
        kwargs = signature.told(model, training=False)

        def fill(tensors):
            inputs = keras.tree.pack_sequence_as(self._inputs, tensors)
            return (inputs,), kwargs

        outputs = self._call(model, "all", fill, keras.tree.flatten(self._inputs))
        flat = keras.tree.flatten(outputs)
        return [np.asarray(keras.ops.convert_to_numpy(output)) for output in flat]

    def _dtypes(self):
        """Returns the floating-point types of the layers and outputs."""
        dtypes = {str(layer.compute_dtype) for layer in paths.walk(self._model)}
        # JAX computes in float32 if float64 is not enabled.
        dtypes |= {output.dtype.name for output in self._expected}
        return dtypes & set(_TOLERANCES)

    def _check_finite(self):
        for place, output in enumerate(self._expected):
            output = output.astype(float)
            if not np.isfinite(output).all():
                raise ValueError(
                    f"Model {self._model.name!r} has outputs that are not finite, with "
                    "which no smaller model can be compared. Received: "
                    f"{self._cause(output, place)}"
                )

    def _cause(self, output, place):
        arrays = keras.tree.flatten(self._inputs)
        for tensor, array in zip(self._model.inputs, arrays, strict=True):
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                first = tuple(np.argwhere(~np.isfinite(array))[0].tolist())
                return (
                    f"`data` with {array[first]} for input {tensor.name!r}, first at "
                    f"{first}. Pass examples without NaN and infinity."
                )
        first = tuple(np.argwhere(~np.isfinite(output))[0].tolist())
        return (
            f"{output[first]} in output {place} at {first}, from finite examples. "
            "Check that its training did not diverge, or pass examples that it takes: "
            "data=x."
        )


def _largest(array):
    return float(np.abs(array.astype(float)).max(initial=0.0))


def _difference(expected, actual, rounding, largest):
    """Returns the largest difference of a feature, relative to its range.

    Args:
        expected: What the model returns.
        actual: What the smaller model returns.
        rounding: Part of the largest feature to add to each range.
        largest: The largest of all outputs, to which zeros are compared.
    """
    expected, actual = expected.astype(float), actual.astype(float)
    if expected.shape != actual.shape or not np.isfinite(actual).all():
        return np.inf
    if not expected.size:
        return 0.0
    own = _largest(expected)
    ranges = _by_feature(np.ptp(expected, axis=0, keepdims=True))
    if not ranges.max() > 1e-6 * own:
        # All examples have the same outputs.
        ranges = _by_feature(np.abs(expected))
    scales = ranges + rounding * (own or largest or 1.0)
    return float((_by_feature(np.abs(expected - actual)) / scales).max())


def _by_feature(array):
    """Returns the largest number of each feature, the last axis behind the batch."""
    features = array.shape[-1] if array.ndim > 1 else 1
    return array.reshape(-1, features).max(axis=0)
