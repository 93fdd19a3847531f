"""Tiny models of every kind, for the tests of layers and wrapping."""

from typing import NamedTuple

import keras
import numpy as np
from keras import layers as kl
from keras import ops

from tf_tickets import wrapping


@keras.saving.register_keras_serializable("tests")
class OwnKernel(keras.layers.Layer):
    """A layer with two matrices whose names Keras never uses."""

    def build(self, shape):
        self.left = self.add_weight(shape=(shape[-1], 3), name="left")
        self.right = self.add_weight(shape=(3, 4), name="right")

    def call(self, inputs):
        return ops.matmul(ops.matmul(inputs, self.left), self.right)


@keras.saving.register_keras_serializable("tests")
class BlockWithoutBuild(keras.layers.Layer):
    """Layers in an attribute, a list and a dict; state, noise and a loss inside."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first = kl.Dense(6, name="first", activity_regularizer="l2")
        self.rest = [kl.Dense(6, name="a"), kl.Dense(6, name="b")]
        self.ends = {"norm": kl.BatchNormalization(name="norm")}
        self.noise = kl.Dropout(0.25, seed=3)

    def call(self, inputs, training=None):
        x = self.noise(self.first(inputs), training=training)
        for layer in self.rest:
            x = layer(x)
        self.add_loss(0.1 * ops.mean(ops.square(x)))
        return self.ends["norm"](x, training=training)


@keras.saving.register_keras_serializable("tests")
class SubclassedInside(keras.Model):
    """A subclassed model without arguments, for use inside a functional one."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden = kl.Dense(5, activation="relu", name="hidden")
        self.out = kl.Dense(4, name="out")

    def call(self, inputs):
        return self.out(self.hidden(inputs))


def single(layer, *shape):
    """Builds a model of one layer."""
    inputs = keras.Input(shape)
    return keras.Model(inputs, kl.Flatten()(layer(inputs)))


def attention():
    layer = kl.MultiHeadAttention(2, 3, dropout=0.1, seed=1)
    query, value = keras.Input((4, 6)), keras.Input((5, 6))
    seen = keras.Input((4, 5), dtype="bool")
    x = layer(query, value, attention_mask=seen)
    return keras.Model([query, value, seen], kl.Flatten()(x))


def causal_attention():
    inputs = keras.Input((4, 6))
    x = kl.MultiHeadAttention(2, 3)(inputs, inputs, use_causal_mask=True)
    return keras.Model(inputs, kl.Flatten()(x))


def group_attention():
    query, value = keras.Input((4, 6)), keras.Input((5, 6))
    x = kl.GroupQueryAttention(3, 4, 2)(query, value)
    return keras.Model([query, value], kl.Flatten()(x))


def masked_sequence():
    """Builds an LSTM on masked inputs: zeros are padding that it must ignore."""
    inputs = keras.Input((6,), dtype="int32")
    x = kl.Embedding(7, 4, mask_zero=True)(inputs)
    x = kl.Dense(5)(x)
    return keras.Model(inputs, kl.LSTM(3)(x))


# name: (function that builds the model, number of kernels)
LAYERS = {
    "Dense": (lambda: single(kl.Dense(4), 6), 1),
    "EinsumDense": (lambda: single(kl.EinsumDense("abc,cd->abd", (3, 4)), 3, 5), 1),
    "Conv1D": (lambda: single(kl.Conv1D(3, 3), 6, 2), 1),
    "Conv2D": (lambda: single(kl.Conv2D(3, 3), 5, 5, 2), 1),
    "Conv2D in groups": (lambda: single(kl.Conv2D(4, 3, groups=2), 5, 5, 2), 1),
    "Conv3D": (lambda: single(kl.Conv3D(2, 2), 3, 3, 3, 2), 1),
    "DepthwiseConv1D": (lambda: single(kl.DepthwiseConv1D(3), 6, 2), 1),
    "DepthwiseConv2D": (lambda: single(kl.DepthwiseConv2D(3), 5, 5, 2), 1),
    "SeparableConv1D": (lambda: single(kl.SeparableConv1D(3, 3), 6, 2), 2),
    "SeparableConv2D": (lambda: single(kl.SeparableConv2D(3, 3), 5, 5, 2), 2),
    "Conv1DTranspose": (lambda: single(kl.Conv1DTranspose(3, 3), 4, 2), 1),
    "Conv2DTranspose": (lambda: single(kl.Conv2DTranspose(3, 3), 4, 4, 2), 1),
    "Conv3DTranspose": (lambda: single(kl.Conv3DTranspose(2, 2), 2, 2, 2, 2), 1),
    "LSTM": (lambda: single(kl.LSTM(3, return_sequences=True), 4, 2), 2),
    "GRU": (lambda: single(kl.GRU(3, dropout=0.2, seed=1), 4, 2), 2),
    "SimpleRNN": (lambda: single(kl.SimpleRNN(3), 4, 2), 2),
    "ConvLSTM1D": (lambda: single(kl.ConvLSTM1D(2, 2), 3, 4, 2), 2),
    "MultiHeadAttention": (attention, 4),
    "MultiHeadAttention, causal": (causal_attention, 4),
    "GroupQueryAttention": (group_attention, 4),
    "Bidirectional": (lambda: single(kl.Bidirectional(kl.SimpleRNN(3)), 4, 2), 4),
    "TimeDistributed": (lambda: single(kl.TimeDistributed(kl.Dense(3)), 4, 2), 1),
    "SpectralNormalization": (
        lambda: single(kl.SpectralNormalization(kl.Dense(4)), 6),
        1,
    ),
    "a kernel of its own": (lambda: single(OwnKernel(), 6), 2),
    "a block without build": (lambda: single(BlockWithoutBuild(), 6), 3),
    "padding": (masked_sequence, 3),
}


