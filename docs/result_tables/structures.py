"""Structures of pruning, and the speed of networks without some channels."""

import json

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

# The runs of benchmarks/structures.py, as pages name them.
_RUNS = {
    "dense": "dense",
    "narrow": "narrower, from scratch",
    "unstructured": "single weights",
    "unstructured-uniform": "single weights, half of each kernel",
    "unstructured-65": "single weights, 65 % of them",
    "unstructured-65-longer": "the same, trained on",
    "2-4": "2:4",
    "4x1": "4x1 blocks, half of each kernel",
    "channels-params": "channels, half of the parameters",
    "channels-macs": "channels, half of the MACs",
    "channels-75": "channels, a quarter of the parameters",
    "channels-75-unstructured": "the same, then half of the single weights",
}
_SCORES = {
    "channels-macs": "`magnitude`",
    "channels-macs-gamma": "`gamma`",
    "channels-macs-snip": "`SNIP`",
    "channels-macs-random": "`random`",
}
_RUNTIMES = {
    "keras": "Keras `predict`",
    "saved_model": "SavedModel",
    "tflite": "TFLite, float32",
    "int8": "TFLite, int8",
}


def _runs(name):
    """The files of a run by seed, as far as it has been repeated."""
    files = sorted((RESULTS / "structures").glob(f"{name}-[0-9]*.json"))
    runs = [json.loads(file.read_text("utf-8")) for file in files]
    return [run for run in runs if run["run"] == name]


def _accuracies(runs):
    return ", ".join(f"{100 * run['accuracy']:.2f}" for run in runs)


def _left(run):
    """Fractions of the parameters and multiply-adds that are not zero."""
    if "width" in run:
        whole = _runs("unstructured")[0]["dense"]["params"]
        return [percent(run["parameters"] / whole), ""]
    if "masked" not in run:
        return ["", ""]
    return [
        percent(run["masked"][cost] / run["dense"][cost]) for cost in ("params", "macs")
    ]


@table
def structures():
    rows = []
    for name, title in _RUNS.items():
        runs = _runs(name)
        if runs:
            epochs = sum(runs[0].get(n, 0) for n in ("epochs", "epochs_before"))
            # A network that was pruned twice was trained on twice.
            epochs += (
                runs[0]["epochs"] if runs[0].get("base", "dense") != "dense" else 0
            )
            rows.append([title, epochs, *_left(runs[0]), _accuracies(runs)])
    head = ["ResNet-8", "epochs", "parameters left", "MACs left", "test accuracy"]
    return grid(head, rows)


@table
def channel_scores():
    rows = [
        [title, *_left(runs[0]), _accuracies(runs)]
        for name, title in _SCORES.items()
        if (runs := _runs(name))
    ]
    return grid(["score", "parameters left", "MACs left", "test accuracy"], rows)


@table
def shrink_latency():
    found = load("shrink_latency")["rows"] if exists("shrink_latency") else []
    settings: dict = {}
    for row in found:
        key = row["network"], row["removed"], row["round_to"]
        settings.setdefault(key, {})[row["runtime"]] = row
    rows = []
    for (network, _, round_to), by_runtime in settings.items():
        first = next(iter(by_runtime.values()))
        cells = [
            _latency(by_runtime[name]) if name in by_runtime else ""
            for name in _RUNTIMES
        ]
        rows.append([NETWORKS[network], round_to, percent(first["macs"], 0), *cells])
    return grid(["network", "multiple of", "MACs", *_RUNTIMES.values()], rows)


def _latency(row):
    return f"{ratio(row['ratio'])}, {row['saved']:.2f}"
