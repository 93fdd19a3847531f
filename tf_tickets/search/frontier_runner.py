"""find_frontier: several searches from the same weights, compared."""

import collections
import concurrent.futures
import contextlib
import dataclasses
import json
import os
import pathlib
import tempfile
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence

import keras

from tf_tickets import arguments, files, schema
from tf_tickets.configuration import argument_names
from tf_tickets.environment import versions
from tf_tickets.reports import plots
from tf_tickets.search import executors, frontier_file, inputs
from tf_tickets.search.executors import packing
from tf_tickets.search.frontier import Frontier
from tf_tickets.search.frontier_tasks import (
    Context,
    SearchTask,
    Settings,
    TrainingTask,
    perform,
    perform_elsewhere,
    release,
)
from tf_tickets.search.lock import LOCK, locked
from tf_tickets.search.lockstep import checks
from tf_tickets.search.points import Point, means_of
from tf_tickets.search.ticket_search import TicketSearch
from tf_tickets.tickets.monitor import Monitor

RESULTS = frontier_file.NAME
_PICTURE = "frontier.png"
_TRAININGS = "trainings.json"

Searches = Mapping[str, TicketSearch]


def find_frontier(
    build_model: Callable[[], keras.Model],
    data: inputs.Data,
    searches: Searches | Callable[[int], Searches],
    directory: os.PathLike | str | None = None,
    seed: int = 0,
    *,
    seeds: Sequence[int] | None = None,
    epochs: int,
    monitor: str | None = None,
    batch_size: int | None = None,
    callbacks: Iterable[keras.callbacks.Callback] = (),
    watch: inputs.Watch | None = None,
    verbose: str | int = 0,
    executor: str | concurrent.futures.Executor = "serial",
) -> Frontier:
    """Compares searches: all tickets are trained under the same conditions.

    All searches start from the same weights, and every ticket is trained for the same
    number of epochs. `search.varied(initial_score=[...])` returns the searches of
    Continuous Sparsification's frontier.

    Each search with one seed, each training of a ticket and each training of the dense
    network is a task. Tasks run one after the other in this process, or in parallel
    with `executor="ray"`. Interrupted tasks resume from the directory. If tasks of
    another executor than "serial" fail, the others are completed before
    `tf_tickets.executors.TasksFailed` is raised.

    Args:
        build_model: As in `find_tickets`.
        data: As in `find_tickets`.
        searches: Dict from a label to a search. Or a function from a seed to such a
            dict, if searches depend on the seed, as those with teachers do. Afterwards
            the searches of the first seed have their tickets.
        directory: Where to store searches, trainings, `frontier.json` and
            `frontier.png`. Pass the same directory again to resume.
        seed: As in `find_tickets`.
        seeds: Several seeds, in place of `seed`. The searches of a dict are copied for
            each, and it is added to their own seeds. More seeds can be added later.
        epochs: Training epochs of each ticket and of the dense network.
        monitor: The metric to compare; by default `test_accuracy` with test data,
            otherwise that of the searches.
        batch_size: As in `find_tickets`.
        callbacks: Further Keras callbacks of the searches. Other processes get copies,
            and so does each network with "vmap".
        watch: Function from the name of a search or of a training, such as "imp",
            "imp round 3" or "imp seed 1 round 3", to callbacks that show its progress.
            For tasks in other processes they are called here when the task has ended:
            for the last epoch, without a model, and with `params["seconds"]`. With
            "vmap" they are not called within an epoch. Of what is complete in the
            directory, only the function is called.
        verbose: As in `model.fit`; other processes print nothing, and "vmap" needs 0.
        executor: Where tasks run. "serial": in this process. "ray": in processes of
            Ray, one per core. "vmap": several in one program of JAX, in this process;
            results then differ from those of a serial run by rounding. Or an object:
            `tf_tickets.executors.RayExecutor(...)` or `VmapExecutor(...)`, or another
            `concurrent.futures.Executor` of processes.

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
    several = _Seeds(seed, seeds)
    tables = several.searches(searches, epochs)
    _, batch_size = inputs.check_fit(several.first, batch_size, verbose)
    arguments.check_build(build_model)
    inputs.check_watch(watch)
    callbacks = arguments.listed(keras.callbacks.Callback, callbacks=callbacks)
    if monitor is not None:
        arguments.check_type(str, monitor=monitor)
    monitor = monitor or _monitor(data, tables[several.first])
    inputs.training_data(data)  # Refuses what is no data.
    place = None
    if directory is not None:
        place = arguments.check_path(directory=directory)
    is_named = isinstance(executor, str)
    executor = executors.get(executor)
    context = Context(
        uuid.uuid4().hex,
        Settings.present(),
        build_model,
        data,
        batch_size,
        epochs,
        callbacks,
        place,
        watch=watch or inputs.unwatched,
        verbose=verbose,
    )
    if isinstance(executor, executors.VmapExecutor):
        _check_lockstep(context, tables, callable(searches), executor.width)
    with locked(place), _directory(context, executor) as context:
        driver = _Driver(executor, context, several, monitor)
        with _closing(executor, is_named, context):
            driver.run(tables)
        several.hand_over(searches, tables, driver)
        points, by_seed = driver.points(tables), driver.dense()
        # Data in batches of their own have none.
        batch_size = points[0].ticket.provenance["batch_size"]
        origin = _provenance(tables[several.first], several, epochs, batch_size)
        origin |= driver.origin()
        mean = {name: each.mean for name, each in means_of(by_seed.values()).items()}
        frontier = Frontier(points, mean, monitor, origin, by_seed)
        return _written(frontier, place)


class _Seeds:
    """The seeds of a frontier, and what is named after them.

    Args:
        seed: The seed, if there is one.
        seeds: Several seeds, or None.
    """

    def __init__(self, seed, seeds):
        arguments.check_seed(seed)
        self.are_named = seeds is not None
        self.all = [int(seed)]
        if seeds is None:
            return
        if isinstance(seeds, str) or not isinstance(seeds, Iterable):
            raise TypeError(
                "`seeds` must be a list of whole numbers, such as [0, 1, 2]. Received: "
                f"{arguments.shown(seeds)}"
            )
        self.all = list(seeds)
        for each in self.all:
            arguments.check_seed(each)
        self.all = [int(each) for each in self.all]
        if not self.all or len(set(self.all)) < len(self.all):
            raise ValueError(
                "`seeds` must be at least one seed, each only once, such as [0, 1, 2]. "
                f"Received: {arguments.shown(seeds)}"
            )
        if seed != 0:
            raise ValueError(
                "Give `seed` or `seeds`, not both. Received: "
                f"seed={seed}, seeds={arguments.shown(seeds)}"
            )

    @property
    def first(self):
        return self.all[0]

    def name(self, label, seed):
        """Returns the name of a search or training, such as "imp seed 1"."""
        return f"{label} seed {seed}" if self.are_named else label

    def folder(self, label, seed):
        """Returns the name of a search's folder."""
        slug = frontier_file.slug(label)
        return f"{slug}/seed_{seed}" if self.are_named else slug

    def searches(self, searches, epochs):
        """Returns a dict from seed to the searches by label."""
        if not callable(searches):
            _check(searches, epochs)
            return {seed: self._copied(searches, seed) for seed in self.all}
        arguments.check_functions(1, searches=searches)
        tables = {seed: searches(seed) for seed in self.all}
        for table in tables.values():
            source = f"{arguments.shown(searches)}, which returns "
            _check(table, epochs, source)
        labels = [list(table) for table in tables.values()]
        if any(each != labels[0] for each in labels):
            raise ValueError(
                "`searches` must return the same labels for each seed. Received: "
                f"{dict(zip(tables, labels, strict=True))}"
            )
        return tables

    def _copied(self, searches, seed):
        if not self.are_named:
            return dict(searches)
        return {label: _with_seed(each, seed) for label, each in searches.items()}

    def hand_over(self, searches, tables, driver):
        """Gives the searches of the first seed, and those of a function, their state.

        Args:
            searches: As `find_frontier` was given them.
            tables: The searches by seed and label.
            driver: The driver that has run them.
        """
        for (label, seed), result in driver.found.items():
            search = tables[seed][label]
            if not driver.in_process:
                search.engine.state = result.state
            if not callable(searches) and seed == self.first:
                searches[label].engine.state = search.engine.state


