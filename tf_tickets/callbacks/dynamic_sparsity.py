"""Sparse training from the first step to the last: SET and RigL."""

import math

import keras
import numpy as np

from tf_tickets import arguments, ranking, schema, wrapping
from tf_tickets.callbacks.base import Progress, PruningCallback
from tf_tickets.pruning import allocation as allocations
from tf_tickets.pruning import criteria, selection
from tf_tickets.pruning.allocation import Allocation
from tf_tickets.structures import registry as structures
from tf_tickets.structures.structure import Structure
from tf_tickets.training import checks, snapshots


@keras.saving.register_keras_serializable("tf_tickets")
class DynamicSparsity(PruningCallback):
    """Drops the smallest weights and grows as many others, at regular intervals.

    SET (Mocanu et al. 2018) with `grow="random"`, RigL (Evci et al. 2020) with
    `grow=tf_tickets.saliency.DenseGradient(x, y)`. Training begins with random masks,
    unless the model has masks already; the number of weights of each kernel stays
    constant. A grown weight starts at 0, with cleared optimizer slots. Dropped weights
    compete for growth too; one that grows again in the same exchange does not change.
    With a structure, whole units are dropped and grown: a block by the mean of its
    weights' scores. With N:M, a group that has lost too many weights grows first.

    Args:
        sparsity: Fraction of zeros, constant throughout.
        grow: A criterion; the pruned weights with the highest scores grow.
        allocation: "erk", "uniform" or a function: how many weights each kernel keeps.
        interval: Steps from one exchange to the next.
        drop_fraction: Fraction of a kernel's weights that the first exchange drops.
        until: Fraction of the training after which exchanges stop.
        anneal: "cosine" lowers the dropped fraction to 0 by then; "constant" keeps it.
        seed: Seed of the first masks, and of random growth.
        structure: Which weights are kept or pruned together, as in `tf_tickets.wrap`;
            None for what the model was wrapped with.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)])
    >>> model = tt.wrap(model, verbose=False)
    >>> model.compile("adam", "mse")
    >>> training = DynamicSparsity(0.8, "random", interval=2)
    >>> x, y = np.ones((64, 4)), np.ones((64, 5))
    >>> history = model.fit(x, y, batch_size=8, verbose=0, callbacks=[training])
    >>> training.ticket.sparsity
    0.8
    """

    method = "dynamic"
    follows_structures = True
    without_channels = (
        "DynamicSparsity lets weights grow from 0, but a channel whose weights are all "
        "0 has no gradient and never learns."
    )
    _serializers = {"grow": criteria.serialize}
    _packed = {**PruningCallback._packed, "exchanges": schema.count}

    def __init__(
        self,
        sparsity: float = 0.9,
        grow: str | criteria.Criterion = "random",
        allocation: str | Allocation = "erk",
        interval: int = 100,
        drop_fraction: float = 0.3,
        until: float = 0.75,
        anneal: str = "cosine",
        seed: int = 0,
        structure: str | Structure | None = None,
    ) -> None:
        super().__init__()
        _check(sparsity, drop_fraction, until, anneal)
        arguments.check_counts(interval=interval)
        arguments.check_seed(seed)
        self.sparsity = sparsity
        self.grow = criteria.get(grow)
        self.allocation = allocation
        self._allocate = allocations.get(allocation)
        self.interval = interval
        self.drop_fraction = drop_fraction
        self.until = until
        self.anneal = anneal
        self.seed = seed
        self.structure = structures.optional(structure)
        self._exchanges = 0

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        checks.check_length_known(self.params)
        kernels = wrapping.kernels(self.model)
        checks.check_possible(kernels.structure, sparsity=self.sparsity)
        self._exchanges = 0
        self._last = self.until * self.params["steps"] * self.params["epochs"]
        masks = kernels.masks
        if all(mask.all() for mask in masks.values()):
            self._set_masks(self._first_masks(masks, kernels.layout))

    def on_epoch_begin(self, epoch, logs=None):
        super().on_epoch_begin(epoch, logs)
        if epoch and not self._exchanges:
            self._exchanges = max(0, self._steps_before - 1) // self.interval

    def pack(self) -> Progress:
        content, states = super().pack()
        return Progress({**content, "exchanges": self._exchanges}, states)

    def unpack(self, progress: Progress, fresh: snapshots.State) -> None:
        super().unpack(progress, fresh)
        self._exchanges = progress.content["exchanges"]

    def _first_masks(self, masks, layout):
        rng = np.random.default_rng([self.seed, 0])
        units = layout.units(masks)
        scores = {name: rng.random(alive.shape) for name, alive in units.items()}
        keep = allocations.at_sparsity(units, self.sparsity)
        kept = selection.choose_units(scores, units, keep, self._allocate, layout)
        return layout.masks(kept, masks)

    def advance(self, step: int) -> None:
        """Exchanges weights at the end of each interval."""
        due = step // self.interval
        if due > self._exchanges and step <= self._last:
            self._exchanges = due
            self._exchange(self.fraction(step))

    def fraction(self, step: int) -> float:
        """Returns the fraction of a kernel's weights that is dropped at a step."""
        if self.anneal == "constant":
            return self.drop_fraction
        way = min(1.0, step / max(self._last, 1.0))
        return 0.5 * self.drop_fraction * (1.0 + math.cos(math.pi * way))

    def _exchange(self, fraction):
        model = self.model
        kernels = wrapping.kernels(model)
        weights = kernels.weights
        rng = np.random.default_rng([self.seed, self._exchanges])
        scores = criteria.score_all(self.grow, model, weights, weights, rng)
        masks = _exchanged(kernels.layout, weights, scores, kernels.masks, fraction)
        self._set_masks(masks)


def _exchanged(layout, weights, scores, masks, fraction):
    """Returns the masks after dropping and growing equally many units of each kernel.

    Dropped units are candidates for growth too, as in the paper and its code.
    """
    everything = {path: np.ones_like(mask) for path, mask in masks.items()}
    units = layout.units(masks)
    sizes = layout.scores({p: np.abs(w) for p, w in weights.items()}, masks)
    dropped = {n: round(fraction * int(u.sum())) for n, u in units.items()}
    stay = {
        name: ranking.keep_largest(
            sizes[name], int(alive.sum()) - dropped[name], within=alive
        )
        for name, alive in units.items()
    }
    all_units = layout.units(everything)
    scores = layout.protect(layout.scores(scores, everything), all_units, stay)
    grown = {
        name: stay[name]
        | ranking.keep_largest(scores[name], dropped[name], within=~stay[name])
        for name in units
    }
    return layout.masks(grown, everything)


def _check(sparsity, drop_fraction, until, anneal):
    arguments.check_fraction(sparsity=sparsity)
    arguments.check_between(0.0, 1.0, drop_fraction=drop_fraction, until=until)
    arguments.check_choice(("cosine", "constant"), anneal=anneal)
