"""Everything that this package assumes about Keras beyond its documented API.

Keras offers no public call for any of these. Each function documents why it is
needed, and has a test that fails if a new version of Keras changes the assumption.
"""

import collections
import contextlib
import inspect
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import keras

# Names of variables of optimizers: the count of steps, and the learning rate where
# that is a number and not a schedule.
STEP_COUNTER = "iteration"
LEARNING_RATE = "learning_rate"

_FLASH_ATTENTION = "_flash_attention"


# Models.


def compile_arguments(model: keras.Model) -> dict[str, object]:
    """Returns the arguments of `compile`, as the objects that were passed.

    The public `get_compile_config` serializes them, which loses functions that are
    not registered. Keras does not record `auto_scale_loss`; the optimizer shows it.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> compile_arguments(model)["optimizer"] is model.optimizer
    True
    """
    scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    return {**model._compile_config.config, "auto_scale_loss": scaled}


def attributes(layer: keras.layers.Layer) -> dict[str, object]:
    """Returns the attributes of a layer without Keras's own record of its layers.

    Layers inside a subclassed model are found in its attributes. The list that Keras
    keeps of them, and the tracker that fills it, hold the same layers once more.

    Example:

    >>> bidirectional = keras.layers.Bidirectional(keras.layers.LSTM(2))
    >>> "forward_layer" in attributes(bidirectional)
    True
    """
    own = ("_layers", "_tracker")
    return {name: value for name, value in vars(layer).items() if name not in own}


