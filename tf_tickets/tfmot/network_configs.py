"""Reads networks from the configurations that Keras 3 and tf_keras store."""

import json
from typing import Any

import keras

from tf_tickets.tfmot import mask_flow
from tf_tickets.tfmot.networks import Call, LayerSpec, Network, Tensor, mapped, tensors
from tf_tickets.wrapping import graphs

_GRAPHS = ("Functional", "Model")
_PRUNING = "PruneLowMagnitude"
_QUANTIZING = ("QuantizeWrapper", "QuantizeWrapperV2")
_OWN_MODULES = ("keras", "tf_keras", "tensorflow")

# Functions of two tensors that are layers too.
_MERGES = ("Add", "Subtract", "Multiply", "Maximum", "Minimum")

# Layers without a counterpart, and what to do about them.
_ADVICE = {
    "ClusterWeights": "Call tfmot.clustering.keras.strip_clustering(model) first",
    "QuantizeAnnotate": "Convert the model before it is annotated",
    "QuantizeLayer": "Use tf_tickets.tfmot.from_qat(model)",
    "QuantizeWrapper": "Use tf_tickets.tfmot.from_qat(model)",
    "QuantizeWrapperV2": "Use tf_tickets.tfmot.from_qat(model)",
    "TFOpLambda": "Use layers such as Add and Rescaling instead of operators",
    "SlicingOpLambda": "Use layers such as Cropping2D instead of slices",
    "TensorFlowOpLayer": "Use layers instead of TensorFlow functions",
    "Lambda": "Its Python code cannot be converted. Use layers instead",
    "ThresholdedReLU": "Use ReLU(threshold=...) instead",
}


def advice(class_name: str) -> str:
    """Returns what to do about a layer that cannot be converted."""
    return _ADVICE.get(class_name, "Replace it, and train the model again")


def from_legacy(described: dict[str, Any], quantized: bool = False) -> Network:
    """Reads the configuration of a tf_keras model or of a legacy `.h5` file.

    Wrappers of tensorflow-model-optimization are replaced by their layers.

    Args:
        described: Dict with `class_name` and `config`.
        quantized: Whether to remove the wrappers of quantization-aware training.

    Example:

    >>> dense = {"class_name": "Dense", "config": {"name": "fc", "units": 2}}
    >>> config = {"name": "net", "layers": [dense]}
    >>> from_legacy({"class_name": "Sequential", "config": config}).layers[0].name
    'fc'
    """
    network = _legacy_network(described, quantized)
    return _without_quantize_layers(network) if quantized else network


def _legacy_network(described, quantized):
    class_name, config = described["class_name"], described["config"]
    if class_name == "Sequential":
        if isinstance(config, list):  # Before Keras 2.2.3.
            config = {"name": "sequential", "layers": config}
        layers = [_legacy_layer(layer, quantized) for layer in config["layers"]]
        return Network(config["name"], layers, batch_shape=_built_for(config))
    if class_name not in _GRAPHS or "input_layers" not in config:
        raise ValueError(
            f"The model must be Sequential or functional. Received: {class_name!r}, "
            "whose layers are called by Python code, which no file has. Build it "
            "again as a functional model, and copy its weights."
        )
    layers = [_legacy_layer(layer, quantized) for layer in config["layers"]]
    network = Network(
        config["name"],
        layers,
        _singled(_legacy_tensors(config["input_layers"])),
        _singled(_legacy_tensors(config["output_layers"])),
    )
    return _counted_from_zero(network)


def _counted_from_zero(network):
    """Numbers the calls of nested models from 0.

    A model with an input counts the call in its own graph as its first, so that its
    calls in another graph often begin with 1.
    """
    read = _all_tensors(network)
    for spec in network.layers:
        numbers = {tensor.call for tensor in read if tensor.layer == spec.name}
        if spec.network is not None and numbers and 0 not in numbers:
            _renumber(network, spec.name)
    return network


def _all_tensors(network):
    """Returns all tensors that layers or the network's outputs read."""
    calls = [call for spec in network.layers for call in spec.calls]
    return tensors([network.outputs, *([call.args, call.kwargs] for call in calls)])


def _renumber(network, name):
    def lowered(tensor):
        if tensor.layer != name:
            return tensor
        return Tensor(name, tensor.call - 1, tensor.index)

    for spec in network.layers:
        for call in spec.calls:
            call.args = mapped(call.args, lowered)
            call.kwargs = mapped(call.kwargs, lowered)
    network.outputs = mapped(network.outputs, lowered)


def _built_for(config):
    """Returns the shape of a Sequential model's input, if its layers know it."""
    first = config["layers"][0]["config"] if config["layers"] else {}
    if isinstance(first, dict) and "layer" in first:
        first = {**first["layer"]["config"], **first}
    known = first.get("batch_input_shape") if isinstance(first, dict) else None
    return known or config.get("build_input_shape")


def _legacy_layer(described, quantized):
    class_name, config = described["class_name"], described["config"]
    name = described.get("name") or _name_of(described)
    calls = [_legacy_call(node) for node in described.get("inbound_nodes", ())]
    if class_name == "Sequential" or class_name in _GRAPHS:
        network = _legacy_network(described, quantized)
        return LayerSpec(name, class_name, {}, calls, network)
    wrapper = None
    if class_name == _PRUNING or (quantized and class_name in _QUANTIZING):
        wrapper, inner = class_name, config["layer"]
        described, class_name, config = inner, inner["class_name"], inner["config"]
    _check_module(described, name)
    config = dict(config)
    shape = config.pop("batch_input_shape", None)
    if class_name == "InputLayer":
        config["batch_shape"] = config.get("batch_shape") or shape
    return LayerSpec(name, class_name, config, calls, wrapper=wrapper)


