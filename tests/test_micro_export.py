"""Exports for TensorFlow Lite Micro, and what reports say of quantized files."""

import itertools
import json
import pathlib
import re

import keras
import numpy as np
import pytest
import tiny
import warm
from keras import layers as kl

import tf_tickets as tt
from tf_tickets import wrapping
from tf_tickets.exporting import artefact_runner, storage, verification
from tf_tickets.exporting.micro import (
    comparison,
    decoder,
    encoder,
    interpreter,
    micro_file,
)
from tf_tickets.exporting.tflite import converter, file, layers, zeros
from tf_tickets.exporting.verification import ExportError
from tf_tickets_cli import main

ON_TENSORFLOW = keras.config.backend() == "tensorflow"
by_tensorflow = pytest.mark.skipif(
    not ON_TENSORFLOW, reason="written by TensorFlow; see the test of the other way"
)
pytestmark = pytest.mark.usefixtures("forked_interpreters")
X = np.random.default_rng(1).normal(size=(40, 8, 8, 3)).astype("float32")


def network(sparsity=0.9):
    """Builds a small plain network with random zeros."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3), name="image"),
            kl.Conv2D(16, 3, use_bias=False, name="conv"),
            kl.BatchNormalization(name="norm"),
            kl.ReLU(name="relu"),
            kl.DepthwiseConv2D(3, name="depthwise"),
            kl.Flatten(name="flatten"),
            kl.Dense(96, "relu", name="hidden"),
            kl.Dense(10, name="output"),
        ],
        name="net",
    )
    model = tt.wrap(model, verbose=False)
    rng = np.random.default_rng(0)
    masks = wrapping.kernels(model).masks.items()
    wrapping.kernels(model).set_masks(
        {p: rng.random(m.shape) >= sparsity for p, m in masks}
    )
    return tt.strip(model)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The report of an int8 export as a C array, and the bytes in the array."""
    pytest.importorskip("ai_edge_litert")
    if not ON_TENSORFLOW:
        pytest.skip("written by TensorFlow")
    path = tmp_path_factory.mktemp("micro") / "a-net.cc"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("subprocess.run", warm.run)
        report = tt.export(network(), path, data=X)
    numbers = re.findall(r"0x([0-9a-f]{2}),", path.read_text())
    return report, bytes.fromhex("".join(numbers))


def test_pruned_kernels_take_less_flash(exported):
    report, content = exported
    stored = {row.name: row for row in report.tensors}
    assert {row.encoding for row in stored.values()} == {"decode", "dense"}
    hidden = next(row for row in stored.values() if row.shape == (96, 256))
    assert (hidden.encoding, hidden.bytes_before) == ("decode", 96 * 256)
    mask, header = 96 * 256 // 8, 16
    kept = round((1 - hidden.sparsity) * hidden.bytes_before)
    assert hidden.bytes_after == mask + header + kept
    assert report.sizes["sparse"] == len(content) < report.sizes["dense"] / 2
    assert report.precision == "int8" and set(report.errors) == {1}
    assert report.errors[1] < 0.1 and report.ratios == {}


def test_the_report_says_what_it_costs(exported):
    report, _ = exported
    assert report.arena["sparse"] >= 96 * 256 > report.arena["dense"]
    text = str(report)
    assert f"-> {report.sizes['sparse']:,} bytes, plus the decoder's code" in text
    assert f"-> {report.arena['sparse']:,} bytes of the tensor arena" in text
    assert "MicroOptions(max_ram=...)" in text
    assert "inference is not faster" in text and "LiteRT" in text
    assert f"arena  {report.arena['sparse']:>12,} bytes predicted" in text
    assert "bytes" in text.splitlines()[6] and "24,576 ->" in text
    again = tt.ExportReport.from_json(report.to_json())
    assert again == report


def test_the_report_says_whether_the_interpreter_ran(exported):
    report, _ = exported
    text = report.remarks[-1]
    if interpreter.is_installed():
        assert "32 examples, and all 4 weights" in text
    else:
        assert "Not run by TensorFlow Lite Micro" in text


def test_the_report_has_the_error_of_each_layer(exported):
    report, _ = exported
    assert len(report.layers) == 4
    assert all(0 < error < 0.1 for error in report.layers.values())
    name, error = max(report.layers.items(), key=lambda pair: pair[1])
    text = f"Largest errors of quantized layers, accumulated: {name} {error:.1%}"
    assert text in str(report)


