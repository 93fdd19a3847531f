"""Runs what was written in a fresh interpreter, and compares it with the model."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import keras
import numpy as np

from tf_tickets.exporting import artefact_runner
from tf_tickets.exporting.signature import Interface

BATCHES = (1, 32)
# How far an artefact may be from the model, relative to its largest output.
TOLERANCES = {"float32": 1e-4, "float16": 1e-2, "dynamic": 0.1, "int8": 0.25}
# How far the sparse artefact may be from the dense one of the same precision.
_SAME = 1e-5


class ExportError(ValueError):
    """An artefact that was written does not do what the model does.

    Example:

    >>> raise ExportError("it gives other numbers")
    Traceback (most recent call last):
    tf_tickets.exporting.checking.ExportError: it gives other numbers
    """


@dataclasses.dataclass(frozen=True)
class Check:
    """What the run of an artefact has shown.

    Args:
        errors: Dict from a batch size to the largest difference from the model,
            relative to its largest output.
        ratios: Dict from a batch size to the time of a call relative to the dense
            artefact's: median and quartiles of interleaved pairs.
    """

    errors: dict[int, float]
    ratios: dict[int, dict]


def check(
    artefacts: dict[str, pathlib.Path],
    takes: Interface,
    inputs: dict[str, np.ndarray],
    expected: dict[str, np.ndarray],
    *,
    format: str,
    tolerance: float,
    trainable: bool = False,
) -> Check:
    """Runs artefacts at batch 1 and 32; refuses what is not right.

    Args:
        artefacts: Dict with "sparse", and "dense" to compare it with.
        takes: The inputs of the model.
        inputs: Dict from an input to examples.
        expected: What the model gives for them.
        format: As in `export`.
        tolerance: The largest relative error.
        trainable: Whether a `.keras` file needs tf_tickets to be loaded.
    """
    folder = artefacts["sparse"].parent
    job = {
        "format": format,
        "artefacts": {kind: os.fspath(path) for kind, path in artefacts.items()},
        "inputs": os.fspath(folder / "inputs.npz"),
        "outputs": os.fspath(folder / "outputs.npz"),
        "names": list(inputs),
        "nest": keras.tree.map_structure(lambda one: one.name, takes.structure),
        "batches": _batches(takes, _rows(inputs)),
        "trainable": trainable,
        "time": "dense" in artefacts,
    }
    np.savez(folder / "inputs.npz", **inputs)  # type: ignore[arg-type]
    ratios = _run(job, folder)
    with np.load(folder / "outputs.npz") as found:
        outputs = dict(found)
    errors = {b: _error(outputs, expected, b, tolerance) for b in job["batches"]}
    return Check(errors, {int(batch): ratio for batch, ratio in ratios.items()})


def _batches(takes, rows):
    return [takes.batch] if takes.batch else sorted({min(b, rows) for b in BATCHES})


def _rows(inputs):
    return len(next(iter(inputs.values())))


def _run(job, folder):
    """The ratios that the run prints, or an error with what it said."""
    described = folder / "job.json"
    described.write_text(json.dumps(job))
    found = subprocess.run(
        [sys.executable, artefact_runner.__file__, described],
        capture_output=True,
        text=True,
        env=_environment(job["format"]),
    )
    lines = [x for x in found.stdout.splitlines() if x.startswith("RATIOS ")]
    if found.returncode or not lines:
        said = "\n".join(found.stderr.strip().splitlines()[-8:])
        raise ExportError(
            f"The exported {job['format']} does not run in a fresh interpreter (exit "
            f"status {found.returncode}); nothing was kept. It said:\n{said}"
        )
    return json.loads(lines[-1].removeprefix("RATIOS "))


def _environment(format):
    """Without a GPU, whose memory this process has taken; quiet."""
    found = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    found["KERAS_BACKEND"] = keras.config.backend()
    return found


def _error(outputs, expected, batch, tolerance):
    """The largest difference from the model; refuses one above the tolerance."""
    found = _of_batch(outputs, "sparse", batch)
    wanted = {name: array[:batch] for name, array in expected.items()}
    error = difference(found, wanted)
    if not error <= tolerance:
        raise ExportError(
            f"The exported model differs from the model by {error:.2g} of its largest "
            f"output at batch {batch}, more than the tolerance of {tolerance:g}; "
            "nothing was kept. Give other data to compare on (`data`), or allow more "
            "(`tolerance`), if so coarse a precision is meant."
        )
    dense = _of_batch(outputs, "dense", batch)
    apart = difference(found, dense) if dense else 0.0
    if not apart <= _SAME:
        raise ExportError(
            f"The sparse file differs from the dense one by {apart:.2g} at batch "
            f"{batch}; nothing was kept."
        )
    return error


def _of_batch(outputs, kind, batch):
    start = f"{kind}/{batch}/"
    rows = {k.removeprefix(start): a for k, a in outputs.items() if k.startswith(start)}
    return rows


def difference(found: dict[str, Any], wanted: dict[str, Any]) -> float:
    """The largest difference, relative to the largest value; infinite for NaN.

    Outputs that a format has renamed are compared in their order.

    Example:

    >>> difference({"a": np.array([1.0, 3.0])}, {"a": np.array([1.0, 4.0])})
    0.25
    """
    if set(found) != set(wanted):
        found = dict(zip(wanted, found.values(), strict=True))
    return max(_apart(found[name], wanted[name]) for name in wanted)


def _apart(found, wanted):
    found, wanted = (np.asarray(x, "float64") for x in (found, wanted))
    if found.shape != wanted.shape or not np.isfinite(found).all():
        return float("inf")
    if not found.size:
        return 0.0
    return float(np.abs(found - wanted).max() / max(np.abs(wanted).max(), 1e-12))
