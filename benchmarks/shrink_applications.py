"""Removes random units from all models of keras.applications, and compares.

    KERAS_BACKEND=tensorflow python benchmarks/shrink_applications.py

A model gets random weights and loses a random 30 % of its units, at least one being
kept on every axis. Measured are the largest difference between the model with masks and
the smaller model, relative to the largest output ("error"), and that between masked and
dense ("change"), which shows that the comparison is not trivial. Some models are
compared in float64 too. The smaller model is saved, loaded and trained for a step.

The JSON file is written after every model. Models that are in the file are not run
again, unless `--again` is given.
"""

import argparse
import gc
import json
import math
import os
import pathlib
import platform
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "tests"))
BACKEND = os.environ.get("KERAS_BACKEND", "tensorflow")
COMMAND = f"KERAS_BACKEND={BACKEND} python benchmarks/shrink_applications.py"
FLOAT64 = (
    *("ConvNeXtTiny", "DenseNet121", "EfficientNetB0", "EfficientNetV2B0"),
    *("InceptionV3", "MobileNet", "MobileNetV2", "MobileNetV3Large"),
    *("MobileNetV3Small", "NASNetMobile", "ResNet50", "ResNet50V2", "Xception"),
)


def measure(name, seed):
    """Returns what was measured for a model."""
    import keras
    from shrinking import compare
    from zoo import all_applications

    from tf_tickets.reports.flops import UseCounter

    def macs(model):
        uses = UseCounter(model).uses
        counts = [(uses.get(id(v)), math.prod(v.shape)) for v in model.variables]
        return sum(times * size for times, size in counts if times)

    began = time.perf_counter()
    model = all_applications.build(name)
    row = {"model": name, "parameters": model.count_params()}
    full = macs(model)
    small, measured = compare(model, seed)
    row |= measured | {"macs": macs(small) / full}
    del model
    gc.collect()
    row |= round_trip(small, seed) | {"loss": train(small, seed)}
    del small
    keras.utils.clear_session()
    gc.collect()
    if name in FLOAT64:
        row["error_float64"] = in_float64(name, seed)
    return row | {"seconds": time.perf_counter() - began}


def round_trip(small, seed):
    """Returns the largest relative difference after saving and loading."""
    import keras
    import numpy as np
    from shrinking import distance, examples, predictions

    x = examples(small, np.random.default_rng(seed))
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "small.keras"
        small.save(path)
        loaded = keras.models.load_model(path)
    error = distance(predictions(small, x), predictions(loaded, x))
    return {"error_loaded": error}


def train(small, seed):
    """Returns the loss of a training step, of four examples."""
    import keras
    import numpy as np
    from shrinking import examples

    rng = np.random.default_rng(seed)
    x = examples(small, rng, count=4)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    sgd = keras.optimizers.SGD(1e-3)
    eager = BACKEND == "tensorflow"
    small.compile(sgd, loss, run_eagerly=eager, jit_compile=not eager)
    return float(small.train_on_batch(x, np.arange(4) % 10))


def in_float64(name, seed):
    """Returns the error of a model whose weights are float64."""
    import keras
    from shrinking import compare
    from zoo import all_applications

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    try:
        return compare(all_applications.build(name), seed)[1]["error"]
    finally:
        keras.config.set_dtype_policy(before)
        keras.utils.clear_session()
        gc.collect()


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", help="names (default: all 40)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--again", action="store_true", help="run all models again")
    parser.add_argument("--out", type=pathlib.Path, help="output file")
    options = parser.parse_args()
    out = options.out or HERE / "results" / f"shrink_applications_{BACKEND}.json"
    from zoo.all_applications import NAMES

    from tf_tickets.environment import versions

    rows = {}
    if out.exists() and not options.again:
        rows = {row["model"]: row for row in json.loads(out.read_text())["rows"]}
    for name in options.models or NAMES:
        if name not in rows:
            rows[name] = measure(name, options.seed)
            print(json.dumps(rows[name]), flush=True)
            found = {
                "command": COMMAND,
                "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}",
                "versions": versions(),
                "rows": [rows[key] for key in sorted(rows)],
            }
            out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
