"""Exports a model to any format, verifies the result and reports on it."""

import contextlib
import dataclasses
import os
import pathlib
import tempfile
from typing import Any

import keras
import numpy as np

from tf_tickets import arguments, files
from tf_tickets.environment import versions
from tf_tickets.exporting import (
    artefact_runner,
    formats,
    onnx_file,
    remarks,
    replaced_kernels,
    source,
    tensorflow_process,
    verification,
    writer,
)
from tf_tickets.exporting.conversion_runner import CALIBRATED
from tf_tickets.exporting.export_report import ExportReport
from tf_tickets.exporting.micro import micro_file
from tf_tickets.exporting.order import MicroOptions, Order
from tf_tickets.tickets.ticket import Ticket
from tf_tickets.wrapping import paths, signature

PRECISIONS = tuple(verification.TOLERANCES)
_DEFAULT_PRECISIONS = {"tflite-micro": "int8"}
_ROWS = max(verification.BATCHES)
# The file that identifies a SavedModel.
_SAVED_MODEL_FILE = "saved_model.pb"


def export(
    exported: keras.Model | Ticket,
    path: os.PathLike | str,
    format: str | None = None,
    *,
    model: keras.Model | None = None,
    data: Any = None,
    precision: str | None = None,
    trainable: bool = False,
    verify: bool = True,
    tolerance: float | None = None,
    overwrite: bool = False,
    seed: int = 0,
    micro: MicroOptions | None = None,
) -> ExportReport:
    """Exports a model so that its zeros take no space, and verifies the result.

    The export is loaded in a fresh process and run with batch sizes 1 and 32. It is
    moved to `path` only if its outputs match the model's. If not, no file is left
    behind and the error states the difference.

    Args:
        exported: A plain model, a wrapped model, or a ticket with its `model`.
        path: The output path. Its suffix selects the format: `.keras`, `.tflite`,
            `.onnx`, `.cc` for a C array of TensorFlow Lite Micro, or no suffix for
            the folder of a SavedModel.
        format: "saved_model" (TensorFlow, loads without this library), "tflite",
            "tflite-micro" (a `.tflite` file or C array whose zeros take no flash on
            a microcontroller), "keras" or "onnx". By default the suffix of `path`
            selects it. Required for a `.tflite` file of TensorFlow Lite Micro, and
            for a SavedModel whose folder has a dot in its name.
        model: For a ticket, the model that was trained from it.
        data: Example inputs for the verification, an array or a nest of arrays.
            Random by default. "int8" and "int16x8" are calibrated on them.
        precision: Precision of TFLite files: "float32" (the default of "tflite"),
            "float16", "dynamic" (8-bit weights), "int8" (8-bit activations too; the
            default of "tflite-micro") or "int16x8" (8-bit weights, 16-bit
            activations). "tflite-micro" has "int8", "int16x8" and "float32".
        trainable: Whether to write an export that can be trained while its zeros
            stay zero: a SavedModel whose variables are the kept weights, or a
            `.keras` file of the wrapped model.
        verify: Whether to verify the export. Without it the report has no errors and
            latencies.
        tolerance: The largest allowed error relative to the largest output. By
            default 1e-4; for "float16" 1e-2, "dynamic" and "int16x8" 0.1, "int8" 0.25.
        overwrite: Whether to replace `path` if it exists.
        seed: Seed of random inputs.
        micro: What only "tflite-micro" has: a limit for the RAM, whether names are
            kept, and per-tensor quantization.

    Returns:
        An `ExportReport` with sizes, encodings, errors and latencies.

    Example:

    >>> model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(30)])
    >>> report = export(model, tmp_path / "model.keras", verify=False)
    >>> report.format, (tmp_path / "model.keras").exists()
    ('keras', True)
    """
    path = arguments.check_path(path=path)
    arguments.check_flags(trainable=trainable, verify=verify, overwrite=overwrite)
    arguments.check_seed(seed)
    if tolerance is not None:
        arguments.check_between(0.0, float("inf"), tolerance=tolerance)
    format = formats.choose(path, format)
    _check_place(path, overwrite)
    _check_micro(format, micro)
    if precision is None:
        precision = _DEFAULT_PRECISIONS.get(format, "float32")
    _check_options(format, precision, trainable, data)
    found = source.of(exported, model)
    _check_stateless(found.plain, format)
    replaced_kernels.check(found.plain, format)
    takes = signature.of_model(found.plain, data)
    if format == "tflite-micro":
        micro_file.check_batch(takes.batch)
    if data is None:
        given = takes.examples(_ROWS, seed, found.plain)
    else:
        given = takes.named(data)
    allowed = verification.TOLERANCES[precision] if tolerance is None else tolerance
    expected = _expected(found.given, takes, given, verify)
    how = format, precision, trainable, verify, allowed, micro or MicroOptions()
    array = micro_file.array_name(path)
    order = Order(found, takes, given, expected, *how, array=array)
    return _perform(order, path, overwrite)


