"""Allocations: how a sparsity of the model is distributed over its kernels.

An allocation is a function `(scores, masks, keep) -> counts` of dicts by kernel path.
`keep` is the number of prunable weights that the whole model keeps.
"""

import inspect
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import cast

import numpy as np

from tf_tickets import arguments, ranking

__all__ = [
    "erk",
    "get",
    "global_",
    "uniform",
]

Allocation = Callable[..., dict[str, int]]


def global_(
    scores: dict[str, np.ndarray], masks: dict[str, np.ndarray], keep: int
) -> dict[str, int]:
    """Ranks the weights of all kernels together.

    Example:

    >>> scores = {"a": np.array([9., 8.]), "b": np.array([1., 7.])}
    >>> masks = {path: np.ones(2, bool) for path in scores}
    >>> global_(scores, masks, 3)
    {'a': 2, 'b': 1}
    """
    kept = best(scores, masks, keep)
    return {path: int(np.count_nonzero(mask)) for path, mask in kept.items()}


def best(
    scores: dict[str, np.ndarray], masks: dict[str, np.ndarray], keep: int
) -> dict[str, np.ndarray]:
    """Returns masks of the weights that have the highest scores of all kernels.

    Their counts are those of `global_`. Of equal scores, those of earlier kernels are
    kept, and in a kernel the lower index.

    Args:
        scores: Dict from kernel path to its scores.
        masks: Dict from kernel path to its present mask.
        keep: Number of weights to keep.

    Example:

    >>> scores = {"a": np.array([9., 8.]), "b": np.array([1., 7.])}
    >>> best(scores, {path: np.ones(2, bool) for path in scores}, 3)
    {'a': array([ True,  True]), 'b': array([False,  True])}
    """
    check_tables(scores, masks, keep)
    _check_scores(scores, masks)
    within = [np.asarray(mask, bool) for mask in masks.values()]
    kept = ranking.keep_largest_of([scores[path] for path in masks], within, keep)
    return dict(zip(masks, kept, strict=True))


def uniform(
    scores: dict[str, np.ndarray], masks: dict[str, np.ndarray], keep: int
) -> dict[str, int]:
    """Applies the same sparsity to every kernel.

    Example:

    >>> masks = {"a": np.ones(10, bool), "b": np.ones(30, bool)}
    >>> uniform({}, masks, 20)
    {'a': 5, 'b': 15}
    """
    check_tables(scores, masks, keep)
    return _apportion({p: float(m.size) for p, m in masks.items()}, masks, keep)


def erk(
    scores: dict[str, np.ndarray], masks: dict[str, np.ndarray], keep: int
) -> dict[str, int]:
    """Applies the Erdos-Renyi-Kernel rule (Evci et al. 2020).

    The kept fraction of a kernel is proportional to sum(shape) / prod(shape). A kernel
    that would exceed its size is kept completely. The remaining weights are distributed
    over the other kernels in the same proportions, and the total is exact.

    Example:

    >>> masks = {"a": np.ones((10, 10), bool), "b": np.ones((2, 2), bool)}
    >>> erk({}, masks, 24)
    {'a': 20, 'b': 4}
    """
    check_tables(scores, masks, keep)
    return _apportion({p: float(sum(m.shape)) for p, m in masks.items()}, masks, keep)


def check_tables(scores: object, masks: object, keep: object) -> None:
    """Refuses what are no tables of arrays by path, and counts that are none.

    Example:

    >>> check_tables({}, {"a": np.ones(4, bool)}, 2)
    """
    arguments.check_not_negative(keep=keep)
    for name, table in (("masks", masks), ("scores", scores)):
        if not isinstance(table, Mapping) or (name == "masks" and not table):
            raise TypeError(
                f"`{name}` must be a dict from kernel path to array, with an entry for "
                f"each kernel. Received: {arguments.shown(table)}"
            )
        for path, array in table.items():
            arguments.check_type(str, **{name: path})
            arguments.check_type(np.ndarray, **{name: array})


def _check_scores(scores, masks):
    if any(
        path not in scores or scores[path].shape != mask.shape
        for path, mask in masks.items()
    ):
        shapes = {path: array.shape for path, array in scores.items()}
        raise ValueError(
            "`scores` must have an array for each mask, in its shape. Received: "
            f"{shapes}. The masks: { {p: mask.shape for p, mask in masks.items()} }."
        )


