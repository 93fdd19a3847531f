"""Instability: errors on the line between copies of a network."""

import statistics

from result_tables.reading import RESULTS, grid, load, table

# Frankle et al. call a network stable below it.
_STABLE = 0.02


def _runs(kind):
    files = sorted((RESULTS / "instability").glob(f"{kind}-*.json"))
    return [load(f"instability/{file.stem}") for file in files]


def _by_moment(runs, part):
    """Returns a dict from rewind point to the lines of all runs."""
    found = {}
    for run in runs:
        for line in run["lines"].get(part, ()):
            found.setdefault(line["rewind_to"], []).append(line)
    return found


def _ends(line):
    return (line["errors"][0] + line["errors"][-1]) / 2


def _instability(line):
    return max(line["errors"]) - _ends(line)


def _mean(values):
    mean = f"{100 * statistics.fmean(values):.1f}"
    if len(values) > 1:
        mean += f" ± {100 * statistics.stdev(values):.1f}"
    return mean


def _cells(lines):
    """Error of the ends and instability, in percent; bold if it is stable."""
    if not lines:
        return ["not reached"] * 2
    values = [_instability(line) for line in lines]
    text = _mean(values)
    bold = f"**{text}**" if statistics.fmean(values) < _STABLE else text
    return [_mean([_ends(line) for line in lines]), bold]


@table
def instability_mnist1d():
    runs = _runs("mnist1d-dense")
    test, train = _by_moment(runs, "test"), _by_moment(runs, "train")
    rows = [
        [moment, *_cells(test[moment]), *_cells(train[moment])[1:], len(test[moment])]
        for moment in test
    ]
    head = ["rewound to", "test error of the ends, %", "instability on test data, %"]
    return grid([*head, "instability on training data, %", "seeds"], rows)


@table
def instability_verdict():
    """Returns which points are unstable on test and on training data."""
    runs = _runs("mnist1d-dense")
    parts = {
        "test": "test data, which the criterion is about",
        "train": "training data",
    }
    return " ".join(_verdict(_by_moment(runs, part), parts[part]) for part in parts)


def _verdict(lines, data):
    unstable = {
        moment: _mean([_instability(line) for line in rows])
        for moment, rows in lines.items()
        if statistics.fmean(_instability(line) for line in rows) >= _STABLE
    }
    if not unstable:
        initial = [_instability(line) for line in lines["init"]]
        return (
            f"On {data}, no rewind point is unstable, not even `init`: "
            f"{_mean(initial)} % with {len(initial)} seeds."
        )
    named = ", ".join(f"`{moment}` ({value} %)" for moment, value in unstable.items())
    return f"On {data}, these are unstable: {named}."


@table
def instability_tickets():
    kinds = {"mnist1d-imp": "ticket of IMP", "mnist1d-random": "random masks"}
    rows = []
    for kind, name in kinds.items():
        runs = _runs(kind)
        test, train = _by_moment(runs, "test"), _by_moment(runs, "train")
        for moment, lines in test.items():
            cells = [*_cells(lines), *_cells(train[moment])[1:]]
            rows.append([name, moment, *cells, len(lines)])
    if not rows:
        rows = [[name, *["not reached"] * 5] for name in kinds.values()]
    head = ["masks", "rewound to", "test error of the ends, %"]
    head += ["instability on test data, %", "instability on training data, %"]
    return grid([*head, "seeds"], rows)


@table
def instability_resnet8():
    rows = []
    for count, moment in ((0, "init"), (2, "2 epochs")):
        for how in ("interpolated", "recomputed"):
            lines = _by_moment(_runs(f"resnet8-{count}-{how}"), "test").get(moment, [])
            rows.append([moment, how, *_cells(lines), len(lines)])
    head = ["rewound to", "statistics on the line", "test error of the ends, %"]
    return grid([*head, "instability, %", "seeds"], rows)


def _origins(run):
    """Returns the provenance of a run, or of all that it joins."""
    return run["provenance"].get("joined", [run["provenance"]])


@table
def instability_machine():
    runs = [*_runs("mnist1d"), *_runs("resnet8")]
    dates = sorted({run["date"] for run in runs})
    kinds = {run["what"]: sum(r["what"] == run["what"] for r in runs) for run in runs}
    seconds = sum(run["cpu_seconds"] for run in runs)
    counts = ", ".join(f"{n} of {what}" for what, n in sorted(kinds.items()))
    seeds = {
        what: sorted(
            {o["seed"] for r in runs if r["what"] == what for o in _origins(r)}
        )
        for what in sorted(kinds)
    }
    listed = "; ".join(f"{', '.join(map(str, s))} of {w}" for w, s in seeds.items())
    copies = sorted({tuple(o["seeds"]) for run in runs for o in _origins(run)})
    drawn = " or ".join(", ".join(map(str, each)) for each in copies)
    [cores] = {run["machine"]["cores"] for run in runs}
    return (
        f"Runs: {counts}, on {cores} cores of a shared machine with one thread, "
        f"{seconds / 60:.0f} minutes of CPU in their last pieces. Dates: "
        f"{', '.join(dates)}. Seeds of the network: {listed}. Seeds of the copies: "
        f"{drawn}."
    )
