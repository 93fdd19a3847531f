import copy
import pickle

import keras
import numpy as np
import pytest
import samples
import tiny
from keras import layers as kl
from keras import ops

import tf_tickets as tt
from tf_tickets import wrapping
from tf_tickets.wrapping.prunable import Prunable

pytestmark = pytest.mark.turns("tensorflow")


class Counting(keras.layers.Layer):
    """Counts how often Python runs its call: once for a compiled step."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.counter = {"calls": 0}

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 3), name="kernel")

    def call(self, inputs):
        self.counter["calls"] += 1
        return ops.matmul(inputs, self.kernel)


@keras.saving.register_keras_serializable("tests")
class TwoArguments(keras.layers.Layer):
    """A layer without `build` that takes two tensors and a keyword."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.left, self.right = kl.Dense(3), kl.Dense(3)

    def call(self, one, other, scale=1.0):
        return self.left(one) + scale * self.right(other)


@keras.saving.register_keras_serializable("tests")
class BuiltByCall(keras.layers.Layer):
    """A layer whose `build` leaves its sublayers to the first call."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first = kl.Dense(4, name="first")
        self.rest = [kl.LayerNormalization(), kl.Dense(3, name="last")]

    def build(self, shape):
        self.built = True

    def call(self, inputs):
        x = self.first(inputs)
        for layer in self.rest:
            x = layer(x)
        return x


@keras.saving.register_keras_serializable("tests")
class TwoBuiltByCall(TwoArguments):
    """The same with two inputs."""

    def build(self, one_shape, other_shape):
        self.built = True


class Float32Inside(keras.layers.Layer):
    """A block of mixed precision that keeps one layer in float32."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.mixed = kl.Dense(5, activation="relu")
        self.exact = kl.Dense(3, dtype="float32")

    def build(self, shape):
        self.mixed.build(shape)
        self.exact.build((*shape[:-1], 5))

    def call(self, inputs):
        return self.exact(self.mixed(inputs))


