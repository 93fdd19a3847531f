"""Models, data and settings of the user's own on the command line."""

import argparse
import json
import pathlib
import pickle
import re
import sys
import tomllib
import types

import keras
import numpy as np
import pytest

import tf_tickets as tt
from tf_tickets.fine_tuning import target_kinds
from tf_tickets_cli import (
    choices,
    loading,
    main,
    methods,
    own_data,
    own_model,
    references,
    settings_file,
)
from tf_tickets_cli import search as search_command
from tf_tickets_cli.experiment import Experiment
from tf_tickets_cli.settings import Setting

pytestmark = pytest.mark.turns("jax")

MODELS = """
import keras
import numpy as np
import tf_tickets as tt


def network(input_shape, num_classes):
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input(input_shape),
            layers.Rescaling(1 / 255),
            layers.Conv2D(3, 3, strides=4, activation="relu", name="conv"),
            layers.Flatten(),
            layers.Dense(num_classes, activation="softmax", name="head"),
        ],
        name="network",
    )


def regression(input_shape):
    model = keras.Sequential([keras.Input(input_shape), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model


def signals():
    return keras.Sequential(
        [
            keras.Input((12, 2)),
            keras.layers.Conv1D(4, 3, activation="relu"),
            keras.layers.GlobalAveragePooling1D(),
            keras.layers.Dense(3),
        ]
    )


def not_a_model():
    return 3


def unbuilt():
    return keras.Sequential([keras.layers.Dense(2)])


class Batches(keras.utils.PyDataset):
    num_classes = 3

    def __len__(self):
        return 3

    def reorder(self, key):
        self.rng = np.random.default_rng(key)

    def __getitem__(self, index):
        return self.rng.normal(size=(8, 12, 2)), self.rng.integers(0, 3, 8)


def arrays():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(48, 12, 2)), np.arange(48) % 3
    return (x[:24], y[:24]), (x[24:36], y[24:36]), (x[36:], y[36:])


def streamed(batch_size=8):
    return tt.TrainingData(Batches(), Batches(), name="streamed")


def needy(answer):
    return arrays()


no_function = 3
"""


def save_photos(folder, each=12):
    rng = np.random.default_rng(0)
    for name, mean in (("cat", 60), ("dog", 180)):
        (folder / name).mkdir(parents=True)
        for number in range(each):
            image = np.clip(rng.normal(mean, 20, (10, 12, 3)), 0, 255)
            keras.utils.save_img(folder / name / f"{number}.jpg", image, scale=False)


