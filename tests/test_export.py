"""Exported files are small, and predict what the model predicts."""

import http.client
import itertools
import json
import pathlib
import runpy
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import xml.etree.ElementTree

import keras
import numpy as np
import pytest
import tiny
from keras import layers as kl

import tf_tickets as tt
from tf_tickets import wrapping
from tf_tickets.exporting import (
    artefact_runner,
    export_report,
    exporter,
    formats,
    verification,
)
from tf_tickets.exporting.saved_model import packing
from tf_tickets.exporting.tflite import file
from tf_tickets.exporting.verification import ExportError
from tf_tickets_cli import main

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"
ON_TENSORFLOW = keras.config.backend() == "tensorflow"
by_tensorflow = pytest.mark.skipif(
    not ON_TENSORFLOW, reason="written by TensorFlow; see the test of the other way"
)
pytestmark = pytest.mark.usefixtures("forked_interpreters")


def wrapped(sparsity=0.9):
    """Builds a wrapped model of several layer types, with random masks."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3), name="image"),
            kl.Conv2D(16, 3, activation="relu", name="conv"),
            kl.BatchNormalization(name="norm"),
            kl.Flatten(),
            kl.Dropout(0.3),
            kl.Dense(48, activation="relu", name="hidden"),
            kl.Dense(10, name="output"),
        ],
        name="net",
    )
    model.get_layer("norm").moving_mean.assign(np.linspace(-0.2, 0.3, 16))
    model = tt.wrap(model, verbose=False)
    masks = wrapping.kernels(model).masks.items()
    rng = np.random.default_rng(0)
    wrapping.kernels(model).set_masks(
        {p: rng.random(m.shape) >= sparsity for p, m in masks}
    )
    return model


X = np.random.default_rng(1).normal(size=(40, 8, 8, 3)).astype("float32")


def answers(model):
    return keras.ops.convert_to_numpy(model(X, training=False))


@pytest.mark.fresh
@by_tensorflow
def test_a_wrapped_model_is_written_and_stays_as_it_is(tmp_path):
    model = wrapped()
    before = model.get_weights(), answers(model)
    report = tt.export(model, tmp_path / "a", data=X)
    assert tiny.same(model.get_weights(), before[0])
    assert (answers(model) == before[1]).all() and wrapping.prunables(model)
    assert set(report.errors) == {1, 32} and max(report.errors.values()) < 1e-6
    assert report.sizes["sparse"] < 0.5 * report.sizes["dense"]
    ways = {row.name: row.encoding for row in report.tensors}
    assert ways["net/hidden/kernel"] == "packed"
    assert ways["net/output/bias"] == "joined"
    assert "decoded when the model is loaded" in str(report)
    report.save(tmp_path / "report.json")
    again = tt.ExportReport.from_json((tmp_path / "report.json").read_text())
    assert again == report
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "report.json"]


def drawn(seed):
    """Builds a small network of random layers, with single zeros or blocks."""
    rng = np.random.default_rng(seed)
    keras.utils.set_random_seed(seed)
    x = image = keras.Input((8, 8, 4), name="image")
    for _ in range(3):
        x = rng.choice(LAYERS)(x)
        x = rng.choice([kl.BatchNormalization, kl.ReLU])()(x)
    if rng.random() < 0.5:
        x = kl.Add()([x, kl.Conv2D(x.shape[-1], 1)(x)])
    x = kl.Flatten()(x)
    outputs = [kl.Dense(int(n), "tanh")(x) for n in rng.integers(3, 90, 2)]
    model = tt.wrap(keras.Model(image, outputs), depthwise=True, verbose=False)
    sparsity = rng.choice([0.0, 0.4, 0.9, 0.97, 0.99])
    masks = wrapping.kernels(model).masks.items()
    wrapping.kernels(model).set_masks(
        {p: zeros(rng, m.shape, sparsity) for p, m in masks}
    )
    return model


LAYERS = [
    lambda x: kl.Conv2D(9, 3, padding="same", strides=2)(x),
    lambda x: kl.Conv2D(16, 1, groups=1, activation="relu")(x),
    lambda x: kl.DepthwiseConv2D(3, padding="same", depth_multiplier=2)(x),
    lambda x: kl.SeparableConv2D(12, 3, padding="same")(x),
    lambda x: kl.Conv2DTranspose(6, 2, strides=2)(x),
    lambda x: kl.Dense(10, activation="relu")(x),
]


def zeros(rng, shape, sparsity):
    if rng.random() < 0.5 or shape[0] % 4:
        return rng.random(shape) >= sparsity
    return np.repeat(rng.random((shape[0] // 4, *shape[1:])) >= sparsity, 4, axis=0)


FORMATS = ["saved_model", "tflite", "keras"]


@by_tensorflow
@pytest.mark.parametrize(
    "seed, format",
    tiny.marked(
        list(itertools.product(range(5), FORMATS)),
        [(seed, FORMATS[seed % 3]) for seed in range(5)],
    ),
)
def test_random_networks_give_the_same_in_every_format(tmp_path, seed, format):
    """Runs the files as `verification` does, but in this process."""
    if format == "tflite":
        pytest.importorskip("ai_edge_litert")
    model = drawn(seed)
    x = np.random.default_rng(seed).normal(size=(5, 8, 8, 4)).astype("float32")
    suffix = {"saved_model": "", "tflite": ".tflite", "keras": ".keras"}[format]
    path = tmp_path / f"a{suffix}"
    tt.export(model, path, format, verify=False)
    job = {"trainable": False, "nest": "image", "path": [], "modules": []}
    call = artefact_runner.LOADERS[format](str(path), job)
    for batch in (1, 5):
        actual = call({"image": x[:batch]})
        actual = [actual[name] for name in sorted(actual)]
        expected = [np.asarray(y) for y in model(x[:batch], training=False)]
        if format == "tflite":
            actual.sort(key=lambda array: array.shape)
            expected.sort(key=lambda array: array.shape)
        for one, other in zip(actual, expected, strict=True):
            np.testing.assert_allclose(one, other, atol=2e-5 * abs(other).max())


LOADED = """
import sys, numpy as np, tensorflow as tf
x = np.load(sys.argv[1])

