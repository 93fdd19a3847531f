"""Progress on a terminal and in a file."""

import io
import re
import sys
import time

import keras
import pytest

import tf_tickets as tt
from tf_tickets_cli import progress

pytestmark = pytest.mark.turns


class Clock:
    """A clock that the test sets."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


def fit(watch, clock, name, epochs, pace=1.0, first=0, **params):
    """Calls the callbacks of a training as `fit` does; returns the lines."""
    for callback in watch(name):
        callback.set_params({"epochs": epochs, **params})
        callback.on_train_begin()
        for epoch in range(first, epochs):
            callback.on_epoch_begin(epoch)
            clock.now += pace
            callback.on_epoch_end(epoch, {"val_accuracy": 0.5})
        callback.on_train_end()


@pytest.mark.parametrize(
    "measure, left", [(None, "sparsity 40.0%"), ("macs", "MACs 50.0%")]
)
def test_a_pruning_for_a_target_shows_what_remains_of_it(measure, left, clock, capsys):
    layers = [keras.Input((3,)), keras.layers.Dense(4), keras.layers.Dense(2)]
    model = tt.wrap(keras.Sequential(layers), structure="channels", verbose=False)
    kernels = tt.kernels(model)
    masks = kernels.masks
    kernel, bias, output = masks.values()
    kernel[:, :2] = bias[:2] = output[:2] = False
    kernels.set_masks(masks)
    [callback] = progress.Progress().of_training("pruning", measure)
    callback.set_model(model)
    callback.set_params({"epochs": 1})
    callback.on_train_begin()
    callback.on_epoch_end(0, {"sparsity": 0.4, "val_accuracy": 0.5})
    said = capsys.readouterr().out
    assert said == f"pruning  epoch 1/1  {left}  val_accuracy 0.5000  0:00\n"


def begin_both(watch):
    """Begins two searches; returns their callbacks."""
    found = []
    for name, epochs in (("imp seed 0", 12), ("snip seed 0", 4)):
        [callback] = watch(name)
        callback.set_params({"epochs": epochs})
        callback.on_train_begin()
        found.append(callback)
    return found


def searches():
    return {"imp": tt.IMP(2, 4, 0.5), "snip": tt.PruneAtInit(0.5, epochs=4)}


def test_every_line_says_which_of_how_many_and_how_long_it_will_take(clock, capsys):
    # IMP trains 2 rounds of 4 epochs and a dense network, whose tickets need no
    # training; so does pruning at initialization.
    shown = progress.Progress()
    with shown:
        watch = shown.of_comparison(searches(), epochs=4, seeds=[0, 1])
        assert shown.comparison.total == 2 * (12 + 4) + 2 * 4
        for name, epochs in [
            ("imp seed 0", 12),
            ("imp seed 1", 12),
            ("snip seed 0", 4),
        ]:
            fit(watch, clock, name, epochs)
        # That of seed 1 is complete in the directory.
        watch("snip seed 1")
        fit(watch, clock, "dense seed 0", 4)
        fit(watch, clock, "dense seed 1", 4)
    lines = capsys.readouterr().out.splitlines()
    finished = [line for line in lines if re.search(r"epoch (\d+)/\1 ", line)]
    assert finished == [
        "imp seed 0, 1 of 4  epoch 12/12  val_accuracy 0.5000  0:12  "
        "in all 0:12, about 0:28 left",
        "imp seed 1, 2 of 4  epoch 12/12  val_accuracy 0.5000  0:12  "
        "in all 0:24, about 0:16 left",
        "snip seed 0, 3 of 4  epoch 4/4  val_accuracy 0.5000  0:04  "
        "in all 0:28, about 0:12 left",
        "dense seed 0  epoch 4/4  val_accuracy 0.5000  0:04  "
        "in all 0:32, about 0:04 left",
        "dense seed 1  epoch 4/4  val_accuracy 0.5000  0:04  in all 0:36",
    ]
    # Between them one line after more than 10 seconds.
    assert [line[:40] for line in lines if line not in finished] == [
        "imp seed 0, 1 of 4  epoch 11/12  val_acc",
        "imp seed 1, 2 of 4  epoch 11/12  val_acc",
    ]


def test_a_search_that_resumes_costs_what_is_left(clock, capsys):
    with progress.Progress() as shown:
        watch = shown.of_comparison({"imp": tt.IMP(2, 4, 0.5)}, epochs=4)
        fit(watch, clock, "imp", 12, first=8)
    resuming, line = capsys.readouterr().out.splitlines()
    assert resuming == "imp: resuming after epoch 8 of 12."
    # 4 epochs of a second each; the dense network has 4.
    assert line.endswith("0:04  in all 0:04, about 0:04 left")
    assert line.startswith("imp  epoch 12/12")


def test_trainings_of_tickets_are_counted_with_their_search(clock, capsys):
    with progress.Progress() as shown:
        watch = shown.of_comparison(searches(), epochs=3)
        # 12 + 2 * 3 for IMP, 4 + 3 for the other, 3 for the dense network.
        assert shown.comparison.total == 28
        fit(watch, clock, "imp", 12, 0.5)
        fit(watch, clock, "imp round 1", 3, 0.5)
        fit(watch, clock, "snip", 4, 0.5)
    last = capsys.readouterr().out.splitlines()
    # Round 2 was trained before, since the next search has begun: 6 epochs are left.
    assert last[1].startswith("imp round 1, 1 of 2  epoch 3/3")
    assert last[2].startswith("snip, 2 of 2  epoch 4/4")


def test_trainings_in_other_processes_end_in_any_order(clock, capsys):
    with progress.Progress() as shown:
        watch = shown.of_comparison(searches(), epochs=4, seeds=[0])
        clock.now += 8
        # Two at once: the whole takes 8 seconds, each of them 7.
        for name in ("snip seed 0", "dense seed 0"):
            fit(watch, clock, name, 4, 0.0, first=3, seconds=7.0)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "snip seed 0, 1 of 2  epoch 4/4  val_accuracy 0.5000  0:07  "
        "in all 0:08, about 0:32 left",
        "dense seed 0  epoch 4/4  val_accuracy 0.5000  0:07  "
        "in all 0:08, about 0:12 left",
    ]


def test_trainings_at_the_same_time_have_their_own_lines(clock, capsys):
    with progress.Progress() as shown:
        watch = shown.of_comparison(searches(), epochs=4, seeds=[0], together=True)
        pair = begin_both(watch)
        for epoch in range(4):
            clock.now += 1
            for callback in pair:
                callback.on_epoch_end(epoch, {"val_accuracy": epoch / 10})
        pair[1].on_train_end()
        # 8 of 20 epochs took 4 seconds.
        assert shown.comparison.remaining() == "about 0:06 left"
        clock.now += 8
        pair[0].on_epoch_end(4, {"val_accuracy": 0.7})
        # It stops early; so 16 of 20 epochs need not be trained any more.
        pair[0].on_train_end()
        assert (shown.comparison.finished, shown.comparison.total) == (16, 20)
    assert capsys.readouterr().out.splitlines() == [
        "snip seed 0, 2 of 2  epoch 4/4  val_accuracy 0.3000  0:04  "
        "in all 0:04, about 0:06 left",
        "imp seed 0, 1 of 2  epoch 5/12  val_accuracy 0.7000  0:12  "
        "in all 0:12, about 0:05 left",
    ]


def test_a_complete_search_beside_others_costs_nothing_more(clock, capsys):
    with progress.Progress() as shown:
        watch = shown.of_comparison(searches(), epochs=4, seeds=[0], together=True)
        # Its files are there: it is announced, and not trained.
        watch("imp seed 0")
        fit(watch, clock, "snip seed 0", 4, first=2)
        assert shown.comparison.finished == 16
    resuming, line = capsys.readouterr().out.splitlines()
    assert resuming == "snip seed 0: resuming after epoch 2 of 4."
    # Two epochs took two seconds, and the dense network has four.
    assert line.endswith("in all 0:02, about 0:04 left")


def test_a_complete_training_beside_others_costs_nothing_more(clock):
    with progress.Progress() as shown:
        watch = shown.of_comparison(searches(), epochs=4, seeds=[0, 1], together=True)
        for name in ("imp seed 0", "imp seed 1", "snip seed 0", "snip seed 1"):
            watch(name)
        # The searches and one dense network are complete in the directory.
        watch("dense seed 0")
        fit(watch, clock, "dense seed 1", 4)
        assert shown.comparison.finished == shown.comparison.total


def test_a_training_that_is_announced_and_begins_later_is_not_complete(clock):
    with progress.Progress() as shown:
        watch = shown.of_comparison(searches(), epochs=4, seeds=[0], together=True)
        [later] = watch("dense seed 0")
        begin_both(watch)
        assert shown.comparison.finished == 4
        later.set_params({"epochs": 4})
        later.on_train_begin()
        assert shown.comparison.finished == 0


def test_what_is_complete_in_other_processes_costs_nothing_more(clock):
    with progress.Progress() as shown:
        watch = shown.of_comparison(searches(), epochs=4, seeds=[0])
        watch("imp seed 0")
        watch("dense seed 0")
        clock.now += 5
        fit(watch, clock, "snip seed 0", 4, 0.0, first=3, seconds=5.0)
        assert shown.comparison.finished == shown.comparison.total
        assert shown.comparison.trained == 4


def test_what_is_interrupted_beside_others_is_shown_and_not_complete(clock, capsys):
    with pytest.raises(KeyboardInterrupt), progress.Progress() as shown:
        watch = shown.of_comparison(searches(), epochs=4, seeds=[0], together=True)
        for callback in begin_both(watch):
            callback.on_epoch_end(0, {"val_accuracy": 0.5})
        raise KeyboardInterrupt
    assert shown.comparison.finished == 2
    assert [line[:35] for line in capsys.readouterr().out.splitlines()] == [
        "imp seed 0, 1 of 2  epoch 1/12  val",
        "snip seed 0, 2 of 2  epoch 1/4  val",
    ]


def test_hundreds_of_short_trainings_are_few_lines(clock, capsys):
    many = {f"s{i}": tt.IMP(10, 1, 0.5) for i in range(30)}
    with progress.Progress() as shown:
        watch = shown.of_comparison(many, epochs=2)
        for label in many:
            fit(watch, clock, label, 11, 0.1)
            for number in range(1, 11):
                fit(watch, clock, f"{label} round {number}", 2, 1.5)
    lines = capsys.readouterr().out.splitlines()
    # 933 seconds: 30 searches, and at most a line in 10 seconds.
    assert len([line for line in lines if " round " not in line]) == 30
    assert 30 <= len(lines) - 30 <= 93


def test_the_pause_grows_with_the_time(clock, capsys):
    with progress.Progress() as shown:
        watch = shown.of_comparison({"imp": tt.IMP(2, 5000, 0.5)}, epochs=5000)
        fit(watch, clock, "imp", 15_000, 1.0)
    # One in 10 seconds up to 1,000 seconds, then a line per 1 % more time.
    assert 300 < len(capsys.readouterr().out.splitlines()) < 400


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_shows_a_second_bar_for_the_whole(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "150")
    monkeypatch.delenv("NO_COLOR", raising=False)
    with progress.Progress() as shown:
        watch = shown.of_comparison(searches(), epochs=4, seeds=[0, 1])
        fit(watch, Clock(), "imp seed 0", 12)
        [callback] = watch("imp seed 1")
        callback.set_params({"epochs": 12})
        callback.on_train_begin()
        callback.on_epoch_end(0, {})
        shown.bar.refresh()
        bar = shown.bar
        assert [task.description for task in bar.tasks] == [
            "in all",
            "imp seed 1, 2 of 4",
        ]
        assert [(task.completed, task.total) for task in bar.tasks] == [
            (13, 40),
            (1, 12),
        ]
        assert re.fullmatch(r"about \d:\d\d left", bar.tasks[0].fields["result"])
    assert shown.bar is None
    text = terminal.getvalue()
    assert "imp seed 0, 1 of 4  epoch 12/12" in text and "13/40" in text


def test_a_terminal_shows_a_bar_for_each_training_beside_others(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    with progress.Progress() as shown:
        watch = shown.of_comparison(searches(), epochs=4, seeds=[0], together=True)
        pair = begin_both(watch)
        pair[0].on_epoch_end(0, {})
        assert [(t.description, t.completed) for t in shown.bar.tasks] == [
            ("in all", 1),
            ("imp seed 0, 1 of 2", 1),
            ("snip seed 0, 2 of 2", 0),
        ]
        pair[0].on_train_end()
        names = [task.description for task in shown.bar.tasks]
        assert names == ["in all", "snip seed 0, 2 of 2"]
    assert shown.bar is None and shown.lines == []


def test_one_training_has_one_bar_as_before(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    with progress.Progress() as shown:
        shown.start("round 1", 2)
        assert [task.description for task in shown.bar.tasks] == ["round 1"]
        shown.update(1)
        shown.update(2, "val_accuracy 0.9000")
        assert shown.bar is None
    assert "round 1  epoch 2/2  val_accuracy 0.9000  0:00\n" in terminal.getvalue()
