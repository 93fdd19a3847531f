"""What every model of the zoo must pass. Each check takes a case of its own."""

import math
import pathlib
import re
from collections.abc import Callable

import keras
import numpy as np

import tf_tickets as tt
from tf_tickets.wrapping import to_numpy
from zoo.case import Builder, Case


def wrap_equal(case: Case, build: Builder, folder: pathlib.Path) -> None:
    """The wrapped model predicts the same as the plain one, bit for bit."""
    before = predicted(case.model, case)
    equal(predicted(case.wrap(case.model), case), before)


def fit(case: Case, build: Builder, folder: pathlib.Path) -> None:
    """Training keeps masks and zeros, changes other weights, and the loss is finite."""
    model = pruned(case)
    kernels = tt.kernels(model)
    masks, before = kernels.masks, kernels.weights
    logs = model.fit(
        case.x, case.y, batch_size=case.batch_size, epochs=1, verbose=0
    ).history
    assert logs and all(math.isfinite(value[0]) for value in logs.values()), logs
    equal(kernels.masks, masks)
    after = kernels.weights
    for path, mask in masks.items():
        assert not after[path][~mask].any(), f"{path} has lost its zeros"
    assert any((after[path] != before[path]).any() for path in masks)


def strip_exact(case: Case, build: Builder, folder: pathlib.Path) -> None:
    """The stripped model has the zeros and predicts the same, bit for bit."""
    model = pruned(case)
    before = predicted(model, case)
    kernels = tt.kernels(model)
    masks, stored = kernels.masks, kernels.variables
    plain = tt.strip(model)
    assert not tt.kernels(plain)
    held = {id(variable) for variable in plain.variables}
    for path, mask in masks.items():
        assert id(stored[path]) in held
        assert not to_numpy(stored[path])[~mask].any()
    equal(predicted(plain, case), before)


def keras_file(case: Case, build: Builder, folder: pathlib.Path) -> None:
    """The wrapped model is saved as `.keras` and loaded with masks and predictions."""
    model = pruned(case)
    again = through_file(model, case, folder)
    equal(
        list(tt.kernels(again).masks.values()), list(tt.kernels(model).masks.values())
    )
    equal(predicted(again, case), predicted(model, case))


def stripped_file(case: Case, build: Builder, folder: pathlib.Path) -> None:
    """The stripped model is saved as `.keras` and loaded by Keras alone."""
    plain = tt.strip(pruned(case))
    equal(predicted(through_file(plain, case, folder), case), predicted(plain, case))


def ticket(case: Case, build: Builder, folder: pathlib.Path) -> None:
    """A ticket of IMP, saved and loaded, gives a fresh model its masks and weights."""
    model = case.wrap(case.model)
    search = tt.IMP(rounds=1, epochs_per_round=1, rate=0.5, monitor="loss")
    model.fit(
        *(case.x, case.y),
        batch_size=case.batch_size,
        epochs=search.epochs,
        callbacks=[search],
        verbose=0,
    )
    search.tickets[-1].save(folder / "a.ticket")
    loaded = tt.Ticket.load(folder / "a.ticket")
    assert loaded == search.tickets[-1] and 0.4 < loaded.sparsity < 0.6
    fresh = loaded.apply(build().model)
    equal(list(tt.kernels(fresh).masks.values()), list(loaded.masks.values()))
    equal(predicted(fresh, case), predicted(loaded.apply(model), case))


def saved_model(case: Case, build: Builder, folder: pathlib.Path) -> None:
    """`tf_tickets.export` writes a SavedModel, which it verifies."""
    exported(case, folder / "saved_model")


def tflite(case: Case, build: Builder, folder: pathlib.Path) -> None:
    """`tf_tickets.export` writes a `.tflite` file, which it verifies."""
    exported(case, folder / "model.tflite")


CHECKS: dict[str, Callable[[Case, Builder, pathlib.Path], None]] = {
    check.__name__: check
    for check in (
        *(wrap_equal, fit, strip_exact, keras_file, stripped_file, ticket),
        *(saved_model, tflite),
    )
}


def run(name: str, build: Builder, folder: pathlib.Path) -> str | None:
    """Runs a check.

    Returns:
        None if it passed, or the reason why it cannot pass, after it has failed with
        the message that the case names.
    """
    case = build()
    limit = case.limits.get(name)
    if limit is None:
        CHECKS[name](case, build, folder)
        return None
    try:
        CHECKS[name](case, build, folder)
    except Exception as error:
        if re.search(limit.message, str(error)) is None:
            raise
        return limit.reason
    raise AssertionError(
        f"{name} passes although {limit.reason!r}: remove this limit of the model."
    )


def pruned(case: Case) -> keras.Model:
    """Wraps the model and prunes the smaller half of every kernel."""
    model = case.wrap(case.model)
    kernels = tt.kernels(model)
    kernels.set_masks({path: _half(kernel) for path, kernel in kernels.weights.items()})
    return model


def _half(kernel):
    mask = np.ones(kernel.size, bool)
    mask[np.argsort(np.abs(kernel), axis=None, kind="stable")[: kernel.size // 2]] = (
        False
    )
    return mask.reshape(kernel.shape)


def predicted(model: keras.Model, case: Case) -> list[np.ndarray]:
    """Returns the predictions, and leaves the state of the model as it is."""
    state = [(v, to_numpy(v)) for v in model.non_trainable_variables]
    outputs = model.predict(case.x, batch_size=case.batch_size, verbose=0)
    for variable, value in state:
        variable.assign(value)
    return keras.tree.flatten(outputs)


def through_file(model: keras.Model, case: Case, folder: pathlib.Path) -> keras.Model:
    """Saves a model as `.keras` and loads it."""
    model.save(folder / "model.keras")
    return keras.saving.load_model(
        folder / "model.keras", custom_objects=case.custom_objects
    )


def exported(case: Case, path: pathlib.Path) -> None:
    plain = tt.strip(pruned(case))
    report = tt.export(plain, path, data=case.x, **case.export)
    assert path.exists() and report.errors


def equal(found, expected) -> None:
    """Compares arrays, alone, in lists or in dicts, bit for bit."""
    one, other = keras.tree.flatten(found), keras.tree.flatten(expected)
    assert len(one) == len(other)
    for left, right in zip(one, other, strict=True):
        left, right = np.asarray(left), np.asarray(right)
        assert left.dtype == right.dtype and left.shape == right.shape
        if left.tobytes() != right.tobytes():
            gap = np.abs(left.astype("float64") - right.astype("float64")).max()
            raise AssertionError(f"The arrays differ by up to {gap:.3g}.")
