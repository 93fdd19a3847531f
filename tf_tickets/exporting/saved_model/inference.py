"""Writes TensorFlow SavedModels with packed sparse kernels.

TensorFlow operations in the model decode the kernels once, at load time. Loading a file
requires only TensorFlow.
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

from tf_tickets.exporting.saved_model import packing
from tf_tickets.wrapping import paths, signature
from tf_tickets.wrapping.signature import Interface

# A graph holds at most 2 GB. More packed bytes are stored in the variable files.
GRAPH_LIMIT = 1_000_000_000
# Packing takes time at load. A kernel is packed only below this fraction of its size.
_MAX_RATIO = 0.9
# Size in bytes of the graph nodes per packed kernel, and of the shared nodes.
_KERNEL_OVERHEAD = 2_500
_SHARED_OVERHEAD = 8_000
# Dense tensors with at most this many values are joined into one variable.
_SMALL = 4096


def write(
    model: keras.Model,
    takes: Interface,
    directory: os.PathLike | str,
    sparse: bool = True,
) -> list[str]:
    """Writes a model for inference with the signature "serving_default".

    Args:
        model: A plain model on the TensorFlow backend.
        takes: Interface of the model.
        directory: Folder of the SavedModel.
        sparse: Whether to pack sparse kernels. Otherwise every tensor is an ordinary
            variable.

    Returns:
        List with the encoding of each variable of the model: "packed", "joined" or
        "dense".
    """
    import tensorflow as tf

    arrays = [keras.ops.convert_to_numpy(v.value) for v in model.variables]
    stateful = _stateful(tf, model, takes, arrays)
    packed = _packed(arrays) if sparse else [None] * len(arrays)
    packed = [None if i in stateful else item for i, item in enumerate(packed)]
    module = tf.Module()
    module.tables = _tables(tf, model)
    names = [name(variable) for variable in model.variables]
    small = _SMALL if sparse else 0
    separate = {i for i, a in enumerate(arrays) if a.size > small} | stateful
    holders, module.packed_variables = _holders(tf, arrays, packed, names, separate)
    module.holders = [holder.tracked for holder in holders]
    call = _call(tf, model, takes, holders)

    @tf.function
    def serve(**named):
        return signature.named_outputs(call(named))

    module.serve = concrete = serve.get_concrete_function(**specs(takes))
    signatures: Any = {"serving_default": concrete}
    tf.saved_model.save(module, os.fspath(directory), signatures)
    encodings = {i: holder.encoding for holder in holders for i in holder.indices}
    return [encodings[i] for i in range(len(arrays))]


def specs(takes: Interface) -> dict:
    """Returns a dict from input name to its TensorSpec."""
    import tensorflow as tf

    return {
        spec.name: tf.TensorSpec((spec.batch, *spec.shape), spec.dtype, name=spec.name)
        for spec in takes.inputs
    }


def _packed(arrays):
    """Returns the packed form of each array, or None if it stays dense."""
    packed = [packing.pack(a) if packing.is_kernel(a) else None for a in arrays]
    savings = [
        0 if item is None else array.nbytes - item.size - _KERNEL_OVERHEAD
        for item, array in zip(packed, arrays, strict=True)
    ]
    packed = [
        item if saving > (1 - _MAX_RATIO) * array.nbytes else None
        for item, saving, array in zip(packed, savings, arrays, strict=True)
    ]
    total = sum(saving for saving, item in zip(savings, packed, strict=True) if item)
    return packed if total > _SHARED_OVERHEAD else [None] * len(arrays)


def name(variable: keras.Variable) -> str:
    """Returns the path of a variable as a valid TensorFlow name.

    Example:

    >>> name(keras.layers.Dense(1, name="a b").add_weight(name="w"))
    'a_b/w'
    """
    name = re.sub(r"[^A-Za-z0-9_./>-]", "_", variable.path)
    return name if re.match("[A-Za-z0-9.]", name) else f"variable{name}"


@dataclasses.dataclass(frozen=True)
class _Holder:
    """Holds the values of one or more variables of the model.

    Args:
        indices: Indices of the variables in the model.
        encoding: "packed", "joined" or "dense".
        tracked: TensorFlow object to save.
        read: Function that returns a list of the values.
    """

    indices: list[int]
    encoding: str
    tracked: Any
    read: Callable[[], list]


def _holders(tf, arrays, packed, names, separate):
    """Returns holders of all values, and variables for packed bytes.

    The variables are used if the packed bytes exceed the limit of the graph.
    """
    holders, packed_variables = [], []
    in_graph = sum(item.size for item in packed if item is not None) <= GRAPH_LIMIT
    unpackers = {a.dtype.name: _unpacker(tf, a.dtype) for a in arrays}
    groups: dict[Any, list[int]] = {}
    for index, (array, item) in enumerate(zip(arrays, packed, strict=True)):
        if item is None:
            group = index if index in separate else array.dtype.name
            groups.setdefault(group, []).append(index)
            continue
        content = [item.gaps, item.values]
        if not in_graph:
            content = [tf.Variable(b, trainable=False) for b in content]
            packed_variables += content
        unpack = unpackers[array.dtype.name]
        make = functools.partial(unpack, *content, list(array.shape))
        resource = made_at_load(tf, array, make)
        holders.append(_Holder([index], "packed", resource, _as_list(resource.read)))
    for indices in groups.values():
        values = [arrays[i] for i in indices]
        holders.append(_dense(tf, indices, values, names[indices[0]]))
    return holders, packed_variables


def _as_list(read):
    return lambda: [read()]


def _dense(tf, indices, arrays, name):
    """Returns one holder for several tensors; each variable costs 2 kB of graph."""
    if len(indices) == 1:
        variable = tf.Variable(arrays[0], trainable=False, name=name)
        return _Holder(indices, "dense", variable, _as_list(variable.read_value))
    sizes, shapes = [array.size for array in arrays], [list(a.shape) for a in arrays]
    joined = np.concatenate([array.ravel() for array in arrays])
    variable = tf.Variable(joined, trainable=False, name="joined")

    def read():
        parts = tf.split(variable.read_value(), sizes)
        pairs = zip(parts, shapes, strict=True)
        return [tf.reshape(part, shape) for part, shape in pairs]

    return _Holder(indices, "joined", variable, read)


def _call(tf, model, takes, holders):
    """Returns a function from named inputs to the outputs in inference mode."""
    holder_of = {index: holder for holder in holders for index in holder.indices}

    def call(named):
        values: dict = {}
        for holder in holders:
            values |= zip(holder.indices, holder.read(), strict=True)
        # Layer names may start with an underscore, which is not valid at the root.
        with tf.name_scope("model"):
            outputs, changed = run(model, takes, values, named)
        for index, value in changed.items():
            holder_of[index].tracked.assign(value)
        return outputs

    return call


def run(
    model: keras.Model,
    takes: Interface,
    values: Mapping[int, Any],
    named: dict,
    training: bool = False,
) -> tuple[Any, dict[int, Any]]:
    """Calls a model with the given values of its variables.

    Args:
        model: The model.
        takes: Interface of the model.
        values: Dict from the index of a variable in `model.variables` to its value.
        named: Dict from input name to its value.
        training: Whether to call the model in training mode.

    Returns:
        The outputs, and a dict from the index of a variable to its new value if the
        call changed it.
    """
    indices = {id(variable): i for i, variable in enumerate(model.variables)}
    trainable = [values[indices[id(v)]] for v in model.trainable_variables]
    fixed_indices = [indices[id(v)] for v in model.non_trainable_variables]
    fixed = [values[i] for i in fixed_indices]
    outputs, updated = model.stateless_call(
        trainable, fixed, takes.nested(named), **signature.told(model, training)
    )
    updates = zip(fixed_indices, fixed, updated, strict=True)
    return outputs, {i: new for i, old, new in updates if new is not old}


def _stateful(tf, model, takes, arrays):
    """Returns the indices of variables that inference changes: states and seeds."""
    changed: set[int] = set()

    @tf.function
    def probe(values, named):
        with tf.name_scope("model"):
            changed.update(run(model, takes, values, named)[1])

    value_specs = {i: tf.TensorSpec(a.shape, a.dtype) for i, a in enumerate(arrays)}
    probe.get_concrete_function(value_specs, specs(takes))
    return changed


def _tables(tf, model):
    """Returns the tables of lookup layers, which must be tracked to be saved."""
    kinds = (tf.lookup.StaticHashTable, tf.lookup.experimental.MutableHashTable)
    layers = paths.walk(model)
    return [x for layer in layers for x in vars(layer).values() if isinstance(x, kinds)]


def _unpacker(tf, dtype):
    """Returns an unpacking function, shared by all kernels of a dtype."""
    text, lengths = tf.TensorSpec((), tf.string), tf.TensorSpec((None,), tf.int64)

    @tf.function(input_signature=[text, text, lengths])
    def unpack(gaps, values, shape):
        indices = places_of(tf, gaps)
        planes = tf.io.decode_raw(tf.io.decode_compressed(values, "ZLIB"), tf.uint8)
        planes = tf.reshape(planes, (dtype.itemsize, -1))
        kept = tf.bitcast(tf.transpose(planes), dtype)
        flat = tf.scatter_nd(indices[:, None], kept, tf.reduce_prod(shape)[None])
        return tf.reshape(flat, shape)

    return unpack


def places_of(tf: Any, gaps: Any) -> Any:
    """Decodes compressed gaps to flat indices.

    Args:
        tf: The TensorFlow module.
        gaps: String tensor of compressed gaps.

    Returns:
        An int64 tensor of indices.
    """
    gaps = tf.io.decode_raw(tf.io.decode_compressed(gaps, "ZLIB"), tf.uint8)
    return tf.boolean_mask(tf.cumsum(tf.cast(gaps, tf.int64)), gaps != packing.SKIP)


def made_at_load(tf: Any, array: np.ndarray, make: Callable[[], Any]) -> Any:
    """Returns a variable with `read()` that is computed at load time.

    Args:
        tf: The TensorFlow module.
        array: Value of the variable.
        make: Function that computes the value with TensorFlow operations.

    Returns:
        A TensorFlow resource.
    """
    # Models loaded in one process share the variables of equal kernels. A variable is
    # never freed, because it is unknown whether another model still uses it.
    content = f"{array.dtype} {array.shape}".encode() + array.tobytes()
    shared_name = "packed_" + hashlib.sha256(content).hexdigest()

    class Packed(tf.saved_model.experimental.TrackableResource):
        def _create_resource(self):
            return tf.raw_ops.VarHandleOp(
                dtype=array.dtype, shape=array.shape, shared_name=shared_name
            )

        def _initialize(self):
            value = tf.ensure_shape(make(), array.shape)
            tf.raw_ops.AssignVariableOp(resource=self.resource_handle, value=value)

        def read(self):
            return tf.raw_ops.ReadVariableOp(
                resource=self.resource_handle, dtype=array.dtype
            )

    return Packed()
