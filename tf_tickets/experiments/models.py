"""The networks of the lottery-ticket papers, and ResNet-8 of MLPerf Tiny.

Every builder returns a plain, uncompiled functional Keras model with named layers. The
models output logits without a softmax, so use losses with `from_logits=True`. Call
`keras.utils.set_random_seed` for reproducible initial weights.
"""

from collections.abc import Sequence

import keras
from keras import layers

from tf_tickets import arguments

__all__ = [
    "conv2",
    "conv4",
    "conv6",
    "lenet300",
    "resnet18",
    "resnet20",
    "resnet8",
    "vgg16",
]

_VGG16_STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))


def lenet300(
    input_shape: tuple[int, ...] = (28, 28, 1), classes: int = 10, width: float = 1.0
) -> keras.Model:
    """Builds LeNet-300-100, with two hidden layers of 300 and 100 units.

    Args:
        input_shape: Shape of one image.
        classes: Number of logits.
        width: Factor of the number of units, for narrow networks.

    Returns:
        A plain, uncompiled Keras model.

    Example:

    >>> [layer.name for layer in lenet300().layers]
    ['image', 'flatten', 'fc1', 'fc2', 'output']
    """
    _check(input_shape, classes, width, ranks=(1, 2, 3))
    image = keras.Input(input_shape, name="image")
    x = layers.Flatten(name="flatten")(image)
    x = _hidden(x, _scaled(300, width), "fc1")
    x = _hidden(x, _scaled(100, width), "fc2")
    return _classifier(image, x, classes, "lenet300", "glorot_normal")


def conv2(
    input_shape: tuple[int, ...] = (32, 32, 3), classes: int = 10, width: float = 1.0
) -> keras.Model:
    """Builds Conv-2 of Frankle and Carbin.

    It has 2 convolutions with 64 channels and 2 dense layers with 256 units.

    Args:
        input_shape: Shape of one image.
        classes: Number of logits.
        width: Factor of the number of units, for narrow networks.

    Returns:
        A plain, uncompiled Keras model.

    Example:

    >>> [layer.name for layer in conv2(width=0.01).layers][1:4]
    ['conv1', 'conv2', 'pool1']
    """
    return _conv_net("conv2", (64,), input_shape, classes, width)


def conv4(
    input_shape: tuple[int, ...] = (32, 32, 3), classes: int = 10, width: float = 1.0
) -> keras.Model:
    """Builds Conv-4 of Frankle and Carbin.

    It adds 2 convolutions with 128 channels to Conv-2.

    Args:
        input_shape: Shape of one image.
        classes: Number of logits.
        width: Factor of the number of units, for narrow networks.

    Returns:
        A plain, uncompiled Keras model.

    Example:

    >>> [layer.name for layer in conv4(width=0.01).layers][-4:]
    ['flatten', 'fc1', 'fc2', 'output']
    """
    return _conv_net("conv4", (64, 128), input_shape, classes, width)


def conv6(
    input_shape: tuple[int, ...] = (32, 32, 3), classes: int = 10, width: float = 1.0
) -> keras.Model:
    """Builds Conv-6 of Frankle and Carbin.

    It adds 2 convolutions with 256 channels to Conv-4.

    Args:
        input_shape: Shape of one image.
        classes: Number of logits.
        width: Factor of the number of units, for narrow networks.

    Returns:
        A plain, uncompiled Keras model.

    Example:

    >>> conv6(classes=100, width=0.01).output_shape
    (None, 100)
    """
    return _conv_net("conv6", (64, 128, 256), input_shape, classes, width)


def resnet20(
    input_shape: tuple[int, ...] = (32, 32, 3), classes: int = 10, width: float = 1.0
) -> keras.Model:
    """Builds ResNet-20 for small images: 3 stages of 3 blocks, 16-32-64 channels.

    Shortcuts that change the shape are 1x1 convolutions with batch normalization,
    named `*_shortcut`.

    Args:
        input_shape: Shape of one image.
        classes: Number of logits.
        width: Factor of the number of units, for narrow networks.

    Returns:
        A plain, uncompiled Keras model.

    Example:

    >>> resnet20(width=0.01).get_layer("stage2_block1_shortcut").kernel_size
    (1, 1)
    """
    return _resnet("resnet20", (16, 32, 64), 3, input_shape, classes, width)


