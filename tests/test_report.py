"""Compares reports with numbers computed by hand."""

import csv
import json
import pathlib
import xml.etree.ElementTree

import keras
import numpy as np
import pytest
import samples
import tiny
from keras import layers as kl
from samples import single

import tf_tickets as tt
from tf_tickets import wrapping
from tf_tickets.reports import summary


class DoubledDense(kl.Dense):
    """Uses its kernel twice, which the report cannot know."""

    def call(self, inputs):
        return super().call(inputs) + super().call(-inputs)


def own_loss(target, output):
    return keras.ops.mean(keras.ops.abs(target - output))


def stacked_cells():
    return kl.RNN(kl.StackedRNNCells([kl.LSTMCell(3), kl.GRUCell(2)]))


def at_two_lengths(layer):
    """Calls a layer or model on sequences of length 3 and 5."""
    short, long = keras.Input((3, 6)), keras.Input((5, 6))
    outputs = [kl.GlobalMaxPooling1D()(layer(x)) for x in (short, long)]
    return keras.Model([short, long], outputs)


def attention_at_two_lengths():
    layer = kl.MultiHeadAttention(2, 3)
    short, long = keras.Input((3, 6)), keras.Input((5, 6))
    return keras.Model([short, long], [layer(short, short), layer(long, long)])


def small():
    """Builds a model with two kernels of 24 and 8 weights and three other variables."""
    inputs = keras.Input((3, 6))
    x = kl.Dense(4, name="a")(inputs)
    x = kl.GlobalMaxPooling1D()(x)
    x = kl.BatchNormalization(name="norm", scale=False, center=False)(x)
    return keras.Model(inputs, kl.Dense(2, use_bias=False, name="b")(x), name="net")


def pruned_small():
    model = tt.wrap(small(), verbose=False)
    masks = wrapping.kernels(model).masks
    masks["a/kernel"].ravel()[:18] = False
    masks["b/kernel"].ravel()[:2] = False
    wrapping.kernels(model).set_masks(masks)
    return model


