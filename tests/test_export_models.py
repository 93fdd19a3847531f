"""Models and inputs of users: which are exported correctly, which raise errors."""

import importlib
import json

import keras
import keras.layers as kl
import numpy as np
import pytest
import tiny

import tf_tickets as tt
from tf_tickets import wrapping
from tf_tickets.exporting import export_report, remarks
from tf_tickets.exporting.verification import ExportError
from tf_tickets.wrapping import signature

ON_TENSORFLOW = keras.config.backend() == "tensorflow"
by_tensorflow = pytest.mark.skipif(
    not ON_TENSORFLOW, reason="what TensorFlow writes is tried on TensorFlow"
)
pytestmark = pytest.mark.usefixtures("forked_interpreters")
X = np.random.default_rng(1).normal(size=(40, 20)).astype("float32")
Y = np.arange(40) % 10


def pruned(sparsity=0.9, width=60, **more):
    """Builds a plain compiled network with zeros, trained for an epoch."""
    keras.utils.set_random_seed(3)
    layers = [kl.Dense(width, "relu", name="f", **more), kl.Dense(10, name="g")]
    model = tt.wrap(keras.Sequential([keras.Input((20,)), *layers]), verbose=False)
    rng = np.random.default_rng(0)
    masks = wrapping.kernels(model).masks.items()
    wrapping.kernels(model).set_masks(
        {p: rng.random(m.shape) >= sparsity for p, m in masks}
    )
    return tiny.compiled(tt.strip(model))


def zeros(model):
    return [int((w == 0).sum()) for w in model.get_weights() if w.ndim > 1]


def loaded(path):
    import tensorflow as tf

    return tf.saved_model.load(path)


def test_a_plain_model_is_trained_on_with_its_zeros(tmp_path):
    model = pruned()
    tt.export(model, tmp_path / "a.keras", "keras", trainable=True, verify=False)
    again = tiny.compiled(keras.saving.load_model(tmp_path / "a.keras", compile=False))
    again.fit(X, Y, epochs=2, verbose=0)
    assert zeros(tt.strip(again)) == zeros(model) and min(zeros(model)) > 100
    assert not wrapping.prunables(model)


def test_a_keras_file_to_serve_has_no_optimizer(tmp_path):
    model = pruned()
    model.compile("adam", loss=lambda y, p: keras.ops.mean(p))
    model.fit(X, Y, verbose=0)
    moved = [np.array(v) for v in model.optimizer.variables]
    plain = keras.Sequential.from_config(model.get_config())
    plain.set_weights(model.get_weights())
    compiled = tt.export(model, tmp_path / "a.keras", "keras", verify=False)
    alone = tt.export(plain, tmp_path / "b.keras", "keras", verify=False)
    assert abs(compiled.sizes["sparse"] - alone.sizes["sparse"]) < 100
    assert not keras.saving.load_model(tmp_path / "a.keras").compiled
    after = [np.array(v) for v in model.optimizer.variables]
    assert model.compiled and tiny.same(moved, after)


@by_tensorflow
def test_a_frozen_layer_stays_frozen_in_a_saved_model_to_train(tmp_path):
    import tensorflow as tf

    model = pruned(width=400)
    model.layers[0].trainable = False
    tt.export(model, tmp_path / "a", trainable=True, verify=False)
    given = loaded(tmp_path / "a")
    assert len(given.trainable_variables) == 2
    result = given(tf.constant(X), training=True)
    np.testing.assert_allclose(result, model(X), atol=1e-5)


