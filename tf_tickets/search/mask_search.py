"""Searches that learn the mask by gradient, round by round.

A round trains weights and scores together; at its end the hard mask gives the
ticket, which starts from the weights of the moment to rewind to. Then the scores
are made ready for the next round. A search of `rounds` rounds trains as often.
"""

import keras
import numpy as np

from tf_tickets import optimizers, wrapping
from tf_tickets.masks.learned import LearnedMask
from tf_tickets.masks.soft import SoftMask
from tf_tickets.search.round_search import RoundSearch
from tf_tickets.training import checks, snapshots
from tf_tickets.training.fidelity import Fidelity
from tf_tickets.training.snapshots import to_numpy


class MaskSearch(RoundSearch):
    """Learns masks; a subclass gives `mask` and what happens to the scores.

    Args:
        mask: The mask parametrization.
        rounds: How many times to train, and how many tickets to find.
        epochs_per_round: Epochs that each training takes.
        rewind_to: "init", "N steps" or "N epochs": the moment of the first round
            from which the tickets start.
        rewind: Whether the search itself goes back to that moment between rounds.
        score_optimizer: The optimizer of the scores; None for a copy of that of
            the weights, without weight decay.
        monitor: The logged metric by which tickets are judged.
        tolerance: How far below the best ticket another one may be.
        seed: Seed of what the search draws at random.
    """

    first_round = 1
    mask: LearnedMask

    def __init__(
        self,
        mask: LearnedMask,
        rounds: int,
        epochs_per_round: int,
        rewind_to: str = "init",
        rewind: bool = False,
        score_optimizer: str | dict | keras.optimizers.Optimizer | None = None,
        monitor: str = "val_accuracy",
        tolerance: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__(rounds, epochs_per_round, rewind_to, monitor, tolerance, seed)
        self.mask = mask
        self.rewind = rewind
        self.score_optimizer = (
            keras.optimizers.get(score_optimizer) if score_optimizer else None
        )

    @property
    def masks(self) -> dict[str, np.ndarray]:
        return wrapping.masks(self.model)

    @property
    def _learned(self) -> dict[str, LearnedMask]:
        return wrapping.mask_layers(self.model)

    def check_model(self) -> None:
        super().check_model()
        checks.check_masks(self.model, self.mask)
        self._check_trained()
        checks.check_tells_training(self.model)
        checks.check_length_known(self.params)

    def _check_trained(self):
        trained = {id(v) for v in self.model.trainable_variables}
        frozen = [p for p, m in self._learned.items() if id(m.scores) not in trained]
        if frozen:
            raise ValueError(
                f"The scores of {frozen} cannot be learned, for their layers are "
                "frozen. Leave those layers out with `filters`, or thaw them."
            )
        optimizer = self.model.optimizer
        scores = [mask.scores for mask in self._learned.values()]
        if optimizers.decays(optimizer, scores):
            raise ValueError(
                f"Optimizer {optimizer.name!r} has weight decay, which would pull the "
                "scores to 0. Compile before search.wrap(model), or compile with "
                "tf_tickets.optimizers.with_scores(optimizer)."
            )
        found = optimizers.trainer_of(optimizer, scores[0])
        wanted = self.score_optimizer
        if wanted is not None and not optimizers.same(found, wanted):
            raise ValueError(
                f"This search trains the scores with {optimizers.settings(wanted)}, "
                f"but the model was compiled so that {optimizers.settings(found)} "
                "does. Compile before search.wrap(model), or compile with "
                "tf_tickets.optimizers.with_scores(optimizer, scores=...)."
            )

    @staticmethod
    def freeze(wrapped: keras.Model) -> None:
        """Leaves nothing to be trained but the scores."""
        for variable in wrapping.plain_paths(wrapped).values():
            variable.trainable = False

    def begin(self) -> None:
        for place, mask in enumerate(self._learned.values()):
            rng = np.random.default_rng([self.seed, place])
            mask.begin(rng, self._steps_of_round, self.epochs_per_round)
        # What an earlier search has left in the optimizer of the scores.
        snapshots.reset_optimizer(self.model, snapshots.iteration(self.model))
        super().begin()

    @property
    def _steps_of_round(self):
        return self.params["steps"] * self.epochs_per_round

    def on_epoch_end(self, epoch, logs=None):
        checks.check_counted(self.model)
        super().on_epoch_end(epoch, logs)

    def measures(self) -> dict[str, float]:
        """Two sparsities: that of the hard mask, and the soft mask's exact zeros."""
        found = [mask.probability() for mask in self._learned.values()]
        size = sum(mask.size for mask in found)
        ticket = self.sparsity
        logs = {
            "sparsity": ticket,
            "ticket_sparsity": ticket,
            "soft_sparsity": sum(int((mask == 0.0).sum()) for mask in found) / size,
            "penalty": self._penalty(),
            "round": self.round,
        }
        if isinstance(self.mask, SoftMask):
            first = next(iter(self._learned.values()))
            logs["temperature"] = first.present_temperature
        return logs

    def _penalty(self):
        """The part of the loss that is the masks' penalty."""
        if not self.mask.penalty:
            return 0.0
        return sum(mask.present_penalty for mask in self._learned.values())

    def end_round(self, logs: dict) -> bool:
        """Takes the ticket, before anything is reset."""
        step = snapshots.iteration_in(self.snapshot)
        ticket = self.ticket(self.ticket_masks(), self.ticket_start(), step)
        self.tickets.append(ticket)
        self.note_metrics(logs)
        self._scores = {p: to_numpy(m.scores) for p, m in self._learned.items()}
        return super().end_round(logs)

    def ticket_start(self) -> snapshots.State:
        """The state that the round's ticket starts from."""
        return self.snapshot

    def ticket_masks(self) -> dict[str, np.ndarray]:
        """The masks of the round's ticket."""
        return self.masks

    def on_train_end(self, logs=None):
        # Keras has just written averages (use_ema) over the scores too.
        if self.complete:
            for path, mask in self._learned.items():
                mask.scores.assign(self._scores[path])
        super().on_train_end(logs)

    def turn(self) -> None:
        for mask in self._learned.values():
            self.reset_scores(mask)
            mask.restart(self._steps_of_round, self.epochs_per_round)
        self._rewind()
        super().turn()

    def reset_scores(self, mask: LearnedMask) -> None:
        """Makes a kernel's scores ready for the next round."""
        raise NotImplementedError

    def _rewind(self):
        """New optimizers and the schedule from its beginning; weights if asked."""
        weights = "rewind" if self.rewind else "keep"
        fidelity = Fidelity(weights, weights, "fresh", "rewind", "keep")
        state = {**self.snapshot, "learning_rate": self.fresh["learning_rate"]}
        snapshots.restore(self.model, state, fidelity, self.fresh)

    def get_config(self):
        serialize = keras.optimizers.serialize
        scores = self.score_optimizer
        return {
            **super().get_config(),
            "rewind": self.rewind,
            "score_optimizer": serialize(scores) if scores else None,
        }
