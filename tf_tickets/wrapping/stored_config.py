"""The configuration of a wrapped model that contains that of the plain model."""

from typing import Any

import keras

from tf_tickets.structures import registry as structures
from tf_tickets.structures.structure import Structure, Unstructured
from tf_tickets.wrapping import paths
from tf_tickets.wrapping.kernels import prunables

# Dict from the path in the plain model to the variable.
Table = dict[str, keras.Variable]


def stored(wrapped: keras.Model, plain: dict[str, Any], table: Table) -> dict[str, Any]:
    """Returns the configuration of a wrapped model.

    Args:
        wrapped: The wrapped model.
        plain: The configuration of the plain model.
        table: The variables of the plain model by path.
    """
    wrappers = prunables(wrapped)
    kernels = {id(v) for w in wrappers for v in w.kernel_variables.values()}
    config = {
        "original": plain,
        "kernels": [path for path, v in table.items() if id(v) in kernels],
        "mask": keras.saving.serialize_keras_object(wrappers[0].mask),
    }
    structure = wrappers[0].structure
    if structure != Unstructured():
        config["structure"] = keras.saving.serialize_keras_object(structure)
    return config


def structure_of(config: dict[str, Any]) -> Structure:
    """Returns the structure of a wrapped model from what `stored` returned."""
    return structures.get(config.get("structure", "unstructured"))


def kernels_of(
    config: dict[str, Any], model: keras.Model, table: Table, advice: str
) -> list[keras.Variable]:
    """Returns the kernels that a configuration names, in a new plain model.

    Args:
        config: What `stored` returned.
        model: The new model.
        table: Its variables by path.
        advice: What to do if the kernels are not there.
    """
    names = paths.match(config["kernels"], table)
    if names is None:
        raise ValueError(
            f"The kernels of the file do not fit a new {type(model).__name__}. "
            f"Received: {config['kernels']}. Its variables: {list(table)}. {advice}"
        )
    return [table[path] for path in names.values()]
