"""A working call of every public callable, for the tests of bad arguments.

`CALLS` maps a name such as "Ticket.save" to a function that returns a callable and
arguments with which it works. `HOOKS` lists the public callables that have none, since
Keras or the round engine passes the arguments.
"""

import functools
import inspect
import itertools
import json
import pathlib
import tempfile

import h5py
import keras
import numpy as np
from test_contracts import TABLE

import tf_tickets as tt
from tf_tickets import masks, optimizers, structures
from tf_tickets.exporting.export_report import Stored
from tf_tickets.reports import plots
from tf_tickets.search.frontier import Point
from tf_tickets.search.plan import RoundPlan

X, Y = np.ones((8, 4), "float32"), np.ones((8, 2), "float32")
DATA = ((X, Y), (X, Y))
KERNEL = "net/d/kernel"
# Removed when the program ends.
_FOLDER = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
HERE = pathlib.Path(_FOLDER.name)
_NUMBERS = itertools.count()


class Began(Exception):
    """Raised in place of a training or an export: all arguments were accepted."""


class Everything(tt.tfmot.PruningPolicy):
    """A policy that prunes all layers."""

    def allow_pruning(self, layer):
        return True


def without_rule():
    """Returns a new class of layers, which has no rule for its units yet."""
    return type("Ruled", (keras.layers.Layer,), {})


def plain():
    layers = [keras.Input((4,)), keras.layers.Dense(2, name="d")]
    return keras.Sequential(layers, name="net")


def compiled(model=None):
    model = plain() if model is None else model
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse", jit_compile=False)
    return model


def wrapped(mask="fixed"):
    return tt.wrap(plain(), mask=mask, verbose=False)


def trained(mask="fixed"):
    return compiled(wrapped(mask))


def ticket(**changes):
    mask = np.array([[1, 0]] * 4)
    start = {KERNEL: np.ones((4, 2), "float32"), "net/d/bias": np.zeros(2, "float32")}
    return tt.Ticket(**{"masks": {KERNEL: mask}, "weights": start, **changes})


def two_layers():
    layers = [keras.layers.Dense(2, name="d"), keras.layers.Dense(2, name="e")]
    return keras.Sequential([keras.Input((4,)), *layers], name="net")


def prunes_a_neuron():
    """Returns a ticket of `two_layers` that prunes one of the first two neurons."""
    values = [np.array(value) for value in two_layers().get_weights()]
    names = [KERNEL, "net/d/bias", "net/e/kernel", "net/e/bias"]
    masks = {KERNEL: [[1, 0]] * 4, "net/e/kernel": np.ones((2, 2))}
    return tt.Ticket(masks, dict(zip(names, values, strict=True)))


def channels():
    """Returns the kernels of `two_layers`, wrapped to prune channels."""
    model = tt.wrap(two_layers(), structure="channels", verbose=False)
    return tt.kernels(model)


def legacy():
    """Returns the path of a `.h5` file of Keras 2 with the network `plain`."""
    path = HERE / "legacy.h5"
    config = {"name": "d", "units": 2, "batch_input_shape": [None, 4]}
    layers = [{"class_name": "Dense", "config": config}]
    config = {"name": "net", "layers": layers}
    with h5py.File(path, "w") as file:
        described = {"class_name": "Sequential", "config": config}
        file.attrs["model_config"] = json.dumps(described)
        group = file.create_group("model_weights/d")
        file["model_weights"].attrs["layer_names"] = ["d"]
        group.attrs["weight_names"] = ["kernel:0", "bias:0"]
        group["kernel:0"], group["bias:0"] = np.ones((4, 2)), np.ones(2)
    return path


def imp():
    return tt.IMP(1, 1, 0.5, monitor="val_loss")


def taught():
    return tt.KDLTS(0.5, 1, monitor="val_loss")


def one_mask(kind):
    mask = tt.masks.get(kind)
    mask.build((4, 2))
    return mask


def budget():
    mask = one_mask("budget")
    mask.share([mask])
    return mask


def state():
    return tt.snapshots.record(trained())


def frontier():
    points = [Point("a", 1, 0.5, 3, {"accuracy": 0.9}, ticket())]
    return tt.Frontier(points, {"accuracy": 0.95}, "accuracy")


def batches():
    """Yields batches without an end."""
    while True:
        yield X, Y


def report():
    sizes = {"sparse": 50, "dense": 100, "bound": 40}
    tensors = [Stored("d", (4, 2), 0.5, "packed", "smaller")]
    return tt.ExportReport("a.keras", "keras", "float32", 0.5, sizes, tensors)