def save_model(path, **layer):
    """Saves a compiled network for signals, trained for a step."""
    model = keras.Sequential(
        [
            keras.Input((12, 2)),
            keras.layers.Flatten(),
            keras.layers.Dense(5, activation="relu", **layer),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )
    optimizer = keras.optimizers.SGD(0.5, momentum=0.8)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.optimizer.build(model.trainable_variables)
    model.save(path)
    return model


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a user's modules, photos, table, arrays and model."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "users_models.py").write_text(MODELS)
    save_photos(folder / "photos")
    rng = np.random.default_rng(0)
    rows = [f"{a:.3f},{b:.3f},{a - b:.3f}" for a, b in rng.normal(size=(60, 2))]
    (folder / "prices.csv").write_text("\n".join(["a,b,price", *rows]))
    x, y = rng.normal(size=(60, 12, 2)), np.arange(60) % 3
    arrays = {"x_train": x[:40], "y_train": y[:40], "x_test": x[40:], "y_test": y[40:]}
    np.savez(folder / "signals.npz", **arrays)
    # Other weights than those of the seeds in the tests.
    keras.utils.set_random_seed(9)
    save_model(folder / "signals.keras")
    return folder


@pytest.fixture
def inside(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield place
    sys.modules.pop("users_models", None)


def run(*words):
    return main.main([str(word) for word in words])


def refused(capsys, *words):
    """Runs a command that is refused in one line, and returns the line."""
    assert run(*words) == 2
    error = capsys.readouterr().err
    assert error.startswith("tf-tickets: ") and error.count("\n") == 1
    return error


# Models.


def first_kernel(model):
    return keras.ops.convert_to_numpy(model.layers[1].kernel)


def test_a_model_of_a_file_gets_new_weights_by_the_seed(inside):
    stored = keras.saving.load_model("signals.keras")
    build = {seed: own_model.builder("signals.keras", seed) for seed in (0, 1)}
    model, same, other = build[0](), build[0](), build[1]()
    np.testing.assert_array_equal(first_kernel(model), first_kernel(same))
    for one in (other, stored):
        assert not np.array_equal(first_kernel(model), first_kernel(one))
    assert [one.name for one in model.layers] == [one.name for one in stored.layers]
    assert model.optimizer.get_config() == stored.optimizer.get_config()
    assert int(model.optimizer.iterations) == 0
    np.testing.assert_array_equal(
        first_kernel(own_model.load("signals.keras")), first_kernel(stored)
    )


def test_frozen_and_adapted_layers_keep_their_weights(tmp_path):
    scale = keras.layers.Normalization()
    scale.adapt(np.array([[1.0, 5.0], [3.0, 9.0]]))
    frozen = keras.layers.Dense(3, trainable=False, name="frozen")
    layers = [keras.Input((2,)), scale, frozen, keras.layers.Dense(1, name="head")]
    model = keras.Sequential(layers)
    model.compile("adam", "mse")
    model.save(tmp_path / "a.keras")
    own = own_model.OwnModel(str(tmp_path / "a.keras"))
    built = own.build()
    for old, new, is_kept in zip(
        model.layers, built.layers, [True, True, False], strict=True
    ):
        equal = all(map(np.array_equal, old.get_weights(), new.get_weights()))
        assert equal == is_kept
    assert own.notes == (
        f"frozen or adapted layers keep their weights: {scale.name}, frozen",
    )


def test_a_wrapped_file_is_stripped_and_one_with_learned_masks_refused(tmp_path):
    model = save_model(tmp_path / "plain.keras")
    wrapped = tt.wrap(model, verbose=False)
    wrapped.save(tmp_path / "wrapped.keras")
    own = own_model.OwnModel(str(tmp_path / "wrapped.keras"))
    built = own.build()
    assert "was wrapped; its masks are not used" in own.notes[0]
    assert not tt.kernels(built) and built.optimizer.momentum == 0.8
    learned = tt.ContinuousSparsification(1, 1).wrap(
        save_model(tmp_path / "b.keras"), verbose=False
    )
    learned.save(tmp_path / "learned.keras")
    with pytest.raises(ValueError, match="has learned masks.*Strip it first"):
        own_model.OwnModel(str(tmp_path / "learned.keras"))


def test_a_model_is_pickled_by_its_name(inside, monkeypatch):
    own = own_model.OwnModel("users_models.py:signals")
    data = pickle.dumps(own)
    monkeypatch.chdir("/")
    assert pickle.loads(data).build().output_shape == (None, 3)


INTEGERS, ONE_HOT = np.array([0, 1, 1]), np.eye(3, dtype="float32")
NUMBERS = np.array([0.5, 0.2, 7.0])
LINEAR = (3, None)
LOSSES = {
    "logits": ((3, None), INTEGERS, "sparse categorical cross-entropy from logits"),
    "softmax": ((3, "softmax"), INTEGERS, "cross-entropy from probabilities"),
    "one-hot": ((3, "softmax"), ONE_HOT, "categorical cross-entropy from prob"),
    "sigmoid": ((1, "sigmoid"), INTEGERS, "binary cross-entropy from probabilities"),
    "binary": ((1, None), INTEGERS, "binary cross-entropy from logits"),
    "floats": ((1, None), INTEGERS * 1.0, "binary cross-entropy from logits"),
    "several": ((3, "sigmoid"), 1 - ONE_HOT, "binary cross-entropy from probabilities"),
    "numbers": ((1, None), NUMBERS, "mean squared error"),
    "vectors": ((2, None), NUMBERS[:, None] * [1.0, 2.0], "mean squared error"),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_model_that_is_not_compiled_gets_the_loss_of_its_targets(name):
    (units, activation), y, expected = LOSSES[name]
    layer = keras.layers.Dense(units, activation=activation)
    model = keras.Sequential([keras.Input((4,)), layer])
    x = np.ones((len(y), 4))
    text = own_model.compile_by_targets(model, (x, y), "--model m:f")
    assert expected in text and text.startswith("Adam, ")
    logs = model.evaluate(x, y, verbose=0, return_dict=True)
    assert set(logs) == {"loss", "mae" if "mean" in expected else "accuracy"}
    assert own_model.compile_by_targets(model, None, "") is None


@pytest.mark.parametrize(
    "layer, y",
    [
        ((3, "relu"), INTEGERS),
        ((3, None), NUMBERS),
        ((1, "sigmoid"), NUMBERS),
        ((1, None), INTEGERS * 5),
        ((2, "softmax"), ONE_HOT),
        ((3, None), None),
    ],
    ids=["relu", "numbers", "sigmoid", "counts", "classes", "unknown"],
)
def test_a_loss_that_is_not_known_is_not_guessed(layer, y):
    units, activation = layer
    last = keras.layers.Dense(units, activation=activation)
    model = keras.Sequential([keras.Input((4,)), last])
    with pytest.raises(ValueError, match=r"--model m:f .*model.compile\(optimizer"):
        own_model.compile_by_targets(model, (None, y), "--model m:f")


def test_all_known_targets_decide_the_loss(monkeypatch):
    y = np.zeros(64)
    y[40:] = np.linspace(0.5, 3, 24)
    x = np.ones((64, 4))
    make = {"zeros": (x, y), "bits": (x, (y > 0) * 1.0)}
    mine = types.SimpleNamespace(
        zeros=lambda: (make["zeros"], make["zeros"]),
        contrary=lambda: (make["bits"], make["zeros"]),
    )
    monkeypatch.setitem(sys.modules, "mine", mine)

    def model():
        return keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])

    data = own_data.load("mine:zeros")
    known = data.known_targets
    text = own_model.compile_by_targets(model(), data.sample, "--model m:f", known)
    assert text == "Adam, mean squared error"
    text = target_kinds.compile_by_targets(model(), x[:8], y, {"validation": y})
    assert text.startswith("numbers")
    data = own_data.load("mine:contrary")
    message = "m:f is not compiled. .*from 0 to 3 for validation"
    with pytest.raises(ValueError, match=message):
        own_model.compile_by_targets(
            model(), data.sample, "--model m:f", data.known_targets
        )
    with pytest.raises(ValueError, match=r"of 0 and 1.*from 0 to 3 for test"):
        target_kinds.compile_by_targets(model(), x[:8], make["bits"][1], {"test": y})


def test_a_class_that_is_not_registered_is_named(tmp_path):
    class Own(keras.layers.Layer):
        def call(self, x):
            return x

    keras.Sequential([keras.Input((4,)), Own()]).save(tmp_path / "a.keras")
    with pytest.raises(ValueError, match=r"a.keras has the class 'Own', .*py:function"):
        loading.load_model(str(tmp_path / "a.keras"))


def test_activations_are_found_at_the_end_of_nested_models():
    inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    image = keras.Input((4,))
    ends = {
        "softmax": [
            keras.Model(image, keras.layers.Softmax()(inner(image))),
            keras.Model(image, keras.layers.Activation("softmax")(inner(image))),
            keras.Model(image, keras.ops.softmax(inner(image))),
            keras.Sequential([keras.Input((4,)), inner, keras.layers.Softmax()]),
        ],
        "linear": [inner, keras.Sequential([keras.Input((4,)), inner])],
        "relu": [keras.Model(image, keras.layers.ReLU()(inner(image)))],
        "sigmoid": [keras.Model(image, keras.ops.sigmoid(inner(image)))],
        None: [keras.Model(image, keras.layers.Flatten()(inner(image)))],
    }
    for expected, models in ends.items():
        assert {target_kinds.last_activation(m) for m in models} == {expected}


def test_the_activation_of_a_shared_layer_is_that_of_the_call_that_makes_the_output():
    first, second = keras.Input((4,)), keras.Input((4,))
    shared = keras.layers.Dense(1, activation="sigmoid")
    hidden, output = shared(first), shared(second)
    model = keras.Model([first, second], [output, keras.layers.Dense(1)(hidden)])
    found = [target_kinds.last_activation(model, index) for index in (0, 1)]
    assert found == ["sigmoid", "linear"]
    again = keras.Model(first, shared(first) * 1.0)
    assert target_kinds.last_activation(again) is None


def test_a_layer_of_the_users_is_not_taken_for_an_activation_by_its_name():
    for name in ("Get", "Linear", "Softmax"):
        kind = type(name, (keras.layers.Layer,), {"call": lambda self, x: x})
        model = keras.Sequential([keras.Input((4,)), kind()])
        assert target_kinds.last_activation(model) is None


# Data.


def test_every_kind_of_data_says_what_a_network_must_know(inside):
    kinds = {
        ("digits", ""): ((8, 8, 1), 10, 1150),
        ("signals.npz", "own"): ((12, 2), 3, 32),
        ("photos", "own"): ((10, 12, 3), 2, 20),
        ("prices.csv", ""): ((2,), None, 36),
        ("users_models.py:arrays", ""): ((12, 2), 3, 24),
        ("users_models:streamed", ""): ((12, 2), 3, None),
    }
    for (spec, own), expected in kinds.items():
        given = {"own_model": bool(own), "batch_size": 8}
        if spec == "prices.csv":
            given["target_column"] = "price"
        data = own_data.load(spec, given)
        found = data.input_shape, data.num_classes, data.rows
        assert found == expected, spec
        sizes = f"{data.rows:,} training, " if data.rows else "training, validation"
        assert data.sizes().startswith(sizes)
        steps = data.rows // 8 if data.rows else 3
        assert data.steps_per_epoch(8) == steps
        assert data.examples("test", 2).shape == (2, *data.input_shape)


def test_a_network_of_ones_own_gets_a_table_as_it_is(inside):
    with open("prices.csv") as table:
        header = table.readline().strip().split(",")
        rows = np.loadtxt(table, delimiter=",")
    inputs = np.delete(rows, header.index("price"), axis=1)
    given = {"target_column": "price", "own_model": True}
    data = own_data.load("prices.csv", given)
    assert data.notes[-1] == "scaling none"
    low, high = inputs.min(0).astype("float32"), inputs.max(0).astype("float32")
    parts = [data.parts[name][0] for name in ("train", "validation", "test")]
    np.testing.assert_array_equal(np.concatenate(parts).min(0), low)
    np.testing.assert_array_equal(np.concatenate(parts).max(0), high)
    given["own_model"] = False
    scaled = own_data.load("prices.csv", given).parts["train"][0]
    np.testing.assert_allclose(scaled.mean(0), 0.0, atol=1e-5)


def test_examples_of_several_inputs_keep_their_names():
    x = {"a": np.arange(80.0).reshape(40, 2), "b": np.arange(40.0)}
    part = x, np.arange(40)
    made = own_data.OwnData(tt.TrainingData(part, part), "several", None, None, None)
    found = made.examples("train", 35)
    assert found["a"].shape == (35, 2)
    np.testing.assert_array_equal(found["b"], x["b"][:35])


def test_take_leaves_the_first_examples(inside):
    for spec in ("digits", "photos", "users_models:arrays"):
        given = {"take": 9, "batch_size": 3, "own_model": True}
        assert own_data.load(spec, given).rows == 9
        assert own_data.load(spec, given).name.endswith("[:9]")
    with pytest.raises(ValueError, match="--take applies to arrays"):
        own_data.load("users_models:streamed", {"take": 9})


REFUSED = {
    "column": (["--data", "prices.csv"], "needs --target-column NAME"),
    "idle column": (["--target-column", "a"], "--target-column does not apply"),
    "idle size": (["--image-size", "3"], "--image-size does not apply to --data dig"),
    "no column": (
        ["--data", "prices.csv", "--target-column", "x"],
        "prices.csv has no column 'x'. Found: a, b, price.",
    ),
    "classifier": (
        ["--data", "prices.csv", "--target-column", "price"],
        "have no known classes. Received: inputs of shape (2,), None classes.",
    ),
    "width": (["--model", "signals.keras", "--width", "2"], "--width applies to"),
    "shape": (
        ["--model", "signals.keras", "--data", "photos", "--batch-size", "4"],
        "does not fit the data photos: inputs of shape",
    ),
    "module": (["--model", "users_nothing:f"], "There is no module users_nothing."),
    "file": (["--model", "nothing.py:f"], "--model: there is no file nothing.py."),
    "function": (
        ["--model", "users_models:absent"],
        "users_models has no function absent. Found: arrays, ",
    ),
    "not callable": (["--model", "users_models:no_function"], "has no function"),
    "no model": (["--model", "users_models:not_a_model"], "Received: int"),
    "unbuilt": (["--model", "users_models:unbuilt"], "must return a built model"),
    "needy": (["--data", "users_models:needy"], "cannot be called without answer"),
    "no data": (["--data", "users_models:signals"], "must return a tf_tickets.Tr"),
    "batches": (
        ["--data", "users_models:Batches", "--batch-size", "3"],
        "must return a tf_tickets.TrainingData",
    ),
    "score": (["--method", "imp", "--score", "1"], "--score belongs to the method cs"),
    "sparsity": (["--method", "cs", "--sparsity", "0.5"], "kdlts, snip, grasp, syn"),
    "controls": (["--method", "cs", "--no-controls"], "belongs to the method imp."),
    "structure": (["--method", "cs", "--structure", "2:4"], "belongs to the method"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_used_is_refused_before_any_work(inside, capsys, name):
    options, message = REFUSED[name]
    assert message in refused(capsys, "search", *options, "--out", "out")
    assert not pathlib.Path("out").exists()


def test_a_file_with_the_name_of_another_module_is_refused(tmp_path):
    (tmp_path / "json.py").write_text("def build(): pass")
    with pytest.raises(ValueError, match="has the name of another module, json"):
        references.resolve(f"{tmp_path / 'json.py'}:build", "--model")


# Settings.


def test_settings_of_a_file_are_options_and_the_command_line_wins(tmp_path, capsys):
    file = tmp_path / "a.toml"
    file.write_text('data = "there.npz"\nbatch_size = 3\nno-controls = true\n')
    top, commands = main.parsers()
    words = ["search", "--settings", str(file), "--batch-size", "5"]
    options = settings_file.applied(top, commands, top.parse_args(words), words)
    assert (options.data, options.batch_size, options.no_controls) == (
        *("there.npz", 5, True),
    )
    assert options.model == "lenet300"
    assert "there.npz" in refused(capsys, "search", "--settings", file)


@pytest.mark.parametrize(
    "text, message",
    [
        ("epoch = 3", "unknown setting 'epoch'. Settings of tf-tickets search: batch-"),
        ('epochs = "3"', "epochs must be a whole number. Received: '3'"),
        ("epochs = true", "epochs must be a whole number. Received: True"),
        ("tolerance = [1]", "tolerance must be a number. Received: [1]"),
        ("data = 3", "data must be a text. Received: 3"),
        ('method = "obd"', "method must be one of cs, iss, imp"),
        ("no-controls = 1", "no-controls must be true or false. Received: 1"),
        ("drop-columns = 'a'", "drop-columns must be a list. Received: 'a'"),
        ("rate = {a = 'b'}", "rate.a must be a number. Received: 'b'"),
        ('command = "train"', "has the settings of tf-tickets train. Received by"),
        ("epochs =", "a.toml is not a TOML file: Invalid value"),
        ("settings = 'b.toml'", "unknown setting 'settings'"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(tmp_path, capsys, text, message):
    file = tmp_path / "a.toml"
    file.write_text(text)
    assert message in refused(capsys, "search", "--settings", file)


def test_settings_are_read_as_they_were_written():
    values = {
        "data": 'a "b" \\ \n é \x7f 𝄞',
        "image_size": [3, 4],
        "rate": {"output/kernel": 0.1, ".": 1e-7},
        "no_controls": True,
        "seed": 12,
        "tolerance": 1e16,
    }
    options = argparse.Namespace(command="search", traceback=True, **values)
    content = tomllib.loads(settings_file.text_of("search", options, {}))
    assert content.pop("command") == "search"
    assert {key.replace("-", "_"): value for key, value in content.items()} == values


def parsers():
    return [*main.parsers()[1].items()]


def shown(default):
    if isinstance(default, list):
        return " ".join(map(shown, default))
    return f"{default:g}" if isinstance(default, float) else str(default)


@pytest.mark.parametrize("command, parser", parsers(), ids=[n for n, _ in parsers()])
def test_every_help_text_names_the_default(command, parser):
    for action in parser._actions:
        is_option = action.option_strings and action.help != argparse.SUPPRESS
        if not is_option or action.nargs == 0:
            continue
        defaults = re.findall(r"\(default: ([^()]+)", action.help)
        assert len(defaults) == 1, f"{command} {action.option_strings}"
        if action.default is not None:
            said = defaults[0].split(",")[0].split(";")[0].rstrip(")")
            assert said == shown(action.default), f"{command} {action.option_strings}"


# Whole commands.

SMALL = ["--epochs", "1", "--rounds", "1", "--batch-size", "8"]
OWN = ["--model", "users_models.py:network", "--data", "photos"]


@pytest.fixture(scope="module")
def found(place):
    """The folder of a search over photos with a user's network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr(sys, "path", [*sys.path])
        assert run("search", *SMALL, *OWN, "--no-controls", "--out", "found") == 0
    return place / "found"


def test_a_search_over_photos_is_repeated_by_its_settings(
    found, inside, capsys, monkeypatch
):
    results = json.loads((found / "results.json").read_text())
    assert (results["dataset"], results["model"]) == ("photos", "network")
    settings = tomllib.loads((found / "settings.toml").read_text())
    assert settings["version"] == tt.__version__ and settings["seed"] == 0
    assert settings["data"] == str(inside / "photos")
    assert settings["model"] == f"{inside / 'users_models.py'}:network"
    assert (settings["image-size"], settings["scaling"]) == ([10, 12], "none")
    assert (settings["rate"], settings["batch-size"]) == (0.2, 8)
    monkeypatch.chdir("/")
    monkeypatch.setattr(keras.Model, "fit", None)
    before = (found / "settings.toml").read_text()
    assert run("search", "--settings", found / "settings.toml") == 0
    printed = capsys.readouterr().out
    assert "network on photos: 20 training images" in printed
    assert "compiled: Adam, sparse categorical cross-entropy from prob" in printed
    assert "images of 10x12 from" in printed and "2 classes: cat, dog" in printed
    assert "This search is complete, nothing was trained." in printed
    assert (found / "settings.toml").read_text() == before


def test_another_search_in_the_folder_keeps_its_settings(found, inside, capsys):
    before = (found / "settings.toml").read_text()
    command = ["search", *SMALL, *OWN, "--no-controls", "--seed", "1"]
    (found / "results.json").rename(found / "results.kept")
    try:
        assert "holds another search" in refused(capsys, *command, "--out", found)
    finally:
        (found / "results.kept").rename(found / "results.json")
    assert (found / "settings.toml").read_text() == before


@pytest.mark.matrix
def test_settings_repeat_a_search_elsewhere_to_the_bit(found, inside, tmp_path):
    settings = found / "settings.toml"
    assert run("search", "--settings", settings, "--out", tmp_path / "again") == 0
    again = tmp_path / "again"
    for name in ("best.ticket", "round_01.ticket"):
        assert tt.Ticket.load(again / name) == tt.Ticket.load(found / name)
    assert (again / "results.json").read_text() == (found / "results.json").read_text()


SEARCHES = {
    "npz and file": ["--data", "signals.npz", "--model", "signals.keras"],
    "table": [
        *("--data", "prices.csv", "--target-column", "price"),
        *("--model", "users_models:regression"),
    ],
    "function": ["--data", "users_models.py:arrays", "--model", "users_models:signals"],
    "stream": ["--data", "users_models:streamed", "--model", "signals.keras"],
    "built-in data": ["--take", "64", "--model", "users_models:network"],
    "built-in network": [
        *("--data", "photos", "--image-size", "8", "--model", "conv2"),
        *("--width", "0.1"),
    ],
}


@pytest.mark.matrix
@pytest.mark.parametrize("name", SEARCHES)
def test_own_things_are_searched_trained_compared_and_exported(
    inside, tmp_path, capsys, name
):
    own, out = SEARCHES[name], tmp_path / "out"
    search = ["search", *SMALL, *own, "--no-controls"]
    assert run(*search, "--out", out) == 0
    printed = capsys.readouterr().out
    results = json.loads((out / "results.json").read_text())
    is_table, has_test = name == "table", name != "stream"
    metric = "loss" if is_table else "accuracy"
    assert results["metric"] == f"{'test' if has_test else 'val'}_{metric}"
    assert f"{'test' if has_test else 'validation'} {metric}" in printed
    assert (out / "curve.png").stat().st_size > 1000
    trained = tmp_path / "trained.keras"
    few = ["--epochs", "1", "--batch-size", "8"]
    assert run("train", out / "best.ticket", *few, *own, "--out", trained) == 0
    settings = tmp_path / "trained.settings.toml"
    again = tmp_path / "again.keras"
    assert run("train", "--settings", settings, "--out", again) == 0
    models = [keras.saving.load_model(f) for f in (trained, again, out / "model.keras")]
    for weights in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_array_equal(weights[0], weights[1])
        np.testing.assert_array_equal(weights[0], weights[2])
    folder = tmp_path / "frontier"
    methods = ["--methods", "imp", "snip", "--sparsities", "0.5"]
    assert run("frontier", *SMALL, *own, *methods, "--out", folder) == 0
    compared = json.loads((folder / "frontier.json").read_text())
    assert len(compared["points"]) == 2
    assert tomllib.loads((folder / "settings.toml").read_text())["rounds"] == 1
    data = ["--data", "digits"] if "--take" in own else own[: own.index("--model")]
    exported = ["export", out / "model.keras", tmp_path / "a.keras", *data]
    assert run(*exported) == 0


@pytest.mark.matrix
# One epoch is too short for stage one to stop early.
@pytest.mark.filterwarnings("ignore:.*without improvement:UserWarning")
@pytest.mark.parametrize("method", choices.METHODS)
def test_search_runs_every_method(tmp_path, capsys, method):
    few = ["--take", "64", "--width", "0.1", *SMALL]
    command = ["search", *few, "--method", method, "--out", tmp_path / "s"]
    assert run(*command) == 0
    printed = capsys.readouterr().out
    results = json.loads((tmp_path / "s" / "results.json").read_text())
    assert results["method"] == method
    files = {path.name for path in (tmp_path / "s").iterdir()}
    expected = {"best.ticket", "model.keras", "table.txt", "settings.toml"}
    assert expected <= files
    with_controls = "reinit" in results["rows"][0]
    assert with_controls == (method == "imp")
    assert len(results["rows"]) == 1 and "round 1, sparsity " in printed
    assert ("teacher 3  epoch 1/1" in printed) == (method == "kdlts")
    assert results["resume"] == "bit"
    best = tt.Ticket.load(tmp_path / "s" / "best.ticket")
    kept = {"kdlts", "snip", "grasp", "synflow"}
    if method in kept:
        assert best.sparsity == pytest.approx(0.9, abs=0.01)
    model = keras.saving.load_model(tmp_path / "s" / "model.keras")
    zeros = sum(int((w == 0).sum()) for w in model.get_weights())
    assert zeros >= sum(int((~m).sum()) for m in best.masks.values())
    assert run(*command) == 0
    assert "This search is complete, nothing was trained." in capsys.readouterr().out


@pytest.mark.matrix
def test_results_of_another_tolerance_or_without_controls_are_made_again(
    tmp_path, capsys
):
    out = tmp_path / "s"
    few = ["--take", "64", "--width", "0.1", *SMALL, "--out", out]
    snip = ["search", *few, "--method", "snip", "--sparsity", "0.5"]
    for tolerance in (0.01, 0.5):
        assert run(*snip, "--tolerance", tolerance) == 0
        results = json.loads((out / "results.json").read_text())
        settings = tomllib.loads((out / "settings.toml").read_text())
        assert results["options"]["tolerance"] == settings["tolerance"] == tolerance
    few[-1] = tmp_path / "imp"
    for option, has_controls in ((["--no-controls"], False), ([], True)):
        assert run("search", *few, *option) == 0
        results = json.loads((few[-1] / "results.json").read_text())
        assert ("reinit" in results["rows"][0]) == has_controls
    assert "nothing was trained" not in capsys.readouterr().out


def test_the_best_ticket_is_the_sparsest_within_the_tolerance(tmp_path):
    options = {"take": 50, "tolerance": 0.05, "epochs": 1}
    setting = Setting("digits", "lenet300", options=options)
    search = methods.build_search(setting, "cs", score=-0.1)
    assert search.initial_score == -0.1
    assert methods.build_search(setting, "snip").final_sparsity == 0.9
    with pytest.raises(ValueError, match="--sparsity belongs to the method"):
        methods.used_options("cs", None, 0.5)

    rows = [
        {"round": n, "sparsity": n / 10, "ticket": metric, "val_accuracy": metric}
        for n, metric in enumerate((0.95, 0.86, 0.8), 1)
    ]
    choose = Experiment(setting, tmp_path, "cs").choose
    assert choose(rows, {"val_accuracy": 0.9}) == (rows[1], True)
    assert choose(rows, {"val_accuracy": 1.01}) == (rows[0], False)
    results = {
        "rows": rows,
        "best_round": 1,
        "dense": 1.01,
        "monitor": "val_accuracy",
        "dense_val_accuracy": 1.01,
        "options": {"tolerance": 0.05},
    }
    assert search_command.verdict(results).startswith("Best: round 1, sparsity 10.0%")
    assert search_command.verdict({**results, "within_tolerance": False}).startswith(
        "No ticket is within the tolerance 0.05 of the dense network (val_accuracy "
        "1.0100). The best by val_accuracy (0.9500) is kept: round 1, sparsity 10.0%"
    )
