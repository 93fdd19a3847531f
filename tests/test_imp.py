"""Iterative magnitude pruning: comparison with oracles, and use as a callback."""

import csv
import re

import keras
import numpy as np
import pytest
import tiny
from keras import optimizers

import tf_tickets as tt
from tf_tickets import wrapping
from tf_tickets.training import snapshots

pytestmark = pytest.mark.turns

EVERYTHING_BUT_SLOTS = ("weights", "statistics", "learning_rate", "seeds")


def schedule():
    return optimizers.Adam(optimizers.schedules.CosineDecay(0.05, 12))


def searched(search, model=None, **kwargs):
    """Runs a search with a diary; returns model, diary and logs."""
    model = model or tiny.network(schedule())
    diary = tiny.Diary()
    logs = tiny.run(model, search, [search, diary], **kwargs)
    return model, diary, logs


def alive(ticket):
    return sum(ticket.kept.values())


@pytest.mark.both
def test_a_full_rewind_at_rate_0_repeats_round_0_to_the_bit():
    search = tiny.imp(rate=0.0, fidelity="exact")
    _, diary, logs = searched(search)
    assert logs["loss"] == logs["loss"][:2] * 4
    for epoch in range(2, 8):
        parts = tiny.flat(diary.after[epoch])
        assert tiny.same(parts, tiny.flat(diary.after[epoch % 2]))


@pytest.mark.both
def test_a_rewind_to_an_epoch_repeats_the_rest_of_round_0_to_the_bit():
    search = tiny.imp(
        rate=0.0, fidelity="exact", rewind_to="1 epoch", epochs_per_round=3, rounds=2
    )
    _, diary, logs = searched(search)
    assert search.epochs == 7
    assert logs["loss"] == logs["loss"][:3] + logs["loss"][1:3] * 2
    assert tiny.same(tiny.flat(diary.after[2]), tiny.flat(diary.after[6]))


def test_a_fresh_optimizer_does_not_repeat_it_from_a_later_step():
    search = tiny.imp(rate=0.0, rewind_to="1 epoch", epochs_per_round=2, rounds=1)
    _, diary, _ = searched(search, tiny.network(schedule(), dropout=0.0))
    weights = [tiny.flat(state, ["weights"]) for state in diary.after]
    assert not tiny.same(weights[1], weights[2])


@pytest.mark.both
def test_round_0_is_dense_and_every_round_has_a_ticket():
    search = tiny.imp(rounds=3, epochs_per_round=2)
    _, _, logs = searched(search)
    assert search.epochs == len(logs["loss"]) == 8
    assert logs["round"] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert logs["sparsity"][:2] == [0.0, 0.0]
    assert [t.provenance["round"] for t in search.tickets] == [1, 2, 3]
    assert search.dense["loss"] == logs["loss"][1]
    assert [t.metrics["loss"] for t in search.tickets] == logs["loss"][3::2]
    assert [t.sparsity for t in search.tickets] == logs["sparsity"][3::2]
    parents = [t.provenance["parent"] for t in search.tickets]
    assert parents == [None, search.tickets[0].id, search.tickets[1].id]


@pytest.mark.on("jax")
@pytest.mark.parametrize("allocation", ["global", "uniform", "erk"])
def test_masks_are_nested_and_counts_exact(allocation):
    search = tiny.imp(rounds=4, epochs_per_round=1, allocation=allocation)
    searched(search)
    assert [alive(t) for t in search.tickets] == [63, 44, 31, 22]
    for earlier, later in zip(search.tickets, search.tickets[1:], strict=False):
        for path, mask in later.masks.items():
            assert not (mask & ~earlier.masks[path]).any()


@pytest.mark.both
def test_a_round_keeps_the_largest_of_the_weights_that_were_alive():
    search = tiny.imp(rounds=2, epochs_per_round=1)
    _, diary, _ = searched(search)
    trained = diary.after[1]["weights"]
    before, after = search.tickets[0].masks, search.tickets[1].masks
    kept = np.concatenate([np.abs(trained[p])[after[p]] for p in after])
    dropped = [np.abs(trained[p])[before[p] & ~after[p]] for p in after]
    assert kept.min() >= np.concatenate(dropped).max()


