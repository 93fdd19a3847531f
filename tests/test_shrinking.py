"""Models without some of their units, compared with masks on these units."""

import keras
import numpy as np
import pytest
import tiny
from keras import layers as kl
from keras import ops
from shrinking import compare, examples, mask_units, predictions
from zoo import all_applications

import tf_tickets as tt
from tf_tickets import keras_internals, wrapping
from tf_tickets.compaction.shrinking import shrunk

pytestmark = pytest.mark.turns("tensorflow")


def nested_and_shared():
    """A nested model that is called on two tensors."""
    x = keras.Input((3,), name="x")
    nested = keras.Sequential(
        [keras.Input((5,)), kl.Dense(6, activation="relu"), kl.Dense(5)], name="nested"
    )
    y = kl.Dense(5)(x)
    return keras.Model(x, kl.Dense(2)(kl.Add()([nested(y), nested(kl.ReLU()(y))])))


def nested_without_weights():
    """A nested ReLU that is called on tensors with other units."""
    x, y = keras.Input((3,), name="x"), keras.Input((5,))
    nested = keras.Model(y, kl.ReLU()(y), name="nested")
    both = [nested(kl.Dense(5)(x)), nested(kl.Dense(5)(x))]
    return keras.Model(x, kl.Dense(2)(kl.Concatenate()(both)))


def nested_with_names():
    """A nested model with a dict of inputs and several outputs."""
    a, b = keras.Input((5,), name="a"), keras.Input((4,), name="b")
    outputs = [kl.Dense(6)(kl.Concatenate()([a, b])), kl.Dense(3)(a)]
    nested = keras.Model({"a": a, "b": b}, outputs, name="nested")
    x = keras.Input((3,), name="x")
    gate = kl.Dense(4, activation="sigmoid")(x)
    first, second = nested({"a": kl.Dense(5)(x), "b": gate})
    return keras.Model(x, [kl.Dense(2)(first), kl.Dense(2)(second)])


def several_inputs_and_outputs():
    x, y = keras.Input((8, 8, 3), name="x"), keras.Input((4,), name="y")
    gate = kl.Reshape((1, 1, 8))(kl.Dense(8, activation="sigmoid")(y))
    z = kl.Multiply()([kl.Conv2D(8, 3, padding="same")(x), gate])
    z = kl.GlobalMaxPooling2D()(kl.PReLU(shared_axes=[1, 2])(z))
    outputs = {"u": kl.Dense(3)(z), "v": kl.Dense(2)(kl.Flatten()(gate))}
    return keras.Model([x, y], outputs)


def groups_and_shuffles():
    x = keras.Input((4, 4, 3), name="x")
    y = kl.Conv2D(8, 3, groups=2, padding="same")(kl.Conv2D(8, 1)(x))
    y = kl.Permute((1, 2, 4, 3))(kl.Reshape((4, 4, 2, 4))(y))
    y = kl.Conv2D(4, 1, groups=2)(kl.Reshape((4, 4, 8))(y))
    y = kl.Conv2D(12, 1, groups=4)(y)
    return keras.Model(x, kl.Dense(2)(kl.Flatten()(y)))


def constants_at_borders():
    """Sigmoids and unscaled means before padding and pooling."""
    x = keras.Input((4, 4, 3), name="x")
    y = kl.BatchNormalization(scale=False)(kl.Conv2D(8, 1)(x))
    y = kl.SeparableConv2D(6, 3, depth_multiplier=2)(kl.ReLU()(y))
    y = kl.Activation("sigmoid")(kl.BatchNormalization(center=False)(y))
    y = kl.AveragePooling2D(2, 1, "same")(kl.ZeroPadding2D(1)(y))
    y = kl.DepthwiseConv2D(3, padding="same")(y)
    y = kl.Activation("sigmoid")(kl.Conv2D(5, 3, padding="same")(y))
    return keras.Model(x, kl.Conv2D(2, 3, padding="same")(y))


