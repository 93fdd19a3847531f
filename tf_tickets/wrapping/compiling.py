"""Compiles a model as another one is compiled."""

import contextlib
import warnings
from collections.abc import Callable, Iterator

import keras

from tf_tickets import keras_internals
from tf_tickets.wrapping import paths


@contextlib.contextmanager
def as_if_not_compiled(model: keras.Model) -> Iterator[None]:
    """Makes a model appear uncompiled inside a `with` block.

    Keras would otherwise compile clones from serialized settings, and include the
    optimizer in saved files.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
    >>> model.compile("adam", "mse")
    >>> with as_if_not_compiled(model):
    ...     model.compiled, model.optimizer
    (False, None)
    """
    compiled = [
        (part, part.optimizer)
        for part in paths.walk(model)
        if isinstance(part, keras.Model) and part.compiled
    ]
    for part, _ in compiled:
        part.compiled, part.optimizer = False, None
    try:
        yield
    finally:
        for part, optimizer in compiled:
            part.compiled, part.optimizer = True, optimizer


def compile_like(
    new: keras.Model,
    model: keras.Model,
    change: Callable[
        [keras.optimizers.Optimizer], keras.optimizers.Optimizer
    ] = lambda optimizer: optimizer,
) -> None:
    """Compiles a model with the settings of another model.

    The metrics are copied. The optimizer is shared, because its configuration does not
    contain all its settings (`exclude_from_weight_decay`). Settings that the class of
    `model` adds to those of `keras.Model.compile` are left out.

    Args:
        new: The model to compile.
        model: The compiled model.
        change: Returns the optimizer to use from that of `model`.
    """
    if type(new).compile is not keras.Model.compile:
        warnings.warn(
            f"{type(new).__name__} overrides `compile`, so the new model is not "
            "compiled. Call compile(...) on it.",
            stacklevel=4,
        )
        return
    arguments = keras_internals.compile_arguments(model)
    settings = keras.tree.map_structure(_copy_metric, arguments)
    new.compile(**{**settings, "optimizer": change(settings["optimizer"])})


def _copy_metric(setting):
    if isinstance(setting, keras.metrics.Metric):
        return type(setting).from_config(setting.get_config())
    return setting
