"""A 0/1 mask with a growing L2 penalty on selected weights."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import ArrayLike

from tf_tickets import arguments
from tf_tickets.masks import annealing
from tf_tickets.masks.base import Tensor, checked
from tf_tickets.masks.clock import Clock
from tf_tickets.masks.fixed import FixedMask


@keras.saving.register_keras_serializable("tf_tickets")
class PenalizedMask(FixedMask):
    """A 0/1 mask with a growing penalty on selected weights of its kernel.

    The penalty is `strength / 2 * sum(w ** 2)` over the selected weights, and its
    gradient is `strength * w`. The strength grows inside the compiled step. The penalty
    is added to the regularizer of the kernel, and is therefore in `model.losses` in
    every training loop. A second boolean mask stores the selection.

    Args:
        penalty: Schedule of the strength, called as `penalty(step, steps, epochs)`.
            Defaults to `GrowingPenalty()`.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="d")],
    ...                          name="net")
    >>> model.set_weights([np.array([[2.0], [4.0]]), np.zeros(1)])
    >>> model = tt.wrap(model, mask="penalized", verbose=False)
    >>> mask = tt.kernels(model)["net/d/kernel"].mask_layer
    >>> mask.choose([[1], [0]], steps=1, epochs=1)
    >>> float(sum(model.losses)), mask.present_strength
    (2.0, 1.0)
    """

    counts_steps = True

    def __init__(
        self, penalty: Callable[..., Tensor] | dict | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        schedule = annealing.GrowingPenalty() if penalty is None else penalty
        self.penalty: Any = annealing.called("penalty", schedule)
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
        kernel.regularizer = _PenalizedRegularizer(own_regularizer(kernel), self)

    def release(self, kernel: keras.Variable) -> None:
        kernel.regularizer = own_regularizer(kernel)

    def choose(self, chosen: ArrayLike, steps: int, epochs: int) -> None:
        """Selects the weights to penalize and restarts the growth of the penalty.

        Args:
            chosen: Array in the shape of the kernel, 1 for weights to penalize.
            steps: Number of training steps for growth and hold.
            epochs: Number of epochs that contain these steps.
        """
        arguments.check_not_negative(steps=steps)
        arguments.check_counts(epochs=epochs)
        arguments.check_between(0, 2**31 - 1, steps=steps, epochs=epochs)
        self.chosen.assign(checked(chosen))
        self.clock.start(steps, epochs)

    def rest(self) -> None:
        """Disables the penalty."""
        self.choose(np.zeros(self.chosen.shape), 0, 1)

    def chosen_value(self) -> np.ndarray:
        """Returns a boolean NumPy array that is true for penalized weights."""
        return np.array(ops.convert_to_numpy(self.chosen.value), bool)

    def penalize(self, kernel: Tensor) -> Tensor:
        """Returns the penalty and ends the step; Keras calls it once per step."""
        penalty = self._penalty(ops.cast(kernel, "float32"))
        self.clock.seal()
        return ops.cast(penalty, keras.config.floatx())

    def _penalty(self, kernel):
        chosen = ops.cast(self.chosen.value, "float32")
        strength = self._strength()

        @ops.custom_gradient
        def penalty(kernel):
            # Computed once, for the value and the gradient. Without this, the gradient
            # reads and masks the kernel again.
            selected = kernel * chosen

            def gradient(upstream):
                return upstream * strength * selected

            if keras.config.backend() == "tensorflow":
                # Its XLA would sum `ops.square(selected)` without vector instructions.
                squares = ops.square(kernel) * chosen
            else:
                squares = ops.square(selected)
            return 0.5 * strength * ops.sum(squares), gradient

        return penalty(kernel)

    def _strength(self):
        """Returns the strength, 0 while disabled.

        The schedule may divide by the number of steps, so it receives at least 1.
        """
        clock, steps = self.clock, self.clock.steps.value
        strength = self.penalty(clock.step, ops.maximum(steps, 1), clock.epochs.value)
        return ops.where(steps > 0, ops.cast(strength, "float32"), 0.0)

    def present_penalty(self, kernel: ArrayLike) -> float:
        """Returns the penalty on a kernel at the strength of the last training step."""
        kernel = arguments.array(kernel=kernel).astype("float32")
        if kernel.shape != tuple(self.chosen.shape):
            raise ValueError(
                f"`kernel` must have the shape {tuple(self.chosen.shape)}, that of the "
                f"mask. Received: an array of shape {kernel.shape}"
            )
        kernel = ops.convert_to_tensor(kernel)
        return float(ops.convert_to_numpy(self._penalty(kernel)))

    @property
    def present_strength(self) -> float:
        """The strength in the last training step."""
        return float(ops.convert_to_numpy(self._strength()))

    def get_config(self):
        config = super().get_config()
        del config["scaled"]
        return {**config, "penalty": keras.saving.serialize_keras_object(self.penalty)}


def own_regularizer(kernel: keras.Variable) -> Callable[..., Tensor] | None:
    """Returns the user's regularizer of a variable, without the added penalty.

    Example:

    >>> kernel = keras.Variable([1.0])
    >>> kernel.regularizer = keras.regularizers.L2()
    >>> type(own_regularizer(kernel)).__name__
    'L2'
    """
    regularizer = kernel.regularizer
    if isinstance(regularizer, _PenalizedRegularizer):
        return regularizer.base
    return regularizer


class _PenalizedRegularizer(keras.regularizers.Regularizer):
    """Adds the penalty of a mask to the user's regularizer of the kernel."""

    def __init__(self, base, mask):
        self.base = base
        self.mask = mask

    def __call__(self, kernel):
        penalty = self.mask.penalize(kernel)
        return penalty if self.base is None else self.base(kernel) + penalty
