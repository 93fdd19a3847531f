"""The constant weights of a `.tflite` file, and which operators read them."""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from tf_tickets.exporting.tflite import file

_DTYPES = {"FLOAT32": np.float32, "FLOAT16": np.float16, "INT8": np.int8}
# Where an operator has what its weights are applied to, if that is not its first input.
_ACTIVATIONS = {"TRANSPOSE_CONV": 2}
# Names operators by their position, which a new operator would change.
_POSITIONS = b"model_control_dependencies"


class Use(NamedTuple):
    """An operator that reads a tensor.

    Args:
        operator: Its name.
        position: Which of its inputs the tensor is.
        activations: The type of what it applies the tensor to.
        fused: The function it applies to its output.
    """

    operator: str
    position: int
    activations: str
    fused: str = "NONE"


@dataclasses.dataclass(frozen=True, eq=False)
class Weight:
    """A constant tensor of two or more dimensions, and who reads it.

    Args:
        graph: The position of its graph.
        index: Its position among the graph's tensors.
        name: What the file calls it.
        values: Its values.
        zero: The value that stands for zero.
        uses: Who reads it, where it is in float16 through its DEQUANTIZE.
        obstacle: What keeps it dense whoever reads it; empty if nothing does.
        no_operator: Whether operators may not be added to its graph.
    """

    graph: int
    index: int
    name: str
    values: np.ndarray
    zero: int
    uses: tuple[Use, ...]
    obstacle: str
    no_operator: bool


def find(model: Any) -> Iterator[Weight]:
    """All constant tensors of two or more dimensions that an operator reads.

    Args:
        model: A `ModelT`.
    """
    shared = file.users(model)
    names = {entry.name for entry in model.metadata}
    for place, graph in enumerate(model.subgraphs):
        uses = _uses(model, graph)
        for index, tensor in enumerate(graph.tensors):
            values = _constant(model, tensor)
            if values is None or index not in uses:
                continue
            yield Weight(
                graph=place,
                index=index,
                name=tensor.name.decode(),
                values=values,
                zero=_zero_point(tensor),
                uses=tuple(uses[index]),
                obstacle=_obstacle(place, graph, index, shared[tensor.buffer]),
                no_operator=_POSITIONS in names,
            )


def _obstacle(place, graph, index, users):
    if place != 0:
        return "only the first graph of a file is encoded"
    if index in graph.outputs:
        return "it is an output of the model"
    if users > 1:
        return "its bytes are those of another tensor too"
    return ""


def _constant(model, tensor):
    """The values of a constant that may be encoded, or None."""
    classes = file.schema().TensorType
    dtypes = {getattr(classes, name): dtype for name, dtype in _DTYPES.items()}
    shape = tuple(int(size) for size in tensor.shape)
    data = model.buffers[tensor.buffer].data
    if tensor.type not in dtypes or tensor.isVariable or len(shape) < 2:
        return None
    if data is None or data.size == 0:
        return None
    dtype = np.dtype(dtypes[tensor.type])
    if tensor.sparsity is not None or data.size != dtype.itemsize * np.prod(shape):
        raise ValueError(
            f"Only dense tensors can be encoded. Received: {tensor.name!r} of shape "
            f"{shape} in {data.size} bytes, as after encoding. Give the dense file."
        )
    return data.view(dtype).reshape(shape)


def _zero_point(tensor):
    """What int8 calls zero, which differs from 0 only where no kernel multiplies."""
    points = tensor.quantization.zeroPoint if tensor.quantization else None
    return 0 if points is None or len(points) != 1 else int(points[0])


def _uses(model, graph):
    """From a tensor's position to who reads it, through the DEQUANTIZE of halves."""
    found: dict[int, list] = {}
    for operator in graph.operators:
        for position, index in enumerate(operator.inputs):
            use = _use(model, graph, operator, position)
            found.setdefault(int(index), []).append((use, operator))
    return {index: _looked_through(index, found, graph) for index in found}


def _looked_through(index, found, graph):
    uses = []
    for use, operator in found[index]:
        behind = []
        if (use.operator, use.activations) == ("DEQUANTIZE", "FLOAT16"):
            behind = _behind(operator.outputs[0], found, graph)
        uses += behind or [use]
    return uses


def _behind(index, found, graph):
    if index in graph.outputs:
        return []
    return [use for use, _ in found.get(int(index), [])]


def _use(model, graph, operator, position):
    name = _operator(model, operator)
    applied_to = operator.inputs[_ACTIVATIONS.get(name, 0)]
    return Use(name, position, _type(graph, applied_to), _fused(operator))


def _fused(operator):
    settings = vars(operator.builtinOptions) if operator.builtinOptions else {}
    number = settings.get("fusedActivationFunction", 0)
    return _name(file.schema().ActivationFunctionType, number)


def _operator(model, operator):
    code = model.operatorCodes[operator.opcodeIndex]
    # Old files have the number only in the field that was too small for new ones.
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    return _name(file.schema().BuiltinOperator, number)


def _type(graph, index):
    return _name(file.schema().TensorType, graph.tensors[index].type)


def _name(enumeration, number):
    known = {value: name for name, value in vars(enumeration).items()}
    return known.get(number, f"number {number}")
