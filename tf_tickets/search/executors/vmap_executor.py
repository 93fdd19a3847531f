"""VmapExecutor: several trainings in one program of JAX, in this process."""

import concurrent.futures
import functools
from collections.abc import Callable
from typing import Any

from tf_tickets import arguments
from tf_tickets.search import lockstep
from tf_tickets.search.executors.base import Executor


class VmapExecutor(Executor):
    """Trains several networks in lockstep, in one program of JAX.

    Tasks begin when all that are known have been submitted. Networks whose steps are
    the same program are trained by one program, vectorized by `jax.vmap`: those of one
    search with several seeds, of searches that differ in numbers outside the step, and
    tickets. An epoch is one call of a program. Others are trained beside them, one
    after the other.

    Args:
        width: The number of networks that are in training at the same time.

    Example:

    >>> VmapExecutor(width=4)
    VmapExecutor(width=4)
    """

    in_process = True

    def __init__(self, width: int = 8) -> None:
        arguments.check_counts(width=width)
        self.width = width
        self._waiting: list[tuple[concurrent.futures.Future, Callable[[], Any]]] = []
        self._group: lockstep.Group | None = None

    def __repr__(self) -> str:
        return f"VmapExecutor(width={self.width})"

    def submit(
        self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> concurrent.futures.Future:
        """Returns the future of a task, which begins when `gather` comes to it."""
        future: concurrent.futures.Future = concurrent.futures.Future()
        self._waiting.append((future, functools.partial(fn, *args, **kwargs)))
        return future

    def gather(self) -> None:
        """Runs the next tasks that were submitted, as many as are trained together."""
        self._group = self._group or lockstep.Group()
        futures: list[concurrent.futures.Future] = []
        functions: list[Callable[[], Any]] = []
        while self._waiting and len(functions) < self.width:
            future, function = self._waiting.pop(0)
            if future.set_running_or_notify_cancel():
                futures.append(future)
                functions.append(function)

        def ended(number, result):
            if isinstance(result, BaseException):
                futures[number].set_exception(result)
            else:
                futures[number].set_result(result)

        self._group.run(functions, ended)

    def settle(self) -> None:
        """Forgets the data of a frontier. Its programs are kept for the next one."""
        if self._group is not None:
            self._group.programs.forget_data()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Runs the tasks that wait, or cancels them, and forgets all programs."""
        if cancel_futures:
            for future, _ in self._waiting:
                future.cancel()
            self._waiting.clear()
        while self._waiting:
            self.gather()
        self._group = None
