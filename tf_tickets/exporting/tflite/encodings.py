"""Selects the sparse encoding of each weight in a `.tflite` file.

The rules result from experiments with the runtime, not from its documentation. For
unsupported sparse weights the runtime may return wrong outputs or crash.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from tf_tickets.exporting.tflite import sparse_matrix
from tf_tickets.exporting.tflite.weights import Weight

# Position of the weights among the inputs of an operator.
WEIGHT_POSITIONS = dict.fromkeys(
    ("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV"), 1
)
# Fused activations that the default delegate supports.
_DELEGATED = ("NONE", "RELU", "RELU_N1_TO_1", "RELU6")
# Fully connected layers read sparse rows (1) and blocks (4) slower than dense weights
# below these fractions of zeros: at one half, rows 8 to 20 and blocks 3 to 4 times.
_WORTH_READING = {1: 0.875, sparse_matrix.BLOCK: 0.8}
# Maximum size of the tables of a sparse tensor and a DENSIFY, without names.
_TABLES = 512
_KINDS = {1: "sparse rows", sparse_matrix.BLOCK: "blocks of four"}
_GZIP = "gzip makes the file smaller"


@dataclasses.dataclass(frozen=True)
class Encoding:
    """Describes the encoding of a constant weight tensor.

    Args:
        tensor: Name of the tensor in the file.
        operator: Operators that read the tensor.
        shape: Shape in the file, which differs from the shape of the Keras kernel.
        dtype: Dtype in the file.
        sparsity: Fraction of zeros.
        encoding: "csr" and "block 1x4" are read by sparse operators, "densify" is
            decoded when the model is loaded, "decode" before each use by TensorFlow
            Lite Micro, and "dense" is unchanged.
        bytes_before: Size of the dense values in bytes.
        bytes_after: Size of the stored values and indices in bytes.
        reason: Reason for the encoding.
    """

    tensor: str
    operator: str
    shape: tuple[int, ...]
    dtype: str
    sparsity: float
    encoding: str
    bytes_before: int
    bytes_after: int
    reason: str


class Choice(NamedTuple):
    """A weight, its sparse form (None if it stays dense), and its encoding."""

    weight: Weight
    stored: sparse_matrix.Sparse | None
    encoding: Encoding


def choose(weight: Weight, blocks: bool) -> Choice:
    """Selects the encoding of a weight.

    Args:
        weight: The weight.
        blocks: Whether block encoding is allowed.

    Returns:
        The `Choice`.

    Example:

    >>> from tf_tickets.exporting.tflite.weights import Use
    >>> uses = (Use("FULLY_CONNECTED", 1, "FLOAT32"),)
    >>> values = np.eye(64, dtype="float32")
    >>> weight = Weight(0, 1, "kernel", values, 0, uses, "", False)
    >>> choose(weight, blocks=True).encoding
    Encoding(tensor='kernel', operator='FULLY_CONNECTED', shape=(64, 64),
        dtype='float32', sparsity=0.984375, encoding='csr', bytes_before=16384,
        bytes_after=385, reason='its operator reads sparse rows')
    """
    is_matrix = _reads_sparse(weight)
    if is_matrix:
        stored = sparse_matrix.compress_matrix(weight.values, blocks)
    else:
        stored = sparse_matrix.compress(weight.values)
    direct = is_matrix and _sparsity(weight) >= _WORTH_READING[stored.block]
    obstacle = weight.obstacle or _obstacle_of_uses(weight, direct)
    if obstacle:
        return _choice(weight, None, "dense", obstacle)
    if stored.nbytes + _tables(weight) >= weight.values.nbytes:
        return _choice(weight, None, "dense", _too_few(weight))
    encoding, reason = _encoding_of(weight, is_matrix, direct, stored)
    return _choice(weight, stored, encoding, reason)


def _reads_sparse(weight):
    """Returns whether all operators that read a weight support sparse weights."""
    supported = ("FULLY_CONNECTED", 1, "FLOAT32")
    matrix = weight.values.dtype == np.float32 and weight.values.ndim == 2
    return matrix and all(use[:3] == supported for use in weight.uses)


def _encoding_of(weight, is_matrix, direct, stored):
    if not is_matrix:
        reason = f"{_operators(weight)} reads dense weights: decoded once at load time"
        return "densify", reason
    if not direct:
        kind, least = _KINDS[stored.block], _WORTH_READING[stored.block]
        reason = f"below {least:.0%} zeros {kind} are slow: decoded once at load time"
        return "densify", reason
    if stored.block == 1:
        return "csr", "its operator reads sparse rows"
    return "block 1x4", "its nonzeros form blocks of four, the fastest encoding"


def _obstacle_of_uses(weight, direct):
    for use in weight.uses:
        if use.position != WEIGHT_POSITIONS.get(use.operator):
            return f"{use.operator} does not support sparse weights"
    if weight.values.dtype == np.int8:
        return _int8_obstacle(weight)
    if weight.values.dtype == np.float16 and not _delegated(weight):
        return f"decoded float16 weights do not reach {_operators(weight)}"
    if weight.no_operator and not direct:
        return "the file names operators by position, so none can be added"
    return ""


def _delegated(weight):
    """Returns whether the default delegate runs all operators that read a weight.

    Otherwise the runtime runs these operators and the DEQUANTIZE before them, but not
    the DENSIFY before the DEQUANTIZE. They would then read uninitialized memory.
    """
    return all(
        use.operator != "TRANSPOSE_CONV" and use.fused in _DELEGATED
        for use in weight.uses
    )


def _int8_obstacle(weight):
    """Returns why the runtime fails or computes wrong outputs with int8 weights."""
    operators = {use.operator for use in weight.uses}
    if "FULLY_CONNECTED" in operators:
        return f"there is no reliable kernel for sparse int8 matrices; {_GZIP}"
    if {use.activations for use in weight.uses} != {"INT8"}:
        return f"sparse int8 weights require int8 activations; {_GZIP}"
    if weight.no_operator:
        return "the file names operators by position, so none can be added"
    return ""


def _too_few(weight):
    zeros = f"{_sparsity(weight):.0%} of {weight.values.size}"
    return f"{zeros} are zero, which saves less than the indices cost"


def _tables(weight):
    # DENSIFY repeats the name and, for int8, the scale and zero point per channel.
    channels = max(weight.values.shape) if weight.values.dtype == np.int8 else 0
    return _TABLES + len(weight.name) + 12 * channels


def _choice(weight, stored, encoding, reason):
    size = weight.values.nbytes if stored is None else stored.nbytes
    return Choice(weight, stored, describe(weight, encoding, size, reason))


def describe(weight: Weight, encoding: str, size: int, reason: str) -> Encoding:
    """Returns the record of an encoded weight.

    Args:
        weight: The weight.
        encoding: See `Encoding`.
        size: Size of the stored values and indices in bytes.
        reason: Reason for the encoding.

    Example:

    >>> from tf_tickets.exporting.tflite.weights import Use
    >>> uses = (Use("CONV_2D", 1, "INT8"),)
    >>> values = np.zeros((2, 1, 1, 8), "int8")
    >>> weight = Weight(0, 1, "kernel", values, 0, uses, "", False)
    >>> describe(weight, "dense", 16, "it is small")
    Encoding(tensor='kernel', operator='CONV_2D', shape=(2, 1, 1, 8), dtype='int8',
        sparsity=1.0, encoding='dense', bytes_before=16, bytes_after=16,
        reason='it is small')
    """
    values = weight.values
    return Encoding(
        tensor=weight.name,
        operator=_operators(weight),
        shape=values.shape,
        dtype=values.dtype.name,
        sparsity=_sparsity(weight),
        encoding=encoding,
        bytes_before=values.nbytes,
        bytes_after=size,
        reason=reason,
    )


def _operators(weight):
    return " and ".join(dict.fromkeys(use.operator for use in weight.uses))


def _sparsity(weight):
    return float(np.mean(weight.values == weight.zero))
