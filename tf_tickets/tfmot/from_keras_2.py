"""Converts models of tf_keras, pruned or not, to Keras 3 models and tickets."""

import os
import re
from typing import Any

import keras
import numpy as np

from tf_tickets import arguments, environment, keras_internals, wrapping
from tf_tickets.structures.structure import Unstructured
from tf_tickets.tfmot import (
    layer_tables,
    legacy_files,
    mask_flow,
    network_configs,
    networks,
    tf_keras_models,
    tf_keras_process,
    weights,
)
from tf_tickets.tfmot.networks import Network
from tf_tickets.tickets.ticket import Ticket
from tf_tickets.wrapping import choosing

TOLERANCE = 1e-5
_NUMBERED = re.compile(r"concatenate(_\d{1,6})?")

Source = Any  # A tf_keras model, or a path. tf_keras is not imported for its type.


def from_tf_keras(
    source: Source, data: Any = None, tolerance: float = TOLERANCE
) -> keras.Model:
    """Converts a tf_keras model to a Keras 3 model with the same predictions.

    The model may be wrapped by tensorflow-model-optimization's pruning; its masks are
    then set in the kernels. Both models are run on the same inputs, and a model that
    predicts other values is refused. So are layers and settings that Keras 3 does not
    have, by their names. Requires tf_keras; `load_legacy` does not.

    Args:
        source: A Sequential or functional tf_keras model, or the path of a `.h5` file,
            a SavedModel or a `.keras` file of tf_keras. SavedModels may contain code:
            load only those that you trust.
        data: Inputs for the comparison: an array, a list with one array for each input,
            or a dict by input name. Random by default.
        tolerance: The largest difference allowed, relative to the largest prediction.

    Returns:
        A plain Keras 3 model that is not compiled, with the layer names of `source`.

    Example:

    >>> import tf_keras
    >>> theirs = tf_keras.Sequential(
    ...     [tf_keras.Input((3,)), tf_keras.layers.Dense(2, name="fc")])
    >>> model = from_tf_keras(theirs)
    >>> np.array_equal(model.layers[0].kernel, theirs.layers[0].kernel)
    True
    """
    return _converted(source, data, tolerance)[0]


def ticket_from_tf_keras(
    source: Source, data: Any = None, tolerance: float = TOLERANCE
) -> Ticket:
    """Returns the ticket of a pruned tf_keras model.

    Its masks are those of the pruning wrappers where the model has them. Elsewhere they
    prune the zeros of a kernel, unless all its weights are zero. Its start weights are
    the model's weights, since tensorflow-model-optimization does not rewind.

    Args:
        source: As in `from_tf_keras`.
        data: As in `from_tf_keras`.
        tolerance: As in `from_tf_keras`.

    Returns:
        A `Ticket` for the model that `from_tf_keras` returns, or for any model with
        its layers.

    Example:

    >>> import tf_keras
    >>> theirs = tf_keras.Sequential(
    ...     [tf_keras.Input((2,)), tf_keras.layers.Dense(2, name="fc")], name="net")
    >>> theirs.layers[0].set_weights([np.array([[0.0, 1.0], [2.0, 0.0]]), np.ones(2)])
    >>> ticket_from_tf_keras(theirs).kept
    {'net/fc/kernel': 2}
    """
    model, masks = _converted(source, data, tolerance)
    return _ticket(model, masks)


def load_legacy(path: os.PathLike | str) -> keras.Model:
    """Loads a `.h5` file of tf_keras or of Keras before version 3.

    Requires neither TensorFlow nor tf_keras, and runs no code from the file. Settings
    that Keras 3 refuses, such as `groups` of a DepthwiseConv2D, are left out if they
    have no effect; otherwise the layer is refused by its name. Names and shapes of all
    weights are compared with the layers. `from_tf_keras` also compares predictions.

    Args:
        path: A file that `model.save` wrote.

    Returns:
        A plain Keras 3 model that is not compiled. Masks of pruning wrappers are set
        in its kernels.

    Example:

    >>> import h5py, json
    >>> dense = {"name": "fc", "units": 1, "batch_input_shape": [None, 2]}
    >>> layers = [{"class_name": "Dense", "config": dense}]
    >>> config = {"name": "net", "layers": layers}
    >>> with h5py.File(tmp_path / "old.h5", "w") as file:
    ...     file.attrs["model_config"] = json.dumps(
    ...         {"class_name": "Sequential", "config": config})
    ...     group = file.create_group("model_weights/fc")
    ...     file["model_weights"].attrs["layer_names"] = ["fc"]
    ...     group.attrs["weight_names"] = ["fc/kernel:0", "fc/bias:0"]
    ...     group["fc/kernel:0"], group["fc/bias:0"] = [[1.0], [2.0]], [3.0]
    >>> model = load_legacy(tmp_path / "old.h5")
    >>> model.predict(np.ones((1, 2)), verbose=0).tolist()
    [[6.0]]
    """
    path = arguments.check_path(path=path)
    return _from_file(path)[0]


