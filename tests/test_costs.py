"""Compares parameters and multiply-adds with hand counts and TensorFlow's profiler."""

import keras
import numpy as np
import pytest
from keras import layers as kl
from samples import single

import tf_tickets as tt
from tf_tickets.reports.costs import Cost, CostCounter
from tf_tickets.units.units import Axis, Units

pytestmark = pytest.mark.turns("tensorflow")


def mlp():
    return keras.Sequential(
        [
            keras.Input((20,)),
            kl.Dense(30, activation="relu", name="a"),
            kl.Dense(10, name="b"),
        ],
        name="net",
    )


def residual():
    """Builds the first stages of a ResNet-8."""
    inputs = keras.Input((16, 16, 3))
    x = kl.Conv2D(8, 3, padding="same")(inputs)
    x = kl.ReLU()(kl.BatchNormalization()(x))
    y = kl.BatchNormalization()(kl.Conv2D(8, 3, padding="same")(x))
    x = kl.ReLU()(kl.Add()([x, y]))
    y = kl.Conv2D(16, 3, strides=2, padding="same")(x)
    x = kl.Add()([y, kl.Conv2D(16, 1, strides=2)(x)])
    x = kl.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, kl.Dense(10)(x))


def depthwise():
    return keras.Sequential(
        [
            keras.Input((9, 9, 4)),
            kl.DepthwiseConv2D(3, depth_multiplier=2),
            kl.Conv2D(6, 1),
            kl.SeparableConv2D(5, 3),
            kl.Flatten(),
            kl.Dense(3),
        ]
    )


def sequence():
    return keras.Sequential(
        [
            keras.Input((9, 4)),
            kl.Conv1D(6, 3),
            kl.EinsumDense("abc,cd->abd", (7, 5)),
            kl.DepthwiseConv1D(3),
            kl.Dense(2),
        ]
    )


def float_operations(model):
    """Returns what TensorFlow's profiler counts for one example, by kind of op."""
    tf = pytest.importorskip("tensorflow")
    spec = tf.TensorSpec((1, *model.inputs[0].shape[1:]), model.inputs[0].dtype)
    graph = tf.function(model).get_concrete_function(spec).graph
    profiler = tf.compat.v1.profiler
    options = profiler.ProfileOptionBuilder.float_operation()
    options["output"] = "none"
    node = profiler.profile(graph=graph, options=options, cmd="op")
    counts = {}
    while node.children:
        (node,) = node.children
        counts[node.name] = node.float_ops
    return {name: count for name, count in counts.items() if count}


MULTIPLY = ("MatMul", "BatchMatMulV2", "Conv2D", "DepthwiseConv2dNative")

# Function that builds the model, parameters, multiply-adds, and the operations that
# the profiler counts besides: biases, batch normalization and means. It counts a
# multiply-add as two operations, and no activations.
PROFILED = {
    "dense": (mlp, 940, 900, {"BiasAdd": 40}),
    "residual": (
        residual,
        2354,
        284_832,
        {
            **{"AddV2": 7184, "BiasAdd": 6154, "Mul": 4128, "Mean": 1024},
            **{"Rsqrt": 32, "Sub": 16},
        },
    ),
    "depthwise": (depthwise, 601, 8355, {"BiasAdd": 814}),
    "sequence": (sequence, 140, 839, {"BiasAdd": 77}),
}


