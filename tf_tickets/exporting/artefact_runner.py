"""Runs exported models in a fresh process, as their users do.

    python artefact_runner.py JOB.json

This file does not import the rest of the package. The job contains the paths of the
artefacts, their format, and the paths of inputs and outputs; see `verification`.
"""

import importlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

Named = dict[str, Any]
Call = Callable[[Named], Any]

_PAIRS = 11
_SECONDS = 0.02
# Examples by which layers are compared, at most.
_COMPARED = 8
# Seconds after which this process notices that its parent has ended.
_NOTICE = 0.5


# Every loader returns a function from named inputs to named outputs.


def _saved_model(path, job):
    import tensorflow as tf

    loaded = tf.saved_model.load(path)
    serve = loaded.signatures["serving_default"]

    def call(named, loaded=loaded):
        # The default argument keeps `loaded` alive, which the signature does not.
        outputs = serve(**{name: tf.constant(x) for name, x in named.items()})
        return {name: tensor.numpy() for name, tensor in outputs.items()}

    return call


def _tflite(path, job):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(path, num_threads=1)
    run = interpreter.get_signature_runner("serving_default")
    given, returned = run.get_input_details(), run.get_output_details()

    def call(named):
        inputs = {name: quantized(x, given[name]) for name, x in named.items()}
        outputs = run(**inputs)
        return {name: real(x, returned[name]) for name, x in outputs.items()}

    return call


def quantized(array: np.ndarray, details: dict) -> np.ndarray:
    """Returns real inputs as the integers that a tensor of a `.tflite` file takes.

    Args:
        array: The real values.
        details: The "dtype" and "quantization" (scale, zero point) of the tensor. A
            scale of 0 stands for a tensor without quantization.

    Example:

    >>> quantized(np.array([0.5, 9.0]), {"dtype": np.int8, "quantization": (0.1, -3)})
    array([  2, 87], dtype=int8)
    """
    scale, zero = details["quantization"]
    if not scale:
        return array
    limits = np.iinfo(details["dtype"])
    numbers = np.round(np.asarray(array, "float64") / scale) + zero
    return np.clip(numbers, limits.min, limits.max).astype(details["dtype"])


def real(array: np.ndarray, details: dict) -> np.ndarray:
    """Returns the real values of a tensor; the opposite of `quantized`.

    Args:
        array: The values of the tensor.
        details: See `quantized`.

    Example:

    >>> real(np.array([2, 87], "int8"), {"quantization": (0.5, -3)})
    array([ 2.5, 45. ], dtype=float32)
    """
    scale, zero = details["quantization"]
    if not scale:
        return array
    return ((array.astype("float64") - zero) * scale).astype("float32")


def _layer_errors(job, inputs):
    """Returns the error of activations of a quantized file, in their order.

    It is the root of the mean squared difference from the float32 file, relative to
    that of the values themselves. Errors accumulate from layer to layer.
    """
    runs = [_activations(path, job["tensors"]) for path in (job["float"], job["file"])]
    sums: dict[str, np.ndarray] = {}
    rows, size = len(next(iter(inputs.values()))), job["batch"]
    rows = min(rows, max(size, _COMPARED))
    for start in range(0, rows - size + 1, size):
        batch = {name: x[start : start + size] for name, x in inputs.items()}
        expected, actual = (run(batch) for run in runs)
        for name in job["tensors"]:
            if name in expected and np.shape(expected[name]) == np.shape(actual[name]):
                squares = _squares(actual[name] - expected[name], expected[name])
                sums[name] = sums.get(name, 0.0) + squares
    squares_of = {name: pair for name, pair in sums.items() if pair[1] > 0}
    return {name: float(np.sqrt(e / x)) for name, (e, x) in squares_of.items()}


def _squares(*arrays):
    return np.array([float(np.square(array).sum()) for array in arrays])


def _activations(path, names):
    """Returns a function from named inputs to the named activations, as real values.

    The default delegate keeps no activations, so the file runs without it.
    """
    from ai_edge_litert import interpreter as litert

    interpreter = litert.Interpreter(
        path,
        num_threads=1,
        experimental_op_resolver_type=(
            litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        ),
        experimental_preserve_all_tensors=True,
    )
    run = interpreter.get_signature_runner("serving_default")
    given = run.get_input_details()
    tensors = [t for t in interpreter.get_tensor_details() if t["name"] in names]

    def call(named):
        run(**{name: quantized(x, given[name]) for name, x in named.items()})
        arrays = {t["name"]: interpreter.get_tensor(t["index"]) for t in tensors}
        return {t["name"]: _wide(arrays[t["name"]], t) for t in tensors}

    return call


def _wide(array, details):
    return np.asarray(real(array, details), "float64")


