"""UniLTH and UniDLTH: early stopping, then a growing penalty in rounds.

After "A Unified View of Finding and Transforming Winning Lottery Tickets". What is
public of it states the two stages, the early stop with its rewinding, the growing
regularization and the iterative pruning; the lengths, the patience, the power of the
growth and what a ticket starts from are choices of ours, and arguments here.
"""

import keras

from tf_tickets.callbacks.early_stop_rewind import EarlyStopRewind
from tf_tickets.masks.annealing import GrowingPenalty
from tf_tickets.pruning import criteria
from tf_tickets.pruning.allocation import Allocation
from tf_tickets.search.penalty_search import ExtrusionSearch
from tf_tickets.training.fidelity import Fidelity


@keras.saving.register_keras_serializable("tf_tickets")
class UniLTH(ExtrusionSearch):
    """UniLTH: early stopping, then rounds that press and prune the smallest weights.

    A callback that owns one `fit` over a model that `search.wrap` gave. Stage one
    trains without any regularization, which a model with weight decay or regularizers
    is refused for, until the validation loss no longer falls, and goes back to where
    it was least. Each round then chooses the smallest weights, lets a penalty on
    them grow and stand, and removes them.

    Stated by the paper are the two stages, their order, the early stop that rewinds
    and pruning by magnitude in rounds; every number here is our choice, and so is
    that a ticket starts from where IMP's does (`fidelity="weights"`).

    Args:
        final_sparsity: Sparsity of the last ticket, in [0, 1); or a dict from regular
            expressions over kernel paths to sparsities, the first match counts.
            Round r of R leaves the fraction `(1 - final_sparsity) ** (r / R)`.
        rounds: How many tickets to find.
        stage_one_epochs: Epochs of stage one at most; 0 for no stage one.
        penalty_epochs: Epochs in which a round's penalty grows and stands.
        epochs_per_round: Epochs for which a ticket is trained.
        penalty: Schedule of the penalty's strength; by default it grows as a square
            to 1 in the first 5/9 of the epochs and stands for the others.
        rewind_to: "init", "N steps" or "N epochs" of stage one: where tickets start
            from, if `fidelity` rewinds weights.
        early_stop: When stage one stops and where it rewinds to; by default after 5
            epochs without a lower validation loss, to the best.
        criterion: What is kept, as in `tf_tickets.IMP`.
        allocation: How one sparsity is spread over the kernels, as in `IMP`.
        train: Which tickets the search trains: "last"; "each", from where the next
            round goes on; or "none".
        penalty_learning_rate: Learning rate under the penalty; None for that of
            the optimizer, whose schedule, if it has one, begins anew.
        fidelity: What is rewound before a ticket is trained: "weights" resets it,
            "learning_rate" fine-tunes it, and others as in `IMP`.
        monitor: The logged metric by which tickets are judged.
        tolerance: How far below the dense network a ticket may be.
        seed: Seed of random criteria.

    Example:

    >>> keras.utils.set_random_seed(0)
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)])
    >>> model.compile(keras.optimizers.SGD(0.1), "mse")
    >>> stop = tt.EarlyStopRewind(patience=1, min_delta=0.01, monitor="loss")
    >>> search = UniLTH(0.75, rounds=2, stage_one_epochs=30, penalty_epochs=9,
    ...                 epochs_per_round=1, early_stop=stop, monitor="loss")
    >>> model = search.wrap(model, verbose=False)
    >>> x, y = np.ones((8, 4)), np.ones((8, 5))
    >>> history = model.fit(x, y, epochs=search.epochs, callbacks=[search], verbose=0)
    >>> [ticket.sparsity for ticket in search.tickets], search.stage_one["epochs"] < 30
    ([0.5, 0.75], True)
    """

    method = "unilth"
    default_penalty = GrowingPenalty(power=2.0)

    def __init__(
        self,
        final_sparsity: float | dict[str, float] = 0.9,
        rounds: int = 5,
        stage_one_epochs: int = 20,
        penalty_epochs: int = 10,
        epochs_per_round: int = 20,
        penalty: GrowingPenalty | dict | None = None,
        rewind_to: str = "init",
        *,
        early_stop: EarlyStopRewind | dict | None = None,
        criterion: str | criteria.Criterion = "magnitude",
        allocation: str | dict | Allocation = "global",
        train: str = "last",
        penalty_learning_rate: float | None = None,
        fidelity: str | dict | Fidelity = "weights",
        monitor: str = "val_accuracy",
        tolerance: float = 0.0,
        seed: int = 0,
    ) -> None:
        given = {n: v for n, v in locals().items() if n not in ("self", "__class__")}
        super().__init__(**given)

    def settings(self) -> dict:
        return {
            **super().settings(),
            "stage_one_epochs": self.stage_one_epochs,
            "early_stop": keras.saving.serialize_keras_object(self.early_stop),
        }


@keras.saving.register_keras_serializable("tf_tickets")
class UniDLTH(UniLTH):
    """UniDLTH: early stopping, then rounds that press and prune random weights.

    As `UniLTH`, but what is pruned is chosen at random, the same fraction in every
    kernel, and a ticket goes on from its transformed weights.

    Stated by the paper are the stages and that the subnetwork is random; every number
    here is our choice, and so is that a ticket is fine-tuned
    (`fidelity="learning_rate"`).

    Args:
        final_sparsity: As in `UniLTH`, and so are all others but for their defaults.
        rounds: How many tickets to find.
        stage_one_epochs: Epochs of stage one at most.
        penalty_epochs: Epochs in which a round's penalty grows and stands.
        epochs_per_round: Epochs for which a ticket is trained.
        penalty: Schedule of the penalty's strength.
        rewind_to: Where tickets start from, if `fidelity` rewinds weights.
        early_stop: When stage one stops and where it rewinds to.
        criterion: "random", or what is to be kept otherwise.
        allocation: "uniform", or as in `tf_tickets.IMP`.
        train: Which tickets the search trains.
        penalty_learning_rate: Learning rate under the penalty.
        fidelity: What is rewound before a ticket is trained.
        monitor: The logged metric by which tickets are judged.
        tolerance: How far below the dense network a ticket may be.
        seed: Seed of the choice.

    Example:

    >>> search = UniDLTH(0.9, rounds=3, stage_one_epochs=10)
    >>> search.criterion.__name__, search.fidelity.weights
    ('random', 'keep')
    """

    method = "unidlth"

    def __init__(
        self,
        final_sparsity: float | dict[str, float] = 0.9,
        rounds: int = 5,
        stage_one_epochs: int = 20,
        penalty_epochs: int = 10,
        epochs_per_round: int = 20,
        penalty: GrowingPenalty | dict | None = None,
        rewind_to: str = "init",
        *,
        early_stop: EarlyStopRewind | dict | None = None,
        criterion: str | criteria.Criterion = "random",
        allocation: str | dict | Allocation = "uniform",
        train: str = "last",
        penalty_learning_rate: float | None = None,
        fidelity: str | dict | Fidelity = "learning_rate",
        monitor: str = "val_accuracy",
        tolerance: float = 0.0,
        seed: int = 0,
    ) -> None:
        given = {n: v for n, v in locals().items() if n not in ("self", "__class__")}
        super().__init__(**given)
