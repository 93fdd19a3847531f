"""The rule of Dense layers."""

import keras

from tf_tickets.units.calls import Call
from tf_tickets.units.flows import Flow
from tf_tickets.units.registry import register_rule

__all__: list[str] = []


def _resize(layer, sizes):
    return {"units": sizes.of(layer.kernel)[-1]}


@register_rule(keras.layers.Dense, resize=_resize)
def dense(layer: keras.layers.Dense, call: Call) -> Flow | list[Flow]:
    """A Dense layer reads the last axis and produces units there."""
    if is_changed(layer):
        return call.pinned(f"{call.title} is quantized or has LoRA weights")
    (flow,) = call.inputs
    if flow.axis is not None and flow.axis != len(flow.shape) - 1:
        call.pin(flow, f"{call.title} reads another axis")
        flow = Flow(flow.shape, reason=f"{call.title} reads another axis")
    call.read(layer.kernel, 0, flow)
    ids = call.produce(layer.kernel)
    call.vector(layer.bias, ids)
    return call.activate(call.output(ids), layer.activation)


def is_changed(layer: keras.layers.Layer) -> bool:
    """Returns whether a layer is quantized or has LoRA weights beside its kernel."""
    quantized = getattr(layer, "quantization_mode", None) is not None
    return quantized or bool(getattr(layer, "lora_enabled", False))
