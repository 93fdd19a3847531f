"""Which method to use, by goal, from all comparisons of methods."""

from typing import NamedTuple

from result_tables import cifar10, evidence, mnist1d
from result_tables.reading import (
    NETWORKS,
    RESULTS,
    exists,
    grid,
    load,
    percent,
    ratio,
    table,
)

# A ticket is near the best if it is not told apart from it, and its error is larger by
# at most this fraction.
_WITHIN = 0.1
# A method with fewer seeds is not called the best beside one that has as many.
_FEWEST = 3
_CONTROLS = ("random", "inverted", "dense", "narrow")
_PAGES = {
    "IMP": "imp.md",
    "StochasticSparsification": "stochastic.md",
    "ContinuousSparsification": "continuous.md",
    "KDLTS": "kdlts.md",
    "UniLTH": "unilth.md",
    "UniDLTH": "unilth.md",
    "DLTH": "dlth.md",
    "GradualPruning": "gradual.md",
    "RigL": "dynamic.md",
    "SET": "dynamic.md",
    "SNIP": "at-init.md",
    "SynFlow": "at-init.md",
    "GraSP": "at-init.md",
    "magnitude at init": "at-init.md",
    "EarlyStopRewind": "early-stop.md",
}


def _name(group):
    page = _PAGES.get(group.method)
    name = f"[{group.method}](../methods/{page})" if page else group.method
    setting = group.setting
    if group.points[0].data == evidence.RESNET8:
        known = cifar10.NAMES[group.method, setting]
        return f"[{known}](../methods/{page})" if page else known
    if group.points[0].data == "MNIST-1D":
        # The page of MNIST-1D names the settings of methods that stand there once.
        setting = mnist1d.SETTINGS.get(setting, "")
    return name if setting in _PLAIN else f"{name} ({setting})"


_PLAIN = ("", "init", "reset", mnist1d.SETTINGS["init"])


def _seeds(group):
    return "**one seed**" if group.seeds == 1 else f"{group.seeds} seeds"


def _comparisons():
    """Yields data, dense network, a sparsity, and the groups there, best first.

    Of each method there is the setting that validation chose. The last ones are those
    of all settings.
    """
    by_data: dict = {}
    for point in (*evidence.cifar10(), *evidence.mnist1d(), *evidence.mnist()):
        by_data.setdefault(point.data, []).append(point)
    for data, points in by_data.items():
        dense = evidence.groups(
            p for p in points if p.method == "dense" and p.setting != "twice"
        )
        dense = max(dense, key=lambda g: (g.seeds, g.val or 0.0), default=None)
        for sparsity in evidence.SPARSITIES:
            found = evidence.chosen(points, sparsity)
            found = [g for g in found if g.method not in _CONTROLS]
            # With a single method there is nothing to choose.
            if len(found) > 1:
                # One method that alone has several seeds is not the best for that.
                second = sorted(g.seeds for g in found)[-2]
                enough = min(_FEWEST, second)
                # The sort is stable: the best ones stay first.
                found.sort(key=lambda g: g.seeds < enough)
                everything = evidence.groups(
                    p
                    for p in points
                    if p.nearest == sparsity and p.method not in _CONTROLS
                )
                yield data, dense, sparsity, found, everything


def _told_apart(group, best):
    """Whether the interval of the difference excludes 0; None if unknown."""
    interval = group.behind(best)
    return None if interval is None else interval[0] > 0


def _near(group, best):
    """Whether a ticket is about as good as the best one, as far as is known."""
    more = best.test.mean - group.test.mean
    return more <= _WITHIN * (1 - best.test.mean) and not _told_apart(group, best)


