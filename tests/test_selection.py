import functools
import itertools

import hypothesis
import keras
import numpy as np
import oracles
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tf_tickets import ranking
from tf_tickets.pruning import selection

pytestmark = pytest.mark.turns


@pytest.mark.parametrize(
    ("scores", "count", "kept"),
    [
        ([3, 1, 2], 0, [0, 0, 0]),
        ([3, 1, 2], 1, [1, 0, 0]),
        ([3, 1, 2], 2, [1, 0, 1]),
        ([3, 1, 2], 3, [1, 1, 1]),
        ([2, 2, 2, 2], 2, [1, 1, 0, 0]),
        ([0, 5, 5, 5, 9], 2, [0, 1, 0, 0, 1]),
        ([-1.0, 0.0, -0.0, -2.0], 2, [0, 1, 1, 0]),
        ([-np.inf, np.inf, 0.0], 2, [0, 1, 1]),
    ],
)
def test_the_largest_are_kept_and_ties_go_to_the_lower_index(scores, count, kept):
    assert ranking.keep_largest(scores, count).tolist() == [bool(k) for k in kept]


@pytest.mark.parametrize("size", range(1, 6))
def test_every_small_case_equals_trying_all_subsets(size):
    for scores in itertools.product((0, 1, 2), repeat=size):
        for count in range(size + 1):
            expected = oracles.best_subset(scores, count)
            assert ranking.keep_largest(scores, count).tolist() == expected


def test_every_small_case_within_a_mask_equals_trying_all_subsets():
    for alive in itertools.product((False, True), repeat=4):
        for scores in itertools.product((0, 1), repeat=4):
            for count in range(sum(alive) + 1):
                expected = oracles.best_subset(scores, count, alive)
                actual = ranking.keep_largest(scores, count, within=alive)
                assert actual.tolist() == expected


@pytest.mark.parametrize("ties", [False, True])
def test_pruning_a_fifth_of_a_thousand_prunes_two_hundred(ties):
    scores = np.random.default_rng(0).normal(size=(50, 20)) * (not ties)
    assert (~ranking.keep_largest(scores, 800)).sum() == 200


def test_masks_of_later_rounds_are_nested():
    rng = np.random.default_rng(0)
    mask = np.ones((30, 20), bool)
    for count in (480, 384, 307, 1, 0):
        new = ranking.keep_largest(rng.normal(size=mask.shape), count, within=mask)
        assert new.sum() == count
        assert not (new & ~mask).any()
        mask = new


def test_permuted_scores_give_the_permuted_mask():
    rng = np.random.default_rng(0)
    scores, order = rng.permutation(100), rng.permutation(100)
    expected = ranking.keep_largest(scores, 37)[order]
    np.testing.assert_array_equal(ranking.keep_largest(scores[order], 37), expected)


def test_scaling_scores_changes_nothing():
    scores = np.random.default_rng(0).random(100)
    mask = ranking.keep_largest(scores, 30)
    assert (ranking.keep_largest(scores * 3e-7, 30) == mask).all()


@pytest.mark.parametrize(
    "view",
    [
        np.asfortranarray,
        lambda a: np.repeat(a, 2, axis=1)[:, ::2],
        lambda a: a[::-1].copy()[::-1],
    ],
)
def test_the_layout_in_memory_does_not_matter(view):
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 5, (8, 6)).astype("float32")
    alive = rng.random((8, 6)) < 0.8
    expected = ranking.keep_largest(scores, 20, within=alive)
    actual = ranking.keep_largest(view(scores), 20, within=view(alive))
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("dtype", ["float16", "float64", "int32", "bool"])
def test_scores_of_any_dtype_are_ranked(dtype):
    scores = np.array([0, 1, 0, 1], dtype)
    assert ranking.keep_largest(scores, 2).tolist() == [False, True, False, True]


def test_nan_among_the_candidates_raises():
    with pytest.raises(ValueError, match="NaN"):
        ranking.keep_largest([1.0, np.nan], 1)


def test_nan_in_what_is_pruned_already_does_not_matter():
    mask = ranking.keep_largest([1.0, np.nan, 2.0], 1, within=[True, False, True])
    assert mask.tolist() == [False, False, True]


@pytest.mark.parametrize("count", [-1, 3])
def test_a_count_beyond_the_candidates_raises_and_is_named(count):
    with pytest.raises(ValueError, match=f"count={count}"):
        ranking.keep_largest([1.0, 2.0, 3.0], count, within=[True, True, False])


def test_a_mask_of_another_size_raises():
    with pytest.raises(ValueError, match="2 for 3 scores"):
        ranking.keep_largest([1.0, 2.0, 3.0], 1, within=[True, True])


