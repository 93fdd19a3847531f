"""Gradual pruning: when it fires, how much it prunes, what it does not touch."""

import keras
import numpy as np
import pytest
import tiny

import tf_tickets as tt
from tf_tickets import wrapping
from tf_tickets.pruning import schedules

pytestmark = pytest.mark.turns("jax")


class Watched(tt.GradualPruning):
    """Records when it prunes and how often it accesses the model."""

    def on_train_begin(self, logs=None):
        self.prunings, self.masks = [], []
        super().on_train_begin(logs)

    def advance(self, step):
        self.at = step
        super().advance(step)

    def _prune(self, sparsity):
        self.prunings.append((self.at, round(float(sparsity), 4)))
        super()._prune(sparsity)
        self.masks.append(wrapping.kernels(self.model).masks)


def pruned(schedule, epochs=2, spe=1, **kwargs):
    """Trains 4 steps per epoch with a schedule."""
    model = tiny.network()
    tiny.compiled(model, steps_per_execution=spe)
    pruning = Watched(schedule, **kwargs)
    x, y = tiny.data()
    logs = model.fit(
        x, y, batch_size=16, epochs=epochs, verbose=0, callbacks=[pruning]
    ).history
    return model, pruning, logs


@pytest.mark.both
@pytest.mark.parametrize(
    "allocation, spe", tiny.checkered(["global", "uniform", "erk"], [1, 4])
)
def test_the_last_sparsity_is_reached_exactly(allocation, spe):
    schedule = schedules.PolynomialDecay(0.1, 0.7, 0, 8, frequency=4)
    model, pruning, logs = pruned(schedule, spe=spe, allocation=allocation)
    assert sum(pruning.ticket.kept.values()) == 27
    assert logs["sparsity"][-1] == pruning.ticket.sparsity == 63 / 90
    assert tiny.pruned_weights(model).tolist() == [0.0] * 63


@pytest.mark.parametrize(
    "spe, frequency, steps",
    tiny.in_turns(
        [
            (1, 1, [1, 2, 3, 4, 5, 6, 7, 8]),
            (1, 3, [3, 6]),
            (4, 1, [1, 4, 5, 8]),
            (4, 3, [4, 8]),
            (1, 4, [4, 8]),
        ]
    ),
)
def test_it_fires_once_at_every_step_that_is_due(spe, frequency, steps):
    schedule = schedules.IterativeRate(0.05, 0, frequency=frequency)
    _, pruning, _ = pruned(schedule, spe=spe)
    assert [step for step, _ in pruning.prunings] == steps


def test_of_several_that_are_due_the_last_counts():
    _, pruning, _ = pruned(
        schedules.IterativeRate(0.5, 2, end_step=4, frequency=1), spe=4
    )
    assert pruning.prunings == [(4, 0.875)]


def test_masks_are_nested():
    schedule = schedules.PolynomialDecay(0.1, 0.8, 0, 12, frequency=2)
    _, pruning, _ = pruned(schedule, epochs=3)
    assert len(pruning.masks) == 6
    for earlier, later in zip(pruning.masks, pruning.masks[1:], strict=False):
        assert not any((later[p] & ~earlier[p]).any() for p in later)


def test_a_second_fit_begins_at_step_0():
    pruning = Watched(schedules.ConstantSparsity(0.5, 2, end_step=2, frequency=1))
    model = tiny.network()
    x, y = tiny.data()
    for _ in range(2):
        model.fit(x, y, batch_size=16, verbose=0, callbacks=[pruning])
        assert pruning.prunings == [(2, 0.5)]


def own_schedule(step):
    """A user's schedule, which accepts only a single integer."""
    if step < 3:
        return False, 0.0
    return step == 3, 0.4


def test_a_function_of_one_step_is_a_schedule():
    _, pruning, _ = pruned(own_schedule)
    assert pruning.prunings == [(3, 0.4)]


@pytest.mark.parametrize("name", ["PolynomialDecay", "ConstantSparsity"])
def test_schedules_of_tensorflow_model_optimization_prune_alike(name):
    sparsity = pytest.importorskip("tensorflow_model_optimization").sparsity.keras
    given = {
        "PolynomialDecay": dict(
            initial_sparsity=0.0,
            final_sparsity=0.5,
            begin_step=0,
            end_step=8,
            frequency=4,
        ),
        "ConstantSparsity": dict(target_sparsity=0.5, begin_step=1, frequency=2),
    }[name]
    _, theirs, _ = pruned(vars(sparsity)[name](**given))
    _, ours, _ = pruned(vars(schedules)[name](**given))
    assert theirs.prunings == ours.prunings
    assert tiny.same(theirs.masks[-1].values(), ours.masks[-1].values())