@table
def choose_accuracy():
    rows = []
    for data, dense, sparsity, found, _ in _comparisons():
        best, *others = found
        apart = [(g, _told_apart(g, best)) for g in others]
        equal = [_name(g) for g, differs in apart if differs is False]
        equal += [
            _untested(g) for g, differs in apart if differs is None and _near(g, best)
        ]
        if best.seeds == 1:
            equal = ["not tested: one seed"]
        rows.append([
            data,
            percent(sparsity, 0),
            _name(best),
            cifar10.accuracy(best.test),
            cifar10.epochs(best),
            _seeds(best),
            _of_dense(dense) if dense else "",
            "; ".join(equal) or "none",
        ])  # fmt: skip
    head = ["network, data", "sparsity", "most accurate", "test accuracy", "epochs"]
    return grid([*head, "seeds", "dense", "not told apart from it"], rows)


def _untested(group):
    """Returns how a method is written that has one seed in common with the best one."""
    if group.seeds == 1:
        return f"not tested: {_name(group)}, {cifar10.accuracy(group.test)} in one seed"
    return f"{_name(group)}, one seed in common"


def _of_dense(group):
    return f"{cifar10.accuracy(group.test)} ({cifar10.epochs(group)} epochs)"


@table
def choose_cheapest():
    rows = []
    for data, _, sparsity, found, everything in _comparisons():
        best = found[0]
        enough = min(_FEWEST, best.seeds)
        near = [g for g in everything if g.seeds >= enough and _near(g, best)]
        cheap = min(near, key=lambda g: (g.epochs, -g.test.mean))
        rows.append([
            data,
            percent(sparsity, 0),
            _name(cheap),
            cifar10.epochs(cheap),
            cifar10.accuracy(cheap.test),
            _seeds(cheap),
            f"{_name(best)}: {cifar10.epochs(best)}",
        ])  # fmt: skip
    head = ["network, data", "sparsity", "cheapest near the best", "epochs"]
    return grid([*head, "test accuracy", "seeds", "epochs of the most accurate"], rows)


# The networks of benchmarks/micro_resnet8.py, as pages name them.
_MICRO = {
    "dense": "dense",
    "unstructured": "half of the single weights",
    "unstructured-65": "65 % of the single weights",
    "unstructured-65-longer": "65 % of the single weights, trained on",
    "channels-params": "channels, half of the parameters",
    "channels-75": "channels, a quarter of the parameters",
    "channels-75-unstructured": "channels, then half of the single weights",
    "narrow": "narrower, from scratch",
}


class _File(NamedTuple):
    """An int8 file of ResNet-8; `flash` counts the decoder, if it needs one."""

    training: str
    name: str
    bytes: int
    flash: int
    accuracy: float
    seeds: int


def _files():
    """Yields all int8 files of ResNet-8."""
    decoder = load("micro/mlperf_tiny")["decoder_code"]
    if exists("micro/resnet8"):
        for name, row in load("micro/resnet8")["rows"].items():
            sizes = row["without names"]
            dense, encoded = sizes["dense"], sizes["encoded"]
            flash = min(dense, encoded + decoder)
            size = dense if flash == dense else encoded
            training = "60 epochs and more"
            yield _File(training, _MICRO[name], size, flash, row["int8"], 1)
    for group in evidence.groups(evidence.cifar10()):
        size = group.bytes()
        if size is not None:
            name = cifar10.NAMES[group.method, group.setting]
            name = f"{name}, {percent(group.kept, 0)} left"
            flash = size if group.method in ("dense", "narrow") else size + decoder
            training = "short trainings, float32"
            yield _File(training, name, size, flash, group.test.mean, group.seeds)


@table
def choose_smallest():
    """The Pareto-optimal files: none takes less flash and is more accurate."""
    rows = []
    files = list(_files())
    best = {file.training: 0.0 for file in files}
    for file in sorted(files, key=lambda f: (f.flash, -f.accuracy)):
        if file.accuracy > best[file.training]:
            best[file.training] = file.accuracy
            sizes = [f"{file.flash:,}", f"{file.bytes:,}"]
            accuracy = f"{100 * file.accuracy:.2f}"
            rows.append([file.training, file.name, *sizes, accuracy, _seeds(file)])
    rows.sort(key=lambda row: list(best).index(row[0]))
    head = ["training", evidence.RESNET8, "bytes with the decoder", "of the file"]
    return grid([*head, "test accuracy", "seeds"], rows)


