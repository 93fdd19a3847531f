"""Compares the learned mask parametrizations with their formulas."""

import functools

import keras
import numpy as np
import oracles
import pytest
import tiny
from gradients import gradient
from keras import ops

import tf_tickets as tt
from tf_tickets import masks, ranking, wrapping
from tf_tickets.masks import learned

pytestmark = pytest.mark.turns("tensorflow")

NUMPY = ops.convert_to_numpy


def built(mask, shape=(40,), scores=None):
    mask.build(shape)
    if scores is not None:
        mask.scores.assign(np.asarray(scores, "float32"))
    return mask


def at_temperature(temperature, scores, **kwargs):
    """Returns a soft mask with a given temperature."""
    schedule = tt.schedules.ExponentialTemperature(temperature, temperature)
    scores = np.asarray(scores)
    return built(masks.SoftMask(temperature=schedule, **kwargs), scores.shape, scores)


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-np.asarray(x, "float64")))


def soft(mask, training=False):
    return NUMPY(mask.soft(training))


# The soft mask.


@pytest.mark.parametrize("score", [-5.0, -0.3, -0.03, 0.0, 0.03, 0.3, 5.0])
def test_a_scaled_mask_begins_as_the_dense_network(score):
    factor = NUMPY(built(masks.SoftMask(score)).factor("float32"))
    # The backends' sigmoids differ in the last bit.
    assert np.abs(factor - 1.0).max() <= 2 * np.spacing(np.float32(1.0))


@pytest.mark.both
def test_the_gradient_is_that_of_the_sigmoid_and_of_a_finite_difference():
    scores = np.linspace(-1.0, 1.0, 21)
    upstream = np.random.default_rng(0).normal(size=21).astype("float32")
    mask = at_temperature(4.0, scores, initial_score=-0.3)

    def loss():
        return ops.sum(mask.factor("float32") * upstream)

    actual = gradient(loss, mask.scores)
    s = sigmoid(4.0 * scores)
    expected = (1 + np.exp(0.3)) * 4.0 * s * (1 - s) * upstream
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
    for place in (0, 7, 20):
        shift = np.zeros(21)
        shift[place] = 1e-2
        mask.scores.assign((scores + shift).astype("float32"))
        above = float(loss())
        mask.scores.assign((scores - shift).astype("float32"))
        difference = (above - float(loss())) / 2e-2
        assert difference == pytest.approx(actual[place], rel=5e-3, abs=2e-3)


@pytest.mark.parametrize(
    "score, limit", [(0.1, 1 + np.exp(-0.1)), (-0.1, 0.0), (0.0, 1.0)]
)
def test_scores_that_stand_still_go_to_a_limit_by_their_sign(score, limit):
    schedule = tt.schedules.ExponentialTemperature(1.0, 200.0)
    mask = built(masks.SoftMask(score, temperature=schedule))
    mask.restart(steps=50, epochs=1)
    for _ in range(50):
        mask.factor("float32", training=True)
        mask.after_forward(mask.scores.value)
    assert mask.present_temperature == pytest.approx(200.0)
    np.testing.assert_allclose(NUMPY(mask.factor("float32")), limit, atol=1e-8)


def test_soft_goes_over_into_hard_as_the_temperature_grows():
    rng = np.random.default_rng(0)
    scores = rng.uniform(0.1, 1.0, (6, 4)) * rng.choice([-1, 1], (6, 4))
    kernel, x = rng.normal(size=(6, 4)), rng.normal(size=(5, 6)).astype("float32")
    hard = x @ (kernel * (scores > 0))
    gaps = []
    for temperature in (1.0, 10.0, 100.0, 1000.0):
        mask = at_temperature(temperature, scores, scale_mask=False)
        output = x @ NUMPY(mask.apply(ops.convert_to_tensor(kernel, "float32")))
        gaps.append(np.abs(output - hard).max())
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[0] > 0.5 and gaps[-1] < 1e-5


def test_soft_sparsity_and_ticket_sparsity_are_different_figures():
    mask = at_temperature(200.0, [-1.0, -0.5, -0.3, -0.001, 0.0, 0.001, 0.2, 1.0])
    # Exact zeros only where float32 underflows; a score of zero is pruned.
    assert (mask.probability() == 0).tolist() == [True, True] + [False] * 6
    assert mask.value().tolist() == [False] * 5 + [True] * 3


def test_a_score_of_twenty_is_one_to_the_bit_and_has_no_gradient():
    mask = built(masks.SoftMask(20.0))
    assert (NUMPY(mask.factor("float32")) == 1.0).all()
    assert (gradient(lambda: ops.sum(mask.factor("float32")), mask.scores) == 0).all()


