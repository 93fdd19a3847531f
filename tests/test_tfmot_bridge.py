"""Models that go from tf_keras, pruned by tfmot or not, to Keras 3 and back."""

import importlib
import json
import warnings

import h5py
import keras
import numpy as np
import pytest
import tiny

import tf_tickets as tt
from tf_tickets import tfmot
from tf_tickets.tfmot import (
    layer_tables,
    legacy_files,
    network_configs,
    tf_keras_models,
)
from tf_tickets.tfmot.networks import LayerSpec

needs_tf_keras = pytest.mark.on("tensorflow")
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def tf_keras():
    return pytest.importorskip("tf_keras")


@pytest.fixture(scope="module")
def peer(tf_keras):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("tensorflow_model_optimization")


# Models of one library, which the tests build with both.


def dense(lib):
    layers = lib.layers
    return lib.Sequential(
        [
            lib.Input((6,)),
            layers.Dense(5, activation="relu", kernel_regularizer="l2", name="a"),
            layers.BatchNormalization(),
            layers.Dropout(0.5),
            layers.Dense(3, activation="softmax", kernel_constraint="non_neg"),
        ],
        name="net",
    )


def convolutions(lib):
    layers = lib.layers
    x = inputs = lib.Input((9, 9, 3))
    x = layers.Conv2D(4, 3, 2, padding="same", use_bias=False)(x)
    x = layers.BatchNormalization()(x)
    x = layers.ReLU(6.0)(x)
    x = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2)(x)
    x = layers.SeparableConv2D(5, 3, padding="same", activation="elu")(x)
    x = layers.Conv2DTranspose(4, 2, 2)(x)
    x = layers.MaxPooling2D(2)(x)
    x = layers.Conv2D(4, 1, groups=2)(x)
    x = layers.LeakyReLU(0.1)(x)
    x = layers.GlobalAveragePooling2D()(x)
    return lib.Model(inputs, layers.Dense(2)(x), name="convolutions")


def skips(lib):
    """Skip connections, a layer that is called twice, two inputs and outputs."""
    layers = lib.layers
    first, second = lib.Input((4,), name="first"), lib.Input((4,), name="second")
    shared = layers.Dense(4, activation="tanh", name="shared")
    x, y = shared(first), shared(second)
    total = layers.Add()([x, y, first])
    joined = layers.Concatenate()([total, shared(total)])
    outputs = {"b": layers.Dense(2)(joined), "a": layers.Subtract()([x, y])}
    return lib.Model([first, second], outputs, name="skips")


def nested(lib):
    """A model of models, one of which is called twice."""
    layers = lib.layers
    block = lib.Sequential(
        [lib.Input((4,)), layers.Dense(4, name="d"), layers.BatchNormalization()],
        name="block",
    )
    inner = lib.Input((4,))
    inside = lib.Model(inner, layers.Add()([block(inner), inner]), name="inside")
    x = inputs = lib.Input((4,))
    outputs = layers.Dense(2, name="head")(inside(inside(x)))
    return lib.Model(inputs, outputs, name="outer")


def recurrent(lib):
    layers = lib.layers
    x = inputs = lib.Input((5,))
    x = layers.Embedding(7, 4, mask_zero=True)(x)
    x = layers.LSTM(4, return_sequences=True)(x)
    x = layers.Bidirectional(layers.GRU(3, return_sequences=True))(x)
    x = layers.TimeDistributed(layers.Dense(3, activation="sigmoid"))(x)
    return lib.Model(inputs, layers.SimpleRNN(2)(x), name="recurrent")


def states(lib, masks=False):
    """A layer that begins where another one ends."""
    layers = lib.layers
    x = inputs = lib.Input((5,))
    x = layers.Embedding(7, 3, mask_zero=masks)(x)
    x, *state = layers.LSTM(3, return_sequences=True, return_state=True)(x)
    outputs = layers.LSTM(3, name="second")(x, initial_state=state)
    return lib.Model(inputs, outputs, name="states")


def attention(lib):
    layers = lib.layers
    x = inputs = lib.Input((6, 4))
    y = layers.MultiHeadAttention(2, 3)(x, x)
    x = layers.LayerNormalization()(layers.Add()([x, y]))
    x = layers.Dense(4, activation="gelu")(x)
    x = layers.Attention()([x, y])
    x = layers.Conv1D(3, 2, padding="causal", activation="swish")(x)
    return lib.Model(inputs, layers.Flatten()(x), name="attention")


def preprocessing(lib):
    layers = lib.layers
    x = inputs = lib.Input((None, None, 3))
    normalization = layers.Normalization()
    x = normalization(layers.Rescaling(1 / 255, offset=-0.5)(x))
    x = layers.ZeroPadding2D(1)(layers.UpSampling2D(2, interpolation="bilinear")(x))
    x = layers.AveragePooling2D(2, 1, padding="same")(x)
    x = layers.PReLU(shared_axes=[1, 2])(layers.Cropping2D(1)(x))
    x = layers.GlobalMaxPooling2D(keepdims=True)(x)
    x = layers.Permute((3, 1, 2))(layers.Reshape((1, 3, 1))(x))
    normalization.adapt(np.arange(54.0).reshape(2, 3, 3, 3))
    return lib.Model(inputs, layers.Flatten()(x), name="preprocessing")


