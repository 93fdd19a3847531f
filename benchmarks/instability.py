"""Instability analysis: where do networks become stable to the order of the data?

    KERAS_BACKEND=jax python benchmarks/instability.py mnist1d
    KERAS_BACKEND=tensorflow python benchmarks/instability.py resnet8 --data-dir DIR
    python benchmarks/instability.py pictures

mnist1d  An MLP 40-100-100-10 on MNIST-1D, rewound to 0 to 20 of 40 epochs: the dense
         network, tickets of IMP that keep a fifth of its weights, each rewound to the
         same point, and random masks of the same size.
resnet8  ResNet-8 on CIFAR-10 by its recipe in 10 epochs, all 50,000 training images,
         rewound to 0 and to 2 epochs.
pictures Draws the lines of all runs that are there.

Each run writes a file into results/instability, and is not repeated while that exists.
Trainings are stored in `--work` after every epoch, and resume there. `--only` chooses
runs by the beginnings of their names, and `--status` lists them.
"""

import argparse
import json
import os
import pathlib
import platform
import time
from datetime import UTC, datetime

import keras
import numpy as np

import tf_tickets as tt
from tf_tickets.environment import versions
from tf_tickets.reports import plots

HERE = pathlib.Path(__file__).resolve().parent
RESULTS = HERE / "results" / "instability"

MLP = {"epochs": 40, "batch_size": 100, "rate": 0.1, "momentum": 0.9}
POINTS_OF_DENSE = (0, 1, 2, 4, 8, 12, 20)
POINTS_OF_TICKETS = (0, 2, 8)
# 1 - 0.415 three times: a fifth of the weights.
ROUNDS, RATE = 3, 0.415
SEEDS = range(5)
DATA = {"mnist1d": "mnist1d", "resnet8": "cifar10"}
RESNET_EPOCHS, RESNET_POINTS = 10, (0, 2)


