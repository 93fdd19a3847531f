"""The rules of embeddings."""

import keras

from tf_tickets.units.calls import Call
from tf_tickets.units.flows import Flow
from tf_tickets.units.registry import register_rule, register_varied
from tf_tickets.units.rules.dense import is_changed

__all__: list[str] = []


def _resize(layer, sizes):
    return {"output_dim": sizes.of(layer.embeddings)[1]}


def embedding(layer: keras.layers.Embedding, call: Call) -> Flow | list[Flow]:
    """The columns of the table are units. The rows, one for each token, stay."""
    if is_changed(layer):
        call.keep(layer, f"{call.title} is quantized or has LoRA weights")
        return call.pinned(f"{call.title} is quantized or has LoRA weights")
    for flow in call.inputs:
        call.pin(flow, f"{call.title} reads tokens")
    return call.output(call.produce(layer.embeddings))


register_rule(keras.layers.Embedding, embedding, _resize)


def reversible(layer: keras.layers.Layer, call: Call) -> Flow | list[Flow]:
    """An embedding that also computes logits of tokens, which stay."""
    if is_changed(layer) or not _is_reversed(call):
        return embedding(layer, call)
    flow = call.inputs[0]
    if flow.axis is not None and flow.axis != len(flow.shape) - 1:
        call.pin(flow, f"{call.title} reads another axis")
        flow = Flow(flow.shape, reason=f"{call.title} reads another axis")
    # Both tables have one width in the configuration.
    width = call.produce(layer.embeddings)
    if flow.axis is None:
        call.ties.pin(width, flow.reason)
    else:
        call.tie(width, flow.ids)
        if layer.tie_weights:
            call.read(layer.embeddings, 1, flow)
        else:
            call.read(layer.reverse_embeddings, 0, flow)
    return call.fixed(f"{call.title} computes logits of tokens")


def _is_reversed(call):
    given = dict(zip(("inputs", "reverse"), call.args, strict=False)) | call.kwargs
    return bool(given.get("reverse", False))


if hasattr(keras.layers, "ReversibleEmbedding"):
    register_varied(keras.layers.ReversibleEmbedding, reversible, _resize)
