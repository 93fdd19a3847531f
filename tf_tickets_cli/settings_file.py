"""Settings of a command in a TOML file.

A file has the options of a command by their long names, such as `batch-size = 32`.
Every result has such a file beside it, with which the run can be repeated.
"""

import argparse
import json
import os
import pathlib
import tomllib
from collections.abc import Sequence
from typing import Any

NAME = "settings.toml"
# Keys that say where a file comes from.
_ORIGIN = ("command", "version", "backend")
# Options that are no settings of a run.
_DIAGNOSTICS = ("settings", "backend_logs", "traceback", "help")
# Options that a file may give as a table, from a pattern of kernels to a number.
_TABLES = ("rate",)


def read(
    path: str, command: str, parser: argparse.ArgumentParser
) -> tuple[dict[str, Any], dict[str, str]]:
    """Returns the options in a file, and where the file comes from.

    Args:
        path: The file.
        command: The command that reads it.
        parser: The parser of the command.

    Example:

    >>> parser = argparse.ArgumentParser()
    >>> action = parser.add_argument("--batch-size", type=int)
    >>> length = (tmp_path / "a.toml").write_text("batch-size = 8")
    >>> read(str(tmp_path / "a.toml"), "search", parser)
    ({'batch_size': 8}, {})
    """
    file = pathlib.Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"--settings: there is no file {path}.")
    table = content(file)
    origin = {key: table.pop(key) for key in _ORIGIN if key in table}
    if origin.get("command", command) != command:
        raise ValueError(
            f"{path} has the settings of tf-tickets {origin['command']}. Received by: "
            f"tf-tickets {command}. Run tf-tickets {origin['command']}, or remove the "
            "line command."
        )
    actions = _settable(parser)
    values: dict[str, Any] = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name not in actions:
            known = ", ".join(sorted(n.replace("_", "-") for n in actions))
            raise ValueError(
                f"{path} has the unknown setting {key!r}. Settings of tf-tickets "
                f"{command}: {known}."
            )
        values[name] = _checked(value, actions[name], f"{path}: {key}")
    return values, origin


def content(path: os.PathLike | str) -> dict[str, Any]:
    """Returns all that a TOML file has.

    Args:
        path: The file.
    """
    try:
        return tomllib.loads(pathlib.Path(path).read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} is not a TOML file: {error}. Expected lines such as batch-size = "
            "32."
        ) from error


def applied(
    parser: argparse.ArgumentParser,
    commands: dict[str, argparse.ArgumentParser],
    options: argparse.Namespace,
    words: Sequence[str] | None = None,
) -> argparse.Namespace:
    """Returns the options, with those of `--settings` where the command line has none.

    Args:
        parser: The parser of all commands.
        commands: The parser of each command.
        options: The parsed command line.
        words: Its words; by default those of this process.
    """
    path = getattr(options, "settings", None)
    if path is None:
        return options
    command = commands[options.command]
    values, origin = read(path, options.command, command)
    command.set_defaults(**values)
    options = parser.parse_args(words)
    options.origin = origin
    return options


def changed_origin(origin: dict[str, str], here: dict[str, str]) -> str | None:
    """Returns a warning if a file was written by another version or backend.

    Args:
        origin: Where the file comes from.
        here: The version and the backend of this run.

    Example:

    >>> changed_origin({"backend": "jax"}, {"backend": "jax", "version": "1.0"})
    >>> changed_origin({"backend": "jax"}, {"backend": "tensorflow"})
    'The settings are of a run with backend jax (here: tensorflow), ...'
    """
    rows = [
        f"{key} {origin[key]} (here: {value})"
        for key, value in here.items()
        if origin.get(key, value) != value
    ]
    if not rows:
        return None
    return (
        f"The settings are of a run with {', '.join(rows)}, so results may differ from "
        "it."
    )


def text_of(
    command: str, options: argparse.Namespace, effective: dict[str, Any]
) -> str:
    """Returns the settings of a run as TOML.

    Args:
        command: The command.
        options: The parsed options. Those that the command lacks are left out.
        effective: The effective values by option; None for options without effect.

    Example:

    >>> options = argparse.Namespace(command="search", epochs=None, out="a")
    >>> print(text_of("search", options, {"epochs": 3, "width": 1.0}))
    command = "search"
    epochs = 3
    out = "a"
    """
    lines = [f"command = {_written(command)}"]
    for key in ("version", "backend"):
        if key in effective:
            lines.append(f"{key} = {_written(effective[key])}")
    for name, given in vars(options).items():
        if name in (*_DIAGNOSTICS, *_ORIGIN, "origin"):
            continue
        value = effective.get(name, given)
        if value is not None:
            lines.append(f"{name.replace('_', '-')} = {_written(value)}")
    return "\n".join(lines)


def full_path(path: os.PathLike | str) -> str:
    """Returns an absolute path, which means the same in every folder."""
    return os.path.abspath(os.path.expanduser(path))


def _settable(parser):
    """Returns the options that a file may set, by the name of their attribute."""
    return {
        action.dest: action
        for action in parser._actions
        if action.dest not in _DIAGNOSTICS and action.help != argparse.SUPPRESS
    }


def _checked(value, action, where):
    if action.nargs == 0:
        return _of_type(value, bool, "true or false", where)
    if isinstance(value, dict) and action.dest in _TABLES:
        return {
            pattern: _of_type(number, float, "a number", f"{where}.{pattern}")
            for pattern, number in value.items()
        }
    if action.nargs in ("+", "*") or isinstance(action.nargs, int):
        items = _of_type(value, list, "a list", where)
        return [_single(item, action, where) for item in items]
    return _single(value, action, where)


def _single(value, action, where):
    words = {int: "a whole number", float: "a number", str: "a text"}
    kind = action.type or str
    value = _of_type(value, kind, words[kind], where)
    if action.choices is not None and value not in action.choices:
        raise ValueError(
            f"{where} must be one of {', '.join(action.choices)}. Received: {value!r}"
        )
    return value


def _of_type(value, kind, expected, where):
    whole = isinstance(value, int) and not isinstance(value, bool)
    if kind is float and whole:
        return float(value)
    if type(value) is not kind:
        raise ValueError(f"{where} must be {expected}. Received: {value!r}")
    return value


def _written(value):
    """Returns a value as TOML, whose strings, numbers and lists are those of JSON."""
    if isinstance(value, dict):
        pairs = (f"{_written(key)} = {_written(item)}" for key, item in value.items())
        return f"{{ {', '.join(pairs)} }}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_written, value))}]"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
