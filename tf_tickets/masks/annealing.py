"""Schedules of the compiled step: temperatures and growing penalties.

Called as `schedule(step, steps, epochs)` within the compiled step, where `step` is
counted from the start of a round, or of the part of it that is penalized.
"""

import copy
import math
from typing import Any

import keras
from keras import ops


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