@functools.cache
def images():
    """Returns a folder of ten small images in two classes."""
    folder = HERE / "images"
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        for number in range(5):
            image = np.full((4, 4, 3), 20.0 * number)
            keras.utils.save_img(folder / name / f"{number}.png", image, scale=False)
    return folder


def image_folder():
    return tt.datasets.load_images(images(), batch_size=2).train


@functools.cache
def table():
    """Returns the path of a small CSV file."""
    rows = [f"{n},{n / 2},{'xy'[n % 2]}" for n in range(12)]
    path = images() / "table.csv"
    path.write_text("\n".join(["row,size,kind", *rows]))
    return path


def dataset():
    x, y = np.ones((8, 2, 2, 1), "float32"), np.arange(8, dtype="int32") % 2
    return tt.datasets.Dataset("ones", x, y, x, y, x, y)


def distiller():
    loss = tt.distillation.LogitsDistillation()
    return tt.Distiller(plain(), plain(), loss)


def grouped():
    return optimizers.Grouped("adam", {"bias": "sgd"})


def early_stop():
    stop = tt.EarlyStopRewind(monitor="loss")
    stop.begin(trained())
    return stop


def schedule(step, steps, epochs):
    return 1.0


def instability():
    line = tt.analysis.Line("init", (0, 1), (0, 0.5, 1), (0, 1, 0), (0, 1, 0), 1.0)
    return tt.analysis.Instability((line,), "accuracy", "test", "interpolated", {})


def stored_instability():
    instability().save(HERE / "instability.json")
    return HERE / "instability.json"


def no_callbacks(name):
    return []


def next_masks(run):
    return run.kernels.masks


def reset_scores(mask):
    """Leaves them as they are."""


def path(suffix):
    """Returns a path at which there is no file yet."""
    return HERE / f"new{next(_NUMBERS)}{suffix}"


def stored_frontier():
    frontier().save(HERE / "stored.json")
    return HERE / "stored.json"


def stored_ticket():
    ticket().save(HERE / "stored.ticket")
    return HERE / "stored.ticket"


def sizes_of(name):
    return {name: {"a": np.ones(4)}, "masks": {"a": np.ones(4, bool)}, "keep": 2}


def method(make, name, **arguments):
    """Returns a call of a method of a new object."""
    return lambda: (getattr(make(), name), dict(arguments))


def call(function, **arguments):
    return lambda: (function, dict(arguments))


WEIGHT = np.array([[1.0, -2.0]])
OF_DATA = {"x": X, "y": Y, "batch_size": 4}
NETWORK = {"input_shape": (8, 8, 1), "classes": 3, "width": 0.02}
FIT = {"data": DATA, "seed": 1, "batch_size": 4, "verbose": 0}

