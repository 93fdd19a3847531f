"""The rules of layers and operations on single elements."""

import dataclasses

import keras
import numpy as np

from tf_tickets import augmentation
from tf_tickets.units.calls import Call, evaluate
from tf_tickets.units.flows import Flow
from tf_tickets.units.registry import register_rule, register_unnamed

__all__: list[str] = []


@register_rule(keras.layers.Activation)
def activation(layer: keras.layers.Activation, call: Call) -> Flow | list[Flow]:
    """Applies an activation function."""
    return call.activate(call.like(call.inputs[0]), layer.activation)


def function(operation: keras.Operation, call: Call) -> Flow | list[Flow]:
    """Applies a function without weights to each element."""
    flow = call.like(call.inputs[0])
    rest = keras.tree.flatten((call.args[1:], call.kwargs))
    if any(isinstance(value, Flow) for value in rest):
        return call.pinned(f"{call.title} has more than one input")
    return flow.map(lambda values: evaluate(operation, values))


for _kind in (keras.layers.ReLU, keras.layers.LeakyReLU, keras.layers.ELU):
    register_rule(_kind, function)

register_unnamed(
    *("Relu", "Relu6", "Sigmoid", "SparseSigmoid", "Silu", "Tanh", "Gelu", "Elu"),
    *("Selu", "Celu", "Softplus", "Softsign", "SoftShrink", "SparsePlus", "LogSigmoid"),
    *("LeakyRelu", "HardSigmoid", "HardSilu", "HardTanh", "HardShrink", "TanhShrink"),
    *("Squareplus", "Threshold", "Negative", "Absolute", "Abs", "Square", "Sign"),
    *("Sin", "Cos", "Cast", "StopGradient"),
)(function)


def unchanged(layer: keras.Operation, call: Call) -> Flow:
    """Passes its input on outside training; keeps zeros in training."""
    return call.like(call.inputs[0])


def zeros_kept(layer: keras.Operation, call: Call) -> Flow | list[Flow]:
    """Keeps zeros; other values are not known."""
    if _has_sizes(layer, call):
        return call.pinned(f"{call.title} has a noise_shape with this axis")
    return call.like(call.inputs[0]).finite()


def not_known(layer: keras.Operation, call: Call) -> Flow | list[Flow]:
    """Adds finite values that are not known."""
    if _has_sizes(layer, call):
        return call.pinned(f"{call.title} has a noise_shape with this axis")
    flow = call.like(call.inputs[0])
    return dataclasses.replace(flow, values=np.full(flow.values.shape, np.nan))


def _has_sizes(layer, call):
    """Whether the shape of a layer's noise contains the number of channels."""
    axis, shape = call.inputs[0].axis, getattr(layer, "noise_shape", None)
    return axis is not None and shape is not None and shape[axis] not in (None, 1)


for _name in (
    *("Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D"),
    *("GaussianDropout",),
):
    register_rule(getattr(keras.layers, _name), zeros_kept)
register_rule(augmentation.CropAndFlip, zeros_kept)
register_rule(keras.layers.Identity, unchanged)
register_rule(keras.layers.ActivityRegularization, unchanged)
register_unnamed("StochasticDepth")(zeros_kept)
for _name in ("AlphaDropout", "GaussianNoise"):
    register_rule(getattr(keras.layers, _name), not_known)


@register_rule(keras.layers.PReLU)
def prelu(layer: keras.layers.PReLU, call: Call) -> Flow | list[Flow]:
    """A ReLU with a slope for each element, which keeps zeros."""
    flow = call.inputs[0]
    if flow.axis is None:
        return call.fixed(flow.reason)
    if layer.alpha.shape[flow.axis - 1] != 1:
        call.state(layer.alpha, flow.ids, flow.axis - 1)
    return call.like(flow).finite()
