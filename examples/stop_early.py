"""Why early stopping is a regularizer: two ways to constrain a quadratic loss.

    python examples/stop_early.py [folder]

Early stopping and an L2 penalty both keep weights near 0, where they start, most of all
in flat directions of the loss. UniLTH and UniDLTH begin with early stopping and
continue with a penalty. Here a loss with three curvatures is trained twice:

* until the validation loss rises, and back to the best step (`EarlyStopRewind`);
* to the end, with a penalty whose strength is 1 / (steps * learning rate).

The example prints both results next to the theory, and plots the two paths to
`stop_early.png`. Early stopping hardly changes the sharp direction; a penalty that is
equally strong in the flat direction does.
"""

import pathlib
import sys

import keras
import matplotlib.pyplot as plt
import numpy as np

import tf_tickets as tt

FOLDER = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "tickets/example")
CURVATURES = np.array([0.1, 1.0, 5.0])  # flat to sharp
TARGET = np.array([1.0, -2.0, 0.5])  # where the training loss is least
VALID = np.array([0.05, -0.8, 0.46])  # the validation loss: noise moved the flat ones
RATE = 0.01  # of gradient descent

# Row i of these data has only feature i: the mean squared error is then
# sum(CURVATURES / 2 * (w - TARGET) ** 2).
FEATURES = np.diag(np.sqrt(len(CURVATURES) * CURVATURES / 2)).astype("float32")


def build_model():
    layers = [keras.Input((3,)), keras.layers.Dense(1, use_bias=False, name="line")]
    model = keras.Sequential(layers, name="net")
    model.set_weights([np.zeros((3, 1))])
    return model


def stopped_early():
    """Returns the weights of the best validation loss, and their step."""
    model = build_model()
    model.compile(keras.optimizers.SGD(RATE), "mse")
    stopping = tt.EarlyStopRewind(patience=5)
    model.fit(
        FEATURES,
        FEATURES @ TARGET,
        validation_data=(FEATURES, FEATURES @ VALID),
        epochs=200,  # of one step each
        callbacks=[stopping],
        verbose=0,
    )
    return model.get_weights()[0][:, 0], stopping.rewound_epoch + 1


def penalized(strength, steps=5_000):
    """Returns the weights that balance loss and penalty."""
    growing = tt.schedules.GrowingPenalty(strength, interval=1, cap=strength)
    mask = tt.masks.PenalizedMask(growing)
    model = tt.wrap(build_model(), mask=mask, verbose=False)
    model.compile(keras.optimizers.SGD(RATE), "mse")
    kernel = tt.kernels(model)["net/line/kernel"]
    kernel.mask_layer.choose(np.ones((3, 1)), steps, epochs=1)
    data = np.tile(FEATURES, (steps, 1))
    model.fit(data, data @ TARGET, batch_size=3, shuffle=False, verbose=0)
    return tt.strip(model).get_weights()[0][:, 0]


def share_after(steps, curvature):
    """Returns the fraction of the target that gradient descent has reached."""
    return 1 - (1 - RATE * curvature) ** steps


def share_under(strength, curvature):
    """Returns the fraction of the target that an L2 penalty allows."""
    return curvature / (curvature + strength)


def same_strength(steps, curvature):
    """Returns the penalty that stops this direction where early stopping does."""
    gone = share_after(steps, curvature)
    return curvature * (1 - gone) / gone


def draw_paths(axes, steps, strength):
    """Plots both paths from 0 to the target, in the flat and the sharp direction."""
    flat, sharp = CURVATURES[[0, 2]]
    goal = TARGET[[0, 2]]
    x, y = np.meshgrid(np.linspace(-0.1, 1.15, 80), np.linspace(-0.05, 0.58, 80))
    loss = flat / 2 * (x - goal[0]) ** 2 + sharp / 2 * (y - goal[1]) ** 2
    axes.contour(x, y, loss, levels=np.geomspace(2e-3, 0.6, 9), colors="0.85")
    clock = np.geomspace(0.1, 1e6, 500)
    ways = {
        "stopping, more and more steps": (share_after, clock, steps),
        "L2, weaker and weaker": (share_under, 1 / (RATE * clock), strength),
    }
    for label, (share, settings, chosen) in ways.items():
        [line] = axes.plot(
            *(g * share(settings, h) for g, h in zip(goal, (flat, sharp), strict=True)),
            label=label,
        )
        at = [g * share(chosen, h) for g, h in zip(goal, (flat, sharp), strict=True)]
        axes.plot(*at, "o", color=line.get_color())
    axes.plot(*goal, "k*", markersize=10, label="least training loss")
    axes.set(xlabel="weight of the flat direction", title="Two paths to one target")
    axes.set_ylabel("weight of the sharp direction")
    axes.legend(loc="lower right")


def draw_shares(axes, steps, strength, found):
    """Plots how much of each direction is kept, in theory and in both trainings."""
    curvature = np.geomspace(0.02, 20, 200)
    theory = [share_after(steps, curvature), share_under(strength, curvature)]
    labels = [f"stopped after {steps} steps", f"L2 of strength {strength:.2f}"]
    for line, weights, label in zip(theory, found, labels, strict=True):
        [drawn] = axes.semilogx(curvature, line, label=label)
        axes.plot(CURVATURES, weights / TARGET, "o", color=drawn.get_color())
    axes.set(xlabel="curvature", ylabel="share of the target", title="What is left")
    axes.legend(loc="upper left")


keras.utils.set_random_seed(0)
early, steps = stopped_early()
strength = 1 / (steps * RATE)
late = penalized(strength)
print(f"stopped after {steps} steps; L2 of strength {strength:.2f}")
print("curvature  stopped  theory      L2  theory  L2 that would stop it there")
for i, h in enumerate(CURVATURES):
    expected = TARGET[i] * share_after(steps, h), TARGET[i] * share_under(strength, h)
    print(
        f"{h:9.1f} {early[i]:8.4f} {expected[0]:7.4f} {late[i]:7.4f} {expected[1]:7.4f}"
        f" {same_strength(steps, h):28.2f}"
    )

FOLDER.mkdir(parents=True, exist_ok=True)
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
draw_paths(left, steps, strength)
draw_shares(right, steps, strength, [early, late])
figure.savefig(FOLDER / "stop_early.png", dpi=120)
plt.close(figure)