def run(path):
    loads = [tf.saved_model.load(path) for _ in "12"]
    found = [m.signatures["serving_default"](image=tf.constant(x)) for m in loads]
    second = loads.pop()
    loads.clear()
    found.append(second.signatures["serving_default"](image=tf.constant(x)))
    import keras
    layer = keras.layers.TFSMLayer(path, call_endpoint="serving_default")
    found.append(layer(x))
    found = [f["output_0"].numpy() for f in found]
    v1 = tf.compat.v1
    with v1.Graph().as_default(), v1.Session() as session:
        meta = v1.saved_model.loader.load(session, ["serve"], path)
        ends = meta.signature_def["serving_default"]
        found.append(session.run(ends.outputs["output_0"].name,
                                 {ends.inputs["image"].name: x}))
    return np.stack(found)

found = [run(path) for path in sys.argv[3:]]
assert "tf_tickets" not in sys.modules
np.save(sys.argv[2], np.stack(found))
"""


@by_tensorflow
def test_a_saved_model_is_loaded_without_this_library(tmp_path, monkeypatch):
    """Loads it by TF 2 twice in a process, as a Keras layer, and by TF 1's loader."""
    model = wrapped()
    tt.export(model, tmp_path / "a", data=X, verify=False)
    # Values too large for the graph are stored in the files of the variables.
    monkeypatch.setattr("tf_tickets.exporting.saved_model.inference.GRAPH_LIMIT", 0)
    tt.export(model, tmp_path / "b", data=X, verify=False)
    np.save(tmp_path / "x.npy", X)
    files = [tmp_path / name for name in ("x.npy", "y.npy", "a", "b")]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LOADED, *files],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result = np.load(tmp_path / "y.npy")
    assert result.shape[:2] == (2, 5)
    for each in result.reshape(10, *result.shape[2:]):
        np.testing.assert_allclose(each, answers(model), atol=1e-5)


def train(loaded, x, y, steps=10):
    """Trains with weight decay and momentum, which would revive pruned weights."""
    import tensorflow as tf

    optimizer = keras.optimizers.AdamW(0.01)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    losses = []
    for _ in range(steps):
        with tf.GradientTape() as tape:
            value = loss(y, loaded(tf.constant(x), training=True))
            value += sum(penalty() for penalty in loaded.regularization_losses)
        variables = list(loaded.trainable_variables)
        gradients = tape.gradient(value, variables)
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
        losses.append(float(value))
    return losses


