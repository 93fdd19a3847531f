"""Export by TensorFlow for a process whose Keras runs on another backend.

python -m tf_tickets.exporting.elsewhere FOLDER
"""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np

from tf_tickets.exporting import keras_file, signature, writer
from tf_tickets.exporting.export_report import ExportReport
from tf_tickets.exporting.source import Subject
from tf_tickets.exporting.verification import ExportError
from tf_tickets.exporting.writer import Order
from tf_tickets.wrapping import rebuilding

_SETTINGS = ("format", "precision", "trainable", "verify", "tolerance")
_PARTS = ("inputs", "expected")


def perform(order: Order, folder: pathlib.Path) -> ExportReport:
    """As `performing.perform`, in a process of its own on TensorFlow.

    Args:
        order: What is to be written.
        folder: An empty folder.
    """
    if importlib.util.find_spec("tensorflow") is None:
        raise ImportError(
            f"format={order.format!r} is written by TensorFlow, which is not "
            "installed: pip install 'tf_tickets[tensorflow,tflite]'"
        )
    if not rebuilding.is_graph(order.subject.plain):
        raise ValueError(
            f"{order.subject.plain.name!r} is a subclassed model, which cannot be "
            "handed to TensorFlow's process. Build it as keras.Model(inputs, outputs), "
            "or export it where Keras runs on TensorFlow (KERAS_BACKEND=tensorflow)."
        )
    _hand_over(order, folder)
    found = subprocess.run(
        [sys.executable, "-m", "tf_tickets.exporting.tensorflow_process", folder],
        env={**os.environ, "KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    report = folder / "report.json"
    if found.returncode or not report.exists():
        said = "\n".join(found.stderr.strip().splitlines()[-8:])
        raise ExportError(
            f"The export by TensorFlow failed (exit status {found.returncode}); "
            f"nothing was kept. It said:\n{said}"
        )
    return ExportReport.from_json(report.read_text())


def _hand_over(order, folder):
    keras_file.save_for_inference(order.subject.plain, folder / "plain.keras")
    masks = {str(place): mask for place, mask in order.subject.masks.items()}
    np.savez(folder / "masks.npz", **masks)
    for part in _PARTS:
        np.savez(folder / f"{part}.npz", **getattr(order, part))
    settings = {name: getattr(order, name) for name in _SETTINGS}
    settings["provenance"] = order.subject.provenance
    (folder / "order.json").write_text(json.dumps(settings, default=str))


def _taken_over(folder):
    plain = keras.saving.load_model(folder / "plain.keras", compile=False)
    settings = json.loads((folder / "order.json").read_text())
    masks = {int(place): mask for place, mask in _arrays(folder, "masks").items()}
    found = Subject(plain, plain, masks, settings.pop("provenance"))
    parts = {part: _arrays(folder, part) for part in _PARTS}
    takes = signature.of_model(plain)
    return Order(found, takes, **parts, **settings)


def _arrays(folder, part):
    with np.load(folder / f"{part}.npz") as kept:
        return dict(kept)


def main(folder: pathlib.Path) -> None:
    """Does what is described in a folder.

    Args:
        folder: Where `perform` has put the order.
    """
    report = writer.perform(_taken_over(folder), folder)
    (folder / "report.json").write_text(report.to_json())


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
