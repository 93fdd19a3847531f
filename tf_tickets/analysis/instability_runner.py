"""instability: trains copies of a network, and measures the lines between them."""

import dataclasses
import itertools
import json
import os
import pathlib
import warnings
from collections.abc import Callable, Sequence

import keras
import numpy as np

from tf_tickets import arguments, files, schema, wrapping
from tf_tickets.analysis import interpolation, resumable_training
from tf_tickets.analysis.instability_result import (
    FILE,
    Instability,
    Line,
    moment_of,
    name_of,
)
from tf_tickets.analysis.resumable_training import ResumableTraining, State
from tf_tickets.environment import versions
from tf_tickets.reports import plots
from tf_tickets.search import frontier_file, identity, inputs
from tf_tickets.search.lock import locked
from tf_tickets.search.prune_and_rewind import epochs_after
from tf_tickets.tickets.monitor import Monitor
from tf_tickets.tickets.ticket import Ticket
from tf_tickets.training import checks, snapshots
from tf_tickets.training.data import titled
from tf_tickets.training.fidelity import Fidelity
from tf_tickets.training.rewind import Rewind

# The shared training has the data order of a search's first round. Those of the copies
# are far from the rounds of a search and from its teachers.
_SHARED, _STATISTICS, _COPIES = 0, 1_999_999, 2_000_000
_PICTURE = "instability.png"
_TRAINING = "training.json"
_REMEDY = "Delete it and start again: its trainings are then repeated."

Moment = str | int


