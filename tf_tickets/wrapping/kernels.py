"""The kernels of a model: their paths, variables and masks."""

from collections.abc import Mapping

import keras
import numpy as np
from numpy.typing import ArrayLike

from tf_tickets.masks.base import Mask
from tf_tickets.wrapping import paths, prunable, rebuilding
from tf_tickets.wrapping.prunable import Prunable


def prunables(model: keras.Model) -> list[Prunable]:
    """The Prunable layers of a model, each once.

    Example:

    >>> prunables(keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)]))
    []
    """
    return [layer for layer in paths.walk(model) if isinstance(layer, Prunable)]


def kernels(model: keras.Model) -> dict[str, keras.Variable]:
    """Dict from a kernel's path in the plain model to its stored variable.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, name="d")],
    ...                          name="net")
    >>> list(kernels(wrap(model, verbose=False)))
    ['net/d/kernel']
    """
    return {path: variable for path, variable, _ in _kernel_rows(model)}


def masks(model: keras.Model) -> dict[str, np.ndarray]:
    """Dict from a kernel's path in the plain model to its hard 0/1 mask.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, name="d")],
    ...                          name="net")
    >>> masks(wrap(model, verbose=False))["net/d/kernel"].tolist()
    [[True], [True], [True]]
    """
    return {path: mask.value() for path, _, mask in _kernel_rows(model)}


def mask_layers(model: keras.Model) -> dict[str, Mask]:
    """Dict from a kernel's path in the plain model to its mask parametrization.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, name="d")],
    ...                          name="net")
    >>> mask_layers(wrap(model, verbose=False))["net/d/kernel"].learned
    False
    """
    return {path: mask for path, _, mask in _kernel_rows(model)}


def scales(model: keras.Model) -> dict[str, float]:
    """Dict from kernel path to what kept weights are multiplied with, if not 1.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, name="d")],
    ...                          name="net")
    >>> scales(wrap(model, mask="soft", verbose=False))
    {'net/d/kernel': 2.0}
    """
    found = {path: mask.kept_scale for path, mask in mask_layers(model).items()}
    return {path: scale for path, scale in found.items() if scale != 1.0}


def sparsity(model: keras.Model) -> float:
    """Fraction of zeros among the prunable weights.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
    >>> sparsity(wrap(model, verbose=False))
    0.0
    """
    found = masks(model).values()
    size = sum(mask.size for mask in found)
    return (size - sum(int(mask.sum()) for mask in found)) / size


def set_masks(
    model: keras.Model,
    new: Mapping[str, ArrayLike],
    scales: Mapping[str, float] | None = None,
) -> None:
    """Sets masks by path in the plain model and zeroes what they prune.

    Args:
        model: A wrapped model.
        new: Dict from kernel path to mask.
        scales: Dict from kernel path to what kept weights are multiplied with,
            where that is not 1; None leaves it as it is.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, name="d")],
    ...                          name="net")
    >>> wrapped = wrap(model, verbose=False)
    >>> set_masks(wrapped, {"net/d/kernel": [[1], [0], [0]]})
    >>> int((np.asarray(model.layers[0].kernel) != 0).sum())
    1
    """
    rows = {path: (variable, mask) for path, variable, mask in _kernel_rows(model)}
    unknown = set(new) - set(rows)
    if unknown:
        raise ValueError(
            f"`new` has masks for what are no kernels of the model. Received: "
            f"{sorted(unknown)}. The kernels: {list(rows)}."
        )
    for path, values in new.items():
        variable, mask = rows[path]
        mask.assign(values, None if scales is None else scales.get(path, 1.0))
        prunable.zero_pruned(variable, mask)


def plain_paths(model: keras.Model) -> dict[str, keras.Variable]:
    """Dict from the path in the plain model to variable, masks left out.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, name="d")],
    ...                          name="net")
    >>> list(plain_paths(wrap(model, verbose=False)))
    ['net/d/kernel', 'net/d/bias']
    """
    wrapped = prunables(model)
    masks_ = [mask for layer in wrapped for mask in layer.kernel_masks]
    state = {id(v) for mask in masks_ for v in mask.variables}
    rest = [v for v in model.variables if id(v) not in state]
    renamed = dict(_renaming(layer) for layer in wrapped)
    return paths.plain_paths(rest, renamed)


def _renaming(wrapper):
    """The path of the layer inside, as it is and as it is without the wrapper."""
    inside = wrapper.layer.path or wrapper.layer.name
    scope, _, _ = (wrapper.path or "").rpartition("/")
    if not inside.startswith(f"{wrapper.path}/"):
        return inside, inside
    return inside, f"{scope}/{wrapper.layer.name}".lstrip("/")


def _kernel_rows(model):
    names = {id(v): path for path, v in plain_paths(model).items()}
    return [
        (names[id(variable)], variable, mask)
        for layer in prunables(model)
        for variable, mask in zip(
            layer.kernel_variables.values(), layer.kernel_masks, strict=True
        )
    ]


def units(model: keras.Model) -> list[keras.layers.Layer]:
    """The layers that are wrapped as one: leaves of the tree of nested models.

    Example:

    >>> inner = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="d")])
    >>> [layer.name for layer in units(keras.Sequential([keras.Input((3,)), inner]))]
    ['d']
    """
    found = []
    for layer in paths.children(model):
        found += units(layer) if rebuilding.is_graph(layer) else [layer]
    return [
        layer
        for layer in {id(layer): layer for layer in found}.values()
        if not isinstance(layer, keras.layers.InputLayer)
    ]
