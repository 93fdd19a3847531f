"""TensorFlow SavedModels whose sparse kernels are stored as gaps and values.

They are decoded once, when the model is loaded, by TensorFlow's own operations: whoever
loads one needs TensorFlow and nothing else.
"""

import dataclasses
import functools
import hashlib
import os
import re
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from tf_tickets.exporting import signature
from tf_tickets.exporting.saved_model import packing
from tf_tickets.exporting.signature import Interface
from tf_tickets.wrapping import paths

# A graph holds 2 GB at most. What is packed beyond this goes to the variables' files.
GRAPH_LIMIT = 1_000_000_000
# Packing costs time when it is loaded, and a few nodes: bytes of each, and of all.
_WORTH = 0.9
_EACH = 2_500
_ONCE = 8_000
# Dense tensors of at most so many numbers are kept together.
_SMALL = 4096


def write(
    model: keras.Model,
    takes: Interface,
    directory: os.PathLike | str,
    sparse: bool = True,
) -> list[str]:
    """Writes a model for inference, with the signature "serving_default".

    Args:
        model: A plain model, on TensorFlow.
        takes: Its inputs.
        directory: Where to.
        sparse: Whether to pack what has zeros; without it every tensor is an ordinary
            variable, stored once.

    Returns:
        How each of the model's variables is stored, "packed", "joined" or "dense".
    """
    import tensorflow as tf

    arrays = [keras.ops.convert_to_numpy(v.value) for v in model.variables]
    changing = _changing(tf, model, takes, arrays)
    packed = _packed(arrays) if sparse else [None] * len(arrays)
    packed = [None if i in changing else one for i, one in enumerate(packed)]
    module = tf.Module()
    module.tables = _tables(tf, model)
    names = [name(variable) for variable in model.variables]
    small = _SMALL if sparse else 0
    alone = {i for i, a in enumerate(arrays) if a.size > small} | changing
    holders, module.beside = _holders(tf, arrays, packed, names, alone)
    module.held = [one.tracked for one in holders]
    call = _call(tf, model, takes, holders)

    @tf.function
    def serve(**named):
        return signature.named_outputs(call(named))

    module.serve = concrete = serve.get_concrete_function(**specs(takes))
    signatures: Any = {"serving_default": concrete}
    tf.saved_model.save(module, os.fspath(directory), signatures)
    ways = {place: one.way for one in holders for place in one.places}
    return [ways[place] for place in range(len(arrays))]


def specs(takes: Interface) -> dict:
    """Dict from an input to its TensorSpec, of any number of examples."""
    import tensorflow as tf

    return {
        one.name: tf.TensorSpec((one.batch, *one.shape), one.dtype, name=one.name)
        for one in takes.inputs
    }


def _packed(arrays):
    """For each array what it is packed to, or None."""
    found = [packing.pack(a) if packing.is_kernel(a) else None for a in arrays]
    saved = [
        0 if one is None else array.nbytes - one.size - _EACH
        for one, array in zip(found, arrays, strict=True)
    ]
    found = [
        one if gain > (1 - _WORTH) * array.nbytes else None
        for one, gain, array in zip(found, saved, arrays, strict=True)
    ]
    gained = sum(gain for gain, one in zip(saved, found, strict=True) if one)
    pays = gained > _ONCE
    return found if pays else [None] * len(arrays)


def name(variable: keras.Variable) -> str:
    """What TensorFlow may call a variable.

    Example:

    >>> name(keras.layers.Dense(1, name="a b").add_weight(name="w"))
    'a_b/w'
    """
    name = re.sub(r"[^A-Za-z0-9_./>-]", "_", variable.path)
    return name if re.match("[A-Za-z0-9.]", name) else f"variable{name}"


@dataclasses.dataclass(frozen=True)
class _Holder:
    """What holds the values of one or several of the model's variables.

    Args:
        places: Of the variables, in the model.
        way: "packed", "joined" or "dense".
        tracked: What is saved.
        read: Function that gives their values.
    """

    places: list[int]
    way: str
    tracked: Any
    read: Callable[[], list]


def _holders(tf, arrays, packed, names, alone):
    """A holder of each value; and bytes that the graph has no room for."""
    found, beside = [], []
    in_graph = sum(one.size for one in packed if one is not None) <= GRAPH_LIMIT
    unpackers = {a.dtype.name: _unpacker(tf, a.dtype) for a in arrays}
    groups: dict[Any, list[int]] = {}
    for place, (array, one) in enumerate(zip(arrays, packed, strict=True)):
        if one is None:
            group = place if place in alone else array.dtype.name
            groups.setdefault(group, []).append(place)
            continue
        content = [one.gaps, one.values]
        if not in_graph:
            content = [tf.Variable(b, trainable=False) for b in content]
            beside += content
        unpack = unpackers[array.dtype.name]
        make = functools.partial(unpack, *content, list(array.shape))
        kept = made_at_load(tf, array, make)
        found.append(_Holder([place], "packed", kept, _alone(kept.read)))
    for places in groups.values():
        found.append(_dense(tf, places, [arrays[i] for i in places], names[places[0]]))
    return found, beside


def _alone(read):
    return lambda: [read()]


