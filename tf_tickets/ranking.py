"""Selects an exact number of entries with the largest scores.

A threshold (`score > t`) keeps or drops all tied scores together and can miss the
count. These functions break ties by index and keep the lower one. `keep_largest`
works on NumPy arrays, `largest` inside a compiled step.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops
from numpy.typing import ArrayLike

# Arrays are read in parts of so many entries, which fit into the processor's cache.
_PART = 1 << 16


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
    if within is not None:
        within = np.asarray(within, dtype=bool)
        if within.size != flat.size:
            raise ValueError(
                "`within` and `scores` must have the same number of entries. Received: "
                f"{within.size} for {flat.size} scores."
            )
        within = within.ravel()
    [mask] = keep_largest_of([flat], [within], count)
    return mask.reshape(scores.shape)


def keep_largest_of(
    scores: Sequence[np.ndarray], within: Sequence[np.ndarray | None], count: int
) -> list[np.ndarray]:
    """Returns masks of the `count` entries with the largest scores of several arrays.

    Among equal scores, those of earlier arrays are kept, and in an array the lower
    index. Takes linear time, and copies the scores once.

    Args:
        scores: Arrays of any shapes.
        within: A boolean array for each, in its shape: entries are only kept where it
            is true. None allows all.
        count: Number of entries to keep in total.

    Example:

    >>> keep_largest_of([np.array([1.0, 3.0]), np.array([2.0, 3.0])], [None, None], 2)
    [array([False,  True]), array([False,  True])]
    """
    parts = [
        (values.reshape(-1), None if allowed is None else allowed.reshape(-1))
        for values, allowed in zip(scores, within, strict=True)
    ]
    size = sum(
        values.size if allowed is None else np.count_nonzero(allowed)
        for values, allowed in parts
    )
    _check_count(count, size)
    threshold, ties = _cut(_gathered(parts, size), count)
    masks = []
    for values, allowed in parts:
        if count == 0:
            mask = np.zeros(values.shape, bool)
        elif count == size:
            mask = np.ones(values.shape, bool) if allowed is None else allowed.copy()
        else:
            mask, ties = _above(values, allowed, threshold, ties)
        masks.append(mask)
    return [mask.reshape(s.shape) for mask, s in zip(masks, scores, strict=True)]


def _gathered(parts, size):
    """Returns the values that are allowed, as one new array."""
    kind = np.result_type(*(values.dtype for values, _ in parts))
    gathered, end = np.empty(size, kind), 0
    for values, allowed in parts:
        for start in range(0, values.size, _PART):
            part = values[start : start + _PART]
            if allowed is not None:
                part = part[allowed[start : start + _PART]]
            gathered[end : end + part.size] = part
            end += part.size
    return gathered


def _cut(values, count):
    """Returns the smallest of the `count` largest values, and how often it is kept.

    The values are reordered.
    """
    if values.size and np.isnan(values.min()):
        raise ValueError(
            "Scores must not contain NaN. Received: NaN. Diverged training (loss NaN) "
            "results in NaN weights; lower the learning rate."
        )
    if count in (0, values.size):
        return None, 0
    values.partition(values.size - count)
    kept = values[values.size - count :]
    return kept[0], count - np.count_nonzero(kept > kept[0])


def _above(values, allowed, threshold, ties):
    """Returns which values are above a threshold, and the first ties with it.

    Also returns how many ties are left for other arrays.
    """
    mask = np.empty(values.shape, bool)
    for start in range(0, values.size, _PART):
        place = slice(start, start + _PART)
        part, kept = values[place], mask[place]
        np.greater(part, threshold, out=kept)
        if ties:
            tied = part == threshold
            if allowed is not None:
                tied &= allowed[place]
            found = np.count_nonzero(tied)
            if found > ties:
                tied[np.flatnonzero(tied)[ties:]] = False
            kept |= tied
            ties -= min(found, ties)
        if allowed is not None:
            kept &= allowed[place]
    return mask, ties


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
