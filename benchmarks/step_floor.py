"""Training steps written by hand, without layers, wrappers and a trainer.

They show what a mask and a penalty cost at least: LeNet-300-100, softmax cross-entropy
and Adam in a few lines of JAX or TensorFlow. `benchmarks/step_time.py --only floor`
times them in place of the steps of the library.

dense                   No mask.
mask                    Kernels are read times a boolean mask, as the library does.
gradient                Only the gradient is masked: what would remain if no reader
                        of a kernel were protected.
penalty                 `mask`, and half the sum of squares of selected weights times
                        a strength, in the loss.
penalty, not reported   `mask`, and the gradient of that penalty without its value.
second Adam             `dense`, and as many further weights as the kernels have, whose
                        gradient is a multiple of them: what scores cost without masks.
soft                    Kernels times the sigmoid of trained scores, with a penalty on
                        its sum, as `SoftMask` has.
"""

import keras
import numpy as np
from keras import ops

KINDS = (
    *("dense", "mask", "gradient", "penalty", "penalty, not reported"),
    *("second Adam", "soft"),
)
# Those with scores.
SCORED = ("second Adam", "soft")
WIDTHS = (784, 300, 100, 10)
STRENGTH = 1e-4
# Those of a soft mask.
TEMPERATURE, PENALTY = 1.5, 1e-8


@ops.custom_gradient
def _with_masked_gradient(kernel, mask):
    def gradient(*arguments, upstream=None):
        upstream = arguments[0] if upstream is None else upstream
        return upstream * ops.cast(mask, "float32"), ops.zeros_like(mask)

    return kernel, gradient


@ops.custom_gradient
def _pulled(kernel, chosen):
    def gradient(*arguments, upstream=None):
        upstream = arguments[0] if upstream is None else upstream
        pull = STRENGTH * kernel * ops.cast(chosen, "float32")
        return upstream * pull, ops.zeros_like(chosen)

    return ops.zeros(()), gradient


def _loss(kind, weights, masks, chosen, x, y):
    """Returns the loss; weights are kernels, then biases, then scores."""
    kernels, biases, scores = weights[:3], weights[3:6], weights[6:]
    if kind == "soft":
        masks = [ops.sigmoid(TEMPERATURE * each) for each in scores]
    values = x
    for layer, (kernel, bias) in enumerate(zip(kernels, biases, strict=True)):
        values = ops.matmul(values, _masked(kind, kernel, masks[layer])) + bias
        if layer < 2:
            values = ops.relu(values)
    loss = ops.mean(
        keras.losses.sparse_categorical_crossentropy(y, values, from_logits=True)
    )
    return loss + _penalty(kind, kernels, scores, masks, chosen)


def _masked(kind, kernel, mask):
    if kind in ("dense", "second Adam"):
        return kernel
    if kind == "gradient":
        return _with_masked_gradient(kernel, mask)
    return kernel * ops.cast(mask, "float32")


def _penalty(kind, kernels, scores, masks, chosen):
    if kind == "penalty":
        squares = map(_squares, kernels, chosen)
        return 0.5 * STRENGTH * sum(squares)
    if kind == "penalty, not reported":
        return sum(map(_pulled, kernels, chosen))
    if kind == "second Adam":
        return sum(map(_pulled, scores, chosen))
    return PENALTY * sum(map(ops.sum, masks)) if kind == "soft" else 0.0


def _squares(kernel, chosen):
    """Returns the sum of the squares of chosen weights, in the faster form."""
    chosen = ops.cast(chosen, "float32")
    if keras.config.backend() == "tensorflow":
        return ops.sum(ops.square(kernel) * chosen)
    return ops.sum(ops.square(kernel * chosen))


def _state(kind, seed):
    """Returns initial weights, masks of ones and a random half of each kernel."""
    rng = np.random.default_rng(seed)
    shapes = list(zip(WIDTHS[:-1], WIDTHS[1:], strict=True))
    kernels = [0.05 * rng.standard_normal(s, dtype="float32") for s in shapes]
    biases = [np.zeros(width, "float32") for width in WIDTHS[1:]]
    masks = [np.ones(shape, bool) for shape in shapes]
    chosen = [rng.random(shape) < 0.5 for shape in shapes]
    scores = [np.zeros(shape, "float32") for shape in shapes if kind in SCORED]
    return [*kernels, *biases, *scores], masks, chosen


def steps_of(kind, data, seed, rate, jit=True):
    """Returns a function that runs n steps by hand and waits for the last."""
    run = _jax_steps if keras.config.backend() == "jax" else _tensorflow_steps
    return run(kind, data, seed, rate, jit)


def _jax_steps(kind, data, seed, rate, jit):
    import jax

    def step(weights, means, squares, count, masks, chosen, x, y):
        def loss_of(weights):
            return _loss(kind, weights, masks, chosen, x, y)

        loss, gradients = jax.value_and_grad(loss_of)(weights)
        count = count + 1.0
        alpha = rate * (1 - 0.999**count) ** 0.5 / (1 - 0.9**count)
        new = [[], [], []]
        each = zip(weights, means, squares, gradients, strict=True)
        for weight, mean, square, gradient in each:
            mean = mean + (gradient - mean) * 0.1
            square = square + (gradient * gradient - square) * 0.001
            weight = weight - alpha * mean / (square**0.5 + 1e-7)
            for values, value in zip(new, (weight, mean, square), strict=True):
                values.append(value)
        return loss, *new, count, masks, chosen

    weights, masks, chosen = jax.tree.map(jax.numpy.array, _state(kind, seed))
    empty = [jax.tree.map(jax.numpy.zeros_like, weights) for _ in range(2)]
    state = (weights, *empty, jax.numpy.zeros(()), masks, chosen)
    compiled = jax.jit(step, donate_argnums=range(6))
    data = [jax.numpy.asarray(part) for part in data]

    def run(steps):
        nonlocal state
        for _ in range(steps):
            _, *state = compiled(*state, *data)
        jax.block_until_ready(state)

    return run


def _tensorflow_steps(kind, data, seed, rate, jit):
    import tensorflow as tf

    weights, masks, chosen = tf.nest.map_structure(tf.Variable, _state(kind, seed))
    means, squares = (
        [tf.Variable(tf.zeros_like(weight)) for weight in weights] for _ in range(2)
    )
    count = tf.Variable(0.0)
    x, y = (tf.convert_to_tensor(part) for part in data)

    @tf.function(jit_compile=jit)
    def step(x, y):
        with tf.GradientTape() as tape:
            read = [weight.value() for weight in weights]
            tape.watch(read)
            kept = [mask.value() for mask in masks]
            selected = [mask.value() for mask in chosen]
            loss = _loss(kind, read, kept, selected, x, y)
        gradients = tape.gradient(loss, read)
        count.assign_add(1.0)
        alpha = rate * (1 - 0.999**count) ** 0.5 / (1 - 0.9**count)
        each = zip(weights, means, squares, gradients, strict=True)
        for weight, mean, square, gradient in each:
            mean.assign_add((gradient - mean) * 0.1)
            square.assign_add((tf.square(gradient) - square) * 0.001)
            weight.assign_sub(alpha * mean / (tf.sqrt(square) + 1e-7))
        return loss

    def run(steps):
        for _ in range(steps):
            loss = step(x, y)
        float(loss)

    return run
