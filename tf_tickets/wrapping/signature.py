"""Names, shapes and dtypes of the inputs and outputs of a model."""

import dataclasses
import inspect
import math
import re
from typing import Any

import keras
import numpy as np

from tf_tickets import arguments
from tf_tickets.wrapping import graphs


@dataclasses.dataclass(frozen=True)
class Input:
    """Describes one input of a model.

    Args:
        name: Name of the input in the exported signature.
        shape: Shape of one example, with None for variable lengths.
        dtype: NumPy name of the dtype, or "string".
        original: Name in the model, which may contain characters that TensorFlow does
            not allow.
        batch: Batch size if it is fixed, otherwise None.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    original: str = ""
    batch: int | None = None


class Interface:
    """Describes the inputs of a model in their nested structure.

    Args:
        structure: An `Input`, or a nested structure (list, tuple, dict) of them.

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
        names = [spec.name for spec in self.inputs]
        if len(set(names)) < len(names):
            raise ValueError(
                f"Inputs must have unique names. Received: {names}. Rename the inputs "
                "of the model."
            )

    def renamed(self, names: list[str]) -> "Interface":
        """Returns the interface with other names of the inputs.

        Args:
            names: The new names, in the order of `inputs`.
        """
        pairs = zip(self.inputs, names, strict=True)
        specs = [dataclasses.replace(spec, name=name) for spec, name in pairs]
        return Interface(keras.tree.pack_sequence_as(self.structure, specs))

    def nested(self, named: dict[str, Any]) -> Any:
        """Returns values in the structure of the model's inputs.

        Args:
            named: Dict from input name to its value.
        """
        return keras.tree.map_structure(lambda spec: named[spec.name], self.structure)

    def named(self, nested: Any) -> dict[str, np.ndarray]:
        """Returns values by input name, cast to the dtypes of the inputs.

        Args:
            nested: An array, a nested structure of arrays like that of the inputs, or
                a dict from input name to array.
        """
        arrays = self._ordered(nested)
        if len(arrays) != len(self.inputs):
            raise ValueError(
                f"`data` must have one array for each input of the model, "
                f"{[spec.name for spec in self.inputs]}. Received: {len(arrays)} "
                f"arrays, {_described(nested)}"
            )
        pairs = zip(self.inputs, arrays, strict=True)
        named = {spec.name: _cast(spec, array) for spec, array in pairs}
        rows = {name: len(array) for name, array in named.items()}
        if len(set(rows.values())) > 1 or not all(rows.values()):
            raise ValueError(
                "All inputs must have the same number of examples, at least 1. "
                f"Received: {rows}"
            )
        return named

    def _ordered(self, nested):
        """Returns the arrays in the order of the inputs."""
        if not isinstance(nested, dict):
            return keras.tree.flatten(nested)
        if isinstance(self.structure, dict) and set(nested) == set(self.structure):
            return keras.tree.flatten(nested)
        names = [spec.original or spec.name for spec in self.inputs]
        if set(nested) != set(names):
            raise ValueError(
                f"`data` must have examples for the inputs of the model, "
                f"{sorted(names)}. Received: {_described(nested)}"
            )
        return [nested[name] for name in names]

    def examples(
        self, count: int, seed: int, model: keras.Model | None = None
    ) -> dict[str, np.ndarray]:
        """Returns random inputs by name.

        Floating-point inputs are normally distributed, integer inputs are 0 or 1.

        Args:
            count: Number of examples. A fixed batch size of the model takes precedence.
            seed: Random seed.
            model: The model that must accept them. Unknown sizes grow until shape
                inference accepts them; without a model they are 7.
        """
        rng = np.random.default_rng(seed)
        count = self.batch or count
        size = _SIZES[0] if model is None else self._size(model, count)
        return {spec.name: _random(rng, spec, count, size) for spec in self.inputs}

    def _size(self, model, count):
        """Returns the smallest size tried that the model accepts."""
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
            "data=x."
        ) from reason

    def _numbers(self, size):
        """Returns how many numbers an example has if unknown sizes are this one."""
        return sum(math.prod(_shape(one, 1, size)) for one in self.inputs)