@table
def choose_fastest():
    """Time of a call relative to the dense network, median and quartiles."""
    rows = []
    if exists("shrink_latency"):
        for row in load("shrink_latency")["rows"]:
            half = row["removed"] == 0.5 and row["round_to"] == 8
            if half and row["runtime"] in ("tflite", "int8"):
                kind = {"tflite": "float32", "int8": "int8"}[row["runtime"]]
                what = f"channels, {percent(row['macs'], 0)} of the MACs left"
                network = NETWORKS[row["network"]]
                rows.append([network, what, f"TFLite, {kind}", 1, ratio(row["ratio"])])
    if exists("export_latency"):
        for row in load("export_latency")["rows"]:
            if row["sparsity"] == 0.9:
                what = f"{row['structure']}, {percent(row['sparsity'], 0)} zeros"
                network = NETWORKS.get(row["network"], row["network"])
                for batch, found in row["ratios"].items():
                    rows.append([network, what, "TFLite, float32", batch, ratio(found)])
    return grid(["network", "pruned", "runtime", "batch", "time over dense"], rows)


@table
def choose_controls():
    """How much tickets are ahead of their controls, in points."""
    rows = []
    if exists("mnist_imp"):
        for row in load("mnist_imp")["rows"]:
            if row["sparsity"] > 0.85:
                rows += [
                    _ahead(
                        "LeNet-300-100, MNIST",
                        row["sparsity"],
                        name,
                        row["ticket"]["values"],
                        row[kind]["values"],
                    )
                    for kind, name in (
                        ("reinit", "random reinitialization"),
                        ("shuffled", "shuffled masks"),
                    )
                ]
    for points in (evidence.cifar10(), evidence.mnist1d(every_setting=True)):
        rows += list(_controls(points))
    head = ["network, data", "sparsity", "control", "tickets of IMP ahead by"]
    return grid([*head, "95 % interval", "seeds"], rows)


def _controls(points):
    for sparsity in evidence.SPARSITIES:
        found = {
            (g.method, g.setting): g
            for g in evidence.groups(p for p in points if p.nearest == sparsity)
        }
        # With as many weights in each kernel as random masks, where it was measured.
        imp = found.get(("IMP", "init-erk")) or found.get(("IMP", "init"))
        for (method, _), group in found.items():
            beside = found.get(("IMP", "init")) if method == "inverted" else imp
            if beside and method in ("random", "inverted"):
                mine = {p.seed: p.test for p in beside.points}
                theirs = {p.seed: p.test for p in group.points}
                both = sorted(set(mine) & set(theirs))
                yield _ahead(
                    beside.points[0].data,
                    sparsity,
                    {"random": "random masks", "inverted": "smallest weights"}[method],
                    [mine[s] for s in both],
                    [theirs[s] for s in both],
                )


def _ahead(data, sparsity, control, tickets, controls):
    differences = [a - b for a, b in zip(tickets, controls, strict=True)]
    mean = evidence.Mean.of(differences)
    interval = mean.interval()
    shown = "" if interval is None else " to ".join(f"{100 * x:+.2f}" for x in interval)
    count = "**one seed**" if mean.count == 1 else mean.count
    ahead = f"{100 * mean.mean:+.2f}"
    return [data, percent(sparsity, 0), control, ahead, shown, count]


