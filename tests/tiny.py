"""A tiny network and its data, for the tests of searches and tickets."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers as kl

import tf_tickets as tt
from tf_tickets import wrapping
from tf_tickets.training import snapshots
from tf_tickets.training.fidelity import PARTS


def data(size=64, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(size, 6)).astype("float32")
    return x, np.argmax(x[:, :3] + 0.5 * x[:, 3:], axis=1)


def in_turns(cases):
    """Every other case, the others on the other backend: for what takes long."""
    return list(cases)[keras.config.backend() != "tensorflow" :: 2]


def only_on(backend):
    """For what takes long, and is the same on every backend."""
    return pytest.mark.skipif(
        keras.config.backend() != backend, reason=f"takes long: tried on {backend}"
    )


def splits():
    return data(64), data(32, seed=1), data(32, seed=2)


def build(dropout=0.3, names=("hidden", "norm", "output")):
    """Dense, batch normalization, dropout, dense: 90 prunable weights."""
    hidden, norm, output = names
    return keras.Sequential(
        [
            keras.Input((6,)),
            kl.Dense(10, activation="relu", name=hidden),
            kl.BatchNormalization(name=norm),
            kl.Dropout(dropout, seed=1),
            kl.Dense(3, name=output),
        ],
        name="net",
    )


def compiled(model, optimizer=None, **kwargs):
    # XLA takes seconds to compile, and is tried in the matrix of `fit`.
    kwargs.setdefault("jit_compile", keras.config.backend() == "jax")
    model.compile(
        optimizer or keras.optimizers.Adam(0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        # By name, Keras would make its variables within the first trace, and trace
        # the step once more because of them.
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
        **kwargs,
    )
    return model


def network(optimizer=None, seed=0, **kwargs):
    """The wrapped and compiled model, with the weights of a seed."""
    keras.utils.set_random_seed(seed)
    return compiled(tt.wrap(build(**kwargs), verbose=False), optimizer)


def build_compiled():
    return compiled(build())


def build_without_dropout():
    """With a schedule, so that the place on it counts."""
    decay = keras.optimizers.schedules.CosineDecay(0.05, 40)
    return compiled(build(dropout=0.0), keras.optimizers.SGD(decay, momentum=0.9))


def imp(fidelity="weights", tolerance=0.0, monitor="accuracy", **kwargs):
    given = {"rounds": 3, "epochs_per_round": 2, "rate": 0.3, **kwargs}
    rewind_to = tt.Rewind(given.pop("rewind_to", "init"), fidelity)
    return tt.IMP(**given, rewind_to=rewind_to, monitor=tt.Monitor(monitor, tolerance))


def run(model, search, callbacks=None, **kwargs):
    """The whole search in one `fit` of 4 steps an epoch; gives the logs."""
    x, y = data()
    given = {"epochs": search.epochs, "batch_size": 16, "shuffle": False, "verbose": 0}
    given["callbacks"] = [search] if callbacks is None else callbacks
    return model.fit(x, y, **{**given, **kwargs}).history


def printed(script):
    """What a script prints in a process of its own, which may have failed."""
    found = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    return found.stdout, found.stderr


class Diary(keras.callbacks.Callback):
    """The whole state before and after each epoch."""

    def __init__(self):
        super().__init__()
        self.before, self.after = [], []

    def on_epoch_begin(self, epoch, logs=None):
        self.before.append(snapshots.record(self.model))

    def on_epoch_end(self, epoch, logs=None):
        self.after.append(snapshots.record(self.model))


def flat(state, parts=PARTS):
    """The arrays of some parts of a state."""
    return [array for part in parts for array in state[part].values()]


def same(left, right):
    """Whether two lists of arrays are equal to the bit."""
    return [a.tobytes() for a in left] == [b.tobytes() for b in right]


def half(model, seed=4):
    """Random masks that keep half of each kernel, by path."""
    rng = np.random.default_rng(seed)
    return {
        path: rng.permutation(np.arange(m.size) % 2 == 0).reshape(m.shape)
        for path, m in wrapping.kernels(model).masks.items()
    }


def pruned_weights(model):
    """The stored weights where the masks prune, in one array."""
    masks = wrapping.kernels(model).masks
    kernels = wrapping.kernels(model).variables.items()
    return np.concatenate([wrapping.to_numpy(v)[~masks[p]] for p, v in kernels])
