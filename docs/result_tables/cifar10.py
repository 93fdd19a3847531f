"""All methods on CIFAR-10, with the same final training."""

import json

from result_tables import evidence
from result_tables.reading import RESULTS, grid, load, percent, table
from tf_tickets.reports.statistics import Mean

_SPARSITIES = (0.5, 0.8, 0.9, 0.95)
# The runs of benchmarks/cifar10.py, as pages name them.
NAMES = {
    ("dense", "recipe"): "dense",
    ("dense", "twice"): "dense, trained twice",
    ("IMP", "init"): "IMP, rewound to init",
    ("IMP", "late"): "IMP, rewound to epoch 2",
    ("GradualPruning", "trained"): "GradualPruning of the dense network",
    ("GradualPruning", "scratch"): "GradualPruning from scratch",
    ("ContinuousSparsification", "low-score"): "ContinuousSparsification, low score",
    ("ContinuousSparsification", "high-score"): "ContinuousSparsification, high score",
    ("random", "erk"): "random masks, ERK",
    ("narrow", "width"): "narrower dense network",
    ("UniLTH", "4-rounds"): "UniLTH",
    ("UniDLTH", "4-rounds"): "UniDLTH",
    ("DLTH", "1-round"): "DLTH",
    ("KDLTS", "3-teachers"): "KDLTS",
    ("SNIP", "init"): "SNIP",
    ("SynFlow", "init"): "SynFlow",
    ("RigL", "erk"): "RigL",
    ("inverted", "init"): "smallest weights (control)",
}


def _plan():
    path = RESULTS / "cifar10" / "plan.json"
    return json.loads(path.read_text("utf-8")) if path.exists() else None


def accuracy(mean):
    """Returns mean and standard deviation in percent; of one seed its value."""
    if mean.deviation is None:
        return f"{100 * mean.mean:.2f}"
    return f"{100 * mean.mean:.2f} ± {100 * mean.deviation:.2f}"


def epochs(group):
    return f"{group.epochs:.0f}"


# How far the weights of a ticket may be from those of a column, as a factor: UniLTH
# has other sparsities than the columns.
_NEAR = (0.8, 1.15)


@table
def cifar10_accuracy():
    points = [
        p._replace(nearest=evidence.nearest(p.kept, _NEAR)) for p in evidence.cifar10()
    ]
    if not points:
        return "No run is complete yet."
    found = {}
    for group in evidence.groups(points):
        sparsity = group.points[0].nearest
        found[group.method, group.setting, sparsity] = group
    rows = []
    for (method, setting), name in NAMES.items():
        if method == "ContinuousSparsification":
            continue
        at = [found.get((method, setting, s)) for s in _SPARSITIES]
        if method == "dense":
            dense = found.get((method, setting, None))
            if dense:
                cells = [f"{accuracy(dense.test)} without pruning", "", "", ""]
                rows.append([name, dense.seeds, epochs(dense), *cells])
        elif any(at):
            present = [g for g in at if g]
            costs = list(dict.fromkeys(epochs(g) for g in present))
            cells = [accuracy(g.test) if g else "" for g in at]
            rows.append([name, _seeds(present), ", ".join(costs), *cells])
    head = ["ResNet-8", "seeds", "epochs", *(percent(s, 0) for s in _SPARSITIES)]
    return grid(head, rows)


def _seeds(groups):
    """Returns the number of seeds, or those of all groups if they differ."""
    counts = [str(group.seeds) for group in groups]
    return ", ".join(counts if len(set(counts)) > 1 else counts[:1])


# Pairs of runs, of which the table of differences has the first minus the second.
_COMPARED = (
    (("IMP", "init"), ("dense", "recipe")),
    (("IMP", "init"), ("dense", "twice")),
    (("IMP", "init"), ("random", "erk")),
    (("IMP", "late"), ("IMP", "init")),
    (("GradualPruning", "trained"), ("IMP", "init")),
    (("GradualPruning", "trained"), ("dense", "twice")),
    (("random", "erk"), ("narrow", "width")),
)


@table
def cifar10_differences():
    """Differences between two methods in the seeds that both have, in points."""
    tests: dict = {}
    for group in evidence.groups(evidence.cifar10()):
        at = group.points[0].nearest
        by_seed = {p.seed: 100 * p.test for p in group.points}
        tests[group.method, group.setting, at] = by_seed
    rows = []
    for pair in _COMPARED:
        cells = []
        for sparsity in _SPARSITIES:
            # Dense networks, of no sparsity, stand beside tickets of every one.
            first, second = (
                tests.get((*key, sparsity)) or tests.get((*key, None)) or {}
                for key in pair
            )
            common = sorted(first.keys() & second.keys())
            leads = [first[seed] - second[seed] for seed in common]
            cells.append(_points(Mean.of(leads)) if leads else "")
        if any(cells):
            rows.append([" over ".join(NAMES[key] for key in pair), *cells])
    return grid(["points", *(percent(s, 0) for s in _SPARSITIES)], rows)


