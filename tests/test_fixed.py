"""The growing penalty: its schedule, its gradient, and its use by every trainer."""

import keras
import numpy as np
import pytest
import tiny

import tf_tickets as tt
from tf_tickets import masks, wrapping
from tf_tickets.masks.annealing import GrowingPenalty
from tf_tickets.masks.penalized import own_regularizer

pytestmark = pytest.mark.turns


def published(steps, increment=1e-4, interval=5, cap=1.0, power=1):
    """Runs the published loop; returns at which iteration it passes the cap."""
    grown, strengths, passed = 0.0, [], None
    for step in range(steps):
        if step % interval == 0 and passed is None:
            grown = (step // interval + 1) * increment
            passed = step if grown**power > cap * (1 + 1e-9) else None
        strengths.append(grown**power)
    return np.array(strengths), passed


@pytest.mark.parametrize("power", [1, 2, 3])
def test_the_published_settings_reach_the_cap_after_50001_iterations(power):
    strengths, passed = published(50_010, power=power)
    penalty = GrowingPenalty(1e-4, interval=5, power=power, hold=40_000)
    assert passed + 1 == penalty.growth == 50_001 and penalty.steps == 90_001
    result = keras.ops.convert_to_numpy(
        penalty(keras.ops.arange(50_010, dtype="int32"), 90_001, 1)
    )
    np.testing.assert_allclose(result, np.minimum(strengths, 1.0), rtol=1e-5)


def test_the_iterative_settings_take_20001_iterations():
    assert GrowingPenalty(1e-4, hold=10_000).steps == 20_001


@pytest.mark.parametrize("power, cap", [(1.0, 1.0), (2.0, 3.0), (3.0, 0.5)])
def test_without_an_increment_it_fits_the_steps_as_the_published_ones_do(power, cap):
    penalty = GrowingPenalty(power=power, cap=cap)
    steps = 90_000
    result = keras.ops.convert_to_numpy(penalty(np.arange(steps), steps, 1))
    assert result[0] > 0 and (np.diff(result) >= 0).all()
    reached = int(np.argmax(result >= np.float32(cap) * (1 - 1e-6)))
    assert reached == pytest.approx(50_000, abs=50) and result[-1] == np.float32(cap)


def test_no_cap_is_no_penalty():
    penalty = GrowingPenalty(cap=0.0)
    assert float(penalty(5, 10, 1)) == 0.0 and penalty.steps == 0


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"cap": -1.0}, "cap=-1.0"),
        ({"power": 0.0}, "power=0.0"),
        ({"increment": 0.0}, "increment=0.0"),
        ({"interval": 5}, "interval=5"),
        ({"hold": 5}, "hold=5"),
        ({"increment": 0.1, "interval": 0}, "`interval`.*Received: .*0"),
        ({"increment": 0.1, "hold": -1}, "`hold`.*Received: .*-1"),
    ],
)
def test_bad_schedules_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        GrowingPenalty(**arguments)


# A quadratic: one example per weight, whose loss is h / 2 * (w - target) ** 2.
CURVATURES = np.array([0.5, 1.0, 4.0], "float32")
TARGETS = np.array([1.0, -2.0, 3.0], "float32")


@keras.saving.register_keras_serializable("tests")
def half_squares(y, p):
    """The mean over three examples divides by 3: together half of each square."""
    return 1.5 * keras.ops.square(y - p)[:, 0]


def quadratic(optimizer, mask="penalized", regularizer=None, start="zeros"):
    dense = keras.layers.Dense(
        1,
        use_bias=False,
        kernel_initializer=start,
        kernel_regularizer=regularizer,
        name="d",
    )
    model = keras.Sequential([keras.Input((3,)), dense], name="net")
    model = tt.wrap(model, mask=mask, verbose=False)
    model.compile(optimizer, half_squares, jit_compile=tiny.JIT)
    return model


def inputs():
    roots = np.sqrt(CURVATURES)
    return np.diag(roots), (roots * TARGETS)[:, None]


def kernel(model):
    return kernel_matrix(model)[:, 0]


def kernel_matrix(model):
    return wrapping.to_numpy(variable_of(model))


def variable_of(model):
    [variable] = wrapping.kernels(model).variables.values()
    return variable


def mask_of(model):
    [mask] = wrapping.kernels(model).mask_layers.values()
    return mask


@pytest.mark.parametrize(
    "optimizer", tiny.in_turns(["sgd", "adam", "momentum", "rmsprop"])
)
def test_the_fixed_point_on_a_quadratic(optimizer):
    made = {
        "sgd": keras.optimizers.SGD(0.1),
        "momentum": keras.optimizers.SGD(0.05, momentum=0.9),
        "adam": keras.optimizers.Adam(
            keras.optimizers.schedules.ExponentialDecay(0.1, 100, 0.5)
        ),
        "rmsprop": keras.optimizers.RMSprop(
            keras.optimizers.schedules.ExponentialDecay(0.1, 100, 0.5)
        ),
    }[optimizer]
    model = quadratic(made, masks.PenalizedMask(GrowingPenalty(0.01, cap=2.0)))
    chosen = np.array([[1], [0], [1]])
    mask_of(model).choose(chosen, 1500, 1)
    x, y = (np.tile(part, (1500, 1)) for part in inputs())
    model.fit(x, y, batch_size=3, verbose=0, shuffle=False)
    pulled = CURVATURES * TARGETS / (CURVATURES + 2.0)
    expected = np.where(chosen[:, 0], pulled, TARGETS)
    np.testing.assert_allclose(kernel(model), expected, rtol=2e-4)


