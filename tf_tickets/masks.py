"""Mask parametrizations: what a kernel is multiplied with on the forward pass.

This is the one thing in which the forward passes of the methods differ. A
parametrization is a layer, so that its state is saved, cloned and trained by
Keras; it belongs to one kernel.
"""

from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import ArrayLike

# The backends' tensors have no class in common.
Tensor = Any


@keras.saving.register_keras_serializable("tf_tickets")
class FixedMask(keras.layers.Layer):
    """A 0/1 mask that is set between steps and never trained.

    It is kept as booleans, an eighth of the memory of a float mask on disk and a
    quarter in memory.

    Example:

    >>> mask = FixedMask()
    >>> mask.build((3,))
    >>> mask.assign([True, False, True])
    >>> np.asarray(mask.apply(keras.ops.array([1.0, 2.0, 3.0]))).tolist()
    [1.0, 0.0, 3.0]
    """

    def build(self, shape):
        self.mask = self.add_weight(
            shape=shape, dtype="bool", initializer="ones", trainable=False, name="mask"
        )

    def apply(self, kernel: Tensor) -> Tensor:
        """The effective kernel, in the kernel's own dtype."""
        return kernel * ops.cast(self.mask, kernel.dtype)

    def value(self) -> np.ndarray:
        """The hard 0/1 mask as a NumPy array of booleans."""
        return ops.convert_to_numpy(self.mask).astype(bool)

    def assign(self, mask: ArrayLike) -> None:
        """Sets the mask; values other than 0 and 1 are refused."""
        mask = np.asarray(mask)
        if not np.isin(mask, (0, 1)).all():
            raise ValueError(
                "A mask holds 0 (pruned) and 1 (kept) only. Received values: "
                f"{np.unique(mask)[:5]}"
            )
        self.mask.assign(mask.astype(bool))


_MASKS = {"fixed": FixedMask}


def get(identifier: str | dict | keras.layers.Layer) -> keras.layers.Layer:
    """A mask parametrization from its name, configuration or an instance.

    Example:

    >>> type(get("fixed")).__name__
    'FixedMask'
    """
    if isinstance(identifier, keras.layers.Layer):
        return identifier
    if isinstance(identifier, dict):
        return keras.saving.deserialize_keras_object(identifier)
    if identifier not in _MASKS:
        raise ValueError(
            f"Unknown mask parametrization. Received: {identifier!r}. Known: "
            f"{sorted(_MASKS)}, or an instance such as FixedMask()."
        )
    return _MASKS[identifier]()