def volumes(lib):
    layers = lib.layers
    x = inputs = lib.Input((4, 4, 4, 2))
    x = layers.Conv3D(3, 2, activation="selu")(x)
    x = layers.Conv3DTranspose(2, 2)(x)
    x = layers.MaxPooling3D(2)(x)
    x = layers.Reshape((4, 4))(x)
    x = layers.Conv1DTranspose(3, 2)(layers.ELU()(x))
    x = layers.SeparableConv1D(4, 2)(layers.ZeroPadding1D(1)(x))
    x = layers.DepthwiseConv1D(2)(x)
    return lib.Model(inputs, layers.GlobalAveragePooling1D()(x), name="volumes")


MODELS = {
    f.__name__: f
    for f in (
        *(dense, convolutions, skips, nested, recurrent, states, attention),
        *(preprocessing, volumes),
    )
}
DEFAULT = ("nested",)


def rows(names):
    """The networks; those that are rarely broken alone belong to the matrix."""
    slow = pytest.mark.matrix
    return [
        name if name in names else pytest.param(name, marks=slow) for name in MODELS
    ]


def theirs(tf_keras, name, seed=0):
    """Returns a network of tf_keras with random weights and statistics."""
    keras.utils.set_random_seed(seed)
    model = MODELS[name](tf_keras)
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        if variable.name.startswith("normalization/"):
            continue  # The layer computes with values that `adapt` made of them.
        if variable.dtype.is_floating and "gamma" not in variable.name:
            noise = rng.uniform(0.1, 0.9, variable.shape)
            variable.assign(variable + noise.astype("float32"))
    return model


def examples(model, seed=1):
    """Returns inputs that differ from those of the conversion."""
    rng = np.random.default_rng(seed)
    has_indices = "Embedding" in {type(layer).__name__ for layer in model.layers}

    def draw(tensor):
        shape = (3, *(size or 10 for size in tensor.shape[1:]))
        if has_indices:
            return rng.integers(0, 7, shape).astype("float32")
        return rng.normal(size=shape).astype("float32")

    arrays = [draw(tensor) for tensor in model.inputs]
    return arrays[0] if len(arrays) == 1 else arrays


def outputs(model, inputs):
    values = model(inputs, training=False)
    return [np.asarray(x) for x in keras.tree.flatten(values)]


def assert_equal_outputs(first, second, inputs):
    pairs = zip(outputs(first, inputs), outputs(second, inputs), strict=True)
    for one, other in pairs:
        assert np.abs(one - other).max() <= 1e-5 * np.abs(other).max()


def by_layer(model):
    """Returns the weights of a model of either library by the names of its layers."""
    arrays = {}
    for layer in model.layers:
        if hasattr(layer, "layers"):
            inner = by_layer(layer)
            arrays |= {f"{layer.name}/{name}": one for name, one in inner.items()}
        else:
            variables = [*layer.trainable_weights, *layer.non_trainable_weights]
            arrays[layer.name] = [np.asarray(v) for v in variables if has_weights(v)]
    return {name: one for name, one in arrays.items() if one}


def has_weights(variable):
    """Returns whether it is no count of Normalization, which predicts nothing."""
    return "count" not in variable.name


def assert_same_weights(first, second):
    one, other = by_layer(first), by_layer(second)
    assert list(one) == list(other)
    for name in one:
        for left, right in zip(one[name], other[name], strict=True):
            assert np.array_equal(left, right), name


@needs_tf_keras
@pytest.mark.parametrize("name", rows(DEFAULT))
def test_a_network_there_and_back_predicts_the_same(name, tf_keras):
    model = theirs(tf_keras, name)
    ours = tfmot.from_tf_keras(model)
    inputs = examples(model)
    assert_equal_outputs(ours, model, inputs)
    assert_same_weights(ours, model)
    back = tfmot.to_tf_keras(ours)
    assert isinstance(back, tf_keras.Model)
    assert_equal_outputs(back, model, inputs)
    assert_same_weights(back, model)


@needs_tf_keras
@pytest.mark.parametrize("name", rows(("skips",)))
def test_a_network_of_keras_3_goes_to_tf_keras_and_back(name, tf_keras):
    ours = MODELS[name](keras)
    back = tfmot.from_tf_keras(tfmot.to_tf_keras(ours))
    assert [layer.name for layer in back.layers] == [x.name for x in ours.layers]
    assert_same_weights(back, ours)
    assert_equal_outputs(back, ours, examples(ours))


@needs_tf_keras
def test_operators_of_keras_3_become_layers(tf_keras):
    inputs = keras.Input((4,))
    x = keras.layers.Dense(4)(inputs)
    ours = keras.Model(inputs, (x + inputs) * x)
    back = tfmot.to_tf_keras(ours)
    assert_equal_outputs(back, ours, examples(ours))


# Masks of time steps.


def padded(model, mask_value=0.0):
    """Returns inputs with masked time steps at the end and within."""
    arrays = examples(model)
    for index, array in enumerate(arrays if isinstance(arrays, list) else [arrays]):
        array[:, 4 - index :] = mask_value
        array[0, 1] = mask_value
    return arrays


def masked(lib, body, inputs=1):
    """Returns a model of the masked and the plain inputs, which `body` reads."""
    plain = [lib.Input((6, 3)) for _ in range(inputs)]
    mask = [lib.layers.Masking()(x) for x in plain]
    return lib.Model(plain, body(lib.layers, *mask, *plain), name="net")


