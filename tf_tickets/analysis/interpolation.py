"""Networks on the straight line between two trained ones."""

import itertools
from collections.abc import Iterator

import keras
import numpy as np

from tf_tickets.search.inputs import Inputs
from tf_tickets.training import snapshots
from tf_tickets.training.data import Key
from tf_tickets.wrapping import paths
from tf_tickets.wrapping.kernels import to_numpy

State = snapshots.State
_INTERPOLATED = ("weights", "statistics")


def between(first: State, second: State, position: float) -> State:
    """Returns weights and statistics on the line between two states.

    The ends are those of the two states, bit for bit. Whole numbers, such as counters,
    are those of the nearer end.

    Args:
        first: The state at position 0.
        second: The state at position 1.
        position: The position.

    Example:

    >>> first = {"weights": {"a": np.array([0.0, 2.0])}, "statistics": {}}
    >>> second = {"weights": {"a": np.array([4.0, 2.0])}, "statistics": {}}
    >>> between(first, second, 0.25)["weights"]["a"].tolist()
    [1.0, 2.0]
    """
    if position in (0, 1):
        end = second if position else first
        return {part: end[part] for part in _INTERPOLATED}
    return {
        part: {
            name: _between(value, second[part][name], position)
            for name, value in first[part].items()
        }
        for part in _INTERPOLATED
    }


def _between(first, second, position):
    if first.dtype.kind in "biu":
        return second if position > 0.5 else first
    # Data types of few bits are interpolated in float32.
    wide = np.promote_types(first.dtype, np.float32)
    mixed = (1 - position) * first.astype(wide) + position * second.astype(wide)
    return mixed.astype(first.dtype)


def distance(first: State, second: State) -> float:
    """Returns the Euclidean distance between the weights of two states.

    Example:

    >>> first = {"weights": {"a": np.array([0.0, 2.0])}}
    >>> distance(first, {"weights": {"a": np.array([3.0, 6.0])}})
    5.0
    """
    squares = [
        np.sum(np.square(value.astype("float64") - second["weights"][name]))
        for name, value in first["weights"].items()
    ]
    return float(np.sqrt(sum(squares)))


def set_state(model: keras.Model, state: State) -> None:
    """Sets the weights and statistics of a model; its optimizer stays."""
    variables = snapshots.variables_by_part(model)
    for part in _INTERPOLATED:
        snapshots.assign(variables[part], state[part])


def normalizations(model: keras.Model) -> list[keras.layers.BatchNormalization]:
    """Returns the layers of batch normalization that gather statistics in training.

    Example:

    >>> layers = [keras.layers.Dense(2), keras.layers.BatchNormalization()]
    >>> len(normalizations(keras.Sequential([keras.Input((2,)), *layers])))
    1
    """
    kind = keras.layers.BatchNormalization
    found = [layer for layer in paths.walk(model) if isinstance(layer, kind)]
    return [layer for layer in found if layer.trainable]


def recompute_statistics(
    model: keras.Model, opened: Inputs, key: Key, count: int
) -> None:
    """Sets the statistics of batch normalization to means over batches.

    The network is called as in training, with random layers. Their states are those
    from before in the end, and so are all other statistics.

    Args:
        model: A model.
        opened: The data; batches of the training part are taken.
        key: The key of the order of the batches.
        count: The number of batches; fewer if the data have fewer.
    """
    layers = normalizations(model)
    if not layers:
        return
    table = snapshots.variables_by_part(model)
    kept = [v for part in ("statistics", "seeds") for v in table[part].values()]
    before = [(variable, to_numpy(variable)) for variable in kept]
    statistics = [v for layer in layers for v in layer.non_trainable_variables]
    momenta = [layer.momentum for layer in layers]
    sums: list = [0.0] * len(statistics)
    number = 0
    try:
        for layer in layers:
            # The moving averages are then the statistics of the last batch.
            layer.momentum = 0.0
        for batch in _batches(opened, key, count):
            model(keras.tree.map_structure(np.asarray, batch[0]), training=True)
            values = map(to_numpy, statistics)
            sums = [total + value for total, value in zip(sums, values, strict=True)]
            number += 1
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        for variable, value in before:
            variable.assign(value)
    for statistic, total in zip(statistics, sums, strict=True):
        statistic.assign(total / number)


def _batches(opened, key, count) -> Iterator[tuple]:
    return itertools.islice(opened.sources["train"].read(key), count)
