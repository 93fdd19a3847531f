"""The best epoch of a round, and callbacks that would undo pruning to get it."""

import keras
import numpy as np
import pytest
import tiny

import tf_tickets as tt
from tf_tickets import wrapping

pytestmark = pytest.mark.turns("jax")

VALIDATION = {"validation_data": tiny.data(32, seed=1)}


def best_weights(**kwargs):
    arguments = {"monitor": "val_loss", "patience": 99, "restore_best_weights": True}
    return keras.callbacks.EarlyStopping(**{**arguments, **kwargs})


def checkpoint(folder, name="best.keras", **kwargs):
    return keras.callbacks.ModelCheckpoint(
        str(folder / name), "val_loss", save_best_only=True, **kwargs
    )


class SaveBestEpoch(keras.callbacks.Callback):
    """Stands for the callback of KerasTuner, which is recognized by its name."""


def kept(model):
    return sum(int(mask.sum()) for mask in wrapping.kernels(model).masks.values())


def rising():
    """Lets the loss rise with each epoch, so that the first one of a round is best."""
    return keras.optimizers.SGD(-0.3)


# Next to a search.


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(
    "kind", ["EarlyStopping", "ModelCheckpoint", "EarlyStopRewind"]
)
def test_callbacks_that_keep_the_best_epoch_are_refused(tmp_path, kind, first):
    callback = {
        "EarlyStopping": best_weights(),
        "ModelCheckpoint": checkpoint(tmp_path),
        "EarlyStopRewind": tt.EarlyStopRewind(3),
    }[kind]
    search, model, epochs = tiny.imp(), tiny.network(), tiny.Diary()
    callbacks = [callback, search] if first else [search, callback]
    with pytest.raises(ValueError, match=f"{kind} with .*=True next to IMP.*in_round"):
        tiny.run(model, search, [epochs, *callbacks], **VALIDATION)
    assert not epochs.before


def test_the_tuners_callback_is_refused():
    search = tiny.imp()
    with pytest.raises(ValueError, match=r"KerasTuner's SaveBestEpoch.*HyperModel"):
        tiny.run(tiny.network(), search, [search, SaveBestEpoch()])


def test_callbacks_that_keep_every_epoch_are_accepted(tmp_path):
    search = tiny.imp(rounds=1, epochs_per_round=1)
    stop = keras.callbacks.EarlyStopping("loss", patience=99)
    every = keras.callbacks.ModelCheckpoint(str(tmp_path / "{epoch}.keras"))
    tiny.run(tiny.network(), search, [stop, every, search])
    assert len(list(tmp_path.iterdir())) == 2


def test_find_tickets_refuses_them_before_it_writes(tmp_path):
    with pytest.raises(ValueError, match="in_round"):
        tt.find_tickets(
            tiny.build_compiled,
            tiny.splits(),
            tiny.imp(monitor="val_loss"),
            tmp_path,
            callbacks=[best_weights()],
            verbose=0,
        )
    assert not list(tmp_path.glob("*.ticket"))


class Restore(keras.callbacks.Callback):
    """Restores the weights and masks of the first epoch at a later moment."""

    def __init__(self, moment, epoch):
        super().__init__()
        self.moment, self.epoch = moment, epoch

    def at(self, moment, epoch):
        if epoch == 0 and moment == "end":
            self.weights = self.model.get_weights()
        if (moment, epoch) == (self.moment, self.epoch):
            self.model.set_weights(self.weights)

    def on_epoch_begin(self, epoch, logs=None):
        self.at("begin", epoch)

    def on_epoch_end(self, epoch, logs=None):
        self.at("end", epoch)

    def on_train_end(self, logs=None):
        self.at("train end", self.epoch)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("moment, epoch", [("begin", 2), ("begin", 3), ("end", 3)])
def test_masks_that_a_callback_restores_are_noticed(moment, epoch, first):
    search, model = tiny.imp(rounds=3, epochs_per_round=2), tiny.network()
    restore = Restore(moment, epoch)
    callbacks = [restore, search] if first else [search, restore]
    if (moment, epoch, first) == ("begin", 2, True):
        # The masks of round 0, before round 1 sets its own.
        tiny.run(model, search, callbacks)
        return
    with pytest.raises(ValueError, match="were changed in round 1, not by the search"):
        tiny.run(model, search, callbacks)


def test_masks_restored_when_training_ends_are_noticed():
    search, model = tiny.imp(rounds=2, epochs_per_round=1), tiny.network()
    with pytest.raises(ValueError, match=r"in search\.tickets"):
        tiny.run(model, search, [Restore("train end", 0), search])
    assert [ticket.sparsity for ticket in search.tickets] != []


# In a round.