def _dense(tf, places, arrays, named):
    """One variable for several tensors, since each costs two kilobytes of graph."""
    if len(places) == 1:
        variable = tf.Variable(arrays[0], trainable=False, name=named)
        return _Holder(places, "dense", variable, _alone(variable.read_value))
    sizes, shapes = [array.size for array in arrays], [list(a.shape) for a in arrays]
    whole = np.concatenate([array.ravel() for array in arrays])
    variable = tf.Variable(whole, trainable=False, name="joined")

    def read():
        parts = tf.split(variable.read_value(), sizes)
        pairs = zip(parts, shapes, strict=True)
        return [tf.reshape(part, shape) for part, shape in pairs]

    return _Holder(places, "joined", variable, read)


def _call(tf, model, takes, holders):
    """A function from named inputs to what the model gives in inference."""
    holder = {place: one for one in holders for place in one.places}

    def call(named):
        values: dict = {}
        for one in holders:
            values |= zip(one.places, one.read(), strict=True)
        # At the root of a graph no name of a layer may begin with an underscore.
        with tf.name_scope("model"):
            outputs, changed = run(model, takes, values, named)
        for place, value in changed.items():
            holder[place].tracked.assign(value)
        return outputs

    return call


def run(
    model: keras.Model,
    takes: Interface,
    values: Mapping[int, Any],
    named: dict,
    training: bool = False,
) -> tuple[Any, dict[int, Any]]:
    """Calls a model with values for its variables.

    Args:
        model: The model.
        takes: Its inputs.
        values: The values, by the places of the variables in `model.variables`.
        named: The inputs, by name.
        training: Whether it trains.

    Returns:
        Outputs, and the values that the call has changed, by place.
    """
    place = {id(variable): i for i, variable in enumerate(model.variables)}
    trained = [values[place[id(v)]] for v in model.trainable_variables]
    rest = [values[place[id(v)]] for v in model.non_trainable_variables]
    told = signature.told(model, training)
    given = takes.nested(named)
    outputs, new = model.stateless_call(trained, rest, given, **told)
    places = [place[id(v)] for v in model.non_trainable_variables]
    pairs = zip(places, zip(rest, new, strict=True), strict=True)
    return outputs, {i: new for i, (old, new) in pairs if new is not old}


def _changing(tf, model, takes, arrays):
    """Places of what inference changes: states, and seeds of what draws at random."""
    found: set[int] = set()

    @tf.function
    def probe(values, named):
        with tf.name_scope("model"):
            found.update(run(model, takes, values, named)[1])

    kinds = {i: tf.TensorSpec(a.shape, a.dtype) for i, a in enumerate(arrays)}
    probe.get_concrete_function(kinds, specs(takes))
    return found


def _tables(tf, model):
    """The tables that lookup layers hold, which are saved with what uses them."""
    kinds = (tf.lookup.StaticHashTable, tf.lookup.experimental.MutableHashTable)
    layers = paths.walk(model)
    return [x for layer in layers for x in vars(layer).values() if isinstance(x, kinds)]


def _unpacker(tf, dtype):
    """One function for all kernels of a type, so that its nodes are stored once."""
    text, lengths = tf.TensorSpec((), tf.string), tf.TensorSpec((None,), tf.int64)

    @tf.function(input_signature=[text, text, lengths])
    def unpack(gaps, values, shape):
        places = places_of(tf, gaps)
        planes = tf.io.decode_raw(tf.io.decode_compressed(values, "ZLIB"), tf.uint8)
        planes = tf.reshape(planes, (dtype.itemsize, -1))
        kept = tf.bitcast(tf.transpose(planes), dtype)
        flat = tf.scatter_nd(places[:, None], kept, tf.reduce_prod(shape)[None])
        return tf.reshape(flat, shape)

    return unpack


def places_of(tf: Any, gaps: Any) -> Any:
    """The places that compressed gaps tell of.

    Args:
        tf: TensorFlow.
        gaps: A text tensor.
    """
    gaps = tf.io.decode_raw(tf.io.decode_compressed(gaps, "ZLIB"), tf.uint8)
    return tf.boolean_mask(tf.cumsum(tf.cast(gaps, tf.int64)), gaps != packing.SKIP)


def made_at_load(tf: Any, array: np.ndarray, make: Callable[[], Any]) -> Any:
    """A variable with `read()`, which `make` makes when the model is loaded.

    Args:
        tf: TensorFlow.
        array: What it will hold.
        make: Function that gives the value, by operations of TensorFlow.
    """
    # Equal kernels share a variable, others never do: models meet in one process. It
    # stays until the process ends, for nobody can tell whether it is still shared.
    content = f"{array.dtype} {array.shape}".encode() + array.tobytes()
    shared = "packed_" + hashlib.sha256(content).hexdigest()
    given = {"dtype": array.dtype, "shape": array.shape, "shared_name": shared}

    class Packed(tf.saved_model.experimental.TrackableResource):
        def _create_resource(self):
            return tf.raw_ops.VarHandleOp(**given)

        def _initialize(self):
            value = tf.ensure_shape(make(), array.shape)
            tf.raw_ops.AssignVariableOp(resource=self.resource_handle, value=value)

        def read(self):
            return tf.raw_ops.ReadVariableOp(
                resource=self.resource_handle, dtype=array.dtype
            )

    return Packed()
