"""Builds the examples in saved_models/ and tests each on the whole test set.

    KERAS_BACKEND=tensorflow python benchmarks/saved_models.py --data-dir DIR

IMP finds one ticket of LeNet-300-100 on the digits and one on MNIST. Both are trained
and exported in every format. Each file is loaded by its own runtime, without this
library, and predicts all test images. Measured are its accuracy and the number of
predicted classes that differ from the model's. The trainable SavedModel is trained for
one more epoch. Its outputs must then equal those of the Keras model with the same
weights and zeros at the pruned positions.
"""

import argparse
import json
import os
import pathlib
import platform
import shutil

import keras
import numpy as np

import tf_tickets as tt
from tf_tickets.environment import versions
from tf_tickets.exporting import source
from tf_tickets_cli import experiment, settings

HERE = pathlib.Path(__file__).parent
HOME = HERE.parent / "saved_models"
# Search options per data set.
SEARCHES = {
    "digits": {"rounds": 12, "epochs": 15},
    "mnist": {"rounds": 13, "epochs": 8, "scaling": "unit"},
}
SEED = 0
BATCH = 100


# Each reader returns a function from images to logits.


def by_saved_model(path):
    import tensorflow as tf

    loaded = tf.saved_model.load(path)
    (name,) = loaded.signatures["serving_default"].structured_input_signature[1]

    def ask(x):
        found = loaded.signatures["serving_default"](**{name: tf.constant(x)})
        return found["output_0"].numpy()

    return ask


def by_litert(path):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    run = interpreter.get_signature_runner("serving_default")
    (name,) = run.get_input_details()
    return lambda x: run(**{name: x})["output_0"]


def by_keras(path):
    model = keras.saving.load_model(path)
    return lambda x: np.asarray(model(x, training=False))


def by_onnxruntime(path):
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    (given,) = session.get_inputs()
    return lambda x: session.run(["output_0"], {given.name: x})[0]


EXPORTS = {
    "serve": ("saved_model", {}, by_saved_model),
    "train": ("saved_model", {"trainable": True}, by_saved_model),
    "lenet.tflite": ("tflite", {}, by_litert),
    "lenet_float16.tflite": ("tflite", {"precision": "float16"}, by_litert),
    "lenet_dynamic.tflite": ("tflite", {"precision": "dynamic"}, by_litert),
    "lenet_int8.tflite": ("tflite", {"precision": "int8"}, by_litert),
    "lenet.keras": ("keras", {}, by_keras),
    "lenet.onnx": ("onnx", {}, by_onnxruntime),
}


def make(options, name):
    """Finds and trains the ticket, then exports it and tests every file."""
    chosen = SEARCHES[name]
    setting = settings.Setting(name, "lenet300", options.data_dir, SEED, chosen)
    work = options.work / name
    experiment.Experiment(setting, work, with_controls=False).run()
    model = keras.saving.load_model(work / "model.keras")
    ticket = tt.Ticket.load(work / "best.ticket")
    folder = HOME / f"{name}-lenet300"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(work / "best.ticket", folder / "best.ticket")
    rows = [row(setting.data, model, ticket, folder / file) for file in EXPORTS]
    return {
        "dataset": name,
        "options": chosen,
        "seed": SEED,
        "sparsity": ticket.sparsity,
        "dense_accuracy": json.loads((work / "results.json").read_text())["dense"],
        "accuracy": accuracy(answers(model, setting.data.x_test), setting.data.y_test),
        "rows": rows,
        "trained_on": train(setting.data, model, ticket, folder / "train"),
    }


def row(data, model, ticket, path):
    """Exports one file and measures its predictions on the test set."""
    format, how, read = EXPORTS[path.name]
    # int8 is calibrated on training images.
    given = {"data": data.x_train[:512], "overwrite": True, "verify": True}
    report = tt.export(ticket, path, format, model=model, **given, **how)
    found, wanted = (answers(ask, data.x_test) for ask in (read(path), model))
    made = {
        "file": path.name,
        "bytes": report.sizes["sparse"],
        "gzipped": report.sizes["sparse_gzipped"],
        "bound": report.sizes["bound"],
        "accuracy": accuracy(found, data.y_test),
        "images": len(data.x_test),
        "other_answers": int((found.argmax(1) != wanted.argmax(1)).sum()),
        "largest_difference": float(np.abs(found - wanted).max()),
    }
    print(json.dumps(made), flush=True)
    return made


