"""How the nonzeros of a weight lie in a file: row by row, or in blocks of a row.

Pure NumPy. Where a row begins among the values and which column each value has are
vectors of the narrowest type that holds them, as TFLite reads 1, 2 and 4 bytes.
"""

import dataclasses

import numpy as np
from numpy.typing import ArrayLike

# The only width of block that TFLite's kernel of floats knows.
BLOCK = 4
# From this fraction of nonzeros in the blocks the zeros stored with them cost less
# than the indices saved.
_FULL = 0.9


@dataclasses.dataclass(frozen=True, eq=False)
class Sparse:
    """An array without its zeros, the last dimension compressed.

    Args:
        values: What is stored, row after row.
        segments: Where each row begins among the blocks; the last is their number.
        indices: Which block of its row each is.
        block: How many values side by side are one block; 1 is plain CSR.

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
        """The bytes of the three vectors."""
        return self.values.nbytes + self.segments.nbytes + self.indices.nbytes


def compress(array: ArrayLike, block: int = 1) -> Sparse:
    """The array without the blocks that are all zero.

    Of an array that is all zero one block is stored nevertheless: a tensor without any
    bytes is no constant to TFLite.

    Args:
        array: Of one dimension or more; the last is compressed.
        block: How many values side by side are stored together.

    Example:

    >>> found = compress([[0, 5, 0, 7], [0, 0, 0, 0], [6, 0, 0, 0]])
    >>> found.values.tolist(), found.segments.tolist(), found.indices.tolist()
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
    """A matrix row by row, or in blocks of four where its nonzeros really form them.

    Scattered nonzeros never do: blocks would store zeros with them. Nor does a matrix
    whose columns are no multiple of four, of which TFLite would drop the last ones.

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
    found = compress(matrix, BLOCK)
    full = np.count_nonzero(found.values) >= _FULL * found.values.size
    return found if full else compress(matrix)


def _narrow(numbers):
    for dtype in (np.uint8, np.uint16):
        if numbers.max() <= np.iinfo(dtype).max:
            return numbers.astype(dtype)
    return numbers.astype(np.int32)


def _check(array, block):
    if array.ndim == 0 or array.size == 0:
        raise ValueError(
            "Only an array with entries can be compressed. Received: an array of shape "
            f"{array.shape}."
        )
    if block < 1 or array.shape[-1] % block:
        raise ValueError(
            "`block` must divide the last dimension. Received: "
            f"block={block} for an array of shape {array.shape}. Use block=1."
        )
