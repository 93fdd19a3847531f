"""Channels as a structure: units, masks, scores, targets and trainings."""

import keras
import numpy as np
import pytest
from channel_models import (
    WIDTHS,
    images,
    network,
    predict,
    pruned,
    shaken,
    smaller,
    units_kept,
    wrapped,
)
from keras import layers as kl

import tf_tickets as tt
from tf_tickets.pruning import criteria
from tf_tickets.pruning.targets import CostBudget, Target
from tf_tickets.structures.channels import ChannelLayout, Channels
from tf_tickets.units.units import Axis, Units

pytestmark = pytest.mark.turns


def variable(values):
    return keras.Variable(np.asarray(values, "float32"))


def small_units():
    """Two groups: 4 units from `a` to `b`, 3 units from `b` to `c`, outputs stay."""
    a, b, c = (variable(np.ones(s)) for s in [(2, 4), (4, 3), (3, 2)])
    bias, gamma = variable(np.zeros(4)), variable(np.ones(3))
    first, second = np.arange(4), np.arange(4, 7)
    axes = (
        Axis("a/kernel", a, 1, first, "out"),
        Axis("a/bias", bias, 0, first, "vector"),
        Axis("b/kernel", b, 0, first, "in"),
        Axis("b/kernel", b, 1, second, "out"),
        Axis("n/gamma", gamma, 0, second, "vector"),
        Axis("n/moving_mean", variable(np.zeros(3)), 0, second, "state"),
        # A mean that no gamma hides is masked too.
        Axis("m/moving_mean", variable(np.zeros(3)), 0, second, "vector"),
        Axis("c/kernel", c, 0, second, "in"),
    )
    return Units({"a/kernel": first, "b/kernel": second}, axes)


def small_layout(chosen=("a/kernel", "b/kernel"), **settings):
    settings = {"floor": 0.0, **settings}
    return ChannelLayout.of(Channels(**settings), small_units(), chosen)


def full(layout):
    return {row.path: np.ones(row.shape, bool) for row in layout.slices}


def test_masks_cover_every_slice_and_only_means_that_shift_zeros():
    layout = small_layout()
    keep = {"a/kernel": np.array([1, 0, 1, 1], bool), "b/kernel": np.ones(3, bool)}
    masks = layout.masks(keep, full(layout))
    assert set(masks) == {
        *("a/kernel", "a/bias", "b/kernel", "n/gamma", "c/kernel", "m/moving_mean")
    }
    assert masks["a/kernel"].tolist() == [[True, False, True, True]] * 2
    assert masks["a/bias"].tolist() == [True, False, True, True]
    assert masks["b/kernel"].all(1).tolist() == [True, False, True, True]
    assert masks["c/kernel"].all()


def test_units_are_read_back_from_the_masks():
    layout = small_layout()
    keep = {
        "a/kernel": np.array([1, 0, 0, 1], bool),
        "b/kernel": np.array([0, 0, 1], bool),
    }
    read = layout.units(layout.masks(keep, full(layout)))
    assert {n: m.tolist() for n, m in read.items()} == {
        n: m.tolist() for n, m in keep.items()
    }


def test_masks_are_nested():
    layout = small_layout()
    first = layout.masks(
        {"a/kernel": np.array([1, 1, 0, 1], bool), "b/kernel": np.ones(3, bool)},
        full(layout),
    )
    everything = {"a/kernel": np.ones(4, bool), "b/kernel": np.ones(3, bool)}
    again = layout.masks(everything, first)
    assert all((again[path] == mask).all() for path, mask in first.items())


def test_a_kernel_that_is_not_chosen_pins_its_outputs_and_not_its_inputs():
    layout = small_layout(chosen=["a/kernel"])
    assert list(layout.groups) == ["a/kernel"]
    keep = {"a/kernel": np.array([1, 0, 1, 1], bool)}
    masks = layout.masks(keep, full(layout))
    assert masks["b/kernel"].tolist() == [[k] * 3 for k in (True, False, True, True)]
    assert set(masks) == {"a/kernel", "a/bias", "b/kernel"}


def test_a_unit_of_two_kernels_needs_both():
    kernels = [variable(np.ones((2, 3))) for _ in range(2)]
    ids = np.arange(3)
    axes = tuple(Axis(n, k, 1, ids, "out") for n, k in zip("ab", kernels, strict=True))
    units = Units({"a": ids}, axes)
    assert ChannelLayout.of(Channels(), units, ["a"]).size == 0
    assert ChannelLayout.of(Channels(), units, ["a", "b"]).size == 3


