"""Small models, each with the layers of one row of the table of rules."""

import keras
from keras import layers as kl

FIRST = {"data_format": "channels_first"}


def chain(shape, *layers, **settings):
    return keras.Sequential([keras.Input(shape, **settings), *layers])


def graph(build, *shapes, **settings):
    inputs = [keras.Input(shape, **settings) for shape in shapes]
    return keras.Model(inputs[0] if len(inputs) == 1 else inputs, build(*inputs))


def tokens(build):
    return graph(build, (6,), dtype="int32")


def dense():
    return chain((6, 5), kl.Dense(7, "relu"), kl.Dense(4, "sigmoid"), kl.Dense(2))


def conv_1d():
    return chain(
        (12, 5),
        kl.Conv1D(6, 3, padding="causal", activation="relu"),
        kl.Conv1D(8, 2, groups=2, dilation_rate=2),
        kl.Conv1D(8, 1, groups=8),
        kl.MaxPooling1D(),
        kl.AveragePooling1D(2),
        kl.GlobalMaxPooling1D(),
        kl.Dense(2),
    )


def resized_1d():
    return chain(
        (6, 3),
        kl.Conv1D(6, 2, activation="sigmoid"),
        kl.UpSampling1D(),
        kl.ZeroPadding1D(),
        kl.Cropping1D(),
        kl.SpatialDropout1D(0.2),
        kl.GaussianNoise(0.1),
        kl.GlobalAveragePooling1D(),
        kl.RepeatVector(3),
        kl.Dense(2),
    )


def separable_1d():
    return chain(
        (9, 4),
        kl.Conv1D(4, 1),
        kl.DepthwiseConv1D(2, depth_multiplier=2),
        kl.SeparableConv1D(5, 2, depth_multiplier=2, activation="tanh"),
        kl.Flatten(),
        kl.Dense(2),
    )


def conv_2d():
    return chain(
        (6, 6, 3),
        kl.Conv2D(6, 3, activation="elu"),
        kl.BatchNormalization(scale=False),
        kl.Conv2D(8, 2, groups=2, padding="same"),
        kl.BatchNormalization(),
        kl.DepthwiseConv2D(2, depth_multiplier=2, activation="softplus"),
        kl.SeparableConv2D(5, 2, strides=2, padding="same"),
        kl.Flatten(),
        kl.Dense(2),
    )


def conv_3d():
    return chain(
        (5, 5, 5, 2),
        kl.Conv3D(6, 2, activation="elu"),
        kl.Conv3D(4, 1, groups=2),
        kl.MaxPooling3D(),
        kl.UpSampling3D(),
        kl.ZeroPadding3D(),
        kl.Cropping3D(),
        kl.SpatialDropout3D(0.2),
        kl.AveragePooling3D(2),
        kl.GlobalAveragePooling3D(),
        kl.Dense(2),
    )


def transposed():
    return chain(
        (4, 4, 2),
        kl.Conv2DTranspose(6, 3, strides=3, output_padding=1, activation="sigmoid"),
        kl.Conv2DTranspose(5, 2, strides=3, use_bias=False),
        kl.BatchNormalization(),
        kl.Reshape((13, -1, 5)),
        kl.Conv2D(3, 2),
        kl.Flatten(),
        kl.Dense(2),
    )


def transposed_1d():
    return chain((5, 3), kl.Conv1DTranspose(4, 3, strides=2), kl.Conv1D(2, 2))


def transposed_3d():
    return chain((2, 2, 2, 3), kl.Conv3DTranspose(4, 2), kl.Flatten(), kl.Dense(2))


def einsum():
    return chain(
        (6, 5),
        kl.EinsumDense("abc,cd->abd", (6, 7), bias_axes="d", activation="relu"),
        kl.EinsumDense("...x,xy->...y", 6, bias_axes="y"),
        kl.EinsumDense("abc,cde->abde", (6, 2, 5), bias_axes="de"),
        kl.EinsumDense("abde,def->abf", (6, 6), bias_axes="f"),
        kl.EinsumDense("abc,c->abc", (6, 6), bias_axes="c"),
        kl.EinsumDense("abc,bd->adc", (4, 6)),
        kl.Dense(2),
    )


