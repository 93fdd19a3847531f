"""One call of a layer, as a rule sees it."""

import dataclasses
import inspect
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np

from tf_tickets import arguments
from tf_tickets.units import registry
from tf_tickets.units.flows import Flow, Ties, flows_in

# Activation functions of single elements.
_ELEMENTWISE = [
    *("celu", "elu", "exponential", "gelu", "hard_shrink", "hard_sigmoid"),
    *("hard_silu", "hard_tanh", "leaky_relu", "linear", "log_sigmoid", "mish"),
    *("relu", "relu6", "selu", "sigmoid", "silu", "soft_shrink", "softplus"),
    *("softsign", "sparse_plus", "sparse_sigmoid", "squareplus", "tanh"),
    "tanh_shrink",
]
ELEMENTWISE = {
    getattr(keras.activations, name)
    for name in _ELEMENTWISE
    if hasattr(keras.activations, name)
}


class Call:
    """One call of a layer or operation; its methods record what the layer does.

    Args:
        ties: The ids of the model.
        operation: The layer or operation.
        args: Its positional arguments, with a `Flow` for each tensor.
        kwargs: Its keyword arguments.
        shapes: The shapes of its outputs.
    """

    def __init__(
        self,
        ties: Ties,
        operation: keras.Operation,
        args: tuple,
        kwargs: dict[str, Any],
        shapes: list[tuple[int | None, ...]],
    ) -> None:
        self.ties = ties
        self.operation = operation
        self.args = args
        self.kwargs = kwargs
        self.shapes = shapes
        self.inputs = list(flows_in((args, kwargs)))

    @property
    def title(self) -> str:
        """The name and class of the layer, to begin a reason with."""
        return f"{self.operation.name!r} ({type(self.operation).__name__})"

    # What a variable does.

    def produce(
        self, variable: keras.Variable, axis: int = -1, parts: int = 1
    ) -> np.ndarray:
        """Returns ids of what a kernel produces; those of the first call if shared.

        Args:
            variable: The kernel.
            axis: Its output axis.
            parts: How many times all channels stand along the axis one after another,
                such as the gates of an LSTM.
        """
        size = variable.shape[axis] // parts
        ids = self.ties.recorded(variable, axis)
        if ids is None:
            ids = self.ties.new(size)
            self.ties.record(variable, axis, np.tile(ids, parts), "out", parts=parts)
        return ids[:size]

    def produce_too(
        self, variable: keras.Variable, axis: int, ids: np.ndarray, parts: int = 1
    ) -> None:
        """Records that another kernel also produces channels.

        Args:
            variable: The kernel.
            axis: Its output axis.
            ids: An id for each position along the axis.
            parts: As in `produce`.
        """
        self.ties.record(variable, axis, ids, "out", parts=parts)

    def keep(self, layer: keras.layers.Layer, reason: str, parts: int = 1) -> None:
        """Keeps everything that the kernels of a layer inside this one produce.

        Args:
            layer: The layer.
            reason: Why.
            parts: As in `produce`.
        """
        for variable in layer.trainable_variables:
            if len(variable.shape) > 1:
                ids = self._kept(variable.shape[-1], reason)
                self.ties.record(variable, -1, ids, "out", parts=parts)

    def keep_others(self, layer: keras.layers.Layer, reason: str) -> None:
        """Keeps what kernels inside a layer produce that were not recorded as kernels.

        Args:
            layer: The layer.
            reason: Why.
        """
        for variable in layer.trainable_variables:
            rank = len(variable.shape)
            axes = [self.ties.records.get((id(variable), axis)) for axis in range(rank)]
            if rank > 1 and not any(row and row.role == "out" for row in axes):
                ids = self._kept(variable.shape[-1], reason)
                self.ties.record(variable, -1, ids, "out")

    def inside(
        self,
        layer: keras.layers.Layer,
        inputs: list[Flow],
        shapes: list[tuple[int | None, ...]],
    ) -> list[Flow]:
        """Returns the flows of the outputs of a layer inside this one.

        Args:
            layer: The layer inside.
            inputs: The flows of its arguments.
            shapes: The shapes of its outputs.
        """
        layer = registry.unwrapped(layer)
        call = Call(self.ties, layer, tuple(inputs), {}, shapes)
        rule = registry.find_rule(layer)
        if isinstance(rule, str):
            self.keep(layer, rule)
            return call.pinned(rule)
        return traced(rule, layer, call)

    def read(
        self, variable: keras.Variable, axis: int, flow: Flow, repeats: int = 1
    ) -> None:
        """Records that a kernel mixes the channels of a flow.

        Args:
            variable: The kernel.
            axis: Its input axis.
            flow: What it reads.
            repeats: How many positions of the axis in a row belong to each channel.
        """
        if flow.axis is None:
            size = variable.shape[axis]
            fixed = self._kept(size, f"{self.title} is shared; {flow.reason}")
            self.ties.record(variable, axis, fixed, "in", np.full(size, np.nan))
            return
        ids, values = np.repeat(flow.ids, repeats), np.repeat(flow.values, repeats)
        self.ties.record(variable, axis, ids, "in", values)

    def vector(
        self, variable: keras.Variable | None, ids: np.ndarray, axis: int = 0
    ) -> None:
        """Records a parameter for each channel, such as a bias or a gamma.

        Args:
            variable: The variable; None if the layer has none.
            ids: The ids of the channels.
            axis: The axis of the variable.
        """
        if variable is not None:
            self.ties.record(variable, axis, ids, "vector")

    def state(self, variable: keras.Variable, ids: np.ndarray, axis: int = 0) -> None:
        """Records a statistic for each channel, which needs no zeros.

        Args:
            variable: The variable.
            ids: The ids of the channels.
            axis: The axis of the variable.
        """
        self.ties.record(variable, axis, ids, "state")

    # Which ids go together, and which stay.

    def tie(self, ids: np.ndarray, others: np.ndarray) -> None:
        """Ties ids that can only be removed together.

        Args:
            ids: An array of ids.
            others: As many ids.
        """
        self.ties.tie(ids, others)

    def pin(self, flow: Flow, reason: str) -> None:
        """Keeps everything that stands along the axis of a flow.

        Args:
            flow: The flow.
            reason: Why.
        """
        if flow.axis is not None:
            self.ties.pin(flow.ids, reason)

    def fixed(self, reason: str, place: int = 0) -> Flow:
        """Returns the flow of an output of which nothing can be removed.

        Args:
            reason: Why.
            place: Which output.
        """
        return Flow(self.shapes[place], reason=reason)

    def pinned(self, reason: str) -> list[Flow]:
        """Pins all inputs and outputs, and returns the flows of the outputs.

        Args:
            reason: Why.
        """
        for flow in self.inputs:
            self.pin(flow, reason)
        return [Flow(shape, reason=reason) for shape in self.shapes]

    def _kept(self, size, reason):
        ids = self.ties.new(size)
        self.ties.pin(ids, reason)
        return ids

    def ids_of(self, flow: Flow, axis: int) -> np.ndarray:
        """Returns an id for each position along an axis of a flow.

        If nothing of the flow can be removed, these are new ids that stay.

        Args:
            flow: The flow.
            axis: The axis, whose size must be known.
        """
        axis %= len(flow.shape)
        if flow.axis == axis:
            return flow.ids
        size = flow.shape[axis]
        if size is None or flow.axis is not None:
            raise ValueError(
                f"{self.title}: a flow of shape {flow.shape} with ids along axis "
                f"{flow.axis} has no ids along axis {axis}. A rule must pin it first."
            )
        return self._kept(size, flow.reason)

    # Outputs.

    def output(
        self,
        ids: np.ndarray,
        axis: int = -1,
        values: np.ndarray | None = None,
        place: int = 0,
    ) -> Flow:
        """Returns the flow of an output.

        Args:
            ids: An id for each position along the axis.
            axis: The axis.
            values: The value of each position once its weights are zero; zeros by
                default.
            place: Which output.
        """
        shape = self.shapes[place]
        values = np.zeros(ids.size) if values is None else values
        return Flow(shape, axis % len(shape), ids, values)

    def like(self, flow: Flow, axis: int | None = None, place: int = 0) -> Flow:
        """Returns the flow of an output with the ids of another flow.

        Args:
            flow: The other flow.
            axis: The axis of the ids in the output; that of the flow by default.
            place: Which output.
        """
        axis = flow.axis if axis is None or flow.axis is None else axis
        return dataclasses.replace(flow, shape=self.shapes[place], axis=axis)

    def activate(self, flow: Flow, activation: Callable | None) -> Flow:
        """Returns the flow after an activation function.

        Args:
            flow: The flow before it.
            activation: A function of `keras.activations`, or None.
        """
        if activation is None or flow.axis is None:
            return flow
        if not is_elementwise(activation):
            name = getattr(activation, "__name__", type(activation).__name__)
            reason = f"{self.title} applies {name!r}, which may combine channels"
            self.pin(flow, reason)
            return Flow(flow.shape, reason=reason)
        return flow.map(lambda values: evaluate(activation, values))


