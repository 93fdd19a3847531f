"""Loads tf_keras models and computes their predictions."""

import contextlib
import dataclasses
import importlib
import importlib.util
import json
import os
import pathlib
import warnings
import zipfile
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from tf_tickets.tfmot import network_configs, networks, weights
from tf_tickets.tfmot.layer_tables import check
from tf_tickets.tfmot.networks import Network, Path

_INSTALL = "pip install 'tf_tickets[tensorflow,tfmot]'"
_EXAMPLES = 4
# Sizes tried in turn where the shape of an input has none.
_SIZES = (7, 8, 16, 32, 64, 128, 224)


@dataclasses.dataclass
class Described:
    """A tf_keras model as data.

    Args:
        config: Its configuration, with `class_name` and `config`.
        weights: Dict from a layer's path to its weights with their names.
        inputs: Dict from input name to examples.
        outputs: Its predictions on them, a list of arrays.
    """

    config: dict[str, Any]
    weights: dict[Path, list[weights.Named]]
    inputs: dict[str, np.ndarray]
    outputs: list[np.ndarray]


def imported(purpose: str) -> Any:
    """Returns the module `tf_keras`.

    Args:
        purpose: What requires it, for the message if it is not installed.
    """
    check_installed(purpose)
    with _quiet():
        return importlib.import_module("tf_keras")


def check_installed(purpose: str) -> None:
    """Raises an ImportError with the install command if tf_keras is not installed.

    Args:
        purpose: What requires it.
    """
    if importlib.util.find_spec("tf_keras") is None:
        raise ImportError(
            f"{purpose} requires tf_keras, which is not installed. Install it: "
            f"{_INSTALL}"
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides warnings of other libraries about their own code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def is_model(value: Any) -> bool:
    """Returns whether a value is a tf_keras model, without importing tf_keras."""
    classes = type(value).__mro__
    modules = {kind.__module__ for kind in classes if kind.__name__ == "Model"}
    return any(module.startswith("tf_keras.") for module in modules)


def load(path: pathlib.Path) -> Any:
    """Loads a tf_keras model from a SavedModel, `.h5` or `.keras` file.

    Args:
        path: The file, or the folder of the SavedModel.
    """
    library = imported(f"Loading {path}")
    wrapped = _mentions_wrapper(path)
    try:
        with _quiet(), _pruning_scope() if wrapped else contextlib.nullcontext():
            return library.models.load_model(path, compile=False)
    except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
        raise ValueError(
            f"tf_keras could not load {path}: {error} Pass a model that tf_keras "
            "saved; models of Keras 3 are loaded by keras.saving.load_model."
        ) from error


def _mentions_wrapper(path):
    """Returns whether a file or SavedModel has a pruning wrapper."""
    files = [path] if path.is_file() else list(path.glob("*.pb"))
    if path.suffix == ".keras" and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return b"PruneLowMagnitude" in archive.read("config.json")
    return any(b"PruneLowMagnitude" in file.read_bytes() for file in files)


def _pruning_scope():
    """Returns a context in which tf_keras knows the pruning wrapper."""
    if importlib.util.find_spec("tensorflow_model_optimization") is None:
        raise ImportError(
            "A model with pruning wrappers requires tensorflow-model-optimization, "
            f"which is not installed. Install it: {_INSTALL}"
        )
    import tensorflow as tf

    # On import, the other library sets a variable that makes tf.keras be tf_keras.
    # Once read, tf.keras stays what it is, and child processes must not inherit it.
    name = "TF_USE_LEGACY_KERAS"
    getattr(tf.keras, "version", None)
    before = os.environ.get(name)
    tfmot = importlib.import_module("tensorflow_model_optimization")
    if before is None:
        os.environ.pop(name, None)
    return tfmot.sparsity.keras.prune_scope()


def configuration(model: Any) -> dict[str, Any]:
    """Returns the configuration of a tf_keras model, with `class_name` and `config`."""
    try:
        return json.loads(model.to_json())
    except NotImplementedError as error:
        raise ValueError(
            f"The model must be Sequential or functional. Received: {model.name!r} of "
            f"type {type(model).__name__}, whose layers are called by Python code. "
            "Build it again as a functional model, and copy its weights."
        ) from error


def describe(model: Any, data: Any = None) -> Described:
    """Returns a tf_keras model as data, with its predictions.

    Args:
        model: The model.
        data: Examples for the predictions; random by default.
    """
    config = configuration(model)
    network = network_configs.from_legacy(config)
    check(network)
    if not model.built:
        raise ValueError(
            f"Model {model.name!r} must be built. Received: a model without weights. "
            "Call it once on data."
        )
    arrays = weights.of_tf_keras(model, network)
    inputs, outputs = predicted(model, network, data)
    return Described(config, arrays, inputs, outputs)


def predicted(
    model: Any, network: Network, data: Any = None
) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
    """Returns examples, and the predictions of a tf_keras model on them.

    Args:
        model: The model.
        network: Its description.
        data: Examples; random by default.
    """
    if data is not None:
        inputs = networks.named(network, data)
        return inputs, outputs_of(model, network, inputs)
    reason: Exception | None = None
    for inputs in _examples(networks.input_specs(network), _mask_values(network)):
        try:
            outputs = outputs_of(model, network, inputs)
        except Exception as error:  # Each layer has its own about shapes and indices.
            reason = error
            continue
        if all(array.size and np.isfinite(array).all() for array in outputs):
            return inputs, outputs
        reason = ValueError("Its predictions are not finite.")
    raise ValueError(
        f"Model {network.name!r} takes no random inputs: {reason} Pass examples that "
        "it takes: data=x."
    ) from reason


def outputs_of(
    model: Any, network: Network, inputs: dict[str, np.ndarray]
) -> list[np.ndarray]:
    """Returns the predictions of a model of either library.

    Args:
        model: A model of `keras` or `tf_keras`.
        network: Its description.
        inputs: Dict from input name to examples.
    """
    outputs = model(networks.fed(network, inputs), training=False)
    return [_numpy(tensor) for tensor in keras.tree.flatten(outputs)]


def _numpy(tensor):
    return tensor.numpy() if hasattr(tensor, "numpy") else np.asarray(tensor)


def _mask_values(network):
    """Returns the values that mark a time step as masked."""
    return [
        spec.config.get("mask_value", 0.0)
        for _, spec in networks.leaves(network)
        if spec.class_name == "Masking"
    ]


def _examples(specs, mask_values):
    """Yields random inputs: numbers, then indices, which embeddings take.

    Some time steps have the values that mask them.
    """
    rng = np.random.default_rng(0)
    unknown = any(None in shape[1:] for shape, _ in specs.values())
    for size in _SIZES if unknown else _SIZES[:1]:
        for as_indices in (False, True):
            examples = {
                name: _random(rng, shape, dtype, size, as_indices)
                for name, (shape, dtype) in specs.items()
            }
            for value in mask_values:
                for array in examples.values():
                    _mask_steps(rng, array, value)
            yield examples


def _mask_steps(rng, array, value):
    """Masks random time steps, of which the first one remains."""
    if array.ndim < 3:
        return
    steps = rng.random(array.shape[:2]) < 0.3
    steps[0, -1] = True
    steps[:, 0] = False
    array[steps] = value


def _random(rng, shape, dtype, size, as_indices):
    batch, *rest = shape
    filled = (batch or _EXAMPLES, *(size if n is None else n for n in rest))
    if as_indices or not dtype.startswith("float"):
        return rng.integers(0, 2, size=filled).astype(dtype)
    return rng.normal(size=filled).astype(dtype)
