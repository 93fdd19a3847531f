"""What all programs of benchmarks/peers.py share; needs NumPy alone.

A program is called with one argument, the JSON of a job, and writes its results to
`job["out"]` as JSON. It reads the same arrays and keeps each level in `job["folder"]`.
"""

import json
import pathlib
import statistics
import sys
import time

import numpy as np


def read():
    """Returns the job that this program was called with."""
    return json.loads(sys.argv[1])


def data(job):
    """Returns training and test data: images of mean 0, float32, and labels."""
    found = []
    with np.load(job["data"]) as arrays:
        for part in ("train", "test"):
            pixels = arrays[f"x_{part}"].astype("float32")
            pixels /= 255.0
            pixels -= job["mean"]
            pixels /= job["deviation"]
            found.append((pixels, arrays[f"y_{part}"].astype("int32")))
    return found


def level_path(job, level, suffix):
    folder = pathlib.Path(job["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"level_{level}.{suffix}"


class Epochs:
    """Times the training of epochs, and collects accuracies of levels.

    Evaluation is not part of an epoch's time. The first epoch of each training is left
    out of the median, since libraries compile in it.
    """

    def __init__(self, steps):
        self.steps = steps
        self.seconds = []
        self.first = True

    def training(self):
        """Begins a training."""
        self.first = True

    def begin(self):
        self.began = time.perf_counter()

    def end(self):
        if not self.first:
            self.seconds.append(time.perf_counter() - self.began)
        self.first = False

    def step_seconds(self):
        """Returns the median seconds of a step."""
        return statistics.median(self.seconds) / self.steps


def write(job, epochs, accuracies, sparsities, weights, versions):
    """Writes the results.

    Args:
        job: The job.
        epochs: The `Epochs` of the program.
        accuracies: Test accuracy of each level after its last epoch.
        sparsities: Fraction of zeros among the prunable weights, of each level.
        weights: Number of weights of the network, with moving statistics.
        versions: Versions of the libraries.
    """
    found = {
        "step_seconds": epochs.step_seconds(),
        # On JAX, earlier files have the times until the last steps were dispatched.
        "last_step_awaited": True,
        "accuracies": [float(accuracy) for accuracy in accuracies],
        "sparsities": [float(sparsity) for sparsity in sparsities],
        "weights": int(weights),
        "versions": versions,
    }
    pathlib.Path(job["out"]).write_text(json.dumps(found))


def global_masks(weights, masks, rate):
    """Returns masks without the smallest fraction of the remaining weights.

    Args:
        weights: Dict of NumPy arrays.
        masks: Dict of boolean arrays with the same keys.
        rate: Fraction to prune, 0 to 1.
    """
    remaining = np.concatenate([np.abs(weights[key][masks[key]]) for key in masks])
    pruned = round(rate * remaining.size)
    threshold = np.partition(remaining, pruned)[pruned]
    return {key: masks[key] & (np.abs(weights[key]) >= threshold) for key in masks}


def sparsity(masks):
    """Returns the fraction of zeros of a dict of masks."""
    kept = sum(int(mask.sum()) for mask in masks.values())
    return 1.0 - kept / sum(mask.size for mask in masks.values())
