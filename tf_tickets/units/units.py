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
            statistics, which need no mask.
        values: What the slices are multiplied by when the other slices of the unit are
            zero: a number for each position, NaN if it is finite and not known. None
            if the variable does not read the unit. Tied weights produce some units and
            read them too.
    """

    path: str
    variable: keras.Variable
    axis: int
    ids: np.ndarray
    role: str
    values: np.ndarray | None = None


class Pinned(NamedTuple):
    """A variable whose outputs cannot be removed, and why."""

    path: str
    reason: str


class TensorUnits(NamedTuple):
    """The units of one symbolic tensor of the model.

    Args:
        tensor: The tensor.
        axis: The axis along which units stand, None if nothing can be removed.
        ids: The unit of each position along the axis.
    """

    tensor: keras.KerasTensor
    axis: int | None
    ids: np.ndarray

    def shape(self, keep: np.ndarray) -> tuple[int | None, ...]:
        """Returns the shape of the tensor that remains.

        Args:
            keep: A boolean for each unit.
        """
        sizes = list(self.tensor.shape)
        if self.axis is not None:
            sizes[self.axis] = int(kept(keep, self.ids).sum())
        return tuple(sizes)


class Units:
    """The units of a model. They are numbered in the order of the graph.

    Args:
        groups: Dict from a group's name, the path of the first kernel that produces
            its units, to their numbers: ascending, and each in one group.
        axes: The axes of variables whose slices belong to units.
        pinned: Kernels whose outputs stay, and why.
        tensors: Dict from the id of a symbolic tensor of the model to its units.
        widths: Dict from the path of a kernel to the number of its outputs. Those of
            recurrent layers are units, which have a column for each gate, and those of
            the projections of attention are heads.

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
        tensors: Mapping[int, TensorUnits] | None = None,
        widths: Mapping[str, int] | None = None,
    ) -> None:
        self.groups = dict(groups)
        self.axes = axes
        self.pinned = pinned
        self.tensors = dict(tensors or {})
        self.widths = dict(widths or {})

    def __repr__(self) -> str:
        if not self.groups:
            return "Units(no units)"
        sizes = ", ".join(f"{name}: {ids.size}" for name, ids in self.groups.items())
        count = len(self.groups)
        plural = "" if count == 1 else "s"
        return f"Units({self.size} units in {count} group{plural}: {sizes})"

    @property
    def size(self) -> int:
        """Number of units."""
        return sum(numbers.size for numbers in self.groups.values())

    def names(self) -> np.ndarray:
        """Returns the name of each unit's group."""
        names = np.empty(self.size, object)
        for name, numbers in self.groups.items():
            names[numbers] = name
        return names

    def masks(self, keep: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the masks of all variables that have slices of units.

        A weight is kept if the units of all its axes are kept.

        Args:
            keep: A boolean for each unit.
        """
        masks: dict[str, np.ndarray] = {}
        for path, variable, axis, ids, role, _ in self.axes:
            if role != "state":
                shape = [1] * len(variable.shape)
                shape[axis] = -1
                mask = masks.get(path, np.ones(tuple(variable.shape), bool))
                masks[path] = mask & kept(keep, ids).reshape(shape)
        return masks

    def positions(self, keep: np.ndarray) -> dict[int, dict[int, np.ndarray]]:
        """Returns which positions of variables remain.

        Args:
            keep: A boolean for each unit.

        Returns:
            Dict from the id of a variable to a dict from axis to a boolean for each
            position along it.
        """
        positions: dict[int, dict[int, np.ndarray]] = {}
        for axis in self.axes:
            rows = positions.setdefault(id(axis.variable), {})
            rows[axis.axis] = kept(keep, axis.ids)
        return positions


def kept(keep: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Returns a boolean for each id: whether its unit is kept.

    Args:
        keep: A boolean for each unit.
        ids: Numbers of units, or `STAYS`.

    Example:

    >>> kept(np.array([True, False]), np.array([1, 0, STAYS])).tolist()
    [False, True, True]
    """
    # The last entry is that of `STAYS`.
    return np.append(np.asarray(keep, bool), True)[ids]


def remaining(array: np.ndarray, positions: Mapping[int, np.ndarray]) -> np.ndarray:
    """Returns an array at the positions that remain along some of its axes.

    Args:
        array: The array.
        positions: Dict from axis to a boolean for each position, as in
            `Units.positions`.

    Example:

    >>> remaining(np.arange(4).reshape(2, 2), {1: np.array([False, True])}).tolist()
    [[1], [3]]
    """
    for axis, here in positions.items():
        array = np.compress(here, array, axis)
    return array