def residual():
    inputs = keras.Input((5, 5, 2))
    x = kl.Conv2D(2, 3, padding="same", use_bias=False)(inputs)
    x = kl.ReLU()(kl.BatchNormalization()(x))
    x = kl.Add()([x, inputs])
    x = kl.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, kl.Dense(3)(x))


def many_inputs_and_outputs():
    left, right = keras.Input((6,), name="left"), keras.Input((4,), name="right")
    x = kl.Concatenate()([kl.Dense(3)(left), kl.Dense(3)(right)])
    return keras.Model([left, right], [kl.Dense(2)(x), kl.Dense(1)(x)])


def named_inputs_and_outputs():
    left, right = keras.Input((6,), name="left"), keras.Input((4,), name="right")
    x = kl.Dense(3)(left) + kl.Dense(3)(right)
    inputs = {"left": left, "right": right}
    return keras.Model(inputs, {"one": kl.Dense(2)(x), "two": kl.Dense(1)(x)})


def nested():
    deep = keras.Sequential([keras.Input((6,)), kl.Dense(6, name="d")], name="deep")
    inputs = keras.Input((6,))
    x = kl.Dense(6, name="m")(deep(inputs))
    middle = keras.Model(inputs, kl.ReLU()(x), name="middle")
    inputs = keras.Input((6,))
    x = kl.Dense(6, name="o")(middle(inputs))
    outer = keras.Model(inputs, x, name="outer")
    return keras.Sequential([keras.Input((6,)), outer, kl.Dense(2)], name="net")


def siamese():
    tower = keras.Sequential(
        [keras.Input((6,)), kl.Dense(4, name="shared")], name="shared_tower"
    )
    own = kl.Dense(4)
    left, right = keras.Input((6,)), keras.Input((6,))
    x = kl.Subtract()([own(tower(left)), own(tower(right))])
    return keras.Model([left, right], kl.Dense(1)(x))


def sequential():
    return keras.Sequential(
        [
            keras.Input((6,)),
            kl.Dense(8, kernel_regularizer="l1l2", activation="relu"),
            kl.BatchNormalization(),
            kl.Dropout(0.3, seed=2),
            kl.Dense(
                4,
                kernel_constraint=keras.constraints.MaxNorm(0.7),
                bias_regularizer="l2",
            ),
        ],
        name="seq",
    )


def subclassed_inside():
    inputs = keras.Input((6,))
    return keras.Model(inputs, SubclassedInside()(inputs))


TOPOLOGIES = {
    "Sequential": (sequential, 2),
    "residual": (residual, 2),
    "several inputs and outputs": (many_inputs_and_outputs, 4),
    "inputs and outputs by name": (named_inputs_and_outputs, 4),
    "nested to three levels": (nested, 4),
    "Siamese": (siamese, 3),
    "subclassed inside functional": (subclassed_inside, 2),
}


