"""Teachers for a search: dense networks that start from the same weights."""

import json
import os
from collections.abc import Callable, Sequence

import keras
import numpy as np

from tf_tickets import arguments, files, schema
from tf_tickets.search import identity, inputs
from tf_tickets.search.lock import locked

# Far from a search's round numbers, so no teacher shares its data order.
_ORDER = 1_000_000
_MAX_HEADER_BYTES = 1024
_REMEDY = "Delete it and start again: the teacher is then trained again."


def train_teachers(
    build_model: Callable[[], keras.Model],
    data: inputs.Data,
    epochs: Sequence[int],
    directory: os.PathLike | str | None = None,
    seed: int = 0,
    *,
    batch_size: int | None = None,
    watch: inputs.Watch | None = None,
    verbose: str | int = 0,
) -> list[keras.Model]:
    """Trains dense networks from the same weights, each with its own data order.

    Args:
        build_model: Function without arguments that returns a compiled, plain model.
        data: As in `find_tickets`; neither validation nor test data are trained on.
        epochs: Number of epochs of each teacher, one entry per teacher.
        directory: Where to store them. Passing it again loads them without training. A
            directory of other teachers (layers, first weights, loss, optimizer, data,
            epochs, seed, batch size) is refused.
        seed: Seed of the weights, which are those of `find_tickets` with this seed.
        batch_size: Batch size of arrays, 32 by default.
        watch: Function from the name of a training, such as "teacher 1", to
            callbacks that show its progress.
        verbose: As in `model.fit`.

    Example:

    >>> def build():
    ...     model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    ...     model.compile("adam", "mse")
    ...     return model
    >>> x, y = np.ones((8, 4)), np.ones((8, 2))
    >>> teachers = train_teachers(build, ((x, y), (x, y)), [1, 2], batch_size=4)
    >>> len(teachers)
    2
    """
    epochs = arguments.listed(object, epochs=epochs)
    for count in epochs:
        arguments.check_counts(epochs=count)
    arguments.check_build(build_model)
    seed, batch_size = inputs.check_fit(seed, batch_size, verbose)
    inputs.check_watch(watch)
    opened = inputs.Inputs(data, seed, batch_size)
    folder = None
    if directory is not None:
        folder = arguments.check_path(directory=directory)
    teachers = []
    with locked(folder):
        for index, count in enumerate(epochs):
            keras.utils.set_random_seed(seed)
            model = inputs.compiled(build_model)
            opened.check(model, sum(epochs))
            if index == 0:
                _check_folder(folder, _identity(model, opened, epochs))
            path = folder and folder / f"teacher_{index}.npz"
            if path and path.exists():
                with files.reading(path, "the weights of a teacher", _REMEDY):
                    _load(model, path)
            else:
                name = f"teacher {index + 1}"
                watching = inputs.watched(watch or inputs.unwatched, name)
                key = (seed, _ORDER + index)
                _train(model, opened, key, count, watching, verbose)
                _keep(model, path)
            teachers.append(model)
    return teachers


def _identity(model, opened, epochs):
    content = identity.identity_of_training(model, opened, ["train"])
    return identity.without_names({**content, "epochs": list(epochs)})


def _train(model, opened, key, epochs, watching, verbose):
    state = {"epoch": 0}
    follow = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: state.update(epoch=epoch)
    )
    keras.utils.set_random_seed(inputs.round_seed(*key))
    opened.fit(
        model,
        opened.feed(lambda: (*key, state["epoch"])),
        [follow, *watching],
        epochs=epochs,
        verbose=verbose,
    )


def _keep(model, path):
    if path:
        with files.replacing(path) as draft:
            np.savez(draft, *model.get_weights())


def _load(model, path):
    size = sum(weight.nbytes for weight in model.get_weights())
    # NumPy leaves a damaged file open if it opens it itself.
    with open(path, "rb") as file, np.load(file) as kept:
        entries = kept.zip.infolist()
        unpacked = sum(entry.file_size for entry in entries)
        # Each array has a short header.
        if unpacked > size + _MAX_HEADER_BYTES * len(entries):
            raise ValueError(f"it has {unpacked} bytes, but the model has {size}")
        model.set_weights(list(kept.values()))


def _check_folder(folder, expected):
    if folder is None:
        return
    path = folder / "teachers.json"
    if path.exists():
        found = files.read_json(path, schema.mapping(), _REMEDY)
        differing = identity.differences(found, expected)
        if differing:
            raise ValueError(
                f"{folder} holds other teachers: {'; '.join(differing)}. Give another "
                "directory."
            )
        return
    with files.replacing(path) as draft:
        draft.write_text(json.dumps(expected, indent=1))
