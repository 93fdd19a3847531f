"""Encodes the pruned weights of a `.tflite` file for TensorFlow Lite Micro.

Weights with enough zeros are stored as a bitmask and their nonzeros. The runtime's
DECODE operator restores them in the arena right before the operator that reads them.
Files with a DECODE run in TensorFlow Lite Micro only.
"""

import copy
from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np

from tf_tickets import arguments
from tf_tickets.exporting.micro import arena, candidates, model_file
from tf_tickets.exporting.micro.arena import Need
from tf_tickets.exporting.micro.candidates import Candidate
from tf_tickets.exporting.tflite import encodings, file
from tf_tickets.exporting.tflite.encodings import Encoding

# Bytes of the tables of a DECODE and its tensors, about. Tensors whose gain is within
# the margin are tried with and without.
_TABLES = 150
_MARGIN = 300
_AT_THE_END = 2**31
_PAYS = "a bitmask and the nonzeros are smaller; decoded into RAM before each use"


class Encoded(NamedTuple):
    """An encoded file.

    Args:
        content: Content of the file.
        rows: The `Encoding` of every constant weight of rank 2 or more.
        arena_before: Predicted bytes of RAM of the tensors of the dense file.
        arena_after: Predicted bytes of RAM of the tensors of this file.
    """

    content: bytes
    rows: list[Encoding]
    arena_before: int
    arena_after: int


def encode(
    content: bytes, *, max_ram: int | None = None, names: bool = True
) -> Encoded:
    """Encodes the weights of a dense `.tflite` file that become smaller.

    The outputs of the model do not change. The result is deterministic, and never
    larger than the dense file written with the same options. The quantization of
    biases is kept: the reference kernels do not need it, but others may.

    Args:
        content: Content of a dense file: float32, int8, or int8 with int16
            activations.
        max_ram: Limit for the predicted bytes of RAM of the tensors. Weights whose
            decoded form would exceed it stay dense.
        names: Whether to keep what the runtime does not need, above all names,
            signatures and metadata; see `model_file.write`. Without it, other runtimes
            open not even a dense file.

    Returns:
        An `Encoded` file.

    Example:

    >>> encode(b"no model")
    Traceback (most recent call last):
    ValueError: Expected the content of a .tflite file. Received 8 bytes: b'no model'...
    """
    if max_ram is not None:
        arguments.check_counts(max_ram=max_ram)
    arguments.check_flags(names=names)
    model = model_file.read(content)
    with file.refusing_damage():
        encoder = _Encoder(model, max_ram, bool(names))
    candidates.check(model, encoder.weights)
    with file.refusing_damage():
        return encoder.result()


class _Encoder:
    """Chooses the candidates to encode, and writes the file."""

    def __init__(self, model, max_ram, names):
        self.model, self.max_ram, self.names = model, max_ram, names
        self.weights, self.found, self.reasons = candidates.find(model)
        self.activations = arena.activations(model)
        self.variables = arena.variables(model)

    def result(self):
        smaller = [c for c in self.found if _estimate(c) > -_MARGIN]
        chosen, refused = self._fitting(smaller)
        chosen, content = self._paying(chosen)
        return Encoded(
            content=content,
            rows=self._rows(chosen, refused),
            arena_before=self._arena([]),
            arena_after=self._arena(chosen),
        )

    def _arena(self, chosen: Collection[Candidate]) -> int:
        """Returns the bytes of RAM of the tensors, with decoded ones."""
        needs = dict(self.activations)
        for candidate in chosen:
            for number, index in candidate.readers:
                # The first DECODE reuses the tensor, others add one at the end.
                place = index if index not in needs else _AT_THE_END + number
                needs[place] = Need(candidate.decoded, number, number)
        return self.variables + arena.plan(needs)

    def _fitting(self, smaller):
        """Returns the candidates that fit into the RAM, and why the others do not."""
        if self.max_ram is None:
            return smaller, {}
        chosen: list[Candidate] = []
        refused: dict[Candidate, str] = {}
        dense = self._arena([])
        for candidate in sorted(smaller, key=_gain_per_byte, reverse=True):
            need = self._arena([*chosen, candidate])
            if max(need, dense) > self.max_ram:
                refused[candidate] = _too_large(candidate, need, dense, self.max_ram)
            else:
                chosen.append(candidate)
        return [c for c in smaller if c in chosen], refused

    def _paying(self, chosen):
        """Drops candidates that do not make the file smaller; returns the file too."""
        content = self._write(chosen)
        for candidate in sorted(chosen, key=_estimate):
            if _estimate(candidate) > _MARGIN:
                break
            others = [other for other in chosen if other is not candidate]
            smaller = self._write(others)
            if len(smaller) <= len(content):
                chosen, content = others, smaller
        dense = self._write([])
        return ([], dense) if len(dense) <= len(content) else (chosen, content)

    def _write(self, chosen):
        model = _encoded(self.model, chosen) if chosen else self.model
        return model_file.write(model, self.names)

    def _rows(self, chosen, refused):
        choices = {}
        for candidate in self.found:
            size = candidate.members[0].values.nbytes
            choice = ("dense", size, refused.get(candidate) or _too_few(candidate))
            if candidate in chosen:
                choice = ("decode", candidate.packed.nbytes, _PAYS)
            choices.update(dict.fromkeys(candidate.members, choice))
        for position, reason in self.reasons.items():
            weight = self.weights[position]
            choices[weight] = ("dense", weight.values.nbytes, reason)
        return [encodings.describe(w, *choices[w]) for w in self.weights]


