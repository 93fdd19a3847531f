"""Quantization and LoRA by Keras: after pruning, and never of wrapped layers."""

import gc

import keras
import numpy as np
import pytest
import samples
import tiny
from keras import layers as kl

import tf_tickets as tt

pytestmark = [
    pytest.mark.turns("jax"),
    pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method"),
]

INPUTS = 16


def plain():
    keras.utils.set_random_seed(0)
    hidden = kl.Dense(32, activation="relu", name="hidden")
    layers = [keras.Input((INPUTS,)), hidden, kl.Dense(10, name="out")]
    return keras.Sequential(layers, name="net")


def pruned(model=None, keep=0.3):
    model = tt.wrap(model or plain(), verbose=False)
    generator = np.random.default_rng(0)
    weights = tt.kernels(model).weights
    tt.kernels(model).set_masks(
        {path: generator.random(w.shape) < keep for path, w in weights.items()}
    )
    return model


def rows(count=8):
    return np.random.default_rng(1).normal(size=(count, INPUTS)).astype("float32")


def predict(model, x):
    return samples.array(model(x))


def computed(layer, inputs):
    """Returns the kernel with which a layer computes, whatever it stores."""
    layer.activation = keras.activations.linear
    ones = np.concatenate([np.zeros((1, inputs)), np.eye(inputs)]).astype("float32")
    outputs = samples.array(layer(ones))
    return outputs[1:] - outputs[:1]


# Wrapped models


def test_a_wrapped_model_refuses_before_any_layer_changes():
    original = plain()
    model = tt.wrap(original, filters="out", verbose=False)
    before = predict(model, rows())
    attempts = [
        lambda: model.quantize("int8"),
        lambda: model.quantize("int8", filters="out"),
        lambda: original.quantize("int8"),
        lambda: model.get_layer("out").layer.quantize("int8"),
        lambda: model.get_layer("out").enable_lora(2),
    ]
    for attempt in attempts:
        with pytest.raises(ValueError, match=r"wrapped by tf_tickets.*strip\(model\)"):
            attempt()
    assert {v.dtype for v in original.variables} == {"float32"}
    np.testing.assert_array_equal(predict(model, rows()), before)


def test_layers_inside_a_wrapped_layer_refuse_too():
    inputs = keras.Input((5, 8))
    attention = kl.MultiHeadAttention(2, 4, name="attention")
    model = keras.Model(inputs, attention(inputs, inputs))
    wrapped = tt.wrap(model, verbose=False)
    with pytest.raises(ValueError, match="'query' is wrapped by tf_tickets"):
        attention.query_dense.quantize("int8")
    tt.strip(wrapped)
    attention.query_dense.quantize("int8")
    assert attention.query_dense.kernel.dtype == "int8"


def test_the_layers_of_a_wrapped_model_from_a_file_refuse(tmp_path):
    pruned().save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    with pytest.raises(ValueError, match="strip"):
        loaded.quantize("int8")
    assert {v.dtype for v in loaded.variables} == {"float32", "bool"}


@pytest.mark.parametrize("mask", ["fixed", "soft"])
def test_a_subclassed_model_is_free_again_when_stripped(mask):
    model = samples.subclassed()
    model = tt.wrap(model, mask=mask, verbose=False)
    with pytest.raises(ValueError, match="strip"):
        model.quantize("int8")
    tt.strip(model).quantize("int8")
    assert "int8" in {v.dtype for v in model.variables}


@pytest.mark.parametrize("change", ["quantize", "enable_lora"])
def test_a_model_is_free_again_when_its_wrapped_twin_is_gone(change):
    inputs = keras.Input((INPUTS,))
    # A layer without weights is shared, and remembers the wrapper before it.
    x = kl.ReLU()(kl.Dense(8, name="first")(inputs))
    model = keras.Model(inputs, kl.Dense(2, name="out")(x))
    tt.wrap(model, verbose=False)
    gc.collect()
    if change == "quantize":
        model.quantize("int8")
        assert model.get_layer("out").kernel.dtype == "int8"
    else:
        model.get_layer("first").enable_lora(2)


def test_layers_are_guarded_until_every_wrapped_model_is_stripped():
    model = plain()
    first = tt.wrap(model, verbose=False)
    second = tt.wrap(model, verbose=False)
    stripped = tt.strip(first)
    with pytest.raises(ValueError, match="Strip every wrapped model"):
        stripped.get_layer("hidden").enable_lora(2)
    with pytest.raises(ValueError, match="Strip every wrapped model"):
        stripped.quantize("int8")
    tt.strip(second).quantize("int8")
    assert model.get_layer("out").kernel.dtype == "int8"


def test_a_model_inside_refuses_before_its_first_layer_changes():
    layers = [keras.Input((4,)), kl.Dense(4, name="first"), kl.Dense(4, name="last")]
    inner = keras.Sequential(layers, name="inner")
    inputs = keras.Input((4,))
    wrapped = tt.wrap(
        keras.Model(inputs, inner(inputs)), filters=["last"], verbose=False
    )
    for model in (inner, wrapped.get_layer("inner")):
        with pytest.raises(ValueError, match="'inner' is wrapped"):
            model.quantize("int8")
    assert {v.dtype for v in inner.variables} == {"float32"}


# Prune, strip, quantize


def int4_by_channel(model):
    model.quantize(config=keras.quantizers.Int4QuantizationConfig(block_size=-1))


MODES = {
    "int8": (lambda model: model.quantize("int8"), 0.02),
    "int4": (lambda model: model.quantize("int4"), 0.2),
    "int4 by channel": (int4_by_channel, 0.25),
    "float8": (lambda model: model.quantize("float8"), 0.15),
}


