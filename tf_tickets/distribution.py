"""Training one model on several devices: `tf.distribute` and `keras.distribution`."""

import contextlib
from typing import Any

import keras
import numpy as np


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

    strategy = _strategy(model)
    present = strategy is tf.distribute.get_strategy()
    return contextlib.nullcontext() if present else strategy.scope()


def replicas(model: keras.Model | None = None) -> int:
    """Returns the number of replicas of a `tf.distribute` strategy.

    It is 1 on other backends: `keras.distribution` distributes the arrays of a single
    replica.

    Args:
        model: A model that was built in the scope of the strategy; by default the
            strategy of the running code.

    Example:

    >>> replicas()
    1
    """
    if keras.config.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    strategy = tf.distribute.get_strategy() if model is None else _strategy(model)
    return strategy.num_replicas_in_sync


def _strategy(model) -> Any:
    # A model without a strategy returns the present one.
    return model.distribute_strategy


def unify(model: keras.Model) -> None:
    """Gives all replicas of a model the same statistics.

    Under `tf.distribute`, batch normalization updates its moving averages in each
    replica by the rows of that replica. Keras saves those of the first replica. This
    function replaces them by the mean over the replicas, so that all replicas, files
    and rewinds have the same state.

    Example:

    >>> unify(keras.Sequential([keras.layers.BatchNormalization()]))
    """
    if replicas(model) == 1:
        return
    strategy = _strategy(model)
    for variable in model.non_trainable_variables:
        if keras.backend.is_float_dtype(variable.dtype):
            local = strategy.experimental_local_results(variable.value)
            values = [keras.ops.convert_to_numpy(value) for value in local]
            if any((value != values[0]).any() for value in values):
                mean = np.mean(values, axis=0, dtype="float64")
                variable.assign(mean.astype(values[0].dtype))


def unify_trained(callback: keras.callbacks.Callback) -> None:
    """Calls `unify` on the model of a callback.

    Example:

    >>> callback = keras.callbacks.Callback()
    >>> callback.set_model(keras.Sequential([keras.layers.BatchNormalization()]))
    >>> unify_trained(callback)
    """
    # On JAX, reading `callback.model` would interrupt the trainer.
    if keras.config.backend() == "tensorflow":
        unify(callback.model)


class Unify(keras.callbacks.Callback):
    """Calls `unify` before each evaluation and at the end of each epoch.

    Example:

    >>> Unify().changes_results
    False
    """

    changes_results = False

    def on_test_begin(self, logs=None):
        unify_trained(self)

    def on_epoch_end(self, epoch, logs=None):
        unify_trained(self)


def identity(model: keras.Model) -> dict[str, int]:
    """Returns what the identity of a training says about its replicas; {} for one.

    Example:

    >>> identity(keras.Sequential([keras.Input((2,))]))
    {}
    """
    count = replicas(model)
    return {"replicas": count} if count > 1 else {}


def parts(model: keras.Model) -> int:
    """Returns into how many parts a batch is split, one for each group of devices.

    Example:

    >>> parts(keras.Sequential([keras.Input((2,))]))
    1
    """
    if keras.config.backend() == "jax":
        present = keras.distribution.distribution()
        return 1 if present is None else present.num_model_replicas
    return replicas(model)


def check_batch_size(model: keras.Model, batch_size: int | None) -> None:
    """Refuses batches that cannot be split evenly; None stands for an unknown size.

    Example:

    >>> check_batch_size(keras.Sequential([keras.Input((2,))]), 3)
    """
    count = parts(model)
    if batch_size is not None and batch_size % count:
        raise ValueError(
            f"A batch is split into {count} equal parts, one for each device. "
            f"Received: batch_size={batch_size}. Pass a multiple of {count}."
        )


def evaluation_batch_size(model: keras.Model, most: int, rows: int, part: str) -> int:
    """Returns a batch size in which Keras can evaluate all rows on all devices.

    On TensorFlow, Keras needs a first batch of equal parts, and rows for each device in
    the last batch. On JAX, all batches must have equal parts.

    Args:
        model: The model.
        most: The batch size without devices, and the largest one.
        rows: Number of rows.
        part: What the data are for, in messages.

    Example:

    >>> evaluation_batch_size(keras.Sequential([keras.Input((2,))]), 512, 9, "test")
    512
    """
    count = parts(model)
    if count == 1:
        return most
    size = min(most, rows) // count * count
    if keras.config.backend() == "jax":
        size = 0 if rows % count else size
    else:
        while size and not _fill(rows % size, count):
            size -= count
    if not size:
        raise ValueError(
            f"The {part} data cannot be split between {count} devices. Received: "
            f"{rows} rows. Pass a multiple of {count} rows."
        )
    return size


def _fill(rows, count):
    """Whether the parts of a batch, of which only the last are smaller, have rows."""
    return rows == 0 or (count - 1) * -(-rows // count) < rows


def check_one_process(model: keras.Model) -> None:
    """Refuses training in several processes, which `fit` or the files cannot follow.

    Example:

    >>> check_one_process(keras.Sequential([keras.Input((2,))]))
    """
    kind, count = _processes(model)
    if count > 1:
        raise ValueError(
            "A training of tf_tickets runs in one process, on any number of its "
            f"devices. Received: {kind} with {count} processes. {_REMEDIES[kind]}"
        )


def check_outside_scope() -> None:
    """Refuses training inside the scope of a `tf.distribute` strategy.

    There, scalar variables of a strategy cannot be read as arrays, neither by this
    library nor by Keras, as `keras.callbacks.LearningRateScheduler` does.

    Example:

    >>> check_outside_scope()
    """
    if keras.config.backend() != "tensorflow":
        return
    import tensorflow as tf

    if tf.distribute.has_strategy():
        raise ValueError(
            "A training must be started outside of strategy.scope(). Received: a call "
            f"inside the scope of {type(tf.distribute.get_strategy()).__name__}. Enter "
            "the scope only to build and compile the model: in `build_model`, or "
            "before `fit`."
        )


_MIRRORED = (
    "`fit` of Keras 3 cannot train in it. Use tf.distribute.MirroredStrategy for the "
    "devices of one machine, or keras.distribution.DataParallel on JAX."
)
_REMEDIES = {
    "MultiWorkerMirroredStrategy": _MIRRORED,
    "ParameterServerStrategy": _MIRRORED,
    "keras.distribution": (
        "All of them would write the same files. Start one process that has all "
        "devices, and do not call keras.distribution.initialize."
    ),
}


def _processes(model):
    """Returns the kind of a distribution and its number of processes."""
    if keras.config.backend() == "jax":
        present = keras.distribution.distribution()
        return "keras.distribution", 1 if present is None else present.num_processes
    if keras.config.backend() != "tensorflow":
        return "", 1
    import tensorflow as tf

    strategy = _strategy(model)
    for name in ("MultiWorkerMirroredStrategy", "ParameterServerStrategy"):
        if isinstance(strategy, getattr(tf.distribute, name)):
            cluster = strategy.cluster_resolver.cluster_spec()
            return name, sum(cluster.num_tasks(job) for job in cluster.jobs)
    return "", 1