def instability(
    build_model: Callable[[], keras.Model],
    data: inputs.Data,
    directory: os.PathLike | str | None = None,
    seed: int = 0,
    *,
    epochs: int,
    rewind_to: Moment | Sequence[Moment] | None = None,
    ticket: Ticket | None = None,
    seeds: Sequence[int] = (0, 1),
    points: int = 30,
    monitor: str | None = None,
    part: str | None = None,
    batch_statistics: str = "interpolated",
    statistics_batches: int = 50,
    batch_size: int | None = None,
    watch: inputs.Watch | None = None,
    verbose: str | int = 0,
) -> Instability:
    """Measures how far the outcome of a training depends on the order of the data.

    This is the instability analysis of Frankle, Dziugaite, Roy and Carbin (2020). A
    network is trained up to a rewind point. Copies of it, with the state of the
    optimizer, are trained to the end, each with its own order of the data and its own
    random layers. Then networks on the straight line between two copies are evaluated.
    The instability is the largest error on the line, minus the mean error of its ends.

    Args:
        build_model: Function without arguments that returns a compiled model.
        data: As in `find_tickets`. Neither validation nor test data are trained on.
        directory: Where to store the trainings, `instability.json` and
            `instability.png`. Pass the same directory again to resume after the last
            epoch, or to add rewind points and seeds.
        seed: Seed of the weights and of the training up to the rewind points. Both are
            those of `find_tickets` with this seed.
        epochs: Number of epochs of the whole training. Copies train those that are left
            after a rewind point in epochs, and all of them after one in steps, as
            tickets do. The paper trains to the same end from every point.
        rewind_to: The rewind points: "init", "N steps", "N epochs", or a number of
            epochs; one or several. By default "init", or with a ticket its start
            weights.
        ticket: A ticket, for the instability of a sparse network. With `rewind_to`, its
            masks are applied to the dense network at each rewind point, without the
            factors of its kept weights (`scales`). Otherwise the copies start from its
            own weights and factors, with a new optimizer, at its step of the
            learning-rate schedule. A ticket of the end of a training is refused then.
        seeds: Seeds of the copies, at least two. There is a line between each two.
        points: Number of networks on each line, with its ends.
        monitor: The metric from which the error is computed: 1 - accuracy, or a loss
            itself. By default "accuracy", another accuracy, or "loss".
        part: "test", "validation" or "train": the data to evaluate on. By default the
            test data, or else the validation data.
        batch_statistics: How to set the statistics of batch normalization on the lines:
            "interpolated", or "recomputed" from training data, at the ends too.
        statistics_batches: The number of batches that they are recomputed from.
        batch_size: Batch size of arrays, 32 by default.
        watch: Function from the name of a training, such as "shared" or
            "2 epochs seed 1", to callbacks that show its progress.
        verbose: As in `model.fit`.

    Example:

    >>> def build():
    ...     model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    ...     model.compile("adam", "mse")
    ...     return model
    >>> x = np.random.default_rng(0).normal(size=(32, 4))
    >>> data = (x, x[:, :2]), (x, x[:, :2])
    >>> result = instability(build, data, epochs=2, rewind_to=["init", 1], points=5)
    >>> result.rewind_points, result.errors["init"].shape
    (['init', '1 epoch'], (5,))
    >>> result.is_stable("init")
    True
    """
    arguments.check_build(build_model)
    arguments.check_counts(epochs=epochs, statistics_batches=statistics_batches)
    seed, batch_size = inputs.check_fit(seed, batch_size, verbose)
    inputs.check_watch(watch)
    if ticket is not None:
        arguments.check_type(Ticket, ticket=ticket)
    starts = _starts(rewind_to, ticket, epochs)
    seeds = _checked_seeds(seeds)
    _check_points(points)
    if monitor is not None:
        arguments.check_type(str, monitor=monitor)
    known = ("interpolated", "recomputed")
    arguments.check_choice(known, batch_statistics=batch_statistics)
    folder = None
    if directory is not None:
        folder = arguments.check_path(directory=directory)
    opened = inputs.Inputs(data, seed, batch_size)
    part = _checked_part(part, opened)
    network = _Network(build_model, seed, ticket, own=starts[0].own)
    opened.check(network.model, epochs)
    _check_moments(starts, ticket, opened, network.model, epochs)
    metric = _metric(monitor, opened.metrics_on(network.model, part))
    measured = _Measured(part, metric, points, batch_statistics, statistics_batches)
    training = ResumableTraining(network.model, opened, verbose)
    run = _Run(network, training, int(epochs), folder, watch or inputs.unwatched)
    with locked(folder):
        _check_folder(folder, _identity(network, opened, epochs))
        states = run.shared(starts)
        lines = []
        for start in starts:
            ends = {each: run.end(start, states[start.name], each) for each in seeds}
            lines += [
                run.line(start, pair, ends, measured)
                for pair in itertools.combinations(seeds, 2)
            ]
        origin = {
            "seed": seed,
            "seeds": seeds,
            "epochs": int(epochs),
            "batch_size": opened.batch_size,
            "steps_per_epoch": opened.sources["train"].steps,
            "ticket": None if ticket is None else ticket.id,
            "statistics_batches": measured.statistics_batches,
            "versions": versions(),
            "cores": os.cpu_count(),
        }
        result = Instability(tuple(lines), metric, part, batch_statistics, origin)
        if folder is not None:
            result.save(folder / FILE)
            errors = [error for line in lines for error in line.errors]
            plots.draw_or_warn(result.plot, folder / _PICTURE, errors, "error")
    _warn_of_equal_ends(lines)
    return result


@dataclasses.dataclass(frozen=True)
class _Start:
    """Where copies start from.

    Args:
        moment: The moment of the training.
        own: Whether the copies start from the weights of the ticket.
    """

    moment: Rewind
    own: bool = False

    @property
    def name(self):
        return name_of(self.moment.moment)

    @property
    def folder(self):
        return "ticket" if self.own else self.name

    def place(self, steps):
        """Returns the epoch, and the batch in it, of the moment."""
        if self.moment.unit == "epochs":
            return self.moment.count, 0
        return divmod(self.moment.count, steps)


@dataclasses.dataclass(frozen=True)
class _Measured:
    """How lines are measured."""

    part: str
    metric: str
    points: int
    batch_statistics: str
    statistics_batches: int


