"""The rules by which units pass through layers, one for each class of layers."""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras

from tf_tickets import arguments, keras_internals

# Methods that a subclass may replace without changing what the layer computes.
_HARMLESS = {
    *("get_config", "from_config", "compute_output_shape", "compute_output_spec"),
    *("compute_mask", "count_params", "get_build_config", "build_from_config"),
    *("save_own_variables", "load_own_variables"),
}

Trace = Callable[[Any, Any], Any]
Resize = Callable[[Any, Any], dict[str, Any]]


class Rule(NamedTuple):
    """The rule of a class of layers.

    Args:
        trace: Function `(layer, call)` that returns the flows of the outputs.
        resize: Function `(layer, sizes)` that returns the changed part of the
            configuration. None if the configuration holds no sizes.
        calls_differ: Whether calls of one layer may have different inputs and outputs.
            Then `resize` only depends on the sizes of variables.
    """

    trace: Trace
    resize: Resize | None = None
    calls_differ: bool = False


_RULES: dict[type, Rule] = {}
_UNNAMED: dict[str, Rule] = {}
# What `resize` returns for an entry of a configuration that the constructor refuses.
ABSENT = object()

# The rules of packages that need not be installed.
_FOREIGN: dict[tuple[str, str], Rule] = {}
_WRAPPERS: list[tuple[type, Callable]] = []


def register_rule(
    layer_class: type[keras.layers.Layer],
    trace: Trace | None = None,
    resize: Resize | None = None,
    replace: bool = False,
) -> Callable:
    """Registers how units pass through layers of a class.

    `find_units` and `compact` remove units from layers that have a rule. Around other
    layers, everything stays. Subclasses have the rule of their base class if they
    replace none of its methods. A class that has a rule of its own, as most layers of
    Keras do, keeps it unless `replace` is true.

    Args:
        layer_class: The class of the layers.
        trace: Function `(layer, call)`. It returns the `Flow` of the output, or a list
            of flows. `call.inputs` has a flow for each input tensor: an id for each
            position along one axis, or none. These methods of `call` record what the
            layer does:

            - `call.produce(variable, axis)` returns new ids, one for each position of
              the kernel along its output axis;
            - `call.read(variable, axis, flow)` says that a kernel mixes the channels
              of a flow, and `call.vector(variable, ids)` that a parameter
              belongs to each channel, such as a bias;
            - `call.output(ids, axis)` returns the flow of an output, and
              `call.activate(flow, activation)` that after an activation function;
            - `call.tie(ids, others)` ties ids that can only go together, and
              `call.pin(flow, reason)` keeps everything in a flow.

            All variables with a size that depends on units must be recorded.
        resize: Function `(layer, sizes)`. It returns the entries of `get_config()`
            that change, from the sizes that remain: `sizes.of(variable)`,
            `sizes.inputs` and `sizes.outputs` are shapes. Not required if the
            configuration contains no sizes.
        replace: Whether to replace the rule that the class has.

    Returns:
        A decorator of the function `trace`, if that is not given. Else `trace`.

    Example:

    >>> class Mix(keras.layers.Layer):
    ...     def __init__(self, width, **kwargs):
    ...         super().__init__(**kwargs)
    ...         self.width = width
    ...     def build(self, shape):
    ...         self.kernel = self.add_weight((shape[-1], self.width), name="kernel")
    ...     def call(self, x):
    ...         return keras.ops.relu(x @ self.kernel)
    ...     def get_config(self):
    ...         return {**super().get_config(), "width": self.width}
    >>> def resize(layer, sizes):
    ...     return {"width": sizes.of(layer.kernel)[1]}
    >>> @register_rule(Mix, resize=resize)
    ... def mix(layer, call):
    ...     call.read(layer.kernel, 0, call.inputs[0])
    ...     return call.output(call.produce(layer.kernel, 1))
    >>> model = keras.Sequential([keras.Input((3,)), Mix(4), keras.layers.Dense(2)])
    >>> tt.find_units(model).size
    4
    """
    if not (isinstance(layer_class, type) and issubclass(layer_class, keras.Operation)):
        raise TypeError(
            "`layer_class` must be a class of Keras layers. Received: "
            f"{layer_class!r}. Pass the class itself, such as keras.layers.Dense."
        )
    for name, value in (("trace", trace), ("resize", resize)):
        if value is not None:
            arguments.check_functions(2, **{name: value})
    arguments.check_flags(replace=replace)
    if not replace and _own_rule(layer_class) is not None:
        name = f"{layer_class.__module__}.{layer_class.__qualname__}"
        raise ValueError(
            f"{name} has a rule already. Received: replace=False. Pass replace=True to "
            "replace it in this process, or register a subclass."
        )

    def register(function: Trace) -> Trace:
        _RULES[layer_class] = Rule(function, resize)
        return function

    return register if trace is None else register(trace)


def register_varied(
    layer_class: type[keras.layers.Layer], trace: Trace, resize: Resize
) -> None:
    """Registers layers that do different things in different calls.

    Args:
        layer_class: The class of the layers.
        trace: As in `register_rule`. It records all variables in each call.
        resize: As in `register_rule`, but `sizes.inputs` and `sizes.outputs` are those
            of any of the calls.
    """
    _RULES[layer_class] = Rule(trace, resize, calls_differ=True)


