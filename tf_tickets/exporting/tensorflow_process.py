"""Runs an export in a TensorFlow process when Keras uses another backend.

python -m tf_tickets.exporting.tensorflow_process FOLDER
"""

import dataclasses
import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np

from tf_tickets.exporting import artefact_runner, keras_file, verification, writer
from tf_tickets.exporting.export_report import ExportReport
from tf_tickets.exporting.order import MicroOptions, Order
from tf_tickets.exporting.source import Subject
from tf_tickets.exporting.verification import ExportError
from tf_tickets.wrapping import signature

_SETTINGS = ("format", "precision", "trainable", "verify", "tolerance", "array")
_PARTS = ("inputs", "expected")


def perform(order: Order, folder: pathlib.Path) -> ExportReport:
    """Runs `writer.perform` in a separate process on TensorFlow.

    Args:
        order: The export to perform.
        folder: An empty folder.

    Returns:
        The `ExportReport`.
    """
    if importlib.util.find_spec("tensorflow") is None:
        raise ImportError(
            f"format={order.format!r} requires TensorFlow, which is not installed. "
            "Install it: pip install 'tf_tickets[tensorflow,tflite]'"
        )
    _write_order(order, folder)
    process = subprocess.run(
        [sys.executable, "-m", "tf_tickets.exporting.tensorflow_process", folder],
        env={**os.environ, "KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    report = folder / "report.json"
    if process.returncode or not report.exists():
        stderr = "\n".join(process.stderr.strip().splitlines()[-8:])
        raise ExportError(
            "The export by TensorFlow failed ("
            f"{verification.ended_by(process.returncode)}); nothing was written. Error "
            f"output:\n{stderr}"
        )
    return ExportReport.from_json(report.read_text())


def _write_order(order, folder):
    keras_file.save_for_inference(order.subject.plain, folder / "plain.keras")
    advice = "export with KERAS_BACKEND=tensorflow"
    modules = keras_file.required_modules(folder / "plain.keras", advice)
    masks = {str(index): mask for index, mask in order.subject.masks.items()}
    np.savez(folder / "masks.npz", **masks)
    for part in _PARTS:
        np.savez(folder / f"{part}.npz", **getattr(order, part))
    settings = {name: getattr(order, name) for name in _SETTINGS}
    settings["provenance"] = order.subject.provenance
    settings["micro"] = dataclasses.asdict(order.micro)
    settings["modules"], settings["path"] = modules, sys.path
    names = keras.tree.map_structure(lambda spec: spec.name, order.takes.structure)
    settings["names"] = names
    (folder / "order.json").write_text(json.dumps(settings, default=str))


def _read_order(folder):
    settings = json.loads((folder / "order.json").read_text())
    artefact_runner.import_modules(settings.pop("modules"), settings.pop("path"))
    plain = keras.saving.load_model(folder / "plain.keras", compile=False)
    masks = {int(index): mask for index, mask in _arrays(folder, "masks").items()}
    subject = Subject(plain, plain, masks, settings.pop("provenance"))
    parts = {part: _arrays(folder, part) for part in _PARTS}
    # Keras may name the inputs of a loaded model in another way, and a subclassed model
    # does not know them.
    names = settings.pop("names")
    data = keras.tree.map_structure(lambda name: parts["inputs"][name], names)
    takes = signature.of_model(plain, data).renamed(keras.tree.flatten(names))
    settings["micro"] = MicroOptions(**settings["micro"])
    return Order(subject, takes, **parts, **settings, isolated=False)


def _arrays(folder, part):
    with np.load(folder / f"{part}.npz") as stored:
        return dict(stored)


def main(folder: pathlib.Path) -> None:
    """Performs the export described in a folder.

    Args:
        folder: Folder in which `perform` has written the order.
    """
    report = writer.perform(_read_order(folder), folder)
    (folder / "report.json").write_text(report.to_json())


if __name__ == "__main__":
    artefact_runner.end_with_parent()
    main(pathlib.Path(sys.argv[1]))
