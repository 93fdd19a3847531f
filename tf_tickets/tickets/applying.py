"""Sets a model to the masks and weights of a ticket, or to those that fit it."""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple, Protocol

import keras
import numpy as np

from tf_tickets import keras_internals, wrapping
from tf_tickets.masks.fixed import FixedMask
from tf_tickets.structures.channels import ChannelLayout, Channels
from tf_tickets.structures.structure import Layout, Structure
from tf_tickets.tickets import matching
from tf_tickets.tickets.apply_report import (
    NONE,
    OWN,
    TICKET,
    UNITS,
    ApplyReport,
    KernelRow,
    Skipped,
)
from tf_tickets.training import snapshots
from tf_tickets.wrapping import channel_members, choosing, graphs, onednn, paths

Arrays = dict[str, np.ndarray]
_HINT = (
    " To apply what fits, pass strict=False. Variables with other names: pass "
    "rename={'path in the ticket': 'path in the model'}."
)


@dataclasses.dataclass(frozen=True)
class Content:
    """What is applied of a ticket, by the paths that the target should have.

    Args:
        masks: Dict from path to mask.
        weights: Dict from path to start value; None to leave those of the model.
        scales: Dict from path to the factor of the kept weights.
        structure: Which weights are kept or pruned together.
        layout: The units of the structure in the ticket.
        step: The step of the optimizer at which the ticket starts.
        sources: Dict from path to that in the ticket.
        complete: Whether `sources` has all variables of the ticket's model.
    """

    masks: Arrays
    weights: Arrays | None
    scales: dict[str, float]
    structure: Structure
    layout: Layout
    step: int
    sources: dict[str, str]
    complete: bool


class _Ticket(Protocol):
    masks: Arrays
    weights: Arrays | None
    scales: dict[str, float]
    provenance: dict


class _Found(NamedTuple):
    """What of a ticket fits a model, by the paths of the model.

    Args:
        masks: Dict from path to mask.
        weights: Dict from path to start value.
        names: Dict from the path in `Content` to that in the model.
        skipped: The parts that do not fit.
    """

    masks: Arrays
    weights: Arrays
    names: dict[str, str]
    skipped: list[Skipped]


def content_of(
    ticket: _Ticket,
    weights: Arrays | None,
    rename: matching.Rename | None,
    structure: Structure,
    layout: Layout,
) -> Content:
    """Returns the content of a ticket with other names.

    Args:
        ticket: The ticket.
        weights: Its start weights, or None to leave those of the model.
        rename: Dict from path, or pattern, to the path in the model.
        structure: The structure of its masks.
        layout: The units of the structure.
    """
    # Weights that are not applied say what the numbers of the masks' layers mean.
    known = ticket.weights if weights is None else weights
    wanted = dict.fromkeys([*ticket.masks, *(known or ())])
    names = matching.distinct_names(rename, list(wanted))
    return Content(
        {names[path]: mask for path, mask in ticket.masks.items()},
        None if weights is None else {names[p]: w for p, w in weights.items()},
        {names[path]: scale for path, scale in ticket.scales.items()},
        structure,
        layout,
        ticket.provenance.get("step", 0),
        {name: path for path, name in names.items()},
        known is not None,
    )


def check_renamed(
    content: Content, rename: matching.Rename, model: keras.Model
) -> None:
    """Refuses entries of `rename` that lead to no variable of the model.

    Args:
        content: The content under its new names.
        rename: The entries.
        model: The model.
    """
    new = {old: name for name, old in content.sources.items() if name != old}
    matching.check_leads(
        rename,
        new,
        trainable_state(model),
        f"model {model.name!r}",
        "tf_tickets.summary(model) lists the paths.",
    )


def apply_whole(
    content: Content, model: keras.Model
) -> tuple[keras.Model, ApplyReport]:
    """Sets the masks and weights of a model that has all of a ticket's variables.

    Args:
        content: What to apply.
        model: A wrapped or plain model.
    """
    table = trainable_state(model)
    names: dict[str, str] = {}
    if content.weights is not None:
        names = fit(content.weights, table, "weights", hint=_HINT)
    elif content.complete:
        names = _names_of_all(content, model, table)
    masks = {names.get(path, path): mask for path, mask in content.masks.items()}
    own = _own_masks(model)
    if not own:
        kernels = fit(masks, table, "masks", partial=True, hint=_HINT)
        variables = [table[path] for path in kernels.values()]
        model = _wrapped(content, model, variables)
    kernels = fit(masks, wrapping.kernels(model).variables, "masks", hint=_HINT)
    names |= {path: kernels[names.get(path, path)] for path in content.masks}
    masks = {kernels[path]: mask for path, mask in masks.items()}
    check_units(masks, wrapping.kernels(model).layout)
    check_structure(masks, wrapping.kernels(model), content.structure)
    weights = {names[path]: w for path, w in (content.weights or {}).items()}
    found = _Found(masks, weights, names, [])
    return model, _set(content, model, table, found, masks, own)


