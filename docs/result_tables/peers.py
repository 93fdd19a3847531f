"""Whole searches beside those with other libraries."""

import itertools
import statistics

from result_tables.reading import exists, grid, load, percent, table

CASES = "lenet300", "lenet300-cs", "resnet8"


def _is_ours(name):
    return name.startswith("tf_tickets ")


def _value(name, run, key):
    """Returns a figure of a run, or None if it was not measured as that of others."""
    if key == "step_seconds" and "on JAX" in name and "last_step_awaited" not in run:
        return None
    return run[key]


def _ratio(results, ours, peer, key):
    value = _value(ours, results[ours], key)
    return None if value is None else value / results[peer][key]


def _measured():
    return [case for case in CASES if exists(f"peers/{case}")]


def _times(case):
    """Returns a row for each program: medians of its runs."""
    rounds = load(f"peers/{case}")["rounds"]
    rows = []
    for name in rounds[0]:
        runs = [results[name] for results in rounds]

        def median(key, form, factor=1, runs=runs, name=name):
            values = [_value(name, run, key) for run in runs]
            if None in values:
                return "–"
            return format(factor * statistics.median(values), form)

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
                ratios = [_ratio(results, ours, peer, key) for results in rounds]
                shown = [f"{ratio:.2f}" for ratio in ratios if ratio is not None]
                cells.append(" / ".join(shown) or "–")
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
        ratios = [_ratio(results, here, peer, key) for results in rounds]
        if None not in ratios and statistics.median(ratios) > 1.0:
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


def _loads(found):
    """Returns the load before each round; of older files, that after the last one."""
    if "loads" in found:
        return " / ".join(f"{load:.1f}" for load in found["loads"])
    return f"{found['load']:.1f} (after the runs)"


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
                found["machine"],
                _loads(found),
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
