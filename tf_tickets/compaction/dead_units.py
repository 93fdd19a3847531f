"""Finds the units that add nothing to the outputs of a model."""

import collections
import dataclasses
from collections.abc import Callable

import keras
import numpy as np

from tf_tickets import wrapping
from tf_tickets.compaction import readers, zeros
from tf_tickets.compaction.constants import Constants
from tf_tickets.units import registry
from tf_tickets.units.units import STAYS, Axis, Units, kept
from tf_tickets.wrapping import paths

_VARIES = "its value may differ between inputs or positions"


@dataclasses.dataclass(frozen=True)
class Kept:
    """Units that seem to be dead, but stay.

    Args:
        group: Their group, the path of the first kernel that produces them.
        count: How many.
        reason: Why they stay.

    Example:

    >>> Kept("conv/kernel", 2, "padding 'same'").count
    2
    """

    group: str
    count: int
    reason: str


@dataclasses.dataclass(frozen=True)
class DeadUnits:
    """What can be removed from a model, and what must be added to keep its outputs.

    Args:
        keep: A boolean for each unit: whether it stays.
        folds: Pairs of a layer and what to add to its bias.
        kept: Units without a way in that stay, and why.
        counting: Which weights count, by the id of their variable.
    """

    keep: np.ndarray
    folds: list[tuple[keras.layers.Layer, np.ndarray]]
    kept: list[Kept]
    counting: dict[int, np.ndarray]


def find(model: keras.Model, units: Units, run: Callable[[], Constants]) -> DeadUnits:
    """Finds the dead units of a model.

    A unit is dead if each kernel that reads it satisfies one of these:

    - it reads the unit with zeros only, apart from weights to other dead units;
    - the unit is zero there;
    - the unit is constant there, and the layer can add the constant to its bias.

    Each axis of a variable keeps at least one position.

    Args:
        model: A plain or wrapped model. Its masks are not learned.
        units: Its units.
        run: Function that runs the model and returns its constant channels. It is
            called only if there are units without a way in.
    """
    counting = zeros.nonzeros(model)
    search = _Search(model, units, counting)
    keep = search.dead()
    if search.no_way_in(keep).any():
        search.constants = [run()]
        with zeros.replaced(model, counting) as changed:
            if changed:
                search.constants.append(run())
        keep = search.dead()
    return DeadUnits(keep, search.folds(keep), search.reasons(keep), counting)


def likely(model: keras.Model, units: Units) -> np.ndarray:
    """Returns a boolean for each unit: whether it has no way in or no way out.

    Such units are dead, unless a constant remains that no bias can take over. `find`
    runs the model to tell them apart.

    Args:
        model: A plain or wrapped model. Its masks are not learned.
        units: Its units.
    """
    search = _Search(model, units, zeros.nonzeros(model))
    keep = search.dead()
    return ~keep | search.no_way_in(keep)


