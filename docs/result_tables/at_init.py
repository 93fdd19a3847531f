"""Tickets at initialization, and tickets that are taught."""

from result_tables.reading import grid, load, percent, spread, table

_AT_INIT = {
    "KDLTS": "KDLTS",
    "IMP": "IMP, rewound to init",
    "SNIP": "SNIP",
    "SynFlow": "SynFlow",
    "GraSP": "GraSP",
    "magnitude at init": "magnitude at init",
    "random, ERK": "random, ERK",
    "IMP, taught, labels 0.5": "IMP, taught, labels weigh 0.5",
    "IMP, taught, labels 0.1": "IMP, taught, labels weigh 0.1",
    "KDLTS, early": "KDLTS, after 1 epoch",
    "IMP, early": "IMP, rewound to 1 epoch",
}


def _teaching(name):
    points = {(p["label"], p["sparsity"]): p for p in load(name)["points"]}
    sparsities = sorted({sparsity for _, sparsity in points})
    rows = []
    for label, shown in _AT_INIT.items():
        found = [points.get((label, s)) for s in sparsities]
        if not all(found):
            continue
        costs = list(dict.fromkeys(point["search_epochs"] for point in found))
        cost = "" if costs == [None] else ", ".join(map(str, costs))
        seeds = len(found[0]["accuracy"]["values"])
        rows.append([shown, cost, seeds, *(spread(p["accuracy"]) for p in found)])
    shares = [percent(s, 0) for s in sparsities]
    return grid(["search", "search epochs", "seeds", *shares], rows)


@table
def at_init_mnist():
    return _teaching("teaching_mnist")


@table
def kdlts_mnist_ablation():
    rows = [
        [
            point["label"].removeprefix("KDLTS, "),
            point["search_epochs"],
            spread(point["accuracy"]),
        ]
        for point in load("teaching_mnist")["points"]
        if point["label"].startswith("KDLTS, ") and point["label"] != "KDLTS, early"
    ]
    return grid(["KDLTS with", "search epochs", "95 %"], rows)
