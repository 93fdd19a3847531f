"""Scores and a count in, an exact 0/1 mask out.

The rule is the rank: precisely `count` weights are kept, the ones with the
largest scores. A threshold (`score > t`) keeps or drops a whole tie at once and
so misses the count; here ties are settled by index, the lower index is kept.
"""

import numpy as np
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


def select(
    scores: dict[str, np.ndarray], masks: dict[str, np.ndarray], counts: dict[str, int]
) -> dict[str, np.ndarray]:
    """Prunes every kernel to its count, within what its mask still keeps.

    Args:
        scores: Dict from a kernel's path to its scores.
        masks: Dict from path to the present boolean mask.
        counts: Dict from path to how many weights to keep.

    Returns:
        Dict from path to the new mask, nested in the present one.

    Example:

    >>> select({"a": np.array([1., 3.])}, {"a": np.ones(2, bool)}, {"a": 1})
    {'a': array([False,  True])}
    """
    return {
        path: keep_largest(scores[path], counts[path], within=mask)
        for path, mask in masks.items()
    }
