"""Several optimizers in one: each trains its group as if it were alone."""

import json

import keras
import numpy as np
import pytest
import tiny

from tf_tickets import optimizers, wrapping
from tf_tickets.training import snapshots

pytestmark = pytest.mark.turns

SETTINGS = {
    "plain": {},
    "EMA": {"use_ema": True, "ema_momentum": 0.5},
    "accumulation": {"gradient_accumulation_steps": 2},
    "decay": {"weight_decay": 0.1},
    "clipping": {"global_clipnorm": 0.05},
}


def plain():
    keras.utils.set_random_seed(0)
    return tiny.build(dropout=0.0)


def trained(optimizer, frozen=(), epochs=2, **kwargs):
    model = plain()
    for variable in model.trainable_variables:
        if any(word in variable.path for word in frozen):
            variable.trainable = False
    tiny.compiled(model, optimizer, **kwargs)
    x, y = tiny.data()
    fit = {"batch_size": 16, "shuffle": False, "verbose": 0}
    model.fit(x, y, epochs=epochs, **fit)
    return model


def values(variables):
    return [wrapping.to_numpy(v) for v in variables]


@pytest.mark.parametrize("options", tiny.in_turns(SETTINGS.values(), every=4))
def test_a_group_of_all_variables_is_the_optimizer_itself(options):
    def one():
        return keras.optimizers.SGD(0.1, momentum=0.9, **options)

    alone = trained(one())
    for grouped in (
        optimizers.Grouped("adam", {".": one()}),
        optimizers.Grouped(one(), {"nothing": "adam"}),
    ):
        model = trained(grouped)
        assert tiny.same(values(model.variables), values(alone.variables))


@pytest.mark.both
@pytest.mark.parametrize("options", tiny.in_turns(SETTINGS.values(), every=4))
def test_each_group_moves_as_if_the_other_stood_still(options):
    """Takes one step from the same weights, so the gradients are equal."""
    fast = keras.optimizers.Adam(0.1, **options)
    slow = keras.optimizers.SGD(0.01, momentum=0.9, **options)
    both = trained(optimizers.Grouped(slow, {"hidden": fast}), epochs=1)
    x, _ = tiny.data()
    assert both.optimizer.optimizer_of(both.trainable_variables[0]) is fast
    assert len(x) == 64
    one_step = {"steps_per_epoch": 1, "batch_size": 64, "shuffle": False}

    def step(optimizer, frozen):
        model = plain()
        for variable in model.trainable_variables:
            variable.trainable = frozen not in variable.path
        tiny.compiled(model, optimizer)
        model.fit(*tiny.data(), verbose=0, **one_step)
        return {v.path: wrapping.to_numpy(v) for v in model.trainable_variables}

    grouped = optimizers.Grouped(
        optimizers.twin(slow), {"hidden": optimizers.twin(fast)}
    )
    together = step(grouped, "nothing")
    apart = step(optimizers.twin(fast), "output") | step(
        optimizers.twin(slow), "hidden"
    )
    clipped = "global_clipnorm" in options
    for path, expected in apart.items():
        # Apart, both trained batch normalization; together, only the default does.
        if "norm" not in path and not (clipped and "output" not in path):
            np.testing.assert_allclose(together[path], expected, rtol=1e-6, atol=1e-7)


def test_clipping_by_norm_looks_at_the_own_group_alone():
    clipping = keras.optimizers.SGD(1.0, global_clipnorm=0.01)
    model = plain()
    before = {v.path: wrapping.to_numpy(v) for v in model.trainable_variables}
    tiny.compiled(model, optimizers.Grouped(clipping, {"hidden": "sgd"}))
    model.fit(*tiny.data(), batch_size=64, verbose=0)
    moved = [
        wrapping.to_numpy(v) - before[v.path]
        for v in model.trainable_variables
        if "hidden" not in v.path
    ]
    norm = np.sqrt(sum((m**2).sum() for m in moved))
    assert norm == pytest.approx(0.01, rel=1e-4)


def test_the_learning_rate_that_callbacks_see_is_that_of_the_default():
    grouped = optimizers.Grouped(keras.optimizers.Adam(0.5), {"bias": "sgd"})
    model = tiny.compiled(plain(), grouped)
    schedule = keras.callbacks.LearningRateScheduler(lambda epoch: 0.25)
    model.fit(*tiny.data(), callbacks=[schedule], verbose=0)
    assert float(grouped.learning_rate) == float(grouped.default.learning_rate) == 0.25
    assert float(grouped.groups["bias"].learning_rate) == pytest.approx(0.01)
    assert int(grouped.iterations) == int(grouped.default.iterations) == 2


def test_weight_decay_is_found_in_every_kind_of_optimizer():
    model = plain()
    [first, *_] = model.trainable_variables
    decaying = keras.optimizers.AdamW(0.1, weight_decay=0.1)
    assert optimizers.decays(decaying, [first])
    assert not optimizers.decays(keras.optimizers.AdamW(0.1, weight_decay=0.0), [first])
    grouped = optimizers.Grouped(decaying, {"hidden/kernel": "sgd"})
    assert not optimizers.decays(grouped, [first])
    assert optimizers.decays(grouped, model.trainable_variables)
    several = getattr(keras.optimizers, "MultiOptimizer", None)
    if several is not None:
        table = keras.optimizers.OptimizerMap(decaying)
        assert optimizers.decays(several(table), [first])


