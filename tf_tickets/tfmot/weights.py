"""Weights of layers by name, and the masks that pruning wrappers store with them."""

import re
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np

from tf_tickets import wrapping
from tf_tickets.tfmot.layer_tables import UNSTORED
from tf_tickets.tfmot.networks import LayerSpec, Network, Path, leaves

# An array with the last part of its variable's name.
Named = tuple[str, np.ndarray]

_NORMALIZATION = 3  # Mean, variance and count in tf_keras.
_WRAPPER_VARIABLES = ("mask", "threshold", "pruning_step")
# The variables that tensorflow-model-optimization prunes; never a depthwise kernel.
_PRUNABLE = ("kernel", "recurrent_kernel", "pointwise_kernel", "embeddings")
_NEVER_PRUNED = ("DepthwiseConv1D", "DepthwiseConv2D", "EinsumDense")


def base_name(name: str) -> str:
    """Returns the last part of a variable's name, without its number.

    Example:

    >>> base_name("conv/kernel_1:0")
    'kernel'
    """
    return re.sub(r"_\d+$", "", name.partition(":")[0].rpartition("/")[2])


def of_tf_keras(model: Any, network: Network, path: Path = ()) -> dict[Path, list]:
    """Returns the weights of a tf_keras model by the paths of its layers."""
    layers = {layer.name: layer for layer in model.layers}
    arrays: dict[Path, list] = {}
    for spec in network.layers:
        if spec.network is not None:
            inner = (*path, spec.name)
            arrays |= of_tf_keras(layers[spec.name], spec.network, inner)
        elif spec.class_name != "InputLayer":
            layer = layers[spec.name]
            variables = [*layer.trainable_weights, *layer.non_trainable_weights]
            arrays[(*path, spec.name)] = [
                (base_name(v.name), np.asarray(v)) for v in variables
            ]
    return arrays


def split(
    network: Network, flat: dict[str, list[Named]], layers: dict[Path, Any]
) -> dict[Path, list[Named]]:
    """Divides the weights of nested models among their layers.

    Args:
        network: The network.
        flat: Dict from the name of a layer or nested model to its weights: first the
            trainable ones of all layers, then the others.
        layers: The layers of the network by their paths.
    """
    arrays: dict[Path, list[Named]] = {}
    for spec in network.layers:
        rest = iter(flat.get(spec.name, ()))
        if spec.network is None:
            arrays[(spec.name,)] = list(rest)
            continue
        parts = list(leaves(spec.network, (spec.name,)))
        for path, _ in parts:
            count = len(layers[path].trainable_weights)
            arrays[path] = _taken(rest, count, path)
        for path, part in parts:
            count = len(layers[path].non_trainable_weights)
            if part.class_name == "Normalization" and count:
                count = _NORMALIZATION
            arrays[path] += _taken(rest, count, path)
            if part.wrapper is not None:
                arrays[path] += _wrapper_variables(rest)
        left = [name for name, _ in rest]
        if left:
            raise ValueError(
                f"Model {spec.name!r} has other weights than its layers. Received: "
                f"{left} without a layer. The file is damaged; save it again."
            )
    return arrays


def _taken(rest: Iterator[Named], count, path):
    taken = [pair for _, pair in zip(range(count), rest, strict=False)]
    if len(taken) < count:
        raise ValueError(
            f"Layer {'/'.join(path)!r} lacks weights. Received: {len(taken)} of "
            f"{count}. The file is damaged; save it again."
        )
    return taken


def _wrapper_variables(rest):
    taken = []
    for pair in rest:
        taken.append(pair)
        if pair[0] == "pruning_step":
            break
    return taken


def separated(spec: LayerSpec, arrays: list[Named]) -> tuple[list[Named], dict]:
    """Returns the weights of a layer, and the masks by the weights' positions.

    Args:
        spec: The layer.
        arrays: Its weights, and those of its pruning wrapper.

    Example:

    >>> spec = LayerSpec("fc", "Dense", {}, wrapper="PruneLowMagnitude")
    >>> arrays = [("kernel", np.ones(2)), ("mask", np.zeros(2))]
    >>> separated(spec, arrays)[1]
    {0: array([False, False])}
    """
    arrays = [pair for pair in arrays if pair[0] not in UNSTORED]
    if spec.wrapper is None:
        return arrays, {}
    masks = [array for name, array in arrays if name == "mask"]
    arrays = [pair for pair in arrays if pair[0] not in _WRAPPER_VARIABLES]
    prunable = [
        index
        for index, (name, _) in enumerate(arrays)
        if name in _PRUNABLE and spec.class_name not in _NEVER_PRUNED
    ]
    shapes = [arrays[index][1].shape for index in prunable]
    if masks and [mask.shape for mask in masks] != shapes:
        raise ValueError(
            f"The masks of layer {spec.name!r} do not fit its kernels. Received: masks "
            f"of shape {[mask.shape for mask in masks]}, kernels of shape {shapes}. "
            "Call tfmot.sparsity.keras.strip_pruning(model) first."
        )
    return arrays, {i: m != 0 for i, m in zip(prunable, masks, strict=False)}


def assign(
    layer: keras.layers.Layer, arrays: list[Named], masks: dict[int, np.ndarray]
) -> dict[int, np.ndarray]:
    """Sets the variables of a Keras 3 layer; returns masks by their identities.

    Pruned weights of tensorflow-model-optimization may be -0.0, which compresses badly:
    zeros become positive.
    """
    variables = _stored(layer)
    _check_fits(layer, [(v.name, v.shape) for v in variables], arrays)
    for index, (variable, (_, array)) in enumerate(zip(variables, arrays, strict=True)):
        mask = masks.get(index)
        kept = array != 0 if mask is None else mask
        variable.assign(np.where(kept, array, np.zeros_like(array)))
    if isinstance(layer, keras.layers.Normalization):
        layer.finalize_state()
    return {id(variables[index]): mask for index, mask in masks.items()}


def of_layer(layer: keras.layers.Layer) -> list[Named]:
    """Returns the weights of a Keras 3 layer in the order of tf_keras."""
    return [(base_name(v.name), wrapping.to_numpy(v)) for v in _stored(layer)]


def assign_to_tf_keras(layer: Any, arrays: list[Named]) -> None:
    """Sets the variables of a tf_keras layer."""
    stored = _stored(layer)
    _check_fits(layer, [(v.name, v.shape) for v in stored], arrays)
    for variable, (_, array) in zip(stored, arrays, strict=True):
        variable.assign(array)
    if type(layer).__name__ == "Normalization":
        layer.finalize_state()


def _stored(layer):
    variables = [*layer.trainable_weights, *layer.non_trainable_weights]
    return [v for v in variables if base_name(v.name) not in UNSTORED]


def _check_fits(layer: Any, variables: Iterable, arrays: list[Named]) -> None:
    kind = type(layer).__name__
    wanted = [(_common(base_name(name), kind), tuple(s)) for name, s in variables]
    received = [(_common(name, kind), array.shape) for name, array in arrays]
    if wanted != received:
        raise ValueError(
            f"The weights do not fit layer {layer.name!r} of type {kind}. Received: "
            f"{received}. Expected: {wanted}. The model was saved by a version whose "
            "layer has other weights, or the file is damaged."
        )


def _common(name, class_name):
    """Returns a variable's name in Keras 3, which differs for one layer."""
    is_depthwise = class_name in ("DepthwiseConv1D", "DepthwiseConv2D")
    return "kernel" if is_depthwise and name == "depthwise_kernel" else name
