"""Callbacks that see a part of a `fit`, such as a round, as a training of its own."""

import copy
import hashlib
import warnings
from collections.abc import Iterator
from typing import Any

import keras

from tf_tickets.training.batch_events import batch_events
from tf_tickets.wrapping.kernels import to_numpy


class RoundCallbacks:
    """Passes the events of a round, instead of the whole `fit`, to Keras callbacks.

    Their epochs are counted from the beginning of the round. If one of them stops the
    training, as `keras.callbacks.EarlyStopping` does, the round ends early. If one of
    them restores the weights of an earlier epoch, the metrics of the round are those of
    that epoch.

    Example:

    >>> callbacks = RoundCallbacks()
    >>> callbacks.add(keras.callbacks.LambdaCallback(
    ...     on_epoch_begin=lambda epoch, logs: print("epoch", epoch)))
    >>> callbacks.tell("on_epoch_begin", 0)
    epoch 0
    """

    def __init__(self) -> None:
        self._callbacks: list[keras.callbacks.Callback] = []
        # By place: the value that a callback must first improve on.
        self._first_best: dict[int, Any] = {}
        # The logs of the round's epochs, by a digest of the weights after them.
        self._logs: dict[str, dict] = {}

    def __bool__(self) -> bool:
        return bool(self._callbacks)

    def __iter__(self) -> Iterator[keras.callbacks.Callback]:
        return iter(self._callbacks)

    def __getstate__(self):
        callbacks = [copy.copy(callback) for callback in self._callbacks]
        for callback in callbacks:
            # A copy belongs to another search, whose model is not built yet.
            keras.callbacks.Callback.set_model(callback, None)
        return {**vars(self), "_callbacks": callbacks, "_logs": {}}

    def add(self, *callbacks: keras.callbacks.Callback) -> None:
        """Adds callbacks."""
        for callback in callbacks:
            _check_of_epochs(callback)
            if getattr(callback, "save_best_only", False):
                self._first_best[len(self._callbacks)] = callback.best
            self._callbacks.append(callback)

    def attach(self, model: keras.Model, params: dict) -> None:
        """Gives the callbacks their model and the parameters of a round."""
        for callback in self._callbacks:
            callback.set_params(params)
            callback.set_model(model)

    def begin(self) -> None:
        """Begins a round."""
        self._logs = {}
        for place, best in self._first_best.items():
            # ModelCheckpoint keeps the best value of earlier trainings.
            self._callbacks[place].best = best
        self.tell("on_train_begin")

    def tell(self, event: str, *epoch: int, logs: dict | None = None) -> None:
        """Calls a method, such as "on_epoch_begin", of all callbacks."""
        for callback in self._callbacks:
            getattr(callback, event)(*epoch, {} if logs is None else logs)

    def stopped(self, model: keras.Model, epoch: int, logs: dict) -> bool:
        """Ends an epoch; returns whether a callback stopped the round.

        A requested stop of the whole `fit` stays in effect.
        """
        if not self._callbacks:
            return False
        self._logs[_digest(model)] = dict(logs)
        before, model.stop_training = model.stop_training, False
        self.tell("on_epoch_end", epoch, logs=logs)
        stopped, model.stop_training = model.stop_training, before
        return stopped

    def end(self, model: keras.Model, logs: dict) -> dict:
        """Ends a round; returns the logs that belong to the weights it ends with.

        Args:
            model: The model in training.
            logs: The logs of the last epoch.
        """
        if not self._callbacks:
            return logs
        self.tell("on_train_end")
        found = self._logs.get(_digest(model))
        if found is None:
            warnings.warn(
                "A callback changed the weights at the end of a round to those of no "
                "epoch. The metrics are still those of the last epoch. Evaluate the "
                "ticket after training it again.",
                stacklevel=2,
            )
        return logs if found is None else found


def _check_of_epochs(callback):
    """Refuses a callback that acts at batches, which it would not be told."""
    what = batch_events(callback)
    if what:
        raise ValueError(
            "Callbacks of a round or of `once_pruned` are called at epochs only. "
            f"Received: {type(callback).__name__} with {what}. Pass it in the "
            "callbacks of `fit` or find_tickets."
        )


def _digest(model):
    digest = hashlib.blake2b()
    for variable in model.weights:
        digest.update(to_numpy(variable).tobytes())
    return digest.hexdigest()
