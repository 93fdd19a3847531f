"""Compares curvature and OBD with exact values or formulas."""

import functools

import keras
import numpy as np
import pytest
import tiny

import tf_tickets as tt
from tf_tickets import wrapping
from tf_tickets.pruning import curvature
from tf_tickets.training import snapshots

pytestmark = pytest.mark.turns("jax")

BENDS = np.array([0.5, 1.0, 4.0, 9.0])


@keras.saving.register_keras_serializable("tests")
def half_squares_of_four(y, p):
    return 2.0 * keras.ops.square(y - p)[:, 0]


def quadratic():
    """Builds a model at its minimum, whose loss is the sum of h / 2 * (w - w*) ** 2."""
    dense = keras.layers.Dense(1, use_bias=False, name="d")
    model = keras.Sequential([keras.Input((4,)), dense], name="net")
    model = tt.wrap(model, verbose=False)
    model.compile("sgd", half_squares_of_four, jit_compile=tiny.JIT)
    minimum = np.array([[1.0], [-2.0], [0.25], [0.5]], "float32")
    dense.kernel.assign(minimum)
    x = np.diag(np.sqrt(BENDS)).astype("float32")
    return model, x, x @ minimum


@pytest.mark.parametrize("kind", ["hutchinson", "gauss_newton"])
@pytest.mark.parametrize("batch_size", [4, 3])
def test_a_weight_costs_exactly_its_score_on_a_diagonal_quadratic(kind, batch_size):
    model, x, y = quadratic()
    criterion = curvature.OBD(x, y, kind, batch_size=batch_size, draws=1)
    [scores] = criterion(model).values()
    [kernel] = wrapping.kernels(model).variables.values()
    whole = wrapping.to_numpy(kernel)
    lost = []
    for place in range(4):
        kernel.assign(np.where(np.arange(4)[:, None] == place, 0.0, whole))
        lost.append(model.evaluate(x, y, verbose=0))
    np.testing.assert_allclose(scores[:, 0], lost, rtol=1e-5)
    np.testing.assert_allclose(scores[:, 0], 0.5 * BENDS * whole[:, 0] ** 2, rtol=1e-5)


@pytest.mark.parametrize("kind, draws", [("hutchinson", 400), ("gauss_newton", 400)])
def test_both_are_the_hessian_of_a_linear_classifier(kind, draws):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(16, 4)).astype("float32")
    y = rng.integers(0, 3, 16)
    keras.utils.set_random_seed(0)
    dense = keras.layers.Dense(3, name="d")
    model = tt.wrap(keras.Sequential([keras.Input((4,)), dense]), verbose=False)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, metrics=["accuracy"], jit_compile=tiny.JIT)
    p = keras.ops.convert_to_numpy(keras.ops.softmax(model(x)))
    expected = np.einsum("ni,nj->ij", x**2, p * (1 - p)) / 16
    [actual] = getattr(curvature, kind)(model, x, y, draws=draws).values()
    # With this many draws, the deviation is about a tenth of the largest value.
    np.testing.assert_allclose(actual, expected, atol=0.15 * expected.max())
    assert np.corrcoef(actual.ravel(), expected.ravel())[0, 1] > 0.95


@functools.cache
def digits_classifier():
    """Trains a network on digits; returns it, data, and exact scores of its weights."""
    digits = tt.datasets.load("digits")
    keras.utils.set_random_seed(0)
    flat = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten()])
    flat.add(keras.layers.Dense(32, activation="relu"))
    flat.add(keras.layers.Dense(10))
    model = tt.wrap(flat, verbose=False)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"], jit_compile=tiny.JIT)
    model.fit(digits.x_train, digits.y_train, epochs=10, verbose=0)
    x, y = digits.x_train[:256], digits.y_train[:256]
    weights = map(wrapping.to_numpy, model.trainable_variables)
    return model, x, y, exact_scores(x.reshape(256, 64), *weights)


def exact_scores(x, first, bias, last, last_bias):
    """Returns OBD scores of a ReLU network with one hidden layer, in closed form."""
    hidden = np.maximum(x @ first + bias, 0.0)
    p = keras.ops.convert_to_numpy(keras.ops.softmax(hidden @ last + last_bias))
    # The Hessian of the loss of an example in its outputs is diag(p) - p p^T.
    inner = p @ np.square(last).T - np.square(p @ last.T)
    bends = [np.square(x).T @ (inner * (hidden > 0)), np.square(hidden).T @ (p - p**2)]
    pairs = zip(bends, (first, last), strict=True)
    return np.concatenate([np.ravel(h / 512 * w**2) for h, w in pairs])


