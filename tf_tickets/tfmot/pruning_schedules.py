"""Schedules of sparsity with the steps of tensorflow-model-optimization."""

import inspect
from collections.abc import Callable
from typing import Any, Self

import keras
import numpy as np

from tf_tickets import arguments
from tf_tickets.pruning import schedules
from tf_tickets.pruning.schedules import ConstantSparsity

__all__ = [
    "ConstantSparsity",
    "PolynomialDecay",
    "PruningSchedule",
]

Schedule = Callable[..., tuple]
_PEER = "tensorflow_model_optimization"


class PruningSchedule:
    """Base class of schedules of your own.

    A subclass defines `__call__` and `get_config`, and is registered with
    `keras.saving.register_keras_serializable()`, so that a model can be saved.

    Example:

    >>> @keras.saving.register_keras_serializable("example")
    ... class Late(PruningSchedule):
    ...     def __call__(self, step):
    ...         return self._should_prune_in_step(step, 100, -1, 10), 0.5
    ...     def get_config(self):
    ...         return {}
    >>> bool(Late()(110)[0]), bool(Late()(115)[0])
    (True, False)
    """

    def _should_prune_in_step(self, step, begin_step, end_step, frequency):
        """Returns whether a step, or each of an array of steps, prunes."""
        step = np.asarray(step)
        running = (step >= begin_step) & ((end_step < 0) | (step <= end_step))
        return running & ((step - begin_step) % frequency == 0)

    def __call__(self, step: Any) -> tuple:
        """Returns whether a step prunes, and the sparsity at it."""
        raise NotImplementedError(
            f"{type(self).__name__} must define `__call__(step)`, which returns "
            "(should_prune, sparsity)."
        )

    def get_config(self):
        raise NotImplementedError(
            f"{type(self).__name__} must define `get_config`, which returns the "
            "arguments of its constructor."
        )

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Returns a schedule from `get_config`.

        Args:
            config: The arguments of the constructor, alone or as the entry "config"
                beside "class_name", as schedules for tensorflow-model-optimization
                return them.
        """
        nested = set(config) == {"class_name", "config"}
        return cls(**(config["config"] if nested else config))


@keras.saving.register_keras_serializable("tf_tickets.tfmot")
class PolynomialDecay(schedules.PolynomialDecay):
    """Increases the sparsity from `begin_step` to `end_step` by a polynomial.

    It prunes at exactly the steps of tensorflow-model-optimization, and computes in
    float32 as that does. So it prunes at `end_step` only if `frequency` leads there.
    `tf_tickets.schedules.PolynomialDecay` always does.

    Args:
        initial_sparsity: Fraction of zeros at `begin_step`, at most `final_sparsity`.
        final_sparsity: Fraction of zeros at `end_step`.
        begin_step: First pruning step. Step 0 never occurs, so 0 prunes at step
            `frequency` first.
        end_step: Last step that may prune.
        power: Exponent.
        frequency: Number of steps between two prunings.

    Example:

    >>> schedule = PolynomialDecay(0.0, 0.8, begin_step=0, end_step=50, frequency=20)
    >>> [bool(schedule(step)[0]) for step in (20, 30, 40, 50)]
    [True, False, True, False]
    """

    def __init__(
        self,
        initial_sparsity: float,
        final_sparsity: float,
        begin_step: int,
        end_step: int,
        power: float = 3,
        frequency: int = 100,
    ) -> None:
        super().__init__(
            initial_sparsity, final_sparsity, begin_step, end_step, power, frequency
        )
        if initial_sparsity > final_sparsity:
            raise ValueError(
                "`initial_sparsity` must not be above `final_sparsity`, since pruned "
                f"weights stay pruned. Received: initial_sparsity={initial_sparsity}, "
                f"final_sparsity={final_sparsity}"
            )

    def _fires(self, step):
        return self._fires_regularly(step)

    def _sparsity(self, step):
        one = np.float32(1)
        steps = np.float32(self.end_step - self.begin_step)
        progress = (step - self.begin_step).astype("float32") / steps
        gap = np.float32(self.initial_sparsity - self.final_sparsity)
        rest = (one - np.clip(progress, np.float32(0), one)) ** np.float32(self.power)
        return gap * rest + np.float32(self.final_sparsity)


_OURS = {kind.__name__: kind for kind in (ConstantSparsity, PolynomialDecay)}


def get(schedule: Schedule | dict[str, Any]) -> Schedule:
    """Returns a schedule that can be stored, from one or from its configuration.

    Args:
        schedule: An instance or its serialized configuration. Those of
            tensorflow-model-optimization become ours.

    Example:

    >>> get(ConstantSparsity(0.5, 0)).target_sparsity
    0.5
    """
    found: Any = schedule
    if isinstance(found, dict) and {"class_name", "config"} <= set(found):
        found = keras.saving.deserialize_keras_object(found)
    if inspect.isclass(found) or not arguments.is_callable(found, 1):
        raise TypeError(
            "`pruning_schedule` must be called as schedule(step) -> (should_prune, "
            f"sparsity). Received: {arguments.shown(schedule)}"
        )
    kind = type(found)
    if kind.__module__.partition(".")[0] == _PEER and kind.__name__ in _OURS:
        found = _OURS[kind.__name__](**found.get_config()["config"])
    _check_stored(found)
    _check_fires(found)
    return found


def _check_stored(schedule):
    """Refuses a schedule that a saved model could not contain."""
    if getattr(schedule, "__name__", "") == "<lambda>":
        raise TypeError(
            "`pruning_schedule` is stored with the layers, which a lambda cannot be. "
            f"Received: {arguments.shown(schedule)}. Define a function with `def` and "
            "decorate it with keras.saving.register_keras_serializable()."
        )
    try:
        config = keras.saving.serialize_keras_object(schedule)
        keras.saving.deserialize_keras_object(config)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise TypeError(
            "`pruning_schedule` is stored with the layers, but Keras cannot serialize "
            f"and load it: {error} Received: {arguments.shown(schedule)}. Let its "
            "class define get_config, and decorate it with "
            "keras.saving.register_keras_serializable()."
        ) from error


def _check_fires(schedule):
    """Refuses one of our schedules without any step that prunes."""
    if not isinstance(schedule, ConstantSparsity | PolynomialDecay):
        return
    if schedule.end_step == -1:
        return
    begin, end = schedule.begin_step, schedule.end_step
    if begin == 0 and end < schedule.frequency:
        raise ValueError(
            "The schedule would never prune: step 0 does not occur, and the next one "
            f"is beyond `end_step`. Received: begin_step=0, end_step={end}, frequency="
            f"{schedule.frequency}. Lower `frequency` to {max(end, 1)} or less, or "
            "begin at step 1."
        )


def largest_from(schedule: Schedule, step: int) -> float:
    """Returns the largest sparsity at which a schedule may still prune.

    Args:
        schedule: A schedule.
        step: The first step to consider.

    Returns:
        The sparsity, 0 if no step prunes any more, and 1 if that is not known.

    Example:

    >>> schedule = PolynomialDecay(0.0, 0.8, 10, 30, frequency=10)
    >>> float(largest_from(schedule, 12)), float(largest_from(schedule, 31))
    (0.800000011920929, 0.0)
    """
    if not isinstance(schedule, ConstantSparsity | PolynomialDecay):
        return 1.0
    # Sparsities do not fall, so the last step that prunes has the largest.
    begin, every = schedule.begin_step, schedule.frequency
    last = max(step, begin) + every if schedule.end_step == -1 else schedule.end_step
    last -= (last - begin) % every
    return float(schedule(last)[1]) if last >= max(step, begin, 1) else 0.0
