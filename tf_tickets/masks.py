"""Mask parametrizations: what a kernel is multiplied with on the forward pass.

This is the one thing in which the forward passes of the methods differ. Each is
given to `tf_tickets.wrap(model, mask=...)`, by name or as an instance, of which
every kernel gets a copy. Here are those that are learned; those that are set are in
`fixed`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import ArrayLike

from tf_tickets import schedules, selection
from tf_tickets.fixed import FixedMask, PenalizedMask
from tf_tickets.parametrization import FAR, LearnedMask, Mask, Tensor, checked


@keras.saving.register_keras_serializable("tf_tickets")
class SoftMask(LearnedMask):
    """Continuous Sparsification's mask, `sigmoid(temperature * score)`.

    While the temperature grows, the mask goes over into the hard one, which keeps
    the weights of positive score.

    Args:
        initial_score: The score that every weight begins with; the greater it is,
            the more weights remain.
        penalty: Weight of the sum of the mask in the loss.
        temperature: Schedule of the temperature, called as
            `temperature(step, steps, epochs)` within the compiled step.
        scale_mask: Whether the mask is divided by its first value, so that the
            network begins as the dense one. The ticket keeps this factor.
        dynamic_scaling: Whether kept weights are multiplied with the number of
            weights over the sum of the mask, instead.

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
        annealed = temperature or schedules.ExponentialTemperature()
        self.temperature: Any = schedules.called("temperature", annealed)
        self.scale_mask = scale_mask
        if scale_mask and self.initial_score < -20.0:
            raise ValueError(
                "A scaled mask is divided by sigmoid(initial_score), which is too near "
                f"to 0. Received: initial_score={initial_score}. Use -20 or more, or "
                "scale_mask=False."
            )

    def soft(self, training: bool = False) -> Tensor:
        return self.expected(self.scores)

    def expected(self, scores: Tensor) -> Tensor:
        return ops.sigmoid(self._temperature() * scores)

    def _temperature(self):
        clock = self.clock
        return self.temperature(clock.step, clock.steps.value, clock.epochs.value)

    @property
    def present_temperature(self) -> float:
        """The temperature of the last training step."""
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


@keras.saving.register_keras_serializable("tf_tickets")
class TopKMask(LearnedMask):
    """Keeps exactly the weights of greatest score, chosen at every forward pass.

    The scores are trained straight through the choice (edge-popup, Ramanujan et
    al. 2020). Of equal scores the first are kept.

    Args:
        sparsity: Fraction of zeros in each kernel, 0 to 1.
        absolute: Whether it is the size of the score that counts, as in the
            paper, or the score itself.
        dynamic_scaling: Whether kept weights are multiplied with the number of
            weights over the number of kept ones.
        seed: Seed of the first scores; by default from the global one. A search
            draws them from its own.

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
        if not 0.0 <= sparsity < 1.0:
            raise ValueError(
                f"`sparsity` must lie in [0, 1). Received: sparsity={sparsity!r}"
            )
        self.sparsity = sparsity
        self.absolute = absolute
        self.seed = seed

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
        merit = self._merit(self.scores.value)
        hard = selection.largest(ops.stop_gradient(merit), self.count.value)
        return hard + (merit - ops.stop_gradient(merit))

    def _merit(self, scores):
        return ops.abs(scores) if self.absolute else scores

    def expected(self, scores: Tensor) -> Tensor:
        return selection.largest(self._merit(scores), self.count.value)

    def value(self) -> np.ndarray:
        merit = ops.convert_to_numpy(self._merit(self.scores.value))
        return selection.keep_largest(merit, int(ops.convert_to_numpy(self.count)))

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


_MASKS: dict[str, Callable[[], Mask]] = {
    "fixed": FixedMask,
    "scaled": lambda: FixedMask(scaled=True),
    "penalized": PenalizedMask,
    "soft": SoftMask,
    "budget": BudgetMask,
    "stochastic": StochasticMask,
    "topk": TopKMask,
}


def get(identifier: str | dict | keras.layers.Layer) -> Mask:
    """A mask parametrization from its name, configuration or an instance.

    Example:

    >>> type(get("fixed")).__name__
    'FixedMask'
    """
    if isinstance(identifier, Mask):
        return identifier
    if isinstance(identifier, dict):
        return keras.saving.deserialize_keras_object(identifier)
    if identifier not in _MASKS:
        raise ValueError(
            f"Unknown mask parametrization. Received: {identifier!r}. Known: "
            f"{sorted(_MASKS)}, or an instance such as FixedMask()."
        )
    return _MASKS[identifier]()
