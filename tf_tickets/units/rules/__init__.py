"""The rules of the layers and operations of Keras, one module a family."""

from tf_tickets.units.rules import (
    attention,
    convolution,
    dense,
    distributed,
    einsum,
    elementwise,
    embedding,
    hub,
    merging,
    normalization,
    pooling,
    recurrent,
    reshaping,
)

__all__ = [
    "attention",
    "convolution",
    "dense",
    "distributed",
    "einsum",
    "elementwise",
    "embedding",
    "hub",
    "merging",
    "normalization",
    "pooling",
    "recurrent",
    "reshaping",
]
