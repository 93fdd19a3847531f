import os
import tempfile

import pytest

# The tests compile the same small programs again and again: JAX, in the workers and in
# the processes that they start, compiles each of them once. Keras, which imports JAX,
# must be imported after this.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    compiled = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = compiled.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

# Small programs take longer to optimize than to run, too.
if os.environ.get("KERAS_BACKEND") == "jax":
    os.environ.setdefault(
        "XLA_FLAGS",
        "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
    )


def pytest_configure(config):
    """TensorFlow takes longer to optimize the small graphs of tests than to run."""
    if os.environ.get("KERAS_BACKEND", "tensorflow") == "tensorflow":
        import tensorflow as tf

        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


@pytest.fixture(autouse=True)
def seed():
    import keras

    keras.utils.set_random_seed(0)


@pytest.fixture(autouse=True)
def float32_policy():
    import keras

    before = keras.config.dtype_policy()
    yield
    keras.config.set_dtype_policy(before)
