"""Replaces layers of a model, for wrapping and stripping.

Functional and Sequential models, including nested ones, are rebuilt. Other models are
changed in place, in the attributes that hold their layers.
"""

from collections.abc import Callable, Iterable

import keras

from tf_tickets import distribution
from tf_tickets.masks.base import Mask
from tf_tickets.structures.structure import Structure, Unstructured
from tf_tickets.wrapping import graphs, in_place, rebuilding


def transform(
    model: keras.Model, change: Callable[[keras.layers.Layer], keras.layers.Layer]
) -> keras.Model:
    """Returns the model with `change` applied once to each layer."""
    changed = {}

    def once(layer):
        if id(layer) not in changed:
            changed[id(layer)] = change(layer)
        return changed[id(layer)]

    with distribution.scope(model):
        if graphs.is_graph(model):
            return rebuilding.rebuild(model, once)
        return in_place.change_in_place(model, once)


def wrap_variables(
    model: keras.Model,
    variables: Iterable[keras.Variable],
    mask: Mask,
    structure: Structure = Unstructured(),  # noqa: B008  frozen
) -> keras.Model:
    """Returns the model with the layers that own the variables in Prunable layers.

    Args:
        model: A built model without Prunable layers.
        variables: The kernels to make prunable.
        mask: The mask parametrization, which is copied for every kernel.
        structure: Which weights are kept or pruned together.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
    >>> mask = tt.masks.get("fixed")
    >>> model = wrap_variables(model, [model.layers[0].kernel], mask)
    >>> type(model.layers[0]).__name__
    'Prunable'
    """
    change = rebuilding.wrapping_in_prunable(model, variables, mask, structure)
    return transform(model, change)
