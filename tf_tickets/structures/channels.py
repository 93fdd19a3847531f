"""Channels: whole outputs of layers, with everything that belongs to them.

A unit is pruned in all variables at once: in the kernels that produce it, in their
biases, in the normalizations behind them and in the kernels that read it. All readers
then receive exact zeros, and the unit can be removed from the network.
"""

import dataclasses
import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple, Self

import keras
import numpy as np

from tf_tickets import arguments
from tf_tickets.structures.structure import Layout, Structure, Tables
from tf_tickets.units.finding import find
from tf_tickets.units.units import STAYS, Units

# Axes by which a unit is seen to be kept: its own parameters, not those of its readers.
_OWN = ("out", "vector")
_ROLES = ("out", "in", "vector")


@keras.saving.register_keras_serializable("tf_tickets")
@dataclasses.dataclass(frozen=True)
class Channels(Structure):
    """Prunes units: channels of convolutions, outputs of dense layers, heads.

    Units are removed with everything that belongs to them, so that
    `tf_tickets.compact` returns a smaller network with the same predictions. Units
    that a residual connection adds are one unit. `tf_tickets.find_units` lists them.

    Args:
        round_to: Every group of units keeps a multiple of this number, or all. The
            best of the units that would be pruned are kept instead.
        floor: Fraction of each group that is always kept.
        minimum: Number of units of each group that are always kept.
        spared: Set by `wrap`: which of the prunable variables, counted from 0 in the
            order of `tf_tickets.kernels`, are kernels whose outputs stay, though their
            inputs may be pruned. Structures that differ in nothing else are equal.

    Example:

    >>> Channels(round_to=8).floor
    0.1
    >>> Channels(spared=(7,)) == Channels()
    True
    """

    round_to: int = 1
    floor: float = 0.1
    minimum: int = 1
    spared: tuple[int, ...] = dataclasses.field(default=(), compare=False, repr=False)

    def __post_init__(self):
        arguments.check_counts(round_to=self.round_to, minimum=self.minimum)
        arguments.check_between(0.0, 1.0, floor=self.floor)
        spared = tuple(arguments.listed(int, spared=self.spared))
        object.__setattr__(self, "spared", spared)

    @property
    def name(self) -> str:
        return "channels"

    @property
    def most_sparse(self) -> float:
        return 1.0 - self.floor

    @property
    def remedy(self) -> str:
        return "wrap with a lower floor, such as tf_tickets.Channels(floor=0.0)"

    def layout(
        self,
        model: keras.Model,
        variables: Mapping[str, keras.Variable],
        owners: Mapping[str, keras.layers.Layer],
    ) -> "ChannelLayout":
        units = find(model, variables)
        chosen = [p for i, p in enumerate(variables) if i not in self.spared]
        layout = ChannelLayout.of(self, units, chosen)
        if not layout.size:
            reasons = [f"{row.path}: {row.reason}" for row in units.pinned]
            raise ValueError(
                f"Model {model.name!r} has no units that can be pruned as channels. "
                f"Received a {type(model).__name__}. What stays, and why: "
                f"{reasons or 'it has no layers that produce channels'}. Wrap a "
                "functional or Sequential model."
            )
        missing = layout.paths - set(variables)
        if missing:
            raise ValueError(
                f"Channels of model {model.name!r} cannot be pruned, since variables "
                "that belong to them have no masks, and would pass other values on "
                f"than zeros. Received a model without masks of {sorted(missing)}. "
                "Wrap the whole model: tf_tickets.wrap(model, structure='channels')."
            )
        return layout

    def restored_layout(self, content: dict[str, Any]) -> "ChannelLayout":
        return ChannelLayout.restored(self, content)

    def get_config(self):
        return {**super().get_config(), "spared": list(self.spared)}


class Slices(NamedTuple):
    """One axis of a variable along which slices belong to units.

    Args:
        path: Path of the variable in the plain model.
        shape: Its shape.
        axis: The axis.
        ids: The unit of each position, `STAYS` where it cannot be pruned.
        role: "out", "in" or "vector", as in `tf_tickets.units.units.Axis`.
    """

    path: str
    shape: tuple[int, ...]
    axis: int
    ids: np.ndarray
    role: str


