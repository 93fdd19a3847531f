"""Runs files in TensorFlow Lite Micro and compares them bit by bit."""

import importlib.util
import json
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tf_tickets.exporting.micro import arena, decoder
from tf_tickets.exporting.tflite import file
from tf_tickets.exporting.verification import ExportError

# Bytes of the arena beside the tensors, for the largest files.
_RESERVE = 2**24
# Maximum size of the arena, which damaged files would exceed.
_LIMIT = 2**31 - 1
_SECONDS = 600


class Run(NamedTuple):
    """Holds what TensorFlow Lite Micro computed from a file.

    Args:
        outputs: An array for each output, with the examples along the first axis.
        weights: The weights that operators of the first graph read, in their order.
        tensors: Bytes of RAM of the tensors.
        arena: Bytes of RAM of the tensors and of the interpreter on this computer.
            With 32-bit addresses, the interpreter takes less.
    """

    outputs: list[np.ndarray]
    weights: list[np.ndarray]
    tensors: int
    arena: int


def is_installed() -> bool:
    """Returns whether TensorFlow Lite Micro is installed.

    Example:

    >>> is_installed() in (True, False)
    True
    """
    return importlib.util.find_spec("tflite_micro") is not None


def run(
    files: Mapping[str, bytes],
    inputs: Sequence[np.ndarray],
    seconds: float = _SECONDS,
) -> dict[str, Run]:
    """Runs files in a process of their own, which a damaged file may end.

    Args:
        files: Dict from a name to the content of a file. All have the same inputs.
        inputs: An array for each input of the model in the order of the file, with
            examples along the first axis. They are run one by one, and quantized if
            the file requires it.
        seconds: Time limit.

    Returns:
        Dict from the name of each file to its `Run`. Raises an `ExportError` if a file
        does not run.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        job = {name: _job(content) for name, content in files.items()}
        for number, (name, content) in enumerate(files.items()):
            job[name]["file"] = f"{number}.tflite"
            (folder / job[name]["file"]).write_bytes(content)
        (folder / "job.json").write_text(json.dumps(job))
        arrays = {str(index): array for index, array in enumerate(inputs)}
        np.savez(folder / "inputs.npz", **arrays)  # type: ignore[arg-type]
        _start(folder, seconds)
        return _read(folder, job)


def check_equal(dense: Run, encoded: Run) -> None:
    """Raises an `ExportError` unless two files compute the same bits.

    Args:
        dense: The `Run` of the dense file.
        encoded: The `Run` of the encoded file.

    Example:

    >>> check_equal(Run([], [], 16, 32), Run([], [], 32, 48))
    """
    for part in ("outputs", "weights"):
        pairs = zip(getattr(dense, part), getattr(encoded, part), strict=True)
        differing = [i for i, (x, y) in enumerate(pairs) if not _same_bits(x, y)]
        if differing:
            raise ExportError(
                f"The encoded file differs from the dense file in TensorFlow Lite "
                f"Micro: {part} {differing} are not the same bits; nothing was "
                "written. Choose another format, and report this."
            )


def _same_bits(one, other):
    same_type = one.dtype == other.dtype and one.shape == other.shape
    return same_type and one.tobytes() == other.tobytes()


def _job(content):
    model = file.read(content)
    with file.refusing_damage():
        needs = sum(need.size for need in arena.activations(model).values())
        size = needs + arena.variables(model) + 10 * len(content) + _RESERVE
    return {
        "size": min(size, _LIMIT),
        "outputs": len(model.subgraphs[0].outputs),
        "weights": decoder.places(content),
    }


def _start(folder, seconds):
    script = pathlib.Path(__file__).with_name("runtime.py")
    try:
        process = subprocess.run(
            [sys.executable, script, folder],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
        )
    except subprocess.TimeoutExpired as error:
        raise ExportError(
            f"The file did not end in TensorFlow Lite Micro within {seconds} seconds; "
            "nothing was written. Pass fewer examples."
        ) from error
    if process.returncode:
        output = _messages(process.stderr) or "none; the file may be damaged"
        raise ExportError(
            "The file does not run in TensorFlow Lite Micro (exit status "
            f"{process.returncode}); nothing was written. Error output:\n{output}"
        )


def _messages(stderr):
    """Returns the last lines without the calls of the traceback."""
    lines = [line for line in stderr.splitlines() if line and not line.startswith(" ")]
    return "\n".join(line for line in lines[-9:] if not line.startswith("Traceback"))


def _read(folder, job):
    with np.load(folder / "arrays.npz") as stored:
        arrays = dict(stored)
    allocations = json.loads((folder / "allocations.json").read_text())
    return {
        name: Run(
            [arrays[f"{name}/output/{i}"] for i in range(part["outputs"])],
            [arrays[f"{name}/weight/{i}"] for i in range(len(part["weights"]))],
            **allocations[name],
        )
        for name, part in job.items()
    }