def _names_of_all(content, model, table):
    """Returns the places of all variables of the ticket, if the model has as many."""
    if len(content.sources) == len(table):
        return paths.match(content.sources, table) or {}
    automatic = matching.automatic_names(snapshots.network(model))
    shifted = matching.shifted(content.sources, table, automatic)
    masks = [content.sources[path] for path in shifted if path in content.masks]
    if masks:
        raise ValueError(
            f"Keras has numbered layers of the ticket's model and of model "
            f"{model.name!r} differently, and it has more of them. Received masks of "
            f"{masks[:3]}, whose names may be those of other layers. Name the layers, "
            "or pass rename={'path in the ticket': 'path in the model'}."
        )
    return {}


def apply_partly(
    content: Content, model: keras.Model
) -> tuple[keras.Model, ApplyReport]:
    """Sets the masks and weights of a model that fit it, by path and shape.

    Args:
        content: What to apply.
        model: A wrapped or plain model.
    """
    table = trainable_state(model)
    own = _own_masks(model)
    found = _find(content, model, table)
    _check_any(content, model, table, found)
    if not own:
        model = _wrapped_partly(content, model, table, found)
    elif isinstance(content.structure, Channels):
        _check_whole_channels(content, model, found)
    kernels = wrapping.kernels(model)
    masks = dict(found.masks)
    if isinstance(content.structure, Channels):
        masks |= _spread(kernels, found.masks)
    present = kernels.masks | masks
    check_units(present, kernels.layout)
    check_structure(present, kernels, content.structure)
    return model, _set(content, model, table, found, masks, own)


def _find(content, model, table):
    """Returns what fits."""
    wanted = list(content.sources)
    # Renamed paths are those of the model.
    exact = {p for p in wanted if content.sources[p] != p and p in table}
    rest = [path for path in wanted if path not in exact]
    free = [path for path in table if path not in exact]
    arrays = content.masks | (content.weights or {})
    names, reasons = matching.match_partly(
        rest,
        free,
        matching.automatic_names(snapshots.network(model)),
        content.complete,
        lambda path, place: (
            path not in arrays or arrays[path].shape == tuple(table[place].shape)
        ),
    )
    names |= {path: path for path in exact}
    skipped: list[Skipped] = []
    found = _Found({}, {}, names, skipped)
    prunable = {id(v) for v in wrapping.kernels(model).variables.values()}
    for path, mask in content.masks.items():
        reason = reasons.get(path)
        reason = reason or _why_no_mask(mask, table[names[path]], prunable)
        if reason is None:
            found.masks[names[path]] = mask
        else:
            skipped.append(Skipped(content.sources[path], "mask", reason))
    for path, weight in (content.weights or {}).items():
        reason = reasons.get(path) or _why_no_weights(weight, table[names[path]])
        if reason is None:
            found.weights[names[path]] = weight
        else:
            skipped.append(Skipped(content.sources[path], "weights", reason))
    return found


def _why_no_mask(mask, variable, prunable):
    if mask.shape != tuple(variable.shape):
        return _differing(mask.shape, variable.shape, "shape")
    if not keras.backend.is_float_dtype(variable.dtype):
        return f"not prunable in the model: {variable.dtype} is not floating point"
    if prunable and id(variable) not in prunable:
        return "not prunable in the model, which is wrapped without it"
    return None


def _why_no_weights(weight, variable):
    if weight.shape != tuple(variable.shape):
        return _differing(weight.shape, variable.shape, "shape")
    if str(weight.dtype) != str(variable.dtype):
        return _differing(weight.dtype, variable.dtype, "type")
    return None


def _differing(ours, theirs, what):
    theirs = tuple(theirs) if what == "shape" else theirs
    return f"{what} {ours} in the ticket, {theirs} in the model"


def _check_any(content, model, table, found):
    if found.masks:
        return
    rows = [row for row in found.skipped if row.part == "mask"]
    lines = [f"  {row.path}: {row.reason}" for row in rows[:5]]
    if len(rows) > 5:
        lines.append(f"  and {len(rows) - 5} more")
    missing = [path for path in content.masks if path not in found.names]
    hint = matching.nearest(missing, table)
    raise ValueError(
        f"No mask of the ticket fits model {model.name!r}. Received masks that do not "
        "fit:\n" + "\n".join(lines) + f"\n{hint}If the kernels have other paths there, "
        "pass them: rename={'path in the ticket': 'path in the model'}. "
        "tf_tickets.summary(model) lists the paths."
    )


