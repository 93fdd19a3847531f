"""Compares supermasks and stochastic sparsification with their algorithms."""

import keras
import numpy as np
import pytest
import tiny

import tf_tickets as tt
from tf_tickets import masks, wrapping
from tf_tickets.masks import learned

pytestmark = pytest.mark.turns


def iss(rounds=3, epochs=2, **kwargs):
    arguments = {"monitor": "accuracy", **kwargs}
    return tt.StochasticSparsification(rounds, epochs, **arguments)


def run(search, optimizer=None, callbacks=(), plain=None):
    keras.utils.set_random_seed(0)
    model = search.wrap(plain or tiny.compiled(tiny.build(), optimizer), verbose=False)
    return model, tiny.run(model, search, [search, *callbacks])


class Scores(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.ended, self.begun = [], []

    def on_epoch_end(self, epoch, logs=None):
        self.ended.append(self._scores())

    def on_epoch_begin(self, epoch, logs=None):
        self.begun.append(self._scores())

    def _scores(self):
        result = wrapping.kernels(self.model).mask_layers.items()
        return {path: wrapping.to_numpy(mask.scores) for path, mask in result}


def test_stochastic_sparsification_with_high_scores_is_dense_training_to_the_bit():
    search = iss(1, 4, initial_score=20.0, penalty=0.0)
    model, logs = run(search)
    keras.utils.set_random_seed(0)
    dense = tiny.compiled(tiny.build())
    x, y = tiny.data()
    expected = dense.fit(
        x, y, epochs=4, batch_size=16, shuffle=False, verbose=0
    ).history
    assert logs["loss"] == expected["loss"]
    actual = [wrapping.to_numpy(v) for v in wrapping.plain_paths(model).values()]
    assert tiny.same(actual, [wrapping.to_numpy(v) for v in dense.variables])
    assert search.tickets[0].sparsity == 0.0


def test_what_fell_below_its_first_score_is_removed_for_good():
    search, diary = iss(), Scores()
    run(search, callbacks=[diary])
    removed = {}
    for before, after in ((1, 2), (3, 4)):
        for path, now in diary.begun[after].items():
            fell = diary.ended[before][path] < 1.0
            assert fell.any() and not fell.all()
            assert (now[fell] == np.float32(-learned.FAR)).all()
            assert now[~fell].tobytes() == diary.ended[before][path][~fell].tobytes()
            removed.setdefault(after, {})[path] = fell
    for path, fell in removed[2].items():
        assert (removed[4][path] | ~fell).all()
        for ticket in search.tickets[1:]:
            assert not ticket.masks[path][fell].any()


@pytest.mark.on("jax")
@pytest.mark.parametrize("ticket_by", ["sample", "threshold"])
def test_tickets_are_drawn_or_taken_by_threshold(ticket_by):
    search, diary = iss(2, 3, ticket_by=ticket_by), Scores()
    run(search, callbacks=[diary])
    for ticket, place in zip(search.tickets, (2, 5), strict=True):
        for path, mask in ticket.masks.items():
            threshold = diary.ended[place][path] > 0
            if ticket_by == "threshold":
                assert (mask == threshold).all()
            assert not mask[diary.ended[place][path] < -100].any()
    drawn = {p: m.mean() for p, m in search.tickets[0].masks.items()}
    if ticket_by == "sample":
        scores = diary.ended[2]
        for path, kept in drawn.items():
            p = 1 / (1 + np.exp(-scores[path].astype("float64")))
            sigma = np.sqrt((p * (1 - p)).sum()) / p.size
            assert abs(kept - p.mean()) < 5 * sigma + 1e-9
    again = iss(2, 3, ticket_by=ticket_by)
    run(again)
    assert [t.id for t in again.tickets] == [t.id for t in search.tickets]


def test_another_seed_draws_other_masks():
    first, second = iss(), iss(seed=1)
    run(first)
    run(second)
    assert first.tickets[0].id != second.tickets[0].id


def test_weights_are_rewound_between_rounds():
    search = iss(2, 2, rewind_to="2 steps")
    diary = tiny.Diary()
    run(search, callbacks=[diary])
    parts = ["weights", "statistics"]
    begun = diary.before[2]
    assert tiny.same(
        tiny.flat(begun, parts), tiny.flat(search.engine.state.snapshot, parts)
    )


def test_exact_zeros_of_the_probability_are_logged_beside_the_ticket_sparsity():
    search = iss()
    _, logs = run(search)
    assert logs["soft_sparsity"][0] == 0.0 and logs["soft_sparsity"][-1] > 0.0
    assert logs["sparsity"] == logs["ticket_sparsity"] != logs["soft_sparsity"]


KINDS = {
    "soft": masks.SoftMask(0.0, penalty=0.0),
    "stochastic": "stochastic",
    "topk": masks.TopKMask(0.5),
}
OPTIMIZERS = {"soft": "adam", "stochastic": keras.optimizers.SGD(100.0), "topk": None}


@pytest.mark.parametrize("kind", tiny.in_turns(KINDS))
def test_a_supermask_trains_nothing_but_scores(kind):
    search = tt.Supermask(
        3, KINDS[kind], score_optimizer=OPTIMIZERS[kind], monitor="accuracy"
    )
    keras.utils.set_random_seed(0)
    plain = tiny.compiled(tiny.build(), keras.optimizers.AdamW(0.1, weight_decay=0.1))
    before = [wrapping.to_numpy(v) for v in plain.trainable_variables]
    model, _ = run(search, plain=plain)
    kept = [wrapping.to_numpy(v) for v in wrapping.plain_paths(model).values()]
    kept = [
        a for a, v in zip(kept, plain.variables, strict=True) if "moving" not in v.path
    ]
    assert tiny.same([a for a in kept if a.dtype == "float32"], before)
    names = {v.name for v in model.trainable_variables}
    assert names == {"mask_scores"}
    scores = [wrapping.to_numpy(v) for v in model.trainable_variables]
    assert all(len(np.unique(s)) > 1 for s in scores)


@pytest.mark.parametrize("kind", tiny.in_turns(KINDS, every=3))
def test_a_supermask_learns_to_classify_with_random_weights(kind):
    data = tt.datasets.load("digits")

    def build():
        model = keras.Sequential(
            [
                keras.Input(data.input_shape),
                keras.layers.Flatten(),
                keras.layers.Dense(200, activation="relu"),
                keras.layers.Dense(10),
            ]
        )
        return tiny.compiled(model, keras.optimizers.Adam(0.02))

    optimizer = {"stochastic": keras.optimizers.SGD(100.0)}.get(kind)
    search = tt.Supermask(12, KINDS[kind], score_optimizer=optimizer)
    [ticket] = tt.find_tickets(build, data, search, batch_size=64, verbose=0)
    assert ticket.metrics["val_accuracy"] > 0.8
    # Only the ticket: random weights and its mask, without training.
    plain = ticket.apply(build())
    x, y = data.x_test, data.y_test
    accuracy = plain.evaluate(x, y, verbose=0, return_dict=True)["accuracy"]
    assert accuracy > 0.75
    assert 0.1 < ticket.sparsity < 0.9


def test_signed_constants_are_the_sign_times_the_spread():
    search = tt.Supermask(1, "topk", signed_constant=True, monitor="loss")
    keras.utils.set_random_seed(0)
    plain = tiny.compiled(tiny.build())
    drawn = [wrapping.to_numpy(v) for v in plain.variables if v.name == "kernel"]
    model, _ = run(search, plain=plain)
    pairs = zip(drawn, wrapping.kernels(model).variables.items(), strict=True)
    for kernel, (path, variable) in pairs:
        expected = np.sign(kernel) * kernel.std()
        np.testing.assert_allclose(wrapping.to_numpy(variable), expected, rtol=1e-6)
        np.testing.assert_allclose(search.tickets[0].weights[path], expected, rtol=1e-6)


@pytest.mark.parametrize("kind", ["stochastic", "topk"])
def test_dynamic_scaling_is_kept_in_the_ticket(kind):
    mask = {
        "stochastic": masks.StochasticMask(
            dynamic_scaling=True, evaluation="threshold"
        ),
        "topk": masks.TopKMask(0.75, dynamic_scaling=True),
    }[kind]
    scores = keras.optimizers.SGD(1.0)
    search = tt.Supermask(2, mask, score_optimizer=scores, monitor="loss")
    model, _ = run(search, plain=tiny.compiled(tiny.build(dropout=0.0)))
    [ticket] = search.tickets
    for path, actual in ticket.masks.items():
        assert ticket.scales[path] == pytest.approx(actual.size / actual.sum())
    x, _ = tiny.data()
    expected = keras.ops.convert_to_numpy(model(x))
    # The model has batch statistics; the ticket starts from the initial ones.
    plain = tt.strip(model)
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(plain(x)), expected, atol=1e-5
    )


