"""Inputs of searches and trainings: data, build functions and seeds."""

from collections.abc import Callable, Iterable, Sequence

import keras
import numpy as np

from tf_tickets import arguments, wrapping
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
                f"Received for {name}: {arguments.shown(pair)}"
            )
        _check_rows(name, *pair)
    return parts


def _check_rows(part, x, y):
    shapes = [arguments.array(data=one).shape for one in (x, y)]
    if not arguments.have_equal_rows(shapes):
        raise ValueError(
            f"The arrays (x, y) of `data` {_DATA_PARTS} must have the same number of "
            f"rows, at least 1. Received for {part}: arrays of shape {shapes[0]} and "
            f"{shapes[1]}"
        )


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
            f"{_DATA_PARTS}. Received: {arguments.shown(data)}. For a tf.data.Dataset "
            "use model.fit(..., callbacks=[search])."
        ) from None


def build(
    build_model: Callable[[], keras.Model], wrap: Callable[..., keras.Model]
) -> tuple[keras.Model, dict | None]:
    """Returns the wrapped model and, for tickets without weights, its configuration.

    Args:
        build_model: Function without arguments that returns a compiled model.
        wrap: Function that wraps it if it is plain: `wrap(model, verbose=False)`.
    """
    arguments.check_build(build_model)
    model = build_model()
    if not isinstance(model, keras.Model) or not model.compiled:
        raise ValueError(
            "`build_model` must return a compiled Keras model. Received: "
            f"{arguments.shown(build_model)}, which returns {arguments.shown(model)}. "
            "Call model.compile(...) in it."
        )
    rebuilds = isinstance(model, keras.Sequential | keras.Function)
    if wrapping.prunables(model):
        return model, None
    config = keras.saving.serialize_keras_object(model) if rebuilds else None
    if config is not None:
        config.pop("compile_config", None)
    return wrap(model, verbose=False), config


def check_fit(seed: int, batch_size: int, verbose: str | int = 0) -> tuple[int, int]:
    """Returns seed and batch size as integers; refuses what `fit` would not take.

    Example:

    >>> check_fit(seed=0, batch_size=32, verbose="auto")
    (0, 32)
    """
    arguments.check_seed(seed)
    arguments.check_counts(batch_size=batch_size)
    arguments.check_choice(("auto", 0, 1, 2, True, False), verbose=verbose)
    return int(seed), int(batch_size)


def check_watch(watch: Watch | None) -> None:
    """Refuses what is neither None nor a function of a name."""
    if watch is not None:
        arguments.check_functions(1, watch=watch)


def round_seed(seed: int, round_: int) -> int:
    """Returns the global seed under which a round trains.

    Example:

    >>> round_seed(0, 3)
    3
    """
    return (seed * 1_000_003 + round_) % 2**32


def test_metrics(model: keras.Model, test: Pair) -> dict[str, float]:
    """Returns a dict of the metrics on test data, as `test_*`."""
    metrics = model.evaluate(*test, batch_size=512, verbose=0, return_dict=True)
    return {f"test_{name}": float(value) for name, value in metrics.items()}


def watched(watch: Watch, name: str) -> list[keras.callbacks.Callback]:
    """Returns the callbacks of a training; refuses what are none."""
    return arguments.listed(keras.callbacks.Callback, **{"watch(name)": watch(name)})


def watching(watch: Watch, name: str) -> list[keras.callbacks.Callback]:
    """Returns callbacks that show progress, marked as not belonging to a search."""
    callbacks = watched(watch, name)
    for callback in callbacks:
        callback.changes_results = False
    return callbacks


def unwatched(name: str) -> list[keras.callbacks.Callback]:
    """Returns no callbacks."""
    return []
