"""A training that is stored after every epoch, and resumes there."""

import pathlib
from collections.abc import Callable, Iterable
from typing import NamedTuple

import keras
import numpy as np

from tf_tickets import arguments, files, schema
from tf_tickets.search import inputs
from tf_tickets.search.state import max_bytes
from tf_tickets.training import snapshots
from tf_tickets.training.data import Key
from tf_tickets.training.fidelity import PARTS, Fidelity

State = snapshots.State

_KIND = "training"
# The order of a search's first round, whose random numbers are those of the search.
_FIRST_ROUND = 0
_CHECK = schema.fields({"epoch": schema.count, "complete": schema.flag})


class Stored(NamedTuple):
    """The state of a training that was stored.

    Args:
        state: The state.
        epoch: How many epochs of the whole training came before.
        complete: Whether the training was complete.
    """

    state: State
    epoch: int
    complete: bool


def write_state(
    file: pathlib.Path | None, state: State, epoch: int, complete: bool = False
) -> None:
    """Writes a state to a file; does nothing without a file."""
    if file is None:
        return
    arrays = {f"{p}/{n}": a for p, table in state.items() for n, a in table.items()}
    files.write(file, _KIND, {"epoch": epoch, "complete": complete}, arrays)


def read_state(file: pathlib.Path | None, model: keras.Model) -> Stored | None:
    """Returns the state in a file, with the names of a model; None without a file."""
    if file is None or not file.is_file():
        return None
    content, arrays = files.read(file, _KIND, max_bytes(model))
    with files.checking(file, _KIND):
        _CHECK(content, "content")
        state: State = {part: {} for part in PARTS}
        for name, array in arrays.items():
            part, _, path = name.partition("/")
            arguments.check_choice(PARTS, **{"part of the state": part})
            state[part][path] = array
        return Stored(snapshots.adopt(model, state), **content)


class ResumableTraining:
    """Trains one compiled model from several states, one after the other.

    Args:
        model: A compiled model.
        opened: The data.
        verbose: As in `model.fit`.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> x, y = np.ones((8, 2)), np.ones((8, 1))
    >>> opened = inputs.Inputs(((x, y), (x, y)), seed=0, batch_size=4)
    >>> training = ResumableTraining(model, opened, verbose=0)
    >>> end = training.run(snapshots.record(model), range(2), order=1)
    >>> snapshots.iteration_in(end)
    4
    """

    def __init__(
        self, model: keras.Model, opened: inputs.Inputs, verbose: str | int
    ) -> None:
        self.model = model
        self.opened = opened
        self.verbose = verbose
        self._key: Key = (opened.seed, 0, 0)
        # One for all trainings: on TensorFlow it holds a copy of the data.
        self._feed = opened.feed(lambda: self._key)

    def run(
        self,
        start: State,
        epochs: range,
        order: int,
        file: pathlib.Path | None = None,
        callbacks: Iterable[keras.callbacks.Callback] = (),
    ) -> State:
        """Returns the state after some epochs, and stores it.

        A training that a callback stops before its last epoch is refused. It is not
        complete, and continues where it stopped when it is run again.

        Args:
            start: The state before the first of the epochs.
            epochs: The numbers of the epochs.
            order: The order of the data, the second part of the key.
            file: Where the state is stored after every epoch; None for nowhere.
            callbacks: Further callbacks.
        """
        stored = read_state(file, self.model)
        if stored is not None and stored.complete:
            return stored.state
        reached = self.fit(start, epochs, order, file, callbacks, stored)
        if reached < epochs.stop:
            raise ValueError(
                f"All copies must be trained to the end. Received: a training that "
                f"stopped after epoch {reached} of {epochs.stop}, by a callback of "
                "`watch`. Remove the callback that stops it."
            )
        end = snapshots.record(self.model)
        write_state(file, end, epochs.stop, complete=True)
        return end

    def fit(
        self,
        start: State,
        epochs: range,
        order: int,
        file: pathlib.Path | None,
        callbacks: Iterable[keras.callbacks.Callback],
        stored: Stored | None,
    ) -> int:
        """Trains some epochs, after those of a stored state if there is one.

        Returns the number of the epoch after the last one that was trained.

        Args:
            start: The state before the first of the epochs.
            epochs: The numbers of the epochs.
            order: The order of the data, the second part of the key.
            file: Where the state is stored after every epoch; None for nowhere.
            callbacks: Further callbacks.
            stored: The state to resume from, or None.
        """
        state, first = start, epochs.start
        if stored is not None:
            state, first = stored.state, stored.epoch
        snapshots.restore(self.model, state, Fidelity.get("exact"), None)
        begin = keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda epoch, logs: self._begin_epoch(order, epoch)
        )
        history = self.opened.fit(
            self.model,
            self._feed,
            [begin, *callbacks, _Keep(file)],
            epochs=epochs.stop,
            initial_epoch=first,
            verbose=self.verbose,
        )
        return first + len(history.epoch)

    def _begin_epoch(self, order, epoch):
        self._key = (self.opened.seed, order, epoch)
        # Random numbers must not depend on what was trained before.
        keras.utils.set_random_seed(_global_seed(self.opened.seed, order, epoch))


def _global_seed(seed, order, epoch):
    """Returns the global seed of an epoch, which no other order or epoch shares."""
    if order == _FIRST_ROUND:
        return inputs.round_seed(seed, epoch)
    return int(np.random.SeedSequence([seed, order, epoch]).generate_state(1)[0])


class _Keep(keras.callbacks.Callback):
    """Stores the state after each epoch."""

    def __init__(self, file):
        super().__init__()
        self.file = file

    def on_epoch_end(self, epoch, logs=None):
        if self.file is not None:
            # By the callback's model: on JAX this brings the variables up to date.
            write_state(self.file, snapshots.record(self.model), epoch + 1)


class Take(keras.callbacks.Callback):
    """Records the state at some moments of a training, and stores it.

    Args:
        moments: Dict from name to pairs of epoch and batch.
        file: Function from the name of a moment to the file of its state, or None.
    """

    def __init__(
        self,
        moments: dict[str, tuple[int, int]],
        file: Callable[[str], pathlib.Path | None],
    ) -> None:
        super().__init__()
        self.moments = moments
        self.file = file
        self.states: dict[str, State] = {}
        self._epoch = 0

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if batch:
            self._take(self._epoch, batch)

    def on_epoch_end(self, epoch, logs=None):
        self._take(epoch + 1, 0)

    def _take(self, *moment):
        for name, wanted in self.moments.items():
            if wanted == moment:
                self.states[name] = snapshots.record(self.model)
                write_state(self.file(name), self.states[name], moment[0])
