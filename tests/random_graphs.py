"""Random small graphs of layers, for the tests of units."""

import keras
import numpy as np
from keras import layers as kl

SIDE = 4
ACTIVATIONS = [
    *("relu", "sigmoid", "tanh", "gelu", "softplus", "elu", "hard_sigmoid", "silu"),
    *("linear", "softmax"),
]


@keras.saving.register_keras_serializable("tests")
class Unknown(kl.Layer):
    """A layer without a rule that mixes all channels."""

    def build(self, shape):
        self.kernel = self.add_weight((shape[-1], shape[-1]), name="mixing")

    def call(self, x):
        return keras.ops.tanh(keras.ops.matmul(x, self.kernel))


class Graph:
    """Grows a graph by layers that are chosen at random.

    Args:
        seed: The seed of the choices.
        size: How many blocks are added.
    """

    def __init__(self, seed, size=8):
        self.rng = np.random.default_rng(seed)
        image = keras.Input((SIDE, SIDE, 3))
        self.inputs = [image]
        # Tensors by their rank, batch included.
        self.tensors = {4: [image], 3: [], 2: []}
        if self.flip():
            self.inputs.append(keras.Input((5, 4)))
            self.tensors[3].append(self.inputs[-1])
        if self.flip(0.3):
            self.inputs.append(keras.Input((6,)))
            self.tensors[2].append(self.inputs[-1])
        for _ in range(size):
            self.grow()

    def flip(self, chance=0.5):
        return self.rng.random() < chance

    def one_of(self, *choices):
        return choices[self.rng.integers(len(choices))]

    def width(self):
        return int(self.rng.integers(2, 7))

    def activation(self):
        return self.one_of(*ACTIVATIONS)

    def grow(self):
        """Adds a block that reads a tensor of a random rank, often the last one."""
        ranks = [rank for rank, tensors in self.tensors.items() if tensors]
        rank = self.one_of(*ranks)
        tensors = self.tensors[rank]
        x = tensors[-1] if self.flip(0.7) else self.one_of(*tensors)
        blocks = {4: IMAGES, 3: SEQUENCES, 2: VECTORS}[rank]
        y = self.one_of(*blocks)(self, x)
        if y is not None:
            self.tensors[len(y.shape)].append(y)

    def model(self):
        """Returns a model with one or two outputs, which read all last tensors."""
        ends = []
        for rank, tensors in self.tensors.items():
            for x in tensors[-2:]:
                if rank == 4:
                    pool = self.one_of(kl.GlobalAveragePooling2D, kl.GlobalMaxPooling2D)
                    x = self.one_of(pool(), kl.Flatten())(x)
                elif rank == 3:
                    x = self.one_of(kl.GlobalAveragePooling1D(), kl.Flatten())(x)
                ends.append(x)
        joined = kl.Concatenate()(ends) if len(ends) > 1 else ends[0]
        outputs = [kl.Dense(3)(joined)]
        if self.flip(0.3):
            every = [t for tensors in self.tensors.values() for t in tensors]
            outputs.append(self.one_of(*every))
        inputs = self.inputs[0] if len(self.inputs) == 1 else self.inputs
        return keras.Model(inputs, outputs[0] if len(outputs) == 1 else outputs)


# Blocks: functions of the graph and a tensor. They return a tensor, or None if the
# tensor does not suit them.


def _like(g, x):
    """Returns another tensor of the same shape, None if there is none."""
    others = [t for t in g.tensors[len(x.shape)] if t is not x and t.shape == x.shape]
    return g.one_of(*others) if others else None


def convolution(g, x):
    size, padding = g.one_of((1, "valid"), (3, "same"), (2, "same"))
    settings = {"padding": padding, "use_bias": g.flip(0.7)}
    return kl.Conv2D(g.width(), size, activation=g.activation(), **settings)(x)


def grouped(g, x):
    groups = g.one_of(2, 3)
    x = kl.Conv2D(groups * g.one_of(1, 2), 1)(x)
    return kl.Conv2D(groups * g.one_of(1, 2), 2, groups=groups, padding="same")(x)


