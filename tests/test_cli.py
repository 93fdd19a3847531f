"""The command line, as a user types it, on a few digits."""

import json

import keras
import pytest

from tf_tickets import cli, methods

FEW = ["--take", "64", "--epochs", "1", "--batch-size", "32", "--width", "0.1"]


# The searches themselves are tested on both backends.
on_tensorflow = pytest.mark.on("tensorflow")
on_jax = pytest.mark.on("jax")


@pytest.fixture
def no_fit(monkeypatch):
    return lambda: monkeypatch.setattr(keras.Model, "fit", None)


@on_tensorflow
def test_the_frontier_of_all_methods_is_printed_kept_and_not_trained_twice(
    tmp_path, capsys, no_fit
):
    out = tmp_path / "frontier"
    command = ["frontier", *FEW, "--rounds", "2", "--scores", "-0.1", "0.1"]
    command += ["--methods", "cs", "iss", "imp", "--out", str(out)]
    assert cli.main(command) == 0
    printed = capsys.readouterr().out
    kept = json.loads((out / "frontier.json").read_text())
    labels = [point["label"] for point in kept["points"]]
    scores = ["cs initial_score=-0.1", "cs initial_score=0.1"]
    assert labels == [*scores, *["iss"] * 2, *["imp"] * 2]
    assert all(label in printed for label in [*scores, "iss", "imp", "dense"])
    assert (out / "frontier.png").stat().st_size > 1000
    no_fit()
    assert cli.main(command) == 0
    assert capsys.readouterr().out == printed


@on_jax
# One epoch is too short for a stage one that stops early.
@pytest.mark.filterwarnings("ignore:.*was never without improvement:UserWarning")
def test_growing_penalties_and_thresholds_are_on_the_frontier_too(tmp_path, capsys):
    out = tmp_path / "frontier"
    methods = ["dlth", "unilth", "unidlth", "threshold"]
    command = ["frontier", *FEW, "--rounds", "2", "--methods", *methods]
    assert cli.main([*command, "--out", str(out)]) == 0
    points = json.loads((out / "frontier.json").read_text())["points"]
    assert [point["label"] for point in points] == [m for m in methods for _ in "12"]
    sparsity = {(p["label"], p["round"]): p["sparsity"] for p in points}
    left = capsys.readouterr().out
    assert all(method in left for method in methods)
    for method in methods[:3]:
        # The recipe prunes 20 % a round, and 10 % of the last layer.
        assert sparsity[method, 1] == pytest.approx(0.2, abs=0.01)
        assert sparsity[method, 2] == pytest.approx(0.36, abs=0.01)


@on_jax
def test_methods_that_come_to_one_sparsity_have_a_search_for_each(tmp_path, capsys):
    out = tmp_path / "frontier"
    methods = ["kdlts", "snip", "synflow"]
    command = ["frontier", *FEW, "--methods", *methods, "--sparsities", "0.8", "0.9"]
    assert cli.main([*command, "--out", str(out)]) == 0
    points = json.loads((out / "frontier.json").read_text())["points"]
    found = {(p["label"], round(p["sparsity"], 3)): p for p in points}
    expected = {(f"{m} final_sparsity={s}", s) for m in methods for s in (0.8, 0.9)}
    assert set(found) == expected
    # One epoch of search, and three teachers of one epoch each.
    costs = {label.split()[0]: p["search_epochs"] for (label, _), p in found.items()}
    assert costs == {"kdlts": 4, "snip": 0, "synflow": 0}
    assert len(list((out / "teachers").glob("*.npz"))) == 3
    printed = capsys.readouterr().out
    assert all(label in printed for label, _ in expected)


def test_a_search_its_report_and_a_comparison(tmp_path, capsys):
    out = tmp_path / "search"
    command = ["search", *FEW, "--rounds", "2", "--no-controls", "--out", str(out)]
    assert cli.main(command) == 0
    assert "Best: round" in capsys.readouterr().out
    first, second = (str(out / f"round_0{number}.ticket") for number in (1, 2))
    assert cli.main(["report", first]) == 0
    assert "sparsity" in capsys.readouterr().out
    assert cli.main(["compare", first, second]) == 0
    assert "kept in both" in capsys.readouterr().out


@pytest.mark.parametrize(
    "command, message",
    [
        (["frontier", "--model", "lenet"], "Unknown network. Received: 'lenet'"),
        (["frontier", "--scores", "nan", *FEW, "--rounds", "3"], "must be finite"),
        (
            ["frontier", "--model", "resnet20", "--methods", "imp", "unilth", *FEW],
            "Method 'unilth': ",
        ),
        (["search", "--dataset", "there.npz"], "there.npz"),
        (["report", "there.ticket"], "there.ticket"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(tmp_path, capsys, command, message):
    out = [] if command[0] == "report" else ["--out", str(tmp_path / "a")]
    assert cli.main([*command, *out]) == 2
    error = capsys.readouterr().err
    assert error.startswith("tf-tickets: ") and message in error


def test_it_offers_every_method():
    """Named without importing them, which would take as long as a search's start."""
    assert cli._FRONTIER_OPTIONS["--methods"]["choices"] == methods.NAMES


@pytest.mark.parametrize("command", [["frontier", "--methods", "obd"], ["serve"]])
def test_unknown_words_end_with_the_usage(capsys, command):
    with pytest.raises(SystemExit):
        cli.main(command)
    assert "invalid choice" in capsys.readouterr().err