class _Search:
    def __init__(self, model, units, counting):
        self.units = units
        # Of the model, and of one in which no weight is zero that is not pruned.
        self.constants: list[Constants] = []
        self.counting = counting
        self.scales = wrapping.kernels(model).scales
        self.axes: dict[int, list[Axis]] = collections.defaultdict(list)
        for axis in units.axes:
            self.axes[id(axis.variable)].append(axis)
        self.owners: dict[int, list[keras.layers.Layer]] = collections.defaultdict(list)
        for leaf in wrapping.leaves(model):
            for owned in paths.variables_of(leaf):
                self.owners[id(owned.variable)].append(registry.unwrapped(leaf))
        self.readers = [axis for axis in units.axes if axis.values is not None]
        self.zero_slices = self._zero_slices()

    def dead(self) -> np.ndarray:
        """Returns which units stay."""
        self.forced = np.zeros(self.units.size, bool)
        while True:
            keep = self._fixpoint(self.forced)
            empty = [axis for axis in self.units.axes if not kept(keep, axis.ids).any()]
            if not empty:
                return keep
            # A layer without outputs does not exist: one of its units stays.
            self.forced[[axis.ids.min() for axis in empty]] = True

    def _fixpoint(self, forced):
        keep = np.ones(self.units.size, bool)
        while True:
            harmless = np.ones(self.units.size, bool)
            no_way_in = self.no_way_in(keep) if self.constants else ~harmless
            for axis in self.readers:
                self._reject(harmless, axis, self._harmless(axis, keep, no_way_in))
            smaller = keep & ~(harmless & ~forced)
            if (smaller == keep).all():
                return keep
            keep = smaller

    def _harmless(self, axis, keep, no_way_in):
        """Whether each position of an axis may go, as far as this reader knows."""
        result = self._reads_nothing(axis, keep)
        # The rules say what is read once all slices of a unit are zero.
        result |= (np.append(self.zero_slices, False)[axis.ids]) & (axis.values == 0)
        # A unit with a way in may only seem constant, such as a ReLU of small weights.
        certain = np.append(no_way_in, False)[axis.ids]
        constants = np.where(certain, self._constants(axis), np.nan)
        result |= constants == 0
        if self._why_not_folded(axis) is None:
            result |= ~np.isnan(constants)
        return result

    def _reads_nothing(self, axis, keep):
        """Whether the weights of each position are zero, apart from removed ones."""
        nonzero = self.counting[id(axis.variable)]
        for other in self.axes[id(axis.variable)]:
            if other.axis != axis.axis:
                nonzero = np.compress(kept(keep, other.ids), nonzero, axis=other.axis)
        return ~_any_along(nonzero, axis.axis)

    def _reject(self, flags, axis, accepted):
        """Clears the flags of units with a position that is not accepted."""
        here = axis.ids != STAYS
        flags[axis.ids[here & ~accepted]] = False

    def _zero_slices(self):
        """Whether all weights that produce a unit are zero."""
        result = np.ones(self.units.size, bool)
        for axis in self.units.axes:
            if axis.role in ("out", "vector"):
                nonzero = self.counting[id(axis.variable)]
                self._reject(result, axis, ~_any_along(nonzero, axis.axis))
        return result

    def no_way_in(self, keep) -> np.ndarray:
        """Returns which of the units that stay may be constant.

        All kernels that produce such a unit do so from other such units only, or are
        multiplied by a factor of zero.
        """
        found = np.zeros(self.units.size, bool)
        while True:
            more = self._without_way_in(keep & ~found) & keep
            if (more == found).all():
                return found
            found = more

    def _without_way_in(self, keep):
        """Returns which units are produced from no unit that is kept."""
        # Each kernel of a residual sum needs a factor of zero of its own.
        ways, closed = np.zeros((2, self.units.size), int)
        for axis in self.units.axes:
            is_factor = axis.role == "vector" and zeros.multiplies(axis.variable)
            if axis.role == "out" or is_factor:
                nothing = self._reads_nothing(axis, keep)
                here = (axis.ids != STAYS) & (nothing if is_factor else ~nothing)
                counts = closed if is_factor else ways
                counts[np.unique(axis.ids[here])] += 1
        return ways <= closed

    def _layer(self, axis):
        """Returns the layer that reads the axis, None if there are several."""
        layers = self.owners[id(axis.variable)]
        return layers[0] if len(layers) == 1 else None

    def _why_not_folded(self, axis):
        layer = self._layer(axis)
        if layer is None:
            return "several layers read it"
        return readers.why_not_folded(layer)

    def _constants(self, axis):
        """Returns the value of each position in all calls, NaN if it is not known."""
        layer = self._layer(axis)
        nothing = np.full(axis.ids.size, np.nan)
        if not isinstance(layer, readers.READERS):
            return nothing
        rows = [
            [readers.by_kernel(layer, values) for values in constants.read_by(layer)]
            for constants in self.constants
        ]
        if not rows or not rows[0]:
            return nothing
        first = rows[0][0]
        same = np.all([row == first for row in rows[0]], axis=0)
        known = ~np.isnan(rows).any(axis=(0, 1))
        return np.where(same & known, first, np.nan)

    def folds(self, keep) -> list[tuple[keras.layers.Layer, np.ndarray]]:
        """Returns what the removed units add to the biases of their readers."""
        result = []
        for axis in self.readers:
            removed = ~kept(keep, axis.ids)
            constants = np.where(removed, np.nan_to_num(self._constants(axis)), 0.0)
            # Weights to units that are removed too may read anything.
            constants[self._reads_nothing(axis, keep)] = 0.0
            if constants.any():
                layer = self._layer(axis)
                kernel = wrapping.to_numpy(axis.variable)
                kernel = np.where(self.counting[id(axis.variable)], kernel, 0)
                kernel = kernel * self.scales.get(axis.path, 1.0)
                result.append((layer, readers.response(layer, kernel, constants)))
        return result

    def reasons(self, keep) -> list[Kept]:
        """Returns why units without a way in stay, and units that are not used."""
        no_way_in = self.no_way_in(keep)
        found: dict[tuple[str, str], set[int]] = collections.defaultdict(set)
        names = self.units.names()
        for axis in self.readers:
            stuck = np.append(no_way_in, False)[axis.ids]
            stuck &= ~self._harmless(axis, keep, no_way_in)
            unknown = np.isnan(self._constants(axis))
            why = self._why_not_folded(axis)
            for numbers, reason in (
                (axis.ids[stuck & ~unknown], f"reads a constant: {why}"),
                (axis.ids[stuck & unknown], f"reads it: {why or _VARIES}"),
            ):
                for number in numbers.tolist():
                    found[names[number], f"{axis.path} {reason}"].add(number)
        for number in np.flatnonzero(self.forced).tolist():
            found[names[number], "the last one of its layer"].add(number)
        return [Kept(name, len(n), reason) for (name, reason), n in found.items()]


def _any_along(array, axis):
    others = tuple(i for i in range(array.ndim) if i != axis)
    return array.any(axis=others)
