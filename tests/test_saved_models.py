"""The examples in saved_models/ match their README."""

import json
import pathlib
import re

import keras
import numpy as np
import pytest
import tiny

import tf_tickets as tt

ROOT = pathlib.Path(__file__).parent.parent
HOME = ROOT / "saved_models"
MADE = json.loads((ROOT / "benchmarks/results/saved_models.json").read_text())
ON_TENSORFLOW = keras.config.backend() == "tensorflow"


@pytest.fixture(scope="module")
def digits():
    return tt.datasets.load("digits")


def told(name):
    """Returns the measurements of an example, and its rows by file."""
    (result,) = (one for one in MADE["examples"] if one["dataset"] == name)
    return result, {row["file"]: row for row in result["rows"]}


def right(logits, labels):
    return int((np.asarray(logits).argmax(1) == labels).sum())


@tiny.needs_keras_3_15
def test_the_keras_files_have_the_zeros_and_the_accuracy_that_is_told(digits):
    for name in ("digits", "mnist"):
        actual, rows = told(name)
        path = HOME / f"{name}-lenet300" / "lenet.keras"
        model = keras.saving.load_model(path)
        assert path.stat().st_size == rows["lenet.keras"]["bytes"]
        kernels = [w for w in model.get_weights() if w.ndim > 1]
        zeros = sum(int((w == 0).sum()) for w in kernels)
        assert zeros / sum(w.size for w in kernels) >= actual["sparsity"]
    path = HOME / "digits-lenet300" / "lenet.keras"
    answers = keras.saving.load_model(path)(digits.x_test, training=False)
    expected = told("digits")[1]["lenet.keras"]["accuracy"] * len(digits.y_test)
    # Backends round differently.
    assert abs(right(answers, digits.y_test) - expected) <= 1


@pytest.mark.skipif(not ON_TENSORFLOW, reason="TensorFlow's own formats")
def test_the_other_files_are_as_accurate_as_is_told(digits):
    import tensorflow as tf
    from ai_edge_litert.interpreter import Interpreter

    rows = told("digits")[1]
    served = tf.saved_model.load(HOME / "digits-lenet300" / "serve")
    actual = served.signatures["serving_default"](image=tf.constant(digits.x_test))
    expected = round(rows["serve"]["accuracy"] * len(digits.y_test))
    assert right(actual["output_0"], digits.y_test) == expected
    lite = Interpreter(str(HOME / "digits-lenet300" / "lenet.tflite"))
    actual = lite.get_signature_runner("serving_default")(image=digits.x_test)
    assert right(actual["output_0"], digits.y_test) == expected


def test_the_readme_tells_what_was_measured():
    text = (HOME / "README.md").read_text("utf-8")
    table = re.findall(r"^\| `(\S+)-lenet300/(\S+)` \|.*$", text, re.M)
    assert len(table) == sum(len(one["rows"]) for one in MADE["examples"])
    for one in MADE["examples"]:
        for row in one["rows"]:
            cells = f"{row['bytes']:,} | {row['gzipped']:,} | {row['accuracy']:.2%}"
            assert cells in text, row
