"""Versions and backend. This module imports Keras before any other module does."""

import platform

import numpy as np

try:
    import keras
except ModuleNotFoundError as error:
    missing = (error.name or "").split(".")[0]
    if missing not in ("tensorflow", "jax", "torch"):
        raise
    raise ImportError(
        f"Keras requires the backend {missing!r}, which is not installed. Set "
        "KERAS_BACKEND=jax to use JAX (without this environment variable, Keras uses "
        f"TensorFlow), or install the backend: pip install {missing}"
    ) from error

__version__ = "0.1.0"


def versions() -> dict[str, str]:
    """Returns the versions that are stored in the provenance of a ticket.

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