def test_the_input_arrays_are_left_alone():
    scores, alive = np.array([3.0, 1.0, 2.0]), np.array([True, True, False])
    ranking.keep_largest(scores, 1, within=alive)
    assert scores.tolist() == [3.0, 1.0, 2.0]
    assert alive.tolist() == [True, True, False]


def test_every_kernel_is_pruned_to_its_own_count():
    rng = np.random.default_rng(0)
    masks = {"a": np.ones((4, 5), bool), "b": rng.random((3, 3)) < 0.9}
    scores = {path: rng.random(mask.shape) for path, mask in masks.items()}
    new = selection.select(scores, masks, {"a": 7, "b": 2})
    assert {path: int(mask.sum()) for path, mask in new.items()} == {"a": 7, "b": 2}
    assert all(not (new[path] & ~masks[path]).any() for path in masks)


# The selection inside a compiled step.


@functools.cache
def compiled():
    if keras.config.backend() == "jax":
        import jax

        return jax.jit(ranking.largest)
    import tensorflow as tf

    return tf.function(ranking.largest)


def kept_in_a_step(scores, count, function=None):
    convert = keras.ops.convert_to_tensor
    result = (function or compiled())(
        convert(scores, "float32"), convert(count, "int32")
    )
    result = keras.ops.convert_to_numpy(result)
    assert set(np.unique(result)) <= {0.0, 1.0}
    return result.astype(bool)


SPECIAL = [0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, 1e-40, np.inf, -np.inf, 1e30, -1e30]
VALUES = st.one_of(st.sampled_from(SPECIAL), st.floats(width=32, allow_nan=False))


@pytest.mark.both
@hypothesis.settings(max_examples=60, deadline=None, derandomize=True, database=None)
@hypothesis.given(data=st.data(), size=st.sampled_from([40, 700]))
def test_a_step_keeps_what_numpy_keeps_of_any_values(data, size):
    elements = st.sampled_from(SPECIAL) if data.draw(st.booleans()) else VALUES
    scores = data.draw(arrays.arrays(np.float32, size, elements=elements, fill=VALUES))
    count = data.draw(st.integers(0, size))
    expected = ranking.keep_largest(scores, count)
    assert (kept_in_a_step(scores, count) == expected).all()


def _normal(rng, size):
    return rng.normal(size=size)


DISTRIBUTIONS = {
    "normal": _normal,
    "uniform": lambda rng, size: rng.uniform(-1, 1, size),
    "wide": lambda rng, size: np.exp(20 * rng.normal(size=size)),
    "few values": lambda rng, size: rng.integers(-3, 4, size),
    "constant": lambda rng, size: np.full(size, -2.5),
    "decided": lambda rng, size: np.where(rng.random(size) < 0.5, 1e30, -1e30),
    "denormal": lambda rng, size: rng.normal(size=size) * 1e-41,
    "half zero": lambda rng, size: rng.normal(size=size) * (rng.random(size) < 0.5),
    "sorted": lambda rng, size: np.sort(rng.normal(size=size)),
    "infinite": lambda rng, size: np.where(rng.random(size) < 0.3, np.inf, -np.inf),
}


@pytest.mark.both
@pytest.mark.parametrize("kind", DISTRIBUTIONS)
def test_a_step_keeps_what_numpy_keeps_of_many_values(kind):
    size = 5000
    scores = DISTRIBUTIONS[kind](np.random.default_rng(0), size).astype("float32")
    for count in (0, 1, 50, 1251, 2500, 4999, size):
        expected = ranking.keep_largest(scores, count)
        assert (kept_in_a_step(scores, count) == expected).all()


def _check_of_any_precision(size):
    scores = np.random.default_rng(0).integers(-9, 9, size).astype("float32")
    function = compiled.__wrapped__()
    for count in (0, 1, size // 2, size):
        expected = ranking.keep_largest(scores, count)
        assert (kept_in_a_step(scores, count, function) == expected).all()


# What was traced before is used again for equal shapes, so each has its own size.
@pytest.mark.both
@pytest.mark.parametrize(
    ("floatx", "size"), [("float16", 321), ("bfloat16", 322), ("float64", 323)]
)
def test_a_step_keeps_what_numpy_keeps_in_any_precision(floatx, size):
    usual = keras.config.floatx()
    keras.config.set_floatx(floatx)
    try:
        _check_of_any_precision(size)
    finally:
        keras.config.set_floatx(usual)


@pytest.mark.on("jax")
def test_a_step_keeps_what_numpy_keeps_where_jax_has_64_bits():
    import jax

    with jax.enable_x64(True):
        _check_of_any_precision(324)
