"""Which versions a result was made with."""

import platform

import keras
import numpy as np

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
