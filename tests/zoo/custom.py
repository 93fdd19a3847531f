"""Models with layers, weights or training steps of their own."""

import keras
from keras import layers as kl
from keras import ops

from zoo.case import Builder, Case, Limit, compiled, floats, numbers
from zoo.steps import OwnStep


def called(model, x):
    """Builds a subclassed model."""
    model(keras.tree.map_structure(lambda array: array[:1], x))
    return model


@keras.saving.register_keras_serializable("zoo")
class Siamese(OwnStep):
    """Learns distances: an anchor is near the positive and far from the negative."""

    def __init__(self, embedding, margin=0.5, **kwargs):
        super().__init__(**kwargs)
        self.embedding, self.margin = embedding, margin

    def call(self, triplet, training=None):
        anchor, near, far = (self.embedding(x, training=training) for x in triplet)
        distances = [ops.sum(ops.square(anchor - x), axis=-1) for x in (near, far)]
        return ops.stack(distances, axis=-1)

    def loss_of(self, call, data):
        distances = call(keras.utils.unpack_x_y_sample_weight(data)[0])
        gap = distances[:, 0] - distances[:, 1] + self.margin
        return ops.mean(ops.maximum(gap, 0.0))

    def get_config(self):
        embedding = keras.saving.serialize_keras_object(self.embedding)
        return {**super().get_config(), "embedding": embedding, "margin": self.margin}

    @classmethod
    def from_config(cls, config):
        embedding = keras.saving.deserialize_keras_object(config.pop("embedding"))
        return cls(embedding, **config)


def siamese():
    image = keras.Input((8, 8, 1))
    x = kl.Conv2D(4, 3, activation="relu")(image)
    x = kl.BatchNormalization()(kl.Dense(8, activation="relu")(kl.Flatten()(x)))
    embedding = keras.Model(image, kl.Dense(4)(x), name="embedding")
    x = tuple(floats(8, 8, 8, 1, seed=seed) for seed in range(3))
    model = called(Siamese(embedding, name="siamese"), x)
    model.compile(keras.optimizers.Adam(1e-3))
    return Case(model, x)


def many_inputs_and_outputs():
    """Tickets of a help desk: texts and tags give a priority and a department."""
    title = keras.Input((None,), dtype="int32", name="title")
    body = keras.Input((None,), dtype="int32", name="body")
    tags = keras.Input((5,), name="tags")
    texts = [kl.GlobalMaxPooling1D()(kl.Embedding(20, 6)(x)) for x in (title, body)]
    x = kl.Dense(8, activation="relu")(kl.Concatenate()([*texts, tags]))
    outputs = {
        "priority": kl.Dense(1, name="priority")(x),
        "department": kl.Dense(4, name="department")(x),
    }
    model = keras.Model([title, body, tags], outputs)
    sparse = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    losses = {"priority": "mse", "department": sparse}
    model = compiled(model, losses, loss_weights={"priority": 1.0, "department": 0.2})
    x = {"title": numbers(20, 8, 6), "body": numbers(20, 8, 6, seed=1)}
    x["tags"] = floats(8, 5)
    y = {"priority": floats(8, 1), "department": numbers(4, 8)}
    return Case(model, x, y)


@keras.saving.register_keras_serializable("zoo")
class Recommender(keras.Model):
    """A user and a film match as far as their vectors do, after a small network."""

    def __init__(self, users, films, width, **kwargs):
        super().__init__(**kwargs)
        self.sizes = {"users": users, "films": films, "width": width}
        normal = {"embeddings_initializer": "he_normal"}
        penalty = {"embeddings_regularizer": keras.regularizers.L2(1e-6)}
        self.user = kl.Embedding(users, width, **normal, **penalty)
        self.film = kl.Embedding(films, width, **normal, **penalty)
        self.biases = [kl.Embedding(users, 1), kl.Embedding(films, 1)]
        self.tower = kl.Dense(width, activation="relu")

    def call(self, pairs):
        user, film = pairs[:, 0], pairs[:, 1]
        match = ops.sum(self.tower(self.user(user)) * self.film(film), 1, keepdims=True)
        return ops.sigmoid(match + self.biases[0](user) + self.biases[1](film))

    def get_config(self):
        return {**super().get_config(), **self.sizes}


def recommender():
    x = numbers(9, 8, 2)
    model = compiled(called(Recommender(9, 9, 4), x), "binary_crossentropy")
    y = numbers(2, 8, 1).astype("float32")
    return Case(model, x, y)


