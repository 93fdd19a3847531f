"""Checks that data fit a model, before anything is trained."""

from typing import Any

import keras
import numpy as np

from tf_tickets import keras_internals
from tf_tickets.fine_tuning.target_kinds import is_labels
from tf_tickets.wrapping import signature


def check_inputs(model: keras.Model, inputs: Any, part: str) -> None:
    """Refuses inputs whose number or shapes are not those of the model.

    Args:
        model: A built model. One that does not know the shapes of its inputs, such as a
            subclassed model, is not checked.
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
    if not isinstance(model, keras.Sequential | keras.Function):
        return
    specs = signature.of_model(model).inputs
    names = [spec.original or spec.name for spec in specs]
    arrays = _ordered(inputs, names)
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


def _ordered(inputs, names):
    """Returns the arrays of inputs in the order of the model's inputs."""
    if isinstance(inputs, dict) and set(inputs) >= set(names):
        return [inputs[name] for name in names]
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
    arrays = _ordered(inputs, [spec.original or spec.name for spec in interface.inputs])
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
        and all(n in (None, m) for n, m in zip(expected, one, strict=True))
        for one in shapes
    )


def _text(shape):
    return str(tuple("any" if n is None else n for n in shape)).replace("'any'", "any")


def check_labels(model: keras.Model, targets: Any, part: str) -> None:
    """Refuses labels that the model has no outputs for.

    Args:
        model: A compiled model.
        targets: Targets, an array or a nest of arrays in the structure of the outputs.
        part: What they are for, such as "training".

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> model.compile("sgd", "sparse_categorical_crossentropy")
    >>> check_labels(model, np.array([0, 2]), "training")
    >>> check_labels(model, np.array([0, 3]), "training")
    Traceback (most recent call last):
    ValueError: The labels do not fit the model. Received for training: labels from 0 to
        3. The model has 3 outputs, for the labels 0 to 2...
    """
    if not isinstance(model, keras.Sequential | keras.Function):
        return
    shapes, labels = [tensor.shape for tensor in model.outputs], _flat(model, targets)
    if len(shapes) != len(labels):
        return  # `evaluate` refuses it, before the first epoch too.
    ignored = _ignored(model)
    for shape, given in zip(shapes, labels, strict=True):
        y = np.asarray(given)
        one_per_class = shape[-1] is not None and shape[-1] > 1
        if y.dtype.kind not in "ui" or not one_per_class or not is_labels(y, shape):
            continue
        present = y[~np.isin(y, ignored)]
        if present.size and not 0 <= present.min() <= present.max() < shape[-1]:
            raise ValueError(
                f"The labels do not fit the model. Received for {part}: labels from "
                f"{present.min()} to {present.max()}. The model has {shape[-1]} "
                f"outputs, for the labels 0 to {shape[-1] - 1}. Renumber the labels, "
                "or pass the model that was trained on them."
            )


def _flat(model, targets):
    names = getattr(model, "output_names", ())
    if isinstance(targets, dict) and set(targets) == set(names):
        return [targets[name] for name in names]
    return keras.tree.flatten(targets)


def _ignored(model):
    """Returns the labels that losses of the model leave out."""
    losses = keras.tree.flatten(keras_internals.compile_arguments(model).get("loss"))
    labels = [getattr(loss, "ignore_class", None) for loss in losses]
    return [label for label in labels if label is not None]
