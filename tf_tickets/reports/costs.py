"""Parameters, multiply-adds and bytes of a model: dense, masked and without units."""

import math
from typing import NamedTuple

import keras
import numpy as np

from tf_tickets import wrapping
from tf_tickets.reports import flops
from tf_tickets.units.units import Units
from tf_tickets.wrapping import paths
from tf_tickets.wrapping.choosing import NOT_KERNELS


class Cost(NamedTuple):
    """What a model costs.

    Args:
        params: Number of weights, moving statistics included.
        macs: Multiply-adds per example of the kernels, where they are known.
        bytes: Size of the weights in memory.
    """

    params: int
    macs: int
    bytes: int


class CostCounter:
    """Counts the parameters, multiply-adds and bytes of a model.

    The model is walked once. Afterwards `count` costs microseconds, so that a search
    for the units to keep can call it often.

    Only the weights of kernels are multiplied: those of dense, convolutional and
    recurrent layers and of the projections of attention. Biases, normalization,
    activations, pooling and the products of attention are left out. An entry of a
    kernel counts once for each position that it is applied to, padding included.

    Args:
        model: A built model, plain or wrapped.
        units: The units of the model, for `count`.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
    >>> CostCounter(model).dense
    Cost(params=16, macs=12, bytes=64)
    """

    def __init__(self, model: keras.Model, units: Units | None = None) -> None:
        counter = flops.UseCounter(model)
        table = {id(v): path for path, v in wrapping.plain_paths(model).items()}
        self._model = model
        self._variables = [v for v in model.weights if id(v) in table]
        kernels = _kernels(model)
        rows = {id(v): row for row, v in enumerate(self._variables)}
        uses = [
            counter.uses.get(id(v)) if id(v) in kernels else 0 for v in self._variables
        ]
        # The multiply-adds of these kernels are unknown and left out of all counts.
        self.unknown = tuple(
            table[id(v)]
            for v, times in zip(self._variables, uses, strict=True)
            if times is None and kernels[id(v)].trainable
        )
        self.notes = counter.notes(kernels.values())
        self._uses = np.array([times or 0 for times in uses], "int64")
        self._sizes = np.array([math.prod(v.shape) for v in self._variables], "int64")
        self._bytes = np.array([_itemsize(v) for v in self._variables], "int64")
        self._slices = _Slices((units or Units({}, ())).axes, rows, self._sizes)

    @property
    def dense(self) -> Cost:
        """The cost of all weights, pruned or not."""
        return self._cost(self._sizes)

    @property
    def masked(self) -> Cost:
        """The cost of the weights that are kept.

        In a wrapped model these are the weights that the masks keep. In a plain model
        they are all but the zeros of kernels.
        """
        masks = {
            id(kernel.variable): kernel.mask_layer.value()
            for kernel in wrapping.kernels(self._model).values()
        }
        if not masks:
            masks = {
                key: keras.ops.convert_to_numpy(variable.value)
                for key, variable in _kernels(self._model).items()
            }
        kept = self._sizes.copy()
        for row, variable in enumerate(self._variables):
            if id(variable) in masks:
                kept[row] = np.count_nonzero(masks[id(variable)])
        return self._cost(kept)

    def count(self, keep: np.ndarray) -> Cost:
        """Returns the cost of the smaller model without the units that are not kept.

        Args:
            keep: A boolean for each unit.

        Example:

        >>> from tf_tickets.units.units import Axis
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
        >>> axis = Axis("kernel", model.layers[0].kernel, 1, np.arange(4), "out")
        >>> counter = CostCounter(model, Units({"kernel": np.arange(4)}, (axis,)))
        >>> counter.count(np.array([True, False, False, True])).macs
        6
        """
        return self._cost(self._slices.kept(keep, self._sizes))

    def _cost(self, kept):
        return Cost(int(kept.sum()), int(kept @ self._uses), int(kept @ self._bytes))


class _Slices:
    """Counts the entries of variables that remain when units are removed."""

    def __init__(self, axes, rows, sizes):
        by_axis: dict[tuple[int, int], list[np.ndarray]] = {}
        for axis in axes:
            if id(axis.variable) not in rows:
                raise ValueError(
                    "The units are those of another model. Received: units with slices "
                    f"of {axis.path!r}, which is no variable of this model. Call "
                    "find_units on the model itself."
                )
            pair = rows[id(axis.variable)], axis.axis
            by_axis.setdefault(pair, []).append(np.asarray(axis.ids))
        pairs = sorted(by_axis)
        depth = max((len(ids) for ids in by_axis.values()), default=1)
        # Row by row, the units of each position; `STAYS` is the last one, always kept.
        self._ids = np.concatenate(
            [_padded(by_axis[pair], depth) for pair in pairs]
            or [np.zeros((0, depth), int)]
        )
        lengths = [len(by_axis[pair][0]) for pair in pairs]
        self._starts = np.cumsum([0, *lengths])[:-1]
        self._rows, self._first = np.unique(
            [row for row, _ in pairs], return_index=True
        )
        self._rows = self._rows.astype(int)
        # Entries for each combination of positions along the axes with units.
        spans = np.multiply.reduceat(lengths, self._first) if pairs else 1
        self._rest = sizes[self._rows] // spans

    def kept(self, keep, sizes):
        """Returns the number of entries that remain of each variable."""
        result = sizes.copy()
        if len(self._rows):
            here = np.append(np.asarray(keep, bool), True)[self._ids].all(axis=1)
            lengths = np.add.reduceat(here, self._starts, dtype="int64")
            result[self._rows] = self._rest * np.multiply.reduceat(lengths, self._first)
        return result


def _padded(ids, depth):
    """Returns an array of positions by units, filled up with `STAYS`."""
    rows = [*ids, *[np.full_like(ids[0], -1)] * (depth - len(ids))]
    return np.stack(rows, axis=1)


def _kernels(model):
    """Dict from id to variable, of all variables that may be multiplied with inputs."""
    return {
        id(o.variable): o.variable
        for leaf in wrapping.leaves(model)
        for o in paths.variables_of(flops.unwrapped(leaf))
        if len(o.variable.shape) > 1
        and keras.backend.is_float_dtype(o.variable.dtype)
        and not any(word in o.variable.name for word in NOT_KERNELS)
    }


def _itemsize(variable):
    name = keras.backend.standardize_dtype(variable.dtype)
    return 2 if name == "bfloat16" else np.dtype(name).itemsize
