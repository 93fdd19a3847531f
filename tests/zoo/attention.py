"""Transformers and attention over graphs."""

import keras
import numpy as np
from keras import layers as kl
from keras import ops

from zoo.case import Builder, Case, compiled, floats, numbers

WORDS, LENGTH, WIDTH = 20, 6, 8


@keras.saving.register_keras_serializable("zoo")
class TransformerBlock(kl.Layer):
    """Self-attention and a small network, each with dropout and normalization."""

    def __init__(self, width, heads, hidden, rate=0.1, **kwargs):
        super().__init__(**kwargs)
        self.settings = {"width": width, "heads": heads, "hidden": hidden, "rate": rate}
        self.attention = kl.MultiHeadAttention(heads, width // heads)
        self.network = keras.Sequential(
            [kl.Dense(hidden, activation="relu"), kl.Dense(width)]
        )
        self.norms = [kl.LayerNormalization(epsilon=1e-6) for _ in range(2)]
        self.dropouts = [kl.Dropout(rate) for _ in range(2)]

    def call(self, x, training=None):
        y = self.dropouts[0](self.attention(x, x), training=training)
        x = self.norms[0](x + y)
        y = self.dropouts[1](self.network(x), training=training)
        return self.norms[1](x + y)

    def get_config(self):
        return {**super().get_config(), **self.settings}


@keras.saving.register_keras_serializable("zoo")
class TokensAndPositions(kl.Layer):
    """The sum of an embedding of words and one of positions."""

    def __init__(self, length, words, width, **kwargs):
        super().__init__(**kwargs)
        self.settings = {"length": length, "words": words, "width": width}
        self.tokens = kl.Embedding(words, width)
        self.positions = kl.Embedding(length, width)

    def call(self, x):
        return self.tokens(x) + self.positions(ops.arange(ops.shape(x)[-1]))

    def get_config(self):
        return {**super().get_config(), **self.settings}


def transformer_classifier():
    words = keras.Input((LENGTH,), dtype="int32")
    x = TokensAndPositions(LENGTH, WORDS, WIDTH)(words)
    x = TransformerBlock(WIDTH, 2, 16)(x)
    x = kl.GlobalAveragePooling1D()(x)
    x = kl.Dropout(0.1)(x)
    x = kl.Dense(10, activation="relu")(x)
    model = compiled(keras.Model(words, kl.Dense(2)(x)))
    return Case(model, numbers(WORDS, 8, LENGTH), numbers(2, 8))


@keras.saving.register_keras_serializable("zoo")
class Patches(kl.Layer):
    """Cuts an image into flat patches."""

    def __init__(self, size, **kwargs):
        super().__init__(**kwargs)
        self.size = size

    def call(self, images):
        batch, height, width, channels = ops.shape(images)
        patches = ops.image.extract_patches(images, size=self.size)
        count = (height // self.size) * (width // self.size)
        return ops.reshape(patches, (batch, count, self.size**2 * channels))

    def get_config(self):
        return {**super().get_config(), "size": self.size}


@keras.saving.register_keras_serializable("zoo")
class PatchEncoder(kl.Layer):
    """Projects patches and adds a trained vector for each position."""

    def __init__(self, count, width, **kwargs):
        super().__init__(**kwargs)
        self.count, self.width = count, width
        self.projection = kl.Dense(width)
        self.position = kl.Embedding(count, width)

    def call(self, patches):
        positions = ops.expand_dims(ops.arange(self.count), 0)
        return self.projection(patches) + self.position(positions)

    def get_config(self):
        return {**super().get_config(), "count": self.count, "width": self.width}


def vision_transformer():
    image = keras.Input((8, 8, 3))
    x = PatchEncoder(4, WIDTH)(Patches(4)(image))
    for _ in range(2):
        y = kl.LayerNormalization(epsilon=1e-6)(x)
        y = kl.MultiHeadAttention(2, WIDTH // 2, dropout=0.1)(y, y)
        x = kl.Add()([y, x])
        y = kl.LayerNormalization(epsilon=1e-6)(x)
        y = kl.Dense(16, activation="gelu")(y)
        x = kl.Add()([kl.Dropout(0.1)(kl.Dense(WIDTH, activation="gelu")(y)), x])
    x = kl.Flatten()(kl.LayerNormalization(epsilon=1e-6)(x))
    x = kl.Dropout(0.5)(kl.Dense(12, activation="gelu")(x))
    model = compiled(keras.Model(image, kl.Dense(3)(x)))
    return Case(model, floats(8, 8, 8, 3), numbers(3, 8))


@keras.saving.register_keras_serializable("zoo")
class TiedHead(kl.Layer):
    """Predicts words with the table of the embedding, which is not its own."""

    def __init__(self, embedding, **kwargs):
        super().__init__(**kwargs)
        self.embedding = embedding

    def call(self, x):
        return ops.matmul(x, ops.transpose(self.embedding.embeddings))

    def get_config(self):
        embedding = keras.saving.serialize_keras_object(self.embedding)
        return {**super().get_config(), "embedding": embedding}

    @classmethod
    def from_config(cls, config):
        embedding = keras.saving.deserialize_keras_object(config.pop("embedding"))
        return cls(embedding, **config)


def small_gpt():
    """Predicts the next word: causal attention before the normalization."""
    words = keras.Input((LENGTH,), dtype="int32")
    x = TokensAndPositions(LENGTH, WORDS, WIDTH)(words) * (WIDTH**0.5)
    for _ in range(2):
        y = kl.LayerNormalization()(x)
        x = x + kl.MultiHeadAttention(2, 4)(y, y, use_causal_mask=True)
        y = kl.LayerNormalization()(x)
        x = x + kl.Dense(WIDTH)(kl.Dense(16, activation="gelu")(y))
    model = compiled(keras.Model(words, kl.Dense(WORDS)(x)))
    return Case(model, numbers(WORDS, 8, LENGTH), numbers(WORDS, 8, LENGTH))


def grouped_attention():
    """Attention whose heads share keys and values in groups."""
    words = keras.Input((LENGTH,), dtype="int32")
    x = kl.Embedding(WORDS, WIDTH)(words)
    x = x + kl.GroupQueryAttention(4, 4, 2)(x, x)
    x = kl.RMSNormalization()(x)
    x = x + kl.Dense(WIDTH)(kl.Dense(16, activation="silu")(x))
    model = compiled(keras.Model(words, kl.Dense(2)(kl.GlobalMaxPooling1D()(x))))
    return Case(model, numbers(WORDS, 8, LENGTH), numbers(2, 8))


def translation():
    """An encoder, and a decoder that looks at itself and at the encoder."""
    source = keras.Input((LENGTH,), dtype="int32", name="source")
    target = keras.Input((4,), dtype="int32", name="target")
    x = TokensAndPositions(LENGTH, WORDS, WIDTH)(source)
    encoded = TransformerBlock(WIDTH, 2, 16)(x)
    x = TokensAndPositions(4, WORDS, WIDTH)(target)
    y = kl.MultiHeadAttention(2, 4)(x, x, use_causal_mask=True)
    x = kl.LayerNormalization()(kl.Add()([x, y]))
    y = kl.MultiHeadAttention(2, 4)(x, encoded)
    x = kl.LayerNormalization()(kl.Add()([x, y]))
    x = kl.Add()([x, kl.Dense(WIDTH)(kl.Dense(16, activation="relu")(x))])
    model = compiled(keras.Model([source, target], kl.Dense(WORDS)(x)))
    x = {"source": numbers(WORDS, 8, LENGTH), "target": numbers(WORDS, 8, 4, seed=1)}
    return Case(model, x, numbers(WORDS, 8, 4, seed=2))


@keras.saving.register_keras_serializable("zoo")
class GraphAttention(kl.Layer):
    """Each node of a graph attends to its neighbours.

    Its weights are raw matrices, one stack of them for all heads.
    """

    def __init__(self, units, heads, **kwargs):
        super().__init__(**kwargs)
        self.units, self.heads = units, heads

    def build(self, shapes):
        width = shapes[0][-1]
        self.project = self.add_weight((self.heads, width, self.units), name="project")
        self.score = self.add_weight((self.heads, 2 * self.units, 1), name="score")

    def call(self, inputs):
        nodes, edges = inputs
        x = ops.einsum("bnf,hfu->bhnu", nodes, self.project)
        one = ops.matmul(x, self.score[:, : self.units])
        other = ops.matmul(x, self.score[:, self.units :])
        scores = ops.leaky_relu(one + ops.swapaxes(other, -1, -2))
        seen = ops.expand_dims(edges, 1) > 0
        shares = ops.softmax(ops.where(seen, scores, -1e9))
        x = ops.swapaxes(ops.matmul(shares, x), 1, 2)
        return ops.reshape(x, (-1, ops.shape(nodes)[1], self.heads * self.units))

    def compute_output_shape(self, shapes):
        return (*shapes[0][:-1], self.heads * self.units)

    def get_config(self):
        return {**super().get_config(), "units": self.units, "heads": self.heads}


def graph_attention():
    nodes, edges = keras.Input((5, 4), name="nodes"), keras.Input((5, 5), name="edges")
    x = kl.Dense(6, activation="relu")(nodes)
    for _ in range(2):
        x = kl.Add()([x, GraphAttention(3, 2)([x, edges])])
    model = compiled(keras.Model([nodes, edges], kl.Dense(3)(x)))
    linked = (np.eye(5) + (floats(8, 5, 5, seed=1) > 0)).clip(0, 1).astype("float32")
    return Case(model, [floats(8, 5, 4), linked], numbers(3, 8, 5))


MODELS: dict[str, Builder] = {
    "Transformer classifier": transformer_classifier,
    "ViT": vision_transformer,
    "Small GPT": small_gpt,
    "Grouped-query attention": grouped_attention,
    "Transformer translation": translation,
    "Graph attention": graph_attention,
}
