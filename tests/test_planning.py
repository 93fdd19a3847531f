import numpy as np
import pytest

from tf_tickets.exporting.tflite import encodings, weights

pytestmark = pytest.mark.turns

FLOAT = weights.Use("FULLY_CONNECTED", 1, "FLOAT32")


def weight(values, *uses, obstacle="", no_operator=False, zero=0):
    return weights.Weight(0, 1, "w", values, zero, uses, obstacle, no_operator)


def diagonal(*shape, dtype="float32"):
    """Returns a diagonal matrix, mostly zeros."""
    values = np.zeros(shape, dtype)
    values.flat[:: shape[-1] + 1] = 1
    return values


def chosen(values, *uses, blocks=True, **settings):
    return encodings.choose(weight(values, *uses, **settings), blocks)


@pytest.mark.parametrize(
    ("operator", "shape", "dtype", "activations", "encoding"),
    [
        ("FULLY_CONNECTED", (64, 64), "float32", "FLOAT32", "csr"),
        ("FULLY_CONNECTED", (64, 64), "float16", "FLOAT32", "densify"),
        ("FULLY_CONNECTED", (64, 64), "int8", "FLOAT32", "dense"),
        ("FULLY_CONNECTED", (64, 64), "int8", "INT8", "dense"),
        ("CONV_2D", (64, 3, 3, 64), "float32", "FLOAT32", "densify"),
        ("CONV_2D", (64, 3, 3, 64), "float16", "FLOAT32", "densify"),
        ("CONV_2D", (64, 3, 3, 64), "int8", "FLOAT32", "dense"),
        ("CONV_2D", (64, 3, 3, 64), "int8", "INT16", "dense"),
        ("CONV_2D", (64, 3, 3, 64), "int8", "INT8", "densify"),
        ("DEPTHWISE_CONV_2D", (1, 9, 9, 99), "float32", "FLOAT32", "densify"),
        ("DEPTHWISE_CONV_2D", (1, 9, 9, 99), "int8", "INT8", "densify"),
        ("TRANSPOSE_CONV", (64, 3, 3, 64), "float32", "FLOAT32", "densify"),
        ("TRANSPOSE_CONV", (64, 3, 3, 64), "float16", "FLOAT32", "dense"),
        ("TRANSPOSE_CONV", (64, 3, 3, 64), "int8", "INT8", "densify"),
        ("CONV_3D", (3, 3, 3, 16, 16), "float32", "FLOAT32", "dense"),
        ("BATCH_MATMUL", (64, 64), "float32", "FLOAT32", "dense"),
    ],
)
def test_what_each_operator_gets(operator, shape, dtype, activations, encoding):
    use = weights.Use(operator, 1, activations)
    result = chosen(diagonal(*shape, dtype=dtype), use).encoding
    assert result.encoding == encoding
    assert (result.operator, result.shape, result.dtype) == (operator, shape, dtype)
    assert (result.bytes_after < result.bytes_before) == (encoding != "dense")
    assert result.reason


def test_blocks_are_taken_unless_they_are_declined():
    values = np.kron(diagonal(16, 16), np.ones((1, 4), "float32"))
    assert chosen(values, FLOAT).encoding.encoding == "block 1x4"
    assert chosen(values, FLOAT, blocks=False).encoding.encoding == "csr"


@pytest.mark.parametrize(
    ("kept", "encoding"), [(0.85, "dense"), (0.7, "densify"), (0.1, "csr")]
)
def test_weights_are_encoded_where_that_is_smaller(kept, encoding):
    values = (np.random.default_rng(0).random((64, 256)) < kept).astype("float32")
    result = chosen(values, FLOAT)
    assert result.encoding.encoding == encoding
    assert (result.stored is None) == (encoding == "dense")


def test_what_stays_dense_for_lack_of_zeros_says_so():
    reason = chosen(np.ones((64, 64), "float32"), FLOAT).encoding.reason
    assert reason == "0% of 4096 are zero, which saves less than the indices cost"


def test_a_small_weight_is_not_worth_its_tables():
    assert chosen(diagonal(8, 8), FLOAT).encoding.encoding == "dense"


def test_two_readers_need_one_encoding_that_suits_both():
    conv = weights.Use("CONV_2D", 1, "FLOAT32")
    gather = weights.Use("GATHER", 0, "FLOAT32")
    values = diagonal(64, 64)
    assert chosen(values, FLOAT, FLOAT).encoding.operator == "FULLY_CONNECTED"
    assert chosen(values, FLOAT, FLOAT).encoding.encoding == "csr"
    result = chosen(values, FLOAT, conv).encoding
    assert (result.operator, result.encoding) == (
        "FULLY_CONNECTED and CONV_2D",
        "densify",
    )
    assert "GATHER" in chosen(values, FLOAT, gather).encoding.reason


@pytest.mark.parametrize("operator", ["FULLY_CONNECTED", "CONV_2D", "TRANSPOSE_CONV"])
@pytest.mark.parametrize("position", [0, 2])
def test_a_constant_that_is_no_weight_of_its_reader_stays_dense(operator, position):
    use = weights.Use(operator, position, "FLOAT32")
    assert chosen(diagonal(64, 64), use).encoding.encoding == "dense"


def test_an_obstacle_is_the_reason():
    result = chosen(diagonal(64, 64), FLOAT, obstacle="it is an output of the model")
    assert result.encoding.reason == "it is an output of the model"
    assert result.stored is None


@pytest.mark.parametrize(
    ("dtype", "activations"), [("float32", "FLOAT32"), ("int8", "INT8")]
)
def test_without_new_operators_only_what_is_read_sparse_is_encoded(dtype, activations):
    conv = weights.Use("CONV_2D", 1, activations)
    result = chosen(diagonal(64, 99, dtype=dtype), conv, no_operator=True)
    assert "names operators by position" in result.encoding.reason
    result = chosen(diagonal(64, 64), FLOAT, no_operator=True)
    assert result.encoding.encoding == "csr"


@pytest.mark.parametrize(
    ("fused", "encoding"),
    [("NONE", "densify"), ("RELU6", "densify"), ("TANH", "dense")],
)
def test_float16_is_encoded_where_the_delegate_takes_its_reader(fused, encoding):
    use = weights.Use("CONV_2D", 1, "FLOAT32", fused)
    values = diagonal(64, 3, 3, 64, dtype="float16")
    assert chosen(values, use).encoding.encoding == encoding


def test_sparsity_counts_what_int8_calls_zero():
    use = weights.Use("GATHER", 0, "INT8")
    values = np.full((4, 4), 3, "int8")
    assert chosen(values, use, zero=3).encoding.sparsity == 1.0
    assert chosen(values, use, zero=0).encoding.sparsity == 0.0
