"""Continuous Sparsification (Savarese, Silva and Maire 2020)."""

import keras
import numpy as np

from tf_tickets import arguments
from tf_tickets.masks import SoftMask
from tf_tickets.masks.annealing import ExponentialTemperature
from tf_tickets.search.learn_masks import LearnMasks, optimizer_or_none
from tf_tickets.search.ticket_search import TicketSearch
from tf_tickets.tickets.monitor import Monitor
from tf_tickets.training.rewind import Rewind
from tf_tickets.wrapping import to_numpy


@keras.saving.register_keras_serializable("tf_tickets")
class ContinuousSparsification(TicketSearch):
    """Continuous Sparsification: the mask is a sigmoid that grows ever steeper.

    A callback that runs the rounds of one `fit` over a model that `search.wrap`
    returned. Weights and scores are trained together, with the mask
    `sigmoid(temperature * score)`. Each round ends with a ticket that keeps the weights
    of positive score. Then the scores are lowered by the rule of `between_rounds`, the
    temperature restarts, and both optimizers start anew. A ticket's metrics are those
    of the network it was taken from; `train_ticket` trains it.

    Args:
        rounds: Number of trainings, and of tickets.
        epochs_per_round: Epochs of each training.
        initial_score: Score of every weight at the beginning. It controls the sparsity:
            a larger score gives a denser ticket. The paper varies it from -0.03 to 0.03
            for Conv-6 with Adam.
        final_temperature: Temperature in a round's last step, growing from 1 in its
            first; or a `tf_tickets.schedules.ExponentialTemperature`. The paper anneals
            by the step, its published code by the epoch (`per="epoch"`).
        penalty: Weight of the sum of all masks in the loss.
        scale_mask: Whether masks are divided by `sigmoid(initial_score)`, as in the
            published code, which makes the network begin as the dense one. Tickets keep
            this factor.
        rewind: Whether the weights of the search are rewound between rounds too.
            Tickets start from the weights of `rewind_to` in any case.
        rewind_to: "init", "N steps" or "N epochs" of the first round.
        score_optimizer: The optimizer of the scores; None for a copy of that of the
            weights, without weight decay.
        between_rounds: "paper" sets scores to
            `min(temperature * score, initial_score)`, which makes low scores much
            lower. "code" sets them to `min(score, initial_score)`, as the published
            code does.
        monitor: The metric by which tickets are judged: its name or a `Monitor`.
        seed: Seed of the search, for its provenance; nothing is drawn.

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
        final_temperature: float | ExponentialTemperature = 200.0,
        penalty: float = 1e-8,
        scale_mask: bool = True,
        rewind: bool = False,
        rewind_to: str | Rewind = "init",
        *,
        score_optimizer: str | keras.optimizers.Optimizer | None = None,
        between_rounds: str = "paper",
        monitor: str | Monitor = "val_accuracy",
        seed: int = 0,
    ) -> None:
        arguments.check_counts(rounds=rounds, epochs_per_round=epochs_per_round)
        arguments.check_choice(("paper", "code"), between_rounds=between_rounds)
        arguments.check_flags(rewind=rewind)
        temperature = _temperature(final_temperature, epochs_per_round)
        mask = SoftMask(initial_score, penalty, temperature, scale_mask)
        self.rounds = rounds
        self.epochs_per_round = epochs_per_round
        self.initial_score = mask.initial_score
        self.final_temperature = final_temperature
        self.penalty = mask.penalty
        self.scale_mask = scale_mask
        self.rewind = rewind
        self.between_rounds = between_rounds
        self.score_optimizer = optimizer_or_none(score_optimizer)
        plan = LearnMasks(
            mask,
            rounds,
            epochs_per_round,
            self._reset_scores,
            rewind,
            self.score_optimizer,
        )
        super().__init__(plan, rewind_to, monitor, seed)

    def _reset_scores(self, mask):
        """Resets scores for a new round; removed weights keep their low scores."""
        scores = to_numpy(mask.scores)
        if self.between_rounds == "paper":
            scores = scores * np.float32(mask.present_temperature)
        mask.scores.assign(np.minimum(scores, np.float32(self.initial_score)))


def _temperature(final, epochs_per_round):
    if not isinstance(final, ExponentialTemperature):
        arguments.check_positive(final_temperature=final)
        return ExponentialTemperature(1.0, final)
    if final.per == "epoch" and epochs_per_round == 1:
        raise ValueError(
            'A temperature that grows per="epoch" needs at least two epochs a round, '
            "or it would never change. Received: epochs_per_round=1"
        )
    return final
