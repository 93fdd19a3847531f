"""The rules of recurrent layers."""

from typing import Any

import keras
import numpy as np

from tf_tickets.units.calls import Call, evaluate, is_elementwise
from tf_tickets.units.flows import Flow
from tf_tickets.units.registry import register_rule, stored_inside
from tf_tickets.units.rules.merging import product

__all__: list[str] = []

# How many gates the kernels of a cell have one after another.
_GATES: dict[type, int] = {
    keras.layers.SimpleRNNCell: 1,
    keras.layers.GRUCell: 3,
    keras.layers.LSTMCell: 4,
}


def _cells(layer):
    """Returns the cells of a layer, in the order in which they run."""
    cell = layer.cell
    return cell.cells if type(cell) is keras.layers.StackedRNNCells else [cell]


def _why_not(layer):
    """Returns why a recurrent layer has no rule; None if it has one."""
    for cell in _cells(layer):
        if type(cell) not in _GATES:
            return f"its cell {cell.name!r} ({type(cell).__name__}) has no rule"
    return "it keeps its states between batches" if layer.stateful else None


def _stays(layer, call, reason):
    """Keeps all kernels of a recurrent layer; returns the flows of its outputs."""
    directions = [layer]
    if isinstance(layer, keras.layers.Bidirectional):
        directions = [layer.forward_layer, layer.backward_layer]
    for direction in directions:
        for cell in _cells(direction) if hasattr(direction, "cell") else []:
            if type(cell) in _GATES:
                call.keep(cell, reason, parts=_GATES[type(cell)])
    call.keep(layer, reason)
    return call.pinned(reason)


def _arguments(layer, call):
    """Returns the flows of the sequences and of the initial states."""
    names = ("sequences", "initial_state", "mask", "training")
    given = dict(zip(names, call.args, strict=False)) | call.kwargs
    states = keras.tree.flatten(given.get("initial_state"))
    states = [state for state in states if isinstance(state, Flow)]
    sequences, *others = keras.tree.flatten(given["sequences"])
    return sequences, [*others, *states]


def _through(layer, call, sequences, states):
    """Returns the flow of the output of a recurrent layer and those of its states."""
    if sequences.axis not in (None, 2):
        reason = f"{call.title} reads another axis"
        call.pin(sequences, reason)
        sequences = Flow(sequences.shape, reason=reason)
    flow, ends, states = sequences, [], list(states)
    for cell in _cells(layer):
        count = 2 if isinstance(cell, keras.layers.LSTMCell) else 1
        starts, states = states[:count], states[count:]
        end = _through_cell(cell, call, flow, starts)
        flow = Flow((*sequences.shape[:2], end.ids.size), 2, end.ids, end.values)
        ends += [end] * count
    return (flow if layer.return_sequences else ends[-1]), ends


def _through_cell(cell, call, flow, starts):
    """Returns the flow of the states of a cell. All its gates go together."""
    gates = _GATES[type(cell)]
    call.read(cell.kernel, 0, flow)
    ids = call.produce(cell.kernel, parts=gates)
    tiled = np.tile(ids, gates)
    call.produce_too(cell.recurrent_kernel, 1, tiled, parts=gates)
    call.vector(cell.bias, tiled, axis=-1)
    zero = True
    for start in starts:
        if start.axis is None:
            call.ties.pin(ids, f"{call.title} starts from a state; {start.reason}")
        else:
            call.tie(ids, start.ids)
            zero &= bool((start.values == 0).all())
    for function in (cell.activation, getattr(cell, "recurrent_activation", None)):
        if function is not None and not is_elementwise(function):
            call.ties.pin(ids, f"{call.title} activates all channels together")
    if is_elementwise(cell.activation):
        zero &= evaluate(cell.activation, np.zeros(1))[0] == 0
    end = Flow((None, ids.size), 1, ids, np.full(ids.size, 0.0 if zero else np.nan))
    call.read(cell.recurrent_kernel, 0, end)
    return end


def recurrent(layer: keras.layers.RNN, call: Call) -> list[Flow]:
    """A unit of a cell has a column for each gate, a row and a bias for each gate.

    Its state stays zero if all of them are zero.
    """
    reason = _why_not(layer)
    if reason is not None:
        return _stays(layer, call, f"{call.title} stays: {reason}")
    output, states = _through(layer, call, *_arguments(layer, call))
    return [output, *states] if layer.return_state else [output]


def _resize_cell(cell, sizes):
    """Returns the configuration of a cell after units were removed."""
    config = cell.get_config()
    if type(cell) is keras.layers.StackedRNNCells:
        cells = [_serialized(inner, sizes) for inner in cell.cells]
        return {**config, "cells": cells}
    if type(cell) not in _GATES:
        return config
    return {**config, "units": sizes.of(cell.recurrent_kernel)[0]}


def _serialized(cell, sizes):
    return stored_inside(cell, _resize_cell(cell, sizes))


def _resize_rnn(layer, sizes):
    return {"cell": _serialized(layer.cell, sizes)}


def _resize_named(layer, sizes):
    return {"units": sizes.of(layer.cell.recurrent_kernel)[0]}


register_rule(keras.layers.RNN, recurrent, _resize_rnn)
for _kind in (keras.layers.SimpleRNN, keras.layers.GRU, keras.layers.LSTM):
    register_rule(_kind, recurrent, _resize_named)


def _resize_one(layer, sizes) -> dict[str, Any]:
    """Returns the stored form of one direction of a bidirectional layer."""
    resize = _resize_rnn if type(layer) is keras.layers.RNN else _resize_named
    return stored_inside(layer, {**layer.get_config(), **resize(layer, sizes)})


_KNOWN = (
    *(keras.layers.RNN, keras.layers.SimpleRNN, keras.layers.GRU),
    keras.layers.LSTM,
)


def _resize_both(layer, sizes):
    directions = (layer.forward_layer, layer.backward_layer)
    if not all(type(direction) in _KNOWN for direction in directions):
        return {}
    first, second = (_resize_one(direction, sizes) for direction in directions)
    return {"layer": first, "backward_layer": second}


def _why_no_direction(layer):
    return _why_not(layer) if type(layer) in _KNOWN else "its layer has no rule"


@register_rule(keras.layers.Bidirectional, resize=_resize_both)
def bidirectional(layer: keras.layers.Bidirectional, call: Call) -> list[Flow]:
    """Both directions have as many units, so those of the same place go together.

    Keras computes the shape of the output from that of the forward layer alone.
    """
    directions = (layer.forward_layer, layer.backward_layer)
    reason = next(filter(None, map(_why_no_direction, directions)), None)
    if directions[0].state_size != directions[1].state_size:
        reason = "its directions have different sizes"
    if reason is not None:
        return _stays(layer, call, f"{call.title} stays: {reason}")
    sequences, states = _arguments(layer, call)
    half = len(states) // 2
    first, ends = _through(directions[0], call, sequences, states[:half])
    second, others = _through(directions[1], call, sequences, states[half:])
    for end, other in zip(ends, others, strict=True):
        call.tie(end.ids, other.ids)
    merged = _merged(layer, call, first, second)
    return [*merged, *ends, *others] if layer.return_state else merged


def _merged(layer, call, first, second):
    mode = layer.merge_mode
    if mode is None:
        return [first, second]
    if mode == "concat":
        ids = np.concatenate([first.ids, second.ids])
        return [call.output(ids, -1, np.concatenate([first.values, second.values]))]
    values = first.values + second.values
    if mode == "mul":
        values = product(first.values, second.values)
    elif mode == "ave":
        values = values / 2
    return [call.output(first.ids, -1, values)]
