"""Converts a SavedModel to `.tflite` files, as a program of its own.

    python conversion_runner.py JOB.json

TensorFlow's converter may crash while it calibrates a model, which ends the process.
This file does not import the rest of the package. The job contains the folder of the
SavedModel, the path of the calibration data, and the files to write; see `converter`.
"""

import json
import os
import pathlib
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

# The output line that precedes the converter's message.
FAILED = "CONVERSION FAILED "
CALIBRATED = ("int8", "int16x8")
# Seconds after which this process notices that its parent has ended.
_NOTICE = 0.5


def convert(
    folder: str,
    precision: str,
    batches: list[dict[str, np.ndarray]],
    *,
    integer_interface: bool = False,
    per_tensor_dense: bool = False,
) -> bytes:
    """Converts a SavedModel without sparse encoding.

    Args:
        folder: Folder of the SavedModel.
        precision: "float32", "float16" (weights), "dynamic" (8-bit weights), "int8"
            (8-bit weights and activations) or "int16x8" (8-bit weights, 16-bit
            activations).
        batches: Inputs by name that calibrate "int8" and "int16x8".
        integer_interface: Whether inputs and outputs have the type of activations.
            Otherwise they are float32.
        per_tensor_dense: Whether fully connected layers have one scale for the whole
            kernel, instead of one for each output.

    Returns:
        Content of the file.
    """
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(folder)
    if precision != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if precision in CALIBRATED:
        operators, activations = _integers(tf)[precision]
        converter.target_spec.supported_ops = [operators]
        converter.representative_dataset = lambda: iter(batches)
        if integer_interface:
            converter.inference_input_type = activations
            converter.inference_output_type = activations
    if per_tensor_dense:
        converter._experimental_disable_per_channel_quantization_for_dense_layers = True
    with warnings.catch_warnings():
        # The converter itself uses it for calibration.
        warnings.filterwarnings("ignore", ".*tf.lite.Interpreter is deprecated")
        return converter.convert()


def _integers(tf):
    sets = tf.lite.OpsSet
    wide = sets.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
    return {
        "int8": (sets.TFLITE_BUILTINS_INT8, tf.int8),
        "int16x8": (wide, tf.int16),
    }


def batches(data: dict[str, np.ndarray], size: int) -> Iterator[dict]:
    """Yields the examples in batches of a fixed size; an incomplete one is left out.

    Args:
        data: Dict from input name to examples.
        size: The batch size.

    Example:

    >>> [len(batch["x"]) for batch in batches({"x": np.zeros((5, 3))}, 2)]
    [2, 2]
    """
    count = len(next(iter(data.values())))
    for start in range(0, count - size + 1, size):
        yield {name: array[start : start + size] for name, array in data.items()}


def message(error: Exception) -> str:
    """Returns the first line of a converter's error, which may have thousands.

    Example:

    >>> message(ValueError("no kernel\\ntrace"))
    'no kernel'
    """
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300]


def _run(job: dict[str, Any]) -> bool:
    """Writes all files; returns False if the converter refuses one."""
    data = {}
    if job["data"]:
        with np.load(job["data"]) as stored:
            data = {name: stored[name] for name in job["names"]}
    calibration = list(batches(data, job["batch"])) if data else []
    for file in job["files"]:
        try:
            content = convert(
                job["folder"], file["precision"], calibration, **file["settings"]
            )
        except Exception as error:
            print(FAILED + json.dumps(message(error)))
            return False
        pathlib.Path(file["path"]).write_bytes(content)
    return True


def _end_with_parent():
    """Ends this process soon after the one that started it, even if it is killed."""
    threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()


def _watch(parent):
    while os.getppid() == parent:
        time.sleep(_NOTICE)
    os._exit(1)


if __name__ == "__main__":
    _end_with_parent()
    if not _run(json.loads(pathlib.Path(sys.argv[1]).read_text("utf-8"))):
        sys.exit(1)
