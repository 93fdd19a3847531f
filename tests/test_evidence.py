"""The tables of the guide "Which method should I use?", from results made up here."""

import importlib
import json
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.turns("jax")


@pytest.fixture
def evidence(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    return importlib.import_module("result_tables.evidence")


def point(evidence, test, method="IMP", setting="a", seed=0, kept=0.1, **more):
    given = {"epochs": 10, "val": 0.5, **more}
    nearest = evidence.nearest(kept)
    fields = ("data", method, setting, seed, kept, given["epochs"], given["val"], test)
    return evidence.Point(*fields, nearest=nearest)


@pytest.mark.parametrize(
    ("kept", "sparsity"),
    [(0.1, 0.9), (0.104, 0.9), (0.113, None), (0.05, 0.95), (0.478, 0.5), (1.0, None)],
)
def test_a_ticket_belongs_to_a_sparsity_only_if_its_weights_are_near(
    evidence, kept, sparsity
):
    assert evidence.nearest(kept) == sparsity


def test_a_setting_is_chosen_by_validation_and_seeds_never_by_test(evidence):
    rows = [
        *(point(evidence, 0.7, setting="low", seed=n, val=0.6) for n in (0, 1)),
        *(point(evidence, 0.9, setting="high", seed=n, val=0.5) for n in (0, 1)),
        point(evidence, 0.99, setting="once", val=0.55),
    ]
    [group] = evidence.chosen(rows, 0.9)
    assert (group.setting, group.seeds, group.test.mean) == ("low", 2, 0.7)
    # In the seed that all settings have, this one is better.
    once = point(evidence, 0.6, setting="once", val=0.65)
    [group] = evidence.chosen([*rows[:-1], once], 0.9)
    assert (group.setting, group.seeds) == ("once", 1)
    # Without a common seed, one seed says less than two.
    other = once._replace(seed=7)
    [group] = evidence.chosen([*rows[:-1], other], 0.9)
    assert (group.setting, group.seeds) == ("low", 2)
    unknown = [row._replace(val=None) for row in rows]
    assert len(evidence.chosen(unknown, 0.9)) == 3


def test_only_the_nearest_of_several_rounds_at_a_sparsity_counts(evidence):
    rows = [
        point(evidence, 0.7, kept=0.104, epochs=20),
        point(evidence, 0.8, kept=0.098, epochs=30),
    ]
    [group] = evidence.groups(rows)
    assert (group.epochs, group.test.mean) == (30, 0.8)


def test_a_fraction_of_weights_lies_around_two_points_or_at_one(evidence):
    line = [point(evidence, 0.8, kept=0.4), point(evidence, 0.6, kept=0.1)]
    high, low, share = evidence.around(line, 0.2)
    assert (high.kept, low.kept, share) == (0.4, 0.1, pytest.approx(0.5))
    for row in line:
        assert evidence.around(line, row.kept) == (row, row, 0.0)
    assert evidence.around(line, 0.41) is evidence.around(line, 0.09) is None


def test_a_sparsity_that_was_passed_over_is_interpolated(evidence):
    rows = [
        point(evidence, 0.8, kept=0.1 * 1.2, epochs=20, val=0.6),
        point(evidence, 0.7, kept=0.1 / 1.2, epochs=30, val=None),
        # Too far apart for one in between.
        point(evidence, 0.5, kept=0.01),
    ]
    *_, found = evidence.between(rows)
    assert len(evidence.between(rows)) == 4
    assert (found.nearest, found.epochs, found.val) == (0.9, 30, None)
    assert found.test == pytest.approx(0.75)
    there = [*rows, point(evidence, 0.9, kept=0.1)]
    assert evidence.between(there) == there
    # A ticket that was trained in another setting comes before one in between.
    there[-1] = there[-1]._replace(setting="b")
    assert evidence.between(there) == there
    assert len(evidence.between([*rows, there[-1]._replace(seed=1)])) == 5


def test_every_setting_with_several_seeds_on_mnist_is_compared(evidence, monkeypatch):
    metrics = {"val_accuracy": 0.9, "test_accuracy": 0.8}
    row = {"sparsity": 0.9, "search_epochs": 5, "dense": {"test_accuracy": 0.7}}
    rows = [
        row | {"label": "IMP", "trained": {"reset": metrics}},
        row | {"label": "UniLTH", "trained": {"kept": metrics, "reset": metrics}},
        row | {"label": "UniLTH, power 1", "trained": {"kept": metrics}},
    ]
    found = {"runs": [{"seed": 3, "rows": rows}]}
    monkeypatch.setattr(evidence, "exists", lambda name: name == "growing_mnist")
    monkeypatch.setattr(evidence, "load", lambda name: found)
    points = evidence.trained_on_mnist()
    assert [(p.method, p.setting, p.epochs, p.val) for p in points] == [
        ("IMP", "ERK densities", 13, 0.9),
        ("UniLTH", "weights kept", 13, 0.9),
        ("UniLTH", "reset", 13, 0.9),
    ]
    assert evidence.dense_of_mnist() == [0.7]


def test_mnist1d_is_what_its_page_reports(evidence, monkeypatch):
    values = {"0": 0.5, "1": 0.6}
    cell = {"epochs": 40, "values": values, "validation": {"0": 0.4, "1": 0.7}}
    rows = [("IMP", "init"), ("IMP", "1-epoch"), ("controls", "shuffled-masks")]
    rows.append(("IMP", "init-erk"))
    summary = {
        "epochs": 20,
        "dense": {"values": {"0": 0.7}},
        "chosen": {"dense": "usual"},
        "aside": ["1-epoch"],
        "frontier": [
            {"method": m, "setting": s, "levels": {"0.9": cell}} for m, s in rows
        ],
    }
    monkeypatch.setattr(evidence, "exists", lambda name: True)
    monkeypatch.setattr(evidence, "load", lambda name: summary)
    groups = evidence.groups(evidence.mnist1d())
    assert [(g.method, g.setting, g.seeds, g.val) for g in groups] == [
        ("dense", "usual", 1, None),
        ("IMP", "init", 2, pytest.approx(0.55)),
        ("IMP", "init-erk", 2, pytest.approx(0.55)),
    ]
    assert len(evidence.groups(evidence.mnist1d(every_setting=True))) == 4
    monkeypatch.setattr(evidence, "exists", lambda name: False)
    assert evidence.mnist1d() == []


def test_one_seed_is_not_called_the_best_beside_three(evidence, monkeypatch):
    choose = importlib.import_module("result_tables.choose")
    rows = [point(evidence, 0.8, "IMP", seed=n, epochs=60) for n in range(3)]
    rows += [point(evidence, 0.7 + 0.01 * n, "KDLTS", seed=n) for n in range(3)]
    rows.append(point(evidence, 0.9, "SNIP", epochs=1))
    for name in ("cifar10", "mnist", "mnist1d"):
        taken = rows if name == "mnist" else []
        monkeypatch.setattr(evidence, name, lambda taken=taken: taken)
    row = choose.choose_accuracy().splitlines()[2]
    assert "| [IMP](" in row and "not tested: [SNIP](" in row
    assert "SNIP" not in choose.choose_cheapest()
    # Of IMP alone there are three seeds.
    rows[:] = [each for each in rows if each.method != "KDLTS"]
    assert "| [SNIP](" in choose.choose_accuracy().splitlines()[2]


def test_methods_are_told_apart_by_the_interval_of_paired_differences(
    evidence, monkeypatch
):
    choose = importlib.import_module("result_tables.choose")
    rows = []
    for seed, noise in enumerate((0.0, 0.05, -0.05)):
        rows += [
            point(evidence, 0.80 + noise, "IMP", seed=seed),
            # The same difference in every seed, and one that varies.
            point(evidence, 0.79 + noise + 0.001 * seed, "KDLTS", seed=seed),
            point(evidence, 0.79, "SNIP", seed=seed),
        ]
    rows.append(point(evidence, 0.798, "DLTH", seed=1))
    for name in ("cifar10", "mnist", "mnist1d"):
        taken = rows if name == "cifar10" else []
        monkeypatch.setattr(evidence, name, lambda taken=taken: taken)
    table = choose.choose_accuracy().splitlines()
    assert len(table) == 3 and "[IMP](../methods/imp.md) (a) | 80.00 ± 5.00" in table[2]
    last = table[2].split("|")[-2]
    assert "SNIP" in last and "KDLTS" not in last
    assert "not tested: [DLTH](../methods/dlth.md) (a), 79.80 in one seed" in last
    assert choose.choose_cheapest().splitlines()[2].count("10") >= 2


def test_two_comparisons_have_no_seeds_in_common(evidence):
    def group(source, values):
        points = [point(evidence, x, seed=n) for n, x in enumerate(values)]
        return evidence.Group(tuple(p._replace(source=source) for p in points))

    values = (0.980, 0.982, 0.984), (0.976, 0.978, 0.980)
    first, second = (group(*pair) for pair in zip("ab", values, strict=True))
    # By SciPy 1.17, ttest_ind(*values, equal_var=False): 4 degrees of freedom.
    found = [round(end, 6) for end in second.behind(first)]
    assert found == [-0.000534, 0.008534]
    # In the same comparison each seed is 0.4 points behind.
    assert group("a", values[1]).behind(first) == pytest.approx((0.004, 0.004))
    # SciPy has 4.53 degrees of freedom and 0.000485 to 0.005215.
    first = group("a", (0.9812, 0.9829, 0.9807))
    low, high = group("b", (0.9781, 0.9803, 0.9776, 0.9790)).behind(first)
    assert 0.0003 < low < 0.000485 and 0.005215 < high < 0.0054
    assert evidence.welch(first.test, evidence.Mean.of([0.9])) is None
    same = evidence.Mean.of([0.5, 0.5])
    assert evidence.welch(same, same) == (0.0, 0.0)


def test_a_ticket_near_the_best_is_not_told_apart_and_not_far(evidence, monkeypatch):
    choose = importlib.import_module("result_tables.choose")
    noise = (0.0, 0.004, -0.004)
    rows = [point(evidence, 0.9 + x, "IMP", seed=n) for n, x in enumerate(noise)]
    accuracies = {
        # Their errors are larger by a twentieth and by a fifth.
        "near": [0.895 - x for x in noise],
        "far": [0.880 - 9 * x for x in noise],
        "told apart": [0.895 + x for x in noise],
    }
    # "Near" would not be the cheapest if one of the others were near as well.
    epochs = {"near": 4, "far": 3, "told apart": 2}
    for setting, values in accuracies.items():
        rows += [
            point(evidence, value, "KDLTS", setting, n, epochs=epochs[setting], val=0.4)
            for n, value in enumerate(values)
        ]
    for name in ("cifar10", "mnist", "mnist1d"):
        taken = rows if name == "mnist" else []
        monkeypatch.setattr(evidence, name, lambda taken=taken: taken)
    row = choose.choose_cheapest().splitlines()[2]
    assert "KDLTS](../methods/kdlts.md) (near) | 4 " in row
    # The setting that validation chose stands in the other table, here the first one.
    assert "(near)" in choose.choose_accuracy().splitlines()[2]


def test_a_lead_over_a_control_has_an_interval_from_two_seeds_on(evidence):
    choose = importlib.import_module("result_tables.choose")
    once = choose._ahead("data", 0.9, "random", [0.8], [0.7])
    assert once[3:] == ["+10.00", "", "**one seed**"]
    twice = choose._ahead("data", 0.9, "random", [0.8, 0.8], [0.7, 0.72])
    assert twice[3:] == ["+9.00", "-3.71 to +21.71", 2]


@pytest.mark.matrix
@pytest.mark.on("tensorflow")
def test_the_comparison_on_cifar10_runs_and_goes_on_where_it_stopped(tmp_path):
    script = [sys.executable, str(ROOT / "benchmarks" / "cifar10.py"), "--quick"]
    script += ["--epochs", "3", "--seeds", "0"]
    script += ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]
    part = ["--only", "dense-recipe", "IMP-late", "ContinuousSparsification-high-score"]
    subprocess.run([*script, *part], check=True)
    read = {p.name: json.loads(p.read_text()) for p in (tmp_path / "out").iterdir()}
    dense, imp = read["dense-recipe-0.json"], read["IMP-late-0.json"]
    assert dense["complete"] and len(dense["points"]) == 1
    assert [round(p["kept"], 2) for p in imp["points"]] == [0.5, 0.2, 0.1, 0.05]
    # One epoch each, after two that are those of the dense network.
    assert [p["epochs"] for p in imp["points"]] == [4, 5, 6, 7]
    assert imp["epochs"] == {"search": 6, "final": 1}
    costs = [p["training_flops"] for p in imp["points"]]
    assert (
        costs == sorted(costs) and costs[0] < 2 * dense["points"][0]["training_flops"]
    )
    # A lost file is written again from the trainings, and no epoch is trained twice.
    (tmp_path / "out" / "IMP-late-0.json").unlink()
    logs = sorted((tmp_path / "work").rglob("epochs.json"))
    times = [log.stat().st_mtime_ns for log in logs]
    subprocess.run([*script, *part], check=True)
    again = json.loads((tmp_path / "out" / "IMP-late-0.json").read_text())
    assert again["points"] == imp["points"]
    assert times == [log.stat().st_mtime_ns for log in logs]
    status = subprocess.run([*script, "--status"], capture_output=True, check=True)
    assert "IMP-late-0: 4 of 4 epochs" in status.stdout.decode()


