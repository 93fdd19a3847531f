"""Estimates of the diagonal of the second derivative of the loss.

`gauss_newton` estimates the diagonal of the generalized Gauss-Newton matrix, which
ignores the curvature of the network itself and is never negative. In networks of affine
layers and ReLU, it is the diagonal of the Hessian. `hutchinson` estimates the diagonal
of the Hessian from products with random signs. One draw is exact if the Hessian is
diagonal; otherwise it needs many more draws. Both use the compiled loss on batches of
data, in evaluation mode and with the current masks.
"""

import math
from collections.abc import Callable

import keras
import numpy as np
from keras import ops
from numpy.typing import ArrayLike

from tf_tickets import arguments, wrapping
from tf_tickets.pruning import derivatives
from tf_tickets.pruning.derivatives import (
    compiled,
    gradient,
    hessian_product,
    kernel_values,
    loss_at,
    numpy,
    outputs_at,
    scope,
)
from tf_tickets.pruning.examples import Examples
from tf_tickets.training import checks, snapshots
from tf_tickets.training.batch_entries import rows_of
from tf_tickets.training.data import Part

__all__ = [
    "OBD",
    "gauss_newton",
    "hutchinson",
]


class OBD:
    """Scores weights by Optimal Brain Damage, `1/2 * h * w ** 2` (LeCun et al. 1989).

    `h` is the diagonal of the second derivative. The score is the increase of the loss
    when the weight is removed, at a minimum with a diagonal second derivative. It is a
    criterion for all searches.

    Args:
        x: Inputs. Or, without `y`, a dataset, a generator or another part of
            `tf_tickets.TrainingData`.
        y: Targets.
        curvature: "gauss_newton" or "hutchinson". The first needs far fewer draws, but
            a model with one output of at most 1024 units.
        batch_size: Number of examples per batch of arrays. Defaults to 128. The
            curvature is averaged over the batches.
        draws: Number of random draws per batch. Defaults to 8 for "gauss_newton" and to
            128 for "hutchinson". On digits, these choose the same half of the weights
            as exact curvature for 94 % and 87 % of the weights. With 8 draws,
            "hutchinson" agrees on only 66 %, where chance is 50 %.
        seed: Seed of the draws.
        batches: Number of batches to read of data that are no arrays. Defaults to 10.

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
        x: ArrayLike | Part,
        y: ArrayLike | None = None,
        curvature: str = "gauss_newton",
        batch_size: int | None = None,
        draws: int | None = None,
        seed: int = 0,
        batches: int | None = None,
    ) -> None:
        arguments.check_choice(sorted(_ESTIMATES), curvature=curvature)
        arguments.check_seed(seed)
        draws = _DRAWS[curvature] if draws is None else draws
        arguments.check_counts(draws=draws)
        self.examples = Examples(x, y, batch_size, batches)
        self.curvature = curvature
        self.draws = draws
        self.seed = seed
        # The name in the settings of a search.
        examples = self.examples.description
        if self.examples.arrays is not None:
            size = self.examples.batch_size
            examples = f"{self.examples.rows}, batch_size={size}"
        settings = f"curvature={curvature}, examples={examples}, draws={draws}"
        self.__name__ = f"obd({settings}, seed={seed})"

    def __call__(self, model: keras.Model) -> dict[str, np.ndarray]:
        estimate = _ESTIMATES[self.curvature]
        diagonals = estimate(model, self.examples, self.draws, self.seed)
        kernels = wrapping.kernels(model).variables
        return {
            path: 0.5 * diagonal * np.square(numpy(kernels[path].value))
            for path, diagonal in diagonals.items()
        }


def hutchinson(
    model: keras.Model,
    x: ArrayLike | Part,
    y: ArrayLike | None = None,
    batch_size: int | None = None,
    draws: int = 128,
    seed: int = 0,
    batches: int | None = None,
) -> dict[str, np.ndarray]:
    """Estimates the diagonal of the Hessian with random signs.

    Args:
        model: A compiled, wrapped model.
        x: Inputs. Or, without `y`, a dataset, a generator or another part of
            `tf_tickets.TrainingData`.
        y: Targets.
        batch_size: Number of examples per batch of arrays. Defaults to 128.
        draws: Number of random draws per batch.
        seed: Seed of the draws.
        batches: Number of batches to read of data that are no arrays. Defaults to 10.

    Returns:
        Dict from kernel path to the diagonal, in the shape of the kernel.

    Example:

    >>> dense = keras.layers.Dense(1, use_bias=False, name="d")
    >>> model = keras.Sequential([keras.Input((2,)), dense], name="net")
    >>> model = tt.wrap(model, verbose=False)
    >>> model.compile("sgd", "mse")
    >>> diagonals = hutchinson(model, np.diag([1.0, 2.0]), np.zeros((2, 1)))
    >>> np.round(diagonals["net/d/kernel"][:, 0], 5).tolist()
    [1.0, 4.0]
    """
    examples = Examples(x, y, batch_size, batches)
    return _hutchinson(model, examples, draws, seed)


def _hutchinson(model, examples, draws, seed):
    _check(model, draws, seed)

    @compiled
    def product(values, signs, x, y=None, weight=None):
        loss = loss_at(model, x, y, sample_weight=weight)
        return hessian_product(loss, values, signs)

    def estimate(rng, values, batch):
        signs = [_signs(rng, value.shape) for value in values]
        products = product(values, signs, *batch)
        return [sign * numpy(p) for sign, p in zip(signs, products, strict=True)]

    return _mean(model, examples, estimate, draws, seed)


def gauss_newton(
    model: keras.Model,
    x: ArrayLike | Part,
    y: ArrayLike | None = None,
    batch_size: int | None = None,
    draws: int = 8,
    seed: int = 0,
    batches: int | None = None,
) -> dict[str, np.ndarray]:
    """Estimates the diagonal of the generalized Gauss-Newton matrix.

    The second derivative of the loss with respect to the outputs is exact. It takes one
    pass per output unit. Its square root, with random signs, is then propagated back
    through the network `draws` times. Regularizers are ignored because they do not
    depend on the outputs.

    Args:
        model: A compiled, wrapped model with one output.
        x: Inputs. Or, without `y`, a dataset, a generator or another part of
            `tf_tickets.TrainingData`.
        y: Targets.
        batch_size: Number of examples per batch of arrays. Defaults to 128.
        draws: Number of random draws per batch.
        seed: Seed of the draws.
        batches: Number of batches to read of data that are no arrays. Defaults to 10.

    Returns:
        Dict from kernel path to the diagonal, in the shape of the kernel.

    Example:

    >>> dense = keras.layers.Dense(1, use_bias=False, name="d")
    >>> model = keras.Sequential([keras.Input((2,)), dense], name="net")
    >>> model = tt.wrap(model, verbose=False)
    >>> model.compile("sgd", "mse")
    >>> diagonals = gauss_newton(model, np.diag([1.0, 2.0]), np.zeros((2, 1)), draws=1)
    >>> np.round(diagonals["net/d/kernel"][:, 0], 5).tolist()
    [1.0, 4.0]
    """
    examples = Examples(x, y, batch_size, batches)
    return _gauss_newton(model, examples, draws, seed)


def _gauss_newton(model, examples, draws, seed):
    _check(model, draws, seed)

    @compiled
    def pull(values, drawn, x):
        outputs = outputs_at(model, x)

        def weighted_sum(values):
            return ops.sum(ops.cast(outputs(values), "float32") * drawn)

        return gradient(weighted_sum, values)

    @compiled
    def column(values, outputs, unit, x, y=None, weight=None):
        loss = _loss_of_outputs(model, values, x, y, weight)
        return hessian_product(loss, [outputs], [unit])[0]

    _check_one_output(model)

    def estimate(rng, values, batch):
        outputs = outputs_at(model, batch[0])(values)
        roots = _roots(outputs, lambda unit: column(values, outputs, unit, *batch))
        signs = _signs(rng, (rows_of(batch), roots.shape[-1]))
        drawn = np.einsum("nij,nj->ni", roots, signs).astype("float32")
        pulled = pull(values, ops.reshape(drawn, outputs.shape), batch[0])
        return [np.square(numpy(p)) for p in pulled]

    return _mean(model, examples, estimate, draws, seed)


# Default numbers of draws.
_DRAWS = {"hutchinson": 128, "gauss_newton": 8}
_ESTIMATES: dict[str, Callable[..., dict[str, np.ndarray]]] = {
    "hutchinson": _hutchinson,
    "gauss_newton": _gauss_newton,
}


def _check(model, draws, seed):
    arguments.check_counts(draws=draws)
    arguments.check_seed(seed)
    snapshots.built_optimizer(model)
    checks.check_wrapped(model)


def _check_one_output(model):
    # Subclassed models have no such attribute.
    outputs = getattr(model, "outputs", None) or [None]
    if len(outputs) != 1:
        raise ValueError(
            "curvature='gauss_newton' needs a model with one output. Received: "
            f"{model.name!r} with {len(outputs)}. Use 'hutchinson'."
        )


def _mean(model, examples, estimate, draws, seed):
    """Returns the mean of an estimate over batches and draws, by kernel path."""
    values = kernel_values(model)
    rng = np.random.default_rng(seed)
    means = derivatives.mean(
        (rows_of(batch) / draws, estimate(rng, values, batch))
        for batch in examples
        for _ in range(draws)
    )
    return dict(zip(wrapping.kernels(model).variables, means, strict=True))


def _signs(rng, shape):
    return rng.choice([-1.0, 1.0], size=tuple(shape)).astype("float32")


def _loss_of_outputs(model, values, x, y, weight):
    def loss(outputs):
        with scope(model, values):
            return model.compute_loss(
                x, y, outputs[0], sample_weight=weight, training=False
            )

    return loss


def _roots(outputs, column):
    """Returns a matrix R per example such that R @ R.T is the output Hessian."""
    shape = tuple(outputs.shape)
    size = math.prod(shape[1:])
    if size > 1024:
        raise ValueError(
            "curvature='gauss_newton' takes one pass per output unit, and at most 1024 "
            f"are supported. Received a model with {size} units. Use 'hutchinson'."
        )
    columns = []
    for index in range(size):
        unit = np.zeros((shape[0], size), "float32")
        unit[:, index] = 1.0
        columns.append(numpy(column(unit.reshape(shape))).reshape(shape[0], size))
    eigenvalues, eigenvectors = np.linalg.eigh(np.stack(columns, axis=-1))
    return eigenvectors * np.sqrt(np.maximum(eigenvalues, 0.0))[:, None, :]
