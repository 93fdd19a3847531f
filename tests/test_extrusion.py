"""Compares DLTH, UniLTH and UniDLTH with each other, IMP and explicit loops."""

import itertools

import keras
import numpy as np
import pytest
import tiny

import tf_tickets as tt
from tf_tickets import wrapping
from tf_tickets.masks.annealing import GrowingPenalty
from tf_tickets.search import runner

pytestmark = pytest.mark.turns("jax")

NO_STOP = tt.EarlyStopRewind(None)
NOTHING = GrowingPenalty(cap=0.0)


def network(search, optimizer=None, seed=0, **kwargs):
    keras.utils.set_random_seed(seed)
    return search.wrap(tiny.compiled(tiny.build(**kwargs), optimizer), verbose=False)


def run(search, model=None, callbacks=(), **kwargs):
    model = network(search) if model is None else model
    kwargs.setdefault("validation_data", tiny.data(32, seed=1))
    return model, tiny.run(model, search, [search, *callbacks], **kwargs)


def dlth(final_sparsity=0.5, **kwargs):
    return tt.DLTH(final_sparsity, **{"penalty": 6, "epochs_per_round": 2, **kwargs})


def uni(kind, **kwargs):
    arguments = {
        "final_sparsity": 0.7,
        "rounds": 2,
        "stage_one": tt.StageOne(3, NO_STOP),
        "penalty": 2,
        "epochs_per_round": 2,
    }
    return kind(**{**arguments, **kwargs})


def noted(search):
    """Returns what the search recorded about its stage one."""
    return search.engine.state.notes["stage_one"]


def weights(model):
    return [wrapping.to_numpy(v) for v in model.trainable_variables]


@pytest.mark.both
@pytest.mark.parametrize(
    "fidelity", tiny.in_turns(["weights", "exact", "learning_rate", "fine_tune"])
)
def test_without_stop_and_penalty_unilth_is_imp_to_the_bit(fidelity):
    imp = tiny.imp(rounds=3, rate=1 / 3, fidelity=fidelity, epochs_per_round=2)
    first = tiny.network()
    logs = tiny.run(first, imp, validation_data=tiny.data(32, seed=1))
    search = uni(
        tt.UniLTH,
        final_sparsity=1 - (2 / 3) ** 3,
        rounds=3,
        stage_one=tt.StageOne(2, NO_STOP),
        penalty=tt.PenaltyPhase(0, NOTHING),
        train="each",
        rewind_to=tt.Rewind("init", fidelity),
        monitor="accuracy",
    )
    second, result = run(search)
    assert [sum(t.kept.values()) for t in imp.tickets] == [60, 40, 27]
    assert [t.id for t in search.tickets] == [t.id for t in imp.tickets]
    assert result["loss"] == logs["loss"] and result["val_loss"] == logs["val_loss"]
    assert tiny.same(weights(first), weights(second))
    assert search.dense["loss"] == imp.dense["loss"]


def test_without_stage_one_unidlth_of_one_round_is_dlth_to_the_bit():
    both = [
        dlth(0.6, seed=3),
        tt.UniDLTH(0.6, 1, 0, tt.PenaltyPhase(6, GrowingPenalty()), 2, seed=3),
    ]
    ends = [weights(run(search)[0]) for search in both]
    assert tiny.same(*ends)
    assert both[0].tickets[0].id == both[1].tickets[0].id
    assert both[0].tickets[0].metrics == both[1].tickets[0].metrics


