"""Executors: where the trainings of a frontier run."""

import concurrent.futures

from tf_tickets import arguments
from tf_tickets.search.executors.base import Executor, TasksFailed
from tf_tickets.search.executors.ray_executor import RayExecutor
from tf_tickets.search.executors.serial import SerialExecutor
from tf_tickets.search.executors.threads import thread_variables
from tf_tickets.search.executors.vmap_executor import VmapExecutor

__all__ = [
    "Executor",
    "RayExecutor",
    "SerialExecutor",
    "TasksFailed",
    "VmapExecutor",
    "get",
    "thread_variables",
]

_BY_NAME = {"serial": SerialExecutor, "ray": RayExecutor, "vmap": VmapExecutor}


def get(
    executor: str | concurrent.futures.Executor,
) -> concurrent.futures.Executor:
    """Returns an executor by its name, or an executor itself.

    Args:
        executor: "serial", "ray", "vmap", or a `concurrent.futures.Executor` whose
            tasks run in processes, such as a `ProcessPoolExecutor`.

    Example:

    >>> get("serial")
    SerialExecutor()
    """
    if isinstance(executor, concurrent.futures.ThreadPoolExecutor):
        raise ValueError(
            "`executor` cannot run tasks in threads, because every training sets the "
            "random seed of its whole process. Use 'ray', or a ProcessPoolExecutor "
            f"with the start method 'spawn'. Received: {arguments.shown(executor)}"
        )
    if _forks(executor):
        raise ValueError(
            "`executor` cannot fork this process: TensorFlow and JAX would hang in the "
            "copies. Use 'ray', or ProcessPoolExecutor(2, "
            "multiprocessing.get_context('spawn')). Received: "
            f"{arguments.shown(executor)} with the start method 'fork'"
        )
    if isinstance(executor, concurrent.futures.Executor):
        return executor
    if isinstance(executor, str) and executor in _BY_NAME:
        return _BY_NAME[executor]()
    if isinstance(executor, str):
        raise ValueError(
            f"`executor` must be one of {sorted(_BY_NAME)}, or a "
            f"concurrent.futures.Executor. Received: {executor!r}"
        )
    raise TypeError(
        f"`executor` must be one of {sorted(_BY_NAME)}, or a "
        f"concurrent.futures.Executor. Received: {arguments.shown(executor)}"
    )


def _forks(executor):
    # The standard library has no other name for it; without it, nothing is refused.
    context = getattr(executor, "_mp_context", None)
    is_pool = isinstance(executor, concurrent.futures.ProcessPoolExecutor)
    return is_pool and context is not None and context.get_start_method() == "fork"
