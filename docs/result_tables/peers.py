"""Whole searches beside those with other libraries."""

import itertools
import statistics

from result_tables.reading import exists, grid, load, percent, table

CASES = "lenet300", "lenet300-cs", "resnet8"


def _is_ours(name):
    return name.startswith("tf_tickets ")


def _measured():
    return [case for case in CASES if exists(f"peers/{case}")]


def _times(case):
    """Returns a row for each program: medians of its runs."""
    rounds = load(f"peers/{case}")["rounds"]
    rows = []
    for name in rounds[0]:
        runs = [results[name] for results in rounds]

        def median(key, form, factor=1, runs=runs):
            return format(factor * statistics.median(run[key] for run in runs), form)

        last = [run["accuracies"][-1] for run in runs]
        rows.append(
            [
                name,
                median("seconds", ".1f"),
                median("cpu_seconds", ".1f"),
                median("step_seconds", ".2f", 1000),
                median("peak_bytes", ",.0f", 1e-6),
                " / ".join(f"{100 * accuracy:.2f}" for accuracy in last),
                percent(runs[0]["sparsities"][-1]),
            ]
        )
    head = ["program", "seconds", "CPU seconds", "step, ms", "peak memory, MB"]
    return grid([*head, "accuracy of the last level, %", "its sparsity"], rows)


def _ratios(case):
    """Returns a row for each pair of programs: the ratio of every run."""
    rounds = load(f"peers/{case}")["rounds"]
    present = list(rounds[0])
    rows = []
    for ours in filter(_is_ours, present):
        for peer in (name for name in present if not _is_ours(name)):
            cells = []
            for key in ("seconds", "step_seconds", "peak_bytes"):
                ratios = [run[ours][key] / run[peer][key] for run in rounds]
                cells.append(" / ".join(f"{ratio:.2f}" for ratio in ratios))
            rows.append([ours, peer, *cells])
    head = ["here", "the other", "seconds, ratio", "step, ratio", "memory, ratio"]
    return grid(head, rows)


_MEASURES = {
    "seconds": "seconds",
    "step_seconds": "time of a step",
    "peak_bytes": "peak memory",
}


def _behind(case):
    """Yields what, here, the other and the median ratio, where it is over 1."""
    rounds = load(f"peers/{case}")["rounds"]
    ours, theirs = (
        [name for name in rounds[0] if _is_ours(name) is side] for side in (True, False)
    )
    for here, peer, key in itertools.product(ours, theirs, _MEASURES):
        ratios = [results[here][key] / results[peer][key] for results in rounds]
        if statistics.median(ratios) > 1.0:
            yield _MEASURES[key], here, peer, f"{statistics.median(ratios):.2f}"


@table
def peers_behind():
    """Returns every pair in which this library needs more than the other."""
    if not _measured():
        return "Not measured yet."
    rows = [[case, *row] for case in _measured() for row in _behind(case)]
    if not rows:
        return "Nowhere in these cases."
    return grid(["case", "what", "here", "the other", "median ratio"], rows)


def _register(case):
    measured = case in _measured()

    def times():
        return _times(case) if measured else "Not measured yet."

    def ratios():
        return _ratios(case) if measured else "Not measured yet."

    times.__name__ = f"peers-{case}"
    ratios.__name__ = f"peers-{case}-ratios"
    table(times)
    table(ratios)


for _case in CASES:
    _register(_case)


def _environment(found):
    """Returns the variables that all programs had."""
    return [f"`{name}={value}`" for name, value in found["environment"].items()]


@table
def peers_machines():
    """Returns what the figures were taken on, and what was left out."""
    rows = []
    for case in _measured():
        found = load(f"peers/{case}")
        versions = {}
        for results in found["rounds"][0].values():
            versions |= results["versions"]
        versions.pop("backend", None)
        listed = ", ".join(f"{name} {value}" for name, value in versions.items())
        missing = [f"{name}: {why}" for name, why in found["left_out"].items()]
        rows.append(
            [
                case,
                found["date"],
                ", ".join([found["machine"], *_environment(found)]),
                " / ".join(f"{load:.1f}" for load in found["loads"]),
                found["seed"],
                listed,
                "; ".join(missing) or "nothing",
            ]
        )
    head = [
        "case",
        "date",
        "machine",
        "load before each round",
        "seed",
        "versions",
        "left out",
    ]
    return grid(head, rows)
