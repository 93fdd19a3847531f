"""A model-wide number of weights to keep in, a count for every kernel out.

An allocation is a function `(scores, masks, keep) -> counts` of dicts by kernel
path; `keep` is how many prunable weights the whole model is to keep.
"""

import re
import warnings
from collections.abc import Callable, Iterable

import keras
import numpy as np

from tf_tickets import ranking

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
    """One ranking over all kernels: each keeps what is in the model's best.

    Example:

    >>> scores = {"a": np.array([9., 8.]), "b": np.array([1., 7.])}
    >>> masks = {path: np.ones(2, bool) for path in scores}
    >>> global_(scores, masks, 3)
    {'a': 2, 'b': 1}
    """
    everything = np.concatenate([scores[p].ravel() for p in masks])
    alive = np.concatenate([masks[p].ravel() for p in masks])
    kept = ranking.keep_largest(everything, keep, within=alive)
    edges = np.cumsum([masks[p].size for p in masks])[:-1]
    parts = np.split(kept, edges)
    return {p: int(part.sum()) for p, part in zip(masks, parts, strict=True)}


def uniform(
    scores: dict[str, np.ndarray], masks: dict[str, np.ndarray], keep: int
) -> dict[str, int]:
    """The same sparsity in every kernel.

    Example:

    >>> masks = {"a": np.ones(10, bool), "b": np.ones(30, bool)}
    >>> uniform({}, masks, 20)
    {'a': 5, 'b': 15}
    """
    return _apportion({p: float(m.size) for p, m in masks.items()}, masks, keep)


def erk(
    scores: dict[str, np.ndarray], masks: dict[str, np.ndarray], keep: int
) -> dict[str, int]:
    """Erdos-Renyi-kernel: the kept fraction goes with sum(shape)/prod(shape).

    A kernel that would keep more than all it has is filled, and what is left
    over is given to the others in the same proportions, so that the model's
    total is exact (Evci et al. 2020).

    Example:

    >>> masks = {"a": np.ones((10, 10), bool), "b": np.ones((2, 2), bool)}
    >>> erk({}, masks, 24)
    {'a': 20, 'b': 4}
    """
    return _apportion({p: float(sum(m.shape)) for p, m in masks.items()}, masks, keep)


def _apportion(shares, masks, keep):
    """Splits `keep` in proportion to `shares`; nobody above what is alive."""
    room = {p: int(m.sum()) for p, m in masks.items()}
    if not 0 <= keep <= sum(room.values()):
        raise ValueError(
            "`keep` must lie between 0 and the weights still alive "
            f"({sum(room.values())}). Received: keep={keep}"
        )
    full = _saturated(shares, room, keep)
    left = keep - sum(room[p] for p in full)
    rest = [p for p in shares if p not in full]
    total = sum(shares[p] for p in rest)
    exact = {p: left * shares[p] / total for p in rest}
    counts = {p: room[p] for p in full} | {p: int(exact[p]) for p in rest}
    by_remainder = sorted(rest, key=lambda p: int(exact[p]) - exact[p])
    for p in by_remainder[: keep - sum(counts.values())]:
        counts[p] += 1
    return {p: counts[p] for p in masks}


def _saturated(shares, room, keep):
    """The kernels that are filled; found anew until no other one overflows."""
    full: set[str] = set()
    while len(full) < len(shares):
        left = keep - sum(room[p] for p in full)
        total = sum(s for p, s in shares.items() if p not in full)
        over = {
            p
            for p, s in shares.items()
            if p not in full and left * s / total >= room[p]
        }
        if not over:
            return full
        full |= over
    return full


_ALLOCATIONS = {"global": global_, "uniform": uniform, "erk": erk}


def get(identifier: str | Allocation) -> Allocation:
    """An allocation by name, or the function itself.

    Example:

    >>> get("erk") is erk
    True
    """
    if callable(identifier):
        return identifier
    if identifier not in _ALLOCATIONS:
        raise ValueError(
            f"Unknown allocation. Received: {identifier!r}. Known: "
            f"{sorted(_ALLOCATIONS)}, or a function (scores, masks, keep)."
        )
    return _ALLOCATIONS[identifier]


def named_allocation(
    identifier: str | dict | Allocation,
) -> tuple[str | Allocation, Allocation]:
    """An allocation as given, or out of a configuration, and its function.

    Example:

    >>> named_allocation("erk") == ("erk", erk)
    True
    """
    given = (
        keras.saving.deserialize_keras_object(identifier)
        if isinstance(identifier, dict)
        else identifier
    )
    return given, get(given)


def after_rates(
    masks: dict[str, np.ndarray], rates: dict[str, float]
) -> dict[str, int]:
    """Counts when every kernel loses its own rate of what it still keeps.

    Args:
        masks: Dict from kernel path to the present mask.
        rates: Dict from a regular expression to the fraction to prune; the
            first one found in a kernel's path counts.

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
    """How many weights the model keeps when it loses `rate` of the kept ones.

    Example:

    >>> after_rate({"a": np.ones(1000, bool)}, 0.2)
    800
    """
    return _survivors(sum(int(m.sum()) for m in masks.values()), rate)


def at_sparsity(masks: dict[str, np.ndarray], sparsity: float, way: float = 1.0) -> int:
    """How many weights the model keeps on the way to a sparsity.

    Args:
        masks: Dict from kernel path to mask.
        sparsity: The sparsity at the end of the way.
        way: How much of the way is gone, 0 to 1, in equal ratios of what is left.

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
    """The same for every kernel by itself, by the first pattern found in its path.

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
    return size - int(round((1.0 - (1.0 - sparsity) ** way) * size))


def _survivors(alive, rate):
    if not 0.0 <= rate < 1.0:
        hint = f" For percent, divide by 100: {rate / 100}" if rate >= 1 else ""
        raise ValueError(
            f"A pruning rate must lie in [0, 1). Received: rate={rate}.{hint}"
        )
    return alive - int(round(rate * alive))


def first_match(path: str, rates: dict[str, float]) -> float:
    """The value of the first pattern that is found in a kernel's path.

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
    """Refuses patterns that leave a kernel without a value.

    Example:

    >>> check_matched(["net/output/kernel"], {"output": 0.1})
    """
    for path in kernels:
        first_match(path, rates)


def guard(counts: dict[str, int], masks: dict[str, np.ndarray]) -> dict[str, int]:
    """Leaves one weight at least in every kernel that still has one.

    An emptied kernel cuts the network in two. What a rescued kernel gets is
    taken from the kernel that keeps most, so that the total stays exact.

    Example:

    >>> import warnings; warnings.simplefilter("ignore")
    >>> guard({"a": 0, "b": 5}, {"a": np.ones(4, bool), "b": np.ones(9, bool)})
    {'a': 1, 'b': 4}
    """
    counts = dict(counts)
    for path in [p for p, c in counts.items() if c == 0 and masks[p].any()]:
        warnings.warn(
            f"All weights of {path!r} were chosen for pruning, which would cut "
            "the network there; one is kept. Use allocation='erk', or exclude "
            "the layer with `filters`.",
            stacklevel=2,
        )
        counts[path] = 1
        richest = max(counts, key=counts.get)
        counts[richest] -= counts[richest] > 1
    return counts
