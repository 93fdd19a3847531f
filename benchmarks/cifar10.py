"""Compares the methods, and what they cost: ResNet-8 on the whole of CIFAR-10.

    KERAS_BACKEND=tensorflow python benchmarks/cifar10.py --data-dir DIR

Every training follows the recipe of ResNet-8 with a cosine decay to its own end, for
`--epochs` epochs: the dense network, every ticket, and the narrower dense networks. So
final trainings are equal, searches are not; each point has the epochs of both. All
trainings of a seed have the same initial weights and the same order of the data. Of the
50,000 training images 5,000 are the validation set, by which settings are chosen;
accuracy is reported on the test set, after the last epoch.

dense                      The network that is pruned, and round 0 of IMP.
dense, twice               The same trained once more from there, without pruning: what
                           GradualPruning is to be compared with.
IMP, init and late         Four rounds to 50, 80, 90 and 95 %. Tickets start from the
                           initial weights, or from those after two epochs.
GradualPruning, trained    Prunes the trained dense network in the first half of one
                           more training.
GradualPruning, scratch    Prunes a new network, trained for twice as many epochs.
ContinuousSparsification   Two rounds from a low and from a high initial score. Its
                           sparsities follow from them.
random                     Random masks with ERK allocation.
narrow                     Dense networks with fewer channels, and as many weights as a
                           ticket keeps.
UniLTH, UniDLTH            Four rounds to 95 %, without weight decay in the search,
                           which these methods refuse.
DLTH, KDLTS                One search for each sparsity.
SNIP, SynFlow, RigL        Pruned before the training; RigL exchanges weights in it.
inverted                   Keeps the smallest weights of the trained dense network, from
                           the initial weights: as many in each kernel as a ranking of
                           all its kernels together leaves.

Each run writes a file into results/cifar10, which grows by one point for each trained
ticket. The same command resumes: trainings and the rounds of GradualPruning and RigL
after their last epoch, other searches after their last round. Without the work folder
of the command before, points that need no other training than the dense one are kept,
and the others are trained again. Each point says on what it was made, and what accuracy
the dense network had that it started from. `--status` lists what is done. `--export`
adds the size of the int8 file for microcontrollers to points whose ticket is still in
`--work`.
"""

import argparse
import dataclasses
import datetime
import functools
import json
import os
import pathlib
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import keras
import numpy as np

import tf_tickets as tt
from tf_tickets.callbacks.base import ResumableCallback
from tf_tickets.environment import versions
from tf_tickets.experiments import recipes
from tf_tickets.pruning import allocation, saliency, selection
from tf_tickets.reports.flops import UseCounter
from tf_tickets.training.snapshots import network

HERE = pathlib.Path(__file__).parent
SPARSITIES = (0.5, 0.8, 0.9, 0.95)
# The epoch that late tickets start from.
LATE = 2
TEACHERS = 3
SCORES = {"low-score": -0.03, "high-score": 0.03}
IMAGES_OF_CLASS = 100
CALIBRATION = 500


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

    def origin(self, name):
        """Returns on what a training was made; None if it did not say so."""
        path = self.folder / name / "made.json"
        return json.loads(path.read_text()) if path.exists() else None

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


