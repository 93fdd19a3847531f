"""The network, data and trainings of one seed of the comparison on CIFAR-10."""

import dataclasses
import datetime
import functools
import json
import os
import pathlib
import platform
import time
from typing import NamedTuple

import keras
import numpy as np

import tf_tickets as tt
from tf_tickets import files
from tf_tickets.callbacks.base import ResumableCallback
from tf_tickets.environment import versions
from tf_tickets.experiments import recipes
from tf_tickets.reports.flops import UseCounter
from tf_tickets.training.snapshots import network

# The epoch that late tickets start from.
LATE = 2
IMAGES_OF_CLASS = 100


class PlainTraining(ResumableCallback):
    """Changes nothing: `find_tickets` then trains a ticket, and resumes its epochs."""


class Log(keras.callbacks.Callback):
    """Writes metrics, seconds and multiply-adds of each epoch, also after a resume.

    Args:
        path: The file.
        dense: Whether to count all multiply-adds, since the masks are being learned.
    """

    def __init__(self, path, dense=False):
        super().__init__()
        self.path = path
        self.dense = dense

    def on_train_begin(self, logs=None):
        kernels = tt.kernels(self.model)
        counter = UseCounter(network(self.model))
        self.uses = {p: counter.uses[id(v)] for p, v in kernels.variables.items()}

    def on_epoch_begin(self, epoch, logs=None):
        self.wall, self.cpu = time.time(), time.process_time()

    def on_epoch_end(self, epoch, logs=None):
        masks = tt.kernels(self.model).masks
        kept = {p: mask.size if self.dense else mask.sum() for p, mask in masks.items()}
        rows = [row for row in read_log(self.path) if row["epoch"] <= epoch]
        rows.append({
            "epoch": epoch + 1,
            **{name: round(float(value), 5) for name, value in (logs or {}).items()},
            "macs": int(sum(self.uses[path] * n for path, n in kept.items())),
            "seconds": round(time.time() - self.wall, 1),
            "cpu_seconds": round(time.process_time() - self.cpu, 1),
        })  # fmt: skip
        replace(self.path, rows)


def read_log(path):
    return json.loads(path.read_text()) if path.exists() else []


class KeepEpoch(keras.callbacks.Callback):
    """Writes a ticket of all weights after an epoch of the dense training."""

    def __init__(self, path, epoch):
        super().__init__()
        self.path, self.epoch = path, epoch

    def on_epoch_end(self, epoch, logs=None):
        if epoch + 1 == self.epoch:
            everything(self.model, self.model.optimizer.iterations).save(self.path)


def everything(model, step=0):
    """Returns a ticket of all present weights of a wrapped model."""
    masks = {p: np.ones_like(m) for p, m in tt.kernels(model).masks.items()}
    weights = tt.snapshots.present_weights(model)
    return tt.Ticket(masks, weights, {}, {"step": int(step)})


class Trained(NamedTuple):
    """A trained ticket: its masks and last weights, its metrics and multiply-adds."""

    ticket: tt.Ticket
    metrics: dict
    macs: int
    folder: str