class _Network:
    """The model that all trainings share, and its first state.

    Args:
        build_model: Function that returns a compiled model.
        seed: Seed of its weights.
        ticket: A ticket, or None.
        own: Whether copies start from the weights of the ticket, with its factors.
    """

    def __init__(self, build_model, seed, ticket, own):
        keras.utils.set_random_seed(seed)
        model = inputs.compiled(build_model)
        checks.check_unlearned(model)
        checks.check_one_optimizer(model)
        first = snapshots.record(model)
        if ticket is not None:
            # With own weights, so that the masks have factors if the ticket has them.
            model = ticket.apply(model, masks_only=not own)
        self.model = model
        self.ticket = ticket
        self.keep_all()
        # Of the wrapped model, whose optimizer has the slots in the same order.
        snapshots.restore(model, first, Fidelity.get("exact"), None)
        self.first = snapshots.record(model)

    def keep_all(self):
        """Sets masks of ones if there is a ticket, for the training of all weights."""
        if self.ticket is not None:
            kernels = wrapping.kernels(self.model)
            ones = {path: np.ones(m.shape, bool) for path, m in kernels.masks.items()}
            kernels.set_masks(ones)

    def start(self, start, state):
        """Returns the state that copies start from, and sets the masks."""
        snapshots.restore(self.model, state or self.first, Fidelity.get("exact"), None)
        if self.ticket is not None:
            self.ticket.apply(self.model, masks_only=not start.own)
            snapshots.zero_slots(self.model)
        return snapshots.record(self.model)


class _Run:
    """The trainings and lines of an analysis, stored in a folder if there is one."""

    def __init__(self, network, training, epochs, folder, watch):
        self.network = network
        self.training = training
        self.epochs = epochs
        self.folder = folder
        self.watch = watch

    @property
    def opened(self):
        return self.training.opened

    def file(self, *names):
        """Returns the path of a file in the folder; None without one."""
        if self.folder is None:
            return None
        return self.folder.joinpath(*map(frontier_file.slug, names))

    def shared(self, starts):
        """Returns a dict from name to the state of the dense network at each start."""
        model, steps = self.network.model, self.opened.sources["train"].steps
        states: dict[str, State | None] = {}
        left = {}
        for start in starts:
            if start.own or start.moment.to_init:
                states[start.name] = self.network.first
                continue
            file = self.file(start.name, "start.state")
            stored = resumable_training.read_state(file, model)
            if stored is None:
                left[start.name] = start.place(steps)
            else:
                states[start.name] = stored.state
        if left:
            states |= self._train_to(left)
        return states

    def _train_to(self, moments):
        self.network.keep_all()
        file = self.file("shared.state")
        stored = resumable_training.read_state(file, self.network.model)
        if stored is not None and min(moments.values()) <= (stored.epoch, 0):
            stored = None  # It is past one of the moments.
        take = resumable_training.Take(
            moments, lambda name: self.file(name, "start.state")
        )
        last = max(epoch + (batch > 0) for epoch, batch in moments.values())
        self.training.fit(
            self.network.first,
            range(last),
            _SHARED,
            file,
            [take, *inputs.watched(self.watch, "shared")],
            stored,
        )
        missed = [name for name in moments if name not in take.states]
        if missed:
            raise ValueError(
                f"`rewind_to` was not reached. Received: {missed}. The training up to "
                f"there must run {last} epochs; a callback of `watch` stopped it."
            )
        return take.states

    def end(self, start, state, seed):
        """Returns the state of a copy at the end of its training."""
        state = dict(self.network.start(start, state))
        state["seeds"] = _reseeded(state["seeds"], self.opened.seed, seed)
        first = start.moment.count if start.moment.unit == "epochs" else 0
        return self.training.run(
            state,
            range(first, first + epochs_after(start.moment, self.epochs)),
            _COPIES + seed,
            self.file(start.folder, f"seed_{seed}.state"),
            inputs.watched(self.watch, f"{start.name} seed {seed}"),
        )

    def line(self, start, pair, ends, measured):
        """Returns the line between the copies of two seeds."""
        facts = dataclasses.astuple(measured)
        name = "-".join(map(str, ("line", *pair, *facts)))
        file = self.file(start.folder, f"{name}.json")
        if file is not None and file.is_file():
            return Instability.load(file).lines[0]
        model = self.network.model
        first, second = (ends[seed] for seed in pair)
        positions = np.linspace(0, 1, measured.points).tolist()
        errors, losses = [], []
        for position in positions:
            between = interpolation.between(first, second, position)
            interpolation.set_state(model, between)
            if measured.batch_statistics == "recomputed":
                key = (self.opened.seed, _STATISTICS, 0)
                count = measured.statistics_batches
                interpolation.recompute_statistics(model, self.opened, key, count)
            metrics = self.opened.metrics_on(model, measured.part)
            errors.append(_error(measured.metric, metrics))
            losses.append(metrics["loss"])
        distance = interpolation.distance(first, second)
        line = Line(
            start.name,
            pair,
            tuple(positions),
            tuple(errors),
            tuple(losses),
            distance,
        )
        if file is not None:
            how = (measured.metric, measured.part, measured.batch_statistics)
            Instability((line,), *how).save(file)
        return line


