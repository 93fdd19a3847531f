"""Models as users have them, each with all checks of `zoo/checks.py`.

Three of them run by default, two on TensorFlow and one on JAX, without exports. The
others, and exports of all, belong to the matrix. `benchmarks/model_coverage.py` writes
the same checks into a table.
"""

import functools

import keras
import numpy as np
import pytest
import zoo
from keras import layers as kl
from zoo import checks
from zoo.case import Case, Limit, compiled, floats, numbers

MODELS = zoo.models()
EXPORTS = ("saved_model", "tflite")
QUICK = [
    ("custom", "Siamese with triplet `train_step`"),
    ("custom", "Several inputs and outputs"),
    ("custom", "Layers made in `build`"),
][keras.config.backend() != "tensorflow" :: 2]
FREE = [name for name in checks.CHECKS if name not in EXPORTS]


@pytest.fixture
def paths_of_the_tests(monkeypatch, request):
    """Lets the process that exports by TensorFlow import the classes of the zoo."""
    root = request.config.rootpath
    monkeypatch.setenv("PYTHONPATH", f"{root}:{root / 'tests'}")


def run_all(names, key, folder):
    bench = checks.Bench(MODELS[key], folder)
    for name in names:
        checks.run(name, bench)


@pytest.mark.parametrize("key", QUICK, ids=": ".join)
def test_a_model_passes_what_needs_no_export(key, tmp_path):
    run_all(FREE, key, tmp_path)


# Keras, TensorFlow and the converter warn of many things that work.
@pytest.mark.matrix
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("forked_interpreters", "paths_of_the_tests")
@pytest.mark.parametrize("key", MODELS, ids=": ".join)
def test_a_model_passes_every_check_or_fails_as_it_says(key, tmp_path):
    run_all(checks.CHECKS, key, tmp_path)


def small(**more):
    model = keras.Sequential([keras.Input((4,)), kl.Dense(6), kl.Dense(2)])
    return Case(compiled(model), floats(4, 4), numbers(2, 4), **more)


class Forgetful(kl.Layer):
    """Counts its calls in Python, which no file and no copy knows."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 2), name="kernel")
        self.calls = 0

    def call(self, x):
        self.calls += 1
        return self.calls * keras.ops.matmul(x, self.kernel)


def forgetful():
    model = keras.Sequential([keras.Input((4,)), Forgetful()])
    return Case(compiled(model), floats(4, 4), numbers(2, 4))


@pytest.mark.parametrize("name", ["wrap_equal", "strip_exact", "stripped_file"])
def test_a_model_that_does_not_predict_the_same_again_fails(name, tmp_path):
    with pytest.raises((AssertionError, TypeError), match="differ|Could not locate"):
        checks.run(name, checks.Bench(forgetful, tmp_path))


def limited(message):
    return small(limits={"wrap_equal": Limit("It cannot.", message)}, wrap=_refuse)


def _refuse(model):
    raise ValueError("not this one")


def test_a_limit_is_an_error_that_is_expected(tmp_path):
    bench = checks.Bench(functools.partial(limited, "not this"), tmp_path)
    assert checks.run("wrap_equal", bench) == "It cannot."


def test_another_error_than_the_expected_one_fails(tmp_path):
    bench = checks.Bench(functools.partial(limited, "something else"), tmp_path)
    with pytest.raises(ValueError, match="not this one"):
        checks.run("wrap_equal", bench)


def test_a_limit_that_is_none_any_more_fails(tmp_path):
    limits = {"wrap_equal": Limit("It cannot.", "")}
    bench = checks.Bench(functools.partial(small, limits=limits), tmp_path)
    with pytest.raises(AssertionError, match="remove this limit"):
        checks.run("wrap_equal", bench)


def test_arrays_are_compared_bit_for_bit():
    checks.equal([np.zeros(2)], [np.zeros(2)])
    with pytest.raises(AssertionError, match="differ by up to 0"):
        checks.equal([np.zeros(2)], [-np.zeros(2)])
    with pytest.raises(AssertionError):
        checks.equal([np.zeros(2)], [np.zeros(2, "float32")])
