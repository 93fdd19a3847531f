"""Reads the `.h5` files of tf_keras and of Keras before version 3, without either."""

import contextlib
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np

from tf_tickets.tfmot.weights import Named, base_name


def read(path: pathlib.Path) -> tuple[dict[str, Any], dict[str, list[Named]]]:
    """Reads a file.

    Args:
        path: A `.h5` file with a whole model.

    Returns:
        The configuration of the model, and a dict from the name of a layer or nested
        model to its weights.
    """
    with _opened(path) as file:
        config = file.attrs.get("model_config")
        if config is None or "model_weights" not in file:
            raise ValueError(
                f"{path} must contain a whole model. Received: a file without "
                f"{'a configuration' if config is None else 'weights'}. Save it with "
                "model.save(path), not with save_weights."
            )
        if _text(file.attrs.get("keras_version", "")).startswith("3."):
            raise ValueError(
                f"{path} must come from tf_keras or Keras 2. Received: a file of Keras "
                "3. Load it by keras.saving.load_model(path)."
            )
        described = json.loads(config)
        group = file["model_weights"]
        weights = {name: _weights(group[name]) for name in _texts(group, "layer_names")}
    return described, weights


@contextlib.contextmanager
def _opened(path) -> Iterator[h5py.File]:
    """Opens a file; what h5py raises about its content becomes one kind of error."""
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no file {path}. Pass the path of a model that was saved by "
            "model.save(path)."
        )
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (
        *(OSError, KeyError, RuntimeError),
        *(UnicodeDecodeError, json.JSONDecodeError),
    ) as error:
        raise ValueError(
            f"{path} is no readable .h5 file of Keras: {error}. It may be damaged; use "
            "another copy."
        ) from error


def _weights(group):
    names = _texts(group, "weight_names")
    return [(base_name(name), np.asarray(group[name])) for name in names]


def _texts(group, name):
    """Returns an attribute with texts, which long lists store in numbered parts."""
    parts = [name] if name in group.attrs else _numbered(group, name)
    texts = [text for part in parts for text in group.attrs[part]]
    return [_text(text) for text in texts]


def _text(text):
    return text.decode() if isinstance(text, bytes) else str(text)


def _numbered(group, name):
    parts: list[str] = []
    while f"{name}{len(parts)}" in group.attrs:
        parts.append(f"{name}{len(parts)}")
    return parts