@pytest.mark.both
def test_the_temperature_moves_by_the_step_or_by_the_epoch():
    def course(per):
        schedule = tt.schedules.ExponentialTemperature(1.0, 16.0, per)
        mask = built(masks.SoftMask(temperature=schedule))
        mask.restart(steps=6, epochs=3)
        result = []
        for _ in range(8):
            mask.factor("float32", training=True)
            result.append(round(mask.present_temperature, 3))
            mask.after_forward(mask.scores.value)
        return result

    steps = [round(16 ** (t / 5), 3) for t in range(6)]
    assert course("step") == pytest.approx([*steps, 16, 16], abs=2e-3)
    assert course("epoch") == pytest.approx([1, 1, 4, 4, 16, 16, 16, 16])


def test_scores_and_masks_are_float32_under_every_policy():
    for policy in ("mixed_float16", "float16", "mixed_bfloat16"):
        keras.config.set_dtype_policy(policy)
        layer = keras.layers.Dense(3)
        layer.build((None, 4))
        wrapped = tt.layers.Prunable(layer, mask=masks.SoftMask(-0.3))
        [mask] = wrapped.kernel_masks
        mask.scores.assign(np.full((4, 3), -0.30001, "float32"))
        assert [v.dtype for v in (mask.scores, mask.scale)] == ["float32"] * 2
        assert keras.backend.standardize_dtype(mask.soft().dtype) == "float32"
        expected = 1 / (1 + np.exp(np.float32(0.30001)))
        np.testing.assert_allclose(soft(mask), expected, rtol=1e-6)
        outputs = wrapped(np.ones((2, 4)))
        compute = keras.config.dtype_policy().compute_dtype
        assert keras.backend.standardize_dtype(outputs.dtype) == compute


# The stochastic mask.


def test_draws_are_zeros_and_ones_of_the_right_mean():
    scores = np.repeat(np.linspace(-3, 3, 7), 20_000)
    mask = built(masks.StochasticMask(seed=0), scores.shape, scores)
    draws = soft(mask, training=True)
    assert set(np.unique(draws)) == {0.0, 1.0}
    means, expected = draws.reshape(7, -1).mean(1), sigmoid(np.linspace(-3, 3, 7))
    sigma = np.sqrt(expected * (1 - expected) / 20_000)
    assert (np.abs(means - expected) < 5 * sigma).all()


def test_every_forward_pass_draws_anew_and_a_seed_repeats_it():
    def three(seed):
        mask = built(masks.StochasticMask(seed=seed))
        return [soft(mask, training=True).tolist() for _ in range(3)]

    first = three(1)
    assert len({str(draw) for draw in first}) == 3
    assert three(1) == first and three(2) != first


def test_the_gradient_goes_straight_through_to_the_probability():
    scores = np.linspace(-2, 2, 40)
    upstream = np.random.default_rng(0).normal(size=40).astype("float32")
    mask = built(masks.StochasticMask(seed=0), scores=scores)
    s = sigmoid(scores)
    for _ in range(3):
        result = gradient(lambda: ops.sum(mask.soft(True) * upstream), mask.scores)
        np.testing.assert_allclose(result, s * (1 - s) * upstream, rtol=1e-4, atol=1e-6)


def test_the_expected_gradient_is_that_of_the_expected_loss_where_it_is_linear():
    """Averages many draws; the gradient of a quadratic loss depends on the draw."""
    scores = np.array([-1.0, 0.3, 2.0])
    mask = built(masks.StochasticMask(seed=0), (4000, 3), np.tile(scores, (4000, 1)))
    target = np.array([0.2, 0.9, 0.4], "float32")

    def loss():
        return ops.sum((mask.soft(True) - target) ** 2)

    result = np.mean(gradient(loss, mask.scores), axis=0)
    p = sigmoid(scores)
    # E[2 (m - t)] p (1 - p): the mean of m is p.
    np.testing.assert_allclose(result, 2 * (p - target) * p * (1 - p), atol=0.03)


def test_a_score_of_twenty_is_always_kept_and_a_removed_one_never():
    scores = np.repeat([20.0, -learned.FAR], 500)
    mask = built(masks.StochasticMask(seed=0), scores.shape, scores)
    for _ in range(5):
        assert soft(mask, True).tolist() == [1.0] * 500 + [0.0] * 500


