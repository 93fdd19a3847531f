"""Makes a pruned model smaller without a change of its predictions."""

import time
import warnings
from typing import Any, Literal, NamedTuple, overload

import keras
import numpy as np

from tf_tickets import arguments, wrapping
from tf_tickets.compaction import (
    dead_units,
    examples,
    folding,
)
from tf_tickets.compaction.compact_report import CompactReport, WidthRow
from tf_tickets.compaction.comparison import Comparison
from tf_tickets.compaction.compiling import Caller
from tf_tickets.compaction.constants import Constants
from tf_tickets.compaction.finding import check_model, find_units
from tf_tickets.compaction.shrinking import shrunk
from tf_tickets.reports.costs import CostCounter
from tf_tickets.units import registry
from tf_tickets.units.units import STAYS, kept
from tf_tickets.wrapping import onednn, paths

__all__ = ["compact"]


@overload
def compact(
    model: keras.Model, return_report: Literal[False] = False, data: Any = None
) -> keras.Model: ...
@overload
def compact(
    model: keras.Model, return_report: Literal[True], data: Any = None
) -> tuple[keras.Model, CompactReport]: ...
def compact(
    model: keras.Model, return_report: bool = False, data: Any = None
) -> keras.Model | tuple[keras.Model, CompactReport]:
    """Returns a smaller model with the same predictions, without dead units.

    A unit, such as a channel, is dead if its value is zero, if no remaining weight
    reads it, or if it is constant and the layers that read it can add the constant to
    their biases. Channel pruning leaves many dead units, pruning of single weights
    few.

    The smaller model is compared with the given one on a few examples. If they do not
    agree, a ValueError with the difference is raised.

    Args:
        model: A functional or Sequential model: wrapped, or plain with zeros in its
            kernels. It does not change. Learned masks count as their hard masks.
        return_report: Whether to return the report too.
        data: Examples to compare the models on. Random by default.

    Returns:
        A plain, trainable model with its own variables. It is not compiled. With
        `return_report`, a pair of it and a `CompactReport`. If nothing can be removed,
        the model is a plain copy, and the report says why; without the report there is
        a warning.

    Example:

    >>> model = keras.Sequential(
    ...     [keras.Input((3,)), keras.layers.Dense(4, name="a"),
    ...      keras.layers.Dense(2, name="b")], name="net")
    >>> model = tt.wrap(model, verbose=False)
    >>> masks = tt.kernels(model).masks
    >>> masks["net/a/kernel"][:, :3] = False
    >>> tt.kernels(model).set_masks(masks)
    >>> small, report = tt.compact(model, return_report=True)
    >>> [layer.units for layer in small.layers], report.removed
    ([1, 2], 3)
    """
    arguments.check_flags(return_report=return_report)
    result = compacted(model, data)
    onednn.warn(result.model)
    if return_report:
        return result.model, result.report
    if not result.report.removed:
        warnings.warn(f"{model.name!r}: {result.report.why_nothing()}", stacklevel=2)
    return result.model


class Compacted(NamedTuple):
    """A smaller model, and how it was made.

    Args:
        model: The smaller model.
        report: The report.
        positions: Dict from the path of each variable of the smaller model to that in
            the given one, and to the positions that remain along its axes.
    """

    model: keras.Model
    report: CompactReport
    positions: dict[str, tuple[str, dict[int, np.ndarray]]]