def answers(ask, images):
    """Computes the logits in batches."""
    batches = [images[i : i + BATCH] for i in range(0, len(images), BATCH)]
    return np.concatenate([np.asarray(ask(batch)) for batch in batches])


def accuracy(logits, labels):
    return float((logits.argmax(1) == labels).mean())


def train(data, model, ticket, path):
    """Trains the loaded SavedModel for one epoch with Adam."""
    import tensorflow as tf

    loaded = tf.saved_model.load(path)
    before = answers(lambda x: loaded(x).numpy(), data.x_test)
    optimizer = keras.optimizers.Adam(1e-4)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    variables = list(loaded.trainable_variables)

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            value = loss(y, loaded(x, training=True))
        pairs = zip(tape.gradient(value, variables), variables, strict=True)
        optimizer.apply_gradients(pairs)

    batches = tf.data.Dataset.from_tensor_slices((data.x_train, data.y_train))
    for x, y in batches.shuffle(len(data.x_train), seed=SEED).batch(BATCH):
        step(x, y)
    after = answers(lambda x: loaded(x).numpy(), data.x_test)
    put_back(model, ticket, loaded)
    again = answers(model, data.x_test)
    return {
        "epochs": 1,
        "accuracy_before": accuracy(before, data.y_test),
        "accuracy_after": accuracy(after, data.y_test),
        "weights_that_train": int(sum(np.prod(v.shape) for v in variables)),
        "pruned_weights": sum(int((~mask).sum()) for mask in ticket.masks.values()),
        "largest_difference_from_keras": float(np.abs(after - again).max()),
    }


def put_back(model, ticket, loaded):
    """Copies the trained weights into the Keras model, with zeros where pruned.

    If its outputs then equal the SavedModel's, the SavedModel kept its zeros.
    """
    masks = source.of(ticket, model).masks
    pairs = zip(model.variables, loaded.variables, strict=True)
    for place, (variable, found) in enumerate(pairs):
        array = found.numpy()
        if place in masks:
            array = np.zeros(variable.shape, "float32")
            array[masks[place]] = found.numpy().reshape(-1)
        variable.assign(array)


def table(found):
    """Formats the rows of saved_models/README.md."""
    lines = ["| file | sparsity | bytes | gzipped | test accuracy | other answers |"]
    lines += ["|---|---|---|---|---|---|"]
    for made in found["examples"]:
        for row in made["rows"]:
            lines.append(
                f"| `{made['dataset']}-lenet300/{row['file']}` | {made['sparsity']:.1%}"
                f" | {row['bytes']:,} | {row['gzipped']:,} | {row['accuracy']:.2%} | "
                f"{row['other_answers']} of {row['images']:,} |"
            )
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data-dir", help="directory of MNIST (default: TFDS_DATA_DIR)"
    )
    parser.add_argument("--only", nargs="+", choices=SEARCHES, default=list(SEARCHES))
    parser.add_argument("--work", type=pathlib.Path, default=HERE / "runs/saved_models")
    parser.add_argument("--out", type=pathlib.Path)
    options = parser.parse_args()
    only = "" if options.only == list(SEARCHES) else f" --only {' '.join(options.only)}"
    found = {
        "command": "KERAS_BACKEND=tensorflow python benchmarks/saved_models.py "
        f"--data-dir DIR{only}",
        "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}",
        "versions": versions(),
        "examples": [make(options, name) for name in options.only],
    }
    out = options.out or HERE / "results" / "saved_models.json"
    out.write_text(json.dumps(found, indent=1))
    print(table(found))


if __name__ == "__main__":
    main()
