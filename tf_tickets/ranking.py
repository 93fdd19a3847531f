"""Scores and a count in, an exact 0/1 mask out.

The rule is the rank: precisely `count` weights are kept, the ones with the
largest scores. A threshold (`score > t`) keeps or drops a whole tie at once and
so misses the count; here ties are settled by index, the lower index is kept.
`keep_largest` does so with NumPy arrays, `largest` within a compiled step.
"""

from typing import Any

import numpy as np
from keras import ops
from numpy.typing import ArrayLike


def keep_largest(
    scores: ArrayLike, count: int, within: ArrayLike | None = None
) -> np.ndarray:
    """Keeps exactly `count` entries: those with the largest scores.

    Args:
        scores: Array of any shape.
        count: How many entries to keep.
        within: Optional boolean array; only where it is true may an entry be
            kept. This is what nests the masks of later rounds.

    Returns:
        A boolean array of the shape of `scores`, true where kept.

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
            "Scores must be comparable, received NaN. A diverged training "
            "(loss NaN) gives NaN weights: lower the learning rate."
        )
    mask = np.zeros(flat.size, dtype=bool)
    mask[alive[_rank(flat[alive], count)]] = True
    return mask.reshape(scores.shape)


def _rank(values, count):
    """Indices of the `count` largest, in O(n); of a tie the first ones."""
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
            "`within` must have as many entries as `scores`. Received: "
            f"{within.size} for {flat.size} scores."
        )
    return np.flatnonzero(within.ravel())


def _check_count(count, size):
    if not 0 <= count <= size:
        raise ValueError(
            f"`count` must lie between 0 and the {size} candidates. "
            f"Received: count={count}"
        )


def largest(scores: Any, count: Any) -> Any:
    """1.0 for exactly `count` of the largest scores, 0.0 elsewhere.

    By counting, not by sorting, which is slow within a compiled step: first the
    value, then, among those too near to it to tell apart, the index is halved.
    Of equal scores the first are kept. Scores nearer to each other than 1e-19 of the
    greatest count as equal.

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
    wanted = count - _number(above)
    place = ops.arange(flat.shape[0])
    end = _end(level, place, wanted)
    kept = above | (level & (place < end))
    return ops.reshape(ops.cast(kept, "float32"), scores.shape)


def _number(chosen):
    return ops.sum(ops.cast(chosen, "int32"))


def _threshold(flat, count):
    """Bounds of the `count`-th largest: fewer lie above `high`, not above `low`."""

    def halve(_, bounds):
        low, high = bounds
        # Not (low + high) / 2, which overflows.
        middle = low * 0.5 + high * 0.5
        enough = _number(flat > middle) >= count
        return ops.where(enough, middle, low), ops.where(enough, high, middle)

    highest = ops.max(flat)
    lowest = ops.min(flat)
    start = lowest - ops.maximum(ops.abs(lowest), 1e-30), highest
    return ops.fori_loop(0, 64, halve, start)


def _end(level, place, wanted):
    """The place before which `wanted` of the level entries lie."""

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) // 2
        enough = _number(level & (place < middle)) >= wanted
        return ops.where(enough, low, middle + 1), ops.where(enough, middle, high)

    size = ops.convert_to_tensor(level.shape[0], "int32")
    start = ops.zeros((), "int32"), size
    return ops.fori_loop(0, level.shape[0].bit_length(), halve, start)[1]
