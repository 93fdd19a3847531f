"""Models that make images: their training steps are their own."""

import keras
from keras import layers as kl
from keras import ops

from zoo.case import Builder, Case, Limit, compiled, floats
from zoo.custom import called
from zoo.steps import OwnStep


class _OfParts(OwnStep):
    """A subclassed model that is made from other models, by name."""

    def __init__(self, parts, **kwargs):
        super().__init__(**kwargs)
        self.names = list(parts)
        for name, part in parts.items():
            setattr(self, name, part)

    def get_config(self):
        parts = {name: getattr(self, name) for name in self.names}
        parts = {n: keras.saving.serialize_keras_object(p) for n, p in parts.items()}
        return {**super().get_config(), "parts": parts}

    @classmethod
    def from_config(cls, config):
        read = keras.saving.deserialize_keras_object
        parts = {name: read(part) for name, part in config.pop("parts").items()}
        return cls(parts, **config)


@keras.saving.register_keras_serializable("zoo")
class VAE(_OfParts):
    """An encoder gives the mean and variance of a code, a decoder the image."""

    def __init__(self, parts, **kwargs):
        super().__init__(parts, **kwargs)
        self.seeds = keras.random.SeedGenerator(1)

    def call(self, images, training=None):
        mean, spread = self.encoder(images)
        if training:
            noise = keras.random.normal(ops.shape(mean), seed=self.seeds)
            return self.decoder(mean + ops.exp(0.5 * spread) * noise), mean, spread
        return self.decoder(mean), mean, spread

    def loss_of(self, call, data):
        images = keras.utils.unpack_x_y_sample_weight(data)[0]
        again, mean, spread = call(images)
        gap = keras.losses.binary_crossentropy(images, again)
        divergence = 1 + spread - ops.square(mean) - ops.exp(spread)
        divergence = -0.5 * ops.sum(divergence, axis=1)
        return ops.mean(ops.sum(gap, axis=(1, 2))) + ops.mean(divergence)


def _encoder():
    image = keras.Input((8, 8, 1))
    x = kl.Conv2D(4, 3, strides=2, padding="same", activation="relu")(image)
    x = kl.Dense(6, activation="relu")(kl.Flatten()(x))
    return keras.Model(image, [kl.Dense(2, name=n)(x) for n in ("mean", "spread")])


def _decoder():
    code = keras.Input((2,))
    x = kl.Reshape((4, 4, 2))(kl.Dense(32, activation="relu")(code))
    x = kl.Conv2DTranspose(4, 3, strides=2, padding="same", activation="relu")(x)
    x = kl.Conv2DTranspose(1, 3, padding="same", activation="sigmoid")(x)
    return keras.Model(code, x)


def _images():
    return (floats(8, 8, 8, 1) > 0).astype("float32")


def vae():
    model = VAE({"encoder": _encoder(), "decoder": _decoder()}, name="vae")
    model = called(model, _images())
    model.compile(keras.optimizers.Adam(1e-3))
    return Case(model, _images())


def autoencoder():
    """Removes noise from images."""
    image = keras.Input((8, 8, 1))
    x = kl.Conv2D(4, 3, activation="relu", padding="same")(image)
    x = kl.MaxPooling2D(padding="same")(x)
    x = kl.Conv2DTranspose(4, 3, strides=2, activation="relu", padding="same")(x)
    x = kl.Conv2D(1, 3, activation="sigmoid", padding="same")(x)
    model = compiled(keras.Model(image, x), "binary_crossentropy")
    return Case(model, _images(), _images())


@keras.saving.register_keras_serializable("zoo")
class GAN(_OfParts):
    """Generator and discriminator against each other, in one step of one optimizer.

    The generator gets the gradient of the discriminator's loss with its sign reversed.
    """

    def call(self, data, training=None):
        made = self.generator(data["codes"], training=training)
        made = 2 * ops.stop_gradient(made) - made
        judged = [
            self.discriminator(x, training=training) for x in (made, data["images"])
        ]
        return made, *judged

    def loss_of(self, call, data):
        _, made, real = call(keras.utils.unpack_x_y_sample_weight(data)[0])
        return ops.mean(ops.softplus(made)) + ops.mean(ops.softplus(-real))