# All inputs of a merge have the same mask.
SAME_MASK = {
    "add": lambda nn, m, x: nn.LSTM(4)(nn.Add()([m, nn.Dense(3)(m)])),
    "join": lambda nn, m, x: nn.LSTM(4)(nn.Concatenate()([m, nn.Dense(2)(m)])),
    "twice": lambda nn, m, x: nn.GlobalAveragePooling1D()(
        nn.Multiply()([nn.Average()([m, nn.GRU(3, return_sequences=True)(m)]), m])
    ),
    "longer": lambda nn, m, x: nn.LSTM(4)(nn.Concatenate(axis=1)([m, m])),
    "attention": lambda nn, m, x: nn.LSTM(4)(nn.Attention()([m, m])),
}
# Libraries compute different masks.
OTHER_MASK = {
    "pool": lambda nn, m, x: nn.GlobalAveragePooling1D()(nn.Add()([m, nn.Dense(3)(x)])),
    "average": lambda nn, m, x: nn.LSTM(4)(nn.Average()([m, nn.Dense(3)(x)])),
    "multiply": lambda nn, m, x: nn.LSTM(4)(nn.Multiply()([nn.Dense(3)(x), m])),
    "join": lambda nn, m, x: nn.LSTM(4)(nn.Concatenate()([m, nn.Dense(2)(x)])),
    "scale": lambda nn, m, x: nn.LSTM(4)(nn.Rescaling(2.0)(m)),
}


@needs_tf_keras
@pytest.mark.matrix
@pytest.mark.parametrize("name", SAME_MASK)
def test_merges_of_one_mask_predict_the_same_on_padded_data(name, tf_keras):
    model = masked(tf_keras, SAME_MASK[name])
    ours = tfmot.from_tf_keras(model)
    assert_equal_outputs(ours, model, padded(model))
    assert_equal_outputs(tfmot.to_tf_keras(ours), ours, padded(model))


@needs_tf_keras
def test_layers_with_the_names_of_functions_that_join_masks_are_converted(tf_keras):
    layers = tf_keras.layers
    keras.layers.Concatenate()  # The first one may have a name without a number.
    number = int(keras.layers.Concatenate().name.rpartition("_")[2])
    x = inputs = tf_keras.Input((5,))
    x = layers.Embedding(7, 3, mask_zero=True)(x)
    for name in (f"concatenate_{number + 1}", f"concatenate_{number + 3}"):
        x = layers.Concatenate(name=name)([x, x])
    model = tf_keras.Model(inputs, layers.LSTM(2)(x))
    ours = tfmot.from_tf_keras(model)
    assert [layer.name for layer in ours.layers if "concat" in layer.name][-1] == name
    assert_equal_outputs(ours, model, examples(model))


def message_of(name):
    layer = {"pool": "add", "join": "concatenate", "scale": "rescaling"}.get(name, name)
    return rf"{layer}\w* \(\w+\), reached by a mask.*same mask"


@needs_tf_keras
@pytest.mark.parametrize(
    "name", ["pool", *(pytest.param(n, marks=pytest.mark.matrix) for n in OTHER_MASK)]
)
def test_merges_of_different_masks_are_refused_both_ways(name, tf_keras, tmp_path):
    model = masked(tf_keras, OTHER_MASK[name])
    with pytest.raises(ValueError, match=message_of(name)):
        tfmot.from_tf_keras(model)
    with pytest.raises(ValueError, match=message_of(name)):
        tfmot.to_tf_keras(masked(keras, OTHER_MASK[name]))
    save(model, tmp_path / "net.h5")
    with pytest.raises(ValueError, match=message_of(name)):
        tfmot.load_legacy(tmp_path / "net.h5")


@needs_tf_keras
@pytest.mark.matrix
@pytest.mark.parametrize("lib", ["keras", "tf_keras"])
def test_a_merge_of_two_masks_is_refused(lib, tf_keras):
    def body(nn, m, n, x, y):
        return nn.LSTM(4)(nn.Add()([m, n]))

    convert = tfmot.to_tf_keras if lib == "keras" else tfmot.from_tf_keras
    with pytest.raises(ValueError, match=message_of("add")):
        convert(masked(keras if lib == "keras" else tf_keras, body, inputs=2))


@needs_tf_keras
@pytest.mark.matrix
@pytest.mark.parametrize("lib", ["keras", "tf_keras"])
def test_masks_are_followed_into_nested_models(lib, tf_keras):
    def body(nn, m, x):
        part = library.Input((6, 3))
        other = library.Input((6, 3))
        added = nn.Add()([nn.Dense(3)(part), other])
        inner = library.Model([part, other], added, name="inner")
        return nn.LSTM(4)(inner([m, x if differs else m]))

    library = keras if lib == "keras" else tf_keras
    convert = tfmot.to_tf_keras if lib == "keras" else tfmot.from_tf_keras
    differs = True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = masked(library, body)
    with pytest.raises(ValueError, match=message_of("add")):
        convert(model)
    differs = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras 3 says it drops masks, but does not.
        model = masked(library, body)
        assert_equal_outputs(convert(model), model, padded(model))


