"""What every model of the zoo must pass.

A check takes a `Bench`, which holds the models that the checks before it have made:
tracing takes most of the time. Each check makes what is missing, and runs alone, too.
"""

import functools
import math
import pathlib
import re
from collections.abc import Callable

import keras
import numpy as np

import tf_tickets as tt
from tf_tickets.wrapping import paths, to_numpy
from zoo.case import Builder, Case


class Bench:
    """The models of one case in all their states.

    Args:
        build: Builds the case.
        folder: A folder for files.
    """

    def __init__(self, build: Builder, folder: pathlib.Path) -> None:
        self.build = build
        self.folder = folder
        self.case: Case = build()

    @functools.cached_property
    def wrapped(self) -> keras.Model:
        """The wrapped model."""
        return self.case.wrap(self.case.model)

    @functools.cached_property
    def pruned(self) -> keras.Model:
        """The wrapped model without the smaller half of every kernel."""
        kernels = tt.kernels(self.wrapped)
        kernels.set_masks({p: _larger_half(k) for p, k in kernels.weights.items()})
        return self.wrapped

    @functools.cached_property
    def stripped(self) -> keras.Model:
        """The pruned model without wrappers; a subclassed one is changed in place."""
        return tt.strip(self.pruned)

    def outputs(self, model: keras.Model) -> list[np.ndarray]:
        """Returns the predictions of the compiled graph; resets the model's state."""
        predict = functools.partial(model.predict, batch_size=self.case.batch_size)
        return _stateless(model, lambda: predict(self.case.x, verbose=0))

    def called(self, model: keras.Model) -> list[np.ndarray]:
        """Returns the outputs for a batch without tracing; resets the model's state."""
        rows = self.case.batch_size
        x = keras.tree.map_structure(lambda array: array[:rows], self.case.x)
        return _stateless(model, lambda: model(x, training=False))

    def fit(self, **more: object) -> dict[str, list[float]]:
        """Trains the pruned model for an epoch."""
        settings = {"batch_size": self.case.batch_size, "verbose": 0, **more}
        return self.pruned.fit(self.case.x, self.case.y, **settings).history

    def through_file(self, model: keras.Model) -> keras.Model:
        """Saves a model as `.keras` and loads it."""
        path = self.folder / "model.keras"
        model.save(path)
        return keras.saving.load_model(path, custom_objects=self.case.custom_objects)

    def export(self, name: str) -> None:
        """Exports the stripped model. The export verifies itself."""
        path = self.folder / name
        report = tt.export(self.stripped, path, data=self.case.x, **self.case.export)
        assert path.exists() and report.errors


def wrap_equal(bench: Bench) -> None:
    """The wrapped model predicts the same as the plain one, bit for bit."""
    before = bench.outputs(bench.case.model)
    equal(bench.outputs(bench.wrapped), before)


def fit(bench: Bench) -> None:
    """Training keeps masks and zeros, changes other weights, and the loss is finite."""
    kernels = tt.kernels(bench.pruned)
    masks, before = kernels.masks, kernels.weights
    logs = bench.fit()
    assert logs and all(math.isfinite(value[0]) for value in logs.values()), logs
    equal(kernels.masks, masks)
    after = kernels.weights
    for path, mask in masks.items():
        assert not after[path][~mask].any(), f"{path} has lost its zeros"
    assert any((after[path] != before[path]).any() for path in masks)


def keras_file(bench: Bench) -> None:
    """The wrapped model is saved as `.keras` and loaded with masks and predictions."""
    again = bench.through_file(bench.pruned)
    equal(_masks(again), _masks(bench.pruned))
    equal(bench.called(again), bench.called(bench.pruned))


