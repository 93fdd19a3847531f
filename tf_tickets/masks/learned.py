"""The base class of masks that are learned from trained scores."""

from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import ArrayLike

from tf_tickets import arguments
from tf_tickets.masks.base import Mask, Tensor, checked
from tf_tickets.masks.clock import Clock

# Magnitude of a score that is decided. At any temperature its sigmoid is exactly 0 or
# 1, and no training step changes it. It is finite because infinity times zero is NaN.
FAR = 1e30


class LearnedMask(Mask):
    """Base class of masks computed from trained scores, one score per weight.

    Scores and everything computed from them are float32, regardless of the dtype
    policy. Subclasses implement `soft(training)`, which returns the mask with values
    from 0 to 1, and `expected(scores)`, which the penalty acts on.

    Args:
        initial_score: Initial score of every weight.
        penalty: Weight of the sum of the mask in the loss.
        dynamic_scaling: Whether to multiply the kept weights by the number of all
            weights divided by the number of kept weights (Zhou et al. 2019).
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
            if not (
                arguments.is_whole(value) or isinstance(value, float | np.floating)
            ):
                raise TypeError(
                    f"`{name}` must be a number. Received: {arguments.shown(value)}"
                )
        arguments.check_numbers(initial_score=initial_score, penalty=penalty)
        if penalty < 0.0:
            raise ValueError(
                f"`penalty` must be 0 or more. Received: penalty={penalty!r}"
            )
        arguments.check_flags(dynamic_scaling=dynamic_scaling)
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
            regularizer=_ScoreRegularizer(self),
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

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Lets a subclass with another mask not inherit the shortcuts to this one."""
        super().__init_subclass__(**kwargs)
        own = vars(cls)
        if not own.keys().isdisjoint(("soft", "expected")):
            for name in ("scaled_soft", "expected_sum"):
                if name not in own:
                    setattr(cls, name, getattr(LearnedMask, name))

    def score_initializer(self) -> keras.initializers.Initializer:
        """Returns the initializer of the scores."""
        return keras.initializers.Constant(self.initial_score)

    def begin(self, rng: np.random.Generator, steps: int, epochs: int) -> None:
        """Resets scores, scale and clock at the beginning of a search.

        Args:
            rng: Random generator of the search.
            steps: Number of training steps in a round.
            epochs: Number of epochs in a round.
        """
        self.scores.assign(np.full(self.scores.shape, self.initial_score, "float32"))
        self.scale.assign(self.initial_scale)
        self.restart(steps, epochs)

    def restart(self, steps: int, epochs: int) -> None:
        """Resets the clock at the beginning of a round and keeps the scores."""
        self.clock.start(steps, epochs)

    def soft(self, training: bool = False) -> Tensor:
        """Returns the unscaled mask with values from 0 to 1."""
        raise NotImplementedError

    def factor(self, dtype: str, training: bool = False) -> Tensor:
        if training:
            self.clock.tick()
        if self.dynamic_scaling:
            return ops.cast(self._dynamically_scaled(self.soft(training)), dtype)
        return ops.cast(self.scaled_soft(training), dtype)

    def scaled_soft(self, training: bool = False) -> Tensor:
        """Returns the mask times its scale; a subclass may compute both in one pass."""
        return self.soft(training) * self.scale

    def _dynamically_scaled(self, soft):
        kept = ops.stop_gradient(ops.maximum(ops.sum(soft), 1.0))
        return soft * (float(np.prod(self.scores.shape)) / kept)

    def after_forward(self, scores: Tensor) -> Tensor:
        """Returns the penalty and ends the step.

        The regularizer of the scores calls it, and Keras calls that once per step.
        """
        penalty = ops.zeros(())
        if self.penalty:
            penalty = self.penalty * self._scaled_sum(scores)
            penalty = ops.cast(penalty, keras.config.floatx())
        self.clock.seal()
        return penalty

    @property
    def present_penalty(self) -> float:
        """The penalty at the current scores."""
        return self.penalty * float(
            ops.convert_to_numpy(self._scaled_sum(self.scores.value))
        )

    def _scaled_sum(self, scores):
        if self.dynamic_scaling:
            return ops.sum(self._dynamically_scaled(self.expected(scores)))
        return self.expected_sum(scores) * self.scale

    def expected_sum(self, scores: Tensor) -> Tensor:
        """Returns the sum of the expected mask."""
        return ops.sum(self.expected(scores))

    def expected(self, scores: Tensor) -> Tensor:
        """Returns the expected value of the mask, which the penalty acts on."""
        raise NotImplementedError

    @property
    def initial_scale(self) -> float:
        """The initial scale of the kept weights."""
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
        """Returns the unscaled expected mask; its exact zeros are the soft sparsity."""
        return np.array(ops.convert_to_numpy(self.expected(self.scores.value)))

    def assign(self, mask: ArrayLike, scale: float | None = None) -> None:
        """Sets the hard mask by scores that training cannot change."""
        mask = checked(mask)
        arguments.check_numbers(**({} if scale is None else {"scale": scale}))
        if scale is not None and self.dynamic_scaling:
            self._check_scale(mask, scale)
        elif scale is not None:
            self.scale.assign(scale)
        self.scores.assign(np.where(mask, FAR, -FAR).astype("float32"))

    def _check_scale(self, mask, scale):
        dynamic_scale = mask.size / max(int(mask.sum()), 1)
        if abs(dynamic_scale - scale) > 1e-4 * dynamic_scale:
            raise ValueError(
                "With dynamic_scaling=True this mask multiplies its kept weights by "
                f"{dynamic_scale:.4g}. Received: scale={scale:.4g}. Use a mask "
                "without dynamic scaling."
            )

    def get_config(self):
        return {
            **super().get_config(),
            "initial_score": self.initial_score,
            "penalty": self.penalty,
            "dynamic_scaling": self.dynamic_scaling,
        }


class _ScoreRegularizer(keras.regularizers.Regularizer):
    """Calls `after_forward` of a mask with its scores."""

    def __init__(self, mask):
        self.mask = mask

    def __call__(self, scores):
        return self.mask.after_forward(scores)
