"""Pruned networks in int8."""

from result_tables.reading import grid, load, percent, table

_WAYS = {
    "pruned": "float32, pruned",
    "post-training": "int8, post-training",
    "qat": "int8, QAT",
    "qat-preserving": "int8, QAT that preserves pruning",
    "from-qat": "int8, back in Keras 3",
}


@table
def qat():
    """A row for each way, with the values of all seeds."""
    head = ["way", "zeros before", "zeros in the file", "test accuracy, %"]
    head += ["bytes", "gzipped", "seconds"]
    rows = []
    for way, name in _WAYS.items():
        found = [row for row in load("qat/mnist")["rows"] if row["way"] == way]
        columns = (
            (percent(row["zeros_before"]) for row in found),
            (percent(row["zeros"]) for row in found),
            (f"{100 * row['accuracy']:.2f}" for row in found),
            (f"{row['bytes']:,}" for row in found),
            (f"{row['gzipped']:,}" for row in found),
            (f"{row['seconds']:.0f}" for row in found),
        )
        rows.append([name, *(", ".join(dict.fromkeys(c)) for c in columns)])
    return grid(head, rows)