def replace(path, content):
    """Writes a JSON file as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(content, indent=1))
    draft.replace(path)


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


# The methods: generators of points.


def dense(study):
    yield study.point(study.dense(), 0)


def dense_twice(study):
    first = study.dense()
    name = "dense-twice"
    yield study.known.get(name) or study.point(
        study.train(name, trained_on(study, first)),
        study.epochs,
        first.macs,
        dense_accuracy=accuracy_of(first),
    )


def trained_on(study, dense_):
    """Returns the ticket of all trained weights at the start of a new schedule."""
    start = study.masked(dense_.ticket, study.initial.masks)
    start.provenance["step"] = 0
    return start


def imp(study, setting):
    last = first = study.dense()
    start = study.initial if setting == "init" else study.late()
    epochs = study.epochs - (LATE if setting == "late" else 0)
    spent, macs = study.epochs, last.macs
    for sparsity in SPARSITIES:
        masks = smallest_removed(last.ticket, sparsity)
        name = training("IMP", setting, sparsity)
        ticket = study.masked(start, masks)
        last = study.train(name, ticket, epochs, schedule=study.epochs)
        yield study.point(last, spent, macs, dense_accuracy=accuracy_of(first))
        spent, macs = spent + epochs, macs + last.macs


def smallest_removed(ticket, sparsity):
    """Returns the masks of the largest trained weights, ranked together."""
    weights = ticket.start_weights()
    scores = {path: np.abs(weights[path]) for path in ticket.masks}
    size = sum(mask.size for mask in ticket.masks.values())
    keep = size - round(sparsity * size)
    return selection.choose(scores, ticket.masks, keep, allocation.global_)


def gradual(study, setting):
    if setting == "trained":
        trained = study.dense()
        start = trained_on(study, trained)
        epochs, spent, macs = study.epochs, study.epochs, trained.macs
    else:
        start, epochs, spent, macs = study.initial, 2 * study.epochs, 0, 0
    for sparsity in SPARSITIES:
        last = study.steps * epochs // 2
        schedule = tt.schedules.PolynomialDecay(
            0.0, sparsity, begin_step=1, end_step=last, frequency=study.steps // 2
        )
        pruning = tt.GradualPruning(schedule, seed=study.seed)
        name = training("GradualPruning", setting, sparsity)
        more = {"dense_accuracy": accuracy_of(trained)} if spent else {}
        yield study.known.get(name) or study.point(
            study.train(name, start, epochs, callback=pruning), spent, macs, **more
        )


def accuracy_of(trained):
    return trained.metrics["test_accuracy"]


def continuous(study, setting):
    name = f"ContinuousSparsification-{setting}"
    search = tt.ContinuousSparsification(
        2, study.epochs, SCORES[setting], seed=study.seed
    )
    for round_, point in enumerate(searched(study, name, search, learned=True), 1):
        yield point | {"round": round_, "initial_score": SCORES[setting]}


def searched(study, name, search, build=None, learned=False, spent=0, macs=0):
    """Yields the points of a search's tickets, each trained."""
    for number, (ticket, epochs, cost) in enumerate(
        study.search(name, search, build, learned), 1
    ):
        trained = study.train(f"{name}-ticket-{number}", ticket)
        yield study.point(trained, spent + epochs, macs + cost)


def at_init(study, method):
    x, y = study.balanced()
    criterion = {
        "SNIP": saliency.SNIP(x, y, batch_size=250),
        "SynFlow": "synflow",
        "random": "random",
    }[method]
    allocate = "erk" if method == "random" else "global"
    for sparsity in SPARSITIES:
        search = tt.PruneAtInit(
            sparsity, study.epochs, criterion, allocate, seed=study.seed
        )
        masks = search.prune(tt.wrap(study.build(), verbose=False)).masks
        ticket = study.masked(study.initial, masks)
        name = training(method, None, sparsity)
        yield study.known.get(name) or study.point(study.train(name, ticket), 0)


def narrow(study):
    for sparsity in SPARSITIES:
        width = width_of(sparsity)
        start = everything(tt.wrap(study.build(width=width), verbose=False))
        name = training("narrow", None, sparsity)
        yield study.known.get(name) or study.point(
            study.train(name, start, width=width), 0, width=width
        )


@functools.cache
def width_of(sparsity):
    """Returns the width whose kernels have about as many weights as a ticket keeps."""
    shape, classes = (32, 32, 3), 10

    def size(width):
        model = tt.models.resnet8(shape, classes, width)
        return sum(w.size for w in tt.summary(model).rows)

    wanted = (1 - sparsity) * size(1.0)
    # Between these widths the number of channels of a block changes.
    widths = [n / 64 for n in range(4, 65)]
    return min(widths, key=lambda width: abs(size(width) - wanted))


