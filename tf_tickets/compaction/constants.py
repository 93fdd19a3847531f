"""Finds the channels of a model that do not depend on its inputs."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import keras
import numpy as np

from tf_tickets import keras_internals
from tf_tickets.compaction import examples
from tf_tickets.compaction.compiling import Caller
from tf_tickets.compaction.readers import READERS, channel_axis
from tf_tickets.units import registry

# Values that stand for anything that depends on the inputs: both signs, which
# activations tell apart, and several orders of magnitude.
_LEVELS = np.array([1.0, -1.0, 30.0, -30.0, 0.1, -0.1, 1000.0, -1000.0])


class _State(NamedTuple):
    """What is known about a tensor.

    Args:
        values: Its value in each run.
        hidden: Whether it depends on the inputs in a way that cannot be replaced by
            random numbers, as integers do. What is computed from it depends on them.
    """

    values: list[Any]
    hidden: bool = False


class Constants:
    """Runs a model layer by layer and records which channels are constant.

    What depends on the inputs is replaced by other random numbers after each layer. So
    an activation that is always zero on some data is not taken for a constant. One
    that only larger numbers change is, so callers must know that nothing reaches it.

    Args:
        model: A functional or Sequential model, plain or wrapped.
        inputs: Arrays for its inputs, with the shapes and types that it takes.
        call: What calls the layers.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2),
    ...                           keras.layers.Dense(1)])
    >>> model.set_weights([np.array([[1, 0], [1, 0]]), np.array([0, 5]),
    ...                    np.ones((2, 1)), np.zeros(1)])
    >>> constants = Constants(model, [np.ones((1, 2))], Caller())
    >>> constants.read_by(model.layers[1])
    [array([nan,  5.])]
    """

    def __init__(
        self, model: keras.Model, inputs: list[np.ndarray], call: Caller
    ) -> None:
        self._caller = call
        self._rng = np.random.default_rng(0)
        self._reads: dict[int, list[np.ndarray]] = {}
        batch = model.inputs[0].shape[0]
        # Examples in each run, which differ in what depends on the inputs.
        self._rows = batch or len(_LEVELS)
        self._runs = -(-len(_LEVELS) // self._rows)
        numbers = examples.embedding_sizes(model)
        states = [
            self._input(array, id(tensor) in numbers)
            for tensor, array in zip(model.inputs, inputs, strict=True)
        ]
        self._through(model, states)

    def read_by(self, layer: keras.layers.Layer) -> list[np.ndarray]:
        """Returns the inputs of a Dense or convolutional layer, one for each call.

        Args:
            layer: The layer.

        Returns:
            Arrays with the value of each channel, NaN where it is not constant over
            all inputs and positions.
        """
        return self._reads.get(id(layer), [])

    def _input(self, array, numbers):
        rows = np.resize(array, (self._rows, *array.shape[1:]))
        if numbers or not np.issubdtype(array.dtype, np.floating):
            return _State([_tensor(rows)] * self._runs, hidden=True)
        return self._disturbed([rows] * self._runs, True)

    def _through(self, model, inputs: list[_State]) -> list[_State]:
        pairs = zip(model.inputs, inputs, strict=True)
        states = {id(tensor): state for tensor, state in pairs}
        for call in keras_internals.calls(model):
            found = list(_states_in((call.args, call.kwargs), states))
            operation = call.operation
            if registry.is_graph(operation) and len(found) == len(operation.inputs):
                outputs = self._through(operation, found)
            else:
                layer = registry.unwrapped(operation)
                self._record(layer, found)
                outputs = self._call(call, layer, states, found)
            for tensor, state in zip(call.outputs, outputs, strict=True):
                states[id(tensor)] = state
        return [states[id(tensor)] for tensor in model.outputs]

    def _record(self, layer, inputs):
        if isinstance(layer, READERS):
            axis = channel_axis(layer, len(inputs[0].values[0].shape))
            self._reads.setdefault(id(layer), []).append(
                _by_channel(_arrays(inputs[0].values), axis, inputs[0].hidden)
            )

    def _call(self, call, layer, states, inputs) -> list[_State]:
        if _looks_up(layer, call):
            return [self._embedded(call, inputs[0])]
        known = set(states)

        def fill(tensors):
            left = iter(tensors)
            args, kwargs = keras.tree.map_structure(
                lambda leaf: next(left) if id(leaf) in known else leaf,
                (call.args, call.kwargs),
            )
            if "training" in kwargs:
                # Models that predict tell it all layers, whatever the graph says.
                kwargs["training"] = False
            return args, kwargs

        runs = []
        for run in range(self._runs):
            tensors = [state.values[run] for state in inputs]
            key = id(call.outputs[0])
            result = self._caller(call.operation, key, fill, tensors)
            runs.append(keras.tree.flatten(result))
        hidden = any(state.hidden for state in inputs)
        changing = hidden or any(_changes(state) for state in inputs)
        return [
            self._output(_arrays(values), hidden, changing)
            for values in zip(*runs, strict=True)
        ]

    def _embedded(self, call, numbers):
        """Returns what an embedding may return: any of its rows."""
        first = [np.zeros(array.shape, "int32") for array in _arrays(numbers.values)]
        table = call.operation.embeddings
        rows = keras.ops.convert_to_numpy(getattr(table, "value", table))
        varies = (rows != rows[:1]).any(axis=0)
        return self._disturbed(_arrays([call.operation(x) for x in first]), varies)

    def _output(self, arrays, hidden, changing):
        first = arrays[0]
        stacked = first.ndim > 0 and first.shape[0] == self._rows
        if not (stacked and np.issubdtype(first.dtype, np.floating)):
            return _State([_tensor(array) for array in arrays], hidden=changing)
        varies = True if hidden else ~_is_constant(np.concatenate(arrays))
        return self._disturbed(arrays, varies)

    def _disturbed(self, arrays, varies):
        """Returns the state with new random numbers where the values vary."""
        shape = arrays[0].shape[1:]
        varies = np.broadcast_to(varies, shape)
        sizes = self._rng.uniform(0.5, 1.5, size=shape)
        first = self._rng.integers(0, len(_LEVELS), size=shape)
        values = []
        for run, array in enumerate(arrays):
            rows = np.arange(len(array)).reshape(-1, *[1] * len(shape))
            levels = _LEVELS[(first + rows + run * self._rows) % len(_LEVELS)]
            values.append(np.where(varies, (levels * sizes).astype(array.dtype), array))
        return _State([_tensor(array) for array in values])


def _looks_up(layer, call):
    """Whether a call looks up rows, which a reversible embedding may not do."""
    if not isinstance(layer, keras.layers.Embedding):
        return False
    reverse = call.kwargs.get("reverse", call.args[1:])
    return not reverse and type(layer).__module__.partition(".")[0] == "keras"


def _states_in(arguments, states) -> Iterator[_State]:
    """Yields the states of tensors in the order of nested arguments."""
    for leaf in keras.tree.flatten(arguments):
        if id(leaf) in states:
            yield states[id(leaf)]


def _changes(state):
    """Whether any part of a tensor depends on the inputs."""
    if state.hidden:
        return True
    return not _is_constant(np.concatenate(_arrays(state.values))).all()


def _by_channel(arrays, axis, hidden):
    """Returns the value of each channel, NaN where it varies."""
    rows = np.moveaxis(np.concatenate(arrays), axis, -1)
    rows = rows.reshape(-1, rows.shape[-1])
    constant = np.zeros(rows.shape[-1], bool) if hidden else _is_constant(rows)
    return np.where(constant, rows[0].astype(float), np.nan)


def _is_constant(rows):
    """Whether each position has the same value in all rows, up to rounding."""
    lowest, highest = rows.min(axis=0), rows.max(axis=0)
    with np.errstate(invalid="ignore", over="ignore"):
        size = np.maximum(np.abs(lowest), np.abs(highest))
        return highest - lowest <= 8 * float(np.finfo(rows.dtype).eps) * size


def _arrays(values):
    arrays = [np.asarray(keras.ops.convert_to_numpy(value)) for value in values]
    # NumPy does not count bfloat16 as a floating-point type.
    narrow = arrays[0].dtype.name == "bfloat16"
    return [array.astype("float32") for array in arrays] if narrow else arrays


def _tensor(array):
    return keras.ops.convert_to_tensor(array)
