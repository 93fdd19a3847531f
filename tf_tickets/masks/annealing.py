"""Schedules evaluated in the compiled step: temperatures and growing penalties.

They are called as `schedule(step, steps, epochs)` inside the compiled step. `step`
counts from the start of a round, or from the start of its penalized part.
"""

import copy
import inspect
import math
from typing import Any

import keras
from keras import ops

from tf_tickets import arguments


def called(name: str, schedule: Any) -> Any:
    """Returns a schedule, deserialized first if it is a configuration.

    Args:
        name: Argument name for the error message.
        schedule: A callable, or its serialized configuration.

    Returns:
        The callable.

    Example:

    >>> called("penalty", GrowingPenalty(0.5))
    GrowingPenalty(increment=0.5, interval=1, cap=1.0, power=1.0)
    """
    function = schedule
    if isinstance(schedule, dict):
        function = None
        if {"class_name", "config"} <= set(schedule):
            function = keras.saving.deserialize_keras_object(copy.deepcopy(schedule))
    is_class = inspect.isclass(function)
    if is_class or not arguments.is_callable(function, 3):
        raise TypeError(
            f"`{name}` must be a callable with the signature {name}(step, steps, "
            f"epochs). Received: {arguments.shown(schedule)}"
            + (". Pass an instance, not the class." if is_class else "")
        )
    return function


@keras.saving.register_keras_serializable("tf_tickets")
class ExponentialTemperature:
    """Multiplies the temperature by a constant factor every step or epoch of a round.

    The temperature is `initial * (final / initial) ** progress`, where `progress` rises
    from 0 in the first step of a round to 1 in the last. The paper on Continuous
    Sparsification anneals per step, its published code per epoch.

    Args:
        initial: Temperature in the first step.
        final: Temperature in the last step.
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
        arguments.check_numbers(initial=initial, final=final)
        if not 0.0 < initial <= final < math.inf:
            raise ValueError(
                "`initial` must be above 0 and `final` finite and at least `initial`. "
                f"Received: initial={initial}, final={final}"
            )
        arguments.check_choice(("step", "epoch"), per=per)
        self.initial = float(initial)
        self.final = float(final)
        self.per = per

    def __call__(self, step: Any, steps: Any, epochs: Any) -> Any:
        """Returns the temperature; without steps, it is the initial one."""
        if self.per == "epoch":
            step = step // ops.maximum(steps // epochs, 1)
            steps = ops.minimum(steps, epochs)
        last = ops.cast(ops.maximum(steps - 1, 1), "float32")
        progress = ops.clip(ops.cast(step, "float32") / last, 0.0, 1.0)
        progress = progress * ops.cast(steps > 0, "float32")
        return self.initial * (self.final / self.initial) ** progress

    def get_config(self):
        return dict(vars(self))

    @classmethod
    def from_config(cls, config):
        return cls(**config)


def _check_growth(increment, interval, cap, power, hold):
    if increment is not None:
        arguments.check_numbers(increment=increment)
    if hold is not None:
        arguments.check_not_negative(hold=hold)
    arguments.check_counts(interval=interval)
    arguments.check_numbers(cap=cap, power=power)
    if not (0.0 <= cap < math.inf and 0.0 < power < math.inf):
        raise ValueError(
            "`cap` must be 0 or more and `power` above 0. Received: "
            f"cap={cap}, power={power}"
        )
    if increment is not None and not 0.0 < increment < math.inf:
        raise ValueError(
            "`increment` must be above 0, or None to derive it from the number of "
            f"steps. Received: increment={increment}"
        )
    if increment is None and (interval != 1 or hold is not None):
        raise ValueError(
            "Without an `increment` the penalty grows during 5/9 of the steps, and "
            "`interval` and `hold` have no effect. Received: "
            f"interval={interval}, hold={hold}. Set `increment` too."
        )


@keras.saving.register_keras_serializable("tf_tickets")
class GrowingPenalty:
    """Increases the strength of a penalty at regular intervals, up to a cap.

    The strength is `min((increment * (step // interval + 1)) ** power, cap)`. The
    published code of the Dual Lottery Ticket Hypothesis defaults to
    `GrowingPenalty(1e-4, interval=5, hold=40_000)`. Its iterative variant uses
    `interval=1, hold=10_000`.

    Args:
        increment: Amount added at each interval. None reaches the cap after 5/9 of
            the steps, the share that the published defaults imply.
        interval: Number of steps between two additions.
        cap: Maximum strength. 0 disables the penalty.
        power: Exponent of the growth: 1 is linear, 2 quadratic, 3 cubic.
        hold: Minimum number of steps after the growth. None uses the remaining steps.

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
        """Number of steps until the cap is passed, or None without an `increment`."""
        if self.cap == 0.0:
            return 0
        if self.increment is None:
            return None
        additions = self._highest / self.increment
        return self.interval * math.floor(additions * (1 + 1e-9)) + 1

    @property
    def steps(self) -> int:
        """Minimum number of steps for growth and hold; 1 without an `increment`.

        Example:

        >>> GrowingPenalty(1e-4, interval=5, hold=40_000).steps
        90001
        """
        growth = self.growth
        return 1 if growth is None else growth + (self.hold or 0)

    @property
    def _highest(self):
        """The sum of all additions when the cap is reached."""
        return self.cap ** (1.0 / self.power)

    def __call__(self, step: Any, steps: Any, epochs: Any) -> Any:
        """Returns the strength at a step; without steps, it is 0."""
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
        arguments = [f"{k}={v}" for k, v in vars(self).items() if v is not None]
        return f"GrowingPenalty({', '.join(arguments)})"

    def get_config(self):
        return dict(vars(self))

    @classmethod
    def from_config(cls, config):
        return cls(**config)