def test_evaluation_draws_or_takes_the_threshold():
    scores = np.linspace(-1, 1, 41)
    threshold = built(masks.StochasticMask(evaluation="threshold"), (41,), scores)
    assert (soft(threshold) == (scores > 0)).all()
    assert soft(threshold, training=True).tolist() != (scores > 0).tolist()
    sample = built(masks.StochasticMask(), (41,), scores)
    assert soft(sample).tolist() != soft(sample).tolist()


TINY = [1e-8, 5e-8, 1e-38, 1e-45, -1e-8, -1e-45, 0.0, -0.0, 1e-3, -1e-3]
POSITIVE = [True] * 4 + [False] * 4 + [True, False]


@pytest.mark.both
@pytest.mark.parametrize("dynamic", [False, True])
def test_the_threshold_keeps_tiny_positive_scores_as_the_ticket_does(dynamic):
    """Their sigmoid is 0.5 in float32, and XLA takes the smallest of them for 0."""
    layers = [keras.Input((10,)), keras.layers.Dense(1, use_bias=False)]
    model = keras.Sequential(layers)
    model.set_weights([np.ones((10, 1))])
    model.compile("sgd", "mse", jit_compile=tiny.JIT)
    mask = masks.StochasticMask(evaluation="threshold", dynamic_scaling=dynamic)
    model = tt.wrap(model, mask=mask, verbose=False)
    [mask] = wrapping.kernels(model).mask_layers.values()
    mask.scores.assign(np.asarray(TINY, "float32")[:, None])
    assert mask.value().ravel().tolist() == POSITIVE
    assert (soft(mask).ravel() == POSITIVE).all()
    expected = np.where(POSITIVE, mask.kept_scale, 0.0).astype("float32")
    assert NUMPY(mask.factor("float32")).ravel().tolist() == expected.tolist()
    x = np.eye(10, dtype="float32")
    assert model.predict(x, verbose=0).ravel().tolist() == expected.tolist()
    plain = tt.strip(model)
    assert plain.predict(x, verbose=0).ravel().tolist() == expected.tolist()


@pytest.mark.both
def test_the_gradient_of_the_threshold_is_that_of_the_probability():
    scores = np.concatenate([np.linspace(-2, 2, 7), TINY])
    upstream = np.random.default_rng(0).normal(size=17).astype("float32")
    mask = built(masks.StochasticMask(evaluation="threshold"), (17,), scores)
    result = gradient(lambda: ops.sum(mask.factor("float32") * upstream), mask.scores)
    s = sigmoid(scores)
    np.testing.assert_allclose(result, s * (1 - s) * upstream, rtol=1e-4, atol=1e-6)


@pytest.mark.both
@pytest.mark.parametrize("temperature", [1.0, 200.0, 1e6, 1e30])
def test_a_soft_mask_is_never_on_the_other_side_of_its_hard_mask(temperature):
    """It may round to a half, and takes no side then."""
    mask = at_temperature(temperature, TINY, scale_mask=False)
    assert mask.value().tolist() == POSITIVE
    for values in (soft(mask), NUMPY(mask.factor("float32")), mask.probability()):
        assert (values[POSITIVE] >= 0.5).all()
        assert (values[np.logical_not(POSITIVE)] <= 0.5).all()


def test_kernels_of_one_shape_draw_differently():
    layers = [keras.Input((6,)), keras.layers.Dense(6), keras.layers.Dense(6)]
    model = tt.wrap(keras.Sequential(layers), mask="stochastic", verbose=False)
    first, second = wrapping.kernels(model).mask_layers.values()
    assert soft(first, True).tolist() != soft(second, True).tolist()
    for place, mask in enumerate((first, second)):
        mask.begin(np.random.default_rng([0, place]), 1, 1)
    assert soft(first, True).tolist() != soft(second, True).tolist()


# The mask of exact cardinality.


@pytest.mark.parametrize("count", range(1, 8))
@pytest.mark.parametrize("ties", [False, True])
def test_topk_keeps_what_trying_all_subsets_finds(count, ties):
    rng = np.random.default_rng(count)
    scores = rng.integers(0, 4, 8) if ties else rng.normal(size=8)
    result = NUMPY(ranking.largest(ops.convert_to_tensor(scores, "float32"), count))
    assert result.tolist() == oracles.best_subset(scores.tolist(), count)


@pytest.mark.parametrize("spread", [0, 3, 12])
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9, 0.999])
def test_topk_agrees_with_the_selection_by_rank(sparsity, spread):
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(60, 50)) * np.exp(rng.normal(size=(60, 50)) * spread / 4)
    mask = built(masks.TopKMask(sparsity), (60, 50), scores)
    count = 3000 - round(sparsity * 3000)
    merit = np.abs(scores.astype("float32"))
    expected = ranking.keep_largest(merit, count)
    assert soft(mask).sum() == count
    assert (soft(mask) == expected).all()
    assert (mask.value() == expected).all()