@by_tensorflow
def test_a_saved_model_is_trained_on_and_keeps_its_zeros(tmp_path):
    import tensorflow as tf

    model = wrapped()
    report = tt.export(model, tmp_path / "a", trainable=True, data=X)
    assert report.sizes["sparse"] < 0.9 * report.sizes["dense"]
    loaded = tf.saved_model.load(tmp_path / "a")
    kept = [int(mask.sum()) for mask in wrapping.kernels(model).masks.values()]
    vectors = [v.shape[0] for v in loaded.trainable_variables if len(v.shape) == 1]
    assert set(kept) <= set(vectors)
    means = [v.numpy() for v in loaded.variables if "mean" in v.name]
    losses = train(loaded, X, np.arange(40) % 10)
    assert losses[-1] < 0.8 * losses[0]
    served = loaded.signatures["serving_default"](image=tf.constant(X))["output_0"]
    assert abs(served.numpy() - answers(model)).max() > 0.1
    # Statistics have changed, and the trained model is small when it is saved again.
    after = [v.numpy() for v in loaded.variables if "mean" in v.name]
    assert all((a != b).any() for a, b in zip(means, after, strict=True)) and means
    tf.saved_model.save(loaded, tmp_path / "b")


@by_tensorflow
def test_a_saved_model_to_train_is_a_layer_of_keras(tmp_path):
    tt.export(wrapped(), tmp_path / "a", trainable=True, verify=False)
    layer = kl.TFSMLayer(
        tmp_path / "a", call_endpoint="serving_default", call_training_endpoint="train"
    )
    image = keras.Input((8, 8, 3))
    model = keras.Model(image, layer(image)["output_0"])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss)
    losses = model.fit(X, np.arange(40) % 10, epochs=8, verbose=0).history["loss"]
    assert losses[-1] < 0.95 * losses[0]


@pytest.mark.on("tensorflow")
def test_a_keras_file_is_deflated_and_loads_in_stock_keras(tmp_path):
    model = wrapped()
    report = tt.export(model, tmp_path / "a.keras", data=X)
    assert report.format == "keras"
    assert set(report.errors) == {1, 32} and max(report.errors.values()) < 1e-6
    assert report.sizes["sparse"] < 0.5 * report.sizes["dense"]
    plain = keras.saving.load_model(tmp_path / "a.keras")
    assert not wrapping.prunables(plain)
    np.testing.assert_allclose(answers(plain), answers(model), atol=1e-5)


@pytest.mark.on("tensorflow")
def test_a_keras_file_to_train_keeps_its_zeros(tmp_path):
    report = tt.export(wrapped(), tmp_path / "a.keras", "keras", trainable=True, data=X)
    assert set(report.errors) == {1, 32} and max(report.errors.values()) < 1e-6
    model = tiny.compiled(keras.saving.load_model(tmp_path / "a.keras"))
    masks = wrapping.kernels(model).masks
    model.fit(X, np.arange(40) % 10, epochs=2, verbose=0)
    plain = wrapping.stripped_copy(model)
    kernels = [v for v in plain.trainable_variables if len(v.shape) > 1]
    for kernel, mask in zip(kernels, masks.values(), strict=True):
        values = keras.ops.convert_to_numpy(kernel)
        assert not values[~mask].any() and values[mask].all()


@by_tensorflow
@pytest.mark.parametrize("precision", ["float32", "float16", "dynamic", "int8"])
def test_a_tflite_file_of_every_precision(tmp_path, precision):
    pytest.importorskip("ai_edge_litert")
    path = tmp_path / "a.tflite"
    report = tt.export(wrapped(0.95), path, "tflite", precision=precision, data=X)
    assert max(report.errors.values()) < verification.TOLERANCES[precision]
    assert report.sizes["sparse_gzipped"] < 1.3 * report.sizes["dense_gzipped"]
    if precision == "float32":
        ways = {row.encoding for row in report.tensors}
        assert ways == {"csr", "densify"}
        assert report.sizes["sparse"] < 0.3 * report.sizes["dense"]
    if precision in ("dynamic", "int8"):
        assert "Compress the file with gzip" in str(report)


