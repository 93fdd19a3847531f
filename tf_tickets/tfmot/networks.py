"""Networks of layers, independent of the library that builds them."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from tf_tickets import arguments

Path = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Tensor:
    """Names an output of a layer: the layer, which of its calls, and which output."""

    layer: str
    call: int = 0
    index: int = 0


@dataclasses.dataclass
class Call:
    """The arguments of one call of a layer, with a `Tensor` for each tensor."""

    args: list[Any]
    kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class LayerSpec:
    """Describes a layer.

    Args:
        name: Its name in the network, by which calls and weights refer to it.
        class_name: Its class.
        config: The arguments of its class.
        calls: Its calls, in order. Empty in a Sequential model.
        network: The network that it is, if it is a nested model.
        wrapper: The class of the wrapper around it that was removed.
        is_operation: Whether it was a function of `keras.ops`, not a layer.
    """

    name: str
    class_name: str
    config: dict[str, Any]
    calls: list[Call] = dataclasses.field(default_factory=list)
    network: "Network | None" = None
    wrapper: str | None = None
    is_operation: bool = False


@dataclasses.dataclass
class Network:
    """Describes a functional or Sequential model.

    Args:
        name: Its name.
        layers: Its layers, in the order of the model.
        inputs: Nested structure of `Tensor`; None in a Sequential model.
        outputs: Nested structure of `Tensor`; None in a Sequential model.
        batch_shape: The shape of the input of a Sequential model without a layer for
            its input.
    """

    name: str
    layers: list[LayerSpec]
    inputs: Any = None
    outputs: Any = None
    batch_shape: list[int | None] | None = None


def mapped(structure: Any, function: Callable[[Tensor], Any]) -> Any:
    """Replaces every `Tensor` in a nested structure.

    Example:

    >>> mapped([Tensor("a"), {"b": 1}], lambda tensor: tensor.layer)
    ['a', {'b': 1}]
    """
    if isinstance(structure, Tensor):
        return function(structure)
    if isinstance(structure, list | tuple):
        return [mapped(value, function) for value in structure]
    if isinstance(structure, dict):
        return {name: mapped(value, function) for name, value in structure.items()}
    return structure


def tensors(structure: Any) -> list[Tensor]:
    """Returns all tensors in a nested structure."""
    names: list[Tensor] = []
    mapped(structure, names.append)
    return names


def leaves(network: Network, path: Path = ()) -> Iterator[tuple[Path, LayerSpec]]:
    """Yields the layers that are no models and no inputs, with their paths.

    Example:

    >>> dense = LayerSpec("fc", "Dense", {})
    >>> inner = LayerSpec("net", "Sequential", {}, network=Network("net", [dense]))
    >>> [path for path, _ in leaves(Network("outer", [inner]))]
    [('net', 'fc')]
    """
    for spec in network.layers:
        if spec.network is not None:
            yield from leaves(spec.network, (*path, spec.name))
        elif spec.class_name != "InputLayer":
            yield (*path, spec.name), spec


def input_specs(network: Network) -> dict[str, tuple[list[int | None], str]]:
    """Returns a dict from input name to its shape, with the batch, and its dtype."""
    if network.inputs is None:
        return {"input": _first_input(network)}
    layers = {spec.name: spec for spec in network.layers}
    return {
        tensor.layer: _input_of(layers[tensor.layer].config)
        for tensor in tensors(network.inputs)
    }


def _input_of(config):
    return list(config["batch_shape"]), config.get("dtype") or "float32"


def _first_input(network):
    first = network.layers[0] if network.layers else None
    if first is not None and first.class_name == "InputLayer":
        return _input_of(first.config)
    if first is not None and first.network is not None and network.batch_shape is None:
        return next(iter(input_specs(first.network).values()))
    if network.batch_shape is None:
        raise ValueError(
            f"Model {network.name!r} must be built. Received: a Sequential model "
            "without an input shape. Call it once on data, then save it again."
        )
    return list(network.batch_shape), "float32"


def fed(network: Network, inputs: dict[str, np.ndarray]) -> Any:
    """Returns inputs in the structure in which the network takes them."""
    if network.inputs is None:
        return inputs["input"]
    return mapped(network.inputs, lambda tensor: inputs[tensor.layer])


def named(network: Network, data: Any) -> dict[str, np.ndarray]:
    """Returns examples by input name.

    Args:
        network: The network that takes them.
        data: An array, a list with one array for each input, or a dict by input name.
    """
    specs = input_specs(network)
    if not isinstance(data, dict):
        values = list(data) if isinstance(data, list | tuple) else [data]
        if len(values) != len(specs):
            raise ValueError(
                f"`data` must have one array for each input, {list(specs)}. Received: "
                f"{len(values)} arrays, data={arguments.shown(data)}."
            )
        data = dict(zip(specs, values, strict=True))
    if set(data) != set(specs):
        raise ValueError(
            f"`data` must have examples for the inputs {sorted(specs)}. Received: "
            f"{sorted(map(str, data))}."
        )
    arrays = {name: arguments.array(data=data[name]) for name in specs}
    for name, array in arrays.items():
        shape = specs[name][0][1:]
        fits = array.ndim == len(shape) + 1 and all(
            size in (None, length)
            for size, length in zip(shape, array.shape[1:], strict=True)
        )
        if not fits or not array.size:
            raise ValueError(
                f"`data` must have examples of shape {tuple(shape)} for input "
                f"{name!r}. Received: {arguments.shown(data[name])}, an array of shape "
                f"{array.shape}."
            )
    return {name: array.astype(specs[name][1]) for name, array in arrays.items()}


def build(
    network: Network, library: Any, make_layer: Callable[[LayerSpec], Any]
) -> tuple[Any, dict[Path, Any]]:
    """Builds a network as a model.

    Args:
        network: What to build.
        library: `keras` or `tf_keras`.
        make_layer: Returns the layer of a description.

    Returns:
        The model, and a dict from path to layer, without inputs and nested models.
    """
    layers: dict[Path, Any] = {}
    model = _build(network, library, make_layer, (), layers)
    return model, layers


def _build(network, library, make_layer, path, layers):
    members = {}
    for spec in network.layers:
        if spec.class_name == "InputLayer":
            members[spec.name] = _input(library, spec.config)
        elif spec.network is not None:
            inner = (*path, spec.name)
            members[spec.name] = _build(
                spec.network, library, make_layer, inner, layers
            )
        else:
            members[spec.name] = layers[(*path, spec.name)] = make_layer(spec)
    if network.outputs is None:
        return _sequential(network, library, list(members.values()))
    made = _call_all(network, members)
    inputs, outputs = _filled(made, network.inputs), _filled(made, network.outputs)
    return library.Model(inputs, outputs, name=valid_name(network.name))


def _input(library, config):
    shape, dtype = _input_of(config)
    return library.Input(
        batch_shape=tuple(shape), dtype=dtype, name=valid_name(config["name"])
    )


def _sequential(network, library, members):
    if not network.layers or network.layers[0].class_name != "InputLayer":
        shape, dtype = _first_input(network)
        members.insert(0, library.Input(batch_shape=tuple(shape), dtype=dtype))
    return library.Sequential(members, name=valid_name(network.name))


def _filled(made, structure):
    return mapped(
        structure, lambda tensor: made[tensor.layer, tensor.call][tensor.index]
    )


def _call_all(network, members):
    """Calls all layers; returns a dict from layer and call to the outputs."""
    made = {
        (spec.name, 0): [members[spec.name]]
        for spec in network.layers
        if spec.class_name == "InputLayer"
    }
    pending = [
        (spec, index) for spec in network.layers for index in range(len(spec.calls))
    ]
    while pending:
        waiting = []
        for spec, index in pending:
            call = spec.calls[index]
            needed = tensors([call.args, call.kwargs])
            if any((tensor.layer, tensor.call) not in made for tensor in needed):
                waiting.append((spec, index))
                continue
            args, kwargs = _filled(made, call.args), _filled(made, call.kwargs)
            outputs = members[spec.name](*args, **kwargs)
            made[spec.name, index] = keras.tree.flatten(outputs)
        if len(waiting) == len(pending):
            raise ValueError(
                f"The configuration of model {network.name!r} is damaged: the inputs "
                f"of {sorted({spec.name for spec, _ in waiting})} do not exist. Save "
                "the model again."
            )
        pending = waiting
    return made


def valid_name(name: str) -> str:
    """Returns a layer name that Keras 3 accepts.

    Example:

    >>> valid_name("block/conv")
    'block_conv'
    """
    return name.replace("/", "_")
