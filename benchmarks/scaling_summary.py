"""The exponents, predictions and picture of `scaling.py`, from its JSON files."""

import json
import math

from scaling import FAMILIES, LARGER, SIZES

# The operations that a page shows, with the kind of run that measures them.
OPERATIONS = {
    "wrap": "model",
    "step": "model",
    "record": "model",
    "select": "model",
    "set masks": "model",
    "rewind": "model",
    "save ticket": "files",
    "load ticket": "files",
    "save search": "files",
    "export": "files",
}
FILES = ("ticket", "search", "export")
# The operations of a search between two rounds.
BETWEEN = ("select", "set masks", "record", "rewind", "save ticket", "save search")
# Bytes per weight of the arrays that a search by IMP from the initialization holds with
# SGD and momentum in float32, counted. A round adds a ticket.
HELD = {
    "weights": 4,
    "momentum": 4,
    "gradients": 4,
    "mask": 1,
    "state at the beginning: weights and momentum": 8,
}
OF_A_TICKET = 1


def read(folder):
    """Returns a dict from kind, family and millions of weights to what was measured."""
    found = {}
    for file in sorted(folder.glob("*-*-*.json")):
        content = json.loads(file.read_text())
        found[content["what"], content["family"], content["millions"]] = content
    return found


def fit(sizes, values):
    """Returns factor and exponent of the power law by least squares in log-log."""
    xs, ys = [math.log(size) for size in sizes], [math.log(v) for v in values]
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    above = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True))
    slope = above / sum((x - mean_x) ** 2 for x in xs)
    return math.exp(mean_y - slope * mean_x), slope


def at(law, size):
    factor, exponent = law
    return factor * size**exponent


def series(found, what, family, value):
    """Returns the sizes at which something was measured, and its values."""
    rows = []
    for millions in SIZES:
        run = found.get((what, family, millions))
        if run is None:
            continue
        measured = value(run)
        # Operations that were left out, and memory too little to be seen.
        if measured:
            rows.append((run["weights"], measured))
    return [size for size, _ in rows], [value for _, value in rows]


def laws(found):
    """Returns a dict from family and operation to its laws and the check at the end."""
    table = {}
    for family in FAMILIES:
        for name, what in OPERATIONS.items():
            for unit in ("cpu_seconds", "peak_bytes"):
                sizes, values = series(
                    found,
                    what,
                    family,
                    lambda run, name=name, unit=unit: (
                        run["operations"].get(name, {}).get(unit)
                    ),
                )
                add(table, f"{family} {name} {unit}", sizes, values)
        for name in FILES:
            sizes, values = series(
                found,
                "files",
                family,
                lambda run, name=name: run["file_bytes"].get(name),
            )
            add(table, f"{family} {name} file_bytes", sizes, values)
    return table


def add(table, name, sizes, values):
    if len(sizes) < 2:
        return
    row = {"sizes": sizes, "values": values}
    row["factor"], row["exponent"] = fit(sizes, values)
    # By a straight line through the last two: the small ones have fixed costs.
    row["last_exponent"] = fit(sizes[-2:], values[-2:])[1]
    if len(sizes) == len(SIZES):
        # The last size, predicted from the others.
        row["predicted"] = at(fit(sizes[:-1], values[:-1]), sizes[-1])
        row["predicted_over_measured"] = row["predicted"] / values[-1]
    table[name] = row


def rounds(found):
    """Returns what each round of a search adds, in the largest one measured."""
    runs = [found[key] for key in sorted(found) if key[:2] == ("rounds", "mlp")]
    if not runs:
        return None
    run = runs[-1]
    rows, weights = run["rounds"], run["weights"]
    # The first rounds compile and allocate.
    later = rows[2:]
    numbers = [row["round"] for row in later]

    def slope(values):
        mean, middle = sum(values) / len(values), sum(numbers) / len(numbers)
        above = sum(
            (n - middle) * (v - mean) for n, v in zip(numbers, values, strict=True)
        )
        return above / sum((n - middle) ** 2 for n in numbers)

    return {
        "weights": weights,
        "seconds_exponent": fit(numbers, [row["cpu_seconds"] for row in later])[1],
        "disk_per_round": slope([row["disk_bytes"] for row in later]) / weights,
        "seconds": [row["cpu_seconds"] for row in rows],
        "disk": [row["disk_bytes"] for row in rows],
    }


