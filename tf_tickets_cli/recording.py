"""Writes the settings of a run beside its results."""

import argparse
import os
import pathlib
import sys
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
