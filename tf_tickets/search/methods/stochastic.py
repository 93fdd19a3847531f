"""Iterative Stochastic Sparsification (Savarese, Silva and Maire 2020)."""

import keras
import numpy as np

from tf_tickets import arguments
from tf_tickets.masks import StochasticMask
from tf_tickets.masks.learned import FAR, LearnedMask
from tf_tickets.search.learn_masks import LearnMasks, learned, optimizer_or_none
from tf_tickets.search.plan import Run
from tf_tickets.search.ticket_search import TicketSearch
from tf_tickets.tickets.monitor import Monitor
from tf_tickets.training.rewind import Rewind
from tf_tickets.wrapping import to_numpy


@keras.saving.register_keras_serializable("tf_tickets")
class StochasticSparsification(TicketSearch):
    """Iterative Stochastic Sparsification: samples masks, learns probabilities.

    A callback that runs the rounds of one `fit` over a model that `search.wrap`
    returned. At every forward pass a weight is kept with probability `sigmoid(score)`;
    the gradient is passed straight through. Each round ends with a ticket. Then weights
    whose score is below the initial one are removed permanently, and the weights are
    rewound. A ticket's metrics are those of the network it was taken from;
    `train_ticket` trains it.

    Args:
        rounds: Number of trainings, and of tickets.
        epochs_per_round: Epochs of each training.
        initial_score: Score of every weight at the beginning; the paper uses 1.
        penalty: Weight of the sum of all probabilities in the loss.
        rewind: Whether weights are rewound between rounds.
        rewind_to: "init", "N steps" or "N epochs" of the first round.
        evaluation: "sample" draws masks in evaluation too; "threshold" evaluates with
            the weights whose probability is above 0.5.
        ticket_by: How tickets are taken: "sample", as in the paper, or "threshold".
        score_optimizer: The optimizer of the scores; None for SGD with learning rate
            20, as in the paper.
        monitor: The metric by which tickets are judged: its name or a `Monitor`.
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
        rewind_to: str | Rewind = "init",
        *,
        evaluation: str = "sample",
        ticket_by: str = "sample",
        score_optimizer: str | keras.optimizers.Optimizer | None = None,
        monitor: str | Monitor = "val_accuracy",
        seed: int = 0,
    ) -> None:
        arguments.check_counts(rounds=rounds, epochs_per_round=epochs_per_round)
        arguments.check_choice(("sample", "threshold"), ticket_by=ticket_by)
        arguments.check_flags(rewind=rewind)
        mask = StochasticMask(initial_score, penalty, evaluation)
        self.rounds = rounds
        self.epochs_per_round = epochs_per_round
        self.initial_score = mask.initial_score
        self.penalty = mask.penalty
        self.rewind = rewind
        self.evaluation = evaluation
        self.ticket_by = ticket_by
        self.score_optimizer = optimizer_or_none(
            keras.optimizers.SGD(20.0) if score_optimizer is None else score_optimizer
        )
        super().__init__(_StochasticRounds(self, mask), rewind_to, monitor, seed)


class _StochasticRounds(LearnMasks):
    """Samples tickets; permanently removes weights below the initial score."""

    def __init__(self, search, mask):
        super().__init__(
            mask,
            search.rounds,
            search.epochs_per_round,
            self._remove_fallen,
            search.rewind,
            search.score_optimizer,
        )
        self.draws = search.ticket_by == "sample"

    def _remove_fallen(self, mask):
        scores = to_numpy(mask.scores)
        fell = scores < np.float32(self.mask.initial_score)
        mask.scores.assign(np.where(fell, np.float32(-FAR), scores))

    def ticket_masks(self, run: Run) -> dict[str, np.ndarray]:
        if not self.draws:
            return super().ticket_masks(run)
        return sampled(learned(run), run.seed, run.state.round)


def sampled(
    masks: dict[str, LearnedMask], seed: int, round_: int
) -> dict[str, np.ndarray]:
    """Returns masks drawn once from the probabilities, by kernel path."""
    rng = np.random.default_rng([seed, round_])
    probabilities = {path: mask.probability() for path, mask in masks.items()}
    return {path: rng.random(p.shape) < p for path, p in probabilities.items()}