def test_topk_keeps_its_count_where_all_scores_are_equal():
    mask = built(masks.TopKMask(0.7), scores=np.full(40, 0.25))
    assert soft(mask).tolist() == [1.0] * 12 + [0.0] * 28


@pytest.mark.parametrize("absolute", [True, False])
def test_topk_passes_the_gradient_straight_to_the_scores(absolute):
    scores = np.random.default_rng(0).normal(size=40)
    upstream = np.random.default_rng(1).normal(size=40).astype("float32")
    mask = built(masks.TopKMask(0.5, absolute), scores=scores)
    result = gradient(lambda: ops.sum(mask.soft() * upstream), mask.scores)
    np.testing.assert_allclose(result, upstream * (np.sign(scores) if absolute else 1))


# Common to all learned masks.

KINDS = {
    "soft": lambda: masks.SoftMask(0.1, penalty=0.01),
    "stochastic": lambda: masks.StochasticMask(0.5, penalty=0.01),
    "topk": lambda: masks.TopKMask(0.4),
    "topk, signed": lambda: masks.TopKMask(0.4, absolute=False),
}


def network(mask, score_optimizer=None):
    layers = [keras.Input((6,)), keras.layers.Dense(8), keras.layers.Dense(3)]
    model = keras.Sequential(layers)
    model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=tiny.JIT)
    return tt.wrap(model, mask=mask, verbose=False, score_optimizer=score_optimizer)


DATA = np.random.default_rng(0).normal(size=(32, 6)), np.ones((32, 3))


