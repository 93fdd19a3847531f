"""What a plot of a frontier has on its axes: lines, bands, view and legend."""

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

# A point is the fraction of weights kept and the metric, with the ends of an interval.
Spot = tuple[float, ...]

# Twelve colors that differ in hue or lightness, then the same with other dashes.
_COLORS = (
    "#0b5fa5",
    "#d9730d",
    "#3a8f5c",
    "#c2313b",
    "#7b55b8",
    "#8a5a3c",
    "#d65fa8",
    "#14a3b8",
    "#a39a14",
    "#2b2b6b",
    "#e8b100",
    "#7f9fd6",
)
_MARKERS = "os^Dv<>pX*hP"
_DASHES: tuple[Any, ...] = ("-", (0, (4, 2)), (0, (1, 1.5)))
_OPTIMAL = "#a9dca9"
_GRAY = "#555555"

# The part of the height in which collapsed results are shown.
_COMPRESSED = 0.18
# How far bands may widen the view, as a part of its height, at each end.
_BANDS = 0.75


class View:
    """The vertical scale: collapsed results are compressed, so nothing is hidden.

    Args:
        values: All values that must be in view.
        smaller_is_better: Whether the collapsed values are the large ones.

    Example:

    >>> View([0.9, 0.89, 0.88], False).edge is None
    True
    >>> view = View([0.9, 0.89, 0.88, 0.87, 0.88, 0.1], False)
    >>> round(view.edge, 3), view.worst
    (0.818, 0.1)
    """

    def __init__(self, values: Iterable[float], smaller_is_better: bool) -> None:
        self.sign = -1.0 if smaller_is_better else 1.0
        self.values = self.sign * np.array(list(values))
        self.edge: float | None = None
        self.worst = float(self.sign * self.values.min())
        high = float(self.values.max())
        edge = self._edge(high)
        # A little more than the normal scale shows is no reason to change it.
        if edge is not None and self.values.min() < edge - 0.5 * (high - edge):
            self.edge = self.sign * edge
            self.slope = (
                _COMPRESSED
                / (1 - _COMPRESSED)
                * (high - edge)
                / (edge - self.values.min())
            )

    def _edge(self, high):
        low, median = np.quantile(self.values, [0.25, 0.5])
        edge = high - 3.0 * (high - low)
        bottom = max(edge, self.values.min())
        # If more than a quarter have collapsed, the better half decides.
        if 0 < high - median < 0.08 * (high - bottom):
            edge = high - 4.0 * (high - median)
        return float(edge) if edge < high else None

    def to_scale(self, values: Any) -> np.ndarray:
        """Returns positions on the axis."""
        values = np.asarray(values, float)
        if self.edge is None:
            return values
        beyond = self.sign * (self.edge - values)
        return np.where(beyond > 0, self.edge - self.sign * self.slope * beyond, values)

    def from_scale(self, values: Any) -> np.ndarray:
        """Returns the values at some positions."""
        values = np.asarray(values, float)
        if self.edge is None:
            return values
        beyond = self.sign * (self.edge - values)
        return np.where(beyond > 0, self.edge - self.sign / self.slope * beyond, values)

    def limits(self, ends: Iterable[float]) -> tuple[float, float]:
        """Returns the values at the bottom and at the top.

        Args:
            ends: The ends of bands. They widen the view to a certain degree.
        """
        shown = self.to_scale(self.sign * self.values)
        low, high = float(shown.min()), float(shown.max())
        span = high - low or 0.02 * abs(high) or 0.01
        bands = [*self.to_scale(self._possible(ends)), low, high]
        low -= min(_BANDS * span, low - float(min(bands)))
        high += min(_BANDS * span, float(max(bands)) - high)
        margin = 0.06 * (high - low or span)
        bottom, top = self.from_scale([low - margin, high + margin])
        return float(bottom), float(top)

    def _possible(self, ends):
        """Ends of bands without what a fraction or a loss cannot be."""
        values = self.sign * self.values
        least = 0.0 if values.min() >= 0 else -math.inf
        most = 1.0 if self.sign > 0 and values.max() <= 1 else math.inf
        return [min(max(end, least), most) for end in ends]

    def cuts(self, ends: Iterable[float]) -> bool:
        """Returns whether some ends of bands are out of view."""
        bottom, top = self.limits(ends := list(ends))
        return any(not bottom <= end <= top for end in ends)

    def apply(self, axes: Any, ends: Iterable[float]) -> None:
        """Sets the scale, limits and ticks of the vertical axis."""
        if self.edge is None:
            axes.set_ylim(*self.limits(ends))
            return
        from matplotlib.ticker import MaxNLocator

        limits = self.limits(ends)
        axes.set_yscale("function", functions=(self.to_scale, self.from_scale))
        axes.set_ylim(*limits)
        inner, outer = (limits[1], limits[0])[:: int(self.sign)]
        normal = sorted([self.edge, inner])
        nice = MaxNLocator(7).tick_values(*normal)
        ticks = [tick for tick in nice if normal[0] <= tick <= normal[1]]
        ticks.append(self.worst)
        axes.set_yticks(ticks, _tick_texts(ticks))
        axes.set_yticks([], minor=True)
        axes.axhspan(self.edge, outer, color="#f8f2e4", linewidth=0, zorder=0)
        dots = {"color": "#999999", "linewidth": 0.9, "linestyle": ":"}
        axes.axhline(self.edge, **dots)
        side, beyond = ("top", "below") if self.sign > 0 else ("bottom", "above")
        axes.annotate(
            f"compressed {beyond} {self.edge:.3g}",
            (0.01, self.edge),
            xycoords=axes.get_yaxis_transform(),
            xytext=(0, -3 * self.sign),
            textcoords="offset points",
            va=side,
            fontsize=7.5,
            color=_GRAY,
        )


