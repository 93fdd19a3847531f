"""Trained tickets of several benchmarks in one form, so that they can be compared."""

import json
import math
import statistics
from collections.abc import Iterable
from typing import NamedTuple

from result_tables.reading import RESULTS, exists, load
from tf_tickets.reports.statistics import Mean, student_t

# The sparsities that tables compare, and how far a ticket's weights may be from them.
SPARSITIES = (0.5, 0.8, 0.9, 0.95, 0.98)
NEAR = (0.95, 1.05)
RESNET8 = "ResNet-8, CIFAR-10"
# How far the weights of two tickets may be apart to stand for one between them.
_APART = 1.6
# The methods and controls whose runs are compared; folders may have other runs too.
METHODS = {
    *("IMP", "ContinuousSparsification", "StochasticSparsification", "UniLTH"),
    *("UniDLTH", "DLTH", "KDLTS", "EarlyStopRewind", "GradualPruning", "SNIP"),
    *("SynFlow", "GraSP", "RigL", "SET", "random", "inverted", "dense", "narrow"),
    "magnitude",
}
# Epochs of a ticket's own training in the comparisons on MNIST.
_FINAL = 8
_CLASSES = {
    "CS": "ContinuousSparsification",
    "ISS": "StochasticSparsification",
    "random, ERK": "random",
    "magnitude at init": "magnitude at init",
    "magnitude": "magnitude at init",
}


class Point(NamedTuple):
    """One trained ticket of one seed.

    Args:
        data: The network and the data set.
        method: The method, by its class.
        setting: What distinguishes it from others of the method.
        seed: The seed.
        kept: The fraction of weights that are left.
        epochs: Epochs until it was trained, those of the search included.
        val: Validation accuracy, or None.
        test: Test accuracy.
        flops: FLOPs of all these epochs if zeros are skipped, or None.
        bytes: Bytes of the int8 file for microcontrollers, or None.
        nearest: The sparsity of the tables that it belongs to, or None.
        source: The comparison it is from. Its networks of a seed have the same initial
            weights.
    """

    data: str
    method: str
    setting: str
    seed: int
    kept: float
    epochs: float
    val: float | None
    test: float
    flops: float | None = None
    bytes: int | None = None
    nearest: float | None = None
    source: str = ""


class Group(NamedTuple):
    """The points of one method in one setting at one sparsity, one for each seed."""

    points: tuple[Point, ...]

    @property
    def method(self):
        return self.points[0].method

    @property
    def setting(self):
        return self.points[0].setting

    @property
    def seeds(self):
        return len(self.points)

    @property
    def kept(self):
        return statistics.mean(p.kept for p in self.points)

    @property
    def epochs(self):
        return statistics.mean(p.epochs for p in self.points)

    @property
    def test(self):
        return Mean.of(p.test for p in self.points)

    @property
    def val(self):
        values = [p.val for p in self.points]
        return None if None in values else statistics.mean(values)

    def bytes(self):
        sizes = [p.bytes for p in self.points if p.bytes is not None]
        return round(statistics.mean(sizes)) if sizes else None

    def behind(self, other):
        """Returns the 95 % interval of the difference to another, or None.

        Within one comparison it is that of the differences in common seeds. Between two
        of them nothing is in common, and it is Welch's.
        """
        if self.points[0].source != other.points[0].source:
            return welch(other.test, self.test)
        mine = {p.seed: p.test for p in self.points}
        theirs = {p.seed: p.test for p in other.points}
        common = sorted(set(mine) & set(theirs))
        if not common:
            return None
        return Mean.of(theirs[s] - mine[s] for s in common).interval()


def welch(first, second):
    """Returns the 95 % interval of the difference of two independent means, or None.

    The degrees of freedom are rounded down, so it is rather too wide.
    """
    if first.count < 2 or second.count < 2:
        return None
    parts = [mean.deviation**2 / mean.count for mean in (first, second)]
    difference = first.mean - second.mean
    if not sum(parts):
        return difference, difference
    counts = (first.count, second.count)
    freedom = sum(parts) ** 2 / sum(
        part**2 / (count - 1) for part, count in zip(parts, counts, strict=True)
    )
    half = student_t(0.95, math.floor(freedom + 1e-9)) * math.sqrt(sum(parts))
    return difference - half, difference + half


def nearest(kept, near=NEAR):
    """Returns the sparsity of the tables whose weights a ticket has, or None."""
    low, high = near
    fits = [s for s in SPARSITIES if low * (1 - s) <= kept <= high * (1 - s)]
    return min(fits, key=lambda s: abs(1 - s - kept), default=None)