def _name_of(described):
    config = described["config"]
    return config["name"] if isinstance(config, dict) else "sequential"


def _check_module(described, name):
    """Refuses a user's class with the name of a layer of Keras."""
    class_name = described["class_name"]
    registered = described.get("registered_name") or class_name
    module = described.get("module") or "keras"
    own = module.partition(".")[0] in _OWN_MODULES or class_name in _ADVICE
    if not own or (">" in registered and class_name not in _ADVICE):
        raise ValueError(
            f"Layer {name!r} has a class that is not part of Keras. Received: "
            f"{module}.{class_name}. {advice(class_name)}."
        )


def _legacy_call(node):
    kwargs: dict[str, Any] = {}

    def read(value):
        if _is_legacy_tensor(value):
            if len(value) > 3:
                kwargs.update(value[3])
            return Tensor(*value[:3])
        if isinstance(value, dict):
            return {name: read(one) for name, one in value.items()}
        return [read(one) for one in value] if isinstance(value, list) else value

    args = [_singled(read(node))]
    return Call(args, _without_defaults(_legacy_tensors(kwargs)))


def _is_legacy_tensor(value):
    return (
        isinstance(value, list)
        and len(value) in (3, 4)
        and isinstance(value[0], str)
        and all(isinstance(number, int) for number in value[1:3])
    )


def _legacy_tensors(structure):
    if _is_legacy_tensor(structure):
        return Tensor(*structure[:3])
    if isinstance(structure, list):
        return [_legacy_tensors(value) for value in structure]
    if isinstance(structure, dict):
        return {name: _legacy_tensors(value) for name, value in structure.items()}
    return structure


def _singled(structure):
    single = isinstance(structure, list) and len(structure) == 1
    return structure[0] if single else structure


def _without_defaults(kwargs):
    """Leaves out what both libraries assume, and masks, which they compute."""
    defaults = {"training": (None, False)}
    return {
        name: value
        for name, value in kwargs.items()
        if value is not None and value not in defaults.get(name, ())
    }


def _without_quantize_layers(network):
    """Connects the readers of a quantized input with the input itself."""
    sources = {
        spec.name: spec for spec in network.layers if spec.class_name == "QuantizeLayer"
    }

    def source(tensor):
        while tensor.layer in sources:
            tensor = sources[tensor.layer].calls[tensor.call].args[0]
        return tensor

    layers = []
    for spec in network.layers:
        if spec.name in sources:
            continue
        for call in spec.calls:
            call.args = mapped(call.args, source)
            call.kwargs = mapped(call.kwargs, source)
        layers.append(spec)
    network.layers, network.outputs = layers, mapped(network.outputs, source)
    return network


def from_current(model: keras.Model) -> Network:
    """Reads the configuration of a plain Keras 3 model.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, name="fc")])
    >>> [spec.name for spec in from_current(model).layers][1:]
    ['fc']
    """
    if not graphs.is_graph(model):
        raise ValueError(
            f"The model must be Sequential or functional. Received: {model.name!r} of "
            f"type {type(model).__name__}, whose layers are called by Python code. "
            "Build it again as a functional model."
        )
    graph = graphs.graph_of(model)
    return _current_network(json.loads(graph.to_json()))


def _current_network(described):
    class_name, config = described["class_name"], described["config"]
    layers = [_current_layer(layer) for layer in config["layers"]]
    if class_name == "Sequential":
        shape = config.get("build_input_shape")
        return Network(config["name"], layers, batch_shape=shape)
    network = Network(
        config["name"],
        layers,
        _singled(_legacy_tensors(config["input_layers"])),
        _singled(_legacy_tensors(config["output_layers"])),
    )
    return mask_flow.without_computed(network)


def _current_layer(described):
    class_name, config = described["class_name"], described["config"]
    name = described.get("name") or config["name"]
    calls = [
        Call(
            [_current_tensors(value) for value in node["args"]],
            _without_defaults(_current_tensors(node["kwargs"])),
        )
        for node in described.get("inbound_nodes", ())
    ]
    if class_name in ("Sequential", "Functional"):
        return LayerSpec(name, class_name, {}, calls, _current_network(described))
    module = described.get("module") or ""
    if module != "keras.layers" and not _is_operation(described):
        raise ValueError(
            f"Layer {name!r} has a class that is not part of Keras. Received: "
            f"{module}.{class_name}. Replace it by layers of Keras."
        )
    if _is_operation(described):
        if class_name in _MERGES and all(_is_merge(call) for call in calls):
            calls = [Call([call.args]) for call in calls]
            return LayerSpec(name, class_name, {"name": name}, calls, is_operation=True)
        class_name = f"keras.ops {class_name}"
    return LayerSpec(name, class_name, dict(config), calls)


def _is_merge(call):
    return len(call.args) == 2 and all(isinstance(x, Tensor) for x in call.args)


def _is_operation(described):
    """Returns whether it is a function of `keras.ops`, not a layer."""
    return ".ops" in (described.get("module") or "")


def _current_tensors(structure):
    if isinstance(structure, dict):
        if structure.get("class_name") == "__keras_tensor__":
            return Tensor(*structure["config"]["keras_history"])
        if structure.get("class_name") == "__tuple__":
            return [_current_tensors(value) for value in structure["config"]["value"]]
        return {name: _current_tensors(value) for name, value in structure.items()}
    if isinstance(structure, list):
        return [_current_tensors(value) for value in structure]
    return structure
