"""Compares Continuous Sparsification with its published algorithm."""

import functools
import itertools

import keras
import numpy as np
import pytest
import tiny

import tf_tickets as tt
from tf_tickets import optimizers, wrapping
from tf_tickets.search import runner
from tf_tickets.training import snapshots

pytestmark = pytest.mark.turns


def cs(rounds=3, epochs=2, **kwargs):
    arguments = {"monitor": "accuracy", "initial_score": -0.05, **kwargs}
    return tt.ContinuousSparsification(rounds, epochs, **arguments)


def network(search, optimizer=None, **kwargs):
    keras.utils.set_random_seed(0)
    plain = tiny.compiled(tiny.build(**kwargs), optimizer)
    return search.wrap(plain, verbose=False)


def run(search, model=None, callbacks=(), **kwargs):
    model = model or network(search)
    return model, tiny.run(model, search, [search, *callbacks], **kwargs)


def scores(model):
    return {
        path: wrapping.to_numpy(mask.scores)
        for path, mask in wrapping.kernels(model).mask_layers.items()
    }


class Scores(keras.callbacks.Callback):
    """Records scores, weights and optimizer before and after the search acts."""

    def __init__(self):
        super().__init__()
        self.ended, self.begun, self.states = [], [], []

    def on_epoch_end(self, epoch, logs=None):
        self.ended.append(scores(self.model))

    def on_epoch_begin(self, epoch, logs=None):
        self.begun.append(scores(self.model))
        self.states.append(snapshots.record(self.model))


@pytest.mark.both
@pytest.mark.parametrize(
    "optimizer, score", tiny.checkered(["adam", "momentum"], [20.0, 25.0])
)
def test_with_high_scores_and_no_penalty_it_is_dense_training_to_the_bit(
    optimizer, score
):
    def one():
        if optimizer == "adam":
            return keras.optimizers.Adam(0.01)
        return keras.optimizers.SGD(0.05, momentum=0.9, weight_decay=0.01)

    search = cs(1, 5, initial_score=score, penalty=0.0)
    model, logs = run(search, network(search, one()))
    keras.utils.set_random_seed(0)
    dense = tiny.compiled(tiny.build(), one())
    x, y = tiny.data()
    fit = {"epochs": 5, "batch_size": 16, "shuffle": False, "verbose": 0}
    expected = dense.fit(x, y, **fit).history
    assert logs["loss"] == expected["loss"]
    found = [wrapping.to_numpy(v) for v in wrapping.plain_paths(model).values()]
    assert tiny.same(found, [wrapping.to_numpy(v) for v in dense.variables])
    assert logs["sparsity"] == [0.0] * 5
    assert all((s == np.float32(score)).all() for s in scores(model).values())


def test_a_score_of_five_is_not_dense():
    search = cs(1, 5, initial_score=5.0, penalty=0.0)
    model, _ = run(search)
    assert any((s != 5.0).any() for s in scores(model).values())


@pytest.mark.both
def test_tickets_are_taken_before_the_scores_are_reset():
    search, diary = cs(initial_score=-0.02), Scores()
    run(search, network(search, keras.optimizers.Adam(0.05)), callbacks=[diary])
    for round_, ticket in enumerate(search.tickets):
        ended = diary.ended[2 * round_ + 1]
        for path, mask in ticket.masks.items():
            assert (mask == (ended[path] > 0)).all()
        assert 0.0 < ticket.sparsity < 1.0
    # After the reset all scores are below zero, so their mask would be empty.
    for epoch in (2, 4):
        assert max(s.max() for s in diary.begun[epoch].values()) <= np.float32(-0.02)


@pytest.mark.both
def test_scores_are_reset_to_the_lesser_of_temperature_times_score_and_the_first():
    search, diary = cs(final_temperature=50.0), Scores()
    run(search, callbacks=[diary])
    for before, after in ((1, 2), (3, 4)):
        for path, reset in diary.begun[after].items():
            grown = diary.ended[before][path] * np.float32(50.0)
            expected = np.minimum(grown, np.float32(-0.05))
            np.testing.assert_allclose(reset, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("paper", [-100.0, -0.2, -0.1, -0.1, -0.1]),
        ("code", [-0.5, -0.1, -0.1, -0.1, -0.1]),
    ],
)
def test_the_rules_between_rounds_give_literal_scores(rule, expected):
    search = cs(initial_score=-0.1, final_temperature=200.0, between_rounds=rule)
    model = network(search)
    mask = next(iter(wrapping.kernels(model).mask_layers.values()))
    mask.begin(np.random.default_rng(0), 4, 2)
    mask.clock.now.assign(4)  # The last step of the round.
    assert mask.present_temperature == pytest.approx(200.0, rel=1e-6)
    given = np.full(mask.scores.shape, 0.7, "float32").ravel()
    given[:5] = [-0.5, -0.001, -0.0005, 0.0, 0.3]
    mask.scores.assign(given.reshape(mask.scores.shape))
    search._reset_scores(mask)
    found = wrapping.to_numpy(mask.scores).ravel()
    np.testing.assert_allclose(found[:5], expected, rtol=1e-5)
    assert (found[5:] == np.float32(-0.1)).all()


