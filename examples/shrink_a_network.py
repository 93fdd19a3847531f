"""Prune the channels of a network, make it physically smaller, fine-tune and save it.

    python examples/shrink_a_network.py [FILE.keras]

Channels are pruned until a quarter of the multiply-adds remains. `compact` then removes
them without a change of the predictions. What remains is an ordinary Keras model with
narrower layers.
"""

import pathlib
import sys

import keras

import tf_tickets as tt

path = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "small.keras")
keras.utils.set_random_seed(0)
digits = tt.datasets.load("digits")
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def build():
    """Builds a small residual network."""
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(32, 3, padding="same", use_bias=False, name="conv1")(inputs)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization(name="norm1")(x))
    y = keras.layers.Conv2D(32, 3, padding="same", use_bias=False, name="conv2")(x)
    y = keras.layers.BatchNormalization(name="norm2")(y)
    x = keras.layers.ReLU()(keras.layers.Add()([x, y]))
    x = keras.layers.Conv2D(64, 3, strides=2, use_bias=False, name="conv3")(x)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization(name="norm3")(x))
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(10, name="output")(x), name="net")


model = tt.wrap(build(), structure="channels")
model.compile(keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"])
schedule = tt.schedules.PolynomialDecay(0.0, 0.5, begin_step=20, end_step=160)
model.fit(
    digits.x_train,
    digits.y_train,
    epochs=8,
    callbacks=[tt.GradualPruning(schedule, target={"macs": 0.25})],
    verbose=0,
)
_, before = model.evaluate(digits.x_test, digits.y_test, verbose=0)

small, report = tt.compact(model, return_report=True)
print(report)

small.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"])
_, same = small.evaluate(digits.x_test, digits.y_test, verbose=0)
small.fit(digits.x_train, digits.y_train, epochs=4, verbose=0)
_, after = small.evaluate(digits.x_test, digits.y_test, verbose=0)
small.save(path)
print(f"test accuracy: pruned {before:.3f}, smaller {same:.3f}, fine-tuned {after:.3f}")
print(f"{path}: {small.count_params():,} of {report.dense.params:,} parameters")
