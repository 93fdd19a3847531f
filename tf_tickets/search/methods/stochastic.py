"""Iterative Stochastic Sparsification (Savarese, Silva and Maire 2020)."""

from typing import Any

import keras
import numpy as np

from tf_tickets.masks.learned import FAR, LearnedMask
from tf_tickets.masks.stochastic import StochasticMask
from tf_tickets.search.mask_search import MaskSearch
from tf_tickets.training.snapshots import to_numpy


@keras.saving.register_keras_serializable("tf_tickets")
class StochasticSparsification(MaskSearch):
    """Iterative Stochastic Sparsification: masks are drawn, their odds learned.

    A callback that owns the rounds of one `fit` over a model that `search.wrap`
    gave. At every forward pass a weight is kept with probability `sigmoid(score)`;
    the gradient goes straight through. Each round ends with a ticket; then weights
    whose score lies below the initial one are removed for good, and the weights
    are rewound. The metrics of a ticket are those of the network from which it was
    taken, at the end of its round; `train_ticket` trains it.

    Args:
        rounds: How many times to train, and how many tickets to find.
        epochs_per_round: Epochs that each training takes.
        initial_score: Score that every weight begins with; the paper takes 1.
        penalty: Weight of the sum of all probabilities in the loss.
        rewind: Whether weights go back between rounds.
        rewind_to: "init", "N steps" or "N epochs" of the first round.
        evaluation: "sample" to draw masks in evaluation too, "threshold" to
            evaluate with the weights whose probability is above a half.
        ticket_by: How tickets are taken: "sample", as in the paper, or "threshold".
        score_optimizer: The optimizer of the scores; by default SGD with learning
            rate 20, as in the paper.
        monitor: The logged metric by which tickets are judged.
        tolerance: How far below the best ticket another one may be.
        seed: Seed of the draws.

    Example:

    >>> keras.utils.set_random_seed(0)
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)])
    >>> model.compile("adam", "mse")
    >>> search = StochasticSparsification(2, 2, monitor="loss")
    >>> model = search.wrap(model, verbose=False)
    >>> x, y = np.ones((8, 4)), np.zeros((8, 5))
    >>> history = model.fit(x, y, epochs=search.epochs, callbacks=[search], verbose=0)
    >>> [ticket.sparsity < 1 for ticket in search.tickets]
    [True, True]
    """

    method = "iss"

    def __init__(
        self,
        rounds: int = 10,
        epochs_per_round: int = 20,
        initial_score: float = 1.0,
        penalty: float = 1e-8,
        rewind: bool = True,
        rewind_to: str = "init",
        *,
        evaluation: str = "sample",
        ticket_by: str = "sample",
        score_optimizer: str | dict | keras.optimizers.Optimizer | None = None,
        monitor: str = "val_accuracy",
        tolerance: float = 0.0,
        seed: int = 0,
    ) -> None:
        mask = StochasticMask(initial_score, penalty, evaluation)
        scores = score_optimizer or keras.optimizers.SGD(20.0)
        training: Any = (rounds, epochs_per_round, rewind_to, rewind, scores)
        judged: Any = {"monitor": monitor, "tolerance": tolerance, "seed": seed}
        super().__init__(mask, *training, **judged)
        if ticket_by not in ("sample", "threshold"):
            raise ValueError(
                f"`ticket_by` must be 'sample' or 'threshold'. Received: {ticket_by!r}"
            )
        self.initial_score = mask.initial_score
        self.penalty = mask.penalty
        self.evaluation = evaluation
        self.ticket_by = ticket_by

    def ticket_masks(self) -> dict[str, np.ndarray]:
        if self.ticket_by == "threshold":
            return self.masks
        return sampled(self._learned, self.seed, self.round)

    def reset_scores(self, mask: LearnedMask) -> None:
        """What fell below where it began is removed for good."""
        scores = to_numpy(mask.scores)
        fell = scores < np.float32(self.initial_score)
        mask.scores.assign(np.where(fell, np.float32(-FAR), scores))

    def get_config(self):
        return {
            **super().get_config(),
            "initial_score": self.initial_score,
            "penalty": self.penalty,
            "evaluation": self.evaluation,
            "ticket_by": self.ticket_by,
        }


def sampled(
    masks: dict[str, LearnedMask], seed: int, round_: int
) -> dict[str, np.ndarray]:
    """Masks drawn once from the probabilities, by kernel path."""
    rng = np.random.default_rng([seed, round_])
    found = {path: mask.probability() for path, mask in masks.items()}
    return {path: rng.random(p.shape) < p for path, p in found.items()}
