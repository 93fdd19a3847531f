"""The groups and blocks of a structure, in the order of the weights in TFLite files."""

import converted
import keras
import numpy as np
import pytest
from keras import layers as kl

import tf_tickets as tt
from tf_tickets.exporting.tflite import file, weights

LAYERS = {
    "dense": ((9,), lambda: kl.Dense(5)),
    "conv": ((5, 5, 8), lambda: kl.Conv2D(6, 3)),
    "transposed": ((4, 4, 8), lambda: kl.Conv2DTranspose(6, 3)),
    "grouped": ((5, 5, 16), lambda: kl.Conv2D(6, 3, groups=2)),
    "conv 1d": ((9, 8), lambda: kl.Conv1D(6, 3)),
    "separable": ((6, 6, 8), lambda: kl.SeparableConv2D(6, 3)),
    "heads": ((5, 8), lambda: kl.EinsumDense("abc,cde->abde", (5, 3, 4))),
    "projection": ((5, 2, 4), lambda: kl.EinsumDense("abcd,cde->abe", (5, 6))),
    "attention": (
        (5, 8),
        lambda: [kl.MultiHeadAttention(2, 4, use_bias=False)],
    ),
    "recurrent": ((5, 8), lambda: kl.LSTM(4, unroll=True)),
}
BY_DEFAULT = ["dense", "conv"]


def built(name, structure):
    """Returns a plain model with numbered weights, at the limit of a structure."""
    shape, layer = LAYERS[name]
    inputs = keras.Input(shape)
    made = layer()
    outputs = made[0](inputs, inputs) if isinstance(made, list) else made(inputs)
    model = tt.wrap(keras.Model(inputs, outputs), structure=structure, verbose=False)
    rng = np.random.default_rng(0)
    for variable in tt.kernels(model).variables.values():
        variable.assign(rng.normal(size=variable.shape))
    ticket = tt.PruneAtInit(0.5, 1, allocation="uniform", monitor="loss").prune(model)
    return tt.strip(model), ticket


def matrices_of(content):
    """Returns the constants of a file that operators multiply by, rows by last axis."""
    found = weights.find(file.read(content))
    return [w.values.reshape(-1, w.values.shape[-1]) for w in found]


@pytest.mark.parametrize(
    "name",
    [
        name if name in BY_DEFAULT else pytest.param(name, marks=pytest.mark.matrix)
        for name in LAYERS
    ],
)
def test_groups_lie_along_the_last_axis_of_a_file(name):
    plain, ticket = built(name, "2:4")
    found = [m for m in matrices_of(converted.convert(plain)) if (m == 0).any()]
    zeros = sum(int((matrix == 0).sum()) for matrix in found)
    assert zeros >= sum(m.size - int(m.sum()) for m in ticket.masks.values())
    assert found
    for matrix in found:
        for first in range(0, matrix.shape[1], 4):
            group = matrix[:, first : first + 4]
            kept = np.count_nonzero(group, axis=1)
            assert (kept == -(-group.shape[1] // 2)).all(), matrix.shape


@pytest.mark.parametrize(
    "name",
    [
        "dense",
        *(
            pytest.param(name, marks=pytest.mark.matrix)
            for name in LAYERS
            if name != "dense"
        ),
    ],
)
def test_blocks_lie_along_the_last_axis_of_a_file(name):
    plain, ticket = built(name, "4x1")
    found = [m for m in matrices_of(converted.convert(plain)) if (m == 0).any()]
    assert found
    for matrix in found:
        for first in range(0, matrix.shape[1], 4):
            kept = np.count_nonzero(matrix[:, first : first + 4], axis=1)
            assert np.isin(kept, (0, min(4, matrix.shape[1] - first))).all()
