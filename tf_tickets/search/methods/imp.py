"""Iterative magnitude pruning with rewinding (Frankle and Carbin 2019)."""

import keras

from tf_tickets import arguments
from tf_tickets.configuration import defaults
from tf_tickets.pruning import allocation as allocations
from tf_tickets.pruning import criteria, targets
from tf_tickets.pruning.allocation import Allocation
from tf_tickets.search.plan import Run
from tf_tickets.search.prune_and_rewind import Masks, PruneAndRewind, ranked
from tf_tickets.search.ticket_search import TicketSearch
from tf_tickets.structures import registry as structures
from tf_tickets.structures.structure import Structure
from tf_tickets.tickets.monitor import Monitor
from tf_tickets.training.rewind import Rewind


@keras.saving.register_keras_serializable("tf_tickets")
class IMP(TicketSearch):
    """Iterative magnitude pruning: train, prune the smallest, rewind, repeat.

    A callback that runs the rounds of one `fit` over a wrapped model. Afterwards
    `tickets` holds one ticket per round, `dense` the metrics of the dense network, and
    `best` the sparsest ticket within tolerance.

    Weight rewinding (Frankle et al. 2020) is `rewind_to="500 steps"`; the exact
    rewinding of Renda et al. is `rewind_to=Rewind("500 steps", "exact")`. Learning-rate
    rewinding is `Rewind("init", "learning_rate")`, fine-tuning `Rewind("init",
    "fine_tune")`.

    Args:
        rounds: Number of pruning rounds; the search trains once more than that.
        epochs_per_round: Epochs of each training.
        rate: Fraction of the remaining weights that a round prunes, 0 to 1; or a dict
            from regular expressions over kernel paths to rates, such as
            `{"output": 0.1, ".": 0.2}`; the first match counts.
        rewind_to: Where tickets start from: "init", "N steps", "N epochs" of round 0,
            or a `tf_tickets.Rewind`, which also selects what is rewound.
        criterion: What is kept: "magnitude", "magnitude_increase", "movement",
            "random", another name of `tf_tickets.criteria`, or a function.
        allocation: How the rate is distributed over the kernels: "global", "uniform",
            "erk" or a function.
        stop_at: None; a sparsity, at which the search stops and to which its last round
            prunes exactly; or "below_dense".
        monitor: The metric by which tickets are judged: its name, or a
            `tf_tickets.Monitor` with a tolerance.
        seed: Seed of the "random" criterion.
        structure: Which weights are kept or pruned together, as in `tf_tickets.wrap`;
            None for what the model was wrapped with.
        target: The fraction of the multiply-adds or parameters that the last round
            leaves, `{"macs": 0.5}` or `{"params": 0.5}`, in place of `rate`; it is met
            within one unit. Round r of R leaves `target ** (r / R)`. Requires
            `structure="channels"`.

    Example:

    >>> keras.utils.set_random_seed(0)
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)])
    >>> model = tt.wrap(model, verbose=False)
    >>> model.compile("adam", "mse")
    >>> search = IMP(rounds=2, epochs_per_round=1, rate=0.5, monitor="loss")
    >>> x, y = np.ones((8, 4)), np.ones((8, 5))
    >>> history = model.fit(x, y, epochs=search.epochs, callbacks=[search], verbose=0)
    >>> [float(ticket.sparsity) for ticket in search.tickets]
    [0.5, 0.75]
    """

    method = "imp"
    follows_structures = True
    _serializers = {"criterion": criteria.serialize}

    def __init__(
        self,
        rounds: int = 10,
        epochs_per_round: int = 20,
        rate: float | dict[str, float] = 0.2,
        rewind_to: str | Rewind = "init",
        *,
        criterion: str | criteria.Criterion = "magnitude",
        allocation: str | Allocation = "global",
        stop_at: float | str | None = None,
        monitor: str | Monitor = "val_accuracy",
        seed: int = 0,
        structure: str | Structure | None = None,
        target: dict[str, float] | None = None,
    ) -> None:
        arguments.check_counts(rounds=rounds, epochs_per_round=epochs_per_round)
        arguments.check_fractions(rate=rate)
        self.rounds = rounds
        self.epochs_per_round = epochs_per_round
        self.rate = rate
        self.criterion = criteria.get(criterion)
        self.allocation = allocation
        self.stop_at = stop_at
        self.structure = structures.optional(structure)
        self.target = target
        asked = None if stop_at == "below_dense" else stop_at
        self._target = targets.optional(
            target, rate=(rate, defaults(IMP)["rate"]), stop_at=(asked, None)
        )
        next_masks = ranked(self.criterion, allocations.get(allocation), self._keep)
        plan = PruneAndRewind(
            rounds, epochs_per_round, next_masks, rewind_to, stop_at, monitor
        )
        super().__init__(plan, rewind_to, monitor, seed)

    def on_train_begin(self, logs=None):
        if isinstance(self.rate, dict):
            allocations.check_matched(self.engine.kernels, self.rate)
        super().on_train_begin(logs)

    @property
    def asked_sparsity(self) -> dict[str, float]:
        if self._target is not None:
            return {}
        rates = self.rate.values() if isinstance(self.rate, dict) else [self.rate]
        reached = max(1.0 - (1.0 - rate) ** self.rounds for rate in rates)
        if isinstance(self.stop_at, float) and self.stop_at <= reached:
            return {"stop_at": self.stop_at}
        settings = f"rate={self.rate}, rounds={self.rounds}, stop_at={self.stop_at!r}"
        return {settings: reached}

    def _keep(self, run: Run, masks: Masks) -> int | dict[str, int] | targets.Target:
        if self._target is not None:
            return self._target.after(run.state.round / self.rounds)
        floor = 0
        if isinstance(self.stop_at, float):
            floor = allocations.weights_at(self.stop_at, masks)
        if isinstance(self.rate, dict):
            counts = allocations.after_rates(masks, self.rate)
            return allocations.lifted(counts, masks, floor)
        return max(allocations.after_rate(masks, self.rate), floor)
