"""The rules of layers that move elements."""

from collections.abc import Callable

import keras
import numpy as np

from tf_tickets.units.calls import Call, sizes_known
from tf_tickets.units.flows import Flow
from tf_tickets.units.registry import register_rule

__all__: list[str] = []


def moved(call: Call, flow: Flow, function: Callable) -> Flow | list[Flow]:
    """Returns the flow of a layer that only moves elements.

    The layer is applied to an array of ids. What remains afterwards must be a box
    whichever units are removed, so ids must differ along one axis only.

    Args:
        call: The call.
        flow: Its input.
        function: What the layer does to an array of one example, without the batch.
    """
    if flow.axis is None:
        return call.fixed(flow.reason)
    if not sizes_known(flow.shape):
        return call.pinned(f"{call.title} moves elements of a tensor of unknown size")
    ids = function(_spread(flow, call.ties.roots(flow.ids)))
    values = function(_spread(flow, flow.values))
    axes = [axis for axis in range(ids.ndim) if _differs(ids, axis)]
    if len(axes) > 1:
        return call.pinned(f"{call.title} spreads units over several axes")
    axis = axes[0] if axes else _longest(ids.shape)
    line = tuple(slice(None) if a == axis else 0 for a in range(ids.ndim))
    others = tuple(other for other in range(ids.ndim) if other != axis)
    first = values[line]
    lowest, highest = values.min(axis=others), values.max(axis=others)
    common = np.where(lowest == highest, first, np.nan)
    return call.output(ids[line], axis + 1, common)


def _spread(flow, array):
    """Returns an array of the shape of one example."""
    shape = [1] * len(flow.shape)
    shape[flow.axis] = -1
    return np.broadcast_to(array.reshape(shape)[0], flow.shape[1:])


def _differs(ids, axis):
    return bool((ids != np.take(ids, [0], axis)).any())


def _longest(shape):
    """Returns the last axis with several positions, or the last."""
    return max(range(len(shape)), key=lambda axis: (shape[axis] > 1, axis))


@register_rule(keras.layers.Flatten)
def flatten(layer: keras.layers.Flatten, call: Call) -> Flow | list[Flow]:
    """Each channel stands at as many positions as it has pixels."""
    flow = call.inputs[0]

    def function(array):
        if layer.data_format == "channels_first" and array.ndim > 1:
            array = np.moveaxis(array, 0, -1)
        return array.reshape(-1)

    return moved(call, flow, function)


def _resize(layer, sizes):
    target = [-1 if size is None else size for size in sizes.outputs[0][1:]]
    return {"target_shape": tuple(target)}


@register_rule(keras.layers.Reshape, resize=_resize)
def reshape(layer: keras.layers.Reshape, call: Call) -> Flow | list[Flow]:
    """The target shape contains the number of channels."""
    target = call.shapes[0][1:]
    return moved(call, call.inputs[0], lambda array: array.reshape(target))


@register_rule(keras.layers.Permute)
def permute(layer: keras.layers.Permute, call: Call) -> Flow | list[Flow]:
    """Permutes axes."""
    flow = call.inputs[0]
    if flow.axis is None or flow.axis == 0:
        return call.pinned(flow.reason)
    return call.like(flow, 1 + layer.dims.index(flow.axis))


@register_rule(keras.layers.RepeatVector)
def repeat_vector(layer: keras.layers.RepeatVector, call: Call) -> Flow | list[Flow]:
    """Repeats a vector along a new axis."""
    flow = call.inputs[0]
    return call.fixed(flow.reason) if flow.axis is None else call.like(flow, 2)
