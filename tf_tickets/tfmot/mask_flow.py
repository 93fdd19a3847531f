"""Follows masks of time steps through networks, as both libraries pass them on."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from tf_tickets.tfmot.networks import Call, LayerSpec, Network, Tensor, tensors

_MERGES = frozenset(
    ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate")
)
# Layers whose first output has the mask of their first input, in both libraries.
_PASS = frozenset(
    (
        *("Dense", "Activation", "ReLU", "LeakyReLU", "ELU", "PReLU", "Softmax"),
        *("BatchNormalization", "LayerNormalization", "GroupNormalization"),
        *("UnitNormalization", "ActivityRegularization", "Dropout", "AlphaDropout"),
        *("SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D"),
        *("GaussianDropout", "GaussianNoise", "TimeDistributed"),
        *("MultiHeadAttention", "Attention", "AdditiveAttention"),
    )
)
# Layers that pass masks on in Keras 3 but not in tf_keras.
_PASS_IN_KERAS_3 = frozenset(("Identity", "Normalization", "Rescaling"))
_RECURRENT = frozenset(
    ("LSTM", "GRU", "SimpleRNN", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D")
)
# Functions from which Keras 3 makes the mask of a layer.
_OPERATIONS = frozenset(
    (
        *("Any", "NotEqual", "LogicalOr", "ExpandDims", "ZerosLike", "Concatenate"),
        "ConvertToTensor",
    )
)


class Mask(NamedTuple):
    """Says where the mask of a tensor comes from.

    Args:
        source: The call of `Masking` or `Embedding`, or the tensor given as `mask`.
            None if the libraries would not compute the same mask.
        changes: The calls of `Concatenate` that made it longer.
    """

    source: Any
    changes: tuple[Any, ...] = ()


_UNLIKE = Mask(None)


class Reached(NamedTuple):
    """A call of a layer, with the masks of its inputs.

    Args:
        spec: The layer.
        call: The call; None in a Sequential model.
        masks: The masks of the tensors in its first argument, None without.
        differs: Whether the libraries compute different masks from them.
    """

    spec: LayerSpec
    call: Call | None
    masks: list[Mask | None]
    differs: bool


def follow(network: Network) -> list[Reached]:
    """Returns all calls of layers, those of nested models once for each call of these.

    Example:

    >>> specs = [LayerSpec("m", "Masking", {}), LayerSpec("fc", "Dense", {})]
    >>> [call.masks[0] is not None for call in follow(Network("net", specs))]
    [False, True]
    """
    reached: list[Reached] = []
    count = 1 if network.inputs is None else len(_flat(network.inputs))
    _follow(network, [None] * count, (), reached)
    return reached


def _follow(network, given, path, reached):
    """Returns the masks of the outputs, for the masks of the inputs."""
    if network.outputs is None:
        masks = given
        for spec in network.layers:
            if spec.class_name != "InputLayer":
                masks = _after(spec, None, masks, (*path, (spec.name, 0)), reached)
        return masks[:1]
    made = dict(zip(_flat(network.inputs), given, strict=False))
    operations = _operations(network)
    calls = [(spec, index) for spec in network.layers for index in range(_calls(spec))]
    for spec, index in _ordered(calls):
        call = spec.calls[index]
        masks = _of_call(call, made, operations)
        here = (*path, (spec.name, index))
        outputs = _after(spec, call, masks, here, reached)
        made |= {
            Tensor(spec.name, index, number): mask
            for number, mask in enumerate(outputs)
        }
    return [made.get(tensor) for tensor in _flat(network.outputs)]


def _operations(network):
    """Returns the names of the functions of Keras 3 that are no layers."""
    return {
        spec.name for spec in network.layers if spec.class_name.startswith("keras.ops ")
    }


def _calls(spec):
    return 0 if spec.class_name == "InputLayer" else len(spec.calls)


def _ordered(calls):
    """Yields calls after those whose outputs they read."""
    pending = {(spec.name, index): spec for spec, index in calls}
    while pending:
        ready = [
            (name, index)
            for (name, index), spec in pending.items()
            if not any(
                (tensor.layer, tensor.call) in pending
                for tensor in _read(spec.calls[index])
            )
        ]
        if not ready:
            return  # A damaged configuration, which is refused when it is built.
        for key in ready:
            yield pending.pop(key), key[1]


def _read(call):
    return tensors([call.args, call.kwargs])


def _flat(structure):
    """Returns the tensors of a structure in the order in which models take them."""
    if isinstance(structure, dict):
        return [t for name in sorted(structure) for t in _flat(structure[name])]
    if isinstance(structure, list | tuple):
        return [tensor for value in structure for tensor in _flat(value)]
    return [structure] if isinstance(structure, Tensor) else []


def _of_call(call, made, operations):
    """Returns the masks of the first argument: those given, else those it has.

    Masks that are made by operations of Keras 3 do not count as given.
    """
    first = _flat(call.args[0] if call.args else list(call.kwargs.values()))
    explicit = call.kwargs.get("mask")
    explicit = explicit if isinstance(explicit, list) else [explicit]
    masks = [made.get(tensor) for tensor in first]
    for index, mask in enumerate(explicit[: len(masks)]):
        if isinstance(mask, Tensor) and mask.layer not in operations:
            masks[index] = Mask(mask)
    return masks


def _after(spec, call, masks, path, reached):
    """Returns the masks of a call's outputs."""
    if spec.network is not None:
        reached.append(Reached(spec, call, masks, False))
        return _follow(spec.network, masks, path, reached)
    outcome = _single(spec, masks, path)
    known = all(mask is None or mask.source is not None for mask in masks)
    differs = outcome is _UNLIKE and known
    reached.append(Reached(spec, call, masks, differs))
    return [outcome]


