"""Iterative magnitude pruning beside its controls."""

from result_tables.reading import PUBLISHED, grid, load, percent, spread, table


def _imp(name):
    found = load(name)
    head = ["round", "weights left", "ticket", "random reinit", "shuffled masks"]
    known = f"{PUBLISHED[0][0]:.2f}"
    rows = [[0, "100 %", spread(found["dense"]), "", "", known, ""]]
    for row in found["rows"]:
        cells = [spread(row[kind]) for kind in ("ticket", "reinit", "shuffled")]
        known = [f"{value:.2f}" for value in PUBLISHED[row["round"]]]
        left = percent(1 - row["sparsity"])
        rows.append([row["round"], left, *cells, *known])
    return grid([*head, "published ticket", "published reinit"], rows)


@table
def imp_mnist():
    return _imp("mnist_imp")


@table
def imp_mnist_standard():
    return _imp("mnist_imp_standard")
