"""Measures size and latency of exported models, compared with other exporters.

    KERAS_BACKEND=tensorflow python benchmarks/export.py --only sizes
    KERAS_BACKEND=tensorflow python benchmarks/export.py --only latency

sizes    File sizes at several sparsities, with random masks and random weights: this
         library's files, Keras's SavedModel, TFLite's converter with
         EXPERIMENTAL_SPARSITY, and the converter's dense file compressed with gzip, as
         tensorflow-model-optimization recommends. The theoretical minimum is listed
         too: positions and values of the nonzero weights.
latency  Latency of this library's TFLite file relative to the dense file, with one
         thread and batch sizes 1 and 32. Calls are interleaved in one process. Median
         and quartiles of 11 pairs.
"""

import argparse
import gzip
import json
import os
import pathlib
import platform
import tempfile

import keras
import numpy as np

import tf_tickets as tt
from tf_tickets import wrapping
from tf_tickets.environment import versions
from tf_tickets.experiments import models
from tf_tickets.exporting import writer

HERE = pathlib.Path(__file__).parent
SPARSITIES = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98)


def mobilenet():
    """Returns MobileNetV1. Its depthwise kernels stay dense, as usual."""
    return keras.applications.MobileNet((224, 224, 3), weights=None)


def dense_layers(width, count):
    layers = [keras.layers.Dense(width, activation="relu") for _ in range(count)]
    return keras.Sequential([keras.Input((width,)), *layers])


NETWORKS = {
    "lenet300": models.lenet300,
    "conv6": models.conv6,
    "mobilenet": mobilenet,
}
TIMED = {
    "1024x3": lambda: dense_layers(1024, 3),
    "4096x2": lambda: dense_layers(4096, 2),
    "mobilenet": mobilenet,
}


def pruned(build, sparsity, structure, seed):
    """Returns the network with random zeros: unstructured or 4x1 blocks."""
    keras.utils.set_random_seed(seed)
    model = tt.wrap(build(), filters=_is_prunable, verbose=False)
    rng = np.random.default_rng(seed)
    masks = {
        path: _mask(rng, mask.shape, sparsity, structure)
        for path, mask in wrapping.kernels(model).masks.items()
    }
    wrapping.kernels(model).set_masks(masks)
    return tt.strip(model)


def _is_prunable(layer):
    return not isinstance(layer, keras.layers.DepthwiseConv2D)


def _mask(rng, shape, sparsity, structure):
    if structure == "unstructured" or len(shape) != 2:
        return rng.random(shape) >= sparsity
    blocks = rng.random((shape[0] // 4, shape[1])) >= sparsity
    return np.repeat(blocks, 4, axis=0)


# Sizes.


def sizes(options):
    for name in options.networks or NETWORKS:
        for sparsity in options.sparsities:
            model = pruned(NETWORKS[name], sparsity, "unstructured", options.seed)
            row = {"network": name, "sparsity": sparsity, **sizes_of(model)}
            print(json.dumps(row), flush=True)
            yield row


def sizes_of(model):
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        served = tt.export(model, folder / "a", verify=False)
        lite = tt.export(model, folder / "a.tflite", "tflite", verify=False)
        deflated = tt.export(model, folder / "a.keras", "keras", verify=False)
        model.export(folder / "keras", format="tf_saved_model", verbose=False)
        other, other_gzipped = writer.sizes(folder / "keras")
        return {
            "bound": served.sizes["bound"],
            "saved_model": served.sizes["sparse"],
            "saved_model_keras": other,
            "saved_model_keras_gzipped": other_gzipped,
            "tflite": lite.sizes["sparse"],
            "tflite_gzipped": lite.sizes["sparse_gzipped"],
            "tflite_dense_gzipped": lite.sizes["dense_gzipped"],
            **converter_sizes(model),
            "keras": deflated.sizes["sparse"],
            "keras_stored": deflated.sizes["dense"],
        }


def converter_sizes(model):
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.EXPERIMENTAL_SPARSITY]
    content = converter.convert()
    packed = gzip.compress(content, 9, mtime=0)
    return {"converter": len(content), "converter_gzipped": len(packed)}


# Latency.


def latency(options):
    for name in options.networks or TIMED:
        for structure in ("unstructured", "4x1 blocks"):
            for sparsity in [s for s in options.sparsities if s >= 0.9]:
                if name == "mobilenet" and structure != "unstructured":
                    continue
                model = pruned(TIMED[name], sparsity, structure, options.seed)
                row = {"network": name, "structure": structure, "sparsity": sparsity}
                row |= timed(model)
                print(json.dumps(row), flush=True)
                yield row


def timed(model):
    with tempfile.TemporaryDirectory() as folder:
        report = tt.export(model, pathlib.Path(folder) / "a.tflite", "tflite")
    kinds = sorted({row.encoding for row in report.tensors if row.sparsity > 0.5})
    return {
        "encodings": kinds,
        "errors": report.errors,
        "ratios": report.ratios,
        "remarks": report.remarks,
    }


PARTS = {"sizes": sizes, "latency": latency}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=PARTS, required=True)
    parser.add_argument("--networks", nargs="+")
    parser.add_argument("--sparsities", nargs="+", type=float, default=SPARSITIES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out",
        type=pathlib.Path,
        help="output file (default: results/export_PART.json)",
    )
    options = parser.parse_args()
    out = options.out or HERE / "results" / f"export_{options.only}.json"
    networks = f" --networks {' '.join(options.networks)}" if options.networks else ""
    chosen = " ".join(map(str, options.sparsities))
    sparsities = "" if options.sparsities == SPARSITIES else f" --sparsities {chosen}"
    found = {
        "command": "KERAS_BACKEND=tensorflow python benchmarks/export.py --only "
        f"{options.only}{networks}{sparsities} --seed {options.seed}",
        "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}",
        "versions": versions(),
        "rows": [],
    }
    for row in PARTS[options.only](options):
        found["rows"].append(row)
        out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
