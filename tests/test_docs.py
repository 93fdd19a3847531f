"""Runs the code of README, the documentation and the examples."""

import dataclasses
import importlib
import math
import pathlib
import re
import runpy
import shlex
import sys
import warnings

import keras
import numpy as np
import pytest
import tiny

import tf_tickets as tt
from tf_tickets import wrapping
from tf_tickets_cli import main as cli

ROOT = pathlib.Path(__file__).parent.parent
ALL_PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
ALL_PAGES = sorted(str(page.relative_to(ROOT)) for page in ALL_PAGES)
# Blocks are run in order. A block with a title is a quote and is not run.
PAGES = [p for p in ALL_PAGES if "```python\n" in (ROOT / p).read_text("utf-8")]
# The guides take longest. They belong to the matrix.
GUIDES = [page for page in PAGES if page.startswith("docs/guides/")]
METHODS = [page for page in PAGES if page.startswith("docs/methods/")]
SHORT = [page for page in PAGES if page not in GUIDES + METHODS]
# README exports by TensorFlow, which other backends must start first.
SHORT.sort(key=lambda page: page != "README.md")
# A block with the name of a library as its title needs that library, and runs with it.
PEER = "tensorflow-model-optimization"
WITH_PEER = f'```python title="{PEER}"\n'
QUOTING = [
    p
    for p in ALL_PAGES
    if "```python title=" in (ROOT / p).read_text("utf-8").replace(WITH_PEER, "")
]
NOTEBOOKS = ("imp", "learned-masks")
EXAMPLES = sorted(script.name for script in ROOT.glob("examples/*.py"))
# Examples with separate tests.
OTHERS = ("stop_early.py", "export_a_ticket.py", "serve_a_model.py")
pytestmark = pytest.mark.usefixtures("forked_interpreters")
OF_DIGITS = [script for script in EXAMPLES if script not in OTHERS]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Keeps files that documents write out of the repository."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    return tmp_path


@pytest.fixture
def few_digits(monkeypatch):
    digits = tt.datasets.load("digits")
    rows = {
        field.name: getattr(digits, field.name)[:64]
        for field in dataclasses.fields(digits)
        if field.name.startswith(("x_", "y_"))
    }
    few = dataclasses.replace(digits, **rows)
    monkeypatch.setattr(tt.datasets, "load", lambda name, **settings: few)


# With a few digits, a schedule may never fire, an early stop may never stop, and a
# kernel may be almost empty. These warnings are expected.
FEW_STEPS = pytest.mark.filterwarnings("ignore::UserWarning")


def python_blocks(text):
    """Yields blocks, with empty lines before them so that line numbers match."""
    for match in re.finditer(r"^```python\n(.*?)^```", text, re.S | re.M):
        yield "\n" * text.count("\n", 0, match.start(1)) + match.group(1)


@FEW_STEPS
@pytest.mark.parametrize(
    "page",
    tiny.in_turns(SHORT) + tiny.in_turns(METHODS, every=4) + tiny.marked(GUIDES, []),
)
def test_the_python_blocks_of_a_page_run_one_after_another(page, few_digits):
    namespace = {"__name__": "__main__"}
    for block in python_blocks((ROOT / page).read_text("utf-8")):
        exec(compile(block, str(ROOT / page), "exec"), namespace)


@pytest.mark.matrix
@pytest.mark.skipif(
    keras.config.backend() != "tensorflow", reason=f"{PEER} trains with TensorFlow only"
)
@FEW_STEPS
def test_the_blocks_with_another_library_run(few_digits):
    pytest.importorskip("tf_keras")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("tensorflow_model_optimization")
    text = (ROOT / "docs/guides/migrate-from-tfmot.md").read_text("utf-8")
    first = next(python_blocks(text))
    theirs = [block.split("```\n")[0] for block in text.split(WITH_PEER)[1:]]
    assert len(theirs) == 1
    namespace = {"__name__": "__main__"}
    with warnings.catch_warnings():
        # tf_keras warns of the format of the file, as its guide has it.
        warnings.simplefilter("ignore")
        for block in [first, *theirs]:
            exec(compile(block, "migrate-from-tfmot.md", "exec"), namespace)
    kernels = [w for w in namespace["model"].get_weights() if w.ndim > 1]
    assert all(0.7 < (kernel == 0).mean() < 0.85 for kernel in kernels)


@pytest.mark.on("jax")
@FEW_STEPS
def test_the_readme_saves_the_best_ticket_trained(few_digits, monkeypatch):
    # The rest exports the model.
    monkeypatch.setattr(tt, "export", lambda *arguments, **kwargs: "")
    # The last round is not the best one.
    monkeypatch.setattr(tt.IMP, "best", property(lambda search: search.tickets[2]))
    [block] = python_blocks((ROOT / "README.md").read_text("utf-8"))
    exec(compile(block, "README.md", "exec"), {"__name__": "__main__"})
    best = tt.Ticket.load("best.ticket")
    plain = keras.models.load_model("best.keras")
    kernels = [w for w in plain.weights if w.name == "kernel"]
    counts = [np.count_nonzero(wrapping.to_numpy(kernel)) for kernel in kernels]
    assert counts == list(best.kept.values())
    assert best.sparsity == pytest.approx(0.784, abs=1e-3)


