"""Means of repeated measurements, with deviations and confidence intervals."""

import dataclasses
import math
import statistics
from collections.abc import Iterable
from typing import Self

import numpy as np

from tf_tickets import arguments


@dataclasses.dataclass(frozen=True)
class Mean:
    """The mean of a few values, and how far they spread.

    Args:
        mean: The mean.
        deviation: The standard deviation, with n - 1 in the denominator. None for a
            single value.
        count: The number of values, n.

    Example:

    >>> Mean.of([1.0, 2.0, 3.0])
    Mean(mean=2.0, deviation=1.0, count=3)
    >>> print(Mean.of([0.90, 0.92, 0.94]))
    0.9200 ± 0.0200
    """

    mean: float
    deviation: float | None
    count: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Self:
        """Returns the mean of at least one value.

        Args:
            values: The values. One that is NaN or infinite leaves no deviation.
        """
        listed = [float(value) for value in values]
        if not listed:
            raise ValueError(
                "`values` must have at least one number. Received: []. A mean of "
                "nothing is not defined."
            )
        if not all(map(math.isfinite, listed)):
            with np.errstate(invalid="ignore"):
                return cls(float(np.mean(listed)), None, len(listed))
        deviation = statistics.stdev(listed) if len(listed) > 1 else None
        return cls(statistics.mean(listed), deviation, len(listed))

    def interval(self, confidence: float = 0.95) -> tuple[float, float] | None:
        """Returns the confidence interval of the mean by Student's t.

        It assumes that the values are drawn independently from a normal distribution.

        Args:
            confidence: How often such an interval contains the true mean, from 0 to 1.

        Returns:
            The lower and the upper end. None for a single value.

        Example:

        >>> low, high = Mean.of([0.90, 0.92, 0.94]).interval()
        >>> print(f"{low:.4f} to {high:.4f}")
        0.8703 to 0.9697
        """
        check_confidence(confidence)
        if self.deviation is None:
            return None
        quantile = student_t(confidence, self.count - 1)
        half = quantile * self.deviation / math.sqrt(self.count)
        return self.mean - half, self.mean + half

    def __str__(self):
        spread = "" if self.deviation is None else f" ± {self.deviation:.4f}"
        return f"{self.mean:.4f}{spread}"


def check_confidence(confidence: float) -> None:
    """Refuses what is not a number between 0 and 1.

    Example:

    >>> check_confidence(95)
    Traceback (most recent call last):
    ValueError: `confidence` must be greater than 0 and less than 1, such as 0.95.
        Received: 95
    """
    if not arguments.is_number(confidence) or not 0 < confidence < 1:
        raise ValueError(
            "`confidence` must be greater than 0 and less than 1, such as 0.95. "
            f"Received: {arguments.shown(confidence)}"
        )


def student_t(confidence: float, freedom: int) -> float:
    """Returns the bound that |t| stays below with a probability.

    The distribution function of Student's t has a closed form for whole degrees of
    freedom (Abramowitz and Stegun, 26.7.3 and 26.7.4). It is inverted by bisection.

    Args:
        confidence: The probability, from 0 to 1.
        freedom: The degrees of freedom, at least 1.

    Example:

    >>> [round(student_t(0.95, n), 3) for n in (1, 2, 10)]
    [12.706, 4.303, 2.228]
    """
    check_confidence(confidence)
    arguments.check_counts(freedom=freedom)
    low, high = 0.0, math.pi / 2
    # The angle is a double: 64 halvings leave no other number between the bounds.
    for _ in range(64):
        middle = (low + high) / 2
        if _probability(middle, freedom) < confidence:
            low = middle
        else:
            high = middle
    return math.sqrt(freedom) * math.tan(low)


def _probability(angle, freedom):
    """The probability that |t| < sqrt(freedom) tan(angle)."""
    sine, cosine = math.sin(angle), math.cos(angle)
    first = freedom % 2
    # A sum of powers of the cosine; each factor is the last one times (k - 1) / k.
    term = cosine if first else 1.0
    total = 0.0
    for k in range(2 + first, freedom + 1, 2):
        total += term
        term *= cosine * cosine * (k - 1) / k
    if first:
        return 2 / math.pi * (angle + sine * total)
    return sine * total
