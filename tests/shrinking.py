"""Compares a model with masks of random units with the model without these units."""

import time

import keras
import numpy as np

import tf_tickets as tt
from tf_tickets import wrapping
from tf_tickets.compaction.shrinking import shrunk
from tf_tickets.units.units import kept


def fill(model, rng):
    """Gives random values to all weights, so that no zero is there by itself."""
    # These layers compute with tensors that they make from their variables.
    fixed = [x for x in model.layers if isinstance(x, keras.layers.Normalization)]
    skipped = {id(variable) for layer in fixed for variable in layer.weights}
    for variable in model.weights:
        if id(variable) in skipped:
            continue
        shape = tuple(variable.shape)
        value = rng.standard_normal(shape)
        if "variance" in variable.name:
            value = rng.uniform(0.5, 2.0, shape)
        elif len(shape) > 1:
            value *= 1.3 / np.sqrt(np.prod(shape[:-1]))
        elif variable.name == "gamma" or variable.name.startswith("variable"):
            value = np.sign(value) * rng.uniform(0.5, 1.5, shape)
        else:
            value *= 0.2
        variable.assign(value)


def choose(units, rng, fraction=0.3):
    """Returns which units are kept: a random choice, at least one on every axis."""
    keep = rng.random(units.size) >= fraction
    for axis in units.axes:
        if not kept(keep, axis.ids).any():
            keep[rng.choice(axis.ids)] = True
    return keep


def examples(model, rng, size=None, count=2):
    """Returns random inputs of a model; unknown sizes become `size`."""
    arrays = [
        rng.uniform(-1, 1, (count, *(n or size for n in tensor.shape[1:])))
        for tensor in model.inputs
    ]
    return arrays[0] if len(arrays) == 1 else arrays


def predictions(model, x):
    # JAX compiles a program for every operation outside a compiled model.
    if keras.config.backend() == "jax":
        outputs = model.predict_on_batch(x)
    else:
        outputs = model(x, training=False)
    outputs = keras.tree.flatten(outputs)
    return [keras.ops.convert_to_numpy(y).astype("float64") for y in outputs]


def distance(first, second):
    """Returns the largest difference relative to the largest value, of all outputs."""
    pairs = zip(first, second, strict=True)
    return max(float(np.abs(a - b).max() / np.abs(a).max()) for a, b in pairs)


def mask_units(model, units, keep):
    """Writes zeros to the slices of units that are not kept."""
    variables = wrapping.plain_paths(model)
    for path, mask in units.masks(keep).items():
        value = wrapping.to_numpy(variables[path])
        variables[path].assign(np.where(mask, value, np.zeros((), value.dtype)))


def compare(model, seed=0, fraction=0.3, size=None, x=None):
    """Removes random units; returns the small model and what was measured."""
    rng = np.random.default_rng(seed)
    fill(model, rng)
    x = examples(model, rng, size) if x is None else x
    dense = predictions(model, x)
    began = time.perf_counter()
    units = tt.find_units(model)
    found = time.perf_counter()
    keep = choose(units, rng, fraction)
    chosen = time.perf_counter()
    small = shrunk(model, units, keep)
    rebuilt = time.perf_counter()
    mask_units(model, units, keep)
    masked = predictions(model, x)
    return small, {
        "units": units.size,
        "removed": int(units.size - keep.sum()),
        "error": distance(masked, predictions(small, x)),
        "change": distance(masked, dense),
        "params": small.count_params() / model.count_params(),
        "seconds_find": found - began,
        "seconds_rebuild": rebuilt - chosen,
    }
