"""A small convolutional network whose channels are pruned, for tests."""

import keras
import numpy as np
from keras import layers as kl

import tf_tickets as tt
from tf_tickets.compaction.shrinking import shrunk


def network():
    """Residual, with squeeze and excitation, depthwise, Flatten and two kinds of BN."""
    inputs = keras.Input((6, 6, 2))
    x = kl.Conv2D(6, 3, padding="same", use_bias=False, name="c1")(inputs)
    x = kl.BatchNormalization(name="n1")(x)
    x = kl.ReLU()(x)
    y = kl.Conv2D(5, 3, padding="same", use_bias=False, name="c2")(x)
    y = kl.ReLU()(kl.BatchNormalization(scale=False, name="n2")(y))
    y = kl.DepthwiseConv2D(3, padding="same", use_bias=False, name="dw")(y)
    y = kl.Conv2D(6, 1, use_bias=False, name="c3")(y)
    y = kl.BatchNormalization(name="n3")(y)
    gate = kl.GlobalAveragePooling2D(keepdims=True)(y)
    gate = kl.Conv2D(4, 1, activation="relu", name="s1")(gate)
    gate = kl.Conv2D(6, 1, activation="sigmoid", name="s2")(gate)
    x = kl.ReLU()(kl.Add()([x, kl.Multiply()([y, gate])]))
    x = kl.Flatten()(kl.MaxPooling2D(3)(x))
    x = kl.Dense(8, activation="relu", name="d1")(x)
    return keras.Model(inputs, kl.Dense(3, name="out")(x), name="net")


WIDTHS = {"c1/kernel": 6, "c2/kernel": 5, "s1/kernel": 4, "d1/kernel": 8}


def shaken(model, seed=0):
    """Returns the model with random values in all variables, also in statistics."""
    rng = np.random.default_rng(seed)
    for v in model.weights:
        low = 0.5 if "variance" in v.path else -0.5
        v.assign(rng.uniform(low, 1.0, v.shape))
    return model


def wrapped(structure="channels", model=None, **kwargs):
    model = shaken(network()) if model is None else model
    return tt.wrap(model, structure=structure, verbose=False, **kwargs)


def pruned(model, fraction=0.5, seed=0):
    """Prunes random units; returns which ones are kept."""
    kernels = tt.kernels(model)
    rng = np.random.default_rng(seed)
    kept = {
        name: rng.permutation(alive.size) >= fraction * alive.size
        for name, alive in kernels.layout.units(kernels.masks).items()
    }
    kernels.set_masks(kernels.layout.masks(kept, kernels.masks))
    return kept


def units_kept(model):
    kernels = tt.kernels(model)
    return {
        name: alive.tolist()
        for name, alive in kernels.layout.units(kernels.masks).items()
    }


def smaller(model):
    """Returns the model without the units that its masks prune."""
    layout = tt.kernels(model).layout
    units = tt.find_units(model)
    keep = np.ones(units.size, bool)
    keep[layout.numbers] = layout.flat(layout.units(tt.kernels(model).masks))
    return shrunk(model, units, keep)


def images(size=8, seed=0):
    return np.random.default_rng(seed).normal(size=(size, 6, 6, 2)).astype("float32")


def predict(model, x):
    return keras.ops.convert_to_numpy(model(x, training=False))
