"""The batches of a search: their order, and what reads them ahead."""

import time

import keras
import numpy as np
import pytest

from tf_tickets.training import batches

SIZE, BATCH = 66, 16


def feed(key):
    return batches.feed((np.arange(SIZE), -np.arange(SIZE)), BATCH, key)


def read(source):
    pairs = [source[i] for i in range(4)] if hasattr(source, "order") else list(source)
    x, y = (np.array([np.asarray(pair[i]) for pair in pairs]) for i in (0, 1))
    assert (x == -y).all()
    return x


def test_the_order_depends_only_on_the_key():
    first, other, again = (read(feed(lambda e=epoch: (3, e))) for epoch in (0, 1, 0))
    assert first.shape == (4, BATCH) and len(set(first.ravel())) == 4 * BATCH
    assert (first == again).all() and (first != other).any()
    expected = np.random.default_rng([3, 0]).permutation(SIZE)[: 4 * BATCH]
    assert (first.ravel() == expected).all()


def test_the_key_is_asked_for_at_the_beginning_of_each_epoch():
    epochs = iter(range(3))
    source = feed(lambda: (0, next(epochs)))
    for epoch in range(3):
        assert (read(source) == read(feed(lambda e=epoch: (0, e)))).all()


@pytest.mark.skipif(keras.config.backend() != "tensorflow", reason="of tf.data only")
def test_no_python_runs_in_threads_that_read_ahead(monkeypatch):
    """An exception within an epoch deletes the iterator, which must not wait for it."""
    drawn, order = [], batches.order

    def counted(*arguments):
        drawn.append(arguments)
        return order(*arguments)

    monkeypatch.setattr(batches, "order", counted)
    iterator = iter(feed(lambda: (0,)))
    time.sleep(0.2)
    assert drawn == []
    next(iterator)
    time.sleep(0.2)
    # The rows of the epoch are read ahead by now, which takes no Python.
    assert len(list(iterator)) == 3 and len(drawn) == 1
