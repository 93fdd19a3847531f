"""Checks each assumption about Keras beyond its documented API."""

import ast
import concurrent.futures
import inspect
import pathlib
import re
import sys

import keras
import numpy as np
import pytest
from keras import layers as kl
from keras import optimizers

import tf_tickets
from tf_tickets import keras_internals, wrapping

on_tensorflow = pytest.mark.skipif(
    keras.config.backend() != "tensorflow", reason="JAX needs no correction"
)
PACKAGE = pathlib.Path(tf_tickets.__file__).parent

OPTIMIZERS = {
    "SGD": lambda **more: optimizers.SGD(0.1, momentum=0.9, **more),
    "Adam": lambda **more: optimizers.Adam(amsgrad=True, **more),
    "AdamW": optimizers.AdamW,
    "Adamax": optimizers.Adamax,
    "Nadam": optimizers.Nadam,
    "Adadelta": optimizers.Adadelta,
    "Adagrad": optimizers.Adagrad,
    "RMSprop": lambda **more: optimizers.RMSprop(momentum=0.9, centered=True, **more),
    "Lion": optimizers.Lion,
    "Ftrl": optimizers.Ftrl,
    "Lamb": optimizers.Lamb,
}


def built(name, **more):
    """Builds an optimizer for two kernels of unique shapes."""
    first = kl.Dense(5, name="a_b")
    first.build((None, 7))
    second = kl.Dense(3, name="a")
    second.build((None, 11))
    variables = [first.kernel, first.bias, second.kernel, second.bias]
    optimizer = OPTIMIZERS[name](**more)
    optimizer.build(variables)
    return optimizer, variables


def test_the_learning_rate_is_a_variable_a_schedule_or_a_function():
    schedule = optimizers.schedules.CosineDecay(0.1, decay_steps=9)
    for given in (schedule, lambda: 0.5):
        assert keras_internals.learning_rate(optimizers.SGD(given)) is given
    assert isinstance(keras_internals.learning_rate(optimizers.SGD()), keras.Variable)


def test_calls_are_those_of_the_graph_in_order():
    x = keras.Input((3,))
    shared = kl.Dense(3, name="shared")
    y = kl.Add(name="add")([shared(shared(x)), keras.ops.relu(x)])
    model = keras.Model(x, [y, kl.ReLU(name="last")(y)])
    calls = keras_internals.calls(model)
    names = [call.operation.name for call in calls]
    assert names.count("shared") == 2
    assert names[-2:] == ["add", "last"]
    made = {id(x)}
    for call in calls:
        tensors = keras.tree.flatten((call.args, call.kwargs))
        read = {id(t) for t in tensors if isinstance(t, keras.KerasTensor)}
        assert read <= made
        made |= {id(tensor) for tensor in call.outputs}
    assert {id(tensor) for tensor in model.outputs} <= made


def test_calls_of_a_model_inside_a_graph_begin_at_its_inputs():
    x = keras.Input((3,))
    y = kl.Dense(4, name="before")(x)
    model = keras.Model(y, kl.Dense(2, name="after")(y))
    assert [call.operation.name for call in keras_internals.calls(model)] == ["after"]


@pytest.mark.on("tensorflow")
def test_classes_without_a_public_name_are_those_of_operations_and_applications():
    names = keras_internals.unnamed_class
    x = keras.Input((3,))
    model = keras.Model(x, keras.ops.relu(x * 2.0))
    found = [names(call.operation) for call in keras_internals.calls(model)]
    assert found == ["Multiply", "Relu"]
    assert names(kl.Multiply()) is None
    own = type("Multiply", (kl.Layer,), {})
    assert names(own()) is None
    convnext = keras.applications.ConvNeXtTiny(weights=None, include_top=False)
    assert "LayerScale" in {names(layer) for layer in convnext.layers}


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.first, self.second = kl.Dense(2, name="first"), kl.Dense(3, name="second")

    def call(self, x):
        return self.second(self.first(x))


def called():
    model = Subclassed()
    model(np.ones((1, 4), "float32"))
    return model


# Models.


def unregistered_loss(y, y_pred):
    return keras.ops.mean(keras.ops.abs(y - y_pred))


