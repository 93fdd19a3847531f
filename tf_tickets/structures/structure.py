"""What every structure defines: its units in a model, and how weights form them.

Searches allocate and select in tables by name: of weights for the unstructured case,
of blocks or of channels otherwise. A `Layout` turns tables of weights into tables of
units and back, so that a search needs no code for any structure.
"""

from collections.abc import Mapping

import keras
import numpy as np

Tables = dict[str, np.ndarray]


class Structure:
    """Base class of structures: a declaration without a model.

    Subclasses are frozen dataclasses, so equal settings are equal structures.
    """

    def layout(
        self, model: keras.Model, variables: Mapping[str, keras.Variable]
    ) -> "Layout":
        """Returns the units that the prunable variables of a model form.

        Args:
            model: The wrapped model.
            variables: Dict from path in the plain model to prunable variable.
        """
        raise NotImplementedError


class Layout:
    """The units of one model under a structure.

    This base class is the unstructured layout, where each weight is a unit.

    Example:

    >>> Layout().units({"a": np.array([True, False])})
    {'a': array([ True, False])}
    """

    def units(self, masks: Tables) -> Tables:
        """Returns tables of booleans: which units have a kept weight.

        Args:
            masks: Dict from path to mask.
        """
        return masks

    def scores(self, scores: Tables, masks: Tables) -> Tables:
        """Returns the scores of units, in the tables that `units` returns.

        Args:
            scores: Dict from path to the scores of the weights.
            masks: Dict from path to the present mask.
        """
        return scores

    def masks(self, units: Tables, masks: Tables) -> Tables:
        """Returns masks that keep what they kept in units that are kept.

        Args:
            units: Which units are kept.
            masks: Dict from path to the present mask; the new masks are nested in it.
        """
        return units

    def fewest(self, units: Tables) -> dict[str, int]:
        """Returns how many units of each table must be kept.

        Args:
            units: Which units are still there.
        """
        return {name: int(alive.any()) for name, alive in units.items()}