@pytest.mark.both
def test_dlth_is_the_published_loop():
    """Compares with NumPy: a linear layer, mean squared error, SGD with momentum."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(16, 5)).astype("float32")
    y = rng.normal(size=(16, 4)).astype("float32")
    model = keras.Sequential(
        [keras.Input((5,)), keras.layers.Dense(4, use_bias=False, name="d")], name="net"
    )
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    model.compile(optimizer, "mse", jit_compile=tiny.JIT)
    penalty = GrowingPenalty(0.01, interval=5, cap=0.1, hold=10)
    search = tt.DLTH(0.5, 1, tt.PenaltyPhase(31, penalty), 3, monitor="loss", seed=4)
    assert penalty.steps == 61
    model = search.wrap(model, verbose=False)
    [kernel] = wrapping.kernels(model).variables.values()
    w = wrapping.to_numpy(kernel).astype("float64")
    model.fit(
        x, y, batch_size=8, shuffle=False, verbose=0, epochs=34, callbacks=[search]
    )
    [kept] = search.tickets[0].masks.values()
    assert kept.sum() == 10
    momentum = np.zeros_like(w)
    for step in range(62):
        rows = slice(8 * (step % 2), 8 * (step % 2) + 8)
        gradient = 2 * x[rows].T @ (x[rows] @ w - y[rows]) / y[rows].size
        strength = min(0.01 * (step // 5 + 1), 0.1)
        gradient += strength * w * ~kept
        momentum = 0.9 * momentum - 0.1 * gradient
        w = w + momentum
    w, momentum = w * kept, 0.0
    [start] = search.tickets[0].weights.values()
    np.testing.assert_allclose(start, w, rtol=2e-4, atol=2e-5)
    for step in range(6):
        rows = slice(8 * (step % 2), 8 * (step % 2) + 8)
        gradient = 2 * x[rows].T @ (x[rows] @ w - y[rows]) / y[rows].size
        momentum = 0.9 * momentum - 0.1 * gradient * kept
        w = w + momentum
    np.testing.assert_allclose(wrapping.to_numpy(kernel), w, rtol=2e-4, atol=2e-5)


class Removal(keras.callbacks.Callback):
    """Records the accuracy before and after the removal, around the search."""

    def __init__(self, search):
        super().__init__()
        self.search = search
        self.accuracy = []

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.search.penalty.epochs:
            x, y = tiny.data(1024, seed=7)
            result = self.model.evaluate(x, y, verbose=0, return_dict=True)
            self.accuracy.append(
                (result["accuracy"], wrapping.kernels(self.model).sparsity)
            )


@pytest.mark.on("jax")
def test_the_removal_after_the_penalty_has_stood_changes_nothing():
    """A random half of the weights is penalized to zero, then removed."""
    strong = GrowingPenalty(cap=4.0)
    search = dlth(0.5, penalty=tt.PenaltyPhase(150, strong), monitor="accuracy")
    decay = keras.optimizers.schedules.CosineDecay(0.1, 600, alpha=0.001)
    model = network(search, keras.optimizers.SGD(decay, momentum=0.9), dropout=0.0)
    look = Removal(search)
    logs = tiny.run(model, search, [look, search, look])
    assert logs["residue"][0] > 0.1 and logs["penalty_strength"][149] == 4.0
    (before, dense), (after, sparse) = look.accuracy
    assert (dense, sparse) == (0.0, 0.5)
    assert before > 0.8 and abs(before - after) <= 0.001
    assert logs["residue"][149] < 1e-3
    assert logs["penalty_strength"][-1] == logs["residue"][-1] == 0.0


def test_no_weight_to_remove_is_dense_training():
    search = dlth(0.0, train="none")
    model, _ = run(search)
    dense = network(search)
    x, y = tiny.data()
    dense.fit(x, y, epochs=6, batch_size=16, shuffle=False, verbose=0)
    assert tiny.same(weights(model), weights(dense))
    assert search.tickets[0].sparsity == 0.0


def test_without_a_cap_it_is_plain_training_then_random_pruning():
    search = dlth(0.5, penalty=tt.PenaltyPhase(6, NOTHING), train="none")
    model, _ = run(search)
    dense = network(search)
    x, y = tiny.data()
    dense.fit(x, y, epochs=6, batch_size=16, shuffle=False, verbose=0)
    for path, variable in wrapping.kernels(model).variables.items():
        kept = search.tickets[0].masks[path]
        whole = wrapping.to_numpy(wrapping.kernels(dense).variables[path])
        expected = np.where(kept, whole, np.float32(0.0))
        assert expected.tobytes() == wrapping.to_numpy(variable).tobytes()


def test_the_choice_is_random_exact_in_every_kernel_and_the_seeds():
    result = []
    for seed in (0, 0, 1):
        search = dlth(0.7, penalty=1, epochs_per_round=1, seed=seed)
        run(search)
        assert list(search.tickets[0].kept.values()) == [18, 9]
        result.append(search.tickets[0].id)
    assert result[0] == result[1] != result[2]


def test_the_default_of_the_published_code_has_a_name():
    search = dlth(0.5, criterion="magnitude", penalty=1, epochs_per_round=1)
    model = network(search)
    before = {
        p: wrapping.to_numpy(v) for p, v in wrapping.kernels(model).variables.items()
    }
    run(search, model)
    for path, kept in search.tickets[0].masks.items():
        sizes = np.abs(before[path])
        assert sizes[kept].min() > sizes[~kept].max()


@pytest.mark.parametrize(
    "kind, train",
    tiny.checkered([tt.UniLTH, tt.UniDLTH], ["each", "last", "none"]),
)
def test_masks_are_nested_and_as_sparse_as_asked(kind, train):
    search = uni(kind, rounds=3, final_sparsity=1 - 0.6**3, train=train)
    model, logs = run(search)
    assert len(logs["loss"]) == search.epochs
    assert [round(t.sparsity, 2) for t in search.tickets] == [0.4, 0.64, 0.79]
    for older, newer in zip(search.tickets, search.tickets[1:], strict=False):
        assert all((newer.masks[p] <= older.masks[p]).all() for p in newer.masks)
    assert tiny.pruned_weights(model).tolist() == [0.0] * len(
        tiny.pruned_weights(model)
    )
    trained = {"each": 3, "last": 1, "none": 0}[train]
    assert search.epochs == 3 + 3 * 2 + trained * 2
    assert [search.engine.epochs_before(r) for r in (1, 2, 3)] == {
        "each": [5, 9, 13],
        "last": [5, 7, 9],
        "none": [5, 7, 9],
    }[train]
    # Metrics of an untrained ticket were measured before the removal.
    trained = {"each": [1, 1, 1], "last": [0, 0, 1], "none": [0, 0, 0]}[train]
    assert ["val_accuracy" in t.metrics for t in search.tickets] == trained
    assert ["pressed_val_accuracy" not in t.metrics for t in search.tickets] == trained
    if train == "none":
        with pytest.raises(ValueError, match="pressed_val_accuracy"):
            _ = search.best
    else:
        assert any(search.best is t for t in search.tickets[-sum(trained) :])


def test_a_reset_ticket_starts_from_the_first_weights_another_from_where_it_is():
    reset, kept = uni(tt.UniLTH, train="none"), uni(tt.UniDLTH, train="none")
    for search in (reset, kept):
        model = network(search)
        first = {
            p: wrapping.to_numpy(v)
            for p, v in wrapping.kernels(model).variables.items()
        }
        run(search, model)
        same = [
            weight.tobytes() == search.tickets[-1].weights[path].tobytes()
            for path, weight in first.items()
        ]
        assert same == [search is reset] * 2


class Losses(keras.callbacks.Callback):
    """Replaces the validation losses by given values."""

    def __init__(self, losses):
        super().__init__()
        self.losses = losses

    def on_epoch_end(self, epoch, logs=None):
        if epoch < len(self.losses):
            logs["val_loss"] = self.losses[epoch]


def test_stage_one_stops_and_goes_back_to_the_best():
    stop = tt.EarlyStopRewind(3)
    stage_one = tt.StageOne(20, stop)
    search = uni(tt.UniLTH, stage_one=stage_one, train="none", monitor="val_loss")
    model, diary = network(search), tiny.Diary()
    losses = Losses([5.0, 4.0, 3.0, 3.1, 3.2, 3.3])
    logs = tiny.run(model, search, [diary, losses, search])
    assert noted(search) == {"epochs": 6, "stopped": 5, "rewound": 2}
    assert len(logs["loss"]) == 6 + 2 * 2 and search.epochs == 24
    assert search.dense["val_loss"] == 3.0
    parts = ["weights", "statistics"]
    begun = tiny.flat(diary.before[6], parts)
    # The diary records before the next round; the best epoch is already restored.
    assert tiny.same(begun, tiny.flat(diary.after[2], parts))
    assert search.tickets[0].provenance["stage_one"] == noted(search)
    assert search.engine.epochs_before(1) == 8


def test_it_says_so_when_stage_one_was_not_stopped():
    search = uni(tt.UniLTH, stage_one=3, train="none", monitor="val_loss")
    with pytest.warns(UserWarning, match="nothing was stopped or rewound"):
        tiny.run(network(search), search, [Losses([3.0, 2.0, 1.0]), search])
    assert noted(search) == {"epochs": 3, "stopped": None}


def _regularized():
    model = tiny.build()
    model.layers[0].kernel.regularizer = keras.regularizers.L2(0.1)
    return tiny.compiled(model)


def _active():
    model = tiny.build()
    model.layers[0].activity_regularizer = keras.regularizers.L2(0.1)
    return tiny.compiled(model)


def _decayed():
    return tiny.compiled(tiny.build(), keras.optimizers.AdamW(0.01))


@pytest.mark.parametrize(
    "make, named",
    [
        (_regularized, "a regularizer of"),
        (_active, "an activity regularizer of"),
        (_decayed, "weight decay of optimizer"),
    ],
)
def test_stage_one_refuses_any_other_force(make, named):
    search = uni(tt.UniLTH)
    with pytest.raises(ValueError, match=f"without any regularization.*{named}"):
        run(search, search.wrap(make(), verbose=False))
    # DLTH has no stage one, and its published code uses weight decay.
    other = dlth()
    run(other, other.wrap(make(), verbose=False))
    assert other.complete


def test_too_few_epochs_are_refused_with_the_number_that_is_needed():
    strength = GrowingPenalty(0.1, interval=2, hold=10)
    with pytest.raises(ValueError, match=r"needs 31 steps.*PenaltyPhase\(epochs=8"):
        run(dlth(penalty=tt.PenaltyPhase(5, strength)))
    run(dlth(penalty=tt.PenaltyPhase(8, strength)))


def test_the_rate_under_the_penalty_is_set_and_goes_back():
    rates = []
    note = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: rates.append(
            round(float(model.optimizer.learning_rate), 6)
        )
    )
    search = uni(tt.UniLTH, penalty=tt.PenaltyPhase(2, learning_rate=0.002))
    model = network(search)
    run(search, model, [note])
    assert rates == [0.01] * 3 + [0.002] * 4 + [0.01] * 2
    with pytest.raises(ValueError, match="follows a schedule"):
        run(search, search.wrap(tiny.build_without_dropout(), verbose=False))


def test_a_model_with_other_masks_is_refused():
    with pytest.raises(ValueError, match="another mask.*search.wrap"):
        run(dlth(), tiny.network())
    with pytest.raises(ValueError, match="another mask.*search.wrap"):
        run(dlth(), network(uni(tt.UniLTH)))


@pytest.mark.parametrize(
    "kind, arguments, message",
    [
        (tt.DLTH, {"final_sparsity": 1.0}, "final_sparsity=1.0"),
        (tt.DLTH, {"final_sparsity": {"a": 90}}, "'a': 90"),
        (
            tt.DLTH,
            {"penalty": tt.PenaltyPhase(0, NOTHING)},
            "epochs=0.*train='last'.*Use train='each'",
        ),
        (tt.DLTH, {"penalty": 0}, "no time to grow. Received: epochs=0"),
        (tt.UniLTH, {"penalty": -1}, "`penalty_epochs`.*Received: -1"),
        (tt.UniLTH, {"stage_one": 1.5}, "`stage_one_epochs`.*Received: 1.5"),
        (tt.UniLTH, {"train": "all"}, "Received: 'all'"),
        (tt.UniDLTH, {"criterion": "size"}, "Received: 'size'"),
        (tt.UniLTH, {"rewind_to": "20 epochs"}, "'20 epochs'"),
        (
            tt.UniLTH,
            {"rewind_to": "6 epochs", "epochs_per_round": 6},
            "no epochs left.*'6 epochs'.*epochs_per_round=6",
        ),
        (
            tt.UniLTH,
            {"rewind_to": "1 epochs", "stage_one": 0},
            "'1 epochs'.* and no stage one. Use 'init'",
        ),
    ],
)
def test_bad_arguments_are_refused(kind, arguments, message):
    with pytest.raises(ValueError, match=message):
        kind(**arguments)


def test_what_is_no_early_stop_is_refused():
    with pytest.raises(TypeError, match="Received: 5"):
        tt.StageOne(20, early_stop=5)


SEARCHES = {
    "dlth": lambda: tt.DLTH(0.75, 2, 2, 2, monitor="val_accuracy", seed=2),
    "unilth": lambda: uni(
        tt.UniLTH, stage_one=tt.StageOne(3, tt.EarlyStopRewind(1, 10.0))
    ),
    "unidlth": lambda: uni(tt.UniDLTH, train="each", rewind_to="2 steps"),
}


class _Stop(keras.callbacks.Callback):
    changes_results = False

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_end(self, epoch, logs=None):
        if epoch >= self.epoch:
            raise KeyboardInterrupt


def find(name, directory, callbacks=()):
    search = SEARCHES[name]()
    arguments = {"batch_size": 16, "callbacks": callbacks, "verbose": 0, "seed": 1}
    tt.find_tickets(tiny.build_compiled, tiny.splits(), search, directory, **arguments)
    return search


@pytest.mark.parametrize(
    "name, epoch",
    tiny.in_turns(
        # The second is interrupted in stage one.
        [("unidlth", 8), ("unilth", 0), ("dlth", 2), ("unilth", 3)],
        every=4,
    ),
)
def test_a_search_that_was_interrupted_ends_with_the_same_bits(tmp_path, name, epoch):
    whole = find(name, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        find(name, tmp_path / "cut", [_Stop(epoch)])
    resumed = find(name, tmp_path / "cut")
    assert [t.id for t in resumed.tickets] == [t.id for t in whole.tickets]
    assert [t.metrics for t in resumed.tickets] == [t.metrics for t in whole.tickets]
    assert noted(resumed) == noted(whole)
    again = find(name, tmp_path / "cut", [_Stop(0)])
    assert [t.metrics for t in again.tickets] == [t.metrics for t in whole.tickets]
    assert (tmp_path / "whole" / runner.STATE).exists()


def test_patience_is_an_argument_that_can_be_varied():
    stops = [tt.StageOne(9, tt.EarlyStopRewind(p)) for p in (1, 3)]
    result = uni(tt.UniLTH).varied(stage_one=stops)
    assert [s.stage_one.early_stop.patience for s in result.values()] == [1, 3]


class _Seen(keras.callbacks.Callback):
    """Records the events of a round's callback, and the sparsity at that time."""

    def __init__(self):
        super().__init__()
        self.told = []

    def on_train_begin(self, logs=None):
        self.told.append(("begin", round(wrapping.kernels(self.model).sparsity, 2)))

    def on_epoch_end(self, epoch, logs=None):
        self.told.append((epoch, round(wrapping.kernels(self.model).sparsity, 2)))

    def on_train_end(self, logs=None):
        self.told.append(("end", round(wrapping.kernels(self.model).sparsity, 2)))


