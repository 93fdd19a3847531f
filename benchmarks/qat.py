"""Compares ways to int8 after pruning: zeros, accuracy and bytes of the TFLite file.

    KERAS_BACKEND=tensorflow python benchmarks/qat.py --data-dir DIR

A convolutional network is trained on MNIST, pruned to 80 % by `GradualPruning` and
stripped. Then it goes to int8 in four ways, all by TFLite's converter:

pruned          float32, for comparison.
post-training   Post-training quantization, calibrated on 500 training images.
qat             tfmot's quantization-aware training, which knows nothing of the zeros.
qat-preserving  The same with `Default8BitPrunePreserveQuantizeScheme`.
from-qat        The network of the last row, back in Keras 3 by `from_qat`, and then
                quantized after training.

The network goes to tfmot by `to_tf_keras`. Trainings use the training images, nothing
is selected, and all files are run on the test images.
"""

import argparse
import gzip
import json
import os
import pathlib
import platform
import tempfile
import time
import warnings

import keras
import numpy as np

import tf_tickets as tt
from tf_tickets import tfmot
from tf_tickets.environment import versions

RESULT = pathlib.Path(__file__).parent / "results" / "qat" / "mnist.json"
SPARSITY = 0.8
BATCH = 128


def build():
    layers = [keras.Input((28, 28, 1))]
    for index, filters in enumerate((16, 32, 64)):
        layers += [
            keras.layers.Conv2D(filters, 3, 2, padding="same", name=f"conv{index}"),
            keras.layers.BatchNormalization(name=f"bn{index}"),
            keras.layers.ReLU(name=f"relu{index}"),
        ]
    layers += [keras.layers.Flatten(), keras.layers.Dense(10, name="head")]
    return keras.Sequential(layers, name="net")


def fit(library, model, data, epochs, rate, seed, callbacks=()):
    loss = library.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(library.optimizers.Adam(rate), loss)
    library.utils.set_random_seed(seed)
    start = time.perf_counter()
    model.fit(
        *data, batch_size=BATCH, epochs=epochs, callbacks=list(callbacks), verbose=2
    )
    return time.perf_counter() - start


