"""Two searches cannot run in one directory."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys

import keras
import pytest
import tiny
from faults import Disk, Fault

import tf_tickets as tt
from tf_tickets.search import lock

HERE = socket.gethostname()
pytestmark = pytest.mark.on("jax")


def assert_refused(directory, message):
    with pytest.raises(ValueError, match=message), lock.locked(directory):
        pass


def write(directory, **holder):
    (directory / lock.LOCK).write_text(json.dumps(holder))


def test_a_directory_in_use_is_refused_with_the_process(tmp_path):
    with lock.locked(tmp_path):
        assert_refused(tmp_path, f"process {os.getpid()} on host {HERE}")
        assert (tmp_path / lock.LOCK).exists()
    assert list(tmp_path.iterdir()) == []


def test_an_error_releases_the_lock(tmp_path):
    with pytest.raises(KeyboardInterrupt), lock.locked(tmp_path):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_at_any_event_leaves_nothing_that_refuses_this_process(tmp_path):
    number, occurred = 0, True
    while occurred:
        for when in ("before", "after"):
            disk = Disk(tmp_path, Fault("interrupt", number, when))
            with disk, contextlib.suppress(KeyboardInterrupt), lock.locked(tmp_path):
                pass
            occurred = disk.occurred
            with lock.locked(tmp_path):
                pass
            assert os.listdir(tmp_path) == []
        number += 1
    assert number > 4


def test_temporary_files_are_removed_under_the_lock(tmp_path):
    for name in (".round_01.7.tmp.ticket", ".search.lock.7.tmp", ".a", "a.tmp"):
        (tmp_path / name).touch()
    with lock.locked(tmp_path):
        assert sorted(os.listdir(tmp_path)) == [".a", "a.tmp", "search.lock"]


def ended_process():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.parametrize(
    "holder",
    [
        lambda: {"pid": ended_process(), "started": "1"},
        # The process id belongs to another process now.
        lambda: {"pid": os.getpid(), "started": "1"},
        lambda: {"pid": None, "started": None},
    ],
)
def test_the_lock_of_a_process_that_has_ended_is_replaced(tmp_path, holder):
    write(tmp_path, host=HERE, **holder())
    with lock.locked(tmp_path):
        content = json.loads((tmp_path / lock.LOCK).read_text())
        assert content["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_a_killed_process_leaves_a_stale_lock(tmp_path):
    script = (
        "import sys, time; from tf_tickets.search import lock\n"
        f"with lock.locked({str(tmp_path)!r}):\n"
        "    print('locked', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout.readline() == "locked\n"
        assert_refused(tmp_path, f"process {process.pid}")
        process.send_signal(signal.SIGKILL)
        process.wait()
    with lock.locked(tmp_path):
        pass


@pytest.mark.parametrize("content", ["[1]", json.dumps({"host": "elsewhere"})])
def test_what_may_be_in_use_is_refused_and_kept(tmp_path, content):
    (tmp_path / lock.LOCK).write_text(content)
    assert_refused(tmp_path, r"delete .*search\.lock")
    assert (tmp_path / lock.LOCK).read_text() == content


def test_without_hard_links_it_works_too(tmp_path, monkeypatch):
    def link(*paths):
        raise PermissionError("no hard links")

    monkeypatch.setattr(os, "link", link)
    with lock.locked(tmp_path):
        assert_refused(tmp_path, "in use")
    assert list(tmp_path.iterdir()) == []


class Second(keras.callbacks.Callback):
    """Starts a second search in the directory of the first."""

    changes_results = False

    def __init__(self, find):
        super().__init__()
        self.find = find

    def on_epoch_begin(self, epoch, logs=None):
        with pytest.raises(ValueError, match="in use by process"):
            self.find()


def test_a_second_search_is_refused_while_the_first_runs(tmp_path):
    def find(callbacks=()):
        search = tiny.imp(rounds=1, epochs_per_round=1, monitor="val_loss")
        arguments = {"batch_size": 16, "verbose": 0, "callbacks": callbacks}
        return tt.find_tickets(
            tiny.build_compiled, tiny.splits(), search, tmp_path, **arguments
        )

    [ticket] = find([Second(find)])
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "round_01.ticket",
        "search.state",
    ]
    assert ticket.sparsity > 0
