"""Find a ticket, train it, and export it.

    python examples/export_a_ticket.py [DIRECTORY]

Writes a SavedModel to serve, a SavedModel to train, a TFLite file and a deflated Keras
file. Each is reloaded in a fresh process and compared with the model first. Its report
shows size, errors and latency.
"""

import pathlib
import sys

import keras

import tf_tickets as tt

SEED = 0


def build():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            keras.layers.Flatten(),
            keras.layers.Dense(300, activation="relu", name="fc1"),
            keras.layers.Dense(100, activation="relu", name="fc2"),
            keras.layers.Dense(10, name="output"),
        ],
        name="lenet",
    )
    model.compile(
        keras.optimizers.Adam(2e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


directory = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "exported")
digits = tt.datasets.load("digits")
search = tt.IMP(rounds=5, epochs_per_round=8, rate=0.4, seed=SEED)
tt.find_tickets(build, digits, search, seed=SEED)
ticket = search.best
trainer = tt.TicketTrainer(build, digits, seed=SEED)
metrics = trainer.train(ticket, search.epochs_per_round)
print(f"{ticket.sparsity:.1%} zeros, test accuracy {metrics['test_accuracy']:.3f}\n")

images = digits.x_test[:64]
for name, format, how in (
    ("serve", "saved_model", {}),
    ("train", "saved_model", {"trainable": True}),
    ("lenet.tflite", "tflite", {}),
    ("lenet.keras", "keras", {}),
):
    report = tt.export(
        ticket,
        directory / name,
        format,
        model=trainer.model,
        data=images,
        overwrite=True,
        **how,
    )
    report.save(directory / f"{name}.json")
    print(report, end="\n\n")
