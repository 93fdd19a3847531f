"""Pruning below a threshold and retraining (Han et al. 2015)."""

import keras
import numpy as np

from tf_tickets import optimizers, wrapping
from tf_tickets.pruning import allocation, selection
from tf_tickets.search.pruning_search import PruningSearch
from tf_tickets.training import snapshots
from tf_tickets.training.fidelity import Fidelity


@keras.saving.register_keras_serializable("tf_tickets")
class ThresholdPruning(PruningSearch):
    """Prunes below `quality * standard deviation` of each kernel, and retrains.

    A callback that owns the rounds of one `fit` over a wrapped model. Round 0 trains
    the dense network; every other round prunes each kernel below its own threshold
    and trains what is left on, weights kept, at a smaller learning rate. How sparse
    it becomes follows from the weights. One weight at least stays in every kernel.

    With `deviation="once"` the thresholds are those of the first pruning, and weights
    that fall below them later are pruned in their turn: the sensitivity rule of
    Distiller, there with rounds of two epochs.

    Args:
        rounds: How many times to prune.
        epochs_per_round: Epochs that each training takes.
        quality: The factor of the standard deviation; or a dict from regular
            expressions over kernel paths to factors, the first match counts.
        deviation: "round": over all weights of the kernel as they are, pruned zeros
            too, in each round; "once": as it was at the first pruning.
        learning_rate_factor: What the learning rate is multiplied with for the
            retraining; a tenth is Han's. With a schedule it must be 1.
        fidelity: What is rewound, as in `tf_tickets.IMP`; "fine_tune" is nothing.
        monitor: The logged metric by which tickets are judged.
        tolerance: How far below the dense network a ticket may be.

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
    kept = (*PruningSearch.kept, "thresholds")

    def __init__(
        self,
        rounds: int = 4,
        epochs_per_round: int = 20,
        quality: float | dict[str, float] = 0.5,
        deviation: str = "round",
        *,
        learning_rate_factor: float = 0.1,
        fidelity: str | dict | Fidelity = "fine_tune",
        monitor: str = "val_accuracy",
        tolerance: float = 0.0,
    ) -> None:
        super().__init__(
            rounds,
            epochs_per_round,
            fidelity=fidelity,
            monitor=monitor,
            tolerance=tolerance,
        )
        _check_quality(quality)
        _check_rule(deviation, learning_rate_factor)
        self.quality = quality
        self.deviation = deviation
        self.learning_rate_factor = learning_rate_factor

    def clear(self) -> None:
        super().clear()
        self.thresholds: dict[str, float] = {}

    def check_model(self) -> None:
        super().check_model()
        if isinstance(self.quality, dict):
            allocation.check_matched(wrapping.kernels(self.model), self.quality)
        if self.learning_rate_factor != 1.0:
            optimizers.check_settable(snapshots.built_optimizer(self.model))

    def next_masks(self, model: keras.Model) -> dict[str, np.ndarray]:
        masks = wrapping.masks(model)
        sizes = {
            path: np.abs(kernel.astype("float64"))
            for path, kernel in snapshots.kernels(model).items()
        }
        if not self.thresholds or self.deviation == "round":
            self.thresholds = self._thresholds(model)
        # By place: a search that is resumed may have other numbers in its paths.
        limits = dict(zip(sizes, self.thresholds.values(), strict=True))
        counts = {
            path: int((masks[path] & (sizes[path] > limits[path])).sum())
            for path in sizes
        }
        return selection.select(sizes, masks, allocation.guard(counts, masks))

    def _thresholds(self, model):
        return {
            path: _quality_of(path, self.quality)
            * float(kernel.astype("float64").std())
            for path, kernel in snapshots.kernels(model).items()
        }

    def turn(self) -> None:
        renewed = self.round == 0 or self.fidelity.learning_rate == "rewind"
        super().turn()
        if renewed and self.learning_rate_factor != 1.0:
            rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
            optimizers.set_learning_rate(
                self.model.optimizer, rate * self.learning_rate_factor
            )

    def settings(self) -> dict:
        config = super().get_config()
        for name in ("stop_at", "rewind_to", "seed"):
            del config[name]
        return {
            **config,
            "quality": self.quality,
            "deviation": self.deviation,
            "learning_rate_factor": self.learning_rate_factor,
        }

    def get_config(self):
        return self.settings()


def _quality_of(path, quality):
    if isinstance(quality, dict):
        return allocation.first_match(path, quality)
    return quality


def _check_quality(quality):
    values = quality.values() if isinstance(quality, dict) else [quality]
    for value in values:
        if not isinstance(value, int | float) or not 0.0 <= value < float("inf"):
            raise ValueError(
                "`quality` is the factor of the standard deviation and must be 0 or "
                f"more. Received: quality={quality}"
            )


def _check_rule(deviation, learning_rate_factor):
    if deviation not in ("round", "once"):
        raise ValueError(
            f"`deviation` must be 'round' or 'once'. Received: {deviation!r}"
        )
    if not 0.0 < learning_rate_factor <= 1.0:
        raise ValueError(
            "`learning_rate_factor` must lie in (0, 1]. Received: "
            f"{learning_rate_factor!r}"
        )