# name: (function that builds the model, FLOPs of its kernels in order)
FLOPS = {
    "Dense": (lambda: single(kl.Dense(4), 6), [24]),
    "Dense on a sequence": (lambda: single(kl.Dense(4), 5, 6), [120]),
    "EinsumDense": (lambda: single(kl.EinsumDense("abc,cd->abd", (3, 4)), 3, 5), [60]),
    "EinsumDense with ...": (
        lambda: single(kl.EinsumDense("...x,xy->...y", 4), 2, 3, 5),
        [120],
    ),
    "EinsumDense over two dimensions": (
        lambda: single(kl.EinsumDense("abcd,cde->abe", (3, 4)), 3, 2, 5),
        [120],
    ),
    "Conv1D": (lambda: single(kl.Conv1D(3, 3), 6, 2), [72]),
    "Conv1D, causal": (lambda: single(kl.Conv1D(3, 3, padding="causal"), 6, 2), [108]),
    "Conv2D": (lambda: single(kl.Conv2D(3, 3), 5, 6, 2), [648]),
    "Conv2D, same, strides": (
        lambda: single(kl.Conv2D(3, 3, strides=2, padding="same"), 4, 4, 2),
        [216],
    ),
    "Conv2D in groups": (lambda: single(kl.Conv2D(4, 3, groups=2), 5, 5, 2), [324]),
    "Conv2D, channels first": (
        lambda: keras.Sequential(
            [
                keras.Input((2, 5, 6)),
                kl.Conv2D(3, 3, data_format="channels_first"),
            ]
        ),
        [648],
    ),
    "Conv3D": (lambda: single(kl.Conv3D(2, 2), 3, 3, 3, 2), [256]),
    "DepthwiseConv1D": (lambda: single(kl.DepthwiseConv1D(3), 6, 2), [24]),
    "DepthwiseConv2D": (lambda: single(kl.DepthwiseConv2D(3), 5, 5, 2), [162]),
    "SeparableConv1D": (lambda: single(kl.SeparableConv1D(3, 3), 6, 2), [24, 24]),
    "SeparableConv2D": (lambda: single(kl.SeparableConv2D(3, 3), 5, 5, 2), [162, 54]),
    "Conv1DTranspose": (
        lambda: single(kl.Conv1DTranspose(3, 3, strides=2), 4, 2),
        [72],
    ),
    "Conv2DTranspose": (lambda: single(kl.Conv2DTranspose(3, 3), 4, 4, 2), [864]),
    "Conv3DTranspose": (lambda: single(kl.Conv3DTranspose(2, 2), 2, 2, 2, 2), [256]),
    "LSTM": (lambda: single(kl.LSTM(3, return_sequences=True), 4, 2), [96, 144]),
    "LSTM, any length": (lambda: single(kl.LSTM(3), None, 2), [None, None]),
    "GRU": (lambda: single(kl.GRU(3), 4, 2), [72, 108]),
    "SimpleRNN": (lambda: single(kl.SimpleRNN(3), 4, 2), [24, 36]),
    "cells on cells": (lambda: single(stacked_cells(), 4, 2), [96, 144, 72, 48]),
    "ConvLSTM1D": (lambda: single(kl.ConvLSTM1D(2, 2), 3, 4, 2), [288, 288]),
    "ConvLSTM2D": (
        lambda: single(kl.ConvLSTM2D(2, 2, return_sequences=True), 3, 4, 4, 1),
        [864, 1728],
    ),
    "MultiHeadAttention": (samples.attention, [144, 180, 180, 144]),
    "attention at two lengths": (attention_at_two_lengths, [None] * 4),
    "GroupQueryAttention": (samples.group_attention, [288, 180, 180, 288]),
    "Bidirectional": (
        lambda: single(kl.Bidirectional(kl.GRU(3)), 4, 2),
        [72, 108, 72, 108],
    ),
    "TimeDistributed": (lambda: single(kl.TimeDistributed(kl.Dense(3)), 4, 2), [24]),
    "TimeDistributed convolution": (
        lambda: single(kl.TimeDistributed(kl.Conv1D(3, 3)), 4, 6, 2),
        [288],
    ),
    "SpectralNormalization": (
        lambda: single(kl.SpectralNormalization(kl.Dense(4)), 6),
        [24],
    ),
    "a kernel of its own": (lambda: single(samples.OwnKernel(), 6), [None, None]),
    "a call of its own": (lambda: single(DoubledDense(4), 6), [None]),
    "a block": (lambda: single(samples.BlockWithoutBuild(), 6), [36, 36, 36]),
    "nested": (samples.nested, [36, 36, 36, 12]),
    "Siamese": (samples.siamese, [48, 32, 4]),
    "shared at two lengths": (lambda: at_two_lengths(kl.Dense(4)), [192]),
    "a shared model at two lengths": (
        lambda: at_two_lengths(keras.Sequential([keras.Input((None, 6)), kl.Dense(4)])),
        [192],
    ),
    "named inputs": (samples.named_inputs_and_outputs, [18, 12, 6, 3]),
    "subclassed": (samples.subclassed, [36, 36, 36, 36, 18, 9, 15, 20]),
}


DEPTHWISE = {f"{kind}Conv{n}D" for kind in ("Depthwise", "Separable") for n in (1, 2)}
DEPTHWISE.add("Conv2D in groups")


@pytest.mark.on("tensorflow")
@pytest.mark.parametrize("name", FLOPS)
def test_flops_are_those_worked_out_by_hand_plain_and_wrapped(name):
    make, flops = FLOPS[name]
    model = make()
    plain = tt.summary(model)
    wrapped = tt.summary(tt.wrap(model, depthwise=True, verbose=False))
    assert [row.flops for row in wrapped.rows] == flops
    depthwise = [row for row in plain.skipped if "depthwise" in row.reason]
    assert (name in DEPTHWISE) == bool(depthwise)
    paths = {row.path for row in depthwise}
    assert plain.rows == [row for row in wrapped.rows if row.path not in paths]


def test_an_embedding_is_looked_up_and_multiplies_nothing():
    inputs = keras.Input((6,), dtype="int32")
    model = keras.Model(inputs, kl.Embedding(7, 4)(inputs))
    wrapped = tt.wrap(model, embeddings=True, verbose=False)
    assert [row.flops for row in tt.summary(wrapped).rows] == [0]


def test_the_rows_of_a_pruned_model():
    assert tt.summary(pruned_small()).rows == [
        summary.KernelRow("a/kernel", (6, 4), 24, 6, 72, 18),
        summary.KernelRow("b/kernel", (4, 2), 8, 6, 8, 6),
    ]


def test_the_totals_of_a_pruned_model():
    result = tt.summary(pruned_small())
    assert (result.size, result.kept, result.flops) == (32, 12, 80)
    assert result.sparsity == 20 / 32
    # 4 biases, 4 moving means and 4 moving variances are weights too.
    assert result.sparsity_of_all_weights == 20 / 44
    assert result.flops_kept == 24 / 80


