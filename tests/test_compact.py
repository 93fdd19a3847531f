"""Compares compact models with networks made smaller by hand."""

import json
import re

import keras
import numpy as np
import pytest
from keras import layers as kl

import tf_tickets as tt
from tf_tickets import wrapping
from tf_tickets.compaction import dead_units, examples
from tf_tickets.compaction.comparison import Comparison
from tf_tickets.compaction.compiling import Caller
from tf_tickets.compaction.constants import Constants
from tf_tickets.compaction.finding import find_units
from tf_tickets.reports.costs import CostCounter
from tf_tickets.units import registry
from tf_tickets.units.flows import Ties
from tf_tickets.units.units import STAYS, Units
from tf_tickets_cli import main

pytestmark = pytest.mark.turns("tensorflow")
SAME = "padding 'same' makes it smaller at the borders"


def sequential(shape, *layers):
    return keras.Sequential([keras.Input(shape), *layers], name="net")


def filled(model, *values):
    """Returns the model with these values of its weights, in order."""
    model.set_weights([np.array(value, "float32") for value in values])
    return model


def randomized(model, seed=0):
    """Returns the model with random weights, also where they start at 0 or 1."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        values = rng.normal(size=variable.shape) * 0.4
        if "var" in variable.name:
            values = np.abs(values) + 0.5
        if "gamma" in variable.name:
            values += 1.0
        variable.assign(values)
    return model


def pruned(model, sparsity, seed=0):
    """Returns the wrapped model with random masks."""
    rng = np.random.default_rng(seed)
    model = tt.wrap(model, verbose=False, depthwise=True)
    kernels = tt.kernels(model)
    kernels.set_masks(
        {path: rng.random(w.shape) >= sparsity for path, w in kernels.weights.items()}
    )
    return model


def zeroed(model, zeros):
    """Returns the model with zeros in slices of its weights."""
    table = wrapping.plain_paths(model)
    for path, place in zeros.items():
        value = wrapping.to_numpy(table[path])
        value[place] = 0.0
        table[path].assign(value)
    return model


def values(model):
    return [np.array(value).tolist() for value in model.get_weights()]


def widths(report):
    return {row.path: (row.before, row.after) for row in report.rows}


def outputs(model, x):
    return keras.ops.convert_to_numpy(model(x, training=False))


def mlp(**kwargs):
    return sequential(
        (2,),
        kl.Dense(3, activation="relu", name="a"),
        kl.Dense(2, name="b", **kwargs),
        kl.Dense(1, name="c"),
    )


def with_dead_neurons():
    """An MLP with neurons without a way in or out, in both hidden layers."""
    return filled(
        mlp(),
        [[1, 0, 2], [3, 0, 4]],
        [1, 5, 6],
        [[1, 0], [2, 3], [0, 0]],
        [7, 8],
        [[10], [100]],
        [9],
    )


# Units without a way in or out.


@pytest.mark.both
def test_constants_go_to_the_bias_of_the_next_layer():
    # The second neuron of `a` has no way in and the value relu(5) = 5, the third one
    # no way out. The second neuron of `b` reads the second of `a` only.
    model = with_dead_neurons()
    small, report = tt.compact(model, return_report=True)
    assert values(small) == [
        [[1], [3]],
        [1],
        [[1]],
        [7 + 5 * 2],
        [[10]],
        [9 + 100 * (8 + 5 * 3)],
    ]
    assert widths(report) == {
        "net/a/kernel": (3, 1),
        "net/b/kernel": (2, 1),
        "net/c/kernel": (1, 1),
    }
    assert report.removed == 3 and report.units == 5 and report.folded == 2
    assert report.difference < 1e-6 and report.kept == []


def test_a_layer_without_bias_gets_one():
    weights = [[[1, 0, 2], [3, 0, 4]], [1, 5, 6]]
    rest = [[[1, 0], [2, 3], [1, 1]], [[10], [100]], [9]]
    model = filled(mlp(use_bias=False), *weights, *rest)
    small, report = tt.compact(model, return_report=True)
    assert values(small)[2:4] == [[[1, 0], [1, 1]], [10, 15]]
    assert small.get_layer("b").use_bias and not model.get_layer("b").use_bias
    assert report.folded == 1


def test_a_frozen_kernel_stays_frozen_beside_a_new_bias():
    model = filled(
        mlp(use_bias=False),
        np.ones((2, 3)) * [1, 0, 1],
        [1, 5, 6],
        [[1, 0], [2, 3], [1, 1]],
        [[10], [100]],
        [9],
    )
    model.get_layer("b").kernel.trainable = False
    small = tt.compact(model)
    weights = small.get_layer("b").weights
    assert [(v.name, v.trainable) for v in weights] == [
        ("kernel", False),
        ("bias", True),
    ]


def test_a_negative_constant_before_relu_is_zero_and_changes_no_bias():
    model = filled(
        mlp(),
        [[1, 0, 2], [3, 0, 4]],
        [1, -5, 6],
        [[1, 2], [2, 3], [3, 4]],
        [7, 8],
        [[10], [100]],
        [9],
    )
    small, report = tt.compact(model, return_report=True)
    assert values(small)[2:4] == [[[1, 2], [3, 4]], [7, 8]]
    assert report.folded == 0


def test_neurons_that_are_zero_on_all_data_but_read_their_inputs_stay():
    model = filled(
        mlp(),
        [[1, 1e-6, 2], [3, 0, 4]],
        [1, -1000, 6],
        [[1, 2], [2, 3], [3, 4]],
        [7, 8],
        [[10], [100]],
        [9],
    )
    with pytest.warns(UserWarning, match="each unit has weights that reach"):
        small = tt.compact(model)
    assert values(small) == values(model)


def test_neurons_that_only_larger_inputs_change_stay():
    model = filled(
        sequential((2,), kl.Dense(3, "relu", name="a"), kl.Dense(1, name="b")),
        [[0.0, 1e-4, 1.0], [0.0, 1e-4, 2.0]],
        [0.5, -1.0, 0.1],
        [[1.0], [2.0], [3.0]],
        [0.0],
    )
    small, report = tt.compact(model, return_report=True)
    assert widths(report)["net/a/kernel"] == (3, 2)
    large = np.full((1, 2), 1e5, "float32")
    np.testing.assert_allclose(outputs(small, large), outputs(model, large), rtol=1e-6)


def test_a_factor_of_zero_closes_one_branch_only():
    x = keras.Input((2,))
    one = kl.BatchNormalization(name="n")(kl.Dense(3, name="a")(x))
    y = kl.ReLU()(kl.Add()([one, kl.Dense(3, "relu", name="b")(x)]))
    model = randomized(keras.Model(x, kl.Dense(1, name="c")(y), name="net"))
    model = zeroed(model, {"n/gamma": 0, "b/kernel": np.s_[:, 0]})
    table = wrapping.plain_paths(model)
    table["n/beta"].assign([0.5, 0.2, 0.1])
    assert tt.compact(model, return_report=True)[1].removed == 1
    table["b/kernel"].assign(table["b/kernel"] + np.array([1e-4, 0.0, 0.0], "float32"))
    table["b/bias"].assign([-1.0, 0.2, 0.1])
    assert tt.compact(model, return_report=True)[1].removed == 0


class WithoutBias(kl.Dense):
    """A subclass that cannot get a bias."""

    def __init__(self, units, use_bias=False, **kwargs):
        super().__init__(units, use_bias=False, **kwargs)


def test_subclasses_without_a_bias_get_none():
    layers = [kl.Dense(3, "sigmoid", name="a"), WithoutBias(2, name="b")]
    model = randomized(sequential((2,), *layers, kl.Activation("tanh")))
    model = zeroed(model, {"net/a/kernel": np.s_[:, 0]})
    _, report = tt.compact(model, return_report=True)
    assert "a WithoutBias has no bias for it" in report.kept[0].reason


def test_layers_that_always_train_are_compared_as_they_predict():
    x = keras.Input((3,))
    y = kl.BatchNormalization(name="n")(kl.Dense(4, name="a")(x), training=True)
    model = randomized(keras.Model(x, kl.Dense(2, name="b")(y), name="net"))
    model.get_layer("a").kernel.assign(model.get_layer("a").kernel * [1, 1, 1, 0])
    before = values(model)
    small, report = tt.compact(model, return_report=True)
    assert report.removed == 1
    assert values(model) == before
    assert values(small)[4] == before[4][:3]


def deep():
    hidden = [kl.Dense(3, activation="relu", name=name) for name in "abc"]
    return randomized(sequential((4,), *hidden, kl.Dense(2, name="d")))


def test_removal_continues_until_nothing_is_left_to_remove():
    # Only the first neuron of `c` is read, which reads only the first one of `b`, and
    # so on.
    zeros = {f"net/{name}/kernel": np.s_[1:, 0] for name in "bc"}
    zeros["net/d/kernel"] = np.s_[1:]
    small, report = tt.compact(zeroed(deep(), zeros), return_report=True)
    assert [layer.units for layer in small.layers] == [1, 1, 1, 2]
    assert (report.removed, report.folded, report.kept) == (6, 0, [])


def test_the_last_neuron_of_a_layer_stays():
    model = deep()
    model.get_layer("b").bias.assign([1.0, 2.0, 3.0])
    model = tt.wrap(model, verbose=False)
    tt.kernels(model).set_masks({"net/b/kernel": np.zeros((3, 3))})
    small, report = tt.compact(model, return_report=True)
    assert [layer.units for layer in small.layers] == [1, 1, 1, 2]
    assert report.difference < 1e-6
    assert [(row.group, row.count, row.reason) for row in report.kept] == [
        (f"net/{name}/kernel", 1, "the last one of its layer") for name in "abc"
    ]


def test_constants_pass_through_batch_normalization():
    model = sequential(
        (2,),
        kl.Dense(2, name="a"),
        kl.BatchNormalization(epsilon=0.0, name="n"),
        kl.ReLU(),
        kl.Dense(1, name="b"),
    )
    filled(
        model,
        *([[1, 0], [1, 0]], [0, 3]),
        *([1, 2], [0, 4], [0, 1], [1, 4]),
        *([[1], [10]], [5]),
    )
    small = tt.compact(model)
    # gamma (3 - mean) / 2 + beta = 2 * (3 - 1) / 2 + 4 = 6
    assert values(small)[-2:] == [[[1]], [5 + 6 * 10]]
    assert small.get_layer("n").gamma.shape == (1,)


def zero_initialized():
    """Builds a network whose scale and output start at zero, to be trained."""
    model = sequential(
        (4,),
        kl.Dense(5, name="a"),
        kl.BatchNormalization(gamma_initializer="zeros", name="n"),
        kl.ReLU(),
        kl.Dense(3, activation="relu", name="b"),
        kl.Dense(2, kernel_initializer="zeros", name="c"),
    )
    model.get_layer("n").beta.assign([1.0, 2.0, 3.0, 4.0, 5.0])
    return model


@pytest.mark.parametrize("wrap", [False, True])
def test_weights_that_start_at_zero_are_not_pruned(wrap):
    model = zero_initialized()
    if wrap:
        model = tt.wrap(model, verbose=False)
        masks = tt.kernels(model).masks
        masks["net/a/kernel"][:, 1] = False
        masks["net/c/kernel"][2] = False
        tt.kernels(model).set_masks(masks)
    else:
        zeroed(model, {"net/a/kernel": np.s_[:, 1], "net/n/gamma": np.s_[:]})
    before = [np.array(value) for value in model.get_weights()]
    small, report = tt.compact(model, return_report=True)
    assert widths(report) == {
        "net/a/kernel": (5, 4),
        "net/b/kernel": (3, 2 if wrap else 3),
        "net/c/kernel": (2, 2),
    }
    assert not np.any(small.get_layer("n").gamma)
    # Replaced for the analysis, and put back.
    for value, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, old)


def test_a_constant_is_multiplied_by_the_scale_of_the_kernel_that_reads_it():
    model = randomized(two_layers())
    masks = {"net/a/kernel": np.ones((4, 5)), "net/b/kernel": np.ones((5, 2))}
    masks["net/a/kernel"][:, 0] = 0
    model.get_layer("a").bias.assign([3.0, 0.0, 0.0, 0.0, 0.0])
    ticket = ticket_of(model, masks, scales={"net/b/kernel": 2.0})
    for small in (ticket.compact(two_layers), tt.compact(ticket.apply(two_layers()))):
        start = ticket.start_weights()
        expected = start["net/b/bias"] + 3.0 * 2.0 * start["net/b/kernel"][0]
        np.testing.assert_allclose(small.layers[-1].bias, expected, rtol=1e-6)


# Convolutions.


def two_convolutions(padding, size=3, bias=True):
    return sequential(
        (6, 6, 2),
        kl.Conv2D(3, 3, padding=padding, activation="relu", name="a"),
        kl.Conv2D(2, size, padding=padding, use_bias=bias, name="b"),
        kl.BatchNormalization(name="n"),
        kl.ReLU(),
        kl.GlobalAveragePooling2D(),
        kl.Dense(2, name="c"),
    )


def with_a_constant_filter(padding, size=3, bias=True):
    model = zeroed(
        randomized(two_convolutions(padding, size, bias)),
        {"net/a/kernel": np.s_[..., 1]},
    )
    model.get_layer("a").bias.assign([0.1, 2.0, 0.1])
    return model


@pytest.mark.parametrize("padding, size", [("valid", 3), ("valid", 1), ("same", 1)])
def test_a_constant_filter_is_folded_where_there_are_no_borders(padding, size):
    model = with_a_constant_filter(padding, size)
    small, report = tt.compact(model, return_report=True)
    old, new = model.get_layer("b"), small.get_layer("b")
    kernel = wrapping.to_numpy(old.kernel)
    expected = wrapping.to_numpy(old.bias) + 2.0 * kernel[:, :, 1].sum(axis=(0, 1))
    np.testing.assert_allclose(new.bias, expected, rtol=1e-6)
    assert new.kernel.shape == (size, size, 2, 2) and report.folded == 1


def test_a_constant_filter_stays_if_padding_makes_it_smaller_at_the_borders():
    small, report = tt.compact(with_a_constant_filter("same"), return_report=True)
    assert report.removed == 0 and small.get_layer("a").filters == 3
    (row,) = report.kept
    assert (row.group, row.count) == ("net/a/kernel", 1)
    assert row.reason == f"net/b/kernel reads a constant: {SAME}"
    assert "1 unit of net/a/kernel: net/b/kernel reads a constant" in str(report)


def test_a_filter_of_zeros_goes_whatever_the_padding():
    model = with_a_constant_filter("same")
    model.get_layer("a").bias.assign([0.1, 0.0, 0.1])
    small, report = tt.compact(model, return_report=True)
    assert small.get_layer("a").filters == 2 and report.folded == 0


def test_a_constant_goes_to_the_moving_mean_if_there_is_no_bias():
    model = with_a_constant_filter("valid", bias=False)
    small, report = tt.compact(model, return_report=True)
    assert not small.get_layer("b").use_bias and report.folded == 1
    change = 2.0 * wrapping.to_numpy(model.get_layer("b").kernel)[:, :, 1]
    moved = model.get_layer("n").moving_mean - change.sum(axis=(0, 1))
    np.testing.assert_allclose(small.get_layer("n").moving_mean, moved, rtol=1e-5)


def test_a_constant_goes_to_a_new_bias_if_the_normalization_is_read_elsewhere():
    inputs = keras.Input((5, 5, 2))
    x = kl.Conv2D(3, 1, activation="relu", name="a")(inputs)
    x = kl.Conv2D(4, 3, use_bias=False, name="b")(x)
    x = kl.Add()([kl.BatchNormalization(name="n")(x), x])
    model = keras.Model(inputs, kl.Dense(2)(kl.Flatten()(x)))
    randomized(model).get_layer("a").bias.assign([0.1, 2.0, 0.1])
    small = tt.compact(zeroed(model, {"a/kernel": np.s_[..., 1]}))
    assert small.get_layer("b").use_bias
    np.testing.assert_array_equal(
        small.get_layer("n").moving_mean, model.get_layer("n").moving_mean
    )


def test_each_position_of_a_flattened_channel_is_folded():
    model = randomized(
        sequential(
            (4, 4, 1),
            kl.Conv2D(2, 3, padding="same", name="a"),
            kl.Conv2D(3, 3, padding="same", name="b"),
            kl.Flatten(),
            kl.Dense(2, name="c"),
        )
    )
    # The third filter reads a constant at borders: another constant at each position.
    zeros = {"net/a/kernel": np.s_[..., 1], "net/b/kernel": np.s_[:, :, 0, 2]}
    zeroed(model, zeros)
    small, report = tt.compact(model, return_report=True)
    assert widths(report)["net/b/kernel"] == (3, 2)
    assert small.get_layer("c").kernel.shape == (32, 2)
    assert report.difference < 1e-5 and report.folded == 1


def test_a_depthwise_filter_of_zeros_takes_its_channel_along():
    model = randomized(
        sequential(
            (5, 5, 2),
            kl.Conv2D(4, 3, padding="same", name="a"),
            kl.DepthwiseConv2D(3, padding="same", name="d"),
            kl.Conv2D(3, 1, name="b"),
            kl.GlobalMaxPooling2D(),
            kl.Dense(2, name="c"),
        )
    )
    small, report = tt.compact(
        zeroed(model, {"net/d/kernel": np.s_[:, :, 2]}), return_report=True
    )
    assert small.get_layer("a").filters == 3
    assert small.get_layer("d").kernel.shape == (3, 3, 3, 1)
    assert report.folded == 1


def residual():
    inputs = keras.Input((6, 6, 2))
    x = kl.Conv2D(4, 3, padding="same", name="a")(inputs)
    y = kl.Conv2D(4, 3, padding="same", name="b")(x)
    x = kl.ReLU()(kl.Add()([x, y]))
    x = kl.GlobalAveragePooling2D()(x)
    return randomized(keras.Model(inputs, kl.Dense(2, name="c")(x), name="net"))


def test_a_residual_channel_goes_only_if_it_is_dead_in_both_branches():
    one = zeroed(residual(), {"a/kernel": np.s_[..., 1], "b/kernel": np.s_[..., 2]})
    with pytest.warns(UserWarning, match="Nothing was removed"):
        tt.compact(one)
    both = {"a/kernel": np.s_[..., 1], "a/bias": 1, "b/kernel": np.s_[..., 1]}
    model = zeroed(residual(), both)
    model.get_layer("b").bias.assign([1.0, 2.0, 3.0, 4.0])
    small, report = tt.compact(model, return_report=True)
    # The bias of `b` makes it a constant, which reaches the dense layer only after
    # pooling.
    assert widths(report)["a/kernel"] == widths(report)["b/kernel"] == (4, 3)
    assert small.get_layer("c").kernel.shape == (3, 2) and report.folded == 1


def test_a_shared_layer_folds_only_a_constant_that_all_calls_read():
    shared = kl.Dense(3, name="shared")
    inputs = keras.Input((2,))
    first = kl.Dense(2, name="a")(inputs)
    second = kl.ReLU()(first)
    model = keras.Model(
        inputs, kl.Dense(1)(kl.Add()([shared(first), shared(second)])), name="net"
    )
    zeroed(randomized(model), {"a/kernel": np.s_[:, 1]})
    model.get_layer("a").bias.assign([0.1, -2.0])
    _, report = tt.compact(model, return_report=True)
    assert report.removed == 0
    model.get_layer("a").bias.assign([0.1, 2.0])
    small, report = tt.compact(model, return_report=True)
    assert report.removed == 1 and report.folded == 1
    change = 2.0 * wrapping.to_numpy(shared.kernel)[1]
    np.testing.assert_allclose(
        small.get_layer("shared").bias, shared.bias + change, rtol=1e-6
    )


def test_layers_of_nested_models_are_folded_too():
    block = sequential((3,), kl.Dense(4, use_bias=False, name="b"))
    inputs = keras.Input((2,))
    x = kl.Dense(3, name="a")(inputs)
    model = keras.Model(inputs, kl.Dense(2, name="c")(block(x)), name="outer")
    zeroed(randomized(model), {"a/kernel": np.s_[:, 1]})
    small, report = tt.compact(model, return_report=True)
    assert report.removed == 1 and report.folded == 1
    assert small.get_layer("net").get_layer("b").use_bias


# Many random networks.


def network(padding="same", bias=True):
    inputs = keras.Input((8, 8, 2))
    x = kl.Conv2D(6, 3, padding=padding, use_bias=bias, name="a")(inputs)
    x = kl.ReLU()(kl.BatchNormalization(name="n")(x))
    y = kl.Conv2D(6, 3, padding="same", use_bias=bias, name="b")(x)
    x = kl.ReLU()(kl.Add()([x, kl.BatchNormalization(name="m")(y)]))
    x = kl.DepthwiseConv2D(3, padding=padding, name="d")(x)
    x = kl.Conv2D(4, 1, activation="tanh", use_bias=bias, name="e")(x)
    x = kl.Flatten()(kl.MaxPooling2D(2)(x))
    x = kl.Dense(5, activation="relu", use_bias=bias, name="f")(x)
    return randomized(keras.Model(inputs, kl.Dense(3, name="g")(x), name="net"))


ROWS = [(p, b, s) for p in ("valid", "same") for b in (True, False) for s in range(4)]


@pytest.mark.on("tensorflow")
@pytest.mark.parametrize(
    "padding, bias, seed",
    [
        row if row[2] == 0 else pytest.param(*row, marks=pytest.mark.matrix)
        for row in ROWS
    ],
)
def test_random_masks_shrink_exactly_and_completely(padding, bias, seed):
    model = pruned(network(padding, bias), 0.9, seed)
    small, report = tt.compact(model, return_report=True)
    assert report.removed > 0
    x = np.random.default_rng(9).normal(size=(20, 8, 8, 2)).astype("float32")
    expected = outputs(model, x)
    np.testing.assert_allclose(outputs(small, x), expected, atol=1e-5)
    assert report.compact.params == small.count_params() < model.count_params()
    # A second time there is nothing left to remove.
    assert tt.compact(small, return_report=True)[1].removed == 0


def by_hand(weights):
    """Removes dead neurons of relu networks in NumPy, one layer after another."""
    kernels, biases = [list(part) for part in (weights[::2], weights[1::2])]
    for i in range(len(kernels) - 1):
        constant = ~kernels[i].any(axis=0)
        value = np.where(constant, np.maximum(biases[i], 0), 0)
        biases[i + 1] = biases[i + 1] + value @ kernels[i + 1]
        kernels[i], biases[i] = kernels[i][:, ~constant], biases[i][~constant]
        kernels[i + 1] = kernels[i + 1][~constant]
    for i in reversed(range(len(kernels) - 1)):
        used = kernels[i + 1].any(axis=1)
        kernels[i], biases[i] = kernels[i][:, used], biases[i][used]
        kernels[i + 1] = kernels[i + 1][used]
    return [array for pair in zip(kernels, biases, strict=True) for array in pair]


def relu_network():
    layers = [kl.Dense(20, activation="relu") for _ in range(3)]
    return sequential((10,), *layers, kl.Dense(4))


def test_dense_networks_are_those_made_smaller_in_numpy():
    model = tt.strip(pruned(randomized(relu_network()), 0.9))
    expected = by_hand(model.get_weights())
    small = tt.compact(model)
    assert min(array.shape[-1] for array in expected) > 1
    for actual, array in zip(small.get_weights(), expected, strict=True):
        np.testing.assert_allclose(actual, array, rtol=1e-5, atol=1e-6)


def test_an_imp_ticket_of_digits_becomes_smaller_and_agrees():
    digits = tt.datasets.load("digits")
    model = sequential(
        (8, 8, 1),
        kl.Flatten(),
        kl.Dense(300, activation="relu", name="a"),
        kl.Dense(100, activation="relu", name="b"),
        kl.Dense(10, name="c"),
    )
    model = tt.wrap(model, verbose=False)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(2e-3), loss, jit_compile=False)
    search = tt.IMP(rounds=2, epochs_per_round=2, rate=0.86, monitor="loss")
    x, y = digits.x_train[:256], digits.y_train[:256]
    model.fit(x, y, epochs=search.epochs, callbacks=[search], verbose=0)
    assert search.tickets[-1].sparsity == pytest.approx(0.98, abs=0.001)
    small, report = tt.compact(model, return_report=True)
    np.testing.assert_allclose(outputs(small, x), outputs(model, x), atol=1e-5)
    assert report.compact.params < 0.9 * report.dense.params
    assert report.masked.params < report.compact.params
    assert report.removed > 20


# What the result is good for, and what it comes from.


@pytest.mark.both
def test_the_result_is_an_ordinary_model(tmp_path):
    model = pruned(randomized(relu_network()), 0.9)
    state = [np.array(value) for value in model.get_weights()]
    small = tt.compact(model)
    assert not small.compiled and not wrapping.prunables(small)
    small.save(tmp_path / "small.keras")
    again = keras.saving.load_model(tmp_path / "small.keras")
    x = np.random.default_rng(0).normal(size=(16, 10)).astype("float32")
    np.testing.assert_allclose(outputs(again, x), outputs(model, x), atol=1e-6)
    again.compile("sgd", "mse", jit_compile=False)
    before = again.evaluate(x, np.ones((16, 4)), verbose=0)
    again.fit(x, np.ones((16, 4)), epochs=2, verbose=0)
    assert again.evaluate(x, np.ones((16, 4)), verbose=0) < before
    # The given model shares no variables with the trained one.
    for value, old in zip(model.get_weights(), state, strict=True):
        np.testing.assert_array_equal(value, old)


@pytest.mark.matrix
@pytest.mark.usefixtures("forked_interpreters")
def test_the_result_is_exported(tmp_path):
    small = tt.compact(pruned(randomized(relu_network()), 0.9))
    report = tt.export(small, tmp_path / "small.tflite")
    assert report.errors and max(report.errors.values()) < 1e-5


def test_the_number_of_inputs_and_frozen_layers_stay():
    model = randomized(relu_network())
    model.layers[1].trainable = False
    small = tt.compact(
        zeroed(model, {"net/" + model.layers[0].name + "/kernel": 0}), True
    )
    assert small[0].input_shape == (None, 10)
    assert [layer.trainable for layer in small[0].layers] == [True, False, True, True]


@pytest.mark.parametrize("mask", ["soft", "topk"])
def test_learned_masks_count_as_hard_masks(mask):
    model = tt.wrap(randomized(relu_network()), mask=mask, verbose=False)
    rng = np.random.default_rng(0)
    for kernel in tt.kernels(model).values():
        kernel.mask_layer.assign(rng.random(kernel.variable.shape) < 0.1)
    x = rng.normal(size=(16, 10)).astype("float32")
    small, report = tt.compact(model, return_report=True)
    assert report.removed > 0
    np.testing.assert_allclose(
        outputs(small, x), outputs(tt.strip(model), x), atol=1e-5
    )


def test_integers_are_looked_up_in_all_rows_of_an_embedding():
    model = randomized(
        sequential(
            (7,),
            kl.Embedding(50, 4, name="e"),
            kl.GlobalAveragePooling1D(),
            kl.Dense(3, name="d"),
        )
    )
    # The same in the rows that random bits would look up, and everywhere.
    zeroed(model, {"net/e/embeddings": np.s_[:2, 1]})
    zeroed(model, {"net/e/embeddings": np.s_[:, 2]})
    inputs = examples.of_model(model)
    assert len(np.unique(inputs)) > 20 and inputs.max() < 50
    read = Constants(model, [inputs], Caller()).read_by(model.get_layer("d"))
    np.testing.assert_array_equal(read, [[np.nan, np.nan, 0.0, np.nan]])


def test_a_fixed_batch_size_is_kept():
    model = keras.Sequential(
        [
            keras.Input(batch_shape=(2, 3)),
            kl.Dense(4, activation="relu", name="a"),
            kl.Dense(2, name="b"),
        ]
    )
    zeroed(randomized(model), {f"{model.name}/a/kernel": np.s_[:, 1]})
    small, report = tt.compact(model, return_report=True)
    assert small.input_shape == (2, 3) and report.removed == 1


def test_models_in_half_precision_become_smaller():
    model = sequential(
        (4,),
        kl.Dense(5, activation="relu", name="a", dtype="mixed_bfloat16"),
        kl.Dense(2, name="b", dtype="mixed_bfloat16"),
    )
    zeroed(randomized(model), {"net/a/kernel": np.s_[:, 1]})
    small, report = tt.compact(model, return_report=True)
    assert small.get_layer("a").units == 4 and report.removed == 1


@pytest.mark.skipif(
    keras.config.backend() == "jax", reason="JAX has no float64 unless it is enabled"
)
def test_models_of_float64_are_compared_in_float64():
    layers = [kl.Dense(5, activation="sigmoid", dtype="float64") for _ in "ab"]
    last = kl.Dense(2, activation="tanh", use_bias=False, dtype="float64")
    model = sequential((4,), *layers, last)
    zeros = {f"net/{layer.name}/kernel": np.s_[:, 1] for layer in layers}
    _, report = tt.compact(zeroed(randomized(model), zeros), return_report=True)
    assert report.removed == 2 and report.folded == 2 and report.difference < 1e-12
    assert report.compact.bytes == 8 * report.compact.params


# Refusals.


class Doubled(kl.Layer):
    """A layer without weights, for a rule that is wrong about it."""

    def call(self, inputs):
        return inputs + 1.0


@pytest.fixture
def wrong_rule(monkeypatch):
    monkeypatch.setattr(registry, "_RULES", dict(registry._RULES))
    tt.register_rule(Doubled, lambda layer, call: call.like(call.inputs[0]))


def channels_of_zeros():
    model = randomized(
        sequential(
            (5, 5, 2),
            kl.Conv2D(4, 3, name="a"),
            Doubled(),
            kl.Conv2D(3, 3, padding="same", name="b"),
            kl.GlobalMaxPooling2D(),
            kl.Dense(2, name="c"),
        )
    )
    return zeroed(model, {"net/a/kernel": np.s_[..., 1], "net/a/bias": 1})


def test_units_that_the_kernel_itself_reads_stay():
    ties = Ties()
    variable = keras.Variable(np.ones((3, 2)))
    ties.record(variable, 1, ties.new(2), "out")
    ties.record(variable, 1, ties.new(2), "in", np.array([0.0, np.nan]))
    ((_, row),) = ties.records.items()
    assert row.role == "out" and row.values.tolist()[0] == 0.0
    model = zeroed(randomized(mlp()), {"net/c/kernel": np.s_[1]})
    units = find_units(model)
    assert dead_units.find(model, units, None).keep.tolist() == [True] * 4 + [False]
    unknown = {"values": np.full(2, np.nan)}
    produces = ("net/b/kernel", "out")
    read = [
        axis._replace(**unknown) if (axis.path, axis.role) == produces else axis
        for axis in units.axes
    ]
    units = Units(units.groups, tuple(read))
    assert dead_units.find(model, units, None).keep.all()


def test_a_model_that_does_not_agree_is_refused(wrong_rule):
    message = (
        r"(?s)does not agree with 'net'.*outputs that differ by 0?\.?\d.*Expected: at "
        r"most 0.0001. A rule of one of its layers may be wrong"
    )
    with pytest.raises(ValueError, match=message):
        tt.compact(channels_of_zeros())


def two_features(scale, sign=1.0, join=None):
    """Returns a model with outputs of two layers, the second one at another scale."""
    x = keras.Input((3,))
    y = [kl.Dense(2, name="a")(x), kl.Dense(2, name="b")(x)]
    model = randomized(keras.Model(x, y if join is None else join(y), name="net"))
    for weight in model.get_layer("b").weights:
        weight.assign(weight * scale * sign)
    return model


@pytest.mark.both
@pytest.mark.parametrize("scale, join", [(1e-6, None), (1e-5, kl.Concatenate())])
def test_small_outputs_are_compared_by_their_own_scale(scale, join):
    x = np.random.default_rng(1).normal(size=(8, 3)).astype("float32")
    comparison = Comparison(two_features(scale, join=join), x, Caller())
    assert comparison.check(two_features(scale, join=join)) < 1e-6
    with pytest.raises(ValueError, match="does not agree with 'net'"):
        comparison.check(two_features(scale, sign=-1.0, join=join))


@pytest.mark.parametrize(
    "change, data, message",
    [
        (0.0, np.nan, r"`data` with nan for input 'x', first at \(1, 2\)"),
        (0.0, np.inf, r"`data` with inf for input 'x'.*Pass examples without NaN"),
        (np.nan, 0.0, r"nan in output 0 at \(0, 0\), from finite.*did not diverge"),
    ],
)
def test_outputs_that_are_not_finite_have_a_cause(change, data, message):
    model = keras.Sequential([keras.Input((3,), name="x"), kl.Dense(2), kl.Dense(1)])
    model.layers[0].bias.assign([0.0, change])
    x = np.ones((4, 3))
    x[1, 2] += data
    with pytest.raises(ValueError, match=rf"outputs that are not finite.*{message}"):
        tt.compact(model, data=x)


def test_data_of_another_shape_are_shown_by_their_shape():
    model = randomized(mlp())
    message = r"shape \(2,\) for input .*an array of shape \(5, 4\) and dtype int64$"
    with pytest.raises(ValueError, match=message):
        tt.compact(model, data=np.ones((5, 4), int))
    message = r"Received: 2 arrays, \['an array of shape \(5, 2\) and dtype float64'"
    with pytest.raises(ValueError, match=message):
        tt.compact(model, data=[np.ones((5, 2)), np.ones((5, 3))])


@pytest.mark.both
def test_calls_that_cannot_be_compiled_are_made_one_by_one():
    class Host(kl.Layer):
        def call(self, x):
            if isinstance(x, keras.KerasTensor):
                return x
            return keras.ops.convert_to_tensor(np.asarray(x) * 2.0)

        def compute_output_spec(self, x):
            return keras.KerasTensor(x.shape, x.dtype)

    layers = [kl.Dense(3, "relu", name="a"), kl.Dense(2, name="b"), Host()]
    model = randomized(sequential((4,), *layers))
    zeroed(model, {"net/a/kernel": np.s_[:, 1]})
    small, report = tt.compact(model, return_report=True)
    assert report.removed == 1 and small.get_layer("a").units == 2


def test_a_layer_without_a_rule_keeps_its_channels():
    _, report = tt.compact(channels_of_zeros(), return_report=True)
    assert report.removed == 0
    assert "'doubled" in str(report) and "has no rule" in str(report)


def test_a_dense_model_is_returned_as_a_copy_with_a_warning():
    model = randomized(mlp())
    with pytest.warns(UserWarning, match="'net': .*no weight is zero. Pass a wrapped"):
        small = tt.compact(model)
    assert small is not model and values(small) == values(model)
    _, report = tt.compact(model, return_report=True)
    assert report.removed == 0 and "no weight is zero" in str(report)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = kl.Dense(2)

    def call(self, inputs):
        return self.dense(inputs)


def test_subclassed_models_are_refused_by_name():
    model = Subclassed()
    model(np.ones((1, 3)))
    with pytest.raises(ValueError, match="'subclassed.*its class Subclassed is no"):
        tt.compact(model)


def test_models_without_weights_are_refused():
    with pytest.raises(ValueError, match="is not built.*keras.Input"):
        tt.compact(keras.Sequential([kl.Dense(2)]))
    with pytest.raises(TypeError, match="`model` must be"):
        tt.compact("model.keras")
    with pytest.raises(TypeError, match=r"(?s)Ticket.*ticket.compact\(build_model\)"):
        tt.compact(tt.Ticket({"a/kernel": np.ones((2, 2))}))


# The report.


def test_the_report_prints_and_is_stored(tmp_path):
    model = with_dead_neurons()
    _, report = tt.compact(model, return_report=True)
    assert str(report).splitlines()[:12] == [
        "Model 'net': 3 of 5 units removed",
        "",
        "kernel        width  compact",
        "net/a/kernel      3        1",
        "net/b/kernel      2        1",
        "net/c/kernel      1        1",
        "",
        "            dense  weights kept  compact  compact / dense",
        "parameters     20            15        7           0.3500",
        "MACs           14             9        4           0.2857",
        "bytes          80            60       28           0.3500",
        "",
    ]
    assert "added to the biases of 2 layers" in str(report)
    assert "is an output of the model" in str(report)
    assert "<td" in report._repr_html_() and "0.3500" in report._repr_html_()
    report.to_json(tmp_path / "report.json")
    stored = json.loads((tmp_path / "report.json").read_text())
    assert stored == report.to_dict()
    assert stored["compact"] == {"params": 7, "macs": 4, "bytes": 28}
    assert stored["kernels"][0] == {
        "path": "net/a/kernel",
        "before": 3,
        "after": 1,
        "pinned": None,
        "whole": None,
    }


def sequences():
    """Returns a model of sequences with units, heads and rows that stay."""
    x = keras.Input((5,), name="x")
    y = kl.Dense(4, "sigmoid", name="d")(kl.Embedding(9, 6, name="e")(x))
    y = kl.LSTM(4, return_sequences=True, name="lstm")(y)
    attention = kl.MultiHeadAttention(4, 3, name="mha")
    y = kl.LSTM(3, return_sequences=True, name="last")(attention(y, y))
    fixed = kl.GRU(2, activation="softmax", name="gru")
    return randomized(keras.Model(x, kl.Dense(1, name="out")(fixed(y)), name="net"))


def test_widths_are_units_and_heads_and_rows_that_stay_have_reasons():
    model = sequences()
    zeros = {"lstm/lstm_cell/kernel": np.s_[:, 1::4], "d/kernel": np.s_[:, 0]}
    zeros["lstm/lstm_cell/recurrent_kernel"] = np.s_[:, 1::4]
    zeros["lstm/lstm_cell/bias"] = np.s_[1::4]
    zeros |= {f"mha/{name}/kernel": np.s_[:, 2] for name in ("query", "key", "value")}
    zeros["mha/attention_output/kernel"] = np.s_[2]
    small, report = tt.compact(zeroed(model, zeros), return_report=True)
    found = widths(report)
    assert found == {
        "e/embeddings": (6, 6),
        "d/kernel": (4, 4),
        "lstm/lstm_cell/kernel": (4, 3),
        "lstm/lstm_cell/recurrent_kernel": (4, 3),
        **{f"mha/{name}/kernel": (4, 3) for name in ("query", "key", "value")},
        "mha/attention_output/kernel": (4, 4),
        "last/lstm_cell/kernel": (3, 3),
        "last/lstm_cell/recurrent_kernel": (3, 3),
        "gru/gru_cell/kernel": (2, 2),
        "gru/gru_cell/recurrent_kernel": (2, 2),
        "out/kernel": (1, 1),
    }
    assert small.get_layer("lstm").units == small.get_layer("mha").num_heads == 3
    rows = {row.path: row.pinned or row.whole for row in report.rows}
    shrunk = {path for path, (before, after) in found.items() if after < before}
    assert {path for path, reason in rows.items() if reason is None} == shrunk
    assert rows["e/embeddings"].startswith("none of its weights is pruned; wrap(emb")
    constant = "lstm/lstm_cell/kernel reads it: a LSTM has no bias for it"
    assert rows["d/kernel"] == constant
    assert report.to_dict()["kept"] == [
        {"group": "d/kernel", "count": 1, "reason": constant}
    ]
    assert "activates all channels together" in rows["gru/gru_cell/kernel"]
    assert "Could be removed, but was not:" in str(report)


def test_kernels_of_unknown_multiply_adds_are_noted():
    model = sequential((None, 3), kl.Conv1D(4, 2, name="a"), kl.Conv1D(2, 1, name="b"))
    zeroed(randomized(model), {"net/a/kernel": np.s_[..., 1]})
    _, report = tt.compact(model, return_report=True)
    assert report.unknown == ("net/a/kernel", "net/b/kernel")
    assert report.to_dict()["unknown"] == ["net/a/kernel", "net/b/kernel"]
    line = "? MACs of 2 kernels are unknown and not in the table: net/a/kernel, net/b/k"
    assert line in str(report) and line in report._repr_html_()


# Tickets.


def ticket_of(model, masks, **kwargs):
    table = wrapping.plain_paths(model)
    weights = {path: wrapping.to_numpy(v) for path, v in table.items()}
    return tt.Ticket(masks, weights, **kwargs)


def of_neurons(**kwargs):
    """Returns a ticket that prunes three of five neurons."""
    masks = {"net/a/kernel": np.ones((4, 5)), "net/b/kernel": np.ones((5, 2))}
    masks["net/a/kernel"][:, 1:4] = 0
    masks["net/b/kernel"][1:4] = 0
    return ticket_of(randomized(two_layers()), masks, **kwargs)


def two_layers():
    return sequential(
        (4,), kl.Dense(5, activation="relu", name="a"), kl.Dense(2, name="b")
    )


@pytest.mark.parametrize("given", [two_layers, two_layers()])
def test_a_ticket_of_neurons_becomes_a_plain_network_at_its_start(given):
    ticket = of_neurons()
    small = ticket.compact(given)
    assert not wrapping.prunables(small)
    start = list(ticket.start_weights().values())
    expected = [start[0][:, [0, 4]], start[1][[0, 4]], start[2][[0, 4]], start[3]]
    for value, array in zip(small.get_weights(), expected, strict=True):
        np.testing.assert_array_equal(value, array)


@pytest.mark.parametrize("scales", [{}, {"net/a/kernel": 2.0}])
def test_a_ticket_of_weights_keeps_the_masks_that_remain(scales):
    ticket = of_neurons(scales=scales)
    ticket.masks["net/a/kernel"][0, 0] = False
    small = ticket.compact(two_layers)
    kernels = tt.kernels(small)
    assert kernels.masks["net/a/kernel"].tolist() == [[False, True]] + [[True] * 2] * 3
    assert kernels.masks["net/b/kernel"].all() and kernels.scales == scales
    start = ticket.start_weights()["net/a/kernel"][:, [0, 4]]
    start[0, 0] = 0.0
    np.testing.assert_array_equal(kernels.weights["net/a/kernel"], start)
    x = np.random.default_rng(0).normal(size=(9, 4)).astype("float32")
    large = ticket.apply(two_layers())
    np.testing.assert_allclose(outputs(small, x), outputs(large, x), atol=1e-6)
    small.compile("sgd", "mse", jit_compile=False)
    small.fit(x, np.ones((9, 2)), verbose=0)
    assert tt.kernels(small).weights["net/a/kernel"][0, 0] == 0.0


def test_a_ticket_without_dead_units_is_refused():
    model = randomized(two_layers())
    mask = np.ones((4, 5))
    mask[0, 0] = 0
    ticket = ticket_of(model, {"net/a/kernel": mask})
    with pytest.raises(ValueError, match="no units to remove.*Ticket.apply trains it"):
        ticket.compact(two_layers)
    with pytest.raises(TypeError, match="`build_model` must be a function of no arg"):
        ticket.compact(3)


# Channels.


def ticket_of_channels():
    """Returns a model with half of its parameters in channels, and the ticket."""
    model = tt.wrap(network(), structure="channels", verbose=False)
    search = tt.PruneAtInit(criterion="magnitude", target={"params": 0.5})
    return model, search.prune(model)


def test_the_cost_of_the_compact_model_is_that_of_the_masks():
    model, _ = ticket_of_channels()
    small, report = tt.compact(model, return_report=True)
    units = find_units(model)
    keep = np.zeros(units.size, bool)
    masks = tt.kernels(model).masks
    for axis in units.axes:
        if axis.role == "out":
            others = tuple(i for i in range(masks[axis.path].ndim) if i != axis.axis)
            kept = masks[axis.path].any(axis=others)
            keep[axis.ids[kept & (axis.ids != STAYS)]] = True
    assert report.removed == (~keep).sum() > 0
    assert report.compact == CostCounter(model, units).count(keep)
    assert report.compact.macs == report.masked.macs == CostCounter(small).dense.macs
    # The masks leave the statistics of batch normalizations alone.
    normed = report.dense.params - report.masked.params
    assert 0 < report.masked.params - report.compact.params < 0.1 * normed
    assert report.compact.params <= 0.5 * report.dense.params


def test_a_ticket_of_channels_becomes_a_plain_network_at_its_start():
    model, ticket = ticket_of_channels()
    small = ticket.compact(network)
    assert not wrapping.prunables(small)
    x = np.random.default_rng(0).normal(size=(9, 8, 8, 2)).astype("float32")
    np.testing.assert_allclose(outputs(small, x), outputs(model, x), atol=1e-5)


# The command line.


@pytest.fixture
def stored(tmp_path):
    model = pruned(randomized(relu_network()), 0.9)
    model.save(tmp_path / "model.keras")
    return tmp_path


def test_the_command_writes_a_smaller_file(stored, capsys):
    out = stored / "small.keras"
    data, report = stored / "data.npz", stored / "report.json"
    x = np.random.default_rng(0).normal(size=(16, 10)).astype("float32")
    np.savez(data, x_test=x)
    command = ["compact", str(stored / "model.keras"), str(out)]
    options = ["--data", str(data), "--report", str(report)]
    assert main.main([*command, *options]) == 0
    assert "units removed" in capsys.readouterr().out
    small = keras.saving.load_model(out)
    costs = json.loads(report.read_text())["compact"]
    assert small.count_params() == costs["params"]
    assert out.stat().st_size < 0.9 * (stored / "model.keras").stat().st_size
    assert main.main(command) == 2
    assert "small.keras exists already. Pass --overwrite" in capsys.readouterr().err
    assert main.main([*command, "--overwrite"]) == 0


@pytest.mark.parametrize(
    "model, out, message",
    [
        ("model.keras", "small.tflite", "OUT must be a .keras file.*tf-tickets export"),
        ("none.keras", "small.keras", "There is no file .*none.keras"),
        ("nan.keras", "small.keras", "are not finite.*it takes: --data FILE.npz"),
        ("a.ticket", "small.keras", r"a.ticket is a ticket.*Ticket.load\(.*a.ticket"),
        (
            "dense.keras",
            "small.keras",
            "was not written. Nothing was removed: no weigh",
        ),
    ],
)
def test_errors_of_the_command_say_what_to_do(stored, capsys, model, out, message):
    randomized(mlp()).save(stored / "dense.keras")
    filled(mlp(), *[np.full(v.shape, np.nan) for v in mlp().weights]).save(
        stored / "nan.keras"
    )
    tt.Ticket({"a/kernel": np.ones((2, 2))}).save(stored / "a.ticket")
    assert main.main(["compact", str(stored / model), str(stored / out)]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert not (stored / out).exists()
