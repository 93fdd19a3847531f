"""Compresses arrays to a bitmask and nonzeros, as TensorFlow Lite Micro decodes them.

The layout is that of decode type 2 ("pruning") of the DECODE operator.
"""

import dataclasses
import math

import numpy as np

# Decode type 2, version 1 of the common metadata, two reserved bytes, version 1 of the
# decode type, and eleven unused bytes.
HEADER = bytes((2, 1, 0, 0, 1)) + bytes(11)


@dataclasses.dataclass(frozen=True, eq=False)
class Packed:
    """Holds the two inputs of a DECODE operator as bytes.

    Args:
        mask: One bit per value, the most significant bit first; 1 is a nonzero.
        ancillary: The header, followed by the nonzeros in the order of the array.
    """

    mask: np.ndarray
    ancillary: np.ndarray

    @property
    def nbytes(self) -> int:
        """The size of both inputs in bytes."""
        return self.mask.nbytes + self.ancillary.nbytes


def pack(values: np.ndarray) -> Packed:
    """Compresses an array whose zeros are stored as zero bits.

    A negative zero is not a zero: all values are restored bit by bit.

    Args:
        values: Array of int8 or float32.

    Example:

    >>> packed = pack(np.array([[0, 5, 0], [0, 0, -1]], "int8"))
    >>> packed.mask.tobytes().hex(), packed.ancillary.tobytes().hex()
    ('44', '0201000001000000000000000000000005ff')
    """
    flat = np.ascontiguousarray(values).reshape(-1)
    kept = _bits(flat) != 0
    ancillary = HEADER + flat[kept].tobytes()
    return Packed(np.packbits(kept), np.frombuffer(ancillary, np.uint8))


def unpack(
    mask: np.ndarray, ancillary: np.ndarray, dtype: np.dtype, shape: tuple[int, ...]
) -> np.ndarray:
    """Restores the array that `pack` compressed.

    Args:
        mask: See `Packed`.
        ancillary: See `Packed`.
        dtype: Dtype of the array.
        shape: Shape of the array.

    Example:

    >>> packed = pack(np.array([[0, 5, 0], [0, 0, -1]], "int8"))
    >>> unpack(packed.mask, packed.ancillary, np.dtype("int8"), (2, 3))
    array([[ 0,  5,  0],
           [ 0,  0, -1]], dtype=int8)
    """
    _check_header(ancillary)
    kept = _kept(mask, shape)
    values = ancillary[len(HEADER) :]
    expected = np.count_nonzero(kept) * dtype.itemsize
    if values.size != expected:
        raise ValueError(
            f"an encoded tensor has {values.size} bytes of values, but its bitmask "
            f"requires {expected}"
        )
    decoded = np.zeros(kept.size, dtype)
    decoded[kept] = values.view(dtype)
    return decoded.reshape(shape)


def _bits(flat):
    return flat.view(f"u{flat.itemsize}")


def _check_header(ancillary):
    header = ancillary[: len(HEADER)].tobytes()
    if header != HEADER:
        raise ValueError(
            f"an encoded tensor has the header {header.hex()!r}, but only "
            f"{HEADER.hex()!r} can be decoded"
        )


def _kept(mask, shape):
    size = math.prod(shape)
    if mask.size != -(-size // 8):
        raise ValueError(
            f"the bitmask of an encoded tensor of shape {shape} has {mask.size} bytes"
        )
    return np.unpackbits(mask, count=size).astype(bool)