def _apportion(shares, masks, keep):
    """Splits `keep` in proportion to `shares`.

    No kernel gets more than its surviving weights.
    """
    alive = {p: int(m.sum()) for p, m in masks.items()}
    if not 0 <= keep <= sum(alive.values()):
        raise ValueError(
            "`keep` must be between 0 and the number of surviving weights "
            f"({sum(alive.values())}). Received: keep={keep}"
        )
    full = _saturated(shares, alive, keep)
    left = keep - sum(alive[p] for p in full)
    rest = [p for p in shares if p not in full]
    total = sum(shares[p] for p in rest)
    counts = {p: alive[p] for p in full}
    counts |= largest_remainder({p: left * shares[p] / total for p in rest}, left)
    return {p: counts[p] for p in masks}


def largest_remainder(quotas: dict[str, float], total: int) -> dict[str, int]:
    """Rounds quotas to whole numbers that sum to a total.

    Each quota is rounded down; what is missing goes to the largest remainders, of equal
    ones to the first.

    Example:

    >>> largest_remainder({"a": 1.5, "b": 2.25, "c": 0.25}, 4)
    {'a': 2, 'b': 2, 'c': 0}
    """
    counts = {path: int(quota) for path, quota in quotas.items()}
    by_remainder = sorted(quotas, key=lambda path: counts[path] - quotas[path])
    for path in by_remainder[: total - sum(counts.values())]:
        counts[path] += 1
    return counts


def lifted(
    counts: dict[str, int], masks: dict[str, np.ndarray], floor: int
) -> dict[str, int]:
    """Raises counts that sum to less than `floor` to that sum.

    Every kernel gets back the same fraction of what it was to lose.

    Example:

    >>> lifted({"a": 2, "b": 4}, {"a": np.ones(4, bool), "b": np.ones(8, bool)}, 9)
    {'a': 3, 'b': 6}
    """
    alive = {path: int(mask.sum()) for path, mask in masks.items()}
    missing = floor - sum(counts.values())
    if missing <= 0:
        return counts
    lost = sum(alive.values()) - sum(counts.values())
    quotas = {p: missing * (alive[p] - counts[p]) / lost for p in counts}
    returned = largest_remainder(quotas, missing)
    return {path: counts[path] + returned[path] for path in counts}


def _saturated(shares, alive, keep):
    """Returns the kernels that keep all their surviving weights."""
    full: set[str] = set()
    while len(full) < len(shares):
        left = keep - sum(alive[p] for p in full)
        total = sum(s for p, s in shares.items() if p not in full)
        over = {
            p
            for p, s in shares.items()
            if p not in full and left * s / total >= alive[p]
        }
        if not over:
            return full
        full |= over
    return full


_ALLOCATIONS = {"global": global_, "uniform": uniform, "erk": erk}


def get(identifier: str | Allocation) -> Allocation:
    """Returns an allocation from a name or function.

    Example:

    >>> get("erk") is erk
    True
    """
    if not inspect.isclass(identifier) and arguments.is_callable(identifier, 3):
        return cast(Allocation, identifier)
    if not arguments.is_one_of(identifier, _ALLOCATIONS):
        raise ValueError(
            f"Unknown allocation. Received: {arguments.shown(identifier)}. Expected "
            f"one of {sorted(_ALLOCATIONS)}, or a function (scores, masks, keep)."
        )
    return _ALLOCATIONS[str(identifier)]


def after_rates(
    masks: dict[str, np.ndarray], rates: dict[str, float]
) -> dict[str, int]:
    """Returns the counts after pruning every kernel at its own rate.

    Args:
        masks: Dict from kernel path to its current mask.
        rates: Dict from a regular expression to the fraction of surviving weights to
            prune. The first pattern found in a kernel's path applies.

    Returns:
        Dict from kernel path to the number of weights to keep.

    Example:

    >>> masks = {"fc/kernel": np.ones(1000, bool), "out/kernel": np.ones(10, bool)}
    >>> after_rates(masks, {"out": 0.1, ".": 0.2})
    {'fc/kernel': 800, 'out/kernel': 9}
    """
    return {
        path: _survivors(int(mask.sum()), first_match(path, rates))
        for path, mask in masks.items()
    }


def after_rate(masks: dict[str, np.ndarray], rate: float) -> int:
    """Returns the number of weights left after pruning the model at a rate.

    Example:

    >>> after_rate({"a": np.ones(1000, bool)}, 0.2)
    800
    """
    return _survivors(sum(int(m.sum()) for m in masks.values()), rate)


def weights_at(sparsity: float, masks: dict[str, np.ndarray]) -> int:
    """Returns how many weights remain at a sparsity.

    Example:

    >>> weights_at(0.75, {"a": np.ones(8, bool)})
    2
    """
    return _without(sum(mask.size for mask in masks.values()), sparsity)


