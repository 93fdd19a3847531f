"""Converts, encodes and runs files; the dense file is the reference."""

import functools
import gzip

import keras
import numpy as np
import pytest

from tf_tickets.exporting.tflite import file, rewriter

converted = pytest.importorskip("converted", reason="needs TensorFlow and LiteRT")

SPARSITIES = [0.0, 0.29, 0.5, 0.9, 0.97, 0.99, 1.0]
WIDTHS = [255, 254, 250, 16, 12]
CONVOLUTIONS = {
    "conv 1x1": ["CONV_2D"],
    "conv 3x3": ["CONV_2D"],
    "depthwise": ["DEPTHWISE_CONV_2D"],
    "separable": ["CONV_2D", "DEPTHWISE_CONV_2D"],
    "transposed": ["TRANSPOSE_CONV"],
    "grouped": ["CONV_2D"],
    "conv 1d": ["CONV_2D"],
}


def error(expected, given):
    """Returns the error relative to the largest value; infinite for NaN."""
    actual = np.abs(given - expected).max() / max(np.abs(expected).max(), 1e-30)
    return np.inf if np.isnan(actual) else actual


def assert_same_outputs(content, encoded, shape):
    for batch in (1, 3):
        for delegate in (True, False):
            x = converted.inputs(shape, batch, seed=batch)
            expected = converted.predict(content, x, delegate)
            assert error(expected, converted.predict(encoded, x, delegate)) < 1e-6


def assert_sizes_as_recorded(content, encoded, records):
    """Checks that the file shrinks as much as its tensors, except for tables."""
    saved = [r.bytes_before - r.bytes_after for r in records if r.encoding != "dense"]
    tables = [700 + 12 * max(r.shape) for r in records if r.encoding != "dense"]
    result = len(content) - len(encoded)
    assert sum(saved) - sum(tables) <= result <= sum(saved)
    assert (len(encoded) < len(content)) == bool(saved)


def encodings(records):
    return sorted(record.encoding for record in records)


def dimensions(content):
    """Maps the name of each sparse tensor to its stored dimensions."""
    tensors = file.read(content).subgraphs[0].tensors
    return {
        tensor.name.decode(): len(tensor.sparsity.dimMetadata)
        for tensor in tensors
        if tensor.sparsity is not None
    }


@pytest.mark.parametrize("block", [1, 4])
@pytest.mark.parametrize("sparsity", SPARSITIES)
@pytest.mark.parametrize("width", WIDTHS)
def test_dense_layers_give_the_same_outputs(width, sparsity, block):
    content = converted.pruned(f"dense {width}", sparsity, block=block)
    encoded, records = rewriter.encode(content)
    assert_same_outputs(content, encoded, (width,))
    assert_sizes_as_recorded(content, encoded, records)
    assert [r.operator for r in records] == ["FULLY_CONNECTED"] * 2


@pytest.mark.parametrize("sparsity", [0.9, 0.97, 0.99])
@pytest.mark.parametrize("width", WIDTHS)
def test_scattered_nonzeros_are_rows_in_an_operator_of_version_8(width, sparsity):
    encoded, records = rewriter.encode(converted.pruned(f"dense {width}", sparsity))
    named = {r.tensor: r for r in records if r.encoding == "csr"}
    assert dimensions(encoded) == dict.fromkeys(named, 2)
    versions = [version for _, version in converted.codes(encoded)]
    assert sorted(versions) == [1] * (2 - len(named)) + [8] * len(named)
    assert any(r.shape == (48, width) for r in named.values()) or width < 250


@pytest.mark.parametrize(
    "sparsity, block, encoding",
    [(0.5, 1, "densify"), (0.86, 1, "densify"), (0.89, 1, "csr")]
    + [(0.5, 4, "densify"), (0.78, 4, "densify"), (0.82, 4, "block 1x4")],
)
def test_matrices_with_few_zeros_are_decoded_once(sparsity, block, encoding):
    content = converted.pruned("dense 16", sparsity, block=block)
    encoded, records = rewriter.encode(content)
    assert encodings(records) == [encoding, encoding]
    reason = "slow: decoded once at load time" if encoding == "densify" else ""
    assert all(reason in record.reason for record in records)
    assert len(encoded) < len(content)
    assert dimensions(encoded) == {r.tensor: 2 + (block == 4) for r in records}
    assert_same_outputs(content, encoded, (16,))


