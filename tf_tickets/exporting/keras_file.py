"""`.keras` files that are deflated; Keras itself only stores, and loads both."""

import os
import pathlib
import zipfile

import keras


def write(model: keras.Model, path: os.PathLike | str, compress: bool = True) -> None:
    """Saves a model in a file that is compressed.

    Args:
        model: The model.
        path: Ends in `.keras`.
        compress: False for what Keras itself writes.

    Example:

    >>> model = keras.Sequential([keras.Input((100,)), keras.layers.Dense(100)])
    >>> write(model, tmp_path / "a.keras", compress=False)
    >>> model.set_weights([np.eye(100), np.zeros(100)])
    >>> write(model, tmp_path / "b.keras")
    >>> a, b = ((tmp_path / name).stat().st_size for name in ("a.keras", "b.keras"))
    >>> b < a / 5
    True
    """
    path = pathlib.Path(path)
    model.save(path)
    if not compress:
        return
    stored = path.rename(path.with_suffix(".stored"))
    deflated = zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9)
    with zipfile.ZipFile(stored) as old, deflated as new:
        for name in old.namelist():
            with old.open(name) as source, new.open(name, "w", force_zip64=True) as to:
                while block := source.read(1 << 24):
                    to.write(block)
    stored.unlink()
