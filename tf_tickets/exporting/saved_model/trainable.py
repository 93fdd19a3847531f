"""SavedModels to train on with: of a sparse kernel only the kept weights are variables.

A loaded model follows TensorFlow's interface of reusable SavedModels: it is called as
`loaded(inputs, training=True)` and has `variables`, `trainable_variables` and
`regularization_losses`. What was pruned does not exist in it, so that no optimizer
brings it back, and slots are as few as the kept weights.
"""

import functools
import os
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from tf_tickets.exporting import signature
from tf_tickets.exporting.saved_model import inference, packing
from tf_tickets.exporting.signature import Interface


def write(
    model: keras.Model,
    takes: Interface,
    directory: os.PathLike | str,
    masks: Mapping[int, np.ndarray],
) -> list[str]:
    """Writes a model to train, with the signatures "serving_default" and "train".

    Args:
        model: A plain model, on TensorFlow.
        takes: Its inputs.
        directory: Where to.
        masks: Dict from the place of a variable in `model.variables` to its mask; one
            without zeros counts as none.

    Returns:
        How each of the model's variables is stored, "kept weights" or "dense".
    """
    import tensorflow as tf

    held = [
        _Held(tf, variable, masks.get(place))
        for place, variable in enumerate(model.variables)
    ]
    calls = _Calls(tf, model, takes, held)
    root = calls.root()
    root.variables = [one.variable for one in held]
    root.trainable_variables = [one.variable for one in held if one.variable.trainable]
    root.regularization_losses = [
        tf.function(
            functools.partial(_regularization, variable, one), input_signature=[]
        )
        for variable, one in zip(model.variables, held, strict=True)
        if variable.trainable and variable.regularizer is not None
    ]
    root.places = [one.places for one in held if one.places is not None]
    tf.saved_model.save(root, os.fspath(directory), calls.signatures())
    return ["dense" if one.places is None else "kept weights" for one in held]


def _regularization(variable, held):
    return variable.regularizer(held.value())


class _Held:
    """A variable of the model as it is stored: whole, or its kept weights."""

    def __init__(self, tf, variable, mask):
        self.tf = tf
        self.shape = list(variable.shape)
        self.places = None
        array = keras.ops.convert_to_numpy(variable.value)
        if mask is not None and not mask.all():
            flat = np.flatnonzero(mask).astype(np.int64)
            gaps = packing.pack_places(mask)
            make = functools.partial(inference.places_of, tf, gaps)
            self.places = inference.made_at_load(tf, flat, make)
            array = array[np.asarray(mask, bool)]
        given = {"trainable": variable.trainable, "name": inference.name(variable)}
        self.variable = tf.Variable(array, **given)

    def value(self):
        """The whole tensor."""
        if self.places is None:
            return self.variable.read_value()
        places = self.places.read()[:, None]
        size = np.array([np.prod(self.shape)], np.int64)
        flat = self.tf.scatter_nd(places, self.variable.read_value(), size)
        return self.tf.reshape(flat, self.shape)


class _Calls:
    """The functions of the loaded model."""

    def __init__(self, tf, model, takes, held):
        self.tf = tf
        self.model = model
        self.takes = takes
        self.held = held

    def root(self):
        """What is saved: an object that is called."""
        calls, tf = self, self.tf
        specs = inference.specs(self.takes)
        alone = len(specs) == 1

        class Root(tf.Module):  # type: ignore[name-defined]
            # `tf.Module` has properties of these names, which are not saved.
            variables: Any = None
            trainable_variables: Any = None

            @tf.function
            def __call__(self, inputs, training=False):
                named = dict(zip(specs, [inputs], strict=True)) if alone else inputs
                return calls.run(named, training)

        root = Root()
        example = next(iter(specs.values())) if alone else specs
        for training in (False, True):
            root.__call__.get_concrete_function(example, training=training)
        return root

    def signatures(self):
        return {
            "serving_default": self._signature(False),
            "train": self._signature(True),
        }

    def _signature(self, training):
        def call(**named):
            return signature.named_outputs(self.run(named, training))

        specs = inference.specs(self.takes)
        return self.tf.function(call).get_concrete_function(**specs)

    def run(self, named, training):
        """Calls the model; in training its statistics move on."""
        values = {place: one.value() for place, one in enumerate(self.held)}
        given = self.model, self.takes, values, named, training
        outputs, changed = inference.run(*given)
        if training:
            for place, value in changed.items():
                self.held[place].variable.assign(value)
        return outputs
