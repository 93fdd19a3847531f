import warnings

import keras
import numpy as np
import pytest

from tf_tickets.pruning import schedules

pytestmark = pytest.mark.turns

STEPS = np.arange(0, 260)
CASES = [
    schedules.ConstantSparsity(0.5, 20, end_step=150, frequency=7),
    schedules.ConstantSparsity(0.25, 0),
    schedules.PolynomialDecay(0.1, 0.8, 20, 200, power=2, frequency=9),
    schedules.PolynomialDecay(0.0, 0.9, 0, 150),
]


@pytest.fixture
def peer(monkeypatch):
    """Returns the schedules of tensorflow-model-optimization, if installed."""
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tfmot = pytest.importorskip("tensorflow_model_optimization")
        yield tfmot.sparsity.keras


@pytest.mark.parametrize("schedule", CASES)
def test_every_step_equals_that_of_tfmot(schedule, peer):
    theirs = getattr(peer, type(schedule).__name__)(**schedule.get_config())
    expected = [theirs(int(step)) for step in STEPS]
    fires, sparsities = zip(*[schedule(step) for step in STEPS], strict=True)
    fired = [bool(np.asarray(f)) for f, _ in expected]
    if isinstance(schedule, schedules.PolynomialDecay):
        fired[schedule.end_step] = True  # The one step that we add.
    assert [bool(f) for f in fires] == fired
    wanted = [float(np.asarray(s)) for _, s in expected]
    np.testing.assert_allclose([float(s) for s in sparsities], wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("step", "fires", "sparsity"),
    [
        (0, False, 0.1),
        (10, True, 0.1),
        (14, False, 0.42),
        (15, True, 0.475),
        (20, True, 0.6),
        (25, False, 0.6),
    ],
)
def test_a_decay_goes_through_points_worked_out_by_hand(step, fires, sparsity):
    schedule = schedules.PolynomialDecay(0.1, 0.6, 10, 20, power=2, frequency=5)
    assert bool(schedule(step)[0]) is fires
    assert float(schedule(step)[1]) == pytest.approx(sparsity)


@pytest.mark.parametrize("frequency", [1, 3, 7, 100])
def test_a_decay_fires_at_its_end_whatever_the_frequency(frequency):
    schedule = schedules.PolynomialDecay(0.0, 0.8, 10, 20, frequency=frequency)
    steps = [10, *range(10 + frequency, 20, frequency), 20]
    assert np.flatnonzero(schedule(STEPS)[0]).tolist() == steps
    assert float(schedule(20)[1]) == 0.8


@pytest.mark.parametrize("schedule", [*CASES, schedules.IterativeRate(0.3, 10)])
def test_an_array_of_steps_gives_what_the_steps_give_one_by_one(schedule):
    fires, sparsities = schedule(STEPS)
    assert fires.tolist() == [bool(schedule(int(step))[0]) for step in STEPS]
    single = [float(schedule(int(step))[1]) for step in STEPS]
    np.testing.assert_allclose(sparsities, single, rtol=0, atol=1e-12)


def test_an_iterative_rate_takes_its_share_of_what_is_left():
    schedule = schedules.IterativeRate(0.2, begin_step=10, end_step=29, frequency=10)
    kept = [1 - float(schedule(step)[1]) for step in (9, 10, 19, 20, 30, 1000)]
    np.testing.assert_allclose(kept, [1, 0.8, 0.8, 0.64, 0.64, 0.64])


def test_an_iterative_rate_does_not_count_step_0_which_is_never_asked():
    schedule = schedules.IterativeRate(0.5, begin_step=0, frequency=10)
    kept = [1 - float(schedule(step)[1]) for step in (0, 9, 10, 19, 20)]
    np.testing.assert_allclose(kept, [1, 1, 0.5, 0.5, 0.25])


def test_sparsity_never_falls():
    schedule = schedules.PolynomialDecay(0.2, 0.9, 5, 205, frequency=1)
    assert (np.diff(schedule(STEPS)[1]) >= 0).all()


@pytest.mark.parametrize(
    "schedule",
    [
        schedules.ConstantSparsity(0.5, 3, end_step=9, frequency=2),
        schedules.PolynomialDecay(0.1, 0.7, 2, 11, power=4, frequency=3),
        schedules.IterativeRate(0.3, 4, end_step=40, frequency=5),
    ],
)
def test_every_argument_survives_serialization(schedule):
    config = keras.saving.serialize_keras_object(schedule)
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is type(schedule)
    assert vars(again) == vars(schedule)
    assert type(schedule).from_config(schedule.get_config()).get_config() == vars(again)


@pytest.mark.parametrize("value", [-0.1, 1.0, 80])
def test_a_sparsity_outside_its_range_raises_and_is_named(value):
    with pytest.raises(ValueError, match=f"Received: target_sparsity={value}"):
        schedules.ConstantSparsity(value, 0)
    with pytest.raises(ValueError, match=f"Received: final_sparsity={value}"):
        schedules.PolynomialDecay(0.0, value, 0, 10)
    with pytest.raises(ValueError, match=f"Received: rate={value}"):
        schedules.IterativeRate(value, 0)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"begin_step": -1}, "`begin_step` .* 0 or more. Received: -1"),
        ({"begin_step": 1.5}, "`begin_step` .* Received: 1.5"),
        ({"begin_step": float("nan")}, "`begin_step` .* Received: nan"),
        ({"begin_step": "x"}, "`begin_step` .* Received: 'x'"),
        ({"begin_step": 0, "frequency": 0}, "`frequency` .* 1 or more. Received: 0"),
        ({"begin_step": 0, "frequency": None}, "`frequency` .* Received: None"),
        ({"begin_step": 0, "frequency": float("nan")}, "`frequency` .* Received: nan"),
        ({"begin_step": 5, "end_step": 4}, "end_step=4"),
        ({"begin_step": 5, "end_step": float("nan")}, "end_step=nan"),
        ({"begin_step": 5, "end_step": None}, "end_step=None"),
    ],
)
def test_steps_that_make_no_sense_raise_and_are_named(settings, named):
    with pytest.raises(ValueError, match=named):
        schedules.ConstantSparsity(0.5, **settings)


@pytest.mark.parametrize("power", [0, -1, float("nan"), float("inf"), "x", None])
def test_a_power_that_is_not_above_0_raises_and_is_named(power):
    with pytest.raises(ValueError, match=f"`power` .*Received: .*{power}"):
        schedules.PolynomialDecay(0.0, 0.5, 0, 10, power=power)


@pytest.mark.parametrize("end", [-1, 10])
def test_a_decay_without_a_way_to_go_raises(end):
    with pytest.raises(ValueError, match=f"end_step={end}"):
        schedules.PolynomialDecay(0.0, 0.5, 10, end)
