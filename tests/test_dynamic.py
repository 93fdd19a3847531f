"""SET and RigL: what is dropped, what grows, and when."""

import keras
import numpy as np
import pytest
import tiny

import tf_tickets as tt
from tf_tickets import wrapping
from tf_tickets.callbacks import dynamic_sparsity
from tf_tickets.pruning import saliency
from tf_tickets.structures.structure import Layout

pytestmark = pytest.mark.turns("tensorflow")

X, Y = tiny.data()


def rigl(**kwargs):
    arguments = {
        "sparsity": 0.7,
        "interval": 3,
        "grow": saliency.DenseGradient(X, Y, 32),
    }
    return tt.DynamicSparsity(**{**arguments, **kwargs})


class Watch(keras.callbacks.Callback):
    """Records masks, kernels and momenta before and after each exchange."""

    def __init__(self, training):
        super().__init__()
        self.training = training
        self.seen = []
        inner, self.training._set_masks = training._set_masks, self.noted
        self.inner = inner

    def noted(self, masks):
        model = self.training.model
        before = self.state(model)
        self.inner(masks)
        self.seen.append((self.training._step, before, self.state(model)))

    def state(self, model):
        arrays = {v.path: wrapping.to_numpy(v) for v in model.optimizer.variables}
        kernels = wrapping.kernels(model).variables.items()
        slots = {
            path: [a for a in arrays.values() if a.shape == v.shape]
            for path, v in kernels
        }
        weights = {path: wrapping.to_numpy(v) for path, v in kernels}
        return wrapping.kernels(model).masks, weights, slots


def fit(training, model=None, epochs=3, **kwargs):
    model = model or tiny.network(keras.optimizers.SGD(0.1, momentum=0.9))
    watch = Watch(training)
    arguments = {"batch_size": 16, "shuffle": False, "verbose": 0, **kwargs}
    history = model.fit(X, Y, epochs=epochs, callbacks=[training], **arguments).history
    # The first sets the masks, the last is the end of `fit`.
    return model, history, watch.seen


@pytest.mark.parametrize("grow", ["random", "gradient"])
def test_counts_stay_and_a_grown_weight_begins_at_zero(grow):
    training = rigl(**({"grow": "random"} if grow == "random" else {}))
    model, history, seen = fit(training)
    counts = {path: int(m.sum()) for path, m in wrapping.kernels(model).masks.items()}
    assert sum(counts.values()) == 27 and history["sparsity"] == [0.7] * 3
    # 12 steps: exchanges at 3, 6 and 9; the last one drops nothing.
    assert [step for step, _, _ in seen[1:-1]] == [3, 6, 9]
    moved = 0
    for _, (old, _, _), (new, weights, slots) in seen[1:-1]:
        for path, mask in new.items():
            assert mask.sum() == counts[path]
            grown = mask & ~old[path]
            moved += int(grown.sum())
            assert (weights[path][grown] == 0.0).all()
            assert all((slot[grown] == 0.0).all() for slot in slots[path])
            assert (weights[path][~mask] == 0.0).all()
    assert moved > 5
    assert tiny.pruned_weights(model).tolist() == [0.0] * 63
    assert training.ticket.sparsity == 0.7


def by_place(weight):
    return np.arange(weight.size).reshape(weight.shape) * 7 % 31


def test_the_smallest_are_dropped_and_the_highest_scores_grow():
    arguments = {"until": 1.0, "anneal": "constant", "drop_fraction": 0.4}
    _, _, seen = fit(rigl(grow=by_place, **arguments))
    assert len(seen) == 6
    _, (old, weights, _), (new, _, _) = seen[1]
    for path, mask in old.items():
        dropped = round(0.4 * mask.sum())
        sizes = np.where(mask, np.abs(weights[path]), np.inf).ravel()
        expected = mask.ravel().copy()
        expected[np.argsort(sizes)[:dropped]] = False
        scores = np.where(expected, -1, by_place(mask).ravel())
        for place in sorted(range(mask.size), key=lambda i: (-scores[i], i))[:dropped]:
            expected[place] = True
        assert new[path].ravel().tolist() == expected.tolist()


def exchanged(weight, score, mask, fraction):
    """Exchanges weights one at a time, as RigL's paper and code do."""
    stay, candidates = [], list(np.flatnonzero(mask))
    dropped = round(fraction * len(candidates))
    while len(candidates) > dropped:
        largest = max(candidates, key=lambda i: (abs(weight[i]), -i))
        stay.append(largest)
        candidates.remove(largest)
    free = [i for i in range(len(weight)) if i not in stay]
    for _ in range(dropped):
        best = max(free, key=lambda i: (score[i], -i))
        stay.append(best)
        free.remove(best)
    return sorted(stay)


def single_exchange(weight, score, mask, fraction):
    tables = [{"kernel": array} for array in (weight, score, mask)]
    return dynamic_sparsity._exchanged(Layout(), *tables, fraction)["kernel"]


