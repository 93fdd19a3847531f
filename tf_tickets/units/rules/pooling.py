"""The rules of layers that move over the positions of each channel."""

import keras

from tf_tickets.units.calls import Call
from tf_tickets.units.flows import Flow
from tf_tickets.units.registry import register_rule
from tf_tickets.units.rules.convolution import channel_axis, channels_read

__all__: list[str] = []


def same_channels(layer: keras.layers.Layer, call: Call) -> Flow | list[Flow]:
    """Keeps channels; a channel of zeros stays one."""
    if not hasattr(layer, "data_format"):
        # Layers of sequences, which have the axes (batch, time, channels).
        flow = call.inputs[0]
        if flow.axis not in (None, 2):
            return call.pinned(f"{call.title} changes this axis")
        return call.like(flow).finite()
    flow = channels_read(layer, call)
    axis = channel_axis(layer, len(call.shapes[0]))
    return call.like(flow, axis).finite()


for _rank in (1, 2, 3):
    for _name in (
        *("MaxPooling", "AveragePooling", "ZeroPadding", "Cropping", "UpSampling"),
        *("GlobalMaxPooling", "GlobalAveragePooling"),
    ):
        register_rule(getattr(keras.layers, f"{_name}{_rank}D"), same_channels)
