"""Gaps and shuffled values: lossless, and close to the theoretical minimum."""

import math

import numpy as np
import pytest

from tf_tickets.exporting.saved_model import packing

pytestmark = pytest.mark.turns


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("zeros", [0.0, 0.3, 0.9, 0.999, 1.0])
@pytest.mark.parametrize("shape", [(), (1,), (255,), (256, 3), (3, 3, 40, 50)])
def test_every_tensor_comes_back(dtype, zeros, shape):
    rng = np.random.default_rng(0)
    array = rng.normal(size=shape) * (rng.random(shape) >= zeros)
    array = np.asarray(array, dtype)
    result = packing.unpack(packing.pack(array))
    assert result.dtype == array.dtype and result.shape == array.shape
    # A mask turns a negative weight into a negative zero, which counts as zero.
    assert result.tobytes() == (array + np.array(0, dtype)).tobytes()


@pytest.mark.parametrize("gap", [0, 1, 254, 255, 256, 510, 511, 100_000])
def test_gaps_of_every_length(gap):
    array = np.zeros(gap + 3, "float32")
    array[[0, gap + 1]] = 1.0, 2.0
    assert (packing.unpack(packing.pack(array)) == array).all()


@pytest.mark.parametrize("zeros", [0.8, 0.9, 0.95, 0.98])
def test_it_is_as_small_as_the_bound(zeros):
    rng = np.random.default_rng(0)
    array = rng.normal(size=(784, 300)) * (rng.random((784, 300)) >= zeros)
    array = array.astype("float32")
    assert packing.pack(array).size < 1.05 * packing.bound([array])


def test_the_bound_counts_the_ways_to_place_the_nonzeros():
    array = np.array([0.0, 1.0, 0.0, 2.0, 0.0, 0.0])
    bits = 2 * 8 + math.log2(math.comb(6, 2))
    assert packing.bound([array], bits=8) == math.ceil(bits / 8)


def test_places_of_a_mask():
    mask = np.random.default_rng(0).random((40, 30)) < 0.1
    ones = packing.pack(mask.astype("float32"))
    assert packing.pack_places(mask) == ones.gaps