def operations():
    x = keras.Input((4,), name="x")
    y = kl.Dense(6)(x)
    y = y * ops.sigmoid(kl.Dense(1)(y)) + 1.0
    y = ops.maximum(ops.relu(3.0 - y) / 2, kl.Dense(6)(x))
    return keras.Model(x, kl.Dense(2)(ops.concatenate([y, x, kl.Dense(3)(x)], -1)))


def preprocessing():
    normalization = kl.Normalization(mean=[0.1, 0.2, 0.3], variance=[1.0, 2.0, 3.0])
    adapted = kl.Normalization()
    adapted.adapt(np.random.default_rng(0).normal(1, 2, (16, 8, 8, 3)))
    x = keras.Input((8, 8, 3), name="x")
    y = kl.RandomFlip()(kl.Rescaling(0.5, offset=0.1)(adapted(normalization(x))))
    y = kl.Dropout(0.3)(kl.Conv2D(4, 3)(y))
    return keras.Model(x, kl.Dense(2)(kl.Flatten()(y)))


def in_half_precision():
    policy = "mixed_float16"
    x = keras.Input((8, 8, 3), name="x")
    y = kl.Conv2D(8, 3, dtype=policy, kernel_regularizer="l2")(x)
    y = kl.ReLU(dtype=policy)(kl.BatchNormalization(dtype=policy)(y))
    y = kl.GlobalAveragePooling2D(dtype=policy)(kl.Conv2D(8, 3, dtype=policy)(y))
    return keras.Model(x, kl.Dense(2, dtype="float32")(y))


def of_any_size():
    x = keras.Input((None, None, 3), name="x")
    y = kl.Cropping2D(1)(kl.UpSampling2D()(kl.Conv2D(8, 3)(x)))
    return keras.Model(x, kl.Conv2D(5, 3)(y))


def sequences():
    x = keras.Input((9, 3), name="x")
    y = kl.Flatten()(kl.MaxPooling1D()(kl.Conv1D(8, 3)(x)))
    y = kl.Permute((2, 1))(kl.RepeatVector(3)(kl.Dense(6)(y)))
    y = kl.Reshape((18,))(kl.Permute((2, 1))(y))
    return keras.Model(x, kl.Dense(2)(y))


def unknown_layers():
    x = keras.Input((4,), name="x")
    y = kl.Lambda(lambda t: t * t)(kl.Dense(6)(x))
    y = kl.LayerNormalization()(kl.Dense(5)(y))
    return keras.Model(x, kl.Dense(2)(kl.Dense(7, activation="gelu")(y)))


def sequential():
    layers = [
        *(keras.Input((6, 6, 3)), kl.Conv2D(8, 3, activation="gelu"), kl.Flatten()),
        *(kl.Dense(7, activation=kl.LeakyReLU()), kl.BatchNormalization()),
        *(kl.Dense(8, "silu"), kl.Dense(2)),
    ]
    return keras.Sequential(layers, name="net")


MODELS = [
    *(nested_and_shared, nested_without_weights, nested_with_names),
    *(several_inputs_and_outputs, groups_and_shuffles, constants_at_borders),
    *(operations, preprocessing, in_half_precision, of_any_size, sequences),
    *(unknown_layers, sequential),
]


@pytest.mark.parametrize("build", tiny.in_turns(MODELS, 3))
def test_a_model_without_units_is_the_model_with_masks(build):
    tolerance = 3e-3 if build is in_half_precision else 1e-5
    small, result = compare(build(), fraction=0.5, size=8)
    assert result["removed"] > 0
    assert result["change"] > 0.05
    assert result["error"] < tolerance


FAST = {"tensorflow": ["MobileNet", "MobileNetV3Small"], "jax": []}


