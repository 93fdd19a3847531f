"""The Dual Lottery Ticket Hypothesis: random networks transformed (Bai et al. 2022)."""

import keras

from tf_tickets.masks.annealing import GrowingPenalty
from tf_tickets.pruning import criteria
from tf_tickets.pruning.allocation import Allocation
from tf_tickets.search.penalty_search import ExtrusionSearch
from tf_tickets.training.fidelity import Fidelity


@keras.saving.register_keras_serializable("tf_tickets")
class DLTH(ExtrusionSearch):
    """Random Sparse Network Transformation: chooses at random, presses, removes.

    A callback that owns one `fit` over a model that `search.wrap` gave. Weights are
    chosen at random in every kernel; a penalty on them grows, which moves what they
    know into the others, and stands until they are next to zero; then they are
    removed and the rest is fine-tuned with a new optimizer. With several rounds it
    is the iterative variant: every round transforms some more, the last ticket is
    fine-tuned.

    The published settings are `penalty=GrowingPenalty(1e-4, interval=5,
    hold=40_000)`, for SGD with momentum 0.9 and `penalty_learning_rate=1e-3`. The
    published code chooses not at random by default, but the weights that are the
    smallest at the beginning: that is `criterion="magnitude"`.

    Args:
        final_sparsity: Sparsity of the last ticket, in [0, 1); or a dict from regular
            expressions over kernel paths to sparsities, the first match counts.
        rounds: In how many rounds; 1 for the one-shot method.
        penalty_epochs: Epochs in which a round's penalty grows and stands; removal
            waits for the end of the last.
        epochs_per_round: Epochs of fine-tuning.
        penalty: Schedule of the penalty's strength; by default it grows to 1 in the
            first 5/9 of the epochs and stands for the others.
        criterion: "random", or what is to be kept otherwise, as in `tf_tickets.IMP`.
        allocation: "uniform" for the same sparsity in every kernel, or as in `IMP`.
        train: Which tickets are fine-tuned: "each", "last" or "none".
        penalty_learning_rate: Learning rate under the penalty; None for that of
            the optimizer, whose schedule, if it has one, begins anew.
        fidelity: What is rewound before a ticket is trained: "learning_rate" keeps
            the transformed weights and begins the schedule anew.
        monitor: The logged metric by which tickets are judged.
        tolerance: How far below the best ticket another one may be.
        seed: Seed of the choice.

    Example:

    >>> keras.utils.set_random_seed(0)
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)])
    >>> model.compile(keras.optimizers.SGD(0.1), "mse")
    >>> search = DLTH(0.5, penalty_epochs=40, epochs_per_round=1, monitor="loss")
    >>> model = search.wrap(model, verbose=False)
    >>> x, y = np.ones((8, 4)), np.ones((8, 5))
    >>> history = model.fit(x, y, epochs=search.epochs, callbacks=[search], verbose=0)
    >>> search.tickets[0].sparsity, history.history["penalty_strength"][30]
    (0.5, 1.0)
    """

    method = "dlth"

    def __init__(
        self,
        final_sparsity: float | dict[str, float] = 0.9,
        rounds: int = 1,
        penalty_epochs: int = 20,
        epochs_per_round: int = 20,
        penalty: GrowingPenalty | dict | None = None,
        *,
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

    def settings(self) -> dict:
        config = super().settings()
        del config["rewind_to"]
        return config
