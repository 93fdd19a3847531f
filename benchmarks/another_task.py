"""A ticket of the digits 0 to 4 on all ten digits, and its controls.

    KERAS_BACKEND=jax python benchmarks/another_task.py

The network, the search and the controls are those of the guide "A ticket on another
task", on scikit-learn's digits. Each seed is that of the search, the controls and the
training. The head for ten classes is new and dense. Test accuracy is measured after
the last epoch.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import sys
import tempfile

import keras
import spreads

import tf_tickets as tt
from tf_tickets.environment import versions

HERE = pathlib.Path(__file__).parent
SEARCH_CLASSES, CLASSES = 5, 10
EPOCHS = 12


def first_digits(digits):
    """Returns the splits with the digits of the search only."""
    pairs = (
        (digits.x_train, digits.y_train),
        (digits.x_val, digits.y_val),
        (digits.x_test, digits.y_test),
    )
    return tuple((x[y < SEARCH_CLASSES], y[y < SEARCH_CLASSES]) for x, y in pairs)


def builder(input_shape, classes):
    """Returns a function that builds the network of the guide."""
    layers = keras.layers

    def build():
        model = keras.Sequential(
            [
                keras.Input(input_shape),
                layers.Conv2D(16, 3, activation="relu", name="conv1"),
                layers.Conv2D(32, 3, activation="relu", name="conv2"),
                layers.GlobalAveragePooling2D(name="pool"),
                layers.Dense(classes, name="head"),
            ],
            name="net",
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"])
        return model

    return build


def run(seed, digits, folder):
    """Returns the test accuracies of one seed, and how much the ticket keeps."""
    before = builder(digits.input_shape, SEARCH_CLASSES)
    after = builder(digits.input_shape, CLASSES)
    search = tt.IMP(rounds=4, epochs_per_round=6, rate=0.4)
    data = first_digits(digits)
    *_, ticket = tt.find_tickets(before, data, search, folder, seed=seed, verbose=0)
    keras.utils.set_random_seed(seed)  # of the new head
    moved, _ = ticket.transfer(after(), return_report=True)
    trainer = tt.TicketTrainer(after, digits, seed=seed)
    drawn = 100 + seed  # unlike the seed of the ticket's own weights
    tickets = {
        "ticket": moved,
        "new_weights": tt.controls.reinit(moved, after, seed=drawn),
        "random_by_layer": tt.controls.random_masks(moved, seed=drawn),
        "random_uniform": tt.controls.random_masks(moved, "uniform", seed=drawn),
        "dense": trainer.dense_ticket(),
    }
    accuracies = {
        name: trainer.train(each, epochs=EPOCHS)["test_accuracy"]
        for name, each in tickets.items()
    }
    print(seed, accuracies, flush=True)
    return {"kept": 1 - moved.sparsity, **accuracies}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)))
    out = HERE / "results" / "another_task.json"
    parser.add_argument("--out", type=pathlib.Path, default=out)
    options = parser.parse_args()
    digits = tt.datasets.load("digits")
    runs = []
    for seed in options.seeds:
        with tempfile.TemporaryDirectory() as folder:
            runs.append(run(seed, digits, pathlib.Path(folder) / "search"))
    found = {
        "command": " ".join(
            [
                f"KERAS_BACKEND={keras.config.backend()}",
                "python benchmarks/another_task.py",
                *sys.argv[1:],
            ]
        ),
        "seeds": options.seeds,
        "date": datetime.date.today().isoformat(),
        "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}",
        "versions": versions(),
        "epochs": EPOCHS,
        "results": {
            name: spreads.spread([float(one[name]) for one in runs]) for name in runs[0]
        },
    }
    options.out.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
