"""Functions that an option refers to as module:function or file.py:function."""

import importlib
import inspect
import os
import pathlib
import sys
from collections.abc import Callable
from typing import Any


def is_reference(text: str) -> bool:
    """Returns whether an option's text refers to a function.

    Example:

    >>> is_reference("project.models:build"), is_reference("images.npz")
    (True, False)
    """
    module, colon, name = text.rpartition(":")
    return bool(colon and module and name.isidentifier())


def resolve(text: str, option: str) -> Callable[..., Any]:
    """Returns the function that an option refers to.

    Modules are looked for in the current folder first.

    Args:
        text: "module:function" or "file.py:function".
        option: Name of the option in messages.

    Example:

    >>> resolve("math:sqrt", "--model")(4)
    2.0
    """
    place, _, name = text.rpartition(":")
    module = _file_module(place, option) if place.endswith(".py") else _module(place)
    function = getattr(module, name, None)
    if not callable(function):
        public = [n for n, value in vars(module).items() if inspect.isfunction(value)]
        raise ValueError(
            f"{option} {text}: {place} has no function {name}. Found: "
            f"{', '.join(sorted(public)) or 'no functions'}."
        )
    return function


def call(function: Callable[..., Any], values: dict[str, Any], text: str) -> Any:
    """Calls a function with those values that it has parameters for.

    Args:
        function: The function.
        values: Values by the name of a parameter. A None is not known, and refused if
            the function needs it.
        text: The option and its text, in messages.

    Example:

    >>> call(lambda a, b=2: (a, b), {"a": 1, "c": 3}, "--model m:f")
    (1, 2)
    """
    parameters = inspect.signature(function).parameters
    known = {name: value for name, value in values.items() if value is not None}
    needed = [
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    missing = [name for name in needed if name not in known]
    if missing:
        unknown = [name for name in missing if name in values]
        reason = (
            f"the data do not say what {', '.join(unknown)} is; give it a default"
            if unknown
            else f"it may have the parameters {', '.join(values) or 'none'}"
        )
        raise ValueError(
            f"{text} cannot be called without {', '.join(missing)}: {reason}."
        )
    return function(**{n: value for n, value in known.items() if n in parameters})


def _module(name):
    _look_in(os.getcwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and not f"{name}.".startswith(f"{error.name}."):
            raise
        raise ModuleNotFoundError(
            f"There is no module {name}. Modules are looked for in the current folder "
            "and among installed packages; a file is named with its suffix, as in "
            "file.py:function."
        ) from error


def _file_module(place, option):
    path = pathlib.Path(place).expanduser().resolve()
    if not path.is_file():
        raise FileNotFoundError(f"{option}: there is no file {place}.")
    _look_in(str(path.parent))
    # Its classes have the same module name in every process.
    module = importlib.import_module(path.stem)
    origin = getattr(module, "__file__", None)
    if origin is None or pathlib.Path(origin).resolve() != path:
        raise ValueError(
            f"{option}: {place} has the name of another module, {path.stem} "
            f"({origin or 'built in'}). Rename the file."
        )
    return module


def _look_in(folder):
    """Finds modules in a folder, as `python -m` does in the current one."""
    if folder not in sys.path:
        sys.path.insert(0, folder)
