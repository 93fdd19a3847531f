"""Learned masks and magnitude pruning on one frontier; supermasks."""

from result_tables.reading import grid, load, percent, spread, table

# Shares of weights at which the searches are compared.
BANDS = {
    "21 %": (0.205, 0.215),
    "10 to 11 %": (0.10, 0.11),
    "4.5 to 4.9 %": (0.0445, 0.049),
    "3.6 to 3.7 %": (0.0355, 0.0375),
    "2.4 %": (0.0235, 0.0245),
    "1.4 %": (0.0135, 0.0145),
    "0.9 %": (0.0085, 0.0095),
}
_METHODS = {
    "CS": "Continuous Sparsification",
    "IMP": "IMP",
    "ISS": "stochastic sparsification",
}


@table
def frontier_mnist():
    found = load("frontier_mnist")
    head = ["weights left", *(f"{name} (epochs)" for name in _METHODS.values())]
    rows = [["100 % (dense)", spread(found["dense"]), "", ""]]
    for label, (low, high) in BANDS.items():
        rows.append([label, *(_best_in(found, m, low, high) for m in _METHODS)])
    return grid(head, rows)


def _best_in(found, method, low, high):
    """The best ticket of a method that keeps a share of the weights in a band."""
    points = [
        point
        for point in found["points"]
        if point["label"].split()[0] == method
        and low <= 1 - point["sparsity"]["mean"] <= high
    ]
    if not points:
        return ""
    best = max(points, key=lambda point: point["accuracy"]["mean"])
    return f"{spread(best['accuracy'])} ({best['search_epochs']})"


def _every_ticket(name):
    head = ["search", "round", "search epochs", "weights left", "test accuracy"]
    rows = []
    for point in load(name)["points"]:
        left = percent(1 - point["sparsity"]["mean"])
        cells = [point["label"], point["round"], point["search_epochs"], left]
        rows.append([*cells, spread(point["accuracy"])])
    return grid(head, rows)


@table
def frontier_mnist_all():
    return _every_ticket("frontier_mnist")


@table
def frontier_mnist_cost():
    """Epochs to the first ticket as good as the dense network."""
    exact = [r for r in load("frontier_mnist")["first_matching"] if not r["tolerance"]]
    rows = []
    for sparsity in exact[0]["epochs"]:
        cells = []
        for method in _METHODS:
            costs = [row["epochs"][sparsity][method] for row in exact]
            cells.append(
                ", ".join("not reached" if c is None else str(c) for c in costs)
            )
        rows.append([percent(float(sparsity), 0), *cells])
    return grid(["sparsity of at least", *_METHODS.values()], rows)


def _supermask(name):
    head = ["search", "ticket", "weights left", "test accuracy"]
    rows = [
        [
            *(point["label"], point["ticket"]),
            percent(1 - point["sparsity"]),
            f"{100 * point['test_accuracy']:.2f}",
        ]
        for point in load(name)["points"]
    ]
    return grid(head, rows)


@table
def supermask_mnist():
    return _supermask("supermask_mnist")
