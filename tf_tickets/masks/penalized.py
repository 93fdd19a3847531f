"""A 0/1 mask with a growing L2 penalty on chosen weights."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import ArrayLike

from tf_tickets.masks import annealing
from tf_tickets.masks.base import Tensor, checked
from tf_tickets.masks.clock import Clock
from tf_tickets.masks.fixed import FixedMask


@keras.saving.register_keras_serializable("tf_tickets")
class PenalizedMask(FixedMask):
    """A 0/1 mask whose kernel has a growing penalty on chosen weights.

    The penalty is `strength / 2 * sum(w ** 2)` over the chosen weights, a force
    `strength * w`, whose strength grows within the compiled step. It is among the
    `losses` of the model, as a regularizer of the kernel beside the one that it has,
    so that every way of training sees it and every optimizer takes it as part of the
    gradient. Which weights are chosen is kept as a mask of its own.

    Args:
        penalty: Schedule of the strength, called as `penalty(step, steps, epochs)`;
            by default `GrowingPenalty()`.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="d")],
    ...                          name="net")
    >>> model.set_weights([np.array([[2.0], [4.0]]), np.zeros(1)])
    >>> model = tt.wrap(model, mask="penalized", verbose=False)
    >>> mask = tt.wrapping.mask_layers(model)["net/d/kernel"]
    >>> mask.choose([[1], [0]], steps=1, epochs=1)
    >>> float(sum(model.losses)), mask.present_strength
    (2.0, 1.0)
    """

    counts_steps = True

    def __init__(
        self, penalty: Callable[..., Tensor] | dict | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        growing = penalty or annealing.GrowingPenalty()
        self.penalty: Any = annealing.called("penalty", growing)
        self.clock = Clock()

    def build(self, shape):
        super().build(shape)
        self.chosen = self.add_weight(
            shape=shape,
            dtype="bool",
            initializer="zeros",
            trainable=False,
            name="chosen",
        )
        self.clock.build(())

    def factor(self, dtype: str, training: bool = False) -> Tensor:
        if training:
            self.clock.tick()
        return super().factor(dtype)

    def watch(self, kernel: keras.Variable) -> None:
        kernel.regularizer = _Beside(own_regularizer(kernel), self)

    def release(self, kernel: keras.Variable) -> None:
        kernel.regularizer = own_regularizer(kernel)

    def choose(self, chosen: ArrayLike, steps: int, epochs: int) -> None:
        """Sets which weights are penalized and lets the strength grow anew.

        Args:
            chosen: 1 where a weight is penalized, in the shape of the kernel.
            steps: Training steps for growth and hold.
            epochs: In how many epochs.
        """
        self.chosen.assign(checked(chosen))
        self.clock.start(steps, epochs)

    def rest(self) -> None:
        """Ends the penalty."""
        self.choose(np.zeros(self.chosen.shape), 0, 1)

    def chosen_value(self) -> np.ndarray:
        """Which weights are penalized, as a NumPy array of booleans."""
        return np.array(ops.convert_to_numpy(self.chosen.value), bool)

    def penalize(self, kernel: Tensor) -> Tensor:
        """The penalty, which Keras collects once a step."""
        found = self._penalty(ops.cast(kernel, "float32"))
        self.clock.seal()
        return ops.cast(found, keras.config.floatx())

    def _penalty(self, kernel):
        squares = ops.where(self.chosen.value, ops.square(kernel), 0.0)
        return 0.5 * self._strength() * ops.sum(squares)

    def _strength(self):
        """At rest there are no steps, by which a schedule may divide: 0."""
        clock, steps = self.clock, self.clock.steps.value
        found = self.penalty(clock.step, ops.maximum(steps, 1), clock.epochs.value)
        return ops.where(steps > 0, ops.cast(found, "float32"), 0.0)

    def present_penalty(self, kernel: ArrayLike) -> float:
        """The penalty on the kernel at the last training step."""
        kernel = ops.convert_to_tensor(np.asarray(kernel, "float32"))
        return float(ops.convert_to_numpy(self._penalty(kernel)))

    @property
    def present_strength(self) -> float:
        """The strength at the last training step."""
        return float(ops.convert_to_numpy(self._strength()))

    def get_config(self):
        config = super().get_config()
        del config["scaled"]
        return {**config, "penalty": keras.saving.serialize_keras_object(self.penalty)}


def own_regularizer(kernel: keras.Variable) -> Callable[..., Tensor] | None:
    """The regularizer that a variable has of its own, without our penalty.

    Example:

    >>> own_regularizer(keras.Variable([1.0]))
    """
    given = kernel.regularizer
    return given.own if isinstance(given, _Beside) else given


class _Beside:
    """The regularizer of a penalized kernel: its own one and the penalty."""

    def __init__(self, own, mask):
        self.own = own
        self.mask = mask

    def __call__(self, kernel):
        penalty = self.mask.penalize(kernel)
        return penalty if self.own is None else self.own(kernel) + penalty
