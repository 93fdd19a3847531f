"""Quantizes a pruned network by Keras, and counts which zeros survive.

    KERAS_BACKEND=tensorflow python benchmarks/keras_quantization.py

LeNet-300-100 on scikit-learn's digits is pruned to 90 % by `GradualPruning`, stripped,
and then quantized in every mode of `keras.Model.quantize`. A pruned weight counts as
zero if the layer multiplies it with exactly zero, whatever its stored code is: the
layer is called with the rows of an identity matrix. A last pair of rows trains LoRA
weights of the pruned network on half of the data. The result of each seed goes into
results/keras_quantization.
"""

import argparse
import json
import os
import pathlib
import platform
import tempfile
import warnings

import keras
import numpy as np
from sklearn import datasets as sklearn_datasets

import tf_tickets as tt
from tf_tickets.environment import versions

HERE = pathlib.Path(__file__).parent
PIXELS, CLASSES = 64, 10
SPARSITY = 0.9
EPOCHS = 40
SAMPLES = 64


def digits(seed):
    """Returns training and test rows of whole numbers from 0 to 16, and labels."""
    rows = sklearn_datasets.load_digits()
    order = np.random.default_rng(seed).permutation(len(rows.data))
    x, y = rows.data[order].astype("int32"), rows.target[order].astype("int32")
    return (x[:1400], y[:1400]), (x[1400:], y[1400:])


def network():
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((PIXELS,)),
            layers.Rescaling(1 / 16),
            layers.Dense(300, activation="relu", name="first"),
            layers.Dense(100, activation="relu", name="second"),
            layers.Dense(CLASSES, name="out"),
        ],
        name="lenet300",
    )


def compiled(model, learning_rate=1e-3):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.Adam(learning_rate)
    model.compile(optimizer, loss, metrics=["accuracy"])
    return model


