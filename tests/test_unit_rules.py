"""Every rule against brute force: zeros in a large model, and slices by hand."""

import re

import keras
import numpy as np
import pytest
import rule_rows
import shrinking
import tiny
from keras import layers as kl

import tf_tickets as tt
from tf_tickets import wrapping
from tf_tickets.compaction.shrinking import shrunk

BACKEND = keras.config.backend()
# JAX compiles each of these models, so it has fewer of them by default.
if BACKEND == "jax":
    first = tiny.marked(rule_rows.FIRST_ROWS, rule_rows.FIRST_ROWS[2:3])
    ROWS = tiny.in_turns(rule_rows.ROWS, 10) + first
else:
    ROWS = tiny.in_turns(rule_rows.ROWS)


def filled(build):
    """Returns a model with random weights, and inputs for it."""
    keras.utils.set_random_seed(1)
    model = build()
    rng = np.random.default_rng(2)
    shrinking.fill(model, rng)
    shapes = [(3, *tensor.shape[1:]) for tensor in model.inputs]
    whole = "int" in model.inputs[0].dtype
    x = [rng.integers(0, 9, s) if whole else rng.normal(size=s) for s in shapes]
    return model, x[0] if len(x) == 1 else x


def values(model):
    paths = wrapping.plain_paths(model)
    return {
        path: wrapping.to_numpy(variable)
        for path, variable in paths.items()
        if "seed_generator" not in path
    }


def assert_removed(model, x, units, keep):
    """Compares a small model with the large one, in which units are zero."""
    before = values(model)
    masks = units.masks(keep)
    small = shrunk(model, units, keep)
    after = values(small)
    assert after.keys() == before.keys()
    for path, value in before.items():
        if path in masks:
            # What is left is what no mask covers, in the same order.
            np.testing.assert_array_equal(after[path].ravel(), value[masks[path]])
        elif after[path].shape == value.shape:
            np.testing.assert_array_equal(after[path], value)
    for path, mask in masks.items():
        variable = wrapping.plain_paths(model)[path]
        variable.assign(np.where(mask, before[path], 0))
    expected = shrinking.predictions(model, x)
    for path, variable in wrapping.plain_paths(model).items():
        if path in before:
            variable.assign(before[path])
    error = shrinking.distance(expected, shrinking.predictions(small, x))
    assert error < 1e-5, error


@pytest.mark.parametrize("build", ROWS)
def test_units_of_all_groups_can_be_removed(build):
    model, x = filled(build)
    units = tt.find_units(model)
    keep = np.ones(units.size, bool)
    for place, numbers in enumerate(units.groups.values()):
        keep[numbers[place % numbers.size]] = False
    assert units.size > 0
    assert_removed(model, x, units, keep)


@pytest.mark.matrix
@pytest.mark.parametrize("build", ROWS)
def test_each_unit_can_be_removed(build):
    model, x = filled(build)
    dense = shrinking.predictions(model, x)
    units = tt.find_units(model)
    for number in range(units.size):
        keep = np.arange(units.size) != number
        assert_removed(model, x, units, keep)
        shrinking.mask_units(model, units, keep)
        assert shrinking.distance(dense, shrinking.predictions(model, x)) > 1e-6
        model, x = filled(build)
        units = tt.find_units(model)


@pytest.mark.matrix
@pytest.mark.parametrize("build", ROWS)
def test_random_units_can_be_removed_and_the_rest_is_saved(build, tmp_path):
    model, x = filled(build)
    for seed in range(3):
        small, measured = shrinking.compare(model, seed, fraction=0.5, x=x)
        assert measured["error"] < 1e-5
        small.save(tmp_path / "small.keras")
        again = keras.models.load_model(tmp_path / "small.keras")
        expected = shrinking.predictions(small, x)
        assert shrinking.distance(expected, shrinking.predictions(again, x)) == 0
        model, x = filled(build)


def without(value, index, axis):
    return np.delete(value, index, axis)


def check_by_hand(large, small, weights, path, number):
    """Removes one unit of a group and compares with weights that were cut by hand."""
    rng = np.random.default_rng(0)
    shrinking.fill(large, rng)
    units = tt.find_units(large)
    (name,) = [group for group in units.groups if group.endswith(path)]
    keep = np.arange(units.size) != units.groups[name][number]
    result = shrunk(large, units, keep)
    small.set_weights(weights([wrapping.to_numpy(v) for v in large.weights]))
    for one, other in zip(small.weights, result.weights, strict=True):
        np.testing.assert_array_equal(wrapping.to_numpy(one), wrapping.to_numpy(other))
    x = shrinking.examples(large, rng, count=3)
    pair = shrinking.predictions(small, x), shrinking.predictions(result, x)
    assert shrinking.distance(*pair) < 1e-6


def test_a_dense_unit_by_hand():
    def build(width):
        norm = kl.BatchNormalization()
        return rule_rows.chain((3,), kl.Dense(width, name="a"), norm, kl.Dense(2))

    def weights(old):
        kernel, bias, gamma, beta, mean, variance, last, end = old
        vectors = [without(v, 1, 0) for v in (bias, gamma, beta, mean, variance)]
        return [without(kernel, 1, 1), *vectors, without(last, 1, 0), end]

    check_by_hand(build(4), build(3), weights, "a/kernel", 1)


