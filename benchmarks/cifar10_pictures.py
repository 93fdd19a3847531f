"""Draws accuracy against weights, training FLOPs and bytes of ResNet-8 on CIFAR-10.

    KERAS_BACKEND=jax python benchmarks/cifar10_pictures.py

The points are those of `benchmarks/cifar10.py`, means over the seeds with the smallest
and the largest value as a bar. Hollow markers are the networks of
`benchmarks/structures.py`, which were trained for 60 epochs and more: dense, without
single weights or channels, and narrower; one seed each.
"""

import argparse
import functools
import itertools
import json
import pathlib
import statistics

import tf_tickets as tt
from tf_tickets.reports.costs import CostCounter

HERE = pathlib.Path(__file__).parent
# Label, color and marker by method and setting.
STYLES = {
    ("dense", "recipe"): ("dense", "#000000", "*"),
    ("dense", "twice"): ("dense, trained twice", "#000000", "X"),
    ("IMP", "init"): ("IMP, init", "#0b5fa5", "o"),
    ("IMP", "late"): ("IMP, epoch 2", "#0b5fa5", "s"),
    ("GradualPruning", "trained"): ("GradualPruning of dense", "#3a8f5c", "^"),
    ("GradualPruning", "scratch"): ("GradualPruning from scratch", "#3a8f5c", "v"),
    ("ContinuousSparsification", "low-score"): ("CS, low score", "#d9730d", "D"),
    ("ContinuousSparsification", "high-score"): ("CS, high score", "#d9730d", "d"),
    ("random", "erk"): ("random masks", "#8a8a8a", "x"),
    ("narrow", "width"): ("narrower dense", "#c2313b", "P"),
    ("UniLTH", "4-rounds"): ("UniLTH", "#7b55b8", "o"),
    ("UniDLTH", "4-rounds"): ("UniDLTH", "#7b55b8", "s"),
    ("DLTH", "1-round"): ("DLTH", "#7b55b8", "^"),
    ("KDLTS", "3-teachers"): ("KDLTS", "#14a3b8", "o"),
    ("SNIP", "init"): ("SNIP", "#a39a14", "o"),
    ("SynFlow", "init"): ("SynFlow", "#a39a14", "s"),
    ("RigL", "erk"): ("RigL", "#8a5a3c", "o"),
    ("inverted", "init"): ("smallest weights", "#8a8a8a", "+"),
}
# The runs of benchmarks/structures.py, by kind.
LONGER = {
    "dense, 60 epochs": (("dense",), "#000000", "*"),
    "single weights, 68 epochs": (
        ("unstructured", "unstructured-65", "unstructured-65-longer"),
        "#0b5fa5",
        "o",
    ),
    "channels, 68 epochs": (("channels-75", "channels-params"), "#d65fa8", "h"),
    "channels and single weights": (("channels-75-unstructured",), "#d65fa8", "p"),
    "narrower dense, 68 epochs": (("narrow",), "#c2313b", "P"),
}
AXES = {
    "weights": ("parameters left (%)", lambda p, whole: 100 * p["parameters"] / whole),
    "flops": (
        "TFLOPs of all trainings, zeros skipped",
        lambda p, whole: p["training_flops"] / 1e12,
    ),
    "bytes": ("bytes of the int8 file", lambda p, whole: p.get("int8_bytes")),
}


def read(folder):
    files = sorted(folder.glob("*.json"))
    found = [json.loads(file.read_text("utf-8")) for file in files]
    return [run for run in found if "points" in run]


def lines_of(runs, value):
    """Returns the points (x, mean, lowest, highest) of each method in each setting."""
    lines = {}
    for key in STYLES:
        same = [r["points"] for r in runs if (r["method"], r["setting"]) == key]
        line = []
        # All seeds have the same folders; some may lack a few.
        by_folder = {}
        for point in itertools.chain.from_iterable(same):
            by_folder.setdefault(point["folder"], []).append(point)
        for at in by_folder.values():
            places = [value(p) for p in at]
            if None not in places:
                accuracies = [100 * p["test_accuracy"] for p in at]
                mean = statistics.mean(accuracies)
                spot = statistics.mean(places), mean, min(accuracies), max(accuracies)
                line.append(spot)
        if line:
            lines[key] = sorted(line)
    return lines


