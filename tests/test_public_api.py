"""The structure of the package: names and imports, read from the source."""

import ast
import graphlib
import importlib.util
import inspect
import os
import pathlib
import subprocess
import sys

import pytest

import tf_tickets

pytestmark = pytest.mark.turns

PACKAGE = pathlib.Path(tf_tickets.__file__).parent

# The subpackages, and the modules next to them. Each imports only from those before it.
ROOMS = [
    "environment",
    "keras_internals",
    "xla",
    "distribution",
    "arguments",
    "configuration",
    "schema",
    "files",
    "ranking",
    "augmentation",
    "optimizers",
    "masks",
    "units",
    "structures",
    "wrapping",
    "reports",
    "compaction",
    "distillation",
    "training",
    "pruning",
    "tickets",
    "experiments",
    "callbacks",
    "search",
    "analysis",
    "exporting",
    "fine_tuning",
    "tfmot",
    "__init__",
]

# Keras calls these with its own arguments.
KERAS_CALLS = {
    *("build", "build_from_config", "get_build_config", "get_config", "from_config"),
    *("compute_mask", "compute_output_shape", "compute_output_spec"),
    *("get_current_value", "add_update"),
    *("on_train_begin", "on_train_end", "on_epoch_begin", "on_epoch_end"),
    *("on_train_batch_begin", "on_train_batch_end"),
    *("on_test_begin", "on_test_end"),
    *("call", "compute_loss", "load_own_variables", "save_own_variables"),
}


def name_of(file):
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


MODULES = {name_of(file): file for file in sorted(PACKAGE.rglob("*.py"))}
SOURCES = {name: file.read_text("utf-8") for name, file in MODULES.items()}
TREES = {name: ast.parse(source) for name, source in SOURCES.items()}


def room(module):
    return module.partition(".")[0]


def imported_names(tree):
    """Returns all imports of a module; `from a import b` is `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_modules(tree):
    """Returns the modules of this package that a module imports from."""
    for name in imported_names(tree):
        first, *parts = name.split(".")
        inner = [".".join(parts[:end]) for end in range(len(parts), 0, -1)]
        if first == "tf_tickets":
            yield next((part for part in inner if part in MODULES), "__init__")


def public_functions(tree):
    """Yields a module's functions and its public classes' methods, with `__init__`."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from (f for f in public_functions(node) if f.name not in KERAS_CALLS)
        public = isinstance(node, ast.FunctionDef) and (
            node.name == "__init__" or not node.name.startswith("_")
        )
        if public:
            yield node


def bare_parts(function):
    """Returns arguments without annotation, and "return" if it has none."""
    given = function.args
    arguments = [*given.posonlyargs, *given.args, *given.kwonlyargs]
    arguments += [a for a in (given.vararg, given.kwarg) if a is not None]
    bare = [a.arg for a in arguments if a.annotation is None]
    bare = [name for name in bare if name not in ("self", "cls")]
    return bare + ["return"] * (function.returns is None)


def test_all_lists_names_that_exist_in_sorted_order():
    names = tf_tickets.__all__
    assert names == sorted(set(names))
    assert [name for name in names if name not in vars(tf_tickets)] == []


def test_all_lists_every_public_name_that_the_package_imports():
    imported = {
        alias.asname or alias.name
        for node in TREES["__init__"].body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert {n for n in imported if not n.startswith("_")} <= set(tf_tickets.__all__)


# The modules that users reach as `tt.<name>`.
PUBLIC = {
    name: vars(tf_tickets)[name]
    for name in tf_tickets.__all__
    if inspect.ismodule(vars(tf_tickets)[name])
}


def test_public_modules_are_found():
    assert {"allocation", "controls", "layers", "masks", "snapshots"} <= set(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_module_lists_its_names_in_sorted_order(name):
    names = PUBLIC[name].__all__
    assert names == sorted(set(names))
    assert [name for name in names if name.startswith("_")] == []
    assert [n for n in names if n not in vars(PUBLIC[name])] == []


@pytest.mark.parametrize("name", PUBLIC)
def test_what_a_public_module_lists_has_an_example(name):
    result = [vars(PUBLIC[name])[n] for n in PUBLIC[name].__all__]
    # Base classes need no examples; their subclasses have them.
    bases = {
        base for kind in result if inspect.isclass(kind) for base in kind.__mro__[1:]
    }
    without = [x.__name__ for x in result if ">>> " not in (x.__doc__ or "")]
    assert set(without) <= {base.__name__ for base in bases}


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_module_lists_what_nothing_in_the_package_uses(name):
    """Checks `__all__`: a name that the package does not use must be listed there."""
    module = PUBLIC[name].__name__.removeprefix("tf_tickets.")
    unlisted = public_names(TREES[module]) - set(PUBLIC[name].__all__)
    unused = [n for n in sorted(unlisted) if not is_used(n, module)]
    assert unused == [], "List it in `__all__`, or remove it."


def public_names(tree):
    """Returns the public functions and classes that a module defines."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    names = {node.name for node in tree.body if isinstance(node, kinds)}
    return {name for name in names if not name.startswith("_")}


def is_used(name, module):
    """Returns whether the package reads or imports a module's function or class."""
    if any(isinstance(n, ast.Name) and n.id == name for n in ast.walk(TREES[module])):
        return True
    full = f"tf_tickets.{module}"
    for tree in TREES.values():
        imported = set(imported_names(tree))
        if f"{full}.{name}" in imported or (full in imported and reads(tree, name)):
            return True
    return False


def reads(tree, name):
    nodes = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute))
    return any(node.attr == name for node in nodes)


