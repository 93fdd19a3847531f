"""Structures by name."""

import functools
import re
from collections.abc import Callable
from typing import Any

import keras

from tf_tickets import arguments
from tf_tickets.masks.base import Mask
from tf_tickets.structures.blocks import Blocks
from tf_tickets.structures.channels import Channels
from tf_tickets.structures.nm import NM
from tf_tickets.structures.structure import Layout, Structure, Unstructured

_STRUCTURES: dict[str, Callable[[], Structure]] = {
    "unstructured": Unstructured,
    "channels": Channels,
}
_PATTERNS: dict[str, Callable[[int, int], Structure]] = {
    r"(\d+):(\d+)": NM,
    r"(\d+)x(\d+)": Blocks,
    r"(\d+)x(\d+)-max": functools.partial(Blocks, pooling="max"),
}


def get(identifier: str | dict | Structure) -> Structure:
    """Returns a structure from a name, configuration or instance.

    Args:
        identifier: "unstructured", "channels", "2:4" or other numbers for N:M
            sparsity, "4x1" or other numbers for blocks ("4x1-max" for blocks that count
            by their largest score), an instance, or a serialized one.

    Example:

    >>> get("2:4"), get("4x1"), get("unstructured")
    (NM(2, 4), Blocks(4, 1), Unstructured())
    """
    if isinstance(identifier, Structure):
        return identifier
    if isinstance(identifier, dict) and {"class_name", "config"} <= set(identifier):
        structure = keras.saving.deserialize_keras_object(identifier)
        if isinstance(structure, Structure):
            return structure
    if isinstance(identifier, str):
        if identifier in _STRUCTURES:
            return _STRUCTURES[identifier]()
        for pattern, kind in _PATTERNS.items():
            numbers = re.fullmatch(pattern, identifier)
            if numbers:
                return kind(int(numbers[1]), int(numbers[2]))
    raise ValueError(
        f"Unknown structure. Received: {arguments.shown(identifier)}. Expected one of "
        f"{sorted(_STRUCTURES)}, N:M such as '2:4', blocks such as '4x1', or an "
        "instance such as NM(2, 4)."
    )


def optional(identifier: str | dict | Structure | None) -> Structure | None:
    """Returns a structure, or None for that of the wrapped model.

    Example:

    >>> optional(None) is None
    True
    """
    return None if identifier is None else get(identifier)


def check_mask(structure: Structure, mask: Mask) -> None:
    """Refuses a structure for learned masks, which know single weights only.

    Example:

    >>> check_mask(NM(2, 4), tt.masks.FixedMask())
    """
    if mask.learned and structure != Unstructured():
        raise ValueError(
            f"{type(mask).__name__} learns a score for each weight and cannot follow a "
            f"structure. Received: structure={structure.name!r}. Wrap with "
            "mask='fixed', or with structure='unstructured'."
        )


def stored(layout: Layout, structure: Structure) -> dict[str, Any]:
    """Returns what a ticket says about the structure of its masks; {} for none.

    Example:

    >>> stored(Layout(), Unstructured())
    {}
    """
    if structure == Unstructured():
        return {}
    config = keras.saving.serialize_keras_object(structure)
    return {"structure": {"declared": config, "layout": layout.content()}}


def restored(provenance: dict[str, Any]) -> tuple[Structure, Layout]:
    """Returns the structure and layout that `stored` has written.

    Args:
        provenance: The provenance of a ticket.

    Example:

    >>> restored({})[0]
    Unstructured()
    """
    content = provenance.get("structure")
    if content is None:
        return Unstructured(), Layout()
    structure = get(content["declared"])
    return structure, structure.restored_layout(content["layout"])