def _check_whole_channels(content, model, found):
    missing = [
        row.path
        for row in found.skipped
        if row.part == "mask" and row.reason.startswith("not prunable")
    ]
    if missing:
        raise ValueError(
            "The ticket prunes channels with all variables that belong to them, but "
            f"some of these cannot be pruned in model {model.name!r}. Received a model "
            f"that is wrapped as {wrapping.kernels(model).structure.name!r}, without "
            f"{missing}. Pass the plain model, or wrap it with structure='channels'."
        )


def _own_masks(model):
    """Returns the masks of a wrapped model; nothing for a plain one."""
    return wrapping.kernels(model).masks if wrapping.prunables(model) else {}


def _wrapped(content, model, variables, spared=()):
    scaled = content.scales and content.weights is not None
    kind = "scaled" if scaled else "fixed"
    structure = content.structure
    wrapped = wrapping.wrap_kernels(model, variables, kind, structure, spared)
    onednn.warn(wrapped)
    return wrapped


def _wrapped_partly(content, model, table, found):
    """Wraps the kernels of the masks that fit, and what belongs to their channels."""
    if not isinstance(content.structure, Channels):
        return _wrapped(content, model, [table[path] for path in found.masks])
    kernels = [content.sources[path] for path in content.masks]
    spared = {kernels[place] for place in content.structure.spared}
    places = {content.sources[path]: place for path, place in found.names.items()}
    chosen = [
        table[places[row.path]]
        for row in content.layout.slices
        if row.role == "out"
        and row.path not in spared
        and row.path in places
        and _has_units(table[places[row.path]], row)
    ]
    graph = graphs.graph_of(snapshots.network(model))
    members = channel_members.find_members(graph, content.structure, chosen, {})
    return _wrapped(content, model, members.variables, members.spared)


def _has_units(variable, row):
    """Whether a variable has as many outputs as the slices of a ticket."""
    shape = tuple(variable.shape)
    return len(shape) == len(row.shape) and shape[row.axis] == row.shape[row.axis]


def _spread(kernels, masks):
    """Returns the masks of all slices of the channels that some masks prune."""
    layout = kernels.layout
    if not isinstance(layout, ChannelLayout):
        return {}
    present = kernels.masks
    kept = layout.flat(layout.units(present))
    known = layout.known(masks)
    kept[known] = layout.flat(layout.units(masks))[known]
    # Channels that come back bring all of their slices.
    whole = {p: np.ones_like(m) for p, m in present.items() if p in layout.paths}
    return layout.masks(layout.tables(kept), whole)


def _set(content, model, table, found, masks, own):
    """Assigns what was found, and returns the report."""
    kernels = wrapping.kernels(model)
    scales = {
        found.names[path]: scale
        for path, scale in content.scales.items()
        if found.names.get(path) in found.weights.keys() & masks.keys()
    }
    _check_scales(kernels, scales)
    for place, weight in found.weights.items():
        table[place].assign(weight)
    kernels.set_masks(masks, None if content.weights is None else scales)
    if model.compiled and model.optimizer is not None:
        if content.weights is None:
            snapshots.zero_slots(model)
        else:
            snapshots.reset_optimizer(model, content.step)
    places = {place: path for path, place in found.names.items()}
    return ApplyReport(
        snapshots.network(model).name,
        {content.sources[places[place]]: place for place in found.masks},
        {content.sources[places[place]]: place for place in found.weights},
        len(content.masks),
        len(content.weights or ()),
        tuple(_rows(model, kernels, found.masks, masks, own)),
        tuple(found.skipped),
        tuple(path for path in table if path not in found.weights),
    )


def _check_scales(kernels, scales):
    """Refuses factors of kept weights, before anything is assigned."""
    fixed = {
        path: scale
        for path, scale in scales.items()
        if isinstance(kernels[path].mask_layer, FixedMask)
        and not kernels[path].mask_layer.scaled
        and scale != 1.0
    }
    if fixed:
        raise ValueError(
            "The ticket scales its kept weights, and the masks of model "
            f"{kernels.model.name!r} do not. Received: scales={fixed}. Pass the plain "
            'model, or wrap it with mask="scaled".'
        )


def _rows(model, kernels, ours, masks, own):
    """Yields a row for each kernel with a mask, and each that is left dense."""
    for path, mask in kernels.masks.items():
        if path in ours:
            kind = TICKET
        elif path in masks and (path not in own or (mask != own[path]).any()):
            kind = UNITS if not mask.all() else NONE
        else:
            kind = NONE if mask.all() else OWN
        yield KernelRow(path, mask.shape, int(mask.sum()), kind)
    known = {id(variable) for variable in kernels.variables.values()}
    table = wrapping.plain_paths(snapshots.network(model))
    names = {id(variable): path for path, variable in table.items()}
    for leaf in wrapping.leaves(snapshots.network(model)):
        for owned in paths.variables_of(leaf):
            key = id(owned.variable)
            if key in names and key not in known and choosing.why_not(owned) is None:
                known.add(key)
                shape = tuple(owned.variable.shape)
                size = int(np.prod(shape))
                yield KernelRow(names[key], shape, size, NONE)


