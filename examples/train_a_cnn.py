"""Train a small convolutional network by Keras alone, and save it.

    python examples/train_a_cnn.py [DATASET [FILE.keras]]

It stands for a model of your own. `tf-tickets prune FILE.keras --data DATASET` prunes
it. See docs/guides/prune-a-model.md.
"""

import sys

import keras

import tf_tickets as tt

name = sys.argv[1] if len(sys.argv) > 1 else "digits"
path = sys.argv[2] if len(sys.argv) > 2 else "my_cnn.keras"
data = tt.datasets.load(name, scaling="unit")

keras.utils.set_random_seed(0)
model = keras.Sequential(
    [
        keras.Input(data.input_shape),
        keras.layers.Conv2D(16, 3, activation="relu", padding="same"),
        keras.layers.MaxPooling2D(),
        keras.layers.Conv2D(32, 3, activation="relu", padding="same"),
        keras.layers.MaxPooling2D(),
        keras.layers.Flatten(),
        keras.layers.Dense(128, activation="relu"),
        keras.layers.Dense(data.num_classes, activation="softmax"),
    ]
)
model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
validation = (data.x_val, data.y_val)
model.fit(data.x_train, data.y_train, epochs=3, validation_data=validation, verbose=2)
model.save(path)
