"""Runs a search with every way in which Keras compiles a step."""

import keras
import numpy as np
import pytest
import tiny
from keras import optimizers

import tf_tickets as tt
from tf_tickets import wrapping
from tf_tickets.training import snapshots

pytestmark = pytest.mark.turns

POLICIES = ["float32", "mixed_float16", "mixed_bfloat16"]
OPTIMIZERS = {
    "plain": {},
    "EMA": {"use_ema": True},
    "accumulation": {"gradient_accumulation_steps": 2},
}
# Without it, JAX runs each operation separately and compiles no step.
COMPILED = {"tensorflow": [False, True], "jax": [True], "torch": [False]}
JIT = COMPILED[keras.config.backend()]


def spread(names):
    """Returns rows that pair all settings, and before them a few with each setting.

    Only these few run by default. The other backend combines the settings otherwise.
    """
    choices = [JIT, POLICIES, (1, 4), names]
    if keras.config.backend() != "tensorflow":
        choices[1] = POLICIES[::-1]
    few = tiny.covering(1, *choices)
    others = [row for row in tiny.covering(2, *choices) if row not in few]
    return tiny.marked(few + others, few)


def test_every_two_settings_are_tried_together():
    rows = tiny.covering(2, "ab", "xyz", (1, 2))
    assert len(rows) == 6
    assert len(tiny.covering(1, "ab", "xyz", (1, 2))) == 3
    for first, second in ((0, 1), (0, 2), (1, 2)):
        seen = {(row[first], row[second]) for row in rows}
        assert len(seen) == {(0, 1): 6, (0, 2): 4, (1, 2): 6}[first, second]


class Loss:
    """Counts how often its Python code runs: once per trace."""

    def __init__(self):
        self.traces = 0

    def get_config(self):
        return {}

    def __call__(self, y_true, y_pred):
        self.traces += 1
        return keras.losses.sparse_categorical_crossentropy(
            y_true, y_pred, from_logits=True
        )


def network(wrap, policy, options, **compiling):
    """Builds a network, plain or wrapped, and compiles it."""
    keras.config.set_dtype_policy(policy)
    inputs = keras.Input((6,))
    x = keras.layers.Dense(10, activation="relu")(inputs)
    x = keras.layers.BatchNormalization()(x)
    model = keras.Model(inputs, keras.layers.Dense(3, dtype="float32")(x))
    model = tt.wrap(model, verbose=False) if wrap else model
    model.compile(optimizers.SGD(0.05, momentum=0.9, **options), Loss(), **compiling)
    return model


def fit(model, epochs, callbacks=()):
    x, y = tiny.data()
    model.fit(x, y, batch_size=16, epochs=epochs, verbose=0, callbacks=list(callbacks))
    return model


def zeros(arrays, masks):
    pairs = zip(arrays, masks.values(), strict=True)
    return [bool((array[~mask] == 0).all()) for array, mask in pairs]


def kernels_among(arrays):
    return [a for a in arrays if a.ndim == 2 and a.dtype != bool]


def effective(model):
    return [
        keras.ops.convert_to_numpy(mask.apply(variable.value))
        for layer in wrapping.prunables(model)
        for variable, mask in zip(
            layer.kernel_variables.values(), layer.kernel_masks, strict=True
        )
    ]


def predictions(model):
    """Predicts without XLA, which may round the same sum differently."""
    return keras.ops.convert_to_numpy(model(tiny.data()[0], training=False))


def check_every_reader(model, path):
    """Checks zeros in weights, effective kernels, the stripped model and the file."""
    masks = wrapping.kernels(model).masks
    expected = predictions(model)
    model.save(path)
    loaded = keras.models.load_model(path, compile=False)
    plain = tt.strip(model)
    for arrays in (model.get_weights(), plain.get_weights(), loaded.get_weights()):
        assert zeros(kernels_among(arrays), masks) == [True, True]
    assert zeros(effective(model), masks) == [True, True]
    assert tiny.same(wrapping.kernels(loaded).masks.values(), masks.values())
    for other in (plain, loaded):
        np.testing.assert_array_equal(predictions(other), expected)


@pytest.mark.parametrize("jit, policy, spe, options", spread(list(OPTIMIZERS)))
def test_a_search_leaves_exact_zeros_and_traces_no_more_than_a_dense_fit(
    tmp_path, jit, policy, spe, options
):
    options = OPTIMIZERS[options]
    compiling = {"jit_compile": jit, "steps_per_execution": spe}
    search = tt.IMP(4, 1, 0.3, monitor="loss")
    model = fit(network(True, policy, options, **compiling), search.epochs, [search])
    assert [sum(t.kept.values()) for t in search.tickets] == [63, 44, 31, 22]
    assert wrapping.kernels(model).sparsity == 68 / 90
    assert tiny.pruned_weights(model).tolist() == [0.0] * 68
    assert all(np.isfinite(t.metrics["loss"]) for t in search.tickets)
    dense = network(False, policy, options, **compiling)
    # Keras traces once more where the optimizer is built within the step.
    snapshots.built_optimizer(dense)
    fit(dense, 1)
    assert model.loss.traces == dense.loss.traces > 0
    check_every_reader(model, tmp_path / "a.keras")


