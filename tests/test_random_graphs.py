"""Random graphs without some of their units: exact or pinned, never wrong."""

import keras
import numpy as np
import pytest
import random_graphs
import shrinking

import tf_tickets as tt
from tf_tickets import wrapping
from tf_tickets.compaction.shrinking import shrunk
from tf_tickets.units.units import kept

BACKEND = keras.config.backend()
# JAX compiles every model.
COUNT = 12 if BACKEND == "tensorflow" else 2
SEEDS = [
    seed if seed < COUNT else pytest.param(seed, marks=pytest.mark.matrix)
    for seed in range(500)
]


def relative(first, second):
    """Returns the largest difference of outputs relative to their largest value."""
    errors = []
    for one, other in zip(first, second, strict=True):
        assert one.shape == other.shape
        assert np.isfinite(one).all()
        scale = np.abs(one).max()
        errors.append(np.abs(one - other).max() / scale if scale else other.any())
    return max(map(float, errors))


def check(seed, folder, size=8):
    """Removes random units of a random graph, and compares."""
    keras.utils.set_random_seed(seed)
    model = random_graphs.Graph(seed, size).model()
    rng = np.random.default_rng(seed)
    shrinking.fill(model, rng)
    x = shrinking.examples(model, rng, count=3)
    units = tt.find_units(model)
    keep = shrinking.choose(units, rng, rng.uniform(0.1, 0.7))
    small = shrunk(model, units, keep)
    variables = wrapping.plain_paths(small)
    for axis in units.axes:
        width = variables[axis.path].shape[axis.axis]
        assert width == kept(keep, axis.ids).sum(), axis.path
    shrinking.mask_units(model, units, keep)
    expected = shrinking.predictions(model, x)
    actual = shrinking.predictions(small, x)
    if folder is not None:
        small.save(folder / "small.keras")
        again = keras.models.load_model(folder / "small.keras")
        assert relative(actual, shrinking.predictions(again, x)) == 0
    return units.size, int(units.size - keep.sum()), relative(expected, actual)


@pytest.fixture
def precision(request):
    """Computes with float64 on TensorFlow, where rounding hides nothing."""
    if BACKEND == "tensorflow":
        keras.config.set_dtype_policy("float64")
        return 1e-12
    return 1e-5


@pytest.mark.parametrize("seed", SEEDS)
def test_a_random_graph_without_units_is_the_graph_with_masks(
    seed, tmp_path, precision
):
    folder = tmp_path if seed % 5 == 0 else None
    *_, error = check(seed, folder)
    assert error < precision


@pytest.mark.parametrize("seed", range(1000, 1100))
@pytest.mark.matrix
def test_a_random_graph_of_single_precision_is_exact(seed, tmp_path):
    *_, error = check(seed, tmp_path, size=12)
    assert error < 1e-5
