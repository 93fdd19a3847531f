"""What prunes the layers of a model by their schedules."""

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from tf_tickets import wrapping
from tf_tickets.pruning import allocation, criteria, selection
from tf_tickets.pruning.schedules import firings
from tf_tickets.structures.nm import NM
from tf_tickets.tfmot import remaining
from tf_tickets.tfmot.scheduled_mask import ScheduledMask
from tf_tickets.wrapping.kernels import Kernel
from tf_tickets.wrapping.prunable import Prunable

# Steps for which a schedule is evaluated at once.
_AHEAD = 1000


class Pruner:
    """Prunes the kernels of one layer by their schedule."""

    def __init__(
        self,
        layer: Prunable,
        kernels: Mapping[str, Kernel],
        model: keras.Model,
        count: Callable[[], int],
        is_training: Callable[[], bool],
    ) -> None:
        self.kernels = kernels
        # Returns the steps since the training began, and whether it still goes on.
        self.count = count
        self.is_training = is_training
        self.masks = [kernel.mask_layer for kernel in kernels.values()]
        self.schedule = self.masks[0].pruning_schedule
        self.once = isinstance(layer.structure, NM)
        variables = {path: kernel.variable for path, kernel in kernels.items()}
        self.layout: Any = remaining.layout(layer, variables, model)
        self.begin()

    def begin(self) -> None:
        """Reads from the masks at which step the training is."""
        step = self.masks[0].step
        self.begun = step - self.count()
        self.looked_at = step + 1
        self.due: list[tuple[int, float]] = []

    @property
    def step(self) -> int:
        """The present step, which the masks store when they are saved."""
        return self.begun + self.count()

    def firings(self, first: int, last: int) -> list[tuple[int, float]]:
        """Returns the steps in a range that prune, with their sparsities."""
        steps = np.arange(first, last + 1)
        if self.once:
            return [(1, 1.0)] if first <= 1 <= last else []
        fires, sparsities = firings(self.schedule, steps)
        return list(zip(steps[fires].tolist(), sparsities[fires], strict=True))

    def sparsity_due(self, step: int) -> float | None:
        """Returns the sparsity of the last firing since the last call; None if none."""
        if step >= self.looked_at:
            until = max(step, self.looked_at + _AHEAD)
            self.due += self.firings(self.looked_at, until)
            self.looked_at = until + 1
        past = [sparsity for at, sparsity in self.due if at <= step]
        self.due = [row for row in self.due if row[0] > step]
        return past[-1] if past else None

    def prune(self, sparsity: float) -> None:
        """Sets masks, and stores the smallest score that is kept."""
        layout, kernels = self.layout, self.kernels
        masks = {path: k.mask_layer.value() for path, k in kernels.items()}
        scores = {
            path: criteria.magnitude(wrapping.to_numpy(k.variable))
            for path, k in kernels.items()
        }
        units, scores = layout.units(masks), layout.scores(scores, masks)
        kept = selection.choose_units(
            scores, units, self._counts(units, sparsity), allocation.uniform, layout
        )
        new = layout.masks(kept, masks)
        for path, kernel in kernels.items():
            kernel.mask_layer.assign(new[path])
            if not self.once:
                kernel.mask_layer.threshold.assign(scores[path][kept[path]].min())

    def _counts(self, units, sparsity):
        if self.once:
            return self.layout.fewest(units)
        return {
            path: min(int(alive.sum()), remaining.kept(alive.size, sparsity))
            for path, alive in units.items()
        }

    def is_finished(self, step: int) -> bool:
        """Returns whether no later step can prune any more."""
        masks = {path: k.mask_layer.value() for path, k in self.kernels.items()}
        return remaining.is_finished(self.layout, self.schedule, masks, step)


def pruners(
    model: keras.Model, count: Callable[[], int], is_training: Callable[[], bool]
) -> list[Pruner]:
    """Returns the pruners of the layers that have a schedule.

    Args:
        model: A model from `prune_low_magnitude`.
        count: Returns the steps since the training began.
        is_training: Returns whether the training still goes on.
    """
    kernels = wrapping.kernels(model)
    by_mask = {id(kernel.mask_layer): kernel for kernel in kernels.values()}
    found = []
    for layer in kernels.layers:
        if isinstance(layer.mask, ScheduledMask):
            own = [by_mask[id(mask)] for mask in layer.kernel_masks]
            table = {kernel.path: kernel for kernel in own}
            found.append(Pruner(layer, table, model, count, is_training))
    return found
