"""How the loss bends along each weight: the diagonal of its second derivative.

`hutchinson` estimates that of the Hessian, from products with random signs; one draw is
exact where the Hessian is diagonal. `gauss_newton` estimates that of the generalized
Gauss-Newton matrix, which leaves out how the network itself bends and so is never
negative. Both look at the loss the model is compiled with, on given batches, in
evaluation mode and under the present masks.
"""

import math
from collections.abc import Callable

import keras
import numpy as np
from keras import ops
from numpy.typing import ArrayLike

from tf_tickets import wrapping
from tf_tickets.pruning import derivatives
from tf_tickets.pruning.derivatives import (
    batches,
    compiled,
    gradient,
    hessian_product,
    kernel_values,
    loss_at,
    numpy,
    outputs_at,
    scope,
)

__all__ = [
    "OBD",
    "gauss_newton",
    "hutchinson",
]


class OBD:
    """Optimal Brain Damage (LeCun et al. 1989): a criterion for any search.

    A weight's score is `1/2 * h * w ** 2`, by how much the loss grows without it where
    the network is at a minimum and the second derivative is diagonal, `h`.

    Args:
        x: Examples.
        y: Their targets.
        curvature: "hutchinson" or "gauss_newton".
        batch_size: Examples a batch; the curvature is the mean over the batches.
        draws: Random draws a batch.
        seed: Seed of the draws.

    Example:

    >>> x, y = np.ones((8, 4), "float32"), np.ones((8, 5), "float32")
    >>> search = tt.IMP(rounds=1, epochs_per_round=1, rate=0.5, monitor="loss",
    ...                 criterion=OBD(x, y))
    >>> model = tt.wrap(keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)]),
    ...                 verbose=False)
    >>> model.compile("adam", "mse")
    >>> history = model.fit(x, y, epochs=search.epochs, callbacks=[search], verbose=0)
    >>> search.tickets[0].sparsity
    0.5
    """

    def __init__(
        self,
        x: ArrayLike,
        y: ArrayLike,
        curvature: str = "hutchinson",
        batch_size: int = 128,
        draws: int = 8,
        seed: int = 0,
    ) -> None:
        if curvature not in _ESTIMATES:
            raise ValueError(
                f"`curvature` must be one of {sorted(_ESTIMATES)}. Received: "
                f"{curvature!r}"
            )
        derivatives.check_batches(x, y, batch_size=batch_size, draws=draws)
        self.x = x
        self.y = y
        self.curvature = curvature
        self.batch_size = batch_size
        self.draws = draws
        self.seed = seed
        # What the settings of a search call it.
        self.__name__ = (
            f"obd(curvature={curvature}, examples={len(x)}, "  # type: ignore
            f"batch_size={batch_size}, draws={draws}, seed={seed})"
        )

    def __call__(self, model: keras.Model) -> dict[str, np.ndarray]:
        given = (model, self.x, self.y, self.batch_size, self.draws, self.seed)
        found = _ESTIMATES[self.curvature](*given)
        kernels = wrapping.kernels(model)
        return {
            path: 0.5 * bends * np.square(numpy(kernels[path].value))
            for path, bends in found.items()
        }


