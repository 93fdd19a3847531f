"""One small network under the settings of Keras: data types, and ways to run."""

import functools

import keras
from keras import layers as kl

from zoo.case import Builder, Case, Limit, compiled, floats, numbers


def _network():
    image = keras.Input((8, 8, 3))
    x = kl.Conv2D(4, 3, activation="relu", name="conv")(image)
    x = kl.BatchNormalization(name="norm")(x)
    x = kl.Dense(8, activation="relu", name="hidden")(kl.Flatten()(x))
    x = kl.Dropout(0.2, seed=1)(x)
    return keras.Model(image, kl.Dense(3, dtype="float32", name="classes")(x))


def _case(model, **more):
    return Case(model, floats(8, 8, 8, 3), numbers(3, 8), **more)


NOT_MIXED = Limit(
    "LiteRT's converter has no convolution in half precision. The error says to build "
    "the model in float32.",
    "Build mixed-precision models in float32",
)


def under_policy(name, tolerance):
    """Returns the network built under a global dtype policy."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        # The export compares with other kernels than those of the model.
        return _case(
            compiled(_network()),
            export={"tolerance": tolerance},
            limits={"tflite": NOT_MIXED},
        )
    finally:
        keras.config.set_dtype_policy(before)


def compiled_with(**settings):
    """Returns the network with settings of `compile`."""
    return _case(compiled(_network(), **settings))


def with_optimizer(optimizer):
    """Returns the network with an optimizer from its configuration."""
    model = _network()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.get(optimizer), loss, metrics=["accuracy"])
    return _case(model)


def _adam(**config):
    return {"class_name": "Adam", "config": {"learning_rate": 1e-3, **config}}


MODELS: dict[str, Builder] = {
    "mixed_float16": functools.partial(under_policy, "mixed_float16", 1e-2),
    "mixed_bfloat16": functools.partial(under_policy, "mixed_bfloat16", 5e-2),
    "float16": functools.partial(under_policy, "float16", 1e-2),
    "bfloat16": functools.partial(under_policy, "bfloat16", 5e-2),
    "`run_eagerly=True`": functools.partial(compiled_with, run_eagerly=True),
    "`jit_compile=True`": functools.partial(compiled_with, jit_compile=True),
    "`jit_compile=False`": functools.partial(compiled_with, jit_compile=False),
    "`steps_per_execution=2`": functools.partial(compiled_with, steps_per_execution=2),
    "`use_ema=True`": functools.partial(with_optimizer, _adam(use_ema=True)),
    "`gradient_accumulation_steps=2`": functools.partial(
        with_optimizer, _adam(gradient_accumulation_steps=2)
    ),
    "`clipnorm=1.0` and weight decay": functools.partial(
        with_optimizer, _adam(clipnorm=1.0, weight_decay=1e-3)
    ),
}
