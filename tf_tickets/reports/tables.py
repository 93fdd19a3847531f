"""Text and HTML tables of tickets, searches and reports."""

import html as html_module
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np

from tf_tickets.reports.statistics import Mean


class _Ticket(Protocol):
    masks: dict[str, np.ndarray]

    @property
    def kept(self) -> dict[str, int]: ...


def ticket_table(ticket: _Ticket) -> str:
    """Returns the kernels of a ticket as a text table.

    Args:
        ticket: A `tf_tickets.Ticket`.

    Returns:
        The table, without a trailing newline.

    Example:

    >>> print(ticket_table(tt.Ticket({"d/kernel": np.array([[True], [False]])})))
    kernel    shape  size  kept  sparsity
    d/kernel  2x1       2     1    0.5000
    total               2     1    0.5000
    """
    cells = [("kernel", "shape", "size", "kept", "sparsity")]
    for path, shape, size, kept in _kernel_rows(ticket):
        sparsity = f"{fraction(size - kept, size):.4f}"
        cells.append((path, shape, f"{size:,}", f"{kept:,}", sparsity))
    return align(cells, left=2)


def ticket_html(ticket: _Ticket, caption: str = "", limit: int = 30) -> str:
    """Returns the kernels of a ticket as an HTML table, for notebooks.

    Args:
        ticket: A `tf_tickets.Ticket`.
        caption: Text above the table.
        limit: The largest number of kernels to list. The total covers all of them.

    Example:

    >>> masks = {"<d>": np.array([[True], [False]]), "e": np.ones(3)}
    >>> text = ticket_html(tt.Ticket(masks), limit=1)
    >>> "&lt;d&gt;" in text, "1/2" in text, "1 more kernel" in text, "4/5" in text
    (True, True, True, True)
    """
    *rows, total = _kernel_rows(ticket)
    cells = [("kernel", "shape", "kept/total", "sparsity")]
    cells += [_html_cells(row) for row in rows[:limit]]
    if len(rows) > limit:
        cells.append((f"{count_of(len(rows) - limit, 'more kernel')}", "", "", ""))
    return html([*cells, _html_cells(total)], left=2, caption=caption)


def _html_cells(row):
    path, shape, size, kept = row
    return path, shape, f"{kept:,}/{size:,}", f"{fraction(size - kept, size):.2%}"


def _kernel_rows(ticket):
    """Path, shape, size and number of weights kept by kernel, and their total."""
    kept = ticket.kept
    rows = [(p, shape_text(m.shape), m.size, kept[p]) for p, m in ticket.masks.items()]
    size = sum(size for _, _, size, _ in rows)
    return [*rows, ("total", "", size, sum(kept.values()))]


def search_table(
    results: Iterable[Mapping[str, float]], dense: float | None = None
) -> str:
    """Returns the rounds of a search as a text table.

    Args:
        results: One dict per round with "round", "sparsity" and, where known, the
            accuracies "ticket", "reinit" and "shuffled". With channels also "macs",
            the fraction of the multiply-adds that remains.
        dense: Accuracy of the dense network.

    Returns:
        The table, without a trailing newline.

    Example:

    >>> print(search_table([{"round": 1, "sparsity": 0.2, "ticket": 0.97}], dense=0.96))
    round  sparsity  kept weights  ticket   dense  reinit  shuffled
        1    0.2000        80.00%  0.9700  0.9600       -         -
    """
    names = ("ticket", "dense", "reinit", "shuffled")
    results = list(results)
    with_macs = any("macs" in result for result in results)
    costs = ("MACs",) if with_macs else ()
    cells = [("round", "sparsity", "kept weights", *costs, *names)]
    for result in results:
        known = {**result, "dense": dense}
        cells.append(
            (
                str(result["round"]),
                f"{result['sparsity']:.4f}",
                f"{1 - result['sparsity']:.2%}",
                *((share(result.get("macs")),) if with_macs else ()),
                *(_accuracy(known.get(name)) for name in names),
            )
        )
    return align(cells)


def frontier_table(
    points: Iterable[Mapping], dense: Mapping[str, float | Mean], monitor: str
) -> str:
    """Returns the trained tickets of several searches as a text table.

    Args:
        points: Dicts as returned by `tf_tickets.Frontier.rows`, with `mean=True` for
            means and deviations over seeds.
        dense: Metrics of the dense network, or their means over seeds.
        monitor: The metric to show.

    Returns:
        The table, without a trailing newline. `*` marks the Pareto-optimal tickets.

    Example:

    >>> point = {"label": "cs", "round": 1, "sparsity": 0.9, "search_epochs": 8,
    ...          "metrics": {"accuracy": 0.97}, "optimal": True}
    >>> print(frontier_table([point], {"accuracy": 0.98}, "accuracy"))
    search  round  search epochs  kept weights  accuracy
    dense                              100.00%   0.9800
    cs          1              8        10.00%   0.9700*
    """
    return align(frontier_cells(points, dense, monitor), left=1)


