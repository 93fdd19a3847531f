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


def test_a_frontier_of_several_searches_has_a_line_for_each_round(statistics):
    first = [row | {"round": 1} for row in _rows((0.5, 0.7), (0.875, 0.5))]
    second = [row | {"round": 2} for row in _rows((0.6, 0.7), (0.9, 0.2))]
    for varied in ("initial_score", "penalty"):
        rows = [row | {varied: 0.0} for row in first + second]
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


def _values(*differences):
    return {seed: 0.5 + x / 100 for seed, x in enumerate(differences)}


def test_a_difference_is_tested_from_one_side_against_what_is_claimed(statistics):
    first, second = _values(0.9, 1.0, 1.1), _values(0, 0, 0)
    above = {x: statistics.paired(first, second, x)["above"] for x in (-1, 0, 1, 1.5)}
    assert above[-1] < above[0] < 0.01
    assert above[1] == pytest.approx(0.5, abs=1e-6) and above[1.5] > 0.98
    lower = statistics.paired(second, first, 0.0)
    assert lower["above"] > 0.99 and lower["t"] < 0.01
    # Hedges' factor with three seeds is 4/7.
    assert statistics.paired(first, second)["effect"] == pytest.approx(5.71, abs=0.01)


def test_a_verdict_needs_the_corrected_test_and_three_seeds(statistics):
    claim = statistics.Claim("any", "a", "b")
    row = {"holm": 0.01, "holm_below": 1.0, "levels": [], "seeds": 5}
    assert claim.verdict(row) == ("seen", [], [])
    assert claim.verdict(row | {"seeds": 2}) == ("too few seeds", [], [])
    levels = [
        {"holm": 0.04, "holm_below": 1.0, "level": 0.98},
        {"holm": None, "holm_below": None, "level": 0.8},
        {"holm": 1.0, "holm_below": 0.04, "level": 0.5},
    ]
    some = row | {"holm": 0.2, "levels": levels}
    assert claim.verdict(some) == ("seen under conditions", [0.98], [0.5])
    assert claim.verdict(row | {"levels": levels}) == ("seen", [0.98], [0.5])
    assert claim.verdict(row | {"holm": None}) == ("not seen", [], [])
    lower = {"holm": 1.0, "holm_below": 0.01}
    assert claim.verdict(row | lower) == ("contradicted", [], [])
    assert claim.verdict(some | lower) == ("seen under conditions", [0.98], [0.5])


def test_all_claims_and_sparsities_are_one_family(statistics, monkeypatch):
    class Tested(statistics.Claim):
        def test(self, runs):
            levels = [
                {"level": 0.8, "above": 0.012, "below": 0.988},
                {"level": 0.9, "above": 0.5, "below": 0.5},
            ]
            return {"above": 0.03, "below": 0.97, "seeds": 3, "levels": levels}

        def variants(self, runs):
            return []

    claims = [Tested(name, "a", "b") for name in ("one", "two")]
    monkeypatch.setattr(statistics, "CLAIMS", claims)
    one, two = statistics.tested(None)
    # Two claims, and four sparsities of both.
    assert one["holm"] == two["holm"] == 0.06
    assert [row["holm"] for row in one["levels"]] == [0.048, 1.0]
    assert one["verdict"] == "seen under conditions" and one["where"] == [0.8]


