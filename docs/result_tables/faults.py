"""Faults on purpose: what searches survive, and what becomes of damaged files."""

import collections

from result_tables.reading import grid, load, table

BACKENDS = "tensorflow", "jax"
ACTIONS = {
    "kill": "kills",
    "interrupt": "Ctrl-C",
    "ENOSPC": "full disk",
    "EROFS": "read-only disk",
}
MISTAKES = (
    *("wrong exception", "unclear message", "accepted by mistake"),
    "unusable result",
)
OUTCOMES = "tried", "refused", "equal", "different", "wrong"


def _searches():
    """The searches of both files, in the order of the table in `tests/faults.py`."""
    return list(dict.fromkeys(n for b in BACKENDS for n in _rows(b)))


def _rows(backend):
    return load(f"faults_{backend}")["searches"]


def _of(counts, action):
    return sum(n for label, n in counts.items() if label.split()[0] == action)


def _cell(rows, action):
    """Survived and tried faults of one kind, on both backends together."""
    survived = sum(_of(row["survived"], action) for row in rows)
    return f"{survived} of {sum(_of(row['tried'], action) for row in rows)}"


@table
def faults_by_search():
    """Faults survived by each search, by kind of fault."""
    lines = []
    for name in _searches():
        rows = [_rows(backend).get(name) for backend in BACKENDS]
        rows = [row for row in rows if row is not None]
        lines.append([f"`{name}`", *(_cell(rows, action) for action in ACTIONS)])
    return grid(["search", *ACTIONS.values()], lines)


@table
def faults_by_instant():
    """Faults survived at each kind of instant, by backend."""
    labels = sorted(
        {label for b in BACKENDS for row in _rows(b).values() for label in row["tried"]}
    )
    lines = [
        [label, *(_at(backend, label) for backend in BACKENDS)] for label in labels
    ]
    totals = ["all", *(_all(backend) for backend in BACKENDS)]
    return grid(["fault", "TensorFlow", "JAX"], [*lines, totals])


def _at(backend, label):
    rows = _rows(backend).values()
    counts = [
        sum(row[part].get(label, 0) for row in rows) for part in ("survived", "tried")
    ]
    return f"{counts[0]} of {counts[1]}" if counts[1] else "-"


def _all(backend):
    rows = _rows(backend).values()
    counts = [sum(sum(row[p].values()) for row in rows) for p in ("survived", "tried")]
    return f"{counts[0]} of {counts[1]}"


@table
def faults_damaged():
    """Outcomes of damaged files by their kind, on both backends together."""
    counts: dict = collections.defaultdict(collections.Counter)
    for backend in BACKENDS:
        for kind, damages in load(f"faults_{backend}").get("damaged", {}).items():
            for row in damages.values():
                counts[kind].update(row)
    lines = [[kind, *(row[name] for name in OUTCOMES)] for kind, row in counts.items()]
    total = sum(counts.values(), collections.Counter())
    lines.append(["all", *(total[name] for name in OUTCOMES)])
    head = ["file", "damaged", "refused", "read as before", "forged but valid", "wrong"]
    return grid(head, lines)


@table
def faults_arguments():
    """Outcomes of bad arguments of all public callables."""
    found = load("arguments")
    names = ["callables", "arguments", "values", "accepted", "refused"]
    wrong = sum(found[name] for name in MISTAKES)
    head = ["callables", "arguments", "values", "legal", "refused clearly", "otherwise"]
    return grid(head, [[*(f"{found[name]:,}" for name in names), str(wrong)]])