def frontier_cells(
    points: Iterable[Mapping], dense: Mapping[str, float | Mean], monitor: str
) -> list[tuple[str, ...]]:
    """Returns the rows of text of `frontier_table`, headings first."""
    points = list(points)
    with_seeds = any("seeds" in point for point in points)
    seeds = ("seeds",) if with_seeds else ()
    cells: list[tuple[str, ...]] = [
        ("search", "round", *seeds, "search epochs", "kept weights", monitor)
    ]
    known = dense.get(monitor)
    count = str(known.count) if isinstance(known, Mean) and known.count > 1 else ""
    blank = (count,) if with_seeds else ()
    value = str(known) if isinstance(known, Mean) else _accuracy(known)
    # Numbers with and without a star end in one column.
    gap = " " if any(point["optimal"] for point in points) else ""
    cells.append(("dense", "", *blank, "", "100.00%", f"{value}{gap}"))
    for point in points:
        star = "*" if point["optimal"] else gap
        deviation = point.get("deviations", {}).get(monitor)
        cells.append(
            (
                point["label"],
                str(point["round"]),
                *((str(len(point["seeds"])),) if with_seeds else ()),
                f"{point['search_epochs']:g}",
                _kept(point["sparsity"], point.get("sparsity_deviation")),
                f"{_spread(point['metrics'][monitor], deviation)}{star}",
            )
        )
    return cells


def frontier_notes(
    means: Iterable[Mapping], seeds: Sequence[int], monitor: str, selected_by: str
) -> list[str]:
    """Returns the lines below `frontier_table`: what it shows, and how it chooses.

    Args:
        means: Dicts as returned by `tf_tickets.Frontier.rows(mean=True)`.
        seeds: All seeds.
        monitor: The metric that is reported.
        selected_by: The metric by which tickets are optimal.

    Example:

    >>> [text] = frontier_notes([{"seeds": [0]}], [0], "test_loss", "val_loss")
    >>> print(text)
    * Pareto-optimal by val_loss, which selects; test_loss is reported.
    """
    counts = [len(mean["seeds"]) for mean in means]
    if not counts:
        return []
    notes = []
    if len(seeds) > 1:
        *most, last = map(str, seeds)
        notes.append(
            f"Mean ± standard deviation over the seeds {', '.join(most)} and {last}."
        )
    if min(counts) < max(counts):
        notes.append(
            f"Means over fewer than {max(counts)} seeds cannot be optimal: the missing "
            "seeds may be worse."
        )
    return [*notes, _note_of_selection(monitor, selected_by)]


def _note_of_selection(monitor, selected_by):
    parts = [name.partition("_")[0] for name in (monitor, selected_by)]
    of_data = [part if part in ("val", "test") else "train" for part in parts]
    if of_data[0] != of_data[1]:
        reported = f", which selects; {monitor} is reported."
    elif monitor == selected_by:
        reported = ", selected and reported on the same data, so optimistic."
    else:
        reported = f"; {monitor} is reported on the same data, so optimistic."
    return f"* Pareto-optimal by {selected_by}{reported}"


def _kept(sparsity, deviation):
    """The fraction of weights kept, with its deviation unless it is rounded to 0."""
    text = "" if deviation is None else f"{deviation:.2%}"
    return f"{1 - sparsity:.2%}" + (f" ± {text}" if text.strip("0.%") else "")


def _spread(value, deviation):
    return _accuracy(value) if deviation is None else f"{value:.4f} ± {deviation:.4f}"


def align(cells: Iterable[Sequence[str]], left: int = 0) -> str:
    """Aligns rows of text in columns: the first `left` columns left, others right.

    Example:

    >>> print(align([("name", "size"), ("a", "1,000")], left=1))
    name   size
    a     1,000
    """
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


def html(cells: Iterable[Sequence[str]], left: int = 0, caption: str = "") -> str:
    """Returns rows of text as an HTML table. All text is escaped.

    Args:
        cells: Rows of text, headings first.
        left: Number of columns to align left. The others are aligned right.
        caption: Text above the table.

    Example:

    >>> html([("a",), ("<1",)], left=1, caption="b & c").split("<thead>")[0]
    '<table><caption>b &amp; c</caption>'
    """
    head, *body = ([html_module.escape(cell) for cell in row] for row in cells)
    title = f"<caption>{html_module.escape(caption)}</caption>" if caption else ""
    rows = "".join(_html_row(row, "td", left) for row in body)
    header = f"<thead>{_html_row(head, 'th', left)}</thead>"
    return f"<table>{title}{header}<tbody>{rows}</tbody></table>"


def html_lines(lines: Iterable[str]) -> str:
    """Returns lines of text as an HTML paragraph, or "" without lines.

    Example:

    >>> html_lines(["a < b", "c"])
    '<p>a &lt; b<br>c</p>'
    """
    escaped = [html_module.escape(line) for line in lines]
    return f"<p>{'<br>'.join(escaped)}</p>" if escaped else ""


def _html_row(row, tag, left):
    sides = ["left" if i < left else "right" for i in range(len(row))]
    pairs = zip(row, sides, strict=True)
    styled = [f'<{tag} style="text-align:{side}">{x}</{tag}>' for x, side in pairs]
    return f"<tr>{''.join(styled)}</tr>"


def shape_text(shape: Iterable[int]) -> str:
    """Returns a shape as text, such as "3x4"."""
    return "x".join(map(str, shape))


def number(value: int | None) -> str:
    """Returns a number with thousands separators, or "?" for None."""
    return "?" if value is None else f"{value:,}"


def share(value: float | None) -> str:
    """Returns a fraction in percent, or "?" for None.

    Example:

    >>> share(0.3333), share(None)
    ('33.33%', '?')
    """
    return "?" if value is None else f"{value:.2%}"


def _accuracy(value):
    return "-" if value is None else f"{value:.4f}"


def fraction(part: float, whole: float) -> float:
    """Returns `part / whole`, or 0 for an empty whole."""
    return part / whole if whole else 0.0


def count_of(count: int, noun: str) -> str:
    """Returns a count with its noun, such as "2 kernels"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
