"""Packs sparse tensors as gaps between nonzeros and byte-shuffled values.

Each gap between two nonzeros takes one byte. A byte of 255 is a gap of 255 without a
value at its end. The values are shuffled (all first bytes, then all second bytes),
because similar exponents then compress well. Both parts are compressed with zlib.
"""

import dataclasses
import math
import zlib
from collections.abc import Iterable

import keras
import numpy as np

SKIP = 255


@dataclasses.dataclass(frozen=True)
class Packed:
    """Holds a packed tensor.

    Args:
        shape: Shape of the tensor.
        dtype: NumPy name of the dtype.
        gaps: Compressed gaps between the nonzeros.
        values: Compressed values of the nonzeros.
    """

    shape: tuple[int, ...]
    dtype: str
    gaps: bytes
    values: bytes

    @property
    def size(self) -> int:
        """The number of packed bytes."""
        return len(self.gaps) + len(self.values)


def is_kernel(array: np.ndarray) -> bool:
    """Returns whether an array is floating point and of rank 2 or more.

    bfloat16 counts as floating point.

    Example:

    >>> is_kernel(np.zeros((2, 3), "float32")), is_kernel(np.zeros(3, "float32"))
    (True, False)
    """
    return array.ndim > 1 and keras.backend.is_float_dtype(array.dtype.name)


def pack(array: np.ndarray) -> Packed:
    """Packs an array; negative zeros become positive.

    Example:

    >>> array = np.zeros((100, 10), "float32")
    >>> array[50, 3:5] = 1.5
    >>> packed = pack(array)
    >>> packed.size < array.nbytes / 50, bool((unpack(packed) == array).all())
    (True, True)
    """
    flat = np.ascontiguousarray(array).reshape(-1)
    indices = np.flatnonzero(flat)
    return Packed(
        tuple(array.shape),
        array.dtype.name,
        gaps=zlib.compress(_gaps(indices), 9),
        values=zlib.compress(shuffled(flat[indices]), 9),
    )


def unpack(packed: Packed) -> np.ndarray:
    """Returns the array of a packed tensor.

    Example:

    >>> unpack(pack(np.array([0.0, -2.0]))).tolist()
    [0.0, -2.0]
    """
    dtype = np.dtype(packed.dtype)
    gaps = np.frombuffer(zlib.decompress(packed.gaps), np.uint8)
    indices = np.cumsum(gaps, dtype=np.int64)[gaps != SKIP]
    planes = np.frombuffer(zlib.decompress(packed.values), np.uint8)
    values = planes.reshape(dtype.itemsize, -1).T
    array = np.zeros(math.prod(packed.shape), dtype)
    array[indices] = np.ascontiguousarray(values).view(dtype).reshape(-1)
    return array.reshape(packed.shape)


def pack_places(mask: np.ndarray) -> bytes:
    """Returns the compressed gaps between the true entries of a mask.

    Example:

    >>> len(pack_places(np.ones((100, 100), bool))) < 100
    True
    """
    return zlib.compress(_gaps(np.flatnonzero(mask)), 9)


def shuffled(values: np.ndarray) -> bytes:
    """Returns all first bytes of the values, then all second bytes, and so on.

    Example:

    >>> shuffled(np.array([1, 2], ">u2"))
    b'\\x00\\x00\\x01\\x02'
    """
    raw = np.ascontiguousarray(values).view(np.uint8)
    return raw.reshape(-1, values.dtype.itemsize).T.tobytes()


def bound(arrays: Iterable[np.ndarray], bits: int = 32) -> int:
    """Returns the theoretical minimum size of sparse arrays in bytes.

    It assumes equally probable index sets and incompressible values. The size in bits
    is log2 of the number of index sets, plus the bits of all nonzeros.

    Args:
        arrays: Sparse or dense arrays.
        bits: Number of bits per value.

    Returns:
        Number of bytes.

    Example:

    >>> bound([np.ones(100)])
    400
    >>> bound([np.eye(100)])
    501
    """
    return math.ceil(sum(_bits_of(array, bits) for array in arrays) / 8)


def _bits_of(array, bits):
    size, kept = array.size, int(np.count_nonzero(array))
    return kept * bits + _log2_binomial(size, kept)


def _log2_binomial(n, k):
    log = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return log / math.log(2)


def _gaps(indices):
    """Returns the gap bytes between indices, starting from index 0."""
    gaps = np.diff(indices, prepend=0)
    skips, remainders = np.divmod(gaps, SKIP)
    encoded = np.full(len(gaps) + int(skips.sum()), SKIP, np.uint8)
    # Every remainder follows its skips.
    encoded[np.arange(len(gaps)) + np.cumsum(skips)] = remainders
    return encoded.tobytes()
