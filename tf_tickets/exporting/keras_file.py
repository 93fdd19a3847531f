"""Loads `.keras` files, and writes compressed ones, which Keras does not write."""

import json
import os
import pathlib
import re
import zipfile
from collections.abc import Iterator
from typing import Any

import keras

from tf_tickets import files
from tf_tickets.wrapping import compiling

# How Keras begins an error about a class or function that it does not know.
_UNKNOWN = re.compile(r"Could not locate (class|function) '([^']+)'")


def load(path: os.PathLike | str, compile: bool = True) -> keras.Model:
    """Loads a model; an error names the file, and classes that Keras does not know.

    Args:
        path: Path of the file.
        compile: As in `keras.saving.load_model`.

    Example:

    >>> load(tmp_path / "a.keras")
    Traceback (most recent call last):
    FileNotFoundError: There is no file .../a.keras. Pass the path of a .keras file.
    """
    if not pathlib.Path(path).is_file():
        raise FileNotFoundError(
            f"There is no file {path}. Pass the path of a .keras file."
        )
    remedy = "The file may be damaged; use another copy, or save the model again."
    with files.reading(path, "a Keras model", remedy):
        try:
            return keras.saving.load_model(path, compile=compile)
        except (TypeError, ValueError) as error:
            unknown = _UNKNOWN.search(str(error))
            if unknown is None:
                raise
    kind, name = unknown.groups()
    raise ValueError(
        f"{path} has the {kind} {name!r}, which is not registered in this program. "
        "Register it with @keras.saving.register_keras_serializable() and import its "
        "module first. Or pass a function that returns the model, as in "
        "file.py:function on the command line."
    )


def save_for_inference(model: keras.Model, path: os.PathLike | str) -> None:
    """Saves a model without its optimizer, losses and metrics.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
    >>> model.compile("adam", "mse")
    >>> save_for_inference(model, tmp_path / "a.keras")
    >>> keras.saving.load_model(tmp_path / "a.keras").compiled, model.compiled
    (False, True)
    """
    with compiling.as_if_not_compiled(model):
        model.save(path)


def deflate(stored: os.PathLike | str, path: os.PathLike | str) -> None:
    """Writes a compressed copy of a `.keras` file.

    Args:
        stored: Path of a file saved by Keras.
        path: Path of the compressed file.

    Example:

    >>> model = keras.Sequential([keras.Input((100,)), keras.layers.Dense(100)])
    >>> model.set_weights([np.eye(100), np.zeros(100)])
    >>> model.save(tmp_path / "a.keras")
    >>> deflate(tmp_path / "a.keras", tmp_path / "b.keras")
    >>> a, b = ((tmp_path / name).stat().st_size for name in ("a.keras", "b.keras"))
    >>> b < a / 5
    True
    """
    deflated = zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9)
    with zipfile.ZipFile(stored) as old, deflated as new:
        for name in old.namelist():
            with old.open(name) as source, new.open(name, "w", force_zip64=True) as to:
                while block := source.read(1 << 24):
                    to.write(block)


def required_modules(path: os.PathLike | str, advice: str) -> list[str]:
    """Returns the modules to import before a `.keras` file can be loaded.

    Args:
        path: Path of the file.
        advice: What to do if a class exists in the running program only.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
    >>> model.save(tmp_path / "a.keras")
    >>> required_modules(tmp_path / "a.keras", "pass verify=False")
    []
    """
    with zipfile.ZipFile(path) as file:
        found = dict(_objects(json.loads(file.read("config.json"))))
    unknown = sorted(name for name, module in found.items() if module == "__main__")
    if unknown:
        raise ValueError(
            f"Another process cannot load {unknown}. Define them in a module, not in "
            "the program itself, and register them there by "
            f"keras.saving.register_keras_serializable, or {advice}."
        )
    known = ("keras", "builtins", "tf_tickets")
    return sorted({m for m in found.values() if m.split(".")[0] not in known})


def _objects(config: Any) -> Iterator[tuple[str, str]]:
    """Yields registered names in a configuration, each with its module.

    The module is "__main__" if another process cannot find the object.
    """
    if isinstance(config, dict):
        if isinstance(config.get("registered_name"), str):
            yield _object(config)
        # Files are loaded without their losses and metrics.
        config = [part for key, part in config.items() if key != "compile_config"]
    if isinstance(config, list):
        for value in config:
            yield from _objects(value)


def _object(config):
    name, module = config["registered_name"], config.get("module") or "__main__"
    if name == "function":
        name, module = config["config"], "__main__"
    registered = keras.saving.get_registered_object(name)
    if registered is not None and ">" in name:
        # Otherwise it is known in the scope of `custom_objects` only.
        return name, registered.__module__
    return name, module if module.split(".")[0] == "keras" else "__main__"
