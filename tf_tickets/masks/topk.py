"""A mask that keeps an exact number of weights in every forward pass."""

import math
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import ArrayLike

from tf_tickets import arguments, ranking, xla
from tf_tickets.masks.base import Tensor, checked
from tf_tickets.masks.learned import FAR, LearnedMask


def _gradient(upstream, mask, scores, count, scale):
    return upstream * scale


def _gradient_of_size(upstream, mask, scores, count, scale):
    return upstream * scale * ops.sign(scores)


@xla.differentiable(_gradient)
def _scaled_by_score(scores, count, scale):
    """Returns `scale` for the `count` largest scores and 0 elsewhere."""
    return _straight_through(scores, count) * scale


@xla.differentiable(_gradient_of_size)
def _scaled_by_size(scores, count, scale):
    """Returns `scale` for the `count` largest absolute scores and 0 elsewhere."""
    return _straight_through(ops.abs(scores), count) * scale


def _straight_through(merit, count):
    hard = ranking.largest(merit, count)
    # The difference is exactly 0 and carries the gradient.
    return hard + (merit - ops.stop_gradient(merit))


@keras.saving.register_keras_serializable("tf_tickets")
class TopKMask(LearnedMask):
    """Keeps a fixed number of weights, those with the highest scores.

    The selection is repeated in every forward pass. A straight-through estimator trains
    the scores (edge-popup, Ramanujan et al. 2020). Among equal scores the first ones
    are kept.

    Args:
        sparsity: Fraction of zeros in each kernel, in [0, 1).
        absolute: Whether to rank the weights by the absolute value of their score, as
            in the paper, or by the score itself.
        dynamic_scaling: Whether to multiply the kept weights by the number of all
            weights divided by the number of kept weights.
        seed: Seed of the initial scores. Each kernel of a wrapped model gets its own,
            which follow from the seed and the order of the kernels. Defaults to a seed
            for each kernel from the global generator. A search draws them itself.

    Example:

    >>> mask = TopKMask(sparsity=0.75)
    >>> mask.build((8, 4))
    >>> float(keras.ops.sum(mask.soft()))
    8.0
    """

    def __init__(
        self,
        sparsity: float = 0.5,
        absolute: bool = True,
        dynamic_scaling: bool = False,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(dynamic_scaling=dynamic_scaling, **kwargs)
        arguments.check_fraction(sparsity=sparsity)
        arguments.check_flags(absolute=absolute)
        self.sparsity = sparsity
        self.absolute = absolute
        self.seed = arguments.seed_or_none(seed)

    def build(self, shape):
        super().build(shape)
        self.count = self.add_weight(
            shape=(),
            dtype="int",
            initializer=keras.initializers.Constant(self._count(math.prod(shape))),
            trainable=False,
            name="count",
        )

    def _count(self, size):
        return max(1, size - int(round(self.sparsity * size)))

    def score_initializer(self) -> keras.initializers.Initializer:
        return keras.initializers.RandomUniform(-1.0, 1.0, seed=self.seed)

    def begin(self, rng: np.random.Generator, steps: int, epochs: int) -> None:
        shape = tuple(self.scores.shape)
        bound = 1.0 / math.sqrt(max(1, math.prod(shape[:-1])))
        self.scores.assign(rng.uniform(-bound, bound, shape).astype("float32"))
        self.count.assign(self._count(math.prod(shape)))
        self.scale.assign(self.initial_scale)
        self.restart(steps, epochs)

    def soft(self, training: bool = False) -> Tensor:
        return self._kept(ops.ones((), "float32"))

    def scaled_soft(self, training: bool = False) -> Tensor:
        return self._kept(ops.convert_to_tensor(self.scale))

    def _kept(self, scale):
        kept = _scaled_by_size if self.absolute else _scaled_by_score
        count = ops.cast(self.count.value, "int32")
        return kept(self.scores.value, count, scale)

    def _merit(self, scores):
        return ops.abs(scores) if self.absolute else scores

    def expected(self, scores: Tensor) -> Tensor:
        return ranking.largest(self._merit(scores), self.count.value)

    def value(self) -> np.ndarray:
        merit = ops.convert_to_numpy(self._merit(self.scores.value))
        return ranking.keep_largest(merit, int(ops.convert_to_numpy(self.count)))

    def assign(self, mask: ArrayLike, scale: float | None = None) -> None:
        super().assign(mask, scale)
        mask = checked(mask)
        self.count.assign(int(mask.sum()))
        pruned = 0.0 if self.absolute else -FAR
        self.scores.assign(np.where(mask, FAR, pruned).astype("float32"))

    def get_config(self):
        config = super().get_config()
        del config["initial_score"], config["penalty"]
        return {
            **config,
            "sparsity": self.sparsity,
            "absolute": self.absolute,
            "seed": self.seed,
        }
