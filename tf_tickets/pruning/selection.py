"""Selects the weights of every kernel to keep, by scores and counts."""

import numpy as np

from tf_tickets import ranking


def select(
    scores: dict[str, np.ndarray], masks: dict[str, np.ndarray], counts: dict[str, int]
) -> dict[str, np.ndarray]:
    """Returns masks that keep the weights with the highest scores.

    Args:
        scores: Dict from kernel path to its scores.
        masks: Dict from kernel path to its current boolean mask.
        counts: Dict from kernel path to the number of weights to keep.

    Returns:
        Dict from kernel path to its new mask, a subset of the current one.

    Example:

    >>> select({"a": np.array([1., 3.])}, {"a": np.ones(2, bool)}, {"a": 1})
    {'a': array([False,  True])}
    """
    return {
        path: ranking.keep_largest(scores[path], counts[path], within=mask)
        for path, mask in masks.items()
    }