def test_every_zero_is_followed_into_the_file(exported):
    report, _ = exported
    count = sum(int((w == 0).sum()) for w in network().get_weights() if w.ndim > 1)
    assert any(f"All {count:,} zeros of kernels are zeros" in r for r in report.remarks)


def test_litert_refuses_the_file(exported):
    litert = pytest.importorskip("ai_edge_litert.interpreter")
    _, content = exported
    with pytest.raises(RuntimeError, match="TFLM_DECODE"):
        litert.Interpreter(model_content=content).allocate_tensors()


def test_a_c_array_is_aligned_and_named_after_its_file(exported):
    report, content = exported
    path = pathlib.Path(report.path)
    text = path.read_text()
    assert "alignas(16) const unsigned char g_a_net[]" in text
    assert f"g_a_net_size = {len(content)};" in text
    assert [file.name for file in path.parent.iterdir()] == ["a-net.cc"]


def pair(options):
    """Returns the dense and the encoded file of a matrix that was never converted."""
    micro_files = pytest.importorskip("micro_files")
    return micro_file.encoded_pair(micro_files.matrix(32, 64, 0.9), options)


def test_the_dense_file_has_the_same_options():
    dense, encoded = pair(tt.MicroOptions())
    bare, smaller = pair(tt.MicroOptions(names=False))
    assert [row.encoding for row in dense.rows] == ["dense"]
    assert [row.encoding for row in encoded.rows] == ["decode"]
    assert len(bare.content) < len(dense.content)
    assert len(smaller.content) < min(len(bare.content), len(encoded.content))


def test_nothing_is_encoded_beyond_the_ram():
    dense, encoded = pair(tt.MicroOptions(max_ram=1_000))
    assert encoded.content == dense.content
    assert "more than max_ram=1000" in encoded.rows[0].reason
    (remark,) = micro_file._flash(len(dense.content), len(encoded.content))
    assert "No kernel is encoded" in remark


def test_changed_weights_are_noticed():
    dense, _ = pair(tt.MicroOptions())
    micro_files = pytest.importorskip("micro_files")
    other = encoder.encode(micro_files.matrix(32, 64, 0.95))
    with pytest.raises(ExportError, match=r"weights \[0\] of the encoded file differ"):
        comparison.check_weights(dense.content, other.content)


@pytest.mark.parametrize(
    "given, message",
    [
        ({"precision": "dynamic", "data": X}, "8-bit weights with float32 activations"),
        ({"precision": "float16", "data": X}, "no kernels for float16 weights"),
        ({}, "precision='int8' needs examples"),
        ({"precision": "int16x8"}, "precision='int16x8' needs examples"),
        ({"to": "a.bin"}, "must end in '.cc' or '.tflite'"),
        ({"data": X, "trainable": True}, "can be trainable"),
        ({"data": X, "micro": {"max_ram": 3}}, "must be .*MicroOptions"),
        (
            {"to": "a.keras", "format": "keras", "micro": tt.MicroOptions()},
            "'tflite-micro' only. Received: format='keras'",
        ),
    ],
)
def test_bad_options_are_refused_before_anything_is_written(tmp_path, given, message):
    path, format = given.pop("to", "a.tflite"), given.pop("format", "tflite-micro")
    model = keras.Sequential([keras.Input((8, 8, 3)), kl.Flatten()])
    with pytest.raises((ValueError, TypeError), match=message):
        tt.export(model, tmp_path / path, format, **given)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("max_ram", [0, -1, 2.5, "1 MB"])
def test_a_limit_of_the_ram_is_a_number_of_bytes(max_ram):
    with pytest.raises(ValueError, match="`max_ram` must be a whole number"):
        tt.MicroOptions(max_ram=max_ram)


def test_a_fixed_batch_is_refused(tmp_path):
    image = keras.Input(batch_shape=(4, 3))
    model = keras.Model(image, kl.Dense(2)(image))
    with pytest.raises(ValueError, match="a fixed batch size of 4"):
        tt.export(model, tmp_path / "a.cc", data=np.ones((4, 3)))
    assert not list(tmp_path.iterdir())