def _reseeded(states, seed, copy):
    """Returns the states of random layers, with seeds of their own for a copy."""
    rng = np.random.default_rng([seed, _COPIES, copy])
    found = {}
    for name, value in states.items():
        value = np.array(value)
        value.flat[0] = rng.integers(2**31)
        found[name] = value
    return found


def _error(metric, metrics):
    merit = Monitor(metric).merit(metrics)
    smaller_is_better = Monitor(metric).merit({metric: 1.0}) < 0
    return -merit if smaller_is_better else 1 - merit


def _metric(monitor, metrics):
    """Returns the metric of the error; refuses one that is not measured."""
    if monitor is not None:
        if monitor not in metrics:
            raise ValueError(
                f"`monitor` must be a metric that the model is compiled with: one of "
                f"{sorted(metrics)}. Received: {monitor!r}"
            )
        return monitor
    accuracies = [name for name in metrics if name.endswith(("accuracy", "acc"))]
    return "accuracy" if "accuracy" in metrics else [*accuracies, "loss"][0]


def _starts(rewind_to, ticket, epochs):
    """Returns where copies start from; refuses moments that are none."""
    if rewind_to is None:
        if ticket is None:
            return [_Start(Rewind("init"))]
        moment = _own_moment(ticket)
        if moment.unit == "epochs" and moment.count >= epochs:
            raise ValueError(
                "`epochs` must be more than those before the ticket's start. Received: "
                f"epochs={epochs}, and a ticket that was rewound to "
                f"{moment.moment!r}. Pass the epochs of the whole training."
            )
        return [_Start(moment, own=True)]
    single = isinstance(rewind_to, str) or arguments.is_whole(rewind_to)
    moments = [rewind_to] if single else arguments.listed(object, rewind_to=rewind_to)
    starts = [_Start(moment_of(moment)) for moment in moments]
    names = [start.name for start in starts]
    if not names or len(set(names)) < len(names):
        raise ValueError(
            "`rewind_to` must be at least one moment, each only once, such as "
            f"['init', 1, 2]. Received: {arguments.shown(rewind_to)}"
        )
    for start in starts:
        start.moment.check_within(epochs)
    return starts


def _own_moment(ticket):
    """Returns the moment that a ticket was rewound to."""
    step = ticket.provenance.get("step", 0)
    if not step:
        return Rewind("init")
    settings = ticket.provenance.get("settings")
    rewind = settings.get("rewind_to") if isinstance(settings, dict) else None
    if isinstance(rewind, dict) and isinstance(rewind.get("config"), dict):
        moment = Rewind(rewind["config"].get("moment"))
        if not moment.to_init:
            return Rewind(moment.moment)
    return Rewind(f"{step} steps")


