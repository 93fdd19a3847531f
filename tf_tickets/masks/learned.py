"""What the masks that are learned from trained scores share."""

import math
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import ArrayLike

from tf_tickets.masks.base import Mask, Tensor, checked
from tf_tickets.masks.clock import Clock

# A score that is decided: its sigmoid is exactly 0 or 1 at any temperature, and
# no step moves it. Finite, for infinity times zero would not be a number.
FAR = 1e30


class LearnedMask(Mask):
    """A mask that is a function of trained scores, one a weight.

    Scores and all that is computed from them are float32, whatever the dtype
    policy. A subclass gives `soft(training)`, the mask of values in 0..1.

    Args:
        initial_score: The score that every weight begins with.
        penalty: Weight of the sum of the mask in the loss.
        dynamic_scaling: Whether kept weights are multiplied with the number of
            weights over the number of kept ones (Zhou et al. 2019).
    """

    learned = True
    counts_steps = True

    def __init__(
        self,
        initial_score: float = 0.0,
        penalty: float = 0.0,
        dynamic_scaling: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"}, autocast=False)
        for name, value in (("initial_score", initial_score), ("penalty", penalty)):
            if not isinstance(value, int | float | np.floating):
                raise TypeError(f"`{name}` must be a number. Received: {value!r}")
        if not (math.isfinite(initial_score) and 0.0 <= penalty < math.inf):
            raise ValueError(
                "`initial_score` must be finite and `penalty` 0 or more. Received: "
                f"initial_score={initial_score!r}, penalty={penalty!r}"
            )
        self.initial_score = float(initial_score)
        self.penalty = float(penalty)
        self.dynamic_scaling = dynamic_scaling
        self.clock = Clock()

    def build(self, shape):
        self.scores = self.add_weight(
            shape=shape,
            initializer=self.score_initializer(),
            dtype="float32",
            autocast=False,
            regularizer=self.after_forward,
            name="mask_scores",
        )
        self.scale = self.add_weight(
            shape=(),
            initializer=keras.initializers.Constant(self.initial_scale),
            dtype="float32",
            autocast=False,
            trainable=False,
            name="scale",
        )
        self.clock.build(())

    def score_initializer(self) -> keras.initializers.Initializer:
        """Where the scores begin."""
        return keras.initializers.Constant(self.initial_score)

    def begin(self, rng: np.random.Generator, steps: int, epochs: int) -> None:
        """Goes back to the beginning of a search, of rounds of so many steps."""
        self.scores.assign(np.full(self.scores.shape, self.initial_score, "float32"))
        self.scale.assign(self.initial_scale)
        self.restart(steps, epochs)

    def restart(self, steps: int, epochs: int) -> None:
        """Goes to the beginning of a round; the scores stay."""
        self.clock.start(steps, epochs)

    def soft(self, training: bool = False) -> Tensor:
        """The mask of values in 0..1, before it is scaled."""
        raise NotImplementedError

    def factor(self, dtype: str, training: bool = False) -> Tensor:
        if training:
            self.clock.tick()
        return ops.cast(self._scaled(self.soft(training)), dtype)

    def _scaled(self, soft):
        if not self.dynamic_scaling:
            return soft * self.scale
        kept = ops.stop_gradient(ops.maximum(ops.sum(soft), 1.0))
        return soft * (float(np.prod(self.scores.shape)) / kept)

    def after_forward(self, scores: Tensor) -> Tensor:
        """The penalty; Keras collects it once a step, as that of a regularizer."""
        penalty = ops.zeros(())
        if self.penalty:
            found = self.penalty * ops.sum(self._scaled(self.expected(scores)))
            penalty = ops.cast(found, keras.config.floatx())
        self.clock.seal()
        return penalty

    @property
    def present_penalty(self) -> float:
        """The penalty at the present scores."""
        scaled = self._scaled(self.expected(self.scores.value))
        return self.penalty * float(ops.convert_to_numpy(ops.sum(scaled)))

    def expected(self, scores: Tensor) -> Tensor:
        """The mask's expected value, which the penalty acts on."""
        raise NotImplementedError

    @property
    def initial_scale(self) -> float:
        """What kept weights are multiplied with."""
        return 1.0

    @property
    def kept_scale(self) -> float:
        if self.dynamic_scaling:
            value = self.value()
            return value.size / max(int(value.sum()), 1)
        return float(ops.convert_to_numpy(self.scale.value))

    def value(self) -> np.ndarray:
        return ops.convert_to_numpy(self.scores.value) > 0

    def probability(self) -> np.ndarray:
        """The expected mask, unscaled: its exact zeros are the soft sparsity."""
        return np.array(ops.convert_to_numpy(self.expected(self.scores.value)))

    def assign(self, mask: ArrayLike, scale: float | None = None) -> None:
        """Decides all scores, so that training leaves the mask as it is."""
        mask = checked(mask)
        if scale is not None and self.dynamic_scaling:
            self._check_scale(mask, scale)
        elif scale is not None:
            self.scale.assign(scale)
        self.scores.assign(np.where(mask, FAR, -FAR).astype("float32"))

    def _check_scale(self, mask, scale):
        own = mask.size / max(int(mask.sum()), 1)
        if abs(own - scale) > 1e-4 * own:
            raise ValueError(
                f"A mask with dynamic_scaling=True multiplies its kept weights by "
                f"{own:.4g}. Received: scale={scale:.4g}. Use a parametrization "
                "without dynamic scaling."
            )

    def get_config(self):
        return {
            **super().get_config(),
            "initial_score": self.initial_score,
            "penalty": self.penalty,
            "dynamic_scaling": self.dynamic_scaling,
        }
