"""Bytes of the trained networks of CIFAR-10 on a microcontroller."""

import json
import pathlib
import tempfile

import numpy as np
from cifar10_plan import plan
from cifar10_runs import file_of, same
from cifar10_study import Study, replace

import tf_tickets as tt

# How many images the scales of 8 bits are set with.
CALIBRATION = 500


def export(options):
    """Adds the bytes of the int8 file to points whose trained ticket is kept."""
    for run, seed in plan(options.seeds):
        path = file_of(options, run, seed)
        if not path.exists():
            continue
        study = Study(options, seed)
        for point in json.loads(path.read_text())["points"]:
            file = study.folder / point["folder"] / "round_01.ticket"
            if "int8_bytes" in point or not file.exists():
                continue
            # It may have been trained again, with other results.
            trained = tt.Ticket.load(file).metrics["test_accuracy"]
            if trained != point["test_accuracy"]:
                print(path.name, point["folder"], "is of another training", flush=True)
                continue
            size = int8_bytes(study, file, point["width"])
            # A run may have added points meanwhile.
            content = json.loads(path.read_text())
            for each in content["points"]:
                if same(each, point):
                    each["int8_bytes"] = size
            replace(path, content)
            print(path.name, point["folder"], size, flush=True)


def int8_bytes(study, file, width):
    """Returns the bytes of the file for TensorFlow Lite Micro, zeros encoded."""
    ticket = tt.Ticket.load(file)
    model = tt.strip(study.started(ticket, study.epochs, width)())
    drawn = np.random.default_rng(0).permutation(study.images)[:CALIBRATION]
    with tempfile.TemporaryDirectory() as name:
        report = tt.export(
            model,
            pathlib.Path(name) / "micro.tflite",
            "tflite-micro",
            data=study.data.x_train[drawn],
            micro=tt.MicroOptions(names=False),
            tolerance=1.0,
        )
    return min(report.sizes["dense"], report.sizes["sparse"])
