"""Replaces layers of a model, for wrapping and stripping.

Functional and Sequential models, including nested ones, are rebuilt. Other models are
changed in place, in the attributes that hold their layers.
"""

import contextlib
import copy as copies
import functools
import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace

import keras
import numpy as np

from tf_tickets import keras_internals
from tf_tickets import masks as masks_module
from tf_tickets.masks.base import Mask
from tf_tickets.wrapping import paths
from tf_tickets.wrapping.prunable import Prunable, plain_variables


def is_graph(layer: keras.layers.Layer) -> bool:
    """Returns whether Keras can rebuild a model from its list or graph of layers."""
    return isinstance(layer, keras.Sequential | keras.Function)


def layer_before(
    model: keras.Model, layer: keras.layers.Layer
) -> keras.layers.Layer | None:
    """Returns the layer whose output is the only input of another layer.

    Args:
        model: A Sequential or functional model.
        layer: A layer of the model.

    Returns:
        The preceding layer. None if there is none, or more than one.

    Example:

    >>> first, last = keras.layers.Dense(2, name="first"), keras.layers.Dense(1)
    >>> layer_before(keras.Sequential([keras.Input((3,)), first, last]), last).name
    'first'
    """
    if isinstance(model, keras.Sequential):
        index = [id(item) for item in model.layers].index(id(layer))
        return model.layers[index - 1] if index else None
    producers: dict[int, tuple] = {}
    inputs_from: list = []

    def call(current, *args, **kwargs):
        if current is layer:
            inputs_from.extend(
                producers.get(id(x), (None,))[0] for x in keras.tree.flatten(args)
            )
        outputs = current(*args, **kwargs)
        # Holding the tensors keeps their ids from being reused.
        producers.update((id(x), (current, x)) for x in keras.tree.flatten(outputs))
        return outputs

    keras.models.clone_model(
        model, clone_function=lambda current: current, call_function=call
    )
    return inputs_from[0] if len(inputs_from) == 1 else None


def gives_probabilities(model: keras.Model) -> bool:
    """Returns whether the outputs of a model come from a softmax or sigmoid.

    Example:

    >>> last = keras.layers.Dense(2, activation="softmax")
    >>> gives_probabilities(keras.Sequential([keras.Input((3,)), last]))
    True
    """
    layers = model.layers
    if not is_graph(model) or not layers:
        return False
    last = getattr(layers[-1], "layer", layers[-1])
    if is_graph(last):
        return gives_probabilities(last)
    name = getattr(getattr(last, "activation", None), "__name__", "")
    return name in ("softmax", "sigmoid") or isinstance(last, keras.layers.Softmax)


def transform(
    model: keras.Model, change: Callable[[keras.layers.Layer], keras.layers.Layer]
) -> keras.Model:
    """Returns the model with `change` applied once to each layer."""
    changed = {}

    def once(layer):
        if id(layer) not in changed:
            changed[id(layer)] = change(layer)
        return changed[id(layer)]

    if is_graph(model):
        return _rebuild(model, once)
    return _transform_in_place(model, once)


def units(model: keras.Model) -> list[keras.layers.Layer]:
    """Returns the layers that are wrapped as one: leaves of the tree of nested models.

    Layers that a functional model holds and does not call are left out.

    Example:

    >>> inner = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="d")])
    >>> [layer.name for layer in units(keras.Sequential([keras.Input((3,)), inner]))]
    ['d']
    """
    layers = []
    for layer in paths.children(graph_of(model)):
        layers += units(layer) if is_graph(layer) else [layer]
    return [
        layer
        for layer in {id(layer): layer for layer in layers}.values()
        if not isinstance(layer, keras.layers.InputLayer)
    ]


