"""The networks of the lottery-ticket papers, and the recipes to train them.

A builder returns a plain functional Keras model, uncompiled, with named layers;
`build` returns one compiled by its recipe. All of them end in logits, without a
softmax, so their losses take `from_logits=True`. Initial weights follow
`keras.utils.set_random_seed`.
"""

import dataclasses
from collections.abc import Callable

import keras
from keras import layers

_VGG16_STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))


def lenet300(input_shape=(28, 28, 1), classes=10, width=1.0):
    """LeNet-300-100: two hidden layers of 300 and 100 units.

    Args:
        input_shape: Shape of one image.
        classes: Number of logits.
        width: What to multiply the numbers of units with, for narrow networks.

    Returns:
        A plain, uncompiled Keras model.

    Example:

    >>> [layer.name for layer in lenet300().layers]
    ['image', 'flatten', 'fc1', 'fc2', 'output']
    """
    image = keras.Input(input_shape, name="image")
    x = layers.Flatten(name="flatten")(image)
    x = _hidden(x, _scaled(300, width), "fc1")
    x = _hidden(x, _scaled(100, width), "fc2")
    return _classifier(image, x, classes, "lenet300", "glorot_normal")


def conv2(input_shape=(32, 32, 3), classes=10, width=1.0):
    """Conv-2 of Frankle and Carbin: 2 convolutions of 64, two layers of 256.

    Args:
        input_shape: Shape of one image.
        classes: Number of logits.
        width: What to multiply the numbers of units with, for narrow networks.

    Returns:
        A plain, uncompiled Keras model.

    Example:

    >>> tuple(conv2(width=0.25).get_layer("conv1").kernel.shape)
    (3, 3, 3, 16)
    """
    return _conv_net("conv2", (64,), input_shape, classes, width)


def conv4(input_shape=(32, 32, 3), classes=10, width=1.0):
    """Conv-4 of Frankle and Carbin: Conv-2 with 2 convolutions of 128 more.

    Args:
        input_shape: Shape of one image.
        classes: Number of logits.
        width: What to multiply the numbers of units with, for narrow networks.

    Returns:
        A plain, uncompiled Keras model.

    Example:

    >>> tuple(conv4(width=0.25).get_layer("conv4").kernel.shape)
    (3, 3, 32, 32)
    """
    return _conv_net("conv4", (64, 128), input_shape, classes, width)


def conv6(input_shape=(32, 32, 3), classes=10, width=1.0):
    """Conv-6 of Frankle and Carbin: Conv-4 with 2 convolutions of 256 more.

    Args:
        input_shape: Shape of one image.
        classes: Number of logits.
        width: What to multiply the numbers of units with, for narrow networks.

    Returns:
        A plain, uncompiled Keras model.

    Example:

    >>> tuple(conv6(width=0.25).get_layer("conv6").kernel.shape)
    (3, 3, 64, 64)
    """
    return _conv_net("conv6", (64, 128, 256), input_shape, classes, width)


def resnet20(input_shape=(32, 32, 3), classes=10, width=1.0):
    """ResNet-20 for small images: 3 stages of 3 blocks, 16-32-64 channels.

    Shortcuts that change the shape are 1x1 convolutions with batch
    normalization, named `*_shortcut`.

    Args:
        input_shape: Shape of one image.
        classes: Number of logits.
        width: What to multiply the numbers of units with, for narrow networks.

    Returns:
        A plain, uncompiled Keras model.

    Example:

    >>> tuple(resnet20(width=0.25).get_layer("stage2_block1_shortcut").kernel.shape)
    (1, 1, 4, 8)
    """
    return _resnet("resnet20", (16, 32, 64), 3, input_shape, classes, width)


def resnet18(input_shape=(32, 32, 3), classes=10, width=1.0):
    """ResNet-18 for small images: 3x3 stem, 4 stages of 2 blocks, 64 to 512.

    Args:
        input_shape: Shape of one image.
        classes: Number of logits.
        width: What to multiply the numbers of units with, for narrow networks.

    Returns:
        A plain, uncompiled Keras model.

    Example:

    >>> tuple(resnet18(width=0.25).get_layer("stem").kernel.shape)
    (3, 3, 3, 16)
    """
    return _resnet("resnet18", (64, 128, 256, 512), 2, input_shape, classes, width)


