"""The rules of layers of KerasHub, which is not imported.

The features between its blocks stay, as normalizations compute from all of them. Hidden
units of feed-forward layers can be removed. Heads can be removed if the configuration
of the block contains their size. In most blocks it follows from their number.
"""

import keras
import numpy as np

from tf_tickets import keras_internals
from tf_tickets.units.calls import Call
from tf_tickets.units.flows import Flow
from tf_tickets.units.registry import ABSENT, register_foreign
from tf_tickets.units.rules.dense import is_changed

__all__: list[str] = []

_PACKAGE = "keras_hub"


def _parts(layer):
    """Returns the layers inside a block by name."""
    return {part.name: part for part in keras_internals.tracked_layers(layer)}


def _hidden(call, first, last, more=()):
    """Records hidden units: `first` and `more` produce them, and `last` reads them.

    Args:
        call: The call of the block.
        first: The layer whose activation gives their values.
        last: The layer that reads them.
        more: Layers whose outputs are multiplied with those of `first`.
    """
    if any(is_changed(layer) for layer in (first, last, *more)):
        for layer in (first, *more):
            call.keep(layer, f"{call.title} is quantized or has LoRA weights")
        return
    ids = call.produce(first.kernel)
    call.vector(first.bias, ids)
    for layer in more:
        call.produce_too(layer.kernel, 1, ids)
        call.vector(layer.bias, ids)
    flow = Flow((None, None, ids.size), 2, ids, np.zeros(ids.size))
    if not more:
        flow = call.activate(flow, _known(first.activation))
    call.read(last.kernel, 0, flow)


def _known(activation):
    """Returns an activation function of Keras for one of KerasHub."""
    name = getattr(activation, "__name__", "")
    module = getattr(activation, "__module__", "") or ""
    if name == "gelu_approximate" and module.partition(".")[0] == _PACKAGE:
        return keras.activations.gelu
    return activation


def _projections(layer):
    """Returns the layers that make queries, keys and values, at any depth."""
    found: list[keras.layers.Layer] = []
    for part in keras_internals.tracked_layers(layer):
        named = part.name in ("query", "key", "value")
        found += [part] if named else _projections(part)
    return found


def _finish(layer, call):
    """Keeps the other kernels of a block, and all that goes in and out."""
    outputs = call.pinned(f"{call.title} adds it to features that stay")
    for part in _projections(layer):
        call.keep_others(part, f"{call.title} has heads whose number gives their size")
    for part in keras_internals.tracked_layers(layer):
        call.keep_others(part, f"{call.title} adds its output to features that stay")
    return outputs


def _resize_hidden(layer, sizes):
    kernel = _parts(layer)["feedforward_intermediate_dense"].kernel
    return {"intermediate_dim": sizes.of(kernel)[1]}


@register_foreign(
    _PACKAGE,
    *("TransformerEncoder", "TransformerDecoder", "MistralTransformerDecoder"),
    resize=_resize_hidden,
)
def transformer_block(layer: keras.layers.Layer, call: Call) -> list[Flow]:
    """The hidden units of a block can be removed."""
    parts = _parts(layer)
    gate = parts.get("feedforward_gate_dense")
    first = parts["feedforward_intermediate_dense"]
    more = () if gate is None else (gate,)
    _hidden(call, first, parts["feedforward_output_dense"], more)
    return _finish(layer, call)


def _blocks(layer):
    """Returns the layers of the perceptrons of a ViT encoder, one pair a block."""
    inside = [_parts(part) for part in keras_internals.tracked_layers(layer)]
    perceptrons = [_parts(parts["mlp"]) for parts in inside if "mlp" in parts]
    return [(parts["dense_1"], parts["dense_2"]) for parts in perceptrons]


def _resize_encoder(layer, sizes):
    return {"mlp_dim": sizes.of(_blocks(layer)[0][0].kernel)[1]}


@register_foreign(_PACKAGE, "ViTEncoder", resize=_resize_encoder)
def vision_encoder(layer: keras.layers.Layer, call: Call) -> list[Flow]:
    """The hidden units at the same place of all blocks go together.

    The configuration has one width for all blocks.
    """
    blocks = _blocks(layer)
    for first, last in blocks:
        _hidden(call, first, last)
        if not is_changed(first):
            call.tie(call.produce(first.kernel), call.produce(blocks[0][0].kernel))
    return _finish(layer, call)


def _configuration_of_patches(layer, sizes):
    # Its configuration has entries that its constructor refuses, and lacks others.
    return {
        "num_patches": ABSENT,
        "num_positions": ABSENT,
        "use_patch_bias": layer.use_patch_bias,
        "data_format": layer.data_format,
    }


@register_foreign(_PACKAGE, "ViTPatchingAndEmbedding", resize=_configuration_of_patches)
def patches(layer: keras.layers.Layer, call: Call) -> list[Flow]:
    """The features of patches stay, as each block normalizes them."""
    reason = f"{call.title} returns features that are normalized together"
    call.keep_others(layer, reason)
    return call.pinned(reason)


def _resize_gemma(layer, sizes):
    parts = _parts(layer)
    heads = _parts(parts["attention"])
    return {
        # The configuration counts both halves of the gated hidden layer.
        "intermediate_dim": 2 * sizes.of(parts["ffw_gating"].kernel)[1],
        "num_query_heads": sizes.of(heads["query"].kernel)[0],
        "num_key_value_heads": sizes.of(heads["key"].kernel)[0],
    }


@register_foreign(_PACKAGE, "GemmaDecoderBlock", resize=_resize_gemma)
def gemma_block(layer: keras.layers.Layer, call: Call) -> list[Flow]:
    """Hidden units, and key and value heads with the query heads that read them."""
    parts = _parts(layer)
    _hidden(call, parts["ffw_gating"], parts["ffw_linear"], [parts["ffw_gating_2"]])
    heads = _parts(parts["attention"])
    names = ("query", "key", "value", "attention_output")
    if not any(is_changed(heads[name]) for name in names):
        ids = call.produce(heads["value"].kernel, 0)
        call.produce_too(heads["key"].kernel, 0, ids)
        repeated = np.repeat(ids, layer.num_query_heads // layer.num_key_value_heads)
        call.produce_too(heads["query"].kernel, 0, repeated)
        size = repeated.size
        flow = Flow((None, None, size, None), 2, repeated, np.zeros(size))
        call.read(heads["attention_output"].kernel, 0, flow)
    return _finish(layer, call)


@register_foreign(_PACKAGE, "PositionEmbedding")
def position_embedding(layer: keras.layers.Layer, call: Call) -> Flow | list[Flow]:
    """Returns a column for each feature of its input, whose values are not used."""
    flow = call.inputs[0]
    if flow.axis is None:
        return call.fixed(flow.reason)
    if flow.axis != len(flow.shape) - 1:
        return call.pinned(f"{call.title} has a column for each feature")
    call.vector(layer.position_embeddings, flow.ids, -1)
    return call.output(flow.ids)
