"""find_frontier: several searches from the same weights, compared."""

import json
import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras

from tf_tickets import arguments, files, schema
from tf_tickets.environment import versions
from tf_tickets.search import inputs
from tf_tickets.search.frontier import Frontier, Point
from tf_tickets.search.lock import locked
from tf_tickets.search.runner import find_tickets
from tf_tickets.search.ticket_search import TicketSearch
from tf_tickets.search.ticket_trainer import TicketTrainer
from tf_tickets.tickets.monitor import Monitor

RESULTS = "frontier.json"


def find_frontier(
    build_model: Callable[[], keras.Model],
    data: inputs.Data,
    searches: Mapping[str, TicketSearch],
    directory: os.PathLike | str | None = None,
    seed: int = 0,
    *,
    epochs: int,
    monitor: str | None = None,
    batch_size: int | None = None,
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
        origin = _provenance(searches, seed, epochs, trainer.batch_size)
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
