"""Feeds: what `fit` and `evaluate` read of a source, on each backend."""

import contextlib
import multiprocessing.dummy
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from tf_tickets.training import batches
from tf_tickets.training.batch_entries import described
from tf_tickets.training.data import Key, titled
from tf_tickets.training.sources import (
    ArraySource,
    DatasetSource,
    PyDatasetSource,
    Source,
)


class Feed:
    """What Keras reads of a source, in the order of keys.

    Keras may look at a batch before the first epoch. It gets one of the sample then, so
    nothing of a generator is lost.

    Args:
        source: The source.
        key: Function without arguments that returns the key of the epoch that begins.

    Example:

    >>> source = ArraySource("train", (np.ones((8, 4)), np.ones(8)), batch_size=4)
    >>> len(Feed(source, key=lambda: (0, 1, 0)).x)
    2
    """

    def __init__(self, source: Source, key: Callable[[], Key]) -> None:
        self.source = source
        self.key = key
        # The exception of the data, which TensorFlow reports as one of its own.
        self.error: Exception | None = None
        self._stream: _Numbered | _Sequential | None = None
        # What `fit` gets as `x` and as `steps_per_epoch`.
        self.x = self._made()
        self.steps: int | None = getattr(source, "fit_steps", None)

    def _made(self) -> Any:
        source = self.source
        if isinstance(source, ArraySource):
            return batches.feed(source.arrays, source.batch_size, self.key)
        if isinstance(source, DatasetSource):
            return source.dataset
        on_tensorflow = keras.config.backend() == "tensorflow"
        if isinstance(source, PyDatasetSource) and (
            source.parallel or not on_tensorflow
        ):
            self._stream = _Numbered(source, self._noted)
            return self._stream
        self._stream = _Sequential(source, self._noted)
        return _tensorflow_dataset(self._stream) if on_tensorflow else self._stream

    def begin(self) -> None:
        """Begins an epoch, with the present key."""
        self.error = None
        if self._stream is not None:
            self._stream.begin(self.key())

    def end(self) -> None:
        """Ends an epoch."""
        if isinstance(self.source, PyDatasetSource):
            self.source.end_epoch()

    @contextlib.contextmanager
    def _noted(self):
        try:
            yield
        except Exception as error:
            self.error = error
            raise


class Beginning(keras.callbacks.Callback):
    """Begins the epochs of feeds. It comes after the callbacks that know the key.

    Args:
        train: The feed of `fit`; None for `evaluate`.
        validation: The feed of its validation, or of `evaluate`.
    """

    changes_results = False

    def __init__(self, train: Feed | None, validation: Feed | None) -> None:
        super().__init__()
        self.train = train
        self.validation = validation

    def on_epoch_begin(self, epoch, logs=None):
        if self.train is not None:
            self.train.begin()

    def on_epoch_end(self, epoch, logs=None):
        if self.train is not None:
            self.train.end()

    def on_test_begin(self, logs=None):
        if self.validation is not None:
            self.validation.begin()

    def on_test_end(self, logs=None):
        if self.validation is not None:
            self.validation.end()


@contextlib.contextmanager
def own_errors(*feeds: Feed | None) -> Iterator[None]:
    """Raises the exceptions of data as they were, not as TensorFlow wraps them.

    Example:

    >>> with own_errors(None):
    ...     pass
    """
    try:
        yield
    except Exception as error:
        for feed in feeds:
            if feed is not None and feed.error not in (None, error):
                raise feed.error from error
        raise


