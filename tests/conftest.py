import gc
import os
import platform
import subprocess
import tempfile
import zlib

import pytest

# The tests compile the same small programs many times. With this cache, JAX compiles
# each of them once for all workers and their child processes. Keras imports JAX, so it
# must be imported afterwards.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    compiled = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = compiled.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

# On some processors TensorFlow computes convolutions with oneDNN, which damages memory
# in the training of narrow residual networks (tf_tickets/wrapping/onednn.py).
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"

# Small programs also take longer to optimize than to run, and fusions twice as long to
# compile by their own emitters as by those of single operations. These would contract
# products and sums of one program, but not of another that is to have the same bits;
# AVX has no instructions for that.
if os.environ.get("KERAS_BACKEND") == "jax":
    flags = [
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
        "--xla_cpu_use_fusion_emitters=false",
    ]
    if platform.machine() in ("x86_64", "AMD64"):
        flags.append("--xla_cpu_max_isa=AVX")
    os.environ.setdefault("XLA_FLAGS", " ".join(flags))


def pytest_configure(config):
    if not config.getoption("numprocesses", None):  # Else this process runs no tests.
        disable_graph_optimization()


def disable_graph_optimization():
    """Disables what takes longer than running small graphs, and changes last bits."""
    if os.environ.get("KERAS_BACKEND", "tensorflow") == "tensorflow":
        import tensorflow as tf

        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


def pytest_collection_finish(session):
    """Excludes imported objects from garbage collection, which would be slow."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def stays():
    """Also excludes what a module leaves behind, mostly traces of TensorFlow."""
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def seed():
    import keras

    keras.utils.set_random_seed(0)


@pytest.fixture
def forked_interpreters(request, monkeypatch):
    """Runs exported files in forked interpreters, except in tests marked `fresh`."""
    import warm

    if request.node.get_closest_marker("fresh") is None:
        monkeypatch.setattr(subprocess, "run", warm.run)


@pytest.fixture(autouse=True)
def float32_policy():
    import keras

    before = keras.config.dtype_policy()
    yield
    keras.config.set_dtype_policy(before)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Leaves to the matrix what need not run on this backend by default.

    A test marked `on` is the same on every backend and runs on the named one. The tests
    of a module marked `turns` run on the backend it names, where they are faster, or
    are spread over the backends by their names. Those marked `both`, and those whose
    cases are spread already, run on both.
    """
    import keras

    backend = keras.config.backend()
    spread = {_function(item) for item in items if item.get_closest_marker("matrix")}
    for item in items:
        on, turns = map(item.get_closest_marker, ("on", "turns"))
        if on is not None and on.args != (backend,):
            item.add_marker("matrix")
        elif on is None and turns is not None and _function(item) not in spread:
            both = item.get_closest_marker("both") is not None
            if not both and backend not in (turns.args or _turn(item)):
                item.add_marker("matrix")


def _function(item):
    return item.nodeid.partition("[")[0]


def _turn(item):
    number = zlib.crc32(_function(item).encode())
    return (("tensorflow", "jax")[number % 2],)