def test_callbacks_of_a_round_see_stage_one_and_the_training_of_tickets():
    seen = _Seen()
    search = uni(tt.UniLTH, train="last").in_round(seen)
    run(search)
    rounds = [s for told, s in seen.told if told == "begin"]
    assert rounds == [0.0, pytest.approx(0.7, abs=0.01)]
    told = [told for told, _ in seen.told]
    assert told == ["begin", 0, 1, 2, "end", "begin", 0, 1, "end"]


def test_a_callback_that_restores_weights_brings_no_mask_back():
    stop = keras.callbacks.EarlyStopping(
        "loss", patience=1, mode="max", restore_best_weights=True
    )
    search = uni(tt.UniDLTH, train="each").in_round(stop)
    run(search)
    for earlier, later in itertools.pairwise(search.tickets):
        for path, mask in later.masks.items():
            assert not (mask & ~earlier.masks[path]).any()
    assert [sum(t.kept.values()) for t in search.tickets] == [49, 27]


def test_a_search_that_was_cut_off_leaves_no_penalty_for_the_next():
    search = uni(tt.UniLTH)
    model = network(search)
    with pytest.raises(KeyboardInterrupt):
        run(search, model, [_Stop(5)])
    assert float(sum(model.losses)) > 0.0
    _, history = run(search, model)
    assert max(history["penalty"][: search.stage_one.epochs]) == 0.0


