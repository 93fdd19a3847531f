"""How few bytes the numbers of a sparse tensor take: gaps, shuffled bytes, zlib.

Where the nonzeros lie is told by the gaps between them, a byte each; a byte of 255 is a
gap of 255 that ends at no value. The values are shuffled (all first bytes, then all
second ones), for their exponents are alike. Both are compressed.
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
    """A tensor in few bytes.

    Args:
        shape: Its shape.
        dtype: NumPy's name of its type.
        gaps: Where its nonzeros are, compressed.
        values: What they are, compressed.
    """

    shape: tuple[int, ...]
    dtype: str
    gaps: bytes
    values: bytes

    @property
    def size(self) -> int:
        """The bytes it takes."""
        return len(self.gaps) + len(self.values)


def is_kernel(array: np.ndarray) -> bool:
    """Whether a tensor is one of floating numbers, bfloat16 too, with several axes.

    Example:

    >>> is_kernel(np.zeros((2, 3), "float32")), is_kernel(np.zeros(3, "float32"))
    (True, False)
    """
    return array.ndim > 1 and keras.backend.is_float_dtype(array.dtype.name)


def pack(array: np.ndarray) -> Packed:
    """The tensor in few bytes; a negative zero becomes a positive one.

    Example:

    >>> array = np.zeros((100, 10), "float32")
    >>> array[50, 3:5] = 1.5
    >>> packed = pack(array)
    >>> packed.size < array.nbytes / 50, bool((unpack(packed) == array).all())
    (True, True)
    """
    flat = np.ascontiguousarray(array).reshape(-1)
    places = np.flatnonzero(flat)
    gaps, values = _gaps(places), shuffled(flat[places])
    name = array.dtype.name
    return Packed(
        tuple(array.shape), name, zlib.compress(gaps, 9), zlib.compress(values, 9)
    )


def unpack(packed: Packed) -> np.ndarray:
    """The tensor again.

    Example:

    >>> unpack(pack(np.array([0.0, -2.0]))).tolist()
    [0.0, -2.0]
    """
    dtype = np.dtype(packed.dtype)
    gaps = np.frombuffer(zlib.decompress(packed.gaps), np.uint8)
    places = np.cumsum(gaps, dtype=np.int64)[gaps != SKIP]
    planes = np.frombuffer(zlib.decompress(packed.values), np.uint8)
    values = planes.reshape(dtype.itemsize, -1).T
    found = np.zeros(math.prod(packed.shape), dtype)
    found[places] = np.ascontiguousarray(values).view(dtype).reshape(-1)
    return found.reshape(packed.shape)


def pack_places(mask: np.ndarray) -> bytes:
    """Where a mask is true, as compressed gaps.

    Example:

    >>> len(pack_places(np.ones((100, 100), bool))) < 100
    True
    """
    return zlib.compress(_gaps(np.flatnonzero(mask)), 9)


def shuffled(values: np.ndarray) -> bytes:
    """All first bytes of the values, then all second ones, and so on.

    Example:

    >>> shuffled(np.array([1, 2], ">u2"))
    b'\\x00\\x00\\x01\\x02'
    """
    raw = np.ascontiguousarray(values).view(np.uint8)
    return raw.reshape(-1, values.dtype.itemsize).T.tobytes()


def bound(arrays: Iterable[np.ndarray], bits: int = 32) -> int:
    """The bytes that places and values of all nonzeros take by information theory.

    Places that are equally probable and values without structure: `log2` of the number
    of ways to place them, and the bits of each.

    Args:
        arrays: The tensors; of those without zeros it is what they take.
        bits: Bits of a value.

    Example:

    >>> bound([np.ones(100)])
    400
    >>> bound([np.eye(100)])
    501
    """
    return math.ceil(sum(_bits_of(array, bits) for array in arrays) / 8)


def _bits_of(array, bits):
    size, kept = array.size, int(np.count_nonzero(array))
    return kept * bits + _log2_ways(size, kept)


def _log2_ways(size, kept):
    ways = math.lgamma(size + 1) - math.lgamma(kept + 1) - math.lgamma(size - kept + 1)
    return ways / math.log(2)


def _gaps(places):
    """Gap bytes between places; the first one from 0."""
    gaps = np.diff(places, prepend=0)
    skips, rests = np.divmod(gaps, SKIP)
    found = np.full(len(gaps) + int(skips.sum()), SKIP, np.uint8)
    # Each rest comes after its skips.
    found[np.arange(len(gaps)) + np.cumsum(skips)] = rests
    return found.tobytes()
