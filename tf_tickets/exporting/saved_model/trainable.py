"""Writes trainable SavedModels whose variables contain only the kept weights.

A loaded model follows TensorFlow's interface for reusable SavedModels: call it as
`loaded(inputs, training=True)`. It has the attributes `variables`,
`trainable_variables` and `regularization_losses`. Pruned weights do not exist in the
model, so no optimizer can change them. Optimizer slots also have only kept weights.
"""

import functools
import os
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from tf_tickets.exporting.saved_model import inference, packing
from tf_tickets.wrapping import signature
from tf_tickets.wrapping.signature import Interface


def write(
    model: keras.Model,
    takes: Interface,
    directory: os.PathLike | str,
    masks: Mapping[int, np.ndarray],
) -> list[str]:
    """Writes a trainable model with the signatures "serving_default" and "train".

    Args:
        model: A plain model on the TensorFlow backend.
        takes: Interface of the model.
        directory: Folder of the SavedModel.
        masks: Dict from the index of a variable in `model.variables` to its mask.
            Masks without zeros have no effect.

    Returns:
        List with the encoding of each variable of the model: "kept weights" or
        "dense".
    """
    import tensorflow as tf

    stored = [
        _StoredVariable(tf, variable, masks.get(index))
        for index, variable in enumerate(model.variables)
    ]
    functions = _Functions(tf, model, takes, stored)
    root = functions.root()
    root.variables = [item.variable for item in stored]
    root.trainable_variables = [
        item.variable for item in stored if item.variable.trainable
    ]
    root.regularization_losses = [
        tf.function(
            functools.partial(_regularization, variable, item), input_signature=[]
        )
        for variable, item in zip(model.variables, stored, strict=True)
        if variable.trainable and variable.regularizer is not None
    ]
    root.indices = [item.indices for item in stored if item.indices is not None]
    tf.saved_model.save(root, os.fspath(directory), functions.signatures())
    return ["dense" if item.indices is None else "kept weights" for item in stored]


def _regularization(variable, stored):
    return variable.regularizer(stored.value())


class _StoredVariable:
    """Stores a variable of the model: all its values, or only the kept weights."""

    def __init__(self, tf, variable, mask):
        self.tf = tf
        self.shape = list(variable.shape)
        self.indices = None
        array = keras.ops.convert_to_numpy(variable.value)
        if mask is not None and not mask.all():
            indices = np.flatnonzero(mask).astype(np.int64)
            gaps = packing.pack_places(mask)
            make = functools.partial(inference.places_of, tf, gaps)
            self.indices = inference.made_at_load(tf, indices, make)
            array = array[np.asarray(mask, bool)]
        self.variable = tf.Variable(
            array, trainable=variable.trainable, name=inference.name(variable)
        )

    def value(self):
        """Returns the full tensor."""
        if self.indices is None:
            return self.variable.read_value()
        indices = self.indices.read()[:, None]
        size = np.array([np.prod(self.shape)], np.int64)
        flat = self.tf.scatter_nd(indices, self.variable.read_value(), size)
        return self.tf.reshape(flat, self.shape)


class _Functions:
    """Builds the functions of the saved model."""

    def __init__(self, tf, model, takes, stored):
        self.tf = tf
        self.model = model
        self.takes = takes
        self.stored = stored

    def root(self):
        """Returns the callable object to save."""
        functions, tf = self, self.tf
        specs = inference.specs(self.takes)
        single_input = len(specs) == 1

        class Root(tf.Module):  # type: ignore[name-defined]
            # The properties of `tf.Module` with these names would not be saved.
            variables: Any = None
            trainable_variables: Any = None

            @tf.function
            def __call__(self, inputs, training=False):
                named = inputs
                if single_input:
                    named = dict(zip(specs, [inputs], strict=True))
                return functions.run(named, training)

        root = Root()
        example = next(iter(specs.values())) if single_input else specs
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
        """Calls the model; in training mode it updates the moving statistics."""
        values = {index: item.value() for index, item in enumerate(self.stored)}
        outputs, changed = inference.run(
            self.model, self.takes, values, named, training
        )
        if training:
            for index, value in changed.items():
                self.stored[index].variable.assign(value)
        return outputs