CALLS = {
    **{name: call(cls, **arguments) for name, (cls, arguments) in TABLE.items()},
    # Searches and plans.
    "TicketSearch.wrap": lambda: (
        imp().wrap,
        {
            "model": compiled(),
            "filters": "d",
            "embeddings": True,
            "depthwise": True,
            "verbose": False,
        },
    ),
    "GradualPruning.once_pruned": lambda: (
        tt.GradualPruning(tt.schedules.ConstantSparsity(0.5, 1)).once_pruned,
        {"callbacks": [keras.callbacks.Callback()]},
    ),
    "TicketSearch.in_round": method(
        imp, "in_round", callbacks=[keras.callbacks.Callback()]
    ),
    "TicketSearch.varied": method(imp, "varied", rate=[0.1, 0.2]),
    "TicketSearch.copied": method(imp, "copied", rate=0.2),
    # Where searches run.
    "executors.get": call(tt.executors.get, executor="serial"),
    "executors.thread_variables": call(tt.executors.thread_variables, threads=1),
    "executors.TasksFailed": call(
        tt.executors.TasksFailed, errors={"a": ValueError("b")}, total=2, advice="c"
    ),
    "executors.VmapExecutor": call(tt.executors.VmapExecutor, width=2),
    "executors.RayExecutor": call(
        tt.executors.RayExecutor,
        address="auto",
        workers=None,
        threads=2,
        retries=1,
        gpus=0.5,
        object_store_memory=None,
    ),
    "TicketSearch": lambda: (
        tt.TicketSearch,
        {
            "plan": RoundPlan(1, 3),
            "rewind_to": "1 epochs",
            "monitor": "loss",
            "seed": 1,
        },
    ),
    "KDLTS.taught_by": lambda: (
        taught().taught_by,
        {"teachers": [plain()], "epochs": 3},
    ),
    "PruneAtInit.prune": lambda: (
        tt.PruneAtInit(0.5, 1).prune,
        {"model": wrapped()},
    ),
    "RoundPlan": call(
        RoundPlan, rounds=2, epochs_per_round=3, first_round=0, mask="fixed"
    ),
    "LearnMasks": lambda: (
        tt.LearnMasks,
        {
            "mask": masks.SoftMask(),
            "rounds": 2,
            "epochs_per_round": 3,
            "reset_scores": reset_scores,
            "rewind": True,
            "score_optimizer": keras.optimizers.SGD(),
        },
    ),
    "PruneAndRewind": call(
        tt.PruneAndRewind,
        rounds=2,
        epochs_per_round=3,
        next_masks=next_masks,
        rewind_to="1 steps",
        stop_at=0.5,
        monitor="loss",
    ),
    "PressAndRemove": lambda: (
        tt.PressAndRemove,
        {
            "final_sparsity": 0.5,
            "rounds": 2,
            "epochs_per_round": 3,
            "penalty": tt.PenaltyPhase(3),
            "stage_one": tt.StageOne(0),
            "criterion": tt.criteria.magnitude,
            "allocate": tt.allocation.erk,
            "rewind_to": tt.Rewind(),
            "train": "last",
        },
    ),
    "PenaltyPhase.get": call(
        tt.PenaltyPhase.get, identifier=3, default=tt.schedules.GrowingPenalty()
    ),
    "StageOne.get": call(tt.StageOne.get, identifier=3),
    "Fidelity.get": call(tt.Fidelity.get, identifier="exact"),
    "Rewind.get": call(tt.Rewind.get, identifier="1 epochs", fidelity="exact"),
    "Rewind.check_within": method(
        lambda: tt.Rewind("1 epochs"), "check_within", epochs=3
    ),
    "Monitor.get": call(tt.Monitor.get, identifier="loss"),
    "Monitor.best": lambda: (
        tt.Monitor("loss").best,
        {"tickets": [ticket(metrics={"loss": 0.3})], "dense": {"loss": 0.2}},
    ),
    "Monitor.check_logged": method(
        lambda: tt.Monitor("loss"), "check_logged", logs={"loss": 0.3}
    ),
    "Monitor.falls_below": method(
        lambda: tt.Monitor("loss"),
        "falls_below",
        metrics={"loss": 0.3},
        dense={"loss": 0.2},
    ),
    "Monitor.merit": method(lambda: tt.Monitor("loss"), "merit", metrics={"loss": 0.3}),
    "EarlyStopRewind.begin": lambda: (
        tt.EarlyStopRewind(monitor="loss").begin,
        {"model": trained()},
    ),
    "EarlyStopRewind.watch": method(early_stop, "watch", epoch=0, logs={"loss": 0.5}),
    # Trainings.
    "find_tickets": lambda: (
        tt.find_tickets,
        {
            **FIT,
            "build_model": compiled,
            "search": imp(),
            "directory": path(".search"),
            "callbacks": [keras.callbacks.Callback()],
        },
    ),
    "prune": lambda: (
        tt.prune,
        {
            **FIT,
            "model": compiled(),
            "sparsity": 0.5,
            "directory": path(".pruned"),
            "structure": "unstructured",
            "target": None,
            "epochs": 2,
            "learning_rate": 0.1,
            "monitor": "val_loss",
            "patience": 2,
            "allocation": "global",
            "filters": "d",
            "precision": None,
            "callbacks": [keras.callbacks.Callback()],
            "say": no_callbacks,
        },
    ),
    "find_frontier": lambda: (
        tt.find_frontier,
        {
            **FIT,
            "build_model": compiled,
            "searches": {"a": imp()},
            "directory": path(".frontier"),
            "seed": 0,
            "seeds": [1, 2],
            "executor": "serial",
            "epochs": 1,
            "monitor": "val_loss",
            "callbacks": [keras.callbacks.Callback()],
            "watch": no_callbacks,
        },
    ),
    "analysis.instability": lambda: (
        tt.analysis.instability,
        {
            **FIT,
            "build_model": compiled,
            "directory": path(".instability"),
            "epochs": 2,
            "rewind_to": ["init", 1],
            "ticket": ticket(),
            "seeds": [1, 2],
            "points": 3,
            "monitor": "loss",
            "part": "validation",
            "batch_statistics": "recomputed",
            "statistics_batches": 2,
            "watch": no_callbacks,
        },
    ),
    "train_teachers": lambda: (
        tt.train_teachers,
        {
            **FIT,
            "build_model": compiled,
            "epochs": [1, 2],
            "directory": path(".teachers"),
            "watch": no_callbacks,
        },
    ),
    "train_ticket": lambda: (
        tt.train_ticket,
        {**FIT, "build_model": compiled, "ticket": ticket(), "epochs": 1},
    ),
    "TrainingData": lambda: (
        tt.TrainingData,
        {
            "train": (X, Y),
            "validation": batches(),
            "test": lambda key: batches(),
            "steps_per_epoch": None,
            "validation_steps": 2,
            "test_steps": 2,
            "class_weight": {0: 0.5, 2: 4.0},
            "name": "ones",
        },
    ),
    "TicketTrainer": call(
        tt.TicketTrainer, build_model=compiled, data=DATA, seed=1, batch_size=4
    ),
    "TicketTrainer.train": lambda: (
        tt.TicketTrainer(compiled, DATA, batch_size=4).train,
        {
            "ticket": ticket(),
            "epochs": 1,
            "callbacks": [keras.callbacks.Callback()],
            "verbose": 0,
        },
    ),
    # Models.
    "wrap": lambda: (
        tt.wrap,
        {
            "model": compiled(),
            "filters": "d",
            "embeddings": True,
            "mask": "soft",
            "verbose": False,
            "score_optimizer": "sgd",
            "keep_zeros": False,
            "depthwise": True,
            "structure": "unstructured",
        },
    ),
    "strip": lambda: (tt.strip, {"model": wrapped()}),
    "summary": lambda: (tt.summary, {"model": wrapped()}),
    "find_units": lambda: (tt.find_units, {"model": wrapped()}),
    "register_rule": lambda: (
        tt.register_rule,
        {
            "layer_class": without_rule(),
            "trace": lambda layer, call: call.like(call.inputs[0]),
            "resize": lambda layer, sizes: {},
            "replace": False,
        },
    ),
    "compact": lambda: (
        tt.compact,
        {"model": two_layers(), "return_report": True, "data": X},
    ),
    "kernels": lambda: (tt.kernels, {"model": wrapped()}),
    "Kernels.set_masks": lambda: (
        tt.kernels(wrapped("scaled")).set_masks,
        {"masks": {KERNEL: [[1, 0]] * 4}, "scales": {KERNEL: 2.0}},
    ),
    "layers.Prunable": lambda: (
        tt.layers.Prunable,
        {
            "layer": keras.layers.Dense(2),
            "kernels": ["kernel"],
            "mask": "fixed",
            "structure": "2:4",
        },
    ),
    "layers.Prunable.set_masks": lambda: (
        wrapped().layers[0].set_masks,
        {"masks": {"kernel": [[1, 0]] * 4}},
    ),
    "Distiller": lambda: (
        tt.Distiller,
        {
            "teacher": [plain()],
            "student": plain(),
            "distillation_losses": [tt.distillation.LogitsDistillation()],
            "distillation_loss_weights": [0.5],
            "student_loss_weight": 0.25,
            "name": "taught",
        },
    ),
    "Distiller.remember": method(distiller, "remember", x=X, batch_size=4),
    "distillation.DistillationLoss": call(
        tt.distillation.DistillationLoss, teacher_layer_name="a", student_layer_name=2
    ),
    # Masks.
    "masks.get": call(masks.get, identifier="soft"),
    "masks.LearnedMask": call(
        masks.LearnedMask, initial_score=0.5, penalty=0.1, dynamic_scaling=True
    ),
    "masks.FixedMask.assign": method(
        lambda: one_mask("scaled"), "assign", mask=[[1, 0]] * 4, scale=2.0
    ),
    "masks.LearnedMask.assign": method(
        lambda: one_mask("soft"), "assign", mask=[[1, 0]] * 4, scale=2.0
    ),
    "masks.TopKMask.assign": method(
        lambda: one_mask("topk"), "assign", mask=[[1, 0]] * 4, scale=1.0
    ),
    "masks.BudgetMask.allow": method(budget, "allow", keep=3),
    "masks.BudgetMask.share": lambda: (budget().share, {"masks": [budget()]}),
    "masks.PenalizedMask.choose": method(
        lambda: one_mask("penalized"), "choose", chosen=[[1, 0]] * 4, steps=3, epochs=1
    ),
    "masks.PenalizedMask.present_penalty": method(
        lambda: one_mask("penalized"), "present_penalty", kernel=np.ones((4, 2))
    ),
    # Tickets.
    "Ticket": lambda: (
        tt.Ticket,
        {
            **{"masks": ticket().masks, "weights": ticket().weights},
            **{"metrics": {"loss": 0.5}, "provenance": {"round": 1}},
            "scales": {KERNEL: 2.0},
        },
    ),
    "Ticket.apply": lambda: (
        ticket().apply,
        {
            "model": compiled(),
            "strict": True,
            "rename": {"net/d": "net/d"},
            "masks_only": False,
            "return_report": True,
        },
    ),
    "ApplyReport.to_json": lambda: (
        ticket().apply(compiled(), return_report=True)[1].to_json,
        {"path": path(".json")},
    ),
    "OverlapReport.to_json": lambda: (
        ticket().overlap(ticket()).to_json,
        {"path": path(".json")},
    ),
    "Ticket.transfer": lambda: (
        ticket().transfer,
        {
            "model": compiled(),
            "rename": {"net/d": "net/d"},
            "masks_only": False,
            "return_report": True,
        },
    ),
    "Ticket.overlap": lambda: (
        ticket().overlap,
        {"other": ticket(), "strict": True, "rename": {KERNEL: KERNEL}},
    ),
    "Ticket.train": lambda: (
        ticket().train,
        {
            "model": compiled(),
            "x": DATA[0][0],
            "y": DATA[0][1],
            "epochs": 1,
        },
    ),
    "Ticket.compact": lambda: (
        prunes_a_neuron().compact,
        {"build_model": two_layers, "data": X},
    ),
    "Ticket.compare": lambda: (ticket().compare, {"other": ticket()}),
    "Ticket.save": method(ticket, "save", path=path(".ticket"), weights=True),
    "Ticket.load": lambda: (
        tt.Ticket.load,
        {"path": stored_ticket(), "max_bytes": 10**6},
    ),
    "controls.random_masks": lambda: (
        tt.controls.random_masks,
        {"ticket": ticket(), "spread": "erk", "seed": 2},
    ),
    "controls.reinit": lambda: (
        tt.controls.reinit,
        {"ticket": ticket(), "build_model": plain, "seed": 2},
    ),
    "controls.shuffle_masks": lambda: (
        tt.controls.shuffle_masks,
        {"ticket": ticket(), "seed": 2},
    ),
    # Structures.
    "structures.get": call(structures.get, identifier="2:4"),
    "NM": call(tt.NM, n=2, m=4),
    "Blocks": call(tt.Blocks, rows=4, columns=1, pooling="max"),
    "Channels": call(tt.Channels, round_to=8, floor=0.2, minimum=2, spared=[3]),
    # Names of tensorflow-model-optimization.
    "tfmot.PolynomialDecay": call(
        tt.tfmot.PolynomialDecay,
        initial_sparsity=0.1,
        final_sparsity=0.5,
        begin_step=0,
        end_step=200,
        power=2,
        frequency=50,
    ),
    "tfmot.PruningSummaries": call(
        tt.tfmot.PruningSummaries, log_dir=str(HERE / "logs"), update_freq="batch"
    ),
    "tfmot.ScheduledMask": call(
        tt.tfmot.ScheduledMask, pruning_schedule=tt.tfmot.ConstantSparsity(0.5, 0)
    ),
    "tfmot.prune_low_magnitude": lambda: (
        tt.tfmot.prune_low_magnitude,
        {
            "to_prune": plain(),
            "pruning_schedule": tt.tfmot.ConstantSparsity(0.5, 0),
            "block_size": (2, 1),
            "block_pooling_type": "MAX",
            "pruning_policy": Everything(),
            "sparsity_m_by_n": None,
        },
    ),
    "tfmot.strip_pruning": lambda: (tt.tfmot.strip_pruning, {"model": wrapped()}),
    # Criteria and allocations.
    "allocation.get": call(tt.allocation.get, identifier="erk"),
    "allocation.global_": call(tt.allocation.global_, **sizes_of("scores")),
    "allocation.uniform": call(tt.allocation.uniform, **sizes_of("scores")),
    "allocation.erk": call(tt.allocation.erk, **sizes_of("scores")),
    "recipes.spare_output": call(tt.recipes.spare_output, **sizes_of("scores")),
    "criteria.get": call(tt.criteria.get, identifier="magnitude"),
    "criteria.register": call(tt.criteria.register, criterion=tt.criteria.movement),
    "criteria.serialize": call(tt.criteria.serialize, criterion=tt.criteria.movement),
    "criteria.magnitude": call(tt.criteria.magnitude, weight=WEIGHT),
    "criteria.magnitude_increase": call(
        tt.criteria.magnitude_increase, weight=WEIGHT, start=WEIGHT
    ),
    "criteria.movement": call(tt.criteria.movement, weight=WEIGHT, start=WEIGHT),
    "criteria.gamma": lambda: (
        tt.criteria.gamma,
        {
            "layout": channels().layout,
            "weights": channels().weights,
            "masks": channels().masks,
        },
    ),
    "criteria.random": call(
        tt.criteria.random, weight=WEIGHT, rng=np.random.default_rng(0)
    ),
    "curvature.OBD": call(
        tt.curvature.OBD, **OF_DATA, curvature="hutchinson", draws=2, seed=1
    ),
    "curvature.gauss_newton": lambda: (
        tt.curvature.gauss_newton,
        {"model": trained(), **OF_DATA, "draws": 1, "seed": 1},
    ),
    "curvature.hutchinson": lambda: (
        tt.curvature.hutchinson,
        {"model": trained(), **OF_DATA, "draws": 1, "seed": 1},
    ),
    "saliency.DenseGradient": call(tt.saliency.DenseGradient, **OF_DATA),
    "saliency.SNIP": call(tt.saliency.SNIP, **OF_DATA),
    "saliency.Taylor": call(tt.saliency.Taylor, **OF_DATA),
    "saliency.GraSP": call(tt.saliency.GraSP, **OF_DATA, temperature=2.0),
    "saliency.balanced": call(
        tt.saliency.balanced, data=(X, Y[:, 0]), each=1, classes=1, batches=2
    ),
    "saliency.synflow": lambda: (tt.saliency.synflow, {"model": wrapped()}),
    # Data, networks and recipes.
    "datasets.Dataset": lambda: (tt.datasets.Dataset, dict(vars(dataset()))),
    "datasets.Dataset.balanced": method(dataset, "balanced", each=2, seed=1),
    "datasets.Dataset.take": method(dataset, "take", n=3),
    "datasets.load": call(
        tt.datasets.load,
        name="digits",
        data_dir=HERE,
        validation=100,
        seed=1,
        scaling="unit",
        as_images=True,
    ),
    "datasets.load_images": lambda: (
        tt.datasets.load_images,
        {
            "folder": images(),
            "image_size": (4, 4),
            "batch_size": 2,
            "color_mode": "rgb",
            "scaling": "unit",
            "validation_split": 0.2,
            "test_split": 0.2,
            "seed": 1,
            "workers": 1,
        },
    ),
    "datasets.load_table": lambda: (
        tt.datasets.load_table,
        {
            "file": table(),
            "target": "kind",
            "task": "classification",
            "categories": "one-hot",
            "drop": ["row"],
            "scaling": "unit",
            "validation_split": 0.2,
            "test_split": 0.2,
            "seed": 1,
        },
    ),
    "datasets.ImageFolder": lambda: (
        tt.datasets.ImageFolder,
        {
            "paths": image_folder().paths,
            "labels": image_folder().labels,
            "class_names": ["a", "b"],
            "image_size": (4, 4),
            "batch_size": 2,
            "color_mode": "rgb",
            "offset": 0.0,
            "scale": 255.0,
            "drop_remainder": True,
            "workers": 1,
        },
    ),
    "datasets.ImageFolder.reorder": method(image_folder, "reorder", key=(0, 1, 2)),
    "datasets.ImageFolder.take": method(image_folder, "take", n=3),
    "datasets.ImageFolder.balanced": method(image_folder, "balanced", each=2, seed=1),
    **{
        f"models.{name}": call(getattr(tt.models, name), **NETWORK)
        for name in tt.models.__all__
    },
    "augmentation.CropAndFlip": call(
        tt.augmentation.CropAndFlip, padding=2, flip=False, seed=1
    ),
    "models.resnet8": call(
        tt.models.resnet8, **NETWORK, augmentation=[tt.augmentation.CropAndFlip(1)]
    ),
    "recipes.Recipe": lambda: (
        tt.recipes.Recipe,
        dict(vars(tt.recipes.recipe("resnet20"))),
    ),
    "recipes.Recipe.with_epochs": method(
        lambda: tt.recipes.recipe("resnet20"), "with_epochs", epochs=32
    ),
    "recipes.recipe": call(tt.recipes.recipe, name="lenet300"),
    "recipes.build": call(
        tt.recipes.build,
        name="lenet300",
        **NETWORK,
        steps_per_epoch=3,
        epochs=2,
        augment=True,
    ),
    "search_recipes.SearchRecipe": lambda: (
        tt.search_recipes.SearchRecipe,
        dict(vars(tt.search_recipes.recipe("cs_resnet20"))),
    ),
    "search_recipes.SearchRecipe.build": method(
        lambda: tt.search_recipes.recipe("cs_conv6"),
        "build",
        **NETWORK,
        steps_per_epoch=3,
    ),
    "search_recipes.SearchRecipe.search": method(
        lambda: tt.search_recipes.recipe("cs_conv6"), "search", rounds=3
    ),
    "search_recipes.recipe": call(tt.search_recipes.recipe, name="cs_conv6"),
    # Optimizers and snapshots.
    "optimizers.with_scores": call(
        optimizers.with_scores, optimizer="adam", scores="sgd"
    ),
    "optimizers.Grouped.optimizer_of": lambda: (
        grouped().optimizer_of,
        {"variable": plain().variables[0]},
    ),
    "snapshots.present_weights": lambda: (
        tt.snapshots.present_weights,
        {"model": plain()},
    ),
    "snapshots.record": lambda: (tt.snapshots.record, {"model": trained()}),
    "snapshots.reset_optimizer": lambda: (
        tt.snapshots.reset_optimizer,
        {"model": trained(), "step": 3},
    ),
    "snapshots.restore": lambda: (
        tt.snapshots.restore,
        {
            "model": trained(),
            "snapshot": state(),
            "fidelity": tt.Fidelity(),
            "fresh": state(),
        },
    ),
    "snapshots.start_weights": lambda: (
        tt.snapshots.start_weights,
        {"model": trained(), "state": state()},
    ),
    "tfmot.from_tf_keras": lambda: (
        tt.tfmot.from_tf_keras,
        {"source": legacy(), "data": X, "tolerance": 1e-5},
    ),
    "tfmot.ticket_from_tf_keras": lambda: (
        tt.tfmot.ticket_from_tf_keras,
        {"source": legacy(), "data": X, "tolerance": 1e-5},
    ),
    "tfmot.load_legacy": lambda: (tt.tfmot.load_legacy, {"path": legacy()}),
    "tfmot.to_tf_keras": lambda: (
        tt.tfmot.to_tf_keras,
        {"source": ticket(), "model": plain(), "data": X, "tolerance": 1e-5},
    ),
    "snapshots.zero_slots": lambda: (tt.snapshots.zero_slots, {"model": trained()}),
    # Exports, reports and plots.
    "export": lambda: (
        tt.export,
        {
            "exported": ticket(),
            "path": path(".keras"),
            "format": "keras",
            "model": ticket().apply(plain()),
            "data": X,
            "precision": "float32",
            "trainable": True,
            "verify": False,
            "tolerance": 0.5,
            "overwrite": True,
            "seed": 1,
            "micro": None,
        },
    ),
    "MicroOptions": call(
        tt.MicroOptions, max_ram=10_000, names=False, per_tensor_dense=True
    ),
    "ExportReport": lambda: (tt.ExportReport, dict(vars(report()))),
    "ExportReport.from_json": lambda: (
        tt.ExportReport.from_json,
        {"text": report().to_json()},
    ),
    "ExportReport.save": method(report, "save", path=path(".json")),
    "Frontier": lambda: (tt.Frontier, dict(vars(frontier()))),
    "Frontier.first_matching": method(
        frontier, "first_matching", sparsity=0.1, tolerance=0.1
    ),
    "Frontier.join": lambda: (tt.Frontier.join, {"frontiers": [frontier()]}),
    "Frontier.load": lambda: (tt.Frontier.load, {"path": stored_frontier()}),
    "Frontier.of_seed": method(frontier, "of_seed", seed=0),
    "Frontier.plot": method(
        frontier,
        "plot",
        path=path(".svg"),
        title="Kept",
        confidence=0.9,
        lines={"a": "A"},
    ),
    "Frontier.rows": method(frontier, "rows", mean=True),
    "Frontier.to_pandas": method(frontier, "to_pandas", mean=True),
    "Frontier.save": method(frontier, "save", path=path(".json")),
    "analysis.Line": lambda: (tt.analysis.Line, dict(vars(instability().lines[0]))),
    "analysis.Instability": lambda: (
        tt.analysis.Instability,
        dict(vars(instability())),
    ),
    "analysis.Instability.first_stable": method(
        instability, "first_stable", threshold=0.1
    ),
    "analysis.Instability.is_stable": method(
        instability, "is_stable", rewind_to="init", threshold=0.1
    ),
    "analysis.Instability.join": lambda: (
        tt.analysis.Instability.join,
        {"results": [instability()]},
    ),
    "analysis.Instability.load": lambda: (
        tt.analysis.Instability.load,
        {"path": stored_instability()},
    ),
    "analysis.Instability.plot": method(
        instability, "plot", path=path(".svg"), title="Lines", threshold=0.1
    ),
    "analysis.Instability.save": method(instability, "save", path=path(".json")),
    "Report.to_csv": lambda: (tt.summary(wrapped()).to_csv, {"path": path(".csv")}),
    "CompactReport.plot": lambda: (
        tt.compact(two_layers(), True)[1].plot,
        {"path": path(".svg")},
    ),
    "CompactReport.to_json": lambda: (
        tt.compact(two_layers(), True)[1].to_json,
        {"path": path(".json")},
    ),
    "Report.to_json": lambda: (tt.summary(wrapped()).to_json, {"path": path(".json")}),
    "plots.plot_search": call(
        plots.plot_search,
        results=[{"sparsity": 0.2, "ticket": 0.9}],
        path=path(".svg"),
        dense=0.9,
        title="Kept",
        metric="test_accuracy",
    ),
    "plots.plot_widths": call(
        plots.plot_widths, widths={"a/kernel": (4, 2)}, path=path(".svg"), title="Net"
    ),
    "plots.plot_frontier": call(
        plots.plot_frontier,
        lines={"a": [(0.5, 0.9), (0.2, 0.8, 0.7, 0.9)]},
        optimal=[(0.5, 0.9)],
        path=path(".svg"),
        dense=0.9,
        metric="accuracy",
        title="Kept",
        dense_interval=(0.8, 1.0),
        smaller_is_better=False,
        note="Two searches",
    ),
}