def pruned(train, seed):
    keras.utils.set_random_seed(seed)
    model = compiled(tt.wrap(network(), verbose=False))
    steps = EPOCHS * -(-len(train[0]) // 32)
    schedule = tt.schedules.PolynomialDecay(
        0.0, SPARSITY, steps // 8, steps // 2, frequency=20
    )
    pruning = tt.GradualPruning(schedule)
    model.fit(*train, epochs=EPOCHS, callbacks=[pruning], verbose=0)
    return tt.strip(model)


def calibration(kind, train, **settings):
    """Returns a configuration of GPTQ or AWQ, whose tokens are pixels."""
    return kind(
        train[0],
        tokenizer=lambda rows: rows,
        num_samples=SAMPLES,
        sequence_length=PIXELS,
        **settings,
    )


def blocks(model):
    """Tells GPTQ and AWQ the order of layers.

    The argument `quantization_layer_structure` of their configurations does the same,
    but Keras cannot save such a model: it would save the layers within themselves.
    """
    structure = {
        "pre_block_layers": model.layers[:1],
        "sequential_blocks": model.layers[1:],
    }
    model.get_quantization_layer_structure = lambda mode: structure


def modes(train):
    """Returns the arguments of `quantize` by the name of a mode."""
    quantizers = keras.quantizers
    table = {
        "int8": {"mode": "int8"},
        "int4": {"mode": "int4"},
        "int4-channel": {"config": quantizers.Int4QuantizationConfig(block_size=-1)},
        "float8": {"mode": "float8"},
    }
    for bits in (8, 4):
        for symmetric in (False, True):
            config = calibration(
                quantizers.GPTQConfig,
                train,
                weight_bits=bits,
                group_size=64,
                symmetric=symmetric,
            )
            name = f"gptq{bits}" + ("-symmetric" if symmetric else "")
            table[name] = {"mode": "gptq", "config": config}
    awq = calibration(quantizers.AWQConfig, train, group_size=64)
    return {**table, "awq4": {"mode": "awq", "config": awq}}


def computed(layer, inputs):
    """Returns the kernel with which a layer computes, whatever it stores."""
    activation, layer.activation = layer.activation, keras.activations.linear
    rows = np.concatenate([np.zeros((1, inputs)), np.eye(inputs)]).astype("float32")
    outputs = keras.ops.convert_to_numpy(layer(rows))
    layer.activation = activation
    return outputs[1:] - outputs[:1]


def zeros(model, kernels):
    """Returns the fractions of pruned and of kept weights that are exactly zero."""
    pairs = list(zip(dense(model), kernels, strict=True))
    found = np.concatenate([computed(layer, len(k)).ravel() for layer, k in pairs])
    stored = np.concatenate([kernel.ravel() for kernel in kernels])
    return {
        "pruned_zero": float(np.mean(found[stored == 0] == 0)),
        "kept_zero": float(np.mean(found[stored != 0] == 0)),
    }


def dense(model):
    return [x for x in model.layers if isinstance(x, keras.layers.Dense)]


def kernels_of(model):
    return [keras.ops.convert_to_numpy(layer.kernel) for layer in dense(model)]


def measured(model, test, folder):
    accuracy = compiled(model).evaluate(*test, verbose=0)[1]
    try:
        report = tt.export(model, folder / "model.keras", overwrite=True)
    except ValueError as error:  # Keras cannot load what it has saved.
        lines = [line for line in str(error).splitlines() if line.startswith("Layer")]
        return {"accuracy": accuracy, "error": " ".join(lines) or str(error)}
    return {"accuracy": accuracy, "bytes": report.sizes["sparse"]}


def quantized_rows(path, train, test, folder):
    kernels = kernels_of(keras.saving.load_model(path))
    rows = {}
    for name, arguments in {"float32": None, **modes(train)}.items():
        model = keras.saving.load_model(path)
        if arguments is not None:
            blocks(model)
            model.quantize(**arguments)
        rows[name] = {**zeros(model, kernels), **measured(model, test, folder)}
        print(name, rows[name], flush=True)
    return rows


def lora_rows(path, train, test, folder):
    """Trains LoRA weights, adds them to the kernels, and masks these."""
    model = keras.saving.load_model(path)
    kernels = kernels_of(model)
    for layer in dense(model):
        layer.enable_lora(4)
    x, y = train
    compiled(model).fit(x[: len(x) // 2], y[: len(x) // 2], epochs=10, verbose=0)
    merged = network()
    copy_weights(model, merged)
    rows = {"merged": {**zeros(merged, kernels), **measured(merged, test, folder)}}
    for layer, kernel in zip(dense(merged), kernels, strict=True):
        layer.kernel.assign(keras.ops.where(kernel == 0, 0.0, layer.kernel))
    rows["masked"] = {**zeros(merged, kernels), **measured(merged, test, folder)}
    wrapped = compiled(tt.wrap(merged, keep_zeros=True, verbose=False), 3e-4)
    wrapped.fit(x[: len(x) // 2], y[: len(x) // 2], epochs=3, verbose=0)
    merged = tt.strip(wrapped)
    rows["trained"] = {**zeros(merged, kernels), **measured(merged, test, folder)}
    return rows


def copy_weights(model, merged):
    """Copies the kernels with the LoRA weights added, and the biases."""
    for old, new in zip(dense(model), dense(merged), strict=True):
        new.kernel.assign(old.kernel)
        new.bias.assign(old.bias)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--out", type=pathlib.Path, default=HERE / "results" / "keras_quantization"
    )
    options = parser.parse_args()
    warnings.filterwarnings("ignore", "Layer .* does not have a `quantize` method")
    options.out.mkdir(parents=True, exist_ok=True)
    for seed in options.seeds:
        train, test = digits(seed)
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            pruned(train, seed).save(folder / "pruned.keras")
            found = {
                "seed": seed,
                "command": f"KERAS_BACKEND={keras.config.backend()} "
                "python benchmarks/keras_quantization.py",
                "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}",
                "versions": versions(),
                "sparsity": SPARSITY,
                "modes": quantized_rows(folder / "pruned.keras", train, test, folder),
                "lora": lora_rows(folder / "pruned.keras", train, test, folder),
            }
        path = options.out / f"{keras.config.backend()}-{seed}.json"
        path.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
