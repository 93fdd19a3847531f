"""The frontier of sparsity and accuracy over several searches."""

import dataclasses
import json
import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras

from tf_tickets import arguments, files, schema
from tf_tickets.environment import versions
from tf_tickets.reports import plots, tables
from tf_tickets.search import inputs
from tf_tickets.search.lock import locked
from tf_tickets.search.runner import find_tickets
from tf_tickets.search.ticket_search import TicketSearch
from tf_tickets.search.ticket_trainer import TicketTrainer
from tf_tickets.tickets.monitor import Monitor
from tf_tickets.tickets.ticket import Ticket

RESULTS = "frontier.json"


@dataclasses.dataclass
class Point:
    """One trained ticket.

    Args:
        label: The search that found it.
        round: The round of that search.
        sparsity: Fraction of zeros among the prunable weights.
        search_epochs: Epochs trained before the ticket was known.
        metrics: Metrics after training the ticket.
        ticket: The ticket.
    """

    label: str
    round: int
    sparsity: float
    search_epochs: int
    metrics: dict[str, float]
    ticket: Ticket


@dataclasses.dataclass(repr=False)
class Frontier:
    """The trained tickets of several searches, and which of them are optimal.

    `print(frontier)` shows a table in which `*` marks the optimal tickets.

    Args:
        points: The tickets, by search and round.
        dense: Metrics of the dense network, trained from the same start.
        monitor: The metric by which tickets are compared.
        provenance: Seed, epochs, versions and the settings of the searches.

    Example:

    >>> ticket = tt.Ticket({"k": np.array([1, 0])})
    >>> points = [Point("a", 1, 0.5, 3, {"accuracy": 0.9}, ticket),
    ...           Point("a", 2, 0.7, 6, {"accuracy": 0.95}, ticket)]
    >>> frontier = Frontier(points, {"accuracy": 0.94}, "accuracy")
    >>> [point.sparsity for point in frontier.optimal]
    [0.7]
    >>> frontier.first_matching().search_epochs
    6
    >>> frontier
    Frontier(2 points of 1 search, accuracy, dense 0.9400)
    >>> print(frontier)
    search  round  search epochs  kept weights  accuracy
    dense                              100.00%    0.9400
    a           1              3        50.00%    0.9000
    a           2              6        30.00%   0.9500*
    """

    points: list[Point]
    dense: dict[str, float]
    monitor: str
    provenance: dict = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        arguments.listed(Point, points=self.points)
        arguments.check_table(str, float, dense=self.dense)
        arguments.check_type(dict, provenance=self.provenance)
        Monitor(self.monitor)

    @property
    def optimal(self) -> list[Point]:
        """The Pareto-optimal points, sparsest first."""
        found: list[Point] = []
        by_sparsity = sorted(
            self.points, key=lambda p: (-p.sparsity, -self._merit(p.metrics))
        )
        for point in by_sparsity:
            if not found or self._merit(point.metrics) > self._merit(found[-1].metrics):
                found.append(point)
        return found

    def first_matching(
        self, sparsity: float = 0.0, tolerance: float = 0.0
    ) -> Point | None:
        """Returns the cheapest point that is as good as the dense network.

        Args:
            sparsity: Minimum sparsity.
            tolerance: Maximum drop below the dense network.
        """
        arguments.check_between(0.0, 1.0, sparsity=sparsity)
        arguments.check_numbers(tolerance=tolerance)
        least = self._merit(self.dense) - tolerance
        good = [p for p in self.points if p.sparsity >= sparsity]
        good = [p for p in good if self._merit(p.metrics) >= least]
        return min(good, key=lambda p: p.search_epochs, default=None)

    def _merit(self, metrics):
        return Monitor(self.monitor).merit(metrics)

    def rows(self) -> list[dict]:
        """Returns the points as plain dicts, without their tickets."""
        optimal = self.optimal
        return [
            {
                "label": point.label,
                "round": point.round,
                "sparsity": point.sparsity,
                "search_epochs": point.search_epochs,
                "metrics": point.metrics,
                "optimal": point in optimal,
            }
            for point in self.points
        ]

    def __str__(self):
        return tables.align(self._cells(), left=1)

    def __repr__(self):
        points = tables.count_of(len(self.points), "point")
        labels = len({point.label for point in self.points})
        searches = f"{labels:,} search{'' if labels == 1 else 'es'}"
        facts = [f"{points} of {searches}", self.monitor]
        if self.monitor in self.dense:
            facts.append(f"dense {self.dense[self.monitor]:.4f}")
        return f"Frontier({', '.join(facts)})"

    def _repr_html_(self):
        return tables.html(self._cells(), left=1, caption=repr(self))

    def _cells(self):
        return tables.frontier_cells(self.rows(), self.dense, self.monitor)

    def save(self, path: os.PathLike | str) -> None:
        """Writes points, dense metrics and provenance as JSON."""
        path = arguments.check_path(path=path)
        content = {
            "monitor": self.monitor,
            "dense": self.dense,
            "points": self.rows(),
            "provenance": self.provenance,
        }
        with files.replacing(path) as draft:
            draft.write_text(json.dumps(content, indent=1))

    def plot(self, path: os.PathLike | str, title: str = "Frontier") -> None:
        """Plots every search as a line and the optimal points as a band.

        Args:
            path: The file to write. Its suffix selects the format: `.png`, `.svg`
                or `.pdf`.
            title: Title of the plot.
        """
        lines: dict[str, list[tuple[float, float]]] = {}
        for point in self.points:
            value = point.metrics[self.monitor]
            lines.setdefault(point.label, []).append((1 - point.sparsity, value))
        optimal = [(1 - p.sparsity, p.metrics[self.monitor]) for p in self.optimal]
        dense = self.dense.get(self.monitor)
        plots.plot_frontier(lines, optimal, path, dense, self.monitor, title)


