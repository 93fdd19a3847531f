"""How models go in and out: wrapped in Prunable layers, and plain again."""

from tf_tickets.wrapping.kernels import (
    kernels,
    mask_layers,
    masks,
    plain_paths,
    prunables,
    scales,
    set_masks,
    sparsity,
    units,
)
from tf_tickets.wrapping.wrap import (
    Filters,
    strip,
    stripped_copy,
    wrap,
    wrap_kernels,
)

__all__ = [
    "Filters",
    "kernels",
    "mask_layers",
    "masks",
    "plain_paths",
    "prunables",
    "scales",
    "set_masks",
    "sparsity",
    "strip",
    "stripped_copy",
    "units",
    "wrap",
    "wrap_kernels",
]