@needs_tf_keras
@pytest.mark.matrix
def test_sums_without_a_layer_are_refused_behind_a_mask(tf_keras):
    model = masked(keras, lambda nn, m, x: nn.LSTM(4)(m + nn.Dense(3)(m)))
    with pytest.raises(ValueError, match=message_of("add")):
        tfmot.to_tf_keras(model)


def legacy(class_name, name, *inputs, **config):
    """Returns the configuration of a layer, as the other library stores it."""
    nodes = [[[one, 0, 0, {}] for one in inputs]] if inputs else []
    described = layer_config(class_name, name=name, **config)
    return described | {"name": name, "inbound_nodes": nodes}


@pytest.mark.on("jax")
@pytest.mark.parametrize("class_name", ["Add", "Concatenate", "Dot", "Dense"])
def test_configurations_with_a_mask_and_an_unmasked_input(class_name):
    """Only layers through which the mask would differ are refused."""
    layers = [
        legacy("InputLayer", "x", batch_input_shape=[None, 5]),
        legacy("Embedding", "words", "x", input_dim=7, output_dim=3, mask_zero=True),
        legacy("Embedding", "places", "x", input_dim=7, output_dim=3),
        legacy(class_name, "both", "words", "places"),
    ]
    ends = {"input_layers": [["x", 0, 0]], "output_layers": [["both", 0, 0]]}
    described = layer_config("Functional", name="net", layers=layers, **ends)
    network = network_configs.from_legacy(described)
    if class_name in ("Dot", "Dense"):
        layer_tables.check(network)
    else:
        with pytest.raises(ValueError, match=rf"both \({class_name}\), reached by"):
            layer_tables.check(network)


def by_operations(mask_of):
    inputs = keras.Input((6, 3))
    x = keras.layers.LSTM(4, name="lstm")(inputs, mask=mask_of(inputs))
    return keras.Model(inputs, x)


@pytest.mark.parametrize(
    "mask_of",
    [
        lambda x: keras.ops.any(keras.ops.not_equal(x, 0.0), axis=-1),
        lambda x: keras.ops.any(keras.ops.not_equal(x, 1.0), axis=-1),
        lambda x: keras.ops.logical_not(
            keras.ops.any(keras.ops.not_equal(x, 0.0), axis=-1)
        ),
    ],
)
def test_masks_that_a_user_computes_are_refused(mask_of):
    with pytest.raises(ValueError, match=r"'lstm' \(LSTM\) takes a mask.*Use Masking"):
        network_configs.from_current(by_operations(mask_of))


def test_a_mask_of_another_tensor_is_refused():
    def body(nn, m, x):
        mask = keras.ops.any(keras.ops.not_equal(nn.Dense(3)(x), 0.0), axis=-1)
        return nn.LSTM(4)(m, mask=mask)

    with pytest.raises(ValueError, match="takes a mask that cannot be converted"):
        network_configs.from_current(masked(keras, body))


@needs_tf_keras
@pytest.mark.matrix
def test_a_mask_that_is_an_input_is_converted(tf_keras):
    x, mask = keras.Input((6, 3)), keras.Input((6,), dtype="bool")
    y = keras.layers.LSTM(3, return_sequences=True)(x, mask=mask)
    ours = keras.Model([x, mask], keras.layers.LSTM(2)(y))
    data = [examples(ours)[0], np.arange(18).reshape(3, 6) % 3 > 0]
    assert_equal_outputs(tfmot.to_tf_keras(ours), ours, data)


@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_computed_masks_leave_no_operations(dtype):
    x = inputs = keras.Input((5,), dtype=dtype)
    x = keras.layers.Embedding(7, 3, mask_zero=True)(x)
    x = keras.layers.Concatenate()([x, keras.layers.Dense(2)(x)])
    network = network_configs.from_current(keras.Model(inputs, keras.layers.LSTM(2)(x)))
    kinds = [spec.class_name for spec in network.layers]
    assert kinds == ["InputLayer", "Embedding", "Dense", "Concatenate", "LSTM"]


@needs_tf_keras
@pytest.mark.matrix
def test_random_inputs_have_masked_time_steps(tf_keras):
    model = tf_keras.Sequential([tf_keras.Input((6, 3)), tf_keras.layers.Masking(2.0)])
    config = tf_keras_models.configuration(model)
    network = network_configs.from_legacy(config)
    inputs, _ = tf_keras_models.predicted(model, network)
    steps = (inputs["input"] == 2.0).all(-1)
    assert steps.any() and not steps[:, 0].any()


# Pruned models.


def prune(peer, model, seed=1):
    """Wraps a model, sets random masks, and leaves the pruned weights as they are."""
    wrapped = peer.sparsity.keras.prune_low_magnitude(model)
    rng = np.random.default_rng(seed)
    masks = []
    for layer in wrapper_layers(wrapped):
        for _, mask, _ in layer.pruning_vars:
            mask.assign(rng.random(mask.shape) < 0.4)
            assert np.asarray(mask).any()
            masks.append(np.asarray(mask) != 0)
    return wrapped, masks


def wrapper_layers(model):
    for layer in model.layers:
        if hasattr(layer, "pruning_vars"):
            yield layer
        yield from wrapper_layers(layer) if hasattr(layer, "layers") else ()


