"""Training batches whose order depends on a key alone, not on what went before.

`model.fit` shuffles with a generator that runs on from epoch to epoch, so a
search that was killed could not go on as if it had not been.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence

import keras
import numpy as np


def feed(
    x: np.ndarray, y: np.ndarray, batch_size: int, key: Callable[[], Sequence[int]]
) -> Iterable[tuple]:
    """Batches for `model.fit(..., shuffle=False)`.

    A rest that does not fill a batch is left out, another one each epoch, so that
    all steps have the same shape.

    Args:
        x: Inputs, an array.
        y: Targets, an array.
        batch_size: Examples a batch.
        key: Function without arguments that gives whole numbers; asked at the
            beginning of each epoch, they decide its order.

    Example:

    >>> batches = feed(np.arange(6), np.arange(6), 2, key=lambda: (0, 1))
    >>> len(batches)
    3
    """
    if len(x) != len(y) or not 1 <= batch_size <= len(x):
        raise ValueError(
            "`x` and `y` must be equally long and fill one batch at least. Received: "
            f"{len(x)} inputs, {len(y)} targets, batch_size={batch_size}"
        )
    if keras.config.backend() == "tensorflow":
        return _tensorflow_feed(x, y, batch_size, key)
    return _Batches(x, y, batch_size, key)


def digest(arrays: Iterable[np.ndarray]) -> str:
    """SHA-256 over arrays, to tell one data set from another.

    Example:

    >>> digest((np.zeros(2), np.zeros(2))) == digest((np.zeros(2), np.ones(2)))
    False
    """
    found = hashlib.sha256()
    for array in arrays:
        array = np.ascontiguousarray(array)
        found.update(f"{array.dtype} {array.shape} ".encode())
        found.update(array.data)
    return found.hexdigest()


def _order(size, batch_size, key):
    steps = size // batch_size
    order = np.random.default_rng(list(key)).permutation(size)
    return order[: steps * batch_size].reshape(steps, batch_size)


class _Batches(keras.utils.PyDataset):
    def __init__(self, x, y, batch_size, key):
        super().__init__()
        self.x, self.y, self.batch_size, self.key = x, y, batch_size, key
        self.order = None

    def __len__(self):
        return len(self.x) // self.batch_size

    def __getitem__(self, index):
        if index == 0 or self.order is None:
            self.order = _order(len(self.x), self.batch_size, self.key())
        rows = self.order[index]
        return self.x[rows], self.y[rows]


def _tensorflow_feed(x, y, batch_size, key):
    import tensorflow as tf

    steps = len(x) // batch_size
    with tf.device("cpu"):
        x, y = tf.constant(x), tf.constant(y)
    orders = tf.data.Dataset.from_generator(
        lambda: iter([_order(len(x), batch_size, key())]),
        output_signature=tf.TensorSpec((steps, batch_size), tf.int64),
    )
    rows = orders.flat_map(tf.data.Dataset.from_tensor_slices)
    batches = rows.map(lambda i: (tf.gather(x, i), tf.gather(y, i)))
    options = tf.data.Options()
    options.autotune.enabled = False
    options.deterministic = True
    return (
        batches.apply(tf.data.experimental.assert_cardinality(steps))
        .prefetch(4)
        .with_options(options)
    )
