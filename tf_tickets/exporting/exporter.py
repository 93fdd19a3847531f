"""One function that writes a model in any format, checks it, and reports."""

import contextlib
import dataclasses
import os
import pathlib
import shutil
import tempfile
from typing import Any

import keras
import numpy as np

from tf_tickets.environment import versions
from tf_tickets.exporting import (
    artefact_runner,
    onnx_file,
    signature,
    source,
    tensorflow_process,
    verification,
    writer,
)
from tf_tickets.exporting.export_report import ExportReport
from tf_tickets.exporting.writer import Order
from tf_tickets.tickets.ticket import Ticket

PRECISIONS = tuple(verification.TOLERANCES)
_BY_TENSORFLOW = ("saved_model", "tflite")
_ROWS = max(verification.BATCHES)
# The file by which a SavedModel is known.
_SIGN = "saved_model.pb"


def export(
    exported: keras.Model | Ticket,
    path: os.PathLike | str,
    format: str = "saved_model",
    *,
    model: keras.Model | None = None,
    data: Any = None,
    precision: str = "float32",
    trainable: bool = False,
    verify: bool = True,
    tolerance: float | None = None,
    overwrite: bool = False,
    seed: int = 0,
) -> ExportReport:
    """Writes a model so that its zeros take no room, and checks what was written.

    The artefact is loaded in a fresh interpreter and run at batch 1 and 32; only if it
    gives what the model gives it is moved to `path`. Otherwise nothing is left behind,
    and the error says why.

    Args:
        exported: A plain model, a wrapped one, or a ticket with its `model`.
        path: Where to: a folder for "saved_model", otherwise a file whose suffix tells
            the format.
        format: "saved_model" (TensorFlow, loads without this library), "tflite",
            "keras" or "onnx".
        model: With a ticket, the model that was trained from it.
        data: Inputs to compare on, an array or a nest of them; random ones by default.
            "int8" learns its ranges from them.
        precision: Of TFLite files: "float32", "float16", "dynamic" (weights of 8
            bits) or "int8" (activations too).
        trainable: Whether the artefact is to be trained on with its zeros kept: a
            SavedModel whose variables are the kept weights, or a `.keras` file of the
            wrapped model.
        verify: Whether to run it. Without it there are no errors and times either.
        tolerance: The largest error relative to the largest output; by default 1e-4,
            for "float16" 1e-2, "dynamic" 0.1, "int8" 0.25.
        overwrite: Whether `path` may be there already.
        seed: Seed of random inputs.

    Returns:
        An `ExportReport`: sizes, encodings, errors and times.

    Example:

    >>> model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(30)])
    >>> report = export(model, tmp_path / "model.keras", "keras", verify=False)
    >>> report.format, (tmp_path / "model.keras").exists()
    ('keras', True)
    """
    path = pathlib.Path(path)
    _check(path, format, overwrite)
    _check_ways(format, precision, trainable, data)
    found = source.of(exported, model)
    takes = signature.of_model(found.plain, data)
    if data is None:
        given = takes.examples(_ROWS, seed, found.plain)
    else:
        given = takes.named(data)
    allowed = verification.TOLERANCES[precision] if tolerance is None else tolerance
    expected = _expected(found.given, takes, given, verify)
    how = format, precision, trainable, verify, allowed
    order = Order(found, takes, given, expected, *how)
    return _perform(order, path, overwrite)


def _check(path, format, overwrite):
    if format not in writer.SUFFIXES:
        raise ValueError(
            f"`format` must be one of {sorted(writer.SUFFIXES)}. Received: {format!r}"
        )
    suffix = writer.SUFFIXES[format]
    if suffix and path.suffix != suffix:
        raise ValueError(
            f"The path of a {format} file must end in {suffix!r}. Received: {path}"
        )
    if not suffix and path.suffix in writer.SUFFIXES.values() and path.suffix:
        raise ValueError(
            f"{path} is the name of a file, format='saved_model' writes a folder. Say "
            "which format is meant, or name a folder."
        )
    _check_place(path, overwrite)
    if format == "onnx":
        onnx_file.check_installed()