def lenet():
    layers = [
        keras.layers.Dense(300, activation="relu", name="hidden_1"),
        keras.layers.Dense(100, activation="relu", name="hidden_2"),
        keras.layers.Dense(10, name="output"),
    ]
    model = keras.Sequential([keras.Input((784,)), *layers], name="lenet")
    return tiny.compiled(tt.wrap(model, verbose=False), optimizers.SGD(0.01))


def test_lenet_comes_down_the_published_ladder():
    search = tt.IMP(18, 1, {"output": 0.1, ".": 0.2}, monitor="accuracy")
    x = np.random.default_rng(0).normal(size=(4, 784)).astype("float32")
    lenet().fit(x, np.arange(4), epochs=search.epochs, verbose=0, callbacks=[search])
    kept = {
        r: round(100 * (1 - search.tickets[r - 1].sparsity), 1)
        for r in (3, 7, 12, 15, 18)
    }
    assert kept == {3: 51.3, 7: 21.1, 12: 7.0, 15: 3.6, 18: 1.9}


@pytest.mark.both
def test_a_reset_to_init_gives_the_first_weights_times_the_mask():
    search = tiny.imp(rounds=2)
    _, diary, _ = searched(search)
    start = diary.before[0]
    for number, ticket in enumerate(search.tickets, start=1):
        now = diary.before[2 * number]["weights"]
        for path, first in start["weights"].items():
            assert (now[path] == first * ticket.masks.get(path, True)).all()
            assert (ticket.weights[path] == first).all()
        assert tiny.same(
            tiny.flat(diary.before[2 * number], ["statistics", "learning_rate"]),
            tiny.flat(start, ["statistics", "learning_rate"]),
        )


@pytest.mark.parametrize(
    "rewind_to, epoch, step", [("4 steps", 0, 4), ("1 epoch", 0, 4), ("8 steps", 1, 8)]
)
def test_a_rewind_to_an_edge_of_epochs_gives_what_was_there(rewind_to, epoch, step):
    search = tiny.imp(rounds=1, epochs_per_round=3, rewind_to=rewind_to)
    _, diary, _ = searched(search)
    ticket, there = search.tickets[0], diary.after[epoch]
    assert ticket.provenance["step"] == step
    assert search.engine.state.reached is not None
    for path, weight in {**there["weights"], **there["statistics"]}.items():
        assert (ticket.weights[path] == weight).all()
    assert tiny.same(
        tiny.flat(diary.before[3], ["learning_rate"]),
        tiny.flat(there, ["learning_rate"]),
    )


def test_a_state_to_rewind_to_is_not_read_before_it_is_reached():
    with pytest.raises(RuntimeError, match="in round 0 after 0 steps.*`rewind_to`"):
        _ = tiny.imp(rewind_to="4 steps").engine.state.snapshot


@pytest.mark.both
def test_a_rewind_to_a_step_within_an_epoch_gives_what_was_there():
    search = tiny.imp(rounds=1, rewind_to="2 steps")
    searched(search)
    x, y = tiny.data()
    model = tiny.network(schedule())
    model.fit(x[:32], y[:32], batch_size=16, shuffle=False, verbose=0)
    there = snapshots.start_weights(model, snapshots.record(model))
    assert tiny.same(search.tickets[0].weights.values(), there.values())
    assert search.tickets[0].provenance["step"] == 2


@pytest.mark.both
def test_learning_rate_rewinding_keeps_weights_and_restarts_the_schedule():
    search = tiny.imp(rounds=1, fidelity="learning_rate")
    _, diary, _ = searched(search)
    end, begin = diary.after[1], diary.before[2]
    for path, weight in end["weights"].items():
        mask = search.tickets[0].masks.get(path, True)
        assert (begin["weights"][path] == weight * mask).all()
    assert tiny.same(tiny.flat(begin, ["statistics"]), tiny.flat(end, ["statistics"]))
    assert tiny.same(
        tiny.flat(begin, ["learning_rate"]),
        tiny.flat(diary.before[0], ["learning_rate"]),
    )
    assert not any(array.any() for array in begin["optimizer"].values())


def test_fine_tuning_keeps_all_but_the_pruned_weights():
    search = tiny.imp(rounds=1, fidelity="fine_tune")
    _, diary, _ = searched(search)
    end, begin = diary.after[1], diary.before[2]
    for path, weight in end["weights"].items():
        mask = search.tickets[0].masks.get(path, True)
        assert (begin["weights"][path] == weight * mask).all()
    rest = ["statistics", "learning_rate", "seeds"]
    assert tiny.same(tiny.flat(begin, rest), tiny.flat(end, rest))
    assert search.tickets[0].provenance["step"] == 8