def register_unnamed(
    *names: str, resize: Resize | None = None
) -> Callable[[Trace], Trace]:
    """Registers a rule for classes of Keras that have no public name.

    Args:
        *names: Names of classes, such as "Add" for the operation `keras.ops.add`.
        resize: As in `register_rule`.
    """

    def register(function: Trace) -> Trace:
        _UNNAMED.update(dict.fromkeys(names, Rule(function, resize)))
        return function

    return register


def register_foreign(
    package: str, *names: str, resize: Resize | None = None
) -> Callable[[Trace], Trace]:
    """Registers a rule for classes of a package without importing it.

    Args:
        package: The package.
        *names: Names of classes of layers in it. Subclasses have no rule.
        resize: As in `register_rule`.
    """

    def register(function: Trace) -> Trace:
        for name in names:
            _FOREIGN[package, name] = Rule(function, resize)
        return function

    return register


def register_wrapper(wrapper_class: type, inner: Callable) -> None:
    """Registers layers that compute what another layer inside them computes.

    Args:
        wrapper_class: The class of the wrappers.
        inner: Function that returns the layer inside a wrapper.
    """
    _WRAPPERS.append((wrapper_class, inner))


def unwrapped(operation: keras.Operation) -> keras.Operation:
    """Returns the layer inside registered wrappers; other layers as they are.

    Example:

    >>> layer = keras.layers.Dense(2)
    >>> unwrapped(layer) is layer
    True
    """
    for kind, inner in _WRAPPERS:
        if isinstance(operation, kind):
            return unwrapped(inner(operation))
    return operation


def is_graph(operation: keras.Operation) -> bool:
    """Returns whether a layer is a model that does what its graph of layers does.

    Example:

    >>> is_graph(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]))
    True
    """
    if not isinstance(operation, keras.Model) or not operation.built:
        return False
    plain = keras_internals.graph_class(type(operation))
    if plain is None or type(operation).call is not plain.call:
        return False
    return not isinstance(operation, keras.Sequential) or bool(operation.inputs)


def find_rule(operation: keras.Operation) -> Rule | str:
    """Returns the rule of a layer or operation, or the reason why it has none.

    Example:

    >>> find_rule(keras.layers.Lambda(abs, name="custom"))
    "'custom' (Lambda) has no rule"
    """
    kind = type(operation)
    name = keras_internals.unnamed_class(operation)
    if name in _UNNAMED and kind not in _RULES:
        return _UNNAMED[name]
    if kind not in _RULES and _foreign(kind) in _FOREIGN:
        return _FOREIGN[_foreign(kind)]
    title = f"{operation.name!r} ({kind.__name__})"
    for place, base in enumerate(kind.__mro__):
        if base in _RULES:
            replaced = _replaced(operation, kind.__mro__[:place], base)
            if replaced is None:
                return _RULES[base]
            return f"{title} has no rule: it replaces `{replaced}` of {base.__name__}"
    return f"{title} has no rule"


def _own_rule(kind):
    """Returns the rule of exactly this class, None if it has none."""
    return _RULES.get(kind, _FOREIGN.get(_foreign(kind)))


def _foreign(kind):
    return kind.__module__.partition(".")[0], kind.__name__


def _replaced(operation, subclasses, base):
    """Returns a method of `base` that subclasses or the layer itself replace."""
    names = [n for kind in subclasses for n, v in vars(kind).items() if _is_code(v)]
    names += [n for n in ("call",) if n in vars(operation)]
    own = [n for n in names if hasattr(base, n) and n not in _HARMLESS]
    return next((n for n in own if n == "__call__" or not n.startswith("__")), None)


def _is_code(value):
    return callable(value) or isinstance(value, property | classmethod | staticmethod)


def resized(operation: keras.Operation, sizes: Any) -> dict[str, Any]:
    """Returns the configuration of a layer after units were removed.

    Args:
        operation: A layer or operation.
        sizes: The sizes that remain, as `resize` of a rule receives them.

    Example:

    >>> resized(keras.layers.ReLU(name="relu"), None)["name"]
    'relu'
    """
    config = operation.get_config()
    rule = find_rule(operation)
    if isinstance(rule, Rule) and rule.resize is not None:
        changes = rule.resize(operation, sizes)
        if not isinstance(changes, dict):
            raise TypeError(
                f"The `resize` of the rule of {type(operation).__name__} must return a "
                "dict of entries of its get_config(), such as {'units': "
                "sizes.of(layer.kernel)[1]}. Received for "
                f"{operation.name!r}: {arguments.shown(changes)}"
            )
        config.update(changes)
    return {name: value for name, value in config.items() if value is not ABSENT}


def stored_inside(
    operation: keras.layers.Layer, config: dict[str, Any]
) -> dict[str, Any]:
    """Returns the stored form of a layer inside another one, with new sizes.

    The stored form usually contains the shapes with which the layer was built.

    Args:
        operation: The layer inside.
        config: Its new configuration.

    Example:

    >>> sorted(stored_inside(keras.layers.ReLU(name="relu"), {"name": "new"}))
    ['class_name', 'config', 'module', 'registered_name']
    """
    stored = keras.saving.serialize_keras_object(operation)
    stored.pop("build_config", None)
    return {**stored, "config": config}
