"""A lock on a directory, so that two searches do not write into it together."""

import contextlib
import contextvars
import json
import os
import pathlib
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator

from tf_tickets import files

LOCK = "search.lock"
# The tokens of the locks that this process holds, or is about to.
_HELD: set[str] = set()
# Who takes the locks of this process, beside the process itself; see `taken_by`.
_OWNER: contextvars.ContextVar[str | None] = contextvars.ContextVar(
    "owner", default=None
)
# Seconds after which an empty lock is one that was never written.
_PATIENCE = 1.0


class LockedError(ValueError):
    """Raised if another process has locked a directory."""


@contextlib.contextmanager
def taken_by(owner: str) -> Iterator[None]:
    """Marks the locks that are taken inside a `with` block as those of an owner.

    An owner has one process at a time in a directory, on whatever host. So a lock of
    the same owner on another host is that of a process that was lost, and is replaced.

    Example:

    >>> with taken_by("find_frontier"), locked(tmp_path):
    ...     print(json.loads((tmp_path / LOCK).read_text())["owner"])
    find_frontier
    """
    before = _OWNER.set(owner)
    try:
        yield
    finally:
        _OWNER.reset(before)


@contextlib.contextmanager
def locked(directory: os.PathLike | str | None) -> Iterator[None]:
    """Locks a directory inside a `with` block, and removes temporary files in it.

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
    token = uuid.uuid4().hex
    text = json.dumps(_this_process() | {"token": token})
    _HELD.add(token)
    # Ctrl-C may come at any instant, also between creating the lock and the block.
    try:
        with files.writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            while not _created(path, text, token):
                _remove_stale(path)
            files.sweep(path.parent)
        yield
    finally:
        _HELD.discard(token)
        if _text(path) == text:
            files.remove(path)


def _created(path, text, token):
    """Creates the lock with its content in one step; returns False if there is one."""
    draft = path.with_name(f".{path.name}.{token}.tmp")
    try:
        draft.write_text(text)
        return _linked(draft, path, text)
    finally:
        files.remove(draft)


def _linked(draft, path, text):
    try:
        os.link(draft, path)
    except (FileExistsError, FileNotFoundError):  # The holder sweeps drafts.
        return False
    except OSError:  # The file system has no hard links.
        return _written(path, text)
    return True


def _written(path, text):
    created = False
    try:
        with open(path, "x") as file:
            created = True
            file.write(text)
    except FileExistsError:
        return False
    except BaseException:
        if created:
            files.remove(path)
        raise
    return True


def _text(path):
    """Returns the text of a file; an empty one if there is none."""
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return ""


def _remove_stale(path):
    """Removes the lock of a process that has ended; raises if it may be running."""
    if not path.exists():
        return
    text = _text(path)
    if not text:
        # Its process is about to write it, or was killed before it did.
        time.sleep(_PATIENCE)
        text = _text(path)
    holder = _parsed(text)
    if text and _may_run(holder):
        raise LockedError(
            f"{path.parent} is in use by process {holder.get('pid')} on host "
            f"{holder.get('host')}. Wait until it ends, or use another directory. If "
            f"you are sure that it has ended, delete {path}."
        )
    # Whoever renames it first removes it; a new lock of another process is put back.
    aside = path.with_name(f".{path.name}.{os.getpid()}.stale.tmp")
    with contextlib.suppress(FileNotFoundError):
        os.replace(path, aside)
        other = aside.read_text()
        if other != text:
            _linked(aside, path, other)
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
        return _OWNER.get() is None or holder.get("owner") != _OWNER.get()
    pid = holder.get("pid")
    started = _started(pid) if isinstance(pid, int) else None
    if started is None or started != holder.get("started"):
        return False
    # Of this process, an interrupted search may have left it.
    return pid != os.getpid() or holder.get("token") in _HELD


def _this_process():
    pid = os.getpid()
    process = {"host": socket.gethostname(), "pid": pid, "started": _started(pid)}
    owner = _OWNER.get()
    return process if owner is None else {**process, "owner": owner}


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
