"""A model of the zoo with its data, and what cannot work for it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

import tf_tickets as tt


@dataclasses.dataclass(frozen=True)
class Limit:
    """Why a check cannot pass. The check must fail with the message.

    Args:
        reason: One sentence for the table of the documentation.
        message: A regular expression that the error must contain.
    """

    reason: str
    message: str


def _wrap(model: keras.Model) -> keras.Model:
    return tt.wrap(model, verbose=False)


@dataclasses.dataclass
class Case:
    """A plain compiled model, small enough for every check to take seconds.

    Args:
        model: The model. Its class and weights must be the same in every build, apart
            from numbers in default names.
        x: Inputs, an array or a dict or list of arrays. Two batches are enough.
        y: Targets, or None for a model that trains without.
        batch_size: Batch size of training and prediction.
        custom_objects: Passed to `keras.saving.load_model`.
        limits: Dict from the name of a check to the `Limit` that it must meet.
        wrap: Wraps the model.
        export: Arguments for `tf_tickets.export`, such as `tolerance`.
    """

    model: keras.Model
    x: Any
    y: Any = None
    batch_size: int = 4
    custom_objects: dict[str, Any] = dataclasses.field(default_factory=dict)
    limits: dict[str, Limit] = dataclasses.field(default_factory=dict)
    wrap: Callable[[keras.Model], keras.Model] = _wrap
    export: dict[str, Any] = dataclasses.field(default_factory=dict)


Builder = Callable[[], Case]


def compiled(model: keras.Model, loss: str = "sparse", **settings: Any) -> keras.Model:
    """Compiles a classifier of logits ("sparse"), or a model with a loss of Keras."""
    if loss == "sparse":
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    settings.setdefault("jit_compile", keras.config.backend() == "jax")
    model.compile(keras.optimizers.Adam(1e-3), loss, **settings)
    return model


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    """Returns normally distributed numbers."""
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def numbers(below: int, *shape: int, seed: int = 0) -> np.ndarray:
    """Returns integers from 0 to below `below`."""
    return np.random.default_rng(seed).integers(0, below, size=shape).astype("int32")