def depthwise(g, x):
    multiplier = g.one_of(1, 2) if x.shape[-1] < 9 else 1
    layer = kl.DepthwiseConv2D(3, padding="same", depth_multiplier=multiplier)
    return kl.Activation(g.activation())(layer(x))


def separable(g, x):
    return kl.SeparableConv2D(g.width(), 2, padding="same", depth_multiplier=2)(x)


def transposed(g, x):
    x = kl.Conv2DTranspose(g.width(), 2, strides=2, activation=g.activation())(x)
    return kl.MaxPooling2D()(x)


def normalized(g, x):
    return kl.BatchNormalization(scale=g.flip(0.6), center=g.flip(0.8))(x)


def activated(g, x):
    return kl.Activation(g.activation())(x)


def with_slopes(g, x):
    return kl.PReLU()(x)


def scaled(g, x):
    return g.one_of(x * 2.0, x + 1.0, 1.0 - x, -x, x / 4.0)


def residual(g, x):
    width = x.shape[-1]
    y = kl.Dense(width, g.activation())(x)
    y = kl.BatchNormalization()(y) if g.flip() else y
    layer = g.one_of(kl.Add, kl.Subtract, kl.Average, kl.Maximum, kl.Minimum)
    return layer()([x, y])


def merged(g, x):
    other = _like(g, x)
    if other is None:
        return None
    return g.one_of(kl.Add, kl.Multiply, kl.Average, kl.Maximum)()([x, other])


def joined(g, x):
    others = [t for t in g.tensors[len(x.shape)] if t.shape[:-1] == x.shape[:-1]]
    other = g.one_of(*others)
    return kl.Concatenate()([x, other]) if x.shape[-1] < 12 else None


def joined_in_space(g, x):
    other = _like(g, x)
    if other is None:
        return None
    pool = kl.MaxPooling2D((2, 1)) if len(x.shape) == 4 else kl.MaxPooling1D(2)
    y = kl.Concatenate(axis=1)([x, other])
    return pool(y) if len(x.shape) == 4 else y


def gate(g, x):
    y = kl.GlobalAveragePooling2D(keepdims=True)(x)
    y = kl.Dense(g.width(), "relu")(y)
    y = kl.Conv2D(x.shape[-1], 1, activation=g.one_of("sigmoid", "hard_sigmoid"))(y)
    return kl.Multiply()([x, y])


def spatial_gate(g, x):
    return kl.Multiply()([x, kl.Conv2D(1, 3, padding="same", activation="sigmoid")(x)])


def pooled(g, x):
    pool = g.one_of(kl.MaxPooling2D, kl.AveragePooling2D)
    return pool(2, strides=1, padding="same")(x)


def resized(g, x):
    if g.flip():
        return kl.Cropping2D(1)(kl.ZeroPadding2D(1)(x))
    return kl.AveragePooling2D(2)(kl.UpSampling2D(2)(x))


def regularized(g, x):
    return g.one_of(kl.Dropout(0.2), kl.GaussianNoise(0.1), kl.Identity())(x)


def nested(g, x):
    inner = keras.Input(x.shape[1:])
    y = kl.Dense(g.width(), g.activation())(inner)
    y = kl.BatchNormalization()(y) if g.flip() else y
    if g.flip():
        y = kl.Add()([kl.Dense(y.shape[-1])(y), y])
    model = keras.Model(inner, y)
    y = model(x)
    other = _like(g, x)
    if other is not None and g.flip():
        return kl.Add()([y, model(other)])
    return y


def nested_sequential(g, x):
    layers = kl.Dense(g.width(), g.activation()), kl.Dense(x.shape[-1])
    model = keras.Sequential([keras.Input(x.shape[1:]), *layers])
    return model(model(x)) if g.flip() else model(x)


def shared(g, x):
    layer = kl.Dense(x.shape[-1], g.activation())
    return layer(layer(x))


