"""SerialExecutor: one task after the other, in this process."""

import concurrent.futures
from collections.abc import Callable
from typing import Any

from tf_tickets.search.executors.base import Executor


class SerialExecutor(Executor):
    """Runs each task in this process when it is submitted.

    The error of a task is raised at once, so later tasks do not begin.

    Example:

    >>> SerialExecutor().submit(sum, [1, 2]).result()
    3
    """

    in_process = True

    def submit(
        self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> concurrent.futures.Future:
        """Runs a function; returns a future that is done."""
        future: concurrent.futures.Future = concurrent.futures.Future()
        future.set_result(fn(*args, **kwargs))
        return future

    def __repr__(self) -> str:
        return "SerialExecutor()"