def _with_seed(search, seed):
    """Returns a copy of a search whose own draws depend on the seed, too."""
    if "seed" in argument_names(type(search)):
        return search.copied(seed=(search.seed + seed) % 2**32)
    return search.copied()


@contextlib.contextmanager
def _directory(context, executor):
    """Gives tasks of other processes a directory, so that they can be repeated."""
    if context.directory is not None or _is_in_process(executor):
        yield context
        return
    folder = tempfile.TemporaryDirectory(prefix="frontier-", ignore_cleanup_errors=True)
    with folder as name:
        directory = pathlib.Path(name)
        yield dataclasses.replace(context, directory=directory, is_temporary=True)


@contextlib.contextmanager
def _closing(executor, is_named, context):
    """Ends the executor if this call made it, and cancels its tasks after an error."""
    try:
        yield
    except BaseException:
        if is_named:
            executor.shutdown(cancel_futures=True)
        raise
    finally:
        release(context.token)
        if isinstance(executor, executors.Executor):
            executor.settle()
    if is_named:
        executor.shutdown()


def _check_lockstep(context, tables, by_seed, width):
    """Refuses what cannot be trained in lockstep.

    Args:
        context: The `Context`.
        tables: The searches by seed and label.
        by_seed: Whether a function returned them for each seed. Otherwise those of all
            seeds are copies.
        width: The number of networks that are in training at the same time.
    """
    checks.check_backend()
    checks.check_verbose(context.verbose)
    checks.check_callbacks(context.callbacks)
    if min(width, sum(map(len, tables.values()))) > 1:
        checks.check_files(context.callbacks)
    opened = inputs.Inputs(context.data, next(iter(tables)), context.batch_size)
    checks.check_sources(opened.sources)
    checks.warn_of_convolutions(inputs.compiled(context.build_model))
    searches = {
        f"searches({seed})[{label!r}]" if by_seed else f"searches[{label!r}]": search
        for seed, table in tables.items()
        for label, search in table.items()
    }
    for name, search in searches.items():
        checks.check_search(name, search)
    built = []
    for name, search in searches.items():
        # Searches that differ in their seed alone wrap a model in the same way.
        kind = type(search), {**_flat(search.engine.origin()), "seed": None}
        if kind not in built:
            built.append(kind)
            model, _ = inputs.build(context.build_model, search.copied().wrap)
            checks.check_model(name, model)


