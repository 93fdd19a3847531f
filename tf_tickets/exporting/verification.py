"""Runs exported models in a fresh process and compares them with the original."""

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
from typing import Any

import keras
import numpy as np

from tf_tickets.exporting import artefact_runner, keras_file
from tf_tickets.wrapping.signature import Interface

BATCHES = (1, 32)
# Default tolerances of the error relative to the largest output.
TOLERANCES = {
    "float32": 1e-4,
    "float16": 1e-2,
    "dynamic": 0.1,
    "int8": 0.25,
    "int16x8": 0.1,
}
# Tolerance between the sparse and dense artefacts of the same precision.
_SPARSE_TOLERANCE = 1e-5
# The output line of the process that precedes its measurements.
_MEASURED = "MEASURED "


class ExportError(ValueError):
    """Raised when an export fails or differs from the model.

    Example:

    >>> raise ExportError("The outputs differ.")
    Traceback (most recent call last):
    tf_tickets.exporting.verification.ExportError: The outputs differ.
    """


def ended_by(status: int) -> str:
    """Describes the exit status of a process.

    Args:
        status: The exit status; negative for a signal.

    Example:

    >>> ended_by(-11), ended_by(3)
    ('signal 11 (SIGSEGV)', 'exit status 3')
    """
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"signal {-status} ({signal.Signals(-status).name})"
    except ValueError:
        return f"signal {-status}"


@dataclasses.dataclass(frozen=True)
class Check:
    """Holds the results of a verification.

    Args:
        errors: Dict from batch size to the largest difference from the model, relative
            to its largest output.
        ratios: Dict from batch size to the latency relative to the dense artefact:
            median and quartiles of interleaved pairs.
        layers: Dict from tensor to the error of its values in a quantized file.
        remarks: Explanations.
    """

    errors: dict[int, float] = dataclasses.field(default_factory=dict)
    ratios: dict[int, dict] = dataclasses.field(default_factory=dict)
    layers: dict[str, float] = dataclasses.field(default_factory=dict)
    remarks: list[str] = dataclasses.field(default_factory=list)


