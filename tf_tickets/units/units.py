"""The units of a model, and the variables whose slices belong to them."""

from collections.abc import Mapping
from typing import NamedTuple

import keras
import numpy as np

# The unit of a position that cannot be removed.
STAYS = -1


class Axis(NamedTuple):
    """One axis of a variable along which slices belong to units.

    Args:
        path: Path of the variable in the plain model.
        variable: The variable.
        axis: The axis, 0 or more.
        ids: The unit of each position along the axis, `STAYS` where it cannot be
            removed. A unit may stand at several positions.
        role: "out" if the slices produce the unit, "in" if they read it, "vector" for
            parameters by unit, such as biases and gammas, and "state" for moving
            statistics.
    """

    path: str
    variable: keras.Variable
    axis: int
    ids: np.ndarray
    role: str


class Pinned(NamedTuple):
    """A variable whose outputs cannot be removed, and why."""

    path: str
    reason: str


class Units:
    """The units of a model. They are numbered in the order of the graph.

    Args:
        groups: Dict from a group's name, the path of the first kernel that produces
            its units, to their numbers: ascending, and each in one group.
        axes: The axes of variables whose slices belong to units.
        pinned: Kernels whose outputs stay, and why.

    Example:

    >>> kernel = keras.Variable(np.ones((3, 2)))
    >>> axis = Axis("d/kernel", kernel, 1, np.array([0, 1]), "out")
    >>> units = Units({"d/kernel": np.arange(2)}, (axis,))
    >>> units.masks(np.array([True, False]))["d/kernel"].tolist()
    [[True, False], [True, False], [True, False]]
    """

    def __init__(
        self,
        groups: Mapping[str, np.ndarray],
        axes: tuple[Axis, ...],
        pinned: tuple[Pinned, ...] = (),
    ) -> None:
        self.groups = dict(groups)
        self.axes = axes
        self.pinned = pinned

    @property
    def size(self) -> int:
        """Number of units."""
        return sum(numbers.size for numbers in self.groups.values())

    def masks(self, keep: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the masks of all variables that have slices of units.

        A weight is kept if the units of all its axes are kept.

        Args:
            keep: A boolean for each unit.
        """
        # The last entry is that of `STAYS`.
        kept = np.append(np.asarray(keep, bool), True)
        masks: dict[str, np.ndarray] = {}
        for path, variable, axis, ids, _ in self.axes:
            shape = [1] * len(variable.shape)
            shape[axis] = -1
            mask = masks.get(path, np.ones(tuple(variable.shape), bool))
            masks[path] = mask & kept[ids].reshape(shape)
        return masks