@pytest.mark.both
def test_the_rule_of_the_code_keeps_scores_below_the_first():
    search, diary = cs(2, final_temperature=50.0, between_rounds="code"), Scores()
    run(search, callbacks=[diary])
    for path, reset in diary.begun[2].items():
        expected = np.minimum(diary.ended[1][path], np.float32(-0.05))
        assert (reset == expected).all()


def test_another_rule_between_rounds_is_refused():
    with pytest.raises(ValueError, match="one of 'paper', 'code'. Received: 'min'"):
        cs(between_rounds="min")


@pytest.mark.both
def test_the_temperature_rises_in_every_round_and_the_logs_say_so():
    search = cs(2, 3, final_temperature=100.0)
    _, logs = run(search)
    # 4 steps an epoch: the last step of an epoch is the 4th, 8th, 12th of 12.
    expected = [100.0 ** (t / 11) for t in (3, 7, 11)]
    assert logs["temperature"] == pytest.approx(expected * 2, rel=1e-5)
    assert logs["round"] == [1, 1, 1, 2, 2, 2]
    per_epoch = tt.schedules.ExponentialTemperature(1.0, 100.0, "epoch")
    by_epoch = cs(1, 3, final_temperature=per_epoch)
    assert run(by_epoch)[1]["temperature"] == pytest.approx([1.0, 10.0, 100.0])


def test_two_sparsities_are_logged_and_are_not_the_same():
    search = cs(1, 3, initial_score=-0.3, final_temperature=2000.0)
    model, logs = run(search)
    hard = wrapping.kernels(model).sparsity
    masks = [m.probability() for m in wrapping.kernels(model).mask_layers.values()]
    exact = sum((m == 0).sum() for m in masks) / 90
    assert logs["sparsity"][-1] == logs["ticket_sparsity"][-1] == hard
    assert logs["soft_sparsity"][-1] == pytest.approx(exact)
    assert logs["soft_sparsity"][0] < logs["ticket_sparsity"][0]


@pytest.mark.parametrize("rewind", [False, True])
def test_weights_are_rewound_or_kept_and_the_optimizers_begin_anew(rewind):
    search, diary = cs(2, 2, rewind=rewind, rewind_to="2 steps"), Scores()
    model, _ = run(search, callbacks=[diary])
    first, second = diary.states[0], diary.states[2]
    assert tiny.same(
        tiny.flat(second, ["optimizer", "learning_rate"]),
        tiny.flat(first, ["optimizer", "learning_rate"]),
    )
    parts = ["weights", "statistics"]
    rewound = tiny.same(
        tiny.flat(second, parts), tiny.flat(search.engine.state.snapshot, parts)
    )
    assert rewound is rewind
    for ticket in search.tickets:
        assert ticket.provenance["step"] == 2
        for path, weight in ticket.weights.items():
            kept = {
                **search.engine.state.snapshot["weights"],
                **search.engine.state.snapshot["statistics"],
            }
            assert weight.tobytes() == kept[path].tobytes()


