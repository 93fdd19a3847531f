"""Finds the units of a model."""

import keras

from tf_tickets import arguments
from tf_tickets.units import finding
from tf_tickets.units.units import Units
from tf_tickets.wrapping import plain_paths

__all__ = ["check_model", "find_units"]


def check_model(model: object) -> None:
    """Refuses everything but models, and says how to get a model from a ticket.

    Example:

    >>> check_model(keras.Sequential())
    >>> check_model("model.keras")
    Traceback (most recent call last):
    TypeError: `model` must be an instance of keras's Model. Received: 'model.keras'
    """
    # Tickets come later in the library, so they are known by what they have.
    if hasattr(model, "masks") and hasattr(model, "start_weights"):
        raise TypeError(
            f"`model` must be a keras.Model. Received: the ticket {model!r}. "
            "ticket.compact(build_model) returns its small network, and "
            "ticket.apply(build_model()) the large one with its masks."
        )
    arguments.check_type(keras.Model, model=model)


def find_units(model: keras.Model) -> Units:
    """Finds the units of a model: channels and neurons that can be removed.

    A unit is made of the slices of kernels, biases and other variables that must be
    removed together. Units are found by a walk along the graph of layers. Layers
    without a rule keep all their inputs and outputs; `Units.pinned` has the reasons.
    Rules for more layers can be added with `register_rule`.

    Args:
        model: A plain or wrapped model. Functional and Sequential models have units,
            also nested ones. The graph of other models is not known.

    Returns:
        The units, their groups, the axes of variables that belong to them, and the
        kernels whose outputs stay.

    Example:

    >>> model = keras.Sequential(
    ...     [keras.Input((3,)), keras.layers.Dense(4, name="a"),
    ...      keras.layers.Dense(2, name="b")], name="net")
    >>> units = find_units(model)
    >>> units
    Units(4 units in 1 group: net/a/kernel: 4)
    >>> [(axis.path, axis.axis, axis.role) for axis in units.axes]
    [('net/a/kernel', 1, 'out'), ('net/a/bias', 0, 'vector'), ('net/b/kernel', 0, 'in')]
    >>> [pinned.path for pinned in units.pinned]
    ['net/b/kernel']
    """
    check_model(model)
    return finding.find(model, plain_paths(model))