def of_model(model: keras.Model, data: Any = None) -> Interface:
    """Returns the interface of a model.

    Args:
        model: A built model.
        data: Inputs, an array or a nested structure of arrays. Required for subclassed
            models, which do not store the shapes of their inputs.
    """
    if isinstance(model, keras.Sequential):
        return Interface(_of_tensor(model.inputs[0]))
    if graphs.is_graph(model):
        return Interface(keras.tree.map_structure(_of_tensor, model.input))
    return _of_subclassed(model, data)


def _of_subclassed(model, data):
    if data is None:
        raise ValueError(
            f"{model.name!r} is a subclassed model, which does not store the shapes of "
            "its inputs. Pass examples: data=x."
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
    """Returns outputs by name.

    The names are the keys of a dict, or output_0, output_1 and so on.

    Example:

    >>> named_outputs(["a", "b"])
    {'output_0': 'a', 'output_1': 'b'}
    """
    if isinstance(outputs, dict):
        nested = [name for name, x in outputs.items() if keras.tree.is_nested(x)]
        if nested:
            raise ValueError(
                "Every output must be a tensor. Received: nested structures for "
                f"{nested}. Use a separate key for each tensor."
            )
        return dict(outputs)
    flat = keras.tree.flatten(outputs)
    return {f"output_{index}": tensor for index, tensor in enumerate(flat)}


def told(model: keras.Model, training: bool) -> dict[str, bool]:
    """Returns `{"training": training}` if `call` accepts it, otherwise an empty dict.

    Example:

    >>> told(keras.Sequential([keras.Input((3,))]), training=True)
    {'training': True}
    """
    accepts = "training" in inspect.signature(model.call).parameters
    return {"training": training} if accepts else {}


def _of_tensor(tensor):
    batch, *shape = tensor.shape
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    return Input(_safe(tensor.name), tuple(shape), dtype, tensor.name, batch)


def _safe(name):
    """Returns a name that is valid as an argument of a TensorFlow function."""
    name = re.sub(r"[^A-Za-z0-9_]", "_", name)
    return name if re.match("[A-Za-z]", name) else f"input_{name}"


def _of_array(name, array):
    dtype = "string" if array.dtype.kind in "USO" else array.dtype.name
    return Input(_safe(name), tuple(array.shape[1:]), dtype, name)


def _described(nested):
    """Returns values as messages show them: arrays by their shapes and types."""
    if hasattr(nested, "shape") and hasattr(nested, "dtype"):
        return f"an array of shape {tuple(nested.shape)} and dtype {nested.dtype}"
    if isinstance(nested, dict):
        return str({name: _described(value) for name, value in nested.items()})
    if isinstance(nested, list | tuple) and any(hasattr(x, "shape") for x in nested):
        return str([_described(value) for value in nested])
    return arguments.shown(nested)


def _cast(spec, value):
    array = np.asarray(value)
    matches = array.ndim == len(spec.shape) + 1 and all(
        expected in (None, length)
        for expected, length in zip(spec.shape, array.shape[1:], strict=True)
    )
    if not matches:
        raise ValueError(
            f"`data` must have examples of shape {spec.shape} for input {spec.name!r}. "
            f"Received: {_described(value)}"
            + ("" if hasattr(value, "shape") else f", of shape {array.shape}")
        )
    return array.astype("S" if spec.dtype == "string" else spec.dtype)


# Tried in turn where a size is unknown. Networks that halve and double their inputs
# take powers of two.
_SIZES = (7, *(2**power for power in range(3, 19)))
# Numbers in one example; 32 of them must fit: 256 x 256 pixels of 4 channels.
_MOST_NUMBERS = 2**18


def _shape(spec, count, size):
    return (count, *(size if length is None else length for length in spec.shape))


def _random(rng, spec, count, size):
    if spec.dtype == "string":
        raise ValueError(
            f"Input {spec.original!r} takes text, which cannot be generated. Pass "
            "examples: data=x."
        )
    shape = _shape(spec, count, size)
    if keras.backend.is_float_dtype(spec.dtype):
        return rng.normal(size=shape).astype(spec.dtype)
    return rng.integers(0, 2, size=shape).astype(spec.dtype)
