"""Scores to exact 0/1 masks, for all kernels of a model.

Every method that prunes goes through `choose`. The layout of the model's structure
turns weights into units; an allocation turns the number of units to keep into a count
for every kernel, `guard` saves kernels from being emptied, and the units with the
highest scores are selected.
"""

from collections.abc import Mapping

import numpy as np

from tf_tickets import ranking
from tf_tickets.pruning import allocation
from tf_tickets.structures.structure import Layout


def choose(
    scores: dict[str, np.ndarray],
    masks: dict[str, np.ndarray],
    keep: int | Mapping[str, int],
    allocate: allocation.Allocation = allocation.global_,
    layout: Layout = Layout(),  # noqa: B008  it has no state
) -> dict[str, np.ndarray]:
    """Returns the masks that keep the highest scores.

    Args:
        scores: Dict from a kernel's path to its scores.
        masks: Dict from path to the present boolean mask; the new masks are nested in
            them.
        keep: How many units the model keeps, or a dict with a count for every table of
            units: those of `layout.units(masks)`.
        allocate: The allocation that turns one number into counts.
        layout: The units of the model's structure; by default each weight is one.

    Example:

    >>> scores = {"a": np.array([1.0, 3.0]), "b": np.array([2.0, 4.0])}
    >>> masks = {path: np.ones(2, bool) for path in scores}
    >>> choose(scores, masks, keep=2)
    {'a': array([False,  True]), 'b': array([False,  True])}
    """
    units = layout.units(masks)
    ranked = layout.scores(scores, masks)
    return layout.masks(choose_units(ranked, units, keep, allocate, layout), masks)


def choose_units(
    scores: dict[str, np.ndarray],
    units: dict[str, np.ndarray],
    keep: int | Mapping[str, int],
    allocate: allocation.Allocation,
    layout: Layout,
) -> dict[str, np.ndarray]:
    """Returns which units are kept: those with the highest scores.

    Args:
        scores: Dict from a table's name to the scores of its units.
        units: Dict from name to a boolean array: which units there are.
        keep: How many units the model keeps, or a dict with a count for every table.
        allocate: The allocation that turns one number into counts.
        layout: The units of the model's structure.

    Example:

    >>> scores, units = {"a": np.array([1.0, 3.0])}, {"a": np.ones(2, bool)}
    >>> choose_units(scores, units, 1, allocation.uniform, Layout())
    {'a': array([False,  True])}
    """
    kept = _best(layout.protect(scores, units), units, keep, allocate, layout)
    return layout.rounded(kept, scores, units)


def _best(scores, units, keep, allocate, layout):
    fewest = layout.fewest(units)
    if not isinstance(keep, Mapping) and allocate is allocation.global_:
        # Ranked once: the counts follow from the masks.
        kept = allocation.best(scores, units, keep)
        counts = {name: int(np.count_nonzero(mask)) for name, mask in kept.items()}
        guarded = allocation.guard(counts, units, fewest, layout.noun)
        changed = {n: units[n] for n in units if guarded[n] != counts[n]}
        return {**kept, **select(scores, changed, guarded)}
    counts = dict(keep) if isinstance(keep, Mapping) else allocate(scores, units, keep)
    return select(scores, units, allocation.guard(counts, units, fewest, layout.noun))


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
