"""Plots of searches, frontiers, widths and lines between networks."""

import io
import math
import os
import pathlib
import statistics
import textwrap
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tf_tickets import arguments, files
from tf_tickets.reports import frontier_axes

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

# What the arguments of `plot_frontier` consist of.
_SPOTS = {
    "lines": "pairs of the fraction of weights kept and the metric, or four numbers "
    "with the ends of its interval",
    "optimal": "pairs of the fraction of weights kept and the metric",
    "dense_interval": "two numbers, the lower and the upper end",
}


def plot_search(
    results: Iterable[Mapping[str, float]],
    path: os.PathLike | str,
    dense: float | None = None,
    title: str = "Accuracy of the tickets",
    metric: str = "accuracy",
) -> None:
    """Plots the accuracies of a search against the fraction of weights kept.

    Args:
        results: One dict per round with "sparsity" and, where known, the accuracies
            "ticket", "reinit" and "shuffled".
        path: The file to write. Its suffix selects the format: `.png`, `.svg` or
            `.pdf`. The file is written atomically.
        dense: Accuracy of the dense network.
        title: Title of the plot.
        metric: Name of the accuracy, such as "test_accuracy", for the axis.

    Example:

    >>> plot_search([{"sparsity": 0.2, "ticket": 0.97}], tmp_path / "curve.png")
    >>> (tmp_path / "curve.png").exists()
    True
    """
    _format(path)
    _check_texts(dense, title=title, metric=metric)
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
    _label_axes(axes, [1 - r["sparsity"] for r in rounds], title, metric)
    if axes.lines:
        # The last line lies on top, so it comes first in the legend.
        axes.legend(frameon=False, reverse=True)
    _save(figure, path)


def plot_frontier(
    lines: Mapping[str, Iterable[Sequence[float]]],
    optimal: Iterable[Sequence[float]],
    path: os.PathLike | str,
    dense: float | None = None,
    metric: str = "accuracy",
    title: str = "Frontier",
    *,
    dense_interval: tuple[float, float] | None = None,
    smaller_is_better: bool = False,
    note: str = "",
) -> None:
    """Plots the metric of several searches against the fraction of weights kept.

    All points are in view: if some have collapsed, the axis is compressed there, with
    a note. The legend has the order of the lines at their right-hand ends.

    Args:
        lines: Dict from a label to pairs of the fraction of weights kept, 0 to 1,
            and the metric. A point with four numbers has the ends of an interval of
            the metric too, which are drawn as a band.
        optimal: The Pareto-optimal pairs.
        path: The file to write. Its suffix selects the format: `.png`, `.svg` or
            `.pdf`. The file is written atomically.
        dense: The dense network's metric.
        metric: Name of the metric.
        title: Title of the plot.
        dense_interval: The ends of the interval of the dense network's metric.
        smaller_is_better: Whether the collapsed values are the large ones, as for a
            loss.
        note: Small text below the axes.

    Example:

    >>> plot_frontier({"a": [(0.5, 0.9), (0.2, 0.8)]}, [(0.5, 0.9)],
    ...               tmp_path / "frontier.png")
    >>> (tmp_path / "frontier.png").exists()
    True
    """
    _format(path)
    _check_texts(dense, metric=metric, title=title, note=note)
    arguments.check_flags(smaller_is_better=smaller_is_better)
    if dense_interval is not None:
        [dense_interval] = _spots((2,), dense_interval=[dense_interval])
    arguments.check_type(Mapping, lines=lines)
    arguments.check_table(str, object, lines=dict(lines))
    all_lines = {name: _spots((2, 4), lines=line) for name, line in lines.items()}
    best = frontier_axes.finite(_spots((2,), optimal=optimal))
    shown = {name: frontier_axes.finite(line) for name, line in all_lines.items()}
    shown = {name: line for name, line in shown.items() if line}
    if not shown:
        raise ValueError(
            f"There are no points to plot. Received: lines={lines!r}. Pass at least "
            "one point with weights left and a finite metric."
        )
    _draw_frontier(
        path,
        shown,
        best,
        (dense, dense_interval),
        metric,
        title,
        smaller_is_better,
        "; ".join(part for part in (note, _left_out(all_lines)) if part),
    )


