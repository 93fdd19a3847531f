"""Runs the command line as a user would, on a few digits."""

import io
import json
import os
import re
import shutil
import sys
import zipfile

import keras
import numpy as np
import pytest
import tiny

import tf_tickets as tt
from tf_tickets_cli import main, methods, progress
from tf_tickets_cli.settings import Setting

FEW = ["--take", "64", "--epochs", "1", "--batch-size", "32", "--width", "0.1"]


# The searches themselves are tested on both backends elsewhere.
on_tensorflow = pytest.mark.on("tensorflow")
on_jax = pytest.mark.on("jax")


@pytest.fixture
def no_fit(monkeypatch):
    return lambda: monkeypatch.setattr(keras.Model, "fit", None)


def run_frontier(out, capsys, rounds, methods, scores):
    """Runs a comparison, then again without training; returns what it printed."""
    command = ["frontier", *FEW, "--rounds", str(rounds), "--scores", *scores]
    command += ["--methods", *methods, "--out", str(out)]
    assert main.main(command) == 0
    first = capsys.readouterr().out
    printed = first[first.index("search  ") :]
    kept = json.loads((out / "frontier.json").read_text())
    labels = [point["label"] for point in kept["points"]]
    cs = [f"cs initial_score={score}" for score in scores]
    others = [method for method in methods if method != "cs"]
    assert labels == [label for label in (*cs, *others) for _ in range(rounds)]
    assert all(label in printed for label in [*cs, *others, "dense"])
    assert (out / "frontier.png").stat().st_size > 1000
    return command, first, printed


@on_jax
def test_a_frontier_is_printed_kept_and_not_trained_twice(tmp_path, capsys, no_fit):
    out = tmp_path / "frontier"
    command, first, printed = run_frontier(out, capsys, 1, ["cs"], ["0.1"])
    # The progress lines of the trainings.
    assert "cs initial_score=0.1  epoch 1/1  round 1" in first
    assert "cs initial_score=0.1 round 1  epoch 1/1  val_accuracy" in first
    no_fit()
    assert main.main(command) == 0
    again = capsys.readouterr().out
    assert again.endswith(printed) and "epoch" not in again.removesuffix(printed)


@pytest.mark.matrix
def test_the_frontier_of_all_methods_is_printed_kept_and_not_trained_twice(
    tmp_path, capsys, no_fit
):
    out = tmp_path / "frontier"
    methods, scores = ["cs", "iss", "imp"], ["-0.1", "0.1"]
    command, first, printed = run_frontier(out, capsys, 2, methods, scores)
    assert "cs initial_score=0.1, 2 of 4  epoch 2/2  round 2" in first
    assert "\niss, 3 of 4  epoch 2/2  round 2" in first
    assert "iss round 2, 3 of 4  epoch 1/1  val_accuracy" in first
    no_fit()
    assert main.main(command) == 0
    again = capsys.readouterr().out
    assert again.endswith(printed) and "epoch" not in again.removesuffix(printed)


PRESSING = [["unilth", "threshold"], ["dlth", "unilth", "unidlth", "threshold"]]


@on_jax
# One epoch is too short for stage one to stop early.
@pytest.mark.filterwarnings("ignore:.*without improvement:UserWarning")
@pytest.mark.parametrize("methods", tiny.marked(PRESSING, PRESSING[:1]))
def test_growing_penalties_and_thresholds_are_on_the_frontier_too(
    methods, tmp_path, capsys
):
    out = tmp_path / "frontier"
    command = ["frontier", *FEW, "--rounds", "2", "--methods", *methods]
    assert main.main([*command, "--out", str(out)]) == 0
    points = json.loads((out / "frontier.json").read_text())["points"]
    assert [point["label"] for point in points] == [m for m in methods for _ in "12"]
    sparsity = {(p["label"], p["round"]): p["sparsity"] for p in points}
    left = capsys.readouterr().out
    assert all(method in left for method in methods)
    for method in methods[:-1]:
        # The recipe prunes 20 % a round, and 10 % of the last layer.
        assert sparsity[method, 1] == pytest.approx(0.2, abs=0.01)
        assert sparsity[method, 2] == pytest.approx(0.36, abs=0.01)


ONE_TICKET = [["snip"], ["kdlts", "snip"], ["grasp", "synflow"]]