def find_frontier(
    build_model: Callable[[], keras.Model],
    data: inputs.Data,
    searches: Mapping[str, TicketSearch],
    directory: os.PathLike | str | None = None,
    seed: int = 0,
    *,
    epochs: int,
    monitor: str | None = None,
    batch_size: int = 32,
    callbacks: Iterable[keras.callbacks.Callback] = (),
    watch: inputs.Watch | None = None,
    verbose: str | int = 0,
) -> Frontier:
    """Compares searches: all tickets are trained under the same conditions.

    All searches start from the same weights, and every ticket is trained for the same
    number of epochs. `search.varied(initial_score=[...])` returns the searches of
    Continuous Sparsification's frontier.

    Args:
        build_model: As in `find_tickets`.
        data: As in `find_tickets`.
        searches: Dict from a label to a search.
        directory: Where to store searches, trainings, `frontier.json` and
            `frontier.png`. Pass the same directory again to resume.
        seed: As in `find_tickets`.
        epochs: Training epochs of each ticket and of the dense network.
        monitor: The metric to compare; by default `test_accuracy` with test data,
            otherwise that of the searches.
        batch_size: As in `find_tickets`.
        callbacks: Further Keras callbacks of the searches.
        watch: Function from the name of a search or of a training, such as "imp" or
            "imp round 3", to callbacks that show its progress.
        verbose: As in `model.fit`.

    Example:

    >>> def build():
    ...     model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    ...     model.compile("adam", "mse")
    ...     return model
    >>> x, y = np.ones((8, 4)), np.ones((8, 2))
    >>> search = tt.ContinuousSparsification(1, 1, monitor="val_loss")
    >>> searches = search.varied(initial_score=[-0.1, 0.1])
    >>> data = (x, y), (x, y)
    >>> frontier = find_frontier(build, data, searches, epochs=1, batch_size=8)
    >>> [point.label for point in frontier.points]
    ['initial_score=-0.1', 'initial_score=0.1']
    """
    _check(searches, epochs)
    seed, batch_size = inputs.check_fit(seed, batch_size, verbose)
    inputs.check_watch(watch)
    callbacks = arguments.listed(keras.callbacks.Callback, callbacks=callbacks)
    if monitor is not None:
        arguments.check_type(str, monitor=monitor)
    monitor = monitor or _monitor(data, searches)
    place = None
    if directory is not None:
        place = arguments.check_path(directory=directory)
    trainer = TicketTrainer(build_model, data, seed, batch_size)
    watch = watch or inputs.unwatched
    trainings = _Trainings(trainer, epochs, place, watch)
    fit: Any = {"batch_size": batch_size, "verbose": verbose}
    points: list[Point] = []
    with locked(place):
        for label, search in searches.items():
            own = place and place / _slug(label)
            fit["callbacks"] = [*callbacks, *inputs.watching(watch, label)]
            find_tickets(build_model, data, search, own, seed, **fit)
            for ticket in search.tickets:
                points.append(_point(label, search, ticket, trainings, monitor))
        dense = trainings.dense()
        origin = _provenance(searches, seed, epochs, batch_size)
        return _written(Frontier(points, dense, monitor, origin), place)