def test_the_schedule_of_learning_rates_restarts_with_each_round():
    search, rates = tiny.imp(rounds=2), []
    model = tiny.network(schedule())
    note = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: rates.append(
            float(model.optimizer.learning_rate)
        )
    )
    tiny.run(model, search, [search, note])
    assert rates == rates[:2] * 3
    assert rates[0] != rates[1]


def first_layer_only(weight):
    """Scores every weight of the output layer below any weight of the first."""
    return np.full(weight.shape, float(weight.shape[0] == 6))


def test_an_emptied_layer_is_rescued_with_a_warning_that_names_it():
    search = tiny.imp(
        rounds=1, epochs_per_round=1, rate=0.5, criterion=first_layer_only
    )
    with pytest.warns(UserWarning, match="net/output/kernel"):
        searched(search)
    assert search.tickets[0].kept == {"net/hidden/kernel": 44, "net/output/kernel": 1}


def test_a_function_as_criterion_needs_no_registration(tmp_path):
    search = tiny.imp(
        rounds=1, epochs_per_round=1, criterion=lambda weight: -abs(weight)
    )
    _, diary, _ = searched(search)
    trained = diary.after[0]["weights"]
    ticket = search.tickets[0]
    kept = np.concatenate([np.abs(trained[p])[m] for p, m in ticket.masks.items()])
    dropped = np.concatenate([np.abs(trained[p])[~m] for p, m in ticket.masks.items()])
    assert kept.max() <= dropped.min()
    ticket.save(tmp_path / "a.ticket")
    assert tt.Ticket.load(tmp_path / "a.ticket").provenance["settings"]["criterion"]


def everything_from_the_first(scores, masks, keep):
    first, second = masks
    return {first: keep - int(masks[second].sum()), second: int(masks[second].sum())}


def test_a_function_as_allocation_is_used_and_named(tmp_path):
    search = tiny.imp(
        rounds=1, epochs_per_round=1, allocation=everything_from_the_first
    )
    searched(search)
    search.tickets[0].save(tmp_path / "a.ticket")
    assert search.tickets[0].kept == {"net/hidden/kernel": 33, "net/output/kernel": 30}


@pytest.mark.on("jax")
@pytest.mark.parametrize("rate", [0.3, {"output": 0.1, ".": 0.4}])
@pytest.mark.parametrize("stop_at", [0.6, 0.605, 0.5499])
def test_a_sparsity_to_stop_at_is_reached_exactly(rate, stop_at):
    search = tiny.imp(rounds=6, epochs_per_round=1, rate=rate, stop_at=stop_at)
    _, _, logs = searched(search, epochs=7)
    assert alive(search.tickets[-1]) == 90 - round(stop_at * 90)
    assert all(alive(t) > 90 - round(stop_at * 90) for t in search.tickets[:-1])
    assert search.complete
    assert len(logs["loss"]) == len(search.tickets) + 1 < 7


def test_below_dense_stops_after_the_first_ticket_that_falls_below():
    search = tiny.imp(rounds=6, epochs_per_round=1, rate=0.85, stop_at="below_dense")
    searched(search, tiny.network(optimizers.Adam(0.05)))
    values = [
        search.dense["accuracy"],
        *(t.metrics["accuracy"] for t in search.tickets),
    ]
    assert values[-1] < values[0]
    assert all(value >= values[0] for value in values[1:-1])


def test_a_great_tolerance_lets_all_rounds_be():
    search = tiny.imp(
        rounds=2, epochs_per_round=1, rate=0.5, stop_at="below_dense", tolerance=1.0
    )
    searched(search)
    assert len(search.tickets) == 2
    assert search.best is search.tickets[-1]


def test_below_dense_without_its_metric_raises_after_round_0():
    search = tiny.imp(stop_at="below_dense", monitor="val_accuracy")
    with (
        pytest.warns(UserWarning, match="did not log the monitored metric"),
        pytest.raises(ValueError, match="'val_accuracy'. Logged: .*'accuracy'"),
    ):
        searched(search)
    assert search.tickets == []


