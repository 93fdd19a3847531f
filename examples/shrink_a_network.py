"""Prune a network, make it physically smaller, fine-tune and save it.

    python examples/shrink_a_network.py [FILE.keras]

At 99 % zeros, most neurons have no weight left that reads or writes them. `compact`
removes them without a change of the predictions. What remains is an ordinary Keras
model with narrower layers.
"""

import pathlib
import sys

import keras

import tf_tickets as tt

path = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "small.keras")
keras.utils.set_random_seed(0)
digits = tt.datasets.load("digits")
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
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
model = tt.wrap(model)
model.compile(keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"])
schedule = tt.schedules.PolynomialDecay(0.0, 0.99, begin_step=1, end_step=300)
model.fit(
    digits.x_train,
    digits.y_train,
    epochs=20,
    callbacks=[tt.GradualPruning(schedule)],
    verbose=0,
)
_, before = model.evaluate(digits.x_test, digits.y_test, verbose=0)

small, report = tt.compact(model, return_report=True)
print(report)

small.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"])
_, same = small.evaluate(digits.x_test, digits.y_test, verbose=0)
small.fit(digits.x_train, digits.y_train, epochs=5, verbose=0)
_, after = small.evaluate(digits.x_test, digits.y_test, verbose=0)
small.save(path)
print(f"test accuracy: pruned {before:.3f}, smaller {same:.3f}, fine-tuned {after:.3f}")
print(f"{path}: {path.stat().st_size:,} bytes")