def _written(frontier, place):
    if place is not None:
        frontier.save(place / RESULTS)
        _draw(frontier, place / "frontier.png")
    return frontier


def _draw(frontier, path):
    """Draws the plot; without matplotlib, results are kept and a warning is given."""
    try:
        frontier.plot(path)
    except ImportError as error:
        warnings.warn(f"{path} was not drawn. {error}", stacklevel=2)


def _check(searches, epochs):
    arguments.check_counts(epochs=epochs)
    if not isinstance(searches, Mapping) or not searches:
        raise ValueError(
            "`searches` must be a dict from a label to a search, such as "
            "search.varied(initial_score=[-0.1, 0.1]). Received: "
            f"{arguments.shown(searches)}"
        )
    for label, search in searches.items():
        arguments.check_type(str, **{"searches: label": label})
        arguments.check_type(TicketSearch, searches=search)
    slugs = [_slug(label) for label in searches]
    if len(set(slugs)) < len(slugs):
        raise ValueError(
            "The labels of `searches` must differ in letters and digits, since they "
            f"name folders. Received: {list(searches)}"
        )


def _monitor(data, searches):
    if "test" in inputs.split(data):
        return "test_accuracy"
    return next(iter(searches.values())).monitor.metric


def _slug(label):
    return "".join(c if c.isalnum() or c in "-_.=" else "_" for c in label)


def _point(label, search, ticket, trainings, monitor):
    round_ = ticket.provenance["round"]
    metrics = trainings.metrics(label, search, ticket)
    Monitor(monitor).merit(metrics)  # Raises an error if the metric is missing.
    cost = search.engine.epochs_before(round_)
    return Point(label, round_, ticket.sparsity, cost, metrics, ticket)


def _flat(origin):
    return {"method": origin["method"], **origin["settings"]}


def _provenance(searches, seed, epochs, batch_size):
    return {
        "seed": seed,
        "epochs": epochs,
        "batch_size": batch_size,
        "searches": {label: _flat(s.engine.origin()) for label, s in searches.items()},
        "versions": versions(),
        "cores": os.cpu_count(),
    }


_CHECK_TRAININGS = schema.mapping(
    schema.fields(
        {
            "ticket": schema.text,
            "epochs": schema.count,
            "metrics": schema.mapping(schema.number),
        },
        # Trainings without it are repeated.
        {"setting": schema.text},
    )
)
_REMEDY = "Delete it and start again: its trainings are then repeated."


class _Trainings:
    """Trains each ticket once, and stores the metrics in a file."""

    def __init__(self, trainer, epochs, directory, watch):
        self.trainer = trainer
        self.watch = watch
        self.epochs = epochs
        self.path = None
        self.known = {}
        if directory is not None:
            self.path = directory / "trainings.json"
            if self.path.exists():
                self.known = files.read_json(self.path, _CHECK_TRAININGS, _REMEDY)

    def metrics(self, label, search, ticket):
        """Returns the search's own metrics if it trained tickets equally long."""
        if search.engine.plan.epochs_of_tickets == self.epochs:
            return ticket.metrics
        return self._train(f"{label} round {ticket.provenance['round']}", ticket)

    def dense(self):
        """Returns the metrics of the dense network, trained from the first weights."""
        return self._train("dense", self.trainer.dense_ticket())

    def _train(self, name, ticket):
        known = self.known.get(name, {})
        setting = self.trainer.setting
        wanted = {"ticket": ticket.id, "epochs": self.epochs, "setting": setting}
        if {key: known.get(key) for key in wanted} != wanted:
            metrics = self.trainer.train(ticket, self.epochs, self.watch(name))
            self.known[name] = {**wanted, "metrics": metrics}
            self._keep()
        return self.known[name]["metrics"]

    def _keep(self):
        if self.path is not None:
            with files.replacing(self.path) as draft:
                draft.write_text(json.dumps(self.known, indent=1))