def pruned_embeddings():
    """Two towers, whose tables are pruned too."""
    user = keras.Input((), dtype="int32", name="user")
    film = keras.Input((), dtype="int32", name="film")
    vectors = [
        kl.Dense(4)(kl.Embedding(9, 6, name=f"{x.name}_table")(x)) for x in (user, film)
    ]
    model = keras.Model([user, film], kl.Dot(axes=1)(vectors))
    x = {"user": numbers(9, 8), "film": numbers(9, 8, seed=1)}
    return Case(compiled(model, "mse"), x, floats(8, 1), wrap=_with_embeddings)


def _with_embeddings(model):
    import tf_tickets as tt

    return tt.wrap(model, embeddings=True, verbose=False)


@keras.saving.register_keras_serializable("zoo")
class TiedModel(keras.Model):
    """Predicts words with the table that embeds them."""

    def __init__(self, words=12, width=6, **kwargs):
        super().__init__(**kwargs)
        self.embedding = kl.Embedding(words, width)
        self.hidden = kl.Dense(width, activation="gelu")
        self.norm = kl.LayerNormalization()

    def call(self, words):
        x = self.norm(self.hidden(self.embedding(words)))
        return ops.matmul(x, ops.transpose(self.embedding.embeddings))


def tied_embeddings():
    x = numbers(12, 8, 5)
    return Case(compiled(called(TiedModel(), x)), x, x)


def tied_by_reversible_embedding():
    """A layer of Keras that embeds words, and predicts them with the same table."""
    words = keras.Input((5,), dtype="int32")
    table = kl.ReversibleEmbedding(12, 6)
    x = kl.Dense(6, activation="gelu")(table(words))
    model = compiled(keras.Model(words, table(x, reverse=True)))
    return Case(model, numbers(12, 8, 5), numbers(12, 8, 5))


@keras.saving.register_keras_serializable("zoo")
class Linear(kl.Layer):
    """The first layer of Keras's guide: its weights have no names."""

    def __init__(self, units=4, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], self.units), trainable=True)
        self.b = self.add_weight(shape=(self.units,), trainable=True)
        self.total = self.add_weight(shape=(), trainable=False, initializer="zeros")

    def call(self, x):
        self.total.assign_add(1.0)
        self.add_loss(1e-2 * ops.mean(ops.square(x)))
        return ops.matmul(x, self.w) + self.b

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def unnamed_weights():
    image = keras.Input((6,))
    x = kl.ReLU()(Linear(8)(image))
    model = compiled(keras.Model(image, Linear(3)(x)))
    return Case(model, floats(8, 6), numbers(3, 8), limits=COUNTS)


COUNTS = {
    name: Limit(
        "The layer counts its calls, so outputs cannot be compared: export it with "
        "`verify=False`, as the error says.",
        "changes .* during inference",
    )
    for name in ("saved_model", "tflite")
}


@keras.saving.register_keras_serializable("zoo")
class Tree(kl.Layer):
    """A layer with two smaller ones of its own class inside, down to the leaves."""

    def __init__(self, depth, units, **kwargs):
        super().__init__(**kwargs)
        self.depth, self.units = depth, units
        self.leaf = kl.Dense(units, activation="tanh")
        self.branches = [Tree(depth - 1, units) for _ in range(2 if depth else 0)]

    def call(self, x):
        x = self.leaf(x)
        for branch in self.branches:
            x = x + branch(x)
        return x

    def get_config(self):
        return {**super().get_config(), "depth": self.depth, "units": self.units}


def recursive_layer():
    inputs = keras.Input((6,))
    model = keras.Model(inputs, kl.Dense(3)(Tree(2, 6)(inputs)))
    return Case(compiled(model), floats(8, 6), numbers(3, 8))


@keras.saving.register_keras_serializable("zoo")
class TreeModel(keras.Model):
    """A subclassed model with subclassed models inside, in lists and in dicts."""

    def __init__(self, depth=1, units=6, **kwargs):
        super().__init__(**kwargs)
        self.settings = {"depth": depth, "units": units}
        self.first = {"hidden": kl.Dense(units), "norm": kl.BatchNormalization()}
        self.branches = [TreeModel(depth - 1, units) for _ in range(2 if depth else 0)]

    def call(self, x, training=None):
        x = self.first["norm"](self.first["hidden"](x), training=training)
        for branch in self.branches:
            x = x + branch(x, training=training)
        return x

    def get_config(self):
        return {**super().get_config(), **self.settings}