def resnet8(
    input_shape: tuple[int, ...] = (32, 32, 3),
    classes: int = 10,
    width: float = 1.0,
    augmentation: Sequence[keras.layers.Layer] = (),
) -> keras.Model:
    """Builds ResNet-8 of MLPerf Tiny: 3 stages of 1 block, 16-32-64 channels.

    It has 78,666 weights for CIFAR-10, with the statistics of batch normalization. As
    in the published Keras model, the convolutions have biases, and the 1x1 shortcuts
    have no batch normalization.

    Args:
        input_shape: Shape of one image.
        classes: Number of logits.
        width: Factor of the number of units, for narrow networks.
        augmentation: Layers that vary the images in training, such as
            `tf_tickets.augmentation.CropAndFlip()`.

    Returns:
        A plain, uncompiled Keras model.

    Example:

    >>> resnet8(width=0.01).get_layer("stage3_conv2").use_bias
    True
    """
    _check(input_shape, classes, width)
    image = x = keras.Input(input_shape, name="image")
    for layer in arguments.listed(keras.layers.Layer, augmentation=augmentation):
        x = layer(x)
    x = _biased_conv_bn(x, _scaled(16, width), "stem", "stem_bn")
    x = layers.ReLU(name="stem_relu")(x)
    for stage, channels in enumerate((16, 32, 64), start=1):
        x = _biased_residual(x, _scaled(channels, width), stage)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return _classifier(image, x, classes, "resnet8", "he_normal")


def resnet18(
    input_shape: tuple[int, ...] = (32, 32, 3), classes: int = 10, width: float = 1.0
) -> keras.Model:
    """Builds ResNet-18 for small images, with 64 to 512 channels.

    It has a 3x3 stem and 4 stages of 2 blocks.

    Args:
        input_shape: Shape of one image.
        classes: Number of logits.
        width: Factor of the number of units, for narrow networks.

    Returns:
        A plain, uncompiled Keras model.

    Example:

    >>> resnet18(width=0.01).get_layer("stem").kernel_size
    (3, 3)
    """
    return _resnet("resnet18", (64, 128, 256, 512), 2, input_shape, classes, width)


def vgg16(
    input_shape: tuple[int, ...] = (32, 32, 3), classes: int = 10, width: float = 1.0
) -> keras.Model:
    """Builds VGG-16 for small images: 13 convolutions with batch normalization.

    One classifier replaces the three wide layers of the original, as usual on CIFAR-10.

    Args:
        input_shape: Shape of one image.
        classes: Number of logits.
        width: Factor of the number of units, for narrow networks.

    Returns:
        A plain, uncompiled Keras model.

    Example:

    >>> [layer.name for layer in vgg16(width=0.01).layers][1:4]
    ['conv1', 'bn1', 'relu1']
    """
    _check(input_shape, classes, width)
    image = x = keras.Input(input_shape, name="image")
    number = 0
    for stage, (channels, convolutions) in enumerate(_VGG16_STAGES, start=1):
        if stage > 1:
            x = layers.MaxPooling2D(padding="same", name=f"pool{stage - 1}")(x)
        for _ in range(convolutions):
            number += 1
            x = _conv_bn(x, _scaled(channels, width), f"conv{number}", f"bn{number}")
            x = layers.ReLU(name=f"relu{number}")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return _classifier(image, x, classes, "vgg16", "he_normal")


def _check(input_shape, classes, width, ranks=(3,)):
    arguments.check_counts(classes=classes)
    arguments.check_positive(width=width)
    arguments.check_between(0.0, 100.0, width=width)
    is_shape = isinstance(input_shape, tuple | list) and all(
        size is None or (arguments.is_whole(size) and 1 <= size < 2**31)
        for size in input_shape
    )
    if not is_shape or len(input_shape) not in ranks:
        raise ValueError(
            "`input_shape` must be a tuple of whole numbers, (height, width, "
            f"channels). Received: {arguments.shown(input_shape)}"
        )