def draw_or_warn(
    plot: Callable[[pathlib.Path], Any],
    path: pathlib.Path,
    values: Iterable[float],
    name: str,
) -> None:
    """Draws a picture beside results; where that cannot be done, a warning is given.

    Args:
        plot: Function that draws it to a path.
        path: Where the picture is written.
        values: The values that it shows.
        name: The name of one value.

    Example:

    >>> draw_or_warn(lambda path: print("drawn", path), "a.png", [0.5], "loss")
    drawn a.png
    """
    if not any(map(math.isfinite, values)):
        warnings.warn(
            f"{path} was not drawn, since no {name} is finite: all trainings "
            "diverged. Lower the learning rate.",
            stacklevel=2,
        )
        return
    try:
        plot(path)
    except ImportError as error:
        warnings.warn(f"{path} was not drawn. {error}", stacklevel=2)


def _left_out(lines):
    """A note about points that a plot with a logarithmic axis cannot show."""
    spots = [spot for line in lines.values() for spot in line]
    empty = sum(spot[0] <= 0 for spot in spots)
    diverged = sum(spot[0] > 0 and not math.isfinite(spot[1]) for spot in spots)
    counts = {"without weights left": empty, "without a finite metric": diverged}
    parts = [f"{count} {what}" for what, count in counts.items() if count]
    return f"not drawn: {', '.join(parts)}" if parts else ""


def _draw_frontier(path, lines, best, dense, metric, title, smaller_is_better, note):
    value, interval = dense
    figure = _figure(max(4.4, 1.0 + 0.24 * len(lines)), 9.2)
    axes = figure.subplots()
    handles = {"optimal": frontier_axes.draw_optimal(axes, best)}
    dense_line = frontier_axes.draw_dense(axes, value, interval)
    drawn = dict(zip(lines, frontier_axes.draw_lines(axes, lines), strict=True))
    spots = [spot for line in lines.values() for spot in line]
    kept = frontier_axes.kept_ticks(spot[0] for spot in spots)
    _label_axes(axes, kept, title, metric)
    values = [spot[1] for spot in [*spots, *best]]
    ends = [end for spot in spots for end in spot[2:] if math.isfinite(end)]
    if value is not None:
        values.append(value)
        ends += interval or ()
    view = frontier_axes.View(values, smaller_is_better)
    view.apply(axes, ends)
    if view.cuts(ends):
        note = "; ".join(part for part in (note, "some bands are wider") if part)
    order = frontier_axes.legend_order(lines, value)
    entries = [(drawn[x], x) if x else (dense_line, "dense network") for x in order]
    entries += [(line, text) for text, line in handles.items() if line is not None]
    axes.legend(
        [line for line, _ in entries],
        [frontier_axes.legend_text(text) for _, text in entries],
        frameon=False,
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
        fontsize=9,
    )
    if note:
        figure.supxlabel(
            "\n".join(textwrap.wrap(note, 110)),
            fontsize=8,
            color="#555555",
            x=0.01,
            ha="left",
        )
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


