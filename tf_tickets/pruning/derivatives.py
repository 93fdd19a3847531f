"""Derivatives of what a model computes, by its kernels, on either backend.

Kernels are given as a list of values in the order of `wrapping.kernels`; nothing of the
model is changed.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import ArrayLike

from tf_tickets import wrapping
from tf_tickets.masks.base import Tensor


def kernel_values(model: keras.Model) -> list[Tensor]:
    """The values of all kernels.

    Example:

    >>> kernel_values(keras.Sequential([keras.Input((3,))]))
    []
    """
    return [
        ops.convert_to_tensor(v.value)
        for v in wrapping.kernels(model).variables.values()
    ]


def numpy(tensor: Tensor) -> np.ndarray:
    """A tensor as a NumPy array of float64.

    Example:

    >>> numpy(keras.ops.ones(2))
    array([1., 1.])
    """
    return np.asarray(ops.convert_to_numpy(tensor), "float64")


def batches(
    x: ArrayLike, y: ArrayLike, batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Examples and targets, so many at a time.

    Example:

    >>> [len(part) for part, _ in batches(np.zeros(5), np.zeros(5), 2)]
    [2, 2, 1]
    """
    x, y = np.asarray(x), np.asarray(y)
    for start in range(0, len(x), batch_size):
        yield x[start : start + batch_size], y[start : start + batch_size]


def mean(weighted: Iterable[tuple[float, list[Tensor]]]) -> list[np.ndarray]:
    """The mean of lists of tensors, each with the number of examples it is of.

    Example:

    >>> mean([(1, [np.zeros(1)]), (3, [np.ones(1)])])
    [array([0.75])]
    """
    rows, total = 0.0, None
    for count, tensors in weighted:
        part = [count * numpy(tensor) for tensor in tensors]
        total = part if total is None else list(map(np.add, total, part))
        rows += count
    return [array / rows for array in total or []]


def check_batches(x: ArrayLike, y: ArrayLike, **counts: int) -> None:
    """Refuses examples without targets, and counts below 1.

    Example:

    >>> check_batches([1.0], [0.0], batch_size=8)
    """
    for name, count in counts.items():
        if not isinstance(count, int) or count < 1:
            raise ValueError(
                f"`{name}` must be a whole number of 1 or more. Received: {count!r}"
            )
    if len(np.shape(x)) == 0 or len(x) != len(y) or not len(x):  # type: ignore
        raise ValueError(
            "`x` and `y` must have as many rows as each other, and one at least. "
            f"Received shapes: {np.shape(x)}, {np.shape(y)}"
        )


def scope(
    model: keras.Model,
    values: list[Tensor],
    others: dict[str, Tensor] | None = None,
) -> keras.StatelessScope:
    """A scope in which the kernels have other values, and nothing else is changed.

    Args:
        model: A wrapped model.
        values: The values of its kernels.
        others: Values of other variables, by path.

    Example:

    >>> model = tt.wrap(keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)]),
    ...                 verbose=False)
    >>> with scope(model, [keras.ops.ones((1, 1))]):
    ...     float(model(np.array([[3.0]]))[0, 0])
    3.0
    """
    pairs = {id(v): (v, v.value) for v in [*model.variables, *model.metrics_variables]}
    for variable in model.variables:
        if variable.path in (others or {}):
            pairs[id(variable)] = (variable, others[variable.path])
    for variable, value in zip(
        wrapping.kernels(model).variables.values(), values, strict=True
    ):
        pairs[id(variable)] = (variable, value)
    return keras.StatelessScope(state_mapping=list(pairs.values()))


def outputs_at(model: keras.Model, x: ArrayLike) -> Callable[[list[Tensor]], Tensor]:
    """The outputs as a function of the kernels, in evaluation mode.

    Example:

    >>> model = tt.wrap(keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)]),
    ...                 verbose=False)
    >>> float(outputs_at(model, np.array([[3.0]]))([keras.ops.ones((1, 1))])[0, 0])
    3.0
    """

    def outputs(values):
        with scope(model, values):
            return model(ops.convert_to_tensor(x), training=False)

    return outputs


def loss_at(
    model: keras.Model,
    x: ArrayLike,
    y: ArrayLike,
    training: bool = False,
    temperature: float = 1.0,
    others: dict[str, Tensor] | None = None,
    scale: float = 1.0,
) -> Callable[[list[Tensor]], Tensor]:
    """The loss the model is compiled with, its penalties too, of the kernels.

    Args:
        model: A compiled, wrapped model.
        x: Examples.
        y: Their targets.
        training: Whether the model is told that it trains.
        temperature: What its outputs are divided by.
        others: Values of other variables, by path.
        scale: What the loss is multiplied with, so that derivatives do not vanish in
            half precision.

    Example:

    >>> model = tt.wrap(keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)]),
    ...                 verbose=False)
    >>> model.compile("sgd", "mse")
    >>> loss = loss_at(model, np.array([[3.0]]), np.array([[1.0]]))
    >>> float(loss([keras.ops.ones((1, 1))]))
    4.0
    """

    def cooled(outputs):
        return ops.cast(outputs, keras.config.floatx()) / temperature

    def loss(values):
        with scope(model, values, others):
            outputs = model(ops.convert_to_tensor(x), training=training)
            outputs = keras.tree.map_structure(cooled, outputs)
            return scale * model.compute_loss(x, y, outputs, training=training)

    return loss


# What each backend does in its own way.


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function compiled, anew for every shape of its arguments.

    Example:

    >>> float(compiled(lambda x: 2.0 * x)(keras.ops.ones(())))
    2.0
    """
    if keras.config.backend() == "jax":
        import jax

        return jax.jit(function)
    _check_backend()
    import tensorflow as tf

    made = tf.function(function, reduce_retracing=True)
    return lambda *given: made(*keras.tree.map_structure(tf.convert_to_tensor, given))


def gradient(function: Callable[..., Tensor], values: list[Tensor]) -> list[Tensor]:
    """The gradient of a function of a list of tensors.

    Example:

    >>> [float(g) for g in gradient(lambda v: v[0] ** 2, [keras.ops.ones(())])]
    [2.0]
    """
    if keras.config.backend() == "jax":
        import jax

        return jax.grad(function)(values)
    _check_backend()
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(values)
        found = function(values)
    return tape.gradient(found, values, unconnected_gradients="zero")


def hessian_product(
    function: Callable[..., Tensor], values: list[Tensor], directions: list[Tensor]
) -> list[Tensor]:
    """The Hessian of a function of a list of tensors times a direction.

    Example:

    >>> one = keras.ops.ones(())
    >>> [float(h) for h in hessian_product(lambda v: v[0] ** 3, [one], [one])]
    [6.0]
    """
    pairs = zip(directions, values, strict=True)
    directions = [ops.stop_gradient(ops.cast(d, v.dtype)) for d, v in pairs]
    if keras.config.backend() == "jax":
        import jax

        return jax.jvp(jax.grad(function), (values,), (directions,))[1]

    def along(given):
        pairs = zip(gradient(function, given), directions, strict=True)
        return ops.sum(ops.stack([ops.sum(g * d) for g, d in pairs]))

    return gradient(along, values)


def _check_backend():
    if keras.config.backend() != "tensorflow":
        raise NotImplementedError(
            "Derivatives are for the backends tensorflow and jax. Received: "
            f"{keras.config.backend()}"
        )