@pytest.mark.parametrize(
    "name, module, used",
    [
        ("movement", "pruning.criteria", False),
        ("twin", "optimizers", True),
        ("Ticket", "tickets.ticket", True),
        ("ReadOverlay", "wrapping.prunable", True),
        ("absent", "wrapping.prunable", False),
    ],
)
def test_a_use_in_the_package_is_seen(name, module, used):
    assert is_used(name, module) == used


def test_every_room_has_its_place():
    assert {room(module) for module in MODULES} == set(ROOMS)


@pytest.mark.parametrize("module", MODULES)
def test_a_room_imports_only_from_rooms_before_it(module):
    allowed = ROOMS[: ROOMS.index(room(module)) + 1]
    assert [m for m in own_modules(TREES[module]) if room(m) not in allowed] == []


def test_modules_do_not_import_each_other_in_a_circle():
    graph = {module: set(own_modules(TREES[module])) - {module} for module in MODULES}
    # A package imports its modules, which do not depend on the package itself.
    packages = {m for m in MODULES if MODULES[m].name == "__init__.py"}
    for module in MODULES:
        graph[module] -= {p for p in packages if module.startswith(f"{p}.")}
    graphlib.TopologicalSorter(graph).prepare()


@pytest.mark.parametrize(
    "source, module",
    [
        ("import tf_tickets", "__init__"),
        ("import tf_tickets.files", "files"),
        ("from tf_tickets import IMP", "__init__"),
        ("def f():\n    from tf_tickets.wrapping import paths", "wrapping.paths"),
        ("from tf_tickets.wrapping.paths import walk", "wrapping.paths"),
    ],
)
def test_every_way_to_import_is_seen(source, module):
    assert list(own_modules(ast.parse(source))) == [module]


@pytest.mark.parametrize("module", MODULES)
def test_a_module_uses_public_interfaces_only(module):
    private = ("keras.src", "tensorflow.python")
    used = [n for n in imported_names(TREES[module]) if n.startswith(private)]
    assert used == []
    assert [name for name in private if name in SOURCES[module]] == []


@pytest.mark.parametrize("module", MODULES)
def test_the_library_does_not_import_its_command_line(module):
    used = [n for n in imported_names(TREES[module]) if n.startswith("tf_tickets_cli")]
    assert used == []


@pytest.mark.on("jax")
def test_importing_the_package_under_jax_does_not_import_tensorflow():
    pytest.importorskip("jax")
    names = ("tensorflow", "tf_keras", "tensorflow_model_optimization")
    program = "import sys, tf_tickets.tfmot; "
    program += f"print([name in sys.modules for name in {names}])"
    environment = os.environ | {
        "KERAS_BACKEND": "jax",
        "PYTHONPATH": str(PACKAGE.parent),
    }
    output = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert output.stdout.strip() == "[False, False, False]", output.stderr


@pytest.mark.skipif(importlib.util.find_spec("torch"), reason="PyTorch is there")
def test_a_missing_backend_is_named_with_what_to_do():
    environment = os.environ | {
        "KERAS_BACKEND": "torch",
        "PYTHONPATH": str(PACKAGE.parent),
    }
    command = [sys.executable, "-c", "import tf_tickets"]
    output = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert "Keras requires the backend 'torch'" in output.stderr
    assert "Set KERAS_BACKEND=jax" in output.stderr


@pytest.mark.parametrize("module", MODULES)
def test_public_functions_and_methods_are_annotated(module):
    bare = {f.name: bare_parts(f) for f in public_functions(TREES[module])}
    assert {name: parts for name, parts in bare.items() if parts} == {}


@pytest.mark.parametrize(
    "source, bare",
    [
        ("def f(a, b: int): pass", [["a", "return"]]),
        ("def f(*a, b: int = 1, **c) -> None: pass", [["a", "c"]]),
        ("class C:\n def __init__(self, a) -> None: pass", [["a"]]),
        ("class C:\n def on_epoch_end(self, epoch, logs=None): pass", []),
        ("class C:\n def _f(self): pass\ndef _g(): pass", []),
        ("def f(a: int) -> int: pass", [[]]),
    ],
)
def test_every_missing_annotation_is_seen(source, bare):
    assert [bare_parts(f) for f in public_functions(ast.parse(source))] == bare
