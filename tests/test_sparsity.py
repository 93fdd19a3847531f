import itertools

import numpy as np
import pytest

from tf_tickets.exporting.tflite import sparse_matrix

pytestmark = pytest.mark.turns


def expanded(found, shape):
    """Expands to the dense array, entry by entry."""
    rows = np.zeros((np.prod(shape[:-1], dtype=int), shape[-1]), found.values.dtype)
    values = found.values.reshape(-1, found.block)
    for row, (start, end) in enumerate(itertools.pairwise(found.segments.astype(int))):
        for place in range(start, end):
            column = int(found.indices[place]) * found.block
            rows[row, column : column + found.block] = values[place]
    return rows.reshape(shape)


def scattered(shape, fraction, block=1, seed=0):
    rng = np.random.default_rng(seed)
    kept = rng.random((*shape[:-1], -(-shape[-1] // block))) >= fraction
    kept = np.repeat(kept, block, axis=-1)[..., : shape[-1]]
    return (rng.normal(size=shape) * kept).astype("float32")


@pytest.mark.parametrize("fraction", [0.0, 0.29, 0.5, 0.9, 0.97, 0.99, 1.0])
@pytest.mark.parametrize("shape", [(1, 1), (7, 12), (3, 255), (2, 3, 3, 16), (300, 8)])
@pytest.mark.parametrize("block", [1, 2, 4])
def test_compressed_arrays_come_back(shape, fraction, block):
    block = np.gcd(shape[-1], block)
    array = scattered(shape, fraction)
    assert np.array_equal(expanded(sparse_matrix.compress(array, block), shape), array)


@pytest.mark.parametrize("shape", [(2, 4), (1, 8), (8, 1), (4, 2)])
def test_every_small_pattern_comes_back(shape):
    for pattern in itertools.product((0, 1), repeat=8):
        array = np.array(pattern).reshape(shape) * np.arange(1, 9).reshape(shape)
        result = sparse_matrix.compress_matrix(array)
        assert np.array_equal(expanded(result, shape), array)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_values_keep_their_type(dtype):
    assert sparse_matrix.compress(np.eye(3, dtype=dtype)).values.dtype == dtype


def test_nan_and_infinity_are_kept():
    array = np.array([[0.0, np.nan], [-np.inf, 0.0]])
    result = sparse_matrix.compress(array)
    assert np.array_equal(expanded(result, (2, 2)), array, equal_nan=True)


@pytest.mark.parametrize(
    ("size", "indices"),
    [(256, "uint8"), (257, "uint16"), (65536, "uint16"), (65537, "int32")],
)
def test_indices_have_the_narrowest_type_that_holds_them(size, indices):
    row = np.zeros((1, size), "int8")
    row[0, -1] = 1
    assert sparse_matrix.compress(row).indices.dtype == indices


@pytest.mark.parametrize(
    ("size", "segments"),
    [(255, "uint8"), (256, "uint16"), (65535, "uint16"), (65536, "int32")],
)
def test_segments_have_the_narrowest_type_that_holds_them(size, segments):
    column = np.ones((size, 1), "int8")
    assert sparse_matrix.compress(column).segments.dtype == segments


@pytest.mark.parametrize("block", [1, 4])
def test_an_array_of_zeros_stores_one_block(block):
    result = sparse_matrix.compress(np.zeros((5, 8)), block)
    assert result.values.tolist() == [0.0] * block


@pytest.mark.parametrize("columns", [1, 2, 3, 5, 6, 250, 254, 255])
def test_columns_that_are_no_multiple_of_four_get_no_blocks(columns):
    array = scattered((16, columns), 0.9, block=4)
    assert sparse_matrix.compress_matrix(array).block == 1


@pytest.mark.parametrize("fraction", [0.29, 0.5, 0.9, 0.97, 0.98, 0.99, 0.999])
@pytest.mark.parametrize("columns", [12, 16, 256, 1024])
def test_scattered_nonzeros_get_no_blocks(fraction, columns):
    array = scattered((64, columns), fraction)
    result = sparse_matrix.compress_matrix(array)
    assert result.block == 1
    assert result.values.size == max(np.count_nonzero(array), 1)


@pytest.mark.parametrize("fraction", [0.29, 0.5, 0.9, 0.97, 0.99])
@pytest.mark.parametrize("columns", [12, 16, 256, 1024])
def test_nonzeros_in_blocks_are_stored_so_and_take_fewer_bytes(fraction, columns):
    array = scattered((64, columns), fraction, block=4)
    result = sparse_matrix.compress_matrix(array)
    assert result.block == 4
    assert result.nbytes < sparse_matrix.compress_matrix(array, blocks=False).nbytes


@pytest.mark.parametrize(("missing", "block"), [(0, 4), (4, 4), (5, 1)])
def test_blocks_may_be_a_tenth_empty(missing, block):
    array = np.zeros((2, 40))
    array[0] = 1.0
    array[0, : 4 * missing : 4] = 0.0
    assert sparse_matrix.compress_matrix(array).block == block


@pytest.mark.parametrize(
    ("array", "block"), [(np.zeros((2, 6)), 4), (np.zeros((2, 6)), 0)]
)
def test_a_block_that_does_not_divide_is_refused(array, block):
    with pytest.raises(ValueError, match=f"Received: block={block} for"):
        sparse_matrix.compress(array, block)


@pytest.mark.parametrize("shape", [(), (0, 3), (3, 0)])
def test_an_array_without_entries_is_refused(shape):
    with pytest.raises(ValueError, match="Received: an array of shape"):
        sparse_matrix.compress(np.zeros(shape))