def test_claims_are_tested_with_every_setting_that_was_not_chosen(
    statistics, tmp_path, monkeypatch
):
    accuracies = {
        "IMP-init": 0.60,
        "IMP-init-erk": 0.63,
        "IMP-1-epoch": 0.64,
        "random-erk": 0.61,
        "random-uniform": 0.50,
    }
    for name, accuracy in accuracies.items():
        method, _, setting = name.partition("-")
        for seed in range(3 if name != "random-uniform" else 2):
            points = _rows((0.8, accuracy + 0.001 * seed), (0.9, accuracy))
            run = {"method": method, "setting": setting, "seed": seed}
            (tmp_path / f"{name}-{seed}.json").write_text(
                json.dumps(run | {"points": points})
            )
    runs = statistics.Runs(tmp_path)
    monkeypatch.setattr(runs, "chosen", {"IMP": "init-erk", "random": "erk"}.get)
    claims = [
        statistics.Claim("beats", "IMP", "random", (0.8, 0.9)),
        statistics.Claim("fixed", "IMP 1-epoch", "random erk", (0.8, 0.9)),
        statistics.Claim(
            "also", "IMP init", "random erk", (0.8,), also=["IMP 1-epoch"]
        ),
    ]
    beats, fixed, also = statistics.tested(runs, claims)
    assert beats["first"] == "IMP init-erk" and beats["mean"] == pytest.approx(2.0)
    # Neither a setting that starts later, nor one that lacks a seed.
    [other] = beats["others"]
    assert (other["first"], other["second"]) == ("IMP init", "random erk")
    assert other["mean"] == pytest.approx(-1.0) and beats["mean"] == pytest.approx(2.0)
    assert fixed["others"] == []
    assert [row["first"] for row in also["others"]] == ["IMP 1-epoch"]


def test_claims_are_tested_on_the_runs_of_cifar10_too(scripts, tmp_path, monkeypatch):
    pytest.importorskip("scipy")
    claims = scripts("cifar10_claims")
    accuracies = {
        "IMP init": lambda seed: (0.750, 0.740, 0.72 + 0.01 * seed),
        "random erk": lambda seed: (0.700, 0.650, 0.60 - 0.01 * seed),
        "dense recipe": lambda seed: (0.745,),
    }
    for name, values in accuracies.items():
        method, setting = name.split()
        sparsities = (0.0,) if method == "dense" else (0.5, 0.8, 0.95)
        for seed in range(2 if method == "dense" else 3):
            pairs = zip(sparsities, values(seed), strict=True)
            run = {"method": method, "setting": setting, "seed": seed}
            file = tmp_path / f"{method}-{setting}-{seed}.json"
            file.write_text(json.dumps({**run, "points": _rows(*pairs)}))
    run = {"method": "ContinuousSparsification", "setting": "low-score", "seed": 0}
    run |= {"points": _rows((0.65, 0.76), (0.97, 0.5)), "complete": True}
    (tmp_path / "ContinuousSparsification-low-score-0.json").write_text(json.dumps(run))
    (tmp_path / "plan.json").write_text("{}")
    monkeypatch.setattr(sys, "argv", ["cifar10_claims.py", "--results", str(tmp_path)])
    claims.main()
    content = json.loads((tmp_path / "summary.json").read_text())
    found = {row["claim"]: row for row in content["claims"]}
    assert list(found) == [
        "tickets-beat-random",
        "tickets-as-good-as-dense",
        "tickets-beat-dense",
        "cs-above-imp",
    ]
    # At 65 % IMP is between its tickets; at 97 % it has none.
    cs = found["cs-above-imp"]
    share = np.log(0.5 / 0.35) / np.log(0.5 / 0.2)
    assert cs["mean"] == pytest.approx(100 * (0.76 - (0.75 - 0.01 * share)), abs=1e-3)
    assert (cs["verdict"], cs["sparsities"]) == ("too few seeds", [0.65])
    random = found["tickets-beat-random"]
    assert (random["verdict"], random["seeds"]) == ("seen", 3)
    # 9 and 14 points at 80 and 95 % in the middle seed; 90 % is halfway between them
    # in the logarithm of the weights that are left.
    assert random["levels"][0]["mean"] == pytest.approx(9.0)
    assert [row["level"] for row in random["levels"]] == [0.8, 0.9, 0.95]
    assert random["levels"][1]["mean"] == pytest.approx(11.5)
    assert random["mean"] == pytest.approx((9 + 11.5 + 14) / 3, abs=1e-3)
    dense = found["tickets-beat-dense"]
    assert dense["verdict"] == "too few seeds"
    assert dense["mean"] == pytest.approx(0.0, abs=1e-9)


