"""The random numbers of stochastic masks: values, distribution and independence."""

import numpy as np
import pytest
from keras import ops

from tf_tickets.masks import draws

pytestmark = pytest.mark.turns

SIZE = 1 << 18
# The seeds of some kernels of a model whose masks have the seed 6.
KERNELS = [(draws.seed_of(6, number), 0) for number in (1, 2, 3, 1000)]


def numbers(seed, size=SIZE):
    key = ops.convert_to_tensor(np.asarray(seed).astype("uint32"))
    return ops.convert_to_numpy(draws.uniform((size,), key))


def mixed(bits, key=0):
    """The hash in arithmetic modulo 2**32 on 64-bit integers."""
    bits = (bits ^ bits >> 16) * 0x7FEB352D % 2**32
    bits = (bits ^ bits >> 15 ^ key) * 0x846CA68B % 2**32
    return bits ^ bits >> 16


@pytest.mark.both
@pytest.mark.parametrize("seed", [(0, 0), (1, 2), (2**31 - 1, 7)])
def test_the_numbers_are_those_of_the_hash_on_both_backends(seed):
    first = mixed(seed[0] ^ mixed(seed[1]))
    second = mixed(seed[1] ^ mixed((first + seed[0] + 0x9E3779B9) % 2**32))
    index = np.arange(1000, dtype="uint64")
    expected = (mixed(index ^ np.uint64(first), np.uint64(second)) >> 8) * 2.0**-24
    assert numbers(seed, 1000).tolist() == expected.tolist()


def test_a_mask_keeps_each_weight_with_its_probability():
    """Within five standard deviations, down to the rarest weight of a score of -8."""
    found = np.concatenate([numbers((3, step)) for step in range(16)])
    scores = np.linspace(-8, 8, 33)
    rare = 2.0 ** -np.arange(12, 20)
    for p in (*1 / (1 + np.exp(-scores)), *rare, *1 - rare):
        sigma = np.sqrt(p * (1 - p) / found.size)
        assert abs((found < np.float32(p)).mean() - p) < 5 * sigma
    assert found.min() >= 0.0 and found.max() < 1.0


@pytest.mark.parametrize("shift", [0, 8, 16])
def test_each_byte_of_the_numbers_is_uniform(shift):
    whole = (numbers((4, 5)) * 2**24).astype("int64")
    counts = np.bincount(whole >> shift & 255, minlength=256)
    expected = SIZE / 256
    chi_square = ((counts - expected) ** 2 / expected).sum()
    # Mean 255, variance 510.
    assert abs(chi_square - 255) < 5 * np.sqrt(510)


@pytest.mark.parametrize(
    "other",
    [(6, 1), (7, 0), (0, 6), (6 + 2**16, 0), (6, 2**16), *KERNELS],
)
def test_numbers_of_other_steps_and_kernels_are_independent(other):
    first, second = numbers((6, 0)), numbers(other)
    assert abs(np.corrcoef(first, second)[0, 1]) < 5 / np.sqrt(SIZE)
    same = ((first < 0.5) == (second < 0.5)).mean()
    assert abs(same - 0.5) < 5 * 0.5 / np.sqrt(SIZE)
    # Not a permutation of each other, as hashes of shifted counters would be.
    assert np.isin(first, second).mean() < 2 * SIZE / 2**24


def test_seeds_of_kernels_differ_between_kernels_and_between_near_seeds():
    seeds = {draws.seed_of(s, n) for s in range(20) for n in range(5000)}
    assert len(seeds) == 20 * 5000
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert draws.seed_of(2**32 - 1, 0) == 2**32 - 1
    # Kernels are numbered within a layer, and layers within a model.
    assert draws.seed_of(draws.seed_of(3, 40), 2) == draws.seed_of(3, 42)


@pytest.mark.parametrize("lag", [1, 2, 16, 300, 784, 1 << 16])
def test_neighbours_in_a_kernel_are_independent(lag):
    found = numbers((8, 9))
    correlation = np.corrcoef(found[:-lag], found[lag:])[0, 1]
    assert abs(correlation) < 5 / np.sqrt(SIZE - lag)


def test_the_course_of_a_weight_over_the_steps_is_independent():
    course = np.array([numbers((10, step), 4096) for step in range(64)])
    for lag in (1, 2, 8):
        correlation = np.corrcoef(course[:-lag].ravel(), course[lag:].ravel())[0, 1]
        assert abs(correlation) < 5 / np.sqrt(course[lag:].size)
    means = course.mean(axis=0)
    assert abs(means.var() * 64 * 12 - 1.0) < 5 * np.sqrt(2 / 4096)