def test_in_a_nearly_dense_kernel_the_whole_fraction_is_dropped():
    weight = np.array([9.0, 1.0, -8.0, 2.0, 7.0, -3.0, 6.0, 4.0, -5.0, 0.0])
    score = np.array([0.0, 7.0, 1.0, 6.0, 1.0, 2.0, 1.0, 9.0, 1.0, 8.0])
    mask = weight != 0.0
    # The smallest four, at 1, 3, 5 and 7, compete again with 9. All but 5 win.
    expected = [0, 1, 2, 3, 4, 6, 7, 8, 9]
    result = single_exchange(weight, score, mask, 4 / 9)
    assert np.flatnonzero(result).tolist() == expected
    assert exchanged(weight, score, mask, 4 / 9) == expected


@pytest.mark.parametrize("density", [0.1, 0.5, 0.8, 0.95, 1.0])
@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.7, 1.0])
def test_an_exchange_equals_one_of_single_weights(density, fraction):
    rng = np.random.default_rng(int(100 * density + 10 * fraction))
    weight, score = rng.normal(size=(2, 60))
    mask = rng.permutation(60) < 60 * density
    result = single_exchange(weight * mask, score, mask, fraction)
    assert np.flatnonzero(result).tolist() == exchanged(weight, score, mask, fraction)
    assert result.sum() == mask.sum()


def test_the_dense_gradient_is_the_slope_at_weights_that_are_pruned_too():
    model = tiny.compiled(tt.wrap(tiny.build(dropout=0.0), verbose=False))
    masks = tiny.half(model)
    wrapping.kernels(model).set_masks(masks)
    result = saliency.DenseGradient(X, Y)(model, np.random.default_rng(0))
    whole = {path: np.ones_like(mask) for path, mask in masks.items()}
    wrapping.kernels(model).set_masks(whole)

    def loss():
        logits = model(X, training=True)
        return float(
            keras.ops.mean(
                keras.losses.sparse_categorical_crossentropy(Y, logits, True)
            )
        )

    checked = 0
    for path, kernel in wrapping.kernels(model).variables.items():
        start = wrapping.to_numpy(kernel)
        for place in list(np.argwhere(~masks[path]))[:3]:
            ends = []
            for change in (0.003, -0.003):
                moved = start.copy()
                moved[tuple(place)] += change
                kernel.assign(moved)
                ends.append(loss())
            kernel.assign(start)
            slope = abs(ends[0] - ends[1]) / 0.006
            assert result[path][tuple(place)] == pytest.approx(slope, abs=2e-3)
            checked += slope > 1e-2
    assert checked > 2


def test_the_fraction_falls_as_a_cosine_until_its_time():
    training = rigl(until=0.5, drop_fraction=0.4)
    fit(training, epochs=4)
    assert training._last == 8.0
    actual = [training.fraction(step) for step in (0, 2, 4, 8, 20)]
    expected = [0.4, 0.2 * (1 + np.sqrt(0.5)), 0.2, 0.0, 0.0]
    assert actual == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("spe", [1, 4])
def test_after_its_time_nothing_is_exchanged(spe):
    model = tiny.compiled(tt.wrap(tiny.build(), verbose=False), steps_per_execution=spe)
    _, _, seen = fit(rigl(until=0.5, interval=2), model)
    assert max(step for step, _, _ in seen[1:-1]) <= 6
    assert len(seen) - 2 == {1: 3, 4: 1}[spe]


def test_a_training_that_goes_on_stands_where_it_was():
    training = rigl(until=0.75, interval=2)
    model, _, seen = fit(training, epochs=2)
    _, _, more = fit(training, model, epochs=4, initial_epoch=2)
    _, _, whole = fit(rigl(until=0.75, interval=2), epochs=4)
    exchanges = [step for step, _, _ in whole[1:-1]]
    assert [step for step, _, _ in more[:-1]] == [s for s in exchanges if s >= 8]


def test_masks_that_are_there_are_the_first():
    model = tiny.network()
    wrapping.kernels(model).set_masks(tiny.half(model))
    _, history, seen = fit(rigl(interval=100), model)
    assert history["sparsity"] == [0.5] * 3 and len(seen) == 1


def test_the_seed_decides():
    result = [
        list(wrapping.kernels(fit(rigl(grow="random", seed=seed))[0]).masks.values())
        for seed in (0, 0, 1)
    ]
    assert tiny.same(result[0], result[1]) and not tiny.same(result[0], result[2])


@pytest.mark.parametrize(
    "given, message",
    [
        ({"sparsity": 90}, "sparsity=90"),
        ({"drop_fraction": 1.5}, "drop_fraction=1.5"),
        ({"until": -1.0}, "until=-1.0"),
        ({"anneal": "linear"}, "'linear'"),
        ({"interval": 0}, "Received: 0"),
        ({"grow": "rigl"}, "'rigl'"),
    ],
)
def test_bad_arguments_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        tt.DynamicSparsity(**given)