@pytest.mark.parametrize(
    "name",
    tiny.marked(all_applications.NAMES, FAST[keras.config.backend()]),
)
@pytest.mark.both
def test_a_model_of_keras_without_units_is_the_model_with_masks(name, tmp_path):
    small, result = compare(all_applications.build(name))
    assert result["removed"] > 1000
    assert result["change"] > 0.05
    assert result["error"] < 1e-4
    assert result["params"] < 0.8
    if keras.config.backend() == "jax":
        return  # A file is the same on both, and loading it is slow here.
    x = examples(small, np.random.default_rng(1))
    before = predictions(small, x)
    small.save(tmp_path / "small.keras")
    loaded = keras.models.load_model(tmp_path / "small.keras")
    assert np.allclose(predictions(loaded, x), before)


@pytest.mark.matrix
@pytest.mark.parametrize(
    "name",
    [
        *("DenseNet121", "EfficientNetB0", "EfficientNetV2B0", "InceptionV3"),
        *("MobileNet", "MobileNetV2", "MobileNetV3Small", "NASNetMobile"),
        *("ResNet50", "ResNet50V2", "Xception", "ConvNeXtTiny"),
    ],
)
@pytest.mark.on("tensorflow")
def test_in_float64_both_are_equal_to_the_last_digits(name):
    keras.config.set_dtype_policy("float64")
    assert compare(all_applications.build(name))[1]["error"] < 1e-12


@pytest.mark.matrix
@pytest.mark.parametrize("name", ["MobileNetV2", "ConvNeXtTiny"])
def test_a_model_without_a_head_keeps_its_output_channels(name):
    build = getattr(keras.applications, name)
    model = build(weights=None, include_top=False, input_shape=(None, None, 3))
    small, result = compare(model, size=64)
    assert small.output_shape == model.output_shape
    assert result["error"] < 1e-5 < result["change"]


# What is kept beside the weights.


def removed(model, fraction=0.5, seed=0):
    """Returns the model without random units."""
    units = tt.find_units(model)
    keep = np.random.default_rng(seed).random(units.size) >= fraction
    keep[[numbers[0] for numbers in units.groups.values()]] = True
    return shrunk(model, units, keep)


@pytest.mark.both
def test_weights_are_the_slices_that_remain():
    model = keras.Sequential(
        [keras.Input((2,)), kl.Dense(3, name="a"), kl.Dense(1, name="b")]
    )
    kernels = np.array([[1.0, 2, 3], [4, 5, 6]]), np.array([[7.0], [8], [9]])
    biases = np.array([1.0, 2, 3]), np.array([4.0])
    model.set_weights([kernels[0], biases[0], kernels[1], biases[1]])
    units = tt.find_units(model)
    small = shrunk(model, units, np.array([True, False, True]))
    expected = [[[1, 3], [4, 6]], [1, 3], [[7], [9]], [4]]
    assert [weight.tolist() for weight in small.get_weights()] == expected
    assert [layer.name for layer in small.layers] == ["a", "b"]
    assert not small.compiled


def test_names_settings_and_nesting_stay():
    inner = keras.Sequential(
        [
            keras.Input((6,)),
            kl.Dense(5, name="in", kernel_regularizer="l2", kernel_initializer="ones"),
            kl.BatchNormalization(name="bn"),
        ],
        name="inner",
    )
    inner.layers[0].trainable = False
    x = keras.Input((4,), name="image")
    y = inner(kl.Dense(6, name="first", activation="relu")(x))
    model = keras.Model(x, kl.Dense(2, name="last", dtype="bfloat16")(y), name="net")
    small = removed(model)
    assert type(small.get_layer("inner")) is keras.Sequential
    assert [layer.name for layer in small.layers] == ["image", "first", "inner", "last"]
    assert small.name == "net"
    first = small.get_layer("inner").layers[0]
    assert not first.trainable
    assert first.kernel_regularizer.get_config() == keras.regularizers.L2().get_config()
    assert type(first.kernel_initializer) is keras.initializers.Ones
    assert small.get_layer("last").kernel.dtype == "bfloat16"
    assert len(small.trainable_weights) == len(model.trainable_weights)


