"""Brute-force reference implementations for tests: slow, short, independent."""

import itertools

import numpy as np


def best_subset(scores, count, alive=None):
    """Returns the mask of the best `count` entries, by trying all subsets.

    Among subsets with the same total, the one with the lowest indices wins.
    """
    candidates = range(len(scores)) if alive is None else np.flatnonzero(alive)
    subsets = itertools.combinations(candidates, count)
    best = min(subsets, key=lambda chosen: (-sum(scores[i] for i in chosen), chosen))
    return [i in best for i in range(len(scores))]


def filled(shares, rooms, keep):
    """Distributes `keep` in proportion to shares, each vessel up to its room.

    Uses bisection on the common level.
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
    """Returns the weights left in each kernel after `rounds`, as integers."""
    left = list(sizes)
    for _ in range(rounds):
        left = [n - round(n * rate) for n, rate in zip(left, rates, strict=True)]
    return left


def hessian(function, point, step=1e-5):
    """Returns the gradient and the Hessian of an analytic function of a vector.

    First derivatives are imaginary parts, which need no difference (the complex step).
    Second derivatives are central differences of these.
    """
    unit = np.eye(len(point))

    def gradient(at):
        return np.array([function(at + 1e-30j * e).imag / 1e-30 for e in unit])

    rows = [gradient(point + step * e) - gradient(point - step * e) for e in unit]
    return gradient(point), np.array(rows) / (2 * step)
