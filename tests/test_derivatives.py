"""Compares second derivatives with those of the same networks in float64 NumPy."""

import keras
import numpy as np
import pytest
from keras import layers as kl
from oracles import hessian

import tf_tickets as tt
from tf_tickets import wrapping
from tf_tickets.pruning import curvature, derivatives, saliency

on_tensorflow = pytest.mark.skipif(
    keras.config.backend() != "tensorflow", reason="JAX needs no correction"
)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 4)).astype("float32")
Y = RNG.integers(0, 3, 12)
SHAPES = [(4, 6), (6, 6), (6, 3)]
WEIGHTS = [RNG.normal(size=shape).astype("float32") for shape in SHAPES]
EPSILON = 1e-3

pytestmark = pytest.mark.turns("tensorflow")

LAYERS = {
    "batch": kl.BatchNormalization,
    "layer": kl.LayerNormalization,
    "group": lambda **more: kl.GroupNormalization(groups=2, **more),
    "rms": kl.RMSNormalization,
}


def network(name):
    keras.utils.set_random_seed(0)
    stack = [keras.Input((4,))]
    for _, units in SHAPES[:-1]:
        stack += [kl.Dense(units, use_bias=False), LAYERS[name](epsilon=EPSILON)]
        stack += [kl.Activation("tanh")]
    model = keras.Sequential([*stack, kl.Dense(3, use_bias=False)])
    model = tt.wrap(model, verbose=False)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss)
    for kernel, weight in zip(
        wrapping.kernels(model).variables.values(), WEIGHTS, strict=True
    ):
        kernel.assign(weight)
    return model


def standardized(x, axis):
    centered = x - x.mean(axis, keepdims=True)
    return centered / np.sqrt((centered**2).mean(axis, keepdims=True) + EPSILON)


def grouped(x):
    return standardized(x.reshape(len(x), 2, -1), 2).reshape(x.shape)


# In training mode, and in evaluation mode with the statistics of a new layer.
TRAINING = {
    "batch": lambda x: standardized(x, 0),
    "layer": lambda x: standardized(x, 1),
    "group": grouped,
    "rms": lambda x: x / np.sqrt((x**2).mean(1, keepdims=True) + EPSILON),
}
EVALUATION = {**TRAINING, "batch": lambda x: x / np.sqrt(1.0 + EPSILON)}


def loss_of(normalized, temperature):
    """Returns the loss as a function of all weights in one vector."""

    def loss(vector):
        sizes = np.cumsum([np.prod(shape) for shape in SHAPES])
        parts = np.split(vector, sizes[:-1])
        first, second, last = (
            part.reshape(shape) for part, shape in zip(parts, SHAPES, strict=True)
        )
        hidden = np.tanh(normalized(X.astype("float64") @ first))
        logits = np.tanh(normalized(hidden @ second)) @ last / temperature
        rows = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(Y)), Y]
        return rows.mean()

    return loss


def flat(scores):
    return np.concatenate([np.ravel(score) for score in scores])


def assert_near(actual, expected):
    np.testing.assert_allclose(actual, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", LAYERS)
def test_grasp_is_exact_through_two_normalizations(name):
    scores = saliency.GraSP(X, Y, temperature=2.0)(network(name))
    weights = flat(WEIGHTS).astype("float64")
    gradient, bends = hessian(loss_of(TRAINING[name], 2.0), weights)
    assert_near(flat(scores.values()), weights * (bends @ gradient))


@pytest.mark.parametrize("name", LAYERS)
def test_obd_is_exact_through_two_normalizations(name):
    scores = curvature.OBD(X, Y, "hutchinson", draws=1, seed=3)(network(name))
    rng = np.random.default_rng(3)
    signs = flat(rng.choice([-1.0, 1.0], size=shape) for shape in SHAPES)
    weights = flat(WEIGHTS).astype("float64")
    _, bends = hessian(loss_of(EVALUATION[name], 1.0), weights)
    expected = 0.5 * signs * (bends @ signs) * weights**2
    assert_near(flat(scores.values()), expected)


def variance(values):
    return keras.ops.moments(values[0], axes=[0])[1]


@pytest.mark.both
@pytest.mark.parametrize("compiles", [False, True])
def test_the_hessian_of_a_variance_is_exact(compiles):
    x = keras.ops.convert_to_tensor([1.0, 2.0, 4.0, 8.0])
    first = keras.ops.convert_to_tensor([1.0, 0.0, 0.0, 0.0])

    def product(x, direction):
        return derivatives.hessian_product(variance, [x], [direction])[0]

    row = (derivatives.compiled(product) if compiles else product)(x, first)
    np.testing.assert_allclose(row, [0.375, -0.125, -0.125, -0.125], rtol=1e-6)


@keras.saving.register_keras_serializable("tests")
class Traced(kl.Layer):
    """Normalizes in a function that TensorFlow traces once."""

    def __init__(self, **kwargs):
        import tensorflow as tf

        super().__init__(**kwargs)
        self.norm = tf.function(lambda x: x - tf.nn.moments(x, [0])[1])

    def call(self, x):
        return self.norm(x)


SECOND = {
    "grasp": lambda: saliency.GraSP(X, Y),
    "obd": lambda: curvature.OBD(X, Y, "hutchinson", draws=1),
}
REFUSED = {
    "tf.nn.moments": Traced,
    "ResizeBilinear": lambda: kl.UpSampling2D(interpolation="bilinear"),
}


@on_tensorflow
@pytest.mark.parametrize("operation", REFUSED)
@pytest.mark.parametrize("criterion", SECOND)
def test_layers_without_exact_second_derivatives_are_refused(operation, criterion):
    stack = [kl.Dense(4), kl.Reshape((2, 2, 1)), REFUSED[operation](), kl.Flatten()]
    stack = [keras.Input((4,)), *stack, kl.Dense(3)]
    model = tt.wrap(keras.Sequential(stack), verbose=False)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss)
    model(X)
    with pytest.raises(ValueError, match=f"second derivatives of {operation}"):
        SECOND[criterion]()(model)