@by_tensorflow
def test_what_is_trained_is_the_network_with_its_zeros(tmp_path):
    """The trained weights in the Keras model give equal outputs, also when resaved."""
    import tensorflow as tf

    model = pruned(width=400)
    tt.export(model, tmp_path / "a", trainable=True, verify=False)
    given = loaded(tmp_path / "a")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.AdamW(0.01)
    for _ in range(5):
        with tf.GradientTape() as tape:
            value = loss(Y, given(tf.constant(X), training=True))
        slopes = tape.gradient(value, given.trainable_variables)
        optimizer.apply_gradients(zip(slopes, given.trainable_variables, strict=True))
    before = model(X)
    for variable, new in zip(model.variables, given.variables, strict=True):
        whole = np.array(variable)
        whole[(whole != 0) | (whole.ndim < 2)] = new.numpy().ravel()
        variable.assign(whole)
    assert zeros(model)[0] > 0.8 * 20 * 400
    assert abs(model(X) - before).numpy().max() > 0.01
    tf.saved_model.save(given, tmp_path / "b", signatures=given.signatures)
    served = loaded(tmp_path / "b").signatures["serving_default"]
    (name,) = served.structured_input_signature[1]
    result = served(**{name: tf.constant(X)})["output_0"]
    np.testing.assert_allclose(result, model(X), atol=1e-5)


class TwoLayers(keras.Model):
    """A subclassed model, which does not know its inputs."""

    def __init__(self):
        super().__init__()
        self.first, self.second = kl.Dense(4), kl.Dense(2)

    def call(self, x):
        return self.second(self.first(x))


class Noise(kl.Layer):
    """Adds random noise, in inference too."""

    def __init__(self):
        super().__init__()
        self.seeds = keras.random.SeedGenerator(1)

    def call(self, x):
        return x + keras.random.normal(keras.ops.shape(x), seed=self.seeds)


@by_tensorflow
def test_what_inference_changes_goes_on_changing(tmp_path):
    import tensorflow as tf

    model = keras.Sequential([keras.Input((20,)), kl.Dense(30), Noise()])
    with pytest.raises(ValueError, match=r"seed.*Its outputs differ from call to call"):
        tt.export(model, tmp_path / "a")
    before = [np.array(v) for v in model.variables]
    tt.export(model, tmp_path / "a", verify=False)
    assert tiny.same(before, [np.array(v) for v in model.variables])
    serve = loaded(tmp_path / "a").serve
    (name,) = serve.structured_input_signature[1]
    first, second = (serve(**{name: tf.constant(X)})["output_0"] for _ in range(2))
    assert abs(first - second).numpy().max() > 0.1


@by_tensorflow
def test_bfloat16_is_packed_and_compared(tmp_path):
    model = pruned(width=400, dtype="bfloat16")
    report = tt.export(model, tmp_path / "a", tolerance=0.02)
    ways = {row.name.split("/", 1)[1]: row.encoding for row in report.tensors}
    assert ways["f/kernel"] == "packed"
    assert report.sizes["bound"] < 0.5 * 2 * 20 * 400


@by_tensorflow
def test_the_converter_says_briefly_what_it_refuses(tmp_path):
    steps = keras.Sequential([keras.Input((7, 3)), kl.LSTM(4), kl.Dense(2)])
    with pytest.raises(ExportError, match=r"unroll=True") as caught:
        tt.export(steps, tmp_path / "a.tflite", "tflite", verify=False)
    assert len(str(caught.value)) < 800
    assert not list(tmp_path.iterdir())


@by_tensorflow
def test_tables_and_text_are_exported(tmp_path):
    words = keras.Input((), name="words", dtype="string")
    look = kl.TextVectorization(vocabulary=["red", "green"], output_sequence_length=3)
    x = kl.Embedding(10, 4)(look(words))
    model = keras.Model(words, kl.Dense(2)(kl.Flatten()(x)))
    with pytest.raises(ValueError, match=r"takes text.*data=x"):
        tt.export(model, tmp_path / "a")
    report = tt.export(model, tmp_path / "a", data=np.array(["red dog", "green"]))
    assert max(report.errors.values()) < 1e-5


@by_tensorflow
def test_names_that_tensorflow_does_not_allow_are_changed(tmp_path):
    one, two = keras.Input((3,), name="my-input"), keras.Input((3,), name="1 ü")
    model = keras.Model([one, two], kl.Dense(2, name="_hidden")(kl.Add()([one, two])))
    data = {"1 ü": np.ones((5, 3)), "my-input": np.zeros((5, 3))}
    report = tt.export(model, tmp_path / "a", data=data)
    assert max(report.errors.values()) < 1e-5
    served = loaded(tmp_path / "a").signatures["serving_default"]
    assert set(served.structured_input_signature[1]) == {"my_input", "input_1__"}