def uni(study, method):
    kind = {"UniLTH": tt.UniLTH, "UniDLTH": tt.UniDLTH}[method]
    search = kind(
        SPARSITIES[-1],
        len(SPARSITIES),
        tt.StageOne(study.epochs, tt.EarlyStopRewind(patience=3)),
        study.epochs // 3,
        study.epochs,
        train="none",
        seed=study.seed,
    )
    build = functools.partial(study.build, decay=False)
    yield from searched(study, method, search, build)


def dlth(study):
    for sparsity in SPARSITIES:
        search = tt.DLTH(
            sparsity,
            1,
            study.epochs // 2,
            study.epochs,
            train="none",
            seed=study.seed,
        )
        build = functools.partial(study.build, study.epochs // 2, decay=False)
        name = training("DLTH", None, sparsity)
        yield from searched(study, name, search, build)


def kdlts(study):
    length = study.epochs // 3
    build = functools.partial(study.build, length)
    teachers = tt.train_teachers(
        build,
        study.data,
        [length] * TEACHERS,
        study.folder / "KDLTS-teachers",
        study.seed,
        batch_size=study.batch_size,
    )
    spent = TEACHERS * length
    macs = spent * dense_macs(study)
    build = functools.partial(study.build, study.epochs // 2)
    for sparsity in SPARSITIES:
        search = tt.KDLTS(sparsity, study.epochs // 2, seed=study.seed)
        search = search.taught_by(*teachers)
        name = training("KDLTS", None, sparsity)
        yield from searched(study, name, search, build, True, spent, macs)


def dense_macs(study):
    return tt.summary(study.build()).flops


def rigl(study):
    x, y = study.balanced()
    for sparsity in SPARSITIES:
        exchange = tt.DynamicSparsity(
            sparsity,
            saliency.DenseGradient(x, y, batch_size=250),
            interval=max(1, min(100, study.steps // 2)),
            seed=study.seed,
        )
        name = training("RigL", None, sparsity)
        yield study.known.get(name) or study.point(
            study.train(name, study.initial, callback=exchange), 0
        )


def inverted(study):
    trained = study.dense()
    weights = trained.ticket.start_weights()
    scores = {path: -np.abs(weights[path]) for path in trained.ticket.masks}
    for sparsity in SPARSITIES:
        counts = smallest_removed(trained.ticket, sparsity)
        keep = {path: int(mask.sum()) for path, mask in counts.items()}
        masks = selection.choose(scores, study.initial.masks, keep)
        ticket = study.masked(study.initial, masks)
        name = training("inverted", None, sparsity)
        yield study.known.get(name) or study.point(
            study.train(name, ticket),
            study.epochs,
            trained.macs,
            dense_accuracy=accuracy_of(trained),
        )


def training(method, setting, sparsity):
    """Returns the folder of a training."""
    parts = [method, setting, f"{round(100 * sparsity)}"]
    return "-".join(part for part in parts if part)


class Run(NamedTuple):
    """One method in one setting.

    Args:
        method: The method, by its class.
        setting: What distinguishes it from the method's other runs.
        points: Generator of its points from a study.
        trainings: Function from the number of epochs to those of each folder.
        apart: Whether a point needs no other training of the run.
    """

    method: str
    setting: str
    points: Callable[[Study], Iterator[dict]]
    trainings: Callable[[int], dict[str, int]]
    apart: bool = False

    @property
    def name(self):
        return f"{self.method}-{self.setting}"

    def networks(self, length):
        """Returns how many trained networks the run reports."""
        names = self.trainings(length)
        tickets = [name for name in names if "-ticket-" in name]
        return len(tickets or names)


def each(method, setting, epochs):
    """Returns the trainings of a run with one for each sparsity."""

    def trainings(length):
        return {training(method, setting, s): epochs(length) for s in SPARSITIES}

    return trainings


def with_search(name, rounds, search):
    """Returns the trainings of a search and of its tickets."""

    def trainings(length):
        tickets = {f"{name}-ticket-{n + 1}": length for n in range(rounds)}
        return {name: search(length), **tickets}

    return trainings


def with_searches(method, search):
    """Returns the trainings of one search for each sparsity, and of its ticket."""

    def trainings(length):
        found = {}
        for sparsity in SPARSITIES:
            name = training(method, None, sparsity)
            found |= {name: search(length), f"{name}-ticket-1": length}
        return found

    return trainings


def whole(length):
    return length


def _rounds(length):
    return length + len(SPARSITIES) * (length // 3)


_at = functools.partial
FIRST = (
    Run("dense", "recipe", dense, lambda length: {"dense": length}),
    Run(
        *("dense", "twice", dense_twice),
        trainings=lambda length: {"dense-twice": length},
        apart=True,
    ),
    Run("IMP", "init", _at(imp, setting="init"), each("IMP", "init", whole)),
    Run(
        "IMP",
        "late",
        _at(imp, setting="late"),
        each("IMP", "late", lambda length: length - LATE),
    ),
    Run(
        "GradualPruning",
        "trained",
        _at(gradual, setting="trained"),
        each("GradualPruning", "trained", whole),
        apart=True,
    ),
    *(
        Run(
            "ContinuousSparsification",
            setting,
            _at(continuous, setting=setting),
            with_search(
                f"ContinuousSparsification-{setting}", 2, lambda length: 2 * length
            ),
        )
        for setting in SCORES
    ),
    Run(
        "random",
        "erk",
        _at(at_init, method="random"),
        each("random", None, whole),
        apart=True,
    ),
    Run("narrow", "width", narrow, each("narrow", None, whole), apart=True),
)
SECOND = (
    *(
        Run(
            method, "4-rounds", _at(uni, method=method), with_search(method, 4, _rounds)
        )
        for method in ("UniLTH", "UniDLTH")
    ),
    Run("DLTH", "1-round", dlth, with_searches("DLTH", lambda length: length // 2)),
    Run(
        "KDLTS",
        "3-teachers",
        kdlts,
        lambda length: {
            "KDLTS-teachers": TEACHERS * (length // 3),
            **with_searches("KDLTS", lambda length: length // 2)(length),
        },
    ),
    *(
        Run(
            method,
            "init",
            _at(at_init, method=method),
            each(method, None, whole),
            apart=True,
        )
        for method in ("SNIP", "SynFlow")
    ),
    Run("RigL", "erk", rigl, each("RigL", None, whole), apart=True),
    Run("inverted", "init", inverted, each("inverted", None, whole), apart=True),
    Run(
        "GradualPruning",
        "scratch",
        _at(gradual, setting="scratch"),
        each("GradualPruning", "scratch", lambda length: 2 * length),
        apart=True,
    ),
)
RUNS = {run.name: run for run in (*FIRST, *SECOND)}


def plan(seeds):
    """Returns pairs of a run and a seed, the most important ones first."""
    first = [(run, seed) for seed in seeds for run in FIRST]
    return first + [(run, seed) for run in SECOND for seed in seeds[:1]]


def write_plan(options):
    """Writes the epochs and networks of all runs, for the tables."""
    rows = [
        {
            "method": run.method,
            "setting": run.setting,
            "seed": seed,
            "epochs": sum(run.trainings(options.epochs).values()),
            "networks": run.networks(options.epochs),
        }
        for run, seed in plan(options.seeds)
    ]
    content = {"command": command(options), "epochs": options.epochs, "runs": rows}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "plan.json").write_text(json.dumps(content, indent=1))


def command(options):
    return (
        f"KERAS_BACKEND={keras.config.backend()} python benchmarks/cifar10.py "
        f"--data-dir DIR --epochs {options.epochs} --threads {options.threads}"
        + (" --quick" if options.quick else "")
    )


def file_of(options, run, seed):
    return options.out / f"{run.name}-{seed}.json"


def cpu_model():
    """Returns the name of the processor, family and model where the system has it."""
    info = pathlib.Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor()
    pairs = [line.partition(":") for line in info.read_text().splitlines()]
    found = {key.strip(): value.strip() for key, _, value in reversed(pairs)}
    names = ("model name", "cpu family", "model")
    return ", ".join(found[name] for name in names if name in found)


def content_of(options, run, seed):
    """Returns what the file of a run holds, also if there is none."""
    path = file_of(options, run, seed)
    if path.exists():
        return json.loads(path.read_text())
    return {"complete": False, "points": [], "by_epoch": {}}


def complete(options, run, seed):
    """Returns whether a run is done; refuses the file of another command."""
    content = content_of(options, run, seed)
    given, other = command(options), content.get("command")
    if other not in (None, given):
        raise SystemExit(
            f"{file_of(options, run, seed)} is of another command. Received: {given}. "
            f"The file has: {other}. Pass another --out and --work, or remove it."
        )
    return content["complete"] and len(valid(content["points"])) == len(
        content["points"]
    )


def kept_of(run, before):
    """Returns the points of a run's file that need not be trained again, by folder."""
    if not run.apart:
        return {}
    return {point["folder"]: point for point in valid(before["points"])}


def valid(points):
    """Leaves out narrow networks that were trained without XLA (`compiled`)."""
    return [p for p in points if p.get("xla", False) == compiled(p["width"] < 1)]


def same(point, other):
    """Returns whether two points are of the same trained ticket."""
    names = ("folder", "kept", "epochs", "val_accuracy", "test_accuracy")
    return all(point[name] == other[name] for name in names)


def perform(options, study, run):
    """Runs what a run lacks, and writes each point at once."""
    path = file_of(options, run, study.seed)
    before = content_of(options, run, study.seed)
    points = []
    trainings = run.trainings(options.epochs)
    study.known = kept_of(run, before)

    def by_epoch(name):
        log = read_log(study.folder / name / "epochs.json")
        if not log and name in study.known:
            log = before["by_epoch"].get(name, [])
        return log

    def write(is_complete):
        reported = {point["folder"] for point in points}
        rest = [p for name, p in study.known.items() if name not in reported]
        present = content_of(options, run, study.seed)
        content = {
            "method": run.method,
            "setting": run.setting,
            "seed": study.seed,
            "command": command(options),
            "training_images": study.images,
            "epochs": {
                "search": max((p["epochs"] - p["own"] for p in points), default=0),
                "final": max((p["own"] for p in points), default=0),
            },
            "complete": is_complete,
            "points": [
                {k: v for k, v in p.items() if k != "own"}
                for p in with_bytes([*points, *rest], present)
            ],
            "by_epoch": {name: by_epoch(name) for name in trainings if by_epoch(name)},
        }  # fmt: skip
        replace(path, content)

    # If nothing is left to train, nothing that it would start from is trained either.
    done = set(trainings) <= study.known.keys()
    for point in list(study.known.values()) if done else run.points(study):
        point = {**point, **known_of(point, study, before)}
        point["own"] = len(by_epoch(point["folder"]))
        points.append(point)
        write(False)
        print(
            f"{datetime.datetime.now():%H:%M} {run.name}-{study.seed} "
            f"kept {point['kept']:.4f} test {point['test_accuracy']:.4f}",
            flush=True,
        )
    write(True)


def with_bytes(points, present):
    """Returns points with the bytes that `--export` has added to the file meanwhile."""
    known = {p["folder"]: p for p in present["points"] if "int8_bytes" in p}
    return [
        {**point, "int8_bytes": known[point["folder"]]["int8_bytes"]}
        if point["folder"] in known and same(point, known[point["folder"]])
        else point
        for point in points
    ]


def known_of(point, study, before):
    """Returns on what a point was made, and its bytes if they are known."""
    earlier = [other for other in before["points"] if same(point, other)]
    found = {}
    for other in earlier:
        found |= {k: other[k] for k in ("made", "int8_bytes") if k in other}
    made = study.origin(point["folder"])
    if made:
        found["made"] = made
    return {"made": made_here(study.options), **found}


def status(options):
    """Prints the epochs that are done and left, by run."""
    total = done = 0
    for run, seed in plan(options.seeds):
        trainings = run.trainings(options.epochs)
        whole_run = sum(trainings.values())
        kept = kept_of(run, content_of(options, run, seed))
        folder = options.work / f"seed{seed}"
        here = sum(
            count if name in kept else epochs_in(folder / name, count)
            for name, count in trainings.items()
        )
        here = whole_run if complete(options, run, seed) else here
        total, done = total + whole_run, done + here
        print(f"{run.name}-{seed}: {here} of {whole_run} epochs")
    print(f"{done} of {total} epochs done, {total - done} left")


def epochs_in(folder, count):
    """Returns how many epochs a folder has; teachers are there or not."""
    if any(folder.glob("teacher_*")):
        return count
    return len(read_log(folder / "epochs.json"))


# Sizes on a microcontroller.


def export(options):
    """Adds the bytes of the int8 file to points whose trained ticket is kept."""
    for run, seed in plan(options.seeds):
        path = file_of(options, run, seed)
        if not path.exists():
            continue
        study = Study(options, seed)
        for point in json.loads(path.read_text())["points"]:
            file = study.folder / point["folder"] / "round_01.ticket"
            if "int8_bytes" in point or not file.exists():
                continue
            # It may have been trained again, with other results.
            trained = tt.Ticket.load(file).metrics["test_accuracy"]
            if trained != point["test_accuracy"]:
                print(path.name, point["folder"], "is of another training", flush=True)
                continue
            size = int8_bytes(study, file, point["width"])
            # A run may have added points meanwhile.
            content = json.loads(path.read_text())
            for each in content["points"]:
                if same(each, point):
                    each["int8_bytes"] = size
            replace(path, content)
            print(path.name, point["folder"], size, flush=True)


def int8_bytes(study, file, width):
    """Returns the bytes of the file for TensorFlow Lite Micro, zeros encoded."""
    ticket = tt.Ticket.load(file)
    model = tt.strip(study.started(ticket, study.epochs, width)())
    drawn = np.random.default_rng(0).permutation(study.images)[:CALIBRATION]
    with tempfile.TemporaryDirectory() as name:
        report = tt.export(
            model,
            pathlib.Path(name) / "micro.tflite",
            "tflite-micro",
            data=study.data.x_train[drawn],
            micro=tt.MicroOptions(names=False),
            tolerance=1.0,
        )
    return min(report.sizes["dense"], report.sizes["sparse"])


def parsed():
    """Returns the options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", help="folder of tensorflow-datasets")
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=12, help="of each training")
    parser.add_argument("--threads", type=int, default=1, help="of TensorFlow")
    parser.add_argument("--status", action="store_true", help="only list the runs")
    parser.add_argument(
        "--export", action="store_true", help="only add sizes to finished points"
    )
    parser.add_argument(
        "--quick", action="store_true", help="a few random images, to try the script"
    )
    parser.add_argument("--work", type=pathlib.Path, default=HERE / "runs" / "cifar10")
    parser.add_argument(
        "--out", type=pathlib.Path, default=HERE / "results" / "cifar10"
    )
    options = parser.parse_args()
    defaults = {parser.get_default("work"), parser.get_default("out")}
    if options.quick and defaults & {options.work, options.out}:
        parser.error("--quick needs a --work and an --out of its own.")
    if options.epochs <= LATE:
        parser.error(f"--epochs must be more than {LATE}. Received: {options.epochs}")
    return options


def main():
    options = parsed()
    if options.status:
        return status(options)
    if keras.config.backend() == "tensorflow":
        import tensorflow

        tensorflow.config.threading.set_intra_op_parallelism_threads(options.threads)
        tensorflow.config.threading.set_inter_op_parallelism_threads(options.threads)
    if options.export:
        return export(options)
    left = [
        (run, seed)
        for run, seed in plan(options.seeds)
        if not complete(options, run, seed) and run.name in options.only
    ]
    if set(options.only) == set(RUNS):
        write_plan(options)
    studies = {}
    for run, seed in left:
        study = studies.setdefault(seed, Study(options, seed))
        perform(options, study, run)


if __name__ == "__main__":
    main()
