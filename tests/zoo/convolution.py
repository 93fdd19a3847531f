"""Networks for images, sound and points, mostly of convolutions."""

import keras
from keras import layers as kl
from keras import ops

from zoo.case import Builder, Case, Limit, compiled, floats, numbers


def mlp_mixer():
    image = keras.Input((8, 8, 3))
    x = kl.Conv2D(8, 4, strides=4, name="patches")(image)
    x = kl.Reshape((4, 8))(x)
    for _ in range(2):
        x = Mixer(6, 12)(x)
    x = kl.GlobalAveragePooling1D()(kl.LayerNormalization()(x))
    model = compiled(keras.Model(image, kl.Dense(3)(x)))
    return Case(model, floats(8, 8, 8, 3), numbers(3, 8))


@keras.saving.register_keras_serializable("zoo")
class Mixer(kl.Layer):
    """Mixes patches, then channels; `build` leaves its dense layers unbuilt."""

    def __init__(self, tokens, channels, **kwargs):
        super().__init__(**kwargs)
        self.tokens, self.channels = tokens, channels
        self.norms = [kl.LayerNormalization() for _ in range(2)]

    def build(self, shape):
        _, patches, width = shape
        self.over_patches = keras.Sequential(
            [kl.Dense(self.tokens, activation="gelu"), kl.Dense(patches)]
        )
        self.over_channels = keras.Sequential(
            [kl.Dense(self.channels, activation="gelu"), kl.Dense(width)]
        )

    def call(self, x):
        y = ops.transpose(self.norms[0](x), (0, 2, 1))
        x = x + ops.transpose(self.over_patches(y), (0, 2, 1))
        return x + self.over_channels(self.norms[1](x))

    def get_config(self):
        settings = {"tokens": self.tokens, "channels": self.channels}
        return {**super().get_config(), **settings}


def conv_mixer():
    image = keras.Input((8, 8, 3))
    x = kl.Rescaling(1 / 255)(image)
    x = kl.BatchNormalization()(kl.Conv2D(8, 2, strides=2, activation="gelu")(x))
    for _ in range(2):
        y = kl.DepthwiseConv2D(3, padding="same", activation="gelu")(x)
        x = kl.Add()([kl.BatchNormalization()(y), x])
        x = kl.BatchNormalization()(kl.Conv2D(8, 1, activation="gelu")(x))
    model = compiled(keras.Model(image, kl.Dense(3)(kl.GlobalAvgPool2D()(x))))
    return Case(model, floats(8, 8, 8, 3), numbers(3, 8))


def _twice(x, filters):
    for _ in range(2):
        x = kl.Conv2D(filters, 3, padding="same", use_bias=False)(x)
        x = kl.ReLU()(kl.BatchNormalization()(x))
    return x


def u_net():
    """A class for every pixel: down, up, and across."""
    image = keras.Input((16, 16, 3))
    x, across = image, []
    for filters in (4, 6):
        x = _twice(x, filters)
        across.append(x)
        x = kl.Dropout(0.2)(kl.MaxPooling2D()(x))
    x = _twice(x, 8)
    for filters in (6, 4):
        x = kl.Conv2DTranspose(filters, 3, strides=2, padding="same")(x)
        x = _twice(kl.Concatenate()([x, across.pop()]), filters)
    model = compiled(keras.Model(image, kl.Conv2D(3, 1)(x)))
    return Case(model, floats(4, 16, 16, 3), numbers(3, 4, 16, 16), batch_size=2)


def separable_u_net():
    """Separable convolutions and residuals, as for the segmentation of pets."""
    image = keras.Input((16, 16, 3))
    x = kl.BatchNormalization()(kl.Conv2D(4, 3, strides=2, padding="same")(image))
    before = x = kl.ReLU()(x)
    x = kl.BatchNormalization()(kl.SeparableConv2D(6, 3, padding="same")(x))
    x = kl.MaxPooling2D(3, strides=2, padding="same")(x)
    before = x = x + kl.Conv2D(6, 1, strides=2, padding="same")(before)
    x = kl.Conv2DTranspose(6, 3, padding="same")(kl.ReLU()(x))
    x = kl.UpSampling2D()(kl.BatchNormalization()(x))
    x = x + kl.Conv2D(6, 1, padding="same")(kl.UpSampling2D()(before))
    x = kl.Conv2D(3, 3, padding="same")(kl.UpSampling2D(interpolation="bilinear")(x))
    model = compiled(keras.Model(image, x))
    return Case(model, floats(4, 16, 16, 3), numbers(3, 4, 16, 16), batch_size=2)


