"""Targets: how much of a network's cost remains when units are pruned.

Pruning units removes rows and columns of kernels, so the parameters and multiply-adds
that remain are no fixed multiple of the units that remain. A target is therefore met
by bisection on the number of units, in the order of their scores.
"""

import dataclasses
from collections.abc import Mapping
from typing import Protocol, cast

import keras
import numpy as np

from tf_tickets import arguments
from tf_tickets.pruning import allocation as allocations
from tf_tickets.pruning import criteria, selection
from tf_tickets.reports.costs import CostCounter
from tf_tickets.structures.channels import ChannelLayout
from tf_tickets.structures.structure import Structure, Tables
from tf_tickets.training import checks
from tf_tickets.units.finding import find
from tf_tickets.units.units import Units
from tf_tickets.wrapping import Kernels, plain_paths

MEASURES = ("macs", "params")
# The allocations that define an order of all units.
_ORDERED = {allocations.global_: "global", allocations.uniform: "uniform"}


@dataclasses.dataclass(frozen=True)
class Target:
    """The fraction of a network's cost that remains.

    Args:
        measure: "macs" for multiply-adds, "params" for parameters.
        fraction: The fraction that remains, between 0 and 1.

    Example:

    >>> Target.get({"macs": 0.25}).after(0.5)
    Target(measure='macs', fraction=0.5)
    """

    measure: str
    fraction: float

    @classmethod
    def get(cls, target: Mapping[str, float]) -> "Target":
        """Returns the target that a dict with one entry defines.

        Example:

        >>> Target.get({"params": 0.5})
        Target(measure='params', fraction=0.5)
        """
        if (
            not isinstance(target, Mapping)
            or len(target) != 1
            or not arguments.is_one_of(next(iter(target)), MEASURES)
        ):
            raise ValueError(
                "`target` must be a dict with one entry, 'macs' or 'params', such as "
                "{'macs': 0.5} to keep half of the multiply-adds. Received: "
                f"{arguments.shown(target)}"
            )
        measure, fraction = next(iter(target.items()))
        valid = arguments.is_real(fraction) and 0.0 < fraction < 1.0
        if not valid:
            raise ValueError(
                "`target` must be the fraction that remains, between 0 and 1. "
                f"Received: {arguments.shown(target)}"
            )
        return cls(measure, float(fraction))

    def after(self, way: float) -> "Target":
        """Returns the target after a part of the way.

        Args:
            way: Progress from 0 to 1. Equal steps remove equal fractions of the rest.
        """
        return Target(self.measure, self.fraction**way)

    def in_proportion(self, way: float) -> "Target":
        """Returns the target after a part of the way.

        Args:
            way: Progress from 0 to 1. Equal steps remove equal fractions of the whole.
        """
        return Target(self.measure, 1.0 - (1.0 - self.fraction) * way)