def recursive_model():
    x = floats(8, 6)
    return Case(compiled(called(TreeModel(), x)), x, numbers(6, 8))


@keras.saving.register_keras_serializable("zoo")
class MadeInBuild(kl.Layer):
    """Makes and builds its layers in `build`."""

    def build(self, shape):
        self.layers = [kl.Dense(shape[-1], activation="relu") for _ in range(2)]
        for layer in self.layers:
            layer.build(shape)

    def call(self, x):
        for layer in self.layers:
            x = x + layer(x)
        return x

    def compute_output_shape(self, shape):
        return shape


def made_in_build():
    inputs = keras.Input((6,))
    model = keras.Model(inputs, kl.Dense(3)(MadeInBuild()(inputs)))
    return Case(compiled(model), floats(8, 6), numbers(3, 8))


def lora():
    """A trained network, of which only the low-rank additions train further."""
    model = keras.Sequential(
        [
            keras.Input((6,), dtype="int32"),
            kl.Embedding(12, 8, name="table"),
            kl.EinsumDense("abc,cd->abd", (6, 8), bias_axes="d", name="einsum"),
            kl.Flatten(),
            kl.Dense(8, activation="relu", name="hidden"),
            kl.Dense(3, name="classes"),
        ]
    )
    for layer in model.layers:
        if layer.name in ("table", "einsum", "hidden"):
            layer.enable_lora(2)
    return Case(compiled(model), numbers(12, 8, 6), numbers(3, 8))


def spectral_normalization():
    image = keras.Input((8, 8, 3))
    x = kl.SpectralNormalization(kl.Conv2D(4, 3, activation="relu"))(image)
    x = kl.SpectralNormalization(kl.Dense(8), power_iterations=2)(kl.Flatten()(x))
    model = compiled(keras.Model(image, kl.Dense(3)(kl.LeakyReLU()(x))))
    return Case(model, floats(8, 8, 8, 3), numbers(3, 8))


def shared_layers():
    """One encoder is called on both inputs; the model is nested in another."""
    one = keras.Sequential([keras.Input((6,)), kl.Dense(5, name="encode"), kl.ReLU()])
    left, right = keras.Input((6,), name="left"), keras.Input((6,), name="right")
    x = kl.Subtract()([one(left), one(right)])
    both = keras.Model([left, right], kl.Dense(4)(ops.abs(x)), name="both")
    outer = [keras.Input((6,), name=name) for name in ("a", "b")]
    model = keras.Model(outer, kl.Dense(2)(both(outer)))
    x = [floats(8, 6), floats(8, 6, seed=1)]
    return Case(compiled(model), x, numbers(2, 8))


@keras.saving.register_keras_serializable("zoo")
class Experts(kl.Layer):
    """A gate weighs the answers of several networks, held in one tensor."""

    def __init__(self, count, units, **kwargs):
        super().__init__(**kwargs)
        self.count, self.units = count, units
        self.gate = kl.Dense(count, activation="softmax", name="gate")

    def build(self, shape):
        self.gate.build(shape)
        each = (self.count, shape[-1], self.units)
        self.experts = self.add_weight(shape=each, name="experts")

    def call(self, x):
        answers = ops.einsum("bi,eiu->beu", x, self.experts)
        return ops.einsum("be,beu->bu", self.gate(x), ops.relu(answers))

    def get_config(self):
        return {**super().get_config(), "count": self.count, "units": self.units}


def experts():
    inputs = keras.Input((6,))
    model = keras.Model(inputs, kl.Dense(3)(Experts(3, 5)(inputs)))
    return Case(compiled(model), floats(8, 6), numbers(3, 8))


MODELS: dict[str, Builder] = {
    "Siamese with triplet `train_step`": siamese,
    "Several inputs and outputs": many_inputs_and_outputs,
    "Recommender, subclassed": recommender,
    "Two towers with pruned embeddings": pruned_embeddings,
    "Tied embedding, subclassed": tied_embeddings,
    "Tied embedding, `ReversibleEmbedding`": tied_by_reversible_embedding,
    "Layer with unnamed weights": unnamed_weights,
    "Recursive layer": recursive_layer,
    "Recursive subclassed model": recursive_model,
    "Layers made in `build`": made_in_build,
    "LoRA": lora,
    "Spectral normalization": spectral_normalization,
    "Shared and nested models": shared_layers,
    "Mixture of experts": experts,
}
