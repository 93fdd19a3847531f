"""The warning about networks whose training damages memory with oneDNN."""

import os
import platform
import subprocess
import sys
import textwrap
import warnings

import keras
import numpy as np
import pytest

import tf_tickets as tt
from tf_tickets.wrapping import onednn

pytestmark = [pytest.mark.on("tensorflow")]


@pytest.fixture
def processor(monkeypatch, tmp_path):
    """Sets the features of the processor and the switch of TensorFlow."""

    def pretend(features, switch=None, machine="x86_64", system="linux"):
        listed = tmp_path / "cpuinfo"
        if features is None:
            listed.unlink(missing_ok=True)
        else:
            listed.write_text(f"processor\t: 0\nflags\t\t: fpu {features}\n", "utf-8")
        monkeypatch.setattr(onednn, "_PROCESSOR", listed)
        monkeypatch.setattr(onednn, "_has_gpu", lambda: False)
        monkeypatch.setattr(onednn, "_told", set())
        monkeypatch.setattr("platform.machine", lambda: machine)
        monkeypatch.setattr(onednn.sys, "platform", system)
        if switch is None:
            monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
        else:
            monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", switch)

    return pretend


ICE_LAKE = "avx avx2 avx512f avx512_vnni"
SKYLAKE_X = "avx avx2 avx512f"
ALDER_LAKE = "avx avx2 avx_vnni"
ZEN3 = "avx avx2"


@pytest.mark.parametrize(
    ("features", "settings", "expected"),
    [
        (ICE_LAKE, {}, 16),
        (ICE_LAKE, {"switch": "0"}, 0),
        (ICE_LAKE, {"switch": "false"}, 0),
        (SKYLAKE_X, {}, 0),
        (SKYLAKE_X, {"switch": "1"}, 16),
        (ALDER_LAKE, {}, 8),
        (ZEN3, {}, 0),
        (ZEN3, {"switch": "1"}, 8),
        (ZEN3, {"switch": "True"}, 8),
        ("sse4_1", {"switch": "1"}, 0),
        (ICE_LAKE, {"machine": "aarch64"}, 0),
        (None, {"system": "win32", "machine": "AMD64"}, 16),
        (None, {"system": "darwin"}, 0),
    ],
)
def test_number_of_channels_follows_processor_and_switch(
    processor, features, settings, expected
):
    processor(features, **settings)
    assert onednn.unsafe_below() == expected


def narrow(channels, kernel=1, strides=2, layer=keras.layers.Conv2D):
    sizes = (8,) if layer is keras.layers.Conv1D else (8, 8)
    return keras.Sequential(
        [
            keras.Input((*sizes, channels)),
            layer(4, kernel, strides=strides, name="shortcut_1"),
        ],
        name="net",
    )


def over_time(model):
    inside = keras.layers.TimeDistributed(model.layers[0])
    return keras.Sequential([keras.Input((3, *model.input_shape[1:])), inside])


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (lambda: narrow(15), "'shortcut' (15)"),
        (lambda: narrow(15, strides=(1, 2)), "'shortcut' (15)"),
        # Its gradient convolves 4 filters.
        (lambda: narrow(16, layer=keras.layers.Conv2DTranspose), "'shortcut' (4)"),
        (lambda: narrow(15, layer=keras.layers.Conv1D), "'shortcut' (15)"),
        (lambda: over_time(narrow(15)), "'shortcut' (15)"),
        (lambda: narrow(16), None),
        (lambda: narrow(15, layer=keras.layers.SeparableConv2D), None),
        (lambda: narrow(15, kernel=3), None),
        (lambda: narrow(15, strides=1), None),
        (
            lambda: keras.Sequential([keras.Input((8, 8, 2)), narrow(2)]),
            "'shortcut' (2)",
        ),
    ],
)
def test_wrap_warns_of_strided_points_with_few_channels(processor, model, told):
    processor(ICE_LAKE)
    model = model()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tt.wrap(model, verbose=False)
    messages = [str(w.message) for w in caught]
    if told is None:
        assert not messages
    else:
        [message] = messages
        assert told in message
        assert "TF_ENABLE_ONEDNN_OPTS=0" in message
        assert caught[0].filename == __file__


