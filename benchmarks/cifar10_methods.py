"""The methods that are compared on CIFAR-10: generators of points from a study."""

import functools

import numpy as np
from cifar10_study import LATE, everything

import tf_tickets as tt
from tf_tickets.pruning import allocation, saliency, selection

SPARSITIES = (0.5, 0.8, 0.9, 0.95)
TEACHERS = 3
SCORES = {"low-score": -0.03, "high-score": 0.03}


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
