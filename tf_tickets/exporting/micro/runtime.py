"""Runs files in TensorFlow Lite Micro, in a process of their own.

    python runtime.py FOLDER

A damaged file can end the process. This file does not import the rest of the package.
The folder contains `job.json`, `inputs.npz` and the files; see `verification`. Errors
of the interpreter are written to the standard error.
"""

import json
import os
import pathlib
import re
import sys
import tempfile

import numpy as np

_HEAD = re.compile(r"Arena allocation head (\d+) bytes")
_TOTAL = re.compile(r"Arena allocation total (\d+) bytes")


def _interpreter(content, arena, recording):
    from tflite_micro import runtime

    kinds = runtime.InterpreterConfig
    kind = kinds.kAllocationRecording if recording else kinds.kPreserveAllTensors
    return runtime.Interpreter.from_bytes(content, [], arena, kind)


def _invoke(interpreter, inputs, row):
    for index, array in enumerate(inputs):
        details = interpreter.get_input_details(index)
        interpreter.set_input(_quantized(array[row : row + 1], details), index)
    interpreter.invoke()


def _quantized(array, details):
    """Returns an input in the type of the file."""
    dtype = np.dtype(details["dtype"])
    if array.dtype.kind == "f" and dtype.kind == "i":
        parameters = details["quantization_parameters"]
        scale, point = parameters["scales"][0], parameters["zero_points"][0]
        limits = np.iinfo(dtype)
        array = np.clip(np.round(array / scale) + point, limits.min, limits.max)
    return np.ascontiguousarray(array.astype(dtype).reshape(details["shape"]))


def _outputs(interpreter, count):
    return [np.array(interpreter.get_output(index)) for index in range(count)]


def _allocations(interpreter):
    """Returns the bytes of the arena that the interpreter prints."""
    sys.stderr.flush()
    standard = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            interpreter.print_allocations()
        finally:
            os.dup2(standard, 2)
            os.close(standard)
        file.seek(0)
        text = file.read().decode()
    return {
        name: int(pattern.findall(text)[-1])
        for name, pattern in (("tensors", _HEAD), ("arena", _TOTAL))
    }


def _run(content, job, inputs):
    """Returns the arrays and the allocations of a file."""
    arrays: dict[str, np.ndarray] = {}
    recorder = _interpreter(content, job["size"], recording=True)
    rows = []
    for row in range(len(inputs[0])):
        _invoke(recorder, inputs, row)
        rows.append(_outputs(recorder, job["outputs"]))
    for index, values in enumerate(zip(*rows, strict=True)):
        arrays[f"output/{index}"] = np.stack(values)
    keeper = _interpreter(content, job["size"], recording=False)
    _invoke(keeper, inputs, 0)
    for index, tensor in enumerate(job["weights"]):
        arrays[f"weight/{index}"] = np.array(keeper.GetTensor(tensor, 0)["tensor_data"])
    return arrays, _allocations(recorder)


def _main(folder):
    job = json.loads((folder / "job.json").read_text())
    with np.load(folder / "inputs.npz") as stored:
        inputs = [stored[str(index)] for index in range(len(stored.files))]
    arrays: dict[str, np.ndarray] = {}
    allocations = {}
    for name, part in job.items():
        content = (folder / part["file"]).read_bytes()
        values, allocations[name] = _run(content, part, inputs)
        arrays |= {f"{name}/{key}": value for key, value in values.items()}
    np.savez(folder / "arrays.npz", **arrays)  # type: ignore[arg-type]
    (folder / "allocations.json").write_text(json.dumps(allocations))


if __name__ == "__main__":
    _main(pathlib.Path(sys.argv[1]))
