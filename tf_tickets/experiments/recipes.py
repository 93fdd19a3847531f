"""How the papers train and prune their networks.

`build` returns a network of `tf_tickets.models`, compiled by its recipe.
"""

import dataclasses
from collections.abc import Callable
from typing import Self

import keras

from tf_tickets.experiments import models

__all__ = [
    "Recipe",
    "build",
    "recipe",
]


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
    build: Callable[..., keras.Model]
    optimizer: Callable[..., keras.optimizers.Optimizer]
    batch_size: int
    epochs: int
    rate: float | dict[str, float]
    allocation: str | None
    rewind_to: str
    source: str

    def with_epochs(self, epochs: int) -> Self:
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
        _small("lenet300", models.lenet300, 1.2e-3, epochs=55, rate=_LENET_RATES),
        _small("conv2", models.conv2, 2e-4, epochs=27, rate=_CONV_RATES),
        _small("conv4", models.conv4, 3e-4, epochs=33, rate=_CONV_RATES),
        _small("conv6", models.conv6, 3e-4, epochs=40, rate=_CONV6_RATES),
        _deep("resnet20", models.resnet20),
        _deep("resnet18", models.resnet18),
        _deep("vgg16", models.vgg16),
    )
}


def recipe(name: str) -> Recipe:
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
    name: str,
    input_shape: tuple[int, ...],
    classes: int,
    steps_per_epoch: int | None = None,
    epochs: int | None = None,
    width: float = 1.0,
    **compile_arguments: object,
) -> keras.Model:
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
    >>> type(model.optimizer).__name__, model.loss.from_logits
    ('Adam', True)
    """
    found = recipe(name)
    optimizer = found.optimizer(_steps(steps_per_epoch, epochs or found.epochs))
    model = found.build(input_shape, classes, width)
    model.compile(
        optimizer=optimizer,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        **compile_arguments,
    )
    return model


def _steps(steps_per_epoch, epochs):
    return None if steps_per_epoch is None else steps_per_epoch * epochs
