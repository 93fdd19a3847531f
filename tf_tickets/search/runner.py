"""find_tickets: a whole search from a build function, resumable from a directory."""

import os
import pathlib
import warnings
from collections.abc import Callable, Iterable

import keras
import numpy as np

from tf_tickets import arguments, files
from tf_tickets.callbacks.base import ResumableCallback
from tf_tickets.environment import versions
from tf_tickets.search import identity, inputs, lockstep
from tf_tickets.search.inputs import Data
from tf_tickets.search.lock import locked
from tf_tickets.search.one_training import OneTraining, as_search
from tf_tickets.search.state import (
    SearchState,
    check_content,
    check_tickets,
    max_bytes,
)
from tf_tickets.search.ticket_search import TicketSearch
from tf_tickets.tickets.ticket import Ticket

STATE = "search.state"
# The format of the state's content.
_FORMAT = 3


def find_tickets(
    build_model: Callable[[], keras.Model],
    data: Data,
    search: TicketSearch | ResumableCallback,
    directory: os.PathLike | str | None = None,
    seed: int = 0,
    *,
    epochs: int | None = None,
    batch_size: int | None = None,
    callbacks: Iterable[keras.callbacks.Callback] = (),
    verbose: str | int = "auto",
) -> list[Ticket]:
    """Builds a model, runs a search, and returns its tickets, one per round.

    With a directory, every round is stored there. A search that was interrupted, even
    killed, resumes when it is called again. It trains no completed round again, and
    ends with the same bits as a search that was not interrupted (on the same machine),
    if the order of the data depends only on seed, round and epoch. Arrays are shuffled
    that way. For others, see `TrainingData` and `ticket.provenance["resume"]`.

    `GradualPruning`, `DynamicSparsity` and `EarlyStopRewind` train only once. Their one
    ticket holds the weights at the end of that training. Every epoch is stored, and an
    interrupted training resumes after its last complete one.

    Args:
        build_model: Function without arguments that returns a compiled model: plain, or
            as `search.wrap(model)` returns it.
        data: A `tf_tickets.datasets.Dataset`, a pair or triple of (x, y) arrays for
            training, validation and optionally test, or a `tf_tickets.TrainingData` of
            anything that `model.fit` takes.
        search: `tf_tickets.IMP` or another search. Afterwards it has `best`, `dense`
            and `tickets`. Or one of the callbacks above.
        directory: Where to store the search. A directory of another search is refused.
        seed: Seed of weights, data order and random layers.
        epochs: Epochs of the training, for callbacks only. Searches have their own.
        batch_size: Batch size of arrays, 32 by default.
        callbacks: Further Keras callbacks. One that stops the training of a callback
            completes it.
        verbose: As in `model.fit`.

    Returns:
        The list of tickets by round. With test data their metrics include `test_*`.

    Example:

    >>> def build():
    ...     model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    ...     model.compile("adam", "mse")
    ...     return model
    >>> x, y = np.ones((8, 4)), np.ones((8, 2))
    >>> search = tt.IMP(rounds=1, epochs_per_round=1, rate=0.5, monitor="val_loss")
    >>> data = ((x, y), (x, y))
    >>> tickets = find_tickets(build, data, search, batch_size=4, verbose=0)
    >>> tickets[0].sparsity
    0.5
    >>> schedule = tt.schedules.ConstantSparsity(0.75, begin_step=2, frequency=1)
    >>> pruning = tt.GradualPruning(schedule)
    >>> [ticket] = find_tickets(build, data, pruning, epochs=2, batch_size=4, verbose=0)
    >>> ticket.sparsity, ticket == pruning.ticket
    (0.75, True)
    """
    search = as_search(search, epochs)
    seed, batch_size = inputs.check_fit(seed, batch_size, verbose)
    callbacks = arguments.listed(keras.callbacks.Callback, callbacks=callbacks)
    if directory is not None:
        directory = arguments.check_path(directory=directory)
    opened = inputs.Inputs(data, seed, batch_size)
    keras.utils.set_random_seed(seed)
    model, config = inputs.build(build_model, search.wrap)
    opened.check(model, search.epochs)
    engine = search.engine
    engine.reset()
    engine.context = {
        "dataset": opened.data.name,
        "batch_size": opened.batch_size,
        "resume": opened.resume,
        "build_seed": seed,
        "model": config,
        **({"executor": "vmap"} if lockstep.present() else {}),
    }
    keeper = _Keeper(search, directory, opened)
    if directory is not None:
        keeper.identity = identity.identity_of(
            search, model, opened, _with_inner(search, callbacks)
        )
    with locked(directory):
        keeper.check()
        search.set_model(model)
        if not keeper.resume(model):
            opened.fit(
                model,
                opened.feed(lambda: engine.data_key(seed)),
                _in_order(search, keeper, callbacks),
                epochs=search.epochs,
                initial_epoch=engine.state.next_epoch,
                verbose=verbose,
            )
    engine.context = {}
    return search.tickets


