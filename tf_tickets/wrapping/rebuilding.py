"""Rebuilds functional and Sequential models, also nested ones, with other layers."""

import copy as copies
import itertools
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np

from tf_tickets import masks as masks_module
from tf_tickets.masks.base import Mask, copied, has_seed
from tf_tickets.structures.structure import Structure
from tf_tickets.wrapping import compiling, graphs, paths, stored_config
from tf_tickets.wrapping.prunable import Prunable


def rebuild(
    model: keras.Model, change: Callable[[keras.layers.Layer], keras.layers.Layer]
) -> keras.Model:
    """Rebuilds a functional or Sequential model, without compiling it.

    Args:
        model: The model.
        change: Returns the layer to put in the place of a layer.
    """
    plain = original(model)
    if plain is not None:
        return plain
    if not graphs.loses_class(model):
        return _clone(model, change)
    new = _clone(graphs.graph_of(model), change)
    if isinstance(model, WrappedModel):
        return new
    return WrappedModel(new.input, new.output, name=model.name, plain=model)


def _clone(model, change):
    with compiling.as_if_not_compiled(model):
        return keras.models.clone_model(model, clone_function=change, recursive=True)


@keras.saving.register_keras_serializable("tf_tickets")
class WrappedModel(keras.Model):
    """The wrapped layers of a model whose class Keras cannot rebuild.

    These are functional and Sequential models of a class with its own constructor, such
    as the tasks and backbones of KerasHub. A wrapped model of them shares their layers,
    but is of this class. `tf_tickets.strip` returns the original model, which is then
    sparse. A saved file contains the configuration of the original model.
    """

    _plain: SimpleNamespace | None = None

    # With these arguments, Keras clones it as an ordinary functional model.
    def __init__(
        self,
        inputs: Any,
        outputs: Any,
        name: str | None = None,
        plain: keras.Model | None = None,
    ) -> None:
        super().__init__(inputs, outputs, name=name)
        if plain is not None:
            # The namespace hides the model from Keras, which would count its layers
            # twice.
            self._plain = SimpleNamespace(model=plain)

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
            # That of the layers, which is loaded as an ordinary functional model.
            return keras.Model(self.input, self.output, name=self.name).get_config()
        table = paths.plain_paths(model.variables, {})
        return stored_config.stored(self, config, table)

    @classmethod
    def from_config(cls, config, custom_objects=None):
        if "original" not in config:
            return keras.Model.from_config(config, custom_objects)
        model = keras.saving.deserialize_keras_object(
            config["original"], custom_objects
        )
        table = paths.plain_paths(model.variables, {})
        advice = "Load the file with the versions of the libraries that wrote it."
        kernels = stored_config.kernels_of(config, model, table, advice)
        mask = masks_module.get(config["mask"])
        structure = stored_config.structure_of(config)
        return rebuild(model, wrapping_in_prunable(model, kernels, mask, structure))


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
    with compiling.as_if_not_compiled(model):
        try:
            return keras.saving.serialize_keras_object(model)
        except NotImplementedError:
            return None


def copy(model: keras.Model) -> keras.Model:
    """Returns a copy of a plain model with its own variables."""
    if graphs.loses_class(model) and _config_of(model) is not None:
        # Through a file, which includes the vocabulary of a preprocessor.
        own = {type(model).__name__: type(model)}
        with compiling.as_if_not_compiled(model), keras.saving.custom_object_scope(own):
            return copies.deepcopy(model)
    model = graphs.graph_of(model)
    new = keras.models.clone_model(model)
    for variable, old in zip(new.variables, model.variables, strict=True):
        # Copied because JAX may reuse the memory of the arguments of a training step.
        variable.assign(np.array(keras.ops.convert_to_numpy(old.value)))
    return new


def wrapping_in_prunable(
    model: keras.Model,
    variables: Iterable[keras.Variable],
    mask: Mask,
    structure: Structure,
) -> Callable[[keras.layers.Layer], keras.layers.Layer]:
    """Returns a function that wraps a layer of a model if it owns some variables.

    Layers that are wrapped already stay as they are. If the mask has a seed, that of a
    layer follows from the number of kernels in the layers before it, so the layer keeps
    it in files and clones.

    Args:
        model: A built model.
        variables: The kernels to make prunable.
        mask: The mask parametrization, which is copied for every kernel.
        structure: Which weights are kept or pruned together.
    """
    wanted = {id(variable) for variable in variables}
    kernels = {
        id(leaf): [o.path for o in paths.variables_of(leaf) if id(o.variable) in wanted]
        for leaf in graphs.leaves(model)
    }

    counts = itertools.accumulate(map(len, kernels.values()), initial=0)
    numbers = dict(zip(kernels, counts, strict=False))

    def wrapped(layer):
        chosen = kernels.get(id(layer))
        if not chosen or isinstance(layer, Prunable):
            return layer
        own = copied(mask, numbers[id(layer)]) if has_seed(mask) else mask
        return Prunable(layer, kernels=chosen, mask=own, structure=structure)

    return wrapped