def tracked_layers(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Returns the layers inside a layer, in the order of Keras's own record.

    This order is that of `model.variables`. The public `layers` of a model leaves
    out some of them, and layers other than models have no such attribute.

    Example:

    >>> dense = keras.layers.Dense(2)
    >>> tracked_layers(keras.layers.TimeDistributed(dense)) == [dense]
    True
    """
    return list(layer._layers)


def sort_tracked_layers(
    layer: keras.layers.Layer, key: Callable[[keras.layers.Layer], int]
) -> None:
    """Sorts Keras's record of the layers inside a layer.

    A layer that replaces another one is recorded last. Its variables must keep the
    place of the old ones, or saved weights would be loaded into other layers.
    """
    layer._layers.sort(key=key)


@contextlib.contextmanager
def unlocked(layer: keras.layers.Layer) -> Iterator[Callable]:
    """Unlocks a built layer whose inner layers are replaced; yields `forget`.

    Keras refuses new layers in a layer that is built, and no public call changes
    that. `forget(old)` removes a layer from Keras's record.

    Example:

    >>> model = keras.models.Model()
    >>> model.first = old = keras.layers.Dense(2)
    >>> with unlocked(model) as forget:
    ...     model.first = keras.layers.Dense(3)
    ...     forget(old)
    >>> [layer.units for layer in tracked_layers(model)]
    [3]
    """
    tracker = layer._tracker
    tracker.unlock()
    try:
        yield tracker.untrack
    finally:
        tracker.lock()


def graph_class(kind: type[Any]) -> type[Any] | None:
    """Returns the class by which Keras runs a Sequential or functional model.

    The class of functional models has no public name. It is inserted between a
    subclass and `keras.Model` when the first model of the subclass is made.

    Args:
        kind: The class of a model.

    Returns:
        The class, or None for other subclasses of `keras.Model`.

    Example:

    >>> inputs = keras.Input((2,))
    >>> graph_class(type(keras.Model(inputs, inputs))).__name__
    'Functional'
    """
    if issubclass(kind, keras.Sequential):
        return keras.Sequential
    graphs = [base for base in kind.__mro__ if issubclass(base, keras.Function)]
    models = [base for base in graphs if issubclass(base, keras.Model)]
    return models[-1] if models else None


def is_rebuilt_as_itself(kind: type[Any]) -> bool:
    """Whether Keras rebuilds a Sequential or functional model in its own class.

    Keras compares the arguments of the constructor with those of functional models. If
    they differ, the new model is a plain functional model.

    Args:
        kind: The class of a Sequential or functional model.

    Example:

    >>> inputs = keras.Input((2,))
    >>> is_rebuilt_as_itself(type(keras.Model(inputs, inputs)))
    True
    """
    plain = graph_class(kind)
    if plain is None or plain is keras.Sequential:
        return kind is plain
    own = inspect.getfullargspec(kind.__init__)
    if own.varargs is None or own.varkw is None:
        return own.args == inspect.getfullargspec(plain.__init__).args
    return True


class Call(NamedTuple):
    """One call of a layer or operation in a functional model.

    Args:
        operation: The layer or operation.
        args: Its positional arguments, with symbolic tensors.
        kwargs: Its keyword arguments.
        outputs: The symbolic tensors that it returned, as a flat list.
    """

    operation: keras.Operation
    args: tuple
    kwargs: dict[str, Any]
    outputs: list[keras.KerasTensor]


def calls(model: keras.Function | keras.Sequential) -> list[Call]:
    """Returns the calls of a functional or Sequential model, in the order of its graph.

    A layer may be called several times. Keras records the calls in nodes without a
    public name, and runs them by depth.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, name="d")])
    >>> [(call.operation.name, call.outputs[0].shape) for call in calls(model)]
    [('d', (None, 3))]
    """
    function = keras.Function(model.inputs, model.outputs)
    nodes = function._nodes_by_depth
    return [
        Call(
            node.operation,
            tuple(node.arguments.args),
            dict(node.arguments.kwargs),
            list(node.outputs),
        )
        for depth in sorted(nodes, reverse=True)
        for node in nodes[depth]
        if not node.is_input and id(node.outputs[0]) not in _ids(model.inputs)
    ]


def _ids(items):
    return {id(item) for item in items}


def unnamed_class(operation: keras.Operation) -> str | None:
    """Returns the name of a class of Keras that has no public name.

    These are the classes behind `keras.ops`, and a few layers of keras.applications.

    Example:

    >>> inputs = keras.Input((2,))
    >>> model = keras.Model(inputs, inputs + 1.0)
    >>> [unnamed_class(call.operation) for call in calls(model)]
    ['Add']
    >>> unnamed_class(keras.layers.Add()) is None
    True
    """
    kind = type(operation)
    inside = kind.__module__.partition(".")[0] == "keras"
    public = getattr(keras.layers, kind.__name__, None) is kind
    return kind.__name__ if inside and not public else None


def attention_projections(
    layer: keras.layers.Layer,
) -> dict[str, keras.layers.EinsumDense]:
    """Returns the projections of an attention layer of Keras by their names.

    Example:

    >>> layer = keras.layers.MultiHeadAttention(num_heads=2, key_dim=3)
    >>> layer.build((None, 5, 4), (None, 5, 4))
    >>> list(attention_projections(layer))
    ['query', 'key', 'value', 'attention_output']
    """
    inner = tracked_layers(layer)
    return {
        part.name: part for part in inner if isinstance(part, keras.layers.EinsumDense)
    }


def is_attention_output(layer: keras.layers.Layer) -> bool:
    """Whether a layer inside an attention layer projects the attended values.

    Keras builds it from a shape without the length of the query, which the count of
    multiply-adds needs.

    Example:

    >>> is_attention_output(keras.layers.Dense(2))
    False
    """
    return layer.name == "attention_output"


def flash_attention(layer: keras.layers.Layer) -> bool | None:
    """Returns whether an attention layer uses flash attention; None if it may choose.

    It is an argument of the constructor that `get_config` leaves out.

    Example:

    >>> attention = keras.layers.MultiHeadAttention(2, 3, flash_attention=True)
    >>> flash_attention(attention)
    True
    """
    return getattr(layer, _FLASH_ATTENTION, None)


def set_flash_attention(layer: keras.layers.Layer, value: bool | None) -> None:
    """Sets whether a layer uses flash attention, if it is an attention layer.

    A layer is made with the setting of the process if it is not told otherwise, which
    may differ from the setting when the layer that it replaces was made.

    Example:

    >>> attention = keras.layers.MultiHeadAttention(2, 3)
    >>> set_flash_attention(attention, True)
    >>> flash_attention(attention)
    True
    """
    if hasattr(layer, _FLASH_ATTENTION):
        setattr(layer, _FLASH_ATTENTION, value)


# Variables.


def is_unnamed(variable: keras.Variable) -> bool:
    """Whether a variable was made without a name, as by `add_weight(shape)`.

    Keras names these "variable", "variable_1" and so on. It counts all those that a
    process makes, so the numbers differ between processes.

    Example:

    >>> [is_unnamed(keras.Variable(1.0)), is_unnamed(keras.Variable(1.0, name="w"))]
    [True, False]
    """
    return re.fullmatch(r"variable(_\d+)?", variable.name) is not None


def is_seed_state(variable: keras.Variable) -> bool:
    """Whether a variable is the state of a random generator, as in dropout.

    Layers hold their generators in attributes of any name; only the name of the
    variable distinguishes it from other variables that are not trained.

    Example:

    >>> [is_seed_state(v) for v in keras.layers.Dropout(0.5).variables]
    [True]
    """
    return variable.name == "seed_generator_state"


def is_step_counter(variable: keras.Variable) -> bool:
    """Whether a variable of an optimizer counts its steps.

    The public `iterations` is that of the outermost optimizer only, which may not
    count itself (a `LossScaleOptimizer`).

    Example:

    >>> [is_step_counter(v) for v in keras.optimizers.SGD().variables]
    [True, False]
    """
    return variable.name == STEP_COUNTER


def is_learning_rate(variable: keras.Variable) -> bool:
    """Whether a variable of an optimizer is its learning rate.

    Example:

    >>> [is_learning_rate(v) for v in keras.optimizers.SGD().variables]
    [False, True]
    """
    return variable.name == LEARNING_RATE


def learning_rate(optimizer: keras.optimizers.Optimizer) -> Any:
    """Returns the learning rate of an optimizer: its variable, schedule or function.

    The public `learning_rate` is the present value.

    Example:

    >>> schedule = keras.optimizers.schedules.CosineDecay(0.1, decay_steps=9)
    >>> learning_rate(keras.optimizers.SGD(schedule)) is schedule
    True
    """
    return optimizer._learning_rate


def slots(
    optimizer: keras.optimizers.Optimizer, variables: Iterable[keras.Variable]
) -> Iterator[tuple[keras.Variable, keras.Variable]]:
    """Yields pairs of an optimizer's slot and the variable that it belongs to.

    Optimizers keep their slots in attributes that differ by class. In the public
    `optimizer.variables` only the name says to which variable a slot belongs: the
    path of the variable with "_" for "/", and what the slot is for, such as
    `dense_kernel_momentum`. Slots of another shape than the variable are left out.

    Args:
        optimizer: A built optimizer.
        variables: The variables that it trains, in the order in which it was built.

    Example:

    >>> kernel = keras.Variable([1.0, 2.0], name="kernel")
    >>> sgd = keras.optimizers.SGD(momentum=0.9)
    >>> sgd.build([kernel])
    >>> [(slot.name, variable is kernel) for slot, variable in slots(sgd, [kernel])]
    [('kernel_momentum', True)]
    """
    owners = collections.defaultdict(list)
    for variable in variables:
        owners[variable.path.replace("/", "_")].append(variable)
    seen: collections.Counter[str] = collections.Counter()
    for slot in optimizer.variables:
        names = [name for name in owners if slot.name.startswith(f"{name}_")]
        if names:
            # Paths can be equal with "_" for "/": such slots come in the order of
            # the variables.
            candidates = owners[max(names, key=len)]
            owner = candidates[seen[slot.name] % len(candidates)]
            seen[slot.name] += 1
            if tuple(owner.shape) == tuple(slot.shape):
                yield slot, owner


def is_average(slot: keras.Variable, variable: keras.Variable) -> bool:
    """Whether a slot is the moving average of its variable (`use_ema=True`).

    It starts from the variable, not from 0, and overwrites the variable in the end.

    Example:

    >>> kernel = keras.Variable([1.0, 2.0], name="kernel")
    >>> sgd = keras.optimizers.SGD(momentum=0.9, use_ema=True)
    >>> sgd.build([kernel])
    >>> [is_average(slot, kernel) for slot, _ in slots(sgd, [kernel])]
    [True, False]
    """
    return _purpose(slot, variable) == "average"


def is_divisor(slot: keras.Variable, variable: keras.Variable) -> bool:
    """Whether an optimizer divides by a slot (Ftrl, Adagrad), so it must not be 0.

    Example:

    >>> kernel = keras.Variable([1.0, 2.0], name="kernel")
    >>> ftrl = keras.optimizers.Ftrl()
    >>> ftrl.build([kernel])
    >>> [is_divisor(slot, kernel) for slot, _ in slots(ftrl, [kernel])]
    [True, False]
    """
    return _purpose(slot, variable) == "accumulator"


def _purpose(slot, variable):
    return slot.name[len(variable.path) + 1 :]


# Moments.

_MOMENTS = threading.RLock()


@contextlib.contextmanager
def exact_moments() -> Iterator[None]:
    """Makes second derivatives of means and variances exact on TensorFlow.

    Keras's normalization layers and `keras.ops.moments` call `tf.nn.moments`. It stops
    the gradient at the mean inside the variance. The first derivative of the variance
    is right, but the second is not.

    Example:

    >>> x = keras.ops.convert_to_tensor([1.0, 3.0])
    >>> with exact_moments():
    ...     [float(moment) for moment in keras.ops.moments(x, axes=[0])]
    [2.0, 1.0]
    """
    if keras.config.backend() != "tensorflow":
        yield
        return
    import tensorflow as tf

    with _MOMENTS:
        before = tf.nn.moments
        tf.nn.moments = _exact_moments
        try:
            yield
        finally:
            tf.nn.moments = before


def _exact_moments(x, axes, shift=None, keepdims=False, name=None):
    """Computes what `tf.nn.moments` computes, without `stop_gradient`."""
    import tensorflow as tf

    with tf.name_scope(name or "moments"):
        # Like `tf.nn.moments`: float16 has too small a range for squares.
        y = tf.cast(x, tf.float32) if x.dtype == tf.float16 else x
        mean = tf.reduce_mean(y, axes, keepdims)
        variance = tf.math.reduce_variance(y, axes, keepdims)
        return tf.cast(mean, x.dtype), tf.cast(variance, x.dtype)


# Operations whose gradients TensorFlow takes for constants. It raises an error for all
# others that it cannot differentiate twice.
CONSTANT_GRADIENTS = {
    "ResizeBilinearGrad": "ResizeBilinear",
    "FakeQuantWithMinMaxArgsGradient": "FakeQuantWithMinMaxArgs",
    "FakeQuantWithMinMaxVarsGradient": "FakeQuantWithMinMaxVars",
    "FakeQuantWithMinMaxVarsPerChannelGradient": "FakeQuantWithMinMaxVarsPerChannel",
}


def inexact_operation(graph_def: Any) -> str | None:
    """Returns an operation whose second derivatives are wrong in a TensorFlow graph.

    `exact_moments` does not reach functions that TensorFlow traced earlier, nor code
    that imported `tf.nn.moments` under another name. The graph still shows them: it
    has a squared difference from a mean that passed through `StopGradient`.

    Args:
        graph_def: The `GraphDef` of a gradient.

    Returns:
        The name of the operation, or None.
    """
    functions = [function.node_def for function in graph_def.library.function]
    found = map(_inexact_operation, [graph_def.node, *functions])
    return next(filter(None, found), None)


def _inexact_operation(nodes):
    inputs = {node.name: [name.split(":")[0] for name in node.input] for node in nodes}
    kinds = {node.name: node.op for node in nodes}

    def sources(names, kind):
        chosen = (name for name in names if kinds.get(name) == kind)
        return [source for name in chosen for source in inputs[name]]

    stopped = sources(sources(kinds, "SquaredDifference"), "StopGradient")
    if any(kinds.get(name) == "Mean" for name in stopped):
        return "tf.nn.moments"
    constant = filter(None, map(CONSTANT_GRADIENTS.get, kinds.values()))
    return next(constant, None)


# Callbacks.


def callbacks_beside(
    callback: keras.callbacks.Callback,
) -> list[keras.callbacks.Callback]:
    """Returns the other callbacks of the `fit` that is calling a callback.

    Keras does not tell a callback of the others. They are in the `CallbackList` that
    calls it. The result is empty if there is none, as in a training loop by hand.

    Example:

    >>> class Search(keras.callbacks.Callback):
    ...     def on_train_begin(self, logs=None):
    ...         print([type(other).__name__ for other in callbacks_beside(self)])
    >>> others = [Search(), keras.callbacks.TerminateOnNaN()]
    >>> keras.callbacks.CallbackList(others).on_train_begin()
    ['TerminateOnNaN']
    """
    frame = inspect.currentframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        is_list = isinstance(caller, keras.callbacks.CallbackList)
        members = caller.callbacks if caller is not None and is_list else []
        if any(member is callback for member in members):
            return [member for member in members if member is not callback]
        frame = frame.f_back
    return []


# Settings.


def scoped_objects() -> dict[str, Any]:
    """Returns the classes and functions of the `custom_object_scope` of this thread.

    A new thread is in no scope, and no public call returns what a scope holds. But a
    scope keeps in its `backup` what it replaces until it is left.

    Example:

    >>> with keras.saving.custom_object_scope({"mine": len}):
    ...     scoped_objects()
    {'mine': <built-in function len>}
    >>> scoped_objects()
    {}
    """
    with keras.saving.custom_object_scope({}) as scope:
        return dict(scope.backup)
