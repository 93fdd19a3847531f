"""ONNX files, by Keras's own export."""

import importlib.util
import os

import keras

_NEEDED = ("onnx", "onnxruntime")


def check_installed() -> None:
    """Refuses where a package is missing, and says how to get it."""
    needed = [*_NEEDED, "tf2onnx"] if _on_tensorflow() else list(_NEEDED)
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f"format='onnx' needs {', '.join(missing)}, which are not installed: "
            f"pip install {' '.join(missing)}"
        )


def write(model: keras.Model, path: os.PathLike | str) -> None:
    """Writes a plain model; its zeros are stored like other numbers.

    Args:
        model: A functional or Sequential model.
        path: Where to.
    """
    model.export(os.fspath(path), format="onnx", verbose=False)


def _on_tensorflow():
    return keras.config.backend() == "tensorflow"