def groups(points: Iterable[Point]) -> list[Group]:
    """Returns the points by method, setting and sparsity; only one point a seed.

    Tickets at no sparsity of the tables are in one group if they took as many epochs.
    """
    found: dict = {}
    for point in points:
        key = point.data, point.method, point.setting, point.nearest
        key += (point.epochs,) if point.nearest is None else ()
        seeds = found.setdefault(key, {})
        present = seeds.get(point.seed)
        # Of several rounds near one sparsity the nearest one counts.
        if present is None or _distance(point) < _distance(present):
            seeds[point.seed] = point
    return [Group(tuple(seeds[n] for n in sorted(seeds))) for seeds in found.values()]


def _distance(point):
    target = 1.0 if point.nearest is None else 1 - point.nearest
    return abs(math.log(point.kept / target)), point.epochs


def between(points: Iterable[Point]) -> list[Point]:
    """Returns points, and for each sparsity that was passed over one in between.

    A method that has a ticket there in another setting gets none: tickets that were
    trained come before those in between. The accuracy is linear in the logarithm of the
    weights that are left, between the nearest tickets of the same setting and seed. The
    epochs are those of the later one.
    """
    points = list(points)
    lines: dict = {}
    reached: dict = {}
    for point in points:
        method = point.data, point.method, point.source
        lines.setdefault((*method, point.setting, point.seed), []).append(point)
        reached.setdefault((*method, point.seed), set()).add(point.nearest)
    for (*method, _, seed), line in lines.items():
        there = reached[*method, seed]
        for sparsity in (s for s in SPARSITIES if s not in there):
            near = around(line, 1 - sparsity)
            if near is None or near.high.kept > _APART * near.low.kept:
                continue
            point = near.low._replace(
                kept=1 - sparsity,
                epochs=max(near.high.epochs, near.low.epochs),
                val=near.value("val"),
                test=near.value("test"),
                nearest=sparsity,
                flops=None,
                bytes=None,
            )
            points.append(point)
    return points


class Around(NamedTuple):
    """The two points between which a fraction of weights lies; at a point, it twice.

    Args:
        high: The point that keeps more weights.
        low: The point that keeps fewer.
        share: The share of the second one, linear in the logarithm of the weights.
    """

    high: Point
    low: Point
    share: float

    def value(self, name):
        """Returns a field of the points in between, or None if one lacks it."""
        pair = getattr(self.high, name), getattr(self.low, name)
        if None in pair:
            return None
        return (1 - self.share) * pair[0] + self.share * pair[1]


def around(line: Iterable[Point], kept: float) -> Around | None:
    """Returns the two points between which a fraction of weights lies, or None."""
    more = [p for p in line if p.kept >= kept]
    less = [p for p in line if p.kept <= kept]
    if not more or not less:
        return None
    high = min(more, key=lambda p: p.kept)
    low = max(less, key=lambda p: p.kept)
    apart = math.log(high.kept / low.kept)
    return Around(high, low, math.log(high.kept / kept) / apart if apart else 0.0)


def chosen(points: Iterable[Point], sparsity: float) -> list[Group]:
    """Returns one group of each method, its setting chosen on the validation set.

    Where validation accuracies are unknown, each setting stands for itself.
    """
    by_method: dict = {}
    for group in groups(p for p in points if p.nearest == sparsity):
        key = (
            (group.method,) if group.val is not None else (group.method, group.setting)
        )
        by_method.setdefault(key, []).append(group)
    found = [_best_in_validation(settings) for settings in by_method.values()]
    return sorted(found, key=lambda g: -g.test.mean)


def _best_in_validation(settings):
    """Returns the setting with the best validation accuracy in seeds that all have.

    So a setting that ran with the seed 0 alone is compared with that seed of the
    others. Without a seed in common, or if they are equal, it is that with most seeds.
    """
    common = set.intersection(*({p.seed for p in g.points} for g in settings))

    def merit(group):
        values = [p.val for p in group.points if p.seed in common and p.val is not None]
        mean = statistics.mean(values) if values else 0.0
        return mean, group.seeds, group.val or 0.0

    return max(settings, key=merit)


# Readers.


def runs(page):
    """Returns the files of the common form in a folder of results."""
    files = sorted((RESULTS / page).glob("*.json"))
    found = [json.loads(file.read_text("utf-8")) for file in files]
    return [
        run
        for run in found
        if isinstance(run, dict)
        and {"points", "setting", "seed"} <= run.keys()
        and run.get("method") in METHODS
    ]