def test_unknown_flops_are_in_no_total_and_are_said():
    inputs = keras.Input((6,))
    model = keras.Model(inputs, kl.Dense(2)(samples.OwnKernel()(inputs)))
    result = tt.summary(model)
    assert (result.flops, result.flops_kept) == (8, 1.0)
    assert "? MACs of 2 kernels are unknown and not in the totals" in str(result)


def test_a_fraction_of_flops_is_none_where_none_is_known():
    result = tt.summary(single(samples.OwnKernel(), 6))
    assert result.flops_kept is None
    assert result.rows[0].flops_kept is None


def test_what_is_assumed_of_layers_inside_subclassed_ones_is_said():
    assert "8 kernels inside" in tt.summary(samples.subclassed()).notes[0]
    assert tt.summary(samples.attention()).notes == ()
    assert tt.summary(samples.nested()).notes == ()


@pytest.mark.parametrize("name", tiny.in_turns([*samples.TOPOLOGIES, "subclassed"]))
def test_a_stripped_model_reports_what_the_wrapped_one_did(name):
    makers = {n: make for n, (make, _) in samples.TOPOLOGIES.items()}
    make = {**makers, "subclassed": samples.subclassed}[name]
    model = tt.wrap(samples.built(make), verbose=False)
    masks = samples.half_masks(model)
    wrapping.kernels(model).set_masks(masks)
    wrapped = tt.summary(model)
    assert {r.path: r.kept for r in wrapped.rows} == {
        path: int(mask.sum()) for path, mask in masks.items()
    }
    assert tt.summary(tt.strip(model)).rows == wrapped.rows


def of_all_reasons():
    inputs = keras.Input((6,), dtype="int32")
    x = kl.Embedding(7, 6, name="words")(inputs)
    x = kl.Dense(3, name="frozen", trainable=False, use_bias=False)(x)
    x = kl.Dropout(0.1, name="drop", seed=1)(kl.Dense(2, name="kept")(x))
    x = kl.PReLU(name="slope")(x)
    x = kl.Dense(2, use_bias=False, name="out")(x)
    model = keras.Model(inputs, x)
    return tt.wrap(model, filters=["words", "frozen", "kept"], verbose=False)


def test_every_variable_that_is_no_kernel_has_a_reason():
    result = tt.summary(of_all_reasons())
    assert [row.path for row in result.rows] == ["kept/kernel"]
    reasons = {row.path: (row.shape, row.size, row.reason) for row in result.skipped}
    embedding = "an embedding: pass embeddings=True to prune it"
    parameter = "a bias, normalization or activation parameter"
    assert reasons == {
        "words/embeddings": ((7, 6), 42, embedding),
        "frozen/kernel": ((6, 3), 18, "frozen (not trainable)"),
        "kept/bias": ((2,), 2, "rank 1"),
        "slope/alpha": ((6, 2), 12, parameter),
        "out/kernel": ((2, 2), 4, "excluded by filters"),
    }


def test_a_variable_of_the_model_itself_has_a_reason():
    class WithOwn(samples.SubclassedInside):
        def build(self, shape):
            self.scale = self.add_weight(shape=(2, 2), name="scale")
            super().build(shape)

    model = WithOwn(name="own")
    model(np.zeros((1, 6), "float32"))
    skipped = {row.path: row.reason for row in tt.summary(model).skipped}
    assert skipped["own/scale"] == "held by the model itself, not by a layer of it"


def test_rows_and_skipped_together_are_all_weights_but_no_states_of_random_numbers():
    model = tt.wrap(samples.subclassed(), verbose=False)
    result = tt.summary(model)
    rows = [*result.rows, *result.skipped]
    paths = wrapping.plain_paths(model)
    [state] = [path for path, v in paths.items() if v.name == "seed_generator_state"]
    assert sorted([state, *(row.path for row in rows)]) == sorted(paths)
    assert sum(row.size for row in rows) == result.weights


def test_the_text_of_a_report():
    assert str(tt.summary(pruned_small())).splitlines() == [
        "Model 'net'",
        "",
        "kernel    shape  size  kept  sparsity  MACs  MACs kept",
        "a/kernel  6x4      24     6    0.7500    72         18",
        "b/kernel  4x2       8     6    0.2500     8          6",
        "total              32    12    0.6250    80         24",
        "",
        "sparsity 0.6250 among 32 prunable weights, 0.4545 among all 44",
        "MACs (multiply-adds per example) kept: 0.3000",
        "Not prunable:",
        "  rank 1: 3 variables of 12 values: a/bias, norm/moving_mean, "
        "norm/moving_variance",
    ]


