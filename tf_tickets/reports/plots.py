"""Plots of searches, frontiers and widths."""

import io
import itertools
import math
import os
from collections.abc import Iterable, Mapping

import numpy as np

from tf_tickets import arguments, files

_LINES = (
    ("shuffled", "shuffled masks", {"color": "#3a8f5c", "marker": "^"}),
    ("reinit", "random reinit", {"color": "#d9730d", "marker": "s"}),
    ("ticket", "ticket", {"color": "#0b5fa5", "marker": "o", "linewidth": 2.2}),
)

# By suffix, with the metadata that would make equal plots differ left out.
_FORMATS: dict[str, dict] = {
    ".pdf": {"CreationDate": None},
    ".png": {},
    ".svg": {"Date": None},
}

# With more lines than this, the legend stands beside the plot: it would hide lines.
_INSIDE = 8
_BESIDE = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)}


def plot_search(
    results: Iterable[Mapping[str, float]],
    path: os.PathLike | str,
    dense: float | None = None,
    title: str = "Accuracy of the tickets",
) -> None:
    """Plots the accuracies of a search against the fraction of weights kept.

    Args:
        results: One dict per round with "sparsity" and, where known, the accuracies
            "ticket", "reinit" and "shuffled".
        path: The file to write. Its suffix selects the format: `.png`, `.svg` or
            `.pdf`. The file is written atomically.
        dense: Accuracy of the dense network.
        title: Title of the plot.

    Example:

    >>> plot_search([{"sparsity": 0.2, "ticket": 0.97}], tmp_path / "curve.png")
    >>> (tmp_path / "curve.png").exists()
    True
    """
    _format(path)
    _check_texts(dense, title=title)
    results = _checked_results(results)
    rounds = [r for r in results if r["sparsity"] < 1]
    if not rounds:
        raise ValueError(
            "`results` has no round with weights left, so there is nothing to plot. "
            f"Received: {results!r}. Pass one dict per round."
        )
    figure = _figure()
    axes = figure.subplots()
    _draw_dense(axes, dense)
    for key, label, style in _LINES:
        _draw_line(axes, rounds, key, label, style)
    _label_axes(axes, [1 - r["sparsity"] for r in rounds], title)
    _save(figure, path)


def plot_frontier(
    lines: Mapping[str, Iterable[tuple[float, float]]],
    optimal: Iterable[tuple[float, float]],
    path: os.PathLike | str,
    dense: float | None = None,
    metric: str = "accuracy",
    title: str = "Frontier",
) -> None:
    """Plots the metric of several searches against the fraction of weights kept.

    Args:
        lines: Dict from a label to pairs of the fraction of weights kept, 0 to 1,
            and the metric. Values far below the others are clipped, with a note.
        optimal: The Pareto-optimal pairs.
        path: The file to write. Its suffix selects the format: `.png`, `.svg` or
            `.pdf`. The file is written atomically.
        dense: The dense network's metric.
        metric: Name of the metric.
        title: Title of the plot.

    Example:

    >>> plot_frontier({"a": [(0.5, 0.9), (0.2, 0.8)]}, [(0.5, 0.9)],
    ...               tmp_path / "frontier.png")
    >>> (tmp_path / "frontier.png").exists()
    True
    """
    _format(path)
    _check_texts(dense, metric=metric, title=title)
    arguments.check_type(Mapping, lines=lines)
    lines = {name: _pairs(lines=line) for name, line in lines.items()}
    optimal = _pairs(optimal=optimal)
    lines = {name: sorted(p for p in line if p[0] > 0) for name, line in lines.items()}
    kept = [point[0] for line in lines.values() for point in line]
    if not kept:
        raise ValueError(
            f"There are no points to plot. Received: lines={lines!r}. Pass at least "
            "one point with weights left."
        )
    figure = _figure()
    axes = figure.subplots()
    band = {"color": "#9fd49f", "linewidth": 7, "solid_capstyle": "round"}
    optimal = sorted(p for p in optimal if p[0] > 0)
    if optimal:
        axes.plot(*zip(*optimal, strict=True), label="optimal", **band)
    _draw_dense(axes, dense)
    for (label, line), marker in zip(lines.items(), itertools.cycle("os^Dv<>pX*")):
        style = {"marker": marker, "linewidth": 1.4, "markersize": 5}
        axes.plot(*zip(*line, strict=True), label=label, **style)
    _label_axes(axes, _spaced(kept), title, metric)
    _keep_in_view(axes, [value for line in lines.values() for _, value in line])
    _save(figure, path)


