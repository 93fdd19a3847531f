"""Builds layers whose `build` leaves something to the first call."""

import inspect

import keras

from tf_tickets.wrapping import paths


def has_build(layer: keras.layers.Layer) -> bool:
    """Returns whether a layer class overrides `build`."""
    return type(layer).build is not keras.layers.Layer.build


def build_signature(layer: keras.layers.Layer) -> inspect.Signature:
    """Returns the signature of `build`, with one shape per input if possible."""
    if has_build(layer):
        return inspect.signature(layer.build)
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return inspect.Signature(
        [
            inspect.Parameter(f"{name}_shape", kind)
            for name, parameter in inspect.signature(layer.call).parameters.items()
            if parameter.kind in (kind, inspect.Parameter.KEYWORD_ONLY)
        ]
    )


def build(layer: keras.layers.Layer, *args: object, **kwargs: object) -> None:
    """Builds a layer by its `build`, or by a symbolic call if it has none."""
    if has_build(layer):
        layer.build(*args, **kwargs)
    else:
        _call_symbolically(layer, *args, **kwargs)


def build_children(layer: keras.layers.Layer, *args: object, **kwargs: object) -> None:
    """Builds the sublayers that `build` leaves to the first call."""
    shapes_known = bool(args or kwargs)
    if shapes_known and not all(child.built for child in paths.walk(layer)):
        _call_symbolically(layer, *args, **kwargs)


def _call_symbolically(layer, *args, **kwargs):
    if not args and len(kwargs) == 1:
        # `build` and `call` may name their first argument differently.
        args, kwargs = tuple(kwargs.values()), {}
    inputs = {name.removesuffix("_shape"): _symbols(s) for name, s in kwargs.items()}
    layer(*[_symbols(shape) for shape in args], **inputs)


def _symbols(shape):
    return keras.tree.map_shape_structure(keras.KerasTensor, shape)
