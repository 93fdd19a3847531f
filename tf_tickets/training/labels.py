"""Checks of labels and of weights of classes against the outputs of a model."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from tf_tickets import arguments
from tf_tickets.training.batch_entries import as_array


def check_labels(model: keras.Model, targets: Any, part: str) -> None:
    """Refuses labels that the model has no outputs for.

    JAX trains on them without an error. Outputs with another loss than sparse
    categorical cross-entropy are not checked.

    Args:
        model: A compiled model.
        targets: Targets, an array or a nest of arrays in the structure of the outputs.
        part: What they are for, such as "training data".

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> model.compile("sgd", "sparse_categorical_crossentropy")
    >>> check_labels(model, np.array([0, 2]), "training data")
    >>> check_labels(model, np.array([0, 3]), "training data")
    Traceback (most recent call last):
    ValueError: The labels do not fit the model. Received for training data: labels from
        0 to 3. The model has 3 outputs, for the labels 0 to 2...
    """
    if not isinstance(model, keras.Sequential | keras.Function):
        return
    shapes = [tensor.shape for tensor in model.outputs]
    names = getattr(model, "output_names", ())
    losses = _by_output(model.loss, names)
    labels = _by_output(targets, names)
    if len(shapes) != len(labels):
        return  # Keras refuses it, before the first epoch too.
    if len(losses) == 1:
        losses *= len(shapes)
    for shape, loss, given in zip(shapes, losses, labels, strict=False):
        y = as_array(given)
        is_number = isinstance(y, np.ndarray) and y.dtype.kind in "uif"
        if is_number and shape[-1] is not None and _is_sparse(loss):
            if _is_of_keras(model, loss):
                _check_sparse(y, shape, part)
            _check_range(y, shape, loss, part)


def _check_range(y, shape, loss, part):
    """Refuses labels without an output."""
    if not is_labels(y, shape):
        return
    present = y[y != getattr(loss, "ignore_class", None)]
    if present.size and not 0 <= present.min() <= present.max() < shape[-1]:
        raise ValueError(
            f"The labels do not fit the model. Received for {part}: labels from "
            f"{present.min():g} to {present.max():g}. The model has {shape[-1]} "
            f"outputs, for the labels 0 to {shape[-1] - 1}. Renumber the labels, "
            "or give the model an output for each."
        )


def _is_of_keras(model, loss):
    """Whether Keras computes the loss from labels as they are."""
    kind, base = type(model), keras.Model
    own = kind.train_step, kind.compute_loss
    sparse = keras.losses.SparseCategoricalCrossentropy
    return own == (base.train_step, base.compute_loss) and (
        not isinstance(loss, sparse) or type(loss).call is sparse.call
    )


def _check_sparse(y, shape, part):
    """Refuses one-hot labels, for which Keras has no clear message."""
    if y.ndim == len(shape) and y.shape[-1] == shape[-1] > 1:
        raise ValueError(
            f"The labels do not fit the loss of the model. Received for {part}: labels "
            f"are one-hot, y of shape {y.shape}. Expected for "
            "SparseCategoricalCrossentropy: one whole number for each. Use "
            "CategoricalCrossentropy (and CategoricalAccuracy) or y.argmax(-1)."
        )


def _by_output(values, names):
    """Returns values in the order of the outputs."""
    if isinstance(values, Mapping):
        return [values.get(name) for name in names]
    return keras.tree.flatten(values)


def _is_sparse(loss):
    kind = keras.losses.SparseCategoricalCrossentropy
    if isinstance(loss, str):
        loss = keras.losses.get(loss)
    return (
        isinstance(loss, kind) or loss is keras.losses.sparse_categorical_crossentropy
    )


def is_labels(y: np.ndarray, shape: tuple[int | None, ...]) -> bool:
    """Returns whether targets have the shape of labels for outputs of a shape.

    Example:

    >>> is_labels(np.array([1, 2]), (2, 10)), is_labels(np.ones((2, 10)), (2, 10))
    (True, False)
    """
    inner = tuple(shape[1:-1])
    return y.shape[1:] in (inner, (*inner, 1)) and y.shape[1:] != tuple(shape[1:])


def check_class_weight(
    model: keras.Model, class_weight: Mapping[int, float] | None, targets: Any
) -> None:
    """Refuses weights of classes that the model does not have.

    Args:
        model: A compiled model.
        class_weight: Dict from a class to its weight.
        targets: Some targets.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> check_class_weight(model, {0: 0.5, 2: 4.0}, np.array([0, 2]))
    """
    shape = getattr(model, "output_shape", None)
    if not class_weight or not isinstance(shape, tuple) or len(shape) < 2:
        return
    if not arguments.is_whole(shape[-1]):
        return
    found = np.shape(targets)
    if len(found) > 1 and found[-1] != 1 and found[1:] != shape[1:]:
        raise ValueError(
            "`class_weight` needs one class per example, or one-hot rows. Received: "
            f"targets of shape {found} for outputs of shape {shape}. For several "
            "classes per example, give y a last axis of length 1, or pass sample "
            "weights."
        )
    # A single output has the classes 0 and 1.
    classes = max(2, shape[-1])
    unknown = [label for label in class_weight if label >= classes]
    if unknown:
        raise ValueError(
            f"`class_weight` has classes that {model.name!r} does not have. Received: "
            f"{unknown}. Expected: 0 to {classes - 1}."
        )
