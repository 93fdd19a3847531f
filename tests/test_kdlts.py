"""KDLTS against brute force, and what its search must leave as it was."""

import itertools

import keras
import numpy as np
import pytest

import tf_tickets as tt
from tf_tickets import wrapping
from tf_tickets.distillation import FeatureDistillation

STEPS = 500


def planted(seed):
    """Weights of a network of 12, a mask that keeps half of them, and inputs.

    4 of 9 and 2 of 3: what ERK would keep, too.
    """
    rng = np.random.default_rng(seed)
    weights = [rng.normal(size=shape) for shape in ((3, 3), (3, 1))]
    mask = np.concatenate([rng.permutation(9) < 4, rng.permutation(3) < 2])
    return weights, mask, rng.normal(size=(64, 3)).astype("float32")


def split(mask):
    return mask[:9].reshape(3, 3), mask[9:].reshape(3, 1)


def outputs(weights, mask, x):
    """Hidden layer and output, by hand."""
    first, last = (w * m for w, m in zip(weights, split(mask), strict=True))
    hidden = np.tanh(x @ first)
    return hidden, hidden @ last


def small():
    dense = keras.layers.Dense
    layers = [dense(3, "tanh", use_bias=False), dense(1, use_bias=False)]
    model = keras.Sequential([keras.Input((3,)), *layers], name="net")
    model.compile(keras.optimizers.Adam(0.1), steps_per_execution=50)
    return model


def every_half():
    for chosen in itertools.combinations(range(12), 6):
        mask = np.zeros(12, bool)
        mask[list(chosen)] = True
        yield mask


def gap(weights, mask, truth, x):
    """What the search minimizes, by hand."""
    pairs = zip(outputs(weights, mask, x), outputs(weights, truth, x), strict=True)
    return sum(float(np.mean((a - b) ** 2)) for a, b in pairs)


CASES = {
    "lagrangian": {"constraint": "lagrangian"},
    "topk": {"constraint": "topk", "allocation": "erk"},
}


@pytest.mark.parametrize("given", CASES.values(), ids=CASES)
def test_a_planted_ticket_is_found_as_brute_force_finds_it(given):
    teacher = small()
    losses = [FeatureDistillation(0, normalize=None)]
    losses.append(FeatureDistillation(normalize=None))
    search = tt.KDLTS(0.5, 1, losses, train_weights=False, monitor="loss", **given)
    model = search.taught_by(teacher).wrap(small(), verbose=False)
    found, better = [], []
    for seed in range(20):
        weights, truth, x = planted(seed)
        teacher.set_weights([w * m for w, m in zip(weights, split(truth), strict=True)])
        for variable, w in zip(
            wrapping.plain_paths(model.student).values(), weights, strict=True
        ):
            variable.assign(w)
        data = model.remember(np.tile(x, (STEPS, 1)))
        model.fit(data, batch_size=64, shuffle=False, callbacks=[search], verbose=0)
        mask = np.concatenate([m.ravel() for m in search.tickets[0].masks.values()])
        assert mask.sum() == 6
        all_gaps = [gap(weights, each, truth, x) for each in every_half()]
        own = gap(weights, mask, truth, x)
        found.append(own <= min(all_gaps) + 1e-12)
        better.append(own < np.median(all_gaps))
    assert sum(found) >= 12
    assert all(better)