def pruned_nested(lib):
    layers = lib.layers
    x = inputs = lib.Input((6, 6, 2))
    x = layers.Conv2D(4, 3, padding="same", name="conv")(x)
    y = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    x = layers.BatchNormalization(name="bn")(layers.Add(name="add")([x, y]))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    inner = [lib.Input((4,)), layers.Dense(4, name="d"), layers.Dense(3, name="e")]
    return lib.Model(inputs, lib.Sequential(inner, name="inner")(x), name="net")


@pytest.fixture(scope="module")
def wrapped(peer, tf_keras):
    keras.utils.set_random_seed(0)
    return prune(peer, pruned_nested(tf_keras))


KERNELS = ["conv/kernel", "inner/d/kernel", "inner/e/kernel"]


def bare(ticket):
    return {path.removeprefix("net/"): mask for path, mask in ticket.masks.items()}


@pytest.fixture(scope="module")
def ticket(wrapped):
    return tfmot.ticket_from_tf_keras(wrapped[0])


@needs_tf_keras
def test_masks_of_the_wrappers_are_those_of_the_ticket(wrapped, ticket):
    _, masks = wrapped
    assert list(bare(ticket)) == KERNELS
    assert all(map(np.array_equal, bare(ticket).values(), masks))
    assert 0.5 < ticket.sparsity < 0.7
    for path, mask in ticket.masks.items():
        assert not ticket.weights[path][~mask].any()
        assert ticket.weights[path][mask].all()


@needs_tf_keras
@pytest.mark.matrix
def test_masks_of_layers_with_several_kernels_find_them(peer, tf_keras):
    layers = tf_keras.layers
    x = inputs = tf_keras.Input((4, 3))
    x = layers.MultiHeadAttention(2, 2, name="attention")(x, x)
    x = layers.SeparableConv1D(3, 2, name="separable")(x)
    x = layers.Reshape((3, 3, 1))(layers.LSTM(3, return_sequences=True, name="lstm")(x))
    x = layers.Flatten()(layers.SeparableConv2D(2, 1, name="second")(x))
    model, masks = prune(peer, tf_keras.Model(inputs, layers.Dense(2, name="d")(x)))
    assert len(masks) == 4 + 1 + 2 + 1 + 1
    ticket = tfmot.ticket_from_tf_keras(model)
    of_others = [path for path in ticket.masks if "depthwise" in path]
    assert of_others == []
    assert all(map(np.array_equal, ticket.masks.values(), masks))


@needs_tf_keras
def test_a_wrapped_model_and_its_stripped_one_give_the_same(wrapped, ticket, peer):
    model, masks = wrapped
    ours = tfmot.from_tf_keras(model)
    kernels = tt.wrap(ours, verbose=False, keep_zeros=True)
    assert all(map(np.array_equal, tt.kernels(kernels).masks.values(), masks))
    stripped = peer.sparsity.keras.strip_pruning(model)
    assert tfmot.ticket_from_tf_keras(stripped) == ticket
    assert_equal_outputs(ours, stripped, examples(stripped))


@needs_tf_keras
def test_zeros_become_positive(tf_keras):
    theirs = tf_keras.Sequential([tf_keras.Input((2,)), tf_keras.layers.Dense(1)])
    theirs.layers[0].set_weights([np.array([[-0.0], [3.0]]), np.array([-0.0])])
    kernel, bias = tfmot.from_tf_keras(theirs).get_weights()
    assert not np.signbit(kernel).any()
    assert not np.signbit(bias).any()


@needs_tf_keras
def test_files_give_the_same_ticket_as_the_model(wrapped, ticket, tmp_path, tf_keras):
    model, _ = wrapped
    save(model, tmp_path / "net.h5")
    assert tfmot.ticket_from_tf_keras(tmp_path / "net.h5") == ticket
    loaded = tfmot.load_legacy(tmp_path / "net.h5")
    assert_same_weights(loaded, tfmot.from_tf_keras(model))


@needs_tf_keras
@pytest.mark.matrix
@pytest.mark.parametrize("name", ["net", "net.keras"])
def test_other_files_give_the_same_ticket_too(name, wrapped, ticket, tmp_path):
    save(wrapped[0], tmp_path / name)
    assert tfmot.ticket_from_tf_keras(str(tmp_path / name)) == ticket


