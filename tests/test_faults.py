"""Kills, interrupts and failing disks: files stay whole, and searches go on.

`benchmarks/faults.py` does the same at many more random instants.
"""

import errno
import os
import shutil
import subprocess
import sys
import time

import faults
import keras
import numpy as np
import pytest
import tiny
from faults import Disk, Fault

import tf_tickets as tt
from tf_tickets import files
from tf_tickets.exporting import artefact_runner, exporter
from tf_tickets.search import frontier, lock, teachers

pytestmark = pytest.mark.turns("jax")

ACTIONS = ("kill", "kill", "interrupt", "ENOSPC", "EROFS")

# Kills and interrupts.


@pytest.fixture(scope="module")
def searches(tmp_path_factory):
    return faults.Searches(tmp_path_factory.mktemp("faults"))


def first(events, kind, name=""):
    """Returns the number of the first event of a kind, of a file with that name."""
    return next(
        n for n, event in enumerate(events) if event[0] == kind and name in event[1]
    )


@pytest.mark.on("tensorflow")
def test_teachers_survive_a_kill_ctrl_c_and_a_full_disk(searches):
    """Those of the next two tests that differ most, in one chain of processes."""
    _, events, _ = searches.reference("train_teachers")
    found = [
        Fault("kill", first(events, "write") + 3, "within"),
        Fault("interrupt", first(events, "rename"), "before"),
        Fault("ENOSPC", first(events, "write") + 5, "within"),
    ]
    assert len(searches.survived("train_teachers", found)) == len(found)


@pytest.mark.matrix
@pytest.mark.parametrize("name", faults.SEARCHES)
def test_a_search_killed_while_it_writes_ends_with_the_same_bytes(searches, name):
    _, events, _ = searches.reference(name)
    kills = [
        # Nothing complete is there yet, and a temporary file stays.
        Fault("kill", first(events, "fsync")),
        Fault("kill", first(events, "write") + 3, "within"),
        Fault("kill", first(events, "rename"), "after"),
    ]
    assert len(searches.survived(name, kills)) == len(kills)


@pytest.mark.matrix
@pytest.mark.parametrize("name", faults.SEARCHES)
def test_a_search_goes_on_after_ctrl_c_and_after_a_full_or_read_only_disk(
    searches, name
):
    _, events, seconds = searches.reference(name)
    found = [
        Fault("interrupt", first(events, "rename"), "before"),
        Fault("ENOSPC", first(events, "write") + 5, "within"),
        Fault("EROFS", first(events, "unlink")),
        Fault("interrupt", delay=seconds / 2),
    ]
    assert len(searches.survived(name, found)) >= 3


@pytest.mark.matrix
@pytest.mark.parametrize("name", faults.SEARCHES)
def test_a_search_with_faults_at_random_instants_ends_with_the_same_bytes(
    searches, name
):
    rng = faults.generator(0, name)
    occurred = [
        fault
        for _ in range(3)
        for fault in searches.survived(name, searches.drawn(name, rng, 3, ACTIONS))
    ]
    assert len(occurred) >= 3


def test_the_lock_of_a_file_system_without_links_survives_a_kill(tmp_path, monkeypatch):
    def link(*paths):
        raise PermissionError("no hard links")

    # A kill between the creation of the lock and its content.
    (tmp_path / lock.LOCK).touch()
    monkeypatch.setattr(os, "link", link)
    monkeypatch.setattr(lock, "_PATIENCE", 0.01)
    with lock.locked(tmp_path):
        assert (tmp_path / lock.LOCK).read_text()
    assert os.listdir(tmp_path) == []


@pytest.mark.on("jax")
def test_ctrl_c_while_an_export_is_moved_leaves_the_old_one_or_the_new_one(tmp_path):
    def made(name, content):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "saved_model.pb").write_text(content)
        return folder

    for number in range(2):
        for when in ("before", "after"):
            path = made(f"{number}{when}/m", "old")
            new = made(f"{number}{when}/.m/sparse", "new")
            disk = Disk(tmp_path, Fault("interrupt", number, when))
            with pytest.raises(KeyboardInterrupt), disk:
                exporter._move(new, path, new.parent)
            moved = (number, when) == (1, "after")
            assert (path / "saved_model.pb").read_text() == ("new" if moved else "old")