@on_jax
@pytest.mark.parametrize("methods", tiny.marked(ONE_TICKET, ONE_TICKET[:1]))
def test_methods_that_come_to_one_sparsity_have_a_search_for_each(
    methods, tmp_path, capsys
):
    out = tmp_path / "frontier"
    command = ["frontier", *FEW, "--methods", *methods, "--sparsities", "0.8", "0.9"]
    assert main.main([*command, "--out", str(out)]) == 0
    points = json.loads((out / "frontier.json").read_text())["points"]
    actual = {(p["label"], round(p["sparsity"], 3)): p for p in points}
    expected = {(f"{m} final_sparsity={s}", s) for m in methods for s in (0.8, 0.9)}
    assert set(actual) == expected
    # One epoch of search, and three teachers of one epoch each.
    taught = "kdlts" in methods
    costs = {label.split()[0]: p["search_epochs"] for (label, _), p in actual.items()}
    assert costs == {method: 4 * (method == "kdlts") for method in methods}
    assert len(list((out / "teachers").glob("*.npz"))) == 3 * taught
    printed = capsys.readouterr().out
    assert all(label in printed for label, _ in expected)
    assert ("teacher 3  epoch 1/1" in printed) == taught


@on_tensorflow
def test_a_search_its_report_and_a_comparison(tmp_path, capsys):
    out = tmp_path / "search"
    command = ["search", *FEW, "--rounds", "2", "--no-controls", "--out", str(out)]
    assert main.main(command) == 0
    printed = capsys.readouterr().out
    assert "\nTicket, dense network and controls: test accuracy.\n" in printed
    assert (out / "table.txt").read_text() in printed
    assert "kept: round" in printed or "Best: round" in printed
    first, second = (str(out / f"round_0{number}.ticket") for number in (1, 2))
    assert main.main(["report", first]) == 0
    assert "sparsity" in capsys.readouterr().out
    assert main.main(["compare", first, second]) == 0
    assert "kept in both" in capsys.readouterr().out
    assert main.main(command) == 0
    assert "This search is complete, nothing was trained." in capsys.readouterr().out


@on_jax
def test_a_ticket_is_trained_once_and_written_as_a_plain_model(tmp_path, capsys):
    out, trained = tmp_path / "search", tmp_path / "trained.keras"
    command = ["search", *FEW, "--rounds", "1", "--no-controls", "--out", str(out)]
    assert main.main(command) == 0
    command = ["train", str(out / "best.ticket"), *FEW, "--out", str(trained)]
    assert main.main(command) == 0
    printed = capsys.readouterr().out
    assert "ticket  epoch 1/1" in printed and "test_accuracy" in printed
    written, result = (
        keras.saving.load_model(f) for f in (trained, out / "model.keras")
    )
    for one, other in zip(written.weights, result.weights, strict=True):
        np.testing.assert_array_equal(one, other)
    assert main.main(command) == 2
    assert "trained.keras exists already" in capsys.readouterr().err


@on_jax
def test_without_matplotlib_there_are_results_and_a_note(
    tmp_path, capsys, monkeypatch, no_fit
):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    out = tmp_path / "search"
    command = ["search", *FEW, "--rounds", "1", "--no-controls", "--out", str(out)]
    assert main.main(command) == 0
    printed = capsys.readouterr().out
    assert "curve.png was not drawn. " in printed and "round 1, sparsity" in printed
    assert (out / "table.txt").exists() and not (out / "curve.png").exists()
    monkeypatch.undo()
    no_fit()
    assert main.main(command) == 0
    assert (out / "curve.png").stat().st_size > 1000


