"""Sources: the batches that one epoch of each kind of data consists of.

A source has a number of steps and, for a key (seed, round, epoch), yields that many
batches. A batch is a tuple `(x,)`, `(x, y)` or `(x, y, sample_weight)`.
"""

import abc
import itertools
import operator
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np

from tf_tickets import arguments
from tf_tickets.training import batches, data
from tf_tickets.training.batch_entries import (
    Batch,
    as_array,
    as_batch,
    check_weightable,
    described,
    have_equal_bits,
    weighted,
    weighted_tensors,
)
from tf_tickets.training.data import Key, Part, titled

ClassWeight = Mapping[int, float] | None

# Batches that are read to know the structure of a stream.
_SAMPLES = 2
_RANDOM = (
    np.random.Generator,
    np.random.RandomState,
    random.Random,
    keras.random.SeedGenerator,
)


class Source(abc.ABC):
    """The epochs of a part of the data.

    Args:
        name: "train", "validation" or "test", for messages.
        steps: Number of batches per epoch.
        class_weight: Weights that are added to batches as sample weights.
    """

    kind = ""
    # Whether the batches depend on nothing but the key.
    exact = True

    def __init__(self, name: str, steps: int, class_weight: ClassWeight = None) -> None:
        self.name = name
        self.steps = steps
        self.class_weight = class_weight

    @property
    def examples(self) -> int | None:
        """Number of examples, None if it is not known."""
        return None

    @abc.abstractmethod
    def sample(self) -> list[Batch]:
        """Returns the first batches, which are not lost by that."""

    @abc.abstractmethod
    def read(self, key: Key) -> Iterator[Batch]:
        """Yields the batches of an epoch, as many as `steps`."""

    @property
    def structure(self) -> tuple:
        """A batch's structure, with a text of shape and type for each array."""
        return keras.tree.map_structure(described, self.sample()[0])

    def identity(self) -> Any:
        """Returns what is known about the data, to tell them from others, for JSON."""
        leaves = keras.tree.flatten_with_path(self.structure)
        known = {
            "kind": self.kind,
            "steps": self.steps,
            "batches": {"/".join(map(str, path)): text for path, text in leaves},
        }
        if self.exact:
            leaves = [keras.tree.flatten(batch) for batch in self.sample()]
            known["first batches"] = batches.digest(map(np.asarray, sum(leaves, [])))
        return known

    def _checked(self, batch):
        """Returns a batch as a tuple, with sample weights for class weights."""
        batch = as_batch(self.name, batch)
        return weighted(batch, self.class_weight) if self.class_weight else batch

    def _ended(self, count):
        return ValueError(
            f"The {titled(self.name)} data ended after {count} of {self.steps} batches "
            "of an epoch. A generator is read once and must last for all epochs. Pass "
            "a function data(key) that returns a new one for each epoch, or set "
            f"`{data.steps_of(self.name)}` to the number of batches."
        )


