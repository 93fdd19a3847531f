"""Calls layers and models as they predict; compiled on JAX, where that is faster.

JAX compiles each operation of a call that is not compiled by itself, for each shape,
which takes longer than to compile them together. TensorFlow does not.
"""

from collections.abc import Callable, Hashable
from typing import Any

import keras

from tf_tickets.wrapping import paths


class Caller:
    """Calls layers and models; compiles each kind of call once.

    A call is compiled if `keras.Model.predict` would compile it: on JAX, unless a layer
    has `supports_jit=False` or a model `run_eagerly=True`. Calls that JAX cannot
    compile are not. Compiled calls change no variables.

    Example:

    >>> layer = keras.layers.Dense(1)
    >>> layer.build((None, 2))
    >>> call = Caller()
    >>> call(layer, "one", lambda x: (x, {}), [np.zeros((3, 2))]).shape == (3, 1)
    True
    """

    def __init__(self) -> None:
        # Dict from a key to a compiled function and the values of its variables.
        self._functions: dict[Hashable, Callable] = {}

    def __call__(
        self,
        layer: keras.Operation,
        key: Hashable,
        fill: Callable[[list[Any]], tuple[Any, dict[str, Any]]],
        tensors: list[Any],
    ) -> Any:
        """Returns what a layer or model returns.

        Args:
            layer: The layer, model or operation.
            key: What distinguishes calls of this layer with other arguments that are no
                tensors.
            fill: Function from the tensors to the arguments of the call, a list or
                tuple and a dict.
            tensors: Arrays or tensors among the arguments.
        """
        if not _is_compiled(layer):
            return _called(layer, fill, tensors)
        key = id(layer), key
        if key not in self._functions:
            self._functions[key] = _compiled(_stateless(layer, fill))
        values = [variable.value for variable in layer.variables]
        try:
            return self._functions[key](values, tensors)
        except Exception:
            # A layer that looks at values cannot be compiled. Keras turns JAX's errors
            # about it into errors of other classes. Real ones are raised again below.
            self._functions[key] = lambda _, tensors: _called(layer, fill, tensors)
            return self._functions[key](values, tensors)


def _compiled(function):
    import jax

    return jax.jit(function)


def _is_compiled(layer):
    if keras.config.backend() != "jax" or not isinstance(layer, keras.layers.Layer):
        return False
    return all(
        part.supports_jit and not getattr(part, "run_eagerly", False)
        for part in paths.walk(layer)
    )


def _called(layer, fill, tensors):
    args, kwargs = fill(tensors)
    return layer(*args, **kwargs)


def _stateless(layer, fill):
    variables = layer.variables

    def function(values, tensors):
        pairs = list(zip(variables, values, strict=True))
        with keras.StatelessScope(state_mapping=pairs):
            return _called(layer, fill, tensors)

    return function