def pruned(data, options, seed):
    """Returns the pruned network, and the seconds of training and pruning."""
    keras.utils.set_random_seed(seed)
    model = build()
    trained = fit(keras, model, data, options.epochs, 1e-3, seed)
    model = tt.wrap(model, verbose=False)
    steps = options.epochs * -(-len(data[0]) // BATCH)
    schedule = tt.schedules.PolynomialDecay(0.0, SPARSITY, 0, steps // 2, frequency=20)
    callback = tt.GradualPruning(schedule, allocation="uniform")
    took = fit(keras, model, data, options.epochs, 1e-3, seed, [callback])
    return tt.strip(model), trained, took


def quantization_aware(model, data, options, seed, preserving):
    """Trains in tf_keras; returns the network and the seconds."""
    import tensorflow_model_optimization as peer
    import tf_keras

    network = tfmot.to_tf_keras(model)
    annotated = peer.quantization.keras.quantize_annotate_model(network)
    arguments = [annotated]
    if preserving:
        combine = peer.experimental.combine
        arguments.append(combine.Default8BitPrunePreserveQuantizeScheme())
    trained = peer.quantization.keras.quantize_apply(*arguments)
    return trained, fit(tf_keras, trained, data, options.qat_epochs, 1e-4, seed)


def converted(model, images=None):
    """Returns a `.tflite` file; `images` calibrate a network without ranges."""
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder:
        model.export(folder)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        if images is not None:
            converter.representative_dataset = lambda: ([x[None]] for x in images)
        if images is not None or not isinstance(model, keras.Model):
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        return converter.convert()


def measured(content, shapes, test):
    """Returns bytes, zeros in the kernels, and accuracy of a `.tflite` file."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, num_threads=1)
    details = interpreter.get_tensor_details()
    interpreter.allocate_tensors()
    stored = {kernel_shape(shape) for shape in shapes}
    constants = [d for d in details if tuple(d["shape"]) in stored]
    kernels = [interpreter.get_tensor(d["index"]) for d in constants]
    if sorted(k.shape for k in kernels) != sorted(stored):
        raise ValueError(f"Expected kernels of shape {stored}: {constants}")
    zeros = sum(int((kernel == 0).sum()) for kernel in kernels)
    return {
        "bytes": len(content),
        "gzipped": len(gzip.compress(content, 9, mtime=0)),
        "zeros": zeros / sum(kernel.size for kernel in kernels),
        "kernel_types": sorted({str(kernel.dtype) for kernel in kernels}),
        "accuracy": accuracy(interpreter, *test),
    }


def kernel_shape(shape):
    """Returns the shape in which TFLite stores a kernel."""
    return (shape[-1], *shape[:-1])


def accuracy(interpreter, x, y):
    (source,) = interpreter.get_input_details()
    (sink,) = interpreter.get_output_details()
    interpreter.resize_tensor_input(source["index"], (500, *x.shape[1:]))
    interpreter.allocate_tensors()
    right = 0
    for start in range(0, len(x), 500):
        interpreter.set_tensor(source["index"], x[start : start + 500])
        interpreter.invoke()
        answers = interpreter.get_tensor(sink["index"]).argmax(-1)
        right += int((answers == y[start : start + 500]).sum())
    return right / len(x)


def zeros_of(kernels):
    kernels = [np.asarray(kernel) for kernel in kernels]
    return float(
        sum((k == 0).sum() for k in kernels) / sum(kernel.size for kernel in kernels)
    )


def run(seed, options):
    """Yields a row for each way."""
    data = tt.datasets.load("mnist", options.data_dir)
    train = (data.x_train[: options.take], data.y_train[: options.take])
    test, images = (data.x_test, data.y_test), train[0][:500]
    model, trained, took = pruned(train, options, seed)
    layers = [layer for layer in model.layers if hasattr(layer, "kernel")]
    shapes = [tuple(layer.kernel.shape) for layer in layers]
    before = zeros_of(layer.kernel for layer in layers)
    base = {"seed": seed, "zeros_before": before}

    def row(way, content, seconds):
        return base | {"way": way, "seconds": seconds} | measured(content, shapes, test)

    yield row("pruned", converted(model), trained + took)
    yield row("post-training", converted(model, images), 0.0)
    theirs, seconds = quantization_aware(model, train, options, seed, False)
    yield row("qat", converted(theirs), seconds)
    theirs, seconds = quantization_aware(model, train, options, seed, True)
    yield row("qat-preserving", converted(theirs), seconds)
    back = tfmot.from_qat(theirs)
    kernels = [back.get_layer(layer.name).kernel for layer in layers]
    extra = {"zeros_in_keras_3": zeros_of(kernels)}
    yield row("from-qat", converted(back, images), 0.0) | extra


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--qat-epochs", type=int, default=2)
    parser.add_argument("--take", type=int, help="number of training images")
    parser.add_argument("--out", type=pathlib.Path, default=RESULT)
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # tf_keras and tfmot warn about their own code.
    take = "" if options.take is None else f" --take {options.take}"
    result = {
        "command": "KERAS_BACKEND=tensorflow python benchmarks/qat.py --data-dir DIR "
        f"--seeds {' '.join(map(str, options.seeds))} --epochs {options.epochs} "
        f"--qat-epochs {options.qat_epochs}{take}",
        "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}",
        "versions": versions() | library_versions(),
        "epochs": options.epochs,
        "qat_epochs": options.qat_epochs,
        "rows": [],
    }
    for seed in options.seeds:
        for row in run(seed, options):
            print(json.dumps(row), flush=True)
            result["rows"].append(row)
            options.out.write_text(json.dumps(result, indent=1))


def library_versions():
    import tensorflow as tf
    import tensorflow_model_optimization as peer
    import tf_keras

    return {
        "tensorflow": tf.__version__,
        "tf_keras": tf_keras.__version__,
        "tensorflow_model_optimization": peer.__version__,
    }


if __name__ == "__main__":
    main()
