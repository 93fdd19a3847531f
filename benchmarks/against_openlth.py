"""Compares a complete IMP search of LeNet-300-100 on MNIST with OpenLTH.

    git clone https://github.com/facebookresearch/open_lth
    python benchmarks/against_openlth.py open_lth --python VENV/bin/python \
        --data-dir DIR

VENV has PyTorch and torchvision, which OpenLTH requires; this project requires neither.
A pair is one search by each library, in a separate process, timed from start to exit.
The order alternates between pairs. Both searches use the same 60,000 images, SGD with
learning rate 0.1 and batch size 128, and evaluate on the test images after every epoch.
Both prune 20 % of the remaining hidden weights globally per level, rewind to
initialization, and save every level. MNIST is written in OpenLTH's format before the
timing starts, so OpenLTH downloads nothing.
"""

import argparse
import json
import os
import pathlib
import platform
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
RATE = 0.2
BATCH_SIZE = 128
LEARNING_RATE = 0.1
# The splits in the .npz file that holds the images for both libraries.
PARTS = ("train", "test")


def main():
    options = parser().parse_args()
    if options.worker:
        search(options, pathlib.Path(options.worker))
        return
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        write_data(options.data_dir, folder)
        pairs = [pair(options, folder, number) for number in range(options.pairs)]
    out = options.out
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps({**origin(options), "pairs": pairs}, indent=1) + "\n")
    ratios = [found["ratio"] for found in pairs]
    print(f"median ratio {statistics.median(ratios):.2f}; written to {out}")


def parser():
    found = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = found.add_argument
    add("openlth", type=pathlib.Path, help="a checkout of OpenLTH")
    add("--python", required=True, help="an interpreter with PyTorch and torchvision")
    add("--data-dir", help="directory where tensorflow-datasets prepared MNIST")
    add("--levels", type=int, default=5, help="number of pruning rounds")
    add("--epochs", type=int, default=3, help="epochs per level")
    add("--pairs", type=int, default=3, help="number of timed pairs")
    add("--seed", type=int, default=0)
    out = HERE / "results" / "against_openlth.json"
    add("--out", type=pathlib.Path, default=out)
    add("--worker", help=argparse.SUPPRESS)
    return found


# Data for both libraries.


def write_data(data_dir, folder):
    """Writes all training and test images as .npz and as torchvision's files."""
    import numpy as np

    import tf_tickets as tt

    mnist = tt.datasets.load("mnist", data_dir, scaling="unit")
    x = np.concatenate([mnist.x_train, mnist.x_val])
    y = np.concatenate([mnist.y_train, mnist.y_val])
    parts = {"train": (x, y), "test": (mnist.x_test, mnist.y_test)}
    arrays = {}
    raw = folder / "open_lth_datasets" / "mnist" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, (images, labels) in parts.items():
        pixels = np.rint(255.0 * images.reshape(-1, 28, 28)).astype("uint8")
        arrays[f"x_{name}"], arrays[f"y_{name}"] = pixels, labels.astype("uint8")
        prefix = "train" if name == "train" else "t10k"
        write_idx(raw / f"{prefix}-images-idx3-ubyte", pixels)
        write_idx(raw / f"{prefix}-labels-idx1-ubyte", arrays[f"y_{name}"])
    np.savez(folder / "mnist.npz", **arrays)


def write_idx(path, array):
    """Writes a byte array in the IDX format that MNIST is published in."""
    head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(head + array.tobytes())


# The searches.


def pair(options, folder, number):
    """Times one search by each library; the order alternates."""
    runs = {"ours": run_ours, "theirs": run_theirs}
    order = list(runs) if number % 2 == 0 else list(runs)[::-1]
    found = {}
    for who in order:
        begin = time.perf_counter()
        accuracies = runs[who](options, folder)
        found[who] = time.perf_counter() - begin
        found[f"{who}_test_accuracy"] = accuracies()
    found["ratio"] = found["ours"] / found["theirs"]
    print(json.dumps(found), flush=True)
    return found