@pytest.mark.parametrize("scaled", [True, False])
def test_the_scale_is_in_the_soft_phase_the_ticket_and_its_training(scaled, tmp_path):
    search = cs(1, 3, initial_score=-0.1, scale_mask=scaled, final_temperature=5000.0)
    model, _ = run(search, network(search, dropout=0.0))
    c = 1 + np.exp(0.1) if scaled else 1.0
    ticket = search.tickets[0]
    assert list(ticket.scales.values()) == (pytest.approx([c, c]) if scaled else [])
    # The soft network at a high temperature equals the stripped one, unless a score is
    # so close to zero that its mask is still soft.
    x, _ = tiny.data()
    for mask in wrapping.kernels(model).mask_layers.values():
        values = wrapping.to_numpy(mask.scores)
        mask.scores.assign(np.where(values > 0, 0.01, -0.01) + values)
    soft = keras.ops.convert_to_numpy(model(x))
    hard = keras.ops.convert_to_numpy(tt.strip(model)(x))
    np.testing.assert_allclose(soft, hard, atol=1e-4)
    ticket.save(tmp_path / "a.ticket")
    loaded = tt.Ticket.load(tmp_path / "a.ticket")
    assert loaded.scales == ticket.scales and loaded.id == ticket.id
    plain = loaded.apply(tiny.build(dropout=0.0))
    by_hand = tiny.build(dropout=0.0)
    for path in wrapping.plain_paths(plain):
        factor = ticket.masks.get(path, 1.0) * np.float32(
            c if path in ticket.masks else 1
        )
        place = [v.path for v in by_hand.variables].index(path)
        by_hand.variables[place].assign(ticket.weights[path] * factor)
    first, second = (keras.ops.convert_to_numpy(m(x)) for m in (plain, by_hand))
    np.testing.assert_allclose(first, second, rtol=1e-5, atol=1e-6)


def test_a_scaled_ticket_trains_by_the_gradient_of_scaled_weights():
    """One step of SGD: the gradient of the stored weight has the factor c."""
    search = cs(1, 1, initial_score=-0.1)
    model, _ = run(search, network(search, dropout=0.0))
    ticket = search.tickets[0]
    x, y = tiny.data()
    trainer = tt.TicketTrainer(
        lambda: tiny.compiled(tiny.build(dropout=0.0), keras.optimizers.SGD(0.1)),
        ((x, y), (x, y)),
        batch_size=64,
    )
    trainer.train(ticket, epochs=1)
    assert wrapping.kernels(trainer.model).scales == pytest.approx(ticket.scales)
    plain = tiny.build(dropout=0.0)
    names = [path for path in ticket.weights if path in ticket.masks]
    trained = {
        p: wrapping.to_numpy(v)
        for p, v in wrapping.kernels(trainer.model).variables.items()
    }
    # By hand: the network of kernels c * m * w, whose gradient g gives c * m * g.
    by_hand = tiny.compiled(plain, keras.optimizers.SGD(0.1))
    c = 1 + np.exp(0.1)
    for v in by_hand.variables:
        scale = ticket.masks[v.path] * np.float32(c) if v.path in names else 1.0
        if v.path in ticket.weights:
            v.assign(ticket.weights[v.path] * scale)
    before = {v.path: wrapping.to_numpy(v) for v in by_hand.trainable_variables}
    by_hand.fit(x, y, batch_size=64, shuffle=False, verbose=0)
    for path in names:
        variable = next(v for v in by_hand.variables if v.path == path)
        moved = (wrapping.to_numpy(variable) - before[path]) * np.float32(c)
        expected = ticket.weights[path] + moved
        kept = ticket.masks[path]
        np.testing.assert_allclose(trained[path][kept], expected[kept], atol=1e-5)


def test_a_greater_penalty_leaves_fewer_weights_down_to_none():
    def kept(penalty):
        search = cs(1, 10, initial_score=0.05, penalty=penalty)
        run(search, network(search, keras.optimizers.SGD(0.1)))
        return sum(search.tickets[0].kept.values())

    found = [kept(penalty) for penalty in (0.0, 1e-2, 10.0)]
    assert found[0] > found[1] > found[2] == 0
    assert found[0] > 30


def test_scores_receive_no_weight_decay():
    """Without data and penalty, only the weights change, not the scores."""
    optimizer = keras.optimizers.AdamW(0.1, weight_decay=0.5)
    search = cs(2, 2, initial_score=0.25, penalty=0.0)
    model = network(search, optimizer)
    before = wrapping.to_numpy(wrapping.kernels(model).variables["net/hidden/kernel"])
    x, y = np.zeros((64, 6), "float32"), np.zeros(64, int)
    fit = {"batch_size": 16, "verbose": 0, "callbacks": [search]}
    model.fit(x, y, epochs=search.epochs, **fit)
    assert (scores(model)["net/hidden/kernel"] == 0.25).all()
    after = wrapping.to_numpy(wrapping.kernels(model).variables["net/hidden/kernel"])
    assert np.abs(after).sum() < 0.9 * np.abs(before).sum()


