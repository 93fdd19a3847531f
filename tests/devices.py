"""Searches on two devices of one machine, beside the same searches on one.

    python -c "import devices; devices.report(['IMP'])"
    python -c "import devices; devices.resumable(FOLDER, 'IMP', EPOCH)"
    python tests/devices.py OUT.json INDEX PORT

The first compares masks on one and two devices, the second runs a search that may be
killed, and the third is one of two processes that train together. The devices are
virtual: two parts of the CPU. They must be configured before the backend starts, so
each program is a process of its own. `benchmarks/devices.py` compares masks on a larger
network.
"""

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import re
import signal
import sys
import time

import keras
import numpy as np
from keras import layers as kl

import tf_tickets as tt
from tf_tickets import wrapping

BACKEND = keras.config.backend()

# What stands between the two dense layers.
BETWEEN = ("nothing", "batch normalization", "synchronized", "halves", "dropout")
# What is compared: the layers of the network on two devices, and on one.
COMPARED = {
    "tensorflow": {
        "nothing": "nothing",
        "batch normalization": "batch normalization",
        "batch normalization, halves on one device": "halves",
        "synchronized batch normalization": "batch normalization",
        "dropout": "dropout",
    },
    "jax": {
        "nothing": "nothing",
        "batch normalization": "batch normalization",
        "dropout": "dropout",
    },
}
ON_TWO = {
    "batch normalization, halves on one device": "batch normalization",
    "synchronized batch normalization": "synchronized",
}