def _tick_texts(ticks):
    """The last tick is the worst value; the others have equally many digits."""
    *normal, worst = ticks
    step = normal[1] - normal[0] if len(normal) > 1 else 0.01
    # Half a unit of the last digit must not change a step such as 0.0025.
    digits = next(d for d in range(12) if abs(round(step, d) - step) < 1e-3 * step)
    return [f"{tick:.{digits}f}" for tick in normal] + [f"{worst:.3g}"]


def kept_ticks(kept: Iterable[float]) -> list[float]:
    """Returns fractions of weights kept for the axis: 1, 2 and 5 in each decade.

    Example:

    >>> kept_ticks([0.8, 0.03])
    [0.5, 0.2, 0.1, 0.05]
    """
    kept = list(kept)
    low, high = min(kept), max(kept)
    decades = range(math.floor(math.log10(low)), 1)
    exact = [float(f"{digit}e{d}") for d in decades for digit in (1, 2, 5)]
    # 1 - 0.98 is a little more than 0.02.
    near = [t for t in exact if low * (1 - 1e-9) <= t <= high * (1 + 1e-9)]
    ticks = sorted(near, reverse=True)
    if len(ticks) > 9:
        ticks = [tick for tick in ticks if f"{tick:e}".startswith("1")]
    if len(ticks) >= 3:
        return ticks
    # Evenly spaced on a log axis.
    steps = [(high / low) ** (i / 4) for i in range(5)]
    return [low * step for step in steps] if high > low else [low]


def draw_optimal(axes: Any, optimal: Iterable[Spot]) -> Any:
    """Draws the optimal points as a broad line; returns it."""
    spots = sorted((spot[0], spot[1]) for spot in optimal)
    if not spots:
        return None
    style: dict[str, Any] = {"color": _OPTIMAL, "linewidth": 6, "marker": "o"}
    style |= {"markersize": 10, "solid_capstyle": "round", "zorder": 1.5}
    [line] = axes.plot(*zip(*spots, strict=True), **style)
    return line


def draw_dense(
    axes: Any, dense: float | None, interval: tuple[float, float] | None
) -> Any:
    """Draws the dense network's metric as a dashed line; returns it."""
    if dense is None:
        return None
    if interval is not None:
        axes.axhspan(*interval, color=_GRAY, alpha=0.12, linewidth=0, zorder=1)
    dashes = {"color": _GRAY, "linestyle": (0, (6, 3)), "linewidth": 1.3}
    return axes.axhline(dense, **dashes)


def draw_lines(axes: Any, lines: Mapping[str, Sequence[Spot]]) -> list[Any]:
    """Draws each line with its band; returns the lines."""
    drawn = []
    for index, spots in enumerate(lines.values()):
        turn, which = divmod(index, len(_COLORS))
        color = _COLORS[which]
        style: dict[str, Any] = {
            "color": color,
            "marker": _MARKERS[which],
            "linestyle": _DASHES[turn % len(_DASHES)],
            "linewidth": 1.5,
            "markersize": 5,
        }
        [line] = axes.plot([s[0] for s in spots], [s[1] for s in spots], **style)
        _draw_band(axes, [spot for spot in spots if len(spot) == 4], color)
        drawn.append(line)
    return drawn


def _draw_band(axes, spots, color):
    if not spots:
        return
    kept, _, low, high = zip(*spots, strict=True)
    if len(spots) == 1:
        axes.vlines(kept, low, high, color=color, alpha=0.5, linewidth=1.2)
    else:
        axes.fill_between(kept, low, high, color=color, alpha=0.15, linewidth=0)


def legend_order(lines: Mapping[str, Sequence[Spot]], dense: float | None) -> list[str]:
    """Returns the labels of the lines from top to bottom at the right-hand end.

    Args:
        lines: Dict from label to points.
        dense: The dense network's metric. Its label is "".

    Example:

    >>> legend_order({"a": [(0.5, 0.9), (0.1, 0.7)], "b": [(0.5, 0.8)]}, 0.85)
    ['', 'b', 'a']
    """
    ends = {label: min(spots)[1] for label, spots in lines.items()}
    if dense is not None:
        ends[""] = dense
    return sorted(ends, key=lambda label: -ends[label])


def legend_text(label: str) -> str:
    """Returns a label as the legend shows it: in short lines, without formulas.

    Example:

    >>> legend_text("_a$b")
    ' _a\\\\$b'
    """
    text = "\n".join(textwrap.wrap(label, 30)) or label
    # matplotlib leaves out labels that begin with an underscore.
    return (" " if text.startswith("_") else "") + text.replace("$", r"\$")


def finite(spots: Iterable[Spot]) -> list[Spot]:
    """Returns the points with weights left and a finite value, by weights kept."""
    return sorted(s for s in spots if s[0] > 0 and math.isfinite(s[1]))
