"""The trainings of a frontier as tasks, which run in any process."""

import copy
import dataclasses
import functools
import pathlib
import pickle
import shutil
import socket
import time
from collections.abc import Callable
from typing import Any, ClassVar

import keras

from tf_tickets import keras_internals
from tf_tickets.search import inputs, lock, lockstep
from tf_tickets.search.executors.packing import Packed, travels
from tf_tickets.search.runner import find_tickets
from tf_tickets.search.state import SearchState
from tf_tickets.search.ticket_search import TicketSearch
from tf_tickets.search.ticket_trainer import TicketTrainer
from tf_tickets.tickets.ticket import Ticket
from tf_tickets.wrapping import paths

# The owner of the locks of all tasks. A driver locks the whole directory, and starts
# a task again only if its process was lost.
_OWNER = "find_frontier"
# Seconds to wait for the processes of a driver that was killed.
_PATIENCE = 60.0


@dataclasses.dataclass(frozen=True)
class Settings:
    """The global settings of Keras, which results depend on.

    Args:
        backend: The backend.
        values: From the name of a setting in `keras.config` to its value.
        objects: The registered classes and functions of a program, by name.
        switches: From the name of a switch in `keras.config` to whether it is on.
        scoped: The objects of the `custom_object_scope` around `find_frontier`.
    """

    backend: str
    values: dict[str, Any]
    objects: dict[str, Any]
    switches: dict[str, bool] = dataclasses.field(default_factory=dict)
    scoped: dict[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def present(cls) -> "Settings":
        """Returns the settings of this thread, which Keras keeps for each."""
        values = {name: getattr(keras.config, name)() for name in _GLOBALS}
        policy = keras.dtype_policies.serialize(keras.config.dtype_policy())
        objects = {
            name: each
            for name, each in keras.saving.get_custom_objects().items()
            # Those of modules are registered when the module is imported.
            if getattr(each, "__module__", None) == "__main__"
        }
        # None stands for a switch that is on by default.
        switches = {
            name: getattr(keras.config, f"is_{name}_enabled")() is not False
            for name in _SWITCHES
        }
        return cls(
            keras.config.backend(),
            {**values, "dtype_policy": policy},
            objects,
            switches,
            keras_internals.scoped_objects(),
        )

    def apply(self) -> None:
        """Makes them the settings of this thread, but enters no scope."""
        if keras.config.backend() != self.backend:
            raise ValueError(
                f"The frontier uses the backend {self.backend}, but a worker has "
                f"started with {keras.config.backend()}. Set the environment variable "
                f"KERAS_BACKEND={self.backend} for the workers."
            )
        values = dict(self.values)
        policy = keras.dtype_policies.deserialize(values.pop("dtype_policy"))
        for name, value in values.items():
            getattr(keras.config, f"set_{name}")(value)
        keras.config.set_dtype_policy(policy)
        for name, is_on in self.switches.items():
            getattr(keras.config, f"{'enable' if is_on else 'disable'}_{name}")()
        self._register()

    def __getstate__(self):
        # A scope may hold more than the tasks need.
        scoped = {n: each for n, each in self.scoped.items() if travels(each)}
        return {**vars(self), "scoped": scoped}

    def __setstate__(self, state):
        vars(self).update(state)
        self._register()

    def _register(self):
        for name, each in self.objects.items():
            package, has_package, short = name.rpartition(">")
            if has_package:
                keras.saving.register_keras_serializable(package, short)(each)
            else:
                keras.saving.get_custom_objects()[name] = each


_GLOBALS = ("floatx", "epsilon", "image_data_format")
_SWITCHES = ("flash_attention", "interactive_logging", "traceback_filtering")


@dataclasses.dataclass(frozen=True)
class Context:
    """What all tasks of a frontier need.

    Args:
        token: Differs for each call of `find_frontier`.
        settings: The settings of the process that called.
        build_model: As in `find_tickets`.
        data: As in `find_tickets`.
        batch_size: As in `find_tickets`.
        epochs: Training epochs of each ticket.
        callbacks: Further callbacks of the searches.
        directory: The directory of the frontier, or None.
        is_temporary: Whether nobody needs the directory afterwards.
        watch: From a task's name to callbacks, in the process that called.
        verbose: As in `model.fit`.
    """

    token: str
    # Unpickled first: what follows may have layers that it registers.
    settings: Settings
    build_model: Callable[[], keras.Model]
    data: inputs.Data
    batch_size: int | None
    epochs: int
    callbacks: list[keras.callbacks.Callback]
    directory: pathlib.Path | None = None
    is_temporary: bool = False
    watch: inputs.Watch = inputs.unwatched
    verbose: str | int = 0

    @property
    def fit(self) -> dict[str, Any]:
        """The arguments of every search."""
        return {"batch_size": self.batch_size, "verbose": self.verbose}

    def trainer(self, seed: int) -> TicketTrainer:
        """Returns the trainer of a seed; each process has one of each.

        Each member of a group in lockstep has its own.
        """
        for token, *_ in [key for key in _TRAINERS if key[0] != self.token]:
            release(token)
        member = lockstep.present()
        key = (self.token, seed, member.number if member else 0)
        if key not in _TRAINERS:
            trainer = TicketTrainer(self.build_model, self.data, seed, self.batch_size)
            _TRAINERS[key] = trainer
        return _TRAINERS[key]


_TRAINERS: dict[tuple[str, int, int], TicketTrainer] = {}


def release(token: str) -> None:
    """Forgets the trainers of a frontier.

    Args:
        token: That of its `Context`.
    """
    for key in [key for key in _TRAINERS if key[0] == token]:
        del _TRAINERS[key]


@dataclasses.dataclass(frozen=True)
class Found:
    """The result of a search.

    Args:
        state: The state of the search without what only resuming needs.
        costs: Dict from round to the epochs before its ticket was known.
        was_complete: Whether it was only loaded.
    """

    state: SearchState
    costs: dict[int, int]
    was_complete: bool = False


class _Beginning(keras.callbacks.Callback):
    """Sees whether an epoch begins."""

    changes_results = False
    was_seen = False

    def on_epoch_begin(self, epoch, logs=None):
        self.was_seen = True


@dataclasses.dataclass(frozen=True)
class SearchTask:
    """One search with one seed.

    Args:
        name: The name for people, such as "imp seed 1".
        label: The label of the search.
        seed: Seed of weights and data order.
        search: The search.
        folder: Its folder in the frontier's directory.
    """

    name: str
    label: str
    seed: int
    search: TicketSearch
    folder: str

    # Before a search, names of layers count from 1: they must not depend on what
    # the same process did before.
    clears: ClassVar[bool] = True
    kind: ClassVar[str] = "search"

    @property
    def epochs(self) -> int:
        """How many epochs it trains at most."""
        return self.search.epochs

    def run(self, context: Context) -> Found:
        """Runs or resumes the search."""
        search = self.search
        folder = context.directory and context.directory / self.folder
        watching = inputs.watching(context.watch, self.name)
        beginning = _Beginning()
        find_tickets(
            context.build_model,
            context.data,
            search,
            folder,
            self.seed,
            callbacks=[*context.callbacks, *watching, beginning],
            **context.fit,
        )
        state = search.engine.state
        rounds = [ticket.provenance["round"] for ticket in state.tickets]
        costs = {round_: search.engine.epochs_before(round_) for round_ in rounds}
        left = dataclasses.replace(state, fresh={}, reached=None, states={}, scores={})
        return Found(left, costs, not beginning.was_seen)

    def was_complete(self, result: Found) -> bool:
        """Whether the search was only loaded."""
        return result.was_complete

    def logs(self, result: Found) -> dict[str, Any]:
        """Returns the metrics of the last ticket, for a line of progress."""
        ticket = result.state.tickets[-1]
        round_ = ticket.provenance["round"]
        return {**ticket.metrics, "round": round_, "sparsity": ticket.sparsity}


@dataclasses.dataclass(frozen=True)
class TrainingTask:
    """The training of one ticket, or of the dense network.

    Args:
        name: The name for people, such as "imp seed 1 round 3".
        label: The label of the search; None for the dense network.
        seed: Seed of weights and data order.
        epochs: Training epochs.
        ticket: The ticket; None for the dense network.
        known: What an earlier call has kept under this name.
    """

    name: str
    label: str | None
    seed: int
    epochs: int
    ticket: Ticket | None
    known: dict[str, Any]

    clears: ClassVar[bool] = False
    kind: ClassVar[str] = "training"

    def run(self, context: Context) -> dict[str, Any]:
        """Returns the metrics, with what they depend on; trains if it is unknown."""
        trainer = context.trainer(self.seed)
        ticket = self.ticket or trainer.dense_ticket()
        ids = [ticket.id]
        if self.ticket is None:
            ids.insert(0, _without_numbers(ticket).id)
        wanted = {"epochs": self.epochs, "setting": trainer.setting}
        # Also of a known training, so that who counts the rest hears of it.
        watching = inputs.watching(context.watch, self.name)
        known = self.known
        if known.get("ticket") in ids and wanted.items() <= known.items():
            return known
        metrics = trainer.train(ticket, self.epochs, watching)
        where = {"executor": "vmap"} if lockstep.present() else {}
        return {"ticket": ids[0], **wanted, **where, "metrics": metrics}

    def was_complete(self, result: dict[str, Any]) -> bool:
        """Whether the result was known before."""
        return result == self.known

    def logs(self, result: dict[str, Any]) -> dict[str, Any]:
        """Returns the metrics, for a line of progress."""
        return result["metrics"]


def _without_numbers(ticket):
    """Returns a dense ticket under names without the numbers that Keras counts up.

    They depend on how many networks the process has built before.
    """
    names = {p: f"{i} {paths.bare(p)}" for i, p in enumerate(ticket.start_weights())}
    return dataclasses.replace(
        ticket,
        masks={names[path]: mask for path, mask in ticket.masks.items()},
        weights={names[path]: w for path, w in ticket.start_weights().items()},
    )


Task = SearchTask | TrainingTask


@dataclasses.dataclass(frozen=True)
class Result:
    """The result of a task in another process.

    Args:
        content: The pickled value, so that its arrays belong to who unpacks it.
        seconds: How long the task took.
    """

    content: bytes
    seconds: float

    def value(self) -> Any:
        """Returns the value."""
        return pickle.loads(self.content)


def perform(context: Context, task: Task) -> Any:
    """Runs a task in the process that called `find_frontier`."""
    if lockstep.present() is not None:
        # Tasks run at the same time, in threads in which Keras has no settings yet.
        context.settings.apply()
        callbacks = copy.deepcopy(context.callbacks)
        context = dataclasses.replace(context, callbacks=callbacks)
    scope = keras.saving.custom_object_scope(context.settings.scoped)
    with lock.taken_by(_OWNER), scope:
        return task.run(context)


def perform_elsewhere(shared: Context | Packed, packed: Packed) -> Result:
    """Runs a task in a worker process.

    Args:
        shared: The context, or a `Packed` one.
        packed: The `Packed` task.
    """
    began = time.monotonic()
    context: Context = shared.unpack() if isinstance(shared, Packed) else shared
    context.settings.apply()
    task = packed.unpack()
    if task.clears:
        keras.utils.clear_session()
        context.settings.apply()
    _check_seen(context.directory, context.is_temporary)
    callbacks = copy.deepcopy(context.callbacks)
    context = dataclasses.replace(context, callbacks=callbacks)
    value = _patiently(functools.partial(perform, context, task))
    if context.is_temporary and context.directory and isinstance(task, SearchTask):
        # On other machines nobody else would.
        shutil.rmtree(context.directory / task.folder, ignore_errors=True)
    return Result(pickle.dumps(value), time.monotonic() - began)


def _check_seen(directory, is_temporary):
    """Refuses a directory that is another one on this machine."""
    if directory is None or is_temporary or (directory / lock.LOCK).exists():
        return
    raise ValueError(
        f"{directory} on host {socket.gethostname()}, where a worker runs, is not the "
        "directory of this frontier. Use a directory that all machines share."
    )


def _patiently(function):
    """Calls a function again while the process of a killed driver still runs."""
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            return function()
        except lock.LockedError:
            if time.monotonic() > end:
                raise
        time.sleep(1.0)