def _is_in_process(executor):
    return getattr(executor, "in_process", False)


class _Driver:
    """Submits the tasks of a frontier and collects their results.

    Args:
        executor: Where tasks run.
        context: What all tasks need.
        seeds: The `_Seeds`.
        monitor: The metric that every ticket needs.
    """

    def __init__(self, executor, context, seeds, monitor):
        self.executor = executor
        self.context = context
        self.seeds = seeds
        self.monitor = Monitor(monitor)
        self.in_process = _is_in_process(executor)
        self.trainings = _Trainings(None if context.is_temporary else context.directory)
        self.running = {}
        self.found = {}
        self.trained = {}
        self.failures = {}

    def run(self, tables):
        """Runs all tasks; raises an error if some of them failed."""
        searches = [
            SearchTask(
                self.seeds.name(label, seed),
                label,
                seed,
                search,
                self.seeds.folder(label, seed),
            )
            # By search, so that a method is known with all seeds early.
            for label in tables[self.seeds.first]
            for seed, table in tables.items()
            for search in [table[label]]
        ]
        dense = [
            self._training(self.seeds.name("dense", seed), None, seed)
            for seed in tables
        ]
        if not self.in_process:
            searches = _longest_first(searches)
        submit = self._submitter(searches)
        try:
            self._run(collections.deque([*searches, *dense]), submit)
        finally:
            for future in self.running:
                future.cancel()
            for future, task in self.running.items():
                self._rescue(task, future)
        if self.failures:
            total = len(self.failures) + len(self.found) + len(self.trained)
            advice = ""
            if self.context.directory is not None and not self.context.is_temporary:
                advice = (
                    f"The others are complete and kept in {self.context.directory}. "
                    "Only the failed ones run again with this directory."
                )
            raise executors.TasksFailed(self.failures, total, advice)

    def _run(self, queue, submit):
        while queue or self.running:
            if queue:
                task = queue.popleft()
                self.running[submit(task)] = task
            if not queue and isinstance(self.executor, executors.Executor):
                self.executor.gather()
            # An executor of this process may have run tasks of others so far.
            timeout = 0 if queue or self.in_process else None
            ready, _ = concurrent.futures.wait(
                self.running, timeout, concurrent.futures.FIRST_COMPLETED
            )
            for future in [each for each in self.running if each in ready]:
                task = self.running.pop(future)
                queue.extendleft(reversed(self._finish(task, future)))

    def _submitter(self, searches):
        """Returns a function that submits a task; refuses what cannot travel."""
        if self.in_process:
            return lambda task: self.executor.submit(perform, self.context, task)
        context = dataclasses.replace(
            self.context, watch=inputs.unwatched, verbose=0, directory=self._absolute
        )
        names = ("build_model", "data", "callbacks")
        parts = {name: getattr(context, name) for name in names}
        if isinstance(self.executor, executors.Executor):
            try:
                shared = self.executor.share(context)
            except Exception as error:
                # Of what type it is depends on the object, and on the executor.
                if all(map(packing.travels, parts.values())):
                    raise
                raise packing.cannot_travel(parts, error) from error
        else:
            shared = packing.Packed(context, parts)
        submit = self.executor.submit

        def packed(task):
            part = getattr(task, "search", None)
            return packing.Packed(task, {f"searches[{task.label!r}]": part})

        for task in searches:
            packed(task)  # Before any task begins.
        return lambda task: submit(perform_elsewhere, shared, packed(task))

    @property
    def _absolute(self):
        return self.context.directory.absolute()

    def _rescue(self, task, future):
        """Keeps the result of a training that had ended before an interruption."""
        ended = future.done() and not future.cancelled() and not future.exception()
        if ended and isinstance(task, TrainingTask):
            result = future.result()
            self.trainings.keep(
                task.name, result if self.in_process else result.value()
            )

    def _finish(self, task, future):
        """Takes the result of a task; returns the tasks that follow from it."""
        try:
            result = future.result()
        except Exception as error:
            self.failures[f"{task.kind} {task.name}"] = error
            return []
        value = result
        if not self.in_process:
            value = result.value()
            self._show(task, value, result.seconds)
        if isinstance(task, TrainingTask):
            self.trained[task.name] = value
            self.trainings.keep(task.name, value)
            if task.label is not None:
                self.monitor.merit(value["metrics"])
            return []
        self.found[task.label, task.seed] = value
        return self._trainings_of(task, value)

    def _trainings_of(self, task, found):
        """Returns the trainings of a search's tickets, if it trained them otherwise."""
        tickets = found.state.tickets
        if self._are_trained(task.search):
            for ticket in tickets:
                self.monitor.merit(ticket.metrics)
            return []
        return [
            self._training(_of_round(task.name, ticket), task.label, task.seed, ticket)
            for ticket in tickets
        ]

    def _are_trained(self, search):
        return search.engine.plan.epochs_of_tickets == self.context.epochs

    def _training(self, name, label, seed, ticket=None):
        known = self.trainings.known.get(name, {})
        return TrainingTask(name, label, seed, self.context.epochs, ticket, known)

    def _show(self, task, value, seconds):
        """Calls the callbacks of `watch` for a task that ended elsewhere.

        Of what was complete already, `watch` only hears.
        """
        watching = inputs.watched(self.context.watch, task.name)
        if task.was_complete(value):
            return
        logs = task.logs(value)
        params = {"epochs": task.epochs, "steps": None, "seconds": seconds}
        for callback in watching:
            callback.set_params(params)
            callback.on_train_begin()
            callback.on_epoch_end(task.epochs - 1, logs)
            callback.on_train_end(logs)

    def origin(self):
        """Returns what the provenance says of lockstep: "vmap" if all were in it."""
        tickets = [t for each in self.found.values() for t in each.state.tickets]
        places = {ticket.provenance.get("executor") for ticket in tickets}
        places |= {entry.get("executor") for entry in self.trained.values()}
        if "vmap" not in places:
            return {}
        return {"executor": "vmap" if len(places) == 1 else "vmap in part"}

    def dense(self):
        """Returns a dict from seed to the metrics of the dense network."""
        return {
            seed: self.trained[self.seeds.name("dense", seed)]["metrics"]
            for seed in self.seeds.all
        }

    def points(self, tables):
        """Returns the points by label, seed and round."""
        return [
            self._point(label, seed, tables[seed][label], found, ticket)
            for label in tables[self.seeds.first]
            for seed in self.seeds.all
            for found in [self.found[label, seed]]
            for ticket in found.state.tickets
        ]

    def _point(self, label, seed, search, found, ticket):
        metrics = ticket.metrics
        if not self._are_trained(search):
            name = _of_round(self.seeds.name(label, seed), ticket)
            metrics = self.trained[name]["metrics"]
        round_ = ticket.provenance["round"]
        cost = found.costs[round_]
        return Point(label, round_, ticket.sparsity, cost, metrics, ticket, seed)


