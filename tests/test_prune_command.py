"""Pruning a trained model in one call, and by the command line."""

import dataclasses
import functools
import json
import math
import os
import re
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

import tf_tickets as tt
from tf_tickets.fine_tuning import learning_rates, pruner
from tf_tickets.fine_tuning.fine_tuning_callback import PruningAndFineTuning
from tf_tickets.fine_tuning.measurements import Measured
from tf_tickets.fine_tuning.result_remarks import Outcome, remarks
from tf_tickets.structures.structure import Unstructured
from tf_tickets_cli import choices, main, own_data

pytestmark = pytest.mark.turns("tensorflow")

# The weights in all kernels of `cnn`.
KERNELS = 3 * 3 * 8 + 6 * 6 * 8 * 24 + 24 * 10
QUICK = {"epochs": 4, "batch_size": 64, "precision": None}


def cnn(name="cnn"):
    """A network as a user writes it."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            keras.layers.Conv2D(8, 3, activation="relu", name="conv"),
            keras.layers.Flatten(name="flat"),
            keras.layers.Dense(24, activation="relu", name="hidden"),
            keras.layers.Dense(10, name="output"),
        ],
        name=name,
    )


def compiled(model, optimizer="adam"):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"])
    return model


@functools.cache
def digits():
    return tt.datasets.load("digits").take(512)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The path of a model's file, with its optimizer, as after a training."""
    keras.utils.set_random_seed(1)
    path = tmp_path_factory.mktemp("trained") / "cnn.keras"
    model = compiled(cnn(), keras.optimizers.Adam(3e-3))
    model.optimizer.build(model.trainable_variables)
    model.save(path)
    return path


@pytest.fixture
def no_fit(monkeypatch):
    return lambda: monkeypatch.setattr(keras.Model, "fit", None)


def zeros(model):
    """The fraction of zeros in all kernels."""
    kernels = [v for v in model.get_weights() if v.ndim > 1]
    size = sum(kernel.size for kernel in kernels)
    return 1 - sum(map(np.count_nonzero, kernels)) / size


def same_tickets(first, second):
    assert list(first.masks) == list(second.masks)
    for path, mask in first.masks.items():
        np.testing.assert_array_equal(mask, second.masks[path])
    for path, weight in first.weights.items():
        np.testing.assert_array_equal(weight, second.weights[path])
    return True


def test_the_options_accept_what_the_library_does():
    for name in choices.ALLOCATIONS:
        assert callable(tt.allocation.get(name))


# The command.

COMMAND = ["--data", "digits", "--take", "512", "--epochs", "4", "--batch-size", "64"]


def test_the_command_writes_a_model_of_the_sparsity_and_does_not_train_twice(
    trained, tmp_path, capsys, no_fit, monkeypatch
):
    out = tmp_path / "out"
    command = ["prune", str(trained), *COMMAND, "--sparsity", "0.8", "--no-tflite"]
    command += ["--out", str(out)]
    assert main.main(command) == 0
    printed = capsys.readouterr().out
    results = json.loads((out / "results.json").read_text())
    after = results["after"]["metrics"]
    assert results["settings"]["sparsity"] == 0.8
    ticket = tt.Ticket.load(out / "pruned.ticket")
    assert sum(ticket.kept.values()) == math.ceil(0.2 * KERNELS)
    assert results["sparsity"] == ticket.sparsity
    assert f"{after['test_accuracy']:.4f}" in printed
    assert "Learning rate 0.003, that of its optimizer." in printed
    assert printed.startswith("Data: 512 training, 287 validation, 360 test images\n")
    # The weights are those of an epoch after the last pruning.
    assert "Pruned in the first 2 epochs, fine-tuned for 2 more." in printed
    assert any(f"is kept: epoch {number}." in printed for number in (3, 4))
    model = keras.saving.load_model(out / "model.keras")
    assert zeros(model) == pytest.approx(0.8, abs=1e-3)
    data = digits()
    found = model.evaluate(data.x_test, data.y_test, verbose=0, return_dict=True)
    assert found["accuracy"] == pytest.approx(after["test_accuracy"], abs=1e-6)
    assert found["loss"] == pytest.approx(after["test_loss"], rel=1e-4)
    assert (out / "model.keras").stat().st_size < trained.stat().st_size / 3
    assert not (out / "model.tflite").exists()
    assert "weights not zero" in (out / "report.txt").read_text()
    no_fit()
    assert main.main(["prune", "--settings", str(out / "settings.toml")]) == 0
    again = capsys.readouterr().out
    assert "The training was complete, nothing was trained." in again
    repeated = json.loads((out / "results.json").read_text())
    assert repeated["after"]["metrics"] == after
    assert repeated["ticket"] == results["ticket"]
    # Other options are refused before the data are read.
    monkeypatch.setattr(own_data, "load", None)
    command[command.index("--sparsity") + 1] = "0.7"
    assert main.main([*command, "--patience", "3", "--learning-rate", "0.1"]) == 2
    assert (
        "out was written with other options: --sparsity: 0.8 there, 0.7 here; "
        "--learning-rate: not given there, 0.1 here; --patience: 5 there, 3 here. Use "
        "another --out" in capsys.readouterr().err
    )