def test_the_text_of_many_skipped_variables_names_three_and_counts_the_rest():
    result = tt.summary(samples.subclassed())
    assert str(result).endswith("and 9 more")
    assert repr(result) == str(result)


def test_notebooks_show_the_report_as_escaped_html():
    row = summary.KernelRow("<k>", (2, 3), 6, 3, 6, 3)
    skipped = [summary.SkippedRow("<b>", (2,), 2, "rank 1")]
    text = summary.Report("a & b", [row], skipped, 8, ("a < b",))._repr_html_()
    page = xml.etree.ElementTree.fromstring(f"<div>{text.replace('<br>', ' | ')}</div>")
    assert page.findtext("table/caption") == "Model 'a & b'"
    assert [cell.text for cell in page.findall("table/tbody/tr[1]/td")] == [
        *("<k>", "2x3", "6", "3", "0.5000", "6", "3")
    ]
    assert page.findtext("p") == (
        "sparsity 0.5000 among 6 prunable weights, 0.3750 among all 8 | "
        "MACs (multiply-adds per example) kept: 0.5000 | a < b | Not prunable: |   "
        "rank 1: 1 variable of 2 values: <b>"
    )


def test_json_gives_back_what_the_report_holds(tmp_path):
    result = tt.summary(pruned_small())
    result.to_json(tmp_path / "deep" / "report.json")
    data = json.loads((tmp_path / "deep" / "report.json").read_text("utf-8"))
    assert data == result.to_dict()
    assert data["kernels"][0] == {
        "path": "a/kernel",
        "shape": [6, 4],
        "size": 24,
        "kept": 6,
        "flops": 72,
        "flops_kept": 18,
        "sparsity": 0.75,
    }
    assert data["totals"]["flops_kept"] == 0.3


def test_csv_gives_back_the_kernels_and_the_skipped_variables(tmp_path):
    tt.summary(pruned_small()).to_csv(tmp_path / "report.csv")
    with open(tmp_path / "report.csv", newline="") as file:
        lines = list(csv.reader(file))
    assert lines == [
        [
            "path",
            "shape",
            "size",
            "kept",
            "sparsity",
            "flops",
            "flops_kept",
            "skipped_because",
        ],
        ["a/kernel", "6x4", "24", "6", "0.75", "72", "18", ""],
        ["b/kernel", "4x2", "8", "6", "0.25", "8", "6", ""],
        ["a/bias", "4", "4", "", "", "", "", "rank 1"],
        ["norm/moving_mean", "4", "4", "", "", "", "", "rank 1"],
        ["norm/moving_variance", "4", "4", "", "", "", "", "rank 1"],
    ]


def test_csv_leaves_unknown_flops_empty(tmp_path):
    tt.summary(single(samples.OwnKernel(), 6)).to_csv(tmp_path / "report.csv")
    with open(tmp_path / "report.csv", newline="") as file:
        assert [row["flops"] for row in csv.DictReader(file)] == ["", ""]


@pytest.mark.parametrize("method", ["to_csv", "to_json"])
def test_a_write_that_fails_leaves_the_old_file_and_no_other(
    method, tmp_path, monkeypatch
):
    (tmp_path / "report").write_text("old")

    def half(self, text, encoding):
        self.write_bytes(text[: len(text) // 2].encode())
        raise OSError("disk full")

    monkeypatch.setattr(pathlib.Path, "write_text", half)
    with pytest.raises(OSError, match="disk full"):
        getattr(tt.summary(small()), method)(tmp_path / "report")
    monkeypatch.undo()
    assert [file.name for file in tmp_path.iterdir()] == ["report"]
    assert (tmp_path / "report").read_text() == "old"


def test_a_report_leaves_the_model_as_it_was():
    model = samples.compiled(pruned_small())
    config, weights = model.get_config(), model.get_weights()
    tt.summary(model)
    assert model.get_config() == config
    np.testing.assert_equal(model.get_weights(), weights)


def test_a_model_compiled_with_a_loss_of_its_own_is_reported():
    model = small()
    model.compile("adam", own_loss)
    assert tt.summary(tt.wrap(model, verbose=False)).sparsity == 0


@pytest.mark.parametrize(
    "model, error, message",
    [
        ("net", TypeError, "must be a Keras model.*Received: 'net'"),
        (kl.Dense(2), TypeError, "must be a Keras model.*Dense"),
        (keras.Sequential([kl.Dense(2)], name="raw"), ValueError, "'raw' is not built"),
    ],
)
def test_what_is_no_built_model_is_refused(model, error, message):
    with pytest.raises(error, match=message):
        tt.summary(model)
