"""Finds the units of a model: a walk along its graph with the rules of its layers."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from tf_tickets import keras_internals
from tf_tickets.units import registry, rules
from tf_tickets.units.calls import Call, traced
from tf_tickets.units.flows import Flow, Ties, flows_in
from tf_tickets.units.units import STAYS, Axis, Pinned, TensorUnits, Units

__all__ = ["find"]

# The rules register themselves.
_ = rules


def find(model: keras.Model, variables: Mapping[str, keras.Variable]) -> Units:
    """Finds the units of a model.

    Args:
        model: A plain or wrapped model.
        variables: Dict from the path in the plain model to the variable.
    """
    walk = _Walk()
    if registry.is_graph(model):
        inputs = [_input(tensor) for tensor in model.inputs]
        for flow in walk.through(model, inputs):
            walk.pin(flow, "it is an output of the model")
    else:
        walk.without_rule(model, _no_graph(model))
    return _number(walk, variables)


def _input(tensor):
    return Flow(tuple(tensor.shape), reason="an input of the model")


def _no_graph(model):
    return (
        f"{model.name!r} ({type(model).__name__}) is no functional or Sequential "
        "model, so its graph is not known"
    )


class _Walk:
    """A walk along a graph. Nested models are entered."""

    def __init__(self):
        self.ties = Ties()
        # Dict from the id of a symbolic tensor to itself and its flow.
        self.tensors: dict[int, tuple[keras.KerasTensor, Flow]] = {}
        # The flows of the first call of each layer.
        self.first: dict[int, tuple[list[Flow], list[Flow]]] = {}
        # Kernels of layers without a rule, and why they stay.
        self.unknown: list[tuple[keras.Variable, str]] = []

    def pin(self, flow, reason):
        if flow.axis is not None:
            self.ties.pin(flow.ids, reason)

    def through(self, model: keras.Model, inputs: list[Flow]) -> list[Flow]:
        """Returns the flows of the outputs of a model."""
        flows = {}
        for tensor, flow in zip(model.inputs, inputs, strict=True):
            flows[id(tensor)] = flow
            self.tensors.setdefault(id(tensor), (tensor, flow))
        for call in keras_internals.calls(model):
            args, kwargs = keras.tree.map_structure(
                lambda leaf, flows=flows: flows.get(id(leaf), leaf),
                (call.args, call.kwargs),
            )
            shapes = [tuple(tensor.shape) for tensor in call.outputs]
            outputs = self.call(call.operation, args, kwargs, shapes)
            for tensor, flow in zip(call.outputs, outputs, strict=True):
                flows[id(tensor)] = flow
                self.tensors.setdefault(id(tensor), (tensor, flow))
        return [flows[id(tensor)] for tensor in model.outputs]

    def call(
        self,
        operation: keras.Operation,
        args: tuple,
        kwargs: dict[str, Any],
        shapes: list,
    ) -> list[Flow]:
        """Returns the flows of the outputs of one call."""
        layer = registry.unwrapped(operation)
        call = Call(self.ties, layer, args, kwargs, shapes)
        if registry.is_graph(layer):
            return self._repeat(layer, call, lambda: self._nested(layer, call))
        rule = registry.find_rule(layer)
        if isinstance(rule, str):
            self.without_rule(layer, rule)
            return call.pinned(rule)
        sizeless = rule.resize is None and not getattr(layer, "weights", [])
        if sizeless or rule.calls_differ:
            return self._trace(rule, layer, call)
        return self._repeat(layer, call, lambda: self._trace(rule, layer, call))

    def _nested(self, model, call):
        reason = _not_in_order(model, call)
        if reason is None:
            return self.through(model, call.inputs)
        self.without_rule(model, reason)
        return call.pinned(reason)

    def _trace(self, rule, layer, call):
        flows = traced(rule, layer, call)
        for flow in flows:
            if np.isinf(flow.values).any():
                self.pin(flow, f"{call.title} of 0 is not finite")
        return flows

    def _repeat(self, layer, call, trace):
        """Ties the flows of later calls of a layer with those of the first.

        Layers that have weights or sizes are shared, and are rebuilt once.
        """
        if id(layer) in self.first:
            self._tie(self.first[id(layer)][0], call.inputs, call)
        outputs = trace()
        if id(layer) in self.first:
            self._tie(self.first[id(layer)][1], outputs, call)
        self.first.setdefault(id(layer), (call.inputs, outputs))
        return outputs

    def _tie(self, first, flows, call):
        if len(first) != len(flows):
            for flow in (*first, *flows):
                self.pin(flow, f"{call.title} is called in several ways")
            return
        for one, other in zip(first, flows, strict=True):
            if one.axis == other.axis and one.ids.size == other.ids.size:
                self.ties.tie(one.ids, other.ids)
            else:
                reason = one.reason or other.reason or "its calls differ"
                for flow in (one, other):
                    self.pin(flow, f"{call.title} is shared; {reason}")

    def without_rule(self, layer: keras.Operation, reason: str) -> None:
        """Records the kernels of a layer that has no rule."""
        for variable in getattr(layer, "trainable_variables", []):
            if len(variable.shape) > 1:
                self.unknown.append((variable, reason))


def _not_in_order(model, call):
    """Returns why the tensors of a call are not simply the inputs of a model."""
    shapes = [len(flow.shape) for flow in call.inputs]
    simple = len(call.args) == 1 and not list(flows_in(call.kwargs))
    if simple and isinstance(call.args[0], Flow) and len(model.inputs) == 1:
        same = True
    else:
        same = simple and _same_structure(call.args[0], model.input)
    if same and shapes == [len(tensor.shape) for tensor in model.inputs]:
        return None
    return f"{call.title} is called with other arguments than its inputs"


def _same_structure(first, second):
    try:
        keras.tree.assert_same_structure(first, second)
    except (ValueError, TypeError):
        return False
    return True


# Numbers.


def _number(walk, variables):
    """Numbers the classes of ids that can be removed, and returns them as units."""
    ties, paths = walk.ties, {id(v): path for path, v in variables.items()}
    records = list(ties.records.values())
    roots = ties.roots(np.arange(ties.count))
    stays = np.isin(roots, list(ties.reasons))
    numbers = np.full(ties.count, STAYS)
    chosen = np.unique(roots[~stays])
    numbers[chosen] = np.arange(chosen.size)
    numbers = np.where(stays, STAYS, numbers[roots])
    axes, pinned, widths = [], [], {}
    for row in records:
        path = paths.get(id(row.variable), row.variable.path)
        ids = numbers[row.ids]
        if row.role == "out":
            widths[path] = row.ids.size // row.parts
        if (ids != STAYS).any():
            values = row.values
            axes.append(Axis(path, row.variable, row.axis, ids, row.role, values))
        if row.role == "out" and (ids == STAYS).any():
            pinned.append(Pinned(path, _reason(ties, roots[row.ids], ids)))
    listed = {id(row.variable) for row in records}
    for variable, reason in walk.unknown:
        if id(variable) not in listed:
            path = paths.get(id(variable), variable.path)
            pinned.append(Pinned(path, reason))
            widths.setdefault(path, int(variable.shape[-1]))
            listed.add(id(variable))
    tensors = {
        key: TensorUnits(tensor, *_tensor(flow, numbers))
        for key, (tensor, flow) in walk.tensors.items()
    }
    groups = _groups(axes, chosen.size)
    return Units(groups, tuple(axes), tuple(pinned), tensors, widths)


def _tensor(flow, numbers):
    ids = numbers[flow.ids]
    return (None, ids[:0]) if (ids == STAYS).all() else (flow.axis, ids)


def _reason(ties, roots, ids):
    reasons = dict.fromkeys(ties.reasons[root] for root in roots[ids == STAYS].tolist())
    text = "; ".join(list(reasons)[:3])
    count = int((ids == STAYS).sum())
    return text if count == ids.size else f"{count} of {ids.size}: {text}"


def _groups(axes, size):
    """Returns the units that share axes on which they are produced, by a name."""
    ties = Ties()
    names: dict[int, str] = {}
    ties.new(size)
    producing = [axis for axis in axes if axis.role == "out"]
    for axis in producing:
        ids = axis.ids[axis.ids != STAYS]
        ties.tie(ids, np.full_like(ids, ids[0]))
    roots = ties.roots(np.arange(size))
    for axis in producing:
        root = int(roots[axis.ids[axis.ids != STAYS][0]])
        name = axis.path
        if name in names.values():
            name = f"{axis.path}:{axis.axis}"
        names.setdefault(root, name)
    return {name: np.flatnonzero(roots == root) for root, name in names.items()}
