"""The rule of EinsumDense layers."""

import keras
import numpy as np

from tf_tickets.units.calls import Call
from tf_tickets.units.flows import Flow
from tf_tickets.units.registry import register_rule
from tf_tickets.units.rules.dense import is_changed

__all__: list[str] = []


def _letters(equation, rank):
    """Returns the letters of the input, kernel and output, one for each axis.

    Example:

    >>> _letters("...x,xy->...y", 3)
    ('01x', 'xy', '01y')
    """
    inputs, target = equation.replace(" ", "").split("->")
    source, kernel = inputs.split(",")
    elided = "".join(map(str, range(rank - len(source.replace("...", "")))))
    return source.replace("...", elided), kernel, target.replace("...", elided)


def _resize(layer, sizes):
    stored = layer.get_config()["output_shape"]
    old = [stored] if isinstance(stored, int) else list(stored)
    new = list(sizes.outputs[0][1:])
    # With "..." in front, the shape of the configuration is that of the last axes.
    right = layer.equation.split("->")[1].strip().startswith("...")
    new = new[len(new) - len(old) :] if right else new[: len(old)]
    shape = [None if size is None else now for size, now in zip(old, new, strict=True)]
    return {"output_shape": tuple(shape)}


@register_rule(keras.layers.EinsumDense, resize=_resize)
def einsum_dense(layer: keras.layers.EinsumDense, call: Call) -> Flow | list[Flow]:
    """Reads axes of the input that are summed, and produces the last new axis.

    An axis that the input, the kernel and the output have keeps its units.
    """
    reason = _why_not(layer)
    if reason is not None:
        call.keep(layer, f"{call.title} {reason}")
        return call.pinned(f"{call.title} {reason}")
    (flow,) = call.inputs
    source, kernel, target = _letters(layer.equation, len(flow.shape))
    letter = None if flow.axis is None else source[flow.axis]
    if letter is not None and letter not in kernel:
        reason = f"{call.title} does not read the axis of the units"
        call.pin(flow, reason)
        flow, letter = Flow(flow.shape, reason=reason), None
    if letter is not None and letter in target:
        call.vector(layer.kernel, flow.ids, kernel.index(letter))
        return _output(layer, call, target, letter, flow.ids)
    for name in kernel:
        summed = name in source and name not in target
        if summed and letter in (None, name):
            call.read(layer.kernel, kernel.index(name), flow)
    produced = [name for name in target if name in kernel and name not in source]
    if not produced:
        return call.fixed(f"{call.title} produces no new axis")
    ids = call.produce(layer.kernel, kernel.index(produced[-1]))
    return _output(layer, call, target, produced[-1], ids)


def _output(layer, call, target, letter, ids):
    axis = target.index(letter)
    values = np.zeros(ids.size)
    if layer.bias is not None and letter in layer.bias_axes:
        call.vector(layer.bias, ids, axis - len(target))
    elif layer.bias is not None:
        values = np.full(ids.size, np.nan)
    return call.activate(call.output(ids, axis, values), layer.activation)


def _why_not(layer):
    """Returns why the equation has no rule; None if it has one."""
    if is_changed(layer):
        return "is quantized or has LoRA weights"
    parts = layer.equation.replace("...", "").replace("->", ",").split(",")
    if any(len(set(part.strip())) != len(part.strip()) for part in parts):
        return "has an equation with a repeated letter"
    return None