def _set_aside():
    """Says what the tables leave out of MNIST-1D, and where it would be the best."""
    best = {sparsity: found[0] for data, _, sparsity, found, _ in _comparisons()
            if data == "MNIST-1D"}  # fmt: skip
    groups = evidence.groups(evidence.mnist1d(every_setting=True))
    ahead = [
        f"{percent(g.points[0].nearest, 0)} ({100 * g.test.mean:.2f})"
        for g in groups
        if g.method == "IMP"
        and g.setting == "1-epoch"
        and g.points[0].nearest in best
        and g.test.mean > best[g.points[0].nearest].test.mean
    ]
    text = (
        "\n- Tickets that start after initialization are not in the tables, nor are "
        "those that are trained for twice the epochs."
    )
    if ahead:
        text += (
            " On MNIST-1D tickets of IMP from epoch 1 have a higher mean than the "
            f"first method at {' and '.join(ahead)}."
        )
    return text


@table
def choose_limits():
    """How near the tickets of a row are, and whose settings are open."""
    within = percent(evidence.NEAR[1] - 1, 0)
    text = (
        f"- A ticket stands at a sparsity if its weights are within {within} of those "
        "that this leaves. Between two tickets of one search, the accuracy is "
        "interpolated, unless the method has a ticket there in another setting.\n"
        "- The most accurate method is the one whose mean on test data is the highest, "
        "so that mean is rather too high.\n"
        "- Where a method has several settings, the one in the table was chosen by the "
        "validation accuracy of the same seeds, and for each sparsity by itself: an "
        "initial score leads to a sparsity."
    )
    dense = evidence.dense_of_mnist()
    if dense:
        low, high = (f"{100 * value:.2f}" for value in (min(dense), max(dense)))
        text += (
            "\n- On MNIST the tickets come from comparisons that have dense networks "
            f"of their own, of {low} to {high} %; the table has that of the first one. "
            "Methods of two comparisons have no seeds in common: their intervals are "
            "Welch's, of independent means."
        )
    if exists("mnist1d/summary"):
        text += _set_aside()
        swept = load("mnist1d/summary")["swept"]
        names = {point.method for point in evidence.mnist1d()}
        open_ = [name for name in swept if name in names and swept[name] is False]
        if open_:
            text += (
                "\n- On MNIST-1D the settings of these methods are defaults that were "
                f"not compared with others yet: {', '.join(open_)}."
            )
        text += (
            "\n- On MNIST-1D tickets within 2 % stand at a sparsity, and the line goes "
            "through the tickets of several searches, where each has its own sparsity. "
            "The epochs of ContinuousSparsification are those of a search whose "
            "initial score leads to the sparsity, or of the two searches on both sides "
            "of it. The rate of its scores was changed after a look at seed 0."
        )
    return text


@table
def choose_evidence():
    """What the tables rest on."""
    pages = {
        "cifar10": (evidence.RESNET8, "cifar10.md"),
        "mnist1d": ("MNIST-1D", "mnist1d.md"),
    }
    rows = []
    for folder, (title, page) in pages.items():
        found = evidence.runs(folder)
        if found and (RESULTS.parents[1] / "docs" / "results" / page).exists():
            seeds = {run["seed"] for run in found}
            points = sum(len(run["points"]) for run in found)
            link = f"[{title}](../results/{page})"
            counts = _counts({run["method"] for run in found})
            rows.append([link, *counts, points, len(seeds)])
    mnist = evidence.trained_on_mnist()
    if mnist:
        links = "[1](../results/learned-masks.md), [2](../results/init-tickets.md), "
        links += "[3](../results/growing-penalties.md)"
        methods, seeds = {p.method for p in mnist}, {p.seed for p in mnist}
        title = f"LeNet-300-100, MNIST: {links}"
        rows.append([title, *_counts(methods), len(mnist), len(seeds)])
    head = ["comparison", "methods", "dense networks and controls", "trained networks"]
    return grid([*head, "seeds"], rows)


def _counts(names):
    """Returns how many are methods, and how many are compared with them."""
    controls = names & set(_CONTROLS)
    return len(names - controls), len(controls)
