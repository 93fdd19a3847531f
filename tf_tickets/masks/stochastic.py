"""A mask that is drawn at every forward pass."""

from typing import Any

import keras
import numpy as np
from keras import ops

from tf_tickets.masks.base import Tensor
from tf_tickets.masks.learned import LearnedMask


@keras.saving.register_keras_serializable("tf_tickets")
class StochasticMask(LearnedMask):
    """A mask drawn anew at every forward pass, kept with `sigmoid(score)`.

    The gradient goes straight through to the probability. The hard mask keeps the
    weights whose probability is above a half.

    Args:
        initial_score: The score that every weight begins with.
        penalty: Weight of the sum of the probabilities in the loss.
        evaluation: "sample": draws in evaluation too; "threshold": takes the hard
            mask there.
        dynamic_scaling: Whether kept weights are multiplied with the number of
            weights over the number of kept ones.
        seed: Seed of the draws; by default from the global one. A search gives
            every kernel its own.

    Example:

    >>> mask = StochasticMask(initial_score=20.0)
    >>> mask.build((2,))
    >>> np.asarray(mask.soft(training=True)).tolist()
    [1.0, 1.0]
    """

    def __init__(
        self,
        initial_score: float = 0.0,
        penalty: float = 0.0,
        evaluation: str = "sample",
        dynamic_scaling: bool = False,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(initial_score, penalty, dynamic_scaling, **kwargs)
        if evaluation not in ("sample", "threshold"):
            raise ValueError(
                "`evaluation` must be 'sample' or 'threshold'. Received: "
                f"{evaluation!r}"
            )
        self.evaluation = evaluation
        self.seed = seed
        self.generator = keras.random.SeedGenerator(seed)

    def begin(self, rng: np.random.Generator, steps: int, epochs: int) -> None:
        super().begin(rng, steps, epochs)
        state = self.generator.state
        state.assign(rng.integers(0, 2**31, size=state.shape).astype(state.dtype))

    def soft(self, training: bool = False) -> Tensor:
        probability = self.expected(self.scores.value)
        if training or self.evaluation == "sample":
            draws = keras.random.uniform(
                self.scores.shape, dtype="float32", seed=self.generator
            )
        else:
            draws = 0.5
        hard = ops.cast(draws < probability, "float32")
        # The difference is exactly zero, and has the probability's gradient.
        return hard + (probability - ops.stop_gradient(probability))

    def expected(self, scores: Tensor) -> Tensor:
        return ops.sigmoid(scores)

    def get_config(self):
        return {
            **super().get_config(),
            "evaluation": self.evaluation,
            "seed": self.seed,
        }
