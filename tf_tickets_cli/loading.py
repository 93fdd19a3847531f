"""Loads the files that a command is given; each error names the file."""

import pathlib

import keras

from tf_tickets import files


def load_model(file: str, compile: bool = True) -> keras.Model:
    """Loads a `.keras` file.

    Args:
        file: Its path.
        compile: As in `keras.saving.load_model`.
    """
    if not pathlib.Path(file).is_file():
        raise FileNotFoundError(
            f"There is no file {file}. Pass the path of a .keras file."
        )
    remedy = "The file may be damaged; use another copy, or save the model again."
    with files.reading(file, "a Keras model", remedy):
        return keras.saving.load_model(file, compile=compile)
