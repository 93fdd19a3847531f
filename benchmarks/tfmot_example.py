"""The documented MNIST example of tensorflow-model-optimization, there and here.

    python benchmarks/tfmot_example.py --data-dir DIR --seeds 0 1

The example is "Pruning in Keras" of its guide: a small convolutional network is trained
for 4 epochs, pruned from 50 to 80 % in 2 more, stripped, and compared by the bytes of
its files. One side runs it with tensorflow-model-optimization and tf_keras, the other
with `tf_tickets.tfmot` and Keras 3, in the same process; which of the two is first
alternates. `converted` is the pruned model of the other side, converted by
`tf_tickets.tfmot.from_tf_keras` and exported here.

For `same_masks`, both sides also prune the same trained weights with the same order of
the data and without XLA, and the masks are compared weight by weight.

Requires tensorflow-model-optimization, tf_keras and tensorflow-datasets. DIR is where
tensorflow-datasets has prepared MNIST.
"""

import argparse
import contextlib
import gzip
import io
import json
import os
import pathlib
import platform
import tempfile
import time
import warnings

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras
import numpy as np
import tensorflow as tf
import tf_keras

import tf_tickets as tt
from tf_tickets import tfmot
from tf_tickets.environment import versions

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import tensorflow_model_optimization

PEER = tensorflow_model_optimization.sparsity.keras
SIDES = {"theirs": (tf_keras, PEER), "ours": (keras, tfmot)}
BATCH_SIZE = 128
VALIDATION = 0.1


def main():
    options = parser().parse_args()
    data = load(options.data_dir)
    rows = []
    for number, seed in enumerate(options.seeds):
        order = list(SIDES) if number % 2 == 0 else list(reversed(SIDES))
        print(f"seed {seed}: {' before '.join(order)}")
        rows.append(row(data, seed, order, options))
        print(json.dumps(rows[-1], indent=1))
    seeds = " ".join(map(str, options.seeds))
    command = f"python benchmarks/tfmot_example.py --data-dir DIR --seeds {seeds}"
    defaults = parser().parse_args(["--data-dir", "DIR"])
    for name in ("epochs", "pruning_epochs"):
        value = getattr(options, name)
        if value != getattr(defaults, name):
            command += f" --{name.replace('_', '-')} {value}"
    content = {
        "command": command,
        "versions": {
            **versions(),
            "tensorflow": tf.__version__,
            "tf_keras": tf_keras.__version__,
            "tensorflow_model_optimization": tensorflow_model_optimization.__version__,
        },
        "machine": {"processor": platform.machine(), "cores": os.cpu_count()},
        "load": os.getloadavg()[0],
        "rows": rows,
    }
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(content, indent=1) + "\n")
    print(f"written to {options.out}")


def parser():
    result = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = result.add_argument
    add("--data-dir", required=True, help="where tensorflow-datasets has MNIST")
    add("--seeds", type=int, nargs="+", default=[0, 1])
    add("--epochs", type=int, default=4, help="epochs before pruning")
    add("--pruning-epochs", type=int, default=2)
    out = pathlib.Path(__file__).parent / "results" / "tfmot_example" / "mnist.json"
    add("--out", type=pathlib.Path, default=out)
    return result


def load(folder):
    """Returns all images, scaled to 0 to 1, as the example has them."""
    import tensorflow_datasets as tfds

    parts = [
        tfds.load("mnist", split=split, data_dir=folder, batch_size=-1, download=False)
        for split in ("train", "test")
    ]
    return [
        (part["image"].numpy()[..., 0].astype("float32") / 255, part["label"].numpy())
        for part in parts
    ]


def row(data, seed, order, options):
    result: dict = {"seed": seed, "first": order[0]}
    stored = {"theirs": theirs_stored, "ours": ours_stored}
    bases, pruned = {}, {}
    for side in order:
        bases[side], result[side] = trained(side, data, seed, options)
    start = [weight.copy() for weight in bases["theirs"].get_weights()]
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        # Before pruning, which changes the same variables.
        for side in order:
            path = folder / f"{side}_dense"
            result[side]["dense_bytes"] = stored[side](bases[side], path, data)
        for side in order:
            pruned[side], measured = prune(side, bases[side], data, options)
            result[side] |= measured
        for side in order:
            path = folder / f"{side}_pruned"
            result[side]["bytes"] = stored[side](pruned[side], path, data)
        result["converted"] = converted(pruned["theirs"], folder, data)
    result["same_masks"] = same_masks(start, data, seed, options)
    return result


def network(library):
    layers = library.layers
    return library.Sequential(
        [
            layers.InputLayer((28, 28)),
            layers.Reshape((28, 28, 1)),
            layers.Conv2D(12, 3, activation="relu"),
            layers.MaxPooling2D((2, 2)),
            layers.Flatten(),
            layers.Dense(10),
        ]
    )


def compiled(library, model, **settings):
    loss = library.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"], **settings)
    return model


def accuracy(model, data):
    return float(model.evaluate(*data[1], verbose=0)[1])