@pytest.mark.parametrize("sparsity", [0.9, 0.97, 0.99])
@pytest.mark.parametrize(
    ("width", "first"), [(255, "csr"), (254, "csr"), (250, "csr"), (16, "block 1x4")]
)
def test_blocks_of_four_are_used_where_the_inputs_divide(width, first, sparsity):
    content = converted.pruned(f"dense {width}", sparsity, block=4)
    encoded, records = rewriter.encode(content)
    assert {r.shape: r.encoding for r in records}[48, width] == first
    stored = {"csr": 2, "block 1x4": 3}
    expected = {r.tensor: stored[r.encoding] for r in records}
    assert dimensions(encoded) == expected


@pytest.mark.parametrize("name", ["dense 12", "dense 250", "conv 1x1", "depthwise"])
@pytest.mark.parametrize("kind", ["float32", "float16"])
def test_where_encoding_begins_to_pay_no_file_grows(name, kind):
    result = set()
    for sparsity in np.linspace(0.1, 0.8, 15):
        content = converted.pruned(name, sparsity, kind)
        encoded, records = rewriter.encode(content)
        result.update(encodings(records))
        assert_sizes_as_recorded(content, encoded, records)
    assert len(result) > 1


def test_blocks_can_be_declined():
    content = converted.pruned("dense 16", 0.9, block=4)
    encoded, records = rewriter.encode(content, blocks=False)
    assert encodings(records) == ["csr", "csr"]
    assert_same_outputs(content, encoded, (16,))


@pytest.mark.parametrize("sparsity", [0.9, 1.0])
def test_indices_above_255_are_read(sparsity):
    content = converted.pruned("wide", sparsity)
    encoded, records = rewriter.encode(content)
    assert encodings(records) == ["csr"]
    assert_same_outputs(content, encoded, (300,))


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9, 0.99, 1.0])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_give_the_same_outputs(name, sparsity):
    content = converted.pruned(name, sparsity)
    encoded, records = rewriter.encode(content)
    assert sorted(r.operator for r in records) == CONVOLUTIONS[name]
    expected = "dense" if sparsity == 0.0 else "densify"
    assert {r.encoding for r in records} == {expected}
    unpacking = [code for code in converted.codes(encoded) if code[0] == "DENSIFY"]
    assert unpacking == [("DENSIFY", 1)] * (len(records) * (sparsity > 0.0))
    assert_same_outputs(content, encoded, converted.MODELS[name][0])
    assert_sizes_as_recorded(content, encoded, records)


@pytest.mark.parametrize("sparsity, encoding", [(0.5, "densify"), (0.98, "csr")])
def test_einsum_dense_is_a_fully_connected_layer(sparsity, encoding):
    content = converted.pruned("einsum", sparsity)
    encoded, (record,) = rewriter.encode(content)
    assert (record.operator, record.encoding) == ("FULLY_CONNECTED", encoding)
    assert_same_outputs(content, encoded, (5, 32))


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9, 0.99, 1.0])
@pytest.mark.parametrize(
    ("kind", "matrix", "convolution"),
    [
        ("float32", "csr", "densify"),
        ("float16", "densify", "densify"),
        ("dynamic", "dense", "dense"),
        ("int8", "dense", "densify"),
        ("int16", "dense", "dense"),
    ],
)
def test_every_kind_of_file_gives_the_same_outputs(kind, matrix, convolution, sparsity):
    content = converted.pruned("mixed", sparsity, kind)
    encoded, records = rewriter.encode(content)
    assert_same_outputs(content, encoded, (6, 6, 16))
    assert_sizes_as_recorded(content, encoded, records)
    of_matrix = {r.encoding for r in records if r.operator == "FULLY_CONNECTED"}
    of_others = {r.encoding for r in records if r.operator != "FULLY_CONNECTED"}
    few = (kind, sparsity) == ("float32", 0.5)
    assert of_matrix <= {"densify" if few else matrix, "dense"}
    assert of_others <= {convolution, "dense"}
    assert (convolution in of_others) or sparsity < 0.9


