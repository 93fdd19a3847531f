"""IMP with tensorflow-model-optimization and tf_keras, as its users write it by hand.

The library prunes to a schedule of sparsities while a network trains. A level of IMP is
a network built anew with the first weights times the mask, wrapped so that the zeros
stay (`ConstantSparsity` of each layer's sparsity, masks computed in the first step),
trained and stripped. What to prune next is chosen by hand, as the library has no global
magnitudes.
"""

import warnings

import job as jobs
import keras_networks as networks
import numpy as np
import tensorflow as tf
import tf_keras

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import tensorflow_model_optimization as tfmot

SPARED = "output"


def main():
    job = jobs.read()
    tf_keras.utils.set_random_seed(job["seed"])
    train, test = jobs.data(job)
    size = job["batch_size"]
    epochs = jobs.Epochs(-(-len(train[0]) // size))
    plain = networks.build(tf_keras, job["network"])
    weights = plain.count_params()
    start = plain.get_weights()
    masks = {name: np.ones(k.shape, bool) for name, k in kernels(plain).items()}
    accuracies, sparsities = [], []
    for level in range(job["rounds"] + 1):
        if level:
            masks = jobs.global_masks(kernels(plain), masks, job["rate"])
            tf_keras.backend.clear_session()
            plain = networks.build(tf_keras, job["network"])
            plain.set_weights(start)
            for layer in prunable(plain):
                layer.kernel.assign(layer.kernel * masks[layer.name])
        model = wrapped(plain, masks) if level else plain
        networks.compiled(tf_keras, model, job)
        callbacks = [networks.timer(tf_keras, epochs, lambda epoch: epoch == 0)]
        if level:
            callbacks.append(tfmot.sparsity.keras.UpdatePruningStep())
        history = model.fit(
            *train,
            batch_size=size,
            epochs=job["epochs"],
            validation_data=test,
            callbacks=callbacks,
            verbose=0,
        )
        accuracies.append(history.history["val_accuracy"][-1])
        plain = tfmot.sparsity.keras.strip_pruning(model) if level else model
        zeros = {name: kernel != 0 for name, kernel in kernels(plain).items()}
        sparsities.append(jobs.sparsity(zeros))
        plain.save_weights(jobs.level_path(job, level, "weights.h5"))
    versions = {
        "tensorflow": tf.__version__,
        "tf_keras": tf_keras.__version__,
        "tensorflow_model_optimization": tfmot.__version__,
    }
    jobs.write(job, epochs, accuracies, sparsities, weights, versions)


def prunable(model):
    """Returns the layers whose kernels are pruned."""
    return [
        layer
        for layer in model.layers
        if hasattr(layer, "kernel") and layer.name != SPARED
    ]


def kernels(model):
    return {layer.name: layer.kernel.numpy() for layer in prunable(model)}


def wrapped(model, masks):
    """Returns a model that keeps its zeros."""

    def wrap(layer):
        if layer.name not in masks:
            return layer
        sparsity = 1.0 - masks[layer.name].mean()
        # Its steps are counted from 1.
        schedule = tfmot.sparsity.keras.ConstantSparsity(sparsity, 1, 1)
        return tfmot.sparsity.keras.prune_low_magnitude(layer, schedule)

    return tf_keras.models.clone_model(model, clone_function=wrap)


if __name__ == "__main__":
    main()