@pytest.mark.both
def test_a_round_prunes_its_best_epoch_and_reports_its_metrics():
    search = tiny.imp(rounds=2, epochs_per_round=3, monitor="val_loss")
    search.in_round(best_weights())
    model = tiny.network(rising())
    history = tiny.run(model, search, [search], **VALIDATION)
    losses = np.reshape(history["val_loss"], (3, 3))
    # The test cannot fail if the last epoch of a round is the best.
    assert (losses.argmin(axis=1) < 2).all()
    found = [search.dense, *(ticket.metrics for ticket in search.tickets)]
    assert [metrics["val_loss"] for metrics in found] == losses.min(axis=1).tolist()
    value = model.evaluate(*VALIDATION["validation_data"], verbose=0)[0]
    np.testing.assert_allclose(value, losses[2].min(), rtol=1e-6)
    assert kept(model) == sum(search.tickets[-1].kept.values())


def test_the_masks_are_those_of_the_best_epoch():
    search = tiny.imp(rounds=1, epochs_per_round=3, monitor="val_loss")
    search.in_round(best_weights())
    tiny.run(tiny.network(rising()), search, [search], **VALIDATION)
    short = tiny.imp(rounds=1, epochs_per_round=1, monitor="val_loss")
    tiny.run(tiny.network(rising()), short, [short], **VALIDATION)
    assert search.tickets[0].compare(short.tickets[0])["all"] == 1.0


def test_early_stop_rewind_in_a_round_gives_the_metrics_it_went_back_to():
    search = tiny.imp(rounds=2, epochs_per_round=5, monitor="val_loss")
    search.in_round(tt.EarlyStopRewind(patience=2))
    history = tiny.run(tiny.network(rising()), search, [search], **VALIDATION)
    rounds = np.array(history["round"])
    lowest = [np.array(history["val_loss"])[rounds == r].min() for r in range(3)]
    found = [search.dense, *(ticket.metrics for ticket in search.tickets)]
    assert [metrics["val_loss"] for metrics in found] == lowest


def test_a_checkpoint_in_a_round_saves_the_best_epoch_of_each(tmp_path):
    search = tiny.imp(rounds=2, epochs_per_round=3, monitor="val_loss")
    search.in_round(checkpoint(tmp_path, "{round}.keras"))
    history = tiny.run(tiny.network(rising()), search, [search], **VALIDATION)
    losses = np.reshape(history["val_loss"], (3, 3)).min(axis=1)
    for round_, ticket in enumerate(search.tickets, 1):
        model = keras.models.load_model(tmp_path / f"{round_}.keras")
        assert kept(model) == sum(ticket.kept.values())
        value = model.evaluate(*VALIDATION["validation_data"], verbose=0)[0]
        np.testing.assert_allclose(value, losses[round_], rtol=1e-6)


class Average(keras.callbacks.Callback):
    """Ends a training with half of its last weights, those of no epoch."""

    def on_train_end(self, logs=None):
        for variable in self.model.trainable_variables:
            variable.assign(variable * 0.5)


def test_weights_of_no_epoch_are_told():
    search = tiny.imp(rounds=1, epochs_per_round=1).in_round(Average())
    with pytest.warns(UserWarning, match="to those of no epoch"):
        tiny.run(tiny.network(), search, [search])


def test_learned_masks_are_restored_with_their_scores():
    search = tt.ContinuousSparsification(2, 4, monitor="val_loss", final_temperature=8)
    search.in_round(best_weights())
    model = tiny.compiled(search.wrap(tiny.build(), verbose=False), rising())
    history = tiny.run(model, search, [search], **VALIDATION)
    losses = np.reshape(history["val_loss"], (2, 4))
    assert (losses.argmin(axis=1) < 3).any()
    found = [ticket.metrics["val_loss"] for ticket in search.tickets]
    assert found == losses.min(axis=1).tolist()


def test_early_stop_rewind_refuses_learned_masks():
    search = tt.ContinuousSparsification(1, 2, monitor="loss")
    search.in_round(tt.EarlyStopRewind(3, monitor="loss"))
    model = tiny.compiled(search.wrap(tiny.build(), verbose=False))
    with pytest.raises(ValueError, match="scores of learned masks are not rewound"):
        tiny.run(model, search, [search])


# Next to GradualPruning.


def gradual(end_step=8):
    # 4 steps an epoch.
    schedule = tt.schedules.PolynomialDecay(
        initial_sparsity=0.0,
        final_sparsity=0.9,
        begin_step=min(2, end_step - 1),
        end_step=end_step,
        frequency=2,
    )
    return tt.GradualPruning(schedule)


def fit(callbacks, model=None, epochs=6):
    x, y = tiny.data()
    model = model or tiny.network(rising())
    arguments = {"batch_size": 16, "shuffle": False, "verbose": 0, **VALIDATION}
    return model, model.fit(x, y, epochs=epochs, callbacks=callbacks, **arguments)


@pytest.mark.both
@pytest.mark.parametrize("first", [True, False])
def test_gradual_pruning_refuses_them_too(tmp_path, first):
    for other in (
        best_weights(),
        checkpoint(tmp_path),
        best_weights(start_from_epoch=1),
    ):
        pruning, epochs = gradual(), tiny.Diary()
        callbacks = [other, pruning] if first else [pruning, other]
        with pytest.raises(ValueError, match=r"next to GradualPruning.*once_pruned"):
            fit([epochs, *callbacks])
        assert not epochs.before


