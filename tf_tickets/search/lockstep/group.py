"""A group of trainings that go on together, each in a thread of its own.

One thread runs at a time. A training runs until it needs an epoch of steps or an
evaluation, and waits. When all of them wait, those whose steps are the same program
are trained by one program.
"""

import collections
import random
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from tf_tickets.search.lockstep import checks
from tf_tickets.search.lockstep.programs import Programs, Work
from tf_tickets.search.ticket_search import TicketSearch
from tf_tickets.training import batches

_THREAD = threading.local()
# The models whose metrics are built.
_BUILT: weakref.WeakSet[keras.Model] = weakref.WeakSet()


def present() -> "Member | None":
    """Returns the member of a group that this thread is; None in other threads.

    Example:

    >>> present()
    """
    return getattr(_THREAD, "member", None)


class Group:
    """Runs functions together. Programs are kept for the next ones.

    Example:

    >>> Group().run([lambda: 1, lambda: present().number])
    [1, 1]
    """

    def __init__(self) -> None:
        self.programs = Programs()

    def run(
        self,
        functions: Sequence[Callable[[], Any]],
        ended: Callable[[int, Any], None] = lambda number, result: None,
    ) -> list[Any]:
        """Runs functions until all have ended.

        Args:
            functions: The functions.
            ended: Called with the number and the result of each when it has ended.

        Returns:
            What each function has returned, or the exception it has raised.
        """
        members = [Member(number, each, ended) for number, each in enumerate(functions)]
        try:
            for member in members:
                member.go_on()
            while waiting := [member for member in members if member.work is not None]:
                self._advance(waiting)
        finally:
            for member in members:
                member.stop()
        return [member.result for member in members]

    def _advance(self, waiting):
        """Does the work that most members wait for."""
        keys: dict[Any, list[Member]] = collections.defaultdict(list)
        for member in waiting:
            try:
                keys[self.programs.key(member.work)].append(member)
            except Exception as error:
                # Its step cannot be compiled; the others have nothing to do with it.
                member.error = error
                member.go_on()
        if not keys:
            return
        chosen = max(keys.values(), key=len)
        try:
            self.programs.run([each.work for each in chosen if each.work])
        except Exception as error:
            for member in chosen:
                member.error = _of_all(error, len(chosen))
        for member in chosen:
            member.go_on()


def _of_all(error, count):
    """Returns the error of each network of a program that failed."""
    if count == 1:
        return error
    first, *_ = str(error).strip().splitlines() or [""]
    together = RuntimeError(
        f"{count} networks were trained by one program, which failed: "
        f"{type(error).__name__}: {first}\nNone of them can go on. If memory ran out, "
        "train fewer at the same time: executor=tf_tickets.executors.VmapExecutor("
        "width=...). If one network is the reason, executor='serial' names it."
    )
    together.__cause__ = error
    return together


class _Stopped(BaseException):
    """Ends the function of a member whose group was interrupted."""


