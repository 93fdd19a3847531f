"""Flash, RAM and accuracy of pruned ResNet-8 networks on a microcontroller.

    KERAS_BACKEND=tensorflow python benchmarks/micro_resnet8.py --data-dir DIR

The networks are those that benchmarks/structures.py has kept in its `--work` folder:
dense, without single weights, without channels, and without both. Each is exported for
TensorFlow Lite Micro in int8, calibrated on 500 training images, and run there beside
its dense form. The accuracy of the 8-bit network is that of LiteRT on the 10,000 test
images, with the same weights and scales.
"""

import argparse
import json
import os
import pathlib
import platform
import tempfile

import keras
import numpy as np

import tf_tickets as tt
from tf_tickets.environment import versions

HERE = pathlib.Path(__file__).parent
RUNS = (
    "dense",
    "unstructured",
    "unstructured-65",
    "unstructured-65-longer",
    "channels-params",
    "channels-75",
    "channels-75-unstructured",
    "narrow",
)
CALIBRATION = 500
BATCH = 100


def accuracy_in_litert(path, x, y):
    """Returns the accuracy of a `.tflite` file with float inputs and outputs."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    (taken,), (given,) = (
        interpreter.get_input_details(),
        interpreter.get_output_details(),
    )
    interpreter.resize_tensor_input(taken["index"], (BATCH, *x.shape[1:]))
    interpreter.allocate_tensors()
    right = 0
    for start in range(0, len(x), BATCH):
        interpreter.set_tensor(taken["index"], x[start : start + BATCH])
        interpreter.invoke()
        found = interpreter.get_tensor(given["index"]).argmax(-1)
        right += int(np.sum(found == y[start : start + BATCH]))
    return right / len(x)


def plain(path):
    """Returns the smallest plain model with the predictions of a kept network."""
    model = keras.saving.load_model(path, compile=False)
    small, report = tt.compact(model, return_report=True)
    return small, report.compact._asdict()


def measured(path, data, calibration):
    model, costs = plain(path)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(loss=loss, metrics=["accuracy"])
    test = data.x_test, data.y_test
    row = {"costs": costs, "float32": model.evaluate(*test, verbose=0)[1]}
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        litert = folder / "litert.tflite"
        tt.export(model, litert, precision="int8", data=calibration, verify=False)
        row["int8"] = accuracy_in_litert(litert, *test)
        for names in (True, False):
            report = tt.export(
                model,
                folder / f"micro-{names}.tflite",
                "tflite-micro",
                data=calibration,
                micro=tt.MicroOptions(names=names),
                tolerance=1.0,
            )
            row["with names" if names else "without names"] = {
                "dense": report.sizes["dense"],
                "encoded": report.sizes["sparse"],
                "arena": report.arena,
                "sparsity": report.sparsity,
                "remarks": report.remarks,
            }
    return row


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", help="folder of tensorflow-datasets")
    parser.add_argument("--dense-epochs", type=int, default=60)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--work", type=pathlib.Path, default=HERE / "runs" / "structures"
    )
    parser.add_argument(
        "--out", type=pathlib.Path, default=HERE / "results" / "micro" / "resnet8.json"
    )
    options = parser.parse_args()
    data = tt.datasets.load("cifar10", options.data_dir)
    drawn = np.random.default_rng(0).permutation(len(data.x_train))[:CALIBRATION]
    rows = json.loads(options.out.read_text())["rows"] if options.out.exists() else {}
    for name in RUNS:
        epochs = options.dense_epochs if name == "dense" else options.epochs
        path = options.work / f"{name}-{epochs}-{options.seed}.keras"
        if name in rows or not path.exists():
            continue
        rows[name] = measured(path, data, data.x_train[drawn])
        print(name, rows[name], flush=True)
        found = {
            "command": "KERAS_BACKEND=tensorflow python benchmarks/micro_resnet8.py "
            "--data-dir DIR",
            "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}",
            "versions": versions(),
            "seed": options.seed,
            "rows": rows,
        }
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
