"""Training batches in an order that depends only on a key.

`model.fit` shuffles with a generator whose state depends on all previous epochs, so an
interrupted search could not resume with the same batches.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence

import keras
import numpy as np


def feed(
    x: np.ndarray, y: np.ndarray, batch_size: int, key: Callable[[], Sequence[int]]
) -> Iterable[tuple]:
    """Returns shuffled batches for `model.fit(..., shuffle=False)`.

    All batches have the same size. In each epoch, the rows that do not fill a batch are
    dropped. They differ from epoch to epoch.

    Args:
        x: Array of inputs.
        y: Array of targets.
        batch_size: Number of examples per batch.
        key: Function without arguments that returns integers. It is called at the
            beginning of each epoch, and its result determines the order.

    Returns:
        A sized iterable of (inputs, targets).

    Example:

    >>> batches = feed(np.arange(6), np.arange(6), 2, key=lambda: (0, 1))
    >>> len(batches)
    3
    """
    if len(x) != len(y) or not 1 <= batch_size <= len(x):
        raise ValueError(
            "`x` and `y` must have the same length, at least `batch_size`. Received: "
            f"{len(x)} inputs, {len(y)} targets, batch_size={batch_size}"
        )
    if keras.config.backend() == "tensorflow":
        return _tensorflow_feed(x, y, batch_size, key)
    return _Batches(x, y, batch_size, key)


def digest(arrays: Iterable[np.ndarray]) -> str:
    """Returns the SHA-256 digest of arrays, which identifies a data set.

    Example:

    >>> digest((np.zeros(2), np.zeros(2))) == digest((np.zeros(2), np.ones(2)))
    False
    """
    sha256 = hashlib.sha256()
    for array in arrays:
        array = np.ascontiguousarray(array)
        sha256.update(f"{array.dtype} {array.shape} ".encode())
        sha256.update(array.data)
    return sha256.hexdigest()


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

    def batches(order):
        rows = tf.data.Dataset.from_tensor_slices(order)
        # Threads that run ahead must not run Python: its garbage collection could
        # delete their own iterator in them, which then waits for itself forever.
        return rows.map(lambda i: (tf.gather(x, i), tf.gather(y, i))).prefetch(4)

    orders = tf.data.Dataset.from_generator(
        lambda: _orders(len(x), batch_size, key),
        output_signature=tf.TensorSpec((steps, batch_size), tf.int64),
    )
    options = tf.data.Options()
    options.autotune.enabled = False
    options.deterministic = True
    return (
        orders.flat_map(batches)
        .apply(tf.data.experimental.assert_cardinality(steps))
        .with_options(options)
    )


def _orders(size, batch_size, key):
    yield _order(size, batch_size, key())
