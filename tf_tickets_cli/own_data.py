"""The data of a command: a built-in data set, or the user's own."""

import argparse
import dataclasses
import inspect
import os
import pathlib
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

import tf_tickets as tt
from tf_tickets_cli import choices, references

# Rows that are looked at to learn shapes and kinds.
_ROWS = 32
# The key (seed, round, epoch) by which data are looked at.
_KEY = (0, 0, 0)


@dataclasses.dataclass(frozen=True)
class OwnData:
    """Holds data and what a command must know about them.

    Args:
        data: A `Dataset` or `TrainingData`, as searches take it.
        name: Name in reports.
        input_shape: Shape of one input without the batch, or None where unknown.
        num_classes: Number of classes, or None where unknown or without classes.
        sample: The first rows (x, y) of the training data, or None where unknown.
        has_batches: Whether the data make their own batches.
        notes: What was decided about the data, for the summary.
    """

    data: tt.datasets.Dataset | tt.TrainingData
    name: str
    input_shape: tuple[int | None, ...] | None
    num_classes: int | None
    sample: tuple[Any, Any] | None
    has_batches: bool = False
    notes: tuple[str, ...] = ()

    @property
    def parts(self) -> dict[str, Any]:
        """A dict from "train", "validation" and, if there is one, "test" to a part."""
        if isinstance(self.data, tt.TrainingData):
            return self.data.parts
        data = self.data
        return {
            "train": (data.x_train, data.y_train),
            "validation": (data.x_val, data.y_val),
            "test": (data.x_test, data.y_test),
        }

    @property
    def known_targets(self) -> dict[str, np.ndarray]:
        """A dict from the name of a part to all of its targets, where it is arrays."""
        return {
            name: part[1]
            for name, part in self.parts.items()
            if _is_arrays(part) and len(part) > 1 and isinstance(part[1], np.ndarray)
        }

    @property
    def rows(self) -> int | None:
        """The number of training examples, or None where unknown."""
        return _rows(self.parts["train"])

    def sizes(self) -> str:
        """Returns how many examples each part has, as text.

        Example:

        >>> load("digits").sizes()
        '1,150 training, 287 validation, 360 test images'
        """
        what = "images" if len(self.input_shape or ()) == 3 else "examples"
        titles = {"train": "training", "validation": "validation", "test": "test"}
        counts = {titles[name]: _rows(part) for name, part in self.parts.items()}
        known = [
            f"{rows:,} {name}" for name, rows in counts.items() if rows is not None
        ]
        unknown = [name for name, rows in counts.items() if rows is None]
        texts = [f"{', '.join(known)} {what}"] if known else []
        if unknown:
            texts.append(f"{', '.join(unknown)} {what} of a stream")
        return "; ".join(texts)

    def steps_per_epoch(self, batch_size: int) -> int | None:
        """Returns the number of training batches per epoch, or None where unknown.

        Args:
            batch_size: Batch size of data that do not make their own batches.
        """
        given = getattr(self.data, "steps_per_epoch", None)
        train = self.parts["train"]
        if given is not None:
            return given
        if _is_arrays(train):
            return _rows(train) // batch_size
        return _known_length(train)

    def for_criteria(self, each: int, seed: int) -> tuple[Any, ...]:
        """Returns what the constructor of a criterion, such as SNIP, takes as data.

        Args:
            each: Maximum number of rows per class, where labels are known. Of other
                arrays, the first rows are taken, and of streams the first batches.
            seed: Seed of the choice.
        """
        train = self.parts["train"]
        if isinstance(train, tt.datasets.ImageFolder):
            return train.balanced(each, seed)
        data = self.data
        if isinstance(data, tt.datasets.Dataset) and _has_one_label(data):
            return data.balanced(each, seed)
        if not _is_arrays(train):
            return (train,)
        count = each * (self.num_classes or 1)
        return keras.tree.map_structure(lambda array: array[:count], tuple(train[:2]))

    def examples(self, part: str, count: int) -> Any:
        """Returns the first inputs of a part, an array or a nest of arrays.

        Args:
            part: "train", "validation" or "test"; without test data, those of
                validation are used.
            count: The largest number of rows.
        """
        source = self.parts.get(part, self.parts["validation"])
        found, rows = [], 0
        for x, _ in _batches(source):
            found.append(x)
            rows += len(keras.tree.flatten(x)[0])
            if rows >= count:
                break
        return keras.tree.map_structure(
            lambda *arrays: np.concatenate(arrays)[:count], *found
        )