def _points(found):
    """Returns a mean difference with its interval and the number of seeds."""
    interval = found.interval()
    if interval is None:
        return f"{found.mean:+.1f}"
    low, high = interval
    return f"{found.mean:+.1f} ({low:+.1f} to {high:+.1f}; {found.count} seeds)"


@table
def cifar10_continuous():
    """Tickets of continuous sparsification beside others with as many weights."""
    found = evidence.cifar10()
    others = [("IMP", "init"), ("GradualPruning", "trained")]
    rows = []
    for setting in ("low-score", "high-score"):
        tickets = _of(found, "ContinuousSparsification", setting)
        for spent in sorted({p.epochs for p in tickets}):
            same = [p for p in tickets if p.epochs == spent]
            name = NAMES["ContinuousSparsification", setting]
            kept = ", ".join(percent(p.kept) for p in same)
            test = accuracy(Mean.of(p.test for p in same))
            cells = [_over(same, _of(found, *other)) for other in others]
            rows.append([name, len(same), f"{spent:.0f}", kept, test, *cells])
    head = ["ResNet-8", "seeds", "epochs", "weights left", "test accuracy"]
    return grid([*head, *(f"points over {NAMES[other]}" for other in others)], rows)


def _of(points, method, setting):
    return [p for p in points if (p.method, p.setting) == (method, setting)]


def _over(tickets, others):
    """Returns the lead of tickets over another method with as many weights.

    It is empty unless the other method has tickets around each of them.

    Args:
        tickets: One ticket of each seed.
        others: The points of the other method.
    """
    leads, costs = [], {}
    for ticket in tickets:
        line = [p for p in others if p.seed == ticket.seed]
        near = evidence.around(line, ticket.kept)
        if near is None:
            return ""
        leads.append(100 * (ticket.test - near.value("test")))
        costs |= dict.fromkeys((epochs(near.high), epochs(near.low)))
    return f"{_points(Mean.of(leads))}, {' to '.join(costs)} epochs"


@table
def cifar10_points():
    """Every trained ticket."""
    rows = [
        [
            NAMES[p.method, p.setting],
            p.seed,
            percent(p.kept),
            f"{p.epochs:.0f}",
            f"{p.flops / 1e12:.0f}" if p.flops else "",
            f"{p.bytes:,}" if p.bytes else "",
            f"{100 * p.val:.2f}",
            f"{100 * p.test:.2f}",
        ]
        for key in NAMES
        for p in evidence.cifar10()
        if (p.method, p.setting) == key
    ]
    head = ["ResNet-8", "seed", "weights left", "epochs", "TFLOPs of training"]
    return grid([*head, "int8 bytes", "validation", "test"], rows)


@table
def cifar10_progress():
    """What the plan has and what was run, by method."""
    plan = _plan()
    if plan is None:
        return "The plan has not been written yet."
    done = {
        (run["method"], run["setting"], run["seed"]): len(run["points"])
        for run in evidence.runs("cifar10")
    }
    rows: dict = {}
    for row in plan["runs"]:
        key = row["method"], row["setting"]
        known = rows.setdefault(key, [NAMES[key], 0, 0, 0])
        known[1] += row["epochs"]
        known[2] += row["networks"]
        known[3] += done.get((*key, row["seed"]), 0)
    total = [sum(row[n] for row in rows.values()) for n in (1, 2, 3)]
    listed = [[a, f"{b:,}", c, d] for a, b, c, d in rows.values()]
    listed.append(["all", f"{total[0]:,}", total[1], total[2]])
    head = ["ResNet-8", "epochs planned", "networks planned", "networks trained"]
    lines = [f"{plan['epochs']} epochs for each training."]
    if total[2] < total[1]:
        lines.insert(0, "**The comparison is not complete.**")
        seconds = _cost("cpu_seconds")
        if seconds:
            hours = total[0] * sum(seconds) / len(seconds) / 3600
            hint = f"At this speed, all would take about {hours:.0f} hours of one core."
            lines.append(hint)
    return " ".join(lines) + "\n\n" + grid(head, listed)


_PICTURES = """## By weights

![Accuracy against parameters left](data/cifar10/weights.png)

Hollow markers are networks of another comparison, [Structures](structures.md): the
dense network, single weights, channels and a narrower dense network, trained for 60
epochs and more on all 50,000 images, one seed. They stand higher because they were
trained for longer. Compare them with each other only.

## By training

![Accuracy against FLOPs of all trainings](data/cifar10/flops.png)

FLOPs of all trainings until the ticket was trained, if hardware skipped every
multiplication by a pruned weight: six for each remaining multiply-add and image,
forward and backward. No hardware here skips them, so on a CPU the epochs of the table
are the cost. Scores, distillation and masks in training are not counted. The hollow
markers are counted as if dense.

## By bytes on a microcontroller

![Accuracy against bytes of the int8 file](data/cifar10/bytes.png)

Size of the file that TensorFlow Lite Micro runs in 8 bits, with zeros encoded and names
dropped ([Flash and RAM of microcontrollers](micro.md)), or of the dense file where that
is smaller. About 12 kB of the decoder's code come on top if zeros are encoded. Accuracy
is that in float32; at the hollow markers it is that in 8 bits."""


