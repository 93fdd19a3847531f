"""Iterative magnitude pruning with rewinding (Frankle and Carbin 2019)."""

import keras
import numpy as np

from tf_tickets import wrapping
from tf_tickets.pruning import allocation, criteria
from tf_tickets.pruning.allocation import Allocation
from tf_tickets.search.pruning_search import RankedSearch
from tf_tickets.training.fidelity import Fidelity


@keras.saving.register_keras_serializable("tf_tickets")
class IMP(RankedSearch):
    """Iterative magnitude pruning: train, prune the smallest, rewind, again.

    A callback that owns the rounds of one `fit` over a wrapped model. After it,
    `tickets` has a ticket a round, `dense` the metrics of the dense network,
    `best` the ticket to take.

    Weight rewinding (Frankle et al. 2020) is `rewind_to="500 steps"`; the exact
    one of Renda et al. adds `fidelity="exact"`; learning-rate rewinding is
    `fidelity="learning_rate"`, and fine-tuning `fidelity="fine_tune"`.

    Args:
        rounds: How many times to prune; the search trains once more than that.
        epochs_per_round: Epochs that each training takes.
        rate: Fraction of the kept weights that a round prunes, 0 to 1; or a dict
            from regular expressions over kernel paths to rates per layer, such
            as `{"output": 0.1, ".": 0.2}`, the first match counts.
        rewind_to: "init", "N steps" or "N epochs" of round 0.
        fidelity: What is rewound: "weights" (weights, statistics and schedule;
            new optimizer), "exact", "learning_rate", "fine_tune", or a
            `tf_tickets.snapshots.Fidelity`.
        criterion: What is kept: "magnitude", "magnitude_increase", "movement",
            "random" or a function.
        allocation: How a single rate is spread: "global", "uniform", "erk" or a
            function.
        stop_at: None; a sparsity, at which the search stops and to which its last
            round prunes exactly; or "below_dense".
        monitor: The logged metric by which tickets are judged.
        tolerance: How far below the dense network a ticket may be.
        seed: Seed of the "random" criterion.

    Example:

    >>> keras.utils.set_random_seed(0)
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)])
    >>> model = tt.wrap(model, verbose=False)
    >>> model.compile("adam", "mse")
    >>> search = IMP(rounds=2, epochs_per_round=1, rate=0.5, monitor="loss")
    >>> x, y = np.ones((8, 4)), np.ones((8, 5))
    >>> history = model.fit(x, y, epochs=search.epochs, callbacks=[search], verbose=0)
    >>> [float(ticket.sparsity) for ticket in search.tickets]
    [0.5, 0.75]
    """

    method = "imp"

    def __init__(
        self,
        rounds: int = 10,
        epochs_per_round: int = 20,
        rate: float | dict[str, float] = 0.2,
        rewind_to: str = "init",
        *,
        fidelity: str | dict | Fidelity = "weights",
        criterion: str | criteria.Criterion = "magnitude",
        allocation: str | dict | Allocation = "global",
        stop_at: float | str | None = None,
        monitor: str = "val_accuracy",
        tolerance: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__(
            criterion,
            allocation,
            rounds=rounds,
            epochs_per_round=epochs_per_round,
            rewind_to=rewind_to,
            fidelity=fidelity,
            stop_at=stop_at,
            monitor=monitor,
            tolerance=tolerance,
            seed=seed,
        )
        _check_rate(rate)
        self.rate = rate

    def check_model(self) -> None:
        super().check_model()
        if isinstance(self.rate, dict):
            allocation.check_matched(wrapping.kernels(self.model), self.rate)

    def counts(
        self, scores: dict[str, np.ndarray], masks: dict[str, np.ndarray]
    ) -> dict[str, int]:
        floor = self.floor() if isinstance(self.stop_at, float) else 0
        if isinstance(self.rate, dict):
            counts = allocation.after_rates(masks, self.rate)
            return _lift(counts, masks, floor)
        keep = allocation.after_rate(masks, self.rate)
        return self.allocate(scores, masks, max(keep, floor))

    def settings(self) -> dict:
        return {**super().settings(), "rate": self.rate}


def _lift(counts, masks, floor):
    """The counts, where they sum to less than `floor`, raised to that sum.

    Every kernel gets back the same fraction of what it was to lose.
    """
    alive = {path: int(mask.sum()) for path, mask in masks.items()}
    missing = floor - sum(counts.values())
    if missing <= 0:
        return counts
    lost = sum(alive.values()) - sum(counts.values())
    exact = {p: missing * (alive[p] - counts[p]) / lost for p in counts}
    lifted = {p: counts[p] + int(exact[p]) for p in counts}
    by_remainder = sorted(counts, key=lambda p: int(exact[p]) - exact[p])
    for path in by_remainder[: floor - sum(lifted.values())]:
        lifted[path] += 1
    return lifted


def _check_rate(rate):
    rates = rate.values() if isinstance(rate, dict) else [rate]
    for value in rates:
        if not isinstance(value, int | float) or not 0.0 <= value < 1.0:
            raise ValueError(
                "`rate` is the fraction of the kept weights that a round prunes and "
                f"must lie in [0, 1). Received: rate={rate}"
            )
