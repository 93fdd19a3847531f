"""Time and memory of a selection."""

from result_tables.reading import grid, load, ratio, table

_CASES = {
    "dense": "all, half kept",
    "pruned": "half of them, half of those kept",
    "tied": "the same, with many ties",
}


@table
def selection():
    states = load("selection")["states"]
    rows = []
    for number, row in enumerate(states["after"]):
        cells = [f"{row['weights'] // 10**6} million", _CASES[row["case"]]]
        for state in ("before", "after"):
            cells.append(ratio(states[state][number]["ratio"]))
        for state in ("before", "after"):
            cells.append(f"{states[state][number]['memory']:.2f}")
        rows.append(cells)
    kinds = ("time before", "time after", "memory before", "memory after")
    return grid(["weights", "candidates", *kinds], rows)
