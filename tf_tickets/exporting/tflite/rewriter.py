"""A dense `.tflite` file in, the same model with its zeros left out.

The TensorFlow converter can do so too, but stores scattered nonzeros of very sparse
matrices in blocks, loses the last inputs of a layer whose inputs are no multiple of
four, and writes quantised models that do not load. Here only what was seen to run, and
to run right, is written.
"""

import copy
from typing import Any

import numpy as np

from tf_tickets.exporting.tflite import encodings, file, weights
from tf_tickets.exporting.tflite.encodings import Encoding
from tf_tickets.exporting.tflite.file import metadata, set_metadata

__all__ = ["Encoding", "encode", "metadata", "set_metadata"]

# Marks a fully connected operator as one of sparse weights. By any other version the
# default delegate takes it for a dense one and reads beyond the weights.
_SPARSE_VERSION = 8


def encode(content: bytes, *, blocks: bool = True) -> tuple[bytes, list[Encoding]]:
    """A smaller `.tflite` file that gives the same outputs, and what was done.

    Matrices of fully connected layers in float32 stay sparse when the model runs.
    Weights of convolutions and those in float16 are unpacked when it is loaded. What
    would not become smaller, or would not run, stays dense and says why.

    Args:
        content: The bytes of a dense file: float32, float16, dynamic range or int8.
        blocks: Whether matrices whose nonzeros form blocks of four inputs may be stored
            as such, which is smaller and faster.

    Returns:
        The new bytes, and one `Encoding` for each constant weight of two or more
        dimensions. The same bytes in give the same bytes out.

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
    """The nonzeros take the place of the values."""
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
    """The number of a vector's type in the schema, and the vector."""
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
    """The position of an operator of that version among the codes, new if need be."""
    for place, code in enumerate(model.operatorCodes):
        if (code.builtinCode, code.version) == (number, version):
            return place
    code = file.schema().OperatorCodeT(
        builtinCode=number, deprecatedBuiltinCode=number, version=version
    )
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def _densify(model, choices):
    """Puts an operator that unpacks before the first one that reads each tensor."""
    graph = model.subgraphs[0]
    waiting = {choice.weight.index for choice in choices}
    unpacked: dict[int, int] = {}
    operators: list[Any] = []
    for operator in graph.operators:
        for index in sorted(waiting.intersection(operator.inputs.tolist())):
            unpacked[index] = _unpacked(graph, index)
            operators.append(_unpacking(model, index, unpacked[index]))
            waiting.remove(index)
        inputs = [unpacked.get(index, index) for index in operator.inputs.tolist()]
        operator.inputs = np.array(inputs, np.int32)
        operators.append(operator)
    graph.operators = operators


def _unpacked(graph, index):
    """The position of a new tensor that holds the values of one that is sparse."""
    tensor = copy.copy(graph.tensors[index])
    tensor.name = tensor.name + b"/dense"
    tensor.sparsity = None
    tensor.buffer = 0  # by convention the empty one
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def _unpacking(model, source, target):
    classes = file.schema()
    return classes.OperatorT(
        opcodeIndex=_code(model, classes.BuiltinOperator.DENSIFY, 1),
        inputs=np.array([source], np.int32),
        outputs=np.array([target], np.int32),
        builtinOptionsType=classes.BuiltinOptions.DensifyOptions,
        builtinOptions=classes.DensifyOptionsT(),
    )
