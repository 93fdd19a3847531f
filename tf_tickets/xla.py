"""Compiles small parts of a training step with XLA where TensorFlow runs op by op.

On machines with only CPUs, Keras does not compile TensorFlow's steps with XLA. Each
operation then reads and writes the whole array. Masks are long chains of cheap
operations on large arrays, which XLA turns into one or two loops.
"""

import functools
from collections.abc import Callable
from typing import Any

import keras


def fused(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorates a function of tensors that XLA compiles where nothing else does.

    The function is compiled in graphs of TensorFlow on machines with only CPUs, outside
    of `tf.distribute`. Elsewhere it is called as it is: JAX and TensorFlow on
    accelerators compile the whole step.

    Args:
        function: A function of tensors that returns tensors, without side effects. It
            reads no variables.

    Returns:
        A function with the same results, up to rounding.

    Example:

    >>> @fused
    ... def doubled(x):
    ...     return 2.0 * x
    >>> float(doubled(keras.ops.array(3.0)))
    6.0
    """

    @functools.wraps(function)
    def call(*tensors):
        if keras.config.backend() == "tensorflow" and _runs_op_by_op():
            import tensorflow as tf

            # The values of variables.
            return compiled()(*map(tf.convert_to_tensor, tensors))
        return function(*tensors)

    @functools.cache
    def compiled():
        import tensorflow as tf

        return tf.function(function, autograph=False, jit_compile=True)

    return call


def differentiable(
    backward: Callable[..., Any], whole: bool = True
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorates a function of a tensor and constants that is compiled like `fused`.

    Where XLA compiles the function, its gradient is `backward`, compiled too. Elsewhere
    the backend differentiates the function.

    Args:
        backward: Called as `backward(upstream, result, x, *constants)`, it returns the
            gradient with respect to `x`. The constants have no gradient.
        whole: Whether the function is compiled as one. Sums of floats are slow in
            TensorFlow's XLA; a function with a sum can call `fused` parts instead.

    Example:

    >>> @differentiable(lambda upstream, result, x, factor: upstream * factor)
    ... def multiplied(x, factor):
    ...     return x * factor
    >>> float(multiplied(keras.ops.array(3.0), keras.ops.array(2.0)))
    6.0
    """
    gradient = fused(backward)

    def decorate(function):
        forward = fused(function) if whole else function

        @functools.wraps(function)
        def call(x, *constants):
            if keras.config.backend() != "tensorflow" or not _runs_op_by_op():
                return function(x, *constants)
            import tensorflow as tf

            @tf.custom_gradient
            def apply(x):
                result = forward(x, *constants)
                return result, lambda g: gradient(g, result, x, *constants)

            return apply(tf.convert_to_tensor(keras.ops.convert_to_tensor(x)))

        return call

    return decorate


def run(update: Callable[[], Any]) -> None:
    """Runs updates of variables, compiled under the same conditions as `fused`.

    Args:
        update: A function without arguments, which XLA can compile.

    Example:

    >>> variable = keras.Variable(1.0)
    >>> run(lambda: variable.assign(2.0))
    >>> float(variable)
    2.0
    """
    if keras.config.backend() != "tensorflow" or not _runs_op_by_op():
        update()
        return
    import tensorflow as tf

    def without_result():
        update()

    tf.function(without_result, autograph=False, jit_compile=True)()


def _runs_op_by_op():
    import tensorflow as tf

    return (
        tf.inside_function()
        and not tf.distribute.has_strategy()
        and _compiles_on_cpus_alone()
    )


@functools.cache
def _compiles_on_cpus_alone():
    """Returns whether there are only CPUs, and whether XLA was built for them."""
    import tensorflow as tf

    if any(d.device_type != "CPU" for d in tf.config.list_physical_devices()):
        return False
    with tf.init_scope():
        try:
            one = tf.function(lambda x: x + 1, autograph=False, jit_compile=True)
            one(tf.constant(1))
        except tf.errors.OpError:
            return False
    return True