def test_weight_decay_on_the_scores_is_refused():
    search = cs()
    model = search.wrap(tiny.build(), verbose=False)
    tiny.compiled(model, keras.optimizers.AdamW(0.01))
    with pytest.raises(ValueError, match="weight decay.*with_scores"):
        tiny.run(model, search)
    tiny.compiled(model, optimizers.with_scores(keras.optimizers.AdamW(0.01)))
    tiny.run(model, search)
    assert len(search.tickets) == 3


def test_an_optimizer_of_its_own_trains_the_scores_or_is_asked_for():
    search = cs(1, score_optimizer=keras.optimizers.SGD(0.0))
    model, _ = run(search)
    assert all((s == np.float32(-0.05)).all() for s in scores(model).values())
    model = tiny.compiled(search.wrap(tiny.build(), verbose=False))
    with pytest.raises(ValueError, match="compiled with.*with_scores"):
        tiny.run(model, search)


def test_what_filters_leave_out_has_no_mask():
    search = cs()
    plain = tiny.compiled(tiny.build())
    model = search.wrap(plain, filters="hidden", verbose=False)
    run(search, model)
    assert list(search.tickets[-1].masks) == ["net/hidden/kernel"]


def test_a_model_that_does_not_fit_the_search_is_refused():
    search = cs()
    with pytest.raises(ValueError, match="no Prunable layers"):
        tiny.run(tiny.compiled(tiny.build()), search)
    for mask in ("fixed", "stochastic", tt.masks.SoftMask(0.3)):
        model = tiny.compiled(tt.wrap(tiny.build(), mask=mask, verbose=False))
        with pytest.raises(ValueError, match="another mask.*search.wrap"):
            tiny.run(model, search)
    model = network(search)
    with pytest.raises(ValueError, match="are learned"):
        tiny.run(model, tiny.imp())
    model = network(search)
    model.layers[0].trainable = False
    with pytest.raises(ValueError, match="frozen"):
        tiny.run(model, search)


class Careless(keras.Model):
    """A training step that forgets the model's losses."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=1):
        return keras.ops.mean(self.loss(y, y_pred))


def test_a_trainer_that_forgets_the_losses_is_found_out():
    search = cs()
    wrapped = search.wrap(tiny.build(), verbose=False)
    model = Careless(wrapped.inputs, wrapped.outputs)
    tiny.compiled(model)
    if keras.config.backend() == "jax":
        pytest.skip("the trainer of JAX collects them in any case")
    with pytest.raises(ValueError, match=r"model\.losses"):
        tiny.run(model, search)


def test_data_of_unknown_length_is_refused():
    search = cs()

    def batches():
        while True:
            yield tuple(a[:16] for a in tiny.data())

    with pytest.raises(ValueError, match="steps_per_epoch"):
        fit = {"shuffle": False, "verbose": 0, "callbacks": [search]}
        network(search).fit(batches(), epochs=6, **fit)


def test_the_best_ticket_is_the_sparsest_near_the_best_of_them():
    search = cs(monitor=tt.Monitor("accuracy", 0.1))
    run(search)
    metrics = [t.metrics["accuracy"] for t in search.tickets]
    good = [t for t in search.tickets if t.metrics["accuracy"] >= max(metrics) - 0.1]
    assert search.best is max(good, key=lambda t: t.sparsity)


def test_a_second_fit_begins_anew():
    search = cs()
    model, _ = run(search)
    kept = search.tickets
    tiny.run(model, search)
    assert len(search.tickets) == 3 and search.tickets[0] is not kept[0]


SEARCHES = {
    "cs": lambda: cs(3, 2, rewind_to="2 steps", monitor="val_accuracy"),
    "cs, rewound": lambda: cs(3, 2, rewind=True, monitor="val_accuracy"),
    "iss": lambda: tt.StochasticSparsification(
        3, 2, monitor="val_accuracy", rewind_to="2 steps"
    ),
    "supermask": lambda: tt.Supermask(3, "topk", monitor="val_accuracy"),
}


class _Stop(keras.callbacks.Callback):
    changes_results = False

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.now == self.epoch and batch == 2:
            raise KeyboardInterrupt

    def on_epoch_begin(self, epoch, logs=None):
        self.now = epoch


def find(name, directory, callbacks=()):
    keras.utils.clear_session()
    search = SEARCHES[name]()
    arguments = {"directory": directory, "batch_size": 16, "verbose": 0, "seed": 3}
    tt.find_tickets(
        tiny.build_compiled, tiny.splits(), search, callbacks=callbacks, **arguments
    )
    return search


# In the first, second and last round; a supermask has one round of three epochs.
CUTS = [
    *itertools.product(["cs", "cs, rewound", "iss"], [0, 3, 4]),
    *(("supermask", epoch) for epoch in (0, 1, 2)),
]
CHOSEN = {
    "tensorflow": [("cs", 3)],
    "jax": [("iss", 4), ("supermask", 1)],
}[keras.config.backend()]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Maps a name to the uninterrupted search, which runs once."""

    @functools.cache
    def found(name):
        directory = tmp_path_factory.mktemp("whole")
        search = find(name, directory)
        assert (directory / runner.STATE).exists()
        return search

    return found


