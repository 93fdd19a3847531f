"""Rounds that learn the mask by gradient.

A round trains weights and scores together. At its end the hard mask makes the ticket,
which starts from the weights of the moment to rewind to. Then the scores are prepared
for the next round. A search of N rounds trains N times.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from tf_tickets import arguments, optimizers, wrapping
from tf_tickets.masks import SoftMask
from tf_tickets.masks.learned import LearnedMask
from tf_tickets.search.plan import RoundPlan, Run, sparsity_of
from tf_tickets.training import checks, snapshots
from tf_tickets.training.fidelity import Fidelity
from tf_tickets.wrapping import to_numpy


class LearnMasks(RoundPlan):
    """Learns masks; subclasses define the ticket of a round.

    Args:
        mask: The mask parametrization.
        rounds: Number of trainings, and of tickets.
        epochs_per_round: Epochs of each training.
        reset_scores: Function that prepares a kernel's scores for the next round.
        rewind: Whether the weights of the search go back to the snapshot too.
        score_optimizer: The optimizer of the scores; None accepts any.
    """

    mask: LearnedMask

    def __init__(
        self,
        mask: LearnedMask,
        rounds: int,
        epochs_per_round: int,
        reset_scores: Callable[[LearnedMask], None] | None = None,
        rewind: bool = False,
        score_optimizer: keras.optimizers.Optimizer | None = None,
    ) -> None:
        arguments.check_type(LearnedMask, mask=mask)
        arguments.check_flags(rewind=rewind)
        if reset_scores is not None:
            arguments.check_functions(1, reset_scores=reset_scores)
        if score_optimizer is not None:
            arguments.check_type(
                keras.optimizers.Optimizer, score_optimizer=score_optimizer
            )
        super().__init__(rounds, epochs_per_round, mask=mask)
        self.reset_scores = reset_scores
        self.rewind = rewind
        self.score_optimizer = score_optimizer

    # The ticket of a round.

    def ticket_masks(self, run: Run) -> dict[str, np.ndarray]:
        """Returns the masks of the round's ticket."""
        return run.kernels.masks

    def ticket_start(self, run: Run) -> snapshots.State:
        """Returns the state that the round's ticket starts from."""
        return run.state.snapshot

    # The hooks of the engine.

    def check(self, run: Run) -> None:
        checks.check_wrapped(run.model)
        checks.check_masks(run.model, self.mask)
        self._check_trained(run)
        checks.check_tells_training(run.model)
        checks.check_length_known(run.params)

    def setup(self, run: Run) -> None:
        steps = self._steps_of_round(run)
        for index, mask in enumerate(learned(run).values()):
            mask.begin(run.rng(index), steps, self.epochs_per_round)
        # Clears what an earlier search has left in the optimizer of the scores.
        snapshots.reset_optimizer(run.model, snapshots.iteration(run.model))

    def turn(self, run: Run) -> None:
        for mask in learned(run).values():
            if self.reset_scores is not None:
                self.reset_scores(mask)
            mask.restart(self._steps_of_round(run), self.epochs_per_round)
        self._rewind(run)

    def measures(self, run: Run) -> dict[str, float]:
        """Returns two sparsities: of the hard mask, and the soft mask's exact zeros."""
        checks.check_counted(run.model)
        masks = learned(run)
        soft = [mask.probability() for mask in masks.values()]
        size = sum(mask.size for mask in soft)
        sparsity = sparsity_of(run.kernels.masks)
        logs = {
            "sparsity": sparsity,
            "ticket_sparsity": sparsity,
            "soft_sparsity": sum(int((mask == 0.0).sum()) for mask in soft) / size,
            "penalty": self._penalty(masks),
        }
        if isinstance(self.mask, SoftMask):
            first: Any = next(iter(masks.values()))
            logs["temperature"] = first.present_temperature
        return logs

    def end_round(self, run: Run, logs: dict) -> bool:
        """Takes the ticket before anything is reset."""
        run.add_ticket(self.ticket_masks(run), self.ticket_start(run))
        run.note_metrics(logs)
        run.state.scores = {p: to_numpy(m.scores) for p, m in learned(run).items()}
        return super().end_round(run, logs)

    def end(self, run: Run) -> None:
        # Keras has just written averages (use_ema) over the scores too.
        if run.state.complete:
            for path, mask in learned(run).items():
                mask.scores.assign(run.state.scores[path])

    def _check_trained(self, run):
        trained = {id(v) for v in run.model.trainable_variables}
        masks = learned(run)
        frozen = [p for p, m in masks.items() if id(m.scores) not in trained]
        if frozen:
            raise ValueError(
                f"The scores of {frozen} cannot be learned, since their layers are "
                "frozen. Exclude those layers with `filters`, or unfreeze them."
            )
        optimizer = run.model.optimizer
        scores = [mask.scores for mask in masks.values()]
        if optimizers.decays(optimizer, scores):
            raise ValueError(
                f"Optimizer {optimizer.name!r} has weight decay, which would pull the "
                "scores to 0. Compile before search.wrap(model), or compile with "
                "tf_tickets.optimizers.with_scores(optimizer)."
            )
        present = optimizers.trainer_of(optimizer, scores[0])
        wanted = self.score_optimizer
        if wanted is not None and not optimizers.same(present, wanted):
            raise ValueError(
                f"This search trains the scores with {optimizers.settings(wanted)}, "
                f"but the model was compiled with {optimizers.settings(present)} for "
                "them. Compile before search.wrap(model), or compile with "
                "tf_tickets.optimizers.with_scores(optimizer, scores=...)."
            )

    def _steps_of_round(self, run):
        return run.params["steps"] * self.epochs_per_round

    def _penalty(self, masks):
        """Returns the part of the loss that is the masks' penalty."""
        if not self.mask.penalty:
            return 0.0
        return sum(mask.present_penalty for mask in masks.values())

    def _rewind(self, run):
        """Resets the optimizers and the schedule; rewinds weights if requested."""
        weights = "rewind" if self.rewind else "keep"
        fidelity = Fidelity(weights, weights, "fresh", "rewind", "keep")
        fresh = run.state.fresh
        state = {**run.state.snapshot, "learning_rate": fresh["learning_rate"]}
        snapshots.restore(run.model, state, fidelity, fresh)


def learned(run: Run) -> dict[str, Any]:
    """Returns the mask parametrizations by kernel path."""
    return run.kernels.mask_layers


def freeze_weights(wrapped: keras.Model) -> None:
    """Freezes all variables except the scores."""
    for variable in wrapping.plain_paths(wrapped).values():
        variable.trainable = False


def optimizer_or_none(
    identifier: str | keras.optimizers.Optimizer | None,
) -> keras.optimizers.Optimizer | None:
    """Returns an optimizer from its name or an instance, or None.

    Example:

    >>> optimizer_or_none(None) is None
    True
    """
    return None if identifier is None else optimizers.get(identifier)
