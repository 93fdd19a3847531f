"""The units that are found in small graphs, compared with units counted by hand."""

import keras
import numpy as np
import pytest
from keras import layers as kl
from keras import ops

import tf_tickets as tt
from tf_tickets.units import calls, registry
from tf_tickets.units.flows import Flow, Ties
from tf_tickets.units.units import STAYS

pytestmark = pytest.mark.turns("tensorflow")


def axes(units):
    """Returns the ids by (path, axis), with the role."""
    return {(a.path, a.axis): (a.ids.tolist(), a.role) for a in units.axes}


def reasons(units):
    return {pinned.path: pinned.reason for pinned in units.pinned}


def groups(units):
    return {name: numbers.tolist() for name, numbers in units.groups.items()}


def graph(build, *shape):
    inputs = keras.Input(shape, name="x")
    return keras.Model(inputs, build(inputs), name="net")


@pytest.mark.both
def test_a_residual_block_ties_what_it_adds():
    def build(x):
        x = kl.BatchNormalization(name="bn")(kl.Conv2D(3, 1, name="a")(x))
        y = kl.Conv2D(3, 1, name="b", use_bias=False)(kl.ReLU()(x))
        return kl.Dense(1, name="c")(kl.GlobalAveragePooling2D()(kl.Add()([x, y])))

    units = tt.find_units(graph(build, 4, 4, 2))
    ids = [0, 1, 2]
    assert axes(units) == {
        ("a/kernel", 3): (ids, "out"),
        ("a/bias", 0): (ids, "vector"),
        ("bn/gamma", 0): (ids, "vector"),
        ("bn/beta", 0): (ids, "vector"),
        ("bn/moving_mean", 0): (ids, "state"),
        ("bn/moving_variance", 0): (ids, "state"),
        ("b/kernel", 2): (ids, "in"),
        ("b/kernel", 3): (ids, "out"),
        ("c/kernel", 0): (ids, "in"),
    }
    assert groups(units) == {"a/kernel": ids}
    assert reasons(units) == {"c/kernel": "it is an output of the model"}


def test_concatenated_and_flattened_units_stand_at_several_positions():
    def build(x):
        x = kl.Concatenate()([kl.Conv2D(2, 1, name="a")(x), x])
        x = kl.Concatenate()([x, x])
        return kl.Dense(1, name="b")(kl.Flatten()(x))

    units = tt.find_units(graph(build, 1, 2, 1))
    once = [0, 1, STAYS, 0, 1, STAYS]
    assert axes(units)["b/kernel", 0] == (once * 2, "in")


def test_groups_of_a_convolution_lose_the_same_places():
    def build(x):
        x = kl.Conv2D(4, 1, name="a")(x)
        x = kl.Conv2D(6, 1, groups=2, name="b")(x)
        x = kl.Conv2D(12, 1, groups=6, name="c")(x)
        return kl.Conv2D(1, 1, name="d")(kl.DepthwiseConv2D(1, name="e")(x))

    units = tt.find_units(graph(build, 4, 4, 3))
    found = axes(units)
    assert found["a/kernel", 3] == ([0, 1, 0, 1], "out")
    assert found["b/kernel", 2] == ([0, 1], "in")
    assert found["b/kernel", 3] == ([2, 3, 4, 2, 3, 4], "out")
    twice = [2, 2, 3, 3, 4, 4] * 2
    assert found["c/kernel", 3] == (twice, "vector")
    assert found["e/kernel", 2] == (twice, "vector")
    assert found["d/kernel", 2] == (twice, "in")
    assert groups(units) == {"a/kernel": [0, 1], "b/kernel": [2, 3, 4]}


def test_a_separable_convolution_reads_each_channel_several_times():
    def build(x):
        x = kl.Conv2D(2, 1, name="a")(x)
        x = kl.SeparableConv2D(3, 2, depth_multiplier=2, name="b")(x)
        return kl.Conv2D(1, 1, name="c")(x)

    found = axes(tt.find_units(graph(build, 4, 4, 3)))
    assert found["b/depthwise_kernel", 2] == ([0, 1], "vector")
    assert found["b/pointwise_kernel", 2] == ([0, 0, 1, 1], "in")
    assert found["b/pointwise_kernel", 3] == ([2, 3, 4], "out")