def _check_place(path, overwrite):
    if not path.exists():
        return
    if not overwrite:
        raise ValueError(
            f"{path} is there already. Choose another path, or give overwrite=True."
        )
    if path.is_dir() and any(path.iterdir()) and not (path / _SIGN).exists():
        raise ValueError(
            f"{path} is a folder that holds other things than a SavedModel; it is not "
            "overwritten. Choose another path."
        )


def _check_ways(format, precision, trainable, data):
    if precision not in PRECISIONS:
        raise ValueError(
            f"`precision` must be one of {PRECISIONS}. Received: {precision!r}"
        )
    if precision != "float32" and format != "tflite":
        raise ValueError(
            "`precision` is that of TFLite files; other formats keep the model's own. "
            f"Received: format={format!r}, precision={precision!r}"
        )
    if trainable and format not in ("saved_model", "keras"):
        raise ValueError(
            "Only 'saved_model' and 'keras' can be trained on. Received: "
            f"format={format!r}, trainable=True"
        )
    if precision == "int8" and data is None:
        raise ValueError(
            "precision='int8' learns the ranges of activations from examples. Give "
            "some hundred of them: export(..., data=x)."
        )


def _expected(model, takes, inputs, verify):
    """What the model gives; it is as before afterwards."""
    rows = {name: array[: takes.batch or _ROWS] for name, array in inputs.items()}
    state = [keras.ops.convert_to_numpy(v.value) for v in model.non_trainable_variables]
    state = [np.array(array) for array in state]
    try:
        outputs = model(takes.nested(rows), **signature.told(model, training=False))
    except Exception as error:
        raise ValueError(
            f"{model.name!r} does not take the examples, of shapes "
            f"{ {name: array.shape for name, array in rows.items()} }: {error}\nGive "
            "some that it takes: export(..., data=x)."
        ) from error
    changed = _put_back(model.non_trainable_variables, state)
    if changed and verify:
        raise ValueError(
            f"{model.name!r} does not give the same twice: in inference it changes "
            f"{changed} (a state, or the seed of random numbers), so that what is "
            "written cannot be compared with it. Export it with verify=False, and "
            "compare it yourself."
        )
    found = signature.named_outputs(outputs)
    arrays = {name: keras.ops.convert_to_numpy(x) for name, x in found.items()}
    return {name: artefact_runner.plain(array) for name, array in arrays.items()}


def _put_back(variables, before):
    """Gives the paths of the variables that had another value."""
    changed = []
    for variable, old in zip(variables, before, strict=True):
        if (keras.ops.convert_to_numpy(variable.value) != old).any():
            variable.assign(old)
            changed.append(variable.path)
    return changed


def _perform(order, path, overwrite):
    """In a folder beside the path, from where what is right is moved there."""
    by_other = order.format in _BY_TENSORFLOW and not _on_tensorflow()
    perform = tensorflow_process.perform if by_other else writer.perform
    beside = {"prefix": f".{path.name}.", "dir": path.parent}
    with _made(path.parent), tempfile.TemporaryDirectory(**beside) as name:
        folder = pathlib.Path(name)
        report = perform(order, folder)
        # Somebody else may have been faster.
        _check_place(path, overwrite)
        _move(pathlib.Path(report.path), path, folder)
    origin = {**report.provenance, "versions": versions()}
    return dataclasses.replace(report, path=os.fspath(path), provenance=origin)


@contextlib.contextmanager
def _made(folder):
    """The folder; if it was not there and the export fails, it goes again."""
    new = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for one in new:
            with contextlib.suppress(OSError):
                one.rmdir()
        raise


def _move(written, path, folder):
    """Into its place; what was there goes with the folder."""
    aside = folder / "before"
    with contextlib.suppress(FileNotFoundError):
        os.rename(path, aside)
    try:
        os.rename(written, path)
    except OSError:
        if aside.exists():
            shutil.move(aside, path)
        raise


def _on_tensorflow():
    return keras.config.backend() == "tensorflow"
