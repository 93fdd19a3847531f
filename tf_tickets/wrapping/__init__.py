"""How models go in and out: wrapped in Prunable layers, and plain again."""

from tf_tickets.wrapping.graphs import leaves
from tf_tickets.wrapping.kernels import (
    Kernel,
    Kernels,
    kernels,
    plain_paths,
    prunables,
    to_numpy,
)
from tf_tickets.wrapping.wrap import (
    Filters,
    strip,
    stripped_copy,
    without_augmentation,
    wrap,
    wrap_kernels,
)

__all__ = [
    "Filters",
    "Kernel",
    "Kernels",
    "kernels",
    "leaves",
    "plain_paths",
    "prunables",
    "strip",
    "stripped_copy",
    "to_numpy",
    "without_augmentation",
    "wrap",
    "wrap_kernels",
]