def test_a_gate_by_channel_ties_and_a_gate_of_one_channel_stays():
    def build(x):
        x = kl.Conv2D(2, 1, name="a")(x)
        gate = kl.GlobalAveragePooling2D(keepdims=True)(x)
        gate = kl.Conv2D(2, 1, activation="sigmoid", name="by_channel")(gate)
        x = kl.Multiply()([x, gate])
        spatial = kl.Conv2D(1, 1, activation="sigmoid", name="spatial")(x)
        return kl.Conv2D(1, 1, name="b")(kl.Multiply(name="times")([x, spatial]))

    units = tt.find_units(graph(build, 4, 4, 3))
    assert groups(units) == {"a/kernel": [0, 1]}
    assert axes(units)["by_channel/kernel", 3] == ([0, 1], "out")
    assert "'times' (Multiply) broadcasts" in reasons(units)["spatial/kernel"]


def test_one_channel_that_is_not_broadcast_is_a_unit():
    def build(x):
        x = kl.Conv2D(1, 1, name="a")(x)
        return kl.Conv2D(1, 1, name="b")(kl.Multiply()([x, x]))

    assert tt.find_units(graph(build, 4, 4, 3)).size == 1


def values_read(activations, *more):
    """Returns what the last Dense reads from units without weights."""

    def build(x):
        x = kl.Dense(2)(x)
        for name in activations:
            x = kl.Activation(name)(x)
        for function in more:
            x = function(x)
        return kl.Dense(1, name="last")(x)

    rows = tt.find_units(graph(build, 3)).axes
    return next(row.values for row in rows if row.path == "last/kernel").tolist()


@pytest.mark.both
def test_the_value_of_a_removed_unit_is_followed():
    assert values_read(["relu", "tanh", "swish"]) == [0.0, 0.0]
    assert values_read(["sigmoid"]) == [0.5, 0.5]
    assert values_read([], lambda x: ops.relu(x + 3.0) / 6) == [0.5, 0.5]
    assert values_read([], lambda x: x * ops.sigmoid(x)) == [0.0, 0.0]
    assert np.isnan(values_read(["sigmoid"], kl.GaussianNoise(0.1))).all()
    assert values_read(["sigmoid"], kl.BatchNormalization()) == [0.0, 0.0]
    unscaled = kl.BatchNormalization(scale=False)
    assert np.isnan(values_read(["sigmoid"], unscaled)).all()


def test_batch_normalization_without_gamma_masks_its_mean():
    def build(x):
        return kl.Dense(1)(
            kl.BatchNormalization(scale=False, name="bn")(kl.Dense(2)(x))
        )

    units = tt.find_units(graph(build, 3))
    assert axes(units)["bn/moving_mean", 0] == ([0, 1], "vector")
    masks = units.masks(np.array([True, False]))
    assert masks["bn/moving_mean"].tolist() == [True, False]
    assert "bn/moving_variance" not in masks


def lambda_layer(x):
    return kl.Lambda(lambda t: t, name="own")(x)


class Standardized(kl.Dense):
    def call(self, x):
        return super().call(x - ops.mean(x, -1, keepdims=True))


class Called(kl.Dense):
    def __call__(self, x):
        return super().__call__(x)


class Named(kl.Dense):
    """A subclass that replaces nothing."""

    def get_config(self):
        return super().get_config()


@pytest.mark.parametrize(
    "function, reason",
    [
        (kl.LayerNormalization(name="own"), "computes from all channels together"),
        (kl.Softmax(name="own"), "computes from all channels together"),
        (kl.Activation("softmax", name="own"), "applies 'softmax'"),
        (kl.Activation(lambda t: t, name="own"), "which may combine channels"),
        (lambda_layer, "'own' (Lambda) has no rule"),
        (Standardized(2, name="own"), "it replaces `call` of Dense"),
        (Called(2, name="own"), "it replaces `__call__` of Dense"),
        (kl.Dropout(0.5, (None, 6), name="own"), "a noise_shape with this axis"),
        (kl.AlphaDropout(0.5, (None, 6), name="own"), "a noise_shape with this axis"),
        (kl.Reshape((2, 3), name="own"), "spreads units over several axes"),
        (lambda x: x + np.arange(6.0, dtype="float32"), "a constant array"),
        (lambda x: x[:, :3], "(GetItem) has no rule"),
        (lambda x: 1.0 / x, "(TrueDivide) divides by a tensor"),
        (lambda x: x / x, "(TrueDivide) divides by a tensor"),
    ],
)
def test_what_stays_has_a_reason(function, reason):
    model = graph(lambda x: kl.Dense(1)(function(kl.Dense(6, name="a")(x))), 3)
    units = tt.find_units(model)
    assert reason in reasons(units)["a/kernel"]
    assert not [axis for axis in units.axes if axis.path.startswith("a/")]


