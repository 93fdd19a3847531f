"""Tickets of iterative magnitude pruning beside their controls."""

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


_ANOTHER_TASK = {
    "ticket": "ticket of the digits 0 to 4",
    "new_weights": "its masks with new weights",
    "random_by_layer": "random masks, as many weights by layer",
    "random_uniform": "random masks, uniform",
    "dense": "dense",
}


@table
def another_task():
    """Test accuracies of a ticket on data that it was not found with."""
    found = load("another_task")["results"]
    kept = percent(found["kept"]["mean"])
    rows = [
        [label, "100 %" if name == "dense" else kept, spread(found[name])]
        for name, label in _ANOTHER_TASK.items()
    ]
    left = "weights left in convolutions"
    return grid(["network", left, "test accuracy, %"], rows)
