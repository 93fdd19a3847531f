"""Compares structures of pruning: ResNet-8 on CIFAR-10, the whole training set.

    KERAS_BACKEND=tensorflow python benchmarks/structures.py --data-dir DIR

dense                ResNet-8 by its recipe, the network that the other runs prune.
narrow               ResNet-8 of width 0.71, with half of the parameters and half of the
                     multiply-adds, trained from scratch by the recipe for as many
                     epochs as the dense network and its pruning together.
unstructured         `GradualPruning` of half of the weights, all ranked together.
unstructured-uniform The same, half of each kernel: half of the multiply-adds too.
unstructured-65      65 % of the weights, for microcontrollers.
unstructured-65-longer
                     The same network, trained on for as many epochs again.
2-4, 4x1             Half in structures; 4x1 blocks are half of each kernel.
channels-params      Channels, until half of the parameters remain.
channels-macs        Channels, until half of the multiply-adds remain.
channels-macs-gamma, channels-macs-snip, channels-macs-random
                     The same by other scores of the units.
channels-75          Channels, until three quarters of the parameters remain.
channels-75-unstructured
                     Half of the single weights of that smaller network.

Each run writes a file into results/structures and is not repeated while that exists.
`--only` and `--seeds` choose runs, `--status` lists what is left. A training resumes
after its last epoch. Pruning runs need the dense network of their seed in `--work`, and
train it first if it is not there. All 50,000 training images are used, and the network
after the last epoch is tested, so the test set selects nothing.
"""

import argparse
import json
import os
import pathlib
import platform
import time
from typing import NamedTuple

import keras
import numpy as np
from cifar10_study import compiled

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
        jit_compile=compiled(width < 1),
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
    return train_from_scratch(options, seed, options.dense_epochs, 1.0)


def narrow(options, seed):
    epochs = options.dense_epochs + options.epochs
    return train_from_scratch(options, seed, epochs, 0.71)


def _path(options, name, seed):
    """Returns the path of the trained network of a run."""
    epochs = options.dense_epochs if name == "dense" else options.epochs
    return options.work / f"{name}-{epochs}-{seed}.keras"