def test_compile_arguments_are_the_objects_that_were_passed():
    model = called()
    metric = keras.metrics.MeanSquaredError(name="m")
    sgd = optimizers.SGD()
    model.compile(sgd, unregistered_loss, metrics=[metric], jit_compile=False)
    arguments = keras_internals.compile_arguments(model)
    assert arguments["optimizer"] is sgd
    assert arguments["loss"] is unregistered_loss
    assert list(arguments["metrics"]) == [metric]
    parameters = inspect.signature(keras.Model.compile).parameters
    assert set(arguments) == set(parameters) - {"self"}


@pytest.mark.parametrize("scales", [True, False])
def test_a_wrapped_model_scales_its_loss_only_if_the_plain_one_does(scales):
    keras.config.set_dtype_policy("mixed_float16")
    model = keras.Sequential([keras.Input((4,)), kl.Dense(2)])
    model.compile("sgd", "mse", auto_scale_loss=scales)
    wrapped = tf_tickets.wrap(model, verbose=False)
    for each in (model, wrapped):
        assert isinstance(each.optimizer, optimizers.LossScaleOptimizer) == scales


def test_attributes_leave_out_the_record_that_keras_keeps_of_layers():
    model = called()
    own = keras_internals.attributes(model)
    assert own["first"] is model.first and own["second"] is model.second
    left_out = set(vars(model)) - set(own)
    assert left_out == {"_layers", "_tracker"}, "Keras renamed its record of layers."
    holding = {n for n, v in own.items() if wrapping.paths.layers_in(v)}
    # TensorFlow's checkpoint tracking must include the new layers too.
    holding.discard("_self_unconditional_dependency_names")
    assert holding == {"first", "second"}, "Keras keeps another record of layers."


def test_tracked_layers_are_in_the_order_of_the_variables():
    model = called()
    assert keras_internals.tracked_layers(model) == [model.first, model.second]
    keras_internals.sort_tracked_layers(model, lambda layer: -layer.units)
    assert keras_internals.tracked_layers(model) == [model.second, model.first]
    units = [variable.shape[-1] for variable in model.variables]
    assert units == [3, 3, 2, 2]


def test_layers_of_a_built_model_are_replaced_only_while_it_is_unlocked():
    model = called()
    old, new = model.first, kl.Dense(2, name="new")
    with pytest.raises(ValueError, match="cannot add new elements of state"):
        model.first = kl.Dense(2)
    with keras_internals.unlocked(model) as forget:
        model.first = new
        forget(old)
    assert keras_internals.tracked_layers(model) == [model.second, new]
    with pytest.raises(ValueError, match="cannot add new elements of state"):
        model.third = kl.Dense(2)


def test_a_model_is_locked_again_after_an_error():
    model = called()
    with pytest.raises(KeyError), keras_internals.unlocked(model):
        raise KeyError
    with pytest.raises(ValueError, match="cannot add new elements of state"):
        model.third = kl.Dense(2)


@pytest.mark.parametrize(
    "layer",
    [
        lambda: kl.MultiHeadAttention(2, 3),
        lambda: kl.GroupQueryAttention(3, 2, 1),
    ],
)
def test_attention_layers_have_one_layer_for_their_output(layer):
    layer = layer()
    layer.build((None, 4, 6), (None, 4, 6))
    result = [
        inner
        for inner in keras_internals.tracked_layers(layer)
        if keras_internals.is_attention_output(inner)
    ]
    assert len(result) == 1, "Keras renamed the output layer of attention."
    assert tuple(result[0].kernel.shape) == (2, 3, 6)


# Variables.


@pytest.mark.parametrize(
    "layer",
    [
        lambda: kl.Dropout(0.5, seed=1),
        lambda: kl.GaussianNoise(0.5),
        lambda: kl.RandomFlip(),
        lambda: kl.LSTM(2, dropout=0.5),
    ],
)
def test_the_state_of_random_generators_is_known_by_its_name(layer):
    layer = layer()
    layer.build((None, 4, 3))
    result = [v for v in layer.variables if not v.trainable]
    assert result
    assert all(map(keras_internals.is_seed_state, result))


def test_other_variables_are_no_state_of_random_generators():
    layer = kl.BatchNormalization()
    layer.build((None, 4))
    assert not any(map(keras_internals.is_seed_state, layer.variables))