def _single(spec, masks, path):
    """Returns the mask of the first output."""
    if spec.class_name == "Masking" or _masks_zeros(spec):
        return Mask(path)
    if spec.class_name == "TimeDistributed" and _makes_masks(spec.config["layer"]):
        return _UNLIKE
    if not any(masks):
        return None
    if spec.is_operation or spec.class_name in _PASS_IN_KERAS_3:
        return _UNLIKE
    if spec.class_name in _MERGES:
        return _merged(spec, masks, path)
    return masks[0] if _passes(spec) else None


def _merged(spec, masks, path):
    if any(mask is None or mask != masks[0] for mask in masks):
        return _UNLIKE
    if spec.class_name != "Concatenate" or spec.config.get("axis", -1) == -1:
        return masks[0]
    return masks[0]._replace(changes=(*masks[0].changes, path))


def _passes(spec):
    config = spec.config
    if spec.class_name == "Bidirectional":
        config = config["layer"]["config"]
    elif spec.class_name not in _RECURRENT:
        return spec.class_name in _PASS
    return bool(config.get("return_sequences"))


def _masks_zeros(spec):
    return spec.class_name == "Embedding" and bool(spec.config.get("mask_zero"))


def _makes_masks(described):
    is_masking = described["class_name"] == "Masking"
    return is_masking or bool(described["config"].get("mask_zero"))


def without_computed(network: Network) -> Network:
    """Removes masks that layers compute, with the operations that compute them.

    Keras 3 stores the masks of `Masking` and `Embedding` as operations of the graph.
    The other library computes them when the layers are called. Any other mask made by
    operations is refused.

    Args:
        network: A functional network of Keras 3. It is changed.
    """
    specs = {spec.name: spec for spec in network.layers}
    operations = _operations(network)
    sources = dict(_sources(network))
    for spec, call, masks, _ in follow(network):
        if call is None or not any(spec is one for one in network.layers):
            continue
        given = call.kwargs.get("mask")
        given = given if isinstance(given, list) else [given]
        if not any(tensor.layer in operations for tensor in tensors(given)):
            continue
        names = [tensor and tensor.layer for tensor in given]
        for tensor, mask in zip(given, masks, strict=False):
            if not _is_computed(tensor, mask, specs, sources):
                raise ValueError(
                    f"Layer {spec.name!r} ({spec.class_name}) takes a mask that cannot "
                    f"be converted. Received: mask={names}, computed by functions "
                    "of keras.ops. Use Masking or Embedding(mask_zero=True) "
                    "before the layer, or make the mask an Input of the model."
                )
        del call.kwargs["mask"]
    return _without_unread(network, operations)


def _sources(network) -> Iterator[tuple[tuple[Tensor, float, bool], list[Any]]]:
    """Yields how masks are computed, with the calls that compute them so."""
    found: dict[Any, list[Any]] = {}
    for spec in network.layers:
        for index, call in enumerate(spec.calls):
            read = _flat(call.args)
            if spec.class_name == "Masking":
                key = (read[0], spec.config.get("mask_value", 0.0), True)
            elif _masks_zeros(spec):
                key = (read[0], 0, False)
            else:
                continue
            found.setdefault(key, []).append(((spec.name, index),))
    yield from found.items()


def _is_computed(tensor, mask, specs, sources):
    """Returns whether a mask given to a layer is the one that its input has."""
    if mask is None or tensor is None:
        return mask is None and tensor is None
    if mask.source is None:
        return True  # The layer that made it is refused.
    origins = list(_origins(tensor, specs))
    return bool(origins) and all(
        origin == mask.source or mask.source in sources.get(origin, ())
        for origin in origins
    )


def _origins(tensor, specs, is_any=False):
    """Yields what a mask is made of: keys of `_sources`, and other tensors."""
    spec = specs[tensor.layer]
    kind = spec.class_name.removeprefix("keras.ops ")
    if kind == spec.class_name or kind not in _OPERATIONS:
        yield tensor
        return
    args = spec.calls[tensor.call].args
    if kind == "NotEqual" and not isinstance(args[1], Tensor):
        yield args[0], args[1], is_any
    elif kind != "ZerosLike":  # It gives a mask the shape of an input.
        is_any = kind == "Any" or (is_any and kind == "ConvertToTensor")
        for read in _flat(args):
            yield from _origins(read, specs, is_any)


def _without_unread(network, operations):
    while True:
        read = [
            t for spec in network.layers for call in spec.calls for t in _read(call)
        ]
        needed = {tensor.layer for tensor in [*read, *tensors(network.outputs)]}
        unread = operations - needed
        kept = [spec for spec in network.layers if spec.name not in unread]
        if len(kept) == len(network.layers):
            return network
        network.layers = kept
