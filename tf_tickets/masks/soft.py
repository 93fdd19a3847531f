"""The mask of Continuous Sparsification."""

import math
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from tf_tickets import arguments, xla
from tf_tickets.masks import annealing
from tf_tickets.masks.base import Tensor
from tf_tickets.masks.learned import LearnedMask


def _gradient(upstream, mask, scores, temperature, scale):
    soft = ops.sigmoid(temperature * scores)
    return upstream * soft * (1.0 - soft) * (temperature * scale)


@xla.differentiable(_gradient)
def _scaled_sigmoid(scores, temperature, scale):
    """Returns `sigmoid(temperature * scores) * scale`."""
    return ops.sigmoid(temperature * scores) * scale


def _gradient_of_sum(upstream, total, scores, temperature):
    soft = ops.sigmoid(temperature * scores)
    return soft * (1.0 - soft) * (upstream * temperature)


@xla.fused
def _sigmoid(scores, temperature):
    return ops.sigmoid(temperature * scores)


@xla.differentiable(_gradient_of_sum, whole=False)
def _sigmoid_sum(scores, temperature):
    """Returns the sum of `sigmoid(temperature * scores)`."""
    return ops.sum(_sigmoid(scores, temperature))


@keras.saving.register_keras_serializable("tf_tickets")
class SoftMask(LearnedMask):
    """The mask of Continuous Sparsification, `sigmoid(temperature * score)`.

    As the temperature grows, the mask approaches the hard mask, which keeps the
    weights with positive scores.

    Args:
        initial_score: Initial score of every weight. Higher scores keep more weights.
        penalty: Weight of the sum of the mask in the loss.
        temperature: Schedule of the temperature, called as
            `temperature(step, steps, epochs)` inside the compiled step. Defaults to
            `ExponentialTemperature()`.
        scale_mask: Whether to divide the mask by its initial value. The network then
            starts with the outputs of the dense network, and the ticket keeps the
            factor.
        dynamic_scaling: Whether to multiply the mask by the number of weights divided
            by the sum of the mask instead.

    Example:

    >>> mask = SoftMask(initial_score=0.0)
    >>> mask.build((2,))
    >>> np.asarray(mask.soft()).tolist(), mask.kept_scale
    ([0.5, 0.5], 2.0)
    """

    def __init__(
        self,
        initial_score: float = 0.0,
        penalty: float = 1e-8,
        temperature: Callable[..., Tensor] | dict | None = None,
        scale_mask: bool = True,
        dynamic_scaling: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(initial_score, penalty, dynamic_scaling, **kwargs)
        arguments.check_flags(scale_mask=scale_mask)
        default = annealing.ExponentialTemperature
        schedule = default() if temperature is None else temperature
        self.temperature: Any = annealing.called("temperature", schedule)
        self.scale_mask = scale_mask
        if scale_mask and self.initial_score < -20.0:
            raise ValueError(
                "With scale_mask=True the mask is divided by sigmoid(initial_score), "
                f"which is too close to 0. Received: initial_score={initial_score}. "
                "Use -20 or more, or scale_mask=False."
            )

    def soft(self, training: bool = False) -> Tensor:
        return self.expected(self.scores)

    def scaled_soft(self, training: bool = False) -> Tensor:
        scale = ops.convert_to_tensor(self.scale)
        return _scaled_sigmoid(self.scores.value, self._temperature(), scale)

    def expected(self, scores: Tensor) -> Tensor:
        return ops.sigmoid(self._temperature() * scores)

    def expected_sum(self, scores: Tensor) -> Tensor:
        return _sigmoid_sum(scores, self._temperature())

    def _temperature(self):
        clock = self.clock
        value = self.temperature(clock.step, clock.steps.value, clock.epochs.value)
        # A schedule of the user's may return a number, or a tensor of another dtype.
        return ops.cast(value, "float32")

    @property
    def present_temperature(self) -> float:
        """The temperature in the last training step."""
        return float(ops.convert_to_numpy(self._temperature()))

    @property
    def initial_scale(self) -> float:
        return 1.0 + math.exp(-self.initial_score) if self.scale_mask else 1.0

    def get_config(self):
        return {
            **super().get_config(),
            "temperature": keras.saving.serialize_keras_object(self.temperature),
            "scale_mask": self.scale_mask,
        }
