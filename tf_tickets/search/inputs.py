"""Inputs of searches and trainings: data, build functions and seeds."""

from collections.abc import Callable, Iterable, Sequence

import keras
import numpy as np

from tf_tickets import wrapping
from tf_tickets.experiments import datasets

Pair = tuple[np.ndarray, np.ndarray]
Data = datasets.Dataset | Sequence[Pair]
# From the name of a search or training to callbacks that show its progress.
Watch = Callable[[str], Iterable[keras.callbacks.Callback]]

_DATA_PARTS = "for training, validation and optionally test"


def split(data: Data) -> dict[str, Pair]:
    """Returns a dict from "train", "validation" and, if given, "test" to (x, y).

    Example:

    >>> x, y = np.ones((8, 4)), np.ones((8, 2))
    >>> list(split(((x, y), (x, y))))
    ['train', 'validation']
    """
    if isinstance(data, tuple | list) and len(data) in (2, 3):
        parts = dict(zip(("train", "validation", "test"), data, strict=False))
    else:
        parts = _split_dataset(data)
    for name, pair in parts.items():
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise TypeError(
                f"`data` must be a pair or triple of (x, y) pairs, {_DATA_PARTS}. "
                f"Received for {name}: {type(pair)}"
            )
    return parts


def _split_dataset(data):
    try:
        return {
            "train": (data.x_train, data.y_train),
            "validation": (data.x_val, data.y_val),
            "test": (data.x_test, data.y_test),
        }
    except AttributeError:
        raise TypeError(
            "`data` must be a tf_tickets Dataset or a pair or triple of (x, y) arrays, "
            f"{_DATA_PARTS}. Received: {type(data)}. For a tf.data.Dataset use "
            "model.fit(..., callbacks=[search])."
        ) from None


def build(
    build_model: Callable[[], keras.Model], wrap: Callable[..., keras.Model]
) -> tuple[keras.Model, dict | None]:
    """Returns the wrapped model and, for tickets without weights, its configuration.

    Args:
        build_model: Function without arguments that returns a compiled model.
        wrap: Function that wraps it if it is plain: `wrap(model, verbose=False)`.
    """
    model = build_model()
    if not isinstance(model, keras.Model) or not model.compiled:
        raise ValueError(
            "`build_model` must return a compiled Keras model. Received: "
            f"{model!r}. Call model.compile(...) in it."
        )
    rebuilds = isinstance(model, keras.Sequential | keras.Function)
    if wrapping.prunables(model):
        return model, None
    config = keras.saving.serialize_keras_object(model) if rebuilds else None
    if config is not None:
        config.pop("compile_config", None)
    return wrap(model, verbose=False), config


def round_seed(seed: int, round_: int) -> int:
    """Returns the global seed under which a round trains.

    Example:

    >>> round_seed(0, 3)
    3
    """
    return seed * 1_000_003 + round_


def test_metrics(model: keras.Model, test: Pair) -> dict[str, float]:
    """Returns a dict of the metrics on test data, as `test_*`."""
    metrics = model.evaluate(*test, batch_size=512, verbose=0, return_dict=True)
    return {f"test_{name}": float(value) for name, value in metrics.items()}


def watching(watch: Watch, name: str) -> list[keras.callbacks.Callback]:
    """Returns callbacks that show progress, marked as not belonging to a search."""
    callbacks = list(watch(name))
    for callback in callbacks:
        callback.changes_results = False
    return callbacks


def unwatched(name: str) -> list[keras.callbacks.Callback]:
    """Returns no callbacks."""
    return []