REFUSED = {
    "sparsity": (["--sparsity", "1.5"], r"between 0 and 1.*Received: 1\.5"),
    "structure": (["--structure", "2:4", "--sparsity", "0.9"], "at most sparsity 0.5"),
    "target": (["--target", "macs=0.5", "--sparsity", "0.5"], "Pass one of them"),
    "blocks": (["--target", "macs=0.5", "--structure", "4x1"], "prunes channels"),
    "epochs": (["--epochs", "1"], "at least 2"),
    "monitor": (["--monitor", "val_f1"], "one of the metrics.*val_accuracy"),
    "filters": (["--filters", "absent"], "nothing to prune.*excluded by filters"),
    "folder": ([], "holds other files, such as notes.txt"),
    "batch": (["--batch-size", "5000"], "5000"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_work_is_refused_before_the_first_epoch(
    case, trained, tmp_path, capsys, no_fit
):
    words, message = REFUSED[case]
    out = tmp_path / "out"
    if case == "folder":
        out.mkdir()
        (out / "notes.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    no_fit()
    command = ["prune", str(trained), *COMMAND, *words, "--no-tflite"]
    assert main.main([*command, "--out", str(out)]) == 2
    shown = " ".join(capsys.readouterr().err.split())
    assert shown.startswith("tf-tickets: ")
    assert re.search(message, shown), shown
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["model.keras", "training/cat/1.jpg"])
def test_a_folder_of_others_is_left_alone_though_it_has_a_folder_training(
    no_fit, tmp_path, name
):
    """It may be a project with a model of its own, or a folder of images."""
    (tmp_path / "training").mkdir()
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match="holds other files"):
        tt.prune(compiled(cnn()), digits(), directory=tmp_path)
    assert (tmp_path / name).read_text() == "mine"


def test_an_unreadable_model_and_one_that_does_not_exist_are_named(tmp_path, capsys):
    path, old = tmp_path / "broken.keras", tmp_path / "old.h5"
    path.write_bytes(b"no zip file")
    old.write_bytes(b"no zip file")
    for name, message in (
        (path, "The file may be damaged"),
        ("absent.keras", "There is no file absent.keras. MODEL must be a trained"),
        ("my.kears", "There is no file my.kears. MODEL must be a trained model: FILE"),
        (old, "MODEL must be a trained model: FILE.keras"),
        ("conv2", "conv2 is a network without trained weights. Pass a trained one"),
    ):
        command = ["prune", str(name), *COMMAND, "--out", str(tmp_path / "out")]
        assert main.main(command) == 2
        shown = capsys.readouterr().err
        assert str(name) in shown and message in shown


# Data that do not fit.


def test_shapes_and_labels_that_do_not_fit_are_refused(no_fit):
    model = compiled(cnn())
    data = digits()
    no_fit()
    x, y = data.x_val, data.y_val
    small = x[:, :4, :4]
    with pytest.raises(ValueError, match=r"train data: .*\(4, 4, 1\) for input 'image"):
        tt.prune(model, ((small, y), (x, y)), **QUICK)
    with pytest.raises(ValueError, match=r"validation data: .*\(4, 4, 1\)"):
        tt.prune(model, ((x, y), (small, y)), **QUICK)
    with pytest.raises(ValueError, match=r"labels from 1 to 10.*has 10 outputs"):
        tt.prune(model, ((x, y + 1), (x, y)), **QUICK)


def test_a_path_and_data_of_no_known_kind_are_refused():
    with pytest.raises(TypeError, match="trained Keras model, the path"):
        tt.prune(3, digits(), **QUICK)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    x, y = np.ones((64, 4)), np.full((64, 2), 0.5)
    with pytest.raises(ValueError, match="Compile the model with its loss"):
        tt.prune(model, ((x, y), (x, y)), **QUICK)


def batches():
    yield digits().x_val, digits().y_val


class Stream(keras.utils.PyDataset):
    """Batches of 32 digits, whose order is a function of the key."""

    def __init__(self):
        super().__init__()
        self.rows = np.arange(len(digits().x_train))

    def __len__(self):
        return len(self.rows) // 32

    def reorder(self, key):
        self.rows = np.random.default_rng(key).permutation(len(self.rows))

    def __getitem__(self, index):
        rows = self.rows[32 * index : 32 * index + 32]
        return digits().x_train[rows], digits().y_train[rows]


def test_generators_are_refused_since_they_are_read_once():
    validation = (digits().x_val, digits().y_val)
    data = tt.TrainingData(batches(), validation, steps_per_epoch=1)
    with pytest.raises(ValueError, match=r"train data are read several times"):
        tt.prune(compiled(cnn()), data, epochs=2)


@pytest.mark.matrix
def test_streams_are_pruned_on_and_resume_with_equal_bits(trained, tmp_path):
    data = tt.TrainingData(Stream(), lambda key: batches(), validation_steps=1)
    settings = {"epochs": 4, "precision": None}
    whole = tt.prune(trained, data, 0.8, tmp_path / "whole", **settings)
    assert abs(whole.sparsity - 0.8) < 1e-3
    assert "val_accuracy" in whole.after.metrics
    with pytest.raises(KeyboardInterrupt):
        tt.prune(
            trained,
            data,
            0.8,
            tmp_path / "out",
            callbacks=[Interruption(2)],
            **settings,
        )
    resumed = tt.prune(trained, data, 0.8, tmp_path / "out", **settings)
    assert same_tickets(whole.ticket, resumed.ticket)


PROGRAM = """
import keras
import numpy as np

def load():
    # Neither compiled nor a classifier.
    model = keras.saving.load_model({path!r}, compile=False)
    outputs = keras.layers.Dense(1, name="mean")(model.layers[-2].output)
    return keras.Model(model.inputs, outputs, name="regression")

def data(seed):
    x = np.random.default_rng(seed).normal(size=(256, 8, 8, 1)).astype("float32")
    y = x.mean(axis=(1, 2))
    return (x[:192], y[:192]), (x[192:], y[192:])
"""


@pytest.mark.matrix
def test_functions_of_a_file_give_model_and_data(trained, tmp_path, capsys):
    file = tmp_path / "mine.py"
    file.write_text(PROGRAM.format(path=str(trained)))
    out = tmp_path / "out"
    command = ["prune", f"{file}:load", "--data", f"{file}:data", "--epochs", "2"]
    command += ["--structure", "4x1", "--no-tflite", "--filters", "hidden"]
    assert main.main([*command, "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "The model was not compiled, so it was for numbers: Adam, mean squ" in shown
    assert "val_mae" in shown and "(4x1)" in shown
    results = json.loads((out / "results.json").read_text())
    assert results["sparsity"] == pytest.approx(0.9, abs=5e-3)
    assert main.main([*command, "--batch-size", "8", "--out", str(out)]) == 2


# Interrupted trainings.


class Interruption(keras.callbacks.Callback):
    changes_results = False

    def __init__(self, epoch):
        super().__init__()
        self.due = epoch
        self.begun = []

    def on_epoch_begin(self, epoch, logs=None):
        self.begun.append(epoch)

    def on_train_batch_end(self, batch, logs=None):
        if self.begun[-1] == self.due and batch == 1:
            raise KeyboardInterrupt


@pytest.mark.matrix
@pytest.mark.parametrize("epoch", [1, 4])
def test_an_interrupted_training_resumes_with_equal_bits(trained, tmp_path, epoch):
    settings = {**QUICK, "epochs": 5}
    whole = tt.prune(trained, digits(), 0.9, tmp_path / "whole", **settings)
    stop = Interruption(epoch)
    again = functools.partial(
        tt.prune, trained, digits(), 0.9, tmp_path / "out", **settings
    )
    with pytest.raises(KeyboardInterrupt):
        again(callbacks=[stop])
    assert not (tmp_path / "out" / "model.keras").exists()
    follow = Interruption(None)
    resumed = again(callbacks=[follow])
    assert follow.begun == list(range(epoch, 5))
    assert same_tickets(whole.ticket, resumed.ticket)
    assert whole.after.metrics == resumed.after.metrics
    with pytest.raises(ValueError, match="holds another search"):
        tt.prune(trained, digits(), 0.8, tmp_path / "out", **settings)


@pytest.mark.matrix
def test_a_killed_command_resumes_with_equal_bits(trained, tmp_path):
    words = [*COMMAND, "--epochs", "6", "--no-tflite", "--out"]
    command = [sys.executable, "-m", "tf_tickets_cli", "prune", str(trained), *words]
    subprocess.run([*command, str(tmp_path / "whole")], check=True)
    killed = subprocess.Popen([*command, str(tmp_path / "out")])
    state = tmp_path / "out" / "training" / "search.state"
    while killed.poll() is None and not state.exists():
        time.sleep(0.05)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "out" / "results.json").exists()
    subprocess.run([*command, str(tmp_path / "out")], check=True)
    tickets = [
        tt.Ticket.load(tmp_path / name / "pruned.ticket") for name in ("whole", "out")
    ]
    assert same_tickets(*tickets)


# The best epoch.


class Scripted(PruningAndFineTuning):
    """Sees losses that are given beforehand, the smallest before the last pruning."""

    losses = [0.1, 0.1, 1.0, 0.5, 0.5, 0.7, 0.4]

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self.weights = {}

    def on_epoch_end(self, epoch, logs=None):
        logs["val_loss"] = self.losses[epoch]
        self.weights[epoch] = tt.kernels(self.model).weights
        super().on_epoch_end(epoch, logs)


@pytest.mark.matrix
@pytest.mark.parametrize("patience, kept, trained", [(2, 3, 6), (3, 6, 7)])
def test_the_best_epoch_after_the_last_pruning_is_kept(
    patience, kept, trained, tmp_path
):
    data = digits().take(128)
    schedule = tt.schedules.PolynomialDecay(0.0, 0.9, 1, 8, frequency=2)
    settings = {"epochs": 7, "batch_size": 32, "verbose": 0}
    find = functools.partial(
        tt.find_tickets, lambda: compiled(cnn()), data, directory=tmp_path, **settings
    )
    with pytest.raises(KeyboardInterrupt):
        find(Scripted(schedule, patience=patience), callbacks=[Interruption(5)])
    pruning = Scripted(schedule, patience=patience)
    # It has the best epoch so far.
    [ticket] = find(pruning)
    assert min(pruning.weights) == 5
    assert pruning.first_epoch == 2
    assert (pruning.best_epoch, pruning.trained) == (kept, trained)
    assert ticket.metrics["val_loss"] == Scripted.losses[kept]
    assert ticket.sparsity == pytest.approx(0.9, abs=1e-3)
    for path, weight in pruning.weights.get(kept, {}).items():
        np.testing.assert_array_equal(ticket.weights[path], weight)


def test_a_schedule_that_leaves_no_epoch_is_refused():
    schedule = tt.schedules.ConstantSparsity(0.5, begin_step=8, frequency=1)
    with pytest.raises(ValueError, match="No epoch is left after the last pruning"):
        tt.find_tickets(
            lambda: compiled(cnn()),
            digits().take(128),
            PruningAndFineTuning(schedule),
            epochs=2,
            batch_size=32,
            verbose=0,
        )


# Kinds of models.

STRUCTURES = {
    "2:4": ({"structure": "2:4"}, 0.5),
    "4x1": ({"structure": "4x1", "sparsity": 0.75}, 0.75),
    "erk": ({"allocation": "erk", "sparsity": 0.8}, 0.8),
    "channels": ({"structure": "channels"}, 0.5),
    "macs": ({"target": {"macs": 0.5}}, None),
    "params": ({"target": {"params": 0.4}}, None),
}


@pytest.mark.matrix
@pytest.mark.parametrize("case", STRUCTURES)
def test_every_structure_reaches_its_sparsity_or_target(case, trained, tmp_path):
    settings, sparsity = STRUCTURES[case]
    result = tt.prune(trained, digits(), directory=tmp_path, **settings, **QUICK)
    before, after = result.before, result.after
    for measure, fraction in settings.get("target", {}).items():
        counted = {"macs": "macs", "params": "weights"}[measure]
        left = getattr(after, counted) / getattr(before, counted)
        assert fraction - 0.1 < left <= fraction
    channels = "target" in settings or settings.get("structure") == "channels"
    assert (after.weights < before.weights) == channels
    assert (result.compaction is not None) == channels
    if sparsity is not None and not channels:
        # Blocks at the edges of kernels are not full.
        assert result.sparsity == pytest.approx(sparsity, abs=2e-2)
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    x = digits().x_test
    np.testing.assert_allclose(
        loaded.predict(x, verbose=0), result.model.predict(x, verbose=0), atol=1e-5
    )


def functional(outputs, inputs=None):
    inputs = inputs or keras.Input((8, 8, 1), name="image")
    flat = keras.layers.Flatten()(inputs)
    hidden = keras.layers.Dense(16, activation="relu", name="hidden")(flat)
    made = {
        name: keras.layers.Dense(units, activation, name=name)(hidden)
        for name, (units, activation) in outputs.items()
    }
    return keras.Model(inputs, made if len(made) > 1 else next(iter(made.values())))


def several():
    x, labels = digits().x_train, digits().y_train
    targets = {
        "digit": labels,
        "odd": labels % 2,
        "size": (labels / 10).astype("float32")[:, None],
        "onehot": np.eye(10, dtype="float32")[labels],
    }
    return x, targets


KINDS = {
    "digit": ((10, "softmax"), "integer labels of 10 classes (probabilities)"),
    "odd": ((1, "sigmoid"), "labels of 0 and 1 (probabilities)"),
    "size": ((1, None), "numbers"),
    "onehot": ((10, None), "one-hot labels of 10 classes (logits)"),
}


@pytest.mark.matrix
@pytest.mark.parametrize("kind", KINDS)
def test_a_model_that_is_not_compiled_is_compiled_by_its_targets(kind):
    output, description = KINDS[kind]
    x, targets = several()
    data = ((x, targets[kind]), (x[:100], targets[kind][:100]))
    result = tt.prune(functional({kind: output}), data, 0.5, **QUICK)
    assert f"so it was for {description}: Adam, " in result.notes[0]
    expected = "val_mae" if kind == "size" else "val_accuracy"
    assert expected in result.after.metrics
    assert result.settings["monitor"] == expected
    assert result.sparsity == pytest.approx(0.5, abs=1e-3)


@pytest.mark.matrix
def test_a_model_of_several_outputs_and_metrics_is_judged_by_its_loss(tmp_path):
    x, targets = several()
    model = functional({kind: output for kind, (output, _) in KINDS.items()})
    data = ((x, targets), (x[:100], {k: y[:100] for k, y in targets.items()}))
    result = tt.prune(model, data, 0.5, tmp_path, **QUICK)
    assert result.settings["monitor"] == "val_loss"
    assert {"val_digit_accuracy", "val_size_mae"} <= set(result.after.metrics)
    assert result.notes[0].count(": Adam, ") == 4
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert set(loaded.predict(x[:2], verbose=0)) == set(KINDS)


@pytest.mark.matrix
def test_frozen_layers_stay_and_the_given_model_does_not_change():
    model = compiled(cnn())
    model.get_layer("conv").trainable = False
    before = [np.array(w) for w in model.get_weights()]
    result = tt.prune(model, digits(), 0.5, **QUICK)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    conv = result.model.get_layer("conv")
    assert not conv.trainable
    np.testing.assert_array_equal(conv.get_weights()[0], before[0])
    assert not any("conv" in path for path in result.ticket.masks)
    model.trainable = False
    with pytest.raises(ValueError, match="nothing to prune"):
        tt.prune(model, digits(), 0.5, **QUICK)


@pytest.mark.matrix
def test_a_wrapped_model_continues_and_its_pruned_weights_stay_pruned():
    wrapped = tt.wrap(compiled(cnn()), verbose=False)
    masks = {path: mask.copy() for path, mask in tt.kernels(wrapped).masks.items()}
    masks["cnn/hidden/kernel"][:100] = False
    tt.kernels(wrapped).set_masks(masks)
    result = tt.prune(wrapped, digits(), 0.9, **QUICK)
    assert "was wrapped before: 33.2%" in result.notes[0]
    assert result.sparsity == pytest.approx(0.9, abs=1e-3)
    hidden = result.model.get_layer("hidden").get_weights()[0]
    assert not hidden[:100].any() and hidden.any()
    assert not isinstance(result.model.layers[0], tt.layers.Prunable)


@pytest.mark.matrix
def test_a_subclassed_model_is_changed_in_place():
    @keras.saving.register_keras_serializable("test_prune_command")
    class Net(keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.flat = keras.layers.Flatten()
            self.out = keras.layers.Dense(10, name="out")

        def call(self, inputs):
            return self.out(self.flat(inputs))

    model = Net()
    model(np.zeros((1, 8, 8, 1)))
    compiled(model)
    result = tt.prune(model, digits(), 0.5, **QUICK)
    assert result.model is model
    assert zeros(model) == pytest.approx(0.5, abs=1e-3)
    assert result.latency == {} and "changed in place" in " ".join(result.notes)


# Learning rates.


@pytest.mark.parametrize(
    "rate, expected", [(0.25, 0.25), ("decay", 0.1), ("scaled", 0.5)]
)
def test_the_learning_rate_is_that_of_the_optimizer_or_a_tenth_of_its_schedule(
    rate, expected
):
    decay = keras.optimizers.schedules.CosineDecay(1.0, decay_steps=10)
    optimizer = keras.optimizers.SGD(decay if rate == "decay" else 0.25)
    if rate == "scaled":
        inner = keras.optimizers.SGD(0.5, momentum=0.9)
        optimizer = keras.optimizers.LossScaleOptimizer(inner)
    optimizer.build([keras.Variable(np.ones(2))])
    if rate == "decay":
        optimizer.iterations.assign(10)  # Its present rate is 0.
    found, origin = learning_rates.fine_tuning_rate(optimizer)
    assert found == pytest.approx(expected)
    new = learning_rates.with_rate(optimizer, found)
    assert type(new) is type(optimizer)
    assert float(new.learning_rate) == pytest.approx(expected)
    assert ("schedule" in origin) == (rate == "decay")


# What is said.


def measured(accuracy=0.9, loss=0.5, size=900):
    metrics = {"val_accuracy": accuracy, "val_loss": loss}
    return Measured(metrics, 40, 40, 32, 32, {".keras": size})


def with_test(validation, test):
    found = measured(validation)
    return dataclasses.replace(found, metrics={**found.metrics, "test_accuracy": test})


SAID = [
    (measured(0.895), "val_accuracy", None),
    (measured(0.85), "val_accuracy", "WORSE: val_accuracy fell from 0.9000 to 0.8500"),
    (measured(float("nan")), "val_accuracy", "WORSE: val_accuracy fell"),
    (measured(loss=0.54), "val_loss", None),
    (measured(loss=0.6), "val_loss", "WORSE: val_loss rose from 0.5000 to 0.6000"),
    (with_test(0.95, 0.8), "val_accuracy", "WORSE: test_accuracy fell from 0.9000"),
    (measured(size=990), "val_loss", "LARGER: the .keras has 990 bytes, 10.0% more"),
]


@pytest.mark.parametrize("row", range(len(SAID)))
def test_what_became_worse_or_larger_is_said_first(row):
    after, monitor, expected = SAID[row]
    slower = {"Keras": {1: {"median": 1.1, "quartiles": [1, 1.2], "seconds": [1, 1]}}}
    before = with_test(0.9, 0.9) if "test_accuracy" in after.metrics else measured()
    outcome = Outcome(before, after, slower, Unstructured(), monitor)
    lines = remarks(outcome)
    if expected is None:
        assert not any(line.startswith(("WORSE", "LARGER")) for line in lines)
    else:
        assert lines[0].startswith(expected)
    assert any("Zeros do not make Keras faster" in line for line in lines)


# The .tflite file.


@pytest.mark.matrix
@pytest.mark.on("tensorflow")
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_the_tflite_file_agrees_with_the_model(precision, trained, tmp_path):
    interpreters = pytest.importorskip("ai_edge_litert.interpreter")
    settings = {**QUICK, "precision": precision}
    result = tt.prune(trained, digits(), 0.9, tmp_path, **settings)
    assert result.export.precision == precision
    assert set(result.latency) == {"Keras", ".tflite"}
    path = tmp_path / "model.tflite"
    assert path.stat().st_size == result.after.bytes[".tflite"]
    runner = interpreters.Interpreter(str(path)).get_signature_runner()
    x = digits().x_test[:1]
    if precision == "float32":
        [found] = runner(image=x.astype("float32")).values()
        expected = result.model.predict(x, verbose=0)
        np.testing.assert_allclose(found, expected, atol=1e-4)
    assert "csr" in str(result.export) or precision == "int8"
    assert pruner.FILES.keys() <= {p.name for p in tmp_path.iterdir()}
