"""Exports of models whose kernels Keras has replaced: by quantization or by LoRA."""

import keras

from tf_tickets.exporting import formats
from tf_tickets.wrapping import paths

# Modes whose operators the converter of TensorFlow Lite does not know.
_NOT_CONVERTED = ("int8", "float8")
# Modes that store two weights in a byte, in which a pruned weight is no zero.
_PACKED = ("int4", "gptq", "awq")


def check(model: keras.Model, format: str) -> None:
    """Refuses formats that cannot hold the model.

    Args:
        model: The plain model.
        format: See `export`.
    """
    found = [row for row in _quantized(model) if row[1] in _NOT_CONVERTED]
    if format in formats.TFLITE and found:
        raise ValueError(
            f"The converter of TensorFlow Lite does not know the operators of layers "
            f"that Keras has quantized. Received: format={format!r} and the layers "
            f"{[f'{name} ({mode})' for name, mode in found]}. Export the model from "
            'before `quantize`, with precision="int8" and data=x, or choose the format '
            "'keras' or 'saved_model'."
        )


def remarks(model: keras.Model, format: str) -> list[str]:
    """Returns what a report must say about the stored kernels.

    Args:
        model: The plain model.
        format: See `export`.

    Example:

    >>> dense = keras.layers.Dense(2, name="fc")
    >>> model = keras.Sequential([keras.Input((4,)), dense])
    >>> dense.enable_lora(1)
    >>> print(*remarks(model, "keras"))
    LoRA weights are added to the kernel of 1 layer (fc), in the file or by its
    computations: pruned weights are no longer zero once the LoRA weights were ...
    """
    found = []
    packed = [name for name, mode in _quantized(model) if mode in _PACKED]
    if packed and format in formats.TFLITE:
        found.append(
            f"The {_layers(packed)} that Keras has quantized to 4 bits or packed codes "
            "are stored as float32. A smaller file comes from the model before "
            '`quantize`, with precision="int8".'
        )
    elif packed:
        found.append(
            f"The kernels of {_layers(packed)} are packed codes. A pruned weight is "
            "still exactly zero in computations, but its code is not a zero byte, so "
            "the column of zeros does not count it."
        )
    adapted = [x.name for x in paths.walk(model) if getattr(x, "lora_enabled", False)]
    if adapted:
        found.append(
            f"LoRA weights are added to the kernel of {_layers(adapted)}, in the file "
            "or by its computations: pruned weights are no longer zero once the LoRA "
            "weights were trained, whatever the sparsity above says. Mask the sum and "
            "train on to keep the zeros."
        )
    return found


def _quantized(model):
    """Returns the names of the layers that Keras has quantized, and their modes."""
    rows = [(x.name, getattr(x, "quantization_mode", None)) for x in paths.walk(model)]
    return [(name, mode) for name, mode in rows if mode is not None]


def _layers(names):
    shown = ", ".join(names[:3]) + (" and more" if len(names) > 3 else "")
    return f"{len(names)} layer{'' if len(names) == 1 else 's'} ({shown})"