def vgg16(input_shape=(32, 32, 3), classes=10, width=1.0):
    """VGG-16 for small images: 13 convolutions with batch normalization.

    The three wide layers of the original are one classifier here, as is usual
    on CIFAR-10.

    Args:
        input_shape: Shape of one image.
        classes: Number of logits.
        width: What to multiply the numbers of units with, for narrow networks.

    Returns:
        A plain, uncompiled Keras model.

    Example:

    >>> tuple(vgg16(width=0.125).get_layer("conv13").kernel.shape)
    (3, 3, 64, 64)
    """
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


def _conv_net(name, stages, input_shape, classes, width):
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
        names = f"{prefix}_shortcut", f"{prefix}_shortcut_bn"
        shortcut = _conv_bn(x, channels, *names, strides=strides, size=1)
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
    # The papers' code is PyTorch's: its momentum 0.1 is 0.9 here.
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=bn_name)(x)


def _hidden(x, units, name):
    return layers.Dense(
        units, activation="relu", kernel_initializer="glorot_normal", name=name
    )(x)


def _classifier(image, x, classes, name, initializer):
    logits = layers.Dense(classes, kernel_initializer=initializer, name="output")(x)
    return keras.Model(image, logits, name=name)


def _scaled(units, width):
    if width <= 0:
        raise ValueError(f"`width` must be above 0. Received: width={width}")
    return max(1, round(units * width))


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a paper trains a network, and how it prunes it.

    Args:
        name: Name of the network, as `build` takes it.
        build: Function (input_shape, classes, width) to the uncompiled model.
        optimizer: Function of the number of steps in one round's training to the
            optimizer. The number matters where the learning rate falls in steps.
        batch_size: Rows in a batch.
        epochs: Epochs of one round.
        rate: Fraction of the kept weights that a round prunes: one number, or a
            dict from a regular expression for kernel paths to a number.
        allocation: "global", or None where `rate` says how much where.
        rewind_to: "init", or as in "10 epochs".
        source: Where the settings come from.

    Example:

    >>> recipe("lenet300").rate
    {'output/kernel': 0.1, '.': 0.2}
    """

    name: str
    build: Callable
    optimizer: Callable
    batch_size: int
    epochs: int
    rate: float | dict
    allocation: str | None
    rewind_to: str
    source: str

    def with_epochs(self, epochs):
        """The recipe for rounds of another length, its rewind point in proportion.

        Example:

        >>> short = recipe("resnet20").with_epochs(32)
        >>> short.epochs, short.rewind_to
        (32, '2 epochs')
        """
        if epochs < 1:
            raise ValueError(f"`epochs` must be 1 or more. Received: epochs={epochs}")
        changed = dataclasses.replace(self, epochs=epochs)
        if self.rewind_to == "init":
            return changed
        share = int(self.rewind_to.split()[0]) / self.epochs
        kept = min(max(1, round(share * epochs)), epochs - 1)
        rewind_to = f"{kept} epochs" if kept else "init"
        return dataclasses.replace(changed, rewind_to=rewind_to)


def _adam(learning_rate):
    def optimizer(steps=None):
        return keras.optimizers.Adam(learning_rate)

    return optimizer


def _momentum_in_three_stages(steps=None):
    """SGD at 0.1, 0.01, 0.001: the rate falls at 1/2 and 3/4 of the steps."""
    if steps is None:
        raise ValueError(
            "The learning rate of this recipe falls at 1/2 and 3/4 of the training, "
            "so the number of steps must be known. Received: steps_per_epoch=None. "
            "Pass steps_per_epoch=ceil(training rows / batch size)."
        )
    # A boundary is the last step of the rate before it, and steps count from 0.
    boundaries = [steps // 2 - 1, steps * 3 // 4 - 1]
    optimizer = keras.optimizers.SGD(
        keras.optimizers.schedules.PiecewiseConstantDecay(
            boundaries, [0.1, 0.01, 0.001]
        ),
        momentum=0.9,
        weight_decay=_decoupled(1e-4, momentum=0.9),
    )
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


def _decoupled(weight_decay, momentum):
    """The weight decay for Keras that does what the papers' does.

    Theirs is added to the gradient, so that momentum multiplies it by
    1 / (1 - momentum); that of Keras goes past the momentum.
    """
    return weight_decay / (1.0 - momentum)


_FRANKLE_CARBIN = "Frankle and Carbin 2019, The Lottery Ticket Hypothesis"
_OPEN_LTH = (
    "OpenLTH (Frankle et al. 2020, Linear Mode Connectivity); rewind point of Renda "
    "et al. 2020, in proportion"
)


def _small(name, builder, learning_rate, epochs, rate):
    return Recipe(
        name=name,
        build=builder,
        optimizer=_adam(learning_rate),
        batch_size=60,
        epochs=epochs,
        rate=rate,
        allocation=None,
        rewind_to="init",
        source=_FRANKLE_CARBIN,
    )


def _deep(name, builder):
    return Recipe(
        name=name,
        build=builder,
        optimizer=_momentum_in_three_stages,
        batch_size=128,
        epochs=160,
        rate=0.2,
        allocation="global",
        rewind_to="10 epochs",
        source=_OPEN_LTH,
    )


# No pattern may be found in the name of a model, which can begin a path: conv2.
_LENET_RATES = {"output/kernel": 0.1, ".": 0.2}
_CONV_RATES = {r"conv\d/kernel": 0.1, **_LENET_RATES}
_CONV6_RATES = {**_CONV_RATES, r"conv\d/kernel": 0.15}

RECIPES = {
    found.name: found
    for found in (
        # The epochs give the 50, 20, 25 and 30 thousand steps of the paper.
        _small("lenet300", lenet300, 1.2e-3, epochs=55, rate=_LENET_RATES),
        _small("conv2", conv2, 2e-4, epochs=27, rate=_CONV_RATES),
        _small("conv4", conv4, 3e-4, epochs=33, rate=_CONV_RATES),
        _small("conv6", conv6, 3e-4, epochs=40, rate=_CONV6_RATES),
        _deep("resnet20", resnet20),
        _deep("resnet18", resnet18),
        _deep("vgg16", vgg16),
    )
}


def recipe(name):
    """The recipe of a network, by name.

    Example:

    >>> recipe("conv6").batch_size, recipe("conv6").epochs
    (60, 40)
    """
    if name not in RECIPES:
        raise ValueError(
            f"Unknown network. Received: {name!r}. Known: {', '.join(RECIPES)}. For a "
            "network of your own, call `tf_tickets.wrap` on the Keras model."
        )
    return RECIPES[name]


def build(
    name,
    input_shape,
    classes,
    steps_per_epoch=None,
    epochs=None,
    width=1.0,
    **compile_arguments,
):
    """A network compiled by its recipe, with cross-entropy from logits.

    Args:
        name: One of `RECIPES`.
        input_shape: Shape of one image.
        classes: Number of logits.
        steps_per_epoch: Batches in an epoch. The ResNets and VGG-16 need it for
            their learning-rate schedule.
        epochs: Epochs of one round's training; by default those of the recipe.
        width: What to multiply the numbers of units with, for narrow networks.
        **compile_arguments: What else `keras.Model.compile` is to be given, such
            as `jit_compile` and `steps_per_execution`.

    Returns:
        A plain, compiled Keras model.

    Example:

    >>> model = build("conv2", (8, 8, 1), 10, width=0.1, steps_per_execution=4)
    >>> model.optimizer.name, model.loss.from_logits
    ('adam', True)
    """
    found = recipe(name)
    model = found.build(input_shape, classes, width)
    model.compile(
        optimizer=found.optimizer(_steps(steps_per_epoch, epochs or found.epochs)),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        **compile_arguments,
    )
    return model


def _steps(steps_per_epoch, epochs):
    return None if steps_per_epoch is None else steps_per_epoch * epochs
