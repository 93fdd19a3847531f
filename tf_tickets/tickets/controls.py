"""Control experiments: does the ticket matter, or only its sparsity?

Each control returns a new ticket of the same sparsity with one property of the
original replaced. Train both under the same conditions and compare them.
"""

import copy
import dataclasses
from collections.abc import Callable

import keras
import numpy as np

from tf_tickets import arguments, wrapping
from tf_tickets.pruning import allocation, selection
from tf_tickets.structures import registry as structures
from tf_tickets.structures.channels import Channels
from tf_tickets.structures.structure import Unstructured
from tf_tickets.tickets.ticket import Ticket
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
    """Returns a ticket with the same masks and random new start weights.

    Args:
        ticket: A ticket.
        build_model: Function that returns the model with new weights. By default the
            model is rebuilt from the ticket's provenance. It is recorded there if
            the ticket comes from `find_tickets` with a functional or Sequential
            model.
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
    _check(ticket, seed)
    keras.utils.set_random_seed(seed)
    model = _build(ticket, build_model)
    new = wrapping.plain_paths(model)
    names = paths.match(ticket.start_weights(), new)
    if names is None:
        raise ValueError(
            "`build_model` returns another model than the ticket's. Received weights: "
            f"{list(new)}; the ticket's weights: {list(ticket.start_weights())}. Build "
            "the model that the ticket was found in."
        )
    weights = {path: wrapping.to_numpy(new[name]) for path, name in names.items()}
    return _derived(ticket, "reinit", seed, weights=weights)


def _check(ticket, seed):
    arguments.check_type(Ticket, ticket=ticket)
    arguments.check_seed(seed)


def _build(ticket, build_model):
    if build_model is not None:
        arguments.check_build(build_model)
        model = build_model()
        if not isinstance(model, keras.Model):
            raise TypeError(
                "`build_model` must return a Keras model. Received: "
                f"{arguments.shown(build_model)}, which returns "
                f"{arguments.shown(model)}"
            )
        return model
    config = ticket.provenance.get("model")
    if config is None:
        raise ValueError(
            "The ticket's provenance has no model: the ticket comes from model.fit, or "
            "the model is subclassed. Pass build_model=, a function that returns it."
        )
    return keras.saving.deserialize_keras_object(copy.deepcopy(config))


def shuffle_masks(ticket: Ticket, seed: int = 1) -> Ticket:
    """Returns a ticket whose masks are shuffled within each kernel.

    Start weights and the number of weights kept per kernel stay the same. Masks with a
    structure keep it: blocks are shuffled, and every N:M group keeps its N weights.

    Example:

    >>> ticket = tt.Ticket({"k": np.arange(6).reshape(2, 3) < 2})
    >>> shuffle_masks(ticket).kept
    {'k': 2}
    """
    _check(ticket, seed)
    if ticket.structure != Unstructured():
        masks = _random(ticket, "same", seed)
        return _derived(ticket, "shuffle_masks", seed, masks=masks)
    rng = np.random.default_rng(seed)
    masks = {
        path: rng.permutation(mask.ravel()).reshape(mask.shape)
        for path, mask in ticket.masks.items()
    }
    return _derived(ticket, "shuffle_masks", seed, masks=masks)


def random_masks(ticket: Ticket, spread: str = "same", seed: int = 1) -> Ticket:
    """Returns a ticket with random masks that keep as many weights in total.

    Masks with a structure keep it, and as many of its units.

    Args:
        ticket: A ticket.
        spread: How the kept weights are distributed over the kernels: "same" as in
            the ticket, "global", "uniform" or "erk".
        seed: Seed of the masks.

    Example:

    >>> ticket = tt.Ticket({"a": np.ones((4, 4)), "b": np.zeros((2, 8))})
    >>> random_masks(ticket).kept, random_masks(ticket, "uniform").kept
    ({'a': 16, 'b': 0}, {'a': 8, 'b': 8})
    """
    _check(ticket, seed)
    arguments.check_choice(("same", "global", "uniform", "erk"), spread=spread)
    if spread == "erk" and isinstance(ticket.structure, Channels):
        raise ValueError(
            "'erk' depends on the shapes of kernels, which groups of channels do not "
            f"have. Received: spread={spread!r} for {ticket!r}. Use 'same', 'global' "
            "or 'uniform'."
        )
    masks = _random(ticket, spread, seed)
    changes = {"masks": masks, "scales": _scales(ticket, masks)}
    return _derived(ticket, f"random_masks ({spread})", seed, **changes)


def _random(ticket, spread, seed):
    """Returns random masks with the structure of the ticket's."""
    _, layout = structures.restored(ticket.provenance)
    rng = np.random.default_rng(seed)
    everything = {path: np.ones_like(mask) for path, mask in ticket.masks.items()}
    units = layout.units(everything)
    scores = {name: rng.random(table.shape) for name, table in units.items()}
    scores = layout.protect(scores, units)
    kept = layout.units(ticket.masks)
    counts = {name: int(table.sum()) for name, table in kept.items()}
    if spread != "same":
        keep = sum(counts.values())
        counts = allocation.get(spread)(scores, units, keep)
        # A control may empty a kernel, but no group of N:M weights.
        fewest = {name: n for name, n in layout.fewest(units).items() if n > 1}
        counts = allocation.guard(counts, units, dict.fromkeys(counts, 0) | fewest)
    return layout.masks(selection.select(scores, units, counts), everything)


def _scales(ticket, masks):
    """The ticket's scales, or those of the new masks for dynamic scaling."""
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
    if "masks" in changes:
        provenance.pop("remaining", None)
    return dataclasses.replace(ticket, metrics={}, provenance=provenance, **changes)
