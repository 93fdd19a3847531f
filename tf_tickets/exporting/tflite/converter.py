"""TFLite files: converted, sparsely encoded, and told where they come from."""

import json
import os
import pathlib
import tempfile
import warnings
from typing import Any

import keras

from tf_tickets.exporting.saved_model import inference
from tf_tickets.exporting.signature import Interface
from tf_tickets.exporting.tflite import rewriter
from tf_tickets.exporting.verification import ExportError


def write(
    model: keras.Model,
    takes: Interface,
    path: os.PathLike | str,
    precision: str = "float32",
    data: Any = None,
) -> None:
    """Converts a model, without sparse encodings.

    Args:
        model: A plain model, on TensorFlow.
        takes: Its inputs.
        path: Where to.
        precision: "float32", "float16" weights, "dynamic" (weights of 8 bits), or
            "int8" (activations too).
        data: Dict from an input to examples, from which "int8" learns the ranges.
    """
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder:
        # Out of a file: the signature is kept, and so are the weights.
        inference.write(model, takes, folder, sparse=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        _choose(tf, converter, precision, data)
        with warnings.catch_warnings():
            # The converter uses it itself, to learn the ranges.
            warnings.filterwarnings("ignore", ".*tf.lite.Interpreter is deprecated")
            content = _convert(converter)
    pathlib.Path(path).write_bytes(content)


def _convert(converter):
    try:
        return converter.convert()
    except Exception as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise ExportError(
            f"TensorFlow Lite's converter refuses the model: {said[0][:300]}\n"
            "Models of mixed precision are to be built in float32, recurrent layers "
            "with unroll=True; layers of which TFLite has no operators cannot be "
            "converted."
        ) from error


def _choose(tf, converter, precision, data):
    if precision == "float32":
        return
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if precision == "int8":
        kinds = tf.lite.OpsSet
        converter.target_spec.supported_ops = [kinds.TFLITE_BUILTINS_INT8]
        converter.representative_dataset = lambda: _one_by_one(data)


def _one_by_one(data):
    count = len(next(iter(data.values())))
    for row in range(count):
        yield {name: array[row : row + 1] for name, array in data.items()}


def encode(
    dense: os.PathLike | str, path: os.PathLike | str, provenance: dict
) -> list[rewriter.Encoding]:
    """Writes the sparse form of a dense file.

    Args:
        dense: The dense file.
        path: Where to.
        provenance: What to keep in the file's metadata.

    Returns:
        How each weight is stored, and why.
    """
    content, rows = rewriter.encode(pathlib.Path(dense).read_bytes())
    if provenance:
        entry = json.dumps(provenance, sort_keys=True).encode()
        content = rewriter.set_metadata(content, {"tf_tickets": entry})
    pathlib.Path(path).write_bytes(content)
    return rows
