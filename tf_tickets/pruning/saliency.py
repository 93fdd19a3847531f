"""What a weight is worth before training: SNIP, GraSP and SynFlow.

Each is a criterion of a model, for `PruneAtInit` and for any other search that takes a
criterion. The first two look at the loss the model is compiled with, on given examples
and in training mode, for the statistics of an untrained network say nothing; SynFlow
needs no data.
"""

import warnings

import keras
import numpy as np
from keras import ops
from numpy.typing import ArrayLike

from tf_tickets import wrapping
from tf_tickets.pruning import criteria, derivatives
from tf_tickets.pruning.derivatives import (
    gradient,
    hessian_product,
    kernel_values,
    numpy,
)
from tf_tickets.training import batches
from tf_tickets.wrapping import rebuilding

__all__ = [
    "DenseGradient",
    "GraSP",
    "SNIP",
    "synflow",
]


class SNIP:
    """By how much the loss changes with a weight's presence, `|gradient * weight|`.

    Lee et al. 2019. The gradient is the mean over the batches.

    Args:
        x: Examples.
        y: Their targets.
        batch_size: Examples a batch.

    Example:

    >>> dense = keras.layers.Dense(1, kernel_initializer="ones", name="d")
    >>> model = keras.Sequential([keras.Input((2,)), dense], name="net")
    >>> model = tt.wrap(model, verbose=False)
    >>> model.compile("sgd", "mse")
    >>> found = SNIP(np.array([[1.0, 3.0]]), np.array([[3.0]]))(model)
    >>> found["net/d/kernel"].ravel().tolist()
    [2.0, 6.0]
    """

    def __init__(self, x: ArrayLike, y: ArrayLike, batch_size: int = 128) -> None:
        derivatives.check_batches(x, y, batch_size=batch_size)
        self.x = x
        self.y = y
        self.batch_size = batch_size
        # What the settings of a search call it.
        self.__name__ = f"snip({_told(x, y)}, batch_size={batch_size})"

    def __call__(self, model: keras.Model) -> dict[str, np.ndarray]:
        found = _mean_gradient(model, self.x, self.y, self.batch_size)
        return _by_path(model, [np.abs(g * w) for g, w in zip(*found, strict=True)])


