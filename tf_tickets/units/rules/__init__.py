"""The rules of the layers and operations of Keras, one module a family."""

from tf_tickets.units.rules import (
    convolution,
    dense,
    elementwise,
    merging,
    normalization,
    pooling,
    reshaping,
)

__all__ = [
    "convolution",
    "dense",
    "elementwise",
    "merging",
    "normalization",
    "pooling",
    "reshaping",
]
