"""What belongs to a search: another model, function or callback is named."""

import os
import re
import subprocess
import sys
import types

import keras
import numpy as np
import pytest
import tiny
from keras import layers as kl

import tf_tickets as tt
from tf_tickets.search import identity, inputs
from tf_tickets.search.model_identity import digest_of, identity_of_model


def build(policy="float32", activation="relu", rate=0.3, units=3, **layer):
    """Builds a graph with a nested model, an operation and layers without names."""
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(policy)
    inputs = keras.Input((6,))
    inner = keras.Sequential([keras.Input((6,)), kl.Dense(6, activation, **layer)])
    x = kl.Dropout(rate)(inner(inputs)) * 2.0
    return keras.Model(inputs, kl.Dense(units)(x))


def compiled(model, loss="mse", **kwargs):
    model.compile("sgd", loss, **kwargs)
    return identity_of_model(model)


def differences(one, other):
    return identity.differences(
        identity.without_names(one), identity.without_names(other)
    )


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_two_builds_of_one_model_are_equal(policy):
    assert differences(compiled(build(policy)), compiled(build(policy))) == []


@pytest.mark.parametrize(
    "change, name",
    [
        ({"activation": "tanh"}, "activation: 'relu' there, 'tanh' here"),
        ({"rate": 0.4}, "Dropout.config.rate: 0.3 there, 0.4 here"),
        ({"kernel_regularizer": "l2"}, "kernel_regularizer: None there"),
        ({"kernel_initializer": "he_normal"}, "kernel_initializer"),
        ({"use_bias": False}, "use_bias: True there, False here"),
        ({"policy": "mixed_bfloat16"}, "dtype: 'float32' there, 'mixed_bfloat16' here"),
        ({"units": 4}, "units: 3 there, 4 here"),
    ],
)
def test_a_layer_that_differs_is_named(change, name):
    rows = differences(compiled(build()), compiled(build(**change)))
    assert any(name in row for row in rows), rows


@pytest.mark.parametrize(
    "arguments, name",
    [
        ({"loss": "mae"}, "loss: 'mse' there, 'mae' here"),
        ({"loss": keras.losses.Huber(0.5)}, "loss: 'mse' there"),
        ({"metrics": ["mae"]}, "metrics: None there"),
        ({"loss_weights": 2.0}, "loss_weights: None there, 2.0 here"),
        ({"steps_per_execution": 2}, "steps_per_execution: 1 there, 2 here"),
    ],
)
def test_what_a_model_is_compiled_with_is_named(arguments, name):
    rows = differences(compiled(build()), compiled(build(), **arguments))
    assert any(name in row for row in rows), rows


@pytest.mark.parametrize(
    "there, here, message",
    [
        ("channels", tt.Channels(round_to=2), r"config.round_to: 1 there, 2 here"),
        (
            "2:4",
            "4x1",
            r"structure: NM\(n=2, m=4\) there, Blocks\(rows=4, columns=1\) here",
        ),
        ("2:4", "unstructured", r"structure: NM\(n=2, m=4\) there, None here"),
    ],
)
def test_another_structure_is_named_once_for_all_layers(there, here, message):
    rows = differences(
        *(
            compiled(tt.wrap(build(), structure=structure, verbose=False))
            for structure in (there, here)
        )
    )
    text = identity.in_short(row for row in rows if "structure" in row)
    assert re.search(rf"{message} \(in [23] places\)$", text), text
    assert len(text) < 160


def test_a_few_differences_are_shown_and_the_others_counted():
    text = identity.in_short(f"settings.{name}: 1 there, 2 here" for name in "abcdef")
    assert text.count("there") == 4 and text.endswith(
        "and 2 more that may follow from these"
    )


def test_other_first_weights_are_named():
    model = build()
    before = compiled(model)
    model.set_weights([1.1 * weight for weight in model.get_weights()])
    [row] = differences(before, identity_of_model(model))
    assert row.startswith("weights: ")


def test_weights_may_differ_in_their_last_bits():
    model = build()
    before = compiled(model)
    model.set_weights([np.nextafter(w, np.inf) for w in model.get_weights()])
    assert differences(before, identity_of_model(model)) == []


class Own(keras.Model):
    """Has layers that its configuration does not contain."""

    def __init__(self, activation):
        super().__init__()
        self.first = kl.Dense(4, activation=activation)
        self.others = [kl.Dense(2)]

    def call(self, x):
        return self.others[0](self.first(x))


def own(activation):
    keras.utils.set_random_seed(0)
    model = Own(activation)
    model(tiny.data()[0])
    return compiled(model)


def test_layers_of_a_subclassed_model_count():
    assert differences(own("relu"), own("relu")) == []
    [row] = differences(own("relu"), own("tanh"))
    assert "Dense.activation: 'relu' there, 'tanh' here" in row