class DenseGradient:
    """The size of the gradient by each weight, of those that are pruned too (RigL).

    Of one batch, which every call draws anew.

    Args:
        x: Examples.
        y: Their targets.
        batch_size: Examples of the batch.

    Example:

    >>> dense = keras.layers.Dense(1, use_bias=False, name="d")
    >>> model = keras.Sequential([keras.Input((2,)), dense], name="net")
    >>> model = tt.wrap(model, verbose=False)
    >>> model.compile("sgd", "mse")
    >>> tt.wrapping.set_masks(model, {"net/d/kernel": np.zeros((2, 1), bool)})
    >>> grow = DenseGradient(np.array([[1.0, 3.0]]), np.array([[-1.0]]))
    >>> grow(model, np.random.default_rng(0))["net/d/kernel"].ravel().tolist()
    [2.0, 6.0]
    """

    def __init__(self, x: ArrayLike, y: ArrayLike, batch_size: int = 128) -> None:
        derivatives.check_batches(x, y, batch_size=batch_size)
        self.x = np.asarray(x)
        self.y = np.asarray(y)
        self.batch_size = min(batch_size, len(self.x))
        self.__name__ = f"dense_gradient({_told(x, y)}, batch_size={batch_size})"

    def __call__(
        self, model: keras.Model, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        rows = rng.choice(len(self.x), self.batch_size, replace=False)
        masks = [mask.mask for mask in wrapping.mask_layers(model).values()]
        everything = {mask.path: ops.ones_like(mask.value) for mask in masks}
        loss = derivatives.loss_at(
            model, self.x[rows], self.y[rows], training=True, others=everything
        )
        found = gradient(loss, kernel_values(model))
        return _by_path(model, [np.abs(numpy(g)) for g in found])


class GraSP:
    """How much of the gradient's flow hangs on a weight, `weight * (H @ gradient)`.

    Wang et al. 2020: without a weight the squared norm of the gradient changes by about
    minus twice its score, so that what is pruned, the lowest scores, leaves most of it.

    Args:
        x: Examples; of a classifier as many of each class, which is left to the user.
        y: Their targets.
        batch_size: Examples a batch.
        temperature: What the outputs are divided by.

    Example:

    >>> x, y = np.ones((8, 4), "float32"), np.ones((8, 5), "float32")
    >>> GraSP(x, y, temperature=1.0).__name__
    'grasp(8 examples ..., batch_size=128, temperature=1.0)'
    """

    def __init__(
        self,
        x: ArrayLike,
        y: ArrayLike,
        batch_size: int = 128,
        temperature: float = 200.0,
    ) -> None:
        derivatives.check_batches(x, y, batch_size=batch_size)
        if not 0.0 < temperature < float("inf"):
            raise ValueError(
                f"`temperature` must be above 0. Received: temperature={temperature}"
            )
        self.x = x
        self.y = y
        self.batch_size = batch_size
        self.temperature = temperature
        more = f"batch_size={batch_size}, temperature={temperature}"
        self.__name__ = f"grasp({_told(x, y)}, {more})"

    def __call__(self, model: keras.Model) -> dict[str, np.ndarray]:
        data = self.x, self.y, self.batch_size
        heat = self.temperature
        if heat != 1.0 and rebuilding.gives_probabilities(model):
            warnings.warn(
                f"{model.name!r} ends with probabilities, which GraSP's temperature of "
                f"{heat} does not soften: it is meant for logits.",
                stacklevel=2,
            )
        flow, values = _mean_gradient(model, *data, heat)
        # In half precision the flow, and what it is multiplied with, would vanish.
        size = max(float(np.abs(g).max(initial=0.0)) for g in flow) or 1.0

        @derivatives.compiled
        def product(values, flow, x, y):
            loss = derivatives.loss_at(model, x, y, True, heat, scale=heat**2)
            return hessian_product(loss, values, flow)

        flow = [(g / size).astype("float32") for g in flow]
        given = kernel_values(model)
        parts = derivatives.batches(self.x, self.y, self.batch_size)
        found = derivatives.mean((len(x), product(given, flow, x, y)) for x, y in parts)
        back = size / heat**2
        pairs = zip(found, values, strict=True)
        return _by_path(model, [back * h * w for h, w in pairs])


@criteria.register
def synflow(model: keras.Model) -> dict[str, np.ndarray]:
    """How much of all paths through the network leads over a weight.

    Tanaka et al. 2020: `|w * dR/dw|`, where R is the sum of the outputs for an input of
    ones when all weights are positive and there are no biases, so that in networks of
    ReLUs as much flows into a layer as out of it. Meant to be used in many passes: see
    `PruneAtInit`.

    Args:
        model: A wrapped model.

    Example:

    >>> dense = keras.layers.Dense(1, name="d")
    >>> model = keras.Sequential([keras.Input((2,)), dense], name="net")
    >>> model.set_weights([np.array([[1.0], [-2.0]]), np.ones(1)])
    >>> synflow(tt.wrap(model, verbose=False))["net/d/kernel"].ravel().tolist()
    [1.0, 2.0]
    """
    kernels = wrapping.kernels(model)
    owned = {id(variable) for variable in kernels.values()}
    positive = {
        v.path: _positive(v)
        for v in model.variables
        if id(v) not in owned and keras.backend.is_float_dtype(v.dtype)
    }
    if not rebuilding.is_graph(model):
        raise ValueError(
            "SynFlow sends ones through a Sequential or functional model, whose inputs "
            f"are known. Received: {model.name!r}, a {type(model).__name__}."
        )
    ones = [ops.ones((1, *_known(x.shape))) for x in model.inputs]
    ones = ones[0] if len(ones) == 1 else ones

    def flow(values):
        with derivatives.scope(model, values, positive):
            outputs = keras.tree.flatten(model(ones, training=False))
        return ops.sum(ops.stack([ops.sum(output) for output in outputs]))

    values = [ops.abs(value) for value in kernel_values(model)]
    # Of one example, and with other masks in each pass: not worth compiling.
    found = gradient(flow, values)
    scores = [np.abs(numpy(g) * numpy(w)) for g, w in zip(found, values, strict=True)]
    _check_flow(scores)
    return _by_path(model, scores)


def _positive(variable):
    """Without biases and means; what scales is positive, frozen or not."""
    if variable.path.endswith(("bias", "beta", "moving_mean")):
        return ops.zeros_like(variable.value)
    return ops.abs(variable.value)


def _known(shape):
    if None in shape[1:]:
        raise ValueError(
            "SynFlow needs inputs of a known shape. Received a model of input shape "
            f"{tuple(shape)}."
        )
    return shape[1:]


def _check_flow(scores):
    total = sum(float(score.sum()) for score in scores)
    if not np.isfinite(total):
        raise ValueError(
            "SynFlow's scores are not finite: the product of so many layers leaves the "
            "range of float32. Build the model with "
            'keras.config.set_dtype_policy("float64").'
        )
    if total == 0.0:
        raise ValueError(
            "SynFlow's scores are all zero: nothing flows through the model. Where it "
            "ends with a softmax, whose sum is always 1, leave that to the loss."
        )


def _mean_gradient(model, x, y, batch_size, temperature=1.0):
    """The mean gradient over batches, and the kernels, as lists of arrays."""

    @derivatives.compiled
    def at(values, x, y):
        loss = derivatives.loss_at(model, x, y, True, temperature, scale=temperature)
        return gradient(loss, values)

    values = kernel_values(model)
    parts = derivatives.batches(x, y, batch_size)
    found = derivatives.mean((len(x), at(values, x, y)) for x, y in parts)
    found = [gradients / temperature for gradients in found]
    return found, [numpy(value) for value in values]


def _told(x, y):
    """Which examples, so that a search is not resumed with other ones."""
    digest = batches.digest((np.asarray(x), np.asarray(y)))
    return f"{len(x)} examples {digest[:12]}"


def _by_path(model, arrays):
    return dict(zip(wrapping.kernels(model), arrays, strict=True))