def _has_one_label(data):
    return data.has_labels and data.y_train.ndim == 1


def load(
    spec: str, options: argparse.Namespace | dict[str, Any] | None = None
) -> OwnData:
    """Loads the data that `--data` names.

    Args:
        spec: A built-in name, FILE.npz, a folder of images, FILE.csv,
            module:function or file.py:function.
        options: The parsed options, or a dict with some of them: `data_dir`, `scaling`
            ("none", "standard", "unit"; None for the default), `target_column`, `task`,
            `drop_columns`, `image_size`, `batch_size`, `take`, `seed`, and `own_model`,
            whether the network is the user's own.

    Example:

    >>> found = load("digits", {"take": 100})
    >>> found.name, found.input_shape, found.num_classes, found.rows
    ('digits[:100]', (8, 8, 1), 10, 100)
    """
    given = options or {}
    if not isinstance(given, dict):
        given = vars(given)
    _refuse_idle(spec, given)
    found = _source(spec)(spec, given)
    take = given.get("take")
    return found if take is None else _taken(found, take)


def kind_of(spec: str) -> str:
    """Returns the kind of the data that `--data` names; refuses others.

    Example:

    >>> kind_of("digits"), kind_of("a.npz"), kind_of("a.csv"), kind_of("m:f")
    ('name', 'npz', 'table', 'function')
    """
    if spec in choices.DATASETS:
        return "name"
    suffix = pathlib.Path(spec).suffix.lower()
    if suffix == ".npz":
        return "npz"
    if suffix in (".csv", ".tsv"):
        return "table"
    if os.path.isdir(os.path.expanduser(spec)):
        return "folder"
    if references.is_reference(spec):
        return "function"
    raise ValueError(
        f"--data: unknown data. Received: {spec!r}. Expected one of "
        f"{', '.join(choices.DATASETS)}, a file FILE.npz or FILE.csv, a folder of "
        "images by class, module:function or file.py:function. There is no such folder."
    )


# The options that belong to some kinds of data only.
_ONLY = {
    "target_column": ("table",),
    "task": ("table",),
    "drop_columns": ("table",),
    "image_size": ("folder",),
    "data_dir": ("name",),
    "scaling": ("name", "npz", "table", "folder"),
}


def _refuse_idle(spec, given):
    kind = kind_of(spec)
    for name, kinds in _ONLY.items():
        # An empty folder of the environment is none.
        if given.get(name) not in (None, []) and kind not in kinds:
            option = f"--{name.replace('_', '-')}"
            raise ValueError(
                f"{option} does not apply to --data {spec}. Received: {option} "
                f"{given[name]}. Leave it out."
            )


def _source(spec):
    sources = {
        "name": _load_named,
        "npz": _load_npz,
        "table": _load_table,
        "folder": _load_folder,
        "function": _call_function,
    }
    return sources[kind_of(spec)]


def scaling_of(spec: str, given: dict[str, Any]) -> str | None:
    """Returns the scaling: the given one, or the default for data and network.

    A network of the user's own gets its own data as they are.

    Example:

    >>> scaling_of("digits", {"own_model": True}), scaling_of("a.npz", {})
    ('standard', 'standard')
    >>> scaling_of("a.npz", {"own_model": True}), scaling_of("a.csv", {"own_model": 1})
    ('none', 'none')
    """
    kind = kind_of(spec)
    return None if kind == "function" else _scaling(kind, given)


def _scaling(kind, given):
    if given.get("scaling") is not None:
        return given["scaling"]
    prepared = kind != "name" and given.get("own_model")
    return "none" if prepared else "standard"


def takes_batch_size(spec: str) -> bool:
    """Returns whether a function that `--data` names has a parameter batch_size.

    Example:

    >>> takes_batch_size("math:sqrt")
    False
    """
    function = references.resolve(spec, "--data")
    return "batch_size" in inspect.signature(function).parameters


