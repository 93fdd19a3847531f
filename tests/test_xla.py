"""Parts of a TensorFlow step that are compiled with XLA on CPUs."""

import sys

import keras
import numpy as np
import pytest
from keras import ops

from tf_tickets import masks, xla

pytestmark = [pytest.mark.on("tensorflow")]

SCORES = np.random.default_rng(0).normal(size=(20, 15)).astype("float32")
UPSTREAM = np.random.default_rng(1).normal(size=(20, 15)).astype("float32")

KINDS = {
    "soft": lambda: masks.SoftMask(-0.3, penalty=0.01),
    "soft, dynamic": lambda: masks.SoftMask(penalty=0.01, dynamic_scaling=True),
    "soft, own schedule": lambda: masks.SoftMask(
        penalty=0.01, temperature=lambda step, steps, epochs: np.float64(2.0)
    ),
    "soft, own number": lambda: masks.SoftMask(
        penalty=0.01, temperature=lambda step, steps, epochs: 2
    ),
    "stochastic": lambda: masks.StochasticMask(penalty=0.01, seed=1),
    "threshold": lambda: masks.StochasticMask(evaluation="threshold"),
    "topk": lambda: masks.TopKMask(0.4),
    "topk, signed": lambda: masks.TopKMask(0.4, absolute=False),
    "stochastic, dynamic": lambda: masks.StochasticMask(dynamic_scaling=True, seed=1),
    "topk, dynamic": lambda: masks.TopKMask(0.4, dynamic_scaling=True),
}
# A mask that is scaled by its own sum is not compiled.
UNCOMPILED = ["soft, dynamic"]


def compiled_functions(concrete):
    """Returns how many functions of a graph XLA must compile."""
    library = concrete.graph.as_graph_def().library.function
    return sum(function.attr["_XlaMustCompile"].b for function in library)


def value_and_gradient(kind, in_graph):
    """Returns a mask and the gradient of a loss, eagerly or in a graph."""
    import tensorflow as tf

    mask = KINDS[kind]()
    mask.build(SCORES.shape)
    mask.scores.assign(SCORES)
    mask.scale.assign(1.5)
    training = kind != "threshold"

    def both():
        with tf.GradientTape() as tape:
            factor = mask.factor("float32", training)
            penalty = mask.after_forward(mask.scores)
            loss = ops.add(ops.sum(factor * UPSTREAM), penalty)
        return factor, tape.gradient(loss, mask.scores.value)

    run = both
    if in_graph:
        run = tf.function(both, autograph=False)
        count = compiled_functions(run.get_concrete_function())
        assert bool(count) == (kind not in UNCOMPILED)
    return [ops.convert_to_numpy(value) for value in run()]


@pytest.mark.parametrize("kind", KINDS)
def test_compiled_masks_have_the_values_and_gradients_of_the_formulas(kind):
    for compiled, plain in zip(
        value_and_gradient(kind, True), value_and_gradient(kind, False), strict=True
    ):
        np.testing.assert_allclose(compiled, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "dynamic" in kind])
def test_dynamic_scaling_does_not_depend_on_the_usual_precision(kind):
    expected = value_and_gradient(kind, True)
    keras.config.set_floatx("float64")
    try:
        actual = value_and_gradient(kind, True)
    finally:
        keras.config.set_floatx("float32")
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_only_graphs_outside_of_distribution_are_compiled():
    import tensorflow as tf

    @xla.fused
    def tripled(x):
        return 3.0 * x

    def trace():
        function = tf.function(lambda x: tripled(x))
        concrete = function.get_concrete_function(tf.TensorSpec((2,), "float32"))
        return compiled_functions(concrete)

    assert float(tripled(tf.constant(2.0))) == 6.0
    assert trace() == 1
    with tf.distribute.OneDeviceStrategy("cpu:0").scope():
        assert trace() == 0


def test_updates_run_compiled_and_once_in_a_step():
    import tensorflow as tf

    variable = keras.Variable(1.0)
    step = tf.function(lambda: xla.run(lambda: variable.assign_add(2.0)))
    assert compiled_functions(step.get_concrete_function()) == 1
    for _ in range(3):
        step()
    assert float(variable) == 7.0


def test_functions_are_traced_as_they_are_written():
    import tensorflow as tf

    files = []

    def note():
        files.append(sys._getframe(1).f_code.co_filename)

    @xla.fused
    def noted(x):
        note()
        return x

    def update():
        note()

    def step(x):
        xla.run(update)
        return noted(x)

    tf.function(step, autograph=False)(tf.constant(1.0))
    assert files == [__file__, __file__]
