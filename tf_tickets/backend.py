"""Imports Keras before anything else does, and says what to do where it cannot."""

try:
    import keras  # noqa: F401
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