def shared_by_two(g, x):
    other = _like(g, x)
    layer = kl.Dense(g.width())
    return None if other is None else kl.Concatenate()([layer(x), layer(other)])


def unknown(g, x):
    return Unknown()(x)


def dense(g, x):
    return kl.Dense(g.width(), g.activation())(x)


def layer_normalized(g, x):
    return kl.LayerNormalization()(x)


def as_sequence(g, x):
    return kl.Reshape((SIDE * SIDE, x.shape[-1]))(x)


def permuted(g, x):
    order = g.one_of((2, 1, 3), (1, 3, 2), (3, 1, 2)) if len(x.shape) == 4 else (2, 1)
    y = kl.Permute(order)(x)
    if len(x.shape) == 3:
        return kl.Permute(order)(kl.Activation(g.activation())(y))
    return kl.Reshape((SIDE * SIDE, x.shape[-1]))(y) if g.flip() else kl.Flatten()(y)


def flattened(g, x):
    return kl.Dense(g.width())(kl.Flatten()(x))


def averaged(g, x):
    pools = {4: kl.GlobalAveragePooling2D, 3: kl.GlobalMaxPooling1D}
    return pools[len(x.shape)]()(x)


def convolution_1d(g, x):
    return kl.Conv1D(g.width(), 2, padding="causal", activation=g.activation())(x)


def recurrent(g, x):
    kind = g.one_of(kl.LSTM, kl.GRU, kl.SimpleRNN)
    activation = g.one_of("tanh", "sigmoid", "relu")
    return kind(g.width(), activation=activation, return_sequences=g.flip())(x)


def bidirectional(g, x):
    layer = g.one_of(kl.LSTM, kl.GRU)(g.width(), return_sequences=g.flip())
    return kl.Bidirectional(layer, g.one_of("concat", "sum", "mul", "ave"))(x)


def attention(g, x):
    heads, size = g.one_of(2, 3), g.one_of(1, 2)
    y = kl.MultiHeadAttention(heads, size, use_bias=g.flip())(x, x)
    return kl.Add()([x, y]) if g.flip() else y


def cross_attention(g, x):
    other = g.one_of(*g.tensors[3])
    width = g.one_of(None, g.width())
    layer = kl.MultiHeadAttention(2, 2, output_shape=width)
    return layer(x, other)


def grouped_attention(g, x):
    return kl.GroupQueryAttention(2, 4, 2)(x, x)


def einsum(g, x):
    if g.flip():
        return kl.EinsumDense("...x,xy->...y", g.width(), bias_axes="y")(x)
    size = x.shape[1], x.shape[2]
    return kl.EinsumDense("btc,c->btc", size, bias_axes=g.one_of(None, "c"))(x)


def distributed(g, x):
    inner = g.one_of(kl.Dense(g.width(), g.activation()), kl.BatchNormalization())
    return kl.TimeDistributed(inner)(x)


def repeated(g, x):
    return kl.RepeatVector(3)(x)


def folded(g, x):
    width = 2 * g.width()
    y = kl.Dense(width)(x)
    return kl.Reshape(g.one_of((2, width // 2), (width // 2, 2), (1, width)))(y)


ANY = [
    *(normalized, activated, scaled, residual, merged, joined, regularized, nested),
    *(nested_sequential, shared, shared_by_two, dense),
]
RARE = [unknown, layer_normalized]
IMAGES = [
    *ANY,
    *(convolution, convolution, grouped, depthwise, separable, transposed, gate),
    *(spatial_gate, pooled, resized, as_sequence, permuted, flattened, averaged),
    *(with_slopes, joined_in_space, *RARE),
]
SEQUENCES = [
    *ANY,
    *(convolution_1d, recurrent, recurrent, bidirectional, attention, attention),
    *(cross_attention, grouped_attention, einsum, distributed, averaged, permuted),
    *(flattened, joined_in_space, *RARE),
]
VECTORS = [*ANY, repeated, folded, folded]