@by_tensorflow
def test_weights_are_not_lost_on_the_way_to_tflite(tmp_path):
    """TensorFlow's converter silently loses them if a Keras model is their owner."""
    litert = pytest.importorskip("ai_edge_litert.interpreter")
    import tensorflow as tf

    model = wrapping.stripped_copy(wrapped())
    serve = tf.function(lambda image: model(image, training=False))
    concrete = serve.get_concrete_function(tf.TensorSpec((None, 8, 8, 3), name="image"))
    convert = tf.lite.TFLiteConverter.from_concrete_functions
    lost = convert([concrete], model).convert()
    tt.export(model, tmp_path / "a.tflite", "tflite", verify=False)
    whole = (tmp_path / "a.tflite").read_bytes()
    assert len(lost) < 10_000 < len(whole)
    result = []
    for content in (lost, whole):
        interpreter = litert.Interpreter(model_content=content)
        index = interpreter.get_input_details()[0]["index"]
        interpreter.resize_tensor_input(index, X.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(index, X)
        interpreter.invoke()
        index = interpreter.get_output_details()[0]["index"]
        result.append(interpreter.get_tensor(index))
    assert not np.allclose(result[0], answers(model), atol=1e-2)
    np.testing.assert_allclose(result[1], answers(model), atol=1e-4)


@by_tensorflow
def test_a_ticket_is_exported_with_the_model_trained_from_it(tmp_path):
    pytest.importorskip("ai_edge_litert")
    search = tiny.imp(rounds=1, rate=0.9)
    model = tiny.network()
    tiny.run(model, search)
    [ticket] = search.tickets
    path = tmp_path / "a.tflite"
    report = tt.export(ticket, path, "tflite", model=model)
    assert report.provenance["ticket"] == ticket.id
    kept = json.loads(file.metadata(path.read_bytes())["tf_tickets"])
    assert kept["ticket"] == ticket.id and kept["method"] == "imp"
    with pytest.raises(ValueError, match="weights that the ticket prunes are not zero"):
        tt.export(ticket, tmp_path / "b.tflite", "tflite", model=tiny.build())
    with pytest.raises(TypeError, match="export.ticket, path, model=model"):
        tt.export(ticket, tmp_path / "b.tflite", "tflite")


@by_tensorflow
def test_what_is_wrong_is_not_handed_over(tmp_path, monkeypatch):
    real = packing.pack
    monkeypatch.setattr(packing, "pack", lambda array: real(1.01 * array))
    (tmp_path / "a").write_text("before")
    with pytest.raises(ExportError, match="differs from the model by"):
        tt.export(wrapped(), tmp_path / "a", data=X, overwrite=True)
    assert (tmp_path / "a").read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    monkeypatch.undo()
    tt.export(wrapped(), tmp_path / "a", data=X, overwrite=True, verify=False)
    assert (tmp_path / "a" / "saved_model.pb").exists()


@keras.saving.register_keras_serializable("tests")
def test_a_file_that_does_not_load_elsewhere_is_not_written(tmp_path):
    class Unknown(kl.Layer):
        def call(self, x):
            return 2.0 * x

    model = keras.Sequential([keras.Input((3,)), kl.Dense(2), Unknown()])
    said = r"Another process cannot load \['Unknown'\]\. Define them in a module"
    with pytest.raises(ValueError, match=said):
        tt.export(model, tmp_path / "a.keras", "keras")
    assert not list(tmp_path.iterdir())
    tt.export(model, tmp_path / "a.keras", "keras", verify=False)


def test_several_inputs_and_outputs_keep_their_names():
    left, right = keras.Input((3,), name="left"), keras.Input((4,), name="right")
    both = kl.Concatenate()([left, right])
    outputs = {"one": kl.Dense(2)(both), "two": kl.Dense(1)(both)}
    model = keras.Model({"left": left, "right": right}, outputs)
    takes = exporter.signature.of_model(model)
    assert [one.name for one in takes.inputs] == ["left", "right"]
    named = takes.named({"left": np.ones((2, 3)), "right": np.ones((2, 4))})
    assert {name: array.shape for name, array in named.items()} == {
        "left": (2, 3),
        "right": (2, 4),
    }
    assert set(takes.nested(named)) == {"left", "right"}
    with pytest.raises(ValueError, match=r"must have examples of shape \(3,\)"):
        takes.named({"left": np.ones((2, 5)), "right": np.ones((2, 4))})


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = kl.Dense(3)

    def call(self, x):
        return self.dense(x)


@by_tensorflow
def test_a_subclassed_model_needs_inputs(tmp_path):
    model = Subclassed()
    model(np.ones((1, 4)))
    with pytest.raises(ValueError, match="data=x"):
        tt.export(model, tmp_path / "a")
    x = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
    report = tt.export(model, tmp_path / "a", data=x)
    # As many as there are.
    assert set(report.errors) == {1, 8}
    wrapping.wrap(model, verbose=False)
    with pytest.raises(ValueError, match=r"tf_tickets.strip\(model\)"):
        tt.export(model, tmp_path / "b", data=x)


@pytest.mark.skipif(ON_TENSORFLOW, reason="for other backends")
# By default, test_export_models.py has a SavedModel written.
@pytest.mark.parametrize("format", tiny.marked(["saved_model", "tflite"], ["tflite"]))
def test_other_backends_have_it_written_by_tensorflow(tmp_path, format):
    pytest.importorskip("tensorflow")
    pytest.importorskip("ai_edge_litert")
    path = tmp_path / {"saved_model": "a", "tflite": "a.tflite"}[format]
    run = format == "saved_model"
    report = tt.export(wrapped(), path, format, data=X, verify=run)
    assert path.exists() and max(report.errors.values(), default=0.0) < 1e-5
    assert bool(report.errors) == run
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@by_tensorflow
def test_the_example_exports_and_what_it_wrote_is_served(tmp_path, monkeypatch):
    """Sends a client's request to the path that the example prints."""
    pytest.importorskip("ai_edge_litert")
    folder, load = tmp_path / "exported", tt.datasets.load
    monkeypatch.setattr(tt.datasets, "load", lambda name: load(name).take(64))
    monkeypatch.setattr(sys, "argv", ["export_a_ticket.py", str(folder)])
    actual = runpy.run_path(str(EXAMPLES / "export_a_ticket.py"))
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["lenet.keras", "lenet.tflite", "serve", "train"]
        + [f"{name}.json" for name in ("lenet.keras", "lenet.tflite", "serve", "train")]
    )
    images = actual["images"]
    expected = actual["trainer"].model(images, training=False)
    expected = keras.ops.convert_to_numpy(expected)
    script = runpy.run_path(str(EXAMPLES / "serve_a_model.py"))
    with script["server"](str(folder / "serve"), 0) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        base = f"http://localhost:{serving.server_port}/v1/models"
        answer = asked(f"{base}/model:predict", {"instances": images.tolist()})
        with pytest.raises(urllib.error.HTTPError, match="400"):
            asked(f"{base}/model:predict", {"instances": [[1.0]]})
        with pytest.raises(urllib.error.HTTPError, match="404"):
            asked(f"{base}/other:predict", {"instances": []})
        serving.shutdown()
    np.testing.assert_allclose(answer["predictions"], expected, atol=1e-4)


