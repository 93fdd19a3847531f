"""A lock on a directory, so that two searches do not write into it together."""

import contextlib
import json
import os
import pathlib
import shutil
import socket
import subprocess
from collections.abc import Iterator

LOCK = "search.lock"


@contextlib.contextmanager
def locked(directory: os.PathLike | str | None) -> Iterator[None]:
    """Locks a directory inside a `with` block.

    The lock is a file with the host, the process id and the start time of the process.
    A lock whose process has ended on this host is replaced. Without a directory nothing
    is locked.

    Example:

    >>> with locked(tmp_path):
    ...     sorted(os.listdir(tmp_path))
    ['search.lock']
    >>> os.listdir(tmp_path)
    []
    """
    if directory is None:
        yield
        return
    path = pathlib.Path(directory) / LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    _acquire(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _acquire(path):
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    draft.write_text(json.dumps(_this_process()))
    try:
        while not _linked(draft, path):
            _remove_stale(path)
    finally:
        draft.unlink(missing_ok=True)


def _linked(draft, path):
    """Creates the lock with its content in one step; fails if there is one."""
    try:
        os.link(draft, path)
    except FileExistsError:
        return False
    except OSError:  # The file system has no hard links.
        return _written(draft, path)
    return True


def _written(draft, path):
    try:
        with open(path, "x") as file:
            file.write(draft.read_text())
    except FileExistsError:
        return False
    return True


def _remove_stale(path):
    """Removes the lock of a process that has ended; raises if it may be running."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return
    holder = _parsed(text)
    if _may_run(holder):
        raise ValueError(
            f"{path.parent} is in use by process {holder.get('pid')} on host "
            f"{holder.get('host')}. Wait until it ends, or use another directory. If "
            f"you are sure that it has ended, delete {path}."
        )
    # Whoever renames it first removes it; a new lock of another process is put back.
    aside = path.with_name(f".{path.name}.{os.getpid()}.stale.tmp")
    with contextlib.suppress(FileNotFoundError):
        os.replace(path, aside)
        if aside.read_text() != text:
            _linked(aside, path)
        aside.unlink()


def _parsed(text):
    """Returns the content of a lock; an empty dict if it is damaged."""
    try:
        holder = json.loads(text)
    except json.JSONDecodeError:
        return {}
    return holder if isinstance(holder, dict) else {}


def _may_run(holder):
    """Returns whether the holder of a lock may still be running."""
    if holder.get("host") != socket.gethostname():
        return True
    pid = holder.get("pid")
    started = _started(pid) if isinstance(pid, int) else None
    return started is not None and started == holder.get("started")


def _this_process():
    pid = os.getpid()
    return {"host": socket.gethostname(), "pid": pid, "started": _started(pid)}


def _started(pid):
    """Returns when a process started, as text; None if there is no such process."""
    if not pathlib.Path("/proc/self/stat").exists():
        return _started_by_ps(pid)
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, *fields = text.rpartition(")")[2].split()
    return None if state == "Z" else fields[18]


def _started_by_ps(pid):
    if shutil.which("ps") is None:
        return "unknown"
    command = ["ps", "-o", "lstart=", "-p", str(pid)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout.strip() or None
