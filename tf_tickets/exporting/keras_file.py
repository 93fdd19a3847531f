"""Writes compressed `.keras` files, which Keras loads but does not write itself."""

import os
import zipfile

import keras

from tf_tickets.wrapping import rebuilding


def save_for_inference(model: keras.Model, path: os.PathLike | str) -> None:
    """Saves a model without its optimizer, losses and metrics.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
    >>> model.compile("adam", "mse")
    >>> save_for_inference(model, tmp_path / "a.keras")
    >>> keras.saving.load_model(tmp_path / "a.keras").compiled, model.compiled
    (False, True)
    """
    with rebuilding.as_if_not_compiled(model):
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
