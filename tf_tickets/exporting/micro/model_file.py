"""Reads the `.tflite` files that can be encoded, and writes them compactly."""

import copy
from typing import Any

import numpy as np

from tf_tickets.exporting.tflite import file

CUSTOM_CODE = b"TFLM_DECODE"
# Metadata that refers to operators or tensors by position. A new operator changes the
# positions, and the interpreter fails if the second entry has another length.
_POSITIONAL = (b"model_control_dependencies", b"OfflineMemoryAllocation")
_COMPRESSED = b"COMPRESSION_METADATA"
CHOOSE = "Export with precision='int8', 'int16x8' or 'float32'."


def read(content: bytes) -> Any:
    """Parses a dense file that TensorFlow Lite Micro can run.

    Args:
        content: Content of the file.

    Returns:
        A `ModelT`.

    Example:

    >>> read(b"no model")
    Traceback (most recent call last):
    ValueError: Expected the content of a .tflite file. Received 8 bytes: b'no model'...
    """
    model = file.read(content)
    with file.refusing_damage():
        encoded = is_encoded(model)
        types = {tensor.type for graph in model.subgraphs for tensor in graph.tensors}
    if encoded:
        raise ValueError(
            "Only dense .tflite files can be encoded for TensorFlow Lite Micro. "
            "Received: a file that is already encoded. Pass the dense file."
        )
    if file.schema().TensorType.FLOAT16 in types:
        raise ValueError(
            "TensorFlow Lite Micro has no float16 weights. Received: a file with "
            f"float16 tensors. {CHOOSE}"
        )
    return model


def is_encoded(model: Any) -> bool:
    """Returns whether a file already has encoded tensors.

    Args:
        model: A `ModelT`.
    """
    densify = file.schema().BuiltinOperator.DENSIFY
    codes = model.operatorCodes or []
    return (
        any(code.customCode == CUSTOM_CODE for code in codes)
        or any(densify in (c.builtinCode, c.deprecatedBuiltinCode) for c in codes)
        or any(entry.name == _COMPRESSED for entry in model.metadata)
        or any(
            tensor.sparsity is not None
            for graph in model.subgraphs
            for tensor in graph.tensors
        )
    )


def write(model: Any, names: bool) -> bytes:
    """Serializes a model without unused buffers and empty tables.

    Args:
        model: A `ModelT`, which is not changed.
        names: Whether to keep what only other runtimes and tools read: names,
            signatures, metadata, ranges, dynamic shapes, and the zero points of each
            channel where all are 0. LiteRT refuses files without the latter.

    Returns:
        Content of the file.
    """
    model = copy.copy(model)
    model.subgraphs = [_graph(graph, names) for graph in model.subgraphs]
    model.metadata = [
        copy.copy(entry)
        for entry in model.metadata
        if names and entry.name not in _POSITIONAL
    ]
    model.metadataBuffer = list(model.metadataBuffer) if names else []
    if not names:
        model.description = None
        model.signatureDefs = None
    _renumber_buffers(model)
    _drop_empty(model, "metadata", "metadataBuffer", "signatureDefs")
    return file.write(model)


def _graph(graph, names):
    graph = copy.copy(graph)
    graph.tensors = [_tensor(tensor, names) for tensor in graph.tensors]
    graph.operators = [_operator(operator) for operator in graph.operators]
    if not names:
        graph.name = None
    return graph


def _operator(operator):
    operator = copy.copy(operator)
    _drop_empty(operator, "customOptions", "mutatingVariableInputs", "intermediates")
    return operator


def _tensor(tensor, names):
    tensor = copy.copy(tensor)
    tensor.quantization = _quantization(tensor.quantization, names)
    if not names:
        tensor.name = tensor.shapeSignature = None
    _drop_empty(tensor, "name", "variantTensors")
    return tensor


def _quantization(quantization, names):
    if quantization is None:
        return None
    quantization = copy.copy(quantization)
    if not names:
        quantization.min = quantization.max = None
        quantization.zeroPoint = _single(quantization.zeroPoint)
    _drop_empty(quantization, "min", "max", "scale", "zeroPoint")
    parts = (quantization.min, quantization.max, quantization.scale)
    empty = all(part is None for part in (*parts, quantization.details))
    return None if empty else quantization


def _single(points):
    """Replaces the zero points of many channels by one, which the runtime allows."""
    if points is None or len(points) < 2 or np.any(points):
        return points
    return np.zeros(1, np.int64)


def _drop_empty(table, *names):
    for name in names:
        value = getattr(table, name)
        if value is not None and len(value) == 0:
            setattr(table, name, None)


def _renumber_buffers(model):
    """Drops unused buffers; buffer 0 is the one without data, by convention."""
    used = file.users(model)
    numbers = dict.fromkeys(range(len(model.buffers)), 0)
    buffers = [file.schema().BufferT()]
    for index, buffer in enumerate(model.buffers):
        if used[index] and buffer.data is not None and buffer.data.size:
            numbers[index] = len(buffers)
            buffers.append(buffer)
    model.buffers = buffers
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            tensor.buffer = numbers[tensor.buffer]
    for entry in model.metadata:
        entry.buffer = numbers[entry.buffer]
    model.metadataBuffer = [numbers[int(index)] for index in model.metadataBuffer]
