"""Examples that criteria evaluate the loss on, from all kinds of data."""

import itertools
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from tf_tickets import arguments
from tf_tickets.training import data
from tf_tickets.training.batch_entries import Batch, as_array, as_batch, rows_of
from tf_tickets.training.batches import digest
from tf_tickets.training.data import Key, Part

# Defaults.
_BATCH_SIZE = 128
_BATCHES = 10
# The key of a function or PyDataset whose first batches are read.
_KEY = (0, 0, 0)


class Examples:
    """Batches of arrays, or the first batches of a dataset, generator or function.

    Args:
        x: Inputs. Or, without `y`, a part of `tf_tickets.TrainingData`.
        y: Targets.
        batch_size: Number of examples per batch of arrays. Defaults to 128.
        batches: Number of batches to read of data that are no arrays. Defaults to 10,
            or all if there are fewer. They stay in memory.

    Example:

    >>> [rows_of(batch) for batch in Examples(np.zeros((5, 2)), np.zeros(5), 2)]
    [2, 2, 1]
    """

    def __init__(
        self,
        x: Any,
        y: Any = None,
        batch_size: int | None = None,
        batches: int | None = None,
    ) -> None:
        if batch_size is not None:
            arguments.check_counts(batch_size=batch_size)
        if batches is not None:
            arguments.check_counts(batches=batches)
        self.arrays: tuple | None = None
        self.batch_size = batch_size or _BATCH_SIZE
        self._part = x
        self._given_size = batch_size
        self._kind = "arrays" if y is not None else _kind(x)
        if self._kind == "arrays":
            if batches is not None:
                raise ValueError(
                    "`batches` is for data that are no arrays. Received: "
                    f"batches={batches} beside arrays. Set `batch_size`."
                )
            self.arrays = _arrays(x, y)
            self.rows = rows_of(self.arrays)
            contents, options = [self.arrays], f"batch_size={self.batch_size}"
        else:
            self._batches = _first(x, batches or _BATCHES, batch_size)
            self.rows = sum(map(rows_of, self._batches))
            contents, options = self._batches, f"batches={len(self._batches)}"
        # In the names of criteria: a search is not resumed with other examples.
        leaves = [leaf for batch in contents for leaf in keras.tree.flatten(batch)]
        self.description = f"{self.rows} examples {digest(leaves)[:12]}, {options}"

    def __iter__(self) -> Iterator[Batch]:
        if self.arrays is None:
            yield from self._batches
            return
        for start in range(0, self.rows, self.batch_size):
            yield self._rows(slice(start, start + self.batch_size))

    def draw(self, rng: np.random.Generator) -> Batch:
        """Returns a random batch.

        It is one of all of arrays, functions and PyDatasets, and of the first batches
        of other data.
        """
        if self.arrays is not None:
            size = min(self.batch_size, self.rows)
            return self._rows(rng.choice(self.rows, size, replace=False))
        if self._kind == "function":
            key = tuple(rng.integers(2**31, size=3).tolist())
            return _first(self._part, 1, self._given_size, key)[0]
        if self._kind == "PyDataset" and self._part.num_batches is not None:
            index = int(rng.integers(self._part.num_batches))
            return _read(self._part[index])
        return self._batches[int(rng.integers(len(self._batches)))]

    def _rows(self, rows):
        return keras.tree.map_structure(lambda array: array[rows], self.arrays)


def _kind(part):
    is_table = isinstance(part, dict) or hasattr(part, "__array__")
    return "arrays" if is_table else data.kind_of("training", part)


def _arrays(x, y):
    """Returns the tuple of arrays, from two arguments or from one."""
    entries = (x, y) if y is not None else x
    if not isinstance(entries, tuple | list):
        raise TypeError(
            "`y` is missing beside the array `x`. Received: "
            f"x={arguments.shown(x)}, y=None. Pass `y`, or (x,) for a loss without "
            "targets."
        )
    return data.as_arrays("training", entries)


def _first(part, count, batch_size, key=_KEY):
    """Returns the first batches of data for a key."""
    found = list(itertools.islice(read_batches(part, batch_size, key), count))
    if not found:
        raise ValueError(f"The data have no batches. Received: {arguments.shown(part)}")
    return found


def read_batches(
    part: Part, batch_size: int | None = None, key: Key = _KEY
) -> Iterator[Batch]:
    """Yields the batches of data of any kind, without an end if they have none.

    Example:

    >>> [len(y) for x, y in read_batches((np.zeros((5, 2)), np.zeros(5)), 2)]
    [2, 2, 1]
    """
    kind = data.kind_of("training", part)
    if kind == "function":
        found = data.result_of("training", part, key)
        yield from read_batches(found, batch_size, key)
    elif kind == "arrays":
        yield from Examples(part, batch_size=batch_size)
    elif batch_size is not None:
        raise ValueError(
            f"`batch_size` is for arrays. Received: batch_size={batch_size} beside a "
            f"{kind}, which has batches of its own. Set `batches`."
        )
    elif kind == "PyDataset":
        if callable(getattr(part, "reorder", None)):
            part.reorder(key)
        length = part.num_batches
        numbers = itertools.count() if length is None else range(length)
        yield from (_read(part[number]) for number in numbers)
    else:
        yield from map(_read, part)


def _read(batch):
    return as_batch("training", keras.tree.map_structure(as_array, batch))
