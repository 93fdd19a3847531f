"""Which weights of a `.tflite` file are encoded, how, and why the others are not.

What a runtime reads was tried out, not taken from its documentation: a sparse weight
that it cannot read is not always refused, it may give wrong outputs or end the process.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from tf_tickets.exporting.tflite import sparse_matrix
from tf_tickets.exporting.tflite.weights import Weight

# Where an operator has its weights.
_PLACES = dict.fromkeys(
    ("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV"), 1
)
# The functions that the default delegate can apply to an output.
_DELEGATED = ("NONE", "RELU", "RELU_N1_TO_1", "RELU6")
# What the tables of a sparse tensor and of a DENSIFY cost at most, without names.
_TABLES = 512
_GZIP = "gzip makes the file smaller"


@dataclasses.dataclass(frozen=True)
class Encoding:
    """What became of one constant weight tensor.

    Args:
        tensor: Its name in the file.
        operator: What reads it.
        shape: Its shape in the file, which is not that of the Keras kernel.
        dtype: Its type in the file.
        sparsity: The fraction of zeros.
        encoding: "csr" and "block 1x4" are read sparse, "densify" is unpacked when the
            model is loaded, "dense" is as before.
        bytes_before: Of its values.
        bytes_after: Of the values and indices that are stored.
        reason: Why this encoding.
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
    """A weight, how it is stored (nothing where it stays dense), and the record."""

    weight: Weight
    stored: sparse_matrix.Sparse | None
    encoding: Encoding


def choose(weight: Weight, blocks: bool) -> Choice:
    """The encoding of a weight.

    Example:

    >>> from tf_tickets.exporting.tflite.weights import Use
    >>> uses = (Use("FULLY_CONNECTED", 1, "FLOAT32"),)
    >>> values = np.eye(64, dtype="float32")
    >>> weight = Weight(0, 1, "kernel", values, 0, uses, "", False)
    >>> choose(weight, blocks=True).encoding
    Encoding(tensor='kernel', operator='FULLY_CONNECTED', shape=(64, 64),
        dtype='float32', sparsity=0.984375, encoding='csr', bytes_before=16384,
        bytes_after=385, reason='its operator reads rows of nonzeros')
    """
    direct = _reads_sparse(weight)
    obstacle = weight.obstacle or _obstacle_of_uses(weight, direct)
    if obstacle:
        return _choice(weight, None, "dense", obstacle)
    if direct:
        stored = sparse_matrix.compress_matrix(weight.values, blocks)
    else:
        stored = sparse_matrix.compress(weight.values)
    if stored.nbytes + _tables(weight) >= weight.values.nbytes:
        return _choice(weight, None, "dense", _too_few(weight))
    return _choice(weight, stored, *_named(weight, direct, stored))


def _reads_sparse(weight):
    """Whether all that read it have a kernel for sparse weights."""
    wanted = ("FULLY_CONNECTED", 1, "FLOAT32")
    matrix = weight.values.dtype == np.float32 and weight.values.ndim == 2
    return matrix and all(use[:3] == wanted for use in weight.uses)


def _named(weight, direct, stored):
    if not direct:
        reason = (
            f"{_operators(weight)} reads dense weights: unpacked once, at the start"
        )
        return "densify", reason
    if stored.block == 1:
        return "csr", "its operator reads rows of nonzeros"
    return "block 1x4", "its nonzeros fill blocks of four, which are read the fastest"


def _obstacle_of_uses(weight, direct):
    for use in weight.uses:
        if use.position != _PLACES.get(use.operator):
            return f"{use.operator} reads it, which is not encoded"
    if weight.values.dtype == np.int8:
        return _obstacle_of_bytes(weight)
    if weight.values.dtype == np.float16 and not _delegated(weight):
        return f"unpacked float16 weights do not reach {_operators(weight)}"
    if weight.no_operator and not direct:
        return "the file names operators by position, so none can be added"
    return ""


def _delegated(weight):
    """Whether the default delegate takes over all that read it.

    Where it does not, it leaves the DEQUANTIZE before them to the runtime too, yet not
    the DENSIFY before that: they would read memory that nothing has filled.
    """
    return all(
        use.operator != "TRANSPOSE_CONV" and use.fused in _DELEGATED
        for use in weight.uses
    )


def _obstacle_of_bytes(weight):
    """Where sparse int8 weights were seen to be refused or to give wrong outputs."""
    operators = {use.operator for use in weight.uses}
    if "FULLY_CONNECTED" in operators:
        return f"no kernel can be relied on for sparse int8 matrices; {_GZIP}"
    if {use.activations for use in weight.uses} != {"INT8"}:
        return f"int8 kernels of other activations take no unpacked weights; {_GZIP}"
    if weight.no_operator:
        return "the file names operators by position, so none can be added"
    return ""


def _too_few(weight):
    zeros = f"{_sparsity(weight):.0%} of {weight.values.size}"
    return f"{zeros} are zero, which saves less than the indices cost"


def _tables(weight):
    # DENSIFY repeats the name and, of int8, scale and zero point of every channel.
    channels = max(weight.values.shape) if weight.values.dtype == np.int8 else 0
    return _TABLES + len(weight.name) + 12 * channels


def _choice(weight, stored, encoding, reason):
    values = weight.values
    record = Encoding(
        tensor=weight.name,
        operator=_operators(weight),
        shape=values.shape,
        dtype=values.dtype.name,
        sparsity=_sparsity(weight),
        encoding=encoding,
        bytes_before=values.nbytes,
        bytes_after=values.nbytes if stored is None else stored.nbytes,
        reason=reason,
    )
    return Choice(weight, stored, record)


def _operators(weight):
    return " and ".join(dict.fromkeys(use.operator for use in weight.uses))


def _sparsity(weight):
    return float(np.mean(weight.values == weight.zero))
