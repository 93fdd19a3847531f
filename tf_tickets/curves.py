"""The curve of a search as a picture."""

import math
import os
from collections.abc import Iterable, Mapping

from tf_tickets import files

_LINES = (
    ("shuffled", "shuffled masks", {"color": "#3a8f5c", "marker": "^"}),
    ("reinit", "random reinit", {"color": "#d9730d", "marker": "s"}),
    ("ticket", "ticket", {"color": "#0b5fa5", "marker": "o", "linewidth": 2.2}),
)


def plot_search(
    results: Iterable[Mapping[str, float]],
    path: os.PathLike | str,
    dense: float | None = None,
    title: str = "Accuracy of the tickets",
) -> None:
    """Draws the accuracies of a search over the weights kept, as a PNG.

    Args:
        results: One dict a round with "sparsity" and the accuracies "ticket",
            "reinit", "shuffled", where known.
        path: Where to write; the file appears whole or not at all.
        dense: Accuracy of the dense network.
        title: Heading of the picture.

    Example:

    >>> plot_search([{"sparsity": 0.2, "ticket": 0.97}], tmp_path / "curve.png")
    >>> (tmp_path / "curve.png").exists()
    True
    """
    results = [r for r in results if r["sparsity"] < 1]
    if not results:
        raise ValueError(
            "`results` has no round with weights left, so there is nothing to draw. "
            f"Received: {results!r}. Give one dict a round."
        )
    figure = _figure()
    axes = figure.subplots()
    if dense is not None:
        dashes = {"color": "#555555", "linestyle": (0, (6, 3)), "linewidth": 1.3}
        axes.axhline(dense, label="dense network", **dashes)
    for key, label, style in _LINES:
        _draw_line(axes, results, key, label, style)
    _label_axes(axes, results, title)
    with files.replacing(path) as draft:
        figure.savefig(draft, format="png", dpi=150)


def _figure():
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "A picture needs matplotlib: pip install matplotlib"
        ) from error
    return Figure(figsize=(7.2, 4.4), layout="constrained")


def _draw_line(axes, results, key, label, style):
    points = sorted(
        (1 - r["sparsity"], r[key]) for r in results if r.get(key) is not None
    )
    if points:
        style = {"linewidth": 1.6, "markersize": 5, **style}
        axes.plot(*zip(*points, strict=True), label=label, **style)


def _label_axes(axes, results, title):
    kept = sorted({1 - r["sparsity"] for r in results}, reverse=True)
    ticks = kept[:: math.ceil(len(kept) / 9)]
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{100 * k:.3g}" for k in ticks])
    axes.set_xticks([], minor=True)
    axes.invert_xaxis()
    axes.set_xlabel("weights kept (%)")
    axes.set_ylabel("accuracy")
    axes.set_title(title, loc="left", fontweight="bold")
    axes.grid(color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.lines:
        # The line drawn last lies on top and is named first.
        axes.legend(frameon=False, reverse=True)
