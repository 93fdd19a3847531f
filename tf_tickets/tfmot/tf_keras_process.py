"""Describes a saved tf_keras model in a TensorFlow process.

python -m tf_tickets.tfmot.tf_keras_process FOLDER
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

import numpy as np

from tf_tickets.exporting import artefact_runner
from tf_tickets.tfmot import tf_keras_models
from tf_tickets.tfmot.tf_keras_models import Described


def describe(path: pathlib.Path, data: Any = None) -> Described:
    """Runs `tf_keras_models.describe` in a separate process on TensorFlow.

    Args:
        path: A file or SavedModel of tf_keras.
        data: Examples for the predictions; random by default.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        _write_job(path, data, folder)
        process = subprocess.run(
            [sys.executable, "-m", "tf_tickets.tfmot.tf_keras_process", folder],
            env={
                **os.environ,
                "KERAS_BACKEND": "tensorflow",
                "CUDA_VISIBLE_DEVICES": "",
            },
            capture_output=True,
            text=True,
        )
        refused = folder / "refused.txt"
        if refused.exists():
            raise ValueError(refused.read_text("utf-8"))
        if process.returncode or not (folder / "config.json").exists():
            stderr = "\n".join(process.stderr.strip().splitlines()[-8:])
            raise ValueError(
                f"tf_keras failed to load {path} (exit status {process.returncode}). "
                f"Error output:\n{stderr}"
            )
        return _read(folder)


def _write_job(path, data, folder):
    kind = "dict" if isinstance(data, dict) else "list"
    if data is not None and kind == "list":
        values = list(data) if isinstance(data, list | tuple) else [data]
        data = {str(index): value for index, value in enumerate(values)}
    if data is not None:
        np.savez(folder / "data.npz", **data)
    job = {"path": os.fspath(path.resolve()), "data": data and kind, "names": None}
    job["names"] = None if data is None else list(data)
    (folder / "job.json").write_text(json.dumps(job), "utf-8")


def _data(job, folder):
    if job["data"] is None:
        return None
    with np.load(folder / "data.npz") as stored:
        arrays = {name: stored[name] for name in job["names"]}
    return arrays if job["data"] == "dict" else list(arrays.values())


def _write(described, folder):
    names = [
        [list(path), [name for name, _ in arrays]]
        for path, arrays in described.weights.items()
    ]
    arrays = [array for part in described.weights.values() for _, array in part]
    _save(folder / "weights.npz", arrays)
    _save(folder / "inputs.npz", described.inputs.values())
    _save(folder / "outputs.npz", described.outputs)
    content = {
        "config": described.config,
        "weights": names,
        "inputs": list(described.inputs),
    }
    (folder / "config.json").write_text(json.dumps(content), "utf-8")


def _save(path, arrays):
    np.savez(path, **{str(index): array for index, array in enumerate(arrays)})


def _load(path):
    with np.load(path) as stored:
        return [stored[str(index)] for index in range(len(stored.files))]


def _read(folder):
    content = json.loads((folder / "config.json").read_text("utf-8"))
    arrays = iter(_load(folder / "weights.npz"))
    weights = {
        tuple(path): [(name, next(arrays)) for name in names]
        for path, names in content["weights"]
    }
    inputs = dict(zip(content["inputs"], _load(folder / "inputs.npz"), strict=True))
    outputs = _load(folder / "outputs.npz")
    return Described(content["config"], weights, inputs, outputs)


def main(folder: pathlib.Path) -> None:
    """Describes the model of the job in a folder.

    Args:
        folder: Folder in which `describe` has written the job.
    """
    job = json.loads((folder / "job.json").read_text("utf-8"))
    try:
        model = tf_keras_models.load(pathlib.Path(job["path"]))
        described = tf_keras_models.describe(model, _data(job, folder))
    except (ValueError, ImportError) as error:
        (folder / "refused.txt").write_text(str(error), "utf-8")
        return
    _write(described, folder)


if __name__ == "__main__":
    artefact_runner.end_with_parent()
    main(pathlib.Path(sys.argv[1]))