def _converted(source, data, tolerance):
    """Returns a Keras 3 model, and masks by the identities of its variables."""
    arguments.check_positive(tolerance=tolerance)
    if tf_keras_models.is_model(source):
        described = tf_keras_models.describe(source, data)
        model, masks, network = _from_description(described)
    elif isinstance(source, str | os.PathLike):
        path = arguments.check_path(source=source)
        model, masks, network, described = _from_path(path, data)
    else:
        raise TypeError(
            "`source` must be a tf_keras model or the path of one. Received: "
            f"{arguments.shown(source)} of type {type(source).__module__}."
            f"{type(source).__name__}."
        )
    check_equal(model, network, described.inputs, described.outputs, tolerance)
    return model, masks


def _from_path(path, data):
    """Converts a file; a `.h5` file is read here and only run by tf_keras."""
    is_h5 = path.suffix in (".h5", ".hdf5")
    from_file = _from_file(path) if is_h5 else None
    if from_file is not None and data is not None:
        networks.named(from_file[2], data)
    if not path.exists():
        raise FileNotFoundError(
            f"There is no file or folder {path}. Pass the path of a saved model."
        )
    described = _described(path, data)
    return (*(from_file or _from_description(described)), described)


def _described(path, data):
    tf_keras_models.check_installed(f"Comparing the predictions of {path}")
    if keras.config.backend() == "tensorflow":
        return tf_keras_models.describe(tf_keras_models.load(path), data)
    return tf_keras_process.describe(path, data)


def _from_file(path):
    described, flat = legacy_files.read(path)
    try:
        network = _network(described)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(
            f"The configuration of the model in {path} is damaged: {error!r}. Use "
            "another copy, or save the model again."
        ) from error
    model, layers = _built(network)
    arrays = weights.split(network, flat, layers)
    return model, _assign(network, layers, arrays), network


def _from_description(described):
    network = _network(described.config)
    model, layers = _built(network)
    return model, _assign(network, layers, described.weights), network


def _network(described):
    network = network_configs.from_legacy(described)
    layer_tables.check(network)
    return layer_tables.with_states_apart(network)


def _built(network):
    _keep_names_apart(network)
    return networks.build(
        network, keras, lambda spec: layer_tables.make_layer(spec, keras)
    )


def _keep_names_apart(network):
    """Lets Keras name no function as a layer `Concatenate` of the network.

    Keras 3 joins masks by functions with the names "concatenate", "concatenate_1" and
    so on, and counts them together with the layers that it names.
    """
    names = {
        spec.name
        for _, spec in networks.leaves(network)
        if spec.class_name == "Concatenate"
    }
    numbers = [_number(name) for name in names if _NUMBERED.fullmatch(name)]
    has_masks = any(any(call.masks) for call in mask_flow.follow(network))
    while has_masks and numbers and _next_number() <= max(numbers):
        pass  # Each layer that Keras names uses up one number.


def _next_number():
    return _number(keras.layers.Concatenate().name)


def _number(name):
    return int(name.removeprefix("concatenate").removeprefix("_") or 0)


def _assign(network, layers, arrays):
    masks: dict[int, np.ndarray] = {}
    for path, spec in networks.leaves(network):
        own, own_masks = weights.separated(spec, arrays.get(path, []))
        masks |= weights.assign(layers[path], own, own_masks)
    return masks


def check_equal(
    model: Any,
    network: Network,
    inputs: dict[str, np.ndarray],
    expected: list[np.ndarray],
    tolerance: float,
) -> None:
    """Refuses a converted model whose predictions differ from the original's.

    Args:
        model: The converted model, of either library.
        network: Its description.
        inputs: Dict from input name to examples.
        expected: The predictions of the original.
        tolerance: The largest difference, relative to the largest prediction.
    """
    outputs = tf_keras_models.outputs_of(model, network, inputs)
    same = len(outputs) == len(expected)
    error = max(map(_difference, outputs, expected)) if same else np.inf
    if not error <= tolerance:
        raise ValueError(
            f"The converted model {network.name!r} differs from the original by "
            f"{error:.2g} of its largest prediction, more than tolerance="
            f"{tolerance:g}. Its layers {sorted(_classes(network))} include one that "
            "computes something else in the other library. Pass representative `data`, "
            "or a larger `tolerance` if the predictions are only less precise."
        )


def _classes(network):
    return {spec.class_name for _, spec in networks.leaves(network)}


def _difference(actual, expected):
    if actual.shape != expected.shape or not np.isfinite(actual).all():
        return float("inf")
    actual, expected = actual.astype("float64"), expected.astype("float64")
    return float(np.abs(actual - expected).max() / max(np.abs(expected).max(), 1e-12))


def _ticket(model, masks):
    table = wrapping.plain_paths(model)
    chosen = choosing.choose(model, None, False, False, Unstructured())
    kernels = {id(variable) for variable in chosen} | set(masks)
    others = choosing.choose(model, None, True, True, Unstructured())
    possible = {id(variable) for variable in others}
    by_path = {}
    for path, variable in table.items():
        if id(variable) not in possible:
            continue
        values = wrapping.to_numpy(variable)
        zeros = values != 0 if values.any() else np.ones(values.shape, bool)
        if id(variable) in kernels or not zeros.all():
            by_path[path] = masks.get(id(variable), zeros)
    start = {
        path: wrapping.to_numpy(variable)
        for path, variable in table.items()
        if not keras_internals.is_seed_state(variable)
    }
    origin = {"method": "tf_keras", "versions": environment.versions()}
    return Ticket(by_path, start, provenance=origin)