@by_tensorflow
@pytest.mark.matrix
def test_missing_operators_are_named_and_nothing_is_written(tmp_path):
    image = keras.Input((8, 8, 3))
    model = keras.Model(image, kl.Conv2D(2, 1, activation="gelu")(image))
    with pytest.raises(ExportError, match="GELU; nothing was written"):
        tt.export(model, tmp_path / "a.tflite", "tflite-micro", data=X)
    assert not list(tmp_path.iterdir())


_CRASH = "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n"


def test_a_crash_of_the_converter_does_not_end_this_process(tmp_path, monkeypatch):
    script = tmp_path / "crash.py"
    script.write_text(_CRASH)
    monkeypatch.setattr(converter.conversion_runner, "__file__", str(script))
    files = [converter.Conversion(tmp_path / "a.tflite", "int8")]
    with pytest.raises(ExportError, match=r"signal 11 \(SIGSEGV\).*\n.*unroll=True"):
        converter._convert_elsewhere(tmp_path, files, {"image": X}, 1)
    assert not (tmp_path / "a.tflite").exists()


@by_tensorflow
@pytest.mark.matrix
def test_the_converter_says_briefly_what_it_refuses(tmp_path):
    steps = keras.Sequential([keras.Input((7, 3)), kl.LSTM(4), kl.Dense(2)])
    rows = np.random.default_rng(0).normal(size=(20, 7, 3))
    with pytest.raises(ExportError, match=r"unroll=True") as caught:
        tt.export(steps, tmp_path / "a.tflite", "tflite-micro", data=rows)
    assert len(str(caught.value)) < 800 and not list(tmp_path.iterdir())


# Zeros, errors of layers, and recommendations.


def test_lost_zeros_are_counted():
    micro_files = pytest.importorskip("micro_files")
    values = micro_files.values((32, 64), 0.9)
    content = micro_files.matrix(32, 64, 0.9)
    kernel = values.astype("float32").T
    (kept,) = zeros.follow(content, {"a/kernel": kernel})
    count = int((kernel == 0).sum())
    assert (kept.zeros, kept.lost) == (count, 0)
    row, column = np.argwhere(kernel != 0)[0]
    kernel[row, column] = 0
    (lost,) = zeros.follow(content, {"a/kernel": kernel})
    assert (lost.zeros, lost.lost) == (count + 1, 1)
    assert f"keeps {count:,} of {count + 1:,}" in zeros.remark([lost])
    (unknown,) = zeros.follow(content, {"b/kernel": np.zeros((3, 3))})
    assert unknown.lost is None and "b/kernel" in zeros.remark([kept, unknown])


@pytest.mark.parametrize(
    "shape, order",
    [
        ((3, 3, 4, 5), (3, 0, 1, 2)),
        ((3, 3, 4, 5), (2, 0, 1, 3)),
        ((3, 4, 5), (2, 0, 1)),
    ],
)
def test_kernels_are_recognized_in_any_order_of_their_axes(shape, order, monkeypatch):
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=shape) * (rng.random(shape) < 0.3)
    pattern = (kernel.transpose(order) == 0).ravel()
    other = rng.random(pattern.size) < 0.7
    found = zeros._follow("k", kernel, {pattern.size: [other, pattern]})
    assert found.lost == 0 and found.stored == found.zeros


def test_the_smallest_encoding_is_recommended_for_each_use():
    table = {"dense": 90_000, "gzip": 40_000, "sparse rows": 70_000, "DECODE": 50_000}
    text = storage._sentence(table)
    assert "Smallest to send: gzip. Smallest that LiteRT loads as it is: sparse" in text
    assert text.endswith("DECODE (format='tflite-micro').")
    text = storage._sentence({**table, "DECODE": 80_000, "gzip": 75_000})
    assert "Smallest to send: sparse rows" in text
    assert text.endswith("about 12 kB: dense.")


@by_tensorflow
@pytest.mark.matrix
@pytest.mark.parametrize("precision", ["int8", "int16x8"])
def test_plain_files_report_zeros_layers_and_bytes(tmp_path, precision):
    path = tmp_path / "a.tflite"
    report = tt.export(network(), path, data=X, precision=precision)
    assert len(report.layers) == 4 and max(report.layers.values()) < 0.1
    assert any("zeros of kernels are zeros in the file" in r for r in report.remarks)
    (text,) = (r for r in report.remarks if r.startswith("Bytes by encoding"))
    assert f"dense {report.sizes['dense']:,}" in text and "DECODE" in text
    assert report.arena == {}