def absolute(spec: str) -> str:
    """Returns an option's text with an absolute path, if it names a file or folder.

    Example:

    >>> absolute("digits"), absolute("project.data:load")
    ('digits', 'project.data:load')
    """
    if spec in (*choices.DATASETS, *choices.NETWORKS):
        return spec
    if references.is_reference(spec):
        place, _, name = spec.rpartition(":")
        return f"{_full(place)}:{name}" if place.endswith(".py") else spec
    return _full(spec)


def _full(path):
    return os.path.abspath(os.path.expanduser(path))


def shown(content: Any) -> str:
    """Returns the shapes of arrays in nested structures, as text.

    Example:

    >>> shown({"a": np.ones((2, 3))})
    "{'a': (2, 3)}"
    """
    return str(keras.tree.map_structure(np.shape, content))


def _load_named(spec, given):
    scaling = _scaling("name", given)
    data = tt.datasets.load(spec, given.get("data_dir"), scaling=scaling)
    return _of_dataset(data)


def _load_npz(spec, given):
    scaling = _scaling("npz", given)
    as_images = not given.get("own_model")
    data = tt.datasets.load(spec, scaling=scaling, as_images=as_images)
    return _of_dataset(data, f"scaling {scaling}")


def _load_table(spec, given):
    target = given.get("target_column")
    if target is None:
        raise ValueError(
            f"--data {spec} needs --target-column NAME, the column to predict."
        )
    scaling = _scaling("table", given)
    data = tt.datasets.load_table(
        spec,
        target,
        task=given.get("task"),
        drop=given.get("drop_columns") or (),
        scaling=scaling,
        seed=given.get("seed", 0),
    )
    if data.class_names:
        names = _few(data.class_names)
        kind = f"classification of {target} ({data.num_classes} classes: {names})"
    else:
        kind = f"regression of {target}"
    return _of_dataset(data, kind, f"scaling {scaling}")


def _few(names):
    return ", ".join(names[:5]) + ", ..." * (len(names) > 5)


def _of_dataset(data, *notes):
    return OwnData(
        data=data,
        name=data.name,
        input_shape=data.input_shape,
        num_classes=data.num_classes if data.has_labels else None,
        sample=(data.x_train[:_ROWS], data.y_train[:_ROWS]),
        notes=notes,
    )


def _load_folder(spec, given):
    size = given.get("image_size")
    scaling = _scaling("folder", given)
    data = tt.datasets.load_images(
        spec,
        image_size=tuple(size * 2 if len(size) == 1 else size) if size else None,
        batch_size=given.get("batch_size") or 32,
        scaling=scaling,
        seed=given.get("seed", 0),
    )
    height, width, _ = data.train.input_shape
    classes = data.train.class_names
    notes = (
        f"images of {height}x{width} from {spec}",
        f"{len(classes)} classes: {_few(classes)}",
        f"scaling {scaling}" + ": pixels from 0 to 255" * (scaling == "none"),
    )
    return _of_training_data(data, data.name, notes)


def _call_function(spec, given):
    function = references.resolve(spec, "--data")
    values = {"batch_size": given.get("batch_size"), "seed": given.get("seed", 0)}
    made = references.call(function, values, f"--data {spec}")
    if isinstance(made, tt.datasets.Dataset):
        return _of_dataset(made)
    if isinstance(made, tuple | list) and len(made) in (2, 3):
        made = tt.TrainingData(*made)
    if not isinstance(made, tt.TrainingData):
        raise TypeError(
            f"--data {spec} must return a tf_tickets.TrainingData, a Dataset of "
            "tf_tickets.datasets, or a pair or triple of parts for training, "
            f"validation and optionally test. Received: {type(made).__name__}"
        )
    name = made.name or spec.rpartition(":")[2]
    return _of_training_data(made, name, ())


def _of_training_data(data, name, notes):
    sample = next(iter(_batches(data.train, peek=True)), None)
    shape = None
    if sample is not None and isinstance(sample[0], np.ndarray):
        shape = sample[0].shape[1:]
    return OwnData(
        data=data,
        name=name,
        input_shape=shape,
        num_classes=_classes(data, sample),
        sample=sample,
        has_batches=not _is_arrays(data.train),
        notes=notes,
    )


