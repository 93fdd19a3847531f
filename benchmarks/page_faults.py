"""Counts the page faults of a training step on TensorFlow, by what feeds `fit`.

    KERAS_BACKEND=tensorflow python benchmarks/page_faults.py

LeNet-300-100 in batches of 128, SGD, images of random numbers. Each kind runs in a
process of its own; a round runs each once, the next round in reversed order.

arrays     `model.fit` of arrays, by Keras.
feed       `model.fit` of the batches of a search.
generator  The same, after a dataset made by `tf.data.Dataset.from_generator` was read
           once in this process.

A page fault is a piece of memory that the process asks the kernel for. TensorFlow sets
M_TRIM_THRESHOLD when a dataset reads from a generator, and from then on the GNU C
library returns the memory of each large tensor to the kernel.
"""

import argparse
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import time

import numpy as np

KINDS = "arrays", "feed", "generator"
OUT = pathlib.Path(__file__).parent / "results" / "page_faults.json"
BATCH, STEPS = 128, 400


def network():
    import keras

    keras.utils.set_random_seed(0)
    layers = keras.layers
    hidden = [layers.Dense(300, "relu"), layers.Dense(100, "relu"), layers.Dense(10)]
    model = keras.Sequential([keras.Input((784,)), *hidden])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss)
    return model


def measured(kind):
    """Returns milliseconds, page faults and the loss of a step, after a first epoch."""
    from tf_tickets.training import batches

    if kind == "generator":
        read_from_a_generator()
    rng = np.random.default_rng(0)
    x = rng.random((BATCH * STEPS, 784), "float32")
    y = rng.integers(10, size=len(x))
    model = network()
    if kind == "arrays":
        given = {"x": x, "y": y, "batch_size": BATCH}
    else:
        given = {"x": batches.feed((x, y), BATCH, key=lambda: (0,)), "shuffle": False}
    model.fit(**given, verbose=0)
    faults, begin = page_faults(), time.perf_counter()
    loss = model.fit(**given, epochs=2, verbose=0).history["loss"][-1]
    seconds = time.perf_counter() - begin
    return {
        "milliseconds": 1000 * seconds / (2 * STEPS),
        "page_faults": (page_faults() - faults) / (2 * STEPS),
        "loss": loss,
    }


def read_from_a_generator():
    import tensorflow as tf

    signature = tf.TensorSpec((), tf.int64)
    list(tf.data.Dataset.from_generator(lambda: [0], output_signature=signature))


def page_faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=pathlib.Path, default=OUT)
    parser.add_argument("--kind", choices=KINDS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.kind:
        print(json.dumps(measured(options.kind)))
        return
    import step_time

    environment = {**os.environ, "PYTHONPATH": str(OUT.parent.parent.parent)}
    rounds = []
    for number in range(options.rounds):
        results = {}
        for kind in KINDS if number % 2 == 0 else KINDS[::-1]:
            command = [sys.executable, __file__, "--kind", kind]
            text = subprocess.check_output(command, env=environment, text=True)
            results[kind] = json.loads(text.splitlines()[-1])
            print(kind, results[kind], flush=True)
        rounds.append(results)
    origin = step_time.origin(step_time.parse([]), "page_faults.py")
    options.out.write_text(json.dumps({**origin, "rounds": rounds}, indent=1) + "\n")
    for kind in KINDS[1:]:
        ratios = [r[kind]["milliseconds"] / r["arrays"]["milliseconds"] for r in rounds]
        print(f"{kind} / arrays: {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
