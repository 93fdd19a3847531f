"""What README, CONTRIBUTING and the examples say is executed."""

import dataclasses
import math
import pathlib
import re
import runpy
import sys

import numpy as np
import pytest
import tiny

import tf_tickets as tt

ROOT = pathlib.Path(__file__).parent.parent
PAGES = sorted(page.name for page in ROOT.glob("*.md"))
EXAMPLES = sorted(script.name for script in ROOT.glob("examples/*.py"))
# Those with tests of their own.
OTHERS = ("stop_early.py", "export_a_ticket.py", "serve_a_model.py")
pytestmark = pytest.mark.usefixtures("forked_interpreters")
OF_DIGITS = [script for script in EXAMPLES if script not in OTHERS]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Files that documents write do not land in the repository."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    return tmp_path


def python_blocks(text):
    """Each block, below as many empty lines as stand before it in the page."""
    for match in re.finditer(r"^```python\n(.*?)^```", text, re.S | re.M):
        yield "\n" * text.count("\n", 0, match.start(1)) + match.group(1)


@pytest.mark.parametrize("page", tiny.in_turns(PAGES[1:] + PAGES[:1]))
def test_the_python_blocks_of_a_page_run_one_after_another(page):
    namespace = {"__name__": "__main__"}
    for block in python_blocks((ROOT / page).read_text("utf-8")):
        exec(compile(block, str(ROOT / page), "exec"), namespace)


@pytest.fixture
def few_digits(monkeypatch):
    digits = tt.datasets.load("digits")
    rows = {
        field.name: getattr(digits, field.name)[:64]
        for field in dataclasses.fields(digits)
        if field.name != "name"
    }
    few = dataclasses.replace(digits, **rows)
    monkeypatch.setattr(tt.datasets, "load", lambda name: few)


# A few digits make few steps: a schedule that begins later says that it is idle.
@pytest.mark.filterwarnings("ignore:The schedule fires at none:UserWarning")
@pytest.mark.parametrize("script", tiny.in_turns(OF_DIGITS))
def test_an_example_runs_on_a_few_digits(script, few_digits, monkeypatch):
    monkeypatch.setattr(sys, "argv", [script])
    runpy.run_path(str(ROOT / "examples" / script), run_name="__main__")


@pytest.mark.on("jax")
def test_stopping_early_and_a_penalty_hold_back_as_the_textbook_says(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["stop_early.py", "folder"])
    found = runpy.run_path(str(ROOT / "examples" / "stop_early.py"))
    steps, h, target = found["steps"], found["CURVATURES"], found["TARGET"]
    gone = [1 - math.prod([1 - 0.01 * at] * steps) for at in h]
    np.testing.assert_allclose(found["early"], target * gone, rtol=1e-4)
    alpha = 1 / (0.01 * steps)
    np.testing.assert_allclose(found["late"], target * h / (h + alpha), rtol=1e-4)
    # One strength for each direction is early stopping.
    each = found["same_strength"](steps, h)
    np.testing.assert_allclose(found["early"], target * h / (h + each), rtol=1e-4)
    assert each[0] == pytest.approx(alpha, rel=0.03) and each[2] < alpha / 4
    assert pathlib.Path("folder/stop_early.png").stat().st_size > 10_000


def test_blocks_are_found_and_keep_their_line_numbers():
    text = "A\n```python\nx = 1\n```\n```sh\nls\n```\n```python\ny = x\n```\n"
    assert list(python_blocks(text)) == ["\n\nx = 1\n", "\n" * 8 + "y = x\n"]