def test_a_subclass_that_replaces_nothing_has_the_rule_of_its_base():
    model = graph(lambda x: kl.Dense(1)(Named(2)(x)), 3)
    assert tt.find_units(model).size == 2
    assert isinstance(registry.find_rule(kl.Dense(1)), registry.Rule)


def test_a_part_of_a_kernel_that_stays_is_counted():
    def build(x):
        x = kl.Concatenate()([kl.Dense(2, name="a")(x), kl.Dense(1)(x)])
        fixed = kl.Concatenate()([kl.Dense(2, name="b")(x), ops.zeros_like(x[:, :1])])
        return kl.Dense(1)(kl.Add()([kl.Dense(3, name="c")(x), fixed]))

    units = tt.find_units(graph(build, 3))
    assert reasons(units)["c/kernel"].startswith("1 of 3: ")
    assert axes(units)["c/kernel", 1][0][2] == STAYS


@pytest.mark.both
def test_a_nested_model_that_is_called_twice_ties_its_calls():
    nested = keras.Sequential(
        [keras.Input((2,)), kl.Dense(3, name="in"), kl.Dense(2, name="out")],
        name="nested",
    )

    def build(x):
        return kl.Dense(1)(nested(kl.ReLU()(nested(kl.Dense(2, name="a")(x)))))

    units = tt.find_units(graph(build, 4))
    assert groups(units) == {"a/kernel": [0, 1], "nested/in/kernel": [2, 3, 4]}
    assert axes(units)["nested/out/kernel", 1] == ([0, 1], "out")


def test_a_layer_that_also_reads_an_input_of_the_model_keeps_what_it_reads():
    shared = kl.DepthwiseConv2D(1, name="shared")

    def build(x):
        y = shared(kl.Conv2D(2, 1, name="a")(x))
        return kl.Conv2D(1, 1)(kl.Concatenate()([y, shared(x)]))

    units = tt.find_units(graph(build, 4, 4, 2))
    assert units.size == 0
    assert "'shared' (DepthwiseConv2D) is shared" in reasons(units)["a/kernel"]


@pytest.mark.both
def test_a_wrapped_model_has_the_units_of_the_plain_one():
    model = graph(lambda x: kl.Dense(1)(kl.Dense(4, name="a")(kl.Dense(3)(x))), 2)
    plain, wrapped = tt.find_units(model), tt.find_units(tt.wrap(model, verbose=False))
    assert axes(wrapped) == axes(plain)
    assert groups(wrapped) == groups(plain)
    assert wrapped.size == 7


def test_a_model_without_a_graph_has_no_units():
    class Own(keras.Model):
        def __init__(self):
            super().__init__(name="own")
            self.d = kl.Dense(2, name="d")

        def call(self, x):
            return self.d(x)

    model = Own()
    model(np.ones((1, 3)))
    units = tt.find_units(model)
    assert units.size == 0
    assert "no functional or Sequential model" in reasons(units)["own/d/kernel"]


def test_ids_do_not_depend_on_names():
    def build(x):
        return kl.Dense(1)(kl.Dense(4)(kl.Dense(3)(x)))

    first, second = (tt.find_units(graph(build, 2)) for _ in range(2))
    assert [a.ids.tolist() for a in first.axes] == [a.ids.tolist() for a in second.axes]


def test_a_new_rule_is_used_and_can_be_replaced():
    class Doubled(kl.Layer):
        def call(self, x):
            return 2 * x

    def model():
        return graph(lambda x: kl.Dense(1)(Doubled()(kl.Dense(2, name="a")(x))), 3)

    assert tt.find_units(model()).size == 0

    @tt.register_rule(Doubled)
    def doubled(layer, call):
        return call.like(call.inputs[0])

    assert tt.find_units(model()).size == 2
    changed = {"trace": lambda layer, call: call.pinned("changed")}
    with pytest.raises(ValueError, match="Doubled has a rule already.*replace=True"):
        tt.register_rule(Doubled, **changed)
    tt.register_rule(Doubled, **changed, replace=True)
    assert reasons(tt.find_units(model()))["a/kernel"] == "changed"


def test_a_rule_with_too_few_ids_is_an_error():
    class Broken(kl.Dense):
        def build(self, shape):
            super().build(shape)

    tt.register_rule(
        Broken, lambda layer, call: call.vector(layer.bias, np.zeros(1, int))
    )
    with pytest.raises(ValueError, match="has 4 positions. Received 1 ids"):
        tt.find_units(graph(lambda x: Broken(4)(x), 3))


