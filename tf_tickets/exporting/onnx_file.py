"""ONNX files, by Keras's own export."""

import importlib.util
import os

import keras
import numpy as np

from tf_tickets.exporting.signature import Interface, named_outputs

_NEEDED = {
    "tensorflow": ["onnx", "onnxruntime", "tf2onnx"],
    "jax": ["onnx", "onnxruntime", "jax2onnx"],
}


def check_installed() -> None:
    """Refuses where a package is missing, and says how to get it."""
    needed = _NEEDED[keras.config.backend()]
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f"format='onnx' needs {', '.join(missing)}, which are not installed: "
            f"pip install {' '.join(missing)}"
        )


def write(
    model: keras.Model,
    path: os.PathLike | str,
    takes: Interface,
    inputs: dict[str, np.ndarray],
) -> None:
    """Writes a plain model; its zeros are stored like other numbers.

    Args:
        model: The model.
        path: Where to.
        takes: Its inputs.
        inputs: Dict from an input to examples.
    """
    # Keras writes no model that was never called.
    outputs = model(takes.nested(inputs), training=False)
    signature = [keras.tree.map_structure(_spec, takes.structure)]
    model.export(
        os.fspath(path), format="onnx", verbose=False, input_signature=signature
    )
    # The writers flatten a dict by its keys.
    ordered = sorted(outputs) if isinstance(outputs, dict) else named_outputs(outputs)
    _name_outputs(path, ordered)


def _name_outputs(path, names):
    """Names outputs as the other formats do; the writers leave names of operations."""
    import onnx

    file = onnx.load(path)
    graph = file.graph
    new = dict(zip([one.name for one in graph.output], names, strict=True))
    for node in graph.node:
        for side in (node.input, node.output):
            side[:] = [new.get(name, name) for name in side]
    for one in graph.output:
        one.name = new[one.name]
    onnx.checker.check_model(file)
    onnx.save(file, path)


def _spec(one):
    return keras.InputSpec(shape=(None, *one.shape), dtype=one.dtype, name=one.name)