def einsum_by_channel():
    return chain(
        (6, 5),
        kl.Dense(6),
        kl.EinsumDense("abc,cd->abcd", (6, 6, 3), bias_axes="d", activation="tanh"),
        kl.EinsumDense("abcd,cd->abc", (6, 6)),
        kl.Dense(2),
    )


def _attended(attention):
    def build(x):
        h = attention(kl.Dense(8)(x))
        return kl.Dense(3)(kl.Activation("relu")(h))

    return graph(build, (6, 5))


def attention():
    return _attended(lambda h: kl.MultiHeadAttention(4, 3)(h, h))


def cross_attention():
    def attend(h):
        layer = kl.MultiHeadAttention(4, 3, use_gate=True)
        return h + layer(h, kl.Dense(4)(h), use_causal_mask=True)

    return _attended(attend)


def _flat(outputs):
    return kl.Concatenate()([kl.Flatten()(output) for output in outputs])


def attention_scores():
    layer = kl.MultiHeadAttention(4, 3, value_dim=2, output_shape=7)
    return _attended(lambda h: _flat(layer(h, h, return_attention_scores=True)))


def attention_over_an_axis():
    layer = kl.MultiHeadAttention(3, 2, attention_axes=(2,), output_shape=(2, 5))

    def build(x):
        h = kl.Dense(4)(x)
        return kl.Dense(2)(layer(h, h))

    return graph(build, (3, 4, 5))


def grouped_attention():
    return _attended(lambda h: kl.GroupQueryAttention(3, 6, 3)(h, h))


def grouped_attention_scores():
    layer = kl.GroupQueryAttention(3, 4, 2, use_gate=True, use_bias=False)

    def attend(h):
        return _flat(layer(h, kl.Dense(8)(h), return_attention_scores=True))

    return _attended(attend)


def embedding():
    def build(x):
        h = kl.Embedding(9, 6)(x)
        return kl.Dense(2)(kl.GlobalMaxPooling1D()(kl.Conv1D(5, 2)(h)))

    return tokens(build)


def masked_embedding():
    layers = kl.Embedding(9, 6, mask_zero=True), kl.LSTM(5), kl.Dense(2)
    return chain((6,), *layers, dtype="int32")


def tied_embedding():
    table = kl.ReversibleEmbedding(9, 6)

    def build(x):
        h = table(x)
        return table(kl.Dense(6, "relu")(h) + h, reverse=True)

    return tokens(build)


def two_tables():
    table = kl.ReversibleEmbedding(9, 6, tie_weights=False)
    return tokens(lambda x: table(kl.Dense(6)(table(x)), reverse=True))


def lstm():
    return chain(
        (6, 5),
        kl.LSTM(7, return_sequences=True, dropout=0.1),
        kl.LSTM(4, use_bias=False, activation="sigmoid", recurrent_dropout=0.1),
        kl.Dense(2),
    )


def gru():
    return chain(
        (6, 5),
        kl.GRU(6, return_sequences=True, go_backwards=True),
        kl.GRU(5, reset_after=False, activation="softsign"),
        kl.Dense(2),
    )


def simple_rnn():
    return chain(
        (6, 5),
        kl.SimpleRNN(7, return_sequences=True, activation="softplus"),
        kl.SimpleRNN(4, unroll=True),
        kl.Dense(2),
    )


def cells():
    stacked = [kl.LSTMCell(4), kl.GRUCell(5), kl.SimpleRNNCell(3)]
    return chain(
        (6, 5),
        kl.RNN(kl.GRUCell(4), return_sequences=True),
        kl.RNN(stacked),
        kl.Dense(2),
    )