def wavenet():
    """Dilated causal convolutions with gates; all skips are summed."""
    sound = keras.Input((16, 1))
    x, skips = kl.Conv1D(4, 2, padding="causal")(sound), []
    for rate in (1, 2, 4):
        more = {"padding": "causal", "dilation_rate": rate}
        one = kl.Conv1D(4, 2, activation="tanh", **more)(x)
        gate = kl.Conv1D(4, 2, activation="sigmoid", **more)(x)
        y = kl.Conv1D(4, 1)(kl.Multiply()([one, gate]))
        skips.append(y)
        x = kl.Add()([x, y])
    x = kl.Conv1D(4, 1, activation="relu")(kl.ReLU()(kl.Add()(skips)))
    model = compiled(keras.Model(sound, kl.Conv1D(8, 1)(x)))
    return Case(model, floats(8, 16, 1), numbers(8, 8, 16))


def augmenting():
    """A small residual network behind layers that change images at random."""
    image = keras.Input((16, 16, 3))
    augment = [kl.RandomFlip(seed=1), kl.RandomRotation(0.1, seed=2)]
    x = kl.Rescaling(1 / 255)(keras.Sequential(augment, name="augment")(image))
    x = kl.BatchNormalization()(kl.Conv2D(4, 3, activation="relu")(x))
    y = kl.Conv2D(4, 3, padding="same", groups=2, activation="relu")(x)
    x = kl.GroupNormalization(2)(kl.Add()([x, y]))
    x = kl.Dense(3)(kl.Dropout(0.5)(kl.GlobalAveragePooling2D()(x)))
    return Case(compiled(keras.Model(image, x)), floats(8, 16, 16, 3), numbers(3, 8))


def super_resolution():
    """Four times the pixels, rearranged from channels, of an image of any size."""
    image = keras.Input((None, None, 1))
    x = kl.Conv2D(6, 5, padding="same", kernel_initializer="orthogonal")(image)
    x = kl.Conv2D(4, 3, padding="same", activation="relu")(x)
    x = PixelShuffle(2)(x)
    model = compiled(keras.Model(image, kl.Conv2D(1, 3, padding="same")(x)), "mse")
    return Case(model, floats(4, 8, 8, 1), floats(4, 16, 16, 1), batch_size=2)


@keras.saving.register_keras_serializable("zoo")
class PixelShuffle(kl.Layer):
    """Makes pixels of channels."""

    def __init__(self, factor, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, x):
        _, height, width, channels = ops.shape(x)
        block, left = self.factor, channels // self.factor**2
        x = ops.reshape(x, (-1, height, width, block, block, left))
        x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
        return ops.reshape(x, (-1, height * block, width * block, left))

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}


def point_net():
    """Classifies clouds of points, turned by a matrix that it predicts."""
    points = keras.Input((10, 3))
    bias = keras.initializers.Constant([1, 0, 0, 0, 1, 0, 0, 0, 1])
    x = kl.GlobalMaxPooling1D()(kl.Conv1D(6, 1, activation="relu")(points))
    turn = kl.Dense(
        9,
        kernel_initializer="zeros",
        bias_initializer=bias,
        activity_regularizer="l2",
    )(x)
    x = kl.Dot(axes=(2, 1))([points, kl.Reshape((3, 3))(turn)])
    x = kl.BatchNormalization(momentum=0.0)(kl.Conv1D(8, 1, activation="relu")(x))
    model = compiled(keras.Model(points, kl.Dense(3)(kl.GlobalMaxPooling1D()(x))))
    return Case(model, floats(8, 10, 3), numbers(3, 8))


def voxels():
    """Three-dimensional convolutions, as for scans of lungs."""
    scan = keras.Input((8, 8, 8, 1))
    x = kl.MaxPool3D()(kl.Conv3D(4, 3, activation="relu")(scan))
    x = kl.GlobalAveragePooling3D()(kl.BatchNormalization()(x))
    x = kl.Dense(1, activation="sigmoid")(kl.Dropout(0.3)(x))
    model = compiled(keras.Model(scan, x), "binary_crossentropy")
    y = numbers(2, 4, 1).astype("float32")
    limits = {"tflite": NO_OPERATOR}
    return Case(model, floats(4, 8, 8, 8, 1), y, batch_size=2, limits=limits)


NO_OPERATOR = Limit(
    "LiteRT has no pooling in three dimensions.", "converter failed.*MaxPool3D"
)


MODELS: dict[str, Builder] = {
    "MLP-Mixer": mlp_mixer,
    "ConvMixer": conv_mixer,
    "U-Net": u_net,
    "U-Net of separable convolutions": separable_u_net,
    "WaveNet": wavenet,
    "Residual network with augmentation": augmenting,
    "Super resolution of any size": super_resolution,
    "PointNet": point_net,
    "3D convolutions": voxels,
}
