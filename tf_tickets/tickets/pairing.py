"""Pairs the kernels of two tickets, to compare their masks."""

from typing import Protocol

import numpy as np

from tf_tickets.structures import registry as structures
from tf_tickets.structures.structure import Layout
from tf_tickets.tickets import applying, matching
from tf_tickets.tickets.overlap import OverlapReport, overlap_of
from tf_tickets.wrapping import paths


class _Ticket(Protocol):
    masks: dict[str, np.ndarray]
    provenance: dict


def overlap(
    first: _Ticket,
    second: _Ticket,
    strict: bool = True,
    rename: matching.Rename | None = None,
) -> OverlapReport:
    """Returns the overlap of two tickets beside chance.

    Args:
        first: A ticket.
        second: Another ticket.
        strict: Whether both must have the same kernels.
        rename: Dict from paths of the first to paths of the second.

    Example:

    >>> overlap(tt.Ticket({"k": [1, 0]}), tt.Ticket({"k": [0, 1]})).total.shared
    0
    """
    names = matching.distinct_names(rename, list(first.masks))
    if rename:
        new = matching.renamed(rename, list(first.masks))
        matching.check_leads(rename, new, second.masks, "the other ticket")
    ours = {names[path]: mask for path, mask in first.masks.items()}
    if strict:
        pairs, left_out = applying.fit(ours, second.masks, "masks"), ()
    else:
        pairs, left_out = _partly(ours, second.masks)
    sources = {new: old for old, new in names.items()}
    by_path = {sources[ours_]: theirs for ours_, theirs in pairs.items()}
    layout, tables, others = Layout(), {}, {}
    shared = _shared_units(first, second, by_path)
    if shared is None:
        tables = {path: first.masks[path] for path in by_path}
        others = {path: second.masks[theirs] for path, theirs in by_path.items()}
    else:
        layout, tables, others = shared
    return overlap_of(layout, tables, others, left_out)


def _partly(ours, theirs):
    pairs, reasons = matching.match_partly(
        ours, theirs, (), fits=lambda one, other: ours[one].shape == theirs[other].shape
    )
    for path, place in list(pairs.items()):
        if ours[path].shape != theirs[place].shape:
            del pairs[path]
            shapes = f"{ours[path].shape} and {theirs[place].shape}"
            reasons[path] = f"its shapes are {shapes}"
    if not pairs:
        raise ValueError(
            "The tickets have no kernel in common. Received masks of "
            f"{list(ours)[:3]} and {list(theirs)[:3]}. "
            f"{matching.nearest(ours, theirs)}If they have other paths, pass "
            "rename={'path in the first': 'path in the second'}."
        )
    left_out = [f"{path}: {reason}" for path, reason in reasons.items()]
    used = {*pairs.values(), *(path for path in reasons if path in theirs)}
    left_out += [f"{path}: only in the second" for path in theirs if path not in used]
    return pairs, tuple(left_out)


def _shared_units(first, second, pairs):
    """Returns layout and tables of units, if both tickets have the same structure."""
    (structure, layout), (other, other_layout) = (
        structures.restored(ticket.provenance) for ticket in (first, second)
    )
    if structure != other or structure == structures.get("unstructured"):
        return None
    tables = layout.units({path: first.masks[path] for path in pairs})
    others = other_layout.units({path: second.masks[path] for path in pairs.values()})
    names = paths.match(tables, others)
    if names is None or any(
        tables[p].shape != others[q].shape for p, q in names.items()
    ):
        return None
    return layout, tables, {path: others[name] for path, name in names.items()}
