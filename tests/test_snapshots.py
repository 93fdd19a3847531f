"""Snapshots: what a rewind restores, without pruned weights."""

import dataclasses

import keras
import numpy as np
import pytest
import tiny
from keras import optimizers

from tf_tickets import wrapping
from tf_tickets.training import snapshots
from tf_tickets.training.fidelity import FIDELITIES, PARTS, Fidelity

pytestmark = pytest.mark.turns("jax")

OPTIMIZERS = {
    "SGD": lambda: optimizers.SGD(0.1, momentum=0.9),
    "Nesterov": lambda: optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "Adam": lambda: optimizers.Adam(0.05),
    "AMSGrad": lambda: optimizers.Adam(0.05, amsgrad=True),
    "AdamW": lambda: optimizers.AdamW(0.05, weight_decay=0.1),
    "RMSprop": lambda: optimizers.RMSprop(0.05, momentum=0.9, centered=True),
    "Adafactor": lambda: optimizers.Adafactor(0.05),
    "Lion": lambda: optimizers.Lion(0.01),
    "Ftrl": lambda: optimizers.Ftrl(0.05, initial_accumulator_value=0.3),
    "EMA": lambda: optimizers.Adam(0.05, use_ema=True, ema_momentum=0.9),
    "EMA, written": lambda: optimizers.SGD(
        0.1, momentum=0.9, use_ema=True, ema_overwrite_frequency=3
    ),
    "accumulation": lambda: optimizers.Adam(0.05, gradient_accumulation_steps=3),
    "loss scale": lambda: optimizers.LossScaleOptimizer(
        optimizers.SGD(0.1, momentum=0.9, use_ema=True), initial_scale=8.0
    ),
}


def trained(optimizer, epochs=1):
    model = tiny.network(optimizer)
    return fit(model, epochs)


def fit(model, epochs=1, callbacks=()):
    x, y = tiny.data()
    model.fit(
        x,
        y,
        batch_size=16,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=list(callbacks),
    )
    return model


class Before(keras.callbacks.Callback):
    """Calls a function on the model before an epoch, within one `fit`."""

    def __init__(self, epoch, action):
        super().__init__()
        self.epoch, self.action = epoch, action

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            self.action(self.model)


def prune(model):
    wrapping.kernels(model).set_masks(tiny.half(model))


def prune_and_clean(model):
    prune(model)
    snapshots.zero_slots(model)


def changed(before, after):
    """Returns the parts that contain a changed array."""
    return {
        p
        for p in before
        if not tiny.same(tiny.flat(before, [p]), tiny.flat(after, [p]))
    }


@pytest.mark.parametrize("name", tiny.in_turns(OPTIMIZERS, every=4))
def test_old_momentum_cannot_bring_pruned_weights_back(name):
    model = tiny.network(OPTIMIZERS[name]())
    fit(model, 3, [Before(1, prune_and_clean)])
    assert tiny.pruned_weights(model).tolist() == [0.0] * 45
    assert all(np.isfinite(array).all() for array in tiny.flat(snapshots.record(model)))


@pytest.mark.both
@pytest.mark.parametrize(
    "name", tiny.in_turns(["SGD", "Adam", "EMA", "accumulation", "loss scale"])
)
def test_slots_are_zero_where_masks_prune_and_only_there(name):
    model = trained(OPTIMIZERS[name]())
    masks = tiny.half(model)
    wrapping.kernels(model).set_masks(masks)
    before = {id(s): wrapping.to_numpy(s) for s in model.optimizer.variables}
    snapshots.zero_slots(model)
    kernels = {id(v): masks[p] for p, v in wrapping.kernels(model).variables.items()}
    pairs = [(s, kernels.get(id(v), True)) for s, v in snapshots._slots(model)]
    assert sum(keep is not True for _, keep in pairs) >= 2
    for slot, keep in pairs:
        np.testing.assert_array_equal(wrapping.to_numpy(slot), before[id(slot)] * keep)


def test_without_zeroed_slots_the_average_would_bring_them_back():
    model = tiny.network(OPTIMIZERS["EMA"]())
    fit(model, 3, [Before(1, prune)])
    assert tiny.pruned_weights(model).any()


def test_slots_of_layers_with_equal_names_are_told_apart():
    inputs = keras.Input((4,))
    x = inputs
    for outer, inner in [("a", "b_c"), ("a_b", "c")]:
        layer = keras.layers.Dense(4, name=inner, use_bias=False)
        x = keras.Sequential([keras.Input((4,)), layer], name=outer)(x)
    model = keras.Model(inputs, x)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    assert len({s.name for s, _ in snapshots._slots(model)}) == 1
    owners = [v for _, v in snapshots._slots(model)]
    assert [id(v) for v in owners] == [id(v) for v in model.trainable_variables]


def everything_changed():
    model = tiny.network(optimizers.Adam(0.05))
    start = snapshots.record(model)
    fit(model)
    middle = snapshots.record(model)
    model.optimizer.learning_rate = 0.01
    fit(model)
    return model, start, middle, snapshots.record(model)


def test_training_changes_every_part():
    _, start, middle, end = everything_changed()
    assert changed(start, middle) == changed(middle, end) == set(PARTS)


@pytest.mark.parametrize("part", PARTS)
def test_a_part_is_kept_where_the_fidelity_keeps_it(part):
    model, start, middle, end = everything_changed()
    everything = Fidelity.get("exact")
    fidelity = dataclasses.replace(everything, **{part: "keep"})
    snapshots.restore(model, middle, fidelity, start)
    now = snapshots.record(model)
    assert changed(middle, now) == {part}
    assert changed(end, now) == set(PARTS) - {part}