@pytest.mark.on("jax")
def test_processes_of_an_export_end_with_it(tmp_path):
    runner = f"""if True:
        import os, runpy, time
        runpy.run_path({artefact_runner.__file__!r})["end_with_parent"]()
        print(os.getpid(), flush=True)
        time.sleep(60)
    """
    starter = f"""if True:
        import subprocess, sys
        subprocess.run([sys.executable, "-c", {runner!r}])
    """
    command = [sys.executable, "-c", starter]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        child = int(parent.stdout.readline())
        assert lock._started(child)
        parent.kill()
        # The pipe is closed when the last process that writes to it has ended.
        began = time.monotonic()
        assert parent.stdout.read() == ""
        assert time.monotonic() - began < 30
    while lock._started(child):
        assert time.monotonic() - began < 30
        time.sleep(0.1)


# Disks that are full or read-only.


def ticket():
    masks = {"a/kernel": np.arange(12).reshape(3, 4) % 2}
    return tt.Ticket(masks, {"a/kernel": np.ones((3, 4), "float32")})


def points():
    point = frontier.Point("a", 1, 0.5, 3, {"accuracy": 0.9}, ticket())
    return frontier.Frontier([point], {"accuracy": 0.9}, "accuracy")


def keras_file(folder):
    with files.replacing(folder / "a.keras") as draft:
        tiny.build().save(draft)


def exported(suffix, **settings):
    def write(folder):
        path = folder / f"m{suffix}"
        return tt.export(
            tiny.build(), path, verify=False, overwrite=True, seed=0, **settings
        )

    return write


# By the name of what is written, functions of a folder.
WRITERS = {
    "ticket": lambda folder: ticket().save(folder / "a.ticket"),
    "frontier.json": lambda folder: points().save(folder / "frontier.json"),
    "frontier.png": lambda folder: points().plot(folder / "frontier.png"),
    "frontier.pdf": lambda folder: points().plot(folder / "frontier.pdf"),
    "report": lambda folder: tt.summary(tiny.build()).to_json(folder / "a.json"),
    "CSV": lambda folder: tt.summary(tiny.build()).to_csv(folder / "a.csv"),
    "teacher": lambda folder: teachers._keep(tiny.build(), folder / "teacher_0.npz"),
    ".keras": keras_file,
    "export .keras": exported(".keras"),
    "export .tflite": exported(".tflite"),
    "export .onnx": exported(".onnx"),
    "export SavedModel": exported(""),
}
ON_TENSORFLOW = ["export .tflite", "export .onnx", "export SavedModel"]


def whole(folder):
    """Returns the bytes of all files, without temporary ones."""
    table = faults.contents(folder)
    return {n: data for n, data in table.items() if not n.startswith(".")}


def forget_drafts(folder):
    for draft in folder.glob(".*"):
        shutil.rmtree(draft) if draft.is_dir() else draft.unlink()


def events_of(write, folder):
    with Disk(folder) as disk:
        write(folder)
    return disk.events


def failures(write, folder, error):
    """Writes with a fault at each event, and checks the files; returns the messages."""
    said, number, occurred = set(), 0, True
    while occurred:
        for when in ("before", "within"):
            before = whole(folder)
            with Disk(folder, Fault(error, number, when)) as disk:
                try:
                    write(folder)
                    before = None
                except OSError as failure:
                    said.add(str(failure))
            occurred = disk.occurred
            forget_drafts(folder)
            assert before in (None, whole(folder)), (number, when)
            # Without an error, only a temporary file could not be removed.
            late = {kind for kind, _ in disk.events[number:]}
            assert before is not None or not occurred or late == {"unlink"}
        number += 1
    return said


ADVICE = {"ENOSPC": "Free some space", "EROFS": "Choose a folder"}
DEFAULT = [("ticket", "ENOSPC"), ("ticket", "EROFS"), ("teacher", "ENOSPC")]


# Two renames replace a folder. A disk that becomes read-only between them would also
# keep the first folder, which this simulation lets Python delete.
FAILURES = [
    (name, error)
    for name in WRITERS
    for error in ADVICE
    if (name, error) != ("export SavedModel", "EROFS")
]


# Of tf2onnx, about NumPy.
@pytest.mark.on("jax")
@pytest.mark.filterwarnings("ignore:In the future:FutureWarning")
@pytest.mark.parametrize("name, error", tiny.marked(FAILURES, DEFAULT))
def test_a_disk_that_fails_at_any_event_leaves_the_earlier_file(tmp_path, name, error):
    if name in ON_TENSORFLOW and keras.config.backend() != "tensorflow":
        pytest.skip("TensorFlow writes it, in another process")
    write = WRITERS[name]
    write(tmp_path)
    [message] = failures(write, tmp_path, error)
    reason = os.strerror(getattr(errno, error))
    assert f"could not be written: {reason}. {ADVICE[error]}" in message
    assert str(tmp_path) in message