def test_scores_are_means_of_squared_norms_over_that_of_their_axis():
    layout = small_layout()
    weights = {
        "a/kernel": np.array([[1.0, 2, 0, 0], [0, 0, 3, 0]]),
        "a/bias": np.zeros(4),
        "b/kernel": np.array([[1.0, 1, 0], [0, 0, 0], [1, 0, 0], [0, 0, 1]]),
        "n/gamma": np.array([1.0, 2, 3]),
        "c/kernel": np.array([[0.0, 1], [2, 0], [0, 0]]),
        "m/moving_mean": np.array([9.0, 9, 9]),
    }
    scores = layout.scores(weights, full(layout))
    out, into = np.array([1, 4, 9, 0]) / 3.5, np.array([2, 0, 1, 1]) / 1.0
    np.testing.assert_allclose(scores["a/kernel"], (out + into) / 2)
    rows = np.array([2, 1, 1]) / (4 / 3), np.array([1, 4, 9]) / (14 / 3)
    readers = np.array([1, 4, 0]) / (5 / 3)
    np.testing.assert_allclose(scores["b/kernel"], (sum(rows) + readers) / 3)


def test_pruned_units_do_not_change_the_mean_of_an_axis():
    layout = small_layout()
    keep = {"a/kernel": np.array([1, 1, 0, 0], bool), "b/kernel": np.ones(3, bool)}
    masks = layout.masks(keep, full(layout))
    weights = {path: mask.astype("float32") for path, mask in masks.items()}
    scores = layout.scores(weights, masks)
    np.testing.assert_allclose(scores["a/kernel"], [1, 1, 0, 0])


def test_negative_scores_stay_negative():
    layout = small_layout(chosen=["a/kernel"])
    weights = {"a/kernel": np.array([[1.0, -2, 0, 0], [1, -2, 0, 0]])}
    scores = layout.scores(weights, full(layout))["a/kernel"]
    np.testing.assert_allclose(scores, np.array([2, -8, 0, 0]) / 2.5)


@pytest.mark.parametrize(
    "settings, fewest",
    [
        ({"floor": 0.0}, [1, 1]),
        ({"floor": 0.0, "minimum": 3}, [3, 3]),
        ({"floor": 0.5}, [2, 2]),
        ({"floor": 0.51}, [3, 2]),
        ({"floor": 1.0}, [4, 3]),
        ({"minimum": 9}, [4, 3]),
    ],
)
def test_floors(settings, fewest):
    layout = small_layout(**settings)
    everything = layout.tables(np.ones(7, bool))
    assert list(layout.fewest(everything).values()) == fewest


def test_a_floor_is_exact():
    layout = ChannelLayout(
        Channels(floor=0.07), {"a": np.arange(100)}, (), np.arange(100)
    )
    assert layout.fewest({"a": np.ones(100, bool)}) == {"a": 7}


def test_widths_are_rounded_up_with_the_best_of_the_pruned_units():
    layout = small_layout(round_to=2)
    scores = {"a/kernel": np.array([1.0, 4, 2, 3]), "b/kernel": np.array([1.0, 3, 2])}
    alive = layout.tables(np.ones(7, bool))
    kept = {
        "a/kernel": np.array([0, 1, 0, 0], bool),
        "b/kernel": np.array([1, 1, 1], bool),
    }
    rounded = layout.rounded(kept, scores, alive)
    assert rounded["a/kernel"].tolist() == [False, True, False, True]
    assert rounded["b/kernel"].all()
    alive["a/kernel"] = np.array([1, 1, 0, 0], bool)
    rounded = layout.rounded(kept, scores, alive)
    assert rounded["a/kernel"].tolist() == [True, True, False, False]


def test_the_queue_holds_floors_first_and_breaks_ties_by_index():
    layout = small_layout()
    scores = {"a/kernel": np.array([5.0, 6, 5, 9]), "b/kernel": np.array([1.0, 1, 2])}
    alive = layout.tables(np.ones(7, bool))
    assert layout.queue(scores, alive).tolist() == [3, 6, 1, 0, 2, 4, 5]
    alive["a/kernel"][3] = False
    assert layout.queue(scores, alive).tolist() == [1, 6, 0, 2, 4, 5]


