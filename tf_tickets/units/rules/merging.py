"""The rules of layers and operations that merge tensors."""

from collections.abc import Callable

import keras
import numpy as np

from tf_tickets.units.calls import Call
from tf_tickets.units.flows import Flow
from tf_tickets.units.registry import register_rule, register_unnamed

__all__: list[str] = []


def merged(call: Call, operands: list, function: Callable) -> Flow | list[Flow]:
    """Returns the flow of an elementwise function of operands that are broadcast.

    Args:
        call: The call.
        operands: Flows, numbers and constant arrays.
        function: A function of the arrays of values, where NaN is not known.
    """
    flows = [_flow(operand, call) for operand in operands]
    shape = call.shapes[0]
    flows = [_without_single(flow, shape, call) for flow in flows]
    # Axes are counted from the end, as in broadcasting.
    axes = {f.axis - len(f.shape) for f in flows if f.axis is not None}
    if not axes:
        return call.fixed(next((f.reason for f in flows if f.reason), "has no units"))
    if len(axes) > 1:
        return call.pinned(f"{call.title} joins units along different axes")
    (axis,) = axes
    members = [flow for flow in flows if flow.axis is not None]
    for flow in flows:
        if flow.axis is None and len(flow.shape) >= -axis and flow.shape[axis] != 1:
            for member in members:
                call.pin(member, _joined(call, flow))
            return call.fixed(flow.reason)
    for other in members[1:]:
        call.tie(members[0].ids, other.ids)
    values = [f.values if f.axis is not None else _constant(f) for f in flows]
    with np.errstate(all="ignore"):
        result = np.broadcast_to(function(*values), members[0].ids.shape)
    return call.output(members[0].ids, axis, np.array(result, float))


def _flow(operand, call):
    """Returns a flow; that of a number or of a constant array stays."""
    if isinstance(operand, Flow):
        return operand
    shape = tuple(np.shape(operand))
    values = np.array([float(operand)]) if shape == () else np.zeros(0)
    return Flow(shape, None, np.zeros(0, int), values, "a constant array")


def _joined(call, flow):
    return f"{call.title} joins it with what stays: {flow.reason}"


def _constant(flow):
    return flow.values[0] if flow.values.size else np.nan


def _without_single(flow, shape, call):
    """Pins an operand with one channel that is broadcast over many."""
    if flow.axis is None or flow.shape[flow.axis] != 1:
        return flow
    if shape[flow.axis - len(flow.shape)] == 1:
        return flow
    reason = f"{call.title} broadcasts its only channel"
    call.pin(flow, reason)
    return Flow(flow.shape, reason=reason)


def product(first: np.ndarray, *others: np.ndarray) -> np.ndarray:
    """Returns the product of values, where zero times an unknown one is zero."""
    for other in others:
        zero = (first == 0) | (other == 0)
        first = np.where(zero, 0.0, first * other)
    return first


def _all_equal(*values):
    """Returns a common value, NaN where values differ."""
    first = values[0]
    for other in values[1:]:
        first = np.where(first == other, first, np.nan)
    return first


def _sum(*values):
    return sum(values[1:], values[0])


def _mean(*values):
    return _sum(*values) / len(values)


def _greatest(*values):
    return np.max(np.broadcast_arrays(*values), axis=0)


def _least(*values):
    return np.min(np.broadcast_arrays(*values), axis=0)


_LAYERS = {
    keras.layers.Add: _sum,
    keras.layers.Subtract: np.subtract,
    keras.layers.Multiply: product,
    keras.layers.Average: _mean,
    keras.layers.Maximum: _greatest,
    keras.layers.Minimum: _least,
}


def _merge_rule(function):
    def trace(layer: keras.layers.Layer, call: Call) -> Flow | list[Flow]:
        if len({len(flow.shape) for flow in call.inputs}) > 1:
            # Keras adds axes to the shorter ones in its own way.
            return call.pinned(f"{call.title} merges tensors of different rank")
        return merged(call, call.inputs, function)

    return trace


for _kind, _function in _LAYERS.items():
    register_rule(_kind, _merge_rule(_function))


def _operation_rule(function):
    def trace(operation: keras.Operation, call: Call) -> Flow | list[Flow]:
        operands = [*call.args, *call.kwargs.values()]
        return merged(call, operands, function)

    return trace


_OPERATIONS: dict[str, Callable] = {
    "Add": np.add,
    "Subtract": np.subtract,
    "Multiply": product,
    "Maximum": np.maximum,
    "Minimum": np.minimum,
}
for _name, _function in _OPERATIONS.items():
    register_unnamed(_name)(_operation_rule(_function))


@register_unnamed("Divide", "TrueDivide")
def divide(operation: keras.Operation, call: Call) -> Flow | list[Flow]:
    """Divides by a number; by a tensor, which could be zero, all stays."""
    operands = [*call.args, *call.kwargs.values()]
    first, second = operands
    if not isinstance(first, Flow) or not np.isscalar(second):
        return call.pinned(f"{call.title} divides by a tensor")
    return call.like(first).map(lambda values: values / second)


@register_unnamed("CustomScaleLayer")
def custom_scale(layer: keras.layers.Layer, call: Call) -> Flow | list[Flow]:
    """Adds a scaled tensor (InceptionResNetV2)."""
    return merged(call, call.inputs, lambda a, b: a + b * layer.scale)


@register_rule(keras.layers.Concatenate)
def concatenate(layer: keras.layers.Concatenate, call: Call) -> Flow | list[Flow]:
    """Puts units in a row; along another axis, they are tied."""
    return joined(call, call.inputs, layer.axis)


@register_unnamed("Concatenate")
def concatenate_operation(operation: keras.Operation, call: Call) -> Flow | list[Flow]:
    """As the layer, for `keras.ops.concatenate`."""
    return joined(call, call.inputs, operation.axis)


def joined(call: Call, flows: list[Flow], axis: int) -> Flow | list[Flow]:
    """Returns the flow of a concatenation.

    Args:
        call: The call.
        flows: The flows that are joined.
        axis: The axis along which they are.
    """
    axis %= len(call.shapes[0])
    axes = {flow.axis for flow in flows if flow.axis is not None}
    if not axes:
        return call.fixed(flows[0].reason)
    if axes != {axis}:
        fixed = [flow for flow in flows if flow.axis is None]
        if len(axes) > 1 or fixed:
            if not fixed:
                return call.pinned(f"{call.title} joins units along different axes")
            for flow in flows:
                call.pin(flow, _joined(call, fixed[0]))
            return call.fixed(fixed[0].reason)
        for flow in flows[1:]:
            call.tie(flows[0].ids, flow.ids)
        values = _all_equal(*[flow.values for flow in flows])
        return call.output(flows[0].ids, min(axes), values)
    if any(flow.shape[axis] is None for flow in flows):
        return call.pinned(f"{call.title} joins it with a tensor of unknown size")
    parts = [call.ids_of(flow, axis) for flow in flows]
    values = [
        flow.values if flow.axis == axis else np.full(part.size, np.nan)
        for flow, part in zip(flows, parts, strict=True)
    ]
    return call.output(np.concatenate(parts), axis, np.concatenate(values))