class PrunableInside(keras.layers.Layer):
    """Contains a wrapped layer, and state that is updated in the call."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = Prunable(kl.SpectralNormalization(kl.Dense(4)))
        self.norm, self.outer = kl.BatchNormalization(), kl.Dense(2)

    def call(self, inputs, training=None):
        x = self.norm(self.inner(inputs, training=training), training=training)
        return self.outer(x)


def dense(**kwargs):
    layer = Prunable(kl.Dense(2, use_bias=False), **kwargs)
    layer.build((None, 3))
    return layer


def test_a_layer_wrapped_by_hand_is_built_when_it_is_called():
    model = keras.Sequential([Prunable(kl.Dense(4, name="a")), kl.Dense(2)], name="net")
    model(np.ones((1, 3)))
    assert list(wrapping.kernels(model).variables) == ["net/a/kernel"]
    assert wrapping.kernels(model).masks["net/a/kernel"].shape == (3, 4)


def test_the_wrapper_has_the_name_of_the_layer():
    assert Prunable(kl.Dense(2, name="head")).name == "head"
    assert Prunable(kl.Dense(2, name="head"), name="other").name == "other"


def test_masks_are_kept_as_booleans():
    assert [v.dtype for v in dense().kernel_masks[0].variables] == ["bool"]


def test_a_mask_of_other_values_than_0_and_1_raises():
    with pytest.raises(ValueError, match="0.5"):
        dense().set_masks({"kernel": np.full((3, 2), 0.5)})


def test_a_mask_of_another_shape_raises():
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(3, 2\)"):
        dense().set_masks({"kernel": np.ones((2, 3))})


def test_a_mask_for_an_unknown_kernel_raises():
    with pytest.raises(ValueError, match="'query/kernel'.*'kernel'"):
        dense().set_masks({"query/kernel": np.ones((3, 2))})


def test_only_the_named_kernels_are_wrapped():
    layer = Prunable(kl.GRU(2), kernels=["gru_cell/recurrent_kernel"])
    layer.build((None, 3, 4))
    assert list(layer.masks()) == ["gru_cell/recurrent_kernel"]


def test_an_unknown_kernel_raises_and_the_known_are_listed():
    with pytest.raises(ValueError, match="'weight'.*'kernel'"):
        dense(kernels=["weight"])


def test_a_layer_without_kernels_raises_with_the_reasons():
    with pytest.raises(ValueError, match="gamma: rank 1"):
        Prunable(kl.BatchNormalization()).build((None, 3))


def test_an_unknown_mask_raises_and_the_known_are_listed():
    with pytest.raises(ValueError, match="'loose'.*'fixed'"):
        Prunable(kl.Dense(2), mask="loose")


def test_every_argument_survives_get_config():
    layer = Prunable(
        kl.GRU(2),
        kernels=["gru_cell/kernel"],
        mask=tt.masks.FixedMask(),
        name="other",
        trainable=False,
    )
    again = Prunable.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    assert (again.kernels, again.name, again.trainable) == (
        ["gru_cell/kernel"],
        "other",
        False,
    )


@pytest.mark.both
def test_pruned_weights_get_no_gradient():
    model = keras.Sequential([keras.Input((3,)), dense()])
    model.layers[0].set_masks({"kernel": [[1, 0], [0, 1], [0, 0]]})
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.fit(np.ones((4, 3)), np.ones((4, 2)), verbose=0)
    stored = samples.array(model.layers[0].layer.kernel)
    assert (stored != 0).tolist() == [[True, False], [False, True], [False, False]]


@pytest.mark.both
def test_new_masks_need_no_new_trace():
    layer = Counting()
    model = samples.compiled(wrapping.wrap(samples.single(layer, 6), verbose=False))
    inputs, targets = samples.data(model)
    samples.fit(model, inputs, targets)
    traced = layer.counter["calls"]
    wrapping.kernels(model).set_masks(samples.half_masks(model))
    samples.fit(model, inputs, targets)
    assert layer.counter["calls"] == traced > 0


@pytest.mark.both
def test_a_step_compiled_by_xla_keeps_the_zeros_and_the_bits():
    result = samples.twins(samples.residual, 2, jit_compile=True)
    assert result.losses[0] == result.losses[1]
    before = samples.outputs(result.wrapped, result.inputs)
    tt.strip(result.wrapped)
    for path, kernel in wrapping.kernels(result.wrapped).variables.items():
        assert not samples.array(kernel)[~result.masks[path]].any()
    after = samples.outputs(result.wrapped, result.inputs)
    np.testing.assert_array_equal(before, after)


@pytest.mark.both
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_is_bit_identical_with_a_float32_layer_inside(policy):
    keras.config.set_dtype_policy(policy)
    result = samples.twins(lambda: samples.single(Float32Inside(), 6), 2)
    assert result.losses[0] == result.losses[1]
    np.testing.assert_equal(*result.weights)
    assert {v.dtype for v in wrapping.kernels(result.wrapped).variables.values()} == {
        "float32"
    }
    assert result.wrapped.output.dtype == result.plain.output.dtype


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "bfloat16"])
def test_the_wrapper_gives_the_layers_dtype(policy):
    plain = samples.single(kl.Dense(4, dtype=policy), 6)
    wrapped = wrapping.wrap(plain, verbose=False)
    assert wrapped.layers[1].output.dtype == plain.layers[1].output.dtype
    assert wrapped.layers[1].layer.kernel is plain.layers[1].kernel


@keras.saving.register_keras_serializable("tests")
class Scaled(keras.layers.Layer):
    """A layer without a shape of its own around a dense one."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = kl.Dense(3)

    def call(self, inputs):
        return 2.0 * self.dense(inputs)


AFTER_A_PRODUCT = {
    "Conv2D": lambda: kl.Conv2D(4, 3),
    "DepthwiseConv2D": lambda: kl.DepthwiseConv2D(3),
    "Dense": lambda: kl.Dense(4),
    "TimeDistributed": lambda: kl.TimeDistributed(kl.Conv1D(4, 3)),
    "block": Scaled,
}