def test_weights_that_would_be_trained_are_refused():
    search = tt.Supermask(2, "topk", monitor="loss")
    model = tt.wrap(tiny.build(), mask="topk", verbose=False)
    with pytest.raises(ValueError, match="leaves the weights as they are"):
        tiny.run(tiny.compiled(model), search)
    with pytest.raises(ValueError, match="must be a learned one"):
        tt.Supermask(2, "fixed")
    with pytest.raises(ValueError, match="'vote'"):
        iss(ticket_by="vote")


@pytest.mark.parametrize("kind", ["stochastic", "topk"])
def test_a_search_draws_by_its_own_seed_whatever_seed_the_mask_has(kind):
    make = {"stochastic": masks.StochasticMask, "topk": masks.TopKMask}[kind]

    def find(seed):
        scores = keras.optimizers.SGD(1.0)
        mask = make(seed=seed)
        search = tt.Supermask(2, mask, score_optimizer=scores, monitor="loss")
        run(search, plain=tiny.compiled(tiny.build(dropout=0.0)))
        return list(search.tickets[0].masks.values())

    assert tiny.same(find(3), find(4))


@pytest.mark.on("jax")
@pytest.mark.parametrize(
    "mask", ["topk", masks.StochasticMask(seed=3)], ids=["topk", "seeded"]
)
def test_signed_constants_are_the_same_after_an_interruption(tmp_path, mask):
    class Stop(keras.callbacks.Callback):
        changes_results = False

        def on_epoch_end(self, epoch, logs=None):
            raise KeyboardInterrupt

    def find(directory, callbacks=()):
        search = tt.Supermask(2, mask, signed_constant=True, monitor="val_accuracy")
        arguments = {"batch_size": 16, "verbose": 0, "callbacks": callbacks}
        return tt.find_tickets(
            tiny.build_compiled, tiny.splits(), search, directory, **arguments
        )

    [whole] = find(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        find(tmp_path / "cut", [Stop()])
    [resumed] = find(tmp_path / "cut")
    assert resumed.metrics == whole.metrics
    for old, new in zip(whole.weights.values(), resumed.weights.values(), strict=True):
        assert old.tobytes() == new.tobytes()


def test_the_ticket_has_the_statistics_that_the_search_has_gathered():
    search = tt.Supermask(3, "topk", monitor="accuracy")
    model, _ = run(search, plain=tiny.compiled(tiny.build(dropout=0.0)))
    keras.utils.set_random_seed(5)
    fresh = search.tickets[0].apply(tiny.compiled(tiny.build(dropout=0.0)))
    x, _ = tiny.data()
    expected = keras.ops.convert_to_numpy(model(x))
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(fresh(x)), expected)


def test_a_trainer_of_frozen_weights_is_refused():
    search = tt.Supermask(1, "topk", monitor="loss")
    run(search)
    trainer = tt.TicketTrainer(
        lambda: search.wrap(tiny.build_compiled(), verbose=False),
        tiny.splits(),
        batch_size=16,
    )
    with pytest.raises(ValueError, match="frozen"):
        trainer.train(search.tickets[0], 1)


def test_random_masks_of_other_counts_are_scaled_by_their_own():
    mask = masks.TopKMask(0.5, dynamic_scaling=True)
    search = tt.Supermask(1, mask, monitor="loss")
    run(search)
    [ticket] = search.tickets
    control = tt.controls.random_masks(ticket, "erk")
    for path, kept in control.masks.items():
        assert control.scales[path] == pytest.approx(kept.size / kept.sum())
    assert tt.controls.shuffle_masks(ticket).scales == ticket.scales