@pytest.fixture(scope="module")
def logarithms(tmp_path_factory):
    """Serves the logarithm of two numbers; yields the port."""
    tf = pytest.importorskip("tensorflow")

    class Logarithm(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None, 2), name="x")])
        def serve(self, x):
            return {"y": tf.math.log(x)}

    folder, module = str(tmp_path_factory.mktemp("serve")), Logarithm()
    tf.saved_model.save(module, folder, signatures=module.serve)
    script = runpy.run_path(str(EXAMPLES / "serve_a_model.py"))
    script["Handler"].timeout /= 10  # Three seconds.
    with script["server"](folder, 0) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield serving.server_port
        serving.shutdown()


def answered(port, body, length=None):
    """Returns the status and the content of the answer to a request."""
    connection = http.client.HTTPConnection("localhost", port, timeout=20)
    connection.putrequest("POST", "/v1/models/model:predict")
    if length != "":
        connection.putheader("Content-Length", length or str(len(body)))
    connection.endheaders(body)
    response = connection.getresponse()
    return response.status, json.loads(response.read(), parse_constant=invalid)


def invalid(constant):
    raise AssertionError(f"invalid JSON: {constant}")


@by_tensorflow
@pytest.mark.parametrize(
    "length, status",
    [("-1", 411), ("x", 411), ("", 411), ("\u00b2", 411), ("9" * 12, 413)],
)
def test_the_server_answers_a_wrong_length_at_once(logarithms, length, status):
    started = time.monotonic()
    actual, content = answered(logarithms, b"", length)
    assert actual == status and "error" in content
    assert time.monotonic() - started < 5


