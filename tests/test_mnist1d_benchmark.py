"""The statistics of the comparison on MNIST-1D, and the comparison itself in short."""

import importlib
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parent.parent
BENCHMARKS = ROOT / "benchmarks"

pytestmark = pytest.mark.turns("jax")


@pytest.fixture
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@pytest.fixture
def statistics(scripts):
    pytest.importorskip("scipy")
    return scripts("mnist1d_statistics")


def _rows(*pairs):
    return [
        {"sparsity": s, "val_accuracy": a, "test_accuracy": a, "epochs": 40 * i}
        for i, (s, a) in enumerate(pairs, start=1)
    ]


@pytest.mark.parametrize(
    ("level", "expected"),
    [(0.9, 0.6), (0.5, 0.7), (0.95, 0.55), (0.4, None), (0.99, None)],
)
def test_a_metric_is_taken_at_a_sparsity_or_between_its_neighbours(
    level, expected, statistics
):
    # From 0.9 to 0.975 the kept fraction is halved twice.
    rows = _rows((0.5, 0.7), (0.9, 0.5), (0.9, 0.6), (0.975, 0.5))
    found = statistics.at_level(rows, level)
    assert found == (expected if expected is None else pytest.approx(expected))


def test_a_frontier_of_initial_scores_has_a_line_for_each_round(statistics):
    first = [row | {"round": 1} for row in _rows((0.5, 0.7), (0.875, 0.5))]
    second = [row | {"round": 2} for row in _rows((0.6, 0.7), (0.9, 0.2))]
    rows = [row | {"initial_score": 0.0} for row in first + second]
    assert statistics.at_level(rows, 0.75) == pytest.approx(0.6)
    assert statistics.at_level(rows, 0.9) == 0.2


def test_holm_multiplies_the_smallest_p_by_the_number_of_tests(statistics):
    assert statistics.holm([0.04, 0.001, None]) == [0.04, 0.002, None]
    assert statistics.holm([0.04, 0.03]) == [0.06, 0.06]
    assert statistics.holm([None]) == [None]


def test_pairs_are_tested_by_seed(statistics):
    first = {seed: 0.5 + 0.01 * seed for seed in range(8)}
    noise = [0.001, -0.001, 0.0, 0.002, -0.002, 0.001, 0.0, -0.001]
    second = {seed: first[seed] - 0.02 + noise[seed] for seed in first} | {9: 0.9}
    found = statistics.paired(first, second)
    assert found["seeds"] == 8
    assert found["mean"] == pytest.approx(2.0)
    assert found["interval"][0] < 2.0 < found["interval"][1]
    assert found["t"] < 1e-6 and found["wilcoxon"] < 0.01
    same = statistics.paired(first, first)
    assert (same["mean"], same["t"], same["effect"]) == (0.0, None, None)


def _summary(mean, low, high, holm, levels=()):
    ends = {"mean": mean, "interval": [low, high]}
    return {**ends, "holm": holm, "levels": levels, "seeds": 5}


def test_a_verdict_needs_the_corrected_test_and_the_claimed_size(statistics):
    claim = statistics.Claim("any", "a", "b")
    large = statistics.Claim("any", "a", "b", at_least=1.5)
    equal = statistics.Claim("any", "a", "b", at_least=-1.0)
    better = _summary(1.0, 0.5, 1.5, 0.01)
    assert claim.verdict(better) == ("seen", [])
    assert large.verdict(better) == ("not seen", [])
    assert claim.verdict(better | {"holm": 0.2}) == ("not seen", [])
    assert claim.verdict(better | {"seeds": 2}) == ("too few seeds", [])
    worse = _summary(-1.0, -1.5, -0.5, 0.01)
    assert claim.verdict(worse) == ("not seen", [])
    assert equal.verdict(worse) == ("not seen", [])
    assert equal.verdict(_summary(-0.2, -0.9, 0.5, 0.6)) == ("seen", [])
    some = worse | {"levels": [better | {"level": 0.98}, worse | {"level": 0.8}]}
    assert claim.verdict(some) == ("seen under conditions", [0.98])


def test_adjacent_weights_are_told_from_busy_positions(scripts):
    adjacency = scripts("mnist1d_masks").adjacency
    rng = np.random.default_rng(0)
    # Each unit looks at three positions side by side.
    local = np.zeros((40, 100))
    for unit, start in enumerate(rng.integers(0, 38, 100)):
        local[start : start + 3, unit] = 1
    found = adjacency(local, seed=0)
    assert found["pairs"]["found"] == 200
    assert found["pairs"]["p"] < 1e-3 and found["residual"]["p"] < 1e-3
    assert found["pairs"]["by_chance"] == pytest.approx(300 / 20, rel=0.1)
    shuffled = adjacency(local[rng.permutation(40)], seed=0)
    assert shuffled["pairs"]["p"] > 0.05
    # Positions in the middle are busy, but units choose among them at random.
    busy = np.exp(-0.5 * ((np.arange(40) - 20) / 5) ** 2)
    middle = (rng.random((40, 100)) < 0.5 * busy[:, None]).astype(float)
    found = adjacency(middle, seed=0)
    assert found["pairs"]["p"] < 1e-3
    assert found["residual"]["p"] > 0.01


@pytest.mark.matrix
def test_every_method_runs_and_is_summarized(tmp_path):
    pytest.importorskip("mnist1d")
    pytest.importorskip("scipy")
    script = [sys.executable, BENCHMARKS / "mnist1d_tickets.py", "--out", tmp_path]
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    quick = [*script, "--quick", "--no-sweep", "--seeds", "0"]
    for options in (quick, [*script, "--collect"]):
        subprocess.run(options, env=environment, check=True, timeout=1800)
    runs = [json.loads(path.read_text()) for path in tmp_path.glob("*-*.json")]
    assert len({run["method"] for run in runs}) == 21
    for run in runs:
        assert run["points"] and run["command"] and run["versions"], run["method"]
        for row in run["points"]:
            assert 0.0 <= row["test_accuracy"] <= 1.0
            assert row["sparsity"] + row["kept"] == pytest.approx(1.0)
    summary = json.loads((tmp_path / "summary.json").read_text())
    claims = {row["claim"] for row in summary["claims"]}
    assert {"tickets-beat-random", "kdlts-as-good-as-imp"} <= claims
    assert (tmp_path / "searches.png").exists()