def common(page, data):
    """Yields the points of all runs in a folder of results."""
    for run in runs(page):
        for point in run["points"]:
            yield Point(
                run.get("data", data),
                run["method"],
                str(run["setting"]),
                run["seed"],
                point["kept"],
                point["epochs"],
                point.get("val_accuracy"),
                point["test_accuracy"],
                point.get("training_flops"),
                point.get("int8_bytes"),
                nearest(point["kept"]),
            )


def cifar10():
    return list(common("cifar10", RESNET8))


def mnist1d(every_setting=False):
    """Returns the means behind the page of MNIST-1D, by seed.

    They are those of its table, with the same interpolation between two tickets.

    Args:
        every_setting: Whether settings that take more epochs or start later count too.
    """
    if not exists("mnist1d/summary"):
        return []
    content = load("mnist1d/summary")
    dense, final = content["dense"], content["epochs"]
    setting = content["chosen"]["dense"]
    points = [
        Point("MNIST-1D", "dense", setting, int(seed), 1.0, final, None, value)
        for seed, value in dense["values"].items()
    ]
    for row in content["frontier"]:
        method, setting = row["method"], row["setting"]
        aside = setting in content["aside"] and not every_setting
        if method not in METHODS or aside:
            continue
        for level, cell in row["levels"].items():
            kept = 1 - float(level)
            at = nearest(kept)
            for seed, value in cell["values"].items():
                found = Point(
                    *("MNIST-1D", _CLASSES.get(method, method), setting),
                    *(int(seed), kept, cell["epochs"]),
                    val=cell["validation"][seed],
                    test=value,
                    nearest=at,
                )
                points.append(found)
    return points


def mnist():
    """Returns the points of the three comparisons of LeNet-300-100 on MNIST."""
    return between(trained_on_mnist())


def trained_on_mnist():
    """Returns the same points without those between two tickets."""
    return [*_frontier(), *_at_init(), *_growing()]


def dense_of_mnist():
    """Returns the mean test accuracy of each comparison's dense networks."""
    found = []
    if exists("frontier_mnist"):
        runs_ = load("frontier_mnist")["runs"]
        found.append([run["dense"]["test_accuracy"] for run in runs_])
    if exists("teaching_mnist"):
        found.append([run["dense"] for run in load("teaching_mnist")["runs"]])
    if exists("growing_mnist"):
        runs_ = load("growing_mnist")["runs"]
        found.append([run["rows"][0]["dense"]["test_accuracy"] for run in runs_])
    return [statistics.mean(values) for values in found]


_MNIST = "LeNet-300-100, MNIST"


def _frontier():
    if not exists("frontier_mnist"):
        return
    for run in load("frontier_mnist")["runs"]:
        seed = run["provenance"]["seed"]
        val, test = run["dense"]["val_accuracy"], run["dense"]["test_accuracy"]
        point = Point(_MNIST, "dense", "recipe", seed, 1.0, _FINAL, val, test)
        yield point._replace(source="learned masks")
        for row in run["points"]:
            label, _, setting = row["label"].partition(" ")
            metrics, kept = row["metrics"], 1 - row["sparsity"]
            yield Point(
                _MNIST,
                _CLASSES.get(label, label),
                setting or "init",
                seed,
                kept,
                row["search_epochs"] + _FINAL,
                metrics["val_accuracy"],
                metrics["test_accuracy"],
                nearest=nearest(kept),
                source="learned masks",
            )


def _at_init():
    if not exists("teaching_mnist"):
        return
    wanted = {"KDLTS", "SNIP", "SynFlow", "GraSP", *_CLASSES}
    for run in load("teaching_mnist")["runs"]:
        for row in run["rows"]:
            if row["label"] in wanted:
                kept = 1 - row["sparsity"]
                yield Point(
                    _MNIST,
                    _CLASSES.get(row["label"], row["label"]),
                    "init",
                    run["seed"],
                    kept,
                    row["search_epochs"] + _FINAL,
                    None,
                    row["test_accuracy"],
                    nearest=nearest(kept),
                    source="tickets at init",
                )


def _growing():
    if not exists("growing_mnist"):
        return
    settings = {"kept": "weights kept", "reset": "reset"}
    for run in load("growing_mnist")["runs"]:
        for row in run["rows"]:
            # Others are sweeps over settings with one seed.
            if "," in row["label"]:
                continue
            method = row["label"].split()[0]
            kept = 1 - row["sparsity"]
            for kind, metrics in row["trained"].items():
                yield Point(
                    _MNIST,
                    method,
                    "ERK densities" if method == "IMP" else settings[kind],
                    run["seed"],
                    kept,
                    row["search_epochs"] + _FINAL,
                    metrics["val_accuracy"],
                    metrics["test_accuracy"],
                    nearest=nearest(kept),
                    source="growing penalties",
                )