@by_tensorflow
@pytest.mark.parametrize(
    "body, status",
    [
        (b'{"instances": [[1, 1]]}', 200),
        (b'{"instances": [[-1, 1]]}', 500),
        (b'{"instances": [[0, 1]]}', 500),
        (b'{"instances": [[NaN, 1]]}', 400),
        (b'{"instances": [[1e999, 1]]}', 500),
        (b'{"instances": [[1' + b"0" * 400 + b", 1]]}", 400),
        (b'{"instances": [["a", 1]]}', 400),
        (b'{"instances": [[1], [1, 2]]}', 400),
        (b'{"instances": {}}', 400),
        (b"[1]", 400),
        (b"", 400),
        (b"\xff", 400),
        (b"[" * 100_000, 400),
    ],
)
def test_the_server_answers_any_body_with_valid_json(logarithms, body, status):
    actual, content = answered(logarithms, body)
    assert (actual, list(content)) == (
        status,
        ["predictions" if status == 200 else "error"],
    )


@by_tensorflow
def test_the_server_does_not_wait_for_a_body_that_never_comes(logarithms):
    request = b"POST /v1/models/model:predict HTTP/1.1\r\nContent-Length: 9\r\n\r\n"
    with socket.create_connection(("localhost", logarithms), timeout=20) as connection:
        connection.sendall(request)
        assert connection.recv(1) == b""


def asked(address, content):
    body = json.dumps(content).encode()
    with urllib.request.urlopen(address, body) as response:
        return json.load(response)


@pytest.mark.parametrize(
    "given, message",
    [
        ({"format": "h5"}, "Received: 'h5'"),
        ({"format": "tflite"}, "must end in '.tflite'. Received: "),
        ({"precision": "int4"}, "Received: 'int4'"),
        ({"precision": "int8"}, "precision='int8'"),
        ({"format": "tflite", "trainable": True, "to": "a.tflite"}, "trainable=True"),
        ({"format": "tflite", "precision": "int8", "to": "a.tflite"}, "data=x"),
        ({"to": "there"}, "exists already"),
        ({"to": "a.h5"}, r"'.h5' is no export format.*.keras, .onnx, .tflite"),
        ({"to": "net-0.5"}, "pass format='saved_model'"),
        ({"format": "tflite", "to": "a.onnx"}, "must end in '.tflite'.*a.onnx"),
        ({"format": "keras", "to": "a.bin"}, "must end in '.keras'"),
        (
            {"format": "saved_model", "to": "a.keras"},
            "'.keras' is the suffix of a file",
        ),
        ({"data": np.ones((3, 2))}, "must have examples of shape"),
        ({"data": [X, X]}, "one array for each input"),
    ],
)
def test_bad_arguments_are_refused_and_nothing_is_written(tmp_path, given, message):
    (tmp_path / "there").mkdir()
    path = tmp_path / given.pop("to", "a")
    with pytest.raises(ValueError, match=message):
        tt.export(wrapped(), path, **given)
    assert [file.name for file in tmp_path.iterdir()] == ["there"]


@pytest.mark.parametrize("name", ["model.tflite", "folder"])
def test_a_stateful_recurrent_layer_is_refused_by_name(name, tmp_path):
    inputs = keras.Input(batch_shape=(2, 3, 4))
    layer = kl.Bidirectional(kl.LSTM(3, stateful=True, name="memory"))
    model = keras.Model(inputs, layer(inputs))
    with pytest.raises(ValueError, match="forward_memory.*stateful=False"):
        tt.export(model, tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "path, given, format",
    [
        ("a.keras", [], "keras"),
        ("a.tflite", [], "tflite"),
        ("a.b.onnx", [], "onnx"),
        ("folder", [], "saved_model"),
        ("some.where/folder", [], "saved_model"),
        (".hidden", [], "saved_model"),
        ("net-0.5", ["saved_model"], "saved_model"),
        ("a.onnx", ["onnx"], "onnx"),
        ("folder", ["saved_model"], "saved_model"),
    ],
)
def test_the_suffix_selects_the_format(path, given, format):
    assert formats.choose(pathlib.Path(path), *given) == format


def test_only_models_that_are_built_are_exported(tmp_path):
    with pytest.raises(ValueError, match="must be built"):
        tt.export(keras.Sequential([kl.Dense(3)]), tmp_path / "a")
    with pytest.raises(TypeError, match="Received: 3"):
        tt.export(3, tmp_path / "a")