@pytest.mark.skipif(
    keras.config.backend() != "tensorflow", reason="TensorFlow's profiler runs graphs"
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", PROFILED)
def test_multiply_adds_are_those_of_the_profiler(name):
    build, params, macs, others = PROFILED[name]
    model = build()
    dense = CostCounter(model).dense
    assert dense == Cost(params, macs, 4 * params)
    assert dense.params == model.count_params()
    counted = float_operations(model)
    products = sum(counted.pop(op, 0) for op in MULTIPLY)
    assert products == 2 * macs
    assert counted == others


def test_kept_weights_are_counted_by_masks_and_by_zeros():
    model = tt.wrap(mlp(), verbose=False)
    kernels = tt.kernels(model)
    masks = kernels.masks
    masks["net/a/kernel"][:, :10] = False
    masks["net/b/kernel"][0] = False
    kernels.set_masks(masks)
    counter = CostCounter(model)
    assert counter.dense == Cost(940, 900, 3760)
    assert counter.masked == Cost(730, 690, 2920)
    assert CostCounter(tt.strip(model)).masked == Cost(730, 690, 2920)


def channels():
    """Builds a network with units by hand: 4 filters, seen twice by a dense layer."""
    model = keras.Sequential(
        [
            keras.Input((5, 4, 2)),
            kl.Conv2D(4, 3, name="conv"),
            kl.BatchNormalization(name="norm"),
            kl.Flatten(),
            kl.Dense(3, name="hidden"),
            kl.Dense(2, name="out"),
        ],
        name="net",
    )
    conv, norm, _, hidden, out = model.layers
    filters, nodes = np.arange(4), np.arange(4, 7)
    axes = [
        Axis("conv/kernel", conv.kernel, 3, filters, "out"),
        Axis("conv/bias", conv.bias, 0, filters, "vector"),
        *(Axis(f"norm/{v.name}", v, 0, filters, "vector") for v in norm.weights),
        Axis("hidden/kernel", hidden.kernel, 0, np.tile(filters, 6), "in"),
        Axis("hidden/kernel", hidden.kernel, 1, nodes, "out"),
        Axis("hidden/bias", hidden.bias, 0, nodes, "vector"),
        Axis("out/kernel", out.kernel, 0, nodes, "in"),
    ]
    groups = {"conv/kernel": filters, "hidden/kernel": nodes}
    return model, Units(groups, tuple(axes))


def test_the_cost_without_units_is_that_of_the_smaller_network():
    model, units = channels()
    counter = CostCounter(model, units)
    # conv 72 + 4, norm 16, hidden 72 + 3, out 6 + 2; conv at 3 x 2 places.
    assert counter.dense == counter.count(np.ones(7, bool)) == Cost(175, 510, 700)
    keep = np.array([1, 0, 0, 1, 0, 1, 1], bool)
    # conv 36 + 2, norm 8, hidden 12 * 2 + 2, out 4 + 2.
    assert counter.count(keep) == Cost(78, 244, 312)
    assert counter.count(np.zeros(7, bool)) == Cost(2, 0, 8)


def test_the_cost_without_units_agrees_with_their_masks():
    model, units = channels()
    counter = CostCounter(model, units)
    rng = np.random.default_rng(0)
    sizes = {id(v): v.shape for v in model.weights}
    for _ in range(10):
        keep = rng.random(7) < 0.6
        masks = units.masks(keep)
        left = sum(int(mask.sum()) for mask in masks.values())
        assert left + 2 == counter.count(keep).params  # The bias of the output.
    assert len(masks) == len(sizes) - 1


def test_two_records_of_one_axis_must_both_keep_a_position():
    model = mlp()
    kernel = model.layers[0].kernel
    axes = [
        Axis("a/kernel", kernel, 1, np.arange(30), "out"),
        Axis("a/kernel", kernel, 1, np.array([30] * 10 + [-1] * 20), "out"),
    ]
    units = Units({"a/kernel": np.arange(31)}, tuple(axes))
    keep = np.ones(31, bool)
    keep[[5, 15, 30]] = False
    assert CostCounter(model, units).count(keep).params == 940 - 20 * 11
    keep[5] = True
    assert CostCounter(model, units).count(keep).params == 940 - 20 * 11


def test_bytes_follow_the_dtype():
    model = keras.Sequential([keras.Input((3,)), kl.Dense(2, dtype="float16")])
    assert CostCounter(model).dense == Cost(8, 6, 16)
    model = keras.Sequential([keras.Input((3,)), kl.Dense(2, dtype="bfloat16")])
    assert CostCounter(model).dense == Cost(8, 6, 16)


def test_frozen_kernels_are_multiplied_too():
    model = mlp()
    model.layers[0].trainable = False
    assert CostCounter(model).dense.macs == 900


def test_unknown_multiply_adds_are_named():
    counter = CostCounter(single(kl.LSTM(3), None, 2))
    assert [path.split("/")[-1] for path in counter.unknown] == [
        "kernel",
        "recurrent_kernel",
    ]
    assert counter.dense == Cost(72, 0, 288)


def test_units_of_another_model_are_refused():
    _, units = channels()
    with pytest.raises(ValueError, match="units are those of another model.*conv/ker"):
        CostCounter(mlp(), units)