@by_tensorflow
@pytest.mark.matrix
def test_the_error_of_a_layer_is_that_of_its_activations(tmp_path):
    """Compares with activations that Keras computes."""
    model = network()
    report = tt.export(model, tmp_path / "a.tflite", data=X, precision="int8")
    litert = pytest.importorskip("ai_edge_litert.interpreter")
    name = next(name for name in report.layers if "/Relu;" in name and "conv" in name)
    files = [converter.Conversion(tmp_path / "q.tflite", "int8")]
    takes = wrapping.signature.of_model(model)
    converter.write(model, takes, files, {"image": X})
    assert name in layers._computed((tmp_path / "q.tflite").read_bytes())
    interpreter = litert.Interpreter(
        str(tmp_path / "q.tflite"),
        experimental_op_resolver_type=(
            litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        ),
        experimental_preserve_all_tensors=True,
    )
    rows = artefact_runner._COMPARED
    expected = X[:rows]
    for layer in model.layers[:3]:
        expected = layer(expected)
    interpreter.allocate_tensors()
    tensor = next(t for t in interpreter.get_tensor_details() if t["name"] == name)
    scale, zero = tensor["quantization"]
    found = []
    for row in range(rows):
        interpreter.set_tensor(0, X[row : row + 1])
        interpreter.invoke()
        found.append((interpreter.get_tensor(tensor["index"]) - float(zero)) * scale)
    difference = np.concatenate(found) - np.asarray(expected)
    error = np.sqrt(np.square(difference).sum() / np.square(expected).sum())
    assert report.layers[name] == pytest.approx(error, rel=1e-3)


# The property: random models, structures of zeros, precisions and formats.


def drawn(seed, structure):
    """Builds a random small network with zeros of a structure, and its inputs."""
    rng = np.random.default_rng(seed)
    keras.utils.set_random_seed(seed)
    x = image = keras.Input((8, 8, 4), name="image")
    for _ in range(2):
        x = rng.choice(LAYERS)(x)
        x = rng.choice([kl.BatchNormalization, kl.ReLU])()(x)
    if rng.random() < 0.5:
        x = kl.Add()([x, kl.Conv2D(x.shape[-1], 1)(x)])
    x = rng.choice([kl.Flatten, kl.GlobalAveragePooling2D])()(x)
    x = kl.Dense(int(rng.integers(16, 64)), "relu")(x)
    model = tt.wrap(keras.Model(image, kl.Dense(8)(x)), depthwise=True, verbose=False)
    masks = wrapping.kernels(model).masks.items()
    wrapping.kernels(model).set_masks(
        {p: STRUCTURES[structure](rng, m.shape) for p, m in masks}
    )
    return tt.strip(model), rng.normal(size=(32, 8, 8, 4)).astype("float32")


LAYERS = [
    lambda x: kl.Conv2D(12, 3, padding="same", strides=2)(x),
    lambda x: kl.Conv2D(16, 1, activation="relu")(x),
    lambda x: kl.DepthwiseConv2D(3, padding="same", depth_multiplier=2)(x),
    lambda x: kl.SeparableConv2D(12, 3, padding="same")(x),
    lambda x: kl.Conv2DTranspose(6, 2, strides=2)(x),
    lambda x: kl.Conv2D(12, (1, 3), use_bias=False)(x),
]


