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

from tf_tickets import xla

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


# `largest` counts in columns of so many entries. Four counts of at most 255 fit into an
# integer of 32 bits.
_COLUMN = 255
# Number of scores that are sorted to guess the threshold.
_SAMPLE = 1024
_LOWEST, _HIGHEST = -(2**31), 2**31 - 1


def largest(scores: Any, count: Any) -> Any:
    """Returns 1.0 for the `count` largest scores and 0.0 elsewhere.

    Sorting is slow inside a compiled step. Instead, a threshold is searched above which
    there are exactly `count` scores. The search starts at quantiles of a sample. Each
    pass over the scores counts those above four candidates and interpolates between the
    counts; two to five passes are usual. Among equal scores the first ones are kept.

    Args:
        scores: Tensor of any shape. They are compared in float32.
        count: Number of scores to keep.

    Returns:
        A float32 tensor in the shape of `scores`.

    Example:

    >>> scores = keras.ops.array([3.0, 1.0, 2.0, 2.0, 0.0])
    >>> np.asarray(largest(scores, 2)).tolist()
    [1.0, 0.0, 1.0, 0.0, 0.0]
    """
    scores = ops.cast(ops.stop_gradient(scores), "float32")
    return _largest(scores, ops.cast(count, "int32"))


@xla.fused
def _largest(scores, count):
    keys = _keys(ops.reshape(scores, (-1,)))
    size = keys.shape[0]
    columns = -(-size // _COLUMN)
    # The fillers are below every candidate.
    padded = ops.pad(keys, (0, columns * _COLUMN - size), constant_values=_LOWEST)
    table = ops.reshape(padded, (_COLUMN, columns))
    threshold, found = _threshold(keys, table, count)
    missing = count - found
    end = ops.cond(
        missing > 0,
        lambda: _end(ops.cast(table == threshold, "int32"), missing),
        lambda: ops.zeros((), "int32"),
    )
    index = ops.arange(size, dtype="int32")
    kept = (keys > threshold) | ((keys == threshold) & (index < end))
    return ops.reshape(ops.cast(kept, "float32"), scores.shape)


def _keys(flat):
    """Returns integers in the order of the scores; equal scores have equal integers."""
    bits = ops.view(flat, "int32")
    # This also maps the bits of -0.0 to 0.
    return ops.where(bits < 0, _LOWEST - bits, bits)


def _threshold(keys, table, count):
    """Returns a threshold and how many keys are above it.

    These are `count`, or fewer if others equal the threshold.
    """
    lowest, highest, nothing = _int(_LOWEST), _int(_HIGHEST), _int(0)
    everything = _int(keys.shape[0])

    def searching(low, above_low, high, above_high, candidates):
        return (above_high != count) & (low + 1 < high)

    # More than `count` keys are above `low`, and at most `count` above `high`.
    def narrow(low, above_low, high, above_high, candidates):
        candidates = ops.minimum(ops.maximum(candidates, low + 1), high - 1)
        above = _counts_above(table, candidates)
        many = above > count
        low, above_low = (
            ops.maximum(low, ops.max(ops.where(many, candidates, lowest))),
            ops.minimum(above_low, ops.min(ops.where(many, above, everything))),
        )
        high, above_high = (
            ops.minimum(high, ops.min(ops.where(many, highest, candidates))),
            ops.maximum(above_high, ops.max(ops.where(many, nothing, above))),
        )
        candidates = _interpolated(low, above_low, high, above_high, count)
        return low, above_low, high, above_high, candidates

    # Nothing is searched if all keys are kept.
    all_kept = count >= everything
    start = (
        lowest,
        everything,
        ops.where(all_kept, lowest, highest),
        ops.where(all_kept, everything, nothing),
        _quantiles(keys, count),
    )
    _, _, threshold, found, _ = ops.while_loop(searching, narrow, start)
    return threshold, found


def _counts_above(table, candidates):
    """Returns how many keys are above each of four candidates."""
    ones = [_int(np.uint32(1 << 8 * i).astype("int32")) for i in range(4)]
    packed = sum(
        ops.where(table > candidates[i], one, _int(0)) for i, one in enumerate(ones)
    )
    packed = _int_sum(packed, axis=0)
    counts = [
        _int_sum(ops.bitwise_and(ops.right_shift(packed, _int(8 * i)), _int(255)))
        for i in range(4)
    ]
    return ops.stack(counts)


def _int(value):
    """Returns a number as a tensor; the dtype of Python's depends on `floatx`."""
    return ops.convert_to_tensor(value, "int32")


def _int_sum(x, axis=None):
    """Returns a sum in the dtype of `x`, also where JAX has 64 bits."""
    return ops.cast(ops.sum(x, axis=axis), "int32")


def _quantiles(keys, count):
    """Returns candidates from a sample of the keys."""
    size = keys.shape[0]
    sample = ops.sort(keys[:: max(1, size // _SAMPLE) | 1][:_SAMPLE])
    drawn = sample.shape[0]
    kept = ops.cast(count, "float32") / size
    place = drawn * (1.0 - kept)
    spread = 3.0 * ops.sqrt(drawn * kept * ops.maximum(1.0 - kept, 0.0)) + 1.0
    places = ops.stack([place - spread, place, place, place + spread])
    places = ops.cast(ops.clip(places, 0.0, drawn - 1.0), "int32")
    # Many scores may be equal. Between the second and third candidate is one value.
    return ops.take(sample, places) - np.array([0, 1, 0, 0], "int32")


def _interpolated(low, above_low, high, above_high, count):
    """Returns four candidates between two bounds.

    Two enclose the threshold if the keys are spread evenly. The middle halves the
    distance in any case, and the last one finds out whether keys equal `high`.
    """
    between = ops.cast(above_low - above_high, "float32")
    fraction = ops.cast(above_low - count, "float32") / between
    width = ops.cast(high - low, "float32")
    # The difference of integers overflows.
    width = ops.where(width < 0.0, width + 2.0**32, width)
    deviation = ops.sqrt(between * fraction * (1.0 - fraction))
    spread = (0.5 * deviation + 0.5) / between
    shares = ops.stack([fraction - spread, fraction + spread])
    offsets = ops.cast(ops.clip(width * shares, 0.0, 2.0**31 - 256), "int32")
    half = ops.right_shift(ops.bitwise_xor(low, high), _int(1))
    middle = ops.bitwise_and(low, high) + half
    return ops.stack([low + offsets[0], low + offsets[1], middle, high - 1])


def _end(level, missing):
    """Returns the index before which there are `missing` ones in a table."""
    columns = level.shape[1]
    before = ops.cumsum(_int_sum(level, axis=1))
    row = _int_sum(ops.cast(before < missing, "int32"))
    inside = ops.take(level, row, axis=0)
    left = missing - (ops.take(before, row) - _int_sum(inside))
    column = _int_sum(ops.cast(ops.cumsum(inside) < left, "int32"))
    return row * columns + column + 1
