"""KDLTS: finds a ticket at initialization by distillation from trained teachers."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import keras
import numpy as np

from tf_tickets import arguments, distillation
from tf_tickets import masks as masks_module
from tf_tickets.configuration import described
from tf_tickets.distillation import DistillationLoss
from tf_tickets.distillation.distiller import Distiller, check_weights
from tf_tickets.masks import BudgetMask, SoftMask, TopKMask
from tf_tickets.masks.learned import LearnedMask
from tf_tickets.pruning import allocation as allocations
from tf_tickets.pruning import selection
from tf_tickets.pruning.allocation import Allocation
from tf_tickets.search.learn_masks import (
    LearnMasks,
    freeze_weights,
    learned,
    optimizer_or_none,
)
from tf_tickets.search.plan import Run
from tf_tickets.search.ticket_search import TicketSearch
from tf_tickets.tickets.monitor import Monitor
from tf_tickets.training import batches, snapshots
from tf_tickets.training.fidelity import Fidelity
from tf_tickets.training.rewind import Rewind
from tf_tickets.wrapping import Kernels, compiling, graphs, kernels, prunables, to_numpy


@keras.saving.register_keras_serializable("tf_tickets")
class KDLTS(TicketSearch):
    """Knowledge-distillation ticket search.

    Scores are trained so that the masked network matches the outputs, features and
    relations of an ensemble of teachers while its number of weights is reduced. Then
    the weights with the highest scores make the mask, exactly as many as requested, and
    everything but the mask is rewound. `search.wrap(model)` returns a compiled
    `Distiller`; the search is a callback of its `fit`. Afterwards the model is the
    untrained ticket. The metrics of `search.tickets[0]` are still those of the trained
    network with soft masks that it was taken from.

    The paper's full text is not public. It states tickets at initialization, an
    ensemble of teachers, information from responses, features and relations, and
    deterministic approximations to a mixed-integer problem. The form of each and all
    hyperparameters are our choice, and configurable.

    Args:
        final_sparsity: Fraction of zeros in the ticket.
        epochs: Epochs of the search.
        distillation_losses: List of distillation losses. The default compares outputs,
            and features and distances before the last kernel.
        distillation_loss_weights: A weight for each loss; by default 1.
        student_loss_weight: Weight of the compiled loss.
        mask: How the number of weights is constrained. "budget", or a
            `masks.BudgetMask` with its own strength: an augmented Lagrangian reduces
            soft masks to that number. "soft": a penalty on the sum of the masks,
            without a target; how sparse they get depends on its weight, as in
            `masks.SoftMask(penalty=1e-6, scale_mask=False)`. "topk": every step uses
            exactly that number of weights, those with the highest scores.
        allocation: "global", "uniform", "erk" or a function: how many weights each
            kernel keeps. "topk" needs one that does not depend on scores.
        train_weights: Whether the search trains weights, which are rewound afterwards.
            If not, the weights of the given model are frozen, and remain so.
        rewind_to: "init", "N steps" or "N epochs": the weights the ticket starts from.
            A moment later than "init" makes it an early-training ticket.
        score_optimizer: The optimizer of the scores; None for that of the weights.
        monitor: The metric by which tickets are judged: its name or a `Monitor`.
        seed: Seed of everything that the search draws.

    Example:

    >>> def build():
    ...     layers = [keras.Input((4,)), keras.layers.Dense(6, activation="relu"),
    ...               keras.layers.Dense(3)]
    ...     model = keras.Sequential(layers, name="net")
    ...     model.compile("adam", keras.losses.SparseCategoricalCrossentropy(True))
    ...     return model
    >>> search = KDLTS(final_sparsity=0.5, epochs=2, monitor="loss")
    >>> search = search.taught_by(build(), build())
    >>> model = search.wrap(build(), verbose=False)
    >>> x, y = np.random.default_rng(0).normal(size=(9, 4)), np.arange(9) % 3
    >>> history = model.fit(x, y, epochs=search.epochs, callbacks=[search], verbose=0)
    >>> search.tickets[0].sparsity
    0.5
    """

    method = "kdlts"

    def __init__(
        self,
        final_sparsity: float = 0.9,
        epochs: int = 20,
        distillation_losses: Sequence[DistillationLoss] | None = None,
        distillation_loss_weights: Sequence[float] | None = None,
        student_loss_weight: float = 0.5,
        mask: str | LearnedMask = "budget",
        *,
        allocation: str | Allocation = "global",
        train_weights: bool = True,
        rewind_to: str | Rewind = "init",
        score_optimizer: str | keras.optimizers.Optimizer | None = None,
        monitor: str | Monitor = "val_accuracy",
        seed: int = 0,
    ) -> None:
        arguments.check_counts(epochs=epochs)
        arguments.check_fraction(final_sparsity=final_sparsity)
        arguments.check_between(0.0, 1.0, student_loss_weight=student_loss_weight)
        arguments.check_flags(train_weights=train_weights)
        _check_losses(distillation_losses, distillation_loss_weights)
        self.final_sparsity = final_sparsity
        self.distillation_losses = distillation_losses
        self.distillation_loss_weights = distillation_loss_weights
        self.student_loss_weight = student_loss_weight
        self.mask = _mask(mask, allocation)
        self.allocation = allocation
        self.train_weights = train_weights
        self.score_optimizer = optimizer_or_none(score_optimizer)
        self._plan = _TaughtRound(self, epochs)
        super().__init__(self._plan, rewind_to, monitor, seed)

    def _origin(self):
        teachers = self._plan.teachers or []
        digests = [batches.digest(teacher.get_weights()) for teacher in teachers]
        settings = {**described(self), "teachers": digests}
        return {"method": self.method, "settings": settings}

    def taught_by(self, *teachers: keras.Model, epochs: int = 0) -> Self:
        """Sets the teachers; without any, the search uses the labels alone.

        Args:
            *teachers: The models.
            epochs: Their training epochs in total, if a frontier should count them as
                search epochs.

        Returns:
            The search itself.
        """
        arguments.check_not_negative(epochs=epochs)
        self._plan.teachers = arguments.listed(keras.Model, teachers=teachers)
        self._plan.teacher_epochs = epochs
        return self

    def _companions(self) -> dict[str, Any]:
        teachers = _Teachers(self._plan.teachers, self._plan.teacher_epochs)
        return {**super()._companions(), "teachers": teachers}

    def _accompany(self, companions: dict[str, Any]) -> None:
        super()._accompany(companions)
        self._plan.teachers, self._plan.teacher_epochs = companions["teachers"]


class _Teachers(NamedTuple):
    """Teachers, which copies of a search share, and their epochs in total."""

    models: list[keras.Model] | None
    epochs: int

    def __deepcopy__(self, memo):
        return self


class _TaughtRound(LearnMasks):
    """One round that trains scores under a budget, with teachers."""

    def __init__(self, search, epochs):
        super().__init__(search.mask, 1, epochs, score_optimizer=search.score_optimizer)
        self.search = search
        self.allocate = allocations.get(search.allocation)
        self.is_global = self.allocate is allocations.global_
        self.teachers: list[keras.Model] | None = None
        self.teacher_epochs = 0

    def epochs_before(self, round_: int, run: Run) -> int:
        return super().epochs_before(round_, run) + self.teacher_epochs

    # The model.

    def prepare(self, wrapped: keras.Model) -> keras.Model:
        """Returns the Distiller of the wrapped model."""
        if self.teachers is None:
            raise ValueError(
                "The search has no teachers. Call search.taught_by(*teachers), or "
                "search.taught_by() to search with the labels alone."
            )
        if not self.search.train_weights:
            freeze_weights(wrapped)
        self._share_budgets(kernels(wrapped))
        if not self.teachers:
            return wrapped
        taught = self._distiller(wrapped)
        if wrapped.compiled:
            compiling.compile_like(taught, wrapped)
            # Its optimizer is the Distiller's now, and is saved with that.
            wrapped.optimizer, wrapped.compiled = None, False
        return taught

    def _distiller(self, student):
        search = self.search
        losses = search.distillation_losses
        losses = _default_losses(student) if losses is None else losses
        # Copies: a projection belongs to one pair of networks.
        losses = [type(loss).from_config(loss.get_config()) for loss in losses]
        return Distiller(
            self.teachers,
            student,
            losses,
            search.distillation_loss_weights,
            search.student_loss_weight,
        )

    def _share_budgets(self, wrapped: Kernels) -> None:
        """Lets all masks share one budget if it is global, else gives each its own."""
        if not isinstance(self.mask, BudgetMask):
            return
        masks: list[Any] = list(wrapped.mask_layers.values())
        for mask in masks:
            mask.share([] if self.is_global else [mask])
        if self.is_global:
            masks[0].share(masks)

    # The hooks of the engine.

    def check(self, run: Run) -> None:
        super().check(run)
        self._share_budgets(run.kernels)

    def begin(self, run: Run) -> None:
        if isinstance(self.mask, BudgetMask | TopKMask):
            counts = {} if self.is_global else self._counts(run)
            for path, mask in learned(run).items():
                if isinstance(self.mask, TopKMask):
                    mask.count.assign(counts[path])
                elif mask.in_charge():
                    mask.allow(self._keep(run) if self.is_global else counts[path])

    def measures(self, run: Run) -> dict[str, float]:
        """Adds the ticket's sparsity, by rank, and the excess of the soft masks."""
        soft = [mask.probability() for mask in learned(run).values()]
        kept = sum(float(mask.sum()) for mask in soft)
        size = sum(mask.size for mask in soft)
        chosen = sum(max(count, 1) for count in self._allocated(run).values())
        sparsity = 1 - chosen / size
        return {
            **super().measures(run),
            "sparsity": sparsity,
            "ticket_sparsity": sparsity,
            "excess": (kept - self._keep(run)) / size,
        }

    def ticket_masks(self, run: Run) -> dict[str, np.ndarray]:
        """Returns masks of exactly the requested number of weights, by rank."""
        scores, masks, keep = _scores(run), _ones(run), self._keep(run)
        return selection.choose(scores, masks, keep, self.allocate)

    def end(self, run: Run) -> None:
        """Turns the model into the untrained ticket."""
        super().end(run)
        if run.state.complete:
            for path, mask in learned(run).items():
                mask.assign(run.state.tickets[-1].masks[path])
            exact, state = Fidelity.get("exact"), run.state
            snapshots.restore(run.model, state.snapshot, exact, state.fresh)

    # How many weights are kept.

    def _keep(self, run):
        return allocations.at_sparsity(_ones(run), self.search.final_sparsity)

    def _allocated(self, run):
        return self.allocate(_scores(run), _ones(run), self._keep(run))

    def _counts(self, run):
        return allocations.guard(self._allocated(run), _ones(run))