def start():
    """Configures two virtual devices; returns the function that makes their scope."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        cpu = tf.config.list_physical_devices("CPU")[0]
        parts = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(cpu, parts)
        return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope
    import jax

    jax.config.update("jax_num_cpu_devices", 2)
    return keras.distribution.DataParallel().scope


def split_in_two():
    """Returns the scope of a layout that splits a kernel between the devices (JAX)."""
    devices = keras.distribution.list_devices()
    mesh = keras.distribution.DeviceMesh((1, 2), ("batch", "model"), devices)
    layouts = keras.distribution.LayoutMap(mesh)
    layouts[".*hidden/kernel"] = (None, "model")
    return keras.distribution.ModelParallel(layout_map=layouts).scope


@keras.saving.register_keras_serializable("devices")
class Halves(kl.BatchNormalization):
    """Normalizes both halves of a batch by their own statistics."""

    def call(self, inputs, training=None, mask=None):
        if not training:
            return super().call(inputs, training=False)
        halves = keras.ops.split(inputs, 2)
        moments = [keras.ops.moments(half, axes=[0]) for half in halves]
        averages = (self.moving_mean, self.moving_variance)
        for average, values in zip(averages, zip(*moments, strict=True), strict=True):
            mean = sum(values) / 2
            average.assign(average * self.momentum + mean * (1 - self.momentum))
        outputs = [
            keras.ops.batch_normalization(
                half, *moment, -1, self.beta, self.gamma, self.epsilon
            )
            for half, moment in zip(halves, moments, strict=True)
        ]
        return keras.ops.concatenate(outputs)


def _between(name):
    return {
        "nothing": lambda: [],
        "batch normalization": lambda: [kl.BatchNormalization(name="norm")],
        "synchronized": lambda: [kl.BatchNormalization(name="norm", synchronized=True)],
        "halves": lambda: [Halves(name="norm")],
        "dropout": lambda: [kl.Dropout(0.3, seed=1, name="drop")],
    }[name]()


@dataclasses.dataclass(frozen=True)
class Problem:
    """A network of two dense layers, and its data.

    Args:
        digits: Whether the data are images of digits instead of random numbers.
    """

    digits: bool = False

    @functools.cached_property
    def data(self):
        if not self.digits:
            return tuple(_random(rows, seed) for seed, rows in enumerate((64, 32, 32)))
        data = tt.datasets.load("digits")
        x, y = ([getattr(data, f"{n}_{p}") for p in _PARTS] for n in "xy")
        # JAX evaluates even numbers of rows only on two devices.
        even = [[a[: len(a) // 2 * 2] for a in arrays] for arrays in (x, y)]
        return tuple((a.reshape(len(a), -1), b) for a, b in zip(*even, strict=True))

    @property
    def batch_size(self):
        return 50 if self.digits else 16

    def build(self, between):
        width, units, classes = (64, 32, 10) if self.digits else (6, 10, 3)
        hidden = kl.Dense(units, activation="relu", name="hidden")
        layers = [keras.Input((width,)), hidden, *_between(between)]
        output = kl.Dense(classes, name="output")
        model = keras.Sequential([*layers, output], name="net")
        model.compile(
            keras.optimizers.SGD(0.05, momentum=0.9),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
            jit_compile=BACKEND == "jax",
        )
        return model


_PARTS = ("train", "val", "test")


def _random(rows, seed):
    x = np.random.default_rng(seed).normal(size=(rows, 6)).astype("float32")
    return x, np.argmax(x[:, :3] + 0.5 * x[:, 3:], axis=1)


def _gradual():
    schedule = tt.schedules.PolynomialDecay(0.0, 0.8, 2, 6, frequency=2)
    return tt.GradualPruning(schedule)


SEARCHES = {
    "IMP": lambda: tt.IMP(
        rounds=2,
        epochs_per_round=2,
        rate=0.3,
        rewind_to=tt.Rewind("1 epochs", "exact"),
    ),
    "ContinuousSparsification": lambda: tt.ContinuousSparsification(
        rounds=2, epochs_per_round=2, penalty=1e-3
    ),
    "StochasticSparsification": lambda: tt.StochasticSparsification(
        rounds=2, epochs_per_round=2, initial_score=0.2, penalty=1e-3
    ),
    "DLTH": lambda: tt.DLTH(final_sparsity=0.6, rounds=2, epochs_per_round=2),
    "GradualPruning": _gradual,
}


def run(problem, name, between, scope=contextlib.nullcontext, seed=0, **options):
    """Runs a search in a scope; returns the search and its tickets.

    On TensorFlow it is the scope of the model only.
    """

    def build():
        with scope():
            return problem.build(between)

    search = SEARCHES[name]()
    if isinstance(search, keras.callbacks.Callback) and not hasattr(search, "epochs"):
        options["epochs"] = 2
    # The data and the steps of JAX are distributed by the present distribution.
    with scope() if BACKEND == "jax" else contextlib.nullcontext():
        tickets = tt.find_tickets(
            build,
            problem.data,
            search,
            batch_size=problem.batch_size,
            seed=seed,
            verbose=0,
            **options,
        )
    return search, tickets


def bits(one, two):
    """Returns how many bits of the masks differ, by ticket."""
    return [
        sum(int((a.masks[path] != b.masks[path]).sum()) for path in a.masks)
        for a, b in zip(one, two, strict=True)
    ]


def _local(variable):
    """Returns the values of a variable on all devices."""
    if BACKEND == "tensorflow":
        return [value.numpy() for value in variable.value.values]
    return [np.asarray(shard.data) for shard in variable.value.addressable_shards]


def unequal(model):
    """Returns the paths of variables whose values are not equal on both devices.

    Masks, weights, statistics, seeds and optimizer slots are among them.
    """
    masks = wrapping.kernels(model).mask_layers.values()
    variables = [*model.variables, *model.optimizer.variables]
    variables += [variable for mask in masks for variable in mask.variables]
    values = {variable.path: _local(variable) for variable in variables}
    assert {len(local) for local in values.values()} == {2}
    return [path for path, (a, b) in values.items() if not np.array_equal(a, b, True)]


def unequal_draws(model):
    """Returns the kernels whose masks are drawn differently on two replicas."""
    if BACKEND != "tensorflow":
        return []
    masks = wrapping.kernels(model).mask_layers
    strategy = model.distribute_strategy
    draws = strategy.run(lambda: {p: m.soft(training=True) for p, m in masks.items()})
    local = {p: strategy.experimental_local_results(v) for p, v in draws.items()}
    return [p for p, (a, b) in local.items() if not np.array_equal(a, b)]


def compare(problem, names, scope, compared=None, seed=0):
    """Yields one row for each search and network: what differs on two devices."""
    for name in names:
        on_one = {}
        for label in compared or COMPARED[BACKEND]:
            between = COMPARED[BACKEND][label]
            if between not in on_one:
                on_one[between] = run(problem, name, between, seed=seed)[1]
            one = on_one[between]
            began = time.perf_counter()
            search, two = run(problem, name, ON_TWO.get(label, label), scope, seed)
            model = search.model
            row = {
                "search": name,
                "network": label,
                "seed": seed,
                "bits": bits(one, two),
                "weights": sum(mask.size for mask in one[0].masks.values()),
                "sparsity": [ticket.sparsity for ticket in two],
                "accuracy": [t[-1].metrics["val_accuracy"] for t in (one, two)],
                "unequal": unequal(model),
                "seconds": time.perf_counter() - began,
            }
            if name == "StochasticSparsification":
                row["unequal draws"] = unequal_draws(model)
            yield row


class Kill(keras.callbacks.Callback):
    """Kills the process within an epoch."""

    changes_results = False

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch
        self.present = None

    def on_epoch_begin(self, epoch, logs=None):
        self.present = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.present == self.epoch:
            os.kill(os.getpid(), signal.SIGKILL)


def report(names, compared=None):
    """Prints the rows of `compare` as JSON."""
    print(json.dumps(list(compare(Problem(), names, start(), compared))))


def resumable(folder, name, epoch=-1):
    """Runs a search on two devices that is killed in an epoch; -1 stands for none."""
    options = {"directory": folder, "callbacks": [Kill(epoch)]}
    search, _ = run(Problem(), name, "batch normalization", start(), **options)
    print(json.dumps(unequal(search.model)))


def worker(out, index, port):
    """Tries what two processes can train: plain `fit`, and a search."""
    addresses = [f"localhost:{int(port) + number}" for number in range(2)]
    if BACKEND == "tensorflow":
        import tensorflow as tf

        task = {"type": "worker", "index": int(index)}
        cluster = {"cluster": {"worker": addresses}, "task": task}
        os.environ["TF_CONFIG"] = json.dumps(cluster)
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
        replicas, scope = strategy.num_replicas_in_sync, strategy.scope
    else:
        keras.distribution.initialize(",".join(addresses), 2, int(index))
        distribution = keras.distribution.DataParallel()
        replicas, scope = distribution.num_processes, distribution.scope
    problem = Problem()
    row = {"replicas": replicas}
    # In this order, since a fit that fails in one process may end the other.
    row["find_tickets"] = _error(lambda: run(problem, "IMP", "nothing", scope))

    def fit():
        with scope():
            model = problem.build("nothing")
            model.fit(*problem.data[0], batch_size=16, verbose=0)

    row["fit"] = _error(fit)
    pathlib.Path(out).write_text(json.dumps(row))


def _error(function):
    """Returns the error of a call in one line; None without one."""
    try:
        function()
    except Exception as error:  # noqa: BLE001  it is the result
        # Without the values of tensors.
        text = re.sub(r"\{.*\}", "{...}", str(error), flags=re.DOTALL)
        return f"{type(error).__name__}: {text}"
    return None


if __name__ == "__main__":
    worker(*sys.argv[1:])
