"""The interface of executors, and the error that names failed tasks."""

import concurrent.futures
import traceback
from typing import Any

from tf_tickets import arguments


class Executor(concurrent.futures.Executor):
    """A `concurrent.futures.Executor` that also shares an object with all its tasks.

    `find_frontier` takes any `concurrent.futures.Executor` whose tasks run in
    processes. A subclass of this class may send the data more cheaply than once per
    task.
    """

    # Whether tasks run in the process that submits them.
    in_process = False

    def share(self, value: Any) -> Any:
        """Returns what tasks are given in place of an object that they all need.

        A task that is submitted with it as an argument receives the object.

        Args:
            value: The object. Tasks do not change it.
        """
        return value

    def gather(self) -> None:
        """Called when all tasks that are known so far have been submitted.

        Tasks that it has completed are taken, and those that follow from them are
        submitted, before it is called again.
        """

    def settle(self) -> None:
        """Called when `find_frontier` ends, also by an error.

        An executor that keeps its data may forget them here.
        """


class TasksFailed(RuntimeError):
    """Raised when all tasks have ended and some of them have failed.

    Args:
        errors: Dict from the name of a task, such as "imp seed 1 round 3", to the
            exception that ended it.
        total: The number of tasks.
        advice: A sentence about what was kept.

    Example:

    >>> error = TasksFailed({"imp seed 1": ValueError("no such metric")}, 4, "")
    >>> str(error).splitlines()[:2]
    ['1 of 4 tasks failed:', '- imp seed 1: ValueError: no such metric']
    """

    def __init__(
        self, errors: dict[str, BaseException], total: int, advice: str
    ) -> None:
        arguments.check_table(str, BaseException, errors=errors)
        if not errors:
            raise ValueError(f"`errors` must have at least one. Received: {errors}")
        arguments.check_counts(total=total)
        arguments.check_type(str, advice=advice)
        self.errors = dict(errors)
        self.total = total
        self.advice = advice
        name, first = next(iter(self.errors.items()))
        text = "".join(traceback.format_exception(first)).rstrip()
        super().__init__(f"{self.summary}\nThe traceback of {name}:\n{text}")

    @property
    def summary(self) -> str:
        """The message without tracebacks."""
        head = f"{len(self.errors)} of {self.total} tasks failed:"
        rows = [f"- {name}: {_line(error)}" for name, error in self.errors.items()]
        return "\n".join([head, *rows, *([self.advice] if self.advice else [])])

    def __reduce__(self):
        return type(self), (self.errors, self.total, self.advice)


def _line(error):
    # Ray's own errors begin with the worker.
    error = getattr(error, "cause", None) or error
    lines = str(error).strip().splitlines()
    name = type(error).__name__
    return f"{name}: {lines[0]}" if lines else name
