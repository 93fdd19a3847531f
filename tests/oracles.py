"""Truths by brute force, for tests only: slow, short, and written another way."""

import itertools

import numpy as np


def best_subset(scores, count, alive=None):
    """The mask of the best `count` entries, found by trying all of them.

    Of subsets with the same total the one whose indices come first.
    """
    candidates = range(len(scores)) if alive is None else np.flatnonzero(alive)
    subsets = itertools.combinations(candidates, count)
    best = min(subsets, key=lambda chosen: (-sum(scores[i] for i in chosen), chosen))
    return [i in best for i in range(len(scores))]


def filled(shares, rooms, keep):
    """How much each vessel holds when `keep` is poured in, in proportion to shares.

    Found by bisection on the common level; no vessel holds more than its room.
    """
    low, high = 0.0, max(r / s for r, s in zip(rooms, shares, strict=True))
    for _ in range(200):
        level = (low + high) / 2
        poured = sum(_held(shares, rooms, level))
        low, high = (level, high) if poured < keep else (low, level)
    return _held(shares, rooms, low)


def _held(shares, rooms, level):
    return [min(r, level * s) for s, r in zip(shares, rooms, strict=True)]


def weights_left(sizes, rates, rounds):
    """Weights left in each kernel after `rounds`, as plain integers."""
    left = list(sizes)
    for _ in range(rounds):
        left = [n - round(n * rate) for n, rate in zip(left, rates, strict=True)]
    return left
