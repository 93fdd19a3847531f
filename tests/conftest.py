import keras
import pytest


@pytest.fixture(autouse=True)
def seed():
    keras.utils.set_random_seed(0)


@pytest.fixture(autouse=True)
def float32_policy():
    before = keras.config.dtype_policy()
    yield
    keras.config.set_dtype_policy(before)
