"""Layers that vary training images at random.

They are part of the network, so every search, callback and trainer uses them without an
argument of its own. Outside training they return their input. `tf_tickets.strip` and
`tf_tickets.export` replace them by `keras.layers.Identity`, so their models are plain.
`tf_tickets.compact` keeps them for the training of the smaller network.
"""

import keras
from keras import ops

from tf_tickets import arguments

__all__ = [
    "Augmentation",
    "CropAndFlip",
]


class Augmentation(keras.layers.Layer):
    """Base class of layers that vary their input in training and have no weights.

    `call(inputs, training=False)` must return its input if `training` is false.

    Example:

    >>> class Brightness(Augmentation):
    ...     def __init__(self, **kwargs):
    ...         super().__init__(**kwargs)
    ...         self.generator = keras.random.SeedGenerator()
    ...
    ...     def call(self, images, training=False):
    ...         if not training:
    ...             return images
    ...         return images + keras.random.normal((), seed=self.generator)
    >>> layers = [keras.Input((2,)), Brightness(), keras.layers.Dense(1)]
    >>> model = tt.strip(tt.wrap(keras.Sequential(layers), verbose=False))
    >>> [type(layer).__name__ for layer in model.layers]
    ['Identity', 'Dense']
    """


@keras.saving.register_keras_serializable("tf_tickets")
class CropAndFlip(Augmentation):
    """Crops and flips each training image at random.

    Each image is padded with zeros and cropped to its size at a random place. A random
    half of the images is flipped from left to right. Zero is the mean color of
    standardized images. Outside training the layer returns its input.

    `keras.layers.RandomCrop` crops all images of a batch at the same place, and models
    with it or `keras.layers.RandomTranslation` cannot be compiled with XLA.

    Args:
        padding: Number of pixels added on each side.
        flip: Whether to flip.
        seed: Seed of the random choices. By default it follows from
            `keras.utils.set_random_seed`.
        **kwargs: Arguments of `keras.layers.Layer`, such as `name`.

    Example:

    >>> images = np.arange(16.0).reshape(1, 4, 4, 1)
    >>> layer = CropAndFlip(padding=1, seed=0)
    >>> tuple(layer(images, training=True).shape)
    (1, 4, 4, 1)
    >>> np.array_equal(layer(images), images)
    True
    """

    def __init__(
        self,
        padding: int = 4,
        flip: bool = True,
        seed: int | None = None,
        **kwargs: object,
    ) -> None:
        super().__init__(**kwargs)
        if not arguments.is_whole(padding) or not 0 <= padding < 2**31:
            raise ValueError(
                "`padding` must be a number of pixels, 0 or more. Received: "
                f"padding={arguments.shown(padding)}"
            )
        arguments.check_flags(flip=flip)
        self.padding = padding
        self.flip = flip
        self.seed = arguments.seed_or_none(seed)
        self.generator = keras.random.SeedGenerator(self.seed)

    def call(self, images, training=False):
        if not training:
            return images
        count = ops.shape(images)[0]
        height, width, channels = images.shape[1:]
        border = self.padding
        padded = ops.pad(images, ((0, 0), (border, border), (border, border), (0, 0)))
        rows = self._starts(count) + ops.arange(height)
        columns = self._starts(count) + self._columns(count, width)
        size = (height + 2 * border, width + 2 * border)
        # One gather from the pixels of all images is several times faster than crops.
        first = ops.reshape(ops.arange(count) * size[0] * size[1], (-1, 1, 1))
        places = first + ops.expand_dims(rows * size[1], 2) + columns[:, None]
        return ops.take(ops.reshape(padded, (-1, channels)), places, axis=0)

    def _starts(self, count):
        return keras.random.randint(
            (count, 1), 0, 2 * self.padding + 1, seed=self.generator
        )

    def _columns(self, count, width):
        forward = ops.arange(width)
        if not self.flip:
            return forward
        flipped = keras.random.randint((count, 1), 0, 2, seed=self.generator)
        return ops.where(flipped == 1, width - 1 - forward, forward)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        config = {"padding": self.padding, "flip": self.flip, "seed": self.seed}
        return super().get_config() | config
