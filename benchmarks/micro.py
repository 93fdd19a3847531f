"""Measures flash and RAM of MLPerf Tiny's models in TensorFlow Lite Micro.

    KERAS_BACKEND=tensorflow python benchmarks/micro.py FOLDER

FOLDER holds the models of the public repository mlcommons/tiny (folder
benchmark/training/*/trained_models, Apache License 2.0).

models  The Keras models, pruned once by the magnitude of single weights, without
        training afterwards: 0, 50, 80 and 90 % zeros among the kernels of convolutions
        and dense layers, depthwise kernels are left alone. Converted to int8, then
        written as a dense file and encoded, with the same options.
files   The int8 files as they were published, also written dense and encoded. Nothing
        is pruned, so predictions stay the same.

TensorFlow Lite Micro runs both files of each row on 8 random inputs: the row is only
written if all outputs and all decoded weights are the same bits. Accuracy is not
measured here. "tensors" and "arena" are the bytes that the interpreter reports, on this
computer.

Every row is written at once. Rows that exist are not measured again, so a run may be
interrupted.
"""

import argparse
import json
import os
import pathlib
import platform
import tempfile

import numpy as np

import tf_tickets as tt
from tf_tickets import wrapping
from tf_tickets.environment import versions
from tf_tickets.exporting.micro import decoder, interpreter, micro_file
from tf_tickets.exporting.tflite import converter, file
from tf_tickets.wrapping import signature

HERE = pathlib.Path(__file__).parent
SPARSITIES = (0.0, 0.5, 0.8, 0.9)
_CALIBRATION, _ROWS = 50, 8
# The files of each model, and the range of its inputs.
MODELS = {
    "resnet8": ("pretrainedResnet.h5", (0.0, 255.0)),
    "autoencoder": ("ad01.h5", (-40.0, 0.0)),
    "vww": ("vww_96.h5", (0.0, 1.0)),
    "wakeword": ("str_ww_ref_model.h5", (0.0, 1.0)),
}
FILES = (
    "pretrainedResnet_quant.tflite",
    "pretrainedResnet_large_int8.tflite",
    "ad01_int8.tflite",
    "vww_96_int8.tflite",
    "kws_ref_model.tflite",
    "str_ww_ref_model.tflite",
)
OPTIONS = {
    "names kept": tt.MicroOptions(),
    "names dropped": tt.MicroOptions(names=False),
}
# The autoencoder has dense layers only, whose arena grows most.
FURTHER = {
    "autoencoder": {
        "names dropped, max_ram=36,000": tt.MicroOptions(names=False, max_ram=36_000),
        "names dropped, per-tensor dense": tt.MicroOptions(
            names=False, per_tensor_dense=True
        ),
    },
}


def options_of(name):
    return {**OPTIONS, **FURTHER.get(name, {})}


def pruned(model, sparsity):
    """Returns the model without the smallest weights of all kernels together."""
    model = tt.wrap(model, verbose=False)
    kernels = wrapping.kernels(model)
    values = {path: np.abs(v) for path, v in kernels.weights.items()}
    sizes = np.concatenate([v.ravel() for v in values.values()])
    limit = np.quantile(sizes, sparsity) if sparsity else -1.0
    kernels.set_masks({path: v > limit for path, v in values.items()})
    return tt.strip(model)


def converted(model, inputs, per_tensor_dense):
    """Returns the int8 file that TensorFlow's converter writes."""
    takes = converter.one_by_one(signature.of_model(model))
    (spec,) = takes.inputs
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "a.tflite"
        order = converter.Conversion(path, "int8", True, per_tensor_dense)
        # Without a process of its own, which would import TensorFlow each time.
        inputs = {spec.name: inputs}
        converter.write(model, takes, [order], inputs, isolated=False)
        return path.read_bytes()


def measured(content, options, inputs):
    """Returns sizes and RAM of the dense and the encoded file, or raises."""
    dense, encoded = micro_file.encoded_pair(content, options)
    files = {"dense": dense.content, "encoded": encoded.content}
    runs = interpreter.run(files, [inputs])
    interpreter.check_equal(runs["dense"], runs["encoded"])
    kernels = [w for w in decoder.weights(dense.content) if w.ndim > 1]
    zeros = sum(int((w == 0).sum()) for w in kernels)
    return {
        "zeros": zeros / sum(w.size for w in kernels),
        "encoded": sum(row.encoding == "decode" for row in encoded.rows),
        "tensors": len(encoded.rows),
        "flash": {name: len(part) for name, part in files.items()},
        "predicted": {"dense": encoded.arena_before, "encoded": encoded.arena_after},
        "measured": {
            name: {"tensors": run.tensors, "arena": run.arena}
            for name, run in runs.items()
        },
        "identical": True,
    }


def model_rows(folder, done):
    for name, (file_name, (low, high)) in MODELS.items():
        for sparsity in SPARSITIES:
            keys = {text: ["models", name, sparsity, text] for text in options_of(name)}
            if all(key in done for key in keys.values()):
                continue
            model = pruned(tt.tfmot.load_legacy(folder / file_name), sparsity)
            rng = np.random.default_rng(0)
            shape = (_CALIBRATION, *model.input_shape[1:])
            inputs = rng.uniform(low, high, shape).astype("float32")
            contents = {}
            for text, options in options_of(name).items():
                if keys[text] in done:
                    continue
                way = options.per_tensor_dense
                if way not in contents:
                    contents[way] = converted(model, inputs, way)
                row = measured(contents[way], options, inputs[:_ROWS])
                yield {"key": keys[text], "file": file_name, **row}


def file_rows(folder, done):
    for name in FILES:
        content = (folder / name).read_bytes()
        graph = file.read(content).subgraphs[0]
        shape = [int(size) for size in graph.tensors[graph.inputs[0]].shape]
        rng = np.random.default_rng(0)
        inputs = rng.integers(-128, 128, (_ROWS, *shape[1:])).astype("int8")
        for text in ("names kept", "names dropped"):
            key = ["files", name, None, text]
            if key not in done:
                row = measured(content, OPTIONS[text], inputs)
                yield {"key": key, "file": name, "published": len(content), **row}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    out = HERE / "results" / "micro" / "mlperf_tiny.json"
    parser.add_argument("--out", type=pathlib.Path, default=out)
    options = parser.parse_args()
    found = {
        "command": "python benchmarks/micro.py FOLDER",
        "backend": "tensorflow",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": versions(),
        # Bytes of the code that decodes kernels, on x86-64 with -Os.
        "decoder_code": micro_file.DECODER_CODE,
        "rows": [],
    }
    if options.out.exists():
        found |= json.loads(options.out.read_text("utf-8"))
    done = [row["key"] for row in found["rows"]]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for rows in (file_rows, model_rows):
        for row in rows(options.folder, done):
            print(json.dumps(row), flush=True)
            found["rows"].append(row)
            save(found, options.out)
    save(found, options.out)


def save(found, path):
    draft = path.with_suffix(".part")
    draft.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    os.replace(draft, path)


if __name__ == "__main__":
    main()