def test_a_uniform_queue_prunes_the_same_fraction_of_each_group():
    layout = small_layout(minimum=1)
    scores = {"a/kernel": np.array([4.0, 3, 2, 1]), "b/kernel": np.array([30.0, 20, 1])}
    alive = layout.tables(np.ones(7, bool))
    queue = layout.queue(scores, alive, "uniform")
    for count in range(2, 8):
        kept = layout.first(queue, count, scores, alive)
        quotas = np.array([4, 3]) * count / 7
        counts = [int(mask.sum()) for mask in kept.values()]
        assert sum(counts) == count
        assert (np.abs(counts - quotas) <= 0.75).all()


def test_scores_that_are_nan_are_refused():
    layout = small_layout()
    scores = layout.tables(np.full(7, np.nan))
    with pytest.raises(ValueError, match="NaN"):
        layout.queue(scores, layout.tables(np.ones(7, bool)))


def test_settings_are_stored_and_compared_without_spared_kernels():
    structure = Channels(8, 0.2, 2, (3, 5))
    again = Channels.from_config(structure.get_config())
    assert again == structure and again.spared == structure.spared
    assert Channels(spared=(1,)) == Channels() != Channels(2)
    loaded = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(structure)
    )
    assert loaded == structure and loaded.spared == (3, 5)


def dense_net():
    return keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(5, name="a"),
            keras.layers.Dense(4, name="b"),
            keras.layers.Dense(2, name="c"),
        ],
        name="net",
    )


def dense_units(model):
    a, b, c = model.layers
    first, second = np.arange(5), np.arange(5, 9)
    axes = (
        Axis("a/kernel", a.kernel, 1, first, "out"),
        Axis("a/bias", a.bias, 0, first, "vector"),
        Axis("b/kernel", b.kernel, 0, first, "in"),
        Axis("b/kernel", b.kernel, 1, second, "out"),
        Axis("b/bias", b.bias, 0, second, "vector"),
        Axis("c/kernel", c.kernel, 0, second, "in"),
    )
    return Units({"a/kernel": first, "b/kernel": second}, axes)


def cost(measure, first, second):
    macs = 3 * first + first * second + second * 2
    return macs + (first + second + 2 if measure == "params" else 0)


@pytest.mark.parametrize("measure", ["macs", "params"])
@pytest.mark.parametrize(
    "settings, allocation",
    [({}, "global"), ({"round_to": 2}, "global"), ({"floor": 0.4}, "uniform")],
)
def test_a_target_is_met_within_one_unit(measure, settings, allocation):
    model = dense_net()
    units = dense_units(model)
    layout = ChannelLayout.of(
        Channels(**{"floor": 0.0, **settings}),
        units,
        ["a/kernel", "b/kernel"],
    )
    budget = CostBudget(model, units, layout, measure)
    rng = np.random.default_rng(0)
    dense = cost(measure, 5, 4)
    assert budget.dense == dense
    alive = layout.tables(np.ones(9, bool))
    for fraction in np.linspace(0.05, 1.0, 12):
        scores = layout.tables(rng.random(9))
        units = budget.select(scores, alive, fraction, allocation)
        counts = [int(mask.sum()) for mask in units.values()]
        queue = layout.queue(scores, alive, allocation)
        counted = range(sum(layout.fewest(alive).values()), 10)
        ways = [layout.first(queue, n, scores, alive) for n in counted]
        widths = [tuple(int(m.sum()) for m in way.values()) for way in ways]
        fitting = [w for w in widths if cost(measure, *w) <= fraction * dense]
        expected = max(fitting, key=sum) if fitting else widths[0]
        assert tuple(counts) == expected
        smallest = min(cost(measure, *w) for w in widths) / dense
        assert budget.smallest(scores, alive) == pytest.approx(smallest)


def test_a_target_out_of_reach_names_the_smallest_one():
    model = dense_net()
    units = dense_units(model)
    layout = ChannelLayout.of(Channels(floor=0.5), units, ["a/kernel", "b/kernel"])
    budget = CostBudget(model, units, layout, "macs")
    alive = layout.tables(np.ones(9, bool))
    smallest = cost("macs", 3, 2) / cost("macs", 5, 4)
    with pytest.raises(ValueError, match=f"{smallest:.4f}"):
        budget.check(0.3, alive)
    budget.check(smallest, alive)


@pytest.mark.parametrize(
    "target", [0.5, {}, {"flops": 0.5}, {"macs": 1.5}, {"macs": 0.5, "params": 0.5}]
)
def test_targets_that_are_none(target):
    with pytest.raises(ValueError, match="target"):
        Target.get(target)


# Wrapped models.