def save(model, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # The format is legacy, and not compiled.
        model.save(path)


@needs_tf_keras
def test_a_ticket_goes_to_tf_keras_and_back(ticket, tf_keras):
    keras.utils.set_random_seed(1)
    ours = pruned_nested(keras)
    before = ours.get_weights()
    model = tfmot.to_tf_keras(ticket, ours)
    assert tfmot.ticket_from_tf_keras(model) == ticket
    assert tiny.same(ours.get_weights(), before)


@needs_tf_keras
@pytest.mark.matrix
def test_a_wrapped_network_of_this_library_keeps_its_zeros(tf_keras):
    model = tt.wrap(dense(keras), verbose=False)
    rng = np.random.default_rng(0)
    kernels = tt.kernels(model)
    masks = {path: rng.random(mask.shape) < 0.2 for path, mask in kernels.masks.items()}
    kernels.set_masks(masks)
    theirs = tfmot.to_tf_keras(model)
    found = [layer.get_weights()[0] for layer in theirs.layers if layer.get_weights()]
    for kernel, mask in zip([found[0], found[2]], masks.values(), strict=True):
        assert np.array_equal(kernel != 0, mask)


def test_a_ticket_without_its_model_is_refused():
    ticket = tt.Ticket({"d/kernel": np.ones((2, 2))})
    with pytest.raises(TypeError, match=r"to_tf_keras\(ticket, model\)"):
        tfmot.to_tf_keras(ticket)


# Quantization-aware training.


def quantizable(lib):
    layers = lib.layers
    x = inputs = lib.Input((8, 8, 1))
    x = layers.Conv2D(4, 3, name="conv")(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    y = layers.Conv2D(4, 3, padding="same", activation="relu", name="second")(x)
    x = layers.Flatten()(layers.Add()([x, y]))
    return lib.Model(inputs, layers.Dense(3, activation="softmax", name="fc")(x))


@needs_tf_keras
@pytest.mark.matrix
def test_pruning_survives_quantization_aware_training_and_the_way_back(peer, tf_keras):
    rng = np.random.default_rng(0)
    x, y = rng.random((64, 8, 8, 1), "float32"), rng.integers(0, 3, 64)
    model = tt.wrap(quantizable(keras), verbose=False)
    kernels = tt.kernels(model)
    masks = {path: rng.random(m.shape) < 0.3 for path, m in kernels.masks.items()}
    kernels.set_masks(masks)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        annotated = peer.quantization.keras.quantize_annotate_model(
            tfmot.to_tf_keras(model)
        )
        scheme = peer.experimental.combine.Default8BitPrunePreserveQuantizeScheme()
        trained = peer.quantization.keras.quantize_apply(annotated, scheme)
        trained.compile("adam", "sparse_categorical_crossentropy")
        trained.fit(x, y, epochs=3, verbose=0)
    ours = tfmot.from_qat(trained)
    names = ["conv", "second", "fc"]
    for name, mask in zip(names, masks.values(), strict=True):
        kernel = np.asarray(ours.get_layer(name).kernel)
        assert not kernel[~mask].any()
        steps = np.abs(kernel).reshape(-1, kernel.shape[-1]).max(0) / 127
        levels = kernel / np.where(steps == 0, 1, steps)
        if name != "fc":  # Its quantizer has one step for the whole kernel.
            assert np.abs(levels - np.round(levels)).max() < 1e-3
    difference = np.abs(np.asarray(ours(x)) - np.asarray(trained(x))).max()
    assert 0 < difference < 0.05
    with pytest.raises(ValueError, match=r"Use tf_tickets.tfmot.from_qat"):
        tfmot.from_tf_keras(trained)


@needs_tf_keras
@pytest.mark.matrix
def test_zeros_survive_clustering_and_the_way_back(peer, tf_keras):
    model = tt.wrap(quantizable(keras), verbose=False)
    rng = np.random.default_rng(0)
    kernels = tt.kernels(model)
    masks = {path: rng.random(m.shape) < 0.3 for path, m in kernels.masks.items()}
    kernels.set_masks(masks)
    clustering = peer.clustering.keras
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # As in the guide of the other library.
        name = "tensorflow_model_optimization.python.core.clustering.keras"
        experimental = importlib.import_module(f"{name}.experimental.cluster")
        clustered = experimental.cluster_weights(
            tfmot.to_tf_keras(model),
            number_of_clusters=4,
            cluster_centroids_init=clustering.CentroidInitialization.KMEANS_PLUS_PLUS,
            preserve_sparsity=True,
        )
        with pytest.raises(ValueError, match="strip_clustering"):
            tfmot.from_tf_keras(clustered)
        ours = tfmot.from_tf_keras(clustering.strip_clustering(clustered))
    for name, mask in zip(("conv", "second", "fc"), masks.values(), strict=True):
        kernel = np.asarray(ours.get_layer(name).kernel)
        assert kernel.any() and not kernel[~mask].any()
        assert len(np.unique(kernel)) <= 4


@needs_tf_keras
def test_another_model_is_no_quantized_one(tf_keras):
    with pytest.raises(TypeError, match="quantize_apply. Received"):
        tfmot.from_qat(dense(tf_keras))


# What is refused, by name.


def with_layer(layer, shape=(4, 4)):
    return lambda lib: lib.Sequential([lib.Input(shape), layer(lib)], name="net")


REFUSED = {
    "hard_sigmoid": (
        with_layer(lambda lib: lib.layers.Dense(2, "hard_sigmoid", name="d")),
        "'d'.*activation='hard_sigmoid'",
    ),
    "ConvLSTM": (
        with_layer(lambda lib: lib.layers.ConvLSTM1D(2, 2, name="d"), (3, 4, 2)),
        "'d'.*recurrent_activation='hard_sigmoid'",
    ),
    "time_major": (
        with_layer(lambda lib: lib.layers.LSTM(2, time_major=True, name="d")),
        "'d'.*time_major=True.*order of the axes.*Only False",
    ),
    "renorm": (
        with_layer(lambda lib: lib.layers.BatchNormalization(renorm=True, name="d")),
        "'d'.*renorm",
    ),
    "mask and state": (
        lambda lib: states(lib, masks=True),
        r"\['second'\] with an initial state",
    ),
    "function": (
        with_layer(lambda lib: lib.layers.Lambda(lambda x: x, name="d")),
        r"d \(Lambda\): Its Python code cannot be converted",
    ),
    "float16": (
        with_layer(lambda lib: lib.layers.Dense(2, dtype="mixed_float16", name="d")),
        "'d' must compute in float32.*mixed_float16",
    ),
    "old layer": (
        with_layer(lambda lib: lib.layers.LocallyConnected1D(2, 2, name="d")),
        r"d \(LocallyConnected1D\)",
    ),
    "operator": (
        lambda lib: lib.Model(x := lib.Input((4,)), lib.layers.Dense(4)(x) + 1.0),
        r"TFOpLambda\): Use layers such as Add",
    ),
}


REFUSED_BY_DEFAULT = ("hard_sigmoid", "function", "operator")


@needs_tf_keras
@pytest.mark.parametrize(
    "case",
    [
        c if c in REFUSED_BY_DEFAULT else pytest.param(c, marks=pytest.mark.matrix)
        for c in REFUSED
    ],
)
def test_a_model_that_keras_3_would_compute_otherwise_is_refused(case, tf_keras):
    build, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        tfmot.from_tf_keras(build(tf_keras))


@needs_tf_keras
def test_classes_of_users_are_refused(tf_keras):
    class Dense(tf_keras.layers.Layer):
        pass

    class Net(tf_keras.Model):
        def call(self, x):
            return x

    model = tf_keras.Sequential([tf_keras.Input((4,)), Dense(name="d")])
    with pytest.raises(ValueError, match="'d' has a class that is not part of Keras"):
        tfmot.from_tf_keras(model)
    net = Net()
    net(np.ones((1, 4)))
    with pytest.raises(ValueError, match="must be Sequential or functional"):
        tfmot.from_tf_keras(net)


@needs_tf_keras
def test_predictions_that_differ_are_refused(tf_keras, monkeypatch):
    table = layer_tables._ACTIVATIONS | {"hard_sigmoid": "hard_sigmoid"}
    monkeypatch.setattr(layer_tables, "_ACTIVATIONS", table)
    build, _ = REFUSED["hard_sigmoid"]
    model = build(tf_keras)
    with pytest.raises(ValueError, match="differs from the original by.*'Dense'"):
        tfmot.from_tf_keras(model)
    tfmot.from_tf_keras(model, tolerance=0.5)


class Own(keras.layers.Layer):
    def call(self, x):
        return x


@pytest.mark.parametrize(
    "layer, message",
    [
        (lambda: Own(name="d"), "'d' has a class that is not part of Keras"),
        (lambda: keras.layers.RMSNormalization(name="d"), r"d \(RMSNormalization\)"),
        (lambda: keras.layers.Dense(2, "hard_silu", name="d"), "'hard_silu'"),
        (lambda: keras.layers.Lambda(lambda x: x, name="d"), r"d \(Lambda\)"),
    ],
)
def test_layers_that_tf_keras_does_not_have_are_refused(layer, message):
    pytest.importorskip("tf_keras")
    model = keras.Sequential([keras.Input((4,)), layer()])
    with pytest.raises(ValueError, match=message):
        tfmot.to_tf_keras(model)


def test_other_objects_are_refused():
    with pytest.raises(TypeError, match="must be a tf_keras model or the path"):
        tfmot.from_tf_keras(keras.Sequential())
    with pytest.raises(TypeError, match="must be a Keras 3 model or a Ticket"):
        tfmot.to_tf_keras("net.h5")


# Settings and files of earlier versions, without tf_keras.

SETTINGS = {
    "DepthwiseConv2D": ({"kernel_size": [3, 3]}, {"groups": 1}, {"groups": 2}),
    "LSTM": (
        {"units": 2},
        {"time_major": False, "implementation": 2},
        {"time_major": True},
    ),
    "BatchNormalization": (
        {"axis": [-1]},
        {"fused": True, "virtual_batch_size": None, "renorm": False},
        {"virtual_batch_size": 4},
    ),
    "Embedding": ({"input_dim": 3, "output_dim": 2}, {"input_length": 4}, {"x": 1}),
    "SeparableConv2D": (
        {"filters": 2, "kernel_size": [2, 2]},
        {"groups": 1, "kernel_initializer": "glorot_uniform"},
        {"kernel_regularizer": "l2"},
    ),
    "LeakyReLU": ({"alpha": 0.25}, {}, {"beta": 1}),
}


@pytest.mark.on("jax")
@pytest.mark.parametrize("class_name", SETTINGS)
def test_old_settings_are_left_out_only_without_effect(class_name):
    good, old, bad = SETTINGS[class_name]
    config = {"name": "d", **good}
    spec = LayerSpec("d", class_name, {**config, **old})
    assert type(layer_tables.make_layer(spec, keras)).__name__ == class_name
    name = next(iter(bad))
    with pytest.raises(ValueError, match=f"'d' .* Received: {name}="):
        spec = LayerSpec("d", class_name, {**config, **old, **bad})
        layer_tables.make_layer(spec, keras)


@pytest.mark.on("jax")
def test_every_setting_that_is_left_out_has_a_reason():
    tables = (layer_tables.DROPPED_BY_KERAS_3, layer_tables.DROPPED_BY_TF_KERAS)
    for (class_name, _), dropped in [row for t in tables for row in t.items()]:
        assert class_name == "*" or class_name in layer_tables.LAYERS
        assert dropped.reason


def old_file(path, config, weights, attribute="weight_names"):
    """Writes a file as Keras 2.2 did."""
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps(config).encode()
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = [name.encode() for name in weights]
        for name, arrays in weights.items():
            layer = group.create_group(name)
            layer.attrs[attribute] = [part.encode() for part in arrays]
            for part, array in arrays.items():
                layer[part] = array


def layer_config(class_name, **config):
    return {"class_name": class_name, "config": config}


@pytest.mark.on("jax")
def test_a_file_of_keras_2_0_is_loaded(tmp_path):
    layers = [
        layer_config(
            "Dense",
            **{"name": "fc", "units": 2, "batch_input_shape": [None, 3]},
            activation="relu",
            kernel_initializer={"class_name": "Unknown", "config": {"scale": 1.0}},
        ),
        layer_config("Activation", name="act", activation="swish"),
    ]
    kernel, bias = np.arange(6.0).reshape(3, 2), np.array([0.5, -9.0])
    config = {"class_name": "Sequential", "config": layers}
    old = tmp_path / "old.h5"
    old_file(old, config, {"fc": {"fc/kernel:0": kernel, "fc/bias:0": bias}})
    model = tfmot.load_legacy(old)
    x = np.array([[1.0, 2.0, 3.0]])
    hidden = np.maximum(x @ kernel + bias, 0)
    expected = hidden / (1 + np.exp(-hidden))
    assert np.abs(model.predict(x, verbose=0) - expected).max() < 1e-5
    assert [layer.name for layer in model.layers] == ["fc", "act"]


@pytest.mark.on("jax")
def test_names_in_several_attributes_are_read(tmp_path):
    old_file(tmp_path / "a.h5", {}, {"d": {"kernel:0": [1.0]}}, "weight_names0")
    _, weights = legacy_files.read(tmp_path / "a.h5")
    assert [name for name, _ in weights["d"]] == ["kernel"]


@pytest.mark.on("jax")
def test_files_that_are_none_are_refused(tmp_path):
    path = tmp_path / "a.h5"
    with pytest.raises(FileNotFoundError, match="There is no file"):
        tfmot.load_legacy(path)
    path.write_bytes(b"x" * 100)
    with pytest.raises(ValueError, match=r"no readable .h5 file"):
        tfmot.load_legacy(path)
    with h5py.File(path, "w") as file:
        file.create_group("model_weights")
    with pytest.raises(ValueError, match="without a configuration"):
        tfmot.load_legacy(path)
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save(path)
    with pytest.raises(ValueError, match="keras.saving.load_model"):
        tfmot.load_legacy(path)


@pytest.mark.on("jax")
@pytest.mark.parametrize(
    "config",
    [
        {},
        {"class_name": "Sequential"},
        layer_config("Sequential", name="n"),
        layer_config("Sequential", name="n", layers=[3]),
        layer_config("Sequential", name="n", layers=[layer_config("Dense")]),
        layer_config("Functional", name="n", layers=[], input_layers=[["a", 0, 0]]),
    ],
)
def test_damaged_configurations_are_refused(config, tmp_path):
    old_file(tmp_path / "a.h5", config, {})
    with pytest.raises(ValueError, match="is damaged|must be built"):
        tfmot.load_legacy(tmp_path / "a.h5")


@pytest.mark.on("jax")
def test_weights_that_do_not_fit_are_refused(tmp_path):
    layers = [layer_config("Dense", name="fc", units=2, batch_input_shape=[None, 3])]
    config = {"class_name": "Sequential", "config": {"name": "n", "layers": layers}}
    arrays = {"fc/kernel:0": np.ones((2, 3)), "fc/bias:0": np.ones(2)}
    old_file(tmp_path / "a.h5", config, {"fc": arrays})
    with pytest.raises(ValueError, match=r"do not fit layer 'fc'.*\(2, 3\)"):
        tfmot.load_legacy(tmp_path / "a.h5")


def test_without_tf_keras_its_functions_say_how_to_install_it(monkeypatch, tmp_path):
    from tf_tickets.tfmot import tf_keras_models

    monkeypatch.setattr(tf_keras_models.importlib.util, "find_spec", lambda name: None)
    message = r"pip install 'tf_tickets\[tensorflow,tfmot\]'"
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    with pytest.raises(ImportError, match=message):
        tfmot.to_tf_keras(model)
    (tmp_path / "saved").mkdir()
    with pytest.raises(ImportError, match=message):
        tfmot.from_tf_keras(tmp_path / "saved")


@pytest.mark.matrix
@pytest.mark.skipif(keras.config.backend() == "tensorflow", reason="no child process")
def test_on_other_backends_a_child_process_loads_files(tf_keras, tmp_path):
    model = theirs(tf_keras, "dense")
    save(model, tmp_path / "net.h5")
    save(model, tmp_path / "net")
    expected = tfmot.ticket_from_tf_keras(model)
    assert tfmot.ticket_from_tf_keras(tmp_path / "net") == expected
    given = examples(model)
    assert_equal_outputs(tfmot.from_tf_keras(tmp_path / "net.h5", given), model, given)
    build, message = REFUSED["time_major"]
    save(build(tf_keras), tmp_path / "refused")
    with pytest.raises(ValueError, match=message):
        tfmot.from_tf_keras(tmp_path / "refused")
