"""The metadata of the package, the citation and the workflow agree with the code."""

import ast
import json
import pathlib
import re
import sys
import tomllib

import pytest

import tf_tickets

ROOT = pathlib.Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
WORKFLOW = (ROOT / ".github/workflows/tests.yml").read_text("utf-8")
EXTRAS = PROJECT["optional-dependencies"]
PACKAGES = ("tf_tickets", "tf_tickets_cli")
# Modules that their distribution is not named after.
DISTRIBUTIONS = {"PIL": "pillow", "sklearn": "scikit-learn"}
# Functions that import a module by its name.
IMPORTERS = ("_import", "import_module", "find_spec")


def declared(requirements):
    """Returns the names of the distributions in a list of requirements."""
    names = [re.match(r"[\w.-]+", requirement)[0] for requirement in requirements]
    return {name.lower().replace("_", "-") for name in names}


def imports(tree):
    """Yields the top-level names that a program imports, in any scope."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            yield node.module.partition(".")[0]
        if isinstance(node, ast.Call) and is_importer(node.func) and node.args:
            (name, *_) = node.args
            if isinstance(name, ast.Constant):
                yield name.value.partition(".")[0]


def is_importer(function):
    name = function.attr if isinstance(function, ast.Attribute) else function
    return getattr(name, "id", name) in IMPORTERS


def imports_at_start(tree):
    """Yields the names that are imported when the module itself is imported."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield from imports_at_start(node)
        elif not isinstance(node, functions):
            yield from imports(node)


def distributions(reader):
    """Returns the distributions that both packages need, by a reader of imports."""
    files = [file for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
    names = {
        name for file in files for name in reader(ast.parse(file.read_text("utf-8")))
    }
    names -= {*sys.stdlib_module_names, *PACKAGES}
    return {DISTRIBUTIONS.get(name, name).replace("_", "-") for name in names}


def test_what_every_import_needs_is_a_dependency():
    assert distributions(imports_at_start) == declared(PROJECT["dependencies"])


def test_what_a_feature_imports_is_in_an_extra():
    extras = declared(sum(EXTRAS.values(), []))
    needed = distributions(imports) - declared(PROJECT["dependencies"])
    assert {"tensorflow", "jax", "scikit-learn", "matplotlib"} <= needed
    assert needed - extras == set()


# KerasHub brings tensorflow-text and others; few models need it. Ray takes a fifth of
# the time of an installation, and is for several machines.
NOT_IN_ALL = {"all", "dev", "docs", "hub", "ray"}


def test_all_has_the_extras_of_every_feature_and_of_the_tests():
    (requirement,) = EXTRAS["all"]
    names = re.fullmatch(r"tf_tickets\[(.+)\]", requirement)[1].split(",")
    assert sorted(names) == sorted(set(EXTRAS) - NOT_IN_ALL)


def test_the_workflow_tries_the_oldest_keras_that_is_promised():
    (oldest,) = re.findall(r"keras>=([\d.]+)", " ".join(PROJECT["dependencies"]))
    assert f'requirement: "keras=={oldest}.*"' in WORKFLOW


def test_the_workflow_tries_every_python_that_is_promised():
    (tried,) = re.findall(r"matrix:\n +python: (.+)\n +keras:", WORKFLOW)
    names = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
    assert json.loads(tried) == names
    assert PROJECT["requires-python"] == f">={names[0]}"


@pytest.mark.parametrize(
    "source, names",
    [
        ("import a, b.c", ["a", "b"]),
        ("from a.b import c", ["a"]),
        ("def f():\n import a", ["a"]),
        ("importlib.import_module('a.b')", ["a"]),
        ("x = _import('a').b", ["a"]),
        ("importlib.util.find_spec('a')", ["a"]),
        ("f('a'); importlib.import_module(a)", []),
    ],
)
def test_every_way_to_import_is_seen(source, names):
    assert list(imports(ast.parse(source))) == names


def test_imports_in_functions_are_not_at_the_start():
    tree = ast.parse("import a\nif a:\n import b\ndef f():\n import c")
    assert list(imports_at_start(tree)) == ["a", "b"]


def test_the_citation_names_the_version_and_the_licence():
    text = (ROOT / "CITATION.cff").read_text("utf-8")
    fields = dict(re.findall(r"^([\w-]+): *(.+)$", text, re.M))
    assert fields["cff-version"] == "1.2.0"
    assert fields["version"] == tf_tickets.__version__
    assert fields["license"] == PROJECT["license"]


def test_the_changelog_has_a_section_of_the_version():
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    sections = re.findall(r"^## \[(.+?)\]", text, re.M)
    assert sections[:2] == ["Unreleased", tf_tickets.__version__]
