"""Reads the weights of dense and encoded files for TensorFlow Lite Micro in NumPy."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from tf_tickets.exporting.micro import bitmask, model_file
from tf_tickets.exporting.tflite import file
from tf_tickets.exporting.tflite import weights as dense_weights

_DTYPES = {"FLOAT32": np.float32, "INT8": np.int8}


def weights(content: bytes) -> list[np.ndarray]:
    """Returns every constant weight in the order of the operators that read it.

    A weight that two operators read is listed twice. The lists of a dense file and of
    its encoded form are equal.

    Args:
        content: Content of a dense or an encoded file.

    Returns:
        List of arrays of int8 or float32 of rank 2 or more.

    Example:

    >>> weights(b"no model")
    Traceback (most recent call last):
    ValueError: Expected the content of a .tflite file. Received 8 bytes: b'no model'...
    """
    model = file.read(content)
    with file.refusing_damage():
        graphs = model.subgraphs
        return [values for graph in graphs for _, values in _weights(model, graph)]


def places(content: bytes) -> list[int]:
    """Returns the index of the tensor of each weight of the first graph.

    Args:
        content: Content of a dense or an encoded file.

    Returns:
        List of indices in the order of `weights`.

    Example:

    >>> places(b"no model")
    Traceback (most recent call last):
    ValueError: Expected the content of a .tflite file. Received 8 bytes: b'no model'...
    """
    model = file.read(content)
    with file.refusing_damage():
        return [index for index, _ in _weights(model, model.subgraphs[0])]


def _weights(model: Any, graph: Any) -> Iterator[tuple[int, np.ndarray]]:
    decoded: dict[int, np.ndarray] = {}
    for operator in graph.operators:
        if _is_decode(model, operator):
            decoded[int(operator.outputs[0])] = _decode(model, graph, operator)
            continue
        for index in operator.inputs:
            values = decoded.get(int(index))
            if values is None and index >= 0:
                values = dense_weights.constant(model, graph.tensors[index])
            if values is not None:
                yield int(index), values


def _is_decode(model, operator):
    code = model.operatorCodes[operator.opcodeIndex]
    return code.customCode == model_file.CUSTOM_CODE


def _decode(model, graph, operator):
    mask, ancillary = (
        model.buffers[graph.tensors[index].buffer].data for index in operator.inputs
    )
    tensor = graph.tensors[operator.outputs[0]]
    numbers = vars(file.schema().TensorType)
    dtypes = {numbers[name]: np.dtype(dtype) for name, dtype in _DTYPES.items()}
    if tensor.type not in dtypes or mask is None or ancillary is None:
        raise ValueError("an encoded tensor has no values or an unknown type")
    shape = tuple(int(size) for size in tensor.shape)
    return bitmask.unpack(mask, ancillary, dtypes[tensor.type], shape)
