"""The rules of attention with several heads."""

import inspect

import keras
import numpy as np

from tf_tickets import keras_internals
from tf_tickets.units.calls import Call
from tf_tickets.units.flows import Flow
from tf_tickets.units.registry import register_rule
from tf_tickets.units.rules.dense import is_changed

__all__: list[str] = []


def _sides(layer, call):
    """Returns the flows of query, key and value. Units must be along the last axis."""
    signature = inspect.signature(type(layer).call)
    given = signature.bind(layer, *call.args, **call.kwargs).arguments
    given = {"key": given["value"]} | {k: v for k, v in given.items() if v is not None}
    flows = {}
    read = {name: given[name] for name in ("query", "key", "value")}
    for name, flow in read.items():
        if flow.axis not in (None, len(flow.shape) - 1):
            reason = f"{call.title} reads another axis"
            call.pin(flow, reason)
            flow = Flow(flow.shape, reason=reason)
        flows[name] = flow
    for flow in call.inputs:
        if not any(flow is side for side in read.values()):
            call.pin(flow, f"{call.title} uses it as a mask")
    return flows | {"gate": flows["query"]}


def _heads(layer, call, axis, produce):
    """Records the heads of the projections; returns the flow of the output.

    Args:
        layer: The attention layer.
        call: The call.
        axis: The axis of heads in the attention scores.
        produce: Function from the name of a projection and ids of key heads to ids of
            its heads.
    """
    parts = keras_internals.attention_projections(layer)
    if any(is_changed(part) for part in parts.values()):
        reason = f"{call.title} is quantized or has LoRA weights"
        call.keep(layer, reason)
        return call.pinned(reason)
    sides = _sides(layer, call)
    output = parts["attention_output"]
    heads = call.produce(parts["value"].kernel, 1)
    for name in ("query", "key", "value", "gate"):
        if name in parts:
            ids = produce(name, heads)
            call.read(parts[name].kernel, 0, sides[name])
            call.produce_too(parts[name].kernel, 1, ids)
            call.vector(parts[name].bias, ids)
    ids = produce("query", heads)
    call.read(output.kernel, 0, Flow((None, ids.size), 1, ids, np.zeros(ids.size)))
    features = call.produce(output.kernel)
    call.vector(output.bias, features, -1)
    flows = [call.output(features)]
    if len(call.shapes) > 1:
        unknown = np.full(ids.size, np.nan)
        flows.append(call.output(ids, axis, unknown, place=1))
    return flows


def _resize(layer, sizes):
    kernel = keras_internals.attention_projections(layer)["attention_output"].kernel
    heads, _, *shape = sizes.of(kernel)
    implied = layer.get_config()["output_shape"] is None
    same = implied and [sizes.inputs[0][-1]] == shape
    return {"num_heads": heads, "output_shape": None if same else tuple(shape)}


@register_rule(keras.layers.MultiHeadAttention, resize=_resize)
def multi_head_attention(
    layer: keras.layers.MultiHeadAttention, call: Call
) -> list[Flow]:
    """Each head is a unit, and so is each feature of the output.

    The values of a head are zero if its weights are. Its scores do not matter then.
    """
    axis = -1
    if len(call.shapes) > 1:
        axis = len(call.shapes[1]) - 2 * len(layer.attention_axes) - 1
    return _heads(layer, call, axis, lambda name, heads: heads)


def _resize_grouped(layer, sizes):
    parts = keras_internals.attention_projections(layer)
    return {
        "num_query_heads": sizes.of(parts["query"].kernel)[1],
        "num_key_value_heads": sizes.of(parts["key"].kernel)[1],
    }


@register_rule(keras.layers.GroupQueryAttention, resize=_resize_grouped)
def grouped_query_attention(
    layer: keras.layers.GroupQueryAttention, call: Call
) -> list[Flow]:
    """A key and value head goes together with the query heads that read it.

    The output, the query and the value have as many features.
    """

    def produce(name, heads):
        shared = name in ("key", "value")
        return heads if shared else np.repeat(heads, layer.num_repeats)

    flows = _heads(layer, call, 1, produce)
    sides = _sides(layer, call)
    widths = [flows[0], sides["query"], sides["value"]]
    fixed = next((flow for flow in widths if flow.axis is None), None)
    for flow in widths[1:]:
        if fixed is None:
            call.tie(flows[0].ids, flow.ids)
    if fixed is not None:
        reason = f"{call.title} has query, value and output of one width"
        for flow in widths:
            call.pin(flow, f"{reason}; {fixed.reason}")
    return flows
