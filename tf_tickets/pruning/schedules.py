"""Step to sparsity, step to temperature, step to penalty.

The call convention is that of the schedules of tensorflow-model-optimization,
`schedule(step) -> (should_prune, sparsity)`, so theirs can be used here and ours
there. A step is one update of the optimizer; step 0 is before the first one.
Ours also take an array of steps. A temperature and a penalty are called within the
compiled step, as `schedule(step, steps, epochs)`, `step` counted from the beginning of
a round or of its part that is penalized.
"""

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
    """Fires every `frequency` steps between `begin_step` and `end_step`."""

    begin_step: int
    end_step: int
    frequency: int

    def __call__(self, step):
        return self._fires(np.asarray(step)), self._sparsity(np.asarray(step))

    def _fires(self, step):
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
    if begin_step < 0 or frequency < 1:
        raise ValueError(
            "`begin_step` must be 0 or more and `frequency` 1 or more. "
            f"Received: begin_step={begin_step}, frequency={frequency}"
        )
    if end_step != -1 and end_step < begin_step:
        raise ValueError(
            "`end_step` must be -1 (never) or not before `begin_step`. "
            f"Received: begin_step={begin_step}, end_step={end_step}"
        )


@keras.saving.register_keras_serializable("tf_tickets")
class ConstantSparsity(_Schedule):
    """The same sparsity from `begin_step` on.

    Args:
        target_sparsity: Fraction of zeros, in [0, 1).
        begin_step: First step that prunes.
        end_step: Last step that may prune; -1 for no end.
        frequency: Prune every so many steps.

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
    """Grows fast in the beginning, then ever slower (Zhu and Gupta 2017).

    `f + (i - f) * (1 - p) ** power`, p the part of the way from `begin_step` to
    `end_step`.

    Args:
        initial_sparsity: Fraction of zeros at `begin_step`.
        final_sparsity: Fraction of zeros at `end_step`.
        begin_step: First step that prunes.
        end_step: Last step that prunes.
        power: Exponent; 3 is usual.
        frequency: Prune every so many steps.

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
        if end_step <= begin_step:
            raise ValueError(
                "A decay needs an `end_step` after `begin_step`. Received: "
                f"begin_step={begin_step}, end_step={end_step}"
            )
        self.initial_sparsity = initial_sparsity
        self.final_sparsity = final_sparsity
        self.begin_step = begin_step
        self.end_step = end_step
        self.power = power
        self.frequency = frequency

    def _sparsity(self, step):
        steps = self.end_step - self.begin_step
        way = np.clip((step - self.begin_step) / steps, 0, 1)
        gap = self.initial_sparsity - self.final_sparsity
        return self.final_sparsity + gap * (1 - way) ** self.power


@keras.saving.register_keras_serializable("tf_tickets")
class IterativeRate(_Schedule):
    """Loses the fraction `rate` of what is left, every `frequency` steps.

    Args:
        rate: Fraction of the kept weights that each pruning removes.
        begin_step: First step that prunes.
        end_step: Last step that may prune; -1 for no end.
        frequency: Prune every so many steps.

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
        prunings = np.maximum((last - self.begin_step) // self.frequency + 1, 0)
        return 1.0 - (1.0 - self.rate) ** prunings