_ENGINE = "the round engine passes its arguments"
_STEP = "called in the compiled step, or by the layer that owns the mask"
_TRAINING = "called by `fit`"
# Public callables without a call of their own, and why.
HOOKS = {
    "ApplyReport": "made by `Ticket.apply`",
    "OverlapReport": "made by `Ticket.overlap`",
    "CompactReport": "made by `compact`",
    "PruneResult": "made by `prune`",
    "layers.Prunable.restructure": "called by `wrap`",
    **{
        f"{plan.__name__}.{name}": _ENGINE
        for plan in (RoundPlan, tt.LearnMasks, tt.PressAndRemove, tt.PruneAndRewind)
        for name, member in inspect.getmembers(RoundPlan, inspect.isfunction)
        if name[0] != "_"
    },
    "LearnMasks.ticket_masks": _ENGINE,
    "LearnMasks.ticket_start": _ENGINE,
    "PressAndRemove.trains_ticket": _ENGINE,
    **{
        f"masks.{cls}.{name}": _STEP
        for cls in masks.__all__
        for name in (
            *("after_forward", "apply", "begin", "expected", "expected_sum", "factor"),
            *("penalize", "scaled_soft"),
            *("enter", "quantize", "release", "restart", "soft", "watch"),
        )
    },
    "executors.Executor": "a base class without arguments",
    "executors.SerialExecutor": "has no arguments",
    **{
        f"executors.{cls}.{name}": "called by `find_frontier`, with any objects"
        for cls in ("Executor", "RayExecutor", "SerialExecutor", "VmapExecutor")
        for name in ("share", "shutdown", "submit")
    },
    "augmentation.Augmentation": "a base class, whose arguments are those of Keras",
    "masks.Mask": "an abstract base class, whose arguments are those of Keras",
    "masks.Mask.assign": "abstract",
    **{
        f"distillation.{cls}.prepare": "called by the Distiller"
        for cls in tt.distillation.__all__
    },
    "layers.Prunable.call_masked": _STEP,
    "tfmot.ScheduledMask.enter": _STEP,
    "tfmot.ScheduledMask.follow": "called by `UpdatePruningStep`",
    **{
        f"{callback}.{name}": "called by `find_tickets`"
        for callback in ("DynamicSparsity", "EarlyStopRewind", "GradualPruning")
        for name in ("end_training", "may_resume", "unpack")
    },
    **{
        f"{structure}.{name}": "called for the kernels of a model"
        for structure in ("NM", "Blocks", "Channels", "structures.Unstructured")
        for name in ("layout", "restored_layout", "why_not")
    },
    "structures.Unstructured": "it has no arguments",
    **{
        f"tfmot.{name}": "it has no arguments"
        for name in (
            *("PrunableLayer", "PruneForLatencyOnXNNPack", "PruningPolicy"),
            *("PruningSchedule", "UpdatePruningStep", "prune_scope"),
        )
    },
    **{
        f"tfmot.{policy}.{name}": "called by `prune_low_magnitude`"
        for policy in ("PruneForLatencyOnXNNPack", "PruningPolicy")
        for name in ("allow_pruning", "ensure_model_supports_pruning")
    },
    "tfmot.ScheduledMask.factor": _STEP,
    "tfmot.from_qat": "it takes networks trained by tfmot: tests/test_tfmot_bridge.py",
    "DynamicSparsity.advance": _TRAINING,
    "DynamicSparsity.fraction": _TRAINING,
    "GradualPruning.advance": _TRAINING,
    "optimizers.Grouped.apply": _TRAINING,
    "optimizers.Grouped.finalize_variable_values": _TRAINING,
    "optimizers.Grouped.exclude_from_weight_decay": "passed on to Keras's optimizers",
}
