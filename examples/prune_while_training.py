"""Prune a network gradually within one training run.

    python examples/prune_while_training.py

Sparsity grows from 0 to 90 % between steps 100 and 500, fast at first (Zhu and
Gupta 2017). The rest of the training recovers the accuracy.
"""

import keras

import tf_tickets as tt

keras.utils.set_random_seed(0)
digits = tt.datasets.load("digits")
model = keras.Sequential(
    [
        keras.Input((8, 8, 1)),
        keras.layers.Conv2D(16, 3, activation="relu"),
        keras.layers.BatchNormalization(),
        keras.layers.DepthwiseConv2D(3, activation="relu"),
        keras.layers.Flatten(),
        keras.layers.Dense(64, activation="relu"),
        keras.layers.Dense(10, name="output"),
    ]
)
model = tt.wrap(model, filters="^(?!output)")  # all layers but this one
model.compile(
    "adam",
    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
schedule = tt.schedules.PolynomialDecay(0.0, 0.9, begin_step=100, end_step=500)
pruning = tt.GradualPruning(schedule, allocation="erk")
history = model.fit(
    digits.x_train,
    digits.y_train,
    validation_data=(digits.x_val, digits.y_val),
    epochs=20,
    callbacks=[pruning],
    verbose=0,
)
for epoch in range(0, 20, 4):
    sparsity = history.history["sparsity"][epoch]
    accuracy = history.history["val_accuracy"][epoch]
    print(f"epoch {epoch:2}  sparsity {sparsity:.3f}  accuracy {accuracy:.3f}")

print(tt.summary(model))
_, accuracy = model.evaluate(digits.x_test, digits.y_test, verbose=0)
plain = tt.strip(model)  # plain Keras layers, zeros in the kernels
print(f"test accuracy {accuracy:.3f}; {type(plain.layers[0]).__name__} again")