@pytest.mark.parametrize(
    "name, policy",
    tiny.checkered(AFTER_A_PRODUCT, ["float32", "mixed_float16", "bfloat16"]),
)
def test_a_layer_after_multiplication_by_a_constant_is_wrapped(name, policy):
    if (name, policy) == ("block", "float32"):
        pytest.skip("Keras cannot trace this plain layer")
    keras.config.set_dtype_policy(policy)
    inputs = keras.Input((8, 8, 2))
    plain = keras.Model(inputs, AFTER_A_PRODUCT[name]()(inputs * 2.0))
    model = wrapping.wrap(plain, depthwise=True, verbose=False)
    assert (model.output.shape, model.output.dtype) == (
        plain.output.shape,
        plain.output.dtype,
    )
    x = np.ones((2, 8, 8, 2), "float32")
    np.testing.assert_array_equal(samples.outputs(model, x), samples.outputs(plain, x))


@pytest.mark.both
@pytest.mark.skipif(keras.config.backend() != "tensorflow", reason="sparse tensors")
def test_a_sparse_input_is_read_as_in_a_plain_model():
    import tensorflow as tf

    inputs = keras.Input((6,), sparse=True)
    plain = keras.Model(inputs, kl.Dense(3)(inputs))
    model = wrapping.wrap(plain, verbose=False)
    x = tf.sparse.from_dense(np.eye(6, dtype="float32"))
    np.testing.assert_array_equal(samples.array(model(x)), samples.array(plain(x)))


# Attributes


def test_what_the_wrapper_lacks_is_read_from_the_layer():
    dense = Prunable(kl.Dense(3, activation="relu", name="d"))
    assert (dense.units, dense.activation) == (3, keras.activations.relu)
    rnn = Prunable(kl.GRU(2))
    assert samples.array(rnn.get_initial_state(4)[0]).shape == (4, 2)


def test_what_neither_wrapper_nor_layer_has_raises_and_names_both():
    layer = Prunable(kl.Dense(3, name="d"))
    with pytest.raises(AttributeError, match="Prunable.*'d' of type Dense.*'unit'"):
        layer.unit  # noqa: B018
    assert not hasattr(Prunable.__new__(Prunable, kl.Dense(3)), "units")


@pytest.mark.both
def test_a_kernel_is_read_with_its_mask():
    layer = Prunable(kl.Dense(2))
    layer.build((None, 3))
    layer.set_masks({"kernel": [[1, 0], [1, 0], [0, 0]]})
    layer.layer.kernel.assign(np.ones((3, 2)))
    assert samples.array(layer.kernel).tolist() == [[1, 0], [1, 0], [0, 0]]
    assert layer.bias is layer.layer.bias