def build_mlp():
    data = tt.datasets.load("mnist1d")
    steps = MLP["epochs"] * (len(data.x_train) // MLP["batch_size"])
    decay = keras.optimizers.schedules.CosineDecay(MLP["rate"], steps)
    model = keras.Sequential(
        [
            keras.Input((40, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(100, activation="relu", name="first"),
            keras.layers.Dense(100, activation="relu", name="second"),
            keras.layers.Dense(10, name="output"),
        ]
    )
    model.compile(
        keras.optimizers.SGD(decay, momentum=MLP["momentum"]),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=keras.config.backend() == "jax",
    )
    return model


def analyse_mlp(work, seed, **kwargs):
    """Returns the results on test and on training data."""
    return [
        tt.analysis.instability(
            build_mlp,
            tt.datasets.load("mnist1d"),
            work,
            seed,
            epochs=MLP["epochs"],
            batch_size=MLP["batch_size"],
            points=21,
            part=part,
            **kwargs,
        )
        for part in ("test", "train")
    ]


def dense(options, seed):
    work = options.work / f"mnist1d-dense-{seed}"
    return analyse_mlp(work, seed, rewind_to=POINTS_OF_DENSE)


def tickets(options, seed, control=None):
    """Tickets of IMP, each rewound to the point at which copies of it are made."""
    results = []
    for count in POINTS_OF_TICKETS:
        search = tt.IMP(
            ROUNDS,
            MLP["epochs"],
            RATE,
            rewind_to=f"{count} epochs" if count else "init",
        )
        folder = options.work / f"mnist1d-imp-{seed}" / str(count)
        found = tt.find_tickets(
            build_mlp,
            tt.datasets.load("mnist1d"),
            search,
            folder,
            seed,
            batch_size=MLP["batch_size"],
            verbose=0,
        )
        ticket = found[-1] if control is None else control(found[-1], seed)
        name = "imp" if control is None else "random"
        work = options.work / f"mnist1d-{name}-lines-{seed}" / str(count)
        results.append(analyse_mlp(work, seed, ticket=ticket))
    return [tt.analysis.Instability.join(part) for part in zip(*results, strict=True)]


def random_masks(options, seed):
    return tickets(options, seed, tt.controls.shuffle_masks)


def resnet8(options, seed, count, statistics="interpolated"):
    data = tt.datasets.load("cifar10", options.data_dir)
    x = np.concatenate([data.x_train, data.x_val])
    y = np.concatenate([data.y_train, data.y_val])
    test = data.x_test, data.y_test
    # Keras evaluates after every epoch, which selects nothing here: a few images do.
    few = data.x_test[:512], data.y_test[:512]
    recipe = tt.recipes.recipe("resnet8")

    def build():
        return tt.recipes.build(
            "resnet8",
            x.shape[1:],
            10,
            steps_per_epoch=len(x) // recipe.batch_size,
            epochs=RESNET_EPOCHS,
            jit_compile=keras.config.backend() != "tensorflow",
        )

    result = tt.analysis.instability(
        build,
        tt.TrainingData((x, y), few, test, name="cifar10"),
        options.work / f"resnet8-{seed}",
        seed,
        epochs=RESNET_EPOCHS,
        rewind_to=count,
        batch_size=recipe.batch_size,
        points=21,
        batch_statistics=statistics,
        watch=lambda name: [Say(name)],
    )
    return [result]


class Say(keras.callbacks.Callback):
    """Prints a line after each epoch."""

    def __init__(self, name):
        super().__init__()
        self.name = name

    def on_epoch_begin(self, epoch, logs=None):
        self.cpu = time.process_time()

    def on_epoch_end(self, epoch, logs=None):
        cpu = time.process_time() - self.cpu
        accuracy = (logs or {})["accuracy"]
        print(f"{self.name} epoch {epoch + 1}: {accuracy:.4f}, {cpu:.0f} s", flush=True)


def runs(options):
    """Returns a dict from the name of a run to a function that returns its results."""
    found = {}
    if options.what == "mnist1d":
        for name, function in {
            "dense": dense,
            "imp": tickets,
            "random": random_masks,
        }.items():
            for seed in SEEDS:
                found[f"mnist1d-{name}-{seed}"] = (function, (seed,))
        return found
    for count in RESNET_POINTS:
        for statistics in ("interpolated", "recomputed"):
            found[f"resnet8-{count}-{statistics}-0"] = resnet8, (0, count, statistics)
    return found


def draw():
    """Draws the lines of all seeds of each kind of run, by part of the data."""
    found = {}
    for file in sorted(RESULTS.glob("*.json")):
        content = json.loads(file.read_text())
        kind = file.stem.rpartition("-")[0]
        if content["what"] == "resnet8":
            kind = f"resnet8-{content['batch_statistics']}"
        for part, lines in content["lines"].items():
            for row in lines:
                line = tt.analysis.Line(**row)
                found.setdefault((kind, part), []).append(line)
    for (kind, part), lines in found.items():
        lines.sort(key=lambda line: int(line.rewind_to.replace("init", "0").split()[0]))
        errors, instability = {}, {}
        for line in lines:
            errors.setdefault(line.rewind_to, []).append(line.errors)
            instability.setdefault(line.rewind_to, []).append(line.instability)
        plots.plot_lines(
            lines[0].positions,
            errors,
            instability,
            RESULTS / f"{kind}-{part}.png",
            TITLES[kind],
            error=f"error, {PARTS[part]} data",
        )


TITLES = {
    "mnist1d-dense": "MLP on MNIST-1D",
    "mnist1d-imp": "Tickets of IMP on MNIST-1D",
    "mnist1d-random": "Random masks on MNIST-1D",
    "resnet8-interpolated": "ResNet-8, statistics interpolated",
    "resnet8-recomputed": "ResNet-8, statistics recomputed",
}
PARTS = {"train": "training", "test": "test"}


def main():
    options = parser().parse_args()
    if options.what == "pictures":
        draw()
        return
    table = runs(options)
    if options.only:
        table = {n: r for n, r in table.items() if n.startswith(tuple(options.only))}
    for name, (function, arguments) in table.items():
        out = RESULTS / f"{name}.json"
        if options.status or out.exists():
            print(name, "done" if out.exists() else "left", flush=True)
            continue
        wall, cpu = time.time(), time.process_time()
        results = function(options, *arguments)
        result = results[0]
        content = {
            "name": name,
            "what": options.what,
            "command": f"python benchmarks/instability.py {options.what}"
            + (" --data-dir DIR" if options.what == "resnet8" else ""),
            "settings": MLP if options.what == "mnist1d" else {"epochs": RESNET_EPOCHS},
            # The whole test set.
            "test_examples": len(
                tt.datasets.load(DATA[options.what], options.data_dir).x_test
            ),
            "lines": {
                each.part: [vars(line) for line in each.lines] for each in results
            },
            "metric": result.metric,
            "batch_statistics": result.batch_statistics,
            "provenance": result.provenance,
            "seconds": round(time.time() - wall, 1),
            "cpu_seconds": round(time.process_time() - cpu, 1),
            "versions": versions(),
            "machine": {"system": platform.platform(), "cores": os.cpu_count()},
            "threads": os.environ.get("OMP_NUM_THREADS", "all"),
            "date": datetime.now(UTC).date().isoformat(),
        }
        RESULTS.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(content, indent=1) + "\n")
        for each in results:
            print(each, flush=True)


def parser():
    found = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = found.add_argument
    add("what", choices=("mnist1d", "resnet8", "pictures"))
    add("--data-dir", help="where tensorflow-datasets has prepared CIFAR-10")
    work = HERE.parent / "build" / "instability"
    add("--work", type=pathlib.Path, default=work, help="where trainings are stored")
    add("--only", nargs="+", help="beginnings of the names of runs")
    add("--status", action="store_true", help="list the runs")
    return found


if __name__ == "__main__":
    main()