def _conv_net(name, stages, input_shape, classes, width):
    _check(input_shape, classes, width)
    image = x = keras.Input(input_shape, name="image")
    for stage, channels in enumerate(stages, start=1):
        for number in (2 * stage - 1, 2 * stage):
            x = layers.Conv2D(
                _scaled(channels, width),
                3,
                padding="same",
                activation="relu",
                kernel_initializer="glorot_normal",
                name=f"conv{number}",
            )(x)
        x = layers.MaxPooling2D(padding="same", name=f"pool{stage}")(x)
    x = layers.Flatten(name="flatten")(x)
    for name_of_layer in ("fc1", "fc2"):
        x = _hidden(x, _scaled(256, width), name_of_layer)
    return _classifier(image, x, classes, name, "glorot_normal")


def _resnet(name, stages, blocks, input_shape, classes, width):
    _check(input_shape, classes, width)
    image = keras.Input(input_shape, name="image")
    x = _conv_bn(image, _scaled(stages[0], width), "stem", "stem_bn")
    x = layers.ReLU(name="stem_relu")(x)
    for stage, channels in enumerate(stages, start=1):
        for block in range(1, blocks + 1):
            strides = 2 if stage > 1 and block == 1 else 1
            prefix = f"stage{stage}_block{block}"
            x = _residual(x, _scaled(channels, width), strides, prefix)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return _classifier(image, x, classes, name, "he_normal")


def _residual(x, channels, strides, prefix):
    shortcut = x
    if strides != 1:
        shortcut = _conv_bn(
            x,
            channels,
            f"{prefix}_shortcut",
            f"{prefix}_shortcut_bn",
            strides=strides,
            size=1,
        )
    x = _conv_bn(x, channels, f"{prefix}_conv1", f"{prefix}_bn1", strides=strides)
    x = layers.ReLU(name=f"{prefix}_relu1")(x)
    x = _conv_bn(x, channels, f"{prefix}_conv2", f"{prefix}_bn2")
    x = layers.Add(name=f"{prefix}_add")([x, shortcut])
    return layers.ReLU(name=f"{prefix}_relu2")(x)


def _conv_bn(x, channels, conv_name, bn_name, strides=1, size=3):
    x = layers.Conv2D(
        channels,
        size,
        strides=strides,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        name=conv_name,
    )(x)
    # The papers use PyTorch, where this momentum is 0.1.
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=bn_name)(x)


def _biased_residual(x, channels, stage):
    prefix = f"stage{stage}"
    shortcut, strides = x, 1
    if stage > 1:
        strides = 2
        shortcut = _biased_conv(x, channels, f"{prefix}_shortcut", strides, size=1)
    x = _biased_conv_bn(x, channels, f"{prefix}_conv1", f"{prefix}_bn1", strides)
    x = layers.ReLU(name=f"{prefix}_relu1")(x)
    x = _biased_conv_bn(x, channels, f"{prefix}_conv2", f"{prefix}_bn2")
    x = layers.Add(name=f"{prefix}_add")([shortcut, x])
    return layers.ReLU(name=f"{prefix}_relu2")(x)


def _biased_conv_bn(x, channels, conv_name, bn_name, strides=1):
    x = _biased_conv(x, channels, conv_name, strides)
    return layers.BatchNormalization(name=bn_name)(x)


def _biased_conv(x, channels, name, strides=1, size=3):
    return layers.Conv2D(
        channels,
        size,
        strides=strides,
        padding="same",
        kernel_initializer="he_normal",
        name=name,
    )(x)


def _hidden(x, units, name):
    return layers.Dense(
        units, activation="relu", kernel_initializer="glorot_normal", name=name
    )(x)


def _classifier(image, x, classes, name, initializer):
    logits = layers.Dense(classes, kernel_initializer=initializer, name="output")(x)
    return keras.Model(image, logits, name=name)


def _scaled(units, width):
    return max(1, round(units * width))
