"""The same model of other layers, for wrapping and stripping.

Functional and Sequential models, nested ones too, are rebuilt; other models are
changed in place, in the attributes that hold their layers.
"""

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator

import keras
import numpy as np

from tf_tickets import keras_internals
from tf_tickets.wrapping import paths
from tf_tickets.wrapping.prunable import Prunable


def is_graph(layer: keras.layers.Layer) -> bool:
    """Whether Keras can rebuild the model from its list or graph of layers."""
    return isinstance(layer, keras.Sequential | keras.Function)


def layer_before(
    model: keras.Model, layer: keras.layers.Layer
) -> keras.layers.Layer | None:
    """The layer of a Sequential or functional model whose output another one takes.

    None where it takes the output of none, or of several.

    Example:

    >>> first, last = keras.layers.Dense(2, name="first"), keras.layers.Dense(1)
    >>> layer_before(keras.Sequential([keras.Input((3,)), first, last]), last).name
    'first'
    """
    if isinstance(model, keras.Sequential):
        place = [id(each) for each in model.layers].index(id(layer))
        return model.layers[place - 1] if place else None
    makers: dict[int, tuple] = {}
    found: list = []

    def call(each, *args, **kwargs):
        if each is layer:
            found.extend(
                makers.get(id(x), (None,))[0] for x in keras.tree.flatten(args)
            )
        outputs = each(*args, **kwargs)
        # With the tensors themselves, which thus keep their ids.
        makers.update((id(x), (each, x)) for x in keras.tree.flatten(outputs))
        return outputs

    keras.models.clone_model(
        model, clone_function=lambda each: each, call_function=call
    )
    return found[0] if len(found) == 1 else None


def gives_probabilities(model: keras.Model) -> bool:
    """Whether the last layer ends with a softmax or a sigmoid.

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
    """The model with `change` applied to its units, to each of them once."""
    changed = {}

    def once(layer):
        if id(layer) not in changed:
            changed[id(layer)] = change(layer)
        return changed[id(layer)]

    if is_graph(model):
        return _rebuild(model, once)
    return _transform_in_place(model, once)


def _rebuild(model, change):
    """A functional or Sequential model of other layers, not compiled."""
    with as_if_not_compiled(model):
        new = keras.models.clone_model(model, clone_function=change, recursive=True)
    if type(new) is not type(model):
        raise ValueError(
            f"Keras cannot rebuild a model of class {type(model).__name__}, whose "
            "constructor does not take (inputs, outputs). Build it as "
            "keras.Model(inputs, outputs) or keras.Sequential(layers), or wrap its "
            "layers by hand with tf_tickets.layers.Prunable."
        )
    return new


@contextlib.contextmanager
def as_if_not_compiled(model: keras.Model) -> Iterator[None]:
    """Keras would compile a clone from a file's form of the settings, and keep them.

    The optimizers are away too, for Keras saves those of any model.

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
    """Compiles as `model` is, with its optimizer and metrics of its own.

    The optimizer is the same object, for its settings are not all in its
    configuration (`exclude_from_weight_decay`), and so are the variables; what
    `change` makes of it is compiled with.
    """
    if type(model).compile is not keras.Model.compile:
        warnings.warn(
            f"{type(model).__name__} has a `compile` of its own, so the new model is "
            "not compiled. Call compile(...) on it.",
            stacklevel=4,
        )
        return
    settings = keras.tree.map_structure(_own, keras_internals.compile_arguments(model))
    new.compile(**{**settings, "optimizer": change(settings["optimizer"])})


def copy(model: keras.Model) -> keras.Model:
    """The same plain model with variables of its own, all of them trainable."""
    new = keras.models.clone_model(model)
    for variable, old in zip(new.variables, model.variables, strict=True):
        # A copy: JAX reuses the memory of what a training step is given.
        variable.assign(np.array(keras.ops.convert_to_numpy(old.value)))
    return new


def _own(setting):
    if isinstance(setting, keras.metrics.Metric):
        return type(setting).from_config(setting.get_config())
    return setting


def _transform_in_place(model, change):
    """Changes the attributes, lists and dicts that hold the model's layers."""
    layers = keras_internals.tracked_layers(model)
    order = {id(layer): place for place, layer in enumerate(layers)}
    replaced = {}
    for layer in paths.children(model):
        new = _rebuild(layer, change) if is_graph(layer) else change(layer)
        if new is not layer:
            replaced[id(layer)] = (layer, new)
            order[id(new)] = order.get(id(layer), len(order))
    held = _holding(model, replaced)
    _check_held(model, replaced, held)
    with keras_internals.unlocked(model) as forget:
        for name, value in held:
            delattr(model, name)
            setattr(model, name, _exchange(value, replaced))
        for old, _ in replaced.values():
            forget(old)
    keras_internals.sort_tracked_layers(model, lambda layer: order[id(layer)])
    for step in ("train_function", "test_function", "predict_function"):
        setattr(model, step, None)
    _set_config(model)
    return model


def _set_config(model):
    """Keeps a wrapped subclassed model from a file that could not be loaded."""
    if any(isinstance(layer, Prunable) for layer in paths.walk(model)):
        model.get_config = functools.partial(_refuse_config, model.name)
    elif "get_config" in vars(model):
        del model.get_config


def _refuse_config(name):
    raise NotImplementedError(
        f"Model {name!r} is a subclassed model whose layers were wrapped in place; its "
        "class knows nothing of that, so a .keras file, a clone or a deep copy would "
        "have no place for the masks. Use model.save_weights(...) and load_weights "
        "into a model that is wrapped in the same way, save a Ticket, or call "
        "tf_tickets.strip(model) first."
    )


def _check_held(model, replaced, held):
    found = {id(layer) for _, value in held for layer in paths.layers_in(value)}
    lost = [old.name for key, (old, _) in replaced.items() if key not in found]
    if lost:
        raise ValueError(
            f"Model {model.name!r} holds the layers {lost} where they cannot be "
            "replaced. Hold them in attributes, lists, tuples, sets or dicts, or "
            "exclude them with `filters`."
        )


def _holding(model, replaced):
    """The attributes that hold layers to replace, with their values."""
    held = keras_internals.attributes(model).items()
    return [(name, value) for name, value in held if _holds(value, replaced)]


def _holds(value, replaced):
    return any(id(layer) in replaced for layer in paths.layers_in(value))


def _exchange(value, replaced):
    """The value with layers replaced, in containers of the same kind."""
    if isinstance(value, dict):
        return {k: _exchange(v, replaced) for k, v in value.items()}
    if isinstance(value, list):
        return [_exchange(v, replaced) for v in value]
    if isinstance(value, set):
        return {_exchange(v, replaced) for v in value}
    if isinstance(value, tuple):
        items = [_exchange(v, replaced) for v in value]
        # Not `type(value)`: TensorFlow holds tuples in a proxy.
        kind = value.__class__
        return tuple(items) if kind is tuple else kind(*items)
    return replaced[id(value)][1] if id(value) in replaced else value
