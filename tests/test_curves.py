"""The plot of a search."""

import struct
import sys

import numpy as np
import pytest

from tf_tickets.reports import frontier_axes, plots

pytestmark = pytest.mark.turns

RESULTS = [
    {"round": 1, "sparsity": 0.2, "ticket": 0.97, "reinit": 0.96, "shuffled": 0.95},
    {"round": 2, "sparsity": 0.36, "ticket": 0.98, "reinit": None},
    {"round": 10, "sparsity": 0.9},
]


def drawn_axes(results, monkeypatch, tmp_path, **kwargs):
    """Returns the axes of the plot that `plot_search` wrote."""
    figure = plots._figure()
    monkeypatch.setattr(plots, "_figure", lambda: figure)
    plots.plot_search(results, tmp_path / "curve.png", **kwargs)
    return figure.axes[0]


@pytest.mark.parametrize(
    "name, start",
    [
        ("curve.png", b"\x89PNG"),
        ("curve.svg", b"<?xml"),
        ("curve.pdf", b"%PDF-"),
        ("curve.PDF", b"%PDF-"),
    ],
)
def test_the_suffix_selects_the_format(name, start, tmp_path):
    pytest.importorskip("matplotlib")
    plots.plot_search(RESULTS, tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(start)


@pytest.mark.parametrize("name", ["curve", "curve.jpeg", "curve.png.txt"])
def test_other_suffixes_are_refused_with_the_known_ones(name, tmp_path):
    known = r"one of \['.pdf', '.png', '.svg'\]. Received: .*curve"
    with pytest.raises(ValueError, match=known):
        plots.plot_search(RESULTS, tmp_path / name)
    with pytest.raises(ValueError, match=known):
        plots.plot_frontier({"a": [(0.5, 0.9)]}, [], tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("count", [1, 3])
def test_the_picture_is_a_png_of_sensible_size(count, tmp_path):
    pytest.importorskip("matplotlib")
    plots.plot_search(RESULTS[:count], tmp_path / "curve.png", dense=0.97)
    data = (tmp_path / "curve.png").read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", data[16:24]) == (1080, 660)
    assert 10_000 < len(data) < 200_000
    assert [file.name for file in tmp_path.iterdir()] == ["curve.png"]


def test_the_picture_has_a_line_for_each_accuracy_given(monkeypatch, tmp_path):
    pytest.importorskip("matplotlib")
    texts = {"title": "A title", "metric": "test_accuracy"}
    axes = drawn_axes(RESULTS, monkeypatch, tmp_path, dense=0.971, **texts)
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert lines == {
        "dense network": [[0, 0.971], [1, 0.971]],
        "shuffled masks": [[0.8, 0.95]],
        "random reinit": [[0.8, 0.96]],
        "ticket": [[0.64, 0.98], [0.8, 0.97]],
    }
    assert axes.get_title("left") == "A title"
    assert axes.get_ylabel() == "test accuracy"
    assert [t.get_text() for t in axes.get_legend().texts] == list(lines)[::-1]


def test_the_picture_has_fewer_weights_to_the_right_on_a_log_scale(
    monkeypatch, tmp_path
):
    pytest.importorskip("matplotlib")
    axes = drawn_axes(RESULTS, monkeypatch, tmp_path)
    left, right = axes.get_xlim()
    assert left > right
    assert axes.get_xscale() == "log"
    assert [t.get_text() for t in axes.get_xticklabels()] == ["80", "64", "10"]
    assert "dense network" not in [line.get_label() for line in axes.lines]


def test_the_ticks_of_a_long_search_are_thinned_out(monkeypatch, tmp_path):
    pytest.importorskip("matplotlib")
    results = [{"sparsity": 1 - 0.8**n, "ticket": 0.9} for n in range(30)]
    axes = drawn_axes(results, monkeypatch, tmp_path)
    assert 5 <= len(axes.get_xticks()) <= 9


def frontier_axes_of(monkeypatch, lines, optimal=(), **kwargs):
    """Returns the axes of the plot that `plot_frontier` draws."""
    kept = {}
    monkeypatch.setattr(plots, "_save", lambda figure, path: kept.update(f=figure))
    plots.plot_frontier(lines, optimal, "a.png", **kwargs)
    [axes] = kept["f"].axes
    return axes


def heights(axes, values):
    """Returns the positions of values between the bottom, 0, and the top, 1."""
    spots = axes.transData.transform([(0.5, value) for value in values])
    return axes.transAxes.inverted().transform(spots)[:, 1].tolist()


@pytest.mark.parametrize("sign, word", [(1, "below"), (-1, "above")])
@pytest.mark.parametrize("last", [0.11, 0.92, -1e9])
def test_a_collapse_is_in_view_and_does_not_press_the_others_together(
    monkeypatch, last, sign, word
):
    pytest.importorskip("matplotlib")
    lines = {"a": [(0.5, 0.98), (0.3, 0.97), (0.1, 0.97)]}
    lines["b"] = [(0.5, 0.96), (0.3, 0.95), (0.1, last)]
    signed = {n: [(kept, sign * v) for kept, v in line] for n, line in lines.items()}
    axes = frontier_axes_of(
        monkeypatch, signed, dense=sign * 0.975, smaller_is_better=sign < 0
    )
    worst, good, best = (
        position if sign > 0 else 1 - position
        for position in heights(axes, [sign * last, sign * 0.95, sign * 0.98])
    )
    # The good ones have at least a quarter of the height, the worst one some of it.
    assert best - good > 1 / 4 and 0.02 < worst < good - 0.05 and best < 0.98
    said = [text.get_text() for text in axes.texts]
    assert [text.startswith(f"compressed {word} ") for text in said] == (
        [] if last == 0.92 else [True]
    )


@pytest.mark.parametrize("smaller_is_better", [False, True])
def test_everything_optimal_is_in_view_whatever_the_values(
    monkeypatch, smaller_is_better
):
    pytest.importorskip("matplotlib")
    rng = np.random.default_rng(0)
    for _ in range(8):
        count = int(rng.integers(1, 12))
        values = np.where(
            rng.random(count) < 0.3,
            rng.choice([0.0, 0.1, 5.0, -30.0, 1e6], count),
            0.9 + 0.1 * rng.random(count),
        )
        spots = [(0.8 ** (i + 1), float(v)) for i, v in enumerate(values)]
        spots = [(*spot, spot[1] - 9.0, spot[1] + 0.01) for spot in spots]
        pairs = [spot[:2] for spot in spots]
        axes = frontier_axes_of(
            monkeypatch, {"a": spots}, pairs, smaller_is_better=smaller_is_better
        )
        positions = heights(axes, values)
        assert min(positions) > 0.005 and max(positions) < 0.995
        in_order = np.array(positions)[np.argsort(values, kind="stable")]
        assert all(np.diff(in_order) >= -1e-9)


def test_the_legend_has_the_order_of_the_lines_at_the_right_hand_end(monkeypatch):
    pytest.importorskip("matplotlib")
    lines = {
        "falls": [(0.5, 0.99), (0.1, 0.5)],
        "_stays": [(0.5, 0.9), (0.1, 0.9)],
        "short": [(0.5, 0.8)],
    }
    axes = frontier_axes_of(monkeypatch, lines, [(0.5, 0.99)], dense=0.85)
    texts = [text.get_text() for text in axes.get_legend().texts]
    assert texts == [" _stays", "dense network", "short", "falls", "optimal"]
    colors = [h.get_color() for h in axes.get_legend().legend_handles]
    assert len(set(colors)) == 5


def test_a_label_is_text_and_no_formula(monkeypatch, tmp_path):
    pytest.importorskip("matplotlib")
    lines = {"a$_b$c": [(0.5, 0.9)], "word " * 20: [(0.5, 0.8)]}
    plots.plot_frontier(lines, [], tmp_path / "a.svg", note="of $2 and $3")
    assert (tmp_path / "a.svg").stat().st_size > 1000


def test_lines_of_thirty_searches_differ(monkeypatch):
    pytest.importorskip("matplotlib")
    lines = {f"{i}": [(0.5, i), (0.1, i)] for i in range(30)}
    axes = frontier_axes_of(monkeypatch, lines)
    # matplotlib names all dashes "--".
    looks = {(line.get_color(), str(line._dash_pattern)) for line in axes.lines}
    assert len(looks) == len(axes.lines) == 30


def test_bands_of_intervals_are_drawn_and_widen_the_view_a_little(monkeypatch):
    pytest.importorskip("matplotlib")
    lines = {"a": [(0.5, 0.9, 0.89, 0.91), (0.1, 0.8, -50.0, 60.0)]}
    axes = frontier_axes_of(monkeypatch, lines, dense=0.95, dense_interval=(0.94, 0.96))
    [band] = axes.collections
    drawn = {tuple(spot) for spot in band.get_paths()[0].vertices.tolist()}
    assert {(0.5, 0.89), (0.5, 0.91), (0.1, -50.0), (0.1, 60.0)} <= drawn
    low, high = axes.get_ylim()
    # Three quarters of the height of the points and the dense network, 0.15, at the
    # bottom; up to 1, which no accuracy exceeds, at the top.
    assert 0.65 < low < 0.69 and 1.0 < high < 1.03
    assert axes.figure.get_supxlabel() == "some bands are wider"
    [dense] = axes.patches
    assert (dense.get_y(), dense.get_y() + dense.get_height()) == (0.94, 0.96)


@pytest.mark.parametrize("smaller", [False, True])
def test_bands_do_not_show_accuracies_above_1_or_losses_below_0(monkeypatch, smaller):
    pytest.importorskip("matplotlib")
    lines = {"a": [(0.5, 0.9, -0.5, 1.5), (0.1, 0.2, 0.1, 0.3)]}
    axes = frontier_axes_of(monkeypatch, lines, smaller_is_better=smaller)
    low, high = axes.get_ylim()
    assert -0.1 < low < 0 and (high > 1.3 if smaller else 1 < high < 1.1)
    assert axes.figure.get_supxlabel() == "some bands are wider"


def test_points_that_cannot_be_drawn_are_counted(monkeypatch):
    pytest.importorskip("matplotlib")
    nan = float("nan")
    lines = {"a": [(0.5, 0.9), (0.1, nan), (0.0, 0.1)], "b": [(0.5, float("inf"))]}
    axes = frontier_axes_of(monkeypatch, lines, [(0.1, nan)], note="Of a test")
    assert [line.get_xydata().tolist() for line in axes.lines] == [[[0.5, 0.9]]]
    said = axes.figure.get_supxlabel()
    assert said == (
        "Of a test; not drawn: 1 without weights left, 2 without a finite metric"
    )
    with pytest.raises(ValueError, match="no points to plot"):
        plots.plot_frontier({"a": [(0.5, nan)]}, [], "a.png")


@pytest.mark.parametrize(
    "bad, message",
    [
        ({"lines": {"a": [(0.5,)]}}, "`lines` must have pairs .*Received: .0.5,"),
        ({"lines": {"a": [(0.5, 0.9, 0.8)]}}, "or four numbers with the ends"),
        ({"optimal": [(0.5, "x")]}, "`optimal` must have pairs"),
        ({"dense_interval": (1.0,)}, "`dense_interval` must have two numbers"),
    ],
)
def test_points_of_another_kind_are_refused(bad, message, tmp_path):
    good = {"lines": {"a": [(0.5, 0.9)]}, "optimal": [], "path": tmp_path / "a.png"}
    with pytest.raises(ValueError, match=message):
        plots.plot_frontier(**{**good, **bad})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "kept, expected",
    [
        ([0.8, 1 - 0.98], [0.5, 0.2, 0.1, 0.05, 0.02]),
        ([1.0, 1e-4], [1.0, 0.1, 0.01, 0.001, 0.0001]),
        ([0.5, 0.5], [0.5]),
    ],
)
def test_ticks_are_round_numbers(kept, expected):
    assert frontier_axes.kept_ticks(kept) == expected


def test_few_round_numbers_are_replaced_by_even_steps():
    ticks = frontier_axes.kept_ticks([0.16, 0.81])
    assert ticks == pytest.approx([0.16, 0.24, 0.36, 0.54, 0.81])


@pytest.mark.parametrize("results", [[], [{"sparsity": 1.0, "ticket": 0.1}]])
def test_a_picture_of_nothing_is_refused(results, tmp_path):
    with pytest.raises(ValueError, match="no round with weights left.*Received"):
        plots.plot_search(results, tmp_path / "curve.png")
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib_the_pip_line_is_given(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        plots.plot_search(RESULTS, tmp_path / "curve.png")


def test_widths_are_drawn_as_bars_before_and_after(monkeypatch, tmp_path):
    pytest.importorskip("matplotlib")
    figure = plots._figure(height=2.0)
    monkeypatch.setattr(plots, "_figure", lambda height: figure)
    widths = {"net/conv/kernel": (16, 9), "net/fc/kernel": (64, 64)}
    plots.plot_widths(widths, tmp_path / "widths.png", "Net")
    axes = figure.axes[0]
    bars = [bar.get_width() for bar in axes.patches]
    assert bars == [16, 64, 9, 64]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["net/conv", "net/fc"]
    assert [t.get_text() for t in axes.texts] == [" 9 of 16", " 64 of 64"]
    assert axes.get_title("left") == "Net"


@pytest.mark.parametrize("pair", [(16,), (16, 9.5), (0, 0), "16"])
def test_widths_must_be_two_whole_numbers(pair, tmp_path):
    with pytest.raises(ValueError, match="two whole numbers .* for 'a/kernel'"):
        plots.plot_widths({"a/kernel": pair}, tmp_path / "widths.png")
    assert list(tmp_path.iterdir()) == []
