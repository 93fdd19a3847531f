"""Predicts the memory of the tensors, as TensorFlow Lite Micro plans it.

The prediction was compared with what the interpreter reports, and is exact for common
networks. It includes the working memory of the reference kernels of some operators.
An application needs more: the arena also holds the data of the interpreter, which
depends on the processor, and of optimized kernels.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from tf_tickets.exporting.tflite import file, weights

# Alignment of every tensor in the arena.
_ALIGNMENT = 16
_SIZES = {
    **dict.fromkeys(("INT8", "UINT8", "BOOL"), 1),
    **dict.fromkeys(("INT16", "UINT16", "FLOAT16", "BFLOAT16"), 2),
    **dict.fromkeys(("INT32", "UINT32", "FLOAT32"), 4),
    **dict.fromkeys(("INT64", "UINT64", "FLOAT64", "COMPLEX64"), 8),
}


# Bytes of working memory per output value that kernels keep in the arena.
_SCRATCH = {
    ("TRANSPOSE_CONV", "INT8"): 4,
    ("TRANSPOSE_CONV", "INT16"): 8,
    ("MEAN", "INT8"): 4,
    ("MEAN", "INT16"): 4,
    ("SUM", "INT8"): 4,
    ("SUM", "INT16"): 4,
}
# Number of the first working memory, above the indices of all tensors.
_AFTER_TENSORS = 2**32


class Need(NamedTuple):
    """Describes how long the arena must hold a tensor.

    Args:
        size: Size in bytes, a multiple of the alignment.
        first: Number of the operator that writes it; the first operator is 0, and
            inputs of the model have -1.
        last: Number of the last operator that reads it.
    """

    size: int
    first: int
    last: int


def aligned(size: int) -> int:
    """Returns the number of bytes that a tensor takes in the arena.

    Example:

    >>> aligned(1), aligned(32)
    (16, 32)
    """
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def activations(model: Any) -> dict[int, Need]:
    """Returns the needs of all tensors of the first graph that are not constant.

    Args:
        model: A `ModelT`. The bodies of control flow operators are not included.

    Returns:
        Dict from the index of a tensor to its `Need`, and from higher numbers to the
        working memory of operators.
    """
    graph = model.subgraphs[0]
    lifetimes = _lifetimes(graph)
    needs = {
        index: Need(aligned(size), *lifetimes[index])
        for index, size in _computed(model, graph)
        if index in lifetimes
    }
    return needs | dict(_scratch(model, graph))


def variables(model: Any) -> int:
    """Returns the bytes of the variables, which keep their place in the arena.

    Args:
        model: A `ModelT`.
    """
    tensors = (tensor for graph in model.subgraphs for tensor in graph.tensors)
    return sum(aligned(_size(tensor)) for tensor in tensors if tensor.isVariable)


def plan(needs: Mapping[int, Need]) -> int:
    """Returns the number of bytes in which the greedy memory planner fits all needs.

    The planner places the largest tensor first, of equal ones the last in the file. It
    places each tensor into the first sufficient gap between those that are needed at
    the same time.

    Args:
        needs: Dict from the index of a tensor to its `Need`.

    Example:

    >>> plan({0: Need(32, 0, 1), 1: Need(48, 1, 2), 2: Need(32, 2, 3)})
    80
    """
    placed: list[tuple[int, Need]] = []
    order = sorted(needs, key=lambda index: (needs[index].size, index), reverse=True)
    for need in (needs[index] for index in order):
        offset = 0
        for other, taken in placed:
            if taken.first > need.last or need.first > taken.last:
                continue
            if other - offset >= need.size:
                break
            offset = max(offset, other + taken.size)
        placed.append((offset, need))
        placed.sort(key=lambda pair: pair[0])
    return max((offset + need.size for offset, need in placed), default=0)


def _lifetimes(graph):
    """Returns a dict from the index of a tensor to its first and last operator."""
    lifetimes: dict[int, tuple[int, int]] = {}
    for index in _indices(graph.inputs):
        lifetimes[index] = (-1, -1)
    for number, operator in enumerate(graph.operators):
        for index in _indices(operator.outputs) + _indices(operator.inputs):
            lifetimes[index] = (lifetimes.get(index, (number, 0))[0], number)
    end = len(graph.operators) - 1
    for index in _indices(graph.outputs):
        lifetimes[index] = (lifetimes.get(index, (end, 0))[0], end)
    return lifetimes


def _indices(indices):
    return [] if indices is None else [int(index) for index in indices]


def _computed(model, graph):
    for index, tensor in enumerate(graph.tensors):
        data = model.buffers[tensor.buffer].data
        if (data is None or not data.size) and not tensor.isVariable:
            yield index, _size(tensor)


def _scratch(model, graph):
    """Yields a number and a `Need` for each operator with working memory."""
    for number, operator in enumerate(graph.operators):
        name = weights.operator_name(model, operator)
        for index in _indices(operator.outputs):
            width = _SCRATCH.get((name, weights.type_name(graph, index)), 0)
            if width:
                size = width * _elements(graph.tensors[index])
                yield _AFTER_TENSORS + number, Need(aligned(size), number, number)


def _elements(tensor):
    return math.prod(abs(int(size)) for size in tensor.shape)


def _size(tensor):
    """Returns the size of a tensor in bytes, for one example."""
    numbers = vars(file.schema().TensorType)
    width = next((w for name, w in _SIZES.items() if numbers[name] == tensor.type), 0)
    return width * _elements(tensor)
