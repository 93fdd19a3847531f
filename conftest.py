"""What the docstring examples find without importing it, and where they run."""

import zlib

import pytest

# What is imported here, the process that only hands out the tests would import, too.


@pytest.fixture(autouse=True)
def _names_of_the_examples(doctest_namespace, tmp_path):
    import keras
    import numpy as np

    import tf_tickets as tt

    doctest_namespace.update(np=np, keras=keras, tt=tt, tmp_path=tmp_path)


def pytest_collection_modifyitems(config, items):
    """Where everything is run, each docstring example runs on one of the backends.

    What it shows is tested on both; a file that is named is run with all its examples.
    """
    if config.option.file_or_dir or config.option.keyword:
        return
    import keras

    turn = keras.config.backend() == "tensorflow"
    left = [x for x in items if isinstance(x, pytest.DoctestItem) and _turn(x) != turn]
    config.hook.pytest_deselected(items=left)
    out = set(map(id, left))
    items[:] = [item for item in items if id(item) not in out]


def _turn(item):
    return bool(zlib.crc32(item.nodeid.encode()) % 2)
