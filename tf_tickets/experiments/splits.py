"""Stratified splits of rows, determined by a seed."""

import numpy as np

from tf_tickets import arguments


def stratified(
    labels: np.ndarray, count: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Splits off `count` rows, stratified by class.

    Args:
        labels: One label per row.
        count: Number of rows to split off.
        seed: Seed of the choice and of both orders.

    Returns:
        Shuffled indices of the remaining rows and of the `count` rows.

    Example:

    >>> rest, chosen = stratified(np.array([0, 0, 0, 1, 1, 1]), 2, seed=0)
    >>> len(rest), sorted(i // 3 for i in chosen.tolist())
    (4, [0, 1])
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    # Evenly spaced rows, sorted by class, are stratified and have an exact count.
    chosen = by_class[np.arange(count) * len(labels) // max(count, 1)]
    rest = order[~np.isin(order, chosen)]
    return rest, rng.permutation(chosen)


def rows_of(share: float, rows: int, name: str, least: int = 1) -> int:
    """Returns how many of some rows a fraction of them is; refuses other fractions.

    Args:
        share: The fraction, at least 0 and less than 1.
        rows: Number of all rows.
        name: Name of the argument in messages.
        least: The smallest number of rows to return.

    Example:

    >>> rows_of(0.1, 205, "test_split")
    20
    """
    arguments.check_fraction(**{name: share})
    return max(least, int(share * rows))