@by_tensorflow
def test_a_fixed_batch_is_kept(tmp_path):
    image = keras.Input(batch_shape=(4, 3))
    report = tt.export(keras.Model(image, kl.Dense(2)(image)), tmp_path / "a")
    assert set(report.errors) == {4}


def two_inputs():
    b, a = keras.Input((2,), name="b"), keras.Input((2,), name="a")
    return keras.Model([b, a], kl.Dense(1)(kl.Concatenate()([b, a])))


def test_examples_are_taken_by_name():
    takes = signature.of_model(two_inputs())
    result = takes.named({"a": np.zeros((3, 2)), "b": np.ones((3, 2))})
    assert result["b"].all() and not result["a"].any()


@pytest.mark.parametrize(
    "data, message",
    [
        ({"q": np.ones((3, 2)), "z": np.ones((3, 2))}, r"\['a', 'b'\]. Received"),
        ([np.ones((3, 2)), np.ones((4, 2))], "same number of examples"),
        ([np.ones((0, 2)), np.ones((0, 2))], "at least 1"),
    ],
)
def test_examples_that_do_not_fit_are_refused(tmp_path, data, message):
    with pytest.raises(ValueError, match=message):
        tt.export(two_inputs(), tmp_path / "x" / "a.keras", "keras", data=data)
    assert not list(tmp_path.iterdir())


def convolutions(*kernels, strides=2):
    """Builds valid convolutions over images of unknown size."""
    x = image = keras.Input((None, None, 3), name="image")
    for size in kernels:
        x = kl.Conv2D(2, size, strides=strides)(x)
    return keras.Model(image, x, name="convolutions")


def halved_and_doubled():
    x = image = keras.Input((None, None, 3))
    for _ in range(4):
        x = kl.MaxPooling2D(2)(x)
    return keras.Model(image, kl.Add()([kl.UpSampling2D(16)(x), image]))


def steps_of_video():
    """Builds a model whose single example exceeds the limit for unknown sizes."""
    video = keras.Input((None, 120, 120, 3))
    return keras.Model(video, kl.TimeDistributed(kl.GlobalAveragePooling2D())(video))


def half_left_out():
    """Builds a model whose output is empty for 8 steps or fewer, without an error."""
    steps = keras.Input((None, 3))
    return keras.Model(steps, kl.Lambda(lambda x: x[:, 8:])(steps))


@pytest.mark.parametrize(
    "make, size",
    [
        (lambda: convolutions(3), 7),
        (lambda: convolutions(5, 5), 16),  # 13 at least
        (halved_and_doubled, 16),
        (steps_of_video, 7),
        (half_left_out, 16),
    ],
)
def test_inputs_of_unknown_size_are_drawn_as_large_as_the_model_needs(make, size):
    model = make()
    drawn = signature.of_model(model).examples(2, 0, model)
    assert [x.shape[1] for x in drawn.values()] == [size]
    assert 0 not in model(*drawn.values()).shape


def test_a_model_of_unknown_image_size_is_exported_without_examples(tmp_path):
    report = tt.export(convolutions(5, 5), tmp_path / "a.keras", "keras")
    assert set(report.errors) == {1, 32} and max(report.errors.values()) < 1e-5


def test_a_model_that_takes_no_drawn_size_asks_for_examples(tmp_path):
    model = convolutions(257, strides=1)  # one more than is tried
    message = r"'convolutions'.*'image'.*128, 256\]: .*zero or negative.*data=x"
    with pytest.raises(ValueError, match=f"(?s){message}"):
        tt.export(model, tmp_path / "a.keras", "keras")
    assert not list(tmp_path.iterdir())


def test_examples_that_the_model_does_not_take_are_named(tmp_path):
    model = TwoLayers()
    model(X)
    message = r"\(32, 3\)(?s:.*)Pass inputs that the model accepts"
    with pytest.raises(ValueError, match=message):
        tt.export(model, tmp_path / "a.keras", "keras", data=X[:, :3])


