"""The base class of all mask parametrizations.

A parametrization is a layer that belongs to one kernel. Keras therefore saves, clones
and trains its state.
"""

from typing import Any

import keras
import numpy as np
from numpy.typing import ArrayLike

from tf_tickets import arguments
from tf_tickets.masks import draws

# The tensor classes of the backends have no common base class.
Tensor = Any


class Mask(keras.layers.Layer):
    """Base class of mask parametrizations, which multiply a kernel by a factor.

    Subclasses implement `factor`, `value` and `assign`.
    """

    learned = False
    # Whether a schedule of its own sets it, so that no search may.
    scheduled = False
    # Whether `factor` needs the `training` argument in every forward pass.
    counts_steps = False

    def watch(self, kernel: keras.Variable) -> None:
        """Called with the kernel when the mask is applied to it."""

    def enter(self, prunable: keras.layers.Layer) -> None:
        """Called with the wrapper in which the mask is applied."""

    def release(self, kernel: keras.Variable) -> None:
        """Called when the mask is removed from the kernel."""

    def factor(self, dtype: str, training: bool = False) -> Tensor:
        """Returns the tensor that multiplies the kernel in the forward pass."""
        raise NotImplementedError

    def value(self) -> np.ndarray:
        """Returns the hard 0/1 mask as a boolean NumPy array."""
        raise NotImplementedError

    def assign(self, mask: ArrayLike, scale: float | None = None) -> None:
        """Sets the hard mask and, optionally, the scale of the kept weights."""
        raise NotImplementedError

    @property
    def kept_scale(self) -> float:
        """The factor of the kept weights under the hard mask."""
        return 1.0

    def apply(self, kernel: Tensor, training: bool = False) -> Tensor:
        """Returns the masked kernel in the dtype of the kernel."""
        return kernel * self.factor(kernel.dtype, training)

    def quantize(self, *args: Any, **kwargs: Any) -> None:
        """Raises a ValueError: `Model.quantize` would replace the masked kernel."""
        raise ValueError(
            f"The mask {self.name!r} would no longer reach its kernel after "
            "`quantize`. Strip the model first: plain = tf_tickets.strip(model), then "
            "plain.quantize(...)."
        )


def copied(mask: Mask, number: int, **settings: Any) -> Mask:
    """Returns a copy of a mask for a kernel, not built yet.

    Args:
        mask: The mask to copy.
        number: The running number of the kernel. If the mask has a seed, the copy gets
            another one for each number except 0.
        **settings: Settings that the copy does not share, such as its name.

    Example:

    >>> mask = tt.masks.TopKMask(seed=3)
    >>> copied(mask, 0).seed, copied(mask, 1).seed
    (3, 2654435772)
    """
    config = {**mask.get_config(), **settings}
    if number and has_seed(mask):
        config["seed"] = draws.seed_of(config["seed"], number)
    return type(mask).from_config(config)


def has_seed(mask: Mask) -> bool:
    """Returns whether the user has given a mask a seed.

    Example:

    >>> has_seed(tt.masks.TopKMask(seed=3)), has_seed(tt.masks.TopKMask())
    (True, False)
    """
    return arguments.is_whole(mask.get_config().get("seed"))


def checked(mask: ArrayLike, path: str = "") -> np.ndarray:
    """Returns the mask as booleans; raises a ValueError for values besides 0 and 1."""
    mask = arguments.array(mask=mask)
    if mask.dtype != bool and not np.isin(mask, (0, 1)).all():
        location = f" for {path!r}" if path else ""
        raise ValueError(
            "A mask must contain only 0 (pruned) and 1 (kept). Received values: "
            f"{np.unique(mask)[:5]}{location}"
        )
    return mask.astype(bool)