def plot_widths(
    widths: Mapping[str, tuple[int, int]],
    path: os.PathLike | str,
    title: str = "Widths before and after",
) -> None:
    """Plots how many outputs of each kernel remain, as bars.

    Args:
        widths: Dict from the path of a kernel to its outputs before and after.
        path: The file to write. Its suffix selects the format: `.png`, `.svg` or
            `.pdf`. The file is written atomically.
        title: Title of the plot.

    Example:

    >>> plot_widths({"conv1/kernel": (16, 9)}, tmp_path / "widths.png")
    >>> (tmp_path / "widths.png").exists()
    True
    """
    _format(path)
    arguments.check_type(str, title=title)
    arguments.check_type(Mapping, widths=widths)
    if not widths:
        raise ValueError(
            "`widths` must have at least one kernel. Received: {}. A model without "
            "kernels has no widths to plot."
        )
    for name, pair in widths.items():
        arguments.check_type(str, widths=name)
        _check_widths(name, pair)
    figure = _figure(height=1.4 + 0.24 * len(widths))
    axes = figure.subplots()
    names = [name.removesuffix("/kernel") for name in widths]
    before, after = zip(*widths.values(), strict=True)
    rows = range(len(names))
    axes.barh(rows, before, height=0.72, color="#d4dde6", label="before")
    axes.barh(rows, after, height=0.72, color="#0b5fa5", label="after")
    for row, pair in enumerate(widths.values()):
        note = f" {pair[1]:,} of {pair[0]:,}"
        axes.annotate(note, (pair[0], row), va="center", fontsize=8)
    axes.set_yticks(rows, names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.15 * max(before))
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlabel("outputs of the layer")
    axes.set_title(title, loc="left", fontweight="bold")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.legend(frameon=False, ncols=2, loc="outside lower center")
    _save(figure, path)


def _check_widths(name, pair):
    is_pair = isinstance(pair, tuple | list) and len(pair) == 2
    if not is_pair or not all(map(arguments.is_whole, pair)) or pair[0] < 1:
        raise ValueError(
            "`widths` must have two whole numbers for each kernel, the outputs before "
            f"and after. Received: {arguments.shown(pair)} for {name!r}"
        )


def _check_texts(dense, **texts):
    arguments.check_type(str, **texts)
    if dense is not None:
        arguments.check_numbers(dense=dense)


def _checked_results(results):
    rows = arguments.listed(Mapping, results=results)
    for row in rows:
        if not arguments.is_number(row.get("sparsity")):
            raise ValueError(
                'Each of `results` must be a dict with a number "sparsity". '
                f"Received: {arguments.shown(row)}"
            )
    return rows


def _pairs(**lines):
    """Returns pairs of numbers; refuses everything else."""
    [(name, line)] = lines.items()
    pairs = arguments.listed(object, **{name: line})
    for pair in pairs:
        is_pair = isinstance(pair, tuple | list) and len(pair) == 2
        if not is_pair or not all(map(arguments.is_real, pair)):
            raise ValueError(
                f"`{name}` must have pairs of the fraction of weights kept and the "
                f"metric. Received: {arguments.shown(pair)}"
            )
    return pairs


def _keep_in_view(axes, values):
    """Clips collapsed results so that the other lines stay readable."""
    low, high = np.quantile(values, [0.25, 1.0])
    floor = low - 2.0 * (high - low)
    if min(values) < floor:
        axes.set_ylim(floor, high + 0.05 * (high - floor))
        note = f"out of view: down to {min(values):.3g}"
        axes.annotate(note, (0.5, 0.02), xycoords="axes fraction", ha="center")


def _spaced(kept):
    """Positions of ticks, evenly spaced on a log axis."""
    low, high = math.log(min(kept)), math.log(max(kept))
    return [math.exp(low + (high - low) * i / 6) for i in range(7)]


def _draw_dense(axes, dense):
    if dense is not None:
        dashes = {"color": "#555555", "linestyle": (0, (6, 3)), "linewidth": 1.3}
        axes.axhline(dense, label="dense network", **dashes)


def _format(path):
    """The format of a plot by its suffix."""
    suffix = arguments.check_path(path=path).suffix.lower()
    if suffix not in _FORMATS:
        raise ValueError(
            f"The suffix of a plot must be one of {sorted(_FORMATS)}. Received: "
            f"{os.fspath(path)!r}"
        )
    return suffix


def _save(figure, path):
    suffix = _format(path)
    format, metadata = suffix.removeprefix("."), _FORMATS[suffix]
    drawn = io.BytesIO()
    figure.savefig(drawn, format=format, dpi=150, metadata=metadata)
    with files.replacing(path) as draft:
        draft.write_bytes(drawn.getvalue())


def _figure(height=4.4):
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Plots require matplotlib: pip install matplotlib") from error
    return Figure(figsize=(7.2, height), layout="constrained")


def _draw_line(axes, results, key, label, style):
    points = sorted(
        (1 - r["sparsity"], r[key]) for r in results if r.get(key) is not None
    )
    if points:
        style = {"linewidth": 1.6, "markersize": 5, **style}
        axes.plot(*zip(*points, strict=True), label=label, **style)


def _label_axes(axes, kept, title, metric="accuracy"):
    kept = sorted(set(kept), reverse=True)
    ticks = kept[:: math.ceil(len(kept) / 9)]
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{100 * k:.3g}" for k in ticks])
    axes.set_xticks([], minor=True)
    axes.invert_xaxis()
    axes.set_xlabel("weights kept (%)")
    axes.set_ylabel(metric.replace("_", " "))
    axes.set_title(title, loc="left", fontweight="bold")
    axes.grid(color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.lines:
        # The last line lies on top, so it comes first in the legend.
        position = _BESIDE if len(axes.lines) > _INSIDE else {}
        axes.legend(frameon=False, reverse=True, **position)
