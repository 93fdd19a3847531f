"""Tells weights that are pruned from weights that merely are zero now."""

import contextlib
from collections.abc import Iterator

import keras
import numpy as np

from tf_tickets import wrapping
from tf_tickets.wrapping.choosing import NOT_KERNELS


def multiplies(variable: keras.Variable) -> bool:
    """Returns whether a variable is a factor of its inputs: a kernel or a gamma.

    Example:

    >>> layer = keras.layers.Dense(2)
    >>> layer.build((None, 3))
    >>> multiplies(layer.kernel), multiplies(layer.bias)
    (True, False)
    """
    words = [word for word in NOT_KERNELS if word in variable.name]
    return words == ["gamma"] or (not words and len(variable.shape) > 1)


def nonzeros(model: keras.Model) -> dict[int, np.ndarray]:
    """Returns which weights count, by the id of their variable.

    In a wrapped model these are the weights that the masks keep, in a plain one those
    that are not zero. A kernel of zeros only was initialized so, and counts; training
    would change it. Biases that are zero do not count in either.

    Args:
        model: A plain or wrapped model. Its masks are not learned.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> model.set_weights([np.array([[1.0], [0.0]]), np.zeros(1)])
    >>> [array.ravel().tolist() for array in nonzeros(model).values()]
    [[True, False], [False]]
    """
    kernels = wrapping.kernels(model)
    masks = {id(kernel.variable): kernel.mask_layer for kernel in kernels.values()}
    result = {}
    for variable in wrapping.plain_paths(model).values():
        nonzero = wrapping.to_numpy(variable) != 0
        if id(variable) in masks:
            mask = masks[id(variable)].value()
            nonzero = mask if multiplies(variable) else mask & nonzero
        elif multiplies(variable) and (kernels or not nonzero.any()):
            nonzero = np.ones_like(nonzero)
        result[id(variable)] = nonzero
    return result


@contextlib.contextmanager
def replaced(model: keras.Model, counting: dict[int, np.ndarray]) -> Iterator[bool]:
    """Replaces zeros that count by ones inside a `with` block.

    Args:
        model: The model.
        counting: What `nonzeros` returned for it.

    Yields:
        Whether there are any.
    """
    changed = []
    try:
        for variable in wrapping.plain_paths(model).values():
            if multiplies(variable):
                value = wrapping.to_numpy(variable)
                zeros = counting[id(variable)] & (value == 0)
                if zeros.any():
                    changed.append((variable, value))
                    variable.assign(np.where(zeros, np.ones_like(value), value))
        yield bool(changed)
    finally:
        for variable, value in changed:
            variable.assign(value)