@pytest.mark.both
@pytest.mark.parametrize("monitor", ["acuracy", "val_acc", "precision"])
def test_a_misspelt_monitor_is_refused_after_the_first_epoch(monitor):
    search, epochs = tiny.imp(monitor=monitor), tiny.Diary()
    arguments = {"validation_data": tiny.data(32, seed=1)}
    message = f"'{monitor}'. Logged: .*'accuracy'.*'val_loss'"
    with pytest.raises(ValueError, match=message):
        tiny.run(tiny.network(schedule()), search, [epochs, search], **arguments)
    assert len(epochs.before) == 1


@pytest.mark.parametrize("round_length", [5])
def test_early_stopping_in_a_round_ends_the_round(round_length):
    stopping = keras.callbacks.EarlyStopping("loss", min_delta=100.0, patience=1)
    search = tiny.imp(rounds=2, epochs_per_round=round_length).in_round(stopping)
    _, _, logs = searched(search)
    assert logs["round"] == [0, 0, 1, 1, 2, 2]
    assert search.complete


def test_callbacks_in_a_round_see_epochs_from_its_beginning():
    epochs = []
    note = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: epochs.append(epoch),
        on_train_begin=lambda logs: epochs.append("begin"),
        on_train_end=lambda logs: epochs.append("end"),
    )
    searched(tiny.imp(rounds=1).in_round(note))
    assert epochs == ["begin", 0, 1, "end"] * 2


def test_too_few_epochs_raise_before_training():
    search = tiny.imp()
    with pytest.raises(ValueError, match="needs 8 epochs.*epochs=7"):
        searched(search, epochs=7)
    assert search.dense == {}


def test_a_model_that_is_not_wrapped_raises():
    with pytest.raises(ValueError, match="'net' has no Prunable layers. Wrap it"):
        searched(tiny.imp(), tiny.build_compiled())


def test_a_moment_after_round_0_raises_before_training():
    search = tiny.imp(rewind_to="9 steps")
    with pytest.raises(ValueError, match="rewind_to='9 steps' is not reached"):
        searched(search)
    assert search.dense == {}


def test_a_step_that_is_skipped_raises_in_the_first_epoch():
    model = tiny.network()
    tiny.compiled(model, optimizers.Adam(), steps_per_execution=4)
    search = tiny.imp(rewind_to="2 steps", epochs_per_round=5)
    with pytest.raises(ValueError, match="multiple of steps_per_execution"):
        searched(search, model)
    assert search.dense == {}


def test_a_fit_that_ends_early_warns():
    search = tiny.imp(rounds=3, epochs_per_round=1)
    stop = keras.callbacks.EarlyStopping("loss", min_delta=100.0, patience=1)
    with pytest.warns(UserWarning, match="ended in round 1 of 3"):
        tiny.run(tiny.network(), search, [search, stop])
    assert not search.complete


def test_more_epochs_than_needed_end_with_the_search():
    search = tiny.imp(rounds=1, epochs_per_round=1)
    _, _, logs = searched(search, epochs=9)
    assert len(logs["loss"]) == 2


def test_a_second_fit_starts_anew():
    search = tiny.imp(rounds=2, epochs_per_round=1)
    searched(search)
    first = search.tickets
    searched(search)
    assert [t.id for t in search.tickets] == [t.id for t in first]
    assert search.tickets is not first


def test_a_search_over_a_sparse_model_tells_its_sparsity_from_the_beginning():
    model = tiny.network()
    wrapping.kernels(model).set_masks(tiny.half(model))
    search = tiny.imp(rounds=1, epochs_per_round=1, rate=0.2)
    _, _, logs = searched(search, model)
    assert logs["sparsity"] == [0.5, 0.6]


def judged(monitor, dense, values, tolerance=0.0):
    """Returns a search in its state after rounds with these metrics."""
    search = tiny.imp(rounds=4, monitor=monitor, tolerance=tolerance)
    search.dense[monitor] = dense
    masks = [np.arange(8) >= kept for kept in (2, 4, 6)]
    search.tickets.extend(
        tt.Ticket({"k": m}, None, {monitor: v})
        for m, v in zip(masks, values, strict=True)
    )
    return search


