"""A mask that is sampled in every forward pass."""

from typing import Any

import keras
import numpy as np
from keras import ops

from tf_tickets import arguments, xla
from tf_tickets.masks.base import Tensor
from tf_tickets.masks.draws import uniform
from tf_tickets.masks.learned import LearnedMask


def _gradient(upstream, mask, scores, *constants):
    probability = ops.sigmoid(scores)
    return upstream * constants[-1] * probability * (1.0 - probability)


@xla.differentiable(_gradient)
def _scaled_sample(scores, seed, scale):
    """Returns `scale` with probability `sigmoid(scores)` and 0 otherwise."""
    probability = ops.sigmoid(scores)
    return _straight_through(_sampled(probability, seed), probability) * scale


@xla.differentiable(_gradient)
def _scaled_threshold(scores, scale):
    """Returns `scale` where the score is positive and 0 elsewhere."""
    return _straight_through(_positive(scores), ops.sigmoid(scores)) * scale


def _sampled(probability, seed):
    return uniform(tuple(probability.shape), seed) < probability


def _positive(scores):
    """Returns which scores are above 0, exactly as NumPy does in `value`.

    The sigmoid of a score of 1e-8 is 0.5 in float32, and XLA compares denormal numbers
    as 0. Therefore the bits are compared: they are a positive integer.
    """
    return ops.view(ops.stop_gradient(scores), "int32") > 0


def _straight_through(kept, probability):
    hard = ops.cast(kept, "float32")
    # The difference is exactly 0 and carries the gradient of the probability.
    return hard + (probability - ops.stop_gradient(probability))


@keras.saving.register_keras_serializable("tf_tickets")
class StochasticMask(LearnedMask):
    """A mask sampled in every forward pass; a weight is kept with `sigmoid(score)`.

    A straight-through estimator passes the gradient to the probability. The hard mask
    keeps the weights with a positive score, whose probability is above 0.5.

    Args:
        initial_score: Initial score of every weight.
        penalty: Weight of the sum of the probabilities in the loss.
        evaluation: "sample" also samples in evaluation, "threshold" uses the hard
            mask there.
        dynamic_scaling: Whether to multiply the kept weights by the number of all
            weights divided by the number of kept weights.
        seed: Seed of the sampling. Each kernel of a wrapped model draws its own
            numbers, which follow from the seed and the order of the kernels. Defaults
            to a seed for each kernel from the global generator. A search seeds the
            kernels itself.

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
        arguments.check_choice(("sample", "threshold"), evaluation=evaluation)
        self.evaluation = evaluation
        self.seed = arguments.seed_or_none(seed)
        self.generator = keras.random.SeedGenerator(self.seed)

    def begin(self, rng: np.random.Generator, steps: int, epochs: int) -> None:
        super().begin(rng, steps, epochs)
        state = self.generator.state
        state.assign(rng.integers(0, 2**31, size=state.shape).astype(state.dtype))

    def soft(self, training: bool = False) -> Tensor:
        scores = self.scores.value
        probability = self.expected(scores)
        if self._samples(training):
            kept = _sampled(probability, self.generator.next())
        else:
            kept = _positive(scores)
        return _straight_through(kept, probability)

    def scaled_soft(self, training: bool = False) -> Tensor:
        scale = ops.convert_to_tensor(self.scale)
        scores = self.scores.value
        if self._samples(training):
            return _scaled_sample(scores, self.generator.next(), scale)
        return _scaled_threshold(scores, scale)

    def _samples(self, training):
        return training or self.evaluation == "sample"

    def expected(self, scores: Tensor) -> Tensor:
        return ops.sigmoid(scores)

    def get_config(self):
        return {
            **super().get_config(),
            "evaluation": self.evaluation,
            "seed": self.seed,
        }