@pytest.mark.parametrize("name, epoch", tiny.marked(CUTS, CHOSEN))
def test_a_search_that_was_interrupted_ends_with_the_same_bits(
    tmp_path, uninterrupted, name, epoch
):
    whole = uninterrupted(name)
    with pytest.raises(KeyboardInterrupt):
        find(name, tmp_path / "cut", [_Stop(epoch)])
    resumed = find(name, tmp_path / "cut")
    assert [t.id for t in resumed.tickets] == [t.id for t in whole.tickets]
    assert [t.metrics for t in resumed.tickets] == [t.metrics for t in whole.tickets]
    again = find(name, tmp_path / "cut", [_Stop(0)])
    assert [t.metrics for t in again.tickets] == [t.metrics for t in whole.tickets]


def test_the_initial_score_steers_the_sparsity():
    def sparsity(score):
        search = cs(1, 10, initial_score=score)
        run(search)
        return search.tickets[0].sparsity

    found = [sparsity(score) for score in (-0.3, -0.05, 0.3)]
    assert found == sorted(found, reverse=True) and found[0] > found[-1]


@pytest.mark.on("jax")
def test_a_search_of_other_objects_with_other_names_goes_on(tmp_path):
    """Within a process, Keras counts up in the names of optimizers and masks."""
    makes = {
        "iss": lambda: tt.StochasticSparsification(1, 1, monitor="val_accuracy"),
        "supermask": lambda: tt.Supermask(1, "topk", monitor="val_accuracy"),
        "cs": lambda: cs(1, 1, score_optimizer="sgd", monitor="val_accuracy"),
    }
    arguments = {"batch_size": 16, "verbose": 0}
    for name, make in makes.items():
        for _ in range(2):
            search = make()
            data = tiny.splits()
            tt.find_tickets(
                tiny.build_compiled, data, search, tmp_path / name, **arguments
            )
            assert len(search.tickets) == 1 and 0.0 <= search.sparsity <= 1.0


def test_the_stripped_model_shares_no_memory_with_the_wrapped_one():
    search = cs(1, 1)
    model, _ = run(search)
    plain = tt.strip(model)
    x, _ = tiny.data()
    expected = plain.predict(x, verbose=0)
    tiny.run(model, cs(1, 1))
    model.predict(x, verbose=0)
    np.testing.assert_array_equal(plain.predict(x, verbose=0), expected)


class WithoutTraining(keras.Model):
    def __init__(self):
        super().__init__()
        self.inner = keras.layers.Dense(3)

    def call(self, inputs):
        return self.inner(inputs)


def test_a_model_that_is_not_told_when_it_is_trained_is_refused():
    plain = WithoutTraining()
    plain(np.ones((1, 6)))
    search = cs()
    model = search.wrap(tiny.compiled(plain), verbose=False)
    with pytest.raises(ValueError, match="takes no `training`"):
        tiny.run(model, search)


def test_a_second_fit_begins_with_clean_optimizers():
    search, diary = cs(1, 1), tiny.Diary()
    model, _ = run(search)
    tiny.run(model, search, [search, diary])
    slots = tiny.flat(diary.before[0], ["optimizer"])
    assert all((slot == 0).all() for slot in slots)


def test_averages_of_weights_do_not_change_the_scores_of_the_last_ticket():
    optimizer = keras.optimizers.Adam(0.05, use_ema=True, ema_momentum=0.9)
    search = cs(1, 3, initial_score=0.0)
    model, _ = run(search, network(search, optimizer))
    for path, mask in wrapping.kernels(model).masks.items():
        assert (mask == search.tickets[0].masks[path]).all()