def test_wrap_names_units_groups_and_what_stays(capsys):
    model = tt.wrap(network(), structure="channels")
    first, second = capsys.readouterr().out.splitlines()
    assert "23 units in 4 groups" in first and "17 variables" in first
    assert "1 kernel stay (out/kernel" in second and "find_units" in second
    layout = tt.kernels(model).layout
    assert {name: ids.size for name, ids in layout.groups.items()} == WIDTHS
    assert set(tt.kernels(model)) == {
        *("c1/kernel", "n1/gamma", "n1/beta", "c2/kernel", "n2/beta", "n2/moving_mean"),
        *("dw/kernel", "c3/kernel", "n3/gamma", "n3/beta", "s1/kernel"),
        *("s1/bias", "s2/kernel", "s2/bias", "d1/kernel", "d1/bias", "out/kernel"),
    }
    report = str(tt.summary(model))
    assert "23 of 23 units kept in 4 groups" in report
    assert "MACs of" not in report


@pytest.mark.on("tensorflow")
def test_masked_models_predict_as_their_compact_models():
    model = wrapped()
    dense = predict(model, images())
    pruned(model)
    masked, small = predict(model, images()), smaller(model)
    assert [w.shape[-1] for w in small.weights if w.path == "c1/kernel"] == [3]
    np.testing.assert_allclose(predict(small, images()), masked, rtol=1e-4, atol=1e-5)
    assert np.abs(masked - dense).max() > 0.1


@pytest.mark.both
def test_files_keep_structure_masks_and_spared_kernels(tmp_path):
    model = wrapped(Channels(round_to=2, floor=0.2), filters="^(?!c2$)")
    assert "c2/kernel" in tt.kernels(model)
    assert set(tt.kernels(model).layout.groups) == set(WIDTHS) - {"c2/kernel"}
    pruned(model)
    model.save(tmp_path / "a.keras")
    loaded = keras.models.load_model(tmp_path / "a.keras")
    assert tt.kernels(loaded).structure == Channels(round_to=2, floor=0.2)
    assert units_kept(loaded) == units_kept(model)
    np.testing.assert_array_equal(predict(loaded, images()), predict(model, images()))
    plain = tt.strip(loaded)
    np.testing.assert_array_equal(predict(plain, images()), predict(model, images()))


def test_zeros_of_stripped_models_are_units_again():
    model = wrapped()
    kept = pruned(model)
    again = tt.wrap(
        tt.strip(model), structure="channels", keep_zeros=True, verbose=False
    )
    assert units_kept(again) == {name: mask.tolist() for name, mask in kept.items()}


def test_frozen_layers_pin_outputs_and_frozen_normalizations_are_masked():
    model = shaken(network())
    model.get_layer("c2").trainable = False
    model.get_layer("n3").trainable = False
    model = wrapped(model=model)
    assert set(tt.kernels(model).layout.groups) == set(WIDTHS) - {"c2/kernel"}
    assert {"c2/kernel", "n3/gamma", "n3/beta"} <= set(tt.kernels(model))
    pruned(model)
    np.testing.assert_allclose(
        predict(smaller(model), images()),
        predict(model, images()),
        rtol=1e-4,
        atol=1e-5,
    )


def test_models_without_units_are_refused():
    single = keras.Sequential([keras.Input((3,)), kl.Dense(2, name="d")], name="net")
    with pytest.raises(ValueError, match="no units(.|\n)*d/kernel.*output"):
        tt.wrap(single, structure="channels")
    with pytest.raises(ValueError, match="no units(.|\n)*left out by `filters`"):
        tt.wrap(network(), structure="channels", filters=["out"])


@pytest.mark.parametrize(
    "trainable, options, reason",
    [
        (False, {}, "frozen .not trainable."),
        (True, {}, "an embedding: pass embeddings=True"),
        (True, {"filters": "^out", "embeddings": True}, "left out by `filters`"),
    ],
)
def test_kernels_that_are_not_chosen_have_one_reason(trainable, options, reason):
    layers = [kl.Embedding(9, 4, name="e"), kl.Dense(2, name="out")]
    model = keras.Sequential([keras.Input((3,)), *layers], name="net")
    model.layers[0].trainable = trainable
    with pytest.raises(ValueError, match=f"no units(.|\n)*net/e/embeddings: {reason}"):
        tt.wrap(model, structure="channels", **options)


