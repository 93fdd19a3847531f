"""The plot of a search."""

import struct
import sys

import pytest

from tf_tickets.reports import plots

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
    axes = drawn_axes(RESULTS, monkeypatch, tmp_path, dense=0.971, title="A title")
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert lines == {
        "dense network": [[0, 0.971], [1, 0.971]],
        "shuffled masks": [[0.8, 0.95]],
        "random reinit": [[0.8, 0.96]],
        "ticket": [[0.64, 0.98], [0.8, 0.97]],
    }
    assert axes.get_title("left") == "A title"
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


@pytest.mark.parametrize("last, seen", [(0.11, False), (0.92, True)])
def test_a_collapse_does_not_press_the_others_together(
    monkeypatch, tmp_path, last, seen
):
    pytest.importorskip("matplotlib")
    kept = {}
    monkeypatch.setattr(plots, "_save", lambda figure, path: kept.update(f=figure))
    lines = {"a": [(0.5, 0.98), (0.3, 0.97), (0.1, 0.97)]}
    lines["b"] = [(0.5, 0.96), (0.3, 0.95), (0.1, last)]
    plots.plot_frontier(lines, [], tmp_path / "a.png", dense=0.975)
    [axes] = kept["f"].axes
    low, high = axes.get_ylim()
    assert low < 0.94 and 0.98 < high < 1.0 and (low < last) == seen
    said = [text.get_text() for text in axes.texts]
    assert said == ([] if seen else ["out of view: down to 0.11"])


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