@keras.saving.register_keras_serializable("tests")
class TiedTables(keras.Model):
    """Reads the table of an embedding once more in its output, as GPT-2 does."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.emb = kl.Embedding(5, 4, name="emb")

    def call(self, inputs):
        return ops.matmul(self.emb(inputs), ops.transpose(self.emb.embeddings))


@pytest.mark.both
def test_a_table_that_the_model_reads_again_stays_masked_in_training():
    model = TiedTables()
    tokens = np.arange(5)[:, None]
    model(tokens)
    model.compile(keras.optimizers.SGD(1.0), "mse")
    model = wrapping.wrap(model, embeddings=True, verbose=False)
    mask = np.arange(20).reshape(5, 4) % 2 == 0
    wrapping.kernels(model).set_masks({"tied_tables/emb/embeddings": mask})
    model.fit(tokens, np.ones((5, 1, 5)), verbose=0)
    table = samples.array(model.emb.layer.embeddings)
    assert not table[~mask].any()
    assert table[mask].all()


def test_an_attribute_of_the_layer_is_set_on_the_layer():
    layer = Prunable(kl.Dense(2, name="d"))
    layer.activation = keras.activations.relu
    assert layer.layer.activation is keras.activations.relu
    assert "activation" not in vars(layer)
    layer.note = "mine"
    assert layer.note == "mine"
    assert not hasattr(layer.layer, "note")


def test_a_kernel_is_not_replaced_through_the_wrapper():
    layer = Prunable(kl.Dense(2, name="d"))
    layer.build((None, 3))
    with pytest.raises(AttributeError):
        layer.kernel = np.ones((3, 2))


@pytest.mark.both
@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]
)
def test_a_wrapped_model_is_copied_with_its_masks(copied):
    model = wrapping.wrap(samples.single(kl.Dense(4), 6), verbose=False)
    wrapping.kernels(model).set_masks(samples.half_masks(model))
    again = copied(model)
    x, _ = samples.data(model)
    np.testing.assert_array_equal(samples.outputs(again, x), samples.outputs(model, x))
    assert wrapping.kernels(again).sparsity == wrapping.kernels(model).sparsity


def losses(model, inputs):
    model(inputs, training=True)
    return [samples.array(loss) for loss in model.losses]


@pytest.mark.both
def test_losses_made_inside_a_wrapped_layer_reach_the_model():
    make = samples.LAYERS["a block without build"][0]
    plain = samples.built(make)
    wrapped = wrapping.wrap(samples.built(make), verbose=False)
    inputs, _ = samples.data(plain)
    for _ in range(2):
        expected = losses(plain, inputs)
        assert len(expected) == 2
        assert sorted(losses(wrapped, inputs)) == sorted(expected)


def test_regularizers_are_counted_once():
    plain = samples.built(samples.sequential)
    wrapped = wrapping.wrap(samples.built(samples.sequential), verbose=False)
    inputs, _ = samples.data(plain)
    expected = losses(plain, inputs)
    assert len(expected) == 2
    np.testing.assert_array_equal(losses(wrapped, inputs), expected)


def test_a_constraint_still_holds():
    result = samples.twins(samples.sequential, 2)
    norms = np.linalg.norm(
        samples.array(result.wrapped.layers[-1].layer.kernel), axis=0
    )
    assert (norms <= 0.7 + 1e-6).all()


def test_a_wrapper_inside_a_wrapper_updates_state_and_stays_masked():
    block = PrunableInside()
    block(np.ones((2, 3), "float32"))
    outer = Prunable(block)
    outer.set_masks({path: np.zeros_like(m) for path, m in outer.masks().items()})
    block.outer.kernel.assign(np.ones((4, 2)))
    block.inner.layer.layer.kernel.assign(np.ones((3, 4)))
    x = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
    assert not samples.array(outer(x, training=True)).any()
    assert samples.array(block.norm.moving_variance).max() < 1


def test_a_wrapped_layer_works_inside_another_wrapper():
    layer = Prunable(kl.Dense(3, use_bias=False))
    model = samples.single(kl.TimeDistributed(layer), 4, 2)
    layer.set_masks({"kernel": np.zeros((2, 3))})
    layer.layer.kernel.assign(np.ones((2, 3)))
    assert not samples.outputs(model, np.ones((1, 4, 2), "float32"))[0].any()
    assert len(wrapping.kernels(model).variables) == 1


def test_a_block_of_two_inputs_without_build_survives_a_file(tmp_path):
    one, other = keras.Input((4,)), keras.Input((5,))
    plain = keras.Model([one, other], TwoArguments()(one, other, scale=2.0))
    model = wrapping.wrap(plain, verbose=False)
    wrapping.kernels(model).set_masks(samples.half_masks(model))
    inputs, _ = samples.data(plain)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    before = samples.outputs(model, inputs)
    np.testing.assert_array_equal(samples.outputs(again, inputs), before)


def assert_file_is_the_same(model, tmp_path):
    inputs, _ = samples.data(model)
    wrapping.kernels(model).set_masks(samples.half_masks(model))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    before = samples.outputs(model, inputs)
    np.testing.assert_array_equal(samples.outputs(again, inputs), before)
    masks = wrapping.kernels(model).masks.values()
    np.testing.assert_equal(list(wrapping.kernels(again).masks.values()), list(masks))


@pytest.mark.both
@pytest.mark.parametrize("by_hand", [False, True])
def test_layers_that_build_leaves_to_the_call_survive_a_file(by_hand, tmp_path):
    layer = Prunable(BuiltByCall()) if by_hand else BuiltByCall()
    model = keras.Sequential([keras.Input((6,)), layer])
    model = model if by_hand else wrapping.wrap(model, verbose=False)
    assert len(wrapping.kernels(model)) == 2
    assert_file_is_the_same(model, tmp_path)


def test_layers_of_two_inputs_that_build_leaves_to_the_call_survive_a_file(tmp_path):
    one, other = keras.Input((4,)), keras.Input((5,))
    model = keras.Model([one, other], TwoBuiltByCall()(one, other))
    assert_file_is_the_same(wrapping.wrap(model, verbose=False), tmp_path)


def test_a_nested_block_that_build_leaves_to_the_call_survives_a_file(tmp_path):
    inputs = keras.Input((5, 6))
    inner = keras.Sequential([keras.Input((5, 6)), BuiltByCall()])
    model = keras.Model(inputs, kl.Flatten()(inner(inputs)))
    assert_file_is_the_same(wrapping.wrap(model, verbose=False), tmp_path)


@keras.saving.register_keras_serializable("tests")
class Unnamed(keras.layers.Layer):
    """A layer that names none of its weights, as in Keras's own guide."""

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], 3))
        self.b = self.add_weight(shape=(3,))
        self.v = self.add_weight(shape=(3, 3))

    def call(self, inputs):
        return ops.matmul(ops.matmul(inputs, self.w) + self.b, self.v)


