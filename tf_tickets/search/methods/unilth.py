"""UniLTH and UniDLTH: early stopping, then a growing penalty in rounds.

After "A Unified View of Finding and Transforming Winning Lottery Tickets". The
published part states the two stages, the early stop with its rewinding, the growing
regularization and the iterative pruning. Lengths, patience, the power of the growth and
what a ticket starts from are our choice, and configurable here.
"""

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
class UniLTH(TicketSearch):
    """UniLTH: early stopping, then rounds that penalize and prune the smallest weights.

    A callback that runs one `fit` over a model that `search.wrap` returned. Stage one
    trains without any regularization until the validation loss stops falling, and
    rewinds to its minimum; it refuses a model with weight decay or regularizers. Each
    round then chooses the smallest weights, lets a penalty on them grow and hold, and
    removes them.

    The paper states the two stages, their order, the early stop that rewinds, and
    pruning by magnitude in rounds. Every number here is our choice, and so is that a
    ticket starts from the weights that IMP's tickets start from.

    Args:
        final_sparsity: Sparsity of the last ticket, in [0, 1); or a dict from regular
            expressions over kernel paths to sparsities; the first match counts. Round r
            of R leaves the fraction `(1 - final_sparsity) ** (r / R)`.
        rounds: Number of tickets to find.
        stage_one: The dense training before the rounds: its epochs at most, or a
            `tf_tickets.StageOne` with an early stop; 0 for none.
        penalty: The phase in which a round's penalty grows and holds: a number of
            epochs or a `PenaltyPhase`. By default the penalty grows quadratically to 1
            in the first 5/9 of the epochs.
        epochs_per_round: Epochs for which a ticket is trained.
        rewind_to: The moment of stage one that tickets start from, and what is rewound
            before a ticket is trained, as in `tf_tickets.IMP`.
        criterion: What is kept, as in `IMP`.
        allocation: How the sparsity is distributed over the kernels, as in `IMP`.
        train: Which tickets the search trains: "last"; "each", from which the next
            round then continues; or "none".
        monitor: The metric by which tickets are judged, as in `IMP`.
        seed: Seed of random criteria.
        structure: Which weights are kept or pruned together, as in `tf_tickets.wrap`;
            None for what the model was wrapped with.

    Example:

    >>> keras.utils.set_random_seed(0)
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)])
    >>> model.compile(keras.optimizers.SGD(0.1), "mse")
    >>> stop = tt.EarlyStopRewind(patience=1, min_delta=0.01, monitor="loss")
    >>> search = UniLTH(0.75, rounds=2, stage_one=tt.StageOne(30, stop), penalty=9,
    ...                 epochs_per_round=1, monitor="loss")
    >>> model = search.wrap(model, verbose=False)
    >>> x, y = np.ones((8, 4)), np.ones((8, 5))
    >>> history = model.fit(x, y, epochs=search.epochs, callbacks=[search], verbose=0)
    >>> [ticket.sparsity for ticket in search.tickets]
    [0.5, 0.75]
    >>> search.tickets[0].provenance["stage_one"]["epochs"] < 30
    True
    """

    method = "unilth"
    follows_structures = True
    _serializers = {"criterion": criteria.serialize}
    _default_fidelity = "weights"

    def __init__(
        self,
        final_sparsity: float | dict[str, float] = 0.9,
        rounds: int = 5,
        stage_one: int | StageOne = 20,
        penalty: int | PenaltyPhase = 10,
        epochs_per_round: int = 20,
        rewind_to: str | Rewind = "init",
        *,
        criterion: str | criteria.Criterion = "magnitude",
        allocation: str | Allocation = "global",
        train: str = "last",
        monitor: str | Monitor = "val_accuracy",
        seed: int = 0,
        structure: str | Structure | None = None,
    ) -> None:
        arguments.check_counts(rounds=rounds, epochs_per_round=epochs_per_round)
        arguments.check_fractions(final_sparsity=final_sparsity)
        arguments.check_choice(("each", "last", "none"), train=train)
        self.final_sparsity = final_sparsity
        self.rounds = rounds
        self.stage_one = StageOne.get(stage_one)
        self.penalty = PenaltyPhase.get(penalty, GrowingPenalty(power=2.0))
        self.epochs_per_round = epochs_per_round
        self.criterion = criteria.get(criterion)
        self.allocation = allocation
        self.train = train
        self.structure = structures.optional(structure)
        rewind = Rewind.get(rewind_to, self._default_fidelity)
        plan = PressAndRemove(
            final_sparsity,
            rounds,
            epochs_per_round,
            self.penalty,
            self.stage_one,
            self.criterion,
            allocations.get(allocation),
            rewind,
            train,
        )
        super().__init__(plan, rewind, monitor, seed)

    @property
    def asked_sparsity(self) -> dict[str, float]:
        return asked(self.final_sparsity)


@keras.saving.register_keras_serializable("tf_tickets")
class UniDLTH(UniLTH):
    """UniDLTH: early stopping, then rounds that penalize and prune random weights.

    It differs from `UniLTH` in its defaults: weights are chosen at random, the same
    fraction in every kernel, and a ticket continues from its transformed weights.

    The paper states the stages and that the subnetwork is random. Every number here is
    our choice, and so is that a ticket is fine-tuned.

    Args:
        final_sparsity: As in `UniLTH`; so are all others, except for their defaults.
        rounds: How many tickets to find.
        stage_one: The dense training before the rounds.
        penalty: The phase in which a round's penalty grows and holds.
        epochs_per_round: Epochs for which a ticket is trained.
        rewind_to: What is rewound before a ticket is trained; by default the schedule.
        criterion: "random", or another criterion.
        allocation: "uniform", or as in `tf_tickets.IMP`.
        train: Which tickets the search trains.
        monitor: The metric by which tickets are judged.
        seed: Seed of the random choice.
        structure: As in `UniLTH`.

    Example:

    >>> search = UniDLTH(0.9, rounds=3, stage_one=10)
    >>> search.criterion.__name__, search.rewind_to
    ('random', Rewind('init', 'learning_rate'))
    """

    method = "unidlth"
    _default_fidelity = "learning_rate"

    def __init__(
        self,
        final_sparsity: float | dict[str, float] = 0.9,
        rounds: int = 5,
        stage_one: int | StageOne = 20,
        penalty: int | PenaltyPhase = 10,
        epochs_per_round: int = 20,
        rewind_to: str | Rewind = "init",
        *,
        criterion: str | criteria.Criterion = "random",
        allocation: str | Allocation = "uniform",
        train: str = "last",
        monitor: str | Monitor = "val_accuracy",
        seed: int = 0,
        structure: str | Structure | None = None,
    ) -> None:
        super().__init__(
            final_sparsity,
            rounds,
            stage_one,
            penalty,
            epochs_per_round,
            rewind_to,
            criterion=criterion,
            allocation=allocation,
            train=train,
            monitor=monitor,
            seed=seed,
            structure=structure,
        )
