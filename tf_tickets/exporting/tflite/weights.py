"""Finds the constant weights of a `.tflite` file and the operators that read them."""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from tf_tickets.exporting.tflite import file

_DTYPES = {"FLOAT32": np.float32, "FLOAT16": np.float16, "INT8": np.int8}
# Position of the activations among the inputs of an operator, if not the first.
_ACTIVATIONS = {"TRANSPOSE_CONV": 2}
# Metadata that refers to operators by position, which a new operator would change.
_POSITIONAL_METADATA = b"model_control_dependencies"


class Use(NamedTuple):
    """Describes how an operator reads a tensor.

    Args:
        operator: Name of the operator.
        position: Position of the tensor among the inputs of the operator.
        activations: Dtype of the activations.
        fused: Fused activation function of the operator.
    """

    operator: str
    position: int
    activations: str
    fused: str = "NONE"


@dataclasses.dataclass(frozen=True, eq=False)
class Weight:
    """Describes a constant tensor of rank 2 or more.

    Args:
        graph: Index of its graph.
        index: Index among the tensors of the graph.
        name: Name in the file.
        values: Values of the tensor.
        zero: Value that represents zero.
        uses: Operators that read it. For float16 weights, those behind the DEQUANTIZE.
        obstacle: Reason why it must stay dense for all operators; empty if none.
        no_operator: Whether adding operators to the graph is not possible.
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
    """Yields all constant tensors of rank 2 or more that an operator reads.

    Args:
        model: A `ModelT`.
    """
    shared = file.users(model)
    names = {entry.name for entry in model.metadata}
    for graph_index, graph in enumerate(model.subgraphs):
        uses = _uses(model, graph)
        for index, tensor in enumerate(graph.tensors):
            values = constant(model, tensor)
            if values is None or index not in uses:
                continue
            yield Weight(
                graph=graph_index,
                index=index,
                name=tensor.name.decode(),
                values=values,
                zero=_zero_point(tensor),
                uses=tuple(uses[index]),
                obstacle=_obstacle(graph_index, graph, index, shared[tensor.buffer]),
                no_operator=_POSITIONAL_METADATA in names,
            )


def _obstacle(graph_index, graph, index, users):
    if graph_index != 0:
        return "only the first graph of a file is encoded"
    if index in graph.outputs:
        return "it is an output of the model"
    if users > 1:
        return "it shares its buffer with another tensor"
    return ""


def constant(model: Any, tensor: Any) -> np.ndarray | None:
    """Returns the values of a constant that may be encoded, or None.

    Args:
        model: A `ModelT`.
        tensor: A `TensorT` of the model.
    """
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
            f"{shape} in {data.size} bytes, which is already encoded. Pass the dense "
            "file."
        )
    return data.view(dtype).reshape(shape)


def _zero_point(tensor):
    """Returns the int8 value that represents zero.

    It differs from 0 only for tensors that are not multiplied by a kernel.
    """
    points = tensor.quantization.zeroPoint if tensor.quantization else None
    return 0 if points is None or len(points) != 1 else int(points[0])


def _uses(model, graph):
    """Returns a dict from the index of a tensor to its uses.

    For float16 tensors, these are the uses behind the DEQUANTIZE.
    """
    direct_uses: dict[int, list] = {}
    for operator in graph.operators:
        for position, index in enumerate(operator.inputs):
            use = _use(model, graph, operator, position)
            direct_uses.setdefault(int(index), []).append((use, operator))
    return {index: _resolve(index, direct_uses, graph) for index in direct_uses}


def _resolve(index, direct_uses, graph):
    """Replaces uses by a float16 DEQUANTIZE with the uses of its output."""
    uses = []
    for use, operator in direct_uses[index]:
        final_uses = []
        if (use.operator, use.activations) == ("DEQUANTIZE", "FLOAT16"):
            final_uses = _uses_of_output(operator.outputs[0], direct_uses, graph)
        uses += final_uses or [use]
    return uses


def _uses_of_output(index, direct_uses, graph):
    if index in graph.outputs:
        return []
    return [use for use, _ in direct_uses.get(int(index), [])]


def _use(model, graph, operator, position):
    name = operator_name(model, operator)
    activations = operator.inputs[_ACTIVATIONS.get(name, 0)]
    return Use(name, position, type_name(graph, activations), _fused(operator))


def _fused(operator):
    settings = vars(operator.builtinOptions) if operator.builtinOptions else {}
    number = settings.get("fusedActivationFunction", 0)
    return _name(file.schema().ActivationFunctionType, number)


def operator_name(model: Any, operator: Any) -> str:
    """Returns the name of an operator in the schema.

    Args:
        model: A `ModelT`.
        operator: An `OperatorT` of the model.
    """
    code = model.operatorCodes[operator.opcodeIndex]
    # Old files store the number only in the deprecated 8-bit field.
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    return _name(file.schema().BuiltinOperator, number)


def type_name(graph: Any, index: int) -> str:
    """Returns the name of the dtype of a tensor in the schema.

    Args:
        graph: A `SubGraphT`.
        index: Index of the tensor.
    """
    return _name(file.schema().TensorType, graph.tensors[index].type)


def _name(enumeration, number):
    known = {value: name for name, value in vars(enumeration).items()}
    return known.get(number, f"number {number}")
