"""Callbacks that keep the best epoch, beside one that changes the sparsity.

The best epoch of a whole `fit` is often one before the last pruning. What is restored
or saved then does not have the sparsity that was asked for.
"""

from collections.abc import Iterator

import keras

from tf_tickets import keras_internals

# The arguments by which callbacks keep the best epoch.
_RESTORES, _SAVES = "restore_best_weights", "save_best_only"
# KerasTuner adds this one to every `fit`, to save the best epoch.
_OF_TUNER = "SaveBestEpoch"


def check_beside_search(search: keras.callbacks.Callback) -> None:
    """Refuses callbacks in the `fit` of a search that keep the best of all its epochs.

    Args:
        search: The search, called by the `fit` in question.
    """
    for callback, what in _keepers(search):
        raise ValueError(
            f"{what} next to {type(search).__name__} would compare the epochs of all "
            "rounds and keep the weights and masks of any of them. "
            + _remedy(callback, "search.in_round", "each round")
        )


def check_beside_schedule(
    pruning: keras.callbacks.Callback, first_epoch: int | None
) -> None:
    """Refuses callbacks in the `fit` of a schedule that may keep too dense an epoch.

    Args:
        pruning: The callback with the schedule, called by the `fit` in question.
        first_epoch: The first epoch after the last pruning; None if unknown.
    """
    for callback, what in _keepers(pruning):
        begins = getattr(callback, "start_from_epoch", 0)
        if first_epoch is not None and begins >= first_epoch:
            continue
        raise ValueError(
            f"{what} next to {type(pruning).__name__} would compare epochs of "
            "different sparsity and keep any of them. "
            + _remedy(callback, "pruning.once_pruned", "what follows the last pruning")
        )


def check_beside_training(
    search: keras.callbacks.Callback, training: keras.callbacks.Callback
) -> None:
    """Refuses callbacks that restore another epoch than that of the ticket.

    Args:
        search: The search that makes the ticket when the last epoch ends.
        training: The callback whose training it is, which may restore an epoch.
    """
    for callback, what in _keepers(search):
        if callback is training or not getattr(callback, _RESTORES, False):
            continue
        name = type(training).__name__
        remedy = f"Leave the callback out, or call model.fit with it and {name}."
        if hasattr(training, "once_pruned"):
            remedy = "Pass it to pruning.once_pruned(...)."
        raise ValueError(
            f"{what} would restore another epoch than that of the ticket, which is "
            f"made at the end of the last epoch. {remedy}"
        )


def _keepers(callback) -> Iterator[tuple[keras.callbacks.Callback, str]]:
    """Yields the callbacks beside one that keep the best epoch, with a description."""
    for other in keras_internals.callbacks_beside(callback):
        name = type(other).__name__
        if name == _OF_TUNER:
            yield other, f"KerasTuner's {name}"
        for argument in (_RESTORES, _SAVES):
            if getattr(other, argument, False):
                yield other, f"{name} with {argument}=True"


def _remedy(callback, method, sees):
    if type(callback).__name__ == _OF_TUNER:
        return (
            "Write a HyperModel whose `fit` does not pass on the callbacks it receives "
            "and returns the number to compare, such as "
            "search.best.metrics['val_accuracy']."
        )
    return f"Pass it to {method}(...): there it sees {sees} as a training of its own."
