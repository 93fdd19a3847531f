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
_run = subprocess.run
_servers = {}


def run(command, **kwargs):
    """Replaces `subprocess.run` for Python programs that need Keras.

    These are programs passed as text, and the one that runs an exported file. All other
    programs run as usual.
    """
    arguments = [os.fspath(part) for part in command[1:]]
    if arguments[0] != "-c" and not arguments[0].endswith("artefact_runner.py"):
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
    if backend not in _servers:
        _servers[backend] = _started(job["env"] | {"KERAS_BACKEND": backend})
    server = _servers[backend]
    server.stdin.write(json.dumps(job) + "\n")
    server.stdin.flush()
    return int(server.stdout.readline())


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
