"""Chooses the activations by which a quantized file is compared with float32."""

import os
import pathlib
from typing import Any

from tf_tickets.exporting.tflite import file, weights

# Operators that only move values, so that their error is that of their input.
_MOVING = {
    *("RESHAPE", "SHAPE", "STRIDED_SLICE", "PACK", "EXPAND_DIMS", "SQUEEZE"),
    *("TRANSPOSE", "QUANTIZE", "SPLIT", "SPLIT_V", "UNPACK", "SLICE", "GATHER"),
}


def counterpart(quantized: pathlib.Path) -> pathlib.Path:
    """Returns the path of the float32 file that a quantized one is compared with.

    Args:
        quantized: Path of the quantized file.

    Example:

    >>> import pathlib
    >>> counterpart(pathlib.Path("dense.tflite")).name
    'dense-float32.tflite'
    """
    return quantized.with_name(f"{quantized.stem}-float32{quantized.suffix}")


def comparison(quantized: pathlib.Path, float32: pathlib.Path) -> dict[str, Any]:
    """Returns the files to compare, and the names of their common activations.

    Args:
        quantized: Path of a quantized file.
        float32: Path of the same model in float32.
    """
    computed = set(_computed(float32.read_bytes()))
    names = _computed(quantized.read_bytes())
    return {
        "file": os.fspath(quantized),
        "float": os.fspath(float32),
        "tensors": [name for name in dict.fromkeys(names) if name in computed],
    }


def _computed(content):
    """Returns the names of the tensors that the operators of a file compute."""
    model = file.read(content)
    graph = model.subgraphs[0]
    return [
        graph.tensors[index].name.decode()
        for operator in graph.operators
        for index in operator.outputs
        if weights.operator_name(model, operator) not in _MOVING
    ]
