"""Selects an exact number of entries with the largest scores.

A threshold (`score > t`) keeps or drops all tied scores together and can miss the
count. These functions break ties by index and keep the lower one. `keep_largest`
works on NumPy arrays, `largest` inside a compiled step.
"""

from typing import Any

import numpy as np
from keras import ops
from numpy.typing import ArrayLike


def keep_largest(
    scores: ArrayLike, count: int, within: ArrayLike | None = None
) -> np.ndarray:
    """Returns a mask of the `count` entries with the largest scores.

    Args:
        scores: Array of any shape.
        count: Number of entries to keep.
        within: Optional boolean array. Entries are only kept where it is true. Passing
            the previous mask makes the new mask a subset of it.

    Returns:
        A boolean array in the shape of `scores`, true for kept entries.

    Example:

    >>> keep_largest([3.0, 1.0, 2.0, 2.0, 0.0], 2)
    array([ True, False,  True, False, False])
    >>> keep_largest([3.0, 1.0, 2.0], 1, within=[False, True, True])
    array([False, False,  True])
    """
    scores = np.asarray(scores)
    flat = scores.ravel()
    alive = _candidates(flat, within)
    _check_count(count, alive.size)
    if np.isnan(flat[alive]).any():
        raise ValueError(
            "Scores must not contain NaN. Received: NaN. Diverged training (loss NaN) "
            "results in NaN weights; lower the learning rate."
        )
    mask = np.zeros(flat.size, dtype=bool)
    mask[alive[_rank(flat[alive], count)]] = True
    return mask.reshape(scores.shape)


def _rank(values, count):
    """Returns the indices of the `count` largest values in O(n).

    Among equal values the first ones are selected.
    """
    if count == 0:
        return np.zeros(0, dtype=np.intp)
    threshold = np.partition(values, values.size - count)[-count]
    above = np.flatnonzero(values > threshold)
    ties = np.flatnonzero(values == threshold)[: count - above.size]
    return np.concatenate([above, ties])


def _candidates(flat, within):
    if within is None:
        return np.arange(flat.size)
    within = np.asarray(within, dtype=bool)
    if within.size != flat.size:
        raise ValueError(
            "`within` and `scores` must have the same number of entries. Received: "
            f"{within.size} for {flat.size} scores."
        )
    return np.flatnonzero(within.ravel())


def _check_count(count, size):
    if not 0 <= count <= size:
        raise ValueError(
            f"`count` must be between 0 and the {size} candidates. "
            f"Received: count={count}"
        )


def largest(scores: Any, count: Any) -> Any:
    """Returns 1.0 for the `count` largest scores and 0.0 elsewhere.

    Sorting is slow inside a compiled step. Two binary searches are used instead: one
    for the threshold value, and one for the index among scores equal to it. Among equal
    scores the first ones are kept. Scores that differ by less than 1e-19 of the largest
    one are considered equal.

    Args:
        scores: Tensor of any shape.
        count: Number of scores to keep.

    Returns:
        A float32 tensor in the shape of `scores`.

    Example:

    >>> scores = keras.ops.array([3.0, 1.0, 2.0, 2.0, 0.0])
    >>> np.asarray(largest(scores, 2)).tolist()
    [1.0, 0.0, 1.0, 0.0, 0.0]
    """
    flat = ops.reshape(scores, (-1,))
    count = ops.cast(count, "int32")
    low, high = _threshold(flat, count)
    above = flat > high
    level = (flat > low) & (flat <= high)
    missing = count - _count(above)
    index = ops.arange(flat.shape[0])
    end = _end(level, index, missing)
    kept = above | (level & (index < end))
    return ops.reshape(ops.cast(kept, "float32"), scores.shape)


def _count(condition):
    return ops.sum(ops.cast(condition, "int32"))


def _threshold(flat, count):
    """Returns bounds (low, high] of the `count`-th largest score."""

    def halve(_, bounds):
        low, high = bounds
        # (low + high) / 2 may overflow.
        middle = low * 0.5 + high * 0.5
        enough = _count(flat > middle) >= count
        return ops.where(enough, middle, low), ops.where(enough, high, middle)

    highest = ops.max(flat)
    lowest = ops.min(flat)
    start = lowest - ops.maximum(ops.abs(lowest), 1e-30), highest
    return ops.fori_loop(0, 64, halve, start)


def _end(level, index, missing):
    """Returns the index before which there are `missing` true entries in `level`."""

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) // 2
        enough = _count(level & (index < middle)) >= missing
        return ops.where(enough, low, middle + 1), ops.where(enough, middle, high)

    size = ops.convert_to_tensor(level.shape[0], "int32")
    start = ops.zeros((), "int32"), size
    return ops.fori_loop(0, level.shape[0].bit_length(), halve, start)[1]
