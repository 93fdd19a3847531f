"""Converts models to TFLite files, encodes them sparsely and adds provenance."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from typing import Any, NamedTuple

import keras
import numpy as np

from tf_tickets.exporting import conversion_runner
from tf_tickets.exporting.export_report import Stored
from tf_tickets.exporting.saved_model import inference
from tf_tickets.exporting.tflite import rewriter
from tf_tickets.exporting.verification import ExportError, ended_by
from tf_tickets.wrapping.signature import Interface

_ADVICE = (
    "Build mixed-precision models in float32, and recurrent layers with unroll=True. "
    "Layers without TFLite operators cannot be converted."
)


class Conversion(NamedTuple):
    """Describes one dense file to write.

    Args:
        path: Path of the file.
        precision: See `conversion_runner.convert`.
        integer_interface: Whether inputs and outputs have the type of activations.
        per_tensor_dense: Whether fully connected layers have a single scale.
    """

    path: pathlib.Path
    precision: str = "float32"
    integer_interface: bool = False
    per_tensor_dense: bool = False

    def settings(self) -> dict[str, bool]:
        """Returns the keyword arguments of `conversion_runner.convert`."""
        return {
            "integer_interface": self.integer_interface,
            "per_tensor_dense": self.per_tensor_dense,
        }


def write(
    model: keras.Model,
    takes: Interface,
    files: list[Conversion],
    data: dict[str, np.ndarray] | None = None,
    isolated: bool = True,
) -> None:
    """Converts a model without sparse encoding.

    Args:
        model: A plain model on the TensorFlow backend.
        takes: Interface of the model.
        files: The files to write.
        data: Dict from input name to examples that calibrate integer activations.
        isolated: Whether calibration runs in a process of its own, which the converter
            may crash.
    """
    calibrated = any(file.precision in conversion_runner.CALIBRATED for file in files)
    with tempfile.TemporaryDirectory() as name:
        # Converting from a file preserves the signature and the weights.
        folder = pathlib.Path(name)
        inference.write(model, takes, folder / "model", sparse=False)
        if calibrated and isolated:
            _convert_elsewhere(folder, files, data, takes.batch or 1)
            return
        batches = []
        if calibrated and data:
            batches = list(conversion_runner.batches(data, takes.batch or 1))
        for file in files:
            content = _convert(folder / "model", file, batches)
            file.path.write_bytes(content)


def one_by_one(takes: Interface) -> Interface:
    """Returns the interface with a batch size of 1, unless another one is fixed.

    Args:
        takes: Interface of a model.
    """
    if takes.batch:
        return takes
    specs = [dataclasses.replace(spec, batch=1) for spec in takes.inputs]
    return Interface(keras.tree.pack_sequence_as(takes.structure, specs))


def _convert(folder, file, batches):
    try:
        return conversion_runner.convert(
            os.fspath(folder), file.precision, batches, **file.settings()
        )
    except Exception as error:
        raise _failed(conversion_runner.message(error)) from error


def _convert_elsewhere(folder, files, data, batch):
    np.savez(folder / "data.npz", **data)
    job: dict[str, Any] = {
        "folder": os.fspath(folder / "model"),
        "data": os.fspath(folder / "data.npz"),
        "names": list(data),
        "batch": batch,
        "files": [
            {
                "path": os.fspath(file.path),
                "precision": file.precision,
                "settings": file.settings(),
            }
            for file in files
        ],
    }
    path = folder / "job.json"
    path.write_text(json.dumps(job))
    process = subprocess.run(
        [sys.executable, conversion_runner.__file__, path],
        capture_output=True,
        text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    if process.returncode:
        raise _failed(_reason(process))


def _reason(process):
    """Returns why a conversion in another process failed."""
    lines = process.stdout.splitlines()
    said = [line for line in lines if line.startswith(conversion_runner.FAILED)]
    if said:
        return json.loads(said[-1].removeprefix(conversion_runner.FAILED))
    ended = ended_by(process.returncode)
    last = process.stderr.strip().splitlines()[-1:]
    return f"its process ended with {ended}. {' '.join(last)[:300]}".strip()


def _failed(reason):
    return ExportError(f"The TensorFlow Lite converter failed: {reason}\n{_ADVICE}")


def encode(
    dense: os.PathLike | str, path: os.PathLike | str, provenance: dict
) -> list[rewriter.Encoding]:
    """Writes a sparsely encoded copy of a dense file.

    Args:
        dense: Path of the dense file.
        path: Path of the sparse file.
        provenance: Provenance to store in the metadata of the file.

    Returns:
        List of the `Encoding` of every weight.
    """
    content, rows = rewriter.encode(pathlib.Path(dense).read_bytes())
    pathlib.Path(path).write_bytes(with_provenance(content, provenance))
    return rows


def stored(rows: Iterable[rewriter.Encoding]) -> list[Stored]:
    """Returns the rows of a report.

    Args:
        rows: The `Encoding` of every weight.
    """
    return [
        Stored(
            row.tensor,
            tuple(row.shape),
            row.sparsity,
            row.encoding,
            row.reason,
            row.bytes_before,
            row.bytes_after,
        )
        for row in rows
    ]


def with_provenance(content: bytes, provenance: dict) -> bytes:
    """Returns the content of a file with its provenance, if there is any.

    Args:
        content: Content of a `.tflite` file.
        provenance: Provenance to store in the metadata.
    """
    if not provenance:
        return content
    entry = json.dumps(provenance, sort_keys=True).encode()
    return rewriter.set_metadata(content, {"tf_tickets": entry})