def test_a_filter_by_hand():
    def build(width):
        layers = kl.Conv2D(width, 3, name="a"), kl.DepthwiseConv2D(2), kl.Flatten()
        return rule_rows.chain((5, 5, 2), *layers, kl.Dense(2))

    def weights(old):
        kernel, bias, depthwise, more, last, end = old
        # Four pixels of four channels.
        rows = [2, 6, 10, 14]
        return [
            *(without(kernel, 2, 3), without(bias, 2, 0)),
            *(without(depthwise, 2, 2), without(more, 2, 0)),
            *(without(last, rows, 0), end),
        ]

    check_by_hand(build(4), build(3), weights, "a/kernel", 2)


def test_a_unit_of_an_lstm_by_hand():
    def build(width):
        return rule_rows.chain((4, 3), kl.LSTM(width), kl.Dense(2))

    def weights(old):
        kernel, recurrent, bias, last, end = old
        gates = [1, 6, 11, 16]
        recurrent = without(without(recurrent, gates, 1), 1, 0)
        cut = [without(kernel, gates, 1), recurrent, without(bias, gates, 0)]
        return [*cut, without(last, 1, 0), end]

    check_by_hand(build(5), build(4), weights, "lstm_cell/kernel", 1)


def test_a_unit_of_a_gru_by_hand():
    def build(width):
        return rule_rows.chain((4, 3), kl.GRU(width), kl.Dense(2))

    def weights(old):
        kernel, recurrent, bias, last, end = old
        gates = [3, 7, 11]
        recurrent = without(without(recurrent, gates, 1), 3, 0)
        cut = [without(kernel, gates, 1), recurrent, without(bias, gates, 1)]
        return [*cut, without(last, 3, 0), end]

    check_by_hand(build(4), build(3), weights, "gru_cell/kernel", 3)


def test_a_head_by_hand():
    def build(heads):
        layer = kl.MultiHeadAttention(heads, 2, name="m")
        return rule_rows.graph(lambda x: kl.Dense(2)(layer(x, x)), (4, 3))

    def weights(old):
        projections = [without(value, 1, len(value.shape) - 2) for value in old[:6]]
        return [*projections, without(old[6], 1, 0), *old[7:]]

    check_by_hand(build(3), build(2), weights, "value/kernel", 1)


def test_query_heads_go_with_their_key_head_by_hand():
    def build(heads, groups):
        layer = kl.GroupQueryAttention(2, heads, groups, name="m")
        return rule_rows.graph(lambda x: kl.Dense(2)(layer(x, x)), (4, 3))

    def weights(old):
        query, key, value = old[:2], old[2:4], old[4:6]
        cut = [without(v, [2, 3], len(v.shape) - 2) for v in query]
        cut += [without(v, 1, len(v.shape) - 2) for v in (*key, *value)]
        return [*cut, without(old[6], [2, 3], 0), *old[7:]]

    check_by_hand(build(6, 3), build(4, 2), weights, "value/kernel", 1)


def test_an_embedding_column_by_hand():
    def build(width):
        layers = kl.Embedding(5, width, name="a"), kl.Conv1D(2, 2)
        return rule_rows.chain((4,), *layers, dtype="int32")

    def weights(old):
        table, kernel, bias = old
        return [without(table, 2, 1), without(kernel, 2, 1), bias]

    check_by_hand(build(4), build(3), weights, "a/embeddings", 2)


class Cell(kl.SimpleRNNCell):
    def call(self, sequence, states, training=False):
        return super().call(sequence, states, training)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (lambda: kl.RNN(Cell(4)), r"its cell 'c\w+' \(Cell\) has no rule"),
        (lambda: kl.LSTM(4, activation="softmax"), "activates all channels together"),
        (lambda: kl.TimeDistributed(kl.LayerNormalization()), "all channels together"),
        (lambda: kl.TimeDistributed(kl.Softmax()), "all channels together"),
    ],
)
def test_what_stays_in_sequences_has_a_reason(layer, reason):
    model = rule_rows.chain((4, 3), kl.Dense(5, name="a"), layer(), kl.Dense(2))
    units = tt.find_units(model)
    texts = {pinned.path: pinned.reason for pinned in units.pinned}
    wanted = [text for text in texts.values() if "output of the model" not in text]
    assert any(re.search(reason, text) for text in wanted), texts


def test_a_state_that_is_an_input_keeps_the_units():
    model = rule_rows.graph(
        lambda x, h: kl.Dense(2)(kl.GRU(4, name="g")(x, initial_state=h)), (5, 3), (4,)
    )
    units = tt.find_units(model)
    assert units.size == 0
    (reason,) = {p.reason for p in units.pinned if "gru_cell/kernel" in p.path}
    assert "starts from a state" in reason and "an input of the model" in reason


def test_units_along_time_stay():
    model = rule_rows.graph(
        lambda x: kl.Dense(2)(kl.LSTM(3)(kl.Permute((2, 1))(kl.Dense(4)(x)))), (5, 3)
    )
    units = tt.find_units(model)
    assert list(map(len, units.groups.values())) == [3]
    assert any("reads another axis" in pinned.reason for pinned in units.pinned)