def test_a_start_after_the_last_pruning_is_accepted():
    pruning = gradual()
    model, history = fit([pruning, best_weights(start_from_epoch=2)])
    assert kept(model) == 9
    losses = history.history["val_loss"]
    value = model.evaluate(*VALIDATION["validation_data"], verbose=0)[0]
    np.testing.assert_allclose(value, min(losses[2:]), rtol=1e-6)


@pytest.mark.both
def test_once_pruned_gives_the_best_epoch_with_the_final_sparsity(tmp_path):
    pruning = gradual().once_pruned(best_weights(), checkpoint(tmp_path))
    model, history = fit([pruning])
    losses = history.history["val_loss"]
    assert min(losses) < min(losses[2:]) < losses[-1]
    assert kept(model) == sum(pruning.ticket.kept.values()) == 9
    saved = keras.models.load_model(tmp_path / "best.keras")
    assert kept(saved) == 9
    for one in (model, saved):
        value = one.evaluate(*VALIDATION["validation_data"], verbose=0)[0]
        np.testing.assert_allclose(value, min(losses[2:]), rtol=1e-6)


def test_once_pruned_may_stop_the_training():
    pruning = gradual().once_pruned(best_weights(patience=2))
    _, history = fit([pruning], epochs=9)
    assert len(history.history["loss"]) == 5


@pytest.mark.parametrize("end_step, first", [(4, 1), (5, 1), (6, 2), (8, 2), (9, 2)])
def test_the_first_epoch_that_begins_with_the_final_sparsity(end_step, first):
    told = []
    note = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: told.append(epoch)
    )
    pruning = gradual(end_step).once_pruned(note)
    _, history = fit([pruning])
    assert told == list(range(6 - first))
    assert history.history["sparsity"][first] == pytest.approx(0.9)


@pytest.mark.parametrize("epoch", [3, 4])
def test_once_pruned_begins_where_a_later_fit_does(epoch):
    told = []
    note = keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: told.append("begin"),
        on_epoch_begin=lambda epoch, logs: told.append(epoch),
        on_train_end=lambda logs: told.append("end"),
    )
    pruning = gradual().once_pruned(note)
    x, y = tiny.data()
    arguments = {"batch_size": 16, "verbose": 0, "callbacks": [pruning]}
    tiny.network().fit(x, y, epochs=6, initial_epoch=epoch, **arguments)
    assert told == ["begin", *range(6 - epoch), "end"]


def test_callbacks_that_act_at_batches_are_refused_in_a_round(tmp_path):
    class Own(keras.callbacks.ModelCheckpoint):
        def on_train_batch_end(self, batch, logs=None):
            pass

    often = keras.callbacks.ModelCheckpoint(str(tmp_path / "a.keras"), save_freq=2)
    own = Own(str(tmp_path / "a.keras"))
    attribute = keras.callbacks.LambdaCallback(on_train_batch_end=lambda *args: None)
    tested = keras.callbacks.LambdaCallback(on_test_batch_end=lambda *args: None)
    never = keras.callbacks.TerminateOnNaN()
    for callback in (often, own, attribute, tested, never):
        with pytest.raises(ValueError, match=r"at epochs only. Received: .* with"):
            tiny.imp().in_round(callback)
        with pytest.raises(ValueError, match=r"at epochs only. Received: .* with"):
            gradual().once_pruned(callback)


def test_callbacks_that_save_at_epochs_are_called_in_a_round(tmp_path):
    class EveryOther(keras.callbacks.Callback):
        save_freq = 2

    kept = keras.callbacks.ModelCheckpoint(str(tmp_path / "a.keras"))
    assert len([*tiny.imp().in_round(kept, EveryOther()).engine.callbacks]) == 2


def test_a_schedule_that_leaves_no_epoch_is_refused():
    pruning = gradual(end_step=24).once_pruned(best_weights())
    with pytest.raises(ValueError, match="No epoch is left.*within epoch 6 of 6"):
        fit([pruning])


def find(pruning, directory=None, callbacks=()):
    return tt.find_tickets(
        tiny.build_compiled,
        tiny.splits(),
        pruning,
        directory,
        epochs=6,
        batch_size=16,
        callbacks=callbacks,
        verbose=0,
    )


def test_find_tickets_refuses_to_restore_another_epoch_than_that_of_the_ticket():
    with pytest.raises(ValueError, match="another epoch than that of the ticket"):
        find(tt.DynamicSparsity(0.8, interval=4), callbacks=[best_weights()])
    with pytest.raises(ValueError, match="next to GradualPruning"):
        find(gradual(), callbacks=[best_weights()])


def test_dynamic_sparsity_may_keep_its_best_epoch():
    training = tt.DynamicSparsity(0.8, interval=4)
    model, _ = fit([training, best_weights()])
    assert kept(model) == 18