def test_weights_without_a_name_are_numbered_by_the_process():
    layer = keras.layers.Layer()
    weights = [layer.add_weight(shape=(2,)) for _ in range(3)]
    assert all(map(keras_internals.is_unnamed, weights))
    assert len({weight.name for weight in weights}) == 3


def test_variables_of_layers_of_keras_have_names():
    layer = kl.LSTM(2)
    layer.build((None, 4, 3))
    assert not any(map(keras_internals.is_unnamed, layer.variables))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_has_one_step_counter_and_one_learning_rate(name):
    optimizer, _ = built(name)
    counters = list(filter(keras_internals.is_step_counter, optimizer.variables))
    rates = list(filter(keras_internals.is_learning_rate, optimizer.variables))
    assert [id(v) for v in counters] == [id(optimizer.iterations)]
    assert [id(v) for v in rates] == [id(optimizer.learning_rate)]


def test_a_schedule_is_no_learning_rate_variable():
    sgd = optimizers.SGD(optimizers.schedules.ExponentialDecay(0.1, 1, 0.5))
    assert not any(map(keras_internals.is_learning_rate, sgd.variables))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_slot_is_found_with_its_variable(name):
    more = {"use_ema": True, "gradient_accumulation_steps": 2}
    optimizer, variables = built(name, **more)
    pairs = list(keras_internals.slots(optimizer, variables))
    assert all(slot.shape == variable.shape for slot, variable in pairs)
    by_shape = [
        id(slot)
        for slot in optimizer.variables
        if slot.shape in [v.shape for v in variables]
    ]
    assert [id(slot) for slot, _ in pairs] == by_shape, "Keras renamed its slots."
    # At least an average and an accumulated gradient for each variable.
    assert len(pairs) >= 2 * len(variables)


def test_slots_are_found_behind_a_loss_scale():
    _, variables = built("SGD")
    optimizer = optimizers.LossScaleOptimizer(optimizers.SGD(0.1, momentum=0.9))
    optimizer.build(variables)
    owners = [v for _, v in keras_internals.slots(optimizer, variables)]
    assert [id(v) for v in owners] == [id(v) for v in variables]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_only_the_average_of_a_variable_is_an_average(name):
    for use_ema in (True, False):
        optimizer, variables = built(name, use_ema=use_ema)
        pairs = keras_internals.slots(optimizer, variables)
        averages = [v for s, v in pairs if keras_internals.is_average(s, v)]
        assert [id(v) for v in averages] == [id(v) for v in variables] * use_ema


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_only_the_accumulators_of_ftrl_and_adagrad_are_divisors(name):
    optimizer, variables = built(name, gradient_accumulation_steps=2)
    pairs = keras_internals.slots(optimizer, variables)
    divisors = [v for s, v in pairs if keras_internals.is_divisor(s, v)]
    divides = name in ("Ftrl", "Adagrad")
    assert [id(v) for v in divisors] == [id(v) for v in variables] * divides


# Moments.


def first_row(moment):
    """Returns the first row of the Hessian of a moment at [1, 2, 4, 8]."""
    import tensorflow as tf

    x = tf.constant([1.0, 2.0, 4.0, 8.0])
    with tf.GradientTape() as outer, tf.GradientTape() as inner:
        outer.watch(x)
        inner.watch(x)
        result = moment(x)
        first = inner.gradient(result, x)[0]
    return outer.gradient(first, x, unconnected_gradients="zero").numpy().tolist()


def variance(x):
    return keras.ops.moments(x, axes=[0])[1]


@on_tensorflow
def test_the_variance_of_keras_has_exact_second_derivatives_only_inside():
    reason = "TensorFlow mended `tf.nn.moments`: `exact_moments` can go."
    assert first_row(variance) == [0.5, 0.0, 0.0, 0.0], reason
    with keras_internals.exact_moments():
        assert first_row(variance) == [0.375, -0.125, -0.125, -0.125]
    assert first_row(variance) == [0.5, 0.0, 0.0, 0.0]


