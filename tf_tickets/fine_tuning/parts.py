"""The parts of the data: for training, validation and test."""

import dataclasses
from typing import Any

import keras
import numpy as np

from tf_tickets.search import inputs
from tf_tickets.search.inputs import Data
from tf_tickets.training import sources
from tf_tickets.training.data import PARTS


class Parts:
    """The parts of the data, with what `prune` needs to know about them.

    Args:
        data: As in `find_tickets`, but without iterators: the parts are read several
            times, before, during and after the training.
        seed: Seed of the data order.
        batch_size: Batch size of arrays, None for 32.

    Example:

    >>> x, y = np.ones((8, 4)), np.ones((8, 2))
    >>> parts = Parts(((x, y), (x[:4], y[:4])), seed=0, batch_size=4)
    >>> parts.names, parts.steps, parts.examples("validation", 2)[0].shape
    (['train', 'validation'], 2, (2, 4))
    """

    def __init__(self, data: Data, seed: int, batch_size: int | None) -> None:
        self._data = inputs.training_data(data)
        self._seed, self._batch_size = seed, batch_size
        for name, part in self._data.parts.items():
            if hasattr(part, "__next__"):
                raise ValueError(
                    f"The {name} data are read several times: to measure the model "
                    f"before and after, and to train it. Received: {type(part)}, which "
                    "is read once. Pass a function data(key) that returns a new one."
                )
        self._opened = inputs.Inputs(self._data, seed, batch_size)
        for name in self.names:
            if len(self._opened.sources[name].structure) < 2:
                raise ValueError(
                    f"Pruning needs targets. Received for {name}: inputs alone. Pass "
                    "(x, y)."
                )

    @property
    def names(self) -> list[str]:
        """The names of the parts that there are."""
        return list(self._opened.sources)

    @property
    def steps(self) -> int:
        """The number of steps per epoch."""
        return self._opened.sources["train"].steps

    def examples(self, name: str, count: int | None) -> tuple[Any, Any]:
        """Returns inputs and targets of a part; of streams from the first batches.

        Args:
            name: The name of the part.
            count: How many, at most; None for all that are known.
        """
        source = self._opened.sources[name]
        if isinstance(source, sources.ArraySource):
            arrays = source.arrays[:2]
        else:
            batches = [batch[:2] for batch in source.sample()]
            arrays = keras.tree.map_structure(
                lambda *several: np.concatenate([np.asarray(one) for one in several]),
                *batches,
            )
        x, y = keras.tree.map_structure(lambda a: np.asarray(a)[:count], arrays)
        return x, y

    def evaluate(self, model: keras.Model, name: str) -> dict[str, float]:
        """Returns the metrics of a model on a part.

        Args:
            model: A compiled model.
            name: The name of the part.
        """
        data = self._data
        tested = dataclasses.replace(
            data, test=data.parts[name], test_steps=getattr(data, PARTS[name])
        )
        opened = inputs.Inputs(tested, self._seed, self._batch_size)
        metrics = opened.test_metrics(model)
        return {key.removeprefix("test_"): value for key, value in metrics.items()}
