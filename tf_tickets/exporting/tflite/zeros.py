"""Follows the zeros of kernels into a converted `.tflite` file."""

import itertools
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from tf_tickets import wrapping
from tf_tickets.exporting.source import Subject
from tf_tickets.exporting.tflite import file, weights

# Orders in which TFLite stores the axes of Keras kernels: unchanged, Dense, Conv2D,
# Conv2DTranspose, Conv1D. All other orders are tried after them.
_KNOWN = [(0, 1), (1, 0), (3, 0, 1, 2), (2, 0, 1, 3), (2, 0, 1), (0, 1, 2, 3)]
# Kernels of more axes than this are compared in their known orders only.
_MOST_AXES = 4


class Followed(NamedTuple):
    """Describes the zeros of a kernel in the file.

    Args:
        kernel: Path of the kernel.
        zeros: Number of zeros in the model.
        lost: How many of them are not zero in the file. None if no tensor of the
            file corresponds to the kernel.
        stored: Number of zeros in the file; rounding adds some.
    """

    kernel: str
    zeros: int
    lost: int | None
    stored: int


def follow(content: bytes, kernels: Mapping[str, np.ndarray]) -> list[Followed]:
    """Compares the zeros of kernels with those of a converted file, one by one.

    Args:
        content: Content of a dense `.tflite` file.
        kernels: Dict from path to values, of kernels that have zeros.

    Returns:
        List of `Followed`, one for each kernel.

    Example:

    >>> follow(b"no model", {})
    Traceback (most recent call last):
    ValueError: Expected the content of a .tflite file. Received 8 bytes: b'no model'...
    """
    patterns: dict[int, list[np.ndarray]] = {}
    for weight in weights.find(file.read(content)):
        pattern = (weight.values == weight.zero).ravel()
        patterns.setdefault(pattern.size, []).append(pattern)
    return [_follow(path, array, patterns) for path, array in kernels.items()]


def _follow(path, array, patterns):
    """Compares a kernel with a similar tensor of its size.

    That is the first with all its zeros and few others, or else the most similar one.
    """
    zeros = array == 0
    count = int(zeros.sum())
    best = None
    for order in _orders(array.ndim):
        wanted = zeros.transpose(order).ravel()
        for pattern in patterns.get(array.size, []):
            lost = int(np.count_nonzero(wanted & ~pattern))
            stored = int(pattern.sum())
            # Of the zeros in the file, `count - lost` are those of the kernel.
            different = lost + stored - (count - lost)
            if lost == 0 and different <= (array.size - count) / 2:
                return Followed(path, count, 0, stored)
            if best is None or different < best[0]:
                best = different, lost, stored
    if best is None:
        return Followed(path, count, None, 0)
    return Followed(path, count, *best[1:])


def _orders(rank) -> Iterator[tuple[int, ...]]:
    known = [order for order in _KNOWN if len(order) == rank]
    yield from known
    if rank <= _MOST_AXES:
        orders = itertools.permutations(range(rank))
        yield from (order for order in orders if order not in known)


def remark(followed: list[Followed]) -> str:
    """Says in a sentence what became of the zeros.

    Args:
        followed: The result of `follow`.

    Example:

    >>> remark([Followed("a/kernel", 90, 0, 91), Followed("b/kernel", 10, 2, 8)])
    '2 of 100 zeros were lost in the conversion: a/kernel keeps 90 of 90, b/kernel ...'
    """
    total = sum(one.zeros for one in followed)
    unknown = [one.kernel for one in followed if one.lost is None]
    lost = sum(one.lost or 0 for one in followed)
    if len(unknown) == len(followed):
        text = "It is not known whether zeros of kernels are zeros in the file."
    elif lost:
        shares = ", ".join(
            f"{one.kernel} keeps {one.zeros - one.lost:,} of {one.zeros:,}"
            for one in followed
            if one.lost is not None
        )
        text = f"{lost:,} of {total:,} zeros were lost in the conversion: {shares}."
    else:
        known = sum(one.zeros for one in followed if one.lost is not None)
        text = f"All {known:,} zeros of kernels are zeros in the file, at their places."
    if unknown:
        text += f" No tensor of the file corresponds to {', '.join(unknown)}."
    return text


def explain(content: bytes, subject: Subject) -> str:
    """Says whether the zeros of a model are zeros of its converted file.

    Args:
        content: Content of a dense `.tflite` file.
        subject: The model.
    """
    arrays = zip(wrapping.plain_paths(subject.plain), subject.arrays(), strict=True)
    kernels = {
        path: array
        for path, array in arrays
        if array.ndim > 1 and array.dtype.kind not in "biu" and not array.all()
    }
    if not kernels:
        return "The kernels of the model contain no zeros."
    return remark(follow(content, kernels))
