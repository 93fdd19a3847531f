"""Random numbers for masks, from a hash of seed, counter and index.

Each number takes about ten integer operations, which compile into the loop that uses
the number. JAX's generator, Threefry, takes about a hundred, and TensorFlow's writes
all numbers to memory first. The hash suits masks and is not cryptographic; its tests
are in `tests/test_draws.py`.
"""

import math
from typing import Any

import numpy as np
from keras import ops

from tf_tickets import xla

# The smallest difference between two draws.
STEP = 2.0**-24

# Two rounds of multiplication, by C. Wellons (2018), "lowbias32".
_FIRST, _SECOND = np.uint32(0x7FEB352D), np.uint32(0x846CA68B)
_GOLDEN = np.uint32(0x9E3779B9)


def uniform(shape: tuple[int, ...], seed: Any) -> Any:
    """Returns float32 numbers in [0, 1), multiples of 2**-24.

    Args:
        shape: Shape of the numbers.
        seed: Two integers, such as the state of a `keras.random.SeedGenerator`: a seed
            and a counter. All 64 bits matter.

    Example:

    >>> draws = np.asarray(uniform((10_000,), keras.ops.array([1, 2])))
    >>> round(float(draws.mean()), 1), bool(draws.max() < 1.0)
    (0.5, True)
    """
    seed = ops.cast(seed, "uint32")
    index = ops.cast(ops.arange(math.prod(shape), dtype="int32"), "uint32")
    return ops.reshape(_numbers(seed, index), shape)


def seed_of(seed: int, number: int) -> int:
    """Returns the seed of one of several kernels whose masks are given one seed.

    The kernels of a model have different seeds. None of them is a seed of another model
    with a near seed: 1 and 2 share none.

    Args:
        seed: The seed that is given, from 0 to 2**32 - 1.
        number: The running number of the kernel. That of number 0 is `seed` itself, and
            the numbers of repeated calls add up.

    Example:

    >>> [seed_of(3, number) for number in (0, 1, 2)]
    [3, 2654435772, 1013904245]
    """
    return (int(seed) + number * int(_GOLDEN)) % 2**32


@xla.fused
def _numbers(seed, index):
    first = _mixed(ops.bitwise_xor(seed[0], _mixed(seed[1])))
    second = _mixed(ops.bitwise_xor(seed[1], _mixed(first + seed[0] + _GOLDEN)))
    bits = _mixed(ops.bitwise_xor(index, first), second)
    # Signed integers convert faster; 24 bits fit into a float32 exactly.
    return ops.cast(ops.cast(ops.right_shift(bits, 8), "int32"), "float32") * STEP


def _mixed(bits, key=None):
    """Returns 32 bits that each depend on all bits given."""
    bits = ops.bitwise_xor(bits, ops.right_shift(bits, 16)) * _FIRST
    bits = ops.bitwise_xor(bits, ops.right_shift(bits, 15))
    if key is not None:
        bits = ops.bitwise_xor(bits, key)
    bits = bits * _SECOND
    return ops.bitwise_xor(bits, ops.right_shift(bits, 16))
