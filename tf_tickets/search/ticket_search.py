"""TicketSearch: the base class of all searches, a callback with tickets."""

import copy
import html
from collections.abc import Iterable
from typing import Any, Self

import keras

from tf_tickets import arguments, distribution, wrapping
from tf_tickets.configuration import Configured, argument_names, defaults, described
from tf_tickets.pruning import targets
from tf_tickets.reports import tables
from tf_tickets.search.engine import RoundEngine
from tf_tickets.search.plan import RoundPlan, sparsity_of
from tf_tickets.structures.structure import Structure
from tf_tickets.tickets.monitor import Monitor
from tf_tickets.tickets.ticket import Ticket
from tf_tickets.training import best_epochs, checks
from tf_tickets.training.rewind import Rewind


class TicketSearch(Configured, keras.callbacks.Callback):
    """A search for tickets: a Keras callback that runs the rounds of one `fit`.

    A subclass is one small object: it assigns its arguments to attributes of the same
    names and passes a plan of its rounds to this constructor. See "Add a search" in
    CONTRIBUTING for a complete example.

    Args:
        plan: What happens in the rounds, such as `PruneAndRewind`.
        rewind_to: Where tickets start from: "init", "N steps", "N epochs" or a
            `Rewind`.
        monitor: The metric by which tickets are judged: its name or a `Monitor`.
        seed: Seed of everything that the search draws.
    """

    # The method's name in provenance, tables and files.
    method = "search"
    # Whether it selects by the units of `run.kernels.layout`.
    follows_structures = False
    # Why it cannot prune channels; None if it can.
    without_channels: str | None = None
    # The structure that it asks for; None for that of the model.
    structure: Structure | None = None

    def __init__(
        self,
        plan: RoundPlan,
        rewind_to: str | Rewind = "init",
        monitor: str | Monitor = "val_accuracy",
        seed: int = 0,
    ) -> None:
        super().__init__()
        arguments.check_type(RoundPlan, plan=plan)
        arguments.check_seed(seed)
        self.rewind_to = Rewind.get(rewind_to)
        self.monitor = Monitor.get(monitor)
        self.seed = seed
        self._engine = RoundEngine(self, plan, self.rewind_to, seed, self._origin)

    def _origin(self):
        return {"method": self.method, "settings": described(self)}

    @property
    def asked_sparsity(self) -> dict[str, float]:
        """The largest sparsity that the settings ask for, by what asks; or {}.

        The key is the name of a setting, or the settings that lead to it.
        """
        return {}

    def check_structure(self) -> None:
        """Raises an error if the search cannot prune with the model's structure."""
        kernels = self._engine.kernels
        targets.check_pruner(self, kernels)
        checks.check_possible(kernels.structure, **self.asked_sparsity)

    @property
    def engine(self) -> RoundEngine:
        """The engine that runs the rounds; for extensions."""
        return self._engine

    @property
    def tickets(self) -> list[Ticket]:
        """The tickets so far, one per round."""
        return self._engine.state.tickets

    @property
    def dense(self) -> dict[str, float]:
        """Metrics of the dense network, if the search trains one."""
        return self._engine.state.dense

    @property
    def best(self) -> Ticket:
        """The sparsest ticket whose metric is within tolerance of the dense network.

        If none qualifies, the best-scoring ticket. A search that trains no dense
        network compares with the best of its tickets.
        """
        return self.monitor.best(self.tickets, self.dense)

    @property
    def epochs(self) -> int:
        """How many epochs `fit` needs for the whole search, at most."""
        return self._engine.plan.epochs

    @property
    def round(self) -> int:
        """The present round."""
        return self._engine.state.round

    @property
    def complete(self) -> bool:
        """Whether the search has ended."""
        return self._engine.state.complete

    @property
    def sparsity(self) -> float:
        """Sparsity of the network in training."""
        return sparsity_of(self._engine.plan.masks(self._engine))

    def wrap(
        self,
        model: keras.Model,
        filters: wrapping.Filters = None,
        embeddings: bool = False,
        verbose: bool = True,
        depthwise: bool = False,
    ) -> keras.Model:
        """Wraps a model with the masks that this search needs.

        Args:
            model: A plain model. If it is compiled, so is the wrapped model; learned
                masks get an optimizer for their scores beside that of the weights.
            filters: As in `tf_tickets.wrap`.
            embeddings: As in `tf_tickets.wrap`.
            verbose: As in `tf_tickets.wrap`.
            depthwise: As in `tf_tickets.wrap`.
        """
        arguments.check_type(keras.Model, model=model)
        distribution.check_one_process(model)
        plan = self._engine.plan
        scores = getattr(self, "score_optimizer", None) if model.compiled else None
        with distribution.scope(model):
            wrapped = wrapping.wrap(
                model,
                filters,
                embeddings,
                plan.mask,
                verbose,
                scores,
                depthwise=depthwise,
                structure=self.structure or "unstructured",
            )
            return plan.prepare(wrapped)

    def in_round(self, *callbacks: keras.callbacks.Callback) -> Self:
        """Adds callbacks that see each round as a separate training.

        Their epochs are counted from the beginning of the round. If one of them stops
        the training, as `keras.callbacks.EarlyStopping` does, the round ends early. If
        one of them restores an earlier epoch (`restore_best_weights`), the round prunes
        the weights of that epoch, and its metrics are those of the ticket.

        Returns:
            The search itself.

        Example:

        >>> stop = keras.callbacks.EarlyStopping("val_loss", patience=3,
        ...                                      restore_best_weights=True)
        >>> search = tt.IMP(rounds=5, epochs_per_round=20).in_round(stop)
        """
        arguments.listed(keras.callbacks.Callback, callbacks=callbacks)
        self._engine.callbacks.add(*callbacks)
        return self

    def varied(self, **values: Iterable) -> dict[str, Self]:
        """Returns searches like this one in which one setting takes several values.

        Args:
            **values: The name of the setting with its values, such as
                `initial_score=[-0.1, 0.0]`.

        Returns:
            Dict from a label to the search, for `find_frontier`.
        """
        names = argument_names(type(self))
        if len(values) != 1 or not set(values) <= set(names):
            raise ValueError(
                "Give one of the search's settings with several values. Received: "
                f"{sorted(values)}. The settings: {sorted(names)}."
            )
        if self._engine.callbacks:
            raise ValueError(
                "Callbacks of rounds belong to one search. Call in_round on each of "
                "the varied searches instead."
            )
        [(name, choices)] = values.items()
        choices = arguments.listed(object, **{name: choices})
        return {f"{name}={v}": self.copied(**{name: v}) for v in choices}

    def copied(self, **changes: Any) -> Self:
        """Returns a new search with the same settings, some of them changed.

        It has no tickets yet. Callbacks of rounds are copied, and teachers are shared.
        `copy.copy`, `copy.deepcopy` and `pickle` make such a new search, too.

        Args:
            **changes: Settings with their new values.

        Example:

        >>> tt.IMP(rounds=5, rate=0.3).copied(seed=1)
        IMP(rounds=5, rate=0.3, ..., seed=1)
        """
        names = argument_names(type(self))
        unknown = sorted(set(changes) - set(names))
        if unknown:
            raise ValueError(
                f"{type(self).__name__} has no settings {unknown}. Its settings: "
                f"{sorted(names)}."
            )
        settings = {name: getattr(self, name) for name in names}
        companions = copy.deepcopy(self._companions())
        return _renewed(type(self), {**settings, **changes}, companions)

    def __reduce__(self):
        settings = {name: getattr(self, name) for name in argument_names(type(self))}
        return _renewed, (type(self), settings, self._companions())

    def __copy__(self):
        return self.copied()

    def __deepcopy__(self, memo):
        return self.copied()

    def _companions(self) -> dict[str, Any]:
        """Returns what belongs to the search beside its settings, by name."""
        return {"callbacks": self._engine.callbacks}

    def _accompany(self, companions: dict[str, Any]) -> None:
        """Takes what `_companions` of another search has returned."""
        self._engine.callbacks = companions["callbacks"]

    # The events of `fit`.

    def on_train_begin(self, logs=None):
        best_epochs.check_beside_search(self)
        self.check_structure()
        self._engine.train_begin()

    def on_epoch_begin(self, epoch, logs=None):
        self._engine.epoch_begin(epoch)

    def on_train_batch_begin(self, batch, logs=None):
        self._engine.batch_begin(batch)

    def on_epoch_end(self, epoch, logs=None):
        self._engine.epoch_end(epoch, logs)
        if epoch == 0:
            self.monitor.check_logged(logs)

    def on_test_begin(self, logs=None):
        distribution.unify_trained(self)

    def on_train_end(self, logs=None):
        self._engine.train_end()

    # Representation.

    def __repr__(self) -> str:
        settings = described(self)
        shown = [
            f"{name}={_short(getattr(self, name), settings[name])}"
            for name, default in defaults(type(self)).items()
            if getattr(self, name) is not default and settings[name] != default
        ]
        return f"{type(self).__name__}({', '.join(shown)})"

    def __str__(self) -> str:
        if not self.tickets:
            return repr(self)
        metric = self.monitor.metric
        costs = [ticket.provenance.get("remaining") for ticket in self.tickets]
        has_costs = any(costs)
        macs = ("MACs",) if has_costs else ()
        cells = [("round", "sparsity", *macs, metric)]
        for ticket, cost in zip(self.tickets, costs, strict=True):
            value = ticket.metrics.get(metric)
            number = "-" if value is None else f"{value:.4f}"
            round_ = str(ticket.provenance.get("round", "-"))
            left = (tables.share((cost or {}).get("macs")),) if has_costs else ()
            cells.append((round_, f"{ticket.sparsity:.4f}", *left, number))
        name = type(self).__name__
        state = "complete" if self.complete else f"in round {self.round}"
        count = tables.count_of(len(self.tickets), "ticket")
        return f"{name}: {state}, {count}\n{tables.align(cells)}"

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


def _renewed(cls, settings, companions):
    search = cls(**settings)
    search._accompany(companions)
    return search


def _short(value, description):
    """Returns the repr of a setting; functions by name."""
    return repr(description if isinstance(description, str) else value)
