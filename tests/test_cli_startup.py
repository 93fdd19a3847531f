"""Startup of the command line: fast help, quiet backends, progress in a file."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import textwrap
import time

import pytest

import tf_tickets as tt
import tf_tickets_cli
from tf_tickets.exporting import exporter, writer
from tf_tickets_cli import choices, main, methods

ROOT = pathlib.Path(tf_tickets_cli.__file__).parent.parent
COMMANDS = ["search", "frontier", "train", "export", "report", "compare"]
HELPS = [["--help"], *([command, "--help"] for command in COMMANDS)]


def run(words, paths=(), without=(), **variables):
    """Runs Python in the first of the paths, with no environment settings for logs."""
    environment = {**os.environ, **variables}
    environment["PYTHONPATH"] = os.pathsep.join(map(str, [*paths, ROOT]))
    for name in ("TF_CPP_MIN_LOG_LEVEL", "FORCE_COLOR", *without):
        environment.pop(name, None)
    return subprocess.run(
        [sys.executable, *map(str, words)],
        env=environment,
        cwd=paths[0] if paths else None,
        capture_output=True,
        text=True,
    )


@pytest.mark.on("jax")
@pytest.mark.parametrize("words", HELPS)
def test_help_is_quick_and_writes_no_errors(words):
    times = []
    for _ in range(3):
        began = time.monotonic()
        shown = run(["-m", "tf_tickets_cli", *words])
        times.append(time.monotonic() - began)
        assert (shown.returncode, shown.stderr) == (0, "")
        assert shown.stdout.startswith("usage: tf-tickets ")
    # It takes 0.05 s on an idle machine.
    assert min(times) < 1.0


@pytest.mark.on("jax")
@pytest.mark.parametrize("words", HELPS)
def test_help_imports_nothing_that_is_slow(words):
    program = f"""
        import sys
        from tf_tickets_cli.main import main
        try:
            main({words})
        except SystemExit:
            slow = {{"keras", "tensorflow", "jax", "numpy", "tf_tickets", "rich"}}
            print("Slow:", sorted(slow & set(sys.modules)))
    """
    shown = run(["-c", textwrap.dedent(program)])
    assert shown.stdout.endswith("Slow: []\n"), shown.stderr


def test_the_names_in_the_help_are_those_that_the_library_knows():
    assert tuple(methods.BUILDERS) == choices.METHODS
    assert tuple(tt.recipes.RECIPES) == choices.NETWORKS
    assert choices.PRECISIONS == exporter.PRECISIONS
    assert {end: name for name, end in writer.SUFFIXES.items()} == choices.FORMATS
    with pytest.raises(ValueError) as unknown:
        tt.datasets.load("nothing")
    assert f"{', '.join(map(repr, choices.DATASETS))}, or a path" in str(unknown.value)
    with pytest.raises(ValueError) as unknown:
        tt.datasets.load("digits", scaling="nothing")
    names = ", ".join(map(repr, sorted(choices.SCALINGS)))
    assert f"must be one of {names}" in str(unknown.value)


def test_every_method_is_described_in_the_help_of_frontier():
    described = main.frontier.DESCRIPTION.partition("methods:")[2]
    assert [m for m in choices.METHODS if m not in described] == []


@pytest.mark.on("tensorflow")
def test_a_redirected_search_shows_progress_and_no_log_lines(tmp_path):
    few = [
        "--take",
        "64",
        "--epochs",
        "1",
        "--batch-size",
        "32",
        "--width",
        "0.1",
        "--rounds",
        "1",
    ]
    command = ["-m", "tf_tickets_cli", "search", *few, "--out", tmp_path / "s"]
    shown = run(command)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert not re.search(r"[\r\b\x1b]", shown.stdout)
    lines = shown.stdout.splitlines()
    starts = ["lenet300 on digits[:64]: 64 training images", "dense ", "round 1/1 "]
    starts += ["control reinit, round 1 ", "control shuffled, round 1 "]
    assert [
        line[: len(start)] for line, start in zip(lines, starts, strict=False)
    ] == starts
    assert "  epoch 1/1  val_accuracy 0." in lines[1]


# Written like a C++ library does, bypassing sys.stderr.
HELD_BACK = """
    import os
    from tf_tickets_cli.quiet import standard_error_held_back
    with standard_error_held_back():
        os.write(2, b"log line\\n" * 10_000)
        {then}
    os.write(2, b"later line\\n")
