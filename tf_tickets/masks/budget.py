"""A soft mask that an augmented Lagrangian holds to a number of weights."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from tf_tickets.masks.base import Tensor
from tf_tickets.masks.soft import SoftMask

# Of a round, in which a budget comes down.
_COMES_DOWN = 0.6


@keras.saving.register_keras_serializable("tf_tickets")
class BudgetMask(SoftMask):
    """A soft mask that is held to a number of weights, by itself or with others.

    Of the masks that share a budget, the share of kept weights above it, `c`, is pushed
    to 0 by an augmented Lagrangian, `multiplier * c + strength / 2 * c ** 2`, whose
    multiplier grows by `strength * c` over a round, by each step's share of it. The
    budget itself comes down from where the masks begin, as a cube over the first 3/5
    of the round, so that the multiplier need not overshoot. In evaluation it is no part
    of the loss.

    Args:
        strength: How hard the budget is enforced.
        initial_score: As in `SoftMask`.
        temperature: As in `SoftMask`.
        scale_mask: As in `SoftMask`.

    Example:

    >>> mask = BudgetMask(strength=2.0)
    >>> mask.build((4,))
    >>> mask.share([mask])
    >>> mask.allow(keep=1)
    >>> mask.clock.tick()
    >>> float(mask.after_forward(mask.scores.value)), mask.excess
    (0.0, 0.25)
    """

    def __init__(
        self,
        strength: float = 100.0,
        initial_score: float = 0.0,
        temperature: Callable[..., Tensor] | dict | None = None,
        scale_mask: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(initial_score, 0.0, temperature, scale_mask, **kwargs)
        if not 0.0 < strength < math.inf:
            raise ValueError(f"`strength` must be above 0. Received: {strength!r}")
        self.strength = float(strength)
        self._budget = _Budget()

    def build(self, shape):
        super().build(shape)
        self.multiplier = self._number("multiplier")
        self.target = self._number("target")

    def _number(self, name):
        return self.add_weight(
            shape=(),
            initializer="zeros",
            dtype="float32",
            autocast=False,
            trainable=False,
            aggregation="only_first_replica",
            name=name,
        )

    def share(self, masks: Sequence["BudgetMask"]) -> None:
        """Takes charge of the budget of some masks, itself among them.

        Args:
            masks: The masks that share it.
        """
        self._budget.masks = list(masks)

    # Not a property: Keras would save the masks once more below this one.
    def in_charge(self) -> list["BudgetMask"]:
        """The masks whose budget this one is in charge of."""
        return self._budget.masks

    def allow(self, keep: int) -> None:
        """Sets how many weights its masks keep together; the multiplier is 0 again.

        Args:
            keep: How many.
        """
        self.multiplier.assign(0.0)
        self.target.assign(keep / self._budget.size)

    def after_forward(self, scores: Tensor) -> Tensor:
        # Neither in evaluation nor where a step's losses are collected once more.
        counts = ops.cast(self.clock.ticked, "float32")
        penalty = super().after_forward(scores)
        if not self._budget.masks:
            return penalty
        excess = self._kept() - self._allowed()
        found = self.multiplier * excess + 0.5 * self.strength * ops.square(excess)
        steps = ops.cast(ops.maximum(self.clock.steps.value, 1), "float32")
        grown = self.strength * ops.stop_gradient(excess) / steps
        self.multiplier.assign(self.multiplier + counts * grown)
        return penalty + ops.cast(counts * found, keras.config.floatx())

    def _kept(self):
        kept = sum(ops.sum(m.expected(m.scores.value)) for m in self._budget.masks)
        return kept / float(self._budget.size)

    def _allowed(self):
        """The share of weights that the budget allows at this step."""
        steps = ops.cast(ops.maximum(self.clock.steps.value, 1), "float32")
        way = ops.cast(self.clock.step, "float32") / (_COMES_DOWN * steps)
        first = 1.0 / (1.0 + math.exp(-self.initial_score))
        left = ops.maximum(first - self.target, 0.0)
        return self.target + left * ops.maximum(1.0 - way, 0.0) ** 3

    @property
    def excess(self) -> float:
        """The share of kept weights above the budget at its end, by the soft masks."""
        return float(ops.convert_to_numpy(self._kept() - self.target))

    def get_config(self):
        config = super().get_config()
        del config["penalty"], config["dynamic_scaling"]
        return {**config, "strength": self.strength}


class _Budget:
    """The masks that share a budget, out of Keras's sight: they hold each other."""

    def __init__(self):
        self.masks = []

    @property
    def size(self):
        return sum(math.prod(mask.scores.shape) for mask in self.masks)
