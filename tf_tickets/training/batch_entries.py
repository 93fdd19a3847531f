"""The entries of a batch: x, y and sample weights."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from tf_tickets import arguments
from tf_tickets.training.data import nested, titled

Batch = tuple


def as_batch(name: str, batch: Any) -> Batch:
    """Returns a batch as a tuple of one to three entries.

    Example:

    >>> len(as_batch("train", [np.ones((8, 4)), np.ones(8), None]))
    2
    """
    if isinstance(batch, list):
        batch = tuple(batch)
    if not isinstance(batch, tuple):
        if not isinstance(batch, Mapping) and not hasattr(batch, "shape"):
            _refuse_batch(name, batch)
        return (batch,)
    while len(batch) > 1 and batch[-1] is None:
        batch = batch[:-1]
    if not 1 <= len(batch) <= 3 or any(entry is None for entry in batch):
        _refuse_batch(name, batch)
    return tuple(nested(entry, _with_shape) for entry in batch)


def _with_shape(leaf):
    """Returns numbers and lists of them as arrays."""
    return leaf if hasattr(leaf, "shape") else np.asarray(leaf)


def _refuse_batch(name, batch):
    raise ValueError(
        f"A batch of the {titled(name)} data must be a tuple (x, y) or (x, y, "
        f"sample_weight), or x alone. Received: {arguments.shown(batch)}"
    )


def weighted(batch: Batch, class_weight: Mapping[int, float]) -> Batch:
    """Returns a batch with the weights of its classes as sample weights.

    Example:

    >>> x, y = np.zeros((3, 1)), np.array([0, 2, 1])
    >>> weighted((x, y), {0: 0.5, 2: 4.0})[2].tolist()
    [0.5, 4.0, 1.0]
    """
    check_weightable(batch)
    x, y = batch
    labels = labels_of(y)
    weights = np.ones(labels.shape, keras.config.floatx())
    for label, weight in class_weight.items():
        weights[labels == label] = weight
    return x, y, weights


def labels_of(y: Any) -> np.ndarray:
    """Returns classes as integers, from integers or one-hot rows.

    Example:

    >>> labels_of(np.eye(3)).tolist(), labels_of(np.array([2.0, 0.0])).tolist()
    ([0, 1, 2], [2, 0])
    """
    labels = np.asarray(keras.ops.convert_to_numpy(y))
    if labels.ndim > 1:
        is_flat = labels.shape[-1] == 1
        labels = labels.squeeze(-1) if is_flat else labels.argmax(-1)
    return np.round(labels).astype("int64")


def weighted_tensors(batch: Batch, class_weight: Mapping[int, float]) -> Batch:
    """Returns a batch with sample weights, in the graph of a `tf.data.Dataset`."""
    import tensorflow as tf

    x, y = batch
    labels = y
    if y.shape.rank is None or y.shape.rank > 1:
        is_flat = y.shape[-1] == 1
        labels = tf.squeeze(y, -1) if is_flat else tf.argmax(y, -1)
    labels = tf.cast(tf.round(tf.cast(labels, "float32")), "int64")
    weights = tf.ones_like(labels, keras.config.floatx())
    for label, weight in class_weight.items():
        weights = tf.where(labels == label, tf.cast(weight, weights.dtype), weights)
    return x, y, weights


def check_weightable(batch: Batch) -> None:
    """Refuses a batch that weights of classes cannot be computed for.

    Example:

    >>> check_weightable((np.ones((8, 4)), np.ones(8)))
    """
    if len(batch) == 2 and not isinstance(batch[1], Mapping | tuple | list):
        return
    received = "no y" if len(batch) < 2 else "a y of several outputs"
    received = "sample weights" if len(batch) == 3 else received
    raise ValueError(
        "`class_weight` needs data (x, y) with one array of classes as y, and without "
        f"sample weights. Received: {received}"
    )


def rows_of(batch: Batch) -> int:
    """Returns the number of examples in a batch.

    Example:

    >>> rows_of(({"a": np.ones((8, 4))}, np.ones(8)))
    8
    """
    return int(keras.tree.flatten(batch)[0].shape[0])


def described(leaf: Any) -> str:
    """Returns the type of an array, and its shape without the examples.

    Example:

    >>> described(np.ones((8, 4), "float32"))
    'float32[4]'
    """
    shape = tuple(leaf.shape)[1:]
    dtype = leaf.dtype
    return f"{getattr(dtype, 'name', dtype)}{list(shape)}"


def as_array(leaf: Any) -> Any:
    """Returns a dense tensor as an array; others are returned as they are.

    Example:

    >>> as_array(keras.ops.ones(1))
    array([1.], dtype=float32)
    """
    is_dense = not hasattr(leaf, "dense_shape") and not hasattr(leaf, "row_splits")
    return np.asarray(leaf) if is_dense else leaf


def have_equal_bits(one: Batch, other: Batch) -> bool:
    """Returns whether two batches have the same numbers.

    Example:

    >>> have_equal_bits((np.zeros(2),), (np.ones(2),))
    False
    """
    pairs = zip(keras.tree.flatten(one), keras.tree.flatten(other), strict=False)
    return all(
        np.array_equal(np.asarray(a), np.asarray(b), equal_nan=_is_float(a))
        for a, b in pairs
    )


def _is_float(leaf):
    return np.asarray(leaf).dtype.kind in "fc"
