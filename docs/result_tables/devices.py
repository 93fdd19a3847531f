"""Searches on two devices beside those on one."""

from result_tables.reading import exists, grid, load, table

BACKENDS = {"tensorflow": "TensorFlow", "jax": "JAX"}


def _rows():
    """Pairs of a backend and a row."""
    return [
        (backend, row)
        for backend in BACKENDS
        if exists(f"devices/masks_{backend}")
        for row in load(f"devices/masks_{backend}")["rows"]
    ]


@table
def devices_masks():
    """The bits of the masks that differ, by network, search and backend."""
    found = _rows()
    searches = list(dict.fromkeys(row["search"] for _, row in found))
    lines = []
    for backend, name in BACKENDS.items():
        rows = [row for where, row in found if where == backend]
        for network in dict.fromkeys(row["network"] for row in rows):
            cells = [_bits(rows, network, search) for search in searches]
            lines.append([name, network, *cells])
    return grid(["backend", "network", *(f"`{s}`" for s in searches)], lines)


def _bits(rows, network, search):
    chosen = [r for r in rows if (r["network"], r["search"]) == (network, search)]
    return "; ".join(", ".join(map(str, row["bits"])) for row in chosen) or "–"


@table
def devices_replicas():
    """Variables whose values differ between the devices, and masks drawn otherwise."""
    lines = []
    for backend, name in BACKENDS.items():
        # A split kernel has other values on each device, which is no copy.
        rows = [
            row
            for where, row in _rows()
            if where == backend and "ModelParallel" not in row["network"]
        ]
        unequal = sum(len(row["unequal"]) for row in rows)
        drawn = sum(len(row.get("unequal draws", [])) for row in rows)
        lines.append([name, len(rows), unequal, drawn if backend != "jax" else "–"])
    head = ["backend", "searches", "variables that differ", "masks drawn differently"]
    return grid(head, lines)


@table
def devices_processes():
    """What two processes report."""
    lines = []
    for backend, name in BACKENDS.items():
        worker = load(f"devices/processes_{backend}")["workers"][0]
        for what, label in (("fit", "`model.fit`"), ("find_tickets", "a search")):
            lines.append([name, label, worker[what] or "works"])
    return grid(["backend", "call", "result"], lines)
