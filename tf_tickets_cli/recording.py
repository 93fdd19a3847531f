"""Writes the settings of a run beside its results."""

import argparse
import os
import pathlib
import sys
import tomllib
from collections.abc import Callable, Iterable
from typing import Any

import keras

import tf_tickets as tt
from tf_tickets import files
from tf_tickets_cli import settings_file

Watch = Callable[[str], Iterable[keras.callbacks.Callback]]


class Recorder:
    """Writes the settings of a run when its first training begins.

    By then the folder is known to belong to this run: other searches in it are refused
    before they train.

    Args:
        folder: Folder of the results.
        options: The parsed options.
        effective: The effective values by option; None for options without effect.
        name: Name of the file.

    Example:

    >>> options = argparse.Namespace(command="search", out=None, epochs=None)
    >>> recorder = Recorder(tmp_path, options, {"epochs": 3})
    >>> recorder.write()
    >>> "epochs = 3" in (tmp_path / "settings.toml").read_text()
    True
    """

    def __init__(
        self,
        folder: os.PathLike | str,
        options: argparse.Namespace,
        effective: dict[str, Any],
        name: str = settings_file.NAME,
    ) -> None:
        self.path = pathlib.Path(folder) / name
        here = {"version": tt.__version__, "backend": keras.config.backend()}
        warning = settings_file.changed_origin(getattr(options, "origin", {}), here)
        if warning:
            print(f"tf-tickets: warning: {warning}", file=sys.stderr)
        out = options.out if name != settings_file.NAME else folder
        effective = {**effective, "out": settings_file.full_path(out), **here}
        self.text = settings_file.text_of(options.command, options, effective)

    def write(self) -> None:
        """Writes the file, unless it is there."""
        text = (
            f"# Written by tf-tickets. Repeat this run elsewhere:\n"
            f"#   tf-tickets {self._command} --settings {self.path.name} --out NEW\n"
            f"{self.text}\n"
        )
        if self.path.exists() and self.path.read_text("utf-8") == text:
            return
        with files.replacing(self.path) as draft:
            draft.write_text(text, "utf-8")

    def check_same(self, names: Iterable[str]) -> None:
        """Refuses a folder whose results were made with other options.

        Options that only one of the runs gives may have their default in the other, so
        those alone are no reason.

        Args:
            names: The options to compare.

        Example:

        >>> def recorder(**given):
        ...     options = argparse.Namespace(command="search", out=None, **given)
        ...     return Recorder(tmp_path, options, {})
        >>> recorder(epochs=2).write()
        >>> recorder(epochs=2).check_same(["epochs"])
        >>> recorder(epochs=3).check_same(["epochs"])
        Traceback (most recent call last):
        ValueError: ... was written with other options: --epochs: 2 there, 3 here. ...
        """
        if not self.path.is_file():
            return
        old = settings_file.content(self.path)
        new = tomllib.loads(self.text)
        unset = "not given"
        rows = {
            name: f"--{name}: {old.get(name, unset)} there, {new.get(name, unset)} here"
            for name in (name.replace("_", "-") for name in names)
            if old.get(name) != new.get(name)
        }
        if any(name in old and name in new for name in rows):
            raise ValueError(
                f"{self.path.parent} was written with other options: "
                f"{'; '.join(rows.values())}. Use another --out, or the same options."
            )

    @property
    def _command(self):
        return self.text.partition('"')[2].partition('"')[0]

    @property
    def callback(self) -> keras.callbacks.Callback:
        """A callback that writes the file when a training begins."""
        return _Writing(self)

    def watching(self, watch: Watch) -> Watch:
        """Returns a function of a training's name, whose callbacks write the file too.

        Args:
            watch: Function from the name of a training to callbacks.
        """
        return lambda name: [*watch(name), self.callback]


class _Writing(keras.callbacks.Callback):
    changes_results = False

    def __init__(self, recorder):
        super().__init__()
        self.recorder = recorder

    def on_train_begin(self, logs=None):
        self.recorder.write()
