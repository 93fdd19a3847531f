"""The networks of benchmarks/peers.py, for Keras 3 and for tf_keras."""

import numpy as np


def build(library, name):
    """Returns a network of `keras` or `tf_keras`."""
    return {"lenet300": lenet300, "resnet8": resnet8}[name](library.layers, library)


def lenet300(layers, library):
    """LeNet-300-100."""
    hidden = {"activation": "relu", "kernel_initializer": "he_normal"}
    return library.Sequential(
        [
            layers.InputLayer((28, 28)),
            layers.Flatten(),
            layers.Dense(300, **hidden, name="fc1"),
            layers.Dense(100, **hidden, name="fc2"),
            layers.Dense(10, kernel_initializer="he_normal", name="output"),
        ]
    )


def resnet8(layers, library):
    """ResNet-8 of MLPerf Tiny."""

    def conv(x, filters, name, size=3, strides=1):
        settings = {"padding": "same", "kernel_initializer": "he_normal"}
        return layers.Conv2D(filters, size, strides, **settings, name=name)(x)

    def normed(x, name):
        return layers.BatchNormalization(momentum=0.9, epsilon=1e-3, name=name)(x)

    image = library.Input((32, 32, 3))
    x = layers.ReLU()(normed(conv(image, 16, "stem"), "stem_bn"))
    for stage, filters in enumerate((16, 32, 64), start=1):
        strides = 1 if stage == 1 else 2
        shortcut = x
        if strides > 1:
            shortcut = conv(x, filters, f"stage{stage}_shortcut", 1, strides)
        x = conv(x, filters, f"stage{stage}_conv1", strides=strides)
        x = layers.ReLU()(normed(x, f"stage{stage}_bn1"))
        x = normed(conv(x, filters, f"stage{stage}_conv2"), f"stage{stage}_bn2")
        x = layers.ReLU()(layers.Add()([x, shortcut]))
    x = layers.GlobalAveragePooling2D()(x)
    logits = layers.Dense(10, kernel_initializer="he_normal", name="output")(x)
    return library.Model(image, logits)


def compiled(library, model, job):
    optimizer = library.optimizers.SGD(job["learning_rate"], job["momentum"])
    loss = library.losses.SparseCategoricalCrossentropy(from_logits=True)
    settings = {"steps_per_execution": job.get("steps_per_execution", 1)}
    if job["xla"] is not None:
        settings["jit_compile"] = job["xla"]
    model.compile(optimizer, loss, metrics=["accuracy"], **settings)
    return model


def timer(library, epochs, first_of_training):
    """Returns a callback that times the training of epochs.

    Args:
        library: `keras` or `tf_keras`.
        epochs: The `Epochs` to write to.
        first_of_training: Function of an epoch: whether a training begins in it.
    """

    class Timer(library.callbacks.Callback):
        training = False

        def on_epoch_begin(self, epoch, logs=None):
            if first_of_training(epoch):
                epochs.training()
            self.training = True
            epochs.begin()

        def on_test_begin(self, logs=None):
            # The evaluation of an epoch begins when its training is over. On JAX, `fit`
            # does not wait for the last steps; reading what they write does.
            if self.training:
                np.asarray(self.model.trainable_variables[0])
                epochs.end()
            self.training = False

    return Timer()