def from_text(text, lines_before=0):
    scope: dict = {"keras": keras}
    exec("\n" * lines_before + text, scope)
    return next(v for v in scope.values() if isinstance(v, types.FunctionType))


def test_code_is_compared_without_its_place_in_a_file():
    one, moved, other = (
        from_text("def loss(a, b):\n    return [x + 1 for x in a]"),
        from_text("def loss(a, b):\n    return [x + 1 for x in a]", 7),
        from_text("def loss(a, b):\n    return [x + 2 for x in a]"),
    )
    assert digest_of(one) == digest_of(moved)
    assert digest_of(one) != digest_of(other)


def with_a_lambda(function, lines_before=0):
    keras.utils.set_random_seed(0)
    function = from_text(f"f = {function}", lines_before)
    layers = [kl.Lambda(function, output_shape=(6,)), kl.Dense(3)]
    return compiled(keras.Sequential([keras.Input((6,)), *layers]))


def test_layers_of_a_lambda_are_compared_by_their_code():
    one = with_a_lambda("lambda x: x * 2")
    assert differences(one, with_a_lambda("lambda x: x * 2", 7)) == []
    [row] = differences(one, with_a_lambda("lambda x: x * 3"))
    assert "Lambda.config.function" in row


def scaled(by, power=1):
    def scores(weight, offset=power):
        return by * weight + offset

    return scores


def test_values_from_outside_of_a_function_count():
    assert digest_of(scaled(2)) == digest_of(scaled(2))
    assert digest_of(scaled(2)) != digest_of(scaled(3))
    assert digest_of(scaled(2)) != digest_of(scaled(2, power=2))
    arrays = [np.zeros(3), np.zeros(3), np.ones(3)]
    first, same, other = (digest_of(scaled(array)) for array in arrays)
    assert first == same != other


def test_a_function_that_refers_to_itself_has_a_digest():
    def factorial(n):
        return n * factorial(n - 1) if n else 1

    assert digest_of(factorial) == digest_of(factorial)


@pytest.mark.on("jax")
def test_code_is_the_same_in_every_process():
    code = "lambda x: x in {'a', 'b', 'c', 'd', 'e', 'f'}"
    program = (
        "from tf_tickets.search.model_identity import digest_of\n"
        f"print(digest_of({code}))"
    )
    # There, the set has another order than here.
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    printed = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    assert printed.strip() == str(digest_of(eval(code)))


def test_a_callback_without_a_smallest_change_has_settings():
    class Own(keras.callbacks.Callback):
        def __init__(self, min_delta=None):
            super().__init__()
            self.min_delta = min_delta

    [row] = differences(identity_of(tt.IMP(2, 1)), identity_of(tt.IMP(2, 1), [Own()]))
    assert row == "callbacks.0 Own: None there, {'min_delta': None} here"


def criterion(text):
    return from_text(f"def scores(weight):\n    return {text}")


def identity_of(search, callbacks=()):
    keras.utils.set_random_seed(0)
    model = search.wrap(tiny.build_compiled(), verbose=False)
    opened = inputs.Inputs((tiny.data(), tiny.data()), 0, 16)
    return identity.identity_of(search, model, opened, callbacks)


def test_a_criterion_of_the_same_name_is_another_one():
    one, other = (
        tt.IMP(2, 1, criterion=criterion(text))
        for text in ("abs(weight)", "-abs(weight)")
    )
    rows = differences(identity_of(one), identity_of(other))
    assert [row.partition(":")[0] for row in rows] == ["functions.criterion"]


def test_callbacks_count_by_class_and_settings():
    stop = keras.callbacks.EarlyStopping
    first = identity_of(tt.IMP(2, 1), [stop("loss", 0.1, patience=2)])
    reused = stop("loss", 0.1, patience=2)
    reused.min_delta *= -1  # As Keras does when it is used.
    assert differences(first, identity_of(tt.IMP(2, 1), [reused])) == []
    [row] = differences(first, identity_of(tt.IMP(2, 1), [stop("loss", 0.1, 3)]))
    assert row == "callbacks.0 EarlyStopping.patience: 2 there, 3 here"
    [row] = differences(first, identity_of(tt.IMP(2, 1)))
    assert "None here" in row


def test_loggers_do_not_count(tmp_path):
    class Note(keras.callbacks.Callback):
        changes_results = False

    logs = [keras.callbacks.CSVLogger(tmp_path / "log.csv"), Note()]
    assert differences(identity_of(tt.IMP(2, 1)), identity_of(tt.IMP(2, 1), logs)) == []


def test_callbacks_of_rounds_count():
    stop = keras.callbacks.EarlyStopping("loss", patience=1)
    plain, stopping = tt.IMP(2, 1), tt.IMP(2, 1).in_round(stop)
    [row] = differences(identity_of(plain), identity_of(stopping))
    assert row.startswith("callbacks in rounds.0 EarlyStopping: None there")
