"""Writes the tables of the documentation from the JSON files of the benchmarks.

    python docs/make_results.py          rewrites the tables in README.md and docs/
    python docs/make_results.py --check  only lists the pages that are out of date

A page holds a table between `<!-- table: NAME -->` and `<!-- end -->`, where NAME is a
key of `TABLES`, and the command that made a JSON file, FILE without its suffix, between
`<!-- command: FILE -->` and `<!-- end -->`. All figures come from
`benchmarks/results/*.json`.
"""

import functools
import json
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
_REGION = re.compile(r"(<!-- (table|command): (.+?) -->\n)(.*?)(<!-- end -->)", re.S)
TABLES = {}


def main(arguments):
    stale = []
    for page in pages():
        text = page.read_text("utf-8")
        new = filled(text)
        if new != text:
            stale.append(page)
            if "--check" not in arguments:
                page.write_text(new, "utf-8")
    for page in stale:
        print(page.relative_to(ROOT))
    return int(bool(stale) and "--check" in arguments)


def pages():
    """README and the pages of the site."""
    found = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [page for page in found if "<!-- end -->" in page.read_text("utf-8")]


def filled(text):
    """The text of a page with its tables and commands as the JSON files have them."""
    return _REGION.sub(_region, text)


def _region(match):
    begin, kind, name, _, end = match.groups()
    content = TABLES[name]() if kind == "table" else _command(name)
    return f"{begin}{content}\n{end}"


def table(function):
    TABLES[function.__name__.replace("_", "-")] = function
    return function


# Reading and writing.


@functools.cache
def load(name):
    return json.loads((RESULTS / f"{name}.json").read_text("utf-8"))


