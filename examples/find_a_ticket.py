"""Find a winning ticket, save it, compare it with control experiments, strip the model.

    python examples/find_a_ticket.py [folder]

Data: the 8x8 digits of scikit-learn. Model and training are plain Keras; three lines
are new: wrap, IMP, strip.
"""

import pathlib
import sys

import keras

import tf_tickets as tt

FOLDER = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "tickets/example")
EPOCHS = 10  # per round
ROUNDS = 6  # 0.8 ** 6: 26 % of the weights remain


def build_model():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(300, activation="relu", name="fc1"),
            keras.layers.Dense(100, activation="relu", name="fc2"),
            keras.layers.Dense(10, name="output"),
        ],
        name="lenet",
    )
    model.compile(
        keras.optimizers.Adam(1.2e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


keras.utils.set_random_seed(0)
digits = tt.datasets.load("digits")
model = tt.wrap(build_model())  # the output layer is pruned more gently, see rate
search = tt.IMP(
    ROUNDS,
    EPOCHS,
    rate={"output": 0.1, ".": 0.2},
    monitor=tt.Monitor("val_accuracy", tolerance=0.01),
)
model.fit(
    digits.x_train,
    digits.y_train,
    validation_data=(digits.x_val, digits.y_val),
    epochs=search.epochs,
    callbacks=[search],
    verbose=0,
)
for ticket in search.tickets:
    accuracy = ticket.metrics["val_accuracy"]
    print(f"sparsity {ticket.sparsity:.3f}  validation accuracy {accuracy:.3f}")

FOLDER.mkdir(parents=True, exist_ok=True)
search.best.save(FOLDER / "best.ticket")
ticket = tt.Ticket.load(FOLDER / "best.ticket")

# Does the ticket matter? Train it and its controls under the same conditions.
trainer = tt.TicketTrainer(build_model, digits)
controls = {
    "the ticket": ticket,
    "other start weights": tt.controls.reinit(ticket, build_model),
    "shuffled masks": tt.controls.shuffle_masks(ticket),
}
for name, control in controls.items():
    metrics = trainer.train(control, epochs=EPOCHS)
    print(f"{name:>20}: test accuracy {metrics['test_accuracy']:.3f}")

plain = ticket.train(
    build_model(), digits.x_train, digits.y_train, epochs=EPOCHS, verbose=0
)
plain.save(FOLDER / "model.keras")  # stock Keras loads it
print(tt.summary(plain))
