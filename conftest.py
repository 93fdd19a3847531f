"""What the docstring examples find without importing it."""

import keras
import numpy as np
import pytest

import tf_tickets as tt


@pytest.fixture(autouse=True)
def _names_of_the_examples(doctest_namespace, tmp_path):
    doctest_namespace.update(np=np, keras=keras, tt=tt, tmp_path=tmp_path)