def test_weights_of_int8_without_encoding_are_made_small_by_gzip():
    content = converted.pruned("mixed", 0.95, "dynamic")
    encoded, records = rewriter.encode(content)
    assert encoded == content
    assert all("gzip" in record.reason for record in records)
    assert len(gzip.compress(encoded)) < 0.5 * len(content)


def test_an_embedding_stays_dense_beside_an_encoded_layer():
    content = converted.pruned("embedding", 0.9)
    _, records = rewriter.encode(content)
    assert {r.operator: r.encoding for r in records} == {
        "GATHER": "dense",
        "FULLY_CONNECTED": "csr",
    }


# The behaviour of the converter itself.


@functools.cache
def by_tensorflow(width, sparsity, block=1, kind="float32"):
    """Returns a layer's file with and without the converter's encoding, and inputs."""
    model = keras.Sequential([keras.Input((width,)), keras.layers.Dense(64)])
    rng = np.random.default_rng(0)
    mask = converted.mask((64, width), sparsity, block, rng)
    kernel = (rng.normal(size=(64, width)) * mask).T
    model.set_weights([kernel, np.zeros(64)])
    settings = converted.settings(kind, (width,))
    dense = converted.convert(model, **settings)
    settings["optimizations"] = [
        *settings.get("optimizations", []),
        converted.SPARSITY,
    ]
    return converted.convert(model, **settings), dense, converted.inputs((width,), 2)


def test_the_converter_stores_zeros_of_scattered_nonzeros_and_we_do_not():
    theirs, dense, _ = by_tensorflow(256, 0.98)
    ours, (record,) = rewriter.encode(dense)
    assert record.encoding == "csr"
    assert set(dimensions(theirs).values()) == {3}
    assert len(ours) < len(theirs) - 2 * record.bytes_after


def test_the_converter_loses_the_last_inputs_and_we_do_not():
    theirs, dense, x = by_tensorflow(255, 0.98)
    expected = converted.predict(dense, x)
    assert error(expected, converted.predict(theirs, x)) > 0.01
    assert error(expected, converted.predict(rewriter.encode(dense)[0], x)) < 1e-6


@pytest.mark.parametrize("kind", ["dynamic", "int8"])
def test_quantised_and_sparse_by_the_converter_does_not_load_and_ours_does(kind):
    theirs, dense, x = by_tensorflow(256, 0.8, kind=kind)
    with pytest.raises(RuntimeError, match="failed to delegate FULLY_CONNECTED"):
        converted.predict(theirs, x)
    ours, _ = rewriter.encode(dense)
    assert error(converted.predict(dense, x), converted.predict(ours, x)) < 1e-6


def test_quantised_blocks_by_the_converter_need_the_builtin_kernels_and_ours_do_not():
    theirs, dense, x = by_tensorflow(256, 0.9, block=16, kind="dynamic")
    # With the delegate theirs reads memory that nobody wrote, so nothing can be
    # asserted of its values. The builtin kernels know the encoding.
    assert set(dimensions(theirs).values()) == {3}
    expected = converted.predict(dense, x, False)
    assert error(expected, converted.predict(theirs, x, False)) < 1e-6
    ours, _ = rewriter.encode(dense)
    expected = converted.predict(dense, x)
    assert error(expected, converted.predict(ours, x)) < 1e-6


