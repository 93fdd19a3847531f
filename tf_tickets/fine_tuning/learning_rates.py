"""The learning rate of fine-tuning, from the optimizer of a trained model."""

import keras
import numpy as np

from tf_tickets import optimizers

# Of the largest rate of a schedule, as is usual for fine-tuning.
_FRACTION = 0.1
_POINTS = 101
# Optimizers that hold another one.
_INNER = "inner_optimizer"


def fine_tuning_rate(optimizer: keras.optimizers.Optimizer) -> tuple[float, str]:
    """Returns the learning rate to fine-tune with, and where it comes from.

    It is that of the optimizer. If the optimizer follows a schedule, which may have
    come to its end, it is a tenth of the largest rate so far.

    Example:

    >>> fine_tuning_rate(keras.optimizers.SGD(0.5))
    (0.5, 'that of its optimizer')
    >>> decay = keras.optimizers.schedules.CosineDecay(1.0, decay_steps=10)
    >>> fine_tuning_rate(keras.optimizers.SGD(decay))
    (0.1, 'a tenth of the largest of its schedule')
    """
    inner = getattr(optimizer, _INNER, optimizer)
    schedule = inner.get_config().get("learning_rate")
    if not isinstance(schedule, dict):
        return _short(inner.learning_rate), "that of its optimizer"
    schedule = keras.saving.deserialize_keras_object(schedule)
    done = int(keras.ops.convert_to_numpy(inner.iterations))
    steps = np.unique(np.linspace(0, done, _POINTS).astype("int64"))
    largest = max(_short(schedule(int(step))) for step in steps)
    return _FRACTION * largest, "a tenth of the largest of its schedule"


def _short(rate):
    """Returns a float32 number as the shortest decimal number that stands for it."""
    number = keras.ops.convert_to_numpy(rate)
    return float(str(np.float32(number)))


def with_rate(
    optimizer: keras.optimizers.Optimizer, learning_rate: float
) -> keras.optimizers.Optimizer:
    """Returns a new optimizer of the same settings with a constant learning rate.

    Args:
        optimizer: The optimizer of the trained model.
        learning_rate: The learning rate.

    Example:

    >>> new = with_rate(keras.optimizers.SGD(0.5, momentum=0.9), 0.25)
    >>> float(new.learning_rate), new.momentum
    (0.25, 0.9)
    """
    config = optimizer.get_config()
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        inner = with_rate(optimizer.inner_optimizer, learning_rate)
        config[_INNER] = keras.saving.serialize_keras_object(inner)
    elif "learning_rate" in config:
        config["learning_rate"] = learning_rate
    else:
        new = optimizers.twin(optimizer)
        optimizers.set_learning_rate(new, learning_rate)
        return new
    return type(optimizer).from_config(config)