def plot_lines(
    positions: Sequence[float],
    errors: Mapping[str, Iterable[Sequence[float]]],
    instability: Mapping[str, Iterable[float]],
    path: os.PathLike | str,
    title: str = "Error between two trained copies",
    *,
    error: str = "error",
    threshold: float = 0.02,
) -> None:
    """Plots the errors along lines between networks, and how unstable these are.

    Means over several lines are drawn as broad lines. The second panel is left out if
    there is only one rewind point.

    Args:
        positions: Positions on the lines, 0 to 1.
        errors: Dict from rewind point to the errors along each of its lines.
        instability: Dict from rewind point to the instability of each of its lines.
        path: The file to write. Its suffix selects the format: `.png`, `.svg` or
            `.pdf`. The file is written atomically.
        title: Title of the plot.
        error: Name of the error.
        threshold: The instability below which a network is called stable.

    Example:

    >>> plot_lines([0, 0.5, 1], {"init": [(0.1, 0.4, 0.1)], "1 epoch": [(0.1,) * 3]},
    ...            {"init": [0.3], "1 epoch": [0.0]}, tmp_path / "lines.png")
    >>> (tmp_path / "lines.png").exists()
    True
    """
    _format(path)
    arguments.check_type(str, title=title, error=error)
    arguments.check_numbers(threshold=threshold)
    arguments.check_type(Mapping, errors=errors, instability=instability)
    positions = _numbers(positions=positions)
    all_errors = {name: [_numbers(errors=e) for e in of] for name, of in errors.items()}
    values = {name: _numbers(instability=of) for name, of in instability.items()}
    lengths = {len(line) for lines in all_errors.values() for line in lines}
    if lengths != {len(positions)} or list(values) != list(all_errors):
        raise ValueError(
            "`errors` must have as many numbers as `positions` on each line, and "
            f"`instability` the same rewind points. Received: {len(positions)} "
            f"positions, lines of {sorted(lengths)} errors, rewind points "
            f"{list(all_errors)} and {list(values)}."
        )
    several = len(values) > 1
    figure = _figure(width=9.6 if several else 7.2)
    panels = figure.subplots(1, 1 + several, squeeze=False)[0]
    colors = _ramp(len(values))
    for color, (name, lines) in zip(colors, all_errors.items(), strict=True):
        mean = [statistics.fmean(column) for column in zip(*lines, strict=True)]
        panels[0].plot(positions, mean, color=color, linewidth=2.0, label=name)
        for line in lines if len(lines) > 1 else ():
            panels[0].plot(positions, line, color=color, linewidth=0.6, alpha=0.5)
    panels[0].set_xlabel("position between the two copies")
    panels[0].set_ylabel(error)
    panels[0].set_title(title, loc="left", fontweight="bold")
    # Below the panels: lines may be anywhere in them.
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(
        handles,
        names,
        title="rewound to",
        title_fontsize=8,
        frameon=False,
        fontsize=8,
        ncols=min(len(names), 8 if several else 6),
        loc="outside lower center",
    )
    if several:
        _draw_instability(panels[1], values, colors, threshold)
    for axes in panels:
        axes.grid(color="#dddddd", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def _draw_instability(axes, values, colors, threshold):
    places = range(len(values))
    for place, color, found in zip(places, colors, values.values(), strict=True):
        axes.plot([place] * len(found), found, "o", color=color, markersize=4)
    means = [statistics.fmean(found) for found in values.values()]
    axes.plot(places, means, color="#555555", linewidth=1.2)
    dashes = {"color": "#555555", "linestyle": (0, (6, 3)), "linewidth": 1.0}
    axes.axhline(threshold, **dashes)
    note = f"stable below {threshold:g}"
    place = axes.get_yaxis_transform()
    # At the right-hand side, where the instability has fallen as a rule.
    axes.text(
        0.99, threshold, note, fontsize=8, ha="right", va="bottom", transform=place
    )
    axes.set_xticks(places, list(values), rotation=45 * (len(values) > 4), fontsize=8)
    axes.set_xlabel("rewind to")
    axes.set_title("Instability", loc="left", fontweight="bold")


def _ramp(count):
    """Returns colors from early, dark, to late, light."""
    from matplotlib import colormaps

    return [colormaps["viridis"](0.85 * n / max(count - 1, 1)) for n in range(count)]


def _numbers(**values):
    """Returns a list of floats; refuses everything else."""
    [(name, line)] = values.items()
    found = arguments.listed(object, **{name: line})
    if not all(map(arguments.is_real, found)):
        raise TypeError(
            f"`{name}` must have lists of numbers. Received: {arguments.shown(line)}"
        )
    return list(map(float, found))


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


def _spots(lengths, **lines):
    """Returns lists of some length of numbers; refuses everything else."""
    [(name, line)] = lines.items()
    spots = arguments.listed(object, **{name: line})
    for spot in spots:
        fits = isinstance(spot, tuple | list) and len(spot) in lengths
        if not fits or not all(map(arguments.is_real, spot)):
            raise ValueError(
                f"`{name}` must have {_SPOTS[name]}. Received: {arguments.shown(spot)}"
            )
    return [tuple(map(float, spot)) for spot in spots]


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


def _figure(height=4.4, width=7.2):
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Plots require matplotlib: pip install matplotlib") from error
    return Figure(figsize=(width, height), layout="constrained")


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
    if len(kept) == 1:
        # Limits by a single point would have no width.
        axes.set_xlim(kept[0] / 2, kept[0] * 2)
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
