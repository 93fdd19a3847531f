"""KDLTS: a ticket at initialization, found by what trained teachers know."""

from collections.abc import Iterable, Sequence
from typing import Any, Self

import keras
import numpy as np

from tf_tickets import distillation, wrapping
from tf_tickets.distillation.distiller import Distiller
from tf_tickets.distillation.losses import DistillationLoss
from tf_tickets.masks.annealing import ExponentialTemperature
from tf_tickets.masks.budget import BudgetMask
from tf_tickets.masks.soft import SoftMask
from tf_tickets.masks.topk import TopKMask
from tf_tickets.pruning import allocation, selection
from tf_tickets.pruning.allocation import Allocation, global_, named_allocation
from tf_tickets.search.mask_search import MaskSearch
from tf_tickets.training import batches, checks, snapshots
from tf_tickets.training.fidelity import Fidelity
from tf_tickets.training.snapshots import to_numpy
from tf_tickets.wrapping import rebuilding

_CONSTRAINTS = ("lagrangian", "l1", "topk")
# Arguments that are kept and configured as they are.
_OWN = (
    *("final_sparsity", "distillation_loss_weights", "student_loss_weight"),
    *("constraint", "strength", "train_weights", "initial_score"),
    "final_temperature",
)


@keras.saving.register_keras_serializable("tf_tickets")
class KDLTS(MaskSearch):
    """Knowledge-distillation ticket search.

    Scores are trained so that the masked network answers, feels and relates as an
    ensemble of teachers does, while its number of weights is brought down; then the
    weights of the highest scores make the mask, exactly as many as wanted, and all but
    the mask goes back to where it began. `search.wrap(model)` gives a compiled
    `Distiller`; the search is the callback of its `fit`. Afterwards the model is the
    untrained ticket; the metrics of `search.tickets[0]` are still those of the trained
    network with soft masks that it was taken from.

    The paper's full text is not public. Stated are tickets at initialization, an
    ensemble of teachers, information from responses, features and relations, and
    deterministic approximations to a mixed-integer problem; which ones, all weights and
    numbers are our choice and arguments.

    Args:
        final_sparsity: Fraction of zeros in the ticket.
        epochs: Epochs of the search.
        distillation_losses: What is learned from the teachers, a list; by default
            their answers, and features and distances before the last kernel.
        distillation_loss_weights: A weight for each; by default 1.
        student_loss_weight: Weight of the compiled loss.
        constraint: "lagrangian": an augmented Lagrangian brings soft masks to the
            number; "l1": a penalty on their sum does not know it; "topk": only so many
            weights are used at every step, those of the highest scores.
        strength: Of the Lagrangian, or the penalty's weight, which wants to be
            something like 1e-6.
        allocation: "global", "uniform", "erk" or a function: how many weights each
            kernel keeps. "topk" needs one that does not ask for scores.
        train_weights: Whether weights are trained in the search, and then forgotten,
            or stay as they are: the weights of the given model are then frozen, and
            remain so.
        rewind_to: "init", "N steps" or "N epochs": the weights the ticket starts from.
            With a moment later than "init" it is an early-training ticket.
        initial_score: The score that every weight begins with; "topk" draws them.
        final_temperature: The temperature of soft masks at the end.
        score_optimizer: The optimizer of the scores; None for that of the weights.
        monitor: The logged metric by which tickets are judged.
        seed: Seed of what the search draws at random.

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
        distillation_losses: Sequence[Any] | None = None,
        distillation_loss_weights: Sequence[float] | None = None,
        student_loss_weight: float = 0.5,
        *,
        constraint: str = "lagrangian",
        strength: float = 100.0,
        allocation: str | dict | Allocation = "global",
        train_weights: bool = True,
        rewind_to: str = "init",
        initial_score: float = 0.0,
        final_temperature: float = 200.0,
        score_optimizer: str | dict | keras.optimizers.Optimizer | None = None,
        monitor: str = "val_accuracy",
        seed: int = 0,
    ) -> None:
        given = {name: value for name, value in locals().items() if name in _OWN}
        checks.check_counts(epochs=epochs)
        _check(final_sparsity, constraint, allocation)
        mask = _mask(constraint, strength, initial_score, final_temperature)
        scores: Any = {"score_optimizer": score_optimizer, "rewind_to": rewind_to}
        super().__init__(mask, 1, epochs, **scores, monitor=monitor, seed=seed)
        self.__dict__.update(given)
        self.distillation_losses = _losses(distillation_losses)
        self.allocation, self.allocate = named_allocation(allocation)
        self.teachers: list[keras.Model] | None = None
        self.teacher_epochs = 0

    def taught_by(self, *teachers: keras.Model, epochs: int = 0) -> Self:
        """Names the teachers; none of them for a search by the labels alone.

        Args:
            *teachers: The models.
            epochs: For how long all of them were trained, where that is to count as a
                part of the search, in a frontier.

        Returns:
            The search itself.
        """
        self.teachers = list(teachers)
        self.teacher_epochs = epochs
        return self

    def epochs_before(self, round_: int) -> int:
        return super().epochs_before(round_) + self.teacher_epochs

    def varied(self, **values: Iterable) -> dict[str, Self]:
        found = super().varied(**values)
        for search in found.values():
            search.teachers = self.teachers
            search.teacher_epochs = self.teacher_epochs
        return found

    # The model.

    def prepare(self, wrapped: keras.Model) -> keras.Model:
        """Gives the model to teachers; frozen, where weights are not trained."""
        if self.teachers is None:
            raise ValueError(
                "The search has no teachers. Call search.taught_by(*teachers), or "
                "search.taught_by() to search by the labels alone."
            )
        if not self.train_weights:
            self.freeze(wrapped)
        self._share(wrapped)
        if not self.teachers:
            return wrapped
        taught = self._distiller(wrapped)
        if wrapped.compiled:
            rebuilding.compile_like(taught, wrapped)
            # Its optimizer is the Distiller's now, and is saved with that.
            wrapped.optimizer, wrapped.compiled = None, False
        return taught

    def _distiller(self, student):
        losses = self.distillation_losses
        losses = _usual_losses(student) if losses is None else losses
        # Copies: a projection belongs to one pair of networks.
        losses = [type(loss).from_config(loss.get_config()) for loss in losses]
        weights, own = self.distillation_loss_weights, self.student_loss_weight
        return Distiller(self.teachers, student, losses, weights, own)

    def _share(self, model):
        """Each budget has one mask in charge: the first of all, or each of its own."""
        if self.constraint != "lagrangian":
            return
        masks = list(wrapping.mask_layers(model).values())
        for mask in masks:
            mask.share([] if self.allocate is global_ else [mask])
        if self.allocate is global_:
            masks[0].share(masks)

    # The rounds: there is one.

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self._share(self.model)

    def begin(self) -> None:
        super().begin()
        if self.constraint == "l1":
            return
        shared = self.allocate is global_
        counts = {} if shared else self._counts()
        for path, mask in self._learned.items():
            if self.constraint == "topk":
                mask.count.assign(counts[path])
            elif mask.in_charge():
                mask.allow(self._keep() if shared else counts[path])

    def measures(self) -> dict[str, float]:
        """The ticket's sparsity, by rank, and how far soft masks are above it."""
        found = [mask.probability() for mask in self._learned.values()]
        kept = sum(float(mask.sum()) for mask in found)
        size = sum(mask.size for mask in found)
        chosen = sum(max(count, 1) for count in self._allocated().values())
        ticket = {name: 1 - chosen / size for name in ("sparsity", "ticket_sparsity")}
        excess = {"excess": (kept - self._keep()) / size}
        return {**super().measures(), **ticket, **excess}

    def _keep(self):
        return allocation.at_sparsity(self._everything(), self.final_sparsity)

    def _everything(self):
        return {p: np.ones(m.scores.shape, bool) for p, m in self._learned.items()}

    def _counts(self):
        return allocation.guard(self._allocated(), self._everything())

    def _allocated(self):
        return self.allocate(self._scores_now(), self._everything(), self._keep())

    def _scores_now(self):
        return {path: to_numpy(mask.scores) for path, mask in self._learned.items()}

    def ticket_masks(self) -> dict[str, np.ndarray]:
        """Exactly as many as wanted, by rank."""
        return selection.select(self._scores_now(), self._everything(), self._counts())

    def on_train_end(self, logs=None):
        """The model becomes the untrained ticket."""
        super().on_train_end(logs)
        if self.complete:
            for path, mask in self._learned.items():
                mask.assign(self.tickets[-1].masks[path])
            fidelity = Fidelity.get("exact")
            snapshots.restore(self.model, self.snapshot, fidelity, self.fresh)

    def settings(self) -> dict:
        taught = self.teachers or []
        return {
            **self.get_config(),
            "allocation": getattr(self.allocation, "__name__", self.allocation),
            "teachers": [batches.digest(t.get_weights()) for t in taught],
        }

    def get_config(self):
        config = super().get_config()
        serialize = keras.saving.serialize_keras_object
        losses = self.distillation_losses
        kept = ("rewind_to", "score_optimizer", "monitor", "seed")
        return {
            **{name: getattr(self, name) for name in _OWN},
            **{name: config[name] for name in kept},
            "epochs": config["epochs_per_round"],
            "distillation_losses": losses and [serialize(loss) for loss in losses],
            "allocation": serialize(self.allocation),
        }