def test_a_model_can_be_wrapped_again_and_stripped_twice():
    search, plain = uni(tt.UniLTH), tiny.build_compiled()
    first = search.wrap(plain, verbose=False)
    second = search.wrap(plain, verbose=False)
    run(search, second)
    again = tt.strip(second)
    tt.strip(first)
    assert again.losses == [] and plain.losses == []


@keras.saving.register_keras_serializable("tests")
def _share_of_steps(step, steps, epochs):
    return step / steps


def test_a_schedule_may_divide_by_the_steps():
    _, history = run(uni(tt.UniLTH, penalty=tt.PenaltyPhase(2, _share_of_steps)))
    assert np.isfinite(history["loss"]).all() and max(history["penalty"]) > 0.0


def test_patterns_that_match_no_kernel_are_refused_before_training():
    with pytest.raises(ValueError, match="No pattern matches kernel"):
        run(uni(tt.UniLTH, final_sparsity={"nosuch": 0.7}))


def test_exact_tickets_see_the_data_in_the_order_of_stage_one():
    exact = tt.Rewind("1 epochs", "exact")
    search = uni(tt.UniLTH, rewind_to=exact, epochs_per_round=3)
    keys = []

    class Note(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            keys.append((search.round, search.engine.data_key(7)))

    run(search, None, [Note()])
    last = [key for round_, key in keys if round_ == search.rounds]
    assert last[search.penalty.epochs :] == [(7, 0, 1), (7, 0, 2)]
