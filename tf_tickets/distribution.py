"""Training one model on several devices: `tf.distribute` and `keras.distribution`."""

import contextlib
from typing import Any

import keras


def scope(model: keras.Model) -> contextlib.AbstractContextManager:
    """Returns the scope of the `tf.distribute` strategy that a model was built in.

    TensorFlow creates variables on all devices of a strategy only inside this scope.
    The scope has no effect on other backends, or if it is entered already.

    Example:

    >>> with scope(keras.Sequential([keras.Input((2,))])):
    ...     layer = keras.layers.Dense(1)
    """
    if keras.config.backend() != "tensorflow":
        return contextlib.nullcontext()
    import tensorflow as tf

    # A model without a strategy returns the present one.
    strategy = model.distribute_strategy
    present = strategy is tf.distribute.get_strategy()
    return contextlib.nullcontext() if present else strategy.scope()


def replicas() -> int:
    """Returns in how many replicas of a `tf.distribute` strategy this code runs.

    Keras sums the losses of all replicas, so each must be divided by their number.

    Example:

    >>> replicas()
    1
    """
    if keras.config.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync
