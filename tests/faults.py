"""Faults on purpose: searches that are killed, and disks that fail.

A `Disk` counts what is written below a folder, and lets a fault occur at a chosen
event. `Searches` runs searches in processes that are killed, and compares what they
leave behind. Run as a program, this module is the server that forks these processes:
it imports everything once, so a search starts within milliseconds.
"""

import atexit
import builtins
import contextlib
import dataclasses
import errno
import faulthandler
import importlib
import io
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time
import traceback
import zipfile

import h5py

TESTS = pathlib.Path(__file__).resolve().parent

# Events that a full disk lets fail, and those that a read-only one does.
FULL = ("open", "write", "fsync", "mkdir", "link")
READ_ONLY = (*FULL, "rename", "unlink")
ERRORS = {"ENOSPC": FULL, "EROFS": READ_ONLY}
LOCK = "search.lock"
# Seconds after which a search is said to hang.
PATIENCE = 240.0
# The functions of `os` that are counted, by event.
_CALLS = {
    "rename": ("rename", "replace"),
    "unlink": ("unlink", "remove"),
    "link": ("link",),
    "mkdir": ("mkdir",),
}


@dataclasses.dataclass(frozen=True)
class Fault:
    """What goes wrong, and when.

    Args:
        action: "kill" (SIGKILL), "interrupt" (SIGINT), or an error of the disk, which
            then lasts: "ENOSPC" (full) or "EROFS" (read-only).
        number: The number of the event at which it occurs. None is a random instant.
        when: "before" or "after" the event, or "within" a write, half of which is
            then done.
        delay: Seconds to the random instant.
    """

    action: str
    number: int | None = None
    when: str = "before"
    delay: float | None = None


class Disk:
    """Counts what is written below a folder; a fault may occur at one of the events.

    Example:

    >>> with Disk(tmp_path) as disk:
    ...     length = (tmp_path / "a").write_text("some")
    >>> disk.events
    [('open', 'a'), ('write', 'a')]
    """

    def __init__(self, folder, fault=None):
        self.folder = os.path.realpath(folder)
        self.fault = fault
        self.events = []
        self.occurred = False
        self._stack = contextlib.ExitStack()

    def __enter__(self):
        self._patch(builtins, "open", self._open)
        self._patch(io, "open", self._open)
        self._patch(os, "fsync", self._fsync)
        for kind, names in _CALLS.items():
            for name in names:
                self._patch(os, name, self._counting(kind, getattr(os, name)))
        return self

    def __exit__(self, *error):
        self._stack.close()

    def _patch(self, module, name, function):
        self._stack.callback(setattr, module, name, getattr(module, name))
        setattr(module, name, function)

    def event(self, kind, path, act, half=None):
        """Does something that is counted, with the fault before, within or after it."""
        number = len(self.events)
        self.events.append((kind, os.path.basename(os.fspath(path))))
        fault = self.fault
        if fault is None or fault.number is None or not self._is_due(kind, number):
            return act()
        self.occurred = True
        if fault.when == "within" and half is not None:
            half()
        if fault.when != "after" or fault.action in ERRORS:
            self._occur(kind, path)
        result = act()
        try:
            self._occur(kind, path)
        except BaseException:
            if isinstance(result, io.IOBase):
                result.close()
            raise
        return result

    def _is_due(self, kind, number):
        if self.fault.action in ERRORS:
            return number >= self.fault.number and kind in ERRORS[self.fault.action]
        return number == self.fault.number

    def _occur(self, kind, path):
        if self.fault.action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault.action == "interrupt":
            raise KeyboardInterrupt
        code = getattr(errno, self.fault.action)
        names = [] if kind in ("write", "fsync") else [os.fspath(path)]
        raise OSError(code, os.strerror(code), *names)

    def _watches(self, path):
        if not isinstance(path, str | os.PathLike):
            return False
        return os.path.realpath(path).startswith(self.folder)

    def _open(self, file, mode="r", buffering=-1, *text, **kwargs):
        if not set(mode) & set("wxa+") or not self._watches(file):
            return _OPEN(file, mode, buffering, *text, **kwargs)
        plain = mode.replace("b", "").replace("t", "")
        raw = self.event("open", file, lambda: _Counted(self, file, plain))
        kind = io.BufferedRandom if "+" in mode else io.BufferedWriter
        buffered = kind(raw)
        if "b" in mode:
            return buffered
        return io.TextIOWrapper(buffered, *text, **kwargs)

    def _fsync(self, descriptor):
        link = pathlib.Path(f"/proc/self/fd/{descriptor}")
        path = os.readlink(link) if link.parent.exists() else self.folder
        if not self._watches(path):
            return _FSYNC(descriptor)
        return self.event("fsync", path, lambda: _FSYNC(descriptor))

    def _counting(self, kind, function):
        def call(path, *more, **kwargs):
            if kwargs.get("dir_fd") is not None or not self._watches(path):
                return function(path, *more, **kwargs)
            return self.event(kind, path, lambda: function(path, *more, **kwargs))

        return call


_OPEN, _FSYNC = builtins.open, os.fsync


class _Counted(io.FileIO):
    """A file whose writes are events of a disk."""

    def __init__(self, disk, path, mode):
        super().__init__(path, mode)
        self.disk = disk

    def write(self, data):
        whole = super().write
        half = memoryview(data).cast("B")[: len(data) // 2]
        return self.disk.event(
            "write", self.name, lambda: whole(data), lambda: whole(half)
        )


def contents(directory):
    """Returns the bytes of all files below a directory, by their relative path."""
    directory = pathlib.Path(directory)
    files = [path for path in directory.rglob("*") if path.is_file()]
    return {path.relative_to(directory).as_posix(): _content(path) for path in files}


def _content(path):
    """Returns the bytes of a file; of a Keras model those of its arrays.

    Its date differs, and its layers are numbered by the models built before it.
    """
    if path.suffix != ".keras":
        return path.read_bytes()
    arrays = []
    with zipfile.ZipFile(path) as archive:
        weights = io.BytesIO(archive.read("model.weights.h5"))
    with h5py.File(weights) as file:
        file.visititems(
            lambda name, item: (
                arrays.append(item[()].tobytes()) if hasattr(item, "dtype") else None
            )
        )
    return b"".join(sorted(arrays))


# Searches, each with several rounds where it has rounds. A new search is a new row.


def _plain(make):
    def run(tt, tiny, directory):
        tt.find_tickets(
            tiny.build_compiled, tiny.splits(), make(tt), directory, **_USUAL
        )

    return run


def _trained(make):
    def run(tt, tiny, directory):
        build, data = tiny.build_compiled, tiny.splits()
        tt.find_tickets(build, data, make(tt), directory, epochs=3, **_USUAL)

    return run


def _gradual(tt):
    schedule = tt.schedules.PolynomialDecay(0.0, 0.75, 1, 8, frequency=2)
    return tt.GradualPruning(schedule)


def _teachers(tt, tiny, directory):
    build, data = tiny.build_compiled, tiny.splits()
    return tt.train_teachers(build, data, [1, 2], directory, 3, batch_size=16)


def _taught(tt, tiny, directory):
    teachers = _teachers(tt, tiny, directory / "teachers")
    search = tt.KDLTS(0.75, 2).taught_by(*teachers)
    build, data = tiny.build_compiled, tiny.splits()
    tt.find_tickets(build, data, search, directory / "search", **_USUAL)


def _frontier(tt, tiny, directory):
    searches = {"imp": tt.IMP(2, 1, 0.5), "cs": tt.ContinuousSparsification(1, 1)}
    arguments = _USUAL | {"epochs": 2}
    build, data = tiny.build_compiled, tiny.splits()
    tt.find_frontier(build, data, searches, directory, **arguments)


def _command(tt, tiny, directory):
    """Runs `tf-tickets search`; turns its exit status and its line into an error."""
    from tf_tickets_cli import main

    few = {"take": 64, "epochs": 1, "batch-size": 32, "width": 0.1, "rounds": 1}
    options = [f"--{name}={value}" for name, value in few.items()]
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        status = main.main(["search", *options, f"--out={directory}"])
    lines = said.getvalue().strip().splitlines()
    if status == 130 and lines == [_INTERRUPTED]:
        raise KeyboardInterrupt
    if status == 2 and len(lines) == 1:
        raise OSError(lines[0])
    if status or lines:
        raise RuntimeError(f"It ended with {status} and printed {lines}.")


_INTERRUPTED = "tf-tickets: Interrupted. Run the same command again to resume."
_USUAL = {"seed": 3, "batch_size": 16, "verbose": 0}
SEARCHES = {
    "IMP": _plain(lambda tt: tt.IMP(3, 1, 0.3, "2 steps")),
    "ThresholdPruning": _plain(lambda tt: tt.ThresholdPruning(2, 1)),
    "PruneAtInit": _plain(lambda tt: tt.PruneAtInit(0.75, 2)),
    "ContinuousSparsification": _plain(lambda tt: tt.ContinuousSparsification(2, 1)),
    "StochasticSparsification": _plain(lambda tt: tt.StochasticSparsification(2, 1)),
    "Supermask": _plain(lambda tt: tt.Supermask(2)),
    "DLTH": _plain(lambda tt: tt.DLTH(0.75, 2, 1, 1, train="each")),
    "UniLTH": _plain(lambda tt: tt.UniLTH(0.75, 2, 1, 1, 1, train="each")),
    "UniDLTH": _plain(lambda tt: tt.UniDLTH(0.75, 2, 1, 1, 1, train="each")),
    "KDLTS": _taught,
    "GradualPruning": _trained(_gradual),
    "DynamicSparsity": _trained(lambda tt: tt.DynamicSparsity(0.75, interval=3)),
    "EarlyStopRewind": _trained(lambda tt: tt.EarlyStopRewind(1, monitor="loss")),
    "train_teachers": _teachers,
    "find_frontier": _frontier,
    "tf-tickets search": _command,
}


# The processes that are killed.


class Searches:
    """Runs searches in forked processes, and lets faults occur in them.

    Args:
        folder: An empty folder for all directories and logs.
        environment: Environment variables of the processes.
    """

    def __init__(self, folder, environment=None):
        self.folder = pathlib.Path(folder)
        self.environment = {**os.environ, **(environment or {})}
        self.server = None
        self.whole = {}

    def run(self, name, directory, fault=None):
        """Runs a search; returns a dict with its exit status, error and events."""
        report, log = self.folder / "report.json", self.folder / "log.txt"
        report.unlink(missing_ok=True)
        job = {"search": name, "directory": str(directory), "log": str(log)}
        job |= {"report": str(report), "fault": fault and dataclasses.asdict(fault)}
        self.server = self.server or self._started()
        self.server.stdin.write(json.dumps(job) + "\n")
        self.server.stdin.flush()
        outcome = json.loads(self.server.stdout.readline())
        if report.exists():
            outcome |= json.loads(report.read_text())
        expected = (0, None) if fault is None else _OUTCOMES[fault.action]
        if (outcome["status"], outcome.get("error")) not in [(0, None), expected]:
            raise AssertionError(f"{name}, {fault}: {outcome}\n{_end_of(log)}")
        return outcome

    def reference(self, name):
        """Returns contents, events and duration of a search without faults."""
        if name not in self.whole:
            directory = self._new(name)
            run = self.run(name, directory)
            self.whole[name] = contents(directory), run["events"], run["seconds"]
        return self.whole[name]

    def _new(self, name):
        directory = self.folder / "searches" / name
        shutil.rmtree(directory, ignore_errors=True)
        return directory

    def survived(self, name, faults, occurred=None):
        """Runs a search again and again, with a fault each time, and then to its end.

        Args:
            name: The search.
            faults: The faults in turn. Those after the end of the search do not occur.
            occurred: A list to which the faults that occurred are added.

        Returns:
            The faults that occurred. Raises an AssertionError if the result differs
            from that of a search without faults.
        """
        expected, _, _ = self.reference(name)
        directory = self._new(name)
        occurred = [] if occurred is None else occurred
        for fault in faults:
            occurred.append(fault)
            locks = _locks(directory)
            if self.run(name, directory, fault)["status"] == 0:
                occurred.pop()
                break
            # A lock that was there before is that of a process that was killed.
            left = set(_locks(directory)) - set(locks)
            if fault.action == "interrupt" and left:
                raise AssertionError(f"{name}, {fault}: {left} were not released")
        self.run(name, directory)
        actual = contents(directory)
        if sorted(actual) != sorted(expected):
            raise AssertionError(f"{name}, {occurred}: {sorted(actual)}")
        different = [file for file in expected if actual[file] != expected[file]]
        if different:
            raise AssertionError(f"{name}, {occurred}: {different} differ")
        return occurred

    def drawn(self, name, rng, count, actions=("kill",)):
        """Returns random faults: at any instant, or at events of writing.

        Args:
            name: The search.
            rng: A `random.Random`.
            count: The number of faults.
            actions: The actions to draw from.
        """
        _, events, seconds = self.reference(name)
        # A search that goes on has less to do.
        shares = [1.0 / (1.0 + 0.5 * attempt) for attempt in range(count)]
        return [
            _drawn(rng, events, seconds, rng.choice(actions), share) for share in shares
        ]

    def _started(self):
        server = subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=self.environment,
            text=True,
        )
        atexit.register(_ended, server)
        return server