def traced(rule: registry.Rule, layer: keras.Operation, call: Call) -> list[Flow]:
    """Returns the flows that a rule returns for the outputs of a call.

    What is no flow, or does not fit an output, is refused by the name of the rule.

    Args:
        rule: The rule.
        layer: The layer or operation.
        call: The call.

    Example:

    >>> layer = keras.layers.ReLU(name="relu")
    >>> call = Call(Ties(), layer, (Flow((None, 2)),), {}, [(None, 2)])
    >>> [flow.shape for flow in traced(registry.find_rule(layer), layer, call)]
    [(None, 2)]
    >>> traced(registry.Rule(lambda layer, call: None), layer, call)
    Traceback (most recent call last):
    TypeError: The rule of ReLU must return one Flow for each output, such as
        call.output(ids) or call.like(call.inputs[0]). Received for 'relu' with outputs
        of shapes [(None, 2)]: None
    """
    result = rule.trace(layer, call)
    flows = [result] if isinstance(result, Flow) else result
    many = isinstance(flows, list | tuple)
    if not many or not all(isinstance(flow, Flow) for flow in flows):
        raise TypeError(_no_flows(layer, call, arguments.shown(result)))
    if len(flows) != len(call.shapes):
        raise ValueError(_no_flows(layer, call, f"{len(flows)} flows"))
    for flow, shape in zip(flows, call.shapes, strict=True):
        _check_positions(layer, call, flow, shape)
    return list(flows)