def _with_inner(search, callbacks):
    """Returns callbacks, with those that the callback of a training calls."""
    inner = search.callback.inner_callbacks if isinstance(search, OneTraining) else ()
    return [*callbacks, *inner]


def _in_order(search, keeper, callbacks):
    """Returns all callbacks of `fit`; the keeper comes after the search."""
    if isinstance(search, OneTraining):
        # The ticket is that of the whole epoch, after what all callbacks do in it.
        return [search.callback, *callbacks, search, keeper]
    return [search, keeper, *callbacks]


class _Keeper(keras.callbacks.Callback):
    """Stores a search in a directory; comes after the search in the callbacks."""

    def __init__(self, search, directory, opened):
        super().__init__()
        self.search = search
        self.directory = pathlib.Path(directory) if directory is not None else None
        self.seed = opened.seed
        self.opened = opened
        self.kept_epoch = None
        self.identity: dict = {}

    def check(self):
        """Refuses a directory that holds another search."""
        if self.directory is None or not (self.directory / STATE).exists():
            return
        content = files.read_content(self.directory / STATE, "search")
        if content.get("format") != _FORMAT:
            raise ValueError(
                f"{self.directory / STATE} was written by another version of "
                f"tf_tickets (format {content.get('format', 1)}, this version reads "
                f"{_FORMAT}), so the search cannot be resumed. Its tickets can still "
                "be loaded with Ticket.load. Use another directory."
            )
        with files.checking(self.directory / STATE, "search"):
            check_content(content)
        differing = identity.differences(content["identity"], self.identity)
        if differing:
            raise ValueError(
                f"{self.directory} holds another search: "
                f"{identity.in_short(differing)}. Use another directory, or the same "
                "settings."
            )
        _warn_of_versions(content["versions"], self.directory)

    def resume(self, model):
        """Loads what is stored; returns whether the search is complete."""
        if self.directory is None or not (self.directory / STATE).exists():
            return False
        engine = self.search.engine
        limit = max_bytes(model, engine.plan.most_states)
        content, arrays = files.read(self.directory / STATE, "search", limit)
        names = [_file(number) for number in range(1, content["tickets"] + 1)]
        tickets: list[Ticket] = []
        for name in names:
            tickets.append(Ticket.load(self.directory / name, limit))
            _share_weights(tickets)
        check_tickets(tickets, content["search"])
        with files.checking(self.directory / STATE, "search"):
            state = SearchState.unpack(content["search"], arrays, tickets, model)
            engine.resume(state)
        self.kept_epoch = state.next_epoch
        return state.complete

    def on_epoch_begin(self, epoch, logs=None):
        engine = self.search.engine
        if not engine.plan.may_resume(engine):
            return
        # Random numbers must not depend on what was trained before.
        seed, round_, _ = engine.data_key(self.seed)
        number = round_ + engine.state.epoch_in_round
        keras.utils.set_random_seed(inputs.round_seed(seed, number))
        if engine.state.next_epoch != self.kept_epoch:
            self._keep()

    def on_epoch_end(self, epoch, logs=None):
        engine = self.search.engine
        state = engine.state
        if state.round_is_over and "test" in self.opened.sources:
            state.metrics.update(self.opened.test_metrics(self.model))
        if not state.round_is_over and engine.plan.may_resume(engine):
            self._keep()

    def on_train_end(self, logs=None):
        if self.search.complete:
            self._keep()

    def _keep(self):
        """Writes tickets first and the state last: it says which tickets count."""
        engine = self.search.engine
        state = engine.state
        self.kept_epoch = state.next_epoch
        if self.directory is None:
            return
        engine.plan.before_storing(engine)
        for ticket in state.tickets[-2:]:
            ticket.save(self.directory / _file(ticket.provenance["round"]))
        content, arrays = state.pack(self.model)
        content = {
            "format": _FORMAT,
            "identity": self.identity,
            "versions": versions(),
            "tickets": len(state.tickets),
            "search": content,
        }
        files.write(self.directory / STATE, "search", content, arrays)


def _share_weights(tickets):
    """Lets the last ticket have the start weights of the one before that are equal.

    A search holds them once. Loaded from files, each ticket would have its own copy.
    """
    if len(tickets) < 2:
        return
    before, last = tickets[-2].weights or {}, tickets[-1].weights or {}
    for path, value in last.items():
        known = before.get(path)
        if known is not None and _have_equal_bits(known, value):
            last[path] = known


def _have_equal_bits(first, second):
    kinds = (first.dtype, first.shape), (second.dtype, second.shape)
    # The views of bytes are compared byte by byte in Python, arrays are not.
    return kinds[0] == kinds[1] and np.array_equal(files.raw(first), files.raw(second))


def _warn_of_versions(there, directory):
    rows = identity.differences(there, versions())
    if rows:
        warnings.warn(
            f"{directory} was written with other versions: {'; '.join(rows)}. The "
            "search resumes, but its results may differ in the last bits.",
            stacklevel=4,
        )


def _file(number):
    return f"round_{number:02}.ticket"