def _drawn(rng, events, seconds, action, share):
    if action not in ERRORS and rng.random() < 0.4:
        return Fault(action, delay=rng.uniform(0.0, 0.8 * seconds * share))
    kinds = {kind for kind, _ in events} & set(ERRORS.get(action, READ_ONLY))
    kind = rng.choice(sorted(kinds))
    # Without the last, which releases the lock: the search has ended then.
    numbers = [number for number, event in enumerate(events[:-1]) if event[0] == kind]
    whens = ["before"] if action in ERRORS else ["before", "after"]
    whens += ["within"] * (kind == "write")
    first = numbers[: max(1, int(len(numbers) * share))]
    return Fault(action, rng.choice(first), rng.choice(whens))


def label(fault, events):
    """Returns the name under which a fault is counted.

    Example:

    >>> label(Fault("kill", 0, "after"), [("write", "a.ticket")])
    'kill after write'
    >>> label(Fault("interrupt", delay=1.0), [])
    'interrupt at any instant'
    >>> label(Fault("ENOSPC", 0), [("write", "a.ticket")])
    'ENOSPC at write'
    """
    if fault.number is None:
        return f"{fault.action} at any instant"
    when = "at" if fault.action in ERRORS else fault.when
    return f"{fault.action} {when} {events[fault.number][0]}"


