"""The kernels of a wrapped model: paths, variables and masks, found in one walk."""

import functools
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import keras
import numpy as np
from keras import ops
from numpy.typing import ArrayLike

from tf_tickets import arguments
from tf_tickets.masks.base import Mask
from tf_tickets.structures.structure import Layout, Structure, Unstructured
from tf_tickets.wrapping import graphs, paths, prunable
from tf_tickets.wrapping.prunable import Prunable


class Kernel(NamedTuple):
    """One prunable kernel.

    Args:
        path: Its path in the plain model.
        variable: Its stored variable.
        mask_layer: Its mask parametrization.
    """

    path: str
    variable: keras.Variable
    mask_layer: Mask


class Kernels(Mapping[str, Kernel]):
    """The prunable kernels of a model, by their paths in the plain model.

    The model is walked once, when the object is made; arrays are read when they are
    asked for.

    Args:
        model: A wrapped model. A plain model has no prunable kernels.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, name="d")],
    ...                          name="net")
    >>> kernels = Kernels(tt.wrap(model, verbose=False))
    >>> kernels.set_masks({"net/d/kernel": [[1], [0], [0]]})
    >>> kernels.masks["net/d/kernel"].ravel().tolist()
    [True, False, False]
    >>> kernels
    Kernels('net': 1 kernel, 1 of 3 weights kept, sparsity 0.6667)
    """

    def __init__(self, model: keras.Model) -> None:
        arguments.check_type(keras.Model, model=model)
        self.model = model
        self.layers = prunables(model)
        table = _plain_paths(model, self.layers)
        names = {id(v): path for path, v in table.items()}
        self._rows = {
            names[id(variable)]: Kernel(names[id(variable)], variable, mask)
            for layer in self.layers
            for variable, mask in zip(
                layer.kernel_variables.values(), layer.kernel_masks, strict=True
            )
        }

    def __getitem__(self, path: str) -> Kernel:
        return self._rows[path]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        if not self:
            return f"Kernels({self.model.name!r}: no kernels, the model is not wrapped)"
        kept = sum(int(mask.sum()) for mask in self.masks.values())
        plural = "" if len(self) == 1 else "s"
        return (
            f"Kernels({self.model.name!r}: {len(self)} kernel{plural}, {kept:,} of "
            f"{self.size:,} weights kept, sparsity {self.sparsity:.4f})"
        )

    @property
    def variables(self) -> dict[str, keras.Variable]:
        """Dict from path to the stored variable."""
        return {path: row.variable for path, row in self._rows.items()}

    @property
    def weights(self) -> dict[str, np.ndarray]:
        """Dict from path to a copy of the stored kernel."""
        return {path: to_numpy(row.variable) for path, row in self._rows.items()}

    @property
    def mask_layers(self) -> dict[str, Mask]:
        """Dict from path to the mask parametrization."""
        return {path: row.mask_layer for path, row in self._rows.items()}

    @property
    def masks(self) -> dict[str, np.ndarray]:
        """Dict from path to the hard mask: a boolean array, true where kept."""
        return {path: row.mask_layer.value() for path, row in self._rows.items()}

    @property
    def scales(self) -> dict[str, float]:
        """Dict from path to the factor of the kept weights, where it is not 1."""
        factors = {path: row.mask_layer.kept_scale for path, row in self._rows.items()}
        return {path: factor for path, factor in factors.items() if factor != 1.0}

    @property
    def size(self) -> int:
        """Number of prunable weights."""
        return sum(int(np.prod(row.variable.shape)) for row in self._rows.values())

    @property
    def sparsity(self) -> float:
        """Fraction of zeros among the prunable weights."""
        if not self:
            raise ValueError(
                f"Model {self.model.name!r} has no Prunable layers, so it has no "
                "sparsity. Wrap it: model = tf_tickets.wrap(model)."
            )
        masks = self.masks.values()
        size = sum(mask.size for mask in masks)
        return (size - sum(int(mask.sum()) for mask in masks)) / size

    @property
    def structure(self) -> Structure:
        """Which weights are kept or pruned together."""
        found = {layer.structure: layer.name for layer in self.layers}
        if len(found) > 1:
            rows = {name: structure.name for structure, name in found.items()}
            raise ValueError(
                f"The layers of model {self.model.name!r} have several structures, and "
                f"a search follows one. Received: {rows}. Wrap the model with "
                "tf_tickets.wrap(model, structure=...)."
            )
        return next(iter(found), Unstructured())

    @functools.cached_property
    def layout(self) -> Layout:
        """The units of the structure: tables of weights as those of units, and back."""
        owners = {
            id(owned.variable): owned.owner
            for layer in self.layers
            for owned in paths.variables_of(layer.layer)
        }
        variables = self.variables
        by_path = {path: owners[id(v)] for path, v in variables.items()}
        return self.structure.layout(self.graph, variables, by_path)

    @property
    def graph(self) -> keras.Model:
        """The functional or Sequential model that holds all kernels, or the model.

        That of a `Distiller` is its student.
        """
        kernels = {id(layer) for layer in self.layers}
        holders = (
            part
            for part in paths.walk(self.model)
            if isinstance(part, keras.Model)
            and graphs.is_graph(part)
            and kernels == {id(layer) for layer in prunables(part)}
        )
        return next(holders, self.model)

    def set_masks(
        self,
        masks: Mapping[str, ArrayLike],
        scales: Mapping[str, float] | None = None,
    ) -> None:
        """Sets masks and writes zeros where they prune.

        Args:
            masks: Dict from path to a mask of 0 and 1; kernels left out keep theirs.
            scales: Dict from path to the factor of the kept weights, where it is not
                1; None leaves all factors as they are.
        """
        arguments.check_type(Mapping, masks=masks)
        if scales is not None:
            arguments.check_type(Mapping, scales=scales)
            arguments.check_numbers(**{f"scales: {p}": s for p, s in scales.items()})
        unknown = (set(masks) | set(scales or ())) - set(self._rows)
        if unknown:
            raise ValueError(
                "`masks` or `scales` has paths that are no kernels of the model. "
                f"Received: {sorted(unknown, key=str)}. The kernels: "
                f"{list(self._rows)}."
            )
        for path, mask in masks.items():
            row = self._rows[path]
            scale = None if scales is None else scales.get(path, 1.0)
            row.mask_layer.assign(mask, scale)
            prunable.zero_pruned(row.variable, row.mask_layer)


