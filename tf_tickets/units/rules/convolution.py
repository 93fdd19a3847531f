"""The rules of convolutions."""

import keras
import numpy as np

from tf_tickets.units.calls import Call
from tf_tickets.units.flows import Flow
from tf_tickets.units.registry import register_rule
from tf_tickets.units.rules.dense import is_changed

__all__: list[str] = []


def channel_axis(layer: keras.layers.Layer, rank: int) -> int:
    """Returns the axis of channels of the inputs of a layer.

    Args:
        layer: A layer with `data_format`.
        rank: Number of axes of the input, with the batch.
    """
    return 1 if layer.data_format == "channels_first" else rank - 1


def channels_read(layer: keras.layers.Layer, call: Call) -> Flow:
    """Returns the input of a layer, pinned unless its units stand along channels."""
    flow = call.inputs[0]
    if flow.axis is None or flow.axis == channel_axis(layer, len(flow.shape)):
        return flow
    reason = f"{call.title} mixes positions along another axis"
    call.pin(flow, reason)
    return Flow(flow.shape, reason=reason)


def _resize(layer, sizes):
    axis = channel_axis(layer, len(sizes.inputs[0]))
    old = layer.groups, layer.kernel.shape[-2]
    groups = sizes.inputs[0][axis] if old[0] > 1 and old[1] == 1 else layer.groups
    return {"filters": sizes.of(layer.kernel)[-1], "groups": groups}


def convolution(layer: keras.layers.Layer, call: Call) -> Flow | list[Flow]:
    """A convolution reads channels and produces filters.

    With groups, the same place of all groups goes together. If each group has one
    channel, its filters belong to the channel.
    """
    if is_changed(layer):
        return call.pinned(f"{call.title} is quantized or has LoRA weights")
    flow = channels_read(layer, call)
    axis = channel_axis(layer, len(flow.shape))
    kernel, groups = layer.kernel, layer.groups
    if groups > 1 and kernel.shape[-2] == 1:
        return _by_channel(layer, call, flow, kernel.shape[-1] // groups)
    if groups > 1 and flow.axis is not None:
        rows = flow.ids.reshape(groups, -1)
        call.tie(rows, np.broadcast_to(rows[:1], rows.shape))
        flow = Flow(flow.shape, axis, rows[0], _common(flow.values, groups))
    call.read(kernel, -2, flow)
    ids = call.produce(kernel)
    if groups > 1:
        rows = ids.reshape(groups, -1)
        call.tie(rows, np.broadcast_to(rows[:1], rows.shape))
    call.vector(layer.bias, ids)
    return call.activate(call.output(ids, axis), layer.activation)


def _common(values, groups):
    """Returns the values of each place in groups, NaN where they differ."""
    rows = values.reshape(groups, -1)
    return np.where((rows == rows[0]).all(axis=0), rows[0], np.nan)


def _by_channel(layer, call, flow, repeats):
    """A convolution of each channel by itself, whose kernel ends with its outputs."""
    axis = channel_axis(layer, len(flow.shape))
    if flow.axis is None:
        return call.fixed(flow.reason)
    ids = np.repeat(flow.ids, repeats)
    call.vector(layer.kernel, ids, axis=-1)
    call.vector(layer.bias, ids)
    return call.activate(call.output(ids, axis), layer.activation)


for _kind in (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D):
    register_rule(_kind, convolution, _resize)


def depthwise(layer: keras.layers.Layer, call: Call) -> Flow | list[Flow]:
    """The outputs of a depthwise convolution belong to its input channels."""
    flow = channels_read(layer, call)
    if flow.axis is None:
        return call.fixed(flow.reason)
    ids = np.repeat(flow.ids, layer.depth_multiplier)
    call.vector(layer.kernel, flow.ids, axis=-2)
    call.vector(layer.bias, ids)
    axis = channel_axis(layer, len(flow.shape))
    return call.activate(call.output(ids, axis), layer.activation)


for _kind in (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D):
    register_rule(_kind, depthwise)


def _resize_separable(layer, sizes):
    return {"filters": sizes.of(layer.pointwise_kernel)[-1]}


def separable(layer: keras.layers.Layer, call: Call) -> Flow | list[Flow]:
    """A separable convolution is a depthwise one and a pointwise one."""
    flow = channels_read(layer, call)
    multiplier = layer.depth_multiplier
    if flow.axis is not None:
        call.vector(layer.depthwise_kernel, flow.ids, axis=-2)
        between = Flow(flow.shape, flow.axis, flow.ids, np.zeros(flow.ids.size))
        call.read(layer.pointwise_kernel, -2, between, repeats=multiplier)
    else:
        call.read(layer.pointwise_kernel, -2, flow)
    ids = call.produce(layer.pointwise_kernel)
    call.vector(layer.bias, ids)
    axis = channel_axis(layer, len(flow.shape))
    return call.activate(call.output(ids, axis), layer.activation)


for _kind in (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D):
    register_rule(_kind, separable, _resize_separable)


def _resize_transposed(layer, sizes):
    return {"filters": sizes.of(layer.kernel)[-2]}


def transposed(layer: keras.layers.Layer, call: Call) -> Flow | list[Flow]:
    """A transposed convolution, whose kernel ends with (filters, channels)."""
    if is_changed(layer):
        return call.pinned(f"{call.title} is quantized or has LoRA weights")
    flow = channels_read(layer, call)
    call.read(layer.kernel, -1, flow)
    ids = call.produce(layer.kernel, -2)
    call.vector(layer.bias, ids)
    axis = channel_axis(layer, len(flow.shape))
    return call.activate(call.output(ids, axis), layer.activation)


for _rank in (1, 2, 3):
    _kind = getattr(keras.layers, f"Conv{_rank}DTranspose")
    register_rule(_kind, transposed, _resize_transposed)