def states():
    def build(x, start):
        y, h, c = kl.LSTM(4, return_state=True, return_sequences=True)(x)
        z = kl.LSTM(4)(y, initial_state=[h, c])
        begun = kl.GRU(5)(x, initial_state=kl.Dense(5, "sigmoid")(start))
        return kl.Dense(2)(kl.Concatenate()([z, begun]))

    return graph(build, (6, 5), (3,))


def bidirectional():
    return chain(
        (6, 5),
        kl.Bidirectional(kl.LSTM(5, return_sequences=True)),
        kl.Bidirectional(kl.GRU(4, return_sequences=True), merge_mode="sum"),
        kl.Bidirectional(kl.SimpleRNN(4, return_sequences=True), merge_mode="ave"),
        kl.Bidirectional(kl.RNN(kl.LSTMCell(4)), merge_mode="mul"),
        kl.Dense(2),
    )


def both_directions():
    backward = kl.LSTM(4, "relu", go_backwards=True, return_state=True)
    layer = kl.Bidirectional(kl.LSTM(4, return_state=True), None, None, backward)
    return graph(lambda x: kl.Dense(2)(kl.Concatenate()(list(layer(x)))), (6, 5))


def time_distributed():
    return chain(
        (3, 6, 6, 2),
        kl.TimeDistributed(kl.Conv2D(5, 3, activation="relu")),
        kl.TimeDistributed(kl.BatchNormalization()),
        kl.TimeDistributed(kl.DepthwiseConv2D(2)),
        kl.TimeDistributed(kl.Flatten()),
        kl.TimeDistributed(kl.Dense(4)),
        kl.Flatten(),
        kl.Dense(2),
    )


ROWS = [
    *(dense, conv_1d, resized_1d, separable_1d, conv_2d, conv_3d, transposed),
    *(transposed_1d, transposed_3d, einsum, einsum_by_channel, attention),
    *(cross_attention, attention_scores, attention_over_an_axis, grouped_attention),
    *(grouped_attention_scores, embedding, masked_embedding, tied_embedding),
    *(two_tables, lstm, gru, simple_rnn, cells, states, bidirectional),
    *(both_directions, time_distributed),
]


# TensorFlow has no convolutions of this order on a CPU.


def first_2d():
    def build(x):
        h = kl.MaxPooling2D(**FIRST)(kl.Conv2D(6, 3, activation="relu", **FIRST)(x))
        h = kl.BatchNormalization(axis=1)(h)
        more = kl.Conv2D(4, 3, padding="same", **FIRST)(h)
        return kl.Dense(2)(kl.Flatten(**FIRST)(kl.Concatenate(axis=1)([h, more])))

    return graph(build, (3, 8, 8))


def first_1d():
    return chain(
        (5, 12),
        kl.Conv1D(6, 3, **FIRST),
        kl.DepthwiseConv1D(2, depth_multiplier=2, **FIRST),
        kl.SeparableConv1D(5, 2, **FIRST),
        kl.Conv1DTranspose(4, 3, strides=2, **FIRST),
        kl.AveragePooling1D(2, **FIRST),
        kl.ZeroPadding1D(**FIRST),
        kl.GlobalMaxPooling1D(**FIRST),
        kl.Dense(2),
    )


def first_in_groups():
    return chain(
        (3, 6, 6),
        kl.Conv2D(8, 2, **FIRST),
        kl.Conv2D(8, 2, groups=4, **FIRST),
        kl.Conv2D(16, 2, groups=8, **FIRST),
        kl.DepthwiseConv2D(1, **FIRST),
        kl.UpSampling2D(**FIRST),
        kl.Cropping2D(**FIRST),
        kl.GlobalAveragePooling2D(**FIRST),
        kl.Dense(2),
    )


def first_3d():
    return chain(
        (2, 4, 4, 4),
        kl.Conv3D(6, 2, **FIRST),
        kl.BatchNormalization(axis=1, scale=False),
        kl.Conv3DTranspose(4, 2, **FIRST),
        kl.Flatten(),
        kl.Dense(2),
    )


FIRST_ROWS = [first_2d, first_1d, first_in_groups, first_3d]
