"""Training batches of arrays in an order that depends only on a key.

`model.fit` shuffles with a generator whose state depends on all previous epochs, so an
interrupted search could not resume with the same batches.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np


def feed(
    arrays: tuple, batch_size: int, key: Callable[[], Sequence[int]]
) -> Iterable[tuple]:
    """Returns shuffled batches for `model.fit(..., shuffle=False)`.

    All batches have the same size. In each epoch, the rows that do not fill a batch are
    dropped. They differ from epoch to epoch.

    Args:
        arrays: Tuple of arrays, or of nested structures of them, with as many rows.
        batch_size: Number of examples per batch.
        key: Function without arguments that returns integers. It is called at the
            beginning of each epoch, and its result determines the order.

    Returns:
        A sized iterable of tuples in the structure of `arrays`.

    Example:

    >>> batches = feed((np.arange(6), np.arange(6)), 2, key=lambda: (0, 1))
    >>> len(batches)
    3
    """
    lengths = [len(array) for array in keras.tree.flatten(arrays)]
    if len(set(lengths)) != 1 or not 1 <= batch_size <= lengths[0]:
        raise ValueError(
            "All arrays must have the same number of rows, at least `batch_size`. "
            f"Received: {lengths} rows, batch_size={batch_size}"
        )
    if keras.config.backend() == "tensorflow":
        return _tensorflow_feed(arrays, batch_size, key)
    return _Batches(arrays, batch_size, key)


def read(arrays: tuple, batch_size: int, key: Sequence[int]) -> Iterator[tuple]:
    """Yields the batches of one epoch, in the order of `feed`.

    Example:

    >>> len(list(read((np.arange(6), np.arange(6)), 2, key=(0, 1))))
    3
    """
    size = len(keras.tree.flatten(arrays)[0])
    for rows in order(size, batch_size, key):
        yield _rows_of(arrays, rows)


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


def order(size: int, batch_size: int, key: Sequence[int]) -> np.ndarray:
    """Returns the rows of each batch of one epoch.

    Args:
        size: The number of rows.
        batch_size: Number of rows per batch.
        key: Integers that determine the order.

    Example:

    >>> order(6, 2, key=(0, 1)).shape
    (3, 2)
    """
    steps = size // batch_size
    rows = np.random.default_rng(list(key)).permutation(size)
    return rows[: steps * batch_size].reshape(steps, batch_size)


def _rows_of(arrays: tuple, rows: np.ndarray) -> Any:
    return keras.tree.map_structure(lambda array: array[rows], arrays)


class _Batches(keras.utils.PyDataset):
    def __init__(self, arrays, batch_size, key):
        super().__init__()
        self.arrays, self.batch_size, self.key = arrays, batch_size, key
        self.size = len(keras.tree.flatten(arrays)[0])
        self.order = None

    def __len__(self):
        return self.size // self.batch_size

    def __getitem__(self, index):
        if index == 0 or self.order is None:
            self.order = order(self.size, self.batch_size, self.key())
        return _rows_of(self.arrays, self.order[index])


def _tensorflow_feed(arrays, batch_size, key):
    import tensorflow as tf

    size = len(keras.tree.flatten(arrays)[0])
    steps = size // batch_size
    with tf.device("cpu"):
        tensors = keras.tree.map_structure(tf.constant, arrays)

    def batches(numbers):
        rows = tf.data.Dataset.from_tensor_slices(numbers)

        def gather(i):
            return keras.tree.map_structure(
                lambda tensor: tf.gather(tensor, i), tensors
            )

        # Threads that run ahead must not run Python: its garbage collection could
        # delete their own iterator in them, which then waits for itself forever.
        return rows.map(gather).prefetch(4)

    def drawn(_):
        rows = tf.numpy_function(lambda: order(size, batch_size, key()), [], tf.int64)
        return tf.ensure_shape(rows, (steps, batch_size))

    options = tf.data.Options()
    options.autotune.enabled = False
    options.deterministic = True
    # `from_generator` would be shorter, but makes the whole process slower: TensorFlow
    # sets M_TRIM_THRESHOLD then, and the C library returns all memory of large tensors
    # to the kernel and asks for it again in each step.
    return (
        tf.data.Dataset.range(1)
        .map(drawn)
        .flat_map(batches)
        .apply(tf.data.experimental.assert_cardinality(steps))
        .with_options(options)
    )
