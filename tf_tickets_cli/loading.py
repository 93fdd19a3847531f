"""Loads the files that a command is given; each error names the file."""

import contextlib
import pathlib
from collections.abc import Iterator

import keras
import numpy as np

from tf_tickets import files
from tf_tickets.exporting import keras_file

# Number of examples for calibrating int8 or comparing outputs.
EXAMPLES = 500


def load_model(file: str, compile: bool = True) -> keras.Model:
    """Loads a `.keras` file.

    Args:
        file: Its path.
        compile: As in `keras.saving.load_model`.
    """
    if pathlib.Path(file).suffix == ".ticket":
        raise ValueError(
            f"{file} is a ticket, not a model. Pass a .keras file, such as the "
            "model.keras that tf-tickets search writes beside its tickets. Or apply "
            "the ticket in Python: "
            f"tf_tickets.Ticket.load({file!r}).apply(build_model())."
        )
    return keras_file.load(file, compile)


def load_examples(file: str, name: str) -> np.ndarray:
    """Returns the first examples of an array in an `.npz` file.

    Args:
        file: Its path.
        name: Name of the array.
    """
    remedy = f"Pass a file written by numpy.savez with an array {name}."
    with (
        files.reading(file, "an .npz file", remedy),
        open(file, "rb") as stored,
        np.load(stored) as arrays,
    ):
        if name not in arrays:
            raise ValueError(f"it has no array {name}. Found: {sorted(arrays)}")
        return arrays[name][:EXAMPLES]


@contextlib.contextmanager
def data_option_named() -> Iterator[None]:
    """Names the option in errors that ask for examples, instead of the argument."""
    try:
        yield
    except ValueError as error:
        text = str(error).replace("data=x", "--data FILE.npz")
        raise ValueError(text) from error
