"""Interpreters that have imported Keras once and fork for each program.

A new process takes seconds to import Keras and its backend. A forked process has
already imported them, but nothing of this library, and has run nothing else. For a
program it is equivalent to a new process after `import keras`.
"""

import atexit
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import keras

SERVER = """
import json, os, runpy, sys, traceback
import keras

def run(job):
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(job[name], os.O_WRONLY), number)
    os.environ.clear()
    os.environ.update(job["env"])
    os.chdir(job["folder"])
    sys.path[1:1] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    assert "tf_tickets" not in sys.modules
    sys.argv = job["arguments"]
    try:
        if sys.argv[0] == "-c":
            exec(sys.argv.pop(1), {"__name__": "__main__"})
        elif sys.argv[0] == "-m":
            sys.argv.pop(0)
            runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        else:
            sys.path[0] = os.path.dirname(sys.argv[0])
            runpy.run_path(sys.argv[0], run_name="__main__")
    except BaseException:
        traceback.print_exc()
        return 1
    return 0

for line in sys.stdin:
    child = os.fork()
    if not child:
        status = run(json.loads(line))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""
_EXPORT = "tf_tickets.exporting.tensorflow_process"
_run = subprocess.run
_servers = {}


def run(command, **kwargs):
    """Replaces `subprocess.run` for Python programs that need Keras.

    These are programs passed as text, the one that exports by TensorFlow, and those
    that convert and run files. All other programs run as usual.
    """
    arguments = [os.fspath(part) for part in command[1:]]
    known = arguments[0] == "-c" or arguments[:2] == ["-m", _EXPORT]
    if not known and not arguments[0].endswith("_runner.py"):
        return _run(command, **kwargs)
    environment = dict(kwargs.get("env") or os.environ)
    with tempfile.TemporaryDirectory() as folder:
        said = {name: pathlib.Path(folder, name) for name in ("stdout", "stderr")}
        for file in said.values():
            file.touch()
        job = {"arguments": arguments, "env": environment, "folder": os.getcwd()}
        job["folder"] = os.fspath(kwargs.get("cwd") or job["folder"])
        job |= {name: os.fspath(file) for name, file in said.items()}
        status = _asked(environment.get("KERAS_BACKEND", keras.config.backend()), job)
        texts = {name: file.read_text() for name, file in said.items()}
    return subprocess.CompletedProcess(command, status, **texts)


def _asked(backend, job):
    """Sends a program to the backend's server; returns the exit status."""
    start(backend, job["env"])
    server = _servers[backend]
    server.stdin.write(json.dumps(job) + "\n")
    server.stdin.flush()
    return int(server.stdout.readline())


def start(backend, environment=os.environ):
    """Starts the server of a backend, unless it runs."""
    if backend not in _servers:
        _servers[backend] = _started({**environment, "KERAS_BACKEND": backend})


def stop():
    """Ends all servers."""
    while _servers:
        _servers.popitem()[1].kill()


def _started(environment):
    server = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
    )
    atexit.register(_ended, server)
    return server


def _ended(server):
    # Leaving the block closes both pipes and waits for the end.
    with server:
        server.stdin.close()