def trained(side, data, seed, options):
    library, _ = SIDES[side]
    library.utils.set_random_seed(seed)
    model = compiled(library, network(library))
    begin = time.perf_counter()
    model.fit(*data[0], epochs=options.epochs, validation_split=VALIDATION, verbose=0)
    seconds = time.perf_counter() - begin
    measured = {"dense_accuracy": accuracy(model, data), "dense_seconds": seconds}
    return model, measured


def pruning(side, model, data, options, **settings):
    """Returns a model that is to be pruned, as the example has it."""
    library, names = SIDES[side]
    images = len(data[0][0]) * (1 - VALIDATION)
    end = int(np.ceil(images / BATCH_SIZE)) * options.pruning_epochs
    schedule = names.PolynomialDecay(
        initial_sparsity=0.50, final_sparsity=0.80, begin_step=0, end_step=end
    )
    with contextlib.redirect_stdout(io.StringIO()):
        model = names.prune_low_magnitude(model, pruning_schedule=schedule)
    return compiled(library, model, **settings)


def prune(side, base, data, options):
    _, names = SIDES[side]
    model = pruning(side, base, data, options)
    with tempfile.TemporaryDirectory() as logs:
        begin = time.perf_counter()
        model.fit(
            *data[0],
            batch_size=BATCH_SIZE,
            epochs=options.pruning_epochs,
            validation_split=VALIDATION,
            callbacks=[names.UpdatePruningStep(), names.PruningSummaries(logs)],
            verbose=0,
        )
        seconds = time.perf_counter() - begin
    reached = accuracy(model, data)
    plain = names.strip_pruning(model)
    measured = {
        "accuracy": reached,
        "seconds": seconds,
        "sparsity": sparsity(plain.get_weights()),
    }
    return plain, measured


def sparsity(weights):
    """Returns the fraction of zeros in the kernels."""
    kernels = [weight for weight in weights if weight.ndim > 1]
    return sum(int((k == 0).sum()) for k in kernels) / sum(k.size for k in kernels)


def zipped(path):
    return len(gzip.compress(path.read_bytes(), 9))


def theirs_stored(model, path, data):
    """Returns the bytes of the example's files, each compressed by gzip."""
    h5 = path.with_suffix(".h5")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save(h5, include_optimizer=False)
    sizes = {"h5_gz": zipped(h5)}
    function = tf.function(lambda x: model(x, training=False))
    concrete = function.get_concrete_function(tf.TensorSpec((1, 28, 28)))
    for precision in ("float32", "dynamic"):
        converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], model)
        if precision == "dynamic":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        flat = path.with_suffix(f".{precision}.tflite")
        flat.write_bytes(converter.convert())
        sizes |= {f"tflite_{precision}": flat.stat().st_size}
        sizes |= {f"tflite_{precision}_gz": zipped(flat)}
    return sizes


def ours_stored(model, path, data):
    """Returns the bytes of exports, as they are and compressed by gzip."""
    plain = path.with_suffix(".keras")
    tt.export(model, plain, verify=False)
    sizes = {"keras": plain.stat().st_size}
    for precision in ("float32", "dynamic"):
        flat = path.with_suffix(f".{precision}.tflite")
        report = tt.export(model, flat, precision=precision, data=data[1][0][:64])
        sizes |= {f"tflite_{precision}": flat.stat().st_size}
        sizes |= {f"tflite_{precision}_gz": zipped(flat)}
        sizes |= {f"error_{precision}": max(report.errors.values())}
    return sizes


def converted(model, folder, data):
    """Returns the results of a pruned model of tf_keras, converted to Keras 3."""
    begin = time.perf_counter()
    plain = tfmot.from_tf_keras(model)
    seconds = time.perf_counter() - begin
    return {
        "conversion_seconds": seconds,
        "accuracy": accuracy(compiled(keras, plain), data),
        "sparsity": sparsity(plain.get_weights()),
        "bytes": ours_stored(plain, folder / "converted", data),
    }


def same_masks(start, data, seed, options):
    """Returns how many weights the two libraries keep alike, from the same weights."""
    results = {}
    for side, (library, names) in SIDES.items():
        library.utils.set_random_seed(seed)
        base = network(library)
        base.set_weights(start)
        model = pruning(side, base, data, options, jit_compile=False)
        model.fit(
            *data[0],
            batch_size=BATCH_SIZE,
            epochs=options.pruning_epochs,
            callbacks=[names.UpdatePruningStep()],
            validation_split=VALIDATION,
            shuffle=False,
            verbose=0,
        )
        results[side] = names.strip_pruning(model).get_weights()
    pairs = list(zip(results["theirs"], results["ours"], strict=True))
    kernels = [pair for pair in pairs if pair[0].ndim > 1]
    return {
        "weights": sum(left.size for left, _ in kernels),
        "masked_otherwise": sum(int(((a == 0) != (b == 0)).sum()) for a, b in kernels),
        "largest_difference": max(float(np.abs(a - b).max()) for a, b in pairs),
        "bit_identical": all(np.array_equal(a, b) for a, b in pairs),
    }


if __name__ == "__main__":
    main()