def largest_peak(table):
    """Returns the operation between rounds that takes most bytes per weight."""
    peaks = []
    for family in FAMILIES:
        for name in BETWEEN:
            row = table.get(f"{family} {name} peak_bytes")
            if row is not None:
                per_weight = row["values"][-1] / row["sizes"][-1]
                peaks.append((per_weight, name, family))
    per_weight, name, family = max(peaks)
    return {"operation": name, "family": family, "bytes": per_weight}


def extrapolated(table):
    """Returns seconds and bytes at larger models, by the law of the transformer.

    From the last measured size on, cost is taken to grow in proportion to the size, or
    by the last measured exponent where that is larger.
    """
    found = {}
    for model, size in LARGER.items():
        for name, row in table.items():
            family, _, operation = name.partition(" ")
            if family != "transformer":
                continue
            if size <= row["sizes"][-1]:
                law = fit(row["sizes"][-2:], row["values"][-2:])
                value = at(law, size)
            else:
                exponent = max(1.0, row["last_exponent"])
                value = row["values"][-1] * (size / row["sizes"][-1]) ** exponent
            found.setdefault(model, {})[operation] = value
    return found


def write(folder):
    found = read(folder)
    table = laws(found)
    content = {
        "command": "python benchmarks/scaling.py summary",
        "laws": table,
        "rounds": rounds(found),
        "extrapolated": extrapolated(table),
        "held": HELD,
        "of_a_ticket": OF_A_TICKET,
        "largest_peak": largest_peak(table),
        "loads": sorted(run.get("load_before", run["load"]) for run in found.values()),
        "larger": LARGER,
        "dates": sorted({run["date"] for run in found.values()}),
        "cores": sorted({run["machine"]["cores"] for run in found.values()}),
        "versions": next(iter(found.values()))["versions"],
    }
    (folder / "summary.json").write_text(json.dumps(content, indent=1) + "\n")
    draw(table, content["rounds"], folder / "scaling.png")


def draw(table, by_round, path):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0, 4.6), layout="constrained")
    panels = figure.subplots(1, 3)
    colors = dict(zip(OPERATIONS, _colors(len(OPERATIONS)), strict=True))
    for axes, unit, label in (
        (panels[0], "cpu_seconds", "CPU seconds"),
        (panels[1], "peak_bytes", "peak above the memory before, bytes"),
    ):
        for name, color in colors.items():
            for family, style in zip(FAMILIES, ("-o", "--s"), strict=True):
                row = table.get(f"{family} {name} {unit}")
                if row is not None:
                    named = name if family == FAMILIES[0] else None
                    axes.plot(
                        row["sizes"],
                        row["values"],
                        style,
                        color=color,
                        label=named if unit == "cpu_seconds" else None,
                        markersize=3,
                        linewidth=1.2,
                    )
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("weights")
        axes.set_ylabel(label)
    panels[0].set_title("solid: MLP, dashed: transformer", loc="left", fontsize=9)
    figure.legend(frameon=False, fontsize=8, ncols=5, loc="outside lower center")
    if by_round is not None:
        numbers = range(1, len(by_round["disk"]) + 1)
        values = [value / 4 / by_round["weights"] for value in by_round["disk"]]
        panels[2].plot(numbers, values)
        panels[2].set_xlabel("round")
        panels[2].set_ylabel("disk, copies of the weights (4 bytes each)")
    for axes in panels:
        axes.grid(color="#dddddd", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)


def _colors(count):
    from matplotlib import colormaps

    return [colormaps["tab10"](n % 10) for n in range(count)]
