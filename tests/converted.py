"""Converts tiny Keras models to `.tflite`, prunes the files and runs them."""

import functools

import keras
import numpy as np
import pytest
from keras import layers as kl

from tf_tickets.exporting.tflite import file

tf = pytest.importorskip("tensorflow")
litert = pytest.importorskip("ai_edge_litert.interpreter")
if keras.backend.backend() != "tensorflow":
    pytest.skip("TensorFlow converts its own models", allow_module_level=True)

DEFAULT = tf.lite.Optimize.DEFAULT
SPARSITY = tf.lite.Optimize.EXPERIMENTAL_SPARSITY
INT16 = tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
DTYPES = {0: np.float32, 1: np.float16, 9: np.int8}

MODELS = {
    **{
        f"dense {width}": ((width,), lambda: [kl.Dense(48, "relu"), kl.Dense(32)])
        for width in (255, 254, 250, 16, 12)
    },
    "wide": ((300,), lambda: [kl.Dense(16, use_bias=False)]),
    "conv 1x1": ((6, 6, 16), lambda: [kl.Conv2D(48, 1, activation="relu")]),
    "conv 3x3": ((6, 6, 16), lambda: [kl.Conv2D(24, 3, strides=2, padding="same")]),
    "depthwise": ((6, 6, 24), lambda: [kl.DepthwiseConv2D(3, depth_multiplier=4)]),
    "separable": ((6, 6, 48), lambda: [kl.SeparableConv2D(48, 3, depth_multiplier=2)]),
    "transposed": ((4, 4, 16), lambda: [kl.Conv2DTranspose(16, 3, strides=2)]),
    "grouped": ((6, 6, 32), lambda: [kl.Conv2D(32, 3, groups=2)]),
    "conv 1d": ((9, 16), lambda: [kl.Conv1D(24, 5, padding="causal")]),
    "einsum": (
        (5, 32),
        lambda: [kl.EinsumDense("abc,cde->abde", output_shape=(5, 7, 9))],
    ),
    "mixed": (
        (6, 6, 16),
        lambda: [
            kl.Conv2D(32, 3, activation="relu"),
            kl.DepthwiseConv2D(3, depth_multiplier=8),
            kl.Conv2D(16, 1),
            kl.Flatten(),
            kl.Dense(64),
        ],
    ),
    "embedding": (
        (6,),
        lambda: [kl.Embedding(100, 16), kl.Flatten(), kl.Dense(32)],
    ),
}


def of(name):
    """Builds the named model with random weights and no zeros."""
    shape, layers = MODELS[name]
    model = keras.Sequential([keras.Input(shape), *layers()])
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        size = np.prod(variable.shape[:-1]) ** 0.5
        variable.assign(rng.normal(size=variable.shape) / size)
    return model


def convert(model, optimizations=(), **settings):
    """Converts a model with TensorFlow's converter."""
    module = tf.Module()
    module.weights = [weight.value for weight in model.weights]

    @tf.function(input_signature=[tf.TensorSpec((None, *model.input_shape[1:]))])
    def call(x):
        return model(x, training=False)

    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [call.get_concrete_function()], module
    )
    converter.optimizations = list(optimizations)
    for name, value in settings.items():
        setattr(converter, name, value)
    return converter.convert()


def settings(kind, shape):
    """Returns the converter's settings for a kind of file."""
    return {
        "float32": {},
        "float16": {
            "optimizations": [DEFAULT],
            "target_spec": tf.lite.TargetSpec(supported_types=[tf.float16]),
        },
        "dynamic": {"optimizations": [DEFAULT]},
        "int8": {
            "optimizations": [DEFAULT],
            "representative_dataset": lambda: ([inputs(shape, 1, i)] for i in range(4)),
        },
        "int16": {
            "optimizations": [DEFAULT],
            "representative_dataset": lambda: ([inputs(shape, 1, i)] for i in range(4)),
            "target_spec": tf.lite.TargetSpec(supported_ops=[INT16]),
        },
    }[kind]


@functools.cache
def dense(name, kind="float32"):
    """Returns the file of a model without zeros."""
    return convert(of(name), **settings(kind, MODELS[name][0]))


def pruned(name, sparsity, kind="float32", block=1):
    """Returns the file of a model with a fraction of zeros in every weight.

    Equals the file of a pruned model, since the converter ignores the values.
    """
    model = file.read(dense(name, kind))
    rng = np.random.default_rng(1)
    for tensor in model.subgraphs[0].tensors:
        data = model.buffers[tensor.buffer].data
        if data is not None and tensor.type in DTYPES and len(tensor.shape) > 1:
            values = data.view(DTYPES[tensor.type]).reshape(tensor.shape)
            zeroed = values * mask(tensor.shape, sparsity, block, rng)
            model.buffers[tensor.buffer].data = zeroed.ravel().view(np.uint8)
    return file.write(model)


def mask(shape, sparsity, block, rng):
    """Returns a mask of blocks along the last dimension; the last may be smaller."""
    *rows, columns = shape
    blocks = int(np.prod(rows)) * -(-columns // block)
    kept = np.ones(blocks, np.int8)
    kept[rng.permutation(blocks)[: round(sparsity * blocks)]] = 0
    wide = np.repeat(kept.reshape(-1, -(-columns // block)), block, axis=1)
    return wide[:, :columns].reshape(shape)


def inputs(shape, batch, seed=0):
    return np.random.default_rng(seed).normal(size=(batch, *shape)).astype("float32")


def predict(content, x, delegate=True):
    """Runs a file with the default interpreter or with built-in kernels only."""
    kernels = litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = litert.Interpreter(
        model_content=content,
        num_threads=1,
        experimental_op_resolver_type=litert.OpResolverType.AUTO
        if delegate
        else kernels,
    )
    place = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(place, x.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(place, x)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def codes(content):
    """Returns names and versions of all operators of a file, in execution order."""
    model = file.read(content)
    numbers = vars(file.schema().BuiltinOperator)
    names = {number: name for name, number in numbers.items()}
    listed = [model.operatorCodes[o.opcodeIndex] for o in model.subgraphs[0].operators]
    return [(names[code.builtinCode], code.version) for code in listed]


def changed(content, change):
    """Returns a file whose `ModelT` was altered by `change`."""
    model = file.read(content)
    change(model)
    return file.write(model)
