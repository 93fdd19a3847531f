import math

import numpy as np
import oracles
import pytest

from tf_tickets.pruning import allocation

pytestmark = pytest.mark.turns

LENET = [(784, 300), (300, 100), (100, 10)]
CONV2 = [(3, 3, 3, 64), (3, 3, 64, 64), (16384, 256), (256, 256), (256, 10)]
CONV4 = [
    (3, 3, 3, 64),
    (3, 3, 64, 64),
    (3, 3, 64, 128),
    (3, 3, 128, 128),
    (8192, 256),
    (256, 256),
    (256, 10),
]


def full(shapes):
    return {f"k{i}": np.ones(shape, bool) for i, shape in enumerate(shapes)}


def randomly(masks, seed=0):
    rng = np.random.default_rng(seed)
    return {path: rng.random(mask.shape) for path, mask in masks.items()}


def left_after(shapes, rates, rounds):
    """Returns the fraction of weights left by the package's per-kernel rates."""
    masks = full(shapes)
    rates = {f"^{path}$": rate for path, rate in zip(masks, rates, strict=True)}
    for _ in range(rounds):
        counts = allocation.after_rates(masks, rates)
        masks = {path: np.ones(count, bool) for path, count in counts.items()}
    return sum(counts.values()) / sum(math.prod(shape) for shape in shapes)


@pytest.mark.parametrize(
    ("rounds", "left"), [(3, 51.3), (7, 21.1), (12, 7.0), (15, 3.6), (18, 1.9)]
)
def test_lenet_goes_down_the_ladder_of_the_paper(rounds, left):
    assert round(100 * left_after(LENET, [0.2, 0.2, 0.1], rounds), 1) == left


@pytest.mark.parametrize(("rounds", "left"), [(11, 8.8), (14, 4.6)])
def test_conv2_goes_down_the_ladder_of_the_paper(rounds, left):
    rates = [0.1, 0.1, 0.2, 0.2, 0.1]
    assert round(100 * left_after(CONV2, rates, rounds), 1) == left


@pytest.mark.parametrize(("rounds", "left"), [(11, 11.1), (12, 9.2)])
def test_conv4_goes_down_the_ladder_of_the_paper(rounds, left):
    rates = [0.1] * 4 + [0.2, 0.2, 0.1]
    assert round(100 * left_after(CONV4, rates, rounds), 1) == left


def test_rates_by_kernel_give_what_plain_arithmetic_gives():
    masks = full([(7, 11), (13,), (5, 3)])
    counts = allocation.after_rates(masks, {"k0": 0.3, "k1": 0.0, ".": 0.15})
    expected = oracles.weights_left([77, 13, 15], [0.3, 0, 0.15], 1)
    assert list(counts.values()) == expected


def test_the_first_pattern_that_is_found_counts():
    masks = {"block/out/kernel": np.ones(100, bool)}
    counts = allocation.after_rates(masks, {"out": 0.5, "block": 0.1})
    assert counts == {"block/out/kernel": 50}


def test_a_kernel_without_a_rate_raises_and_is_named():
    with pytest.raises(ValueError, match="'k1'"):
        allocation.after_rates(full([(2,), (2,)]), {"k0": 0.2})


@pytest.mark.parametrize("rate", [-0.1, 1.0, 20])
def test_a_rate_outside_its_range_raises_and_is_named(rate):
    with pytest.raises(ValueError, match=f"rate={rate}"):
        allocation.after_rate(full([(10,)]), rate)


def test_one_rate_for_the_model_counts_what_is_alive():
    masks = {"a": np.array([True] * 5 + [False] * 5), "b": np.ones(5, bool)}
    assert allocation.after_rate(masks, 0.2) == 8


@pytest.mark.parametrize("name", ["global", "uniform", "erk"])
@pytest.mark.parametrize("keep", [0, 1, 7, 100, 163, 236, 237])
def test_every_allocation_keeps_exactly_what_is_asked(name, keep):
    masks = full([(10, 20), (5, 7), (2, 1)])
    counts = allocation.get(name)(randomly(masks), masks, keep)
    assert sum(counts.values()) == keep
    assert all(0 <= counts[path] <= masks[path].sum() for path in masks)


@pytest.mark.parametrize("name", ["global", "uniform", "erk"])
def test_every_allocation_stays_within_what_is_alive(name):
    masks = full([(10, 20), (5, 7), (2, 1)])
    masks["k0"][1:] = False
    counts = allocation.get(name)(randomly(masks), masks, 50)
    assert sum(counts.values()) == 50
    assert all(counts[path] <= masks[path].sum() for path in masks)


def test_erk_gives_what_overflows_to_the_others():
    # Clamping alone would keep 40 + 40 + 207, a fraction of 0.29 instead of 0.5.
    masks = full([(1, 40), (40, 1), (30, 30)])
    assert allocation.erk({}, masks, 490) == {"k0": 40, "k1": 40, "k2": 410}


@pytest.mark.parametrize("keep", [5, 60, 200, 700, 1200, 1500])
def test_erk_pours_like_water_into_vessels(keep):
    shapes = [(4, 4), (3, 3, 2, 8), (40, 30), (30, 10)]
    masks = full(shapes)
    rooms = [mask.size for mask in masks.values()]
    exact = oracles.filled([sum(shape) for shape in shapes], rooms, keep)
    counts = allocation.erk({}, masks, keep)
    assert np.abs(np.array(list(counts.values())) - exact).max() < 1


def test_uniform_gives_every_kernel_the_same_sparsity():
    masks = full([(10, 10), (20, 20), (30, 30)])
    assert list(allocation.uniform({}, masks, 350).values()) == [25, 100, 225]


def test_global_ranks_all_kernels_together():
    scores = {"a": np.array([1.0, 5.0, 3.0]), "b": np.array([4.0, 2.0])}
    masks = {path: np.ones(s.shape, bool) for path, s in scores.items()}
    assert allocation.global_(scores, masks, 3) == {"a": 2, "b": 1}


@pytest.mark.parametrize("name", ["global", "uniform", "erk"])
def test_asking_for_more_than_is_alive_raises(name):
    with pytest.raises(ValueError, match="11"):
        allocation.get(name)({"a": np.arange(10)}, {"a": np.ones(10, bool)}, 11)


def test_an_unknown_allocation_raises_and_lists_the_known_ones():
    with pytest.raises(ValueError, match="'layerwise'.*'erk'"):
        allocation.get("layerwise")


def test_a_function_of_the_users_own_is_taken_as_it_is():
    assert allocation.get(max) is max


def test_the_guard_keeps_one_weight_and_the_total_and_names_the_kernel():
    with pytest.warns(UserWarning, match="'k1'"):
        counts = allocation.guard({"k0": 5, "k1": 0, "k2": 2}, full([(9,), (9,), (9,)]))
    assert counts == {"k0": 4, "k1": 1, "k2": 2}


def test_the_guard_leaves_sound_counts_and_dead_kernels_alone():
    masks = full([(4,), (4,)])
    masks["k1"][:] = False
    assert allocation.guard({"k0": 3, "k1": 0}, masks) == {"k0": 3, "k1": 0}


def test_no_rate_below_one_empties_a_guarded_kernel():
    masks = full([(20, 20), (3, 2), (5,)])
    keep = allocation.after_rate(masks, 0.995)
    counts = allocation.global_(randomly(masks), masks, keep)
    with pytest.warns(UserWarning, match="disconnects"):
        guarded = allocation.guard({**counts, "k2": 0}, masks)
    assert min(guarded.values()) >= 1
