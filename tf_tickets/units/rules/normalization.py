"""The rules of normalization layers."""

import keras
import numpy as np

from tf_tickets.units.calls import Call
from tf_tickets.units.flows import Flow
from tf_tickets.units.registry import register_rule, register_unnamed

__all__: list[str] = []


@register_rule(keras.layers.BatchNormalization)
def batch_normalization(
    layer: keras.layers.BatchNormalization, call: Call
) -> Flow | list[Flow]:
    """Batch normalization has parameters and statistics for each channel.

    Without a gamma, a pruned channel is zero only if its input and its moving mean are.
    """
    flow = call.inputs[0]
    if flow.axis is None:
        return call.fixed(flow.reason)
    if isinstance(layer.axis, int) and layer.axis % len(flow.shape) != flow.axis:
        return call.pinned(f"{call.title} normalizes another axis")
    ids = flow.ids
    call.vector(layer.gamma, ids)
    call.vector(layer.beta, ids)
    if layer.gamma is None:
        call.vector(layer.moving_mean, ids)
    parameters = (layer.gamma, layer.beta)
    for variable in layer.variables:
        known = any(variable is parameter for parameter in parameters)
        if not known and (layer.gamma is not None or variable is not layer.moving_mean):
            call.state(variable, ids)
    if layer.gamma is None:
        return call.like(flow.finite())
    return call.output(ids, flow.axis)


def _resize_scale(layer, sizes):
    return {"projection_dim": sizes.of(layer.gamma)[0]}


@register_unnamed("LayerScale", resize=_resize_scale)
def layer_scale(layer: keras.layers.Layer, call: Call) -> Flow | list[Flow]:
    """Multiplies each channel by a weight (ConvNeXt)."""
    flow = call.inputs[0]
    if flow.axis is None:
        return call.fixed(flow.reason)
    if flow.axis != len(flow.shape) - 1:
        return call.pinned(f"{call.title} multiplies another axis")
    call.vector(layer.gamma, flow.ids)
    return call.output(flow.ids)


def over_channels(layer: keras.layers.Layer, call: Call) -> list[Flow]:
    """A layer that computes from all channels together: everything stays."""
    return call.pinned(f"{call.title} computes from all channels together")


for _name in (
    *("LayerNormalization", "GroupNormalization", "UnitNormalization"),
    *("RMSNormalization", "Softmax", "SpectralNormalization", "Masking"),
):
    if hasattr(keras.layers, _name):
        register_rule(getattr(keras.layers, _name), over_channels)


@register_rule(keras.layers.Normalization)
def normalization(layer: keras.layers.Normalization, call: Call) -> Flow | list[Flow]:
    """Normalizes features by fixed statistics, which are part of the configuration."""
    return call.pinned(call.inputs[0].reason or f"{call.title} has fixed statistics")


@register_rule(keras.layers.Rescaling)
def rescaling(layer: keras.layers.Rescaling, call: Call) -> Flow | list[Flow]:
    """Multiplies and shifts by numbers; a list of them would be by channel."""
    flow = call.inputs[0]
    if flow.axis is None:
        return call.fixed(flow.reason)
    if np.ndim(layer.scale) or np.ndim(layer.offset):
        return call.pinned(f"{call.title} has a number for each channel")
    return call.like(flow).map(lambda values: values * layer.scale + layer.offset)