def _classes(data, sample):
    """Returns the number of classes of data, as far as it is known without a pass."""
    given = getattr(data.train, "num_classes", None)
    if given is not None:
        return int(given)
    labels = [part[1] for part in data.parts.values() if _has_labels(part)]
    if len(labels) == len(data.parts):
        return 1 + int(max(np.max(y) for y in labels))
    if sample is not None and is_one_hot(sample[1]):
        return int(sample[1].shape[-1])
    return None


def _has_labels(part):
    return (
        _is_arrays(part)
        and len(part) > 1
        and isinstance(part[1], np.ndarray)
        and part[1].dtype.kind in "ui"
    )


def is_one_hot(y: Any) -> bool:
    """Returns whether targets are one-hot: one 1 and otherwise 0 in each row.

    Example:

    >>> is_one_hot(np.eye(3)), is_one_hot(np.array([0, 1, 2]))
    (True, False)
    """
    if not isinstance(y, np.ndarray) or y.ndim != 2 or y.shape[-1] < 2:
        return False
    return bool(((y == 0) | (y == 1)).all() and (y.sum(-1) == 1).all())


def _taken(found, count):
    data = found.data
    if isinstance(data, tt.datasets.Dataset):
        return dataclasses.replace(
            found, data=data.take(count), name=f"{found.name}[:{count}]"
        )
    rows = found.rows
    train = data.train
    if rows is None or not (_is_arrays(train) or hasattr(train, "take")):
        raise ValueError(
            f"--take applies to arrays, tables and folders of images. Received: --take "
            f"{count} for {found.name}, whose number of examples is not known."
        )
    if count > rows:
        raise ValueError(
            f"`take` must be between 1 and the {rows} training examples of "
            f"{found.name}. Received: {count}"
        )
    if _is_arrays(train):
        fewer = keras.tree.map_structure(lambda array: array[:count], train)
    else:
        fewer = train.take(count)
    name = f"{found.name}[:{count}]"
    changed = dataclasses.replace(data, train=fewer, name=name)
    return dataclasses.replace(found, data=changed, name=name)


def _is_arrays(part):
    return isinstance(part, tuple | list)


def _rows(part):
    if _is_arrays(part):
        return len(keras.tree.flatten(part)[0])
    if isinstance(part, tt.datasets.ImageFolder):
        return len(part.paths)
    return None


def _known_length(part):
    """Returns the number of batches of data that know it, else None."""
    if isinstance(part, keras.utils.PyDataset):
        return part.num_batches
    cardinality = getattr(part, "cardinality", None)
    if cardinality is None:
        return None
    count = int(cardinality())
    # Unknown and infinite are negative.
    return count if count >= 0 else None


def _batches(part, peek=False) -> Iterable[tuple[Any, Any]]:
    """Yields (x, y) as arrays; those of an iterator are only read without `peek`."""
    if callable(part) and not isinstance(part, keras.utils.PyDataset):
        # What a function returns is made for this.
        yield from _batches(part(_KEY))
    elif _is_arrays(part):
        yield from _batches_of_arrays(part)
    elif not (peek and hasattr(part, "__next__")):
        yield from map(_as_pair, _numbered(part))


def _batches_of_arrays(part):
    whole = part[0], part[1] if len(part) > 1 else None
    for first in range(0, _rows(part), _ROWS):
        yield tuple(
            entry
            if entry is None
            else keras.tree.map_structure(lambda a: a[first : first + _ROWS], entry)  # noqa: B023  used at once
            for entry in whole
        )


def _numbered(part):
    """Yields the batches of data as they are."""
    if not isinstance(part, keras.utils.PyDataset):
        yield from part
        return
    if callable(getattr(part, "reorder", None)):
        part.reorder(_KEY)
    for index in range(part.num_batches or 1):
        yield part[index]


def _as_pair(batch):
    entries = tuple(batch) if isinstance(batch, tuple | list) else (batch,)
    x, *rest = (
        keras.tree.map_structure(keras.ops.convert_to_numpy, entry)
        for entry in entries[:2]
        if entry is not None
    )
    return x, rest[0] if rest else None
