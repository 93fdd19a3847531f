"""Finds the weights of a file that TensorFlow Lite Micro can decode."""

import dataclasses
from typing import Any

import numpy as np

from tf_tickets.exporting.micro import bitmask, model_file
from tf_tickets.exporting.micro.arena import aligned
from tf_tickets.exporting.tflite import file, weights
from tf_tickets.exporting.tflite.encodings import WEIGHT_POSITIONS
from tf_tickets.exporting.tflite.weights import Weight

# Operators that can compute with int8 weights and float32 activations elsewhere.
_HYBRID = (*WEIGHT_POSITIONS, "BATCH_MATMUL", "UNIDIRECTIONAL_SEQUENCE_LSTM")


@dataclasses.dataclass(frozen=True, eq=False)
class Candidate:
    """Describes a buffer that can be encoded.

    Args:
        members: The weights that share the buffer.
        readers: Index of the operator, and of the weight it reads, for each DECODE.
        packed: The encoded values.
    """

    members: tuple[Weight, ...]
    readers: tuple[tuple[int, int], ...]
    packed: bitmask.Packed

    @property
    def decoded(self) -> int:
        """The size of the decoded tensor in the arena."""
        return aligned(self.members[0].values.nbytes)

    @property
    def gain(self) -> int:
        """The difference of the stored values in bytes, without tables."""
        return self.members[0].values.nbytes - self.packed.nbytes


def find(model: Any) -> tuple[list[Weight], list[Candidate], dict[int, str]]:
    """Finds all constant weights, and those that can be encoded.

    Args:
        model: A `ModelT`.

    Returns:
        All weights, the candidates, and a dict from the position of a weight among
        all weights to the reason why it must stay dense.
    """
    listed = list(weights.find(model))
    shared = file.users(model)
    readers = _readers(model)
    reasons: dict[int, str] = {}
    members: dict[int, list[int]] = {}
    for position, weight in enumerate(listed):
        buffer = model.subgraphs[weight.graph].tensors[weight.index].buffer
        members.setdefault(buffer, []).append(position)
    found = []
    for buffer, positions in members.items():
        group = [listed[position] for position in positions]
        reason = _obstacle_of(group, model, shared[buffer])
        if reason:
            reasons.update(dict.fromkeys(positions, reason))
        else:
            found.append(_candidate(group, readers))
    return listed, found, reasons


def check(model: Any, listed: list[Weight]) -> None:
    """Raises for weights that TensorFlow Lite Micro would refuse.

    Args:
        model: A `ModelT`.
        listed: Its weights.
    """
    for weight in listed:
        if weight.values.dtype == np.int8:
            _check_activations(weight)
            _check_zero_points(model, weight)


def _check_activations(weight):
    for use in weight.uses:
        if use.operator in _HYBRID and use.activations == "FLOAT32":
            raise ValueError(
                "TensorFlow Lite Micro has no operators with 8-bit weights and float32 "
                f"activations (dynamic range). Received: {weight.name!r}, read by "
                f"{use.operator}. {model_file.CHOOSE}"
            )


def _check_zero_points(model, weight):
    tensor = model.subgraphs[weight.graph].tensors[weight.index]
    points = tensor.quantization.zeroPoint if tensor.quantization else None
    if _is_kernel(weight) and points is not None and np.any(points):
        raise ValueError(
            "Zeros of an int8 weight must be stored as 0. Received: "
            f"{weight.name!r} with the zero points {_few(points)}. Convert the model "
            "with symmetrically quantized weights, as the current TensorFlow Lite "
            "converter does."
        )


def _is_kernel(weight):
    return any(
        WEIGHT_POSITIONS.get(use.operator) == use.position for use in weight.uses
    )


def _few(points):
    distinct = sorted({int(point) for point in points})
    return ", ".join(map(str, distinct[:4])) + ("..." if len(distinct) > 4 else "")


def _obstacle_of(group, model, users):
    if users != len(group) or len({weight.values.dtype for weight in group}) > 1:
        return "its buffer has a user that cannot read decoded values"
    return next(filter(None, (_obstacle(model, weight) for weight in group)), "")


def _obstacle(model, weight):
    if weight.graph:
        return "only the first graph of a file is encoded"
    if weight.index in model.subgraphs[0].outputs:
        return "it is an output of the model"
    for use in weight.uses:
        if use.position != WEIGHT_POSITIONS.get(use.operator):
            return f"{use.operator} does not read decoded weights"
    return ""


def _readers(model):
    """Returns a dict from the index of a tensor to the operators that read it."""
    readers: dict[int, list[int]] = {}
    for number, operator in enumerate(model.subgraphs[0].operators):
        for index in operator.inputs:
            readers.setdefault(int(index), []).append(number)
    return readers


def _candidate(group, readers):
    pairs = [(number, w.index) for w in group for number in readers[w.index]]
    return Candidate(
        members=tuple(group),
        readers=tuple(sorted(pairs)),
        packed=bitmask.pack(group[0].values),
    )
