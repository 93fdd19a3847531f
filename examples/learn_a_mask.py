"""Learn masks by gradient and draw the frontier of sparsity and accuracy.

    python examples/learn_a_mask.py [DIRECTORY]

Continuous Sparsification runs with several initial scores, which control the sparsity.
Its tickets, and those of iterative magnitude pruning, are all trained from the same
start weights for the same number of epochs. Everything is stored in a directory: run
the script again to resume.
"""

import sys

import keras

import tf_tickets as tt

EPOCHS = 8


def build():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(300, activation="relu"),
            keras.layers.Dense(100, activation="relu"),
            keras.layers.Dense(10, name="output"),
        ]
    )
    model.compile(
        keras.optimizers.Adam(2e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


directory = sys.argv[1] if len(sys.argv) > 1 else "frontier"
digits = tt.datasets.load("digits")
learning = tt.ContinuousSparsification(rounds=2, epochs_per_round=EPOCHS)
searches = learning.varied(initial_score=[-0.2, -0.1, 0.0, 0.1])
searches["IMP"] = tt.IMP(rounds=6, epochs_per_round=EPOCHS, rate=0.4)
frontier = tt.find_frontier(
    build, digits, searches, directory, epochs=EPOCHS, batch_size=32
)

for point in frontier.points:
    star = "*" if point in frontier.optimal else " "
    print(
        f"{star} {point.label:20} round {point.round}  weights left "
        f"{1 - point.sparsity:6.1%}  after {point.search_epochs:2} epochs  test "
        f"accuracy {point.metrics['test_accuracy']:.3f}"
    )
print(f"  dense network: test accuracy {frontier.dense['test_accuracy']:.3f}")

cheapest = frontier.first_matching(sparsity=0.8)
if cheapest is not None:
    print(f"first ticket as good as dense: {cheapest.label}, round {cheapest.round}")
print(f"the picture is {directory}/frontier.png")