class Pruning(NamedTuple):
    """How a run prunes the dense network, half of it by default.

    Args:
        structure: See `tt.wrap`.
        criterion: See `tt.GradualPruning`.
        allocation: See `tt.GradualPruning`.
        target: See `tt.GradualPruning`.
        sparsity: The sparsity at the end.
        base: The run whose network is pruned, without its dead channels.
    """

    structure: str
    criterion: str = "magnitude"
    allocation: str = "global"
    target: dict | None = None
    sparsity: float = 0.5
    base: str = "dense"

    def __call__(self, options, seed):
        dense_seed = seed if options.dense_seed is None else options.dense_seed
        base_seed = dense_seed if self.base == "dense" else seed
        path = _path(options, self.base, base_seed)
        if not path.exists():
            run(options, self.base, base_seed, again=True)
        train, test = read_data(options)
        model = keras.saving.load_model(path, compile=False)
        again = self.base != "dense"
        if again:
            model, _ = tt.compact(tt.strip(model), return_report=True)
        model = tt.wrap(
            model, structure=self.structure, keep_zeros=again, verbose=False
        )
        batch_size = tt.recipes.recipe("resnet8").batch_size
        steps = -(-len(train[0]) // batch_size)
        model.compile(
            tt.recipes.adamw_with_cosine_decay(steps * options.epochs, 1e-3),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            jit_compile=compiled(again),
        )
        before = model.evaluate(*test, batch_size=500, verbose=0)[1]
        pruning = tt.GradualPruning(
            self.schedule(steps, options.epochs),
            criterion=self.scores(train, seed),
            allocation=self.allocation,
            seed=seed,
            target=self.target,
        )
        log = options.work / f"{self.structure}-{os.getpid()}.json"
        keras.utils.set_random_seed(seed)
        began = time.time()
        model.fit(
            *train,
            batch_size=batch_size,
            epochs=options.epochs,
            callbacks=[pruning, Log(log)],
            verbose=2,
        )
        seconds = time.time() - began
        accuracy = model.evaluate(*test, batch_size=500, verbose=0)[1]
        _, report = tt.compact(model, return_report=True)
        return model, {
            **self._asdict(),
            "sparsity": None if self.target else self.sparsity,
            "epochs_before": options.dense_epochs,
            "epochs": options.epochs,
            "dense_seed": dense_seed,
            "dense_accuracy": before,
            "accuracy": accuracy,
            "final_sparsity": tt.kernels(model).sparsity,
            "dense": report.dense._asdict(),
            "masked": report.masked._asdict(),
            "compact": report.compact._asdict(),
            "widths": {row.path: [row.before, row.after] for row in report.rows},
            "difference": report.difference,
            "seconds": seconds,
            "by_epoch": json.loads(log.read_text()),
        }

    def schedule(self, steps, epochs):
        """Prunes twice an epoch in the first half of the training."""
        return tt.schedules.PolynomialDecay(
            0.0,
            self.sparsity,
            begin_step=1,
            end_step=steps * epochs // 2,
            frequency=steps // 2,
        )

    def scores(self, train, seed):
        if self.criterion != "snip":
            return self.criterion
        x, y = train
        rows = np.random.default_rng(seed).permutation(len(x))[:1000]
        return tt.saliency.SNIP(x[rows], y[rows], batch_size=250)


HALF_OF_MACS = {"macs": 0.5}
RUNS = {
    "dense": dense,
    "narrow": narrow,
    "unstructured": Pruning("unstructured"),
    "unstructured-uniform": Pruning("unstructured", allocation="uniform"),
    "unstructured-65": Pruning("unstructured", sparsity=0.65),
    "unstructured-65-longer": Pruning(
        "unstructured", sparsity=0.65, base="unstructured-65"
    ),
    "2-4": Pruning("2:4"),
    "4x1": Pruning("4x1", allocation="uniform"),
    "channels-params": Pruning("channels", target={"params": 0.5}),
    "channels-macs": Pruning("channels", target=HALF_OF_MACS),
    "channels-75": Pruning("channels", target={"params": 0.75}),
    "channels-75-unstructured": Pruning("unstructured", base="channels-75"),
    **{
        f"channels-macs-{criterion}": Pruning(
            "channels", criterion=criterion, target=HALF_OF_MACS
        )
        for criterion in ("gamma", "snip", "random")
    },
}


def run(options, name, seed, again=False):
    """Runs what has no file yet."""
    path = options.out / f"{name}-{seed}.json"
    if path.exists() and not again:
        return
    model, found = RUNS[name](options, seed)
    model.save(_path(options, name, seed))
    found = {
        "run": name,
        "seed": seed,
        "command": "KERAS_BACKEND="
        f"{keras.config.backend()} python benchmarks/structures.py --data-dir DIR "
        f"--dense-epochs {options.dense_epochs} --epochs {options.epochs}"
        + ("" if options.dense_seed is None else f" --dense-seed {options.dense_seed}"),
        "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}",
        "versions": versions(),
        "training_images": options.take or 50_000,
        **found,
    }
    path.write_text(json.dumps(found, indent=1))
    print(path.name, found["accuracy"], flush=True)


def plot(options, name, seed):
    """Draws the widths of a network without some channels, from `--work`."""
    path = _path(options, name, seed)
    if path.exists() and getattr(RUNS[name], "structure", None) == "channels":
        model = keras.saving.load_model(path, compile=False)
        _, report = tt.compact(model, return_report=True)
        report.plot(options.out / f"{name}-{seed}.png")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", help="folder of tensorflow-datasets")
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--dense-epochs", type=int, default=60)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument(
        "--dense-seed",
        type=int,
        help="prune the dense network of this seed (default: of each seed its own)",
    )
    parser.add_argument("--status", action="store_true", help="list the runs")
    parser.add_argument(
        "--plot", action="store_true", help="only draw the widths of finished runs"
    )
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
    for seed in options.seeds:
        for name in options.only:
            if options.status:
                done = (options.out / f"{name}-{seed}.json").exists()
                print(f"{name}-{seed}", "done" if done else "left")
            elif options.plot:
                plot(options, name, seed)
            else:
                run(options, name, seed)


if __name__ == "__main__":
    main()
