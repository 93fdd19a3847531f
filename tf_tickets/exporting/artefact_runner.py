"""Runs exported models as their users do: in a process that knows nothing else.

    python running.py JOB.json

This file imports no other of the package. The job names the artefacts, their format,
the inputs and where to write the outputs; see `checking`.
"""

import importlib
import json
import sys
import time

import numpy as np

_PAIRS = 11
_SECONDS = 0.02


# Each loader gives a function from named inputs to named outputs.


def _saved_model(path, job):
    import tensorflow as tf

    loaded = tf.saved_model.load(path)
    serve = loaded.signatures["serving_default"]

    def call(named, loaded=loaded):
        # The signature does not keep what it belongs to: `loaded` does.
        found = serve(**{name: tf.constant(x) for name, x in named.items()})
        return {name: tensor.numpy() for name, tensor in found.items()}

    return call


def _tflite(path, job):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(path, num_threads=1)
    run = interpreter.get_signature_runner("serving_default")
    return lambda named: run(**named)


def _keras(path, job):
    import keras

    if job["trainable"]:
        # Its layers are in the file.
        importlib.import_module("tf_tickets")
    # What is to be trained on was compiled with what may not be at hand here.
    model = keras.saving.load_model(path, compile=not job["trainable"])

    def call(named):
        return _named(_numbers(model(_nested(job["nest"], named), training=False)))

    def _numbers(outputs):
        return keras.tree.map_structure(keras.ops.convert_to_numpy, outputs)

    def _named(outputs):
        if isinstance(outputs, dict):
            return outputs
        flat = keras.tree.flatten(outputs)
        return {f"output_{place}": array for place, array in enumerate(flat)}

    return call


def _onnx(path, job):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options)
    names = [output.name for output in session.get_outputs()]
    given = [one.name for one in session.get_inputs()]

    def call(named):
        found = session.run(None, dict(zip(given, named.values(), strict=True)))
        return dict(zip(names, found, strict=True))

    return call


LOADERS = {
    "saved_model": _saved_model,
    "tflite": _tflite,
    "keras": _keras,
    "onnx": _onnx,
}


def _nested(nest, named):
    if isinstance(nest, dict):
        return {key: _nested(one, named) for key, one in nest.items()}
    if isinstance(nest, list):
        return [_nested(one, named) for one in nest]
    return named[nest]


def plain(array: np.ndarray) -> np.ndarray:
    """As NumPy keeps it in files, which do not know bfloat16.

    Example:

    >>> plain(np.ones(2, "float32")).dtype.name
    'float32'
    """
    array = np.asarray(array)
    return array.astype("float32") if array.dtype.name == "bfloat16" else array


def _compare_times(first, second, named):
    """Ratios of the second's time to the first's, taken in turns."""
    times = max(1, int(_SECONDS / max(_timed(first, named, 1), 1e-7)))
    ratios = []
    for pair in range(_PAIRS):
        order = (first, second) if pair % 2 == 0 else (second, first)
        seconds = {call: _timed(call, named, times) for call in order}
        ratios.append(seconds[second] / seconds[first])
    low, median, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    return {"median": float(median), "quartiles": [float(low), float(high)]}


def _timed(call, named, times):
    begin = time.perf_counter()
    for _ in range(times):
        call(named)
    return time.perf_counter() - begin


def _run(job):
    """Outputs of all artefacts for all batches, and how their times compare."""
    with np.load(job["inputs"]) as kept:
        inputs = {name: kept[name] for name in job["names"]}
    load = LOADERS[job["format"]]
    calls = {kind: load(path, job) for kind, path in job["artefacts"].items()}
    outputs: dict[str, np.ndarray] = {}
    ratios: dict[int, dict] = {}
    for batch in job["batches"]:
        rows = {name: array[:batch] for name, array in inputs.items()}
        for kind, call in calls.items():
            found = call(rows)
            outputs |= {f"{kind}/{batch}/{n}": plain(a) for n, a in found.items()}
        if job["time"]:
            ratios[batch] = _compare_times(calls["dense"], calls["sparse"], rows)
    np.savez(job["outputs"], **outputs)  # type: ignore[arg-type]
    return ratios


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        described = json.load(file)
    print("RATIOS " + json.dumps(_run(described)))