def _no_flows(layer, call, received):
    return (
        f"The rule of {type(layer).__name__} must return one Flow for each output, "
        "such as call.output(ids) or call.like(call.inputs[0]). Received for "
        f"{layer.name!r} with outputs of shapes {call.shapes}: {received}"
    )


def _check_positions(layer, call, flow, shape):
    if flow.axis is None:
        return
    if not 0 <= flow.axis < len(shape) or shape[flow.axis] != flow.ids.size:
        raise ValueError(
            f"The rule of {type(layer).__name__} must return an id for each position "
            f"of an axis of the output. Received for {layer.name!r}: {flow.ids.size} "
            f"ids along axis {flow.axis} of an output of shape {shape}."
        )


def is_elementwise(activation: Callable) -> bool:
    """Returns whether an activation function is known to act on single elements.

    Example:

    >>> is_elementwise(keras.activations.relu)
    True
    >>> is_elementwise(keras.activations.softmax)
    False
    """
    layers = (keras.layers.ReLU, keras.layers.LeakyReLU, keras.layers.ELU)
    if type(activation) in layers:
        return True
    return inspect.isfunction(activation) and activation in ELEMENTWISE


def evaluate(function: Callable, values: np.ndarray) -> np.ndarray:
    """Returns a function of tensors for an array.

    Example:

    >>> evaluate(keras.activations.relu, np.array([-1.0, 2.0])).tolist()
    [0.0, 2.0]
    """
    if isinstance(function, keras.Operation):
        function = function.call
    tensor = keras.ops.convert_to_tensor(values.astype("float32"))
    return np.asarray(keras.ops.convert_to_numpy(function(tensor)), float)


def sizes_known(shape: Iterable[int | None]) -> bool:
    """Returns whether all sizes but that of the batch are known.

    Example:

    >>> sizes_known((None, 2)), sizes_known((None, None, 2))
    (True, False)
    """
    return all(size is not None for size in list(shape)[1:])
