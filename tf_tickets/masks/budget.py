"""A soft mask constrained to a weight budget by an augmented Lagrangian."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from tf_tickets import arguments
from tf_tickets.masks.base import Tensor
from tf_tickets.masks.soft import SoftMask

# Fraction of a round during which the budget decreases.
_DECREASE_FRACTION = 0.6


@keras.saving.register_keras_serializable("tf_tickets")
class BudgetMask(SoftMask):
    """A soft mask with a limit on the number of kept weights.

    One mask or several masks together share a budget. Let `c` be the fraction of kept
    weights in excess of the budget. The augmented Lagrangian
    `multiplier * c + strength / 2 * c ** 2` is added to the training loss, and drives
    `c` to 0. The multiplier grows by `strength * c / steps` in every step. During the
    first 3/5 of a round, the budget decreases cubically from its initial value, which
    keeps the multiplier from overshooting.

    Args:
        strength: Weight of the constraint in the loss.
        initial_score: See `SoftMask`.
        temperature: See `SoftMask`.
        scale_mask: See `SoftMask`.

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
        arguments.check_positive(strength=strength)
        self.strength = float(strength)
        self._budget = _Budget()

    def build(self, shape):
        super().build(shape)
        self.multiplier = self._scalar("multiplier")
        self.target = self._scalar("target")

    def _scalar(self, name):
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
        """Makes this mask compute the shared penalty of several masks.

        Args:
            masks: All masks that share the budget, including this one.
        """
        self._budget.masks = arguments.listed(BudgetMask, masks=masks)

    # Not a property: Keras would save the masks a second time as sublayers.
    def in_charge(self) -> list["BudgetMask"]:
        """Returns the masks whose shared penalty this mask computes."""
        return self._budget.masks

    def allow(self, keep: int) -> None:
        """Sets the budget of all masks together and resets the multiplier to 0.

        Args:
            keep: Number of weights to keep.
        """
        arguments.check_not_negative(keep=keep)
        self.multiplier.assign(0.0)
        self.target.assign(keep / self._budget.size)

    def after_forward(self, scores: Tensor) -> Tensor:
        # 0 in evaluation, and when the losses of a step are collected a second time.
        counts = ops.cast(self.clock.ticked, "float32")
        penalty = super().after_forward(scores)
        if not self._budget.masks:
            return penalty
        excess = self._kept() - self._allowed()
        lagrangian = self.multiplier * excess + 0.5 * self.strength * ops.square(excess)
        steps = ops.cast(ops.maximum(self.clock.steps.value, 1), "float32")
        growth = self.strength * ops.stop_gradient(excess) / steps
        self.multiplier.assign(self.multiplier + counts * growth)
        return penalty + ops.cast(counts * lagrangian, keras.config.floatx())

    def _kept(self):
        kept = sum(m.expected_sum(m.scores.value) for m in self._budget.masks)
        return kept / float(self._budget.size)

    def _allowed(self):
        """Returns the fraction of weights allowed at the current step."""
        steps = ops.cast(ops.maximum(self.clock.steps.value, 1), "float32")
        progress = ops.cast(self.clock.step, "float32") / (_DECREASE_FRACTION * steps)
        initial = 1.0 / (1.0 + math.exp(-self.initial_score))
        reduction = ops.maximum(initial - self.target, 0.0)
        return self.target + reduction * ops.maximum(1.0 - progress, 0.0) ** 3

    @property
    def excess(self) -> float:
        """The fraction of weights kept by the soft masks above the final budget."""
        return float(ops.convert_to_numpy(self._kept() - self.target))

    def get_config(self):
        config = super().get_config()
        del config["penalty"], config["dynamic_scaling"]
        return {**config, "strength": self.strength}


class _Budget:
    """Holds the masks that share a budget.

    Keras does not track this class, which avoids cycles between the masks.
    """

    def __init__(self):
        self.masks = []

    @property
    def size(self):
        return sum(math.prod(mask.scores.shape) for mask in self.masks)