def test_of_several_scores_only_those_with_the_most_seeds_are_compared(
    scripts, tmp_path
):
    claims = scripts("cifar10_claims")
    scores = {"low-score": (0, 1, 2), "high-score": (0,)}
    for setting, seeds in scores.items():
        for seed in seeds:
            run = {"method": "ContinuousSparsification", "setting": setting}
            run |= {"seed": seed, "points": _rows((0.5, 0.7)), "complete": True}
            (tmp_path / f"CS-{setting}-{seed}.json").write_text(json.dumps(run))

    def write(seed, complete=True):
        run.update(setting="high-score", seed=seed, complete=complete)
        (tmp_path / f"CS-high-score-{seed}.json").write_text(json.dumps(run))

    def counted(name):
        return {s: len(p) for s, p in claims.CifarRuns(tmp_path).of(name).items()}

    assert counted("ContinuousSparsification") == {0: 1, 1: 1, 2: 1}
    assert counted("ContinuousSparsification high-score") == {0: 1}
    name = claims.CifarRuns(tmp_path).full_name("ContinuousSparsification")
    assert name == "ContinuousSparsification low-score"
    # As many seeds, but not the same ones; and a run that is not complete.
    write(1)
    write(7)
    assert counted("ContinuousSparsification") == {0: 1, 1: 1, 2: 1}
    (tmp_path / "CS-high-score-7.json").unlink()
    write(2, complete=False)
    assert counted("ContinuousSparsification") == {0: 1, 1: 1, 2: 1}
    write(2)
    assert counted("ContinuousSparsification") == {0: 2, 1: 2, 2: 2}
    name = claims.CifarRuns(tmp_path).full_name("ContinuousSparsification")
    assert name == "ContinuousSparsification"


def test_a_sparsity_between_two_searches_costs_both(statistics):
    rows = [
        {"sparsity": s, "val_accuracy": 0.5, "epochs": e, "round": n} | more
        for s, e, n, more in (
            (0.5, 40, 1, {"penalty": 1e-5}),
            (0.9, 40, 1, {"penalty": 1e-4}),
        )
    ]
    assert [statistics.spent_at(rows, x) for x in (0.5, 0.8, 0.99)] == [40, 80, None]
    for row in rows:
        del row["penalty"]
    rows[1]["epochs"] = 60
    assert statistics.spent_at(rows, 0.8) == 60
    assert statistics.whole("UniLTH", rows) == 80
    assert statistics.whole("DLTH", rows) == 100
    assert statistics.whole("IMP", rows) == 60


def test_late_tickets_train_only_what_is_left(scripts):
    terms = scripts("mnist1d_tickets").Terms(0)
    lengths = {}
    for moment in ("init", "1 epochs", "7 steps"):
        terms.start_at(moment)
        lengths[moment] = terms.final
    assert lengths == {"init": 20, "1 epochs": 19, "7 steps": 20}


def test_moved_masks_keep_the_weights_of_each_unit(scripts):
    import tf_tickets as tt

    masks = {"fc1/kernel": np.eye(6, 4) > 0, "fc2/kernel": np.ones((4, 2), bool)}
    ticket = tt.Ticket(masks)
    moved = scripts("mnist1d_masks").moved(ticket, seed=1)
    first = moved.masks["fc1/kernel"]
    assert first.sum(0).tolist() == [1, 1, 1, 1]
    assert not np.array_equal(first, masks["fc1/kernel"])
    assert np.array_equal(moved.masks["fc2/kernel"], masks["fc2/kernel"])


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
    assert len({run["method"] for run in runs}) == 22
    for run in runs:
        assert run["points"] and run["command"] and run["versions"], run["method"]
        for row in run["points"]:
            assert 0.0 <= row["test_accuracy"] <= 1.0
            assert row["sparsity"] + row["kept"] == pytest.approx(1.0)
    summary = json.loads((tmp_path / "summary.json").read_text())
    claims = {row["claim"] for row in summary["claims"]}
    assert {"tickets-beat-random", "kdlts-as-good-as-imp"} <= claims
    assert (tmp_path / "searches.png").exists()