@pytest.mark.on("tensorflow")
def test_a_schedule_of_the_users_need_not_be_compiled():
    import tensorflow as tf

    class Halves(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            value = tf.numpy_function(lambda step: np.float32(0.5), [step], tf.float32)
            return tf.ensure_shape(value, ())

    scores = keras.Variable([1.0, 2.0], name="mask_scores")
    sgd = keras.optimizers.SGD(Halves())
    grouped = optimizers.Grouped("adam", {optimizers.SCORES: sgd})
    grouped.build([scores])
    step = tf.function(lambda: grouped.apply([tf.ones(2)], [scores]), autograph=False)
    step()
    assert wrapping.to_numpy(scores).tolist() == [0.5, 1.5]


def test_with_nothing_for_the_default_the_steps_are_those_of_the_group():
    grouped = optimizers.Grouped("adam", {".": keras.optimizers.SGD(0.5)})
    model = tiny.compiled(plain(), grouped)
    model.fit(*tiny.data(), verbose=0)
    assert int(grouped.iterations) == snapshots.iteration(model) == 2
    assert float(grouped.learning_rate) == 0.5


def test_a_compiled_model_survives_its_file_and_goes_on_the_same(tmp_path):
    groups = {"kernel": keras.optimizers.SGD(0.1, momentum=0.9)}
    model = trained(optimizers.Grouped(keras.optimizers.Adam(0.01), groups))
    model.save(tmp_path / "a.keras")
    loaded = keras.models.load_model(tmp_path / "a.keras")
    assert tiny.same(
        values(loaded.optimizer.variables), values(model.optimizer.variables)
    )
    fit = {"batch_size": 16, "shuffle": False, "verbose": 0}
    for result in (model, loaded):
        result.fit(*tiny.data(), **fit)
    assert tiny.same(values(loaded.variables), values(model.variables))


def test_the_configuration_is_json_and_gives_the_same_optimizer():
    grouped = optimizers.Grouped(
        keras.optimizers.AdamW(0.3, weight_decay=0.2), {"a": "sgd", "b": "rmsprop"}
    )
    config = json.loads(json.dumps(keras.optimizers.serialize(grouped)))
    again = keras.optimizers.deserialize(config)
    assert again.get_config() == grouped.get_config()
    assert [type(o).__name__ for o in again.members] == ["AdamW", "SGD", "RMSprop"]


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_scales_the_loss_around_it(policy):
    keras.config.set_dtype_policy(policy)
    model = plain()
    tiny.compiled(model, optimizers.Grouped("adam", {"bias": "sgd"}))
    before = values(model.trainable_variables)
    model.fit(*tiny.data(), verbose=0)
    scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled is (policy == "mixed_float16")
    assert snapshots.iteration(model) == 2
    assert not tiny.same(values(model.trainable_variables), before)


def test_scores_get_an_optimizer_without_weight_decay():
    both = optimizers.with_scores(keras.optimizers.AdamW(0.3, weight_decay=0.2))
    assert both.default.weight_decay == 0.2
    assert both.groups[optimizers.SCORES].weight_decay == 0.0
    assert float(both.groups[optimizers.SCORES].learning_rate) == pytest.approx(0.3)
    assert optimizers.with_scores(both) is both
    loss_scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD())
    scaled = optimizers.with_scores(loss_scaled)
    assert isinstance(scaled.inner_optimizer, optimizers.Grouped)


def test_excluding_from_weight_decay_reaches_every_group():
    grouped = optimizers.Grouped(
        keras.optimizers.SGD(0.1, weight_decay=0.5),
        {"output": keras.optimizers.SGD(0.1, weight_decay=0.5)},
    )
    grouped.exclude_from_weight_decay(var_names=["kernel"])
    decaying = trained(grouped)
    alone = keras.optimizers.SGD(0.1, weight_decay=0.5)
    alone.exclude_from_weight_decay(var_names=["kernel"])
    assert tiny.same(values(decaying.variables), values(trained(alone).variables))


@pytest.mark.parametrize("groups", [{}, None, ["sgd"]])
def test_groups_must_be_a_dict_of_optimizers(groups):
    with pytest.raises(ValueError, match="regular expression"):
        optimizers.Grouped("adam", groups)


def test_an_optimizer_of_groups_gets_one_for_the_scores():
    decaying = keras.optimizers.AdamW(0.1, weight_decay=0.1)
    grouped = optimizers.Grouped(decaying, {"bias": keras.optimizers.SGD(0.1)})
    both = optimizers.with_scores(grouped)
    assert list(both.groups) == [optimizers.SCORES, "bias"]
    assert both.default is decaying and both.groups["bias"] is grouped.groups["bias"]
    assert both.groups[optimizers.SCORES].weight_decay == 0.0
    assert optimizers.with_scores(both) is both
    with pytest.raises(ValueError, match="have an optimizer already"):
        optimizers.with_scores(both, "sgd")
    nested = optimizers.Grouped("sgd", {".": grouped})
    [first, *_] = plain().trainable_variables
    assert optimizers.decays(nested, [first])
