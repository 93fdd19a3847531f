"""Checks benchmarks/peers.py: the program of this library runs and does equal work.

The programs of other libraries need their own environments and are only read here.
"""

import ast
import pathlib
import sys
import time
import types

import keras
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAMS = ROOT / "benchmarks" / "peer_programs"
OURS = "tf_tickets_search.py"
OTHERS = sorted(p.name for p in PROGRAMS.glob("*.py") if p.name != OURS)
WEIGHTS = {"lenet300": 266_610, "lenet300-cs": 266_610, "resnet8": 78_666}
SHAPES = {"mnist": (28, 28), "cifar10": (32, 32, 3)}


@pytest.fixture
def modules(monkeypatch):
    """The benchmark and what its programs share, which are no packages."""
    for folder in (ROOT / "benchmarks", PROGRAMS):
        monkeypatch.syspath_prepend(str(folder))
    import job
    import peers

    yield peers, job
    del sys.modules["job"], sys.modules["peers"]


@pytest.mark.parametrize("name", OTHERS)
def test_programs_of_others_import_nothing_of_this_library(name):
    tree = ast.parse((PROGRAMS / name).read_text("utf-8"))
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            imported.add(str(node.module).split(".")[0])
    assert not imported & {"tf_tickets", "tf_tickets_cli"}


def test_what_has_no_interpreter_is_left_out_with_the_reason(modules):
    peers, _ = modules
    options = peers.parser().parse_args(["lenet300", "--torch", "PYTHON"])
    rows, left_out = peers.chosen(options)
    assert rows == [*peers.OURS, peers.SHORT_STEPS, "torch", "torch, DataLoader"]
    assert left_out == {"tfmot": "no interpreter was given by --tfmot"}


def test_the_smallest_remaining_weights_are_pruned(modules):
    _, job = modules
    weights = {"a": np.array([0.1, -4.0, 3.0]), "b": np.array([[-0.2, 0.01], [5.0, 1]])}
    masks = {"a": np.ones(3, bool), "b": np.array([[True, False], [True, True]])}
    found = job.global_masks(weights, masks, 0.5)
    assert found["a"].tolist() == [False, True, True]
    assert found["b"].tolist() == [[False, False], [True, False]]
    assert job.sparsity(found) == pytest.approx(4 / 7)


def test_an_epoch_ends_when_its_last_step_is_done(modules):
    _, job = modules
    import keras_networks

    class Slow:
        """A weight that the last step still computes, as on JAX."""

        def __array__(self, dtype=None, copy=None):
            time.sleep(0.2)
            return np.zeros(1)

    model = types.SimpleNamespace(trainable_variables=[Slow()])
    epochs = job.Epochs(steps=1)
    timer = keras_networks.timer(keras, epochs, lambda epoch: epoch == 0)
    timer.set_model(model)
    for epoch in (0, 1):
        timer.on_epoch_begin(epoch)
        timer.on_test_begin()
    assert epochs.step_seconds() >= 0.2


@pytest.mark.matrix
@pytest.mark.parametrize("name", WEIGHTS)
def test_the_search_of_this_library_runs(name, modules, tmp_path):
    peers, _ = modules
    case = {**peers.CASES[name], **peers.QUICK}
    rng = np.random.default_rng(0)
    shape = SHAPES[case["data"]]
    arrays = {}
    for part, images in (("train", case["images"]), ("test", case["test_images"])):
        arrays[f"x_{part}"] = rng.integers(0, 256, (images, *shape), "uint8")
        arrays[f"y_{part}"] = rng.integers(0, 10, images, "uint8")
    np.savez(tmp_path / "data.npz", **arrays)
    row = peers.OURS[keras.config.backend() == "jax"]
    options = peers.parser().parse_args([name, "--quick", "--out", str(tmp_path)])
    found = peers.run(options, row, case, tmp_path)
    assert found["weights"] == WEIGHTS[name]
    assert found["seconds"] > 0 and found["step_seconds"] > 0
    assert found["peak_bytes"] > 10**8
    if case["method"] == "imp":
        assert len(found["accuracies"]) == 2
        assert found["sparsities"] == pytest.approx([0.0, 0.2], abs=1e-4)
    else:
        assert len(found["accuracies"]) == len(found["sparsities"]) == 1
