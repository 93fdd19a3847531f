"""Teachers for a search: dense networks that began with the same weights."""

import json
import os
import pathlib
from collections.abc import Callable, Sequence

import keras
import numpy as np

from tf_tickets import files
from tf_tickets.search import runner
from tf_tickets.training import batches, checks
from tf_tickets.wrapping import paths

# Far from the rounds of a search, so that no teacher sees the order of its data.
_ORDER = 1_000_000


def train_teachers(
    build_model: Callable[[], keras.Model],
    data: runner.Data,
    epochs: Sequence[int],
    directory: os.PathLike | str | None = None,
    seed: int = 0,
    *,
    batch_size: int = 32,
    verbose: str | int = 0,
) -> list[keras.Model]:
    """Trains several dense networks from the same weights, each with its data order.

    Args:
        build_model: Function without arguments that gives a compiled, plain model.
        data: As in `find_ticket`; neither validation nor test data are trained on.
        epochs: For how long each of them is trained, one number a teacher: a share of
            the budget, or until it has converged.
        directory: Where to keep them; the same one again trains nothing anew. One of
            other teachers (layers, first weights, loss, optimizer, data, epochs, seed,
            batch size) is refused.
        seed: Seed of the weights, which are those of `find_ticket` with this seed.
        batch_size: Examples a step.
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
    for count in epochs:
        checks.check_counts(epochs=count)
    parts = runner.split(data)
    folder = None if directory is None else pathlib.Path(directory)
    teachers = []
    for place, count in enumerate(epochs):
        keras.utils.set_random_seed(seed)
        model = build_model()
        if place == 0:
            _check_folder(folder, _identity(model, parts, epochs, seed, batch_size))
        path = folder and folder / f"teacher_{place}.npz"
        if path and path.exists():
            with np.load(path) as kept:
                model.set_weights(list(kept.values()))
        else:
            _train(model, parts, (seed, _ORDER + place), batch_size, count, verbose)
            _keep(model, path)
        teachers.append(model)
    return teachers


def _identity(model, parts, epochs, seed, batch_size):
    found = {
        "first weights": batches.digest(model.get_weights()),
        "layers": [_described(layer) for layer in paths.walk(model)],
        "loss": getattr(model.loss, "__name__", None) or str(_serialized(model.loss)),
        "optimizer": runner.optimizer_config(model),
        "epochs": list(epochs),
        "seed": seed,
        "batch_size": batch_size,
        "data": batches.digest(parts["train"]),
        "backend": keras.config.backend(),
    }
    return runner.nameless(found)


def _described(layer):
    activation = getattr(layer, "activation", None)
    return f"{type(layer).__name__} {getattr(activation, '__name__', '')}".strip()


def _serialized(loss):
    return loss if isinstance(loss, str) else keras.saving.serialize_keras_object(loss)


def _train(model, parts, key, batch_size, epochs, verbose):
    state = {"epoch": 0}
    follow = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: state.update(epoch=epoch)
    )
    x, y = parts["train"]
    keras.utils.set_random_seed(runner.round_seed(*key) % 2**32)
    model.fit(
        batches.feed(x, y, batch_size, lambda: (*key, state["epoch"])),
        validation_data=parts["validation"],
        validation_batch_size=512,
        epochs=epochs,
        shuffle=False,
        callbacks=[follow],
        verbose=verbose,
    )


def _keep(model, path):
    if path:
        with files.replacing(path) as draft:
            np.savez(draft, *model.get_weights())


def _check_folder(folder, identity):
    if folder is None:
        return
    path = folder / "teachers.json"
    if path.exists():
        found = json.loads(path.read_text())
        differing = runner.differences(found, identity)
        if differing:
            raise ValueError(
                f"{folder} holds other teachers: {'; '.join(differing)}. Give another "
                "directory."
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    with files.replacing(path) as draft:
        draft.write_text(json.dumps(identity, indent=1))