def better_half(scores):
    return scores >= np.median(scores)


# The numbers of docs/methods/obd.md.
AGREEMENT = {
    ("hutchinson", 8): 0.66,
    ("hutchinson", 32): 0.75,
    ("hutchinson", 128): 0.87,
    ("hutchinson", 512): 0.93,
    ("gauss_newton", 8): 0.94,
    ("gauss_newton", 32): 0.98,
}


@pytest.mark.parametrize("kind, draws", AGREEMENT)
def test_more_draws_agree_better_with_the_exact_choice(kind, draws):
    model, x, y, exact = digits_classifier()
    scores = curvature.OBD(x, y, kind, draws=draws)(model)
    actual = np.concatenate([np.ravel(score) for score in scores.values()])
    agreement = np.mean(better_half(actual) == better_half(exact))
    assert agreement == pytest.approx(AGREEMENT[kind, draws], abs=0.03)


def test_each_estimate_has_its_own_default_number_of_draws():
    x, y = np.zeros((4, 2)), np.zeros(4)
    assert curvature.OBD(x, y).curvature == "gauss_newton"
    assert curvature.OBD(x, y).draws == 8
    assert curvature.OBD(x, y, "hutchinson").draws == 128


def test_gauss_newton_needs_one_output():
    inputs = keras.Input((4,))
    outputs = [keras.layers.Dense(2)(inputs), keras.layers.Dense(3)(inputs)]
    model = tt.wrap(keras.Model(inputs, outputs), verbose=False)
    model.compile("sgd", ["mse", "mse"])
    with pytest.raises(ValueError, match="one output.*hutchinson"):
        curvature.gauss_newton(model, np.zeros((2, 4)), np.zeros((2, 2)))


def test_where_all_bends_alike_it_ranks_by_magnitude():
    model, _, _ = quadratic()
    x = np.eye(4, dtype="float32")
    [scores] = curvature.OBD(x, np.zeros((4, 1)), draws=1)(model).values()
    assert scores[:, 0].argsort().tolist() == [2, 3, 0, 1]


def test_nothing_of_the_model_is_changed_and_pruned_weights_bend_nothing():
    model = tiny.network()
    masks = tiny.half(model)
    wrapping.kernels(model).set_masks(masks)
    snapshots.built_optimizer(model)
    before = snapshots.record(model)
    x, y = tiny.data(32)
    result = curvature.hutchinson(model, x, y, draws=2)
    assert tiny.same(tiny.flat(snapshots.record(model)), tiny.flat(before))
    for path, bends in result.items():
        assert not bends[~masks[path]].any() and bends[masks[path]].any()


def test_a_search_prunes_by_it_and_the_seed_decides():
    ids = []
    for seed in (0, 0, 1):
        criterion = curvature.OBD(*tiny.data(32), draws=1, seed=seed)
        search = tiny.imp(rounds=2, criterion=criterion)
        tiny.run(tiny.network(), search)
        assert [sum(t.kept.values()) for t in search.tickets] == [63, 44]
        ids.append(search.tickets[-1].id)
    assert ids[0] == ids[1] != ids[2]
    assert (
        "obd(curvature=gauss_newton"
        in search.tickets[0].provenance["settings"]["criterion"]
    )


@pytest.mark.parametrize(
    "given, message",
    [
        ({"curvature": "exact"}, "Received: 'exact'"),
        ({"draws": 0}, "`draws`.*Received: 0"),
        ({"batch_size": 1.5}, "`batch_size`.*Received: 1.5"),
        ({"y": np.zeros(3)}, r"Received: arrays of shape \(4, 2\) and \(3,\)"),
    ],
)
def test_bad_arguments_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        curvature.OBD(**{"x": np.zeros((4, 2)), "y": np.zeros(4), **given})


def test_a_criterion_of_a_model_must_score_every_kernel():
    search = tiny.imp(criterion=lambda model: {})
    with pytest.raises(ValueError, match="must score every kernel"):
        tiny.run(tiny.network(), search)
