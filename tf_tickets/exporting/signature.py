"""What goes into a model and comes out: names, shapes and types."""

import dataclasses
import inspect
import math
import re
from typing import Any

import keras
import numpy as np

from tf_tickets.wrapping import rebuilding


@dataclasses.dataclass(frozen=True)
class Input:
    """One input of a model.

    Args:
        name: By which it is given to what is exported.
        shape: The shape of one example; None where a length is free.
        dtype: NumPy's name of its type, or "string".
        original: Its name in the model, which may have what TensorFlow does not allow.
        batch: The number of examples, where it is fixed.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    original: str = ""
    batch: int | None = None


class Interface:
    """The inputs of a model in the nest in which it takes them.

    Args:
        structure: A nest (list, tuple, dict) of `Input`, or one alone.

    Example:

    >>> model = keras.Sequential([keras.Input((3,), name="x"), keras.layers.Dense(2)])
    >>> interface = of_model(model)
    >>> interface.inputs[0].name, interface.inputs[0].shape
    ('x', (3,))
    >>> interface.examples(2, seed=0)["x"].shape
    (2, 3)
    """

    def __init__(self, structure: Any) -> None:
        self.structure = structure
        self.inputs: list[Input] = keras.tree.flatten(structure)
        self.batch = self.inputs[0].batch
        names = [one.name for one in self.inputs]
        if len(set(names)) < len(names):
            raise ValueError(f"Inputs must have names of their own. Received: {names}")

    def nested(self, named: dict[str, Any]) -> Any:
        """Values by name, as the model takes them."""
        return keras.tree.map_structure(lambda one: named[one.name], self.structure)

    def named(self, nested: Any) -> dict[str, np.ndarray]:
        """Values as the model takes them, by name, in the types it takes.

        Args:
            nested: An array, or a nest of arrays like that of the inputs, or a dict by
                their names.
        """
        arrays = self._ordered(nested)
        if len(arrays) != len(self.inputs):
            raise ValueError(
                f"The model has {len(self.inputs)} inputs, "
                f"{[one.name for one in self.inputs]}. Received: {len(arrays)} arrays"
            )
        pairs = zip(self.inputs, arrays, strict=True)
        found = {one.name: _fitting(one, np.asarray(array)) for one, array in pairs}
        rows = {name: len(array) for name, array in found.items()}
        if len(set(rows.values())) > 1 or not all(rows.values()):
            raise ValueError(
                "Each input wants as many examples as the others, and one at least. "
                f"Received: {rows}"
            )
        return found

    def _ordered(self, nested):
        """The arrays in the order of the inputs."""
        if not isinstance(nested, dict):
            return keras.tree.flatten(nested)
        if isinstance(self.structure, dict) and set(nested) == set(self.structure):
            return keras.tree.flatten(nested)
        named = {one.original or one.name: one for one in self.inputs}
        if set(nested) != set(named):
            raise ValueError(
                f"The inputs of the model are {sorted(named)}. Received examples of "
                f"{sorted(nested)}"
            )
        return [nested[name] for name in named]

    def examples(
        self, count: int, seed: int, model: keras.Model | None = None
    ) -> dict[str, np.ndarray]:
        """Random inputs: normal numbers, or 0 and 1 where whole ones are taken.

        Args:
            count: How many, unless the model says.
            seed: Of the draws.
            model: The model that must be able to take them. Unknown sizes grow until
                shape inference accepts them; without a model they are 7.
        """
        rng = np.random.default_rng(seed)
        count = self.batch or count
        size = _SIZES[0] if model is None else self._size(model, count)
        return {one.name: _random(rng, one, count, size) for one in self.inputs}

    def _size(self, model, count):
        """The smallest size tried that the model takes wherever one is unknown."""
        if all(None not in one.shape for one in self.inputs):
            return _SIZES[0]
        most = max(_MOST_NUMBERS, self._numbers(_SIZES[0]))
        tried = [size for size in _SIZES if self._numbers(size) <= most]
        reason = None
        for size in tried:
            specs = {
                one.name: keras.KerasTensor(_shape(one, count, size), one.dtype)
                for one in self.inputs
            }
            try:
                outputs = model.compute_output_spec(self.nested(specs))
            except Exception as error:  # Each layer and backend has its own.
                reason = error
                continue
            if all(0 not in x.shape for x in keras.tree.flatten(outputs)):
                return size
            reason = ValueError("An output would be empty.")
        shapes = {one.original: one.shape for one in self.inputs}
        raise ValueError(
            f"{model.name!r} has inputs of unknown size, {shapes}, and takes no random "
            f"inputs of the sizes {tried}: {reason} Pass examples that it takes: "
            "export(..., data=x)."
        ) from reason

    def _numbers(self, size):
        """How many numbers one example has, with this size for unknown ones."""
        return sum(math.prod(_shape(one, 1, size)) for one in self.inputs)


def of_model(model: keras.Model, data: Any = None) -> Interface:
    """The interface of a model.

    Args:
        model: A built model.
        data: Inputs, an array or a nest of them; needed for a subclassed model, which
            does not know its inputs.
    """
    if isinstance(model, keras.Sequential):
        return Interface(_of_tensor(model.inputs[0]))
    if rebuilding.is_graph(model):
        return Interface(keras.tree.map_structure(_of_tensor, model.input))
    return _of_subclassed(model, data)


def _of_subclassed(model, data):
    if data is None:
        raise ValueError(
            f"{model.name!r} is a subclassed model, which does not know the shapes of "
            "its inputs. Give some of them: export(..., data=x)."
        )
    if isinstance(data, dict):
        return Interface({k: _of_array(k, np.asarray(x)) for k, x in data.items()})
    count = iter(range(len(keras.tree.flatten(data))))
    return Interface(
        keras.tree.map_structure(
            lambda x: _of_array(f"input_{next(count)}", np.asarray(x)), data
        )
    )


def named_outputs(outputs: Any) -> dict[str, Any]:
    """Outputs by name: the keys of a dict, otherwise output_0, output_1.

    Example:

    >>> named_outputs(["a", "b"])
    {'output_0': 'a', 'output_1': 'b'}
    """
    if isinstance(outputs, dict):
        nests = [name for name, one in outputs.items() if keras.tree.is_nested(one)]
        if nests:
            raise ValueError(
                f"Each output must be one tensor. Those of {nests} are nests: give "
                "each tensor a key of its own."
            )
        return dict(outputs)
    flat = keras.tree.flatten(outputs)
    return {f"output_{place}": tensor for place, tensor in enumerate(flat)}


def told(model: keras.Model, training: bool) -> dict[str, bool]:
    """How a model is told whether it trains; not at all, if its `call` does not ask.

    Example:

    >>> told(keras.Sequential([keras.Input((3,))]), training=True)
    {'training': True}
    """
    asks = "training" in inspect.signature(model.call).parameters
    return {"training": training} if asks else {}


def _of_tensor(tensor):
    batch, *shape = tensor.shape
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    return Input(_safe(tensor.name), tuple(shape), dtype, tensor.name, batch)


def _safe(name):
    """A name that may be an argument of a TensorFlow function."""
    name = re.sub(r"[^A-Za-z0-9_]", "_", name)
    return name if re.match("[A-Za-z]", name) else f"input_{name}"


def _of_array(name, array):
    dtype = "string" if array.dtype.kind in "USO" else array.dtype.name
    return Input(_safe(name), tuple(array.shape[1:]), dtype, name)


def _fitting(one, array):
    fits = array.ndim == len(one.shape) + 1 and all(
        wanted in (None, length)
        for wanted, length in zip(one.shape, array.shape[1:], strict=True)
    )
    if not fits:
        raise ValueError(
            f"Input {one.name!r} takes examples of shape {one.shape}. Received an "
            f"array of shape {array.shape}"
        )
    return array.astype("S" if one.dtype == "string" else one.dtype)


# Tried in turn where a size is unknown. Networks that halve and double their inputs
# take powers of two.
_SIZES = (7, *(2**power for power in range(3, 19)))
# Of one example, so that 32 of them fit: 256 x 256 pixels of 4 channels.
_MOST_NUMBERS = 2**18


def _shape(one, count, size):
    return (count, *(size if length is None else length for length in one.shape))


def _random(rng, one, count, size):
    if one.dtype == "string":
        raise ValueError(
            f"Input {one.original!r} takes text, which is not drawn at random. Give "
            "some: export(..., data=x)."
        )
    shape = _shape(one, count, size)
    if keras.backend.is_float_dtype(one.dtype):
        return rng.normal(size=shape).astype(one.dtype)
    return rng.integers(0, 2, size=shape).astype(one.dtype)