def test_an_output_of_several_tensors_is_refused():
    outputs = {"boxes": [kl.Dense(1)(X), kl.Dense(1)(X)]}
    with pytest.raises(ValueError, match=r"a separate key"):
        signature.named_outputs(outputs)


def test_only_a_saved_model_is_overwritten(tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "thesis.txt").write_text("years")
    with pytest.raises(ValueError, match="contents other than a SavedModel"):
        tt.export(pruned(), tmp_path / "work", overwrite=True)
    assert (tmp_path / "work" / "thesis.txt").read_text() == "years"
    with pytest.raises(ValueError, match="suffix of a file in another format"):
        tt.export(pruned(), tmp_path / "a.tflite", "saved_model")


@by_tensorflow
def test_folders_that_were_made_go_when_it_fails(tmp_path):
    path = tmp_path / "x" / "y" / "a.tflite"
    with pytest.raises(ExportError, match="more than the tolerance"):
        tt.export(pruned(), path, precision="float16", tolerance=0.0)
    assert not list(tmp_path.iterdir())


@by_tensorflow
def test_a_small_saved_model_is_not_made_larger(tmp_path):
    report = tt.export(pruned(), tmp_path / "a", verify=False)
    assert report.sizes["sparse"] <= report.sizes["dense"]
    lite = tt.export(
        pruned(0.0), tmp_path / "a.tflite", "tflite", verify=False, overwrite=True
    )
    assert lite.sizes["sparse"] == lite.sizes["dense"]


@by_tensorflow
def test_penalties_that_are_lost_are_named(tmp_path):
    model = pruned(activity_regularizer="l2", kernel_regularizer="l2")
    report = tt.export(model, tmp_path / "a", trainable=True, verify=False)
    assert any("activity_regularizer" in remark for remark in report.remarks)
    other = pruned(kernel_regularizer="l2")
    report = tt.export(other, tmp_path / "b", trainable=True, verify=False)
    assert not any("activity_regularizer" in remark for remark in report.remarks)


def test_a_report_of_nothing_is_printed():
    report = export_report.ExportReport(
        "a", "keras", "float32", 0.5, {"sparse": 9, "bound": 0}
    )
    assert "inf" in str(report)
    assert json.loads(report.to_json())["sizes"]["bound"] == 0


def test_channels_of_zeros_are_to_be_compacted_and_a_compact_model_has_no_zeros(
    tmp_path,
):
    inputs = keras.Input((6, 6, 3))
    hidden = kl.BatchNormalization()(kl.Conv2D(12, 3, name="a")(inputs))
    hidden = kl.GlobalAveragePooling2D()(kl.Conv2D(8, 3, name="b")(kl.ReLU()(hidden)))
    model = keras.Model(inputs, kl.Dense(4, name="c")(hidden))
    model = tt.wrap(model, structure="channels", verbose=False)
    tt.PruneAtInit(target={"macs": 0.4}, epochs=1, monitor="loss").prune(model)
    report = tt.export(model, tmp_path / "a.keras", verify=False)
    small, compaction = tt.compact(model, return_report=True)
    macs = compaction.compact.macs / compaction.dense.macs
    params = compaction.compact.params / compaction.dense.params
    assert 0.3 < macs < 0.4
    [remark, _] = report.remarks
    assert remark.startswith(f"{compaction.removed} of 20 channels and neurons have no")
    assert f"{params:.0%} of the parameters and {macs:.0%} of the multiply" in remark
    assert "tt.compact(model) first" in remark
    report = tt.export(small, tmp_path / "b.keras", verify=False)
    assert report.remarks == [] and len(report.tensors) == len(small.variables)
    head, *rest = str(report).splitlines()
    assert head.endswith("b.keras: keras, float32, no zeros")
    assert [line.split()[0] for line in rest] == ["sparse", "dense", "tensors:", "Not"]
    assert rest[2] == f"  tensors: {len(small.variables)} deflated"
    assert "<table" not in report._repr_html_()


def test_a_model_without_dead_neurons_needs_no_compaction(tmp_path):
    report = tt.export(pruned(0.5), tmp_path / "a.keras", verify=False)
    assert not any("tt.compact" in remark for remark in report.remarks)
    assert "times the theoretical minimum" in str(report)