def grid(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def percent(value, digits=1):
    return f"{100 * value:.{digits}f} %"


def spread(found, seeds=None):
    """Mean and standard deviation in percent; of one seed its value."""
    mean = f"{100 * found['mean']:.2f}"
    if (seeds or len(found["values"])) == 1:
        return mean
    return f"{mean} ± {100 * found['stdev']:.2f}"


def ratio(found):
    low, high = found["quartiles"]
    return f"{found['median']:.2f} ({low:.2f} to {high:.2f})"


def thousands(count):
    return f"{round(count / 1000):,}"


def _command(name):
    """The command as the file has it, without where its output went to."""
    found = load(name)
    command = re.sub(r" --out \S+", "", found["command"])
    backend = found.get("backend") or found.get("versions", {}).get("backend")
    if not command.startswith("KERAS_BACKEND") and backend:
        command = f"KERAS_BACKEND={backend} {command}"
    return f"```sh\n{command}\n```"


# Iterative magnitude pruning beside its controls.

# Test accuracy in % of another group's replication (KTH, 5 trials, 20 epochs a round,
# the same optimizer, batch size and rates), by round: ticket, random
# reinitialization. The same numbers are in benchmarks/mnist_imp.py.
PUBLISHED = {
    **{1: (98.11, 98.05), 2: (98.15, 97.97), 3: (98.05, 98.08), 4: (98.11, 97.88)},
    **{5: (98.25, 97.89), 6: (98.30, 97.85), 7: (98.37, 97.95), 8: (98.39, 97.53)},
    **{9: (98.40, 97.67), 10: (98.42, 97.27), 11: (98.38, 97.28)},
    **{12: (98.31, 97.12), 13: (98.30, 96.76), 14: (98.16, 96.29)},
    **{15: (97.85, 95.95)},
}


def _imp(name):
    found = load(name)
    head = ["round", "weights left", "ticket", "random reinit", "shuffled masks"]
    rows = [["0", "100 %", spread(found["dense"]), "", "", "98.12", ""]]
    for row in found["rows"]:
        cells = [spread(row[kind]) for kind in ("ticket", "reinit", "shuffled")]
        known = [f"{value:.2f}" for value in PUBLISHED[row["round"]]]
        left = percent(1 - row["sparsity"])
        rows.append([row["round"], left, *cells, *known])
    return grid([*head, "published ticket", "published reinit"], rows)


@table
def imp_mnist():
    return _imp("mnist_imp")


@table
def imp_mnist_standard():
    return _imp("mnist_imp_standard")


# Learned masks and magnitude pruning on one frontier.

# Shares of weights at which the searches are compared.
_BANDS = {
    "21 %": (0.205, 0.215),
    "10 to 11 %": (0.10, 0.11),
    "4.5 to 4.9 %": (0.0445, 0.049),
    "3.6 to 3.7 %": (0.0355, 0.0375),
    "2.4 %": (0.0235, 0.0245),
    "1.4 %": (0.0135, 0.0145),
    "0.9 %": (0.0085, 0.0095),
}
_METHODS = {
    "CS": "Continuous Sparsification",
    "IMP": "IMP",
    "ISS": "stochastic sparsification",
}


@table
def frontier_mnist():
    found = load("frontier_mnist")
    head = ["weights left", *(f"{name} (epochs)" for name in _METHODS.values())]
    rows = [["100 % (dense)", spread(found["dense"]), "", ""]]
    for label, (low, high) in _BANDS.items():
        rows.append([label, *(_best_in(found, m, low, high) for m in _METHODS)])
    return grid(head, rows)


def _best_in(found, method, low, high):
    """The best ticket of a method that keeps a share of the weights in a band."""
    points = [
        point
        for point in found["points"]
        if point["label"].split()[0] == method
        and low <= 1 - point["sparsity"]["mean"] <= high
    ]
    if not points:
        return ""
    best = max(points, key=lambda point: point["accuracy"]["mean"])
    return f"{spread(best['accuracy'])} ({best['search_epochs']})"


def _every_ticket(name):
    head = ["search", "round", "search epochs", "weights left", "test accuracy"]
    rows = []
    for point in load(name)["points"]:
        left = percent(1 - point["sparsity"]["mean"])
        cells = [point["label"], point["round"], point["search_epochs"], left]
        rows.append([*cells, spread(point["accuracy"])])
    return grid(head, rows)


@table
def frontier_mnist_all():
    return _every_ticket("frontier_mnist")


@table
def frontier_cifar10_all():
    return _every_ticket("frontier_cifar10")


@table
def frontier_mnist_cost():
    """Epochs to the first ticket as good as the dense network."""
    exact = [r for r in load("frontier_mnist")["first_matching"] if not r["tolerance"]]
    rows = []
    for sparsity in exact[0]["epochs"]:
        cells = []
        for method in _METHODS:
            costs = [row["epochs"][sparsity][method] for row in exact]
            cells.append(", ".join("never" if c is None else str(c) for c in costs))
        rows.append([percent(float(sparsity), 0), *cells])
    return grid(["sparsity of at least", *_METHODS.values()], rows)


@table
def frontier_cifar10():
    found = load("frontier_cifar10")
    chosen = ("CS initial_score=-0.03", "CS initial_score=0.03", "IMP", "ISS")
    head = ["search", "weights left: test accuracy (search epochs)"]
    rows = [["dense", f"100 %: {spread(found['dense'])}"]]
    for label in chosen:
        cells = [
            f"{percent(1 - p['sparsity']['mean'])}: {spread(p['accuracy'])} "
            f"({p['search_epochs']})"
            for p in found["points"]
            if p["label"] == label
        ]
        rows.append([label, ", ".join(cells)])
    return grid(head, rows)


# Supermasks.


def _supermask(name):
    head = ["search", "ticket", "weights left", "test accuracy"]
    rows = [
        [
            *(point["label"], point["ticket"]),
            percent(1 - point["sparsity"]),
            f"{100 * point['test_accuracy']:.2f}",
        ]
        for point in load(name)["points"]
    ]
    return grid(head, rows)


@table
def supermask_mnist():
    return _supermask("supermask_mnist")


@table
def supermask_cifar10():
    return _supermask("supermask_cifar10")


# Growing penalties.

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


@table
def growing_cifar10():
    order = ("UniLTH, kept", "UniDLTH, kept", "UniLTH, reset", "IMP, reset")
    return _growing("growing_cifar10", (*order, "DLTH, kept"))


# Tickets at initialization, and tickets that are taught.

_AT_INIT = {
    "KDLTS": "KDLTS",
    "IMP": "IMP, rewound to init",
    "SNIP": "SNIP",
    "SynFlow": "SynFlow",
    "GraSP": "GraSP",
    "magnitude at init": "magnitude at init",
    "random, ERK": "random, ERK",
    "IMP, taught, labels 0.5": "IMP, taught, labels weigh 0.5",
    "IMP, taught, labels 0.1": "IMP, taught, labels weigh 0.1",
    "KDLTS, early": "KDLTS, after 1 epoch",
    "IMP, early": "IMP, rewound to 1 epoch",
}


def _teaching(name):
    points = {(p["label"], p["sparsity"]): p for p in load(name)["points"]}
    sparsities = sorted({sparsity for _, sparsity in points})
    rows = []
    for label, shown in _AT_INIT.items():
        found = [points.get((label, s)) for s in sparsities]
        if not all(found):
            continue
        costs = list(dict.fromkeys(point["search_epochs"] for point in found))
        cost = "" if costs == [None] else ", ".join(map(str, costs))
        seeds = len(found[0]["accuracy"]["values"])
        rows.append([shown, cost, seeds, *(spread(p["accuracy"]) for p in found)])
    shares = [percent(s, 0) for s in sparsities]
    return grid(["search", "search epochs", "seeds", *shares], rows)


@table
def at_init_mnist():
    return _teaching("teaching_mnist")


@table
def at_init_cifar10():
    return _teaching("teaching_cifar10")


@table
def kdlts_mnist_ablation():
    rows = [
        [
            point["label"].removeprefix("KDLTS, "),
            point["search_epochs"],
            spread(point["accuracy"]),
        ]
        for point in load("teaching_mnist")["points"]
        if point["label"].startswith("KDLTS, ") and point["label"] != "KDLTS, early"
    ]
    return grid(["KDLTS with", "search epochs", "95 %"], rows)


# Exported files.

_NETWORKS = {
    "lenet300": "LeNet-300-100",
    "conv6": "Conv-6",
    "mobilenet": "MobileNetV1",
    "resnet20": "ResNet-20",
    "1024x3": "3 layers of 1024",
    "4096x2": "2 layers of 4096",
}


def _sizes(columns):
    """Thousands of bytes; `columns` is a dict from a heading to a field."""
    rows = [
        [
            *(_NETWORKS[row["network"]], percent(row["sparsity"], 0)),
            *(thousands(row[field]) for field in columns.values()),
        ]
        for row in load("export_sizes")["rows"]
    ]
    return grid(["network", "zeros", *columns], rows)


@table
def export_sizes():
    return _sizes(
        {
            "bound": "bound",
            "SavedModel": "saved_model",
            "Keras's SavedModel": "saved_model_keras",
            "Keras's, gzipped": "saved_model_keras_gzipped",
            "`.keras`": "keras",
            "stock `.keras`": "keras_stored",
        }
    )


@table
def export_sizes_tflite():
    return _sizes(
        {
            "bound": "bound",
            "`.tflite`": "tflite",
            "gzipped": "tflite_gzipped",
            "TFLite's converter": "converter",
            "converter, gzipped": "converter_gzipped",
            "dense, gzipped": "tflite_dense_gzipped",
        }
    )


@table
def export_latency():
    found = {}
    for row in load("export_latency")["rows"]:
        key = row["network"], row["sparsity"]
        found.setdefault(key, {})[row["structure"]] = row["ratios"]
    rows = []
    for (network, sparsity), structures in found.items():
        cells = [
            ratio(structures[kind][batch]) if kind in structures else ""
            for batch in ("1", "32")
            for kind in ("unstructured", "4x1 blocks")
        ]
        rows.append([_NETWORKS[network], percent(sparsity, 0), *cells])
    kinds = ("batch 1, single weights", "batch 1, blocks")
    kinds += ("batch 32, single weights", "batch 32, blocks")
    return grid(["network", "zeros", *kinds], rows)


@table
def saved_models():
    head = ["file", "sparsity", "bytes", "gzipped", "test accuracy", "other answers"]
    rows = []
    for example in load("saved_models")["examples"]:
        for row in example["rows"]:
            path = f"`{example['dataset']}-lenet300/{row['file']}`"
            answers = f"{row['other_answers']} of {row['images']:,}"
            rows.append(
                [
                    *(path, percent(example["sparsity"]), f"{row['bytes']:,}"),
                    *(f"{row['gzipped']:,}", percent(row["accuracy"], 2), answers),
                ]
            )
    return grid(head, rows)


# Time of a step.


@table
def step_time():
    files = {"TensorFlow": "step_time_tensorflow", "JAX": "step_time_jax"}
    rows = []
    for name in ("lenet300", "conv6", "resnet20"):
        batch = load("step_time_jax")["models"][name]["batch_size"]
        row = [f"{_NETWORKS[name]}, batch {batch}"]
        for file in files.values():
            alone = f"{file}_{name}"
            file = alone if (RESULTS / f"{alone}.json").exists() else file
            found = load(file)["models"][name]["step"]
            row += [
                ratio(found[kind]["ratio"]) for kind in ("all_ones", "sparsity_0.8")
            ]
        rows.append(row)
    kinds = [
        f"{b}, {kind}" for b in files for kind in ("masks of ones", "sparsity 0.8")
    ]
    return grid(["network", *kinds], rows)


@table
def step_time_tfmot():
    rows = []
    for name in ("lenet300", "conv6", "resnet20"):
        found = load(f"step_time_tensorflow_fit_{name}")["models"][name]
        steps = found["fit"]["steps_per_timing"]
        cells = [ratio(found[part]["ratio"]) for part in ("fit", "tfmot")]
        rows.append([_NETWORKS[name], *cells, steps])
    head = ["network", "tf_tickets over its dense model"]
    return grid([*head, "tfmot over its dense model", "steps a timing"], rows)


def _both_backends(part):
    found = {b: load(f"step_time_{b}_{part}") for b in ("tensorflow", "jax")}
    kinds = found["jax"]["models"]["lenet300"][part]
    rows = [
        [
            kind,
            *(
                ratio(f["models"]["lenet300"][part][kind]["ratio"])
                for f in found.values()
            ),
        ]
        for kind in kinds
    ]
    return grid(["LeNet-300-100", "TensorFlow", "JAX"], rows)


@table
def step_time_learned():
    return _both_backends("learned")


@table
def step_time_penalized():
    return _both_backends("penalized")


@table
def step_time_distilled():
    return _both_backends("distilled")


@table
def step_time_turn():
    rows = []
    for backend in ("tensorflow", "jax"):
        for name, found in load(f"step_time_{backend}")["models"].items():
            gaps = [
                ratio(found["turn"][who]["gap_steps"]) for who in ("search", "dense")
            ]
            rows.append([backend, _NETWORKS[name], *gaps])
    head = ["backend", "network", "between two rounds", "between two epochs, dense"]
    return grid(head, rows)


# Beside other libraries.


@table
def openlth():
    if not (RESULTS / "against_openlth.json").exists():
        return "No result of this benchmark is kept in the repository yet."
    found = load("against_openlth")
    rows = [
        [f"{pair['ours']:.1f}", f"{pair['theirs']:.1f}", f"{pair['ratio']:.2f}"]
        for pair in found["pairs"]
    ]
    return grid(["tf_tickets, seconds", "OpenLTH, seconds", "ratio"], rows)


@table
def others():
    """Six results beside others' for README; in some of them we are behind."""
    head = ["what", "here", "the other", "which other", "results page"]
    rows = [row() for row in _OTHERS]
    return grid(head, [row for row in rows if row][:6])


def _page(name):
    return f"[{name}](docs/results/{name}.md)"


def _other_openlth():
    if not (RESULTS / "against_openlth.json").exists():
        return None
    ratios = [pair["ratio"] for pair in load("against_openlth")["pairs"]]
    between = f"{min(ratios):.2f} to {max(ratios):.2f} of its time"
    what = "Whole IMP search, LeNet-300-100 on MNIST, 2 cores"
    return [what, between, "1", "OpenLTH (PyTorch)", _page("openlth")]


def _other_replication():
    row = next(r for r in load("mnist_imp")["rows"] if r["round"] == 12)
    what = (
        f"IMP ticket, LeNet-300-100 on MNIST, {percent(1 - row['sparsity'])} of weights"
    )
    cells = f"{spread(row['ticket'])} %", f"{PUBLISHED[12][0]:.2f} %"
    return [what, *cells, "published replication, twice the epochs", _page("imp")]


def _other_tfmot():
    found = load("step_time_tensorflow_fit_lenet300")["models"]["lenet300"]
    cells = [
        f"{found[part]['ratio']['median']:.2f} × dense" for part in ("fit", "tfmot")
    ]
    what = "Time of a masked training step, LeNet-300-100"
    return [what, *cells, "tensorflow-model-optimization", _page("step-time")]


def _size(network, sparsity):
    rows = load("export_sizes")["rows"]
    return next(
        r for r in rows if r["network"] == network and r["sparsity"] == sparsity
    )


def _other_saved_model():
    row = _size("mobilenet", 0.95)
    cells = [f"{thousands(row[k])} kB" for k in ("saved_model", "saved_model_keras")]
    what = "SavedModel of MobileNetV1, 95 % zeros"
    return [what, *cells, "Keras's `export`", _page("export-size")]


def _other_gzip():
    row = _size("conv6", 0.5)
    fields = "tflite_gzipped", "tflite_dense_gzipped"
    cells = [f"{thousands(row[field])} kB" for field in fields]
    what = "Gzipped `.tflite` of Conv-6, 50 % zeros"
    return [what, *cells, "the dense file, gzipped", _page("export-size")]


def _other_latency():
    rows = load("export_latency")["rows"]
    wanted = {"network": "1024x3", "structure": "unstructured", "sparsity": 0.9}
    row = next(r for r in rows if wanted.items() <= r.items())
    what = "Call of a `.tflite`, 3 layers of 1024, 90 % single zeros, batch 32"
    cells = f"{row['ratios']['32']['median']:.2f}", "1"
    return [what, *cells, "the dense file, LiteRT", _page("export-latency")]


def _other_frontier():
    found = load("frontier_mnist")
    low, high = _BANDS["4.5 to 4.9 %"]
    cells = [f"{_best_in(found, method, low, high)}" for method in ("CS", "IMP")]
    what = "Continuous Sparsification: test accuracy at 5 % of the weights (epochs)"
    return [what, *cells, "our IMP", _page("learned-masks")]


_OTHERS = (
    *(_other_openlth, _other_replication, _other_tfmot, _other_saved_model),
    *(_other_gzip, _other_latency, _other_frontier),
)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