class CostBudget:
    """Selects the units of a model by the cost of the network that remains.

    Args:
        model: A model wrapped with channels.
        units: All units of the model.
        layout: The units that may be pruned.
        measure: "macs" or "params".
    """

    def __init__(
        self, model: keras.Model, units: Units, layout: ChannelLayout, measure: str
    ) -> None:
        self.layout = layout
        self.measure = measure
        self._all = np.ones(units.size, bool)
        self._counter = CostCounter(model, units)
        self.dense = int(getattr(self._counter.dense, measure))
        if measure == "macs" and self._counter.unknown:
            raise ValueError(_unknown(model, self._counter.unknown))
        if not self.dense:
            raise ValueError(
                f"Model {model.name!r} has no multiply-adds. Received: a target for "
                "'macs'. Use {'params': ...} or a sparsity."
            )

    def remaining(self, units: Tables) -> float:
        """Returns the fraction of the cost that remains.

        Args:
            units: Which units are kept.
        """
        return self._cost(units) / self.dense

    def smallest(self, scores: Tables, alive: Tables) -> float:
        """Returns the smallest fraction that pruning can reach.

        Args:
            scores: The scores of the units.
            alive: Which units are still there.
        """
        fewest = sum(self.layout.fewest(alive).values())
        queue = self.layout.queue(scores, alive)
        return self.remaining(self.layout.first(queue, fewest, scores, alive))

    def check(self, fraction: float, alive: Tables) -> None:
        """Refuses a fraction that pruning cannot reach.

        Args:
            fraction: The fraction that is to remain.
            alive: Which units are still there.
        """
        equal = {name: mask.astype("float64") for name, mask in alive.items()}
        smallest = self.smallest(equal, alive)
        if smallest > fraction:
            settings = self.layout.structure
            raise ValueError(
                f"The target cannot be reached. Received: {{{self.measure!r}: "
                f"{fraction:g}}}. The smallest possible fraction is {smallest:.4f}, "
                f"with {settings!r} and what is pinned. Choose a larger target, a "
                "lower `floor`, or let `filters` choose more layers."
            )

    def select(
        self, scores: Tables, alive: Tables, fraction: float, allocation: str = "global"
    ) -> Tables:
        """Returns the largest selection of units that costs at most a fraction.

        Units are kept in the order of their scores. Floors and rounding are part of
        each selection. If even the smallest selection costs more, it is returned.

        Args:
            scores: The scores of the units.
            alive: Which units are still there.
            fraction: The fraction of the dense cost that may remain.
            allocation: "global" or "uniform".
        """
        layout = self.layout
        queue = layout.queue(scores, alive, allocation)
        limit = fraction * self.dense * (1 + 1e-12)
        low, high = sum(layout.fewest(alive).values()), queue.size
        while low < high:
            middle = (low + high + 1) // 2
            units = layout.first(queue, middle, scores, alive)
            if self._cost(units) <= limit:
                low = middle
            else:
                high = middle - 1
        return layout.first(queue, low, scores, alive)

    def _cost(self, units):
        keep = self._all.copy()
        keep[self.layout.numbers] = self.layout.flat(units)
        return int(getattr(self._counter.count(keep), self.measure))


def _unknown(model, paths):
    more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    return (
        f"The multiply-adds of {', '.join(paths[:3])}{more} in model {model.name!r} "
        "are unknown, so there is no fraction of them to keep. Received: a target for "
        "'macs'. Give the inputs a fixed size, such as keras.Input((100,)), or use "
        "{'params': ...}, which is also known for layers of your own."
    )


def budget(kernels: Kernels, measure: str) -> CostBudget:
    """Returns the budget of a model wrapped with channels.

    Args:
        kernels: Its prunable kernels.
        measure: "macs" or "params".
    """
    units = find(kernels.graph, plain_paths(kernels.graph))
    layout = cast(ChannelLayout, kernels.layout)
    return CostBudget(kernels.graph, units, layout, measure)


def remaining(kernels: Kernels, masks: Tables) -> dict[str, float | None]:
    """Returns the fractions of the cost that the compact network of a ticket has.

    Args:
        kernels: The prunable kernels of a model.
        masks: Masks of it, by kernel path.

    Returns:
        Dict with the fractions of "macs" and "params", None where unknown. Empty if
        the model has other structures than channels, which make no kernel smaller.

    Example:

    >>> layers = [keras.Input((3,)), keras.layers.Dense(4), keras.layers.Dense(2)]
    >>> model = tt.wrap(keras.Sequential(layers), structure="channels", verbose=False)
    >>> remaining(tt.kernels(model), tt.kernels(model).masks)
    {'macs': 1.0, 'params': 1.0}
    """
    layout, graph = kernels.layout, kernels.graph
    if not isinstance(layout, ChannelLayout):
        return {}
    units = find(graph, plain_paths(graph))
    counter = CostCounter(graph, units)
    dense, left = counter.dense, counter.count(_kept(layout, units, masks))
    known = dense.macs and not counter.unknown
    return {
        "macs": left.macs / dense.macs if known else None,
        "params": left.params / dense.params,
    }


def _kept(layout, units, masks):
    """Returns a boolean for each unit of a model, from masks."""
    keep = np.ones(units.size, bool)
    keep[layout.numbers] = layout.flat(layout.units(masks))
    return keep


def optional(
    target: Mapping[str, float] | None, **replaced: tuple[object, object]
) -> Target | None:
    """Returns a target, or None if there is none.

    Args:
        target: The argument `target` of a search or callback.
        **replaced: The arguments that a target replaces, as pairs of the value and the
            default. Other values than the defaults are refused beside a target.

    Example:

    >>> optional(None, rate=(0.5, 0.2)) is None
    True
    >>> optional({"macs": 0.3}, rate=(0.5, 0.2))
    Traceback (most recent call last):
    ValueError: `target` replaces `rate`. Received: target={'macs': 0.3} and rate=0.5.
        Leave one of them out.
    """
    if target is None:
        return None
    wanted = Target.get(target)
    for name, (value, default) in replaced.items():
        if value != default:
            raise ValueError(
                f"`target` replaces `{name}`. Received: target={dict(target)} and "
                f"{name}={arguments.shown(value)}. Leave one of them out."
            )
    return wanted