@pytest.mark.parametrize("policy", tiny.in_turns(["float16", "bfloat16"]))
def test_weights_of_half_precision_are_ranked_and_rewound(policy):
    model = network(True, policy, {}, jit_compile=JIT[-1])
    search = tt.IMP(2, 1, 0.3, monitor="loss")
    before = snapshots.record(model)
    fit(model, search.epochs, [search])
    assert [sum(t.kept.values()) for t in search.tickets] == [63, 44]
    assert tiny.pruned_weights(model).tolist() == [0.0] * 46
    first = next(iter(search.tickets[1].masks))
    assert str(search.tickets[1].weights[first].dtype) == policy
    for path, weight in before["weights"].items():
        assert search.tickets[1].weights[path].tobytes() == weight.tobytes()


LEARNED = {
    "cs": lambda: tt.ContinuousSparsification(3, 1, monitor="loss"),
    "iss": lambda: tt.StochasticSparsification(3, 1, monitor="loss"),
    "supermask": lambda: tt.Supermask(3, "topk", monitor="loss"),
}


@pytest.mark.parametrize("jit, policy, spe, name", spread(list(LEARNED)))
def test_a_learned_mask_traces_no_more_than_a_dense_fit(jit, policy, spe, name):
    compiling = {"jit_compile": jit, "steps_per_execution": spe}
    search = LEARNED[name]()
    plain = network(False, policy, {}, **compiling)
    model = search.wrap(plain, verbose=False)
    # Keras traces once more where the optimizer is built within the step.
    snapshots.built_optimizer(model)
    fit(model, search.epochs, [search])
    assert len(search.tickets) == search.engine.plan.rounds
    assert all(np.isfinite(t.metrics["loss"]) for t in search.tickets)
    assert all(0.0 < t.sparsity < 1.0 for t in search.tickets)
    for mask in wrapping.kernels(model).mask_layers.values():
        assert mask.scores.dtype == "float32"
        if name == "cs":
            assert mask.clock.steps_done == 4
    traces = model.loss.traces
    dense = network(False, policy, {}, **compiling)
    snapshots.built_optimizer(dense)
    fit(dense, 1)
    assert traces == dense.loss.traces > 0
    masks, stripped = wrapping.kernels(model).masks, tt.strip(model)
    assert zeros(kernels_among(stripped.get_weights()), masks) == [True, True]


@pytest.mark.parametrize("options", tiny.in_turns(OPTIMIZERS))
def test_a_learned_mask_goes_with_averages_and_accumulation(options):
    options = OPTIMIZERS[options]
    search = LEARNED["cs"]()
    plain = network(False, "float32", options, jit_compile=JIT[-1])
    model = fit(search.wrap(plain, verbose=False), search.epochs, [search])
    assert len(search.tickets) == 3
    assert all(np.isfinite(v).all() for v in model.get_weights() if v.dtype == "f4")


@pytest.mark.parametrize("jit, policy, spe, options", spread(list(OPTIMIZERS)))
def test_a_growing_penalty_traces_no_more_than_a_dense_fit(jit, policy, options, spe):
    compiling = {"jit_compile": jit, "steps_per_execution": spe}
    penalty = tt.schedules.GrowingPenalty(cap=4.0)
    never = tt.StageOne(1, tt.EarlyStopRewind(None, monitor="loss"))
    search = tt.UniLTH(0.5, 2, never, tt.PenaltyPhase(6, penalty), 1, monitor="loss")
    plain = network(False, policy, OPTIMIZERS[options], **compiling)
    model = search.wrap(plain, verbose=False)
    # Keras traces once more where the optimizer is built within the step.
    snapshots.built_optimizer(model)
    history = model.fit(
        *tiny.data(), batch_size=16, epochs=search.epochs, verbose=0, callbacks=[search]
    ).history
    assert [sum(t.kept.values()) for t in search.tickets] == [64, 45]
    # 13 of a round's 24 steps grow it, counted in every way of running them.
    growing = [min(4.0, 16 * epoch / 13) for epoch in range(1, 7)]
    expected = pytest.approx([0.0, *growing, *growing, 0.0], rel=1e-6)
    assert history["penalty_strength"] == expected
    pressed = history["residue"]
    assert max(pressed[6], pressed[12]) < max(pressed) / 3
    traces = model.loss.traces
    dense = network(False, policy, OPTIMIZERS[options], **compiling)
    snapshots.built_optimizer(dense)
    fit(dense, 1)
    assert traces == dense.loss.traces > 0
    masks, stripped = wrapping.kernels(model).masks, tt.strip(model)
    assert zeros(kernels_among(stripped.get_weights()), masks) == [True, True]