def test_transposed_convolutions_of_halves_stay_dense_with_the_reason():
    content = converted.pruned("transposed", 0.9, "float16")
    encoded, (record,) = rewriter.encode(content)
    assert (encoded, record.encoding) == (content, "dense")
    assert "do not reach TRANSPOSE_CONV" in record.reason
    model = converted.of("transposed")
    kernel, bias = model.get_weights()
    model.set_weights([kernel * (np.abs(kernel) > np.quantile(abs(kernel), 0.9)), bias])
    settings = converted.settings("float16", (4, 4, 16))
    dense = converted.convert(model, **settings)
    settings["optimizations"].append(converted.SPARSITY)
    theirs = converted.convert(model, **settings)
    operators = {code.builtinCode for code in file.read(theirs).operatorCodes}
    builtin = file.schema().BuiltinOperator
    assert {builtin.DENSIFY, builtin.TRANSPOSE_CONV} <= operators
    # As above: with the delegate it reads memory that nobody wrote.
    x = converted.inputs((4, 4, 16), 1)
    expected, result = (converted.predict(each, x, False) for each in (dense, theirs))
    assert error(expected, result) < 1e-6


@pytest.mark.parametrize("name", ["conv 3x3", "depthwise"])
@pytest.mark.parametrize("kind", ["float32", "float16"])
def test_an_operator_that_the_delegate_leaves_gets_its_weights(name, kind):
    def fuse_tanh(model):
        model.subgraphs[0].operators[-1].builtinOptions.fusedActivationFunction = 4

    content = converted.changed(converted.pruned(name, 0.9, kind), fuse_tanh)
    encoded, (record,) = rewriter.encode(content)
    assert record.encoding == {"float32": "densify", "float16": "dense"}[kind]
    assert_same_outputs(content, encoded, converted.MODELS[name][0])


# Graphs that are not a plain chain.


def model_of(call, shape):
    inputs = keras.Input(shape)
    return keras.Model(inputs, call(inputs))


def with_zeros(model, fraction=0.9):
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        kept = rng.random(variable.shape) >= fraction
        variable.assign(rng.normal(size=variable.shape) * kept)
    return converted.convert(model)


def test_one_densify_serves_all_that_read_a_tensor():
    filters = keras.layers.Conv2D(16, 3, padding="same")
    matrix = keras.layers.Dense(16)
    content = with_zeros(
        model_of(
            lambda x: matrix(keras.ops.relu(matrix(filters(filters(x))))), (6, 6, 16)
        )
    )
    encoded, records = rewriter.encode(content)
    assert encodings(records) == ["csr", "densify"]
    names = [name for name, _ in converted.codes(encoded)]
    assert names.count("DENSIFY") == 1
    assert names.index("DENSIFY") < names.index("CONV_2D")
    assert_same_outputs(content, encoded, (6, 6, 16))


def test_attention_and_recurrence_run():
    def call(x):
        x = keras.layers.MultiHeadAttention(2, 16)(x, x)
        x = keras.layers.LSTM(24, unroll=True)(keras.layers.LayerNormalization()(x))
        return keras.layers.Dense(32, "softmax")(x)

    content = with_zeros(model_of(call, (4, 16)))
    encoded, records = rewriter.encode(content)
    assert len(encoded) < len(content)
    assert encodings(records).count("csr") >= 5
    assert_same_outputs(content, encoded, (4, 16))


def first_weight(model):
    """Returns the position of the first tensor with a large constant."""
    sizes = [
        0 if model.buffers[t.buffer].data is None else model.buffers[t.buffer].data.size
        for t in model.subgraphs[0].tensors
    ]
    return int(np.argmax(sizes))


def make_an_output(model):
    graph = model.subgraphs[0]
    graph.outputs = np.append(graph.outputs, np.int32(first_weight(model)))


def share_the_bytes(model):
    tensors = model.subgraphs[0].tensors
    tensors.append(file.schema().TensorT(**vars(tensors[first_weight(model)])))


def add_a_graph(model):
    model.subgraphs.append(model.subgraphs[0])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (make_an_output, "it is an output of the model"),
        (share_the_bytes, "it shares its buffer with another tensor"),
        (add_a_graph, "it shares its buffer with another tensor"),
    ],
)
def test_what_others_need_dense_stays_dense(change, reason):
    content = converted.changed(converted.pruned("conv 3x3", 0.9), change)
    encoded, records = rewriter.encode(content)
    assert encoded == content
    assert records[0].reason == reason
    assert {r.encoding for r in records} == {"dense"}


