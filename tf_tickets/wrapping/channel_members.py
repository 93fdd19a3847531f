"""Which variables of a model have slices of units, when channels are pruned."""

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import keras

from tf_tickets.structures.channels import ChannelLayout, Channels
from tf_tickets.units.finding import find
from tf_tickets.units.units import STAYS, Pinned
from tf_tickets.wrapping import paths
from tf_tickets.wrapping.graphs import leaves
from tf_tickets.wrapping.kernels import plain_paths

_LEFT = "left out by `filters`"
_TIED = "its units are also those of a kernel that stays"


class Members(NamedTuple):
    """The variables to be masked, and why other units stay.

    Args:
        spared: The variables of kernels whose outputs stay.
        variables: The variables that have slices of prunable units.
        layout: The prunable units.
        pinned: The kernels of which some outputs stay, and why.
    """

    spared: list[keras.Variable]
    variables: list[keras.Variable]
    layout: ChannelLayout
    pinned: tuple[Pinned, ...]


def find_members(
    model: keras.Model,
    structure: Channels,
    chosen: Iterable[keras.Variable],
    reasons: Mapping[int, str],
) -> Members:
    """Returns the variables that have slices of the units that may be pruned.

    Args:
        model: A plain model.
        structure: The settings.
        chosen: The kernels that filters choose. Their outputs may be pruned.
        reasons: Why variables are no prunable kernels, by their id. Other kernels that
            are not chosen are left out by filters.

    Example:

    >>> from tf_tickets.structures.channels import Channels
    >>> layers = [keras.layers.Dense(4, name="a"), keras.layers.Dense(2, name="b")]
    >>> model = keras.Sequential([keras.Input((3,)), *layers], name="net")
    >>> members = find_members(model, Channels(), [model.layers[0].kernel], {})
    >>> [variable.path for variable in members.spared]
    ['net/b/kernel']
    """
    table = plain_paths(model)
    units = find(model, table)
    by_id = {id(v): path for path, v in table.items()}
    wanted = {by_id[id(variable)] for variable in chosen}
    layout = ChannelLayout.of(structure, units, wanted)
    pinned = (*units.pinned, *_excluded(units, layout, wanted, reasons))
    if not layout.size:
        raise ValueError(_no_units(model, pinned))
    _check_one_owner(model, table, layout)
    outputs = {axis.path for axis in units.axes if axis.role == "out"}
    outputs |= {row.path for row in units.pinned}
    spared = (outputs & layout.paths) - wanted
    return Members(
        [table[path] for path in spared],
        [variable for path, variable in table.items() if path in layout.paths],
        layout,
        pinned,
    )


def described(members: Members) -> list[str]:
    """Returns the lines that `wrap` prints."""
    groups = members.layout.groups
    variables = members.variables
    weights = sum(math.prod(variable.shape) for variable in variables)
    lines = [
        f"tf_tickets: {_count(members.layout.size, 'unit')} in "
        f"{_count(len(groups), 'group')} can be pruned as channels. They have slices "
        f"of {_count(len(variables), 'variable')} with {weights:,} weights."
    ]
    if members.pinned:
        shown = "; ".join(f"{row.path}: {row.reason}" for row in members.pinned[:3])
        more = f"; and {len(members.pinned) - 3} more" if members.pinned[3:] else ""
        lines.append(
            f"tf_tickets: outputs of {_count(len(members.pinned), 'kernel')} stay "
            f"({shown}{more}). tf_tickets.find_units(model) has the details."
        )
    return lines


def about_rounding(members: Members) -> str | None:
    """Returns a warning about groups that `round_to` keeps whole, None without any."""
    layout = members.layout
    step, whole = layout.structure.round_to, layout.kept_whole
    if not whole:
        return None
    rows = [f"{name} ({size})" for name, size in whole.items()]
    more = f" and {len(rows) - 3} more" if rows[3:] else ""
    return (
        f"round_to={step} keeps all units of {_count(len(rows), 'group')}, which "
        f"{'has' if len(rows) == 1 else 'have'} too few to lose {step}: "
        f"{', '.join(rows[:3])}{more}. Pass a smaller round_to, or leave "
        f"{'this layer' if len(rows) == 1 else 'these layers'} out with `filters`."
    )


def _count(number, noun):
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _excluded(units, layout, wanted, reasons):
    """Returns the kernels that pin units because they may not be pruned."""
    prunable = set(layout.numbers.tolist())
    rows = {}
    for axis in units.axes:
        ids = axis.ids[axis.ids != STAYS]
        stay = [number for number in ids.tolist() if number not in prunable]
        if axis.role == "out" and stay:
            left = reasons.get(id(axis.variable), _LEFT)
            rows[axis.path] = Pinned(axis.path, _TIED if axis.path in wanted else left)
    return rows.values()


def _check_one_owner(model, table, layout):
    """Refuses variables of two layers, which can be masked in one place only."""
    owners: dict[str, keras.layers.Layer] = {}
    by_id = {id(table[path]): path for path in layout.paths}
    for leaf in leaves(model):
        for owned in paths.variables_of(leaf):
            path = by_id.get(id(owned.variable))
            first = leaf if path is None else owners.setdefault(path, leaf)
            if first is not leaf:
                raise ValueError(
                    f"Variable {path!r} is used by two layers, {first.name!r} and "
                    f"{leaf.name!r}. It can be masked in one place only: exclude both "
                    "layers with `filters`."
                )


def _no_units(model, pinned):
    rows = [f"  {row.path}: {row.reason}" for row in pinned]
    return "\n".join(
        [
            f"Model {model.name!r} has no units that may be pruned as channels. Choose "
            "more layers with `filters`, give layers of your own a rule "
            "(tf_tickets.register_rule), or use another structure. Units are found in "
            "functional and Sequential models. What stays, and why:",
            *(rows or ["  The model has no layers that produce channels."]),
        ]
    )