def test_initializers_of_attention_stay():
    x = keras.Input((5, 4))
    settings = {"kernel_initializer": "he_normal", "bias_initializer": "ones"}
    y = kl.MultiHeadAttention(2, 3, name="attention", **settings)(x, x)
    model = keras.Model(x, kl.Dense(2)(y))
    configs = [m.get_layer("attention").get_config() for m in (model, removed(model))]
    for name in settings:
        assert configs[0][name] == configs[1][name]


@keras.saving.register_keras_serializable("tests")
class Frozen(kl.Layer):
    """A layer without a rule, of which one part is frozen."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first, self.second = kl.Dense(3, name="first"), kl.Dense(3, name="second")

    def call(self, x):
        return self.second(self.first(x))


def test_a_part_of_a_layer_that_is_frozen_stays_frozen():
    x = keras.Input((4,))
    layer = Frozen(name="own")
    model = keras.Model(x, kl.Dense(1)(kl.Dense(5)(layer(x))))
    layer.first.trainable = False
    layer.second.bias.trainable = False
    own = removed(model).get_layer("own")
    assert [v.trainable for v in own.variables] == [False, False, True, False]


@keras.saving.register_keras_serializable("tests")
class Remembering(kl.Layer):
    """A layer that stores a number beside its weights."""

    memory = 0.0

    def call(self, x):
        return x * self.memory

    def save_own_variables(self, store):
        store["memory"] = np.array(self.memory)

    def load_own_variables(self, store):
        self.memory = float(store["memory"])


def test_state_beside_the_weights_is_copied():
    layer = Remembering(name="own")
    x = keras.Input((4,))
    model = keras.Model(x, kl.Dense(1)(kl.Dense(5)(layer(x))))
    layer.memory = 3.0
    assert removed(model).get_layer("own").memory == 3.0


@pytest.mark.on("tensorflow")
def test_a_vocabulary_is_copied():
    layer = kl.TextVectorization(output_mode="multi_hot", name="words")
    layer.adapt(["a b", "c a"])
    x = keras.Input((), dtype="string")
    model = keras.Model(x, kl.Dense(1)(kl.Dense(5)(layer(x))))
    small = removed(model)
    assert small.get_layer("words").get_vocabulary() == layer.get_vocabulary()
    assert small.layers[-1].kernel.shape == (2, 1)


def test_a_model_between_tensors_of_another_is_rebuilt():
    x = keras.Input((3,))
    y = kl.Dense(4)(x)
    inner = keras.Model(y, kl.Dense(2)(kl.Dense(6)(y)))
    assert [tuple(v.shape) for v in removed(inner).weights][0][0] == 4


def test_a_frozen_model_stays_frozen():
    model = sequential()
    model.trainable = False
    assert removed(model).trainable_weights == []


def test_masks_of_a_wrapped_model_become_zeros():
    model = keras.Sequential(
        [keras.Input((4,)), kl.Dense(6, name="a"), kl.Dense(2, name="b")], name="net"
    )
    wrapped = tt.wrap(model, verbose=False)
    masks = {path: np.ones_like(m) for path, m in tt.kernels(wrapped).masks.items()}
    masks["net/a/kernel"][0] = 0
    tt.kernels(wrapped).set_masks(masks)
    units = tt.find_units(wrapped)
    keep = np.arange(6) < 4
    small = shrunk(wrapped, units, keep)
    assert [type(layer) for layer in small.layers] == [kl.Dense, kl.Dense]
    mask_units(wrapped, units, keep)
    x = np.random.default_rng(0).normal(size=(3, 4))
    assert np.allclose(predictions(small, x), predictions(wrapped, x), atol=1e-6)
    assert not wrapping.to_numpy(small.layers[0].kernel)[0].any()


def test_scales_of_masks_are_multiplied():
    model = keras.Sequential([keras.Input((4,)), kl.Dense(3), kl.Dense(2)])
    wrapped = tt.wrap(model, mask="scaled", verbose=False)
    kernels = tt.kernels(wrapped)
    path = next(iter(kernels))
    kernels.set_masks({path: np.ones((4, 3))}, {path: 2.0})
    small = removed(wrapped, fraction=0)
    x = np.random.default_rng(0).normal(size=(3, 4))
    assert np.allclose(predictions(small, x), predictions(wrapped, x), atol=1e-6)


@pytest.mark.both
def test_the_small_model_trains_and_is_its_own():
    model = several_inputs_and_outputs()
    before = model.get_weights()
    small = removed(model)
    eager = keras.config.backend() == "tensorflow"
    small.compile("sgd", {"u": "mse", "v": "mse"}, run_eagerly=eager)
    x = examples(small, np.random.default_rng(0))
    small.train_on_batch(x, {"u": np.ones((2, 3)), "v": np.ones((2, 2))})
    for old, new in zip(before, model.get_weights(), strict=True):
        assert (old == new).all()


def test_a_dropout_keeps_its_state():
    x = keras.Input((4,))
    dropout = kl.Dropout(0.5, seed=3)
    model = keras.Model(x, kl.Dense(1)(dropout(kl.Dense(8)(x))))
    model(np.ones((1, 4)), training=True)
    small = removed(model)
    state = dropout.seed_generator.state
    assert (np.array(small.layers[2].seed_generator.state) == np.array(state)).all()


# Refusals.


def test_the_last_unit_of_an_axis_is_not_removed():
    model = sequential()
    units = tt.find_units(model)
    with pytest.raises(ValueError, match="Keep at least one of its units"):
        shrunk(model, units, np.zeros(units.size, bool))


@pytest.mark.parametrize(
    "keep", [np.ones(3, bool), np.ones(23), np.ones((23, 1), bool)]
)
def test_keep_must_be_a_boolean_for_each_unit(keep):
    model = sequential()
    with pytest.raises(ValueError, match="must be 23 booleans"):
        shrunk(model, tt.find_units(model), keep)


@pytest.mark.parametrize(
    "layer",
    [
        kl.MultiHeadAttention(4, 3, flash_attention=True),
        kl.GroupQueryAttention(3, 4, 2, flash_attention=True),
    ],
)
def test_the_flash_attention_of_a_layer_is_kept(layer):
    x = keras.Input((5, 6))
    model = keras.Model(x, kl.Dense(2)(layer(x, x)))
    units = tt.find_units(model)
    keep = np.ones(units.size, bool)
    keep[0] = False
    small = shrunk(model, units, keep)
    (rebuilt,) = (part for part in small.layers if isinstance(part, type(layer)))
    assert keras_internals.flash_attention(layer) is True
    assert keras_internals.flash_attention(rebuilt) is True
    assert rebuilt.count_params() < layer.count_params()


def test_units_of_another_model_are_refused():
    units = tt.find_units(sequential())
    with pytest.raises(ValueError, match="units of another model"):
        shrunk(sequential(), units, np.ones(units.size, bool))


def test_a_model_without_a_graph_is_refused():
    class Own(keras.Model):
        def call(self, x):
            return x

    model = Own()
    with pytest.raises(TypeError, match="Only functional and Sequential models"):
        shrunk(model, tt.find_units(model), np.zeros(0, bool))


def test_a_rule_that_forgets_a_size_is_an_error():
    class Forgetful(kl.Dense):
        def build(self, shape):
            super().build(shape)

    def trace(layer, call):
        call.read(layer.kernel, 0, call.inputs[0])
        return call.output(call.produce(layer.kernel))

    tt.register_rule(Forgetful, trace)
    x = keras.Input((3,))
    model = keras.Model(x, kl.Dense(1)(Forgetful(4)(x)))
    with pytest.raises(ValueError, match="after it was rebuilt"):
        removed(model)


def test_a_variable_of_two_layers_is_refused():
    x = keras.Input((3,))
    first, second = kl.Dense(3, use_bias=False), kl.Dense(3, use_bias=False)
    y = second(first(x))
    model = keras.Model(x, y)
    with keras_internals.unlocked(second) as forget:
        forget(second.kernel)
        second._kernel = first.kernel
    with pytest.raises(ValueError, match="share the variable"):
        removed(model)
