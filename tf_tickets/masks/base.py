"""What every mask parametrization is, and what those that are learned share.

A parametrization is a layer, so that its state is saved, cloned and trained by
Keras; it belongs to one kernel.
"""

from typing import Any

import keras
import numpy as np
from numpy.typing import ArrayLike

# The backends' tensors have no class in common.
Tensor = Any


class Mask(keras.layers.Layer):
    """A mask parametrization: what a kernel is multiplied with.

    A subclass gives `factor`, `value` and `assign`.
    """

    learned = False
    # Whether it must be told on every forward pass if it is one of training.
    counts_steps = False

    def watch(self, kernel: keras.Variable) -> None:
        """The kernel that it masks is known."""

    def release(self, kernel: keras.Variable) -> None:
        """The kernel is masked no more."""

    def factor(self, dtype: str, training: bool = False) -> Tensor:
        """What the kernel is multiplied with on a forward pass."""
        raise NotImplementedError

    def value(self) -> np.ndarray:
        """The hard 0/1 mask as a NumPy array of booleans."""
        raise NotImplementedError

    def assign(self, mask: ArrayLike, scale: float | None = None) -> None:
        """Sets the hard mask and, if given, what kept weights are multiplied with."""
        raise NotImplementedError

    @property
    def kept_scale(self) -> float:
        """What a kept weight is multiplied with under the hard mask."""
        return 1.0

    def apply(self, kernel: Tensor, training: bool = False) -> Tensor:
        """The effective kernel, in the kernel's own dtype."""
        return kernel * self.factor(kernel.dtype, training)


def checked(mask: ArrayLike, path: str = "") -> np.ndarray:
    """The mask as booleans; values other than 0 and 1 are refused."""
    mask = np.asarray(mask)
    if not np.isin(mask, (0, 1)).all():
        place = f" for {path!r}" if path else ""
        raise ValueError(
            "A mask holds 0 (pruned) and 1 (kept) only. Received values: "
            f"{np.unique(mask)[:5]}{place}"
        )
    return mask.astype(bool)