class ChannelLayout(Layout):
    """The units of one model, in a table for each group.

    Args:
        structure: The settings.
        groups: Dict from a group's name to the numbers of its units.
        slices: The axes of the variables that have slices of these units.
        numbers: The number of each unit among all units of the model.

    Example:

    >>> slices = Slices("d/kernel", (3, 4), 1, np.arange(4), "out")
    >>> groups = {"d/kernel": np.arange(4)}
    >>> layout = ChannelLayout(Channels(floor=0.3), groups, (slices,), np.arange(4))
    >>> layout.fewest({"d/kernel": np.ones(4, bool)})
    {'d/kernel': 2}
    """

    noun = "unit"

    def __init__(
        self,
        structure: Channels,
        groups: Mapping[str, np.ndarray],
        slices: Iterable[Slices],
        numbers: np.ndarray,
    ) -> None:
        self.structure = structure
        self.groups = dict(groups)
        self.slices = tuple(slices)
        self.numbers = numbers
        self.size = numbers.size

    @classmethod
    def of(
        cls,
        structure: Channels,
        units: Units,
        chosen: Collection[str],
    ) -> Self:
        """Returns the layout of the units that may be pruned.

        Args:
            structure: The settings.
            units: All units of a model.
            chosen: Paths of the kernels whose outputs may be pruned. Units that
                another kernel produces too stay.
        """
        producers = [axis for axis in units.axes if axis.role == "out"]
        prunable = np.zeros(units.size, bool)
        for axis in producers:
            prunable[_units_of(axis.ids)] |= axis.path in chosen
        for axis in producers:
            prunable[_units_of(axis.ids)] &= axis.path in chosen
        new = np.append(np.where(prunable, np.cumsum(prunable) - 1, STAYS), STAYS)
        groups = {n: _units_of(new[numbers]) for n, numbers in units.groups.items()}
        slices = [
            Slices(a.path, tuple(a.variable.shape), a.axis, new[a.ids], a.role)
            for a in units.axes
            if a.role != "state"
        ]
        return cls(
            structure,
            {name: numbers for name, numbers in groups.items() if numbers.size},
            [row for row in slices if _units_of(row.ids).size],
            np.flatnonzero(prunable),
        )

    @property
    def paths(self) -> set[str]:
        """The paths of all variables that have slices of these units."""
        return {row.path for row in self.slices}

    @property
    def producers(self) -> set[str]:
        """The paths of the kernels that produce these units."""
        return {row.path for row in self.slices if row.role == "out"}

    @property
    def gammas(self) -> list[Slices]:
        """The factors of the normalizations that read units."""
        return [row for row in self.slices if _name(row.path) == "gamma"]

    @property
    def gates(self) -> list[tuple[Slices, np.ndarray]]:
        """The slices that scale what a unit passes on, once on each path.

        These are gamma and beta of the normalizations that read a unit, or else the
        outputs of its kernels and their biases. Returns them with a boolean for each
        position.
        """
        gammas = self.gammas
        scopes = {row.path.rpartition("/")[0] for row in gammas}
        normalized = np.zeros(self.size + 1, bool)
        for row in gammas:
            normalized[row.ids] = True
        rows = []
        for row in self._slices_in({row.path for row in self.slices}, _OWN):
            inside = row.path.rpartition("/")[0] in scopes
            is_gate = inside and _name(row.path) in ("gamma", "beta")
            is_depthwise = row.role == "vector" and len(row.shape) > 1
            counted = (row.ids != STAYS) & (normalized[row.ids] == is_gate)
            if counted.any() and not is_depthwise and not _is_statistic(row.path):
                rows.append((row, counted))
        return rows

    def units(self, masks: Tables) -> Tables:
        """Returns which units have a kept weight in the parameters that produce them.

        Args:
            masks: Dict from path to mask; some variables may be missing.
        """
        kept = np.zeros(self.size, bool)
        for row in self._slices_in(masks, _OWN):
            here = row.ids != STAYS
            some = masks[row.path].any(_others(masks[row.path], row.axis))
            np.logical_or.at(kept, row.ids[here], some[here])
        return self.tables(kept)

    def known(self, masks: Tables) -> np.ndarray:
        """Returns which units some masks decide on: those with parameters among them.

        Args:
            masks: Dict from path to mask; some variables may be missing.
        """
        known = np.zeros(self.size + 1, bool)
        for row in self._slices_in(masks, _OWN):
            known[row.ids] = True
        return known[:-1]

    def scores(self, scores: Tables, masks: Tables) -> Tables:
        """Returns the mean size of a unit's slices, relative to others of their axis.

        The size of a slice is the sum of its squared scores. A negative score counts
        negatively. Moving statistics do not count, and neither does an axis of zeros,
        such as that of new biases.

        Args:
            scores: Dict from path to the scores of the weights.
            masks: Dict from path to the present mask.
        """
        kept = np.append(self.flat(self.units(masks)), True)
        # The last entry collects positions that stay.
        sums, slices = np.zeros(self.size + 1), np.zeros(self.size + 1)
        for row in self._slices_in(scores, _ROLES):
            if _is_statistic(row.path):
                continue
            sizes = _sizes(scores[row.path], row.axis)
            mean = np.abs(sizes[kept[row.ids]]).mean() if kept[row.ids].any() else 0
            if mean > 0 or np.isnan(mean):
                np.add.at(sums, row.ids, sizes / mean)
                np.add.at(slices, row.ids, 1)
        return self.tables(sums[:-1] / np.maximum(slices[:-1], 1))

    def masks(self, units: Tables, masks: Tables) -> Tables:
        """Returns masks that prune all slices of the pruned units.

        Args:
            units: Which units are kept.
            masks: Dict from path to the present mask; the new masks are nested in it.
        """
        # The last entry is that of `STAYS`.
        kept = np.append(self.flat(units), True)
        new = {path: np.array(mask, bool) for path, mask in masks.items()}
        for row in self._slices_in(masks, _ROLES):
            shape = [1] * len(row.shape)
            shape[row.axis] = -1
            new[row.path] &= kept[row.ids].reshape(shape)
        return new

    def fewest(self, units: Tables) -> dict[str, int]:
        """Returns how many units of each group must be kept.

        Args:
            units: Which units are still there.
        """
        return {
            name: min(int(alive.sum()), self._floor(alive.size))
            for name, alive in units.items()
        }

    def _floor(self, size):
        """Returns how many units of a group of this size are always kept."""
        settings = self.structure
        # 0.07 * 100 is slightly more than 7 in floating point.
        return max(settings.minimum, math.ceil(settings.floor * size - 1e-9))

    @property
    def kept_whole(self) -> dict[str, int]:
        """The sizes of groups that could lose units, but for `round_to`."""
        step = self.structure.round_to
        floors = {name: self._floor(ids.size) for name, ids in self.groups.items()}
        return {
            name: ids.size
            for name, ids in self.groups.items()
            if floors[name] < ids.size <= -(-floors[name] // step) * step
        }

    def protect(
        self, scores: Tables, units: Tables, kept: Tables | None = None
    ) -> Tables:
        """Returns the scores, infinite for the best units of each group.

        Args:
            scores: The scores of the units.
            units: The units to choose from.
            kept: Units that are kept in any case, beside which others are chosen.
        """
        new = {}
        for name, number in self.fewest(units).items():
            values = np.array(scores[name], "float64")
            beside = np.zeros(values.size, bool) if kept is None else kept[name]
            missing = max(0, number - int(beside.sum()))
            order = _best_first(values, units[name] & ~beside)
            values[order[:missing]] = np.inf
            new[name] = values
        return new

    def rounded(self, kept: Tables, scores: Tables, alive: Tables) -> Tables:
        """Gives the best of the pruned units back, up to a multiple of `round_to`.

        Args:
            kept: Which units are kept.
            scores: The scores of the units.
            alive: Which units were still there.
        """
        step = self.structure.round_to
        if step == 1:
            return kept
        new = {}
        for name, mask in kept.items():
            count = int(mask.sum())
            missing = min(-count % step, int(alive[name].sum()) - count)
            order = _best_first(scores[name], alive[name] & ~mask)
            new[name] = mask.copy()
            new[name][order[:missing]] = True
        return new

    def queue(
        self, scores: Tables, alive: Tables, allocation: str = "global"
    ) -> np.ndarray:
        """Returns the numbers of the units, from the last to be pruned to the first.

        The best units of each group come first, as many as it must keep.

        Args:
            scores: The scores of the units.
            alive: Which units are still there.
            allocation: "global" ranks all units together; "uniform" prunes the same
                fraction of each group.
        """
        protected = self.flat(self.protect(scores, alive))
        if np.isnan(protected).any():
            raise ValueError(
                "Scores must not contain NaN. Received: NaN. Diverged training (loss "
                "NaN) results in NaN weights; lower the learning rate."
            )
        keys = -protected
        if allocation == "uniform":
            for name, numbers in self.groups.items():
                order = _best_first(scores[name], alive[name])
                # The middle of a unit's share of its group, as each group is rounded.
                shares = (np.arange(order.size) + 0.5) / alive[name].size
                keys[numbers[order]] = shares
            keys[np.isposinf(protected)] = -np.inf
        numbers = np.argsort(keys, kind="stable")
        return numbers[self.flat(alive)[numbers]]

    def first(
        self, queue: np.ndarray, count: int, scores: Tables, alive: Tables
    ) -> Tables:
        """Returns the first units of a queue, with the widths rounded.

        Args:
            queue: What `queue` returned.
            count: How many units are kept, before rounding.
            scores: The scores of the units.
            alive: Which units were still there.
        """
        kept = np.zeros(self.size, bool)
        kept[queue[:count]] = True
        return self.rounded(self.tables(kept), scores, alive)

    def tables(self, values: np.ndarray) -> Tables:
        """Returns one value for each unit as tables by group."""
        return {name: values[ids] for name, ids in self.groups.items()}

    def flat(self, tables: Mapping[str, np.ndarray]) -> np.ndarray:
        """Returns tables by group as one array with an entry for each unit."""
        groups = self.groups
        dtype = np.result_type(*(tables[name].dtype for name in groups))
        values = np.zeros(self.size, dtype)
        for name, ids in groups.items():
            values[ids] = tables[name]
        return values

    def content(self) -> dict[str, Any]:
        """Returns what a ticket stores: groups, and which slices belong to units."""
        return {
            "units": _runs(self.numbers),
            "groups": {name: _runs(ids) for name, ids in self.groups.items()},
            "slices": [
                [row.path, list(row.shape), row.axis, _runs(row.ids), row.role]
                for row in self.slices
            ],
        }

    @classmethod
    def restored(cls, structure: Channels, content: dict[str, Any]) -> Self:
        """Returns the layout whose `content` was stored."""
        return cls(
            structure,
            {name: _from_runs(runs) for name, runs in content["groups"].items()},
            [
                Slices(path, tuple(shape), axis, _from_runs(runs), role)
                for path, shape, axis, runs, role in content["slices"]
            ],
            _from_runs(content["units"]),
        )

    def _slices_in(self, tables, roles):
        return [row for row in self.slices if row.path in tables and row.role in roles]


def _runs(ids):
    """Returns ids as pairs of a first id and how many follow one another.

    Example:

    >>> _runs(np.array([3, 4, 5, STAYS, STAYS, 0]))
    [[3, 3], [-1, 2], [0, 1]]
    """
    runs: list[list[int]] = []
    for number in ids.tolist():
        if runs and number == _next(runs[-1]):
            runs[-1][1] += 1
        else:
            runs.append([number, 1])
    return runs


def _next(run):
    first, length = run
    return STAYS if first == STAYS else first + length


def _from_runs(runs):
    """Returns the ids of `_runs`.

    Example:

    >>> _from_runs([[3, 3], [-1, 2], [0, 1]]).tolist()
    [3, 4, 5, -1, -1, 0]
    """
    parts = [
        np.full(length, STAYS) if first == STAYS else np.arange(first, first + length)
        for first, length in runs
    ]
    return np.concatenate([np.zeros(0, int), *parts]).astype(int)


def _units_of(ids):
    """Returns the ids without positions that stay."""
    return ids[ids != STAYS]


def _name(path):
    """Returns the name of a variable, without its running number."""
    return path.rpartition("/")[2].partition("#")[0]


def _is_statistic(path):
    return _name(path).startswith("moving_")


def _others(array, axis):
    return tuple(other for other in range(array.ndim) if other != axis)


def _sizes(scores, axis):
    """Returns the sums of the signed squares of the slices along an axis."""
    scores = np.asarray(scores)
    return np.sum(scores * np.abs(scores), _others(scores, axis), dtype="float64")


def _best_first(scores, candidates):
    """Returns the positions of candidates by falling score, ties by position."""
    positions = np.flatnonzero(candidates)
    return positions[np.argsort(-scores[positions], kind="stable")]