@keras.saving.register_keras_serializable("zoo")
class GANInTurns(GAN):
    """The same, each trained by an optimizer of its own; the step is TensorFlow's."""

    def compile(self, d_optimizer, g_optimizer):
        super().compile()
        self.d_optimizer, self.g_optimizer = d_optimizer, g_optimizer

    def train_step(self, data):
        import tensorflow as tf

        data = keras.utils.unpack_x_y_sample_weight(data)[0]
        with tf.GradientTape() as tape:
            made = self.discriminator(self.generator(data["codes"]), training=True)
            real = self.discriminator(data["images"], training=True)
            loss = ops.mean(ops.softplus(made)) + ops.mean(ops.softplus(-real))
        weights = self.discriminator.trainable_weights
        self.d_optimizer.apply(tape.gradient(loss, weights), weights)
        with tf.GradientTape() as tape:
            made = self.discriminator(self.generator(data["codes"], training=True))
            fooled = ops.mean(ops.softplus(-made))
        weights = self.generator.trainable_weights
        self.g_optimizer.apply(tape.gradient(fooled, weights), weights)
        self.mean_loss.update_state(loss + fooled)
        return {"loss": self.mean_loss.result()}


def _discriminator():
    image = keras.Input((8, 8, 1))
    x = kl.LeakyReLU()(kl.Conv2D(4, 3, strides=2, padding="same")(image))
    x = kl.LeakyReLU()(kl.Conv2D(6, 3, strides=2, padding="same")(x))
    return keras.Model(image, kl.Dense(1)(kl.Dropout(0.2)(kl.Flatten()(x))))


def _gan(kind, **more):
    x = {"codes": floats(8, 2), "images": _images()}
    parts = {"generator": _decoder(), "discriminator": _discriminator()}
    return Case(called(kind(parts, name="gan"), x), x, **more)


def gan():
    case = _gan(GAN)
    case.model.compile(keras.optimizers.Adam(1e-3))
    return case


def gan_in_turns():
    case = _gan(GANInTurns, limits={"ticket": ONE_OPTIMIZER})
    case.model.compile(keras.optimizers.Adam(1e-3), keras.optimizers.Adam(1e-3))
    return case


ONE_OPTIMIZER = Limit(
    "A search rewinds one optimizer. The error says to use a "
    "`tf_tickets.optimizers.Grouped`, with optimizers for groups of variables.",
    "it cannot rewind others",
)


@keras.saving.register_keras_serializable("zoo")
class Diffusion(_OfParts):
    """Predicts the noise in an image, for every amount of it."""

    def __init__(self, parts, **kwargs):
        super().__init__(parts, **kwargs)
        self.seeds = keras.random.SeedGenerator(2)

    def call(self, images, training=None):
        images = self.normalizer(images)
        shape = ops.shape(images)
        if not training:
            return self.network([images, ops.full((shape[0], 1, 1, 1), 0.5)])
        noise = keras.random.normal(shape, seed=self.seeds)
        angle = keras.random.uniform((shape[0], 1, 1, 1), 0.1, 1.5, seed=self.seeds)
        noisy = ops.cos(angle) * images + ops.sin(angle) * noise
        return self.network([noisy, ops.sin(angle)], training=True) - noise

    def loss_of(self, call, data):
        gap = call(keras.utils.unpack_x_y_sample_weight(data)[0])
        return ops.mean(ops.abs(gap))


@keras.saving.register_keras_serializable("zoo")
def sine(x):
    """The activation by which an amount of noise becomes waves."""
    return ops.sin(x)


def diffusion():
    image, amount = keras.Input((8, 8, 1)), keras.Input((1, 1, 1))
    waves = kl.UpSampling2D(8)(kl.Dense(4, activation=sine)(amount))
    x = kl.Concatenate()([kl.Conv2D(4, 1)(image), waves])
    y = kl.BatchNormalization(center=False, scale=False)(x)
    y = kl.Conv2D(8, 3, padding="same", activation="swish")(y)
    x = kl.Add()([x, kl.Conv2D(8, 3, padding="same")(y)])
    x = kl.Conv2D(1, 1, kernel_initializer="zeros")(x)
    network = keras.Model([image, amount], x)
    normalizer = kl.Normalization(mean=0.5, variance=0.25)
    # Keras cannot build it in the graph in which it builds the whole model.
    normalizer.build((None, 8, 8, 1))
    parts = {"normalizer": normalizer, "network": network}
    model = called(Diffusion(parts, name="diffusion"), _images())
    model.compile(keras.optimizers.AdamW(1e-3, weight_decay=1e-4, use_ema=True))
    return Case(model, _images())


MODELS: dict[str, Builder] = {
    "VAE": vae,
    "Denoising autoencoder": autoencoder,
    "GAN with one optimizer": gan,
    "Diffusion": diffusion,
}
if keras.config.backend() == "tensorflow":
    MODELS["GAN with two optimizers"] = gan_in_turns
