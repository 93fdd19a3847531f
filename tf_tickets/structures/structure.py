"""What every structure defines: its units in a model, and how weights form them.

Searches allocate and select in tables by name: of weights for the unstructured case,
of blocks or of channels otherwise. A `Layout` turns tables of weights into tables of
units and back, so that a search needs no code for any structure.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

import keras
import numpy as np

Tables = dict[str, np.ndarray]


class Layout:
    """The units of one model under a structure.

    This base class is the unstructured layout, where each weight is a unit. A selection
    is `units` and `scores` of the weights, `protect`, the choice of the best units, and
    `masks` of what was chosen.

    Example:

    >>> Layout().units({"a": np.array([True, False])})
    {'a': array([ True, False])}
    """

    # What messages call a unit.
    noun = "weight"

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

    def protect(
        self, scores: Tables, units: Tables, kept: Tables | None = None
    ) -> Tables:
        """Returns the scores of units, infinite for those that must be kept.

        Args:
            scores: What `scores` returned.
            units: The units to choose from.
            kept: Units that are kept in any case, beside which others are chosen.
        """
        return scores

    def rounded(self, kept: Tables, scores: Tables, alive: Tables) -> Tables:
        """Returns the kept units, and those that are kept to round their numbers.

        Args:
            kept: Which units are kept.
            scores: The scores of the units.
            alive: The units that were chosen from.
        """
        return kept

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

    def strata(self, units: Tables) -> Tables:
        """Returns the number of the group of each unit, in tables of integers.

        A random choice of units keeps as many of each group: all units of a table form
        one group, unless the structure says how many units of a smaller one are kept.

        Args:
            units: Tables of units.
        """
        return {name: np.zeros(table.shape, int) for name, table in units.items()}

    def content(self) -> dict[str, Any]:
        """Returns what a ticket stores, and `Structure.restored_layout` reads."""
        return {}


class Structure:
    """Base class of structures: a declaration without a model.

    Subclasses are frozen dataclasses, so equal settings are equal structures.
    """

    @property
    def name(self) -> str:
        """The name by which `get` returns it, such as "2:4"."""
        raise NotImplementedError

    @property
    def most_sparse(self) -> float:
        """The largest sparsity, of units, that it allows in a model."""
        return 1.0

    @property
    def remedy(self) -> str:
        """What allows a larger sparsity than `most_sparse`."""
        return "wrap the model with another structure"

    def why_not(
        self, layer: keras.layers.Layer, variable: keras.Variable
    ) -> str | None:
        """Returns why a kernel cannot have this structure, or None if it can.

        Args:
            layer: The layer that owns the kernel.
            variable: The kernel.
        """
        return None

    def layout(
        self,
        model: keras.Model,
        variables: Mapping[str, keras.Variable],
        owners: Mapping[str, keras.layers.Layer],
    ) -> Layout:
        """Returns the units that the prunable variables of a model form.

        Args:
            model: The wrapped model.
            variables: Dict from path in the plain model to prunable variable.
            owners: Dict from path to the layer that owns the variable.
        """
        raise NotImplementedError

    def restored_layout(self, content: dict[str, Any]) -> Layout:
        """Returns the layout whose `content` a ticket has stored."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)  # type: ignore[arg-type]
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        return cls(**config)


@keras.saving.register_keras_serializable("tf_tickets")
@dataclasses.dataclass(frozen=True)
class Unstructured(Structure):
    """Each weight is kept or pruned on its own. The default.

    Example:

    >>> Unstructured().name
    'unstructured'
    """

    @property
    def name(self) -> str:
        return "unstructured"

    def layout(
        self,
        model: keras.Model,
        variables: Mapping[str, keras.Variable],
        owners: Mapping[str, keras.layers.Layer],
    ) -> Layout:
        return Layout()

    def restored_layout(self, content: dict[str, Any]) -> Layout:
        return Layout()