def _two_of_four(rng, shape):
    if shape[-2] % 4:
        return np.ones(shape, bool)
    scores = rng.random((*shape[:-2], shape[-2] // 4, 4, shape[-1]))
    ranks = scores.argsort(axis=-2).argsort(axis=-2)
    return (ranks < 2).reshape(shape)


def _blocks(rng, shape):
    rows, columns = -(-shape[-2] // 4), -(-shape[-1] // 2)
    kept = rng.random((*shape[:-2], rows, columns)) < 0.2
    kept = kept.repeat(4, axis=-2).repeat(2, axis=-1)
    return kept[..., : shape[-2], : shape[-1]]


STRUCTURES = {
    "unstructured": lambda rng, shape: rng.random(shape) < 0.15,
    "2:4": _two_of_four,
    "channels": lambda rng, shape: np.broadcast_to(
        rng.random(shape[-1]) < 0.4, shape
    ).copy(),
    "blocks": _blocks,
    "nothing": lambda rng, shape: np.zeros(shape, bool),
}
WAYS = [("tflite-micro", p) for p in ("int8", "int16x8", "float32")]
WAYS += [("tflite", p) for p in ("int8", "int16x8")]
ROWS = [
    (seed, structure, format, precision)
    for seed, (structure, (format, precision)) in enumerate(
        itertools.product(STRUCTURES, WAYS)
    )
]


@by_tensorflow
@pytest.mark.parametrize(
    "seed, structure, format, precision", tiny.marked(ROWS, [ROWS[2]])
)
def test_random_networks_run_and_equal(tmp_path, seed, structure, format, precision):
    pytest.importorskip("ai_edge_litert")
    model, x = drawn(seed, structure)
    path = tmp_path / "a.tflite"
    report = tt.export(model, path, format, data=x, precision=precision, tolerance=0.5)
    pruned = sum(int((w == 0).sum()) for w in model.get_weights() if w.ndim > 1)
    if precision != "float32":
        # What is not zero may be, after it was rounded.
        stored = decoder.weights(path.read_bytes())
        assert sum(int((values == 0).sum()) for values in stored) >= pruned
        assert any("kernels are zeros in the file" in r for r in report.remarks)
    if format == "tflite-micro":
        assert report.sizes["sparse"] <= report.sizes["dense"]
        encoded = any(row.encoding == "decode" for row in report.tensors)
        assert encoded == (report.sizes["sparse"] < report.sizes["dense"])
        again = tmp_path / "b.tflite"
        tt.export(model, again, format, data=x, precision=precision, verify=False)
        assert again.read_bytes() == path.read_bytes()


@by_tensorflow
@pytest.mark.matrix
def test_without_the_interpreter_litert_runs_the_dense_file(tmp_path, monkeypatch):
    monkeypatch.setattr(interpreter, "is_installed", lambda: False)
    report = tt.export(network(), tmp_path / "a.cc", data=X)
    assert "Not run by TensorFlow Lite Micro" in report.remarks[-1]
    assert report.errors[1] < 0.1


@by_tensorflow
@pytest.mark.matrix
def test_provenance_is_kept_with_the_names(tmp_path):
    search = tiny.imp(rounds=1, rate=0.9)
    model = tiny.network()
    tiny.run(model, search)
    [ticket] = search.tickets
    data = np.random.default_rng(0).normal(size=(40, *model.input_shape[1:]))
    kept = {}
    for names in (True, False):
        path = tmp_path / f"{names}.tflite"
        options = tt.MicroOptions(names=names)
        report = tt.export(
            *(ticket, path, "tflite-micro"), model=model, data=data, micro=options
        )
        assert report.provenance["ticket"] == ticket.id
        kept[names] = file.metadata(path.read_bytes())
    assert json.loads(kept[True]["tf_tickets"])["ticket"] == ticket.id
    assert kept[False] == {}


@pytest.mark.matrix
@pytest.mark.skipif(ON_TENSORFLOW, reason="for other backends")
def test_other_backends_have_it_written_by_tensorflow(tmp_path):
    pytest.importorskip("tensorflow")
    pytest.importorskip("ai_edge_litert")
    options = tt.MicroOptions(names=False, max_ram=50_000)
    report = tt.export(network(), tmp_path / "a.cc", data=X, micro=options)
    assert report.path == str(tmp_path / "a.cc") and report.arena["sparse"] <= 50_000
    assert [file.name for file in tmp_path.iterdir()] == ["a.cc"]


@by_tensorflow
@pytest.mark.matrix
def test_the_command_line_writes_files_for_microcontrollers(tmp_path, capsys):
    network().save(tmp_path / "m.keras")
    np.savez(tmp_path / "x.npz", x_train=X)
    command = ["export", str(tmp_path / "m.keras"), str(tmp_path / "a.tflite")]
    command += ["--format", "tflite-micro", "--drop-names", "--max-ram", "50000"]
    assert main.main(command) == 2
    assert "--data FILE.npz" in capsys.readouterr().err
    assert main.main([*command, "--data", str(tmp_path / "x.npz")]) == 0
    assert "tflite-micro, int8" in capsys.readouterr().out
    assert pathlib.Path(tmp_path / "a.tflite").exists()


def test_a_difference_from_the_model_is_refused():
    with pytest.raises(ExportError, match="more than the tolerance of 0.1"):
        verification.checked_error({"a": np.ones(2)}, {"a": np.zeros(2)}, 1, 0.1)
