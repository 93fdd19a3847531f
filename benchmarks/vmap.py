"""Times trainings of K networks in one program against one after the other, on JAX.

    KERAS_BACKEND=jax python benchmarks/vmap.py

For each network and each K, both ways train K networks with masks for `--epochs`
epochs, in turn, `--pairs` times, after a first time that compiles. Seconds are per
epoch and network, with the validation, as medians; a ratio is that of one pair. Data
are random numbers: 784 inputs and batches of 128 for "lenet300 mnist", the shape of the
digits and batches of 32 for the others. Results: `benchmarks/results/vmap/cpu.json`.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import statistics
import sys
import time

import keras
import numpy as np

import tf_tickets as tt
from tf_tickets.environment import versions
from tf_tickets.search import lockstep
from tf_tickets.training import batches

ROOT = pathlib.Path(__file__).resolve().parent.parent
# From a name to the shape of an example, rows, batch size and whether it is a CNN.
NETWORKS = {
    "lenet300 digits": ((64,), 1024, 32, False),
    "lenet300 mnist": ((784,), 4096, 128, False),
    "cnn digits": ((8, 8, 1), 1024, 32, True),
}
# The evaluation of arrays in searches.
EVALUATED = 512


def build(shape, is_cnn, seed):
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    found = [layers.Dense(300, "relu"), layers.Dense(100, "relu"), layers.Dense(10)]
    if is_cnn:
        found = [
            layers.Conv2D(16, 3, padding="same", activation="relu"),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(10),
        ]
    model = keras.Sequential([keras.Input(shape), *found])
    model = tt.wrap(model, verbose=False)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"])
    return model


def measured(name, count, options):
    """Returns the times of both ways for some networks."""
    shape, rows, batch_size, is_cnn = NETWORKS[name]
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, *shape)).astype("float32")
    y = rng.integers(0, 10, rows)
    validation = x[:EVALUATED], y[:EVALUATED]
    alone = [build(shape, is_cnn, seed) for seed in range(count)]
    together = [build(shape, is_cnn, seed) for seed in range(count)]
    group = lockstep.Group()

    def one_after_the_other(epochs):
        for seed, model in enumerate(alone):
            model.fit(
                batches.feed((x, y), batch_size, lambda seed=seed: (seed, 1)),
                epochs=epochs,
                validation_data=validation,
                validation_batch_size=EVALUATED,
                shuffle=False,
                verbose=0,
            )

    def in_one_program(epochs):
        def function(seed):
            return lambda: lockstep.present().fit(
                together[seed],
                (x, y),
                batch_size,
                lambda: (seed, 1),
                validation,
                EVALUATED,
                [],
                epochs,
            )

        results = group.run([function(seed) for seed in range(count)])
        failures = [each for each in results if isinstance(each, BaseException)]
        if failures:
            raise failures[0]

    ways = {"alone": one_after_the_other, "together": in_one_program}
    first = {way: seconds(run, 1) for way, run in ways.items()}
    difference = max(map(difference_of, alone, together))
    times = {way: [] for way in ways}
    for _ in range(options.pairs):
        for way, run in ways.items():
            times[way].append(seconds(run, options.epochs) / options.epochs / count)
    ratios = [a / b for a, b in zip(times["alone"], times["together"], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {
        "network": name,
        "networks": count,
        "first_epoch_seconds": first,
        "difference_after_first_epoch": difference,
        "seconds": {way: statistics.median(each) for way, each in times.items()},
        "gain": middle,
        "gain_quartiles": [low, high],
    }


def difference_of(one, other):
    """Returns the largest difference of the weights of two models."""
    pairs = zip(one.trainable_weights, other.trainable_weights, strict=True)
    arrays = [map(keras.ops.convert_to_numpy, pair) for pair in pairs]
    return max(float(np.abs(left - right).max()) for left, right in arrays)


def seconds(run, epochs):
    began = time.perf_counter()
    run(epochs)
    return time.perf_counter() - began


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=[*NETWORKS])
    parser.add_argument("--counts", nargs="+", type=int, default=[1, 4, 8])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=7, help="at least 2")
    default = ROOT / "benchmarks/results/vmap/cpu.json"
    parser.add_argument("--out", type=pathlib.Path, default=default)
    options = parser.parse_args()
    rows = [
        measured(name, count, options)
        for name in options.networks
        for count in options.counts
    ]
    words = " ".join(["python benchmarks/vmap.py", *sys.argv[1:]])
    content = {
        "command": words.partition(" --out")[0],
        "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}",
        "versions": versions(),
        "date": datetime.date.today().isoformat(),
        "epochs": options.epochs,
        "pairs": options.pairs,
        "rows": rows,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(content, indent=1) + "\n")
    print(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