def _ones(run):
    return {p: np.ones(m.scores.shape, bool) for p, m in learned(run).items()}


def _scores(run):
    return {path: to_numpy(mask.scores) for path, mask in learned(run).items()}


def _mask(identifier, allocation):
    is_global = allocations.get(allocation) is allocations.global_
    name = identifier if isinstance(identifier, str) else None
    if name == "topk":
        identifier = TopKMask(0.0, absolute=False)
    elif name == "soft":
        identifier = SoftMask(penalty=1e-6, scale_mask=False)
    mask = masks_module.get(identifier)
    if not isinstance(mask, BudgetMask | SoftMask | TopKMask):
        raise ValueError(
            "`mask` must be 'budget', 'soft', 'topk', or an instance of BudgetMask, "
            f"SoftMask or TopKMask. Received: {type(mask).__name__}"
        )
    if isinstance(mask, TopKMask) and is_global:
        raise ValueError(
            "mask='topk' keeps a fixed number of weights in each kernel. Received: "
            f"allocation={allocation!r}. Use 'erk' or 'uniform'."
        )
    return mask


def _check_losses(losses, weights):
    if losses is not None:
        losses = arguments.listed(DistillationLoss, distillation_losses=losses)
    if weights is not None:
        weights = check_weights(weights)
    if losses is not None and weights is not None and len(weights) != len(losses):
        raise ValueError(
            "There must be one of `distillation_loss_weights` for each of "
            f"`distillation_losses`. Received: {len(weights)} weights {weights}, "
            f"{len(losses)} losses {arguments.shown(losses)}"
        )


def _default_losses(student):
    """Returns losses on outputs, and on features and distances before the end."""
    logits = not graphs.gives_probabilities(student)
    outputs = distillation.LogitsDistillation(4.0, from_logits=logits)
    losses: list[DistillationLoss] = [outputs]
    index = _before_last_kernel(student)
    if index is not None:
        losses.append(distillation.FeatureDistillation(index))
    return [*losses, distillation.DistanceDistillation(index)]


def _before_last_kernel(student):
    """Returns the index of the layer that feeds the last kernel, or None."""
    if not graphs.is_graph(student):
        return None
    last = [layer for layer in student.layers if prunables(layer)][-1]
    if graphs.is_graph(last):
        return None
    before = graphs.layer_before(student, last)
    # A dropped activation is no feature.
    while isinstance(before, keras.layers.Dropout):
        before = graphs.layer_before(student, before)
    if before is None or isinstance(before, keras.layers.InputLayer):
        return None
    return [id(layer) for layer in student.layers].index(id(before))