def at_sparsity(masks: dict[str, np.ndarray], sparsity: float, way: float = 1.0) -> int:
    """Returns the number of weights to keep on the way to a final sparsity.

    Args:
        masks: Dict from kernel path to its mask.
        sparsity: The final sparsity.
        way: Progress from 0 to 1. Equal steps prune equal fractions of the remaining
            weights.

    Returns:
        Number of weights that the whole model keeps.

    Example:

    >>> at_sparsity({"a": np.ones(1000, bool)}, 0.75, way=0.5)
    500
    """
    size = sum(mask.size for mask in masks.values())
    alive = sum(int(mask.sum()) for mask in masks.values())
    return min(alive, _left(size, sparsity, way))


def at_sparsities(
    masks: dict[str, np.ndarray], sparsities: dict[str, float], way: float = 1.0
) -> dict[str, int]:
    """Returns the numbers of weights to keep with a final sparsity per kernel.

    Args:
        masks: Dict from kernel path to its mask.
        sparsities: Dict from a regular expression to a final sparsity. The first
            pattern found in a kernel's path applies.
        way: See `at_sparsity`.

    Returns:
        Dict from kernel path to the number of weights to keep.

    Example:

    >>> masks = {"fc/kernel": np.ones(1000, bool), "out/kernel": np.ones(10, bool)}
    >>> at_sparsities(masks, {"out": 0.0, ".": 0.9})
    {'fc/kernel': 100, 'out/kernel': 10}
    """
    return {
        path: min(int(mask.sum()), _left(mask.size, first_match(path, sparsities), way))
        for path, mask in masks.items()
    }


def _left(size, sparsity, way):
    return _without(size, 1.0 - (1.0 - sparsity) ** way)


def _survivors(alive, rate):
    arguments.check_fraction(rate=rate)
    return _without(alive, rate)


def _without(size, fraction):
    return size - int(round(fraction * size))


def first_match(path: str, rates: dict[str, float]) -> float:
    """Returns the value of the first pattern found in a kernel's path.

    Example:

    >>> first_match("net/output/kernel", {"output": 0.1, ".": 0.2})
    0.1
    """
    for pattern, rate in rates.items():
        if re.search(pattern, path):
            return rate
    raise ValueError(
        f"No pattern matches kernel {path!r}. Received patterns: "
        f"{list(rates)}. Add one that matches, or '.' for all others."
    )


def check_matched(kernels: Iterable[str], rates: dict[str, float]) -> None:
    """Raises a ValueError if no pattern matches one of the kernels.

    Example:

    >>> check_matched(["net/output/kernel"], {"output": 0.1})
    """
    for path in kernels:
        first_match(path, rates)


def guard(
    counts: dict[str, int],
    masks: dict[str, np.ndarray],
    fewest: Mapping[str, int] | None = None,
    noun: str = "weight",
) -> dict[str, int]:
    """Keeps the fewest weights that every kernel may have, by default one.

    An empty kernel would disconnect the network. The kernel with the most weights to
    spare gives them up instead, which preserves the total.

    Args:
        counts: Dict from kernel path to the number of weights to keep.
        masks: Dict from kernel path to its present mask.
        fewest: Dict from kernel path to the least number; by default one weight where
            any is left.
        noun: What the message calls a weight.

    Example:

    >>> import warnings; warnings.simplefilter("ignore")
    >>> guard({"a": 0, "b": 5}, {"a": np.ones(4, bool), "b": np.ones(9, bool)})
    {'a': 1, 'b': 4}
    """
    counts = dict(counts)
    if fewest is None:
        fewest = {path: int(masks[path].any()) for path in counts}
    for path in [path for path in counts if counts[path] < fewest[path]]:
        missing = fewest[path] - counts[path]
        # Groups of units have a floor in any case.
        if fewest[path] == 1 and noun != "unit":
            warnings.warn(
                f"All {noun}s of {path!r} would be pruned, which disconnects the "
                f"network. One {noun} is kept. Use allocation='erk', or exclude the "
                "layer with `filters`.",
                stacklevel=2,
            )
        counts[path] = fewest[path]
        spare = {p: max(0, counts[p] - fewest[p]) for p in counts}
        total = sum(spare.values())
        given = min(missing, total)
        if given:
            quotas = {p: given * spare[p] / total for p in counts}
            taken = largest_remainder(quotas, given)
            counts = {p: counts[p] - taken[p] for p in counts}
    return counts
