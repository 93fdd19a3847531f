"""The tables of the documentation, each a function without arguments."""

from result_tables import (  # noqa: F401  a module registers its tables
    at_init,
    choose,
    cifar10,
    claims,
    devices,
    executors,
    exports,
    faults,
    instability,
    learned_masks,
    micro,
    mnist1d,
    models,
    others,
    peers,
    penalties,
    qat,
    quantization,
    scaling,
    selection,
    shrinking,
    steps,
    streaming,
    structures,
    tickets,
)
from result_tables.reading import TABLES, load

__all__ = ["TABLES", "load"]
