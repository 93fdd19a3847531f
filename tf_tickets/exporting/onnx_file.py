"""Writes ONNX files with the export of Keras."""

import importlib.util
import os

import keras
import numpy as np

from tf_tickets.wrapping.signature import Interface, named_outputs

_NEEDED = {
    "tensorflow": ["onnx", "onnxruntime", "tf2onnx"],
    "jax": ["onnx", "onnxruntime", "jax2onnx"],
}


def check_installed() -> None:
    """Raises an ImportError if a required package is missing."""
    needed = _NEEDED[keras.config.backend()]
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f"format='onnx' requires {', '.join(missing)}. Install with: "
            f"pip install {' '.join(missing)}"
        )


def write(
    model: keras.Model,
    path: os.PathLike | str,
    takes: Interface,
    inputs: dict[str, np.ndarray],
) -> None:
    """Writes a plain model without sparse encoding.

    Args:
        model: The model.
        path: Path of the file.
        takes: Interface of the model.
        inputs: Dict from input name to examples.
    """
    # Keras only exports models that were called.
    outputs = model(takes.nested(inputs), training=False)
    signature = [keras.tree.map_structure(_spec, takes.structure)]
    model.export(
        os.fspath(path), format="onnx", verbose=False, input_signature=signature
    )
    # The exporters sort a dict by its keys.
    ordered = sorted(outputs) if isinstance(outputs, dict) else named_outputs(outputs)
    _name_outputs(path, ordered)


def _name_outputs(path, names):
    """Renames the outputs, which the exporters name after operations."""
    import onnx

    file = onnx.load(path)
    graph = file.graph
    renamed = dict(zip([output.name for output in graph.output], names, strict=True))
    for node in graph.node:
        for side in (node.input, node.output):
            side[:] = [renamed.get(name, name) for name in side]
    for output in graph.output:
        output.name = renamed[output.name]
    onnx.checker.check_model(file)
    onnx.save(file, path)


def _spec(spec):
    return keras.InputSpec(shape=(None, *spec.shape), dtype=spec.dtype, name=spec.name)
