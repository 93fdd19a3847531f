"""Derivatives of losses and outputs with respect to kernels.

They work on the TensorFlow and JAX backends. Kernels are lists of values in the order
of `wrapping.kernels`. The model is not modified.
"""

from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import ArrayLike

from tf_tickets import keras_internals, wrapping
from tf_tickets.masks.base import Tensor


def kernel_values(model: keras.Model) -> list[Tensor]:
    """Returns the values of all kernels.

    Example:

    >>> kernel_values(keras.Sequential([keras.Input((3,))]))
    []
    """
    return [
        ops.convert_to_tensor(v.value)
        for v in wrapping.kernels(model).variables.values()
    ]


def numpy(tensor: Tensor) -> np.ndarray:
    """Converts a tensor to a float64 NumPy array.

    Example:

    >>> numpy(keras.ops.ones(2))
    array([1., 1.])
    """
    return np.asarray(ops.convert_to_numpy(tensor), "float64")


def mean(weighted: Iterable[tuple[float, list[Tensor]]]) -> list[np.ndarray]:
    """Returns the weighted mean of lists of tensors.

    Args:
        weighted: Pairs of a weight, such as a number of examples, and a list of
            tensors.

    Returns:
        List of arrays.

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


def scope(
    model: keras.Model,
    values: list[Tensor],
    others: dict[str, Tensor] | None = None,
) -> keras.StatelessScope:
    """Returns a scope in which the kernels have the given values.

    Args:
        model: A wrapped model.
        values: Values of its kernels.
        others: Dict from the path of another variable to its value.

    Returns:
        A `keras.StatelessScope`.

    Example:

    >>> model = tt.wrap(keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)]),
    ...                 verbose=False)
    >>> with scope(model, [keras.ops.ones((1, 1))]):
    ...     float(model(np.array([[3.0]]))[0, 0])
    3.0
    """
    pairs = {id(v): (v, v.value) for v in [*model.variables, *model.metrics_variables]}
    others = others or {}
    for variable in model.variables:
        if variable.path in others:
            pairs[id(variable)] = (variable, others[variable.path])
    for variable, value in zip(
        wrapping.kernels(model).variables.values(), values, strict=True
    ):
        pairs[id(variable)] = (variable, value)
    return keras.StatelessScope(state_mapping=list(pairs.values()))


def outputs_at(model: keras.Model, x: ArrayLike) -> Callable[[list[Tensor]], Tensor]:
    """Returns the outputs in evaluation mode as a function of the kernels.

    Args:
        model: A wrapped model.
        x: Inputs.

    Returns:
        Function from a list of kernel values to the outputs.

    Example:

    >>> model = tt.wrap(keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)]),
    ...                 verbose=False)
    >>> float(outputs_at(model, np.array([[3.0]]))([keras.ops.ones((1, 1))])[0, 0])
    3.0
    """

    def outputs(values):
        with scope(model, values):
            return model(_tensors(x), training=False)

    return outputs


def _tensors(x):
    return keras.tree.map_structure(ops.convert_to_tensor, x)


def loss_at(
    model: keras.Model,
    x: ArrayLike,
    y: ArrayLike | None = None,
    training: bool = False,
    temperature: float = 1.0,
    others: dict[str, Tensor] | None = None,
    scale: float = 1.0,
    sample_weight: ArrayLike | None = None,
) -> Callable[[list[Tensor]], Tensor]:
    """Returns the compiled loss, including penalties, as a function of the kernels.

    Args:
        model: A compiled, wrapped model.
        x: Inputs.
        y: Targets.
        training: Whether to call the model in training mode.
        temperature: Divisor of the outputs.
        others: Dict from the path of another variable to its value.
        scale: Factor of the loss, which prevents underflow of the derivatives in half
            precision.
        sample_weight: Weights of the examples.

    Returns:
        Function from a list of kernel values to the loss.

    Example:

    >>> model = tt.wrap(keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)]),
    ...                 verbose=False)
    >>> model.compile("sgd", "mse")
    >>> loss = loss_at(model, np.array([[3.0]]), np.array([[1.0]]))
    >>> float(loss([keras.ops.ones((1, 1))]))
    4.0
    """

    def divide(outputs):
        return ops.cast(outputs, keras.config.floatx()) / temperature

    def loss(values):
        with scope(model, values, others):
            outputs = model(_tensors(x), training=training)
            outputs = keras.tree.map_structure(divide, outputs)
            return scale * model.compute_loss(
                x, y, outputs, sample_weight=sample_weight, training=training
            )

    return loss


def check_compiled(model: keras.Model) -> None:
    """Refuses a model without a loss.

    Example:

    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> check_compiled(model)
    """
    if not model.compiled:
        raise ValueError(
            "Scores from gradients need the loss of the model. Received: "
            f"{model.name!r}, which is not compiled. Call model.compile first."
        )


# Backend-specific functions.


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiles a function, once for every shape of its arguments.

    Example:

    >>> float(compiled(lambda x: 2.0 * x)(keras.ops.ones(())))
    2.0
    """
    if keras.config.backend() == "jax":
        import jax

        return jax.jit(function)
    _check_backend()
    import tensorflow as tf

    traced = tf.function(function, reduce_retracing=True)
    return lambda *args: traced(*keras.tree.map_structure(tf.convert_to_tensor, args))


def gradient(function: Callable[..., Tensor], values: list[Tensor]) -> list[Tensor]:
    """Returns the gradient of a function of a list of tensors.

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
        result = function(values)
    return tape.gradient(result, values, unconnected_gradients="zero")


def hessian_product(
    function: Callable[..., Tensor], values: list[Tensor], directions: list[Tensor]
) -> list[Tensor]:
    """Returns the product of the Hessian of a function with a direction.

    Args:
        function: Scalar function of a list of tensors.
        values: Tensors at which to evaluate the Hessian.
        directions: Tensors to multiply, in the shapes of `values`.

    Returns:
        List of tensors in the shapes of `values`.

    Raises:
        ValueError: If TensorFlow would return wrong second derivatives. An example is
            bilinear upsampling.

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

    def product(values, directions):
        def directional(values):
            pairs = zip(gradient(function, values), directions, strict=True)
            return ops.sum(ops.stack([ops.sum(g * d) for g, d in pairs]))

        with keras_internals.exact_moments():
            products = gradient(directional, values)
        _check_graph()
        return products

    # Compiled, because only a graph can be checked.
    return compiled(product)(values, directions)


def _check_graph():
    """Refuses wrong second derivatives in the graph that is being built."""
    import tensorflow as tf

    graph_def = tf.compat.v1.get_default_graph().as_graph_def()
    operation = keras_internals.inexact_operation(graph_def)
    if operation is not None:
        raise ValueError(
            f"TensorFlow's second derivatives of {operation} would be wrong. Use the "
            "jax backend, or replace the layer that uses it."
        )


def _check_backend():
    if keras.config.backend() != "tensorflow":
        raise NotImplementedError(
            "Derivatives need the tensorflow or jax backend. Received: "
            f"{keras.config.backend()}. Set KERAS_BACKEND."
        )