def _estimate(candidate):
    """Returns about how many bytes smaller a candidate makes the file."""
    return candidate.gain - _TABLES * len(candidate.readers)


def _gain_per_byte(candidate):
    return _estimate(candidate) / max(candidate.decoded, 1)


def _too_few(candidate):
    values = candidate.members[0].values
    zeros = f"{np.mean(values == 0):.0%} of {values.size}"
    return f"{zeros} are zero, which saves less than the bitmask and DECODE cost"


def _too_large(candidate, need, dense, max_ram):
    if dense > max_ram:
        return (
            f"the dense model already needs {dense} bytes of RAM, more than "
            f"max_ram={max_ram}"
        )
    return (
        f"decoded, it takes {candidate.decoded} bytes of RAM, and the tensors together "
        f"{need}, more than max_ram={max_ram}"
    )


def _encoded(model: Any, chosen: Collection[Candidate]) -> Any:
    """Returns a copy of a model with encoded weights."""
    model, graph = copy.copy(model), copy.copy(model.subgraphs[0])
    model.subgraphs = [graph, *model.subgraphs[1:]]
    model.buffers, graph.tensors = list(model.buffers), list(graph.tensors)
    sources = {}
    for candidate in chosen:
        packed = candidate.packed
        pair = [_add_bytes(model, graph, x) for x in (packed.mask, packed.ancillary)]
        sources.update({weight.index: pair for weight in candidate.members})
    _insert_decodes(graph, sources, _add_code(model))
    return model


def _add_bytes(model, graph, data):
    """Adds a constant tensor of bytes without a name, and returns its index."""
    classes = file.schema()
    tensor = classes.TensorT(
        shape=np.array([data.size], np.int32),
        type=classes.TensorType.UINT8,
        buffer=len(model.buffers),
    )
    model.buffers.append(classes.BufferT(data=data))
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def _add_code(model):
    classes = file.schema()
    custom = classes.BuiltinOperator.CUSTOM
    code = classes.OperatorCodeT(
        builtinCode=custom,
        deprecatedBuiltinCode=custom,
        customCode=model_file.CUSTOM_CODE,
        version=1,
    )
    model.operatorCodes = [*model.operatorCodes, code]
    return len(model.operatorCodes) - 1


def _insert_decodes(graph, sources, code):
    """Inserts a DECODE before each operator that reads an encoded weight.

    Its output lives until that operator ends. The first one reuses the tensor of the
    weight, and every further one gets a copy.
    """
    decoded = {index: _decoded(graph.tensors[index]) for index in sources}
    pending = set(sources)
    operators = []
    for operator in graph.operators:
        inputs = [int(index) for index in operator.inputs]
        for position, index in enumerate(inputs):
            if index not in sources:
                continue
            inputs[position] = _place(graph, index, decoded[index], pending)
            operators.append(_decode(code, sources[index], inputs[position]))
        operator = copy.copy(operator)
        operator.inputs = np.array(inputs, np.int32)
        operators.append(operator)
    graph.operators = operators


def _place(graph, index, tensor, pending):
    """Puts a decoded tensor into the graph, and returns its index."""
    if index in pending:
        pending.remove(index)
        graph.tensors[index] = tensor
        return index
    tensor = copy.copy(tensor)
    tensor.name = None
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def _decoded(tensor):
    tensor = copy.copy(tensor)
    tensor.buffer = 0
    quantization = tensor.quantization
    if quantization and quantization.scale is not None and len(quantization.scale) == 1:
        # DECODE refuses some axes, which have no meaning for a single scale.
        tensor.quantization = copy.copy(quantization)
        tensor.quantization.quantizedDimension = 0
    return tensor


def _decode(code, sources, target):
    return file.schema().OperatorT(
        opcodeIndex=code,
        inputs=np.array(sources, np.int32),
        outputs=np.array([target], np.int32),
    )