def _longest_first(searches):
    """Returns tasks in the order in which workers begin them.

    What takes longest must not be the last that begins. But the first two of a method
    do not follow each other, if others remain: they would compile the same programs at
    the same time, which the second one could load.
    """
    left = sorted(searches, key=lambda task: -task.epochs)
    ordered: list[SearchTask] = []
    known = set()
    while left:
        last = ordered[-1].search.method if ordered else None
        others = [task for task in left if task.search.method != last]
        is_new = last is not None and last not in known
        task = others[0] if is_new and others else left[0]
        if last is not None:
            known.add(last)
        ordered.append(task)
        left.remove(task)
    return ordered


def _of_round(name, ticket):
    return f"{name} round {ticket.provenance['round']}"


def _written(frontier, place):
    if place is not None:
        frontier.save(place / RESULTS)
        values = [mean.metrics[frontier.monitor] for mean in frontier.means]
        plots.draw_or_warn(frontier.plot, place / _PICTURE, values, frontier.monitor)
    return frontier


def _check(searches, epochs, source=""):
    arguments.check_counts(epochs=epochs)
    if not isinstance(searches, Mapping) or not searches:
        raise ValueError(
            "`searches` must be a dict from a label to a search, such as "
            "search.varied(initial_score=[-0.1, 0.1]), or a function from a seed to "
            "such a dict. Received: "
            f"{source}{arguments.shown(searches)}"
        )
    for label, search in searches.items():
        arguments.check_type(str, **{"searches: label": label})
        arguments.check_type(TicketSearch, searches=search)
    slugs = [frontier_file.slug(label) for label in searches]
    if len(set(slugs)) < len(slugs):
        raise ValueError(
            "The labels of `searches` must differ in letters and digits, since they "
            f"name folders. Received: {list(searches)}"
        )
    taken = ("", ".", "..", RESULTS, _PICTURE, _TRAININGS, LOCK)
    refused = [label for label in searches if frontier_file.slug(label) in taken]
    if refused:
        raise ValueError(
            "A label of `searches` names the folder of the search, such as 'imp'. "
            f"Received: {refused}. The names {list(taken)} have other meanings."
        )


def _monitor(data, searches):
    if "test" in inputs.split(data):
        return "test_accuracy"
    return next(iter(searches.values())).monitor.metric


def _flat(origin):
    return {"method": origin["method"], **origin["settings"]}


def _provenance(searches, seeds, epochs, batch_size):
    return {
        "seed": seeds.first,
        **({"seeds": seeds.all} if seeds.are_named else {}),
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
        {"setting": schema.text, "executor": schema.text},
    )
)
_REMEDY = "Delete it and start again: its trainings are then repeated."


class _Trainings:
    """The metrics of trained tickets, by the name of a training, in a file."""

    def __init__(self, directory):
        self.path = None
        self.known = {}
        if directory is not None:
            self.path = directory / _TRAININGS
            if self.path.exists():
                self.known = files.read_json(self.path, _CHECK_TRAININGS, _REMEDY)

    def keep(self, name, entry):
        """Writes the metrics of a training, unless they are known."""
        if self.known.get(name) == entry:
            return
        self.known[name] = entry
        if self.path is not None:
            # Whatever training ended first, the file is the same in the end.
            content = dict(sorted(self.known.items()))
            with files.replacing(self.path) as draft:
                draft.write_text(json.dumps(content, indent=1))