def kernels(model: keras.Model) -> Kernels:
    """Returns the prunable kernels of a model with their masks.

    Args:
        model: A wrapped model.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, name="d")],
    ...                          name="net")
    >>> list(kernels(tt.wrap(model, verbose=False)))
    ['net/d/kernel']
    """
    return Kernels(model)


def prunables(model: keras.Model) -> list[Prunable]:
    """Returns the Prunable layers of a model, each once.

    Example:

    >>> prunables(keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)]))
    []
    """
    return [layer for layer in paths.walk(model) if isinstance(layer, Prunable)]


def plain_paths(model: keras.Model) -> dict[str, keras.Variable]:
    """Returns the variables by their paths in the plain model, without those of masks.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, name="d")],
    ...                          name="net")
    >>> list(plain_paths(tt.wrap(model, verbose=False)))
    ['net/d/kernel', 'net/d/bias']
    """
    return _plain_paths(model, prunables(model))


def _plain_paths(model, wrappers):
    masks = [mask for layer in wrappers for mask in layer.kernel_masks]
    state = {id(v) for mask in masks for v in mask.variables}
    variables = [v for v in model.variables if id(v) not in state]
    return paths.plain_paths(variables, dict(_renaming(layer) for layer in wrappers))


def _renaming(wrapper):
    """Returns the path of the inner layer, as it is and without the wrapper."""
    inside = wrapper.layer.path or wrapper.layer.name
    scope, _, _ = (wrapper.path or "").rpartition("/")
    if not inside.startswith(f"{wrapper.path}/"):
        return inside, inside
    return inside, f"{scope}/{wrapper.layer.name}".lstrip("/")


def to_numpy(variable: keras.Variable) -> np.ndarray:
    """Returns a copy: both backends may reuse the memory of what they hand out.

    Example:

    >>> to_numpy(keras.Variable([1.0])).tolist()
    [1.0]
    """
    return np.array(ops.convert_to_numpy(variable.value), copy=True)
