"""What the analysis of a graph knows about its tensors, and which ids are tied."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator

import keras
import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Flow:
    """What the analysis knows about one tensor.

    Args:
        shape: Its shape, None where it is not known.
        axis: The axis along which ids stand. None if nothing of the tensor can be
            removed.
        ids: An id for each position along the axis. Equal ids go together.
        values: The value of each position once its weights are zero. NaN if it is
            finite, but not known or not the same everywhere.
        reason: Why nothing can be removed, if the axis is None.
    """

    shape: tuple[int | None, ...]
    axis: int | None = None
    ids: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, int))
    values: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))
    reason: str = ""

    def map(self, function: Callable) -> "Flow":
        """Returns the flow after a function of single elements.

        Args:
            function: A function of a NumPy array. It is not applied to unknown values.
        """
        values = np.full(self.values.shape, np.nan)
        known = ~np.isnan(self.values)
        if known.any():
            distinct, places = np.unique(self.values[known], return_inverse=True)
            results = np.asarray(function(distinct), float)
            # Neither NaN nor infinity times a weight of zero is zero.
            values[known] = np.where(np.isfinite(results), results, np.inf)[places]
        return dataclasses.replace(self, values=values)

    def finite(self, zero: float = np.nan) -> "Flow":
        """Returns the flow after a step that keeps zeros and finite values.

        Args:
            zero: What becomes of other values: NaN, not known.
        """
        values = np.where((self.values == 0) | np.isinf(self.values), self.values, zero)
        return dataclasses.replace(self, values=values)


class Record:
    """One axis of a variable, as it was found.

    Args:
        variable: The variable.
        axis: The axis.
        ids: An id for each position.
        role: As in `units.Axis`.
        values: As in `units.Axis`.
        parts: How many times all channels stand along the axis one after another.
    """

    def __init__(
        self,
        variable: keras.Variable,
        axis: int,
        ids: np.ndarray,
        role: str,
        values: np.ndarray | None,
        parts: int = 1,
    ) -> None:
        self.variable, self.axis, self.ids = variable, axis, ids
        self.role, self.values, self.parts = role, values, parts


class Ties:
    """Ids, which of them go together, and why some cannot be removed.

    Example:

    >>> ties = Ties()
    >>> first, second = ties.new(2), ties.new(2)
    >>> ties.tie(first, second)
    >>> ties.pin(second[:1], "is an output")
    >>> ties.roots(np.arange(4)).tolist(), ties.reasons
    ([0, 1, 0, 1], {0: 'is an output'})
    """

    def __init__(self) -> None:
        self.parents = np.zeros(1024, int)
        self.count = 0
        # Dict from the root of a class of ids to the reason why it stays.
        self.reasons: dict[int, str] = {}
        self.records: dict[tuple[int, int], Record] = {}

    def new(self, size: int) -> np.ndarray:
        """Returns ids that are tied to no others."""
        ids = np.arange(self.count, self.count + size)
        while self.parents.size < self.count + size:
            self.parents = np.append(self.parents, np.zeros_like(self.parents))
        self.parents[ids] = ids
        self.count += size
        return ids

    def roots(self, ids: np.ndarray) -> np.ndarray:
        """Returns the first id of each id's class."""
        found = self.parents[ids]
        while True:
            higher = self.parents[found]
            if (higher == found).all():
                self.parents[ids] = found
                return found
            found = higher

    def _root(self, number):
        while self.parents[number] != number:
            number = self.parents[number]
        return int(number)

    def tie(self, ids: np.ndarray, others: np.ndarray) -> None:
        """Ties each id to the id at the same position of another array."""
        first, second = self.roots(ids.ravel()), self.roots(others.ravel())
        if first.shape != second.shape:
            raise ValueError(
                f"Received {first.size} and {second.size} ids to tie. Expected as many."
            )
        differ = first != second
        for pair in zip(first[differ].tolist(), second[differ].tolist(), strict=True):
            low, high = sorted(map(self._root, pair))
            if low != high:
                self.parents[high] = low
                if high in self.reasons:
                    self.reasons.setdefault(low, self.reasons.pop(high))

    def pin(self, ids: np.ndarray, reason: str) -> None:
        """Records that ids stay, with the reason. The first reason counts."""
        for root in np.unique(self.roots(ids)).tolist():
            self.reasons.setdefault(root, reason)

    def record(
        self,
        variable: keras.Variable,
        axis: int,
        ids: np.ndarray,
        role: str,
        values: np.ndarray | None = None,
        parts: int = 1,
    ) -> None:
        """Records that ids stand along an axis; ties them if others stand there.

        Args:
            variable: The variable.
            axis: The axis.
            ids: An id for each position.
            role: "out", "in", "vector" or "state".
            values: For the role "in", the values of the flow that is read.
            parts: How many times all channels stand along the axis one after another.
        """
        axis %= len(variable.shape)
        if ids.size != variable.shape[axis]:
            raise ValueError(
                f"Axis {axis} of the variable {variable.path!r} has "
                f"{variable.shape[axis]} positions. Received {ids.size} ids. A rule "
                "must give one id for each position."
            )
        earlier = self.records.get((id(variable), axis))
        if earlier is None:
            row = Record(variable, axis, ids, role, values, parts)
            self.records[id(variable), axis] = row
        else:
            self.tie(earlier.ids, ids)
            if earlier.values is None:
                # What produces a unit may also read it, as tied embeddings do.
                earlier.values = values
            elif values is not None:
                same = earlier.values == values
                earlier.values = np.where(same, values, earlier.values + np.nan)

    def recorded(self, variable: keras.Variable, axis: int) -> np.ndarray | None:
        """Returns the ids along an axis, None if there are none yet."""
        row = self.records.get((id(variable), axis % len(variable.shape)))
        return None if row is None else row.ids


def flows_in(structure: object) -> Iterator[Flow]:
    """Yields the flows in nested arguments.

    Example:

    >>> [flow.shape for flow in flows_in(([Flow((None, 2))], {"training": False}))]
    [(None, 2)]
    """
    leaves: Iterable = keras.tree.flatten(structure)
    return (leaf for leaf in leaves if isinstance(leaf, Flow))
