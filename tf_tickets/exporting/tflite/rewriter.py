"""Encodes a dense `.tflite` file sparsely.

The TensorFlow converter has a similar feature, with three problems. It stores scattered
nonzeros in blocks. It drops the last inputs of layers whose number of inputs is not a
multiple of four. It writes quantized models that do not load. This module only writes
encodings that were tested to run correctly.
"""

import copy
from typing import Any

import numpy as np

from tf_tickets.exporting.tflite import encodings, file, weights
from tf_tickets.exporting.tflite.encodings import Encoding
from tf_tickets.exporting.tflite.file import metadata, set_metadata

__all__ = ["Encoding", "encode", "metadata", "set_metadata"]

# Operator version that marks a fully connected operator with sparse weights. With any
# other version, the default delegate assumes dense weights and reads out of bounds.
_SPARSE_VERSION = 8


def encode(content: bytes, *, blocks: bool = True) -> tuple[bytes, list[Encoding]]:
    """Encodes the weights of a `.tflite` file sparsely.

    Float32 matrices of fully connected layers with many zeros stay sparse at run time.
    Those with fewer, weights of convolutions and float16 weights are decoded at load
    time, since sparse kernels would be slower or do not exist. Weights stay dense if
    encoding would not make them smaller or would not run. The outputs of the model do
    not change, and the result is deterministic.

    Args:
        content: Content of a dense file: float32, float16, dynamic range or int8.
        blocks: Whether to store nonzeros that form blocks of four inputs as blocks,
            which is smaller and faster.

    Returns:
        Content of the new file, and a list with the `Encoding` of every constant
        weight of rank 2 or more.

    Example:

    >>> encode(b"no model")
    Traceback (most recent call last):
    ValueError: Expected the content of a .tflite file. Received 8 bytes: b'no model'...
    """
    model = file.read(content)
    choices = [encodings.choose(w, blocks) for w in weights.find(model)]
    records = [choice.encoding for choice in choices]
    encoded = [choice for choice in choices if choice.stored is not None]
    if not encoded:
        return bytes(content), records
    for choice in encoded:
        _store(model, choice)
    _densify(model, [c for c in encoded if c.encoding.encoding == "densify"])
    return file.write(model), records


def _store(model, choice):
    """Replaces the values of a tensor by its nonzeros."""
    graph = model.subgraphs[choice.weight.graph]
    tensor = graph.tensors[choice.weight.index]
    tensor.sparsity = _parameters(choice.weight.values.shape, choice.stored)
    data = choice.stored.values.view(np.uint8)
    model.buffers[tensor.buffer] = file.schema().BufferT(data=data)
    if choice.encoding.encoding != "densify":
        _mark_as_sparse(model, graph, choice.weight.index)


def _parameters(shape, stored):
    *rows, columns = shape
    dimensions = [_dense(size) for size in rows]
    dimensions.append(_compressed(columns // stored.block, stored))
    blocks = None
    if stored.block > 1:
        blocks = [len(rows)]
        dimensions.append(_dense(stored.block))
    return file.schema().SparsityParametersT(
        traversalOrder=list(range(len(dimensions))),
        blockMap=blocks,
        dimMetadata=dimensions,
    )


def _dense(size):
    classes = file.schema()
    return classes.DimensionMetadataT(
        format=classes.DimensionType.DENSE, denseSize=int(size)
    )


def _compressed(size, stored):
    classes = file.schema()
    segments_type, segments = _vector(stored.segments)
    indices_type, indices = _vector(stored.indices)
    return classes.DimensionMetadataT(
        format=classes.DimensionType.SPARSE_CSR,
        denseSize=int(size),
        arraySegmentsType=segments_type,
        arraySegments=segments,
        arrayIndicesType=indices_type,
        arrayIndices=indices,
    )


def _vector(numbers):
    """Returns the schema number of a vector type, and the vector."""
    classes = file.schema()
    kind = f"{numbers.dtype.name.capitalize()}Vector"
    number = getattr(classes.SparseIndexVector, kind)
    return number, getattr(classes, f"{kind}T")(values=numbers)


def _mark_as_sparse(model, graph, index):
    for operator in graph.operators:
        if index in operator.inputs:
            number = file.schema().BuiltinOperator.FULLY_CONNECTED
            operator.opcodeIndex = _code(model, number, _SPARSE_VERSION)


def _code(model, number, version):
    """Returns the index of an operator code, which is added if necessary."""
    for index, code in enumerate(model.operatorCodes):
        if (code.builtinCode, code.version) == (number, version):
            return index
    code = file.schema().OperatorCodeT(
        builtinCode=number, deprecatedBuiltinCode=number, version=version
    )
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def _densify(model, choices):
    """Inserts a DENSIFY operator before the first operator that reads each tensor."""
    graph = model.subgraphs[0]
    pending = {choice.weight.index for choice in choices}
    dense: dict[int, int] = {}
    operators: list[Any] = []
    for operator in graph.operators:
        for index in sorted(pending.intersection(operator.inputs.tolist())):
            dense[index] = _add_dense_tensor(graph, index)
            operators.append(_densify_operator(model, index, dense[index]))
            pending.remove(index)
        inputs = [dense.get(index, index) for index in operator.inputs.tolist()]
        operator.inputs = np.array(inputs, np.int32)
        operators.append(operator)
    graph.operators = operators


def _add_dense_tensor(graph, index):
    """Adds a tensor for the dense values of a sparse tensor and returns its index."""
    tensor = copy.copy(graph.tensors[index])
    tensor.name = tensor.name + b"/dense"
    tensor.sparsity = None
    tensor.buffer = 0  # the empty buffer by convention
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def _densify_operator(model, source, target):
    classes = file.schema()
    return classes.OperatorT(
        opcodeIndex=_code(model, classes.BuiltinOperator.DENSIFY, 1),
        inputs=np.array([source], np.int32),
        outputs=np.array([target], np.int32),
        builtinOptionsType=classes.BuiltinOptions.DensifyOptions,
        builtinOptions=classes.DensifyOptionsT(),
    )