def run_ours(options, folder):
    """Runs this file as a worker process."""
    shutil.rmtree(folder / "ours", ignore_errors=True)
    arguments = [*sys.argv[1:], "--worker", str(folder)]
    subprocess.run([sys.executable, __file__, *arguments], check=True)
    result = folder / "ours.json"
    return lambda: json.loads(result.read_text())


def search(options, folder):
    """Runs this library's search; called in the worker process."""
    import keras
    import numpy as np

    import tf_tickets as tt

    with np.load(folder / "mnist.npz") as arrays:
        data = [
            (standard(arrays[f"x_{name}"]), arrays[f"y_{name}"].astype("int32"))
            for name in PARTS
        ]

    def build():
        dense = keras.layers.Dense
        hidden = {"activation": "relu", "kernel_initializer": "he_normal"}
        layers = [
            keras.Input((28, 28)),
            keras.layers.Flatten(),
            dense(300, **hidden, name="fc1"),
            dense(100, **hidden, name="fc2"),
            dense(10, kernel_initializer="he_normal", name="output"),
        ]
        model = tt.wrap(keras.Sequential(layers), filters=["fc1", "fc2"], verbose=False)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(LEARNING_RATE), loss, metrics=["accuracy"])
        return model

    imp = tt.IMP(options.levels, options.epochs, RATE, seed=options.seed)
    tickets = tt.find_tickets(
        *(build, data, imp, folder / "ours", options.seed),
        batch_size=BATCH_SIZE,
        verbose=0,
    )
    found = [imp.dense, *(ticket.metrics for ticket in tickets)]
    accuracies = [metrics["val_accuracy"] for metrics in found]
    (folder / "ours.json").write_text(json.dumps(accuracies))


def standard(pixels):
    """Scales pixels as OpenLTH does."""
    return ((pixels.astype("float32") / 255.0) - 0.1307) / 0.3081


def run_theirs(options, folder):
    """Runs OpenLTH with `folder` as HOME, where it looks for its data."""
    results = folder / "open_lth_data"
    shutil.rmtree(results, ignore_errors=True)
    command = [
        *(options.python, "open_lth.py", "lottery"),
        *("--default_hparams=mnist_lenet_300_100", f"--levels={options.levels}"),
        *(f"--training_steps={options.epochs}ep", f"--batch_size={BATCH_SIZE}"),
        *(f"--lr={LEARNING_RATE}", f"--pruning_fraction={RATE}", "--quiet"),
        f"--replicate={options.seed + 1}",
    ]
    subprocess.run(
        command,
        cwd=options.openlth,
        env={**os.environ, "HOME": str(folder)},
        check=True,
    )
    return lambda: logged(results, options.levels)


def logged(results, levels):
    """Reads OpenLTH's last test accuracy of each level from its log files."""
    found = []
    for level in range(levels + 1):
        [path] = results.glob(f"lottery_*/replicate_*/level_{level}/main/logger")
        rows = [line.split(",") for line in path.read_text().splitlines()]
        found.append([float(r[-1]) for r in rows if r[0] == "test_accuracy"][-1])
    return found


def origin(options):
    """Returns what is needed to reproduce the measurement."""
    from tf_tickets.environment import versions

    script = (
        "import torch, torchvision; print(torch.__version__, torchvision.__version__)"
    )
    theirs = subprocess.check_output([options.python, "-c", script], text=True).split()
    commit = subprocess.check_output(
        ["git", "-C", str(options.openlth), "rev-parse", "HEAD"], text=True
    )
    found = versions()
    chosen = f"--levels {options.levels} --epochs {options.epochs}"
    return {
        "command": f"KERAS_BACKEND={found['backend']} python "
        "benchmarks/against_openlth.py open_lth --python VENV/bin/python --data-dir "
        f"DIR {chosen} --pairs {options.pairs} --seed {options.seed}",
        "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}",
        "levels": options.levels,
        "epochs_per_level": options.epochs,
        "seed": options.seed,
        "versions": found,
        "openlth": {
            "commit": commit.strip(),
            **dict(zip(("torch", "torchvision"), theirs, strict=True)),
        },
    }


if __name__ == "__main__":
    main()
