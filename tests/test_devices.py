"""Searches on two devices: equal masks, equal replicas, resume, several processes."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import devices
import keras
import pytest
import warm

import tf_tickets as tt
from tf_tickets import distribution

BACKEND = keras.config.backend()
PROGRAM = devices.__file__

# Where two devices must give the masks of one. TensorFlow draws the same dropout in
# each replica, and its batch normalization uses the statistics of each replica.
EQUAL = {
    "tensorflow": (
        "nothing",
        "batch normalization, halves on one device",
        "synchronized batch normalization",
    ),
    "jax": ("nothing", "batch normalization", "dropout"),
}[BACKEND]
on_tensorflow = pytest.mark.skipif(
    BACKEND != "tensorflow", reason="tf.distribute is TensorFlow's"
)


def program(text):
    """Runs a program that has two devices; returns its exit status and its JSON."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    text = f"import devices; {text}"
    result = warm.run([sys.executable, "-c", text], env=environment)
    if result.returncode != 0:
        return result.returncode, result.stderr
    return 0, json.loads(result.stdout.splitlines()[-1])


def report(*arguments):
    status, rows = program(f"devices.report{arguments!r}")
    assert status == 0, rows
    return rows


@pytest.fixture(scope="module")
def small():
    """IMP with batch normalization, which computes the same on one and two devices."""
    [row] = report(["IMP"], [EQUAL[1]])
    return row


@pytest.fixture(scope="module")
def everything():
    """All searches on all networks, by their names."""
    rows = report([*devices.SEARCHES])
    return {(row["search"], row["network"]): row for row in rows}


def test_two_devices_find_the_masks_of_one(small):
    assert small["bits"] == [0, 0]
    assert small["sparsity"] == pytest.approx([0.3, 0.5111], abs=1e-4)


def test_both_devices_hold_the_same_masks_weights_statistics_and_slots(small):
    assert small["unequal"] == []


def test_both_devices_are_as_accurate_as_one(small):
    assert small["accuracy"][0] == small["accuracy"][1]


@pytest.mark.matrix
@pytest.mark.parametrize("network", EQUAL)
@pytest.mark.parametrize("name", devices.SEARCHES)
def test_every_search_finds_the_masks_of_one_device(everything, name, network):
    row = everything[name, network]
    assert row["bits"] == [0] * len(row["bits"])


@pytest.mark.matrix
@pytest.mark.parametrize("network", devices.COMPARED[BACKEND])
@pytest.mark.parametrize("name", devices.SEARCHES)
def test_every_search_leaves_equal_values_on_both_devices(everything, name, network):
    row = everything[name, network]
    assert row["unequal"] == []
    assert row.get("unequal draws", []) == []


@pytest.mark.matrix
@on_tensorflow
@pytest.mark.parametrize("network", ["batch normalization", "dropout"])
def test_statistics_and_dropout_of_replicas_change_masks(everything, network):
    """Which the guide says; the halves on one device show that nothing else does."""
    rows = [everything[name, network] for name in devices.SEARCHES]
    assert sum(sum(row["bits"]) for row in rows) > 0


@pytest.mark.matrix
@pytest.mark.parametrize(
    "name", ["IMP", "ContinuousSparsification", "StochasticSparsification"]
)
def test_a_search_on_two_devices_resumes_to_the_same_bytes(tmp_path, name):
    whole, killed = (str(tmp_path / folder) for folder in ("whole", "killed"))
    assert program(f"devices.resumable({whole!r}, {name!r})") == (0, [])
    for epoch in (1, 2):
        status, _ = program(f"devices.resumable({killed!r}, {name!r}, {epoch})")
        assert status == -signal.SIGKILL
    assert program(f"devices.resumable({killed!r}, {name!r})") == (0, [])
    assert _files(whole) == _files(killed)


def _files(folder):
    files = pathlib.Path(folder).iterdir()
    return {file.name: file.read_bytes() for file in files}


@pytest.mark.matrix
@on_tensorflow
def test_a_search_of_two_devices_does_not_resume_on_one(tmp_path):
    folder = str(tmp_path)
    code = f"devices.resumable({folder!r}, 'IMP', 1)"
    assert program(code)[0] == -signal.SIGKILL
    with pytest.raises(ValueError, match="replicas: 2 there, None here"):
        devices.run(devices.Problem(), "IMP", "batch normalization", directory=folder)


@pytest.mark.matrix
def test_two_processes_are_refused_by_name(tmp_path):
    port = 20_000 + os.getpid() % 20_000
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    outs = [tmp_path / f"{index}.json" for index in range(2)]
    workers = [
        subprocess.Popen(
            [sys.executable, PROGRAM, out, str(index), str(port)], env=environment
        )
        for index, out in enumerate(outs)
    ]
    try:
        for worker in workers:
            worker.wait(300)
    finally:
        for worker in workers:
            worker.kill()
    kind = {"tensorflow": "MultiWorkerMirroredStrategy", "jax": "keras.distribution"}
    for row in [json.loads(out.read_text("utf-8")) for out in outs]:
        assert row["replicas"] == 2
        assert f"{kind[BACKEND]} with 2 processes" in row["find_tickets"]


def test_a_search_refuses_several_processes_before_it_wraps(monkeypatch):
    monkeypatch.setattr(distribution, "_processes", lambda model: (_KIND, 2))
    model = devices.Problem().build("nothing")
    for call in (
        lambda: tt.IMP(rounds=1, epochs_per_round=1).wrap(model),
        lambda: devices.run(devices.Problem(), "IMP", "nothing"),
    ):
        with pytest.raises(ValueError, match=f"{_KIND} with 2 processes.*one machine"):
            call()


_KIND = "MultiWorkerMirroredStrategy"


@on_tensorflow
def test_training_inside_a_scope_is_refused():
    import tensorflow as tf

    scope = tf.distribute.OneDeviceStrategy("CPU:0").scope()
    refused = pytest.raises(ValueError, match="inside the scope of OneDeviceStrategy")
    with scope, refused:
        devices.run(devices.Problem(), "IMP", "nothing")


@pytest.mark.parametrize(
    "rows, size", [(512, 512), (287, 284), (7, 4), (3, 0), (600, 512)]
)
def test_evaluation_leaves_no_device_without_rows(monkeypatch, rows, size):
    monkeypatch.setattr(distribution, "parts", lambda model: 2)
    if not size or (BACKEND == "jax" and rows % 2):
        with pytest.raises(ValueError, match=f"Received: {rows} rows.*multiple of 2"):
            distribution.evaluation_batch_size(None, 512, rows, "test")
    else:
        assert distribution.evaluation_batch_size(None, 512, rows, "test") == size


def test_batches_that_cannot_be_split_are_refused(monkeypatch):
    monkeypatch.setattr(distribution, "parts", lambda model: 3)
    with pytest.raises(ValueError, match="batch_size=16. Pass a multiple of 3"):
        devices.run(devices.Problem(), "IMP", "nothing")
