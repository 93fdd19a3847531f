"""Pruning below a threshold and retraining (Han et al. 2015)."""

import warnings

import keras
import numpy as np

from tf_tickets import arguments, optimizers
from tf_tickets.pruning import allocation, selection
from tf_tickets.search.plan import Run
from tf_tickets.search.prune_and_rewind import Masks, PruneAndRewind
from tf_tickets.search.ticket_search import TicketSearch
from tf_tickets.structures import registry as structures
from tf_tickets.structures.structure import Structure
from tf_tickets.tickets.monitor import Monitor
from tf_tickets.training import snapshots
from tf_tickets.training.rewind import Rewind


@keras.saving.register_keras_serializable("tf_tickets")
class ThresholdPruning(TicketSearch):
    """Prunes below `quality * standard deviation` of each kernel, and retrains.

    A callback that runs the rounds of one `fit` over a wrapped model. Round 0 trains
    the dense network. Every later round prunes each kernel below its own threshold and
    continues to train the remaining weights, at a smaller learning rate. The sparsity
    follows from the weights. Every kernel keeps at least one weight.

    With `deviation="once"` the thresholds are those of the first pruning, and weights
    that fall below them later are pruned then. This is the sensitivity rule of
    Distiller, which uses rounds of two epochs. With a structure, the mean size of a
    unit's weights is compared. A warning says so where N:M allows no more.

    Args:
        rounds: Number of pruning rounds.
        epochs_per_round: Epochs of each training.
        quality: The factor of the standard deviation; or a dict from regular
            expressions over kernel paths to factors; the first match counts.
        deviation: "round": the present standard deviation of all weights of the kernel,
            pruned zeros included, in each round. "once": that of the first pruning.
        learning_rate_factor: Factor of the learning rate in retraining; Han et al. use
            0.1. With a schedule it must be 1.
        rewind_to: What is rewound, as in `tf_tickets.IMP`; by default nothing.
        monitor: The metric by which tickets are judged, as in `tf_tickets.IMP`.
        structure: Which weights are kept or pruned together, as in `tf_tickets.wrap`;
            None for what the model was wrapped with.

    Example:

    >>> keras.utils.set_random_seed(0)
    >>> model = keras.Sequential([keras.Input((40,)), keras.layers.Dense(50)])
    >>> model = tt.wrap(model, verbose=False)
    >>> model.compile("sgd", "mse")
    >>> search = ThresholdPruning(1, 1, quality=0.5, monitor="loss")
    >>> x, y = np.ones((8, 40)), np.ones((8, 50))
    >>> history = model.fit(x, y, epochs=search.epochs, callbacks=[search], verbose=0)
    >>> 0.2 < search.tickets[0].sparsity < 0.4
    True
    """

    method = "threshold"
    follows_structures = True
    without_channels = (
        "ThresholdPruning compares weights with a threshold, but scores of channels "
        "are relative to others of their layer."
    )

    def __init__(
        self,
        rounds: int = 4,
        epochs_per_round: int = 20,
        quality: float | dict[str, float] = 0.5,
        deviation: str = "round",
        *,
        learning_rate_factor: float = 0.1,
        rewind_to: str | Rewind = Rewind("init", "fine_tune"),  # noqa: B008  frozen
        monitor: str | Monitor = "val_accuracy",
        structure: str | Structure | None = None,
    ) -> None:
        arguments.check_counts(rounds=rounds, epochs_per_round=epochs_per_round)
        arguments.check_choice(("round", "once"), deviation=deviation)
        _check_numbers(quality, learning_rate_factor)
        self.rounds = rounds
        self.epochs_per_round = epochs_per_round
        self.quality = quality
        self.deviation = deviation
        self.learning_rate_factor = learning_rate_factor
        self.structure = structures.optional(structure)
        rewind = Rewind.get(rewind_to, "fine_tune")
        super().__init__(_ThresholdRounds(self, rewind), rewind, monitor)


class _ThresholdRounds(PruneAndRewind):
    """Remembers thresholds, and lowers the learning rate for the retraining."""

    def __init__(self, search, rewind):
        super().__init__(
            search.rounds, search.epochs_per_round, self._next_masks, rewind
        )
        self.quality = search.quality
        self.once = search.deviation == "once"
        self.factor = search.learning_rate_factor

    def check(self, run: Run) -> None:
        super().check(run)
        if isinstance(self.quality, dict):
            allocation.check_matched(run.kernels, self.quality)
        if self.factor != 1.0:
            optimizers.check_settable(snapshots.built_optimizer(run.model))

    def _next_masks(self, run: Run) -> Masks:
        masks = run.kernels.masks
        weights = {p: w.astype("float64") for p, w in run.kernels.weights.items()}
        sizes = {path: np.abs(weight) for path, weight in weights.items()}
        notes = run.state.notes
        if "thresholds" not in notes or not self.once:
            notes["thresholds"] = {
                path: self._quality_of(path) * float(weight.std())
                for path, weight in weights.items()
            }
        # By position: a search that is resumed may have other numbers in its paths.
        limits = dict(zip(sizes, notes["thresholds"].values(), strict=True))
        layout = run.kernels.layout
        units = layout.units(masks)
        means = layout.protect(layout.scores(sizes, masks), units)
        counts = {
            path: int((alive & (means[path] > limits[path])).sum())
            for path, alive in units.items()
        }
        self._warn_at_limit(run, units, counts)
        return selection.choose(sizes, masks, counts, layout=layout)

    def _warn_at_limit(self, run, units, counts):
        """Warns in the round in which the structure allows no more pruning."""
        structure, round_ = run.kernels.structure, run.state.round
        fewest = sum(run.kernels.layout.fewest(units).values())
        before = sum(int(alive.sum()) for alive in units.values())
        is_first = before > fewest or round_ == 1
        # Without a limit, selection warns if one weight is left.
        if structure.most_sparse < 1.0 and sum(counts.values()) <= fewest and is_first:
            more = f" Rounds {round_ + 1} to {self.rounds} only train."
            warnings.warn(
                f"Round {round_} reaches sparsity {structure.most_sparse:g}, the most "
                f"that structure {structure.name!r} allows: the best weights of each "
                f"group stay, even below the threshold.{more * (round_ < self.rounds)} "
                f"To prune more, {structure.remedy}.",
                stacklevel=2,
            )

    def _quality_of(self, path):
        if isinstance(self.quality, dict):
            return allocation.first_match(path, self.quality)
        return self.quality

    def turn(self, run: Run) -> None:
        super().turn(run)
        first = run.state.round == 1
        renewed = first or self.rewind.fidelity.learning_rate == "rewind"
        if renewed and self.factor != 1.0:
            optimizer = run.model.optimizer
            rate = float(keras.ops.convert_to_numpy(optimizer.learning_rate))
            optimizers.set_learning_rate(optimizer, rate * self.factor)


def _check_numbers(quality, learning_rate_factor):
    if isinstance(quality, dict):
        arguments.check_patterns(quality=quality)
    for value in quality.values() if isinstance(quality, dict) else [quality]:
        if not arguments.is_number(value) or not 0.0 <= value < float("inf"):
            raise ValueError(
                "`quality` is the factor of the standard deviation and must be 0 or "
                f"more. Received: quality={arguments.shown(quality)}"
            )
    arguments.check_numbers(learning_rate_factor=learning_rate_factor)
    if not 0.0 < learning_rate_factor <= 1.0:
        raise ValueError(
            "`learning_rate_factor` must lie in (0, 1]. Received: "
            f"{learning_rate_factor!r}"
        )