def choose(
    kernels: Kernels,
    scores: Tables,
    keep: int | Mapping[str, int] | Target,
    allocate: allocations.Allocation,
) -> Tables:
    """Returns the masks that keep the units with the highest scores.

    Args:
        kernels: The prunable kernels of a model.
        scores: The scores of its units, from `criteria.score_units`.
        keep: How many units are kept, of the model or of each table; or a target.
        allocate: The allocation that turns one number into counts.

    Example:

    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2, name="d")],
    ...                          name="net")
    >>> kernels = tt.kernels(tt.wrap(model, verbose=False))
    >>> scores = {"net/d/kernel": np.array([[2.0, 1.0]])}
    >>> choose(kernels, scores, 1, tt.allocation.uniform)
    {'net/d/kernel': array([[ True, False]])}
    """
    layout, masks = kernels.layout, kernels.masks
    units = layout.units(masks)
    if isinstance(layout, ChannelLayout) and isinstance(keep, int):
        keep = max(keep, sum(layout.fewest(units).values()))
    if isinstance(keep, Target):
        costs = budget(kernels, keep.measure)
        kept = costs.select(scores, units, keep.fraction, _ORDERED[allocate])
    else:
        kept = selection.choose_units(scores, units, keep, allocate, layout)
    return layout.masks(kept, masks)


class Pruner(Protocol):
    """A search or callback. It may have `criterion`, `allocation` and `target` too."""

    structure: Structure | None
    follows_structures: bool
    without_channels: str | None


def check_pruner(pruner: Pruner, kernels: Kernels) -> None:
    """Refuses a search or callback that a model's structure does not allow.

    Args:
        pruner: The search or callback.
        kernels: The prunable kernels of the model.
    """
    checks.check_structure(
        kernels.model,
        type(pruner).__name__,
        pruner.structure,
        pruner.follows_structures,
    )
    allocation = getattr(pruner, "allocation", None)
    check(
        kernels,
        getattr(pruner, "criterion", None),
        None if allocation is None else allocations.get(allocation),
        optional(getattr(pruner, "target", None)),
        pruner.without_channels,
    )


def check(
    kernels: Kernels,
    criterion: criteria.Criterion | None = None,
    allocate: allocations.Allocation | None = None,
    target: Target | None = None,
    without_channels: str | None = None,
) -> None:
    """Refuses settings that the structure of a model does not allow.

    Args:
        kernels: The prunable kernels of the model.
        criterion: The criterion, if the method has one.
        allocate: The allocation, if the method has one.
        target: The target, if there is one.
        without_channels: Why the method cannot prune channels; None if it can.

    Example:

    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2)])
    >>> check(tt.kernels(tt.wrap(model, verbose=False)), tt.criteria.magnitude)
    """
    structure = kernels.structure
    if criterion is not None:
        criteria.check_layout(criterion, kernels.layout)
    is_channels = isinstance(kernels.layout, ChannelLayout)
    if is_channels and without_channels is not None:
        raise ValueError(
            f"{without_channels} Received a model wrapped with structure="
            f"{structure.name!r}. Use IMP, GradualPruning, PruneAtInit, UniLTH, "
            "UniDLTH or DLTH, or another structure."
        )
    if is_channels and allocate is allocations.erk:
        raise ValueError(
            "Allocation 'erk' depends on the shapes of kernels, which groups of units "
            "do not have. Received: allocation='erk' for a model wrapped with "
            f"structure={structure.name!r}. Use 'global' or 'uniform'."
        )
    if target is None:
        return
    received = {target.measure: target.fraction}
    if not is_channels:
        raise ValueError(
            "A target requires a model wrapped with structure='channels': other "
            f"structures make no kernel smaller. Received: target={received} and "
            f"structure={structure.name!r}. Use a sparsity instead."
        )
    if allocate not in _ORDERED:
        raise ValueError(
            "A target requires allocation='global' or 'uniform', which rank all units. "
            f"Received: target={received} and another allocation."
        )
    units = kernels.layout.units(kernels.masks)
    budget(kernels, target.measure).check(target.fraction, units)
