"""The rule of layers that are applied to each step of a sequence."""

import dataclasses

import keras

from tf_tickets.units import registry
from tf_tickets.units.calls import Call
from tf_tickets.units.flows import Flow
from tf_tickets.units.registry import register_rule

__all__: list[str] = []


def _without_time(shape):
    return (shape[0], *shape[2:])


def _resize(layer, sizes):
    inner = registry.unwrapped(layer.layer)
    if registry.is_graph(inner):
        return {}
    steps = type(sizes)(
        [_without_time(shape) for shape in sizes.inputs],
        [_without_time(shape) for shape in sizes.outputs],
        sizes.of,
    )
    return {"layer": registry.stored_inside(inner, registry.resized(inner, steps))}


@register_rule(keras.layers.TimeDistributed, resize=_resize)
def time_distributed(
    layer: keras.layers.TimeDistributed, call: Call
) -> Flow | list[Flow]:
    """Does what its layer does. The axis of time stays."""
    # A mask of time steps may follow.
    flow = call.inputs[0]
    if flow.axis == 1:
        call.pin(flow, f"{call.title} steps along the axis of the units")
        flow = Flow(flow.shape, reason=f"{call.title} steps along its axis")
    axis = None if flow.axis is None else flow.axis - 1
    step = dataclasses.replace(flow, shape=_without_time(flow.shape), axis=axis)
    shape = call.shapes[0]
    (result,) = call.inside(layer.layer, [step], [_without_time(shape)])
    axis = None if result.axis is None else result.axis + 1
    return dataclasses.replace(result, shape=shape, axis=axis)