@pytest.mark.matrix
@pytest.mark.on("tensorflow")
def test_points_of_a_machine_that_is_gone_are_kept_if_nothing_depends_on_them(tmp_path):
    script = [sys.executable, str(ROOT / "benchmarks" / "cifar10.py"), "--quick"]
    script += ["--epochs", "3", "--seeds", "0", "--only", "narrow-width"]
    script += ["--work", str(tmp_path / "work"), "--out", str(tmp_path)]
    subprocess.run(script, check=True)
    file = tmp_path / "narrow-width-0.json"
    whole = json.loads(file.read_text())
    partial = whole | {"complete": False, "points": whole["points"][:3]}
    for point in partial["points"]:
        point["made"] = point["made"] | {"date": "2001-02-03"}
    partial["by_epoch"] = {k: v for k, v in whole["by_epoch"].items() if k[-2:] != "95"}
    file.write_text(json.dumps(partial))
    shutil.rmtree(tmp_path / "work")
    status = subprocess.run([*script, "--status"], capture_output=True, check=True)
    assert "narrow-width-0: 9 of 12 epochs" in status.stdout.decode()
    subprocess.run(script, check=True)
    again = json.loads(file.read_text())
    dates = [point["made"]["date"] for point in again["points"]]
    assert (
        dates[:3] == ["2001-02-03"] * 3
        and dates[3] == whole["points"][3]["made"]["date"]
    )
    folders = [path.name for path in (tmp_path / "work" / "seed0").iterdir()]
    assert folders == ["narrow-95"]
    assert again["complete"] and len(again["points"]) == 4
    assert again["points"][:3] == partial["points"]
    assert again["epochs"] == whole["epochs"] == {"search": 0, "final": 3}
    assert set(again["by_epoch"]) == set(whole["by_epoch"])
    # Neither a file nor a training of another command is taken for this one's.
    other = subprocess.run(
        [*script, "--threads", "2"], capture_output=True, text=True, check=False
    )
    assert other.returncode and "is of another command" in other.stderr
    made = tmp_path / "work" / "seed0" / "narrow-95" / "made.json"
    made.write_text(json.dumps(json.loads(made.read_text()) | {"xla": False}))
    file.unlink()
    other = subprocess.run(script, capture_output=True, text=True, check=False)
    assert other.returncode and "was begun with xla=False" in other.stderr
    own = [word for word in script if word != str(tmp_path)]
    own.remove("--out")
    other = subprocess.run(own, capture_output=True, text=True, check=False)
    assert other.returncode and "--quick needs" in other.stderr