class ArraySource(Source):
    """Arrays, shuffled by the key. Rows that do not fill a batch are dropped.

    Args:
        name: Name of the part.
        arrays: The tuple of arrays.
        batch_size: Number of examples per batch.
        class_weight: Weights of classes.

    Example:

    >>> source = ArraySource("train", (np.ones((8, 4)), np.ones(8)), batch_size=4)
    >>> source.steps, source.examples
    (2, 8)
    """

    kind = "arrays"

    def __init__(
        self,
        name: str,
        arrays: tuple,
        batch_size: int,
        class_weight: ClassWeight = None,
    ) -> None:
        rows = len(keras.tree.flatten(arrays)[0])
        super().__init__(name, rows // batch_size, class_weight)
        self.arrays = arrays
        self.batch_size = batch_size
        self._rows = rows
        if class_weight:
            self.arrays = weighted(arrays, class_weight)

    @property
    def examples(self) -> int:
        return self._rows

    def sample(self) -> list[Batch]:
        size = self.batch_size
        return [keras.tree.map_structure(lambda array: array[:size], self.arrays)]

    def read(self, key: Key) -> Iterator[Batch]:
        return batches.read(self.arrays, self.batch_size, key)

    def identity(self) -> str:
        arrays = self.arrays[:-1] if self.class_weight else self.arrays
        leaves = keras.tree.flatten(arrays)
        digest = batches.digest(leaves)
        if len(leaves) == len(arrays):
            return digest
        paths = [path for path, _ in keras.tree.flatten_with_path(arrays)]
        return f"{digest} {'; '.join('/'.join(map(str, path)) for path in paths)}"


class DatasetSource(Source):
    """A `tf.data.Dataset`; nobody but TensorFlow knows its order.

    It continues from epoch to epoch if the number of steps is given.

    Args:
        name: Name of the part.
        dataset: The dataset of batches.
        steps: Number of batches per epoch; None for all of them.
        class_weight: Weights of classes.
    """

    kind = "tf.data.Dataset"
    exact = False

    def __init__(
        self, name: str, dataset: Any, steps: int | None, class_weight: ClassWeight
    ) -> None:
        cardinality = int(dataset.cardinality())
        # Negative numbers stand for infinite and unknown.
        length = cardinality if cardinality >= 0 else None
        super().__init__(name, _known_steps(name, self.kind, length, steps))
        self.length = length
        # Threads may change the order, which the first batches need not show.
        self.is_ordered = dataset.options().deterministic is not False
        spec = dataset.element_spec
        spec = spec if isinstance(spec, tuple) else (spec,)
        self._structure = keras.tree.map_structure(described, spec)
        if class_weight:
            check_weightable(spec)
            dataset = dataset.map(lambda *batch: weighted_tensors(batch, class_weight))
        self.class_weight = class_weight
        # Without `repeat`, it would end within the second epoch.
        self.dataset = dataset if steps is None else dataset.repeat()
        # What `fit` needs to know beside the data.
        self.fit_steps = steps

    @property
    def structure(self) -> tuple:
        return self._structure

    def sample(self) -> list[Batch]:
        return list(itertools.islice(self._arrays(), min(_SAMPLES, self.steps)))

    def read(self, key: Key) -> Iterator[Batch]:
        count = 0
        for count, batch in enumerate(self._arrays(), 1):
            yield batch
            if count == self.steps:
                return
        raise self._ended(count)

    def _arrays(self):
        for batch in self.dataset:
            yield as_batch(self.name, keras.tree.map_structure(as_array, batch))


class PyDatasetSource(Source):
    """A `keras.utils.PyDataset`, in the order of the key.

    If it has a method `reorder(key)`, that is called before each epoch, and its batches
    are read by their numbers. Otherwise training batches of a finite one are shuffled
    by the key, as `fit` does. An infinite one continues in each epoch of a round.

    Args:
        name: Name of the part.
        dataset: The PyDataset.
        steps: Number of batches per epoch; None for all of them.
        class_weight: Weights of classes.
        shuffle: Whether to shuffle the batches.
        key: A key, by which it is looked at.
    """

    kind = "PyDataset"

    def __init__(
        self,
        name: str,
        dataset: keras.utils.PyDataset,
        steps: int | None,
        class_weight: ClassWeight,
        shuffle: bool,
        key: Key,
    ) -> None:
        length = _length_of(name, dataset)
        super().__init__(
            name, _known_steps(name, self.kind, length, steps), class_weight
        )
        self.dataset = dataset
        self.length = length
        self.shuffle = shuffle
        self.reorders = callable(getattr(dataset, "reorder", None))
        self.parallel = dataset.workers > 1 or bool(
            dataset.workers and dataset.use_multiprocessing
        )
        numbers = range(min(_SAMPLES, self.steps))
        self._begin(key)
        self._sample = [self.batch(number) for number in numbers]
        self.exact = self._repeats(key, numbers)

    def _repeats(self, key, numbers):
        """Returns whether the batches depend on nothing but the key, as far as seen."""
        if not self.reorders and _has_state(self.dataset):
            return False
        self._begin(key)
        # Workers read in any order.
        order = numbers[::-1] if self.parallel else numbers
        return all(have_equal_bits(self._sample[n], self.batch(n)) for n in order)

    def _begin(self, key):
        if self.reorders:
            self.dataset.reorder(key)

    def begin_epoch(self, key: Key) -> np.ndarray | range:
        """Brings the dataset into the order of a key; returns the batches to read."""
        self._begin(key)
        self.dataset.on_epoch_begin()
        if self.length is None and not self.reorders:
            return range(key[2] * self.steps, (key[2] + 1) * self.steps)
        if self.shuffle and not self.reorders:
            rng = np.random.default_rng(list(key))
            return rng.permutation(self.length)[: self.steps]
        return range(self.steps)

    def end_epoch(self) -> None:
        self.dataset.on_epoch_end()

    def batch(self, index: int) -> Batch:
        """Returns a batch by its number."""
        return self._checked(self.dataset[int(index)])

    def sample(self) -> list[Batch]:
        return self._sample

    def read(self, key: Key) -> Iterator[Batch]:
        for index in self.begin_epoch(key):
            yield self.batch(index)

    def identity(self) -> Any:
        described = {"class": type(self.dataset).__name__}
        if callable(getattr(self.dataset, "identity", None)):
            described["identity"] = self.dataset.identity()
        return {**super().identity(), **described}


class IteratorSource(Source):
    """A generator or another iterator, read once, epoch after epoch.

    Args:
        name: Name of the part.
        iterator: The iterator of batches.
        steps: Number of batches per epoch.
        class_weight: Weights of classes.
    """

    kind = "generator"
    exact = False

    def __init__(
        self,
        name: str,
        iterator: Iterator,
        steps: int | None,
        class_weight: ClassWeight,
    ) -> None:
        super().__init__(
            name, _known_steps(name, "generator", None, steps), class_weight
        )
        self._ahead = list(itertools.islice(iterator, min(_SAMPLES, self.steps)))
        if not self._ahead:
            raise self._ended(0)
        self._iterator = itertools.chain(self._ahead, iterator)
        self._sample = list(map(self._checked, self._ahead))
        # How many batches are left, if the iterator knows.
        self.left = operator.length_hint(iterator, -1)
        if self.left >= 0:
            self.left += len(self._ahead)

    def sample(self) -> list[Batch]:
        return self._sample

    def read(self, key: Key) -> Iterator[Batch]:
        count = 0
        for batch in itertools.islice(self._iterator, self.steps):
            yield self._checked(batch)
            count += 1
        if count < self.steps:
            raise self._ended(count)


class FunctionSource(Source):
    """A function from a key to the data of its epoch.

    Args:
        name: Name of the part.
        function: The function.
        opened: Function from what it returns, and `key`, to a source.
        key: A key, by which it is looked at.
    """

    kind = "function"

    def __init__(
        self,
        name: str,
        function: Callable[[Key], Part],
        opened: Callable[..., Source],
        key: Key,
    ) -> None:
        self.function = function
        self.name = name
        self._opened = opened
        first, again = self._open(key), self._open(key)
        super().__init__(name, first.steps, first.class_weight)
        self.inner = first.kind
        self.batch_size = getattr(first, "batch_size", None)
        self._examples = first.examples
        self._sample = list(itertools.islice(first.read(key), _SAMPLES))
        repeated = itertools.islice(again.read(key), _SAMPLES)
        is_equal = all(map(have_equal_bits, self._sample, repeated))
        self.exact = is_equal and getattr(first, "is_ordered", True)

    def _open(self, key):
        part = data.result_of(self.name, self.function, key)
        return self._opened(part, key=key)

    @property
    def examples(self) -> int | None:
        return self._examples

    def sample(self) -> list[Batch]:
        return self._sample

    def read(self, key: Key) -> Iterator[Batch]:
        source = self._open(key)
        if source.steps != self.steps:
            raise ValueError(
                f"The function of the {titled(self.name)} data must return as many "
                f"batches for every key. Received: {source.steps} batches for the key "
                f"{key}, {self.steps} before. Set `{data.steps_of(self.name)}`."
            )
        yield from source.read(key)

    def identity(self) -> Any:
        return {**super().identity(), "returns": self.inner}


def _known_steps(name, kind, length, steps):
    """Returns the batches per epoch; refuses what is not known or not there."""
    argument = data.steps_of(name)
    if steps is None and length is None:
        raise ValueError(
            f"The number of batches of the {titled(name)} data, a {kind}, is not "
            f"known. A search needs it. Pass `{argument}` in "
            "tf_tickets.TrainingData(...)."
        )
    if length == 0:
        raise ValueError(f"The {titled(name)} data, a {kind}, have no batches.")
    if steps is not None and length is not None and steps > length:
        remedy = (
            " or call .repeat() on the dataset" if kind == "tf.data.Dataset" else ""
        )
        raise ValueError(
            f"`{argument}` must not be larger than the number of batches. Received: "
            f"{argument}={steps}, but the {titled(name)} data, a {kind}, have "
            f"{length}. Lower it{remedy}."
        )
    return length if steps is None else steps


def _length_of(name, dataset):
    try:
        return dataset.num_batches
    except NotImplementedError:
        raise TypeError(
            f"The PyDataset of the {titled(name)} data must have the number of its "
            f"batches. Received: {arguments.shown(dataset)}. Define `__len__`, or the "
            "property `num_batches` (None for an infinite one)."
        ) from None


def _has_state(dataset):
    """Returns whether a PyDataset may return other batches in a later epoch."""
    base, kind = keras.utils.PyDataset, type(dataset)
    if any(
        getattr(kind, hook) is not getattr(base, hook)
        for hook in ("on_epoch_begin", "on_epoch_end")
    ):
        return True
    return any(isinstance(v, (*_RANDOM, Iterator)) for v in vars(dataset).values())
