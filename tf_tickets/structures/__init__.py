"""Structures: which weights of a model are kept or pruned together."""

from tf_tickets.structures.blocks import Blocks
from tf_tickets.structures.channels import Channels
from tf_tickets.structures.nm import NM
from tf_tickets.structures.registry import get
from tf_tickets.structures.structure import Unstructured

__all__ = [
    "Blocks",
    "Channels",
    "NM",
    "Unstructured",
    "get",
]
