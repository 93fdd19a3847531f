"""Masks that are set between training steps instead of learned."""

from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import ArrayLike

from tf_tickets import arguments
from tf_tickets.masks.base import Mask, Tensor, checked


@keras.saving.register_keras_serializable("tf_tickets")
class FixedMask(Mask):
    """A 0/1 mask that is set between training steps and never trained.

    It is stored as booleans, in a quarter of the memory of a float32 mask.

    Args:
        scaled: Whether to multiply the kept weights by a scale. Tickets of scaled
            masks need this. It adds a small runtime cost.

    Example:

    >>> mask = FixedMask()
    >>> mask.build((3,))
    >>> mask.assign([True, False, True])
    >>> np.asarray(mask.apply(keras.ops.array([1.0, 2.0, 3.0]))).tolist()
    [1.0, 0.0, 3.0]
    """

    def __init__(self, scaled: bool = False, **kwargs: Any) -> None:
        arguments.check_flags(scaled=scaled)
        super().__init__(**kwargs)
        self.scaled = scaled

    def build(self, shape):
        self.mask = self.add_weight(
            shape=shape, dtype="bool", initializer="ones", trainable=False, name="mask"
        )
        if self.scaled:
            self.scale = self.add_weight(
                shape=(),
                dtype="float32",
                initializer="ones",
                trainable=False,
                autocast=False,
                name="scale",
            )

    def factor(self, dtype: str, training: bool = False) -> Tensor:
        mask = ops.cast(self.mask, dtype)
        return mask * ops.cast(self.scale, dtype) if self.scaled else mask

    @property
    def kept_scale(self) -> float:
        return float(ops.convert_to_numpy(self.scale.value)) if self.scaled else 1.0

    def value(self) -> np.ndarray:
        return ops.convert_to_numpy(self.mask).astype(bool)

    def assign(self, mask: ArrayLike, scale: float | None = None) -> None:
        mask = checked(mask)
        arguments.check_numbers(**({} if scale is None else {"scale": scale}))
        if self.scaled and scale is not None:
            self.scale.assign(scale)
        elif scale not in (None, 1.0):
            raise ValueError(
                "This mask does not scale the kept weights; `scale` must be None or "
                f'1. Received: scale={scale}. Wrap with mask="scaled" instead.'
            )
        self.mask.assign(mask)

    def get_config(self):
        return {**super().get_config(), "scaled": self.scaled}
