"""Continuous Sparsification (Savarese, Silva and Maire 2020)."""

from typing import Any

import keras
import numpy as np

from tf_tickets.masks import annealing
from tf_tickets.masks.learned import LearnedMask
from tf_tickets.masks.soft import SoftMask
from tf_tickets.search.mask_search import MaskSearch
from tf_tickets.training.snapshots import to_numpy


@keras.saving.register_keras_serializable("tf_tickets")
class ContinuousSparsification(MaskSearch):
    """Continuous Sparsification: the mask is a sigmoid that grows ever steeper.

    A callback that owns the rounds of one `fit` over a model that `search.wrap`
    gave. Weights and scores are trained together, the mask being
    `sigmoid(temperature * score)`. Each round ends with a ticket that keeps the
    weights of positive score; then scores are set to
    `min(temperature * score, initial_score)`, the temperature goes back, and both
    optimizers start anew. The metrics of a ticket are those of the network from
    which it was taken, at the end of its round; `train_ticket` trains it.

    Args:
        rounds: How many times to train, and how many tickets to find.
        epochs_per_round: Epochs that each training takes.
        initial_score: Score that every weight begins with. It steers the sparsity:
            the greater, the denser. The paper varies it from -0.03 to 0.03 for
            Conv-6 with Adam.
        final_temperature: Temperature at a round's last step; from 1 in its first.
        penalty: Weight of the sum of all masks in the loss.
        scale_mask: Whether masks are divided by `sigmoid(initial_score)`, as in the
            published code, so that the network begins as the dense one. Tickets
            keep this factor.
        rewind: Whether weights go back between rounds too. The tickets' own start
            weights are those of `rewind_to` in any case.
        rewind_to: "init", "N steps" or "N epochs" of the first round.
        anneal: "step" or "epoch": when the temperature rises; the paper and its
            published code differ in it.
        score_optimizer: The optimizer of the scores; None for a copy of that of
            the weights, without weight decay.
        monitor: The logged metric by which tickets are judged.
        tolerance: How far below the best ticket another one may be.
        seed: Seed of what the search draws at random.

    Example:

    >>> keras.utils.set_random_seed(0)
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)])
    >>> model.compile(keras.optimizers.Adam(0.1), "mse")
    >>> search = ContinuousSparsification(2, 2, initial_score=-0.1, monitor="loss")
    >>> model = search.wrap(model, verbose=False)
    >>> x, y = np.ones((8, 4)), np.zeros((8, 5))
    >>> history = model.fit(x, y, epochs=search.epochs, callbacks=[search], verbose=0)
    >>> len(search.tickets), history.history["temperature"][-1]
    (2, 200.0)
    """

    method = "cs"

    def __init__(
        self,
        rounds: int = 4,
        epochs_per_round: int = 20,
        initial_score: float = 0.0,
        final_temperature: float = 200.0,
        penalty: float = 1e-8,
        scale_mask: bool = True,
        rewind: bool = False,
        rewind_to: str = "init",
        *,
        anneal: str = "step",
        score_optimizer: str | dict | keras.optimizers.Optimizer | None = None,
        monitor: str = "val_accuracy",
        tolerance: float = 0.0,
        seed: int = 0,
    ) -> None:
        _check_moves(anneal, epochs_per_round)
        temperature = annealing.ExponentialTemperature(1.0, final_temperature, anneal)
        mask = SoftMask(initial_score, penalty, temperature, scale_mask)
        scores = score_optimizer
        training: Any = (rounds, epochs_per_round, rewind_to, rewind, scores)
        judged: Any = {"monitor": monitor, "tolerance": tolerance, "seed": seed}
        super().__init__(mask, *training, **judged)
        self.initial_score = mask.initial_score
        self.final_temperature = temperature.final
        self.penalty = mask.penalty
        self.scale_mask = scale_mask
        self.anneal = anneal

    def reset_scores(self, mask: LearnedMask) -> None:
        """What is kept may be removed in the next round; what is removed stays low."""
        scores = to_numpy(mask.scores) * np.float32(mask.present_temperature)
        mask.scores.assign(np.minimum(scores, np.float32(self.initial_score)))

    def get_config(self):
        return {
            **super().get_config(),
            "initial_score": self.initial_score,
            "final_temperature": self.final_temperature,
            "penalty": self.penalty,
            "scale_mask": self.scale_mask,
            "anneal": self.anneal,
        }


def _check_moves(anneal, epochs_per_round):
    if anneal == "epoch" and epochs_per_round == 1:
        raise ValueError(
            'anneal="epoch" needs two epochs a round at least, for the temperature '
            "would stand still. Received: epochs_per_round=1"
        )