def _keras(path, job):
    import keras

    if job["trainable"]:
        # The file contains layers of tf_tickets.
        importlib.import_module("tf_tickets")
    import_modules(job["modules"], job["path"])
    # A trainable file may be compiled with objects that are not available here.
    model = keras.saving.load_model(path, compile=not job["trainable"])

    def call(named):
        return _named(_numbers(model(_nested(job["nest"], named), training=False)))

    def _numbers(outputs):
        return keras.tree.map_structure(keras.ops.convert_to_numpy, outputs)

    def _named(outputs):
        if isinstance(outputs, dict):
            return outputs
        flat = keras.tree.flatten(outputs)
        return {f"output_{index}": array for index, array in enumerate(flat)}

    return call


def _onnx(path, job):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options)
    names = [output.name for output in session.get_outputs()]
    input_names = [spec.name for spec in session.get_inputs()]

    def call(named):
        feeds = dict(zip(input_names, named.values(), strict=True))
        return dict(zip(names, session.run(None, feeds), strict=True))

    return call


LOADERS = {
    "saved_model": _saved_model,
    "tflite": _tflite,
    "keras": _keras,
    "onnx": _onnx,
}


def _nested(structure, named):
    if isinstance(structure, dict):
        return {key: _nested(part, named) for key, part in structure.items()}
    if isinstance(structure, list):
        return [_nested(part, named) for part in structure]
    return named[structure]


def plain(array: np.ndarray) -> np.ndarray:
    """Converts bfloat16 arrays to float32, because NumPy files do not support them.

    Example:

    >>> plain(np.ones(2, "float32")).dtype.name
    'float32'
    """
    array = np.asarray(array)
    return array.astype("float32") if array.dtype.name == "bfloat16" else array


def compare_times(first: Call, second: Call, named: Named) -> dict[str, Any]:
    """Compares the latency of two calls in pairs, whose order alternates.

    Args:
        first: A function from named inputs.
        second: The function that is compared with it.
        named: Dict from input name to array.

    Returns:
        The latency of the second call relative to the first, as "median" and
        "quartiles" of the pairs, and the "seconds" of both, medians too.

    Example:

    >>> ratio = compare_times(lambda x: time.sleep(0.004), lambda x: None, {})
    >>> ratio["median"] < 1, len(ratio["seconds"])
    (True, 2)
    """
    times = max(1, int(_SECONDS / max(_timed(first, named, 1), 1e-7)))
    rows = []
    for pair in range(_PAIRS):
        order = (0, 1) if pair % 2 == 0 else (1, 0)
        seconds = {one: _timed((first, second)[one], named, times) for one in order}
        rows.append((seconds[0] / times, seconds[1] / times))
    ratios = [b / a for a, b in rows]
    low, median, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    return {
        "median": float(median),
        "quartiles": [float(low), float(high)],
        "seconds": [float(x) for x in np.median(rows, axis=0)],
    }


def _timed(call, named, times):
    begin = time.perf_counter()
    for _ in range(times):
        call(named)
    return time.perf_counter() - begin


def _run(job):
    """Writes the outputs of all artefacts and batches; returns what was measured."""
    with np.load(job["inputs"]) as stored:
        inputs = {name: stored[name] for name in job["names"]}
    load = LOADERS[job["format"]]
    calls = {kind: load(path, job) for kind, path in job["artefacts"].items()}
    outputs: dict[str, np.ndarray] = {}
    ratios: dict[int, dict] = {}
    for batch in job["batches"]:
        rows = {name: array[:batch] for name, array in inputs.items()}
        for kind, call in calls.items():
            arrays = _called(call, rows, job["chunk"] or batch)
            outputs |= {f"{kind}/{batch}/{n}": plain(a) for n, a in arrays.items()}
        if job["time"]:
            ratios[batch] = compare_times(calls["dense"], calls["sparse"], rows)
    np.savez(job["outputs"], **outputs)  # type: ignore[arg-type]
    layers = _layer_errors(job["layers"], inputs) if job.get("layers") else {}
    return {"ratios": ratios, "layers": layers}


def _called(call, named, size):
    """Calls with chunks of a size, the only one that some files accept."""
    count = len(next(iter(named.values())))
    chunks = [
        call({name: array[start : start + size] for name, array in named.items()})
        for start in range(0, count, size)
    ]
    names = chunks[0]
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in names}


def import_modules(modules: list[str], path: list[str]) -> None:
    """Imports the modules that a model needs, as the parent process would.

    Args:
        modules: The names of the modules.
        path: The folders that the parent imports from.

    Example:

    >>> import_modules(["json"], [])
    """
    sys.path += [folder for folder in path if folder not in sys.path]
    for module in modules:
        importlib.import_module(module)


def end_with_parent() -> None:
    """Ends this process soon after the one that started it, even if it is killed.

    Example:

    >>> end_with_parent()
    """
    threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()


def _watch(parent):
    while os.getppid() == parent:
        time.sleep(_NOTICE)
    os._exit(1)


if __name__ == "__main__":
    end_with_parent()
    with open(sys.argv[1], encoding="utf-8") as file:
        job = json.load(file)
    print("MEASURED " + json.dumps(_run(job)))
