"""Callbacks that see each round of a search as a separate training."""

from collections.abc import Iterator
from typing import Any

import keras


class RoundCallbacks:
    """Passes the events of a round, instead of the whole `fit`, to Keras callbacks.

    Their epochs are counted from the beginning of the round. If one of them stops the
    training, as `keras.callbacks.EarlyStopping` does, the round ends early.

    Example:

    >>> callbacks = RoundCallbacks()
    >>> callbacks.add(keras.callbacks.LambdaCallback(
    ...     on_epoch_begin=lambda epoch, logs: print("epoch", epoch)))
    >>> callbacks.tell("on_epoch_begin", 0)
    epoch 0
    """

    def __init__(self) -> None:
        self._callbacks: list[keras.callbacks.Callback] = []

    def __bool__(self) -> bool:
        return bool(self._callbacks)

    def __iter__(self) -> Iterator[keras.callbacks.Callback]:
        return iter(self._callbacks)

    def add(self, *callbacks: keras.callbacks.Callback) -> None:
        """Adds callbacks."""
        self._callbacks += callbacks

    def attach(self, model: keras.Model, params: dict) -> None:
        """Gives the callbacks their model and the parameters of a round."""
        for callback in self._callbacks:
            callback.set_params(params)
            callback.set_model(model)

    def tell(self, event: str, *epoch: int, logs: dict | None = None) -> None:
        """Calls a method, such as "on_epoch_begin", of all callbacks."""
        for callback in self._callbacks:
            getattr(callback, event)(*epoch, {} if logs is None else logs)

    def stopped(self, model: Any, epoch: int, logs: dict) -> bool:
        """Ends an epoch; returns whether a callback stopped the round.

        A requested stop of the whole `fit` stays in effect.
        """
        if not self._callbacks:
            return False
        before, model.stop_training = model.stop_training, False
        self.tell("on_epoch_end", epoch, logs=logs)
        stopped, model.stop_training = model.stop_training, before
        return stopped
