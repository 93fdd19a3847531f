"""What the schedules of `prune_low_magnitude` have left to prune."""

from collections.abc import Mapping

import keras
import numpy as np

from tf_tickets.structures.nm import NMLayout
from tf_tickets.structures.structure import Layout, Tables
from tf_tickets.tfmot import pruning_schedules
from tf_tickets.tfmot.pruning_schedules import Schedule
from tf_tickets.wrapping import paths


def kept(size: int, sparsity: float) -> int:
    """Returns how many units a kernel keeps, rounded in float32 as the peer does.

    Example:

    >>> kept(45, 0.5)
    22
    """
    share = np.float32(1) - np.float32(sparsity)
    return max(1, int(np.round(np.float32(size) * share)))


def layout(
    layer: keras.layers.Layer,
    variables: Mapping[str, keras.Variable],
    model: keras.Model | None = None,
) -> Layout:
    """Returns the units that some kernels of a wrapped layer form.

    Args:
        layer: The wrapper.
        variables: Dict from path to kernel.
        model: The model of the layer; only channels need it.

    Example:

    >>> layer = tt.layers.Prunable(keras.layers.Dense(2), structure="4x1")
    >>> layer.build((None, 8))
    >>> layout(layer, layer.kernel_variables).noun
    'block'
    """
    owners = {
        id(owned.variable): owned.owner for owned in paths.variables_of(layer.layer)
    }
    by_path = {path: owners[id(variable)] for path, variable in variables.items()}
    return layer.structure.layout(model, variables, by_path)


def is_finished(units: Layout, schedule: Schedule, masks: Tables, step: int) -> bool:
    """Returns whether no later step can prune any more.

    Args:
        units: The layout of the kernels.
        schedule: Their schedule.
        masks: Dict from path to present mask.
        step: The number of steps until now.

    Example:

    >>> schedule = tt.tfmot.ConstantSparsity(0.5, 0, frequency=10)
    >>> masks = {"a": np.array([True, True]), "b": np.array([True, False])}
    >>> is_finished(Layout(), schedule, masks, 10)
    False
    >>> is_finished(Layout(), schedule, {"b": masks["b"]}, 10)
    True
    """
    if isinstance(units, NMLayout):  # It is made once, whatever the schedule says.
        return step >= 1
    largest = pruning_schedules.largest_from(schedule, step + 1)
    return all(
        int(alive.sum()) <= kept(alive.size, largest)
        for alive in units.units(masks).values()
    )