@pytest.mark.parametrize("page", QUOTING)
def test_a_quoted_line_of_code_is_in_its_file(page):
    text = (ROOT / page).read_text("utf-8")
    quotes = re.findall(r'^```python title="(.+?)"\n(.*?)^```', text, re.S | re.M)
    quotes = [row for row in quotes if row[0] != PEER]
    assert quotes
    for file, quote in quotes:
        assert unindented(quote) in unindented((ROOT / file).read_text("utf-8")), file


def unindented(text):
    return "\n".join(line.strip() for line in text.strip().splitlines())


def commands():
    """Yields the commands of the pages, each with its page."""
    for page in ALL_PAGES:
        text = (ROOT / page).read_text("utf-8")
        for block in re.findall(r"^```sh\n(.*?)^```", text, re.S | re.M):
            for line in re.split(r"\n|&&", block.replace("\\\n", " ")):
                yield page, shlex.split(line)


def test_the_commands_of_the_pages_can_be_typed():
    seen = []
    for page, words in commands():
        words = [word for word in words if not re.fullmatch(r"[A-Z_]+=\w+", word)]
        programs = [pathlib.PurePath(word).name for word in words[:1]]
        if programs == ["tf-tickets"] and words[1:] != ["--help"]:
            cli.parser().parse_args(words[1:])
        elif programs == ["python"] and words[1] != "-m":
            assert (ROOT / words[1]).exists(), page
        seen += programs
    assert {"tf-tickets", "python"} <= set(seen)


@pytest.mark.parametrize("page", ALL_PAGES)
def test_the_links_of_a_page_lead_to_files(page):
    text = (ROOT / page).read_text("utf-8")
    # Notebooks and results are in folders next to the pages, or are linked there.
    for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        assert (ROOT / page).parent.joinpath(link).exists(), link


@pytest.fixture
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    return importlib.import_module


def test_the_tables_of_the_pages_are_those_of_the_json_files(scripts):
    maker = scripts("make_results")
    pages = maker.pages()
    assert len(pages) > 10
    for page in pages:
        text = page.read_text("utf-8")
        again = "Run `python docs/make_results.py`."
        assert maker.filled(text) == text, f"{page} is out of date. {again}"


def test_every_table_is_on_a_page(scripts):
    maker = scripts("make_results")
    text = "".join(page.read_text("utf-8") for page in maker.pages())
    assert [n for n in maker.TABLES if f"<!-- table: {n} -->" not in text] == []


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_its_guide(name, scripts):
    path = ROOT / "docs" / "notebooks" / f"{name}.ipynb"
    again = "Run `python docs/make_notebooks.py`."
    assert path.read_text("utf-8") == scripts("make_notebooks").notebook(name), again


@pytest.mark.matrix
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs(name, tmp_path):
    nbclient = pytest.importorskip("nbclient", reason="installed by .[docs]")
    nbformat = pytest.importorskip("nbformat", reason="installed by .[docs]")
    path = ROOT / "docs" / "notebooks" / f"{name}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=900, resources=resources).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells)
    assert any(cell.outputs for cell in cells)


@FEW_STEPS
@pytest.mark.parametrize("script", tiny.in_turns(OF_DIGITS))
def test_an_example_runs_on_a_few_digits(script, few_digits, monkeypatch):
    monkeypatch.setattr(sys, "argv", [script])
    runpy.run_path(str(ROOT / "examples" / script), run_name="__main__")


@pytest.mark.on("jax")
def test_stopping_early_and_a_penalty_hold_back_as_the_textbook_says(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["stop_early.py", "folder"])
    result = runpy.run_path(str(ROOT / "examples" / "stop_early.py"))
    steps, h, target = result["steps"], result["CURVATURES"], result["TARGET"]
    gone = [1 - math.prod([1 - 0.01 * at] * steps) for at in h]
    np.testing.assert_allclose(result["early"], target * gone, rtol=1e-4)
    alpha = 1 / (0.01 * steps)
    np.testing.assert_allclose(result["late"], target * h / (h + alpha), rtol=1e-4)
    # Early stopping acts like one penalty strength per direction.
    each = result["same_strength"](steps, h)
    np.testing.assert_allclose(result["early"], target * h / (h + each), rtol=1e-4)
    assert each[0] == pytest.approx(alpha, rel=0.03) and each[2] < alpha / 4
    assert pathlib.Path("folder/stop_early.png").stat().st_size > 10_000


def test_blocks_are_found_and_keep_their_line_numbers():
    text = "A\n```python\nx = 1\n```\n```sh\nls\n```\n```python\ny = x\n```\n"
    assert list(python_blocks(text)) == ["\n\nx = 1\n", "\n" * 8 + "y = x\n"]
