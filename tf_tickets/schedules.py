"""Step to sparsity, step to temperature, step to penalty.

The call convention is that of the schedules of tensorflow-model-optimization,
`schedule(step) -> (should_prune, sparsity)`, so theirs can be used here and ours
there. A step is one update of the optimizer; step 0 is before the first one.
Ours also take an array of steps. A temperature and a penalty are called within the
compiled step, as `schedule(step, steps, epochs)`, `step` counted from the beginning of
a round or of its part that is penalized.
"""

import copy
import math
from typing import Any

import keras
import numpy as np
from keras import ops


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


def _check_sparsity(name, value):
    if not 0.0 <= value < 1.0:
        hint = f" For percent, divide by 100: {value / 100}" if value >= 1 else ""
        raise ValueError(f"`{name}` must lie in [0, 1). Received: {value}.{hint}")


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
        _check_sparsity("target_sparsity", target_sparsity)
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
        _check_sparsity("initial_sparsity", initial_sparsity)
        _check_sparsity("final_sparsity", final_sparsity)
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
        _check_sparsity("rate", rate)
        _check_steps(begin_step, end_step, frequency)
        self.rate = rate
        self.begin_step = begin_step
        self.end_step = end_step
        self.frequency = frequency

    def _sparsity(self, step):
        last = step if self.end_step == -1 else np.minimum(step, self.end_step)
        prunings = np.maximum((last - self.begin_step) // self.frequency + 1, 0)
        return 1.0 - (1.0 - self.rate) ** prunings


def called(name: str, schedule: Any) -> Any:
    """A schedule of the compiled step, as given or out of its configuration.

    Example:

    >>> called("penalty", GrowingPenalty(0.5))
    GrowingPenalty(increment=0.5, interval=1, cap=1.0, power=1.0)
    """
    found = schedule
    if isinstance(schedule, dict):
        found = keras.saving.deserialize_keras_object(copy.deepcopy(schedule))
    if not callable(found):
        raise TypeError(
            f"`{name}` must be called as {name}(step, steps, epochs). Received: "
            f"{schedule!r}"
        )
    return found


@keras.saving.register_keras_serializable("tf_tickets")
class ExponentialTemperature:
    """Grows by the same factor every step, or every epoch, of a round.

    `initial * (final / initial) ** way`, `way` going from 0 in the first step of a
    round to 1 in its last. Continuous Sparsification's paper anneals by the step,
    its published code by the epoch.

    Args:
        initial: Temperature in the first step.
        final: Temperature in the last one.
        per: "step" or "epoch".

    Example:

    >>> temperature = ExponentialTemperature(1.0, 100.0)
    >>> [round(float(temperature(step, 5, 1))) for step in range(5)]
    [1, 3, 10, 32, 100]
    >>> by_epoch = ExponentialTemperature(1.0, 100.0, per="epoch")
    >>> [round(float(by_epoch(step, 6, 3))) for step in range(6)]
    [1, 1, 10, 10, 100, 100]
    """

    def __init__(
        self, initial: float = 1.0, final: float = 200.0, per: str = "step"
    ) -> None:
        if not 0.0 < initial <= final < math.inf:
            raise ValueError(
                "A temperature grows from `initial`, above 0, to `final`. Received: "
                f"initial={initial}, final={final}"
            )
        if per not in ("step", "epoch"):
            raise ValueError(f"`per` must be 'step' or 'epoch'. Received: {per!r}")
        self.initial = float(initial)
        self.final = float(final)
        self.per = per

    def __call__(self, step: Any, steps: Any, epochs: Any) -> Any:
        """The temperature in a step of a round; before it has steps, the initial."""
        if self.per == "epoch":
            step = step // ops.maximum(steps // epochs, 1)
            steps = ops.minimum(steps, epochs)
        last = ops.cast(ops.maximum(steps - 1, 1), "float32")
        way = ops.clip(ops.cast(step, "float32") / last, 0.0, 1.0)
        way = way * ops.cast(steps > 0, "float32")
        return self.initial * (self.final / self.initial) ** way

    def get_config(self):
        return dict(vars(self))

    @classmethod
    def from_config(cls, config):
        return cls(**config)


def _check_growth(increment, interval, cap, power, hold):
    if not (0.0 <= cap < math.inf and 0.0 < power < math.inf):
        raise ValueError(
            "`cap` must be 0 or more and `power` above 0. Received: "
            f"cap={cap}, power={power}"
        )
    if increment is not None and not 0.0 < increment < math.inf:
        raise ValueError(
            "`increment` must be above 0, or None for one that fits the steps. "
            f"Received: increment={increment}"
        )
    if increment is None and (interval != 1 or hold is not None):
        raise ValueError(
            "Without an `increment` the growth takes 5/9 of the steps, whatever "
            f"their number. Received: interval={interval}, hold={hold}. Give an "
            "`increment` too."
        )
    if interval < 1 or (hold is not None and hold < 0):
        raise ValueError(
            "`interval` must be 1 or more and `hold` 0 or more. Received: "
            f"interval={interval}, hold={hold}"
        )


@keras.saving.register_keras_serializable("tf_tickets")
class GrowingPenalty:
    """The strength of a penalty that grows by steps up to a cap, and stays there.

    `min((increment * (step // interval + 1)) ** power, cap)`: what the published code
    of the Dual Lottery Ticket Hypothesis does with its defaults is
    `GrowingPenalty(1e-4, interval=5, hold=40_000)`; its iterative variant has
    `interval=1, hold=10_000`.

    Args:
        increment: What is added at a time; None for as much as leads to the cap
            after 5/9 of the steps there are, the share of the published defaults.
        interval: Steps from one addition to the next.
        cap: The greatest strength. 0 is no penalty.
        power: 1 grows linearly, 2 and 3 as square and cube, slowly at first.
        hold: Steps that must follow the growth; None for those that are left.

    Example:

    >>> penalty = GrowingPenalty(0.25, interval=2, power=2)
    >>> [float(penalty(step, 10, 1)) for step in range(0, 10, 2)]
    [0.0625, 0.25, 0.5625, 1.0, 1.0]
    >>> GrowingPenalty(1e-4, interval=5).growth
    50001
    """

    def __init__(
        self,
        increment: float | None = None,
        interval: int = 1,
        cap: float = 1.0,
        power: float = 1.0,
        hold: int | None = None,
    ) -> None:
        _check_growth(increment, interval, cap, power, hold)
        self.increment = increment
        self.interval = interval
        self.cap = float(cap)
        self.power = float(power)
        self.hold = hold

    @property
    def growth(self) -> int | None:
        """Steps until the cap would be passed; None where they fit themselves."""
        if self.cap == 0.0:
            return 0
        if self.increment is None:
            return None
        additions = self._highest / self.increment
        return self.interval * math.floor(additions * (1 + 1e-9)) + 1

    @property
    def steps(self) -> int:
        """The least number of steps for growth and hold; 1 where they fit themselves.

        Example:

        >>> GrowingPenalty(1e-4, interval=5, hold=40_000).steps
        90001
        """
        growth = self.growth
        return 1 if growth is None else growth + (self.hold or 0)

    @property
    def _highest(self):
        """The sum of the additions at which the cap is reached."""
        return self.cap ** (1.0 / self.power)

    def __call__(self, step: Any, steps: Any, epochs: Any) -> Any:
        """The strength in a step of so many; before there are steps, 0."""
        additions = ops.cast(step // self.interval + 1, "float32")
        grown = additions * self._increment(steps)
        started = ops.cast(steps > 0, "float32")
        return ops.minimum(grown**self.power, self.cap) * started

    def _increment(self, steps):
        if self.increment is not None:
            return self.increment
        growth = ops.maximum(ops.cast(steps * 5 // 9, "float32"), 1.0)
        return self._highest / growth

    def __repr__(self):
        given = {k: v for k, v in vars(self).items() if v is not None}
        return f"GrowingPenalty({', '.join(f'{k}={v}' for k, v in given.items())})"

    def get_config(self):
        return dict(vars(self))

    @classmethod
    def from_config(cls, config):
        return cls(**config)