def test_onnx_says_what_is_missing(tmp_path, monkeypatch):
    find = exporter.onnx_file.importlib.util.find_spec
    monkeypatch.setattr(
        exporter.onnx_file.importlib.util,
        "find_spec",
        lambda name: None if name == "onnx" else find(name),
    )
    with pytest.raises(ImportError, match="pip install onnx"):
        tt.export(wrapped(), tmp_path / "a.onnx", "onnx")


def _two_of_each():
    """Two inputs and two outputs, neither in the order of their names."""
    b, a = keras.Input((5,), name="b"), keras.Input((3,), name="a")
    outputs = {"z": kl.Dense(2, name="z")(b), "c": kl.Dense(4, name="c")(a)}
    return keras.Model([b, a], outputs)


@pytest.mark.filterwarnings("ignore:In the future `np.object`:FutureWarning")
def test_onnx_gives_what_the_model_gives_under_its_names(tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("tf2onnx" if ON_TENSORFLOW else "jax2onnx")
    runtime = pytest.importorskip("onnxruntime")
    subclassed = Subclassed()
    subclassed(np.zeros((1, 6), "float32"))
    rows = np.ones((3, 6), "float32")
    for model, data, names in (
        (wrapped(), None, ["output_0"]),
        (_two_of_each(), None, ["c", "z"]),
        (subclassed, rows, ["output_0"]),
    ):
        to = tmp_path / f"{model.name}.onnx"
        assert max(tt.export(model, to, "onnx", data=data).errors.values()) < 1e-5
        session = runtime.InferenceSession(to)
        assert sorted(one.name for one in session.get_outputs()) == names


def test_the_command_line_exports(tmp_path, capsys):
    wrapped().save(tmp_path / "m.keras")
    np.savez(tmp_path / "x.npz", x_test=X)
    command = ["export", str(tmp_path / "m.keras"), str(tmp_path / "small.keras")]
    more = ["--data", str(tmp_path / "x.npz"), "--report", str(tmp_path / "r.json")]
    assert main.main([*command, *more]) == 0
    assert "batch 32: largest error" in capsys.readouterr().out
    assert json.loads((tmp_path / "r.json").read_text())["format"] == "keras"
    assert main.main(command) == 2
    assert "exists already" in capsys.readouterr().err


def test_long_names_of_fused_operators_do_not_make_the_table_of_a_report_wide():
    name = "model/re_lu_1/Relu;model/batch_normalization_1/x;model/conv2d_1/Conv2D"
    row = export_report.Stored(name, (3, 3, 16, 32), 0.5, "csr", "smaller")
    sizes = {"sparse": 50, "dense": 100, "bound": 40}
    settings = ("a.tflite", "tflite", "float32", 0.5, sizes, [row])
    report = tt.ExportReport(*settings)
    [line] = [line for line in str(report).splitlines() if "3x3x16x32" in line]
    assert line.startswith("model/re_lu_1/Relu...")
    assert "...el/conv2d_1/Conv2D " in line and len(line) < 88
    assert tt.ExportReport.from_json(report.to_json()).tensors[0].name == name


def test_notebooks_show_an_export_report_as_escaped_html():
    report = tt.ExportReport(
        "a&b.tflite",
        "tflite",
        "float32",
        0.5,
        {"sparse": 50, "dense": 100, "bound": 40},
        [export_report.Stored("<w>", (3, 2), 0.5, "csr", "smaller")],
        {1: 1e-6},
        {1: {"median": 0.5, "quartiles": [0.4, 0.6]}},
        ["x < y"],
    )
    assert repr(report) == str(report)
    text = report._repr_html_().replace("<br>", " | ")
    page = xml.etree.ElementTree.fromstring(f"<div>{text}</div>")
    assert [cell.text for cell in page.iter("td")] == [
        *("<w>", "3x2", "50.0%", "csr", "smaller")
    ]
    head, rest = (paragraph.text for paragraph in page.iter("p"))
    assert head.startswith("a&b.tflite: tflite, float32, 50.0% zeros |")
    assert rest == (
        "batch 1: largest error 1.0e-06 of the largest output, latency relative to "
        "dense 0.50 (0.40 to 0.60) | x < y"
    )
