"""What cannot be trained in lockstep is refused by name, before any training."""

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import keras

from tf_tickets import wrapping
from tf_tickets.training.batch_events import batch_events
from tf_tickets.training.sources import ArraySource

_ADVICE = "Use executor='serial' or executor='ray'."
_CONVOLUTIONS = (
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv1D,
    keras.layers.SeparableConv2D,
)


def check_backend() -> None:
    """Refuses other backends than JAX, and several devices.

    Example:

    >>> if keras.config.backend() == "jax":
    ...     check_backend()
    """
    backend = keras.config.backend()
    if backend != "jax":
        raise ValueError(
            "executor='vmap' needs the backend jax. Set KERAS_BACKEND=jax before Keras "
            f"is imported, or use executor='serial' or 'ray'. Received: {backend}"
        )
    present = keras.distribution.distribution()
    if present is not None:
        raise ValueError(
            "executor='vmap' trains on one device, but a keras.distribution is set. "
            f"Remove it, or use executor='serial'. Received: {type(present).__name__}"
        )


def check_sources(sources: Mapping[str, Any]) -> None:
    """Refuses data that are not arrays.

    Example:

    >>> check_sources({})
    """
    other = {
        name: source.kind
        for name, source in sources.items()
        if not isinstance(source, ArraySource)
    }
    if other:
        raise ValueError(
            "executor='vmap' needs data as arrays, which all networks share in the "
            f"memory of the device. {_ADVICE} Received: {other}"
        )


def check_verbose(verbose: str | int) -> None:
    """Refuses to print bars, which several networks would write at the same time.

    Example:

    >>> check_verbose(0)
    """
    if verbose != 0:
        raise ValueError(
            "executor='vmap' trains several networks at the same time and prints no "
            "bars of `fit`. Leave `verbose` out, and give `watch` to follow them. "
            f"Received: verbose={verbose!r}"
        )


def check_callbacks(callbacks: Iterable[keras.callbacks.Callback]) -> None:
    """Refuses callbacks that act within an epoch.

    Example:

    >>> check_callbacks([keras.callbacks.ModelCheckpoint("{epoch}.keras")])
    """
    acting = [
        f"{type(callback).__name__} with {what}"
        for callback in callbacks
        if not _only_shows(callback) and (what := batch_events(callback))
    ]
    if acting:
        raise ValueError(
            "executor='vmap' runs the steps of an epoch in one program, so no callback "
            f"can act within an epoch. {_ADVICE} Or leave these callbacks out. "
            f"Received: {'; '.join(acting)}"
        )


def _only_shows(callback):
    """Whether a callback shows progress, for which the ends of epochs are enough."""
    if type(callback) is keras.callbacks.TensorBoard:
        shows = callback.update_freq == "epoch"
    else:
        # It draws no bars: `check_verbose`.
        shows = type(callback) is keras.callbacks.ProgbarLogger
    return shows or not getattr(callback, "changes_results", True)


def check_files(callbacks: Iterable[keras.callbacks.Callback]) -> None:
    """Refuses callbacks of which several copies cannot share a file.

    Example:

    >>> check_files([keras.callbacks.ModelCheckpoint("{epoch}.keras")])
    """
    logs = [each for each in callbacks if isinstance(each, keras.callbacks.CSVLogger)]
    if logs:
        names = ", ".join(log.filename for log in logs)
        raise ValueError(
            "executor='vmap' trains several networks at the same time, each with a "
            "copy of the callbacks. The copies of a CSVLogger would mix their lines in "
            "one file. Give each network its own by watch=lambda name: "
            "[keras.callbacks.CSVLogger(f'{name}.csv')]. Received: CSVLogger with the "
            f"file {names}"
        )


def check_search(name: str, search: Any) -> None:
    """Refuses a search that acts within an epoch.

    Args:
        name: What a message calls the search, such as "searches['imp']".
        search: The search.

    Example:

    >>> check_search("searches['imp']", tt.IMP(2, 1, 0.5))
    """
    if search.rewind_to.unit == "steps" and not search.rewind_to.to_init:
        raise ValueError(
            "executor='vmap' runs the steps of an epoch in one program, so "
            f"{name} cannot record the weights after some steps. Rewind to 'init' or "
            "to epochs, or use executor='serial'. Received: rewind_to="
            f"{search.rewind_to.moment!r}"
        )


def check_model(name: str, model: keras.Model) -> None:
    """Refuses a model with steps of its own, and one that runs eagerly.

    Args:
        name: What a message calls the search, such as "searches['imp']".
        model: The compiled, wrapped model that is trained.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> check_model("searches['imp']", model)
    """
    steps = ("fit", "train_step", "test_step", "evaluate")
    own = [n for n in steps if getattr(type(model), n) is not getattr(keras.Model, n)]
    if own:
        raise ValueError(
            "executor='vmap' trains with the steps of keras.Model, but the model of "
            f"{name} has its own {', '.join(own)}. {_ADVICE} Received: "
            f"{type(model).__name__}"
        )
    if model.run_eagerly:
        raise ValueError(
            f"executor='vmap' compiles the steps, but the model of {name} runs "
            "eagerly. Compile it with run_eagerly=False, or use executor='serial'. "
            "Received: run_eagerly=True"
        )


def warn_of_convolutions(model: keras.Model) -> None:
    """Warns if a model has convolutions and runs on a CPU.

    Args:
        model: The model as it was built.

    Example:

    >>> warn_of_convolutions(keras.Sequential([keras.Input((2,))]))
    """
    slow = [e.name for e in wrapping.leaves(model) if isinstance(e, _CONVOLUTIONS)]
    if slow and _is_on_cpu():
        warnings.warn(
            f"{model.name!r} has convolutions: {', '.join(slow)}. On a CPU, one "
            "program for several networks computes them more slowly than one network "
            "after the other does. Use executor='serial' or 'ray'.",
            stacklevel=3,
        )


def _is_on_cpu():
    import jax

    return jax.default_backend() == "cpu"