def wrap_variables(
    model: keras.Model, variables: Iterable[keras.Variable], mask: Mask
) -> keras.Model:
    """Returns the model with the layers that own the variables in Prunable layers.

    Args:
        model: A built model without Prunable layers.
        variables: The kernels to make prunable.
        mask: The mask parametrization, which is copied for every kernel.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
    >>> mask = tt.masks.get("fixed")
    >>> model = wrap_variables(model, [model.layers[0].kernel], mask)
    >>> type(model.layers[0]).__name__
    'Prunable'
    """
    wanted = {id(variable) for variable in variables}
    kernels = {
        id(unit): [o.path for o in paths.variables_of(unit) if id(o.variable) in wanted]
        for unit in units(model)
    }

    def wrapped(layer):
        chosen = kernels.get(id(layer))
        return Prunable(layer, kernels=chosen, mask=mask) if chosen else layer

    return transform(model, wrapped)


@keras.saving.register_keras_serializable("tf_tickets")
class WrappedModel(keras.Model):
    """The wrapped layers of a model whose class Keras cannot rebuild.

    These are functional and Sequential models of a class with its own constructor, such
    as the tasks and backbones of KerasHub. A wrapped model of them shares their layers,
    but is of this class. `tf_tickets.strip` returns the original model, which is then
    sparse. A saved file contains the configuration of the original model.
    """

    _plain: SimpleNamespace | None = None

    @property
    def unused_layers(self) -> list[keras.layers.Layer]:
        """The layers of the plain model outside its graph, such as a preprocessor.

        Keras saves the state of layers in properties, so a file includes theirs.
        """
        model = original(self)
        if model is None:
            return []
        graph = (
            model.layers if isinstance(model, keras.Sequential) else model.operations
        )
        used = {id(layer) for layer in graph}
        return [child for child in paths.children(model) if id(child) not in used]

    def get_config(self):
        model = original(self)
        config = None if model is None else _config_of(model)
        if model is None or config is None:
            return super().get_config()
        names = paths.plain_paths(model.variables, {})
        wrappers = [layer for layer in paths.walk(self) if isinstance(layer, Prunable)]
        kernels = {id(v) for w in wrappers for v in w.kernel_variables.values()}
        return {
            "original": config,
            "kernels": [path for path, v in names.items() if id(v) in kernels],
            "mask": keras.saving.serialize_keras_object(wrappers[0].mask),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        if "original" not in config:
            return super().from_config(config, custom_objects)
        model = keras.saving.deserialize_keras_object(
            config["original"], custom_objects
        )
        table = paths.plain_paths(model.variables, {})
        names = paths.match(config["kernels"], table)
        if names is None:
            raise ValueError(
                f"The kernels of the file do not fit a new {type(model).__name__}. "
                f"Received: {config['kernels']}. Its variables: {list(table)}. Load "
                "the file with the versions of the libraries that wrote it."
            )
        kernels = [table[path] for path in names.values()]
        mask = masks_module.get(config["mask"])
        return wrap_variables(model, kernels, mask)


def original(model: keras.Model) -> keras.Model | None:
    """Returns the plain model that a `WrappedModel` was made from, otherwise None.

    It is no property of the model, because Keras would save it a second time.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
    >>> original(tt.wrap(model, verbose=False)) is None
    True
    """
    plain = model._plain if isinstance(model, WrappedModel) else None
    return None if plain is None else plain.model


def _config_of(model):
    """Returns the configuration of a model, or None if its class defines none."""
    if type(model).get_config is keras.Sequential.get_config:
        # It is one of `keras.Sequential`, which other constructors do not take.
        return None
    with as_if_not_compiled(model):
        try:
            return keras.saving.serialize_keras_object(model)
        except NotImplementedError:
            return None


def _rebuild(model, change):
    """Rebuilds a functional or Sequential model, without compiling it."""
    plain = original(model)
    if plain is not None:
        return plain
    if not loses_class(model):
        return _clone(model, change)
    new = _clone(graph_of(model), change)
    new = WrappedModel(new.input, new.output, name=model.name)
    # The namespace hides the model from Keras, which would count its layers twice.
    new._plain = SimpleNamespace(model=model)
    return new


def _clone(model, change):
    with as_if_not_compiled(model):
        return keras.models.clone_model(model, clone_function=change, recursive=True)


def graph_of(model: keras.Model) -> keras.Model:
    """Returns the layers that a model calls as `keras.Model`, if Keras rebuilds it so.

    Args:
        model: A model of any kind. If it keeps its class, it is returned itself.

    Example:

    >>> inputs = keras.Input((3,))
    >>> model = keras.Model(inputs, keras.layers.Dense(4)(inputs))
    >>> graph_of(model) is model
    True
    """
    if not is_graph(model) or not loses_class(model):
        return model
    if isinstance(model, keras.Sequential):
        return keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    return keras.Model(model.input, model.output, name=model.name)


def loses_class(model: keras.Model) -> bool:
    """Returns whether a rebuilt functional or Sequential model has another class.

    Keras rebuilds a functional model by the constructor `(inputs, outputs, name)`. A
    model whose class has another constructor becomes a `keras.Model`.

    Example:

    >>> class Net(keras.Model):
    ...     def __init__(self, units):
    ...         inputs = keras.Input((3,))
    ...         super().__init__(inputs, keras.layers.Dense(units)(inputs))
    >>> net = Net(2)
    >>> loses_class(net), loses_class(keras.Model(net.inputs, net.outputs))
    (True, False)
    """
    kind = type(model)
    return not (keras_internals.is_rebuilt_as_itself(kind) and _takes_a_graph(kind))


def _takes_a_graph(kind):
    """Returns whether a constructor can be called as Keras does to rebuild a model."""
    try:
        inspect.signature(kind.__init__).bind(None, [], [], name="")
    except TypeError:
        return False
    return True


# What a class may define to predict, and to train, other than its layers do.
_PREDICTS = ("call",)
_TRAINS = ("train_step", "test_step", "predict_step", "compute_loss", "compute_metrics")


def check_rebuilds(model: keras.Model) -> None:
    """Raises an error if a rebuilt model would predict or train in another way.

    Args:
        model: A model of any kind.
    """
    for part in paths.walk(model):
        if isinstance(part, keras.Model) and is_graph(part) and loses_class(part):
            names = _PREDICTS if part is not model else (*_PREDICTS, *_TRAINS)
            plain = keras_internals.graph_class(type(part))
            for name in names:
                if getattr(type(part), name) is not getattr(plain, name):
                    raise _cannot_rebuild(part, name)


def _cannot_rebuild(model, name):
    kind = type(model).__name__
    if name in _PREDICTS:
        advice = (
            "Move it into a layer of the model, or into a subclassed model without "
            "`inputs` and `outputs`."
        )
    else:
        advice = (
            "To train by the loss and metrics passed to `compile`, wrap "
            "keras.Model(model.inputs, model.outputs) and compile that. It shares the "
            f"variables, so this {kind} is sparse too after tf_tickets.strip."
        )
    return ValueError(
        f"Model {model.name!r} cannot be rebuilt from wrapped layers, because its "
        f"class {kind} overrides `{name}`, and its constructor does not take (inputs, "
        f"outputs, name). {advice} Or give {kind} such a constructor."
    )


@contextlib.contextmanager
def as_if_not_compiled(model: keras.Model) -> Iterator[None]:
    """Makes a model appear uncompiled inside a `with` block.

    Keras would otherwise compile clones from serialized settings, and include the
    optimizer in saved files.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
    >>> model.compile("adam", "mse")
    >>> with as_if_not_compiled(model):
    ...     model.compiled, model.optimizer
    (False, None)
    """
    compiled = [
        (part, part.optimizer)
        for part in paths.walk(model)
        if isinstance(part, keras.Model) and part.compiled
    ]
    for part, _ in compiled:
        part.compiled, part.optimizer = False, None
    try:
        yield
    finally:
        for part, optimizer in compiled:
            part.compiled, part.optimizer = True, optimizer


def compile_like(
    new: keras.Model,
    model: keras.Model,
    change: Callable[
        [keras.optimizers.Optimizer], keras.optimizers.Optimizer
    ] = lambda optimizer: optimizer,
) -> None:
    """Compiles a model with the settings of another model.

    The metrics are copied. The optimizer is shared, because its configuration does not
    contain all its settings (`exclude_from_weight_decay`). Settings that the class of
    `model` adds to those of `keras.Model.compile` are left out.

    Args:
        new: The model to compile.
        model: The compiled model.
        change: Returns the optimizer to use from that of `model`.
    """
    if type(new).compile is not keras.Model.compile:
        warnings.warn(
            f"{type(new).__name__} overrides `compile`, so the new model is not "
            "compiled. Call compile(...) on it.",
            stacklevel=4,
        )
        return
    arguments = keras_internals.compile_arguments(model)
    settings = keras.tree.map_structure(_copy_metric, arguments)
    new.compile(**{**settings, "optimizer": change(settings["optimizer"])})


def copy(model: keras.Model) -> keras.Model:
    """Returns a copy of a plain model with its own variables."""
    if loses_class(model) and _config_of(model) is not None:
        # Through a file, which includes the vocabulary of a preprocessor.
        own = {type(model).__name__: type(model)}
        with as_if_not_compiled(model), keras.saving.custom_object_scope(own):
            return copies.deepcopy(model)
    model = graph_of(model)
    new = keras.models.clone_model(model)
    for variable, old in zip(new.variables, model.variables, strict=True):
        # Copied because JAX may reuse the memory of the arguments of a training step.
        variable.assign(np.array(keras.ops.convert_to_numpy(old.value)))
    return new


def _copy_metric(setting):
    if isinstance(setting, keras.metrics.Metric):
        return type(setting).from_config(setting.get_config())
    return setting


def _transform_in_place(model, change):
    """Replaces layers in the attributes, lists and dicts of a model."""
    layers = keras_internals.tracked_layers(model)
    order = {id(layer): index for index, layer in enumerate(layers)}
    replaced = {}
    for layer in paths.children(model):
        new = _rebuild(layer, change) if is_graph(layer) else change(layer)
        if new is not layer:
            replaced[id(layer)] = (layer, new)
            order[id(new)] = order.get(id(layer), len(order))
    attributes = _attributes_with(model, replaced)
    _check_replaceable(model, replaced, attributes)
    with keras_internals.unlocked(model) as untrack:
        for name, value in attributes:
            delattr(model, name)
            setattr(model, name, _exchange(value, replaced))
        for old, _ in replaced.values():
            untrack(old)
    keras_internals.sort_tracked_layers(model, lambda layer: order[id(layer)])
    for step in ("train_function", "test_function", "predict_function"):
        setattr(model, step, None)
    _set_class(model)
    return model


def _set_class(model):
    """Gives a model that is wrapped in place a class that can be saved and loaded."""
    is_wrapped = bool(_wrappers(model))
    kind = type(model)
    plain = kind.plain_class if issubclass(kind, WrappedInPlace) else kind
    # Keras would take the class for an attribute to track.
    object.__setattr__(model, "__class__", _in_place(plain) if is_wrapped else plain)


@keras.saving.register_keras_serializable("tf_tickets")
class WrappedInPlace:
    """Saves and loads a subclassed model whose layers are wrapped in place.

    The class of the model makes plain layers. While it is wrapped, a model is of a
    class made of this one and its own. The configuration contains that of the plain
    model, which is loaded, built and wrapped again.
    """

    plain_class: type = object

    def get_config(self):
        wrappers = _wrappers(self)
        kernels = {id(v) for w in wrappers for v in w.kernel_variables.values()}
        table = plain_variables(self, wrappers)
        return {
            "original": _plain_config(self),
            "kernels": [path for path, v in table.items() if id(v) in kernels],
            "mask": keras.saving.serialize_keras_object(wrappers[0].mask),
        }

    def get_build_config(self):
        # The plain model inside is built before it is wrapped.
        return None

    @classmethod
    def from_config(cls, config):
        model = keras.saving.deserialize_keras_object(config["original"])
        # Models in its configuration may be wrapped already.
        table = plain_variables(model, _wrappers(model))
        names = paths.match(config["kernels"], table)
        if names is None:
            raise ValueError(
                f"The kernels of the file do not fit a new {type(model).__name__}. "
                f"Received: {config['kernels']}. Its variables: {list(table)}. If "
                "Keras cannot build the class when it loads a file, build and wrap a "
                "new model, and call its load_weights(path) with this file."
            )
        kernels = {id(table[path]) for path in names.values()}
        return transform(model, functools.partial(_wrap, kernels, config["mask"]))


def _wrappers(model):
    return [layer for layer in paths.walk(model) if isinstance(layer, Prunable)]


@functools.cache
def _in_place(kind):
    names = {
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__doc__": kind.__doc__,
        "plain_class": kind,
    }
    wrapped = type(kind)(kind.__name__, (WrappedInPlace, kind), names)
    register = keras.saving.register_keras_serializable
    return register("tf_tickets", WrappedInPlace.__name__)(wrapped)


def _plain_config(model):
    """Returns the configuration of a wrapped model as that of a plain one."""
    wrapped = type(model)
    object.__setattr__(model, "__class__", wrapped.plain_class)
    try:
        with as_if_not_compiled(model):
            return keras.saving.serialize_keras_object(model)
    except NotImplementedError as error:
        raise NotImplementedError(
            f"The class of model {model.name!r}, {type(model).__name__}, has no "
            "configuration, so a .keras file, clone or deep copy is impossible. Define "
            "get_config, as Keras requires it of plain models too, or use "
            "model.save_weights(...), or save a Ticket."
        ) from error
    finally:
        object.__setattr__(model, "__class__", wrapped)


def _wrap(kernels, mask, layer):
    """Wraps a layer if it has some of the kernels, a set of ids."""
    if isinstance(layer, Prunable):
        return layer
    owned = paths.variables_of(layer)
    chosen = [o.path for o in owned if id(o.variable) in kernels]
    mask = keras.saving.deserialize_keras_object(mask)
    return Prunable(layer, kernels=chosen, mask=mask) if chosen else layer


def _check_replaceable(model, replaced, attributes):
    reachable = {
        id(layer) for _, value in attributes for layer in paths.layers_in(value)
    }
    lost = [old.name for key, (old, _) in replaced.items() if key not in reachable]
    if lost:
        raise ValueError(
            f"Model {model.name!r} stores the layers {lost} where they cannot be "
            "replaced. Store them in attributes, lists, tuples, sets or dicts, or "
            "exclude them with `filters`."
        )


def _attributes_with(model, replaced):
    """Returns the attributes that contain layers to replace, with their values."""
    return [
        (name, value)
        for name, value in keras_internals.attributes(model).items()
        if any(id(layer) in replaced for layer in paths.layers_in(value))
    ]


def _exchange(value, replaced):
    """Returns the value with its layers replaced, keeping the container types."""
    if isinstance(value, dict):
        return {k: _exchange(v, replaced) for k, v in value.items()}
    if isinstance(value, list):
        return [_exchange(v, replaced) for v in value]
    if isinstance(value, set):
        return {_exchange(v, replaced) for v in value}
    if isinstance(value, tuple):
        items = [_exchange(v, replaced) for v in value]
        # Not `type(value)`: TensorFlow wraps tuples in a proxy.
        kind = value.__class__
        return tuple(items) if kind is tuple else kind(*items)
    return replaced[id(value)][1] if id(value) in replaced else value