def _checked_seeds(seeds):
    found = arguments.listed(object, seeds=seeds)
    for seed in found:
        arguments.check_seed(seed)
    if len(found) < 2 or len(set(found)) < len(found):
        raise ValueError(
            "`seeds` must be at least two different seeds, such as (0, 1). Received: "
            f"{arguments.shown(seeds)}"
        )
    return list(map(int, found))


def _check_points(points):
    arguments.check_counts(points=points)
    if not 3 <= points <= 10_000:
        raise ValueError(
            "`points` must be from 3, two ends and a network between them, to 10,000. "
            f"Received: {points}"
        )


def _checked_part(part, opened):
    names = list(opened.sources)
    if part is None:
        part = names[-1]
    if not arguments.is_one_of(part, names):
        raise ValueError(
            f"`part` must be one of the parts of the data: {names}. Received: "
            f"{arguments.shown(part)}"
        )
    for name, source in opened.sources.items():
        if source.kind == "generator":
            raise ValueError(
                f"The {titled(name)} data must be readable several times, since "
                "several networks are trained and evaluated. Received: a generator, "
                "which is read once. Pass a function data(key) that returns a new one "
                "for each epoch."
            )
    return part


def _check_moments(starts, ticket, opened, model, epochs):
    """Refuses moments in steps that `fit` does not come to, also that of the ticket."""
    steps, at_once = opened.sources["train"].steps, model.steps_per_execution
    step = 0 if ticket is None else ticket.provenance.get("step", 0)
    if starts[0].own and step >= steps * epochs:
        raise ValueError(
            "The ticket must start before the end of the training. Received: a ticket "
            f"of step {step}, but {epochs} epochs have {steps * epochs} steps: a "
            "learning-rate schedule would stand at its end, and the copies would stay "
            "where they are. Pass `rewind_to`, such as 'init', to apply its masks at "
            "an earlier moment, or more `epochs` if the schedule is longer."
        )
    for start in starts:
        if start.own or start.moment.unit != "steps":
            continue
        count = start.moment.count
        if count >= steps * epochs:
            raise ValueError(
                "`rewind_to` must lie before the end of the training. Received: "
                f"{start.moment.moment!r}, but {epochs} epochs have {steps * epochs} "
                "steps."
            )
        if count % steps % at_once:
            raise ValueError(
                "`rewind_to` must lie between two calls of the compiled step. "
                f"Received: {start.moment.moment!r}, but the model was compiled with "
                f"steps_per_execution={at_once}. Choose a multiple of it in an epoch "
                f"of {steps} steps."
            )


def _warn_of_equal_ends(lines):
    """Warns of lines without length: their instability of 0 says nothing."""
    equal = [line.rewind_to for line in lines if line.distance == 0]
    if equal:
        warnings.warn(
            "Copies with different orders of the data ended with equal weights. "
            f"Rewind points: {list(dict.fromkeys(equal))}. Their instability of 0 says "
            "nothing: either no weight was trained, as at the end of a learning-rate "
            "schedule, or every epoch has the same batches. Choose earlier rewind "
            "points or a longer schedule, or shuffle the data by `seed`.",
            stacklevel=3,
        )


def _identity(network, opened, epochs):
    content = identity.identity_of_training(network.model, opened)
    ticket = None if network.ticket is None else network.ticket.id
    content = {**content, "epochs": int(epochs), "ticket": ticket}
    return identity.without_names(content)


def _check_folder(folder, expected):
    """Refuses a directory of other trainings, and marks a new one as of these."""
    if folder is None:
        return
    path = pathlib.Path(folder) / _TRAINING
    if not path.exists():
        with files.replacing(path) as draft:
            draft.write_text(json.dumps(expected, indent=1))
        return
    found = files.read_json(path, schema.mapping(), _REMEDY)
    differing = identity.differences(found, expected)
    if differing:
        raise ValueError(
            f"{folder} holds the trainings of another analysis: "
            f"{identity.in_short(differing)}. Use another directory, or the same "
            "settings."
        )