def test_groups_that_rounding_keeps_whole_have_a_warning():
    layers = [kl.Dense(n, name=f"d{n}") for n in (80, 64, 16, 2)]
    model = keras.Sequential([keras.Input((3,)), *layers], name="net")
    message = (
        r"round_to=64 keeps all units of 2 groups, which have too few to lose 64: "
        r"net/d64/kernel \(64\), net/d16/kernel \(16\). Pass a smaller round_to"
    )
    with pytest.warns(UserWarning, match=message):
        tt.wrap(model, structure=Channels(round_to=64), verbose=False)


def test_models_wrapped_layer_by_layer_are_refused():
    layers = [kl.Dense(4, name="a"), kl.Dense(2, name="b")]
    layers = [tt.layers.Prunable(layer, structure="channels") for layer in layers]
    model = keras.Sequential([keras.Input((3,)), *layers], name="net")
    with pytest.raises(ValueError, match="a/bias(.|\n)*Wrap the whole model"):
        tt.kernels(model).layout  # noqa: B018  it is computed when it is read


def test_subclassed_models_are_refused():
    class Net(keras.Model):
        def __init__(self):
            super().__init__(name="net")
            self.a, self.b = kl.Dense(4, name="a"), kl.Dense(2, name="b")

        def call(self, inputs):
            return self.b(self.a(inputs))

    model = Net()
    model(np.ones((1, 3)))
    with pytest.raises(ValueError, match="no functional or Sequential model"):
        tt.wrap(model, structure="channels")


def test_synflow_leaves_biases_and_means_out():
    model = wrapped()
    scores = tt.saliency.synflow(model)
    assert (scores["n2/moving_mean"] == 0).all() and (scores["d1/bias"] == 0).all()
    assert (scores["n1/gamma"] > 0).any()


def test_learned_masks_are_refused_by_name():
    with pytest.raises(ValueError, match="StochasticMask.*'channels'"):
        tt.wrap(network(), structure="channels", mask="stochastic")


# Scores of units.


def test_gamma_falls_back_to_magnitude():
    model = wrapped()
    kernels = tt.kernels(model)
    scores = criteria.gamma(kernels.layout, kernels.weights, kernels.masks)
    gammas = [kernels.weights[f"{name}/gamma"] for name in ("n1", "n3")]
    np.testing.assert_allclose(scores["c1/kernel"], np.abs(gammas).mean(0), rtol=1e-6)
    sizes = {path: np.abs(weight) for path, weight in kernels.weights.items()}
    for name in ("c2/kernel", "d1/kernel"):
        expected = kernels.layout.scores(sizes, kernels.masks)[name]
        np.testing.assert_allclose(scores[name], expected)


def test_taylor_scores_predict_the_change_of_the_loss():
    model = wrapped()
    model.compile("sgd", "mse")
    x, y = images(12), np.random.default_rng(1).normal(size=(12, 3)).astype("float32")
    layout = tt.kernels(model).layout
    scores = tt.saliency.Taylor(x, y, batch_size=12)(layout, model)
    kernels = tt.kernels(model)
    gates = {row.path: kernels.variables[row.path] for row, _ in layout.gates}

    def loss():
        outputs = model(x, training=True)
        return float(keras.ops.mean((outputs - y) ** 2))

    state, step = model.get_weights(), 1e-2
    for name, place in [("c1/kernel", 2), ("c2/kernel", 0), ("d1/kernel", 5)]:
        unit = layout.groups[name][place]
        losses = []
        for factor in (1 - step, 1 + step):
            for row, counted in layout.gates:
                value = keras.ops.convert_to_numpy(gates[row.path]).copy()
                along = np.where(counted & (row.ids == unit), factor, 1.0)
                shape = [1] * value.ndim
                shape[row.axis] = -1
                gates[row.path].assign(value * along.reshape(shape))
            losses.append(loss())
            model.set_weights(state)
        slope = abs(losses[1] - losses[0]) / (2 * step)
        assert scores[name][place] == pytest.approx(slope, rel=0.05, abs=1e-3)


def test_random_scores_are_drawn_by_unit():
    kernels = tt.kernels(wrapped())
    rng = np.random.default_rng(0)
    scores = criteria.score_units(criteria.random, kernels, kernels.weights, rng)
    values = kernels.layout.flat(scores)
    np.testing.assert_array_equal(values, np.random.default_rng(0).random(23))


def test_criteria_of_units_are_refused_elsewhere():
    kernels = tt.kernels(wrapped("unstructured"))
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="'gamma'.*structure='channels'"):
        criteria.score_units(criteria.gamma, kernels, kernels.weights, rng)
