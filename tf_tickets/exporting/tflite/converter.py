"""Converts models to TFLite files, encodes them sparsely and adds provenance."""

import json
import os
import pathlib
import tempfile
import warnings
from typing import Any

import keras

from tf_tickets.exporting.saved_model import inference
from tf_tickets.exporting.tflite import rewriter
from tf_tickets.exporting.verification import ExportError
from tf_tickets.wrapping.signature import Interface


def write(
    model: keras.Model,
    takes: Interface,
    path: os.PathLike | str,
    precision: str = "float32",
    data: Any = None,
) -> None:
    """Converts a model without sparse encoding.

    Args:
        model: A plain model on the TensorFlow backend.
        takes: Interface of the model.
        path: Path of the file.
        precision: "float32", "float16" (weights), "dynamic" (8-bit weights), or "int8"
            (8-bit weights and activations).
        data: Dict from input name to examples that calibrate "int8".
    """
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder:
        # Converting from a file preserves the signature and the weights.
        inference.write(model, takes, folder, sparse=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        _choose(tf, converter, precision, data)
        with warnings.catch_warnings():
            # The converter itself uses it for calibration.
            warnings.filterwarnings("ignore", ".*tf.lite.Interpreter is deprecated")
            content = _convert(converter)
    pathlib.Path(path).write_bytes(content)


def _convert(converter):
    try:
        return converter.convert()
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ExportError(
            f"The TensorFlow Lite converter failed: {lines[0][:300]}\n"
            "Build mixed-precision models in float32, and recurrent layers with "
            "unroll=True. Layers without TFLite operators cannot be converted."
        ) from error


def _choose(tf, converter, precision, data):
    if precision == "float32":
        return
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if precision == "int8":
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.representative_dataset = lambda: _single_rows(data)


def _single_rows(data):
    count = len(next(iter(data.values())))
    for row in range(count):
        yield {name: array[row : row + 1] for name, array in data.items()}


def encode(
    dense: os.PathLike | str, path: os.PathLike | str, provenance: dict
) -> list[rewriter.Encoding]:
    """Writes a sparsely encoded copy of a dense file.

    Args:
        dense: Path of the dense file.
        path: Path of the sparse file.
        provenance: Provenance to store in the metadata of the file.

    Returns:
        List of the `Encoding` of every weight.
    """
    content, rows = rewriter.encode(pathlib.Path(dense).read_bytes())
    if provenance:
        entry = json.dumps(provenance, sort_keys=True).encode()
        content = rewriter.set_metadata(content, {"tf_tickets": entry})
    pathlib.Path(path).write_bytes(content)
    return rows
