"""Compressed sparse rows (CSR) and blocks of weights, in NumPy.

TFLite reads index vectors of 1, 2 and 4 bytes. The narrowest sufficient type is used.
"""

import dataclasses

import numpy as np
from numpy.typing import ArrayLike

# The only block width that the TFLite float kernel supports.
BLOCK = 4
# With at least this fraction of nonzeros in the blocks, blocks save more index bytes
# than their zeros cost.
_MIN_DENSITY = 0.9


@dataclasses.dataclass(frozen=True, eq=False)
class Sparse:
    """Holds an array with a compressed last dimension.

    Args:
        values: Stored values, row by row.
        segments: Index of the first block of each row, followed by the number of
            blocks.
        indices: Index of each block in its row.
        block: Number of adjacent values per block; 1 is plain CSR.

    Example:

    >>> compress([[0, 5, 0, 7], [0, 0, 0, 0], [6, 0, 0, 0]]).nbytes
    31
    """

    values: np.ndarray
    segments: np.ndarray
    indices: np.ndarray
    block: int = 1

    @property
    def nbytes(self) -> int:
        """The size of the three vectors in bytes."""
        return self.values.nbytes + self.segments.nbytes + self.indices.nbytes


def compress(array: ArrayLike, block: int = 1) -> Sparse:
    """Compresses an array by removing blocks of zeros.

    If all values are zero, one block is stored. TFLite does not treat a tensor of 0
    bytes as a constant.

    Args:
        array: Array of rank 1 or more. The last dimension is compressed.
        block: Number of adjacent values per block.

    Returns:
        A `Sparse` array.

    Example:

    >>> sparse = compress([[0, 5, 0, 7], [0, 0, 0, 0], [6, 0, 0, 0]])
    >>> sparse.values.tolist(), sparse.segments.tolist(), sparse.indices.tolist()
    ([5, 7, 6], [0, 2, 2, 3], [1, 3, 0])
    >>> compress([[0, 0, 1, 2], [3, 4, 0, 0]], block=2).indices
    array([1, 0], dtype=uint8)
    """
    array = np.asarray(array)
    _check(array, block)
    rows = array.reshape(-1, array.shape[-1] // block, block)
    stored = (rows != 0).any(axis=-1)
    if not stored.any():
        stored[0, 0] = True
    ends = np.cumsum(np.count_nonzero(stored, axis=1))
    return Sparse(
        values=rows[stored].ravel(),
        segments=_narrow(np.concatenate([[0], ends])),
        indices=_narrow(np.nonzero(stored)[1]),
        block=block,
    )


def compress_matrix(matrix: ArrayLike, blocks: bool = True) -> Sparse:
    """Compresses a matrix to CSR, or to blocks of four if its nonzeros form them.

    Blocks are not used for scattered nonzeros because they would contain zeros. They
    are not used either if the number of columns is not a multiple of four, because
    TFLite would drop the last columns.

    Args:
        matrix: Array of rank 2.
        blocks: Whether blocks are allowed.

    Returns:
        A `Sparse` array.

    Example:

    >>> compress_matrix([[1, 2, 3, 4, 0, 0, 0, 0]]).block
    4
    >>> compress_matrix([[1, 0, 3, 0, 0, 0, 0, 0]]).block
    1
    >>> compress_matrix([[1, 2, 3, 4, 0, 0, 0]]).block
    1
    """
    matrix = np.asarray(matrix)
    if not blocks or matrix.shape[-1] % BLOCK:
        return compress(matrix)
    blocked = compress(matrix, BLOCK)
    dense = np.count_nonzero(blocked.values) >= _MIN_DENSITY * blocked.values.size
    return blocked if dense else compress(matrix)


def _narrow(numbers):
    for dtype in (np.uint8, np.uint16):
        if numbers.max() <= np.iinfo(dtype).max:
            return numbers.astype(dtype)
    return numbers.astype(np.int32)


def _check(array, block):
    if array.ndim == 0 or array.size == 0:
        raise ValueError(
            "Only nonempty arrays of rank 1 or more can be compressed. Received: an "
            f"array of shape {array.shape}."
        )
    if block < 1 or array.shape[-1] % block:
        raise ValueError(
            "`block` must divide the last dimension. Received: "
            f"block={block} for an array of shape {array.shape}. Use block=1."
        )