class Study:
    """Data, network and trainings of one seed.

    Args:
        options: The options of the command line.
        seed: The seed.
    """

    def __init__(self, options, seed):
        self.options = options
        self.seed = seed
        self.epochs = options.epochs
        self.folder = options.work / f"seed{seed}"
        # By the folder of their training, the points that a run need not train again.
        self.known: dict[str, dict] = {}

    @functools.cached_property
    def data(self):
        return read_data(self.options)

    @property
    def images(self):
        return len(self.data.x_train)

    @property
    def batch_size(self):
        return min(recipes.recipe("resnet8").batch_size, self.images // 2)

    @property
    def steps(self):
        return -(-self.images // self.batch_size)

    # Networks.

    def build(self, epochs=None, width=1.0, decay=True):
        """Returns the network of the recipe, with the seed's weights."""
        keras.utils.set_random_seed(self.seed)
        model = recipes.build(
            "resnet8",
            self.data.input_shape,
            self.data.num_classes,
            steps_per_epoch=self.steps,
            epochs=epochs or self.epochs,
            width=width,
            jit_compile=compiled(width < 1),
        )
        if not decay:
            # `recipes.build` has no argument for it.
            steps = self.steps * (epochs or self.epochs)
            model.compile(
                recipes.adamw_with_cosine_decay(steps, weight_decay=0.0),
                model.loss,
                metrics=["accuracy"],
                jit_compile=compiled(width < 1),
            )
        return model

    def started(self, ticket, epochs, width):
        """Returns a function that builds a network with the weights of a ticket."""

        def build():
            mask = "scaled" if ticket.scales else "fixed"
            model = tt.wrap(self.build(epochs, width), mask=mask, verbose=False)
            return ticket.apply(model)

        return build

    @functools.cached_property
    def initial(self):
        """The ticket of all initial weights."""
        return everything(tt.wrap(self.build(), verbose=False))

    # Trainings.

    def dense(self):
        keep = KeepEpoch(self.folder / "late.ticket", LATE)
        return self.train("dense", self.initial, callbacks=[keep])

    def late(self):
        """The ticket of all weights early in the dense training."""
        self.dense()
        return tt.Ticket.load(self.folder / "late.ticket")

    def train(
        self, name, ticket, epochs=None, width=1.0, callback=None, schedule=None,
        callbacks=(),
    ):  # fmt: skip
        """Trains a ticket to its end, from where it was interrupted; returns it.

        Args:
            name: The folder of the training.
            ticket: What it starts from.
            epochs: How many epochs, by default those of all trainings.
            width: The width of the network.
            callback: What prunes in the training.
            schedule: The length of the learning-rate schedule, by default `epochs`.
            callbacks: More callbacks.
        """
        epochs = epochs or self.epochs
        folder = self.folder / name
        self.note_origin(folder, width)
        log = Log(folder / "epochs.json")
        [trained] = tt.find_tickets(
            self.started(ticket, schedule or epochs, width),
            self.data,
            callback or PlainTraining(),
            folder,
            self.seed,
            epochs=epochs,
            batch_size=self.batch_size,
            callbacks=[log, *callbacks],
            verbose=0,
        )
        macs = sum(row["macs"] for row in read_log(log.path))
        return Trained(trained, trained.metrics, macs, name)

    def search(self, name, search, build=None, learned=False):
        """Runs a search; returns its tickets with epochs and MACs until each."""
        folder = self.folder / name
        self.note_origin(folder)
        log = Log(folder / "epochs.json", dense=learned)
        tickets = tt.find_tickets(
            build or self.build,
            self.data,
            search,
            folder,
            self.seed,
            batch_size=self.batch_size,
            callbacks=[log],
            verbose=0,
        )
        rows = read_log(log.path)
        found = []
        for ticket in tickets:
            epochs = search.engine.epochs_before(ticket.provenance["round"])
            macs = sum(row["macs"] for row in rows[:epochs])
            found.append((ticket, epochs, macs))
        return found

    def note_origin(self, folder, width=1.0):
        """Writes at its start on what a training is made; refuses one made otherwise.

        Args:
            folder: The folder of the training.
            width: The width of the network.
        """
        path = folder / "made.json"
        xla = compiled(width < 1)
        if path.exists():
            begun = json.loads(path.read_text())
            if begun["xla"] != xla:
                raise SystemExit(
                    f"The training in {folder} was begun with xla={begun['xla']}, and "
                    f"would go on with xla={xla}. Remove the folder to train it again."
                )
        elif not (folder / "epochs.json").exists():
            replace(path, {**made_here(self.options), "xla": xla})

    def point(self, trained, epochs, macs=0, width=1.0, **more):
        """Returns what is reported of a trained ticket.

        Args:
            trained: The trained ticket.
            epochs: The epochs that were spent until it was known.
            macs: The multiply-adds of an example in these epochs, summed.
            width: The width of the network.
            **more: What else is reported.
        """
        whole = sum(mask.size for mask in self.initial.masks.values())
        kept = sum(trained.ticket.kept.values())
        rest = sum(w.size for w in trained.ticket.weights.values()) - sum(
            mask.size for mask in trained.ticket.masks.values()
        )
        own = len(read_log(self.folder / trained.folder / "epochs.json"))
        return {
            "sparsity": 1 - kept / whole,
            "kept": kept / whole,
            "parameters": kept + rest,
            "epochs": epochs + own,
            "val_accuracy": trained.metrics["val_accuracy"],
            "test_accuracy": trained.metrics["test_accuracy"],
            # Forward, and backward for inputs and for weights; 2 FLOPs each.
            "training_flops": 6 * self.images * (macs + trained.macs),
            "width": width,
            "xla": compiled(width < 1),
            "folder": trained.folder,
            **more,
        }

    def balanced(self):
        """Returns as many training images of each class, for scores."""
        count = min(IMAGES_OF_CLASS, self.images // self.data.num_classes // 2)
        return self.data.balanced(count, self.seed)

    def masked(self, ticket, masks):
        """Returns a ticket with other masks."""
        provenance = {"step": ticket.provenance["step"]}
        return dataclasses.replace(ticket, masks=masks, provenance=provenance)


def made_here(options):
    """Returns on what a training is made that begins now."""
    return {
        "machine": {
            "cores": os.cpu_count(),
            "threads": options.threads,
            "processor": platform.machine(),
            "cpu": cpu_model(),
            "onednn": os.environ.get("TF_ENABLE_ONEDNN_OPTS", "default"),
        },
        "versions": versions(),
        "date": f"{datetime.date.today():%Y-%m-%d}",
    }


def cpu_model():
    """Returns the name of the processor, family and model where the system has it."""
    info = pathlib.Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor()
    pairs = [line.partition(":") for line in info.read_text().splitlines()]
    found = {key.strip(): value.strip() for key, _, value in reversed(pairs)}
    names = ("model name", "cpu family", "model")
    return ", ".join(found[name] for name in names if name in found)


def replace(path, content):
    """Writes a JSON file as a whole or not at all."""
    with files.replacing(path) as draft:
        draft.write_text(json.dumps(content, indent=1))


def compiled(narrow):
    """Returns whether steps are compiled with XLA, which is slower in TensorFlow.

    Narrow networks have to be: without XLA, TensorFlow may take kernels of oneDNN that
    write past their memory if a shortcut has few channels (`onednn_writes.py`).
    """
    return keras.config.backend() != "tensorflow" or narrow


def read_data(options):
    """Returns the data; with `--quick`, random images of the same shapes."""
    if options.quick:
        rng = np.random.default_rng(0)
        parts = {
            f"{kind}_{part}": values
            for part, count in (("train", 96), ("val", 32), ("test", 32))
            for kind, values in (
                ("x", rng.normal(size=(count, 32, 32, 3)).astype("float32")),
                ("y", np.arange(count) % 10),
            )
        }
        return tt.datasets.Dataset("cifar10", **parts)
    return tt.datasets.load("cifar10", options.data_dir)
