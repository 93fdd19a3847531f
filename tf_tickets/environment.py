"""Versions and backend: imports Keras before anything else of this library does."""

import platform

import numpy as np

try:
    import keras
except ModuleNotFoundError as error:
    missing = (error.name or "").split(".")[0]
    if missing not in ("tensorflow", "jax", "torch"):
        raise
    raise ImportError(
        f"Keras wants the backend {missing!r}, which is not installed. Without the "
        "environment variable KERAS_BACKEND it takes TensorFlow. Set "
        "KERAS_BACKEND=jax to use JAX, or install the backend: "
        f"pip install {missing}"
    ) from error

__version__ = "0.1.0"


def versions() -> dict[str, str]:
    """Dict of the versions that a ticket's provenance keeps.

    Example:

    >>> sorted(versions())
    ['backend', 'keras', 'numpy', 'python', 'tf_tickets']
    """
    return {
        "tf_tickets": __version__,
        "keras": keras.__version__,
        "backend": keras.config.backend(),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
