"""Schedules of sparsity, temperature and penalty.

Sparsity schedules follow the call convention of tensorflow-model-optimization,
`schedule(step) -> (should_prune, sparsity)`, and the two libraries accept each other's
schedules. Steps count optimizer updates from 1, and a step's masks are set before its
update. So step 0 never occurs. The schedules in this module also accept an array of
steps.

Temperatures and penalties are called as `schedule(step, steps, epochs)` inside the
compiled step. `step` counts from the start of a round, or of its penalized part.
"""

from collections.abc import Callable

import keras
import numpy as np

from tf_tickets import arguments
from tf_tickets.masks.annealing import ExponentialTemperature, GrowingPenalty

__all__ = [
    "ConstantSparsity",
    "ExponentialTemperature",
    "GrowingPenalty",
    "IterativeRate",
    "PolynomialDecay",
]


class _Schedule:
    """Prunes every `frequency` steps between `begin_step` and `end_step`."""

    begin_step: int
    end_step: int
    frequency: int

    def __call__(self, step):
        return self._fires(np.asarray(step)), self._sparsity(np.asarray(step))

    def _fires(self, step):
        return self._fires_regularly(step)

    def _fires_regularly(self, step):
        started = step >= self.begin_step
        running = (self.end_step == -1) | (step <= self.end_step)
        return started & running & ((step - self.begin_step) % self.frequency == 0)

    def _sparsity(self, step):
        raise NotImplementedError

    def get_config(self):
        return dict(vars(self))

    @classmethod
    def from_config(cls, config):
        return cls(**config)


def _check_steps(begin_step, end_step, frequency):
    arguments.check_not_negative(begin_step=begin_step)
    arguments.check_counts(frequency=frequency)
    if arguments.is_whole(end_step) and end_step == -1:
        return
    if not arguments.is_whole(end_step) or not begin_step <= end_step < 2**63:
        raise ValueError(
            "`end_step` must be -1 (no end), or a whole number from `begin_step` on. "
            f"Received: begin_step={begin_step}, end_step={arguments.shown(end_step)}"
        )


@keras.saving.register_keras_serializable("tf_tickets")
class ConstantSparsity(_Schedule):
    """Prunes to a constant sparsity from `begin_step` on.

    Args:
        target_sparsity: Fraction of zeros, in [0, 1).
        begin_step: First pruning step. Step 1 prunes the untrained network. Step 0
            never occurs, so 0 prunes at step `frequency` first.
        end_step: Last step that may prune; -1 for no end.
        frequency: Number of steps between two prunings.

    Example:

    >>> schedule = ConstantSparsity(0.5, begin_step=10, frequency=5)
    >>> [bool(schedule(step)[0]) for step in (9, 10, 12, 15)]
    [False, True, False, True]
    >>> float(schedule(10)[1])
    0.5
    """

    def __init__(
        self,
        target_sparsity: float,
        begin_step: int,
        end_step: int = -1,
        frequency: int = 100,
    ) -> None:
        arguments.check_fraction(target_sparsity=target_sparsity)
        _check_steps(begin_step, end_step, frequency)
        self.target_sparsity = target_sparsity
        self.begin_step = begin_step
        self.end_step = end_step
        self.frequency = frequency

    def _sparsity(self, step):
        return np.full(step.shape, self.target_sparsity)


@keras.saving.register_keras_serializable("tf_tickets")
class PolynomialDecay(_Schedule):
    """Increases the sparsity quickly at first, then more slowly (Zhu and Gupta 2017).

    The sparsity is `final + (initial - final) * (1 - progress) ** power`, where
    `progress` rises linearly from 0 at `begin_step` to 1 at `end_step`. Pruning also
    happens at `end_step` if `frequency` does not divide the number of steps, unlike in
    tensorflow-model-optimization.

    Args:
        initial_sparsity: Fraction of zeros at `begin_step`.
        final_sparsity: Fraction of zeros at `end_step`.
        begin_step: First pruning step.
        end_step: Last pruning step.
        power: Exponent, usually 3.
        frequency: Number of steps between two prunings.

    Example:

    >>> schedule = PolynomialDecay(0.0, 0.8, begin_step=0, end_step=100, frequency=50)
    >>> [round(float(schedule(step)[1]), 3) for step in (0, 50, 100, 150)]
    [0.0, 0.7, 0.8, 0.8]
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
        arguments.check_fraction(initial_sparsity=initial_sparsity)
        arguments.check_fraction(final_sparsity=final_sparsity)
        _check_steps(begin_step, end_step, frequency)
        arguments.check_positive(power=power)
        if end_step <= begin_step:
            raise ValueError(
                "`end_step` must be greater than `begin_step`. Received: "
                f"begin_step={begin_step}, end_step={end_step}"
            )
        self.initial_sparsity = initial_sparsity
        self.final_sparsity = final_sparsity
        self.begin_step = begin_step
        self.end_step = end_step
        self.power = power
        self.frequency = frequency

    def _fires(self, step):
        return super()._fires(step) | (step == self.end_step)

    def _sparsity(self, step):
        steps = self.end_step - self.begin_step
        progress = np.clip((step - self.begin_step) / steps, 0, 1)
        gap = self.initial_sparsity - self.final_sparsity
        return self.final_sparsity + gap * (1 - progress) ** self.power


@keras.saving.register_keras_serializable("tf_tickets")
class IterativeRate(_Schedule):
    """Prunes the fraction `rate` of the remaining weights every `frequency` steps.

    Args:
        rate: Fraction of the kept weights that each pruning removes.
        begin_step: First pruning step. Step 0 never occurs, so 0 prunes at step
            `frequency` first.
        end_step: Last step that may prune; -1 for no end.
        frequency: Number of steps between two prunings.

    Example:

    >>> schedule = IterativeRate(0.5, begin_step=100, frequency=100)
    >>> [float(schedule(step)[1]) for step in (99, 100, 200, 300)]
    [0.0, 0.5, 0.75, 0.875]
    """

    def __init__(
        self, rate: float, begin_step: int, end_step: int = -1, frequency: int = 100
    ) -> None:
        arguments.check_fraction(rate=rate)
        _check_steps(begin_step, end_step, frequency)
        self.rate = rate
        self.begin_step = begin_step
        self.end_step = end_step
        self.frequency = frequency

    def _sparsity(self, step):
        last = step if self.end_step == -1 else np.minimum(step, self.end_step)
        first = int(self.begin_step > 0)  # Step 0 never occurs.
        prunings = np.maximum((last - self.begin_step) // self.frequency + first, 0)
        return 1.0 - (1.0 - self.rate) ** prunings


def firings(
    schedule: Callable[..., tuple], steps: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns whether a schedule fires, and its sparsity, for an array of steps.

    One call covers all steps if the schedule takes an array. Ours and those of
    tensorflow-model-optimization do, and each call of theirs is expensive.

    Args:
        schedule: `schedule(step) -> (should_prune, sparsity)`.
        steps: Array of steps.

    Example:

    >>> fires, sparsities = firings(IterativeRate(0.5, 2, frequency=2), np.arange(1, 5))
    >>> fires.tolist(), sparsities.tolist()
    ([False, True, False, True], [0.0, 0.5, 0.5, 0.75])
    """
    try:
        fires, sparsities = schedule(steps)
        fires = np.broadcast_to(np.asarray(fires, bool), steps.shape)
        return fires, np.broadcast_to(np.asarray(sparsities, float), steps.shape)
    except (TypeError, ValueError):
        rows = [schedule(int(step)) for step in steps]
        fires = np.array([bool(row[0]) for row in rows])
        return fires, np.array([float(row[1]) for row in rows])
