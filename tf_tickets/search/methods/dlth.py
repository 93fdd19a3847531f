"""The Dual Lottery Ticket Hypothesis: random networks transformed (Bai et al. 2022)."""

import keras

from tf_tickets import arguments
from tf_tickets.masks.annealing import GrowingPenalty
from tf_tickets.pruning import allocation as allocations
from tf_tickets.pruning import criteria
from tf_tickets.pruning.allocation import Allocation
from tf_tickets.search.phases import PenaltyPhase, StageOne
from tf_tickets.search.press_and_remove import PressAndRemove, asked
from tf_tickets.search.ticket_search import TicketSearch
from tf_tickets.structures import registry as structures
from tf_tickets.structures.structure import Structure
from tf_tickets.tickets.monitor import Monitor
from tf_tickets.training.rewind import Rewind


@keras.saving.register_keras_serializable("tf_tickets")
class DLTH(TicketSearch):
    """Random Sparse Network Transformation: choose at random, penalize, remove.

    A callback that runs one `fit` over a model that `search.wrap` returned. Weights of
    every kernel are chosen at random. A penalty on them grows, which moves their
    information into the other weights, and holds until they are next to zero. Then they
    are removed, and the rest is fine-tuned with a new optimizer. More than one round is
    the iterative variant: each round transforms more weights, and the last ticket is
    fine-tuned.

    The published settings are `penalty=PenaltyPhase(epochs, GrowingPenalty(1e-4,
    interval=5, hold=40_000), learning_rate=1e-3)`, for SGD with momentum 0.9. By
    default the published code does not choose at random but takes the weights that are
    smallest at the beginning: `criterion="magnitude"`.

    Args:
        final_sparsity: Sparsity of the last ticket, in [0, 1); or a dict from regular
            expressions over kernel paths to sparsities; the first match counts.
        rounds: Number of rounds; 1 is the one-shot method.
        penalty: The phase in which a round's penalty grows and holds: a number of
            epochs or a `PenaltyPhase`. By default the penalty grows to 1 in the first
            5/9 of 20 epochs.
        epochs_per_round: Epochs of fine-tuning.
        criterion: "random", or another criterion as in `tf_tickets.IMP`.
        allocation: "uniform" for the same sparsity in every kernel, or as in `IMP`.
        train: Which tickets are fine-tuned: "each", "last" or "none".
        rewind_to: What is rewound before a ticket is trained. The default keeps the
            transformed weights and restarts the schedule.
        monitor: The metric by which tickets are judged, as in `IMP`.
        seed: Seed of the random choice.
        structure: Which weights are kept or pruned together, as in `tf_tickets.wrap`;
            None for what the model was wrapped with.

    Example:

    >>> keras.utils.set_random_seed(0)
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)])
    >>> model.compile(keras.optimizers.SGD(0.1), "mse")
    >>> search = DLTH(0.5, penalty=40, epochs_per_round=1, monitor="loss")
    >>> model = search.wrap(model, verbose=False)
    >>> x, y = np.ones((8, 4)), np.ones((8, 5))
    >>> history = model.fit(x, y, epochs=search.epochs, callbacks=[search], verbose=0)
    >>> search.tickets[0].sparsity, history.history["penalty_strength"][30]
    (0.5, 1.0)
    """

    method = "dlth"
    follows_structures = True
    _serializers = {"criterion": criteria.serialize}

    def __init__(
        self,
        final_sparsity: float | dict[str, float] = 0.9,
        rounds: int = 1,
        penalty: int | PenaltyPhase = 20,
        epochs_per_round: int = 20,
        *,
        criterion: str | criteria.Criterion = "random",
        allocation: str | Allocation = "uniform",
        train: str = "last",
        rewind_to: str | Rewind = Rewind("init", "learning_rate"),  # noqa: B008  frozen
        monitor: str | Monitor = "val_accuracy",
        seed: int = 0,
        structure: str | Structure | None = None,
    ) -> None:
        arguments.check_counts(rounds=rounds, epochs_per_round=epochs_per_round)
        arguments.check_fractions(final_sparsity=final_sparsity)
        arguments.check_choice(("each", "last", "none"), train=train)
        self.final_sparsity = final_sparsity
        self.rounds = rounds
        self.penalty = PenaltyPhase.get(penalty, GrowingPenalty())
        self.epochs_per_round = epochs_per_round
        self.criterion = criteria.get(criterion)
        self.allocation = allocation
        self.train = train
        self.structure = structures.optional(structure)
        rewind = Rewind.get(rewind_to, "learning_rate")
        plan = PressAndRemove(
            final_sparsity,
            rounds,
            epochs_per_round,
            self.penalty,
            StageOne(0),
            self.criterion,
            allocations.get(allocation),
            rewind,
            train,
        )
        super().__init__(plan, rewind, monitor, seed)

    @property
    def asked_sparsity(self) -> dict[str, float]:
        return asked(self.final_sparsity)
