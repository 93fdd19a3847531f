"""How cost grows with the size of a model and the number of rounds."""

from result_tables.reading import grid, load, table

_OPERATIONS = {
    "wrap": "wrap",
    "step": "training step, pruned",
    "select": "select the weights that stay, globally",
    "set masks": "set masks",
    "record": "record the state",
    "rewind": "rewind",
    "save ticket": "save a ticket",
    "load ticket": "load a ticket",
    "save search": "store a search between rounds",
    "export": "export as `.keras`, not verified",
}
_SIZES = (1_000_000, 10_000_000, 100_000_000)
_GIB = 2**30


def _summary():
    return load("scaling/summary")


def _seconds(value):
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if value >= 0.1 else f"{value:.4f}"


def _memory(value):
    return f"{value / _GIB:,.1f} GiB" if value >= _GIB else f"{value / 2**20:,.0f} MiB"


def _rows(unit, text):
    laws = _summary()["laws"]
    rows = []
    for family in ("mlp", "transformer"):
        for name, title in _OPERATIONS.items():
            law = laws.get(f"{family} {name} {unit}")
            if law is None:
                continue
            cells = [_cell(law, size, text) for size in _SIZES]
            check = law.get("predicted_over_measured")
            last = law.get("last_exponent")
            rows.append([
                family,
                title,
                *cells,
                f"{law['exponent']:.2f}",
                "-" if last is None else f"{last:.2f}",
                "-" if check is None else f"{check:.2f}",
            ])  # fmt: skip
    return rows


def _cell(law, size, text):
    """Returns what was measured with about so many weights."""
    for measured, value in zip(law["sizes"], law["values"], strict=True):
        if size / 2 < measured < 2 * size:
            return text(value)
    return "-"


_HEAD = ["model", "operation", "1 M", "10 M", "100 M", "exponent", "last tenfold"]


@table
def scaling_seconds():
    return grid([*_HEAD, "predicted / measured"], _rows("cpu_seconds", _seconds))


@table
def scaling_memory():
    laws = _summary()["laws"]
    rows = []
    for family in ("mlp", "transformer"):
        for name, title in _OPERATIONS.items():
            law = laws.get(f"{family} {name} peak_bytes")
            if law is not None:
                cells = [_cell(law, size, _memory) for size in _SIZES[1:]]
                per = law["values"][-1] / law["sizes"][-1]
                rows.append([family, title, *cells, f"{per:.1f}"])
    head = ["model", "operation", "10 M", "100 M", "bytes a weight, largest size"]
    return grid(head, rows)


@table
def scaling_files():
    laws = _summary()["laws"]
    rows = []
    for family in ("mlp", "transformer"):
        for name in ("ticket", "search", "export"):
            law = laws.get(f"{family} {name} file_bytes")
            if law is not None:
                per = law["values"][-1] / law["sizes"][-1]
                row = [family, name, f"{per:.2f}", f"{law['exponent']:.2f}"]
                rows.append([*row, f"{law['sizes'][-1]:,}"])
    return grid(["model", "file", "bytes a weight", "exponent", "weights"], rows)


@table
def scaling_rounds():
    found = _summary()["rounds"]
    rows = [
        [
            "disk of each further ticket, bytes a weight",
            f"{found['disk_per_round']:.2f}",
        ],
        [
            "exponent of the CPU seconds between two rounds, over rounds",
            f"{found['seconds_exponent']:.2f}",
        ],
    ]
    title = f"a search of {len(found['disk'])} rounds, {found['weights']:,} weights"
    return grid([title, ""], rows)


def _between(values):
    """CPU seconds between two rounds, from the operations that a turn consists of."""
    names = ("select", "set masks", "rewind", "record", "save search")
    # The ticket of the last round is written again, with its metrics.
    turn = sum(values[f"{name} cpu_seconds"] for name in names)
    return turn + 2 * values["save ticket cpu_seconds"]


@table
def planning():
    summary = _summary()
    held = sum(summary["held"].values()) + summary["largest_peak"]["bytes"]
    rows = []
    for model, values in summary["extrapolated"].items():
        size = summary["larger"][model]
        for rounds in (1, 10, 30):
            peak = (held + rounds * summary["of_a_ticket"]) * size
            disk = rounds * values["ticket file_bytes"] + values["search file_bytes"]
            seconds = _seconds(_between(values))
            rows.append([model, rounds, _memory(peak), _memory(disk), seconds])
    head = ["model", "rounds", "memory", "disk"]
    return grid([*head, "CPU seconds between two rounds"], rows)


@table
def planning_check():
    laws = _summary()["laws"]
    rows = []
    for name in _OPERATIONS:
        for family in ("mlp", "transformer"):
            law = laws.get(f"{family} {name} cpu_seconds", {})
            if "predicted" in law:
                cells = [_seconds(law["predicted"]), _seconds(law["values"][-1])]
                ratio = f"{law['predicted_over_measured']:.2f}"
                rows.append([_OPERATIONS[name], family, *cells, ratio])
    head = ["CPU seconds of", "model", "predicted from 1 and 10 M", "measured at 100 M"]
    return grid([*head, "predicted / measured"], rows)


@table
def planning_misses():
    """Returns the operations that the power law predicts badly."""
    found = []
    for name, title in _OPERATIONS.items():
        for family in ("mlp", "transformer"):
            law = _summary()["laws"].get(f"{family} {name} cpu_seconds", {})
            ratio = law.get("predicted_over_measured")
            if ratio is not None and not 0.5 <= ratio <= 2.0:
                found.append(f"{title} ({family}: {ratio:.2f})")
    if not found:
        return "No operation is off by more than a factor of two."
    return f"Off by more than a factor of two: {', '.join(found)}."


@table
def planning_load():
    return _load()


def _load():
    loads = _summary()["loads"]
    return (
        f"The load of the machine was {loads[0]:.0f} to {loads[-1]:.0f} in these runs, "
        "by other work; CPU seconds suffer less from it than seconds."
    )


@table
def scaling_machine():
    found = _summary()
    cores = ", ".join(map(str, found["cores"]))
    names = found["versions"]
    return (
        f"{cores} cores of a shared machine, {names['backend']}, Keras "
        f"{names['keras']}, Python {names['python']}. Dates: "
        f"{', '.join(found['dates'])}. {_load()}"
    )


@table
def planning_held():
    summary = _summary()
    rows = [[what, count] for what, count in summary["held"].items()]
    peak = summary["largest_peak"]
    title = _OPERATIONS[peak["operation"]]
    what = f"largest peak of an operation, measured: {title} ({peak['family']})"
    rows.append([what, f"{peak['bytes']:.1f}"])
    rows.append(["each ticket: its masks", summary["of_a_ticket"]])
    return grid(["what a search holds", "bytes a weight"], rows)