@on_jax
@pytest.mark.filterwarnings("default:.*was not drawn")
def test_a_frontier_without_matplotlib_is_printed_too(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    command = ["frontier", *FEW, "--rounds", "1", "--methods", "imp"]
    assert main.main([*command, "--out", str(tmp_path / "f")]) == 0
    printed = capsys.readouterr()
    assert "frontier.png was not drawn. " in printed.err
    assert "matplotlib" in printed.err
    assert printed.err.startswith("tf-tickets: warning: ")
    assert "search epochs" in printed.out


def test_ctrl_c_says_how_to_resume_what_can_be_resumed(tmp_path, capsys, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(keras.Model, "fit", interrupt)
    monkeypatch.setattr(tt.Ticket, "load", interrupt)
    assert main.main(["search", *FEW, "--out", str(tmp_path / "s")]) == 130
    said = "Interrupted. Run the same command again to resume."
    assert capsys.readouterr().err == f"\ntf-tickets: {said}\n"
    assert main.main(["report", "some.ticket"]) == 130
    assert capsys.readouterr().err == "\ntf-tickets: Interrupted.\n"


@pytest.mark.parametrize(
    "command, message",
    [
        (["frontier", "--scores", "nan", *FEW, "--rounds", "3"], "a finite number"),
        pytest.param(
            ["frontier", "--model", "resnet20", "--methods", "imp", "unilth", *FEW],
            "Method 'unilth': ",
            marks=on_tensorflow,
        ),
        (["search", "--data", "there.npz"], "there.npz"),
        (["search", "--dataset", "there.npz"], "there.npz"),
        (["search", "--model", "le"], "--model: unknown network. Received: 'le'"),
        (["search", "--data", "le"], "--data: unknown data. Received: 'le'"),
        (["report", "there.ticket"], "there.ticket"),
        (["export", "there.keras", "model.tflite"], "there.keras"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(tmp_path, capsys, command, message):
    out = [] if command[0] in ("report", "export") else ["--out", str(tmp_path / "a")]
    assert main.main([*command, *out]) == 2
    error = capsys.readouterr().err
    assert error.startswith("tf-tickets: ") and message in error
    with pytest.raises((ValueError, OSError), match=re.escape(message)):
        main.main([*command, *out, "--traceback"])


@pytest.mark.parametrize("structure, limit", [("2:4", 0.5), ("4x1", None)])
def test_a_search_ends_where_the_structure_allows_no_more(structure, limit):
    options = {"take": 50, "rounds": 9, "structure": structure}
    search = methods.imp(Setting("digits", "lenet300", options=options))
    assert search.structure == tt.structures.get(structure)
    assert search.stop_at == limit


def test_a_target_prunes_channels_in_place_of_a_rate():
    options = {"take": 50, "rounds": 2, "target": "params=0.4"}
    search = methods.imp(Setting("digits", "lenet300", options=options))
    assert search.target == {"params": 0.4} and search.stop_at is None
    assert search.structure == tt.Channels() and search.rate == tt.IMP().rate


@pytest.mark.matrix
def test_a_search_for_a_fraction_of_the_multiply_adds(tmp_path, capsys):
    out = tmp_path / "search"
    command = ["search", *FEW, "--rounds", "2", "--target", "macs=0.5", "--no-controls"]
    assert main.main([*command, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "round  sparsity  kept weights    MACs  ticket" in printed
    rows = json.loads((out / "results.json").read_text())["rows"]
    ticket = tt.Ticket.load(out / "round_02.ticket")
    assert ticket.structure == tt.Channels()
    for row, limit in zip(rows, (0.5**0.5, 0.5), strict=True):
        assert limit - 0.05 < row["macs"] <= limit
        assert f"{row['macs']:.2%}" in printed
    small, report = tt.compact(
        ticket.apply(tt.models.lenet300((8, 8, 1), width=0.1)), return_report=True
    )
    assert report.compact.macs / report.dense.macs == rows[-1]["macs"]
    assert (
        report.compact.params / report.dense.params
        == (ticket.provenance["remaining"]["params"])
    )
    # It is complete: the same command prints the same table.
    assert main.main([*command, "--out", str(out)]) == 0
    assert f"{rows[-1]['macs']:.2%}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options, words",
    [
        (["--target", "0.5"], ["`target` must be macs=F", "'0.5'"]),
        (["--target", "macs=half"], ["`target` must be macs=F", "macs=half"]),
        (["--target", "flops=0.5"], ["'macs' or 'params'", "flops"]),
        (["--target", "macs=50"], ["fraction that remains", "50"]),
        (["--target", "macs=0.5", "--rate", "0.3"], ["`target` replaces `rate`"]),
        (["--target", "macs=0.5", "--structure", "2:4"], ["requires", "'channels'"]),
    ],
)
def test_targets_that_a_search_cannot_have_are_refused(
    tmp_path, capsys, options, words
):
    refused(capsys, ["search", *FEW, *options, "--out", tmp_path / "a"], *words)


@pytest.mark.matrix
@pytest.mark.parametrize("structure", ["2:4", "4x1", "channels"])
def test_a_search_with_a_structure(tmp_path, structure):
    out = tmp_path / "search"
    command = ["search", *FEW, "--rounds", "3", "--structure", structure]
    assert main.main([*command, "--out", str(out)]) == 0
    ticket = tt.Ticket.load(out / "best.ticket")
    assert ticket.structure == tt.structures.get(structure)


def refused(capsys, command, *words):
    """Checks that a command ends with one line that has all the words."""
    assert main.main([str(word) for word in command]) == 2
    error = capsys.readouterr().err
    assert error.startswith("tf-tickets: ") and error.count("\n") == 1
    assert [word for word in words if word not in error] == []


@pytest.mark.parametrize(
    "option, value",
    [
        ("batch-size", 0),
        ("batch-size", -1),
        ("width", 1e9),
        ("width", 0),
        ("width", "nan"),
        ("width", "inf"),
        ("take", 0),
        ("epochs", 0),
        ("rounds", 0),
        ("seed", -1),
        ("structure", "4:2"),
    ],
)
def test_an_option_out_of_range_is_named(tmp_path, capsys, option, value):
    command = ["search", *FEW, "--out", tmp_path / "a", f"--{option}={value}"]
    named = {"structure": "`n` must be less than `m`"}.get(option)
    refused(capsys, command, named or option.replace("-", "_"), "Received: ")
    assert not (tmp_path / "a").exists()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The folder of a complete search of one round with controls."""
    out = tmp_path_factory.mktemp("found") / "search"
    assert main.main(["search", *FEW, "--rounds", "1", "--out", str(out)]) == 0
    return out


@on_jax
def test_learned_masks_take_the_given_rounds_and_have_a_sparsity_when_a_round_ends(
    tmp_path, capsys, monkeypatch
):
    command = ["search", *FEW, "--epochs", "2", "--rounds", "2", "--method", "cs"]
    whole = progress._Rounds.on_epoch_end

    def interrupted(self, epoch, logs=None):
        whole(self, epoch, logs)
        if epoch == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(progress._Rounds, "on_epoch_end", interrupted)
    assert main.main([*command, "--out", str(tmp_path)]) == 130
    monkeypatch.undo()
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("round 2/2  epoch 1/2  val_accuracy")
    assert main.main([*command, "--out", str(tmp_path)]) == 0
    lines = [*lines[:-1], *capsys.readouterr().out.splitlines()]
    # A search resumes between its rounds.
    assert "Resuming after epoch 2 of 4." in lines
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    for row in rows:
        [line] = [one for one in lines if one.startswith(f"round {row['round']}/2")]
        _, epochs, shown, _ = line.split("  ", 3)
        assert epochs == "epoch 2/2"
        assert shown == f"sparsity {row['sparsity']:.1%}"
    assert len(rows) == 2
    settings = (tmp_path / "settings.toml").read_text()
    assert "\nrounds = 2\n" in settings


def search_in(found, folder):
    shutil.copytree(found, folder, dirs_exist_ok=True)
    return ["search", *FEW, "--rounds", "1", "--out", folder]


def damaged(whole):
    """Yields zip files that are truncated, altered or without a configuration."""
    yield b""
    yield b"no zip"
    yield whole[: len(whole) // 2]
    yield whole[:-30]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("metadata.json", "{}")
    yield buffer.getvalue()


def with_config(whole, text):
    """Returns a `.keras` file with another configuration."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(whole)) as source,
        zipfile.ZipFile(buffer, "w") as archive,
    ):
        for name in source.namelist():
            data = text if name == "config.json" else source.read(name)
            archive.writestr(name, data)
    return buffer.getvalue()


CONFIGS = ["", "[]", "3", "null", "{}", '{"class_name": 3}', '{"class_name": "Dense"}']


@on_jax
def test_a_damaged_model_is_named(tmp_path, capsys, found):
    file, whole = tmp_path / "a.keras", (found / "model.keras").read_bytes()
    cases = [*damaged(whole), *(with_config(whole, text) for text in CONFIGS)]
    for data in cases:
        file.write_bytes(data)
        for command in (["report", file], ["export", file, tmp_path / "b.keras"]):
            refused(capsys, command, f"{file} cannot be read as a Keras model", "copy")
    assert list(tmp_path.iterdir()) == [file]


def test_a_mistyped_suffix_of_an_export_is_refused(tmp_path, capsys):
    command = ["export", tmp_path / "a.keras", tmp_path / "x.tfilte"]
    refused(capsys, command, "'.tfilte' is no export format", ".tflite")
    assert list(tmp_path.iterdir()) == []


@on_jax
def test_an_export_that_needs_examples_names_the_option(tmp_path, capsys):
    file = tmp_path / "a.keras"
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save(file)
    command = ["export", file, tmp_path / "a.tflite", "--precision", "int8"]
    refused(capsys, command, "needs examples", "Pass a few hundred: --data FILE.npz")
    assert list(tmp_path.iterdir()) == [file]


@on_jax
@pytest.mark.parametrize("text", ["", "{", "[]", '{"rows": []}', '{"1": 3}'])
@pytest.mark.parametrize("name", ["results.json", "controls.json"])
def test_damaged_results_are_named_with_the_remedy(tmp_path, capsys, found, name, text):
    command = search_in(found, tmp_path)
    (tmp_path / name).write_text(text)
    if name == "controls.json":
        (tmp_path / "results.json").unlink()
    refused(capsys, command, str(tmp_path / name), "cannot be read", "Delete it")
    assert (tmp_path / name).read_text() == text


@on_jax
@pytest.mark.parametrize(
    "field, value", [("best_round", 9), ("rows", []), ("seed", "")]
)
def test_forged_results_are_named(tmp_path, capsys, found, field, value):
    command = search_in(found, tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    (tmp_path / "results.json").write_text(json.dumps({**results, field: value}))
    refused(capsys, command, "results.json cannot be read", "Delete it")


@on_jax
def test_deleted_files_of_a_complete_search_are_written_again(tmp_path, capsys, found):
    command = [str(word) for word in search_in(found, tmp_path)]
    for name in ("best.ticket", "model.keras"):
        (tmp_path / name).unlink()
    assert main.main(command) == 0
    printed = capsys.readouterr().out
    assert "written again: best.ticket, model.keras." in printed
    assert "is complete" not in printed
    for name in ("best.ticket", "model.keras"):
        assert (tmp_path / name).exists()
    assert tt.Ticket.load(tmp_path / "best.ticket") == tt.Ticket.load(
        found / "best.ticket"
    )


@on_jax
def test_damaged_trainings_and_teachers_are_named(tmp_path, capsys):
    out = tmp_path / "frontier"
    command = ["frontier", *FEW, "--methods", "kdlts", "--sparsities", "0.8"]
    command += ["--out", out]
    assert main.main([str(word) for word in command]) == 0
    capsys.readouterr()
    for name in ("trainings.json", "teachers/teacher_0.npz", "teachers/teachers.json"):
        whole = (out / name).read_bytes()
        for data in (b"", b"[]", whole[: len(whole) // 2]):
            (out / name).write_bytes(data)
            refused(capsys, command, str(out / name), "cannot be read", "Delete it")
        (out / name).write_bytes(whole)
    np.savez_compressed(out / "teachers" / "teacher_0.npz", np.zeros(10**8, "int8"))
    refused(capsys, command, "teacher_0.npz", "it has 100000", "but the model has")


def test_the_arrays_of_a_foreign_npz_are_listed(tmp_path, capsys):
    file = tmp_path / "a.npz"
    np.savez(file, x=np.ones(3), y=np.ones(3))
    command = ["search", *FEW, "--data", file, "--out", tmp_path / "b"]
    refused(capsys, command, "a.npz lacks the arrays x_train", "['x', 'y']")


@on_jax
@pytest.mark.parametrize("data", [b"", b"PK", b"damaged", b"\x93NUMPY"])
def test_damaged_example_data_are_named(tmp_path, capsys, found, data):
    file = tmp_path / "a.npz"
    file.write_bytes(data)
    command = ["export", found / "model.keras", tmp_path / "b.keras", "--data", file]
    refused(capsys, command, "a.npz cannot be read as an .npz file", "numpy.savez")
    np.savez(file, x=np.ones(3))
    refused(capsys, command, "it has no array x_test. Found: ['x']")


@pytest.mark.parametrize(
    "command",
    [["frontier", "--methods", "obd"], ["search", "--method", "obd"], ["serve"]],
)
def test_unknown_words_end_with_the_usage(capsys, command):
    with pytest.raises(SystemExit):
        main.main(command)
    assert "invalid choice" in capsys.readouterr().err


def test_a_reader_that_ends_is_no_error(tmp_path, capsys, monkeypatch):
    tt.Ticket({"a/kernel": [1, 0]}).save(tmp_path / "a.ticket")
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        assert main.main(["report", str(tmp_path / "a.ticket")]) == 141
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "words, advice",
    [
        (["--sparsty", "0.9"], "--sparsty 0.9; did you mean --sparsity?"),
        (["--epoch-s=3"], "--epoch-s=3; did you mean --epochs?"),
        (["--xyz"], "--xyz; see tf-tickets prune -h"),
    ],
)
def test_a_misspelt_option_ends_with_the_usage_and_the_nearest(capsys, words, advice):
    with pytest.raises(SystemExit) as ended:
        main.main(["prune", "a.keras", *words])
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert error.startswith("usage: tf-tickets prune [-h]")
    assert error.endswith(
        f"\ntf-tickets prune: error: unrecognized arguments: {advice}\n"
    )
