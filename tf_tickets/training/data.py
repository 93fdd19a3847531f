"""TrainingData: what a search trains, validates and tests on, as people have it."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np

from tf_tickets import arguments

# A tuple of arrays, a tf.data.Dataset, a PyDataset, an iterator, or a function of a key
# that returns one of them.
Part = Any
Key = tuple[int, int, int]

PARTS = {
    "train": "steps_per_epoch",
    "validation": "validation_steps",
    "test": "test_steps",
}
_EXPECTED = (
    "(x, y) or (x, y, sample_weight) of arrays or nested structures of arrays, a "
    "tf.data.Dataset, a keras.utils.PyDataset, a generator, or a function data(key) "
    "that returns one of them"
)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class TrainingData:
    """The data of a search or a training, of every kind that `model.fit` accepts.

    Each part is one of

    - a tuple `(x, y)` or `(x, y, sample_weight)` of arrays, or of dicts, lists and
      tuples of arrays (several inputs and outputs); `(x,)` for models without targets,
    - a `tf.data.Dataset` of batches,
    - a `keras.utils.PyDataset`. If it has a method `reorder(key)`, that is called
      before each epoch,
    - a generator or another iterator of batches, with its number of steps,
    - a function `data(key)` that returns one of these for an epoch.

    A key is a tuple of three integers: seed, round and epoch. Data whose order depends
    only on the key resume to the bit. These are arrays, functions of the key, and a
    PyDataset that has `reorder` or no state; its first batches are read twice to find
    out. Tickets of other data have the provenance `"resume": "round"`: a search resumes
    at its last stored round, but the order of the data may differ.

    Args:
        train: The training data.
        validation: The validation data. A function is called with (seed, 0, 0).
        test: The test data; optional.
        steps_per_epoch: Number of training batches per epoch. Required for data of
            unknown length.
        validation_steps: Likewise, for validation.
        test_steps: Likewise, for the test.
        class_weight: Dict from a class to its weight in the loss; 1 for others.
        name: Name in reports.

    Example:

    >>> class Squares(keras.utils.PyDataset):
    ...     def __len__(self):
    ...         return 4
    ...     def reorder(self, key):
    ...         self.rng = np.random.default_rng(key)
    ...     def __getitem__(self, index):
    ...         x = self.rng.normal(size=(8, 4))
    ...         return x, x[:, :2] ** 2
    >>> x = np.ones((8, 4))
    >>> data = TrainingData(Squares(), validation=(x, x[:, :2]), name="squares")
    >>> def build():
    ...     model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    ...     model.compile("adam", "mse")
    ...     return model
    >>> search = tt.IMP(rounds=1, epochs_per_round=1, rate=0.5, monitor="val_loss")
    >>> tickets = tt.find_tickets(build, data, search, verbose=0)
    >>> tickets[0].sparsity, tickets[0].provenance["resume"]
    (0.5, 'bit')
    """

    train: Part
    # Required; without a default, Python would not say how to mend it.
    validation: Part = None
    test: Part = None
    steps_per_epoch: int | None = None
    validation_steps: int | None = None
    test_steps: int | None = None
    class_weight: dict[int, float] | None = None
    name: str | None = None

    def __post_init__(self):
        _check_validation(self.train, self.validation)
        for name, steps in PARTS.items():
            part, count = getattr(self, name), getattr(self, steps)
            if part is None and name == "test":
                if count is not None:
                    raise ValueError(
                        f"`{steps}` needs `{name}`. Received: {steps}={count!r} and no "
                        f"test data. Pass `{name}`, or remove `{steps}`."
                    )
                continue
            if count is not None:
                arguments.check_counts(**{steps: count})
            kind = kind_of(name, part)
            if kind == "arrays":
                # Converted once: lists to tuples, tensors and tables to arrays.
                object.__setattr__(self, name, as_arrays(name, part))
                if count is not None:
                    raise ValueError(
                        f"`{steps}` is for data without a known length. Received: "
                        f"{steps}={count!r} beside arrays in `{name}`. Remove it, or "
                        "pass fewer rows."
                    )
        _check_class_weight(self.class_weight)
        if self.name is not None:
            arguments.check_type(str, name=self.name)

    def __repr__(self):
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        texts = []
        for name, value in values.items():
            if isinstance(value, tuple):
                shapes = keras.tree.map_structure(np.shape, value)
                texts.append(f"{name}=arrays of {shapes}")
            elif value is not None:
                texts.append(f"{name}={arguments.shown(value)}")
        return f"TrainingData({', '.join(texts)})"

    @property
    def parts(self) -> dict[str, Part]:
        """A dict from "train", "validation" and, if given, "test" to the part."""
        parts = {name: getattr(self, name) for name in PARTS}
        return {name: part for name, part in parts.items() if part is not None}


def kind_of(name: str, part: Part) -> str:
    """Returns the kind of a part; refuses what is none.

    Example:

    >>> kind_of("train", (np.ones((8, 4)), np.ones(8)))
    'arrays'
    """
    if is_tf_dataset(part):
        return "tf.data.Dataset"
    if isinstance(part, keras.utils.PyDataset):
        return "PyDataset"
    if isinstance(part, tuple | list):
        if 1 <= len(part) <= 3 and not all(map(arguments.is_real, part)):
            return "arrays"
    elif isinstance(part, Iterator):
        return "iterator"
    elif arguments.is_callable(part, 1) and not isinstance(part, type):
        return "function"
    raise TypeError(
        f"The {titled(name)} data must be {_EXPECTED}. Received: "
        f"{_shown(part)}.{_hint(part)}"
    )


def _check_validation(train, validation):
    """Refuses training data alone, also as a pair of x and y."""
    if validation is None:
        received = "TrainingData(train) without validation data"
    elif _is_bare(train) and _is_bare(validation):
        received = f"({_shown(train)}, {_shown(validation)})"
    else:
        return
    raise TypeError(
        "The validation data are missing. Expected two or three parts, each of them a "
        f"pair (x, y) or a dataset. Received: {received}. Pass (train, validation), "
        "such as ((x, y), (x_val, y_val))."
    )


def _is_bare(part):
    """Whether a part is x or y alone, not a pair or a dataset of them."""
    return isinstance(part, Mapping) or (
        hasattr(part, "shape") and hasattr(part, "dtype")
    )


def _shown(part):
    """Returns a part as messages show it: an array by its shape."""
    if isinstance(part, np.ndarray):
        return f"an array of shape {part.shape}"
    return arguments.shown(part)


def result_of(name: str, function: Callable[[Key], Part], key: Key) -> Part:
    """Returns what a function of the key returns; refuses what is no data.

    Example:

    >>> x, y = result_of("train", lambda key: (np.ones(4), np.zeros(4)), (0, 1, 0))
    """
    part = function(key)
    try:
        kind = kind_of(name, part)
    except TypeError as error:
        raise TypeError(
            f"A function of the {titled(name)} data must return data. Received: "
            f"{arguments.shown(function)}, which returns {arguments.shown(part)}. "
            f"{error}"
        ) from None
    if kind == "function":
        raise TypeError(
            f"A function of the {titled(name)} data must return arrays, a dataset or "
            f"an iterator. Received: {arguments.shown(function)}, which returns "
            f"{arguments.shown(part)}, a function, too."
        )
    return part


def titled(name: str) -> str:
    """Returns the name of a part in messages.

    Example:

    >>> titled("train")
    'training'
    """
    return "training" if name == "train" else name


def steps_of(name: str) -> str:
    """Returns the argument with the number of batches of a part.

    Example:

    >>> steps_of("train")
    'steps_per_epoch'
    """
    return PARTS.get(name, "steps")


def _hint(part):
    if isinstance(part, np.ndarray | Mapping):
        return " Pass x without targets as (x,)."
    if hasattr(part, "__iter__") and hasattr(part, "__len__"):
        # Loaders of other libraries.
        return " Pass a loader as a function: lambda key: iter(loader)."
    if callable(part):
        return " A function must take one argument, the key (seed, round, epoch)."
    return ""


def is_tf_dataset(part: Any) -> bool:
    """Returns whether a value is a `tf.data.Dataset`, without importing TensorFlow.

    Example:

    >>> is_tf_dataset([1, 2])
    False
    """
    return any(
        base.__name__ == "DatasetV2" and base.__module__.startswith("tensorflow.")
        for base in type(part).__mro__
    )


def as_arrays(name: str, part: Part) -> tuple:
    """Returns a tuple of arrays or nested structures of them; checks their rows.

    Example:

    >>> x, y = as_arrays("train", [[[1.0], [2.0]], {"a": np.zeros(2)}])
    >>> x.shape, list(y)
    ((2, 1), ['a'])
    """
    entries = list(part)
    while len(entries) > 1 and entries[-1] is None:
        entries.pop()
    arrays = tuple(nested(e, lambda leaf: arguments.array(data=leaf)) for e in entries)
    shapes = [array.shape for array in keras.tree.flatten(arrays)]
    if not shapes or not arguments.have_equal_rows(shapes):
        listed = " and ".join(map(str, shapes)) or "no arrays"
        raise ValueError(
            f"The arrays of the {titled(name)} data must have the same number of rows, "
            f"at least 1. Received: arrays of shape {listed}"
        )
    _check_weights(name, arrays)
    return arrays


def nested(entry: Any, convert: Callable[[Any], Any]) -> Any:
    """Returns a structure with converted leaves, and with lists as tuples.

    Lists of numbers are leaves, and TensorFlow would stack lists of arrays.

    Args:
        entry: An array, or a dict, list or tuple of them.
        convert: Function of a leaf.

    Example:

    >>> nested([np.zeros(2), {"a": np.ones(2)}], len)
    (2, {'a': 2})
    """
    if isinstance(entry, Mapping):
        return {key: nested(value, convert) for key, value in entry.items()}
    is_list = isinstance(entry, tuple | list)
    if is_list and any(hasattr(i, "shape") or isinstance(i, Mapping) for i in entry):
        return tuple(nested(item, convert) for item in entry)
    return convert(entry)


def _check_weights(name, arrays):
    """Refuses sample weights in another structure than the targets."""
    if len(arrays) < 3 or not isinstance(arrays[2], dict | tuple):
        return
    try:
        keras.tree.assert_same_structure(arrays[1], arrays[2])
    except (ValueError, TypeError):
        raise ValueError(
            f"The sample_weight of the {titled(name)} data must be one array, or have "
            f"the structure of y. Received: sample_weight={arguments.shown(arrays[2])}"
        ) from None


def _check_class_weight(class_weight):
    if class_weight is None:
        return
    fits = isinstance(class_weight, Mapping) and class_weight
    if not fits or not all(
        arguments.is_whole(label)
        and label >= 0
        and arguments.is_number(weight)
        and 0 <= weight < float("inf")
        for label, weight in class_weight.items()
    ):
        raise ValueError(
            "`class_weight` must be a dict from a class (0, 1, ...) to a finite number "
            f"of 0 or more. Received: {arguments.shown(class_weight)}"
        )
