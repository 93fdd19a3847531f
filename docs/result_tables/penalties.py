"""Growing penalties beside iterative magnitude pruning."""

import re

from result_tables.reading import grid, load, percent, spread, table

_GROWING = (
    *("IMP, reset", "UniLTH, kept", "UniLTH, reset", "UniDLTH, kept"),
    "DLTH, kept",
)


def _growing(name, labels):
    points, seeds = load(name)["points"], len(load(name)["seeds"])
    sparsities = sorted({point["sparsity"] for point in points})
    cells = {(p["label"], p["sparsity"]): spread(p["accuracy"], seeds) for p in points}
    rows = [
        [label, *(cells.get((label, s), "") for s in sparsities)] for label in labels
    ]
    return grid(["search", *(percent(s, 0) for s in sparsities)], rows)


@table
def growing_mnist():
    return _growing("growing_mnist", _GROWING)


@table
def growing_mnist_cost():
    points = load("growing_mnist")["points"]
    sparsities = sorted({point["sparsity"] for point in points})
    costs = {
        (p["label"], p["sparsity"]): f"{p['search_epochs']['mean']:.0f}" for p in points
    }
    labels = {"IMP": "IMP, reset", "UniLTH": "UniLTH, kept", "DLTH": "DLTH, kept"}
    rows = [[k, *(costs[label, s] for s in sparsities)] for k, label in labels.items()]
    return grid(["search epochs", *(percent(s, 0) for s in sparsities)], rows)


@table
def growing_mnist_settings():
    """Other settings, and the usual ones of the same seed beside them."""
    first = load("growing_mnist")["runs"][0]["rows"]
    sparsities = sorted({round(row["sparsity"], 3) for row in first})
    cells = {}
    for row in first:
        label = re.sub(r"^DLTH \d+", "DLTH", row["label"].removesuffix(", kept"))
        found = row["trained"].get("kept")
        if found:
            value = f"{100 * found['test_accuracy']:.2f}"
            cells.setdefault(label, {})[round(row["sparsity"], 3)] = value
    order = sorted(cells, key=lambda label: (label.split(",")[0], "," in label, label))
    rows = [[label, *(cells[label].get(s, "") for s in sparsities)] for label in order]
    return grid(["weights kept, seed 0", *(percent(s, 0) for s in sparsities)], rows)


@table
def growing_mnist_removal():
    """By how many points the removal itself changes validation accuracy."""
    changes = {}
    for run in load("growing_mnist")["runs"]:
        for row in run["rows"]:
            if "removal" in row:
                label = re.sub(r"^DLTH \d+", "DLTH", row["label"])
                before, after = row["removal"]["before"], row["removal"]["after"]
                changes.setdefault(label, []).append(100 * (after - before))
    labels = ("UniLTH", "UniDLTH", "DLTH", "DLTH, slow penalty", "DLTH, smallest")
    rows = [
        [label, f"{min(changes[label]):+.2f}", f"{max(changes[label]):+.2f}"]
        for label in labels
    ]
    return grid(["search", "lowest", "highest"], rows)