def test_a_search_that_builds_again_is_told_once(processor):
    processor(ICE_LAKE)
    with pytest.warns(UserWarning, match="oneDNN"):
        tt.wrap(narrow(15), verbose=False)
    tt.wrap(narrow(15), verbose=False)
    with pytest.warns(UserWarning, match="oneDNN"):
        tt.wrap(narrow(14), verbose=False)


def with_a_stem():
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Conv2D(16, 3, name="stem"),
            keras.layers.Conv2D(4, 1, strides=2, name="shortcut"),
        ],
        name="net",
    )


@pytest.mark.parametrize("of", ["model", "ticket"])
def test_compact_warns_when_a_shortcut_becomes_narrow(processor, of):
    processor(ICE_LAKE)
    wrapped = tt.wrap(with_a_stem(), verbose=False)
    masks = tt.kernels(wrapped).masks
    masks["net/shortcut/kernel"][:, :, 11:] = False
    tt.kernels(wrapped).set_masks(masks)
    ticket = tt.Ticket(masks, tt.snapshots.present_weights(wrapped))
    with pytest.warns(UserWarning, match=r"16 input channels: 'shortcut' \(11\)"):
        small = tt.compact(wrapped) if of == "model" else ticket.compact(with_a_stem)
    assert small.layers[1].kernel.shape[-2] == 11


def told(caught):
    return [w for w in caught if "oneDNN" in str(w.message)]


def classifier(**settings):
    shortcut = narrow(15)
    outputs = keras.layers.Dense(2)(keras.layers.Flatten()(shortcut.outputs[0]))
    model = keras.Model(shortcut.inputs, outputs, name="net")
    model.compile("sgd", "mse", **settings)
    return model


def trained(way, build, ticket):
    x, y = np.ones((8, 8, 8, 15)), np.ones((8, 2))
    data = tt.datasets.Dataset("ones", x, y, x, y, x, y)
    if way == "apply":
        return ticket.apply(build())
    if way == "train":
        return ticket.train(build(), x, y, epochs=1, verbose=0)
    if way == "train_ticket":
        return tt.train_ticket(build, data, ticket, epochs=1, batch_size=4, verbose=0)
    if way == "teachers":
        return tt.train_teachers(build, data, [1], batch_size=4, verbose=0)
    search = tt.IMP(rounds=1, epochs_per_round=1, rate=0.5, monitor="loss")
    return tt.find_tickets(build, data, search, batch_size=4, verbose=0)


@pytest.mark.parametrize(
    "way", ["apply", "train", "train_ticket", "teachers", "find_tickets"]
)
def test_every_training_warns_unless_it_is_compiled_with_xla(way, processor):
    wrapped = tt.wrap(classifier(), verbose=False)
    masks = tt.kernels(wrapped).masks
    ticket = tt.Ticket(masks, tt.snapshots.present_weights(wrapped))
    processor(ICE_LAKE)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trained(way, lambda: classifier(jit_compile=True), ticket)
        assert not told(caught)
        trained(way, classifier, ticket)
    [warning] = told(caught)
    assert "jit_compile=True" in str(warning.message)
    assert warning.filename == __file__


def test_nothing_is_said_where_onednn_is_off():
    assert os.environ["TF_ENABLE_ONEDNN_OPTS"] == "0"
    assert onednn.unsafe_below() == 0
    tt.wrap(narrow(2), verbose=False)


@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64",
    reason="Features of the processor are known on Linux, x86_64.",
)
@pytest.mark.parametrize("switch", [None, "1"])
def test_tensorflow_agrees_whether_onednn_is_on(switch):
    """On the processor of this machine, TensorFlow logs what the module thinks."""
    script = """
        import tensorflow as tf
        tf.constant(0.0) + 1.0
        from tf_tickets.wrapping import onednn
        print("switched on" if onednn._switched_on(onednn._features()) else "off")
    """
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "0"}
    del environment["TF_ENABLE_ONEDNN_OPTS"]
    if switch:
        environment["TF_ENABLE_ONEDNN_OPTS"] = switch
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    logged = "oneDNN custom operations are on" in ended.stderr
    assert ended.stdout.strip() == ("switched on" if logged else "off")
    assert logged or not switch