def trainable_state(model: keras.Model) -> dict[str, keras.Variable]:
    """Returns the variables with start weights: all but masks and random generators.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dropout(0.1),
    ...                           keras.layers.Dense(1, name="d")], name="net")
    >>> list(trainable_state(model))
    ['net/d/kernel', 'net/d/bias']
    """
    # Without layers that a functional model holds and does not call.
    model = graphs.graph_of(snapshots.network(model))
    table = wrapping.plain_paths(model)
    return {p: v for p, v in table.items() if not keras_internals.is_seed_state(v)}


def fit(
    required: Mapping,
    available: Mapping,
    what: str,
    partial: bool = False,
    hint: str = "",
) -> dict[str, str]:
    """Maps the ticket's paths to the model's; an error names all differences.

    Args:
        required: Dict from path to array.
        available: Dict from path to variable or array.
        what: "weights", whose types must agree too, or "masks".
        partial: Whether others may be available.
        hint: What to do about differences, the end of the messages.

    Example:

    >>> fit({"dense_1/kernel": np.ones(3)}, {"dense/kernel": np.ones(3)}, "masks")
    {'dense_1/kernel': 'dense/kernel'}
    """
    found = paths.match(required, available)
    if found is None or (not partial and len(found) != len(available)):
        raise ValueError(
            f"The ticket's {what} do not fit the model. Only in the ticket: "
            f"{sorted(set(required) - set(available))}; only in the model: "
            f"{sorted(set(available) - set(required))}.{hint}"
        )
    pairs = [(p, required[p], available[q]) for p, q in found.items()]
    differing = [
        f"{path}: {tuple(one.shape)} in the ticket, {tuple(other.shape)} in the model"
        for path, one, other in pairs
        if tuple(one.shape) != tuple(other.shape)
    ]
    if what == "weights":
        differing += [
            f"{path}: {one.dtype} in the ticket, {other.dtype} in the model"
            for path, one, other in pairs
            if str(one.dtype) != str(other.dtype)
        ]
    if differing:
        listed = "; ".join(differing)
        end = f".{hint}" if hint else ""
        raise ValueError(f"The ticket's {what} do not fit: {listed}{end}")
    return found


def check_units(masks: Arrays, layout: Layout) -> None:
    """Refuses masks of channels that are no whole units of a model.

    Args:
        masks: Dict from path to mask.
        layout: The units of the model.

    Example:

    >>> check_units({"k": np.array([True])}, Layout())
    """
    if not isinstance(layout, ChannelLayout):
        return
    whole = {path: np.ones_like(mask) for path, mask in masks.items()}
    whole = layout.masks(layout.units(masks), whole)
    broken = [path for path, mask in masks.items() if (mask != whole[path]).any()]
    if broken:
        raise ValueError(
            "The ticket's masks prune parts of this model's channels. Its graph "
            "differs from that of the model in which the ticket was found, or the "
            f"ticket has no structure. Received masks that do not fit: {broken}. Build "
            "the same model, or wrap it with structure='unstructured'."
        )


def check_structure(
    masks: Arrays, kernels: wrapping.Kernels, structure: Structure
) -> None:
    """Refuses masks of another structure that do not follow that of a model.

    Args:
        masks: Dict from path to mask, for all kernels of the model.
        kernels: The kernels.
        structure: The structure of the masks.

    Example:

    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, name="d")])
    >>> kernels = tt.kernels(tt.wrap(model, verbose=False))
    >>> check_structure(kernels.masks, kernels, kernels.structure)
    """
    if structure == kernels.structure:
        return
    layout = kernels.layout
    everything = {path: np.ones_like(mask) for path, mask in masks.items()}
    units, fewest = layout.units(masks), layout.fewest(layout.units(everything))
    whole, present = layout.masks(units, everything), layout.fewest(units)
    broken = [path for path, mask in masks.items() if (mask != whole[path]).any()]
    # Kernels may be empty, but no group of N:M weights may lack some.
    broken += [path for path, n in fewest.items() if n > max(1, present[path])]
    if broken:
        raise ValueError(
            f"The ticket's masks do not follow structure {kernels.structure.name!r}, "
            f"with which model {kernels.model.name!r} is wrapped. Received: a ticket "
            f"with structure {structure.name!r}, whose masks do not fit in {broken}. "
            f"Wrap the model with structure={structure.name!r}."
        )