@table
def cifar10_pictures():
    """The pictures, once there are methods to compare."""
    methods = {run["method"] for run in evidence.runs("cifar10") if run["points"]}
    if len(methods) > 1:
        return _PICTURES
    return "Pictures follow when tickets are trained: so far there is only one method."


@table
def cifar10_dense():
    """What the shorter training of the dense network costs in accuracy."""
    dense = [
        group
        for group in evidence.groups(evidence.cifar10())
        if (group.method, group.setting) == ("dense", "recipe")
    ]
    if not dense:
        return "The dense network has not been trained yet."
    [group] = dense
    path = RESULTS / "structures" / "dense-0.json"
    longer = json.loads(path.read_text("utf-8"))
    count = "one seed" if group.seeds == 1 else f"{group.seeds} seeds"
    return (
        f"The dense network reaches {accuracy(group.test)} % in {epochs(group)} epochs "
        f"({count}). In {longer['epochs']} epochs, on all "
        f"{longer['training_images']:,} images, it reaches "
        f"{100 * longer['accuracy']:.2f} %."
    )


def _cost(name):
    files = sorted((RESULTS / "cifar10").glob("*.json"))
    read = [json.loads(file.read_text("utf-8")) for file in files]
    return [
        row[name]
        for run in read
        for rows in run.get("by_epoch", {}).values()
        for row in rows
    ]


@table
def cifar10_machine():
    """Where and when the runs were made."""
    found = evidence.runs("cifar10")
    if not found:
        return "No run is complete yet."
    made = [point["made"] for run in found for point in run["points"]]
    dates = sorted({each["date"] for each in made})
    machine, versions = made[0]["machine"], made[0]["versions"]
    seconds = _cost("cpu_seconds")
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    switched = [
        f"{_title(run)} (seed {run['seed']}, {count} of {len(run['points'])} networks)"
        for run in found
        if (count := sum(map(_switched, run["points"])))
    ]
    unknown = [
        f"{_title(run)} (seed {run['seed']})"
        for run in found
        if any("onednn" not in p["made"]["machine"] for p in run["points"])
    ]
    onednn = f" oneDNN was switched on for {', '.join(switched)}." if switched else ""
    if unknown:
        onednn += f" It was not recorded for {', '.join(unknown)}."
    if onednn:
        onednn += " Narrower networks are compiled with XLA, where it plays no part."
    return (
        f"{machine['cores']} shared CPU cores ({machine['processor']}), "
        f"{machine['threads']} thread for each training, Keras {versions['keras']} on "
        f"{versions['backend']}; {when}. {len(seconds)} epochs took "
        f"{sum(seconds) / 3600:.1f} hours of one core, "
        f"{sum(seconds) / len(seconds):.0f} seconds each: {min(seconds):.0f} to "
        f"{max(seconds):.0f}, by network and machine.{onednn}{_dense_anew(found)}"
    )


def _switched(point):
    return point["made"]["machine"].get("onednn") == "1"


def _title(run):
    return NAMES[run["method"], run["setting"]]


def _dense_anew(found):
    """Says which tickets started from another dense network than the one reported."""
    reported = {
        run["seed"]: run["points"][0]["test_accuracy"]
        for run in found
        if (run["method"], run["setting"]) == ("dense", "recipe")
    }
    others: dict = {}
    for run in found:
        for point in run["points"]:
            own = point.get("dense_accuracy")
            if own not in (None, reported.get(run["seed"], own)):
                others.setdefault((run["seed"], own), {})[_title(run)] = None
    return "".join(
        f" The dense network of seed {seed} was trained again in another work folder, "
        f"for {' and '.join(names)}: {100 * own:.2f} %, in the table "
        f"{100 * reported[seed]:.2f} %."
        for (seed, own), names in sorted(others.items())
    )


def _channels(rows):
    return ", ".join(str(row["channels"]) for row in rows) or "none"


@table
def onednn_writes():
    """Whether TensorFlow writes past its memory, by the processor that was tried."""
    found = load("onednn_writes")
    gradients = [row for row in found["rows"] if row["case"] == "gradient"]
    bad = [row for row in gradients if row["outcome"] != "clean"]
    lines = [
        (
            percent(row["width"], 0),
            {"fixed": "GradualPruning", "soft": "soft masks"}[row["mask"]],
            "yes" if row["xla"] else "no",
            row["outcome"],
        )
        for row in found["rows"]
        if row["case"] == "training"
    ]
    wrong = _channels(bad)
    right = _channels([row for row in gradients if row not in bad])
    return (
        f"With {wrong} input channels the gradient writes past its memory, with "
        f"{right} it does not. Four steps of ResNet-8:\n\n"
        + grid(["width of ResNet-8", "masks", "XLA", "memory"], lines)
        + f"\n\nProcessor: {_processor(found['machine']['cpu'])}; {found['date']}."
    )


def _processor(cpu):
    name, family, model = cpu.rsplit(", ", 2)
    return f"{name}, family {family}, model {model}"