"""


@pytest.mark.parametrize(
    "then, shown, ends",
    [
        ("pass", 0, "later line"),
        ("raise ValueError('broken')", 10_000, "ValueError: broken"),
        # The interpreter crashes without running another line.
        ("os.abort()", 10_000, "log line"),
        ("raise KeyboardInterrupt", 0, "KeyboardInterrupt"),
    ],
)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_what_is_held_back_is_shown_after_a_failure_only(then, shown, ends):
    program = textwrap.dedent(HELD_BACK).format(then=then)
    result = run(["-c", program])
    lines = result.stderr.splitlines()
    assert lines.count("log line") == shown
    assert lines[-1] == ends


# A fake backend that logs while it is imported, and fails.
BROKEN = """
    import os
    os.write(2, b"I0000 a log line of C++\\n")
    raise {error}
"""
NOT_THERE = 'ModuleNotFoundError("No module named tensorflow", name="tensorflow")'


def start_with(folder, error, *options):
    """Runs a report where TensorFlow fails to import and KERAS_BACKEND is not set."""
    source = textwrap.dedent(BROKEN).format(error=error)
    (folder / "tensorflow.py").write_text(source)
    words = ["-m", "tf_tickets_cli", "report", "no.ticket", *options]
    without = ["KERAS_BACKEND"]
    return run(words, [folder], without, KERAS_HOME=str(folder / "keras"))


def test_without_tensorflow_and_keras_backend_there_is_advice(tmp_path):
    shown = start_with(tmp_path, NOT_THERE)
    assert shown.returncode == 2
    *held_back, advice = shown.stderr.splitlines()
    assert advice.startswith("tf-tickets: Keras ") and "'tensorflow'" in advice
    assert "KERAS_BACKEND=jax" in advice
    assert set(held_back) == {"I0000 a log line of C++"}


def test_what_a_backend_logged_before_it_failed_is_shown(tmp_path):
    shown = start_with(tmp_path, 'OSError("no AVX")')
    assert shown.returncode == 2
    assert shown.stderr.endswith("I0000 a log line of C++\ntf-tickets: no AVX\n")


# A fake library and a fake Keras that start without errors.
LIBRARY = """
    import os
    os.write(2, b"a log line of C++\\n")
"""
KERAS = """
    class ops:
        def convert_to_tensor(value):
            return value
"""


# Libraries in which Ctrl-C comes in a destructor, and that turn it into an error.
SWALLOWS = """
    import os, signal
    class Object:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGINT)
    Object()
"""
REPORTS = """
    import os, signal
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt:
        raise ImportError("cannot be imported")
"""


@pytest.fixture
def listening():
    """A shell's background jobs ignore Ctrl-C, and so do the programs they start."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("listening")
@pytest.mark.parametrize("library", [SWALLOWS, REPORTS])
def test_ctrl_c_that_a_library_swallows_ends_the_command(tmp_path, library):
    (tmp_path / "tf_tickets.py").write_text(textwrap.dedent(library))
    (tmp_path / "keras.py").write_text(textwrap.dedent(KERAS))
    shown = run(["-m", "tf_tickets_cli", "report", "no.ticket"], [tmp_path])
    assert shown.returncode == 130
    assert shown.stderr.splitlines()[-1] == "tf-tickets: Interrupted."


def test_backend_logs_are_shown_on_demand(tmp_path):
    (tmp_path / "tf_tickets.py").write_text(textwrap.dedent(LIBRARY))
    (tmp_path / "keras.py").write_text(textwrap.dedent(KERAS))
    words = ["-m", "tf_tickets_cli", "report", "no.ticket"]
    assert "a log line" not in run(words, [tmp_path]).stderr
    assert "a log line" in run([*words, "--backend-logs"], [tmp_path]).stderr
