"""Measures a model: weights, multiply-adds, sizes of files and latency."""

import dataclasses
import gzip
import os
import pathlib
import time
from typing import Any

import keras
import numpy as np

from tf_tickets.exporting import artefact_runner, keras_file, verification
from tf_tickets.reports.costs import CostCounter
from tf_tickets.wrapping import signature


@dataclasses.dataclass(frozen=True)
class Measured:
    """What is known about one model.

    Args:
        metrics: Its metrics by name, such as "val_accuracy" and "test_accuracy".
        weights: Number of weights, moving statistics included.
        nonzero: The same without the zeros of kernels.
        macs: Multiply-adds per example of all weights of kernels.
        macs_nonzero: The same without zeros.
        bytes: Sizes of its files in bytes, by what they are.

    Example:

    >>> Measured({"val_loss": 0.5}, 40, 10, 32, 8, {".keras": 900}).nonzero
    10
    """

    metrics: dict[str, float]
    weights: int
    nonzero: int
    macs: int
    macs_nonzero: int
    bytes: dict[str, int]

    @classmethod
    def of(
        cls, model: keras.Model, metrics: dict[str, float], bytes: dict[str, int]
    ) -> "Measured":
        """Returns the measurements of a plain model.

        Args:
            model: A plain model.
            metrics: Its metrics.
            bytes: The sizes of its files.
        """
        counter = CostCounter(model)
        dense, masked = counter.dense, counter.masked
        costs = dense.params, masked.params, dense.macs, masked.macs
        return cls(metrics, *costs, bytes)


def keras_sizes(model: keras.Model, folder: pathlib.Path) -> dict[str, int]:
    """Returns the sizes of a model's `.keras` file, as Keras saves it and compressed.

    Neither has an optimizer.

    Args:
        model: A plain model.
        folder: Where to write the files, which are removed.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
    >>> list(keras_sizes(model, tmp_path))
    ['.keras', '.keras, compressed']
    """
    stored, deflated = folder / "stored.keras", folder / "deflated.keras"
    keras_file.save_for_inference(model, stored)
    keras_file.deflate(stored, deflated)
    sizes = {
        ".keras": stored.stat().st_size,
        ".keras, compressed": deflated.stat().st_size,
    }
    for path in (stored, deflated):
        path.unlink()
    return sizes


def tflite_sizes(path: os.PathLike | str) -> dict[str, int]:
    """Returns the sizes of a `.tflite` file, plain and gzipped."""
    content = pathlib.Path(path).read_bytes()
    gzipped = len(gzip.compress(content, 9, mtime=0))
    return {".tflite": len(content), ".tflite, gzipped": gzipped}


def keras_latency(
    before: keras.Model, after: keras.Model, inputs: Any
) -> dict[int, dict]:
    """Compares the latency of `predict_on_batch` of two models, in alternating pairs.

    Args:
        before: The first model.
        after: The model that is compared with it.
        inputs: Examples, an array or a nest of arrays.

    Returns:
        Dict from batch size, 1 and 32, to what `artefact_runner.compare_times` returns.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
    >>> list(keras_latency(model, model, np.ones((40, 3))))
    [1, 32]
    """
    rows = len(keras.tree.flatten(inputs)[0])
    fixed = _fixed_batch(before)
    sizes = [fixed] if fixed else sorted({min(n, rows) for n in verification.BATCHES})
    results = {}
    for size in sizes:
        x = keras.tree.map_structure(lambda array, n=size: array[:n], inputs)
        calls = [_prediction(model, x) for model in (before, after)]
        for call in calls:  # Compiles.
            call({})
        results[size] = artefact_runner.compare_times(calls[0], calls[1], {})
    return results


def _prediction(model, x):
    return lambda named: model.predict_on_batch(x)


def _fixed_batch(model):
    shapes = getattr(model, "inputs", None) or ()
    return next((tensor.shape[0] for tensor in shapes), None)


def tflite_latency(
    before: pathlib.Path, after: pathlib.Path, model: keras.Model, inputs: Any
) -> dict[int, dict]:
    """Compares the latency of two `.tflite` files in a fresh process.

    Args:
        before: The first file.
        after: The file that is compared with it.
        model: The model of the second file.
        inputs: Examples, an array or a nest of arrays.
    """
    takes = signature.of_model(model, inputs)
    named = takes.named(inputs)
    rows = takes.batch or max(verification.BATCHES)
    named = {name: np.asarray(array[:rows]) for name, array in named.items()}
    return verification.compare_latency(before, after, takes, named)


class Clock:
    """Adds up the seconds of named phases.

    Example:

    >>> clock = Clock()
    >>> with clock("export"):
    ...     time.sleep(0.01)
    >>> clock.seconds["export"] >= 0.01
    True
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._name = ""
        self._since = 0.0

    def __call__(self, name: str) -> "Clock":
        """Returns the clock itself, to be used in a `with` statement.

        Args:
            name: The name of the phase.
        """
        self._name = name
        return self

    def __enter__(self) -> None:
        self._since = time.perf_counter()

    def __exit__(self, *error: Any) -> None:
        passed = time.perf_counter() - self._since
        self.seconds[self._name] = self.seconds.get(self._name, 0.0) + passed
