"""Scores and counts to exact 0/1 masks, for every kernel of a model."""

import numpy as np

from tf_tickets import ranking


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
        path: ranking.keep_largest(scores[path], counts[path], within=mask)
        for path, mask in masks.items()
    }