def test_one_step_differs_from_the_dense_one_by_the_force_alone():
    x, y = inputs()
    start = keras.initializers.RandomNormal(seed=3)
    moved = {}
    for name in ("fixed", "penalized"):
        model = quadratic(keras.optimizers.SGD(0.1), name, start=start)
        before = kernel(model)
        if name == "penalized":
            mask_of(model).choose([[1], [0], [1]], steps=9, epochs=1)
        model.fit(x, y, batch_size=3, verbose=0)
        moved[name] = kernel(model) - before
    strength = mask_of(model).present_strength
    assert strength == pytest.approx(1 / 5)
    force = -0.1 * strength * before * [1, 0, 1]
    np.testing.assert_allclose(moved["penalized"] - moved["fixed"], force, atol=1e-7)
    assert moved["penalized"][1] == moved["fixed"][1]


def test_the_kernel_keeps_the_regularizer_that_it_has():
    model = quadratic("sgd", regularizer=keras.regularizers.L1(0.5), start="ones")
    mask_of(model).choose([[1], [0], [0]], steps=1, epochs=1)
    assert float(sum(model.losses)) == pytest.approx(0.5 * 3 + 0.5)
    variable = variable_of(model)
    own = own_regularizer(variable)
    assert isinstance(own, keras.regularizers.L1)
    plain = tt.strip(model)
    assert plain.layers[0].kernel is variable and variable.regularizer is own
    assert float(sum(plain.losses)) == pytest.approx(1.5)


def test_it_survives_being_saved(tmp_path):
    mask = masks.PenalizedMask(GrowingPenalty(0.25, hold=3))
    model = quadratic("sgd", mask, start="ones")
    mask_of(model).choose([[1], [0], [0]], steps=4, epochs=1)
    model.save(tmp_path / "a.keras")
    loaded = keras.models.load_model(tmp_path / "a.keras", compile=False)
    assert float(sum(loaded.losses)) == float(sum(model.losses)) == 0.125
    assert mask_of(loaded).penalty.get_config() == mask.penalty.get_config()
    assert mask_of(loaded).chosen_value().tolist() == [[True], [False], [False]]


def test_a_layer_that_is_called_twice_is_penalized_once_and_counts_once():
    dense = keras.layers.Dense(3, use_bias=False, kernel_initializer="ones", name="d")
    inputs_ = keras.Input((3,))
    net = keras.Model(inputs_, dense(dense(inputs_)), name="net")
    model = tt.wrap(net, mask="penalized", verbose=False)
    model.compile(keras.optimizers.SGD(1e-6), "mse", jit_compile=tiny.JIT)
    mask_of(model).choose(np.ones((3, 3)), steps=4, epochs=1)
    x = np.ones((8, 3), "float32")
    model.fit(x, x, batch_size=2, verbose=0)
    assert mask_of(model).clock.steps_done == 4
    penalty = mask_of(model).present_penalty(kernel_matrix(model))
    assert penalty == pytest.approx(4.5, rel=1e-3)
    assert float(sum(model.losses)) == pytest.approx(4.5, rel=1e-3)


def test_evaluation_does_not_let_it_grow():
    model = quadratic(keras.optimizers.SGD(1e-6), start="ones")
    mask_of(model).choose(np.ones((3, 1)), steps=90, epochs=30)
    x, y = inputs()
    for done in (1, 2):
        model.fit(x, y, batch_size=3, verbose=0)
        model.evaluate(x, y, batch_size=1, verbose=0)
        model.predict(x, verbose=0)
        assert mask_of(model).clock.steps_done == done
        assert mask_of(model).present_strength == pytest.approx(done / 50)


class Own(keras.Model):
    """A custom trainer that collects the losses as Keras requires."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def call(self, x, training=None):
        return self.inner(x, training=training)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, **kwargs):
        result = 3.0 * keras.ops.mean(keras.ops.square(y - y_pred))
        return result + sum(self.losses)


def test_another_trainer_sees_it_too():
    model = quadratic("sgd", masks.PenalizedMask(GrowingPenalty(0.01, cap=2.0)))
    trainer = Own(model)
    trainer.compile(keras.optimizers.SGD(0.05), jit_compile=tiny.JIT)
    mask_of(model).choose(np.ones((3, 1)), 800, 1)
    x, y = (np.tile(part, (800, 1)) for part in inputs())
    trainer.fit(x, y, batch_size=3, verbose=0, shuffle=False)
    # The loss is doubled, and so is its curvature.
    expected = 2 * CURVATURES * TARGETS / (2 * CURVATURES + 2.0)
    np.testing.assert_allclose(kernel(model), expected, rtol=1e-3)


def test_at_rest_it_trains_as_a_fixed_mask_to_the_bit():
    result = []
    for name in ("fixed", "penalized"):
        keras.utils.set_random_seed(0)
        model = tiny.compiled(tt.wrap(tiny.build(), mask=name, verbose=False))
        x, y = tiny.data()
        model.fit(x, y, batch_size=16, epochs=2, shuffle=False, verbose=0)
        result.append([wrapping.to_numpy(v) for v in model.trainable_variables])
    assert tiny.same(*result)


def test_a_schedule_must_be_callable():
    with pytest.raises(TypeError, match="Received: 0.5"):
        masks.PenalizedMask(0.5)