def longer(results, axis):
    """Yields labels and pairs of the networks that were trained for longer."""
    for label, (names, *_) in LONGER.items():
        paths = [results / "structures" / f"{name}-0.json" for name in names]
        runs = [json.loads(p.read_text("utf-8")) for p in paths if p.exists()]
        pairs = [PLACES[axis](run, results) for run in runs]
        if any(pairs):
            yield label, [pair for pair in pairs if pair]


def by_weights(run, results):
    left = run["parameters"] if "width" in run else run["masked"]["params"]
    return 100 * left / cost(1.0).params, 100 * run["accuracy"]


def by_flops(run, results):
    # No zeros are skipped here, which would save at most a tenth.
    epochs = run["epochs"] + run.get("epochs_before", 0)
    if run.get("base", "dense") != "dense":
        epochs += run["epochs"]
    flops = 6 * run["training_images"] * epochs * cost(run.get("width", 1.0)).macs
    return flops / 1e12, 100 * run["accuracy"]


def by_bytes(run, results):
    text = (results / "micro" / "resnet8.json").read_text("utf-8")
    row = json.loads(text)["rows"].get(run["run"])
    if row is None:
        return None
    sizes = row["without names"]
    return min(sizes["dense"], sizes["encoded"]), 100 * row["int8"]


PLACES = {"weights": by_weights, "flops": by_flops, "bytes": by_bytes}


@functools.cache
def cost(width):
    return CostCounter(tt.models.resnet8((32, 32, 3), 10, width)).dense


def draw(runs, results, axis, path, seeds):
    from matplotlib.figure import Figure

    title, value = AXES[axis]
    whole = cost(1.0).params
    figure = Figure(figsize=(9.2, 5.2), layout="constrained")
    axes = figure.subplots()
    for key, line in lines_of(runs, lambda point: value(point, whole)).items():
        label, color, marker = STYLES[key]
        x, y, low, high = zip(*line, strict=True)
        bars = [
            [b - a for a, b in zip(low, y, strict=True)],
            [b - a for a, b in zip(y, high, strict=True)],
        ]
        size = 13 if marker == "*" else 6
        axes.errorbar(
            x, y, bars, label=label, color=color, marker=marker, markersize=size,
            linewidth=1.5, capsize=2,
        )  # fmt: skip
    for label, pairs in longer(results, axis):
        _, color, marker = LONGER[label]
        axes.plot(
            *zip(*sorted(pairs), strict=True), label=label, color=color, marker=marker,
            markersize=10, markerfacecolor="none", linestyle="none",
        )  # fmt: skip
    if axis != "bytes":
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(lambda number, _: _tick(number))
    axes.xaxis.set_major_formatter(lambda number, _: f"{number:,.6g}")
    axes.tick_params(axis="x", which="both", labelsize=8)
    axes.set_xlabel(title)
    axes.set_ylabel("test accuracy (%)")
    axes.set_title(f"ResNet-8 on CIFAR-10, {seeds}", loc="left", fontweight="bold")
    axes.grid(color="#dddddd", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, fontsize=9, loc="outside right center")
    figure.savefig(path, dpi=150, metadata={"Software": None})


def _tick(number):
    """Returns the label of a tick between powers of ten, if it begins with 2 or 5."""
    return f"{number:,.6g}" if f"{number:.0e}"[0] in "25" else ""


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=pathlib.Path, default=HERE / "results")
    options = parser.parse_args()
    folder = options.results / "cifar10"
    runs = read(folder)
    count = len({run["seed"] for run in runs})
    seeds = {0: "no run yet", 1: "one seed"}.get(count, f"up to {count} seeds")
    for axis in AXES:
        draw(runs, options.results, axis, folder / f"{axis}.png", seeds)


if __name__ == "__main__":
    main()