@pytest.mark.parametrize(
    "monitor, dense, values, tolerance, best",
    [
        ("accuracy", 0.9, [0.95, 0.9, 0.8], 0.0, 1),
        ("accuracy", 0.9, [0.95, 0.9, 0.8], 0.2, 2),
        ("accuracy", 0.99, [0.5, 0.9, 0.8], 0.0, 1),
        ("val_loss", 0.4, [0.3, 0.4, 0.5], 0.0, 1),
        ("val_loss", 0.1, [0.3, 0.2, 0.5], 0.0, 1),
        ("mae", 0.4, [0.3, 0.4, 0.5], 0.0, 1),
        ("val_mse", 0.1, [0.3, 0.2, 0.5], 0.0, 1),
    ],
)
def test_best_is_the_sparsest_within_tolerance(monitor, dense, values, tolerance, best):
    search = judged(monitor, dense, values, tolerance)
    assert search.best is search.tickets[best]


def test_best_without_its_metric_says_what_was_logged():
    search = tiny.imp(rounds=1, epochs_per_round=1, monitor="val_accuracy")
    with pytest.warns(UserWarning, match="did not log the monitored metric"):
        searched(search)
    with pytest.raises(ValueError, match="'val_accuracy'.* Logged: .*'loss'"):
        _ = search.best


def test_other_callbacks_read_sparsity_and_round(tmp_path):
    search = tiny.imp(rounds=3, epochs_per_round=1)
    stop = keras.callbacks.EarlyStopping(
        "sparsity", mode="max", baseline=0.0, patience=9
    )
    logger = keras.callbacks.CSVLogger(str(tmp_path / "log.csv"))
    tiny.run(tiny.network(), search, [search, stop, logger])
    with open(tmp_path / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["round"] for row in rows] == ["0", "1", "2", "3"]
    assert [float(row["sparsity"]) for row in rows][1:] == [
        t.sparsity for t in search.tickets
    ]
    assert stop.best == search.tickets[-1].sparsity


def test_tensorboard_writes_the_sparsity(tmp_path):
    pytest.importorskip("tensorflow")
    pytest.importorskip("tensorboard")
    search = tiny.imp(rounds=1, epochs_per_round=1)
    board = keras.callbacks.TensorBoard(str(tmp_path), write_graph=False)
    tiny.run(tiny.network(), search, [search, board])
    written = b"".join(p.read_bytes() for p in tmp_path.rglob("events*"))
    assert re.search(b"epoch_sparsity", written)
    assert re.search(b"epoch_round", written)


@pytest.mark.parametrize("order", [1, -1])
def test_a_checkpoint_before_or_after_the_search_has_exact_zeros(tmp_path, order):
    search = tiny.imp(rounds=2, epochs_per_round=1, rate=0.5)
    checkpoint = keras.callbacks.ModelCheckpoint(str(tmp_path / "{epoch}.keras"))
    tiny.run(tiny.network(), search, [checkpoint, search][::order])
    for epoch, kept in [(1, 90), (2, 45), (3, 23)]:
        model = keras.models.load_model(tmp_path / f"{epoch}.keras")
        kernels = wrapping.kernels(model).variables.values()
        assert sum(np.count_nonzero(wrapping.to_numpy(v)) for v in kernels) == kept
        assert sum(int(m.sum()) for m in wrapping.kernels(model).masks.values()) == kept


def test_validation_metrics_are_kept():
    search = tiny.imp(rounds=1, epochs_per_round=1, monitor="val_accuracy")
    searched(search, validation_data=tiny.data(32, seed=1))
    assert {"val_loss", "val_accuracy", "loss"} <= set(search.best.metrics)


def test_a_plain_fit_after_the_search_keeps_the_zeros():
    search = tiny.imp(rounds=1, epochs_per_round=1, rate=0.5)
    model, _, _ = searched(search)
    model.fit(*tiny.data(), verbose=0)
    assert tiny.pruned_weights(model).tolist() == [0.0] * 45


class Adversarial(keras.Model):
    """Has two parts with an optimizer each, as keras.io's GAN has."""

    def __init__(self):
        super().__init__()
        self.generator, self.critic = keras.layers.Dense(6), keras.layers.Dense(3)

    def call(self, x):
        return self.critic(self.generator(x))


@pytest.mark.both
@pytest.mark.parametrize("hold", [lambda d: d, lambda d: [d], lambda d: {"d": d}])
def test_an_optimizer_held_by_the_model_is_refused_before_training(hold):
    model = Adversarial()
    model(tiny.data()[0])
    model = tiny.compiled(tt.wrap(model, verbose=False))
    model.d_optimizer = hold(keras.optimizers.SGD(0.2))
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"Received the attributes \['d_optimizer'\]"):
        tiny.run(model, tiny.imp())
    assert tiny.same(model.get_weights(), before)
