"""The control experiments: what remains of a ticket when one thing is taken away.

Each gives a new ticket of the same sparsity; train it as the ticket was trained
and compare.
"""

import copy
import dataclasses
from collections.abc import Callable

import keras
import numpy as np

from tf_tickets import wrapping
from tf_tickets.pruning import allocation, selection
from tf_tickets.tickets.ticket import Ticket
from tf_tickets.training import snapshots
from tf_tickets.wrapping import paths

__all__ = [
    "random_masks",
    "reinit",
    "shuffle_masks",
]


def reinit(
    ticket: Ticket,
    build_model: Callable[[], keras.Model] | None = None,
    seed: int = 1,
) -> Ticket:
    """The same masks over newly drawn start weights.

    Args:
        ticket: A ticket.
        build_model: Function that gives the model with newly drawn weights. By
            default the model is rebuilt from the ticket's provenance, which has
            it if the ticket comes from `find_ticket` with a functional model.
        seed: Seed of the new weights.

    Example:

    >>> def build():
    ...     layers = [keras.Input((2,)), keras.layers.Dense(1, name="d")]
    ...     return keras.Sequential(layers, name="net")
    >>> ticket = tt.Ticket({"net/d/kernel": np.array([[1], [0]])},
    ...     {"net/d/kernel": np.ones((2, 1), "float32")})
    >>> bool(reinit(ticket, build).weights["net/d/kernel"][0, 0] == 1)
    False
    """
    keras.utils.set_random_seed(seed)
    model = _build(ticket, build_model)
    new = wrapping.plain_paths(model)
    names = paths.match(ticket.start_weights(), new)
    if names is None:
        raise ValueError(
            "`build_model` gives another model than the ticket's. Its weights: "
            f"{list(new)}; the ticket's: {list(ticket.start_weights())}."
        )
    weights = {path: snapshots.to_numpy(new[name]) for path, name in names.items()}
    return _derived(ticket, "reinit", seed, weights=weights)


def _build(ticket, build_model):
    if build_model is not None:
        return build_model()
    config = ticket.provenance.get("model")
    if config is None:
        raise ValueError(
            "The ticket does not know its model (it comes from model.fit, or the "
            "model is subclassed). Pass build_model=, a function that gives it."
        )
    return keras.saving.deserialize_keras_object(copy.deepcopy(config))


def shuffle_masks(ticket: Ticket, seed: int = 1) -> Ticket:
    """Every kernel's mask shuffled: the start weights and counts stay.

    Example:

    >>> ticket = tt.Ticket({"k": np.arange(6).reshape(2, 3) < 2})
    >>> shuffle_masks(ticket).kept
    {'k': 2}
    """
    rng = np.random.default_rng(seed)
    masks = {
        path: rng.permutation(mask.ravel()).reshape(mask.shape)
        for path, mask in ticket.masks.items()
    }
    return _derived(ticket, "shuffle_masks", seed, masks=masks)


def random_masks(ticket: Ticket, spread: str = "same", seed: int = 1) -> Ticket:
    """Random masks of the same total; by default of the same counts a kernel.

    Args:
        ticket: A ticket.
        spread: "same" as the ticket's, or "global", "uniform", "erk": how the
            kept weights are spread over the kernels.
        seed: Seed of the masks.

    Example:

    >>> ticket = tt.Ticket({"a": np.ones((4, 4)), "b": np.zeros((2, 8))})
    >>> random_masks(ticket).kept, random_masks(ticket, "uniform").kept
    ({'a': 16, 'b': 0}, {'a': 8, 'b': 8})
    """
    rng = np.random.default_rng(seed)
    everything = {path: np.ones_like(mask) for path, mask in ticket.masks.items()}
    scores = {path: rng.random(mask.shape) for path, mask in ticket.masks.items()}
    counts = ticket.kept
    if spread != "same":
        keep = sum(counts.values())
        counts = allocation.get(spread)(scores, everything, keep)
    masks = selection.select(scores, everything, counts)
    changes = {"masks": masks, "scales": _scales(ticket, masks)}
    return _derived(ticket, f"random_masks ({spread})", seed, **changes)


def _scales(ticket, masks):
    """The ticket's, or for dynamic scaling those of the new masks."""
    mask = ticket.provenance.get("settings", {}).get("mask") or {}
    if not mask.get("config", {}).get("dynamic_scaling"):
        return ticket.scales
    return {path: m.size / max(int(m.sum()), 1) for path, m in masks.items()}


def _derived(ticket, control, seed, **changes):
    provenance = {
        **ticket.provenance,
        "control": control,
        "control_seed": seed,
        "parent": ticket.id,
    }
    return dataclasses.replace(ticket, metrics={}, provenance=provenance, **changes)
