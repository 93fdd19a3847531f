"""Training and pruning recipes from the papers.

`build` returns a network of `tf_tickets.models`, compiled according to its recipe.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Self

import keras
import numpy as np

from tf_tickets import arguments, augmentation
from tf_tickets.experiments import models
from tf_tickets.pruning import allocation
from tf_tickets.training.rewind import Rewind

__all__ = [
    "Recipe",
    "build",
    "recipe",
    "spare_output",
]


@keras.saving.register_keras_serializable("tf_tickets")
def spare_output(
    scores: dict[str, np.ndarray], masks: dict[str, np.ndarray], keep: int
) -> dict[str, int]:
    """Ranks all kernels together, but keeps every weight of the layer `output`.

    Example:

    >>> masks = {"conv/kernel": np.ones(6, bool), "output/kernel": np.ones(2, bool)}
    >>> scores = {path: np.arange(float(mask.size)) for path, mask in masks.items()}
    >>> spare_output(scores, masks, 4)
    {'conv/kernel': 2, 'output/kernel': 2}
    """
    allocation.check_tables(scores, masks, keep)
    pruned = {path: m for path, m in masks.items() if "output" not in path.split("/")}
    spared = {path: int(masks[path].sum()) for path in masks.keys() - pruned.keys()}
    left = max(0, keep - sum(spared.values()))
    counts = allocation.global_(scores, pruned, left) if pruned else {}
    return counts | spared


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Holds the hyperparameters with which a paper trains and prunes a network.

    Args:
        name: Name of the network for `build`.
        build: Function (input_shape, classes, width) that returns an uncompiled model.
        optimizer: Function that returns the optimizer from the number of steps in a
            round. Learning-rate schedules depend on this number.
        batch_size: Number of rows per batch.
        epochs: Number of epochs per round.
        rate: Fraction of the kept weights that a round prunes: one number, or a
            dict from a regular expression for kernel paths to a number.
        allocation: "global", a function, or None if `rate` is defined per kernel.
        rewind_to: "init", or a number of epochs such as "10 epochs".
        source: Publication of the hyperparameters.
        augmentation: Function that returns layers which vary the training images, or
            None. `build` must then have an argument of this name.

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
    allocation: str | allocation.Allocation | None
    rewind_to: str
    source: str
    augmentation: Callable[[], Sequence[keras.layers.Layer]] | None = None

    def __post_init__(self):
        arguments.check_type(str, name=self.name, source=self.source)
        arguments.check_functions(3, build=self.build)
        arguments.check_functions(1, optimizer=self.optimizer)
        if self.augmentation is not None:
            arguments.check_functions(0, augmentation=self.augmentation)
        arguments.check_counts(batch_size=self.batch_size, epochs=self.epochs)
        arguments.check_fractions(rate=self.rate)
        if self.allocation is not None:
            allocation.get(self.allocation)
        if Rewind(self.rewind_to).count and Rewind(self.rewind_to).unit != "epochs":
            raise ValueError(
                "`rewind_to` of a recipe must be 'init' or a number of epochs, such as "
                f"'10 epochs'. Received: {self.rewind_to!r}"
            )

    def with_epochs(self, epochs: int) -> Self:
        """Returns the recipe with another round length and a scaled rewind point.

        Example:

        >>> short = recipe("resnet20").with_epochs(32)
        >>> short.epochs, short.rewind_to
        (32, '2 epochs')
        """
        arguments.check_counts(epochs=epochs)
        changed = dataclasses.replace(self, epochs=epochs)
        if self.rewind_to == "init":
            return changed
        share = int(self.rewind_to.split()[0]) / self.epochs
        kept = min(max(1, round(share * epochs)), epochs - 1)
        rewind_to = f"{kept} epochs" if kept else "init"
        return dataclasses.replace(changed, rewind_to=rewind_to)


def adam(learning_rate: float) -> Callable[..., keras.optimizers.Optimizer]:
    """Returns the function of a recipe that makes Adam.

    Example:

    >>> round(float(adam(0.01)().learning_rate), 3)
    0.01
    """

    def optimizer(steps=None):
        return keras.optimizers.Adam(learning_rate)

    return optimizer


def sgd_in_three_stages(
    steps: int | None = None,
    drops: tuple[int, int, int] = (80, 120, 160),
    weight_decay: float = 1e-4,
    nesterov: bool = False,
) -> keras.optimizers.Optimizer:
    """Returns SGD with learning rates 0.1, 0.01 and 0.001, and momentum 0.9.

    Args:
        steps: Number of steps in a round.
        drops: The epochs of the two drops, and the number of epochs.
        weight_decay: Weight decay in the convention of the papers.
        nesterov: Whether to use Nesterov momentum.

    Example:

    >>> round(float(sgd_in_three_stages(320).learning_rate), 3)
    0.1
    """
    first, second, epochs = drops
    steps = _known(steps, f"drops after {first} and {second} of {epochs} epochs")
    # A boundary is the last step of a learning rate, and steps are zero-based.
    boundaries = [steps * first // epochs - 1, steps * second // epochs - 1]
    optimizer = keras.optimizers.SGD(
        keras.optimizers.schedules.PiecewiseConstantDecay(
            boundaries, [0.1, 0.01, 0.001]
        ),
        momentum=0.9,
        nesterov=nesterov,
        weight_decay=_decoupled(weight_decay, momentum=0.9),
    )
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


def adamw_with_cosine_decay(
    steps: int | None = None,
    learning_rate: float = 3e-3,
    weight_decay: float = 0.02,
    warmup: float = 0.05,
) -> keras.optimizers.Optimizer:
    """Returns AdamW whose learning rate rises linearly, then falls to 0 as a cosine.

    Args:
        steps: Number of steps in a round.
        learning_rate: The highest learning rate.
        weight_decay: Decoupled weight decay of kernels.
        warmup: Fraction of the steps in which the learning rate rises.

    Example:

    >>> round(float(adamw_with_cosine_decay(100).learning_rate), 4)
    0.0
    """
    steps = _known(steps, "falls to 0 in the last step")
    rising = round(steps * warmup)
    optimizer = keras.optimizers.AdamW(
        keras.optimizers.schedules.CosineDecay(
            0.0 if rising else learning_rate,
            max(1, steps - rising),
            warmup_target=learning_rate if rising else None,
            warmup_steps=rising,
        ),
        weight_decay=weight_decay,
    )
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


def crops_and_flips() -> list[keras.layers.Layer]:
    """Returns the layers of a recipe that crop and flip training images at random.

    Example:

    >>> [layer.name for layer in crops_and_flips()]
    ['augmentation']
    """
    return [augmentation.CropAndFlip(padding=4, name="augmentation")]


def _known(steps: int | None, fall: str) -> int:
    if steps is None:
        raise ValueError(
            f"The learning rate of this recipe {fall}, so the number of steps must be "
            "known. Received: steps_per_epoch=None. Pass the number of batches in an "
            "epoch. In a search, arrays have rows // batch_size."
        )
    return steps


def _decoupled(weight_decay, momentum):
    """Returns the Keras weight decay equivalent to that of the papers.

    The papers add weight decay to the gradient, where momentum multiplies it by
    1 / (1 - momentum). Keras does not apply momentum to it.
    """
    return weight_decay / (1.0 - momentum)


_FRANKLE_CARBIN = "Frankle and Carbin 2019, The Lottery Ticket Hypothesis"
_MLPERF_TINY = "MLPerf Tiny (Banbury et al. 2021); training and pruning are our choice"
_OPEN_LTH = (
    "OpenLTH (Frankle et al. 2020, Linear Mode Connectivity); rewind point scaled from "
    "Renda et al. 2020"
)


def _small(name, builder, learning_rate, epochs, rate):
    return Recipe(
        name=name,
        build=builder,
        optimizer=adam(learning_rate),
        batch_size=60,
        epochs=epochs,
        rate=rate,
        allocation=None,
        rewind_to="init",
        source=_FRANKLE_CARBIN,
    )


def _deep(name, builder, allocation="global"):
    return Recipe(
        name=name,
        build=builder,
        optimizer=sgd_in_three_stages,
        batch_size=128,
        epochs=160,
        rate=0.2,
        allocation=allocation,
        rewind_to="10 epochs",
        source=_OPEN_LTH,
    )


# No pattern may match the name of a model, such as conv2, because paths can begin with
# it.
_LENET_RATES = {"output/kernel": 0.1, ".": 0.2}
_CONV_RATES = {r"conv\d/kernel": 0.1, **_LENET_RATES}
_CONV6_RATES = {**_CONV_RATES, r"conv\d/kernel": 0.15}

RECIPES = {
    entry.name: entry
    for entry in (
        # The epochs result in the 50, 20, 25 and 30 thousand steps of the paper.
        _small("lenet300", models.lenet300, 1.2e-3, epochs=55, rate=_LENET_RATES),
        _small("conv2", models.conv2, 2e-4, epochs=27, rate=_CONV_RATES),
        _small("conv4", models.conv4, 3e-4, epochs=33, rate=_CONV_RATES),
        _small("conv6", models.conv6, 3e-4, epochs=40, rate=_CONV6_RATES),
        _deep("resnet20", models.resnet20),
        _deep("resnet18", models.resnet18),
        Recipe(
            name="resnet8",
            build=models.resnet8,
            optimizer=adamw_with_cosine_decay,
            batch_size=128,
            epochs=60,
            rate=0.2,
            allocation="global",
            rewind_to="4 epochs",
            source=_MLPERF_TINY,
            augmentation=crops_and_flips,
        ),
        # OpenLTH does not prune the output of VGG.
        _deep("vgg16", models.vgg16, spare_output),
    )
}


def recipe(name: str) -> Recipe:
    """Returns the recipe of a network by name.

    Example:

    >>> recipe("conv6").batch_size, recipe("conv6").epochs
    (60, 40)
    """
    if not arguments.is_one_of(name, RECIPES):
        raise ValueError(
            f"Unknown network. Received: {arguments.shown(name)}. Expected one of: "
            f"{', '.join(RECIPES)}. For your own network, call `tf_tickets.wrap` on "
            "the Keras model."
        )
    return RECIPES[str(name)]


def build(
    name: str,
    input_shape: tuple[int, ...],
    classes: int,
    steps_per_epoch: int | None = None,
    epochs: int | None = None,
    width: float = 1.0,
    augment: bool = True,
    **compile_arguments: object,
) -> keras.Model:
    """Builds a network and compiles it according to its recipe.

    The loss is sparse categorical cross-entropy from logits.

    Augmentation is part of the network: its first layers vary the images in training,
    and return their input otherwise. They have no weights. `tf_tickets.strip` and
    `tf_tickets.export` remove them.

    Args:
        name: One of `RECIPES`.
        input_shape: Shape of one image.
        classes: Number of logits.
        steps_per_epoch: Number of batches per epoch. The ResNets and VGG-16 require it
            for their learning-rate schedule.
        epochs: Number of epochs per round. Defaults to that of the recipe.
        width: Factor of the number of units, for narrow networks.
        augment: Whether to use the augmentation of the recipe, if it has one.
        **compile_arguments: More arguments for `keras.Model.compile`, such as
            `jit_compile` and `steps_per_execution`.

    Returns:
        A plain, compiled Keras model.

    Example:

    >>> model = build("conv2", (8, 8, 1), 10, width=0.1, steps_per_execution=4)
    >>> type(model.optimizer).__name__, model.loss.from_logits
    ('Adam', True)
    """
    settings = recipe(name)
    arguments.check_flags(augment=augment)
    counts = {"steps_per_epoch": steps_per_epoch, "epochs": epochs}
    arguments.check_counts(**{k: n for k, n in counts.items() if n is not None})
    optimizer = settings.optimizer(_steps(steps_per_epoch, epochs or settings.epochs))
    parts = {}
    if augment and settings.augmentation is not None:
        parts["augmentation"] = settings.augmentation()
    model = settings.build(input_shape, classes, width, **parts)
    model.compile(
        optimizer=optimizer,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        **compile_arguments,
    )
    return model


def _steps(steps_per_epoch, epochs):
    return None if steps_per_epoch is None else steps_per_epoch * epochs