def check(
    artefacts: dict[str, pathlib.Path],
    takes: Interface,
    inputs: dict[str, np.ndarray],
    expected: dict[str, np.ndarray],
    *,
    format: str,
    tolerance: float,
    trainable: bool = False,
    layers: dict[str, Any] | None = None,
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
        layers: The paths of a quantized "file" and of the same in "float" precision,
            and the "names" of the tensors to compare.

    Returns:
        A `Check`. Raises an `ExportError` if the outputs differ.
    """
    batches = _batches(takes, _rows(inputs))
    job = _job(artefacts, takes, inputs, format, batches)
    job |= {"trainable": trainable, "time": "dense" in artefacts}
    if layers:
        job["layers"] = {**layers, "batch": takes.batch or 1}
    if format == "keras":
        path, advice = artefacts["sparse"], "pass verify=False"
        job["modules"] = keras_file.required_modules(path, advice)
    measured, outputs = _run(job, inputs)
    errors = {b: _error(outputs, expected, b, tolerance) for b in batches}
    ratios = {int(batch): ratio for batch, ratio in measured["ratios"].items()}
    return Check(errors, ratios, measured["layers"])


def run_tflite(
    path: pathlib.Path,
    takes: Interface,
    inputs: dict[str, np.ndarray],
    layers: dict[str, Any] | None = None,
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Runs a `.tflite` file of a fixed batch size on LiteRT, in a fresh process.

    Args:
        path: Path of the file.
        takes: Interface of the file.
        inputs: Dict from input name to examples.
        layers: See `check`.

    Returns:
        Dict from output name to real outputs, and the errors of the layers.
    """
    rows, size = _rows(inputs), takes.batch or 1
    job = _job({"sparse": path}, takes, inputs, "tflite", [rows])
    job |= {"chunk": size}
    if layers:
        job["layers"] = {**layers, "batch": size}
    measured, outputs = _run(job, inputs)
    return _of_batch(outputs, "sparse", rows), measured["layers"]


def compare_latency(
    before: pathlib.Path,
    after: pathlib.Path,
    takes: Interface,
    inputs: dict[str, np.ndarray],
) -> dict[int, dict]:
    """Compares the latency of two `.tflite` files on LiteRT, in a fresh process.

    Args:
        before: Path of the first file. Its folder must be writable.
        after: Path of the file that is compared with it.
        takes: Interface of both files.
        inputs: Dict from input name to examples.

    Returns:
        Dict from batch size to what `artefact_runner.compare_times` returns.
    """
    artefacts = {"sparse": after, "dense": before}
    batches = _batches(takes, _rows(inputs))
    job = _job(artefacts, takes, inputs, "tflite", batches)
    for name in ("inputs", "outputs"):
        job[name] = os.fspath(before.parent / f"{name}.npz")
    measured, _ = _run(job | {"time": True}, inputs)
    return {int(batch): ratio for batch, ratio in measured["ratios"].items()}


def _job(artefacts, takes, inputs, format, batches):
    folder = artefacts["sparse"].parent
    return {
        "format": format,
        "artefacts": {kind: os.fspath(path) for kind, path in artefacts.items()},
        "inputs": os.fspath(folder / "inputs.npz"),
        "outputs": os.fspath(folder / "outputs.npz"),
        "names": list(inputs),
        "nest": keras.tree.map_structure(lambda spec: spec.name, takes.structure),
        "batches": batches,
        "chunk": None,
        "trainable": False,
        "time": False,
        "layers": None,
        "modules": [],
        "path": sys.path,
    }


def _batches(takes, rows):
    return [takes.batch] if takes.batch else sorted({min(b, rows) for b in BATCHES})


def _rows(inputs):
    return len(next(iter(inputs.values())))


def _run(job, inputs):
    """Returns what the process measured, and its outputs; or raises its error."""
    np.savez(job["inputs"], **inputs)
    job_path = pathlib.Path(job["inputs"]).parent / "job.json"
    job_path.write_text(json.dumps(job))
    process = subprocess.run(
        [sys.executable, artefact_runner.__file__, job_path],
        capture_output=True,
        text=True,
        env=_environment(job["format"]),
    )
    lines = [x for x in process.stdout.splitlines() if x.startswith(_MEASURED)]
    if process.returncode or not lines:
        stderr = "\n".join(process.stderr.strip().splitlines()[-8:])
        raise ExportError(
            f"The exported {job['format']} does not run in a fresh interpreter "
            f"({ended_by(process.returncode)}); nothing was written. Error output:\n"
            f"{stderr}"
        )
    with np.load(job["outputs"]) as stored:
        outputs = dict(stored)
    return json.loads(lines[-1].removeprefix(_MEASURED)), outputs


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
    error = checked_error(sparse, expected, batch, tolerance)
    dense = _of_batch(outputs, "dense", batch)
    gap = difference(sparse, dense) if dense else 0.0
    if not gap <= _SPARSE_TOLERANCE:
        raise ExportError(
            f"The sparse file differs from the dense file by {gap:.2g} with batch size "
            f"{batch}; nothing was written. Choose another format or precision."
        )
    return error


def checked_error(
    found: dict[str, np.ndarray],
    expected: dict[str, np.ndarray],
    batch: int,
    tolerance: float,
    rows: int | None = None,
) -> float:
    """Returns the error of outputs; raises an `ExportError` if it is too large.

    Args:
        found: Dict from output name to the outputs of the artefact.
        expected: Dict from output name to the outputs of the model.
        batch: The batch size.
        tolerance: Maximum relative error.
        rows: Number of examples; by default one batch.

    Example:

    >>> checked_error({"a": np.ones(2)}, {"a": np.ones(2)}, 2, tolerance=0.1)
    0.0
    """
    target = {name: array[: rows or batch] for name, array in expected.items()}
    error = difference(found, target)
    if not error <= tolerance:
        raise ExportError(
            f"The exported model differs from the model by {error:.2g} of its largest "
            f"output with batch size {batch}, more than the tolerance of "
            f"{tolerance:g}; nothing was written. Pass representative `data`, or "
            "increase `tolerance` if this error is acceptable."
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