def _check_place(path, overwrite):
    if not path.exists():
        return
    if not overwrite:
        raise ValueError(
            f"{path} exists already. Choose another path, or pass overwrite=True."
        )
    if (
        path.is_dir()
        and any(path.iterdir())
        and not (path / _SAVED_MODEL_FILE).exists()
    ):
        raise ValueError(
            f"{path} is a folder with contents other than a SavedModel. It is not "
            "overwritten. Choose another path."
        )


def _check_stateless(model, format):
    """Refuses recurrent layers whose state Keras keeps outside of the variables."""
    stateful = [
        layer.name
        for layer in paths.walk(model)
        if isinstance(layer, keras.layers.RNN) and layer.stateful
    ]
    if stateful and format != "keras":
        raise ValueError(
            f"The format {format!r} cannot hold the state that recurrent layers keep "
            f"between calls. Received stateful layers: {stateful}. Export the model "
            "with stateful=False, or choose the format 'keras'."
        )


def _check_micro(format, micro):
    if micro is None:
        return
    arguments.check_type(MicroOptions, micro=micro)
    if format != "tflite-micro":
        raise ValueError(
            "`micro` applies to the format 'tflite-micro' only. Received: "
            f"format={format!r}, micro={micro}. Pass format='tflite-micro', or leave "
            "out `micro`."
        )


def _check_options(format, precision, trainable, data):
    if format == "onnx":
        onnx_file.check_installed()
    arguments.check_choice(PRECISIONS, precision=precision)
    if format == "tflite-micro":
        micro_file.check_precision(precision)
    if precision != "float32" and format not in formats.TFLITE:
        raise ValueError(
            "`precision` applies to TFLite files only; other formats keep the model's "
            f"precision. Received: format={format!r}, precision={precision!r}"
        )
    if trainable and format not in ("saved_model", "keras"):
        raise ValueError(
            "Only the formats 'saved_model' and 'keras' can be trainable. Received: "
            f"format={format!r}, trainable=True"
        )
    if precision in CALIBRATED and data is None:
        raise ValueError(
            f"precision={precision!r} needs examples to calibrate the ranges of "
            "activations. Received: data=None. Pass a few hundred: data=x."
        )


def _expected(model, takes, inputs, verify):
    """The outputs of the model. Leaves the model unchanged."""
    rows = {name: array[: takes.batch or _ROWS] for name, array in inputs.items()}
    state = [keras.ops.convert_to_numpy(v.value) for v in model.non_trainable_variables]
    state = [np.array(array) for array in state]
    try:
        outputs = model(takes.nested(rows), **signature.told(model, training=False))
    except Exception as error:
        raise ValueError(
            f"Model {model.name!r} fails on the examples. Received shapes: "
            f"{ {name: array.shape for name, array in rows.items()} }: {error}\nPass "
            "inputs that the model accepts: data=x."
        ) from error
    changed = _put_back(model.non_trainable_variables, state)
    if changed and verify:
        raise ValueError(
            f"Model {model.name!r} changes {changed} during inference (a state or the "
            "seed of random numbers). Its outputs differ from call to call, so the "
            "export cannot be verified. Pass verify=False, and compare it yourself."
        )
    found = signature.named_outputs(outputs)
    arrays = {name: keras.ops.convert_to_numpy(x) for name, x in found.items()}
    return {name: artefact_runner.plain(array) for name, array in arrays.items()}


def _put_back(variables, before):
    """Restores values. Returns the paths of the variables that had changed."""
    changed = []
    for variable, old in zip(variables, before, strict=True):
        if (keras.ops.convert_to_numpy(variable.value) != old).any():
            variable.assign(old)
            changed.append(variable.path)
    return changed


def _perform(order, path, overwrite):
    """Writes to a temporary folder, and moves the verified export to its path."""
    by_other = order.format in formats.BY_TENSORFLOW and not _on_tensorflow()
    perform = tensorflow_process.perform if by_other else writer.perform
    beside = {"prefix": f".{path.name}.", "dir": path.parent}
    with (
        files.writing(path),
        _made(path.parent),
        tempfile.TemporaryDirectory(**beside) as name,
    ):
        folder = pathlib.Path(name)
        report = perform(order, folder)
        # Another process may have written to the path in the meantime.
        _check_place(path, overwrite)
        _move(pathlib.Path(report.path), path, folder)
    origin = {**report.provenance, "versions": versions()}
    advice = [*remarks.general(order.subject.plain, report), *report.remarks]
    return dataclasses.replace(
        report, path=os.fspath(path), provenance=origin, remarks=advice
    )


@contextlib.contextmanager
def _made(folder):
    """Makes the folder, and removes it again if the export fails."""
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
    """Moves the export to its path. The previous one goes with the folder."""
    if written.is_file() and not path.is_dir():
        os.replace(written, path)
        return
    aside = folder / "before"
    try:
        with contextlib.suppress(FileNotFoundError):
            os.rename(path, aside)
        os.rename(written, path)
    except BaseException:  # Ctrl-C may come between the two.
        if aside.exists() and not path.exists():
            os.rename(aside, path)
        raise


def _on_tensorflow():
    return keras.config.backend() == "tensorflow"