@pytest.mark.parametrize("kind", [kl.Dense, kl.LSTM])
def test_rules_of_keras_are_not_replaced_by_mistake(kind):
    with pytest.raises(ValueError, match=f"{kind.__name__} has a rule.*replace=False"):
        tt.register_rule(kind, lambda layer, call: call.inputs)


@pytest.mark.parametrize("argument", ["trace", "resize"])
@pytest.mark.parametrize("value", [lambda layer: None, kl.Dense, "relu"])
def test_rules_are_functions_of_two_arguments(argument, value):
    with pytest.raises(TypeError, match=f"`{argument}` must be a function of 2 arg"):
        tt.register_rule(FromElsewhere, **{argument: value})


class FromElsewhere(kl.Layer):
    def call(self, x):
        return x


def test_rules_of_packages_are_replaced_on_request(monkeypatch):
    own = FromElsewhere.__module__.partition(".")[0]
    monkeypatch.setattr(registry, "_FOREIGN", {})
    monkeypatch.setattr(registry, "_RULES", dict(registry._RULES))
    registry.register_foreign(own, "FromElsewhere")(lambda layer, call: call.inputs)
    model = graph(lambda x: kl.Dense(1)(FromElsewhere()(kl.Dense(2)(x))), 3)
    assert tt.find_units(model).size == 2
    changed = {"trace": lambda layer, call: call.pinned("changed")}
    with pytest.raises(ValueError, match="has a rule already"):
        tt.register_rule(FromElsewhere, **changed)
    tt.register_rule(FromElsewhere, **changed, replace=True)
    assert tt.find_units(model).size == 0


@pytest.mark.parametrize(
    "trace, error, message",
    [
        (lambda layer, call: None, TypeError, "Received for 'own'.*: None"),
        (lambda layer, call: call.inputs[0].ids, TypeError, r"array\(\["),
        (lambda layer, call: call.inputs * 2, ValueError, "Received for.*2 flows"),
        (
            lambda layer, call: call.output(np.zeros(3, int)),
            ValueError,
            r"3 ids along axis 1 of an output of shape \(None, 2\)",
        ),
    ],
)
def test_a_rule_that_returns_no_flows_is_named(monkeypatch, trace, error, message):
    monkeypatch.setattr(registry, "_RULES", dict(registry._RULES))
    tt.register_rule(FromElsewhere, trace)
    model = graph(lambda x: kl.Dense(1)(FromElsewhere(name="own")(kl.Dense(2)(x))), 3)
    with pytest.raises(error, match=f"rule of FromElsewhere must return.*{message}"):
        tt.find_units(model)


def test_a_resize_that_returns_no_entries_is_named(monkeypatch):
    monkeypatch.setattr(registry, "_RULES", dict(registry._RULES))
    tt.register_rule(FromElsewhere, lambda layer, call: call.inputs, lambda *_: 3)
    model = graph(lambda x: kl.Dense(1)(FromElsewhere(name="own")(kl.Dense(2)(x))), 3)
    with pytest.raises(TypeError, match="`resize` of the rule of FromElsewhere.*: 3"):
        tt.compact(model)


def test_tickets_are_no_models():
    ticket = tt.Ticket({"a/kernel": np.ones((2, 2))})
    with pytest.raises(TypeError, match=r"(?s)Ticket.*ticket.compact\(build_model\)"):
        tt.find_units(ticket)


def test_ties_are_those_of_connected_ids():
    ties = Ties()
    ids = ties.new(3000)
    rng = np.random.default_rng(0)
    pairs = rng.integers(0, 3000, (2, 2000))
    ties.tie(ids[pairs[0]], ids[pairs[1]])
    label = np.arange(3000)
    changed = True
    while changed:
        low = np.minimum(label[pairs[0]], label[pairs[1]])
        before = label.copy()
        for side in pairs:
            np.minimum.at(label, side, low)
        changed = (label != before).any()
    assert (ties.roots(ids) == label).all()


def test_values_of_a_flow_that_become_infinite_are_marked():
    flow = Flow((None, 3), 1, np.arange(3), np.array([0.0, 1.0, np.nan]))
    with np.errstate(divide="ignore"):
        values = flow.map(lambda x: 1 / x).values
    assert values.tolist()[:2] == [np.inf, 1.0]
    assert np.isnan(values[2])


@pytest.mark.both
@pytest.mark.parametrize("name", sorted(f.__name__ for f in calls.ELEMENTWISE))
def test_activations_taken_for_elementwise_are(name):
    function = keras.activations.get(name)
    x = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    changed = x.copy()
    changed[:, 0] += 1
    before, after = (keras.ops.convert_to_numpy(function(v)) for v in (x, changed))
    assert (before[:, 1:] == after[:, 1:]).all()