@pytest.mark.parametrize("kind", KINDS)
def test_an_assigned_mask_is_exact_and_stays_while_the_scores_are_trained(kind):
    model = network(KINDS[kind](), keras.optimizers.SGD(10.0, momentum=0.9))
    rng = np.random.default_rng(0)
    expected = {
        p: rng.random(m.shape) < 0.5 for p, m in wrapping.kernels(model).masks.items()
    }
    wrapping.kernels(model).set_masks(expected)
    model.fit(*DATA, epochs=3, verbose=0)
    for path, mask in wrapping.kernels(model).mask_layers.items():
        assert (mask.value() == expected[path]).all()
        assert set(np.unique(soft(mask, training=True))) <= {0.0, 1.0}
        assert (soft(mask, training=True) == expected[path]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_dynamic_scaling_keeps_the_sum_of_the_mask(kind):
    config = {**KINDS[kind]().get_config(), "dynamic_scaling": True}
    mask = built(type(KINDS[kind]()).from_config(config), (50, 20))
    factor = NUMPY(mask.factor("float32"))
    assert factor.sum() == pytest.approx(1000, rel=1e-4)
    hard = mask.value()
    assert mask.kept_scale == pytest.approx(1000 / max(hard.sum(), 1))


@pytest.mark.parametrize("kind", ["soft", "stochastic"])
def test_the_penalty_is_in_the_loss_once_a_step(kind):
    model = network(KINDS[kind]())
    actual = wrapping.kernels(model).mask_layers.values()
    expected = [m.probability() * m.kept_scale for m in actual]
    wanted = 0.01 * sum(float(e.sum()) for e in expected)
    assert sum(float(loss) for loss in model.losses) == pytest.approx(wanted, rel=1e-5)
    assert sum(m.present_penalty for m in actual) == pytest.approx(wanted, rel=1e-5)


def test_a_shared_layer_counts_a_step_once_and_is_penalized_once():
    shared = keras.layers.Dense(6, name="shared")
    inputs = keras.Input((6,))
    plain = keras.Model(inputs, shared(shared(shared(inputs))))
    plain.compile("sgd", "mse", jit_compile=tiny.JIT)
    model = tt.wrap(plain, mask=masks.SoftMask(0.0, penalty=1.0), verbose=False)
    [mask] = wrapping.kernels(model).mask_layers.values()
    mask.restart(steps=100, epochs=1)
    assert float(sum(model.losses)) == pytest.approx(36.0)
    x = np.ones((32, 6))
    model.fit(x, x, batch_size=8, epochs=2, validation_data=(x, x), verbose=0)
    model.evaluate(x, x, verbose=0)
    model.predict(x, verbose=0)
    assert model.losses and mask.clock.steps_done == 8


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrapped_model_survives_its_file_with_scores_and_temperature(tmp_path, kind):
    model = network(KINDS[kind]())
    model.fit(*DATA, epochs=2, verbose=0)
    model.save(tmp_path / "a.keras")
    loaded = keras.models.load_model(tmp_path / "a.keras")
    for old, new in zip(model.variables, loaded.variables, strict=True):
        # Keras does not save the state of random generators.
        if old.name != "seed_generator_state":
            assert NUMPY(old.value).tobytes() == NUMPY(new.value).tobytes()
    scales = [
        list(wrapping.kernels(result).scales.values()) for result in (model, loaded)
    ]
    assert scales[0] == scales[1]
    loaded.fit(*DATA, epochs=1, verbose=0)


@pytest.mark.parametrize("kind", KINDS)
def test_strip_takes_the_hard_mask_with_its_scale_and_leaves_the_model(kind):
    model = network(KINDS[kind]())
    model.fit(*DATA, epochs=2, verbose=0)
    before = [NUMPY(v.value).copy() for v in model.variables]
    plain = tt.strip(model)
    for old, variable in zip(before, model.variables, strict=True):
        assert old.tobytes() == NUMPY(variable.value).tobytes()
    hard, scales = wrapping.kernels(model).masks, wrapping.kernels(model).scales
    kernels = wrapping.kernels(model).variables
    for layer, path in zip(plain.layers, kernels, strict=True):
        expected = NUMPY(kernels[path].value) * hard[path] * scales.get(path, 1.0)
        np.testing.assert_allclose(NUMPY(layer.kernel.value), expected, rtol=1e-6)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: masks.SoftMask(penalty=-1.0), "penalty=-1.0"),
        (lambda: masks.SoftMask(float("nan")), "initial_score=nan"),
        (lambda: masks.SoftMask(-90.0), "initial_score=-90.0"),
        (lambda: tt.schedules.ExponentialTemperature(1, float("inf")), "final=inf"),
        (
            lambda: tt.ContinuousSparsification(
                2,
                1,
                final_temperature=tt.schedules.ExponentialTemperature(per="epoch"),
            ),
            "two epochs",
        ),
        (lambda: masks.StochasticMask(evaluation="mean"), "Received: 'mean'"),
        (lambda: masks.TopKMask(1.0), "sparsity=1.0"),
        (lambda: masks.TopKMask(-0.1), "sparsity=-0.1"),
        (lambda: masks.get("hard"), "Received: 'hard'"),
        (lambda: tt.schedules.ExponentialTemperature(0.0), "initial=0.0"),
        (lambda: tt.schedules.ExponentialTemperature(2.0, 1.0), "final=1.0"),
        (lambda: tt.schedules.ExponentialTemperature(per="round"), "'round'"),
    ],
)
def test_bad_arguments_say_what_was_received(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_masks_that_cannot_scale_refuse_a_scale():
    mask = masks.get("fixed")
    mask.build((3,))
    with pytest.raises(ValueError, match='mask="scaled"'):
        mask.assign([1, 0, 1], scale=2.0)
    mask = masks.get("scaled")
    mask.build((3,))
    mask.assign([1, 0, 1], scale=2.0)
    assert NUMPY(mask.apply(ops.ones(3))).tolist() == [2.0, 0.0, 2.0]
    mask.assign([1, 1, 0])
    assert NUMPY(mask.apply(ops.ones(3))).tolist() == [2.0, 2.0, 0.0]


class Doubled(masks.SoftMask):
    """Expects twice as much."""

    def expected(self, scores):
        return 2.0 * super().expected(scores)


class Certain(masks.StochasticMask):
    """Keeps every weight."""

    def expected(self, scores):
        return keras.ops.ones_like(scores)


class Quartered(masks.TopKMask):
    """Multiplies the kept weights by a quarter."""

    def soft(self, training=False):
        return 0.25 * super().soft(training)


@pytest.mark.parametrize(
    ("kind", "factor", "penalty"),
    [
        (functools.partial(Doubled, scale_mask=False, penalty=1.0), 1.0, 8.0),
        (functools.partial(Certain, penalty=1.0), 1.0, 8.0),
        (functools.partial(Quartered, sparsity=0.0), 0.25, 0.0),
    ],
    ids=["soft", "stochastic", "topk"],
)
def test_what_a_subclass_changes_counts_in_the_forward_pass_and_in_the_penalty(
    kind, factor, penalty
):
    mask = kind()
    mask.build((8,))
    assert np.asarray(mask.factor("float32", training=True)).tolist() == [factor] * 8
    assert mask.present_penalty == penalty
