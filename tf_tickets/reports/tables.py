"""Numbers as aligned text: of a ticket, of a search, for any report."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np


class _Ticket(Protocol):
    masks: dict[str, np.ndarray]

    @property
    def kept(self) -> dict[str, int]: ...


def ticket_table(ticket: _Ticket) -> str:
    """The kernels of a ticket as a text table.

    Args:
        ticket: A `tf_tickets.Ticket`.

    Returns:
        The table, without a newline at its end.

    Example:

    >>> print(ticket_table(tt.Ticket({"d/kernel": np.array([[True], [False]])})))
    kernel    shape  size  kept  sparsity
    d/kernel  2x1       2     1    0.5000
    total               2     1    0.5000
    """
    kept = ticket.kept
    rows = [(p, shape_text(m.shape), m.size, kept[p]) for p, m in ticket.masks.items()]
    size = sum(size for _, _, size, _ in rows)
    rows.append(("total", "", size, sum(kept.values())))
    cells = [("kernel", "shape", "size", "kept", "sparsity")]
    for path, shape, size, count in rows:
        sparsity = f"{fraction(size - count, size):.4f}"
        cells.append((path, shape, f"{size:,}", f"{count:,}", sparsity))
    return align(cells, left=2)


def search_table(
    results: Iterable[Mapping[str, float]], dense: float | None = None
) -> str:
    """The rounds of a search as a text table.

    Args:
        results: One dict a round with "round", "sparsity" and the accuracies
            "ticket", "reinit", "shuffled", where known.
        dense: Accuracy of the dense network.

    Returns:
        The table, without a newline at its end.

    Example:

    >>> print(search_table([{"round": 1, "sparsity": 0.2, "ticket": 0.97}], dense=0.96))
    round  sparsity  kept weights  ticket   dense  reinit  shuffled
        1    0.2000        80.00%  0.9700  0.9600       -         -
    """
    names = ("ticket", "dense", "reinit", "shuffled")
    cells = [("round", "sparsity", "kept weights", *names)]
    for result in results:
        known = {**result, "dense": dense}
        cells.append(
            (
                str(result["round"]),
                f"{result['sparsity']:.4f}",
                f"{1 - result['sparsity']:.2%}",
                *(_accuracy(known.get(name)) for name in names),
            )
        )
    return align(cells)


def frontier_table(
    points: Iterable[Mapping], dense: Mapping[str, float], monitor: str
) -> str:
    """The trained tickets of several searches as a text table.

    Args:
        points: As `tf_tickets.Frontier.rows` gives them.
        dense: Metrics of the dense network.
        monitor: The metric to show.

    Returns:
        The table, without a newline at its end; `*` marks the optimal tickets.

    Example:

    >>> point = {"label": "cs", "round": 1, "sparsity": 0.9, "search_epochs": 8,
    ...          "metrics": {"accuracy": 0.97}, "optimal": True}
    >>> print(frontier_table([point], {"accuracy": 0.98}, "accuracy"))
    search  round  search epochs  kept weights  accuracy
    dense                              100.00%    0.9800
    cs          1              8        10.00%   0.9700*
    """
    cells = [("search", "round", "search epochs", "kept weights", monitor)]
    cells.append(("dense", "", "", "100.00%", _accuracy(dense.get(monitor))))
    for point in points:
        star = "*" if point["optimal"] else ""
        cells.append(
            (
                point["label"],
                str(point["round"]),
                str(point["search_epochs"]),
                f"{1 - point['sparsity']:.2%}",
                f"{_accuracy(point['metrics'][monitor])}{star}",
            )
        )
    return align(cells, left=1)


def align(cells: Iterable[Sequence[str]], left: int = 0) -> str:
    """Rows of text in columns, the first `left` of them flush left."""
    cells = list(cells)
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    marks = ["<" if i < left else ">" for i in range(len(widths))]
    return "\n".join(
        "  ".join(
            f"{cell:{mark}{width}}"
            for cell, mark, width in zip(row, marks, widths, strict=True)
        ).rstrip()
        for row in cells
    )


def shape_text(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape))


def number(value: int | None) -> str:
    return "?" if value is None else f"{value:,}"


def _accuracy(value):
    return "-" if value is None else f"{value:.4f}"


def fraction(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def count_of(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
