"""Runs exported models in a fresh process and compares them with the original."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import keras
import numpy as np

from tf_tickets.exporting import artefact_runner, keras_file
from tf_tickets.wrapping.signature import Interface

BATCHES = (1, 32)
# Default tolerances of the error relative to the largest output.
TOLERANCES = {"float32": 1e-4, "float16": 1e-2, "dynamic": 0.1, "int8": 0.25}
# Tolerance between the sparse and dense artefacts of the same precision.
_SPARSE_TOLERANCE = 1e-5


class ExportError(ValueError):
    """Raised when an export fails or differs from the model.

    Example:

    >>> raise ExportError("The outputs differ.")
    Traceback (most recent call last):
    tf_tickets.exporting.verification.ExportError: The outputs differ.
    """


@dataclasses.dataclass(frozen=True)
class Check:
    """Holds the results of a verification.

    Args:
        errors: Dict from batch size to the largest difference from the model, relative
            to its largest output.
        ratios: Dict from batch size to the latency relative to the dense artefact:
            median and quartiles of interleaved pairs.
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
    """Runs artefacts with batch sizes 1 and 32 and validates their outputs.

    Args:
        artefacts: Dict with the path of "sparse" and, optionally, "dense" to compare.
        takes: Interface of the model.
        inputs: Dict from input name to examples.
        expected: Dict from output name to the outputs of the model.
        format: See `export`.
        tolerance: Maximum relative error.
        trainable: Whether a `.keras` file requires tf_tickets to load.

    Returns:
        A `Check`. Raises an `ExportError` if the outputs differ.
    """
    folder = artefacts["sparse"].parent
    job = {
        "format": format,
        "artefacts": {kind: os.fspath(path) for kind, path in artefacts.items()},
        "inputs": os.fspath(folder / "inputs.npz"),
        "outputs": os.fspath(folder / "outputs.npz"),
        "names": list(inputs),
        "nest": keras.tree.map_structure(lambda spec: spec.name, takes.structure),
        "batches": _batches(takes, _rows(inputs)),
        "trainable": trainable,
        "time": "dense" in artefacts,
        "modules": [],
        "path": sys.path,
    }
    if format == "keras":
        path, advice = artefacts["sparse"], "pass verify=False"
        job["modules"] = keras_file.required_modules(path, advice)
    np.savez(folder / "inputs.npz", **inputs)  # type: ignore[arg-type]
    ratios = _run(job, folder)
    with np.load(folder / "outputs.npz") as stored:
        outputs = dict(stored)
    errors = {b: _error(outputs, expected, b, tolerance) for b in job["batches"]}
    return Check(errors, {int(batch): ratio for batch, ratio in ratios.items()})


def _batches(takes, rows):
    return [takes.batch] if takes.batch else sorted({min(b, rows) for b in BATCHES})


def _rows(inputs):
    return len(next(iter(inputs.values())))


def _run(job, folder):
    """Returns the latency ratios printed by the process, or raises its error."""
    job_path = folder / "job.json"
    job_path.write_text(json.dumps(job))
    process = subprocess.run(
        [sys.executable, artefact_runner.__file__, job_path],
        capture_output=True,
        text=True,
        env=_environment(job["format"]),
    )
    lines = [x for x in process.stdout.splitlines() if x.startswith("RATIOS ")]
    if process.returncode or not lines:
        stderr = "\n".join(process.stderr.strip().splitlines()[-8:])
        raise ExportError(
            f"The exported {job['format']} does not run in a fresh interpreter (exit "
            f"status {process.returncode}); nothing was written. Error output:\n"
            f"{stderr}"
        )
    return json.loads(lines[-1].removeprefix("RATIOS "))


def _environment(format):
    """Returns environment variables that hide GPUs and silence logging.

    This process may already have allocated the memory of the GPU.
    """
    variables = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    variables["KERAS_BACKEND"] = keras.config.backend()
    return variables


def _error(outputs, expected, batch, tolerance):
    """Returns the largest relative error; raises if it exceeds the tolerance."""
    sparse = _of_batch(outputs, "sparse", batch)
    target = {name: array[:batch] for name, array in expected.items()}
    error = difference(sparse, target)
    if not error <= tolerance:
        raise ExportError(
            f"The exported model differs from the model by {error:.2g} of its largest "
            f"output with batch size {batch}, more than the tolerance of "
            f"{tolerance:g}; nothing was written. Pass representative `data`, or "
            "increase `tolerance` if this error is acceptable."
        )
    dense = _of_batch(outputs, "dense", batch)
    gap = difference(sparse, dense) if dense else 0.0
    if not gap <= _SPARSE_TOLERANCE:
        raise ExportError(
            f"The sparse file differs from the dense file by {gap:.2g} with batch size "
            f"{batch}; nothing was written. Choose another format or precision."
        )
    return error


def _of_batch(outputs, kind, batch):
    start = f"{kind}/{batch}/"
    rows = {k.removeprefix(start): a for k, a in outputs.items() if k.startswith(start)}
    return rows


def difference(found: dict[str, Any], wanted: dict[str, Any]) -> float:
    """Returns the largest difference relative to the largest expected value.

    It is infinite for NaN. Outputs renamed by a format are compared in order.

    Args:
        found: Dict from output name to the array of the artefact.
        wanted: Dict from output name to the expected array.

    Example:

    >>> difference({"a": np.array([1.0, 3.0])}, {"a": np.array([1.0, 4.0])})
    0.25
    """
    if set(found) != set(wanted):
        found = dict(zip(wanted, found.values(), strict=True))
    return max(_relative_error(found[name], wanted[name]) for name in wanted)


def _relative_error(actual, expected):
    actual, expected = (np.asarray(x, "float64") for x in (actual, expected))
    if actual.shape != expected.shape or not np.isfinite(actual).all():
        return float("inf")
    if not actual.size:
        return 0.0
    return float(np.abs(actual - expected).max() / max(np.abs(expected).max(), 1e-12))
