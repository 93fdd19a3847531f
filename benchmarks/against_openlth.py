"""A whole IMP search of LeNet-300-100 on MNIST, here and in OpenLTH.

    git clone https://github.com/facebookresearch/open_lth
    python benchmarks/against_openlth.py open_lth --python VENV/bin/python \
        --data-dir DIR

VENV has PyTorch and torchvision, which OpenLTH needs; this project needs neither. With
PyTorch 2 and NumPy 2 OpenLTH (2ce732f) must be changed in two lines; the page of the
results says how, and the JSON file keeps the changes. A pair is one search of each, in
a process of its own, timed from its start to its end; which of the two is first
alternates. Both train on the same 60,000 images with SGD 0.1 and batch size 128,
evaluate on the test images after every epoch, prune 20 % of the hidden weights globally
a level, rewind to initialization, and keep every level on disk.
MNIST is written for OpenLTH before the clock starts, so that it downloads nothing.
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
# What tells the rows of a .npz apart that both sides read the same images from.
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
    add("--data-dir", help="where tensorflow-datasets has prepared MNIST")
    add("--levels", type=int, default=5, help="how many times to prune")
    add("--epochs", type=int, default=3, help="epochs a level")
    add("--pairs", type=int, default=3)
    add("--seed", type=int, default=0)
    out = HERE / "results" / "against_openlth.json"
    add("--out", type=pathlib.Path, default=out)
    add("--worker", help=argparse.SUPPRESS)
    return found


# The data, for both.


def write_data(data_dir, folder):
    """All training images and the test images: an .npz, and torchvision's files."""
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
    """An array of bytes in the format in which MNIST is published."""
    head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(head + array.tobytes())


# The searches.


def pair(options, folder, number):
    """One search of each; which of them is first alternates."""
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
    """Runs this file once more as a worker."""
    shutil.rmtree(folder / "ours", ignore_errors=True)
    arguments = [*sys.argv[1:], "--worker", str(folder)]
    subprocess.run([sys.executable, __file__, *arguments], check=True)
    result = folder / "ours.json"
    return lambda: json.loads(result.read_text())


def search(options, folder):
    """The search of this library, as a process of its own."""
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
    """As OpenLTH scales them."""
    return ((pixels.astype("float32") / 255.0) - 0.1307) / 0.3081


def run_theirs(options, folder):
    """Runs OpenLTH with its home in the folder, where it finds its data."""
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
    """OpenLTH's last test accuracy of each level, out of its log files."""
    found = []
    for level in range(levels + 1):
        [path] = results.glob(f"lottery_*/replicate_*/level_{level}/main/logger")
        rows = [line.split(",") for line in path.read_text().splitlines()]
        found.append([float(r[-1]) for r in rows if r[0] == "test_accuracy"][-1])
    return found


def origin(options):
    """What is needed to take the figures again."""
    from tf_tickets.environment import versions

    script = (
        "import torch, torchvision; print(torch.__version__, torchvision.__version__)"
    )
    theirs = subprocess.check_output([options.python, "-c", script], text=True).split()
    git = ["git", "-C", str(options.openlth)]
    commit = subprocess.check_output([*git, "rev-parse", "HEAD"], text=True)
    changes = subprocess.check_output([*git, "diff", "-U0"], text=True)
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
            "changes": changes.splitlines(),
            **dict(zip(("torch", "torchvision"), theirs, strict=True)),
        },
    }


if __name__ == "__main__":
    main()
