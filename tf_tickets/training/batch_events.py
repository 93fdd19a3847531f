"""Callbacks that act at batches, within an epoch."""

import keras

_EVENTS = (
    *("on_train_batch_begin", "on_train_batch_end"),
    *("on_batch_begin", "on_batch_end"),
    *("on_test_batch_begin", "on_test_batch_end"),
)


def batch_events(callback: keras.callbacks.Callback) -> str:
    """Returns by what a callback acts at batches; "" if it acts at epochs only.

    Keras's `ModelCheckpoint` has a method for batches, which does nothing if it saves
    by epoch.

    Args:
        callback: The callback. Its methods may also be attributes, as those of a
            `LambdaCallback` are.

    Example:

    >>> batch_events(keras.callbacks.TerminateOnNaN())
    'on_batch_end'
    >>> batch_events(keras.callbacks.ModelCheckpoint("a.keras"))
    ''
    >>> batch_events(keras.callbacks.ModelCheckpoint("a.keras", save_freq=50))
    'save_freq=50'
    """
    plain, saving = keras.callbacks.Callback, keras.callbacks.ModelCheckpoint
    own = [name for name in _EVENTS if not _is_of(plain, callback, name)]
    saves = [name for name in own if _is_of(saving, callback, name)]
    acting = [name for name in own if name not in saves]
    if saves and callback.save_freq != "epoch":
        acting.append(f"save_freq={callback.save_freq!r}")
    return ", ".join(acting)


def _is_of(kind, callback, name):
    """Whether a callback's method is that of a class of Keras."""
    method = getattr(getattr(callback, name), "__func__", None)
    return method is getattr(kind, name)
