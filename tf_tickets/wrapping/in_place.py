"""Changes subclassed models in place, in the attributes that hold their layers."""

import functools
from collections.abc import Callable

import keras

from tf_tickets import keras_internals
from tf_tickets import masks as masks_module
from tf_tickets.wrapping import compiling, graphs, paths, rebuilding, stored_config
from tf_tickets.wrapping.kernels import plain_paths, prunables


def change_in_place(
    model: keras.Model, change: Callable[[keras.layers.Layer], keras.layers.Layer]
) -> keras.Model:
    """Replaces layers in the attributes, lists and dicts of a model.

    Args:
        model: A subclassed model.
        change: Returns the layer to put in the place of a layer.
    """
    layers = keras_internals.tracked_layers(model)
    order = {id(layer): index for index, layer in enumerate(layers)}
    replaced = {}
    for layer in paths.children(model):
        new = (
            rebuilding.rebuild(layer, change)
            if graphs.is_graph(layer)
            else change(layer)
        )
        if new is not layer:
            replaced[id(layer)] = (layer, new)
            order[id(new)] = order.get(id(layer), len(order))
    # Before anything is changed: an unusual base class may refuse a subclass.
    wrapped_class = _in_place(_plain_class(model))
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
    kind = wrapped_class if prunables(model) else _plain_class(model)
    # Keras would take the class for an attribute to track.
    object.__setattr__(model, "__class__", kind)
    return model


def _plain_class(model):
    kind = type(model)
    return kind.plain_class if issubclass(kind, WrappedInPlace) else kind


@keras.saving.register_keras_serializable("tf_tickets")
class WrappedInPlace:
    """Saves and loads a subclassed model whose layers are wrapped in place.

    The class of the model makes plain layers. While it is wrapped, a model is of a
    class made of this one and its own. The configuration contains that of the plain
    model, which is loaded, built and wrapped again.
    """

    plain_class: type = object

    def get_config(self):
        return stored_config.stored(self, _plain_config(self), plain_paths(self))

    def get_build_config(self):
        # The plain model inside is built before it is wrapped.
        return None

    @classmethod
    def from_config(cls, config):
        model = keras.saving.deserialize_keras_object(config["original"])
        advice = (
            "If Keras cannot build the class when it loads a file, build and wrap a "
            "new model, and call its load_weights(path) with this file."
        )
        # Models in its configuration may be wrapped already.
        table = plain_paths(model)
        kernels = stored_config.kernels_of(config, model, table, advice)
        mask = masks_module.get(config["mask"])
        change = rebuilding.wrapping_in_prunable(
            model, kernels, mask, stored_config.structure_of(config)
        )
        return change_in_place(model, change)


@functools.cache
def _in_place(kind):
    names = {
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__doc__": kind.__doc__,
        "plain_class": kind,
    }
    try:
        wrapped = type(kind)(kind.__name__, (WrappedInPlace, kind), names)
    except TypeError as error:
        raise ValueError(
            f"Class {kind.__name__} refuses subclasses, which a wrapped model needs: "
            f"{error}. Let its `__init_subclass__` work without arguments."
        ) from error
    register = keras.saving.register_keras_serializable
    return register("tf_tickets", WrappedInPlace.__name__)(wrapped)


def _plain_config(model):
    """Returns the configuration of a wrapped model as that of a plain one."""
    wrapped = type(model)
    object.__setattr__(model, "__class__", wrapped.plain_class)
    try:
        with compiling.as_if_not_compiled(model):
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