@pytest.mark.parametrize("mode", tiny.in_turns(MODES))
def test_pruned_weights_stay_exactly_zero(mode):
    quantize, tolerance = MODES[mode]
    model = tt.strip(pruned())
    kernels = [samples.array(layer.kernel) for layer in model.layers]
    expected = predict(model, rows())
    quantize(model)
    error = np.abs(predict(model, rows()) - expected).max()
    assert 0 < error < tolerance * np.abs(expected).max()
    for layer, kernel in zip(model.layers, kernels, strict=True):
        found = computed(layer, len(kernel))
        assert not found[kernel == 0].any()
        assert found[kernel != 0].any()


def by_pixels(kind, **settings):
    """Calibrates GPTQ or AWQ on rows of whole numbers, which they take for tokens."""
    tokens = np.random.default_rng(0).integers(0, 9, (64, INPUTS), dtype="int32")

    def quantize(model):
        structure = {"pre_block_layers": [], "sequential_blocks": model.layers}
        model.get_quantization_layer_structure = lambda mode: structure
        config = kind(
            tokens,
            tokenizer=lambda rows: rows,
            num_samples=64,
            sequence_length=INPUTS,
            group_size=16,
            **settings,
        )
        model.quantize(config=config)

    return quantize


@pytest.mark.matrix
@pytest.mark.both
@pytest.mark.parametrize(
    "quantize",
    [
        by_pixels(keras.quantizers.GPTQConfig, symmetric=False),
        by_pixels(keras.quantizers.GPTQConfig, symmetric=True),
        by_pixels(keras.quantizers.AWQConfig),
    ],
    ids=["gptq", "gptq symmetric", "awq"],
)
def test_calibrated_modes(quantize):
    model = tt.strip(pruned())
    kernels = [samples.array(layer.kernel) for layer in model.layers]
    quantize(model)
    for layer, kernel in zip(model.layers, kernels, strict=True):
        assert layer.quantization_mode is not None
        found = computed(layer, len(kernel))
        assert not found[kernel == 0].any()
        assert (found != kernel)[kernel != 0].any()


@pytest.mark.both
def test_prune_strip_compact_quantize():
    model = tt.wrap(plain(), structure="channels", verbose=False)
    keep = np.arange(32) % 2 == 0
    tt.kernels(model).set_masks(
        {
            "net/hidden/kernel": np.broadcast_to(keep, (INPUTS, 32)),
            "net/hidden/bias": keep,
            "net/out/kernel": np.broadcast_to(keep[:, None], (32, 10)),
        }
    )
    small = tt.compact(model)
    expected = predict(small, rows())
    small.quantize("int8")
    assert tuple(small.get_layer("hidden").kernel.shape) == (INPUTS, 16)
    assert small.get_layer("hidden").kernel.dtype == "int8"
    error = np.abs(predict(small, rows()) - expected).max()
    assert error < 0.02 * np.abs(expected).max()


def test_a_quantized_model_cannot_be_pruned_and_says_so():
    model = plain()
    model.quantize("int8")
    with pytest.raises(
        ValueError, match=r"(?s)Prune first.*quantized by Keras to int8"
    ):
        tt.wrap(model)
    assert "quantized by Keras to int8: 2 variables" in str(tt.summary(model))


def test_a_quantized_model_is_compacted_as_it_is():
    for mode in ("int8", "float8"):
        model = plain()
        model.quantize(mode)
        small, report = tt.compact(model, return_report=True)
        assert not report.removed
        expected = predict(model, rows())
        np.testing.assert_allclose(predict(small, rows()), expected, rtol=1e-5)


# Exports


@pytest.mark.on("tensorflow")
@pytest.mark.parametrize("mode", ["int8", "float8"])
def test_the_converter_is_not_given_operators_that_it_lacks(mode, tmp_path):
    model = plain()
    model.quantize(mode)
    with pytest.raises(ValueError, match=rf"'hidden \({mode}\)'.*precision=\"int8\""):
        tt.export(model, tmp_path / "model.tflite")
    assert not any(tmp_path.iterdir())


def test_an_export_says_that_codes_are_no_zeros(tmp_path):
    model = tt.strip(pruned())
    model.quantize("int4")
    report = tt.export(model, tmp_path / "model.keras", verify=False)
    assert any("2 layers (hidden, out) are packed codes" in x for x in report.remarks)


# LoRA


def test_lora_leaves_pruned_weights_alone_until_it_is_merged(tmp_path):
    model = tt.strip(pruned())
    kernels = [samples.array(layer.kernel) for layer in model.layers]
    for layer in model.layers:
        layer.enable_lora(2)
    model.compile("sgd", "mse")
    model.fit(rows(), np.ones((8, 10)), verbose=0)
    for layer, kernel in zip(model.layers, kernels, strict=True):
        (stored,) = [v for v in layer.non_trainable_variables if v.name == "kernel"]
        np.testing.assert_array_equal(samples.array(stored), kernel)
        assert np.all(samples.array(layer.kernel) != 0)
    report = tt.export(model, tmp_path / "model.keras", verify=False)
    assert any("LoRA weights are added to" in remark for remark in report.remarks)


def test_lora_weights_are_no_kernels():
    model = plain()
    model.get_layer("hidden").enable_lora(2)
    wrapped = tt.wrap(model, verbose=False)
    assert list(tt.kernels(wrapped).variables) == ["net/out/kernel"]
    assert "a LoRA weight, which is added to a kernel" in str(tt.summary(wrapped))
