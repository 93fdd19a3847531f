"""RayExecutor: tasks in the worker processes of Ray, on one machine or a cluster."""

import concurrent.futures
import contextlib
import gc
import logging
import os
import pathlib
import signal
import sys
import sysconfig
import tempfile
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras

from tf_tickets import arguments
from tf_tickets.search.executors.base import Executor
from tf_tickets.search.executors.threads import thread_variables

# They would only occur again.
_FINAL = (ValueError, TypeError)
# The variables of this process that workers get, wherever they run.
_PREFIXES = ("KERAS_", "TF_", "JAX_", "XLA_")
# Of this process alone.
_OWN = ("TF_CONFIG",)
# The folder of what JAX has compiled, and from how many seconds on it is stored.
_CACHE = "JAX_COMPILATION_CACHE_DIR"
_CACHE_FROM = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"
# Seconds to wait for cancelled tasks.
_PATIENCE = 10.0


class RayExecutor(Executor):
    """Runs tasks in the worker processes of Ray: `pip install "tf_tickets[ray]"`.

    With an address (or the environment variable RAY_ADDRESS), or after `ray.init`,
    tasks run in that cluster. Otherwise a Ray instance is started on this machine for
    the first task, without a dashboard, and stopped by `shutdown` (or at the end of a
    `with` block). A Ray instance that was there before is never stopped. Call `start`
    early in a program: its workers import Keras while the program loads its data.

    The workers of a Ray instance that is started here share what JAX compiles, in a
    temporary folder, unless a folder is set by JAX_COMPILATION_CACHE_DIR. The
    environment variable JAX_ENABLE_COMPILATION_CACHE=0 prevents it.

    Tasks get the backend of this process and the number of threads below. Functions and
    classes of a program or notebook travel by value; modules must be importable in the
    workers.

    Args:
        address: The address of a cluster, such as "auto" or "ray://HOST:10001".
        workers: The number of tasks that run at the same time, if Ray is started here;
            by default as many as the cores allow.
        threads: The threads of each task. Ray reserves as many cores for it.
        retries: How often a task is repeated whose worker was killed, or that raised an
            error other than ValueError and TypeError.
        gpus: The GPUs that Ray reserves for each task; without any, a task sees none.
        object_store_memory: The size in bytes of the memory for shared objects, if Ray
            is started here; by default as Ray chooses.

    Example:

    >>> RayExecutor(workers=2)
    RayExecutor(workers=2, threads=1, retries=3)
    """

    def __init__(
        self,
        address: str | None = None,
        workers: int | None = None,
        threads: int = 1,
        retries: int = 3,
        gpus: float = 0.0,
        object_store_memory: int | None = None,
    ) -> None:
        arguments.check_counts(threads=threads)
        arguments.check_not_negative(retries=retries)
        arguments.check_numbers(gpus=gpus)
        if gpus < 0:
            raise ValueError(f"`gpus` must be at least 0. Received: {gpus}")
        if address is not None:
            arguments.check_type(str, address=address)
        self.address = address
        self.workers = workers
        self.threads = threads
        self.retries = retries
        self.gpus = gpus
        self.object_store_memory = object_store_memory
        sizes = self._sizes
        arguments.check_counts(**sizes)
        if address is not None and sizes:
            raise ValueError(
                f"{' and '.join(f'`{name}`' for name in sizes)} are those of a Ray "
                "instance that is started here. The cluster at `address` has its own. "
                f"Leave them out. Received: address={address!r}, {sizes}"
            )
        self._ray: Any = None
        self._remote: Any = None
        self._started = False
        self._closed = False
        # Whether workers have the environment variables from their start.
        self._inherits = False
        self._compiled: tempfile.TemporaryDirectory | None = None
        self._futures: set[_Future] = set()
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        names = ("address", "workers", "threads", "retries", "gpus")
        values = {n: getattr(self, n) for n in (*names, "object_store_memory")}
        shown = [f"{name}={value!r}" for name, value in values.items() if value]
        return f"RayExecutor({', '.join(shown)})"

    def start(self) -> None:
        """Connects to Ray, or starts it. The first task does so otherwise."""
        if self._closed:
            raise RuntimeError(
                "The executor was shut down and takes no more tasks. Make a new one."
            )
        if self._ray is not None:
            return
        ray = _import_ray()
        if not ray.is_initialized():
            self._connect(ray)
        elif self.address is not None or self._sizes:
            raise ValueError(
                "Ray is already running in this process, so `address`, `workers` and "
                "`object_store_memory` have no effect. Leave them out, or call "
                f"ray.shutdown() first. Received: {self!r}"
            )
        self._ray = ray
        options: dict[str, Any] = {"num_cpus": self.threads, "num_gpus": self.gpus}
        if not self._inherits:
            variables = _environment(self.threads)
            options["runtime_env"] = {"env_vars": variables}
        self._remote = ray.remote(_attempt).options(
            **options, max_retries=self.retries, retry_exceptions=True
        )
        if self._inherits and not self.gpus:
            prepare = ray.remote(_prepare).options(**options, max_retries=0)
            for _ in range(self._places):
                prepare.remote()

    @property
    def _sizes(self):
        """What was given of a Ray instance that starts here."""
        sizes = {
            "workers": self.workers,
            "object_store_memory": self.object_store_memory,
        }
        return {name: size for name, size in sizes.items() if size is not None}

    @property
    def _places(self):
        """How many tasks run at the same time in a Ray instance that starts here."""
        return self.workers or max(1, _cores() // self.threads)

    def _connect(self, ray):
        settings: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
        # Ray itself would take an instance of somebody else on this machine.
        address = self.address or os.environ.get("RAY_ADDRESS") or "local"
        if address != "local" and self._sizes:
            raise ValueError(
                f"{' and '.join(f'`{name}`' for name in self._sizes)} are those of a "
                "Ray instance that is started here, but RAY_ADDRESS names a cluster, "
                "which has its own. Leave them out, or unset RAY_ADDRESS. Received: "
                f"RAY_ADDRESS={address!r}, {self._sizes}"
            )
        settings["address"] = address
        variables: dict[str, str] = {}
        if address == "local":
            settings["num_cpus"] = self._places * self.threads
            settings["include_dashboard"] = False
            if self.object_store_memory is not None:
                settings["object_store_memory"] = self.object_store_memory
            variables = {**_environment(self.threads), **self._cache()}
        with _signals_kept(), _quiet(), _variables(variables):
            try:
                ray.init(**settings)
            except BaseException:
                ray.shutdown()
                self._drop_cache()
                raise
        self._started = True
        self._inherits = address == "local"

    def _cache(self):
        """Returns the variables by which the workers share what JAX compiles."""
        if keras.config.backend() != "jax":
            return {}
        # As a program may have set it, or the environment variable.
        folder = sys.modules["jax"].config.jax_compilation_cache_dir
        if folder:
            return {_CACHE: str(folder)}
        self._compiled = tempfile.TemporaryDirectory(
            prefix="compiled-", ignore_cleanup_errors=True
        )
        # Not only what takes long, since a search has many small programs.
        return {_CACHE: self._compiled.name, _CACHE_FROM: "0"}

    def _drop_cache(self):
        if self._compiled is not None:
            self._compiled.cleanup()
            self._compiled = None

    def share(self, value: Any) -> Any:
        """Puts an object into Ray's object store, once for all tasks."""
        self.start()
        return self._ray.put(value)

    def submit(
        self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> concurrent.futures.Future:
        """Starts a task; returns the future of its result."""
        self.start()
        reference = self._remote.remote(fn, *args, **kwargs)
        future = _Future(self._ray, reference)
        with self._lock:
            self._futures.add(future)
        future.add_done_callback(self._forget)
        reference.future().add_done_callback(future.take)
        return future

    def _forget(self, future):
        with self._lock:
            self._futures.discard(future)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Ends the executor, and the Ray instance that it started.

        Args:
            wait: Whether to wait until all tasks have ended.
            cancel_futures: Whether to cancel all tasks, also those that run.
        """
        self._closed = True
        with self._lock:
            futures = list(self._futures)
        if cancel_futures:
            for future in futures:
                future.cancel()
        if wait:
            timeout = _PATIENCE if cancel_futures else None
            concurrent.futures.wait(futures, timeout)
        if self._started and self._ray is not None:
            self._started = False
            with _signals_kept(), _quiet():
                self._ray.shutdown()
        self._drop_cache()


class _Future(concurrent.futures.Future):
    """The result of a task; cancelling it also stops a task that runs."""

    def __init__(self, ray, reference):
        super().__init__()
        self._ray = ray
        self._reference = reference

    def cancel(self):
        cancelled = super().cancel()
        if cancelled and self._ray.is_initialized():
            self._ray.cancel(self._reference, force=True)
        return cancelled

    def take(self, source):
        """Takes the result of Ray's own future."""
        self._reference = None
        if not self.set_running_or_notify_cancel():
            return
        error = source.exception()
        if error is not None:
            self.set_exception(error)
            return
        result = source.result()
        if isinstance(result, _Refusal):
            self.set_exception(result.as_error())
        else:
            self.set_result(result)


class _Refusal(NamedTuple):
    """An error that would occur again, so Ray does not repeat the task."""

    kind: type[Exception]
    message: str
    text: str

    def as_error(self):
        error = self.kind(self.message)
        error.add_note(f"In a worker of Ray:\n{self.text}")
        return error


def _attempt(function, *args, **kwargs):
    try:
        return function(*args, **kwargs)
    except _FINAL as error:
        # Errors of other libraries may need other arguments, or not be picklable.
        kind = next(kind for kind in _FINAL if isinstance(error, kind))
        return _Refusal(kind, str(error), traceback.format_exc())


def _prepare():
    """Imports in a new worker what every task needs, before there are tasks.

    This module imports Keras and its backend. Keras imports TensorFlow, where it is
    installed, when it first serializes an object.
    """
    keras.saving.serialize_keras_object(keras.layers.Activation("relu"))
    # Later collections need not look at modules again: they are faster by half a
    # second a search.
    gc.collect()
    gc.freeze()


def _import_ray():
    try:
        import ray
    except ImportError as error:
        raise ImportError(
            "The executor 'ray' needs Ray, which cannot be imported: "
            f"{error}. Install it: pip install 'tf_tickets[ray]'"
        ) from error
    return ray


def _cores():
    """Returns the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _environment(threads):
    """Returns the environment variables of the workers."""
    own = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(_PREFIXES) and name not in _OWN
    }
    backend = {"KERAS_BACKEND": keras.config.backend()}
    path = os.pathsep.join(_folders())
    own = {**own, **thread_variables(threads), **backend}
    return {**own, "PYTHONPATH": path} if path else own


@contextlib.contextmanager
def _variables(values: dict[str, str]) -> Iterator[None]:
    """Sets environment variables for the programs that are started meanwhile."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _folders():
    """Returns the folders of the user's modules, in the order of this process.

    In another order, workers could import other versions of modules.
    """
    present = [os.path.abspath(folder or os.getcwd()) for folder in sys.path]
    present = [folder for folder in present if os.path.isdir(folder)]
    # They may be folders of the workers' machines only.
    named = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    named = [os.path.abspath(folder) for folder in named if folder]
    folders = dict.fromkeys([*present, *named])
    return [folder for folder in folders if not _is_installed(folder)]


def _is_installed(folder):
    path = pathlib.Path(folder)
    standard = (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"))
    named = path.name in ("site-packages", "dist-packages")
    return named or any(path.is_relative_to(place) for place in standard)


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Restores the handler of SIGTERM, which Ray replaces."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Shows no message of Ray below an error, and sends no statistics of its use."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    logger = logging.getLogger("ray")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # Ray starts programs, which JAX takes for copies of this process.
            warnings.filterwarnings("ignore", r"os\.fork\(\) was called")
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logger.setLevel(before)