def _locks(directory):
    return [path.read_text() for path in directory.rglob(LOCK)]


def _end_of(log):
    """Returns the last lines of a log; of a crash, where it was."""
    text = log.read_text(errors="replace")
    crash = text.find("Fatal Python error")
    return text[-1500:] if crash < 0 else text[crash : crash + 1500]


def _ended(server):
    # Leaving the block closes both pipes and waits for the end.
    with server:
        server.stdin.close()


def _search(job):
    import tiny

    import tf_tickets as tt

    directory = pathlib.Path(job["directory"])
    fault = Fault(**job["fault"]) if job["fault"] else None
    with Disk(directory, fault) as disk:
        SEARCHES[job["search"]](tt, tiny, directory)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return {"events": disk.events}


def _in_a_child(job):
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        report = _search(job)
    except BaseException as error:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        traceback.print_exc()
        sys.stderr.flush()
        report = {"error": _kind(error)}
    pathlib.Path(job["report"]).write_text(json.dumps(report))
    os._exit(bool(report.get("error")))


def _kind(error):
    """Returns the name of an error; of one that does not say what to do its text."""
    if isinstance(error, OSError) and "could not be written: " in str(error):
        return "OSError"
    return type(error).__name__ if str(error) == "" else repr(error)


# The exit status and the error after each fault.
_OUTCOMES = {
    "kill": (-signal.SIGKILL, None),
    "interrupt": (1, "KeyboardInterrupt"),
    **dict.fromkeys(ERRORS, (1, "OSError")),
}


def _waited(child, fault):
    """Waits for a child, to which a signal is sent; returns its exit status."""
    began = time.monotonic()
    delay = fault["delay"] if fault else None
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if delay is not None and time.monotonic() - began >= delay:
            os.kill(child, _SIGNALS[fault["action"]])
            delay = None
        if time.monotonic() - began >= PATIENCE:
            os.kill(child, signal.SIGABRT)  # Its log then shows where it hangs.
            os.waitpid(child, 0)
            return "hung"
        time.sleep(0.002)


_SIGNALS = {"kill": signal.SIGKILL, "interrupt": signal.SIGINT}


def _serve():
    sys.path[:0] = [str(TESTS), str(TESTS.parent)]
    # The signal is for the searches.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # First, since it sets variables of the environment for JAX.
    conftest = importlib.import_module("conftest")
    for name in ("tiny", "matplotlib.figure", "matplotlib.backends.backend_agg"):
        importlib.import_module(name)

    for line in sys.stdin:
        job = json.loads(line)
        began = time.monotonic()
        child = os.fork()
        if not child:
            faulthandler.enable()
            conftest.disable_graph_optimization()
            _in_a_child(job)
        status = _waited(child, job["fault"])
        seconds = time.monotonic() - began
        print(json.dumps({"status": status, "seconds": seconds}), flush=True)


def generator(*seeds):
    """Returns a random generator for a sequence of faults."""
    return random.Random("/".join(map(str, seeds)))


if __name__ == "__main__":
    _serve()