def _losses(given):
    """The losses as given, or out of a configuration."""
    read = keras.saving.deserialize_keras_object
    return given and [read(x) if isinstance(x, dict) else x for x in given]


def _check(final_sparsity, constraint, allocated):
    checks.check_sparsity(final_sparsity=final_sparsity)
    if constraint not in _CONSTRAINTS:
        raise ValueError(
            f"`constraint` must be one of {_CONSTRAINTS}. Received: {constraint!r}"
        )
    if constraint == "topk" and allocated in ("global", global_):
        raise ValueError(
            "constraint='topk' keeps a fixed number in each kernel. Received: "
            f"allocation={allocated!r}. Use 'erk' or 'uniform'."
        )


def _mask(constraint, strength, initial_score, final_temperature):
    if constraint == "topk":
        return TopKMask(0.0, absolute=False)
    annealed = ExponentialTemperature(1.0, final_temperature)
    if constraint == "l1":
        return SoftMask(initial_score, strength, annealed, scale_mask=False)
    return BudgetMask(strength, initial_score, annealed)


def _usual_losses(student):
    """Answers, and features and distances before the last kernel."""
    logits = not rebuilding.gives_probabilities(student)
    answers = distillation.LogitsDistillation(4.0, from_logits=logits)
    losses: list[DistillationLoss] = [answers]
    place = _before_last_kernel(student)
    if place is not None:
        losses.append(distillation.FeatureDistillation(place))
    return [*losses, distillation.DistanceDistillation(place)]


def _before_last_kernel(student):
    """The place of the layer whose output the last kernel is applied to, or None."""
    if not rebuilding.is_graph(student):
        return None
    last = [layer for layer in student.layers if wrapping.prunables(layer)][-1]
    if rebuilding.is_graph(last):
        return None
    before = rebuilding.layer_before(student, last)
    # What is dropped is not a feature.
    while isinstance(before, keras.layers.Dropout):
        before = rebuilding.layer_before(student, before)
    if before is None or isinstance(before, keras.layers.InputLayer):
        return None
    return [id(layer) for layer in student.layers].index(id(before))