class _Numbered(keras.utils.PyDataset):
    """The batches of a PyDataset in the order of a key, read by its own workers."""

    def __init__(self, source, noted):
        dataset = source.dataset
        super().__init__(
            workers=dataset.workers,
            use_multiprocessing=dataset.use_multiprocessing,
            max_queue_size=dataset.max_queue_size,
        )
        self.source = source
        self.numbers = None
        self._process = os.getpid()
        self._noted = noted

    def begin(self, key):
        self.numbers = self.source.begin_epoch(key)

    def __len__(self):
        return self.source.steps

    def __getitem__(self, index):
        if self.numbers is None:
            # Keras would pass on what its workers have read ahead, unless it is None.
            is_ahead = index > 0 and self._is_worker()
            return None if is_ahead else self.source.sample()[index]
        with self._noted():
            return self.source.batch(self.numbers[index])

    def _is_worker(self):
        """Returns whether a thread or process of Keras is reading."""
        thread = threading.current_thread()
        is_thread = isinstance(thread, multiprocessing.dummy.DummyProcess)
        return is_thread or os.getpid() != self._process

    def __getstate__(self):
        # Processes that read need neither the feed nor its errors.
        return {**vars(self), "_noted": contextlib.nullcontext}


class _Sequential(keras.utils.PyDataset):
    """The batches of an epoch, one after the other."""

    def __init__(self, source, noted):
        super().__init__()
        self.source = source
        self._key = None
        self._batches = None
        self._noted = noted

    def begin(self, key):
        self._key, self._batches = key, None

    def __len__(self):
        return self.source.steps

    def __getitem__(self, index):
        return next(self._present(index))

    def leaves(self, index, signature):
        """Returns the arrays of a batch, which must be as TensorFlow expects them."""
        batch = self[index]
        with self._noted():
            if not _fits(batch, signature):
                raise ValueError(
                    f"Batches of the {titled(self.source.name)} data must be like the "
                    "first one, in all but the number of rows. Received as batch "
                    f"{index} of an epoch: {keras.tree.map_structure(described, batch)}"
                    f". Expected: {self.source.structure}"
                )
        types = [spec.dtype.as_numpy_dtype for spec in keras.tree.flatten(signature)]
        return list(map(np.asarray, keras.tree.flatten(batch), types))

    def _present(self, index):
        if index == 0:
            if self._key is None:
                return iter(self.source.sample())
            self._batches = self._read(self._key)
            self._key = None
        return self._batches

    def _read(self, key):
        with self._noted():
            yield from self.source.read(key)


def _tensorflow_dataset(stream):
    """Returns a `tf.data.Dataset` that reads without running ahead.

    Threads of TensorFlow that run ahead must not run Python, see `batches`. A PyDataset
    with several workers reads ahead in threads of its own.
    """
    import tensorflow as tf

    samples = stream.source.sample()
    signature = keras.tree.map_structure(lambda *leaves: _spec(tf, leaves), *samples)
    specs = keras.tree.flatten(signature)

    def read(index):
        return stream.leaves(int(index), signature)

    def batch_of(index):
        leaves = tf.numpy_function(read, [index], [spec.dtype for spec in specs])
        for leaf, spec in zip(leaves, specs, strict=True):
            leaf.set_shape(spec.shape)
        return keras.tree.pack_sequence_as(signature, leaves)

    options = tf.data.Options()
    options.autotune.enabled = False
    options.deterministic = True
    # `from_generator` would make the process slower, see `batches`.
    steps = stream.source.steps
    return tf.data.Dataset.range(steps).map(batch_of).with_options(options)


def _fits(batch, signature):
    """Returns whether a batch has the structure and shapes of a signature."""
    found, expected = map(keras.tree.flatten_with_path, (batch, signature))
    return len(found) == len(expected) and all(
        path == known and spec.shape.is_compatible_with(tuple(leaf.shape))
        for (path, leaf), (known, spec) in zip(found, expected, strict=True)
    )


def _spec(tf, leaves):
    """Returns the type of a leaf; axes that differ between batches have no length."""
    first = leaves[0]
    shapes = [tuple(leaf.shape) for leaf in leaves]
    if len({len(shape) for shape in shapes}) > 1:
        return tf.TensorSpec(None, first.dtype)
    lengths = [set(axis) for axis in zip(*shapes, strict=True)]
    shape = [axis.pop() if len(axis) == 1 else None for axis in lengths]
    dtype = first.dtype if hasattr(first.dtype, "as_numpy_dtype") else None
    return tf.TensorSpec([None, *shape[1:]], dtype or np.asarray(first).dtype)