def compacted(model: keras.Model, data: Any = None) -> Compacted:
    """Makes a model smaller.

    Args:
        model: See `compact`.
        data: See `compact`.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
    >>> compacted(model).report.removed
    0
    """
    start = time.perf_counter()
    _check_model(model)
    given = _with_hard_masks(model)
    inputs = examples.of_model(given, data)
    call = Caller()
    comparison = Comparison(given, inputs, call)
    units = find_units(given)
    flat = [np.asarray(array) for array in keras.tree.flatten(inputs)]
    dead = dead_units.find(given, units, lambda: Constants(given, flat, call))
    small = shrunk(given, units, dead.keep)
    positions = _positions(given, small, units, dead.keep)
    small = folding.fold(small, _folds(dead.folds, units, dead.keep, small, positions))
    difference = comparison.check(small)
    before, after = CostCounter(given), CostCounter(small)
    report = CompactReport(
        model.name,
        _widths(units, dead, wrapping.plain_paths(given)),
        dead.kept,
        units.size,
        int((~dead.keep).sum()),
        before.dense,
        before.masked,
        after.dense,
        len(dead.folds),
        difference,
        time.perf_counter() - start,
        before.unknown,
        before.notes,
    )
    return Compacted(small, report, positions)


def _check_model(model):
    check_model(model)
    if not model.built:
        raise ValueError(
            f"Model {model.name!r} is not built, so it has no weights yet. Start it "
            "with keras.Input(shape), or call it on data."
        )
    if not registry.is_graph(model):
        raise ValueError(
            f"Model {model.name!r} cannot be compacted: its class "
            f"{type(model).__name__} is no functional or Sequential model, so its "
            "graph of layers is not known. Make a functional model of its layers: "
            "keras.Model(inputs, outputs)."
        )


def _with_hard_masks(model):
    masks = wrapping.kernels(model).mask_layers.values()
    return wrapping.stripped_copy(model) if any(m.learned for m in masks) else model


def _positions(given, small, units, keep):
    """Returns where the variables of the smaller model come from, by path."""
    before, after = wrapping.plain_paths(given), wrapping.plain_paths(small)
    names = paths.match(after, before)
    if names is None:
        raise ValueError(
            "The variables of the smaller model do not have the names of the given "
            f"one. Received: {list(after)}. Expected: {list(before)}."
        )
    positions = units.positions(keep)
    return {
        path: (names[path], positions.get(id(before[names[path]]), {}))
        for path in after
    }


def _folds(folds, units, keep, small, positions):
    """Returns the folds of layers of the given model for those of the smaller one."""
    table = wrapping.plain_paths(small)
    owners = {
        id(owned.variable): leaf
        for leaf in wrapping.leaves(small)
        for owned in paths.variables_of(leaf)
    }
    axes = {id(axis.variable): axis for axis in units.axes}
    paths_of_new = {old: path for path, (old, _) in positions.items()}
    result = []
    for layer, constants in folds:
        axis = axes[id(layer.kernel)]
        new = table[paths_of_new[axis.path]]
        last = len(layer.kernel.shape) - 1
        here = positions[paths_of_new[axis.path]][1].get(last, slice(None))
        result.append((owners[id(new)], constants[here]))
    return result


def _widths(units, dead, variables):
    """Returns a row for each kernel that produces channels, in the model's order."""
    pinned = {row.path: row.reason for row in units.pinned}
    axes = {axis.path: axis for axis in units.axes if axis.role == "out"}
    rows = []
    for path in variables:
        if path in units.widths:
            before = after = units.widths[path]
            whole = None
            if path in axes:
                ids = axes[path].ids
                # The gates of recurrent layers stand one after another.
                after = int(kept(dead.keep, ids).sum()) * before // ids.size
                if after == before:
                    whole = _why_whole(units, dead, axes[path])
            rows.append(WidthRow(path, before, after, pinned.get(path), whole))
    return rows


def _why_whole(units, dead, axis):
    """Returns why none of the units of a kernel was removed, though they could be."""
    groups = set(units.names()[axis.ids[axis.ids != STAYS]])
    reasons = dict.fromkeys(row.reason for row in dead.kept if row.group in groups)
    if reasons:
        return "; ".join(reasons)
    if not dead.counting[id(axis.variable)].all():
        return "each of its units has weights left and is read"
    if "embedding" in axis.variable.name:
        return "none of its weights is pruned; wrap(embeddings=True) prunes embeddings"
    return "none of its weights is pruned"