def hutchinson(
    model: keras.Model,
    x: ArrayLike,
    y: ArrayLike,
    batch_size: int = 128,
    draws: int = 8,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """The diagonal of the Hessian by kernel path, estimated by random signs.

    Args:
        model: A compiled, wrapped model.
        x: Examples.
        y: Their targets.
        batch_size: Examples a batch.
        draws: Random draws a batch.
        seed: Seed of the draws.

    Example:

    >>> dense = keras.layers.Dense(1, use_bias=False, name="d")
    >>> model = keras.Sequential([keras.Input((2,)), dense], name="net")
    >>> model = tt.wrap(model, verbose=False)
    >>> model.compile("sgd", "mse")
    >>> found = hutchinson(model, np.diag([1.0, 2.0]), np.zeros((2, 1)))
    >>> np.round(found["net/d/kernel"][:, 0], 5).tolist()
    [1.0, 4.0]
    """

    @compiled
    def product(values, signs, x, y):
        return hessian_product(loss_at(model, x, y), values, signs)

    def estimate(rng, values, x, y):
        signs = [_signs(rng, value.shape) for value in values]
        products = product(values, signs, x, y)
        return [sign * numpy(p) for sign, p in zip(signs, products, strict=True)]

    return _mean(model, batches(x, y, batch_size), estimate, draws, seed)


def gauss_newton(
    model: keras.Model,
    x: ArrayLike,
    y: ArrayLike,
    batch_size: int = 128,
    draws: int = 8,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """The diagonal of the Gauss-Newton matrix by kernel path, by random signs.

    The second derivative of the loss by a row of outputs is taken exactly, for which
    there are as many passes as a row has outputs; then its root is drawn through the
    network, as often as `draws` says. Regularizers, which do not act on outputs, are
    left out.

    Args:
        model: A compiled, wrapped model of one output.
        x: Examples.
        y: Their targets.
        batch_size: Examples a batch.
        draws: Random draws a batch.
        seed: Seed of the draws.

    Example:

    >>> dense = keras.layers.Dense(1, use_bias=False, name="d")
    >>> model = keras.Sequential([keras.Input((2,)), dense], name="net")
    >>> model = tt.wrap(model, verbose=False)
    >>> model.compile("sgd", "mse")
    >>> found = gauss_newton(model, np.diag([1.0, 2.0]), np.zeros((2, 1)), draws=1)
    >>> np.round(found["net/d/kernel"][:, 0], 5).tolist()
    [1.0, 4.0]
    """

    @compiled
    def pull(values, drawn, x):
        outputs = outputs_at(model, x)

        def along(given):
            return ops.sum(ops.cast(outputs(given), "float32") * drawn)

        return gradient(along, values)

    @compiled
    def column(values, outputs, one, x, y):
        loss = _loss_of_outputs(model, values, x, y)
        return hessian_product(loss, [outputs], [one])[0]

    def estimate(rng, values, x, y):
        outputs = outputs_at(model, x)(values)
        roots = _roots(outputs, lambda one: column(values, outputs, one, x, y))
        signs = _signs(rng, (len(x), roots.shape[-1]))
        drawn = np.einsum("nij,nj->ni", roots, signs).astype("float32")
        pulled = pull(values, ops.reshape(drawn, outputs.shape), x)
        return [np.square(numpy(p)) for p in pulled]

    return _mean(model, batches(x, y, batch_size), estimate, draws, seed)


_ESTIMATES: dict[str, Callable[..., dict[str, np.ndarray]]] = {
    "hutchinson": hutchinson,
    "gauss_newton": gauss_newton,
}


def _mean(model, parts, estimate, draws, seed):
    """The mean of an estimate over batches and draws, by kernel path."""
    values = kernel_values(model)
    rng = np.random.default_rng(seed)
    found = derivatives.mean(
        (len(x) / draws, estimate(rng, values, x, y))
        for x, y in parts
        for _ in range(draws)
    )
    return dict(zip(wrapping.kernels(model), found, strict=True))


def _signs(rng, shape):
    return rng.choice([-1.0, 1.0], size=tuple(shape)).astype("float32")


def _loss_of_outputs(model, values, x, y):
    def loss(outputs):
        with scope(model, values):
            return model.compute_loss(x, y, outputs[0], training=False)

    return loss


def _roots(outputs, column):
    """For each row R with R @ R.T the second derivative of the loss by its outputs."""
    shape = tuple(outputs.shape)
    size = math.prod(shape[1:])
    if size > 1024:
        raise ValueError(
            "curvature='gauss_newton' needs as many passes as a row has outputs. "
            f"Received a model of {size}. Use 'hutchinson'."
        )
    columns = []
    for place in range(size):
        one = np.zeros((shape[0], size), "float32")
        one[:, place] = 1.0
        columns.append(numpy(column(one.reshape(shape))).reshape(shape[0], size))
    bends, directions = np.linalg.eigh(np.stack(columns, axis=-1))
    return directions * np.sqrt(np.maximum(bends, 0.0))[:, None, :]