class Subclassed(keras.Model):
    """A subclassed model with layers and models in attributes, lists and dicts."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.stem = kl.Dense(6, name="stem")
        self.blocks = [kl.Dense(6, name="b0"), [kl.Dense(6, name="b1")]]
        self.pair = (kl.Dense(6, name="p0"), kl.ReLU())
        self.heads = {"main": kl.Dense(3, name="main"), "rest": [kl.Dropout(0.2)]}
        self.tail = keras.Sequential([keras.Input((3,)), kl.Dense(3, name="t0")])
        self.inner = SubclassedInside(name="inner")
        self.norm = kl.BatchNormalization()

    def call(self, inputs, training=None):
        x = self.norm(self.stem(inputs), training=training)
        x = self.pair[1](self.pair[0](self.blocks[1][0](self.blocks[0](x))))
        x = self.heads["rest"][0](self.heads["main"](x), training=training)
        return self.inner(self.tail(x))


def subclassed():
    model = Subclassed(name="subclassed")
    model(np.zeros((1, 6), "float32"))
    return model


def built(make):
    """Builds a model with `make`, from the same random numbers each time."""
    keras.utils.set_random_seed(1)
    return make()


def data(model, samples=8):
    """Returns random inputs and targets of the model's shapes, for `fit`."""
    rng = np.random.default_rng(2)
    inputs, targets = _symbols(model)
    inputs = keras.tree.map_structure(lambda t: _draw(rng, t, samples), inputs)
    targets = keras.tree.map_structure(
        lambda t: rng.normal(size=(samples, *t.shape[1:])).astype("float32"), targets
    )
    return inputs, targets


def _symbols(model):
    if isinstance(model, keras.Sequential):
        return model.inputs[0], model.outputs[0]
    return model.input, model.output


def _draw(rng, tensor, samples):
    shape = (samples, *tensor.shape[1:])
    if tensor.dtype == "int32":
        return np.tril(rng.integers(1, 7, shape)).astype("int32")
    values = rng.normal(size=shape)
    return (values > -1) if tensor.dtype == "bool" else values.astype("float32")


def compiled(model, **kwargs):
    """Compiles the model with an optimizer that has slots."""
    if keras.config.backend() == "tensorflow":
        # XLA takes seconds per model on TensorFlow; one test uses it.
        kwargs.setdefault("jit_compile", False)
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), "mse", **kwargs)
    return model


def fit(model, inputs, targets, epochs=1):
    """Trains two steps per epoch in a fixed order; returns the losses."""
    keras.utils.set_random_seed(3)
    history = model.fit(
        inputs, targets, batch_size=4, epochs=epochs, shuffle=False, verbose=0
    )
    return history.history["loss"]


def outputs(model, inputs):
    """Returns predictions as a flat list of arrays."""
    result = model(inputs, training=False)
    return [ops.convert_to_numpy(t) for t in keras.tree.flatten(result)]


def array(variable):
    return ops.convert_to_numpy(variable)


def weights(model):
    """Returns the arrays of all variables except masks, in order."""
    return [ops.convert_to_numpy(v) for v in wrapping.plain_paths(model).values()]


def half_masks(model, seed=4):
    """Returns random masks that prune half of each kernel, by path."""
    rng = np.random.default_rng(seed)
    return {
        path: _half(rng, m.shape) for path, m in wrapping.kernels(model).masks.items()
    }


def _half(rng, shape):
    size = int(np.prod(shape))
    return rng.permutation(np.arange(size) < size - size // 2).reshape(shape)


# On TensorFlow only these are compiled in the matrix, because they contain loops or
# assignments. The other layers run eagerly, which takes half the time.
WITH_STATE = {
    "LSTM",
    "GRU",
    "SimpleRNN",
    "ConvLSTM1D",
    "Bidirectional",
    "padding",
    "SpectralNormalization",
    "a block without build",
}


def runs_eagerly(name):
    plain_layer = name in LAYERS and name not in WITH_STATE
    return plain_layer and keras.config.backend() == "tensorflow"


class Twins(NamedTuple):
    """A plain and a wrapped model after the same training; one is then pruned."""

    make: object
    count: int
    plain: keras.Model
    wrapped: keras.Model
    inputs: object
    losses: list
    weights: list
    masks: dict


def twins(make, count, **kwargs):
    """Trains both models, then prunes half of the wrapped one and trains it further."""
    plain = compiled(built(make), **kwargs)
    wrapped = wrapping.wrap(built(make), depthwise=True, verbose=False)
    wrapped = compiled(wrapped, **kwargs)
    inputs, targets = data(plain)
    losses = [fit(model, inputs, targets, epochs=2) for model in (plain, wrapped)]
    values = [weights(model) for model in (plain, wrapped)]
    masks = half_masks(wrapped)
    wrapping.kernels(wrapped).set_masks(masks)
    fit(wrapped, inputs, targets)
    return Twins(make, count, plain, wrapped, inputs, losses, values, masks)