@pytest.mark.both
def test_exact_restores_every_part():
    model, start, middle, _ = everything_changed()
    snapshots.restore(model, middle, Fidelity.get("exact"), start)
    assert changed(middle, snapshots.record(model)) == set()


def test_exact_restores_averages_of_weights_too():
    diary, result = tiny.Diary(), []

    def restore(model):
        snapshots.restore(model, diary.after[0], Fidelity.get("exact"), None)
        result.append(snapshots.record(model))

    model = tiny.network(OPTIMIZERS["EMA"]())
    fit(model, 3, [diary, Before(2, restore)])
    assert changed(diary.after[0], result[0]) == set()
    assert changed(diary.after[1], result[0]) != set()


def test_a_fresh_optimizer_is_the_one_of_the_beginning():
    model, start, middle, _ = everything_changed()
    fidelity = Fidelity(seeds="rewind")
    snapshots.restore(model, middle, fidelity, start)
    now = snapshots.record(model)
    assert changed(middle, now) == {"optimizer"}
    assert tiny.same(tiny.flat(now, ["optimizer"]), tiny.flat(start, ["optimizer"]))


def test_a_fresh_average_starts_from_the_weights():
    result = []

    def restart(model):
        state = snapshots.record(model)
        state["optimizer"] = {n: 0 * array for n, array in state["optimizer"].items()}
        snapshots.restore(model, state, Fidelity.get("weights"), state)
        result.extend(
            (wrapping.to_numpy(slot), wrapping.to_numpy(variable))
            for slot, variable in snapshots._slots(model)
            if "average" in slot.name
        )

    fit(tiny.network(OPTIMIZERS["EMA"]()), 2, [Before(1, restart)])
    assert len(result) == 6
    assert all((average == variable).all() for average, variable in result)


def test_a_record_does_not_change_with_the_model():
    model = tiny.network()
    state = snapshots.record(model)
    copies = [array.copy() for array in tiny.flat(state)]
    fit(model)
    assert tiny.same(tiny.flat(state), copies)


def test_masks_are_no_part_of_the_state():
    model = tiny.network()
    before = snapshots.record(model)
    masks = {p: np.ones_like(m) for p, m in wrapping.kernels(model).masks.items()}
    wrapping.kernels(model).set_masks(masks)
    assert changed(before, snapshots.record(model)) == set()
    assert not any("mask" in name for part in before.values() for name in part)


@pytest.mark.parametrize("name", tiny.in_turns(["SGD", "Adam", "EMA", "loss scale"]))
def test_resetting_places_the_step_and_training_goes_on(name):
    model = tiny.network(OPTIMIZERS[name]())
    fit(model, 2, [Before(1, lambda model: snapshots.reset_optimizer(model, step=50))])
    assert snapshots.iteration(model) == 54


@pytest.mark.parametrize("name", tiny.in_turns(["SGD", "Adam", "accumulation"]))
def test_resetting_gives_the_slots_of_a_new_optimizer(name):
    model = trained(OPTIMIZERS[name]())
    snapshots.reset_optimizer(model, step=5)
    new = snapshots.record(tiny.network(OPTIMIZERS[name]()))
    assert changed(new, snapshots.record(model)) >= {"weights", "learning_rate"}
    assert "optimizer" not in changed(new, snapshots.record(model))


def test_resetting_does_not_begin_at_zero_where_the_optimizer_does_not():
    model = trained(OPTIMIZERS["Ftrl"]())
    snapshots.reset_optimizer(model, step=0)
    accumulators = [s for s, _ in snapshots._slots(model) if "accumulator" in s.name]
    assert len(accumulators) == 6
    assert all((wrapping.to_numpy(s) == np.float32(0.3)).all() for s in accumulators)


def test_the_step_is_counted_behind_a_loss_scale():
    assert snapshots.iteration(trained(OPTIMIZERS["loss scale"]())) == 4


def test_a_state_of_another_model_is_refused():
    state = snapshots.record(tiny.network())
    model = tiny.network(names=("other", "norm", "output"))
    with pytest.raises(ValueError, match="Only in the model: .*other/kernel"):
        snapshots.restore(model, state, Fidelity.get("exact"), None)


def test_a_state_of_another_build_is_adopted_under_its_names():
    state = snapshots.record(trained(optimizers.Adam(0.05)))
    model = tiny.network(optimizers.Adam(), names=("hidden_4", "norm_2", "output_9"))
    adopted = snapshots.adopt(model, state)
    assert list(adopted["weights"])[:2] == ["net/hidden_4/kernel", "net/hidden_4/bias"]
    snapshots.restore(model, adopted, Fidelity.get("exact"), None)
    assert tiny.same(tiny.flat(snapshots.record(model)), tiny.flat(state))


def test_a_model_without_optimizer_is_refused():
    with pytest.raises(ValueError, match="no optimizer. Call model.compile"):
        snapshots.record(tiny.build())


@pytest.mark.parametrize("name", FIDELITIES)
def test_a_fidelity_survives_its_configuration(name):
    fidelity = Fidelity.get(name)
    assert Fidelity.get(fidelity.get_config()) == fidelity
    assert Fidelity.get(fidelity) is fidelity


@pytest.mark.parametrize("part", PARTS)
def test_a_wrong_fidelity_is_refused_with_what_was_received(part):
    with pytest.raises(ValueError, match=f"`{part}` must be one of.*'restart'"):
        Fidelity(**{part: "restart"})


def test_only_the_optimizer_can_be_fresh():
    with pytest.raises(ValueError, match="Received: 'fresh'"):
        Fidelity(weights="fresh")


def test_an_unknown_fidelity_is_refused():
    with pytest.raises(ValueError, match="Received: 'full'.*'exact'"):
        Fidelity.get("full")
