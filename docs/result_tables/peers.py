"""Whole searches beside those with other libraries."""

import statistics

from result_tables.reading import grid, load, percent, table

CASES = "lenet300", "lenet300-cs", "resnet8"
OURS = "tf_tickets on TensorFlow", "tf_tickets on JAX"


def _times(case):
    """Returns a row for each program: medians of its runs."""
    found = load(f"peers/{case}")
    rounds = found["rounds"]
    rows = []
    for name in rounds[0]:
        runs = [results[name] for results in rounds]

        def median(key, runs=runs):
            return statistics.median(run[key] for run in runs)

        last = [run["accuracies"][-1] for run in runs]
        rows.append(
            [
                name,
                f"{median('seconds'):.1f}",
                f"{median('cpu_seconds'):.1f}",
                f"{1000 * median('step_seconds'):.2f}",
                f"{median('peak_bytes') / 1e6:,.0f}",
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
    for ours in (name for name in OURS if name in present):
        for peer in (name for name in present if name not in OURS):
            cells = [
                " / ".join(
                    f"{results[ours][key] / results[peer][key]:.2f}"
                    for results in rounds
                )
                for key in ("seconds", "step_seconds", "peak_bytes")
            ]
            rows.append([ours, peer, *cells])
    head = ["here", "the other", "seconds, ratio", "step, ratio", "memory, ratio"]
    return grid(head, rows)


def _register(case):
    def times():
        return _times(case)

    def ratios():
        return _ratios(case)

    times.__name__ = f"peers-{case}"
    ratios.__name__ = f"peers-{case}-ratios"
    table(times)
    table(ratios)


for _case in CASES:
    _register(_case)


@table
def peers_machines():
    """Returns what the figures were taken on, and what was left out."""
    rows = []
    for case in CASES:
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
                f"{found['load']:.1f}",
                found["seed"],
                listed,
                "; ".join(missing) or "nothing",
            ]
        )
    head = ["case", "date", "machine", "load", "seed", "versions", "left out"]
    return grid(head, rows)