def ticket(bench: Bench) -> None:
    """A ticket of IMP, saved and loaded, gives a fresh model its masks and weights."""
    search = tt.IMP(rounds=1, epochs_per_round=1, rate=0.5, monitor="loss")
    bench.fit(epochs=search.epochs, callbacks=[search])
    search.tickets[-1].save(bench.folder / "a.ticket")
    loaded = tt.Ticket.load(bench.folder / "a.ticket")
    assert loaded == search.tickets[-1] and 0.7 < loaded.sparsity < 0.8
    fresh = loaded.apply(bench.build().model)
    equal(_masks(fresh), list(loaded.masks.values()))
    equal(bench.called(fresh), bench.called(loaded.apply(bench.wrapped)))


def strip_exact(bench: Bench) -> None:
    """The stripped model has the zeros and predicts the same, bit for bit."""
    before = bench.outputs(bench.pruned)
    kernels = tt.kernels(bench.pruned)
    masks, stored = kernels.masks, kernels.variables
    plain = bench.stripped
    assert not tt.kernels(plain)
    held = {id(variable) for variable in plain.variables}
    for path, mask in masks.items():
        assert id(stored[path]) in held and not mask.all()
        assert not to_numpy(stored[path])[~mask].any()
    # A stripped model is not compiled. XLA rounds in another way than other code.
    plain.run_eagerly = bench.pruned.run_eagerly
    plain.jit_compile = bench.pruned.jit_compile
    equal(bench.outputs(plain), before)


def stripped_file(bench: Bench) -> None:
    """The stripped model is saved as `.keras` and loaded by Keras alone."""
    again = bench.through_file(bench.stripped)
    equal(bench.called(again), bench.called(bench.stripped))


def saved_model(bench: Bench) -> None:
    """`tf_tickets.export` writes a SavedModel, which it verifies."""
    bench.export("saved_model")


def tflite(bench: Bench) -> None:
    """`tf_tickets.export` writes a `.tflite` file, which it verifies."""
    bench.export("model.tflite")


# In this order, since a subclassed model is stripped in place.
CHECKS: dict[str, Callable[[Bench], None]] = {
    check.__name__: check
    for check in (
        *(wrap_equal, fit, keras_file, ticket, strip_exact, stripped_file),
        *(saved_model, tflite),
    )
}


def run(name: str, bench: Bench) -> str | None:
    """Runs a check.

    Returns:
        None if it passed, or the reason why it cannot pass, after it has failed with
        the message that the case names.
    """
    limit = bench.case.limits.get(name)
    if limit is None:
        CHECKS[name](bench)
        return None
    try:
        CHECKS[name](bench)
    except Exception as error:
        if re.search(limit.message, str(error)) is None:
            raise
        return limit.reason
    raise AssertionError(
        f"{name} passes although {limit.reason!r}: remove this limit of the model."
    )


def equal(found, expected) -> None:
    """Compares arrays, alone, in lists or in dicts, bit for bit."""
    one, other = keras.tree.flatten(found), keras.tree.flatten(expected)
    assert len(one) == len(other)
    for left, right in zip(one, other, strict=True):
        assert left.dtype == right.dtype and left.shape == right.shape
        if left.tobytes() != right.tobytes():
            gap = np.abs(left.astype("float64") - right.astype("float64")).max()
            raise AssertionError(f"The arrays differ by up to {gap:.3g}.")


def _larger_half(kernel):
    mask = np.ones(kernel.size, bool)
    smaller = np.argsort(np.abs(kernel), axis=None, kind="stable")[: kernel.size // 2]
    mask[smaller] = False
    return mask.reshape(kernel.shape)


def _masks(model):
    return list(tt.kernels(model).masks.values())


def _stateless(model, compute):
    """Returns the outputs of a model as arrays, and its state to what it was."""
    recurrent = [x for x in paths.walk(model) if isinstance(x, keras.layers.RNN)]
    for layer in recurrent:
        if layer.stateful:
            layer.reset_state()
    state = [(v, to_numpy(v)) for v in model.non_trainable_variables]
    outputs = [np.array(x) for x in map(_array, keras.tree.flatten(compute()))]
    for variable, value in state:
        variable.assign(value)
    return outputs


def _array(output):
    return keras.ops.convert_to_numpy(output)
