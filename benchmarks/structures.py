"""Compares structures of pruning: ResNet-8 on CIFAR-10, the whole training set.

    KERAS_BACKEND=tensorflow python benchmarks/structures.py --data-dir DIR --only dense

dense     ResNet-8 by its recipe: the network that the other parts prune.
narrow    A narrower ResNet-8 with half of the parameters, trained from scratch for as
          many epochs as the dense and the pruned network together.

Each run writes a file into results/structures and is not repeated while that exists. An
interrupted training resumes after its last epoch. The network after the last epoch is
tested: the test set selects nothing. All 50,000 training images are used.
"""

import argparse
import json
import os
import pathlib
import platform
import time

import keras
import numpy as np

import tf_tickets as tt
from tf_tickets.environment import versions

HERE = pathlib.Path(__file__).parent


def read_data(options):
    data = tt.datasets.load("cifar10", options.data_dir)
    x = np.concatenate([data.x_train, data.x_val])
    y = np.concatenate([data.y_train, data.y_val])
    return (x[: options.take], y[: options.take]), (data.x_test, data.y_test)


def train_from_scratch(options, seed, epochs, width):
    """Trains ResNet-8 by its recipe; returns it and what happened."""
    train, test = read_data(options)
    keras.utils.set_random_seed(seed)
    batch_size = tt.recipes.recipe("resnet8").batch_size
    model = tt.recipes.build(
        "resnet8",
        train[0].shape[1:],
        10,
        steps_per_epoch=-(-len(train[0]) // batch_size),
        epochs=epochs,
        width=width,
        jit_compile=keras.config.backend() != "tensorflow",
    )
    folder = options.work / f"dense-{width}-{epochs}-{seed}"
    done = [
        keras.callbacks.BackupAndRestore(folder / "backup"),
        Log(folder / "epochs.json"),
    ]
    model.fit(
        *train,
        batch_size=batch_size,
        epochs=epochs,
        validation_data=test,
        validation_freq=5,
        validation_batch_size=500,
        callbacks=done,
        verbose=2,
    )
    return model, {
        "width": width,
        "epochs": epochs,
        "batch_size": batch_size,
        "parameters": model.count_params(),
        "accuracy": model.evaluate(*test, batch_size=500, verbose=0)[1],
        "by_epoch": json.loads((folder / "epochs.json").read_text()),
    }


class Log(keras.callbacks.Callback):
    """Appends the metrics and seconds of each epoch to a file, also after a resume."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def on_epoch_begin(self, epoch, logs=None):
        self.wall, self.cpu = time.time(), time.process_time()

    def on_epoch_end(self, epoch, logs=None):
        rows = json.loads(self.path.read_text()) if self.path.exists() else []
        rows = [row for row in rows if row["epoch"] <= epoch]
        rows.append({
            "epoch": epoch + 1,
            **{name: round(float(value), 5) for name, value in (logs or {}).items()},
            "seconds": round(time.time() - self.wall, 1),
            "cpu_seconds": round(time.process_time() - self.cpu, 1),
        })  # fmt: skip
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(rows))


def dense(options, seed):
    model, found = train_from_scratch(options, seed, options.dense_epochs, 1.0)
    model.save(options.work / f"dense-{seed}.keras")
    return found


RUNS = {"dense": dense}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", help="folder of tensorflow-datasets")
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--dense-epochs", type=int, default=60)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--take", type=int, help="use only so many training images")
    parser.add_argument(
        "--work", type=pathlib.Path, default=HERE / "runs" / "structures"
    )
    parser.add_argument(
        "--out", type=pathlib.Path, default=HERE / "results" / "structures"
    )
    options = parser.parse_args()
    for folder in (options.work, options.out):
        folder.mkdir(parents=True, exist_ok=True)
    for name in options.only:
        for seed in options.seeds:
            path = options.out / f"{name}-{seed}.json"
            if path.exists():
                continue
            found = {
                "run": name,
                "seed": seed,
                "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}",
                "versions": versions(),
                **RUNS[name](options, seed),
            }
            path.write_text(json.dumps(found, indent=1))
            print(path.name, found["accuracy"], flush=True)


if __name__ == "__main__":
    main()
