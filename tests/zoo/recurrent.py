"""Recurrent networks: text, series, video, and from sequence to sequence."""

import keras
import numpy as np
from keras import layers as kl

from zoo.case import Builder, Case, Limit, compiled, floats, numbers

WORDS, LENGTH = 20, 6
NEEDS_UNROLL = Limit(
    "LiteRT's converter takes a recurrent layer only if it is unrolled "
    "(`unroll=True`), as the error says.",
    "unroll=True",
)
STATEFUL = Limit(
    "These formats cannot hold state between calls; the error says to export with "
    "`stateful=False`.",
    "state that recurrent layers keep",
)
DRAWS = Limit(
    "Keras advances the random numbers of recurrent dropout in inference, too. Export "
    "with `verify=False`, as the error says.",
    "changes .* during inference",
)
ROLLED = {"tflite": NEEDS_UNROLL}


def _sentences(rows=8):
    """Returns tokens, of which the last ones of most rows are padding."""
    tokens = 1 + numbers(WORDS - 1, rows, LENGTH)
    lengths = 2 + numbers(LENGTH - 1, rows, 1, seed=1)
    return np.where(np.arange(LENGTH) < lengths, tokens, 0).astype("int32")


def _text_classifier(layer):
    model = keras.Sequential(
        [
            keras.Input((LENGTH,), dtype="int32"),
            kl.Embedding(WORDS, 8, mask_zero=True, name="embedding"),
            layer,
            kl.Dense(2, name="classes"),
        ]
    )
    return compiled(model)


def _classifies_text(layer, **more):
    model = _text_classifier(layer)
    return Case(model, _sentences(), numbers(2, 8), **more)


def lstm():
    return _classifies_text(kl.LSTM(5, name="lstm"), limits=ROLLED)


def gru():
    return _classifies_text(kl.GRU(5, name="gru"), limits=ROLLED)


def simple_rnn():
    return _classifies_text(kl.SimpleRNN(5, name="rnn"), limits=ROLLED)


def bidirectional():
    layer = kl.Bidirectional(kl.LSTM(5, name="lstm"), name="both")
    return _classifies_text(layer, limits=ROLLED)


def unrolled():
    model = keras.Sequential(
        [
            keras.Input((LENGTH, 3)),
            kl.LSTM(5, unroll=True, return_sequences=True, dropout=0.2, seed=1),
            kl.GRU(4, unroll=True, recurrent_dropout=0.2, seed=2),
            kl.Dense(2),
        ]
    )
    limits = {"saved_model": DRAWS, "tflite": DRAWS}
    return Case(compiled(model), floats(8, LENGTH, 3), numbers(2, 8), limits=limits)


def stacked_cells():
    cells = kl.StackedRNNCells([kl.LSTMCell(5), kl.GRUCell(4)])
    model = keras.Sequential(
        [keras.Input((LENGTH, 3)), kl.RNN(cells, name="rnn"), kl.Dense(2)]
    )
    return Case(compiled(model), floats(8, LENGTH, 3), numbers(2, 8), limits=ROLLED)


def stateful():
    model = keras.Sequential(
        [
            keras.Input(batch_shape=(4, LENGTH, 3)),
            kl.LSTM(5, stateful=True, name="lstm"),
            kl.Dense(1),
        ]
    )
    model = compiled(model, "mse")
    limits = {"saved_model": STATEFUL, "tflite": STATEFUL}
    return Case(model, floats(8, LENGTH, 3), floats(8, 1), limits=limits)


def conv_lstm():
    """The next frame of a film."""
    film = keras.Input((3, 8, 8, 1))
    x = kl.ConvLSTM2D(4, 3, padding="same", return_sequences=True)(film)
    x = kl.BatchNormalization()(x)
    x = kl.ConvLSTM2D(3, 3, padding="same", return_sequences=True)(x)
    x = kl.Conv3D(1, 3, padding="same", activation="sigmoid")(x)
    model = compiled(keras.Model(film, x), "binary_crossentropy")
    films = (floats(4, 3, 8, 8, 1) > 0).astype("float32")
    return Case(model, films, films, batch_size=2, limits=ROLLED)


def frames_then_lstm():
    """A convolutional network on every frame, and an LSTM over the frames."""
    frame = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            kl.Conv2D(4, 3, activation="relu"),
            kl.MaxPooling2D(),
            kl.Flatten(),
        ],
        name="frame",
    )
    film = keras.Input((4, 8, 8, 3))
    x = kl.TimeDistributed(frame, name="frames")(film)
    x = kl.LSTM(5, name="lstm")(x)
    model = compiled(keras.Model(film, kl.Dense(2)(x)))
    return Case(model, floats(8, 4, 8, 8, 3), numbers(2, 8), limits=ROLLED)


def seq2seq():
    """An LSTM reads a sequence, another continues from its states."""
    source = keras.Input((None, 7), name="source")
    _, *states = kl.LSTM(6, return_state=True, name="encoder")(source)
    target = keras.Input((None, 5), name="target")
    decoder = kl.LSTM(6, return_sequences=True, return_state=True, name="decoder")
    x, _, _ = decoder(target, initial_state=states)
    model = keras.Model([source, target], kl.Dense(5, name="letters")(x))
    x = [floats(8, 6, 7), floats(8, 4, 5, seed=1)]
    return Case(compiled(model), x, numbers(5, 8, 4), limits=ROLLED)


def tagger():
    """Labels every word; padding counts neither in the loss nor in the gradient."""
    words = keras.Input((LENGTH,), dtype="int32")
    x = kl.Embedding(WORDS, 8, mask_zero=True)(words)
    x = kl.Bidirectional(kl.GRU(4, return_sequences=True))(x)
    x = kl.TimeDistributed(kl.Dense(3))(x)
    model = compiled(keras.Model(words, x))
    return Case(model, _sentences(), numbers(3, 8, LENGTH), limits=ROLLED)


def captcha():
    """Convolutions, whose columns an LSTM reads, trained by the CTC loss."""
    image = keras.Input((8, 16, 1))
    x = kl.Conv2D(4, 3, padding="same", activation="relu")(image)
    x = kl.MaxPooling2D(2)(x)
    x = kl.Permute((2, 1, 3))(x)
    x = kl.Reshape((8, 16))(x)
    x = kl.Bidirectional(kl.LSTM(5, return_sequences=True))(x)
    model = keras.Model(image, kl.Dense(6)(x))
    model = compiled(model, keras.losses.CTC())
    return Case(model, floats(8, 8, 16, 1), 1 + numbers(5, 8, 3), limits=ROLLED)


MODELS: dict[str, Builder] = {
    "LSTM on masked text": lstm,
    "GRU on masked text": gru,
    "SimpleRNN on masked text": simple_rnn,
    "Bidirectional LSTM": bidirectional,
    "Unrolled LSTM and GRU": unrolled,
    "Stacked RNN cells": stacked_cells,
    "Stateful LSTM": stateful,
    "ConvLSTM": conv_lstm,
    "TimeDistributed CNN and LSTM": frames_then_lstm,
    "Sequence to sequence LSTM": seq2seq,
    "Tagger of masked text": tagger,
    "Captcha reader with CTC": captcha,
}