class Member:
    """A function of a group, and what it waits for.

    Args:
        number: Its number in the group.
        function: The function.
        ended: Called in the thread of the group with number and result.
    """

    def __init__(
        self,
        number: int,
        function: Callable[[], Any],
        ended: Callable[[int, Any], None],
    ) -> None:
        self.number = number
        self.work: Work | None = None
        self.error: BaseException | None = None
        self.result: Any = None
        self._function = function
        self._report = ended
        self._go = threading.Semaphore(0)
        self._back = threading.Semaphore(0)
        self._ended = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._running = False

    # In the thread of the group.

    def go_on(self) -> None:
        """Runs the function until it waits or ends."""
        if not self._thread.ident:
            self._thread.start()
        self.work = None
        self._running = True
        self._go.release()
        self._back.acquire()
        self._running = False
        if self._ended and not isinstance(self.result, _Stopped):
            self._report(self.number, self.result)

    def stop(self) -> None:
        """Ends the function, if it has not ended."""
        if self._ended or not self._thread.ident:
            return
        if self._running:
            # The group was interrupted while it waited for this member.
            self._back.acquire()
            self._running = False
        if not self._ended:
            self.error = _Stopped()
            self.go_on()
        self._thread.join()

    # In the thread of the member.

    def _run(self):
        self._go.acquire()
        _THREAD.member = self
        try:
            self.result = self._function()
        except BaseException as error:
            self.result = error
        self._ended = True
        self._back.release()

    def _wait_for(self, work):
        # Those of the process: others seed them for themselves meanwhile.
        states = random.getstate(), np.random.get_state()
        self.work = work
        self._back.release()
        self._go.acquire()
        random.setstate(states[0])
        np.random.set_state(states[1])
        if self.error is not None:
            error, self.error = self.error, None
            raise error

    def fit(
        self,
        model: keras.Model,
        arrays: tuple,
        batch_size: int,
        key: Callable[[], Sequence[int]],
        validation: tuple,
        validation_batch_size: int,
        callbacks: list[keras.callbacks.Callback],
        epochs: int,
        initial_epoch: int = 0,
        verbose: str | int = 0,
    ) -> keras.callbacks.History:
        """Trains a model as `model.fit` does, but calls no callback within an epoch.

        Args:
            model: The compiled model.
            arrays: The training data, whose batches are those of `batches.feed`.
            batch_size: Their size.
            key: Returns the key of the epoch that begins.
            validation: The validation data.
            validation_batch_size: The size of batches of the evaluation.
            callbacks: The callbacks.
            epochs: The number of the last epoch.
            initial_epoch: How many epochs are complete.
            verbose: Must be 0.
        """
        # A search acts within an epoch only to rewind to a step: see `check_search`.
        others = [each for each in callbacks if not isinstance(each, TicketSearch)]
        checks.check_callbacks(others)
        history = keras.callbacks.History()
        size = len(keras.tree.flatten(arrays)[0])
        listed = keras.callbacks.CallbackList(
            [*callbacks, history],
            model=model,
            verbose=verbose,
            epochs=epochs,
            steps=size // batch_size,
        )
        _build(model, arrays)
        model.stop_training = False
        logs: dict[str, float] = {}
        listed.on_train_begin()
        for epoch in range(initial_epoch, epochs):
            model.reset_metrics()
            listed.on_epoch_begin(epoch)
            order = batches.order(size, batch_size, key())
            self._wait_for(Work("train", model, arrays, order))
            logs = _metrics(model)
            listed.on_test_begin()
            found = self._evaluated(model, validation, validation_batch_size)
            listed.on_test_end(found)
            logs |= {f"val_{name}": value for name, value in found.items()}
            listed.on_epoch_end(epoch, logs)
            if model.stop_training:
                break
        model.optimizer.finalize_variable_values(model.trainable_weights)
        listed.on_train_end(logs)
        return history

    def evaluate(
        self, model: keras.Model, arrays: tuple, batch_size: int
    ) -> dict[str, float]:
        """Returns the metrics of a model on arrays, as `model.evaluate` does."""
        _build(model, arrays)
        return self._evaluated(model, arrays, batch_size)

    def _evaluated(self, model, arrays, batch_size):
        model.reset_metrics()
        size = len(keras.tree.flatten(arrays)[0])
        order = np.arange(size)
        whole = size // batch_size * batch_size
        if whole:
            rows = order[:whole].reshape(-1, batch_size)
            self._wait_for(Work("test", model, arrays, rows))
        if whole < size:
            self._wait_for(Work("test", model, arrays, order[None, whole:]))
        return _metrics(model)


def _metrics(model):
    return {name: float(value) for name, value in model.get_metrics_result().items()}


def _build(model, arrays):
    """Builds the metrics and the optimizer, as `fit` does."""
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    if model in _BUILT:
        return
    sample = keras.tree.map_structure(lambda array: array[:1], arrays)
    x, y, weight = keras.utils.unpack_x_y_sample_weight(sample)
    before = [variable.value for variable in model.non_trainable_variables]
    eager, model.run_eagerly = model.run_eagerly, True
    model.evaluate(x, y, sample_weight=weight, batch_size=1, verbose=0)
    # It would be used by the next `evaluate`.
    model.run_eagerly, model.test_function = eager, None
    for variable, value in zip(model.non_trainable_variables, before, strict=True):
        variable.assign(value)
    _BUILT.add(model)
