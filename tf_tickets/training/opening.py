"""Opens data: a source for each part, and checks of all parts together."""

import functools

import keras

from tf_tickets.training import data
from tf_tickets.training.data import Key, Part, TrainingData
from tf_tickets.training.sources import (
    ArraySource,
    ClassWeight,
    DatasetSource,
    FunctionSource,
    IteratorSource,
    PyDatasetSource,
    Source,
)


def open_data(
    training: TrainingData, seed: int, batch_size: int | None
) -> dict[str, Source]:
    """Returns a dict from the name of each part to its source.

    Args:
        training: The data.
        seed: Seed of the data order.
        batch_size: Batch size of arrays; None for 32. Refused beside training data in
            batches.

    Example:

    >>> x, y = np.ones((8, 4)), np.ones(8)
    >>> open_data(TrainingData((x, y), (x, y)), 0, 4)["train"].steps
    2
    """
    sources = {}
    for name, part in training.parts.items():
        is_train = name == "train"
        sources[name] = open_part(
            name,
            part,
            getattr(training, data.PARTS[name]),
            training.class_weight if is_train else None,
            is_train,
            (seed, 0, 0),
            batch_size if is_train else None,
        )
    _check_batch_size(sources["train"], batch_size)
    _check_structures(sources)
    return sources


def open_part(
    name: str,
    part: Part,
    steps: int | None,
    class_weight: ClassWeight,
    shuffle: bool,
    key: Key,
    batch_size: int | None,
) -> Source:
    """Returns the source of a part.

    Args:
        name: Name of the part.
        part: What a `TrainingData` has.
        steps: Number of batches per epoch; None if it was not given.
        class_weight: Weights of classes.
        shuffle: Whether to shuffle by the key.
        key: A key, by which functions and PyDatasets are looked at.
        batch_size: Batch size of arrays; None for 32.

    Example:

    >>> batches = iter([(np.ones((8, 4)), np.ones(8))] * 6)
    >>> open_part("train", batches, 2, None, True, (0, 0, 0), None).kind
    'generator'
    """
    kind = data.kind_of(name, part)
    if kind == "function" and not shuffle:
        # Nothing changes from one evaluation to the next.
        found = data.result_of(name, part, key)
        kind_found = data.kind_of(name, found)
        if kind_found in ("arrays", "PyDataset"):
            kind, part = kind_found, found
    if kind == "arrays":
        arrays = data.as_arrays(name, part)
        rows = len(keras.tree.flatten(arrays)[0])
        # Evaluation takes all rows.
        size = _size(rows, batch_size) if shuffle else rows
        return ArraySource(name, arrays, size, class_weight)
    if kind == "tf.data.Dataset":
        return DatasetSource(name, part, steps, class_weight)
    if kind == "PyDataset":
        return PyDatasetSource(name, part, steps, class_weight, shuffle, key)
    if kind == "iterator":
        return IteratorSource(name, part, steps, class_weight)
    opened = functools.partial(
        open_part,
        name,
        steps=steps,
        class_weight=class_weight,
        shuffle=shuffle,
        batch_size=batch_size,
    )
    return FunctionSource(name, part, opened, key)


def _size(rows, batch_size):
    size = 32 if batch_size is None else batch_size
    if size > rows:
        raise ValueError(
            "The arrays of the training data must have at least `batch_size` rows. "
            f"Received: {rows} rows, batch_size={size}"
        )
    return size


def _check_batch_size(source, batch_size):
    has_own = not isinstance(source, ArraySource) and (
        getattr(source, "batch_size", None) is None
    )
    if has_own and batch_size is not None:
        raise ValueError(
            f"`batch_size` is for arrays. Received: batch_size={batch_size} beside a "
            f"{source.kind}, which has batches of its own. Remove `batch_size`."
        )


def _check_structures(sources):
    """Refuses parts with other inputs or targets than those of the training."""
    tops = {
        name: [_names(entry) for entry in source.structure[:2]]
        for name, source in sources.items()
    }
    for name, top in tops.items():
        if top != tops["train"]:
            raise ValueError(
                "All parts of the data must have the structure of the training data. "
                f"Received for train: {_shown(tops['train'])}; for {name}: "
                f"{_shown(top)}"
            )


def _names(entry):
    return ["/".join(map(str, p)) for p, _ in keras.tree.flatten_with_path(entry)]


def _shown(top):
    texts = [
        f"{what}{' of ' + ', '.join(names) if names != [''] else ''}"
        for what, names in zip(("x", "y"), top, strict=False)
    ]
    return f"({', '.join(texts)})"