@on_tensorflow
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("keepdims", [False, True])
def test_exact_moments_are_those_of_tensorflow(dtype, keepdims):
    import tensorflow as tf

    x = tf.constant(np.random.default_rng(0).normal(300.0, 9.0, (5, 4, 3)), dtype)
    expected = tf.nn.moments(x, [0, 1], keepdims=keepdims)
    with keras_internals.exact_moments():
        actual = tf.nn.moments(x, [0, 1], keepdims=keepdims)
    for ours, theirs in zip(actual, expected, strict=True):
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
        np.testing.assert_allclose(
            ours, theirs, rtol=1e-3 if dtype == "float16" else 1e-6
        )


@on_tensorflow
def test_moments_are_restored_after_an_error_and_inside_one_another():
    import tensorflow as tf

    before = tf.nn.moments
    with pytest.raises(KeyError), keras_internals.exact_moments():
        with keras_internals.exact_moments():
            pass
        assert tf.nn.moments is not before
        raise KeyError
    assert tf.nn.moments is before


def graph_of(function):
    """Returns the graph of the gradient of a function of an image."""
    import tensorflow as tf

    @tf.function
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            result = function(tf, x)
        return tape.gradient(result, x)

    image = tf.ones((1, 2, 2, 1))
    return gradient.get_concrete_function(image).graph.as_graph_def()


