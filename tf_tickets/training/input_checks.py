"""Checks of inputs against a model, before anything is trained."""

from typing import Any

import keras
import numpy as np

from tf_tickets.wrapping import signature


def check_inputs(model: keras.Model, inputs: Any, part: str) -> None:
    """Refuses inputs whose number or shapes are not those of the model.

    Args:
        model: A built model. One that does not know the shapes of its inputs, such as a
            subclassed model, is not checked, nor is one with optional inputs.
        inputs: Inputs, an array or a nest of arrays.
        part: What they are for, such as "training".

    Example:

    >>> layers = [keras.Input((4,), name="x"), keras.layers.Dense(3)]
    >>> model = keras.Sequential(layers)
    >>> check_inputs(model, np.ones((2, 4)), "training")
    >>> check_inputs(model, np.ones((2, 5)), "training")
    Traceback (most recent call last):
    ValueError: The data do not fit the model. Received for training: examples of shape
        (5,) for input 'x'. The model takes examples of shape (4,)...
    """
    if not isinstance(model, keras.Sequential | keras.Function) or not model.built:
        return
    if any(getattr(layer, "optional", False) for layer in model.layers):
        return
    specs = signature.of_model(model).inputs
    names = [spec.original or spec.name for spec in specs]
    arrays = _ordered(model, inputs, names)
    if len(arrays) != len(specs):
        raise ValueError(
            f"The data do not fit the model. Received for {part}: {len(arrays)} arrays "
            f"of inputs. The model takes {len(specs)}: {names}. Pass one array for "
            "each, in a dict by these names."
        )
    for name, spec, array in zip(names, specs, arrays, strict=True):
        shape = tuple(array.shape[1:])
        if not _fits(shape, spec.shape):
            raise ValueError(
                f"The data do not fit the model. Received for {part}: examples of "
                f"shape {shape} for input {name!r}. The model takes examples of shape "
                f"{_text(spec.shape)}. Resize or reshape the data, or pass the model "
                "that was trained on them."
            )


def _ordered(model, inputs, names):
    """Returns the arrays of inputs in the order of the model's inputs."""
    if not isinstance(inputs, dict):
        return keras.tree.flatten(inputs)
    keys = sorted(model.input) if isinstance(model.input, dict) else names
    for known in (keys, names):
        if set(inputs) >= set(known):
            return keras.tree.flatten([inputs[key] for key in known])
    return keras.tree.flatten(inputs)


def fitted(model: keras.Model, inputs: Any) -> Any:
    """Returns inputs in the structure and with the axes that a model takes.

    Keras adds and drops a last axis of length 1 by itself; files do not.

    Args:
        model: A built model.
        inputs: Inputs that `check_inputs` accepts.

    Example:

    >>> model = keras.Sequential([keras.Input((4, 1)), keras.layers.Dense(3)])
    >>> fitted(model, np.ones((2, 4))).shape
    (2, 4, 1)
    """
    if not isinstance(model, keras.Sequential | keras.Function):
        return inputs
    interface = signature.of_model(model)
    names = [spec.original or spec.name for spec in interface.inputs]
    arrays = _ordered(model, inputs, names)
    named = {}
    for spec, array in zip(interface.inputs, arrays, strict=True):
        if array.ndim == len(spec.shape):
            array = array[..., np.newaxis]
        if array.ndim == len(spec.shape) + 2:
            array = array[..., 0]
        named[spec.name] = array
    return interface.nested(named)


def _fits(shape, expected):
    """Returns whether Keras takes a shape; it adds and drops a last axis of 1."""
    shapes = [shape]
    if len(shape) == len(expected) - 1:
        shapes.append((*shape, 1))
    if len(shape) == len(expected) + 1 and shape[-1] == 1:
        shapes.append(shape[:-1])
    return any(
        len(one) == len(expected)
        # Neither the model nor a ragged tensor knows every length.
        and all(None in (n, m) or n == m for n, m in zip(expected, one, strict=True))
        for one in shapes
    )


def _text(shape):
    return str(tuple("any" if n is None else n for n in shape)).replace("'any'", "any")
