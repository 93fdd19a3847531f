"""A tiny network and its data, for the tests of searches and tickets."""

import collections
import itertools
import json
import os
import random
import sys

import keras
import numpy as np
import pytest
import warm
from keras import layers as kl

import tf_tickets as tt
from tf_tickets import wrapping
from tf_tickets.training import snapshots
from tf_tickets.training.fidelity import PARTS


def data(size=64, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(size, 6)).astype("float32")
    return x, np.argmax(x[:, :3] + 0.5 * x[:, 3:], axis=1)


# The default of jit_compile. XLA takes seconds on TensorFlow, so only the matrix of
# `fit` and a few other tests use it.
JIT = keras.config.backend() == "jax"


def marked(rows, chosen):
    """Returns all rows for `parametrize`; those not chosen belong to the matrix."""
    return [
        row if row in chosen else pytest.param(*_several(row), marks=pytest.mark.matrix)
        for row in rows
    ]


def _several(row):
    return row if isinstance(row, tuple) else (row,)


def in_turns(cases, every=2):
    """Splits slow cases between the backends: every other case runs on this one.

    With a larger `every`, the cases after the first two of so many run on neither.
    """
    cases = list(cases)
    return marked(cases, cases[keras.config.backend() != "tensorflow" :: every])


def covering(count, *choices):
    """Returns rows of choices in which every so many settings occur together."""

    def groups(row):
        return set(itertools.combinations(enumerate(row), count))

    rows = list(itertools.product(*choices))
    missing = set().union(*map(groups, rows))
    result = []
    while missing:
        result.append(max(rows, key=lambda row: len(groups(row) & missing)))
        missing -= groups(result[-1])
    return result


def checkered(*choices):
    """Returns all rows of choices, split between backends like a checkerboard."""
    here = int(keras.config.backend() != "tensorflow")
    places = itertools.product(*(range(len(each)) for each in choices))
    squares = [sum(place) % 2 == here for place in places]
    rows = list(itertools.product(*choices))
    return marked(rows, list(itertools.compress(rows, squares)))


# Files of Keras 3.15 name settings of layers that older versions do not know.
needs_keras_3_15 = pytest.mark.skipif(
    [int(number) for number in keras.version().split(".")[:2]] < [3, 15],
    reason="older versions of Keras cannot read models that Keras 3.15 has saved",
)


def splits():
    return data(64), data(32, seed=1), data(32, seed=2)


def build(dropout=0.3, names=("hidden", "norm", "output")):
    """Builds dense, batch normalization, dropout, dense: 90 prunable weights."""
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
    kwargs.setdefault("jit_compile", JIT)
    model.compile(
        optimizer or keras.optimizers.Adam(0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        # With a name, Keras would create the variables within the first trace, and then
        # trace the step again.
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
        **kwargs,
    )
    return model


def network(optimizer=None, seed=0, **kwargs):
    """Returns the wrapped and compiled model, with the weights of a seed.

    Tracing takes longer than training. So the model of an earlier test is reset to its
    initial state and returned again, but only once within a test.
    """
    optimizer = optimizer or keras.optimizers.Adam(0.01)
    made_by = json.dumps(
        [keras.optimizers.serialize(optimizer), seed, kwargs], sort_keys=True
    )
    test = os.environ["PYTEST_CURRENT_TEST"].rsplit(" ", 1)[0]
    for made in _networks[made_by]:
        if made.test != test and made.as_it_was():
            made.test = test
            return made.model
    keras.utils.set_random_seed(seed)
    model = compiled(tt.wrap(build(**kwargs), verbose=False), optimizer)
    _networks[made_by].append(_Network(model, test))
    return model


class _Network:
    """A model, and the initial values of its whole state."""

    def __init__(self, model, test):
        self.model, self.test = model, test
        self.optimizer = model.optimizer
        self.optimizer.build(model.trainable_variables)
        self.values = [(v, snapshots.to_numpy(v)) for v in self._variables()]
        self.drawn = random.getstate(), np.random.get_state()

    def _variables(self):
        return [*self.model.variables, *self.optimizer.variables]

    def as_it_was(self):
        """Restores all values; returns whether the model equals the initial one."""
        variables = [variable for variable, _ in self.values]
        if self.model.optimizer is not self.optimizer:
            return False
        if list(map(id, self._variables())) != list(map(id, variables)):
            return False
        for variable, value in self.values:
            variable.assign(value)
        random.setstate(self.drawn[0])
        np.random.set_state(self.drawn[1])
        return True


_networks = collections.defaultdict(list)


def build_compiled():
    return compiled(build())


def build_without_dropout():
    """Builds the model with a schedule, so the position on it matters."""
    decay = keras.optimizers.schedules.CosineDecay(0.05, 40)
    return compiled(build(dropout=0.0), keras.optimizers.SGD(decay, momentum=0.9))


def imp(fidelity="weights", tolerance=0.0, monitor="accuracy", **kwargs):
    arguments = {"rounds": 3, "epochs_per_round": 2, "rate": 0.3, **kwargs}
    rewind_to = tt.Rewind(arguments.pop("rewind_to", "init"), fidelity)
    return tt.IMP(
        **arguments, rewind_to=rewind_to, monitor=tt.Monitor(monitor, tolerance)
    )


def run(model, search, callbacks=None, **kwargs):
    """Runs a whole search in one `fit` of 4 steps per epoch; returns the logs."""
    x, y = data()
    arguments = {
        "epochs": search.epochs,
        "batch_size": 16,
        "shuffle": False,
        "verbose": 0,
    }
    arguments["callbacks"] = [search] if callbacks is None else callbacks
    return model.fit(x, y, **{**arguments, **kwargs}).history


def printed(script):
    """Returns what a script prints in a separate process, even if it fails."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = warm.run([sys.executable, "-c", script], env=environment)
    return result.stdout, result.stderr


class Diary(keras.callbacks.Callback):
    """Records the whole state before and after each epoch."""

    def __init__(self):
        super().__init__()
        self.before, self.after = [], []

    def on_epoch_begin(self, epoch, logs=None):
        self.before.append(snapshots.record(self.model))

    def on_epoch_end(self, epoch, logs=None):
        self.after.append(snapshots.record(self.model))


def flat(state, parts=PARTS):
    """Returns the arrays of some parts of a state."""
    return [array for part in parts for array in state[part].values()]


def same(left, right):
    """Returns whether two lists of arrays are equal bit for bit."""
    return [a.tobytes() for a in left] == [b.tobytes() for b in right]


def half(model, seed=4):
    """Returns random masks that keep half of each kernel, by path."""
    rng = np.random.default_rng(seed)
    return {
        path: rng.permutation(np.arange(m.size) % 2 == 0).reshape(m.shape)
        for path, m in wrapping.kernels(model).masks.items()
    }


def pruned_weights(model):
    """Returns the stored values of all pruned weights in one array."""
    masks = wrapping.kernels(model).masks
    kernels = wrapping.kernels(model).variables.items()
    return np.concatenate([wrapping.to_numpy(v)[~masks[p]] for p, v in kernels])