@pytest.mark.both
@pytest.mark.parametrize("earlier", [0, 3])
def test_weights_without_a_name_survive_a_file_in_any_process(earlier, tmp_path):
    model = keras.Sequential([keras.Input((6,)), Unnamed(), Unnamed()])
    model = wrapping.wrap(model, verbose=False)
    assert model.layers[0].kernels == ["variable", "variable#3"]
    # Another process counts the variables without a name anew.
    keras.backend.clear_session()
    for _ in range(earlier):
        keras.Variable(1.0)
    assert_file_is_the_same(model, tmp_path)


@keras.saving.register_keras_serializable("tests")
class OwnBuildConfig(keras.layers.Layer):
    """A layer that is built from its own configuration."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 3), name="kernel")

    def get_build_config(self):
        return {"width": self.kernel.shape[0]}

    def build_from_config(self, config):
        self.build((None, config["width"]))

    def call(self, inputs):
        return ops.matmul(inputs, self.kernel)


def test_a_layer_with_its_own_build_configuration_survives_a_file(tmp_path):
    model = keras.Sequential([keras.Input((6,)), OwnBuildConfig()])
    assert_file_is_the_same(wrapping.wrap(model, verbose=False), tmp_path)
    layer = Prunable(OwnBuildConfig())
    layer.build_from_config({"width": 4})
    assert layer.masks()["kernel"].shape == (4, 3)


def test_a_ticket_finds_weights_without_a_name_in_another_build():
    def build():
        layers = [keras.Input((6,)), Unnamed(name="u"), kl.Dense(2, name="d")]
        return keras.Sequential(layers, name="net")

    model = wrapping.wrap(build(), verbose=False)
    ticket = tt.PruneAtInit(0.5, criterion="random").prune(model)
    again = wrapping.kernels(ticket.apply(build())).masks.values()
    np.testing.assert_equal(list(again), list(ticket.masks.values()))


def padded(wrap):
    """Builds a convolution before an LSTM; in Keras it stops the padding mask."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((6,), dtype="int32")
    x = kl.Embedding(7, 4, mask_zero=True)(inputs)
    x = wrap(kl.Conv1D(4, 3, padding="same"))(x)
    return keras.Model(inputs, kl.LSTM(3)(x))


@pytest.mark.filterwarnings("ignore:Layer .* was passed an input with a mask")
def test_a_layer_that_ends_padding_ends_it_when_wrapped():
    tokens = np.tril(np.ones((6, 6), "int32"))
    plain, wrapped = padded(lambda layer: layer), padded(Prunable)
    expected = samples.outputs(plain, tokens)
    np.testing.assert_array_equal(samples.outputs(wrapped, tokens), expected)
