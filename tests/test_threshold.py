"""Han's thresholds: how much they prune, and how thresholds and rates change."""

import keras
import numpy as np
import pytest
import tiny

import tf_tickets as tt
from tf_tickets import wrapping

pytestmark = pytest.mark.turns


def pruned(quality, values):
    """Returns the sparsity after pruning an untrained kernel once."""
    dense = keras.layers.Dense(values.shape[1], use_bias=False, name="d")
    model = tt.wrap(
        keras.Sequential([keras.Input((values.shape[0],)), dense]), verbose=False
    )
    model.compile(keras.optimizers.SGD(1e-12), "mse", jit_compile=tiny.JIT)
    dense.kernel.assign(values)
    search = tt.ThresholdPruning(1, 1, quality, monitor="loss")
    x, y = np.zeros((1, values.shape[0])), np.zeros((1, values.shape[1]))
    model.fit(x, y, epochs=2, verbose=0, callbacks=[search])
    return search.tickets[0].sparsity


# The fraction of a normal distribution within q standard deviations.
@pytest.mark.parametrize("quality, wanted", [(1.0, 0.6827), (0.5, 0.3829), (0.0, 0.0)])
def test_of_normal_weights_it_prunes_what_lies_within(quality, wanted):
    values = np.random.default_rng(0).normal(size=(500, 400)).astype("float32")
    assert pruned(quality, values) == pytest.approx(wanted, abs=0.004)


def test_each_kernel_has_its_own_threshold_and_keeps_one_weight():
    model = tiny.network()
    quality = {"hidden": 0.5, "output": 50.0}
    search = tt.ThresholdPruning(1, 1, quality, monitor="loss")
    with pytest.warns(UserWarning, match="One weight is kept"):
        tiny.run(model, search)
    hidden, output = search.tickets[0].kept.values()
    assert 20 < hidden < 55 and output == 1


def test_it_warns_once_where_the_groups_allow_no_more():
    search = tt.ThresholdPruning(3, 1, 50.0, monitor="loss", structure="2:4")
    model = search.wrap(tiny.compiled(tiny.build()), verbose=False)
    message = "Round 1 reaches sparsity 0.5, .*'2:4' allows.* Rounds 2 to 3 only train"
    with pytest.warns(UserWarning, match=message) as caught:
        tiny.run(model, search)
    assert sum("reaches sparsity" in str(w.message) for w in caught) == 1
    assert [ticket.sparsity for ticket in search.tickets] == [0.5] * 3


@pytest.mark.parametrize("deviation", ["round", "once"])
def test_thresholds_are_those_of_the_first_pruning_or_of_each(deviation):
    seen = []

    class Look(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            thresholds = search.engine.state.notes.get("thresholds")
            if thresholds:
                seen.append(tuple(thresholds.values()))

    search = tt.ThresholdPruning(3, 2, 0.5, deviation, monitor="loss")
    optimizer = keras.optimizers.Adam(0.05)
    tiny.run(tiny.network(optimizer), search, [search, Look()])
    assert len(set(seen)) == {"round": 3, "once": 1}[deviation]
    kept = [sum(t.kept.values()) for t in search.tickets]
    assert kept == sorted(kept, reverse=True) and kept[-1] < kept[0] < 90
    for older, newer in zip(search.tickets, search.tickets[1:], strict=False):
        assert all((newer.masks[p] <= older.masks[p]).all() for p in newer.masks)


@pytest.mark.parametrize("fidelity", ["fine_tune", "weights"])
def test_what_is_left_is_trained_at_a_tenth_of_the_rate(fidelity):
    rates = []
    note = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: rates.append(
            round(float(model.optimizer.learning_rate), 6)
        )
    )
    search = tt.ThresholdPruning(
        3, 1, rewind_to=tt.Rewind("init", fidelity), monitor="loss"
    )
    model = tiny.network()
    tiny.run(model, search, [search, note])
    assert rates == [0.01, 0.001, 0.001, 0.001]
    assert not tiny.pruned_weights(model).any()
    assert wrapping.kernels(model).sparsity == search.tickets[-1].sparsity


def test_a_schedule_of_the_rate_is_refused_unless_it_is_left_alone():
    model = tt.wrap(tiny.build_without_dropout(), verbose=False)
    with pytest.raises(ValueError, match="follows a schedule"):
        tiny.run(model, tt.ThresholdPruning(1, 1, monitor="loss"))
    search = tt.ThresholdPruning(1, 1, learning_rate_factor=1.0, monitor="loss")
    tiny.run(model, search)
    assert search.complete


@pytest.mark.on("jax")
def test_a_search_that_was_interrupted_ends_with_the_same_bits(tmp_path):
    class Stop(keras.callbacks.Callback):
        changes_results = False

        def on_epoch_end(self, epoch, logs=None):
            if epoch == 4:
                raise KeyboardInterrupt

    def find(directory, callbacks=()):
        search = tt.ThresholdPruning(3, 2, 0.5, "once", monitor="val_accuracy")
        arguments = {"batch_size": 16, "callbacks": callbacks, "verbose": 0, "seed": 1}
        data = tiny.splits()
        tt.find_tickets(tiny.build_compiled, data, search, directory, **arguments)
        return [(t.id, t.metrics) for t in search.tickets]

    whole = find(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        find(tmp_path / "cut", [Stop()])
    assert find(tmp_path / "cut") == whole


@pytest.mark.parametrize(
    "given, message",
    [
        ({"quality": -1.0}, "quality=-1.0"),
        ({"quality": {"a": "b"}}, "'a': 'b'"),
        ({"deviation": "never"}, "Received: 'never'"),
        ({"learning_rate_factor": 0.0}, "Received: 0.0"),
    ],
)
def test_bad_arguments_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        tt.ThresholdPruning(**given)