@pytest.mark.parametrize(
    "sparse, dense, larger", [(1020, 1000, True), (1005, 1000, False)]
)
def test_a_file_that_is_larger_after_gzip_says_so(sparse, dense, larger):
    sizes = {"sparse": 9, "bound": 1, "sparse_gzipped": sparse, "dense_gzipped": dense}
    report = tt.ExportReport("a.tflite", "tflite", "float32", 0.5, sizes)
    found = remarks.general(keras.Sequential([keras.Input((2,)), kl.Dense(2)]), report)
    assert ["2.0% larger" in remark and "1,020" in remark for remark in found] == (
        [True] if larger else []
    )


def test_the_advice_on_speed_is_about_zeros():
    advice = remarks.remarks(pruned(0.5), "tflite", "float32", {1: {"median": 1.0}})
    assert any('structure="4x1"' in remark and "2:4" in remark for remark in advice)
    dense = keras.Sequential([keras.Input((2,)), kl.Dense(2)])
    for format, precision in [("tflite", "float32"), ("tflite", "int8"), ("onnx", "")]:
        assert remarks.remarks(dense, format, precision, {}) == []


on_others = pytest.mark.skipif(ON_TENSORFLOW, reason="there nothing is handed over")
_MODULE = """
import keras

@keras.saving.register_keras_serializable("theirs")
class Sum(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(4)

    def call(self, inputs):
        return self.dense(inputs[0]) + self.dense(inputs[1])

@keras.saving.register_keras_serializable("theirs")
def cubed(x):
    return x ** 3

@keras.saving.register_keras_serializable("theirs")
class Halve(keras.layers.Layer):
    def call(self, x):
        return x / 2
"""


@pytest.fixture
def theirs(tmp_path, monkeypatch):
    """A module next to a script, which no other process finds by itself."""
    (tmp_path / "their_layers.py").write_text(_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return importlib.import_module("their_layers")


def halving(theirs):
    layers = [keras.Input((20,)), theirs.Halve(), kl.Dense(4, theirs.cubed)]
    return keras.Sequential(layers)


@on_others
def test_the_process_of_tensorflow_imports_the_layers_of_a_module(tmp_path, theirs):
    pytest.importorskip("tensorflow")
    report = tt.export(halving(theirs), tmp_path / "a")
    assert max(report.errors.values()) < 1e-5


@pytest.mark.matrix
@on_others
def test_a_subclassed_model_of_a_module_is_exported(tmp_path, theirs):
    pytest.importorskip("tensorflow")
    model = theirs.Sum()
    model([X, X])
    report = tt.export(model, tmp_path / "a", data=[X, 2 * X])
    assert max(report.errors.values()) < 1e-5


@on_others
def test_a_class_that_no_other_process_has_is_refused(tmp_path):
    pytest.importorskip("tensorflow")
    model = TwoLayers()
    model(X)
    with pytest.raises(ValueError, match=r"\['TwoLayers'\].*register.*=tensorflow"):
        tt.export(model, tmp_path / "a", data=X)

    def plus_one(x):
        return x + 1

    added = keras.Sequential([keras.Input((20,)), kl.Dense(3, plus_one)])
    with pytest.raises(ValueError, match=r"\['plus_one'\]"):
        tt.export(added, tmp_path / "a.tflite")


@on_others
def test_layers_that_only_the_running_program_has_are_refused(
    tmp_path, theirs, monkeypatch
):
    pytest.importorskip("tensorflow")
    monkeypatch.setattr(theirs.Halve, "__module__", "__main__")
    with pytest.raises(ValueError, match=r"theirs>Halve.*Define .*=tensorflow"):
        tt.export(halving(theirs), tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_a_keras_file_of_own_layers_is_verified(tmp_path, theirs, monkeypatch):
    report = tt.export(halving(theirs), tmp_path / "a.keras")
    assert max(report.errors.values()) < 1e-5
    monkeypatch.setattr(theirs.Halve, "__module__", "__main__")
    with pytest.raises(ValueError, match=r"theirs>Halve.*Define .*verify=False"):
        tt.export(halving(theirs), tmp_path / "b.keras")