class Counting(tt.GradualPruning):
    """Counts accesses to the model, which are slow on JAX."""

    asked = 0

    @property
    def model(self):
        Counting.asked += 1
        return super().model


def test_between_prunings_the_model_is_not_touched():
    Counting.asked = 0
    counts = []
    note = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: counts.append(Counting.asked)
    )
    schedule = schedules.ConstantSparsity(0.5, 4, end_step=4, frequency=1)
    x, y = tiny.data(160)
    tiny.network().fit(
        x, y, batch_size=16, verbose=0, callbacks=[Counting(schedule), note]
    )
    assert len(set(counts[:3])) == len(set(counts[3:])) == 1
    assert counts[3] > counts[2]


def test_a_schedule_that_never_fires_warns():
    with pytest.warns(UserWarning, match="fires at none of the 8 planned steps"):
        pruned(schedules.ConstantSparsity(0.0, 100))


class Before(keras.callbacks.Callback):
    """Fails the training when its first step begins."""

    def on_train_batch_begin(self, batch, logs=None):
        raise AssertionError("The training has begun.")


def test_a_training_too_short_for_the_schedule_warns_before_it_begins():
    schedule = schedules.PolynomialDecay(0.0, 0.8, 0, 8, frequency=2)
    arguments = {"batch_size": 16, "verbose": 0}
    callbacks = [tt.GradualPruning(schedule), Before()]
    message = "only 0.7000 in the 4 planned steps.*sparsity 0.8000 at step 8"
    with pytest.warns(UserWarning, match=message), pytest.raises(AssertionError):
        tiny.network().fit(*tiny.data(), callbacks=callbacks, **arguments)


def test_a_training_too_short_for_the_schedule_warns_once(recwarn):
    pruned(schedules.PolynomialDecay(0.0, 0.8, 0, 8, frequency=2), epochs=1)
    pruned(schedules.ConstantSparsity(0.8, 100), epochs=1)
    assert len([w for w in recwarn if "schedule" in str(w.message)]) == 2


@pytest.mark.parametrize("frequency", [1, 3, 100])
def test_a_decay_within_the_training_reaches_its_end_without_a_warning(
    frequency, recwarn
):
    schedule = schedules.PolynomialDecay(0.0, 0.7, 1, 8, frequency=frequency)
    assert pruned(schedule)[1].ticket.sparsity == 0.7
    assert not [w for w in recwarn if "schedule" in str(w.message)]


class Stop(keras.callbacks.Callback):
    """Stops the training after its first epoch."""

    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = True


def test_a_training_that_stops_before_the_last_sparsity_warns_with_both():
    schedule = schedules.PolynomialDecay(0.0, 0.8, 0, 8, frequency=8)
    callbacks = [tt.GradualPruning(schedule), Stop()]
    arguments = {"batch_size": 16, "epochs": 2, "verbose": 0}
    with pytest.warns(UserWarning, match="sparsity 0.7000 at step 4.*has 0.0000"):
        tiny.network().fit(*tiny.data(), callbacks=callbacks, **arguments)


def test_a_function_that_asks_for_nothing_between_prunings_does_not_warn(recwarn):
    pruned(lambda step: (step == 2, 0.4 if step == 2 else 0.0))
    assert not [w for w in recwarn if "schedule" in str(w.message)]


def test_a_model_that_is_not_wrapped_raises():
    pruning = tt.GradualPruning(schedules.ConstantSparsity(0.5, 0))
    with pytest.raises(ValueError, match="no Prunable layers"):
        tiny.build_compiled().fit(*tiny.data(), verbose=0, callbacks=[pruning])


def test_no_schedule_raises():
    with pytest.raises(TypeError, match="Received: 0.5"):
        tt.GradualPruning(0.5)


def test_the_ticket_can_be_applied_to_a_new_model(tmp_path):
    _, pruning, _ = pruned(schedules.ConstantSparsity(0.5, 2, frequency=1))
    pruning.ticket.save(tmp_path / "a.ticket")
    model = tt.Ticket.load(tmp_path / "a.ticket").apply(tiny.build())
    result = np.concatenate([m.ravel() for m in wrapping.kernels(model).masks.values()])
    assert result.sum() == 45