def _noted(callbacks):
    """Returns the names of those beside a callback at the beginning of `fit`."""
    names = []

    class Asking(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            beside = keras_internals.callbacks_beside(self)
            names.append([type(other).__name__ for other in beside])

    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    arguments = {"callbacks": callbacks(Asking()), "verbose": 0}
    model.fit(np.ones((2, 2)), np.ones((2, 1)), **arguments)
    return names[0]


@pytest.mark.both
def test_a_callback_finds_those_beside_it():
    stop = keras.callbacks.EarlyStopping("loss")
    expected = ["EarlyStopping", "History"]
    assert _noted(lambda asking: [asking, stop]) == expected
    assert _noted(lambda asking: [stop, asking]) == expected
    assert _noted(lambda asking: [asking]) == ["History"]


def test_a_callback_called_by_hand_has_none_beside_it():
    assert keras_internals.callbacks_beside(keras.callbacks.Callback()) == []


@on_tensorflow
@pytest.mark.parametrize(
    "function, expected",
    [
        (lambda tf, x: tf.nn.moments(x, [0])[1], "tf.nn.moments"),
        (lambda tf, x: tf.function(tf.nn.moments)(x, [0])[1], "tf.nn.moments"),
        (lambda tf, x: tf.math.reduce_variance(x), None),
        (lambda tf, x: tf.stop_gradient(tf.reduce_mean(x)) - x, None),
        (lambda tf, x: tf.image.resize(x, (4, 4)), "ResizeBilinear"),
        (lambda tf, x: tf.quantization.fake_quant_with_min_max_args(x), "FakeQuant"),
    ],
)
def test_a_graph_shows_operations_without_exact_second_derivatives(function, expected):
    found = keras_internals.inexact_operation(graph_of(function))
    assert found == expected or found.startswith(expected)
    with keras_internals.exact_moments():
        found = keras_internals.inexact_operation(graph_of(function))
    assert found != "tf.nn.moments"


@on_tensorflow
def test_no_other_gradient_of_tensorflow_is_silently_constant():
    import tensorflow as tf
    from tensorflow.python.framework import ops

    def constant(name):
        try:
            return ops.gradient_registry.lookup(name) is None
        except LookupError:  # TensorFlow raises the same error.
            return False

    gradients = {name for name in dir(tf.raw_ops) if "Grad" in name}
    known = {"BroadcastGradientArgs", "StopGradient", "SparseAddGrad"}
    known |= {name for name in gradients if name.startswith("TensorArrayGrad")}
    silent = {name for name in gradients - known if constant(name)}
    assert silent == set(keras_internals.CONSTANT_GRADIENTS)


# Settings.


def test_the_objects_of_a_scope_are_those_of_the_innermost_one():
    assert keras_internals.scoped_objects() == {}
    with keras.saving.custom_object_scope({"outer": max, "own": len}):
        with keras.saving.custom_object_scope({"own": min}):
            assert keras_internals.scoped_objects() == {"own": min}
            assert keras.saving.get_registered_object("own") is min
        assert keras_internals.scoped_objects() == {"outer": max, "own": len}
        with concurrent.futures.ThreadPoolExecutor(1) as threads:
            assert threads.submit(keras_internals.scoped_objects).result() == {}
    assert keras_internals.scoped_objects() == {}


# The rest of the package.

FILES = {
    file.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", "."): file
    for file in sorted(PACKAGE.rglob("*.py"))
}
TREES = {name: ast.parse(file.read_text("utf-8")) for name, file in FILES.items()}
PRIVATE = re.compile(r"_[a-zA-Z]\w*")


def private_names_defined(tree):
    """Returns functions, classes, variables and attributes that begin with "_"."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        if is_of_self(node) and isinstance(node.ctx, ast.Store):
            yield node.attr


def is_of_self(node):
    return (
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in ("self", "cls")
    )


def private_names_used(tree):
    """Returns attributes that begin with "_", and strings that may name one."""
    formats = (node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr))
    parts = {id(part) for node in formats for part in node.values}
    for node in ast.walk(tree):
        if id(node) in parts:
            continue
        if isinstance(node, ast.Attribute) and PRIVATE.fullmatch(node.attr):
            yield node.attr
        text = isinstance(node, ast.Constant) and isinstance(node.value, str)
        if text and PRIVATE.fullmatch(node.value):
            yield node.value


# A suffix of public argument names: layers with several inputs have `build(a_shape)`.
# Python's own `os._exit`, and `_replace` of named tuples.
# Two names of other libraries that have no public ones: an option of TensorFlow's
# converter, and the weights that tfmot rounds in its training in int8. The tests of
# exports for microcontrollers and of the bridge to tfmot use both.
ALLOWED = {
    "_shape",
    "_exit",
    "_replace",
    "_experimental_disable_per_channel_quantization_for_dense_layers",
    "_weight_vars",
    "_mp_context",  # Of ProcessPoolExecutor; test_executors.py tries it.
}
OWN = {name for tree in TREES.values() for name in private_names_defined(tree)}


@pytest.mark.on("jax")
@pytest.mark.parametrize("module", sorted(set(TREES) - {"keras_internals"}))
def test_no_other_module_uses_private_names_of_keras(module):
    foreign = sorted(set(private_names_used(TREES[module])) - OWN - ALLOWED)
    assert foreign == [], f"Move {foreign} to tf_tickets/keras_internals.py."


@pytest.mark.parametrize(
    "source, names",
    [
        ("model._layers", ["_layers"]),
        ("getattr(model, '_layers')", ["_layers"]),
        ("slot.name.endswith('_average')", ["_average"]),
        ("self._layers.clear()", ["_layers"]),
        ("model._layers = []", ["_layers"]),
        ("f'{name}_layers'", []),
        ("model.__class__, model.layers, '__name__', '_ a'", []),
        ("def _f(): self._g = _h = 1\nx._f, x._g, x._h", []),
    ],
)
def test_every_use_of_a_private_name_is_seen(source, names):
    tree = ast.parse(source)
    used = set(private_names_used(tree)) - set(private_names_defined(tree))
    assert sorted(used) == names


def classes_on_keras():
    """Returns the package's subclasses of Keras classes, by name."""
    loaded = [m for n, m in sys.modules.items() if n.startswith("tf_tickets.")]
    return {
        kind.__qualname__: kind
        for module in loaded
        for kind in vars(module).values()
        if inspect.isclass(kind)
        and kind.__module__.startswith("tf_tickets.")
        and any(c.__module__.startswith("keras") for c in kind.__mro__)
    }


def private_names_of(kind):
    """Returns private methods and attributes of `self` in a class's source."""
    source = inspect.getsource(kind)
    return set(re.findall(r"(?:self\.|def )(_[a-zA-Z]\w*)", source))


def test_classes_on_keras_are_found():
    assert {"Distiller", "Grouped", "Prunable", "IMP"} <= set(classes_on_keras())


@pytest.mark.parametrize("name", sorted(classes_on_keras()))
def test_private_names_of_a_class_are_not_those_of_its_keras_base(name):
    kind = classes_on_keras()[name]
    ours = [c for c in kind.__mro__ if c.__module__.startswith("tf_tickets")]
    keras_classes = [c for c in kind.__mro__ if c.__module__.startswith("keras")]
    own = set().union(*map(private_names_of, ours))
    base = set().union(*map(private_names_of, keras_classes))
    assert sorted(own & base) == []
