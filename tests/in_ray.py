"""A frontier of a program whose classes and functions no other process can import.

`python in_ray.py serial|ray DIRECTORY [FAULTS]`. With a folder of faults, the search
kills its worker once ("worker"), or waits in its second round ("waits"). The epochs
that searches begin with are written there, into "starts".
"""

import os
import pathlib
import signal
import sys
import time

import keras
import numpy as np

import tf_tickets as tt


@keras.saving.register_keras_serializable("in_ray")
class Twice(keras.layers.Layer):
    def call(self, x):
        return 2 * x


def build():
    layers = [
        keras.Input((6,), name="inputs"),
        keras.layers.Dense(10, activation="relu", name="hidden"),
        Twice(name="twice"),
        keras.layers.Dense(3, name="output"),
    ]
    model = keras.Sequential(layers, name="net")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
    return model


def part(size, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(size, 6)).astype("float32")
    return x, np.argmax(x[:, :3] + 0.5 * x[:, 3:], axis=1)


class Faults(keras.callbacks.Callback):
    """Interrupts the search in its second round; which counts for no identity."""

    changes_results = False

    def __init__(self, folder):
        super().__init__()
        self.folder = pathlib.Path(folder)
        self.is_first = True

    def on_train_begin(self, logs=None):
        self.is_first = True

    def on_epoch_begin(self, epoch, logs=None):
        if self.is_first:
            with open(self.folder / "starts", "a") as file:
                file.write(f"{epoch}\n")
        self.is_first = False
        if epoch == 3 and self._once("worker"):
            os.kill(os.getpid(), signal.SIGKILL)
        if epoch == 3 and self._once("waits"):
            (self.folder / "waiting").touch()
            time.sleep(600)

    def _once(self, kind):
        """Returns whether a fault is to occur; only one process gets it."""
        try:
            (self.folder / kind).unlink()
        except FileNotFoundError:
            return False
        return True


def main(executor, directory, faults=None):
    data = part(64, 0), part(32, 1), part(32, 2)
    # The teacher's weights are drawn here.
    keras.utils.set_random_seed(7)
    searches = {
        "imp": tt.IMP(2, 2, 0.5, criterion=lambda weight: abs(weight)),
        "taught": tt.KDLTS(0.5, 1).taught_by(build()),
    }
    if executor == "ray":
        memory = 200_000_000
        executor = tt.executors.RayExecutor(workers=2, object_store_memory=memory)
    callbacks = [Faults(faults)] if faults else []
    frontier = tt.find_frontier(
        build,
        data,
        searches,
        directory,
        seeds=[0, 1],
        epochs=1,
        batch_size=16,
        callbacks=callbacks,
        executor=executor,
    )
    if executor != "serial":
        executor.shutdown()
    print([(point.label, point.seed, point.round) for point in frontier.points])
    print([len(search.tickets) for search in searches.values()])


if __name__ == "__main__":
    main(*sys.argv[1:])
