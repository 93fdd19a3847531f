"""What goes into a model and comes out: names, shapes and types."""

import dataclasses
import inspect
from typing import Any

import keras
import numpy as np

from tf_tickets import rebuilding


@dataclasses.dataclass(frozen=True)
class Input:
    """One input of a model.

    Args:
        name: By which it is given.
        shape: The shape of one example; None where a length is free.
        dtype: NumPy's name of its type.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str


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
        names = [one.name for one in self.inputs]
        if len(set(names)) < len(names):
            raise ValueError(f"Inputs must have names of their own. Received: {names}")

    def nested(self, named: dict[str, Any]) -> Any:
        """Values by name, as the model takes them."""
        return keras.tree.map_structure(lambda one: named[one.name], self.structure)

    def named(self, nested: Any) -> dict[str, np.ndarray]:
        """Values as the model takes them, by name, in the types it takes.

        Args:
            nested: An array, or a nest of arrays like that of the inputs.
        """
        arrays = keras.tree.flatten(nested)
        if len(arrays) != len(self.inputs):
            raise ValueError(
                f"The model has {len(self.inputs)} inputs, "
                f"{[one.name for one in self.inputs]}. Received: {len(arrays)} arrays"
            )
        pairs = zip(self.inputs, arrays, strict=True)
        return {one.name: _fitting(one, np.asarray(array)) for one, array in pairs}

    def examples(self, count: int, seed: int) -> dict[str, np.ndarray]:
        """Random inputs: normal numbers, or 0 and 1 where whole ones are taken."""
        rng = np.random.default_rng(seed)
        return {one.name: _random(rng, one, count) for one in self.inputs}


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
    shape = tuple(tensor.shape[1:])
    return Input(tensor.name, shape, keras.backend.standardize_dtype(tensor.dtype))


def _of_array(name, array):
    return Input(name, tuple(array.shape[1:]), array.dtype.name)


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
    return array.astype(one.dtype)


def _random(rng, one, count):
    # A free length is taken as a few steps.
    shape = (count, *(7 if length is None else length for length in one.shape))
    if np.issubdtype(np.dtype(one.dtype), np.floating):
        return rng.normal(size=shape).astype(one.dtype)
    return rng.integers(0, 2, size=shape).astype(one.dtype)