def test_graphs_after_the_first_are_left_alone():
    def separate(model):
        tensor = model.subgraphs[1].tensors[first_weight(model)]
        model.buffers.append(model.buffers[tensor.buffer])
        tensor.buffer = len(model.buffers) - 1

    content = converted.changed(converted.pruned("conv 3x3", 0.9), add_a_graph)
    content = converted.changed(content, separate)
    encoded, records = rewriter.encode(content)
    assert [r.encoding for r in records] == ["densify", "dense"]
    assert records[1].reason == "only the first graph of a file is encoded"
    assert_same_outputs(content, encoded, (6, 6, 16))


@pytest.mark.parametrize("sparsity, matrix", [(0.5, "dense"), (0.9, "csr")])
def test_operators_named_by_position_are_not_moved(sparsity, matrix):
    content = converted.pruned("mixed", sparsity)
    entries = {"model_control_dependencies": b"unread"}
    content = file.set_metadata(content, entries)
    encoded, records = rewriter.encode(content)
    assert {r.operator: r.encoding for r in records} == {
        "CONV_2D": "dense",
        "DEPTHWISE_CONV_2D": "dense",
        "FULLY_CONNECTED": matrix,
    }
    before, after = converted.codes(content), converted.codes(encoded)
    assert [name for name, _ in before] == [name for name, _ in after]


# The file as a whole.


def test_all_else_in_the_file_is_kept():
    content = converted.pruned("mixed", 0.9)
    encoded, _ = rewriter.encode(content)
    before, after = file.read(content), file.read(encoded)
    assert after.description == before.description
    assert file.metadata(encoded) == file.metadata(content) != {}
    (old,), (new,) = before.signatureDefs, after.signatureDefs
    assert new.signatureKey == old.signatureKey
    assert [(i.name, i.tensorIndex) for i in new.inputs + new.outputs] == [
        (i.name, i.tensorIndex) for i in old.inputs + old.outputs
    ]
    assert [
        t.name for t in after.subgraphs[0].tensors[: len(before.subgraphs[0].tensors)]
    ] == [t.name for t in before.subgraphs[0].tensors]
    kept = [code for code in converted.codes(encoded) if code[1] != 8]
    assert set(kept) - {("DENSIFY", 1)} <= set(converted.codes(content))


def test_a_signature_still_runs():
    from ai_edge_litert.interpreter import Interpreter

    encoded, _ = rewriter.encode(converted.pruned("mixed", 0.9))
    runner = Interpreter(model_content=encoded).get_signature_runner()
    (name,) = runner.get_input_details()
    assert list(runner(**{name: converted.inputs((6, 6, 16), 1)}).values())[0].any()


def test_constants_begin_at_multiples_of_sixteen():
    encoded, _ = rewriter.encode(converted.pruned("mixed", 0.9))
    start = np.frombuffer(encoded, np.uint8).ctypes.data
    data = [buffer.data for buffer in file.read(encoded).buffers]
    offsets = [d.ctypes.data - start for d in data if d is not None and d.size]
    assert [offset % 16 for offset in offsets] == [0] * len(offsets)


@pytest.mark.parametrize("kind", ["float32", "int8"])
def test_the_same_bytes_give_the_same_bytes(kind):
    content = converted.pruned("mixed", 0.9, kind)
    assert rewriter.encode(content) == rewriter.encode(bytearray(content))


def test_nothing_to_encode_gives_the_bytes_back():
    content = converted.dense("dense 16")
    assert rewriter.encode(content)[0] == content


def test_an_encoded_file_is_not_encoded_again():
    encoded, _ = rewriter.encode(converted.pruned("dense 16", 0.9))
    with pytest.raises(ValueError, match="Pass the dense file"):
        rewriter.encode(encoded)
