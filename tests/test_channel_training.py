"""Masked training follows the same path as training of the compact model."""

import keras
import numpy as np
import pytest
import tiny
from channel_models import images, network, predict, pruned, smaller, wrapped

OPTIMIZERS = {
    "momentum and clipnorm": lambda: keras.optimizers.SGD(
        0.05, momentum=0.9, nesterov=True, clipnorm=0.5
    ),
    "sgd": lambda: keras.optimizers.SGD(0.05),
    "adam": lambda: keras.optimizers.Adam(0.003),
    "adamw": lambda: keras.optimizers.AdamW(
        0.003, weight_decay=0.01, global_clipnorm=1.0
    ),
    "rmsprop": lambda: keras.optimizers.RMSprop(0.001),
    "lamb": lambda: keras.optimizers.Lamb(0.003),
    "ema": lambda: keras.optimizers.SGD(
        0.05, use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=10
    ),
}
# Both divide by means over rows and columns, pruned ones included.
DIFFERENT = {
    "adafactor": lambda: keras.optimizers.Adafactor(0.003),
    "muon": lambda: keras.optimizers.Muon(0.003),
}
STEPS = 52


def train(model, optimizer):
    x, y = images(32), np.arange(32) % 3
    tiny.compiled(model, optimizer())
    model.fit(x, y, batch_size=8, epochs=STEPS // 4, shuffle=False, verbose=0)
    return model


def trained_pair(optimizer):
    """Returns the masked and the compact model, after the same training."""
    model = wrapped(model=network())
    pruned(model, 0.4)
    small = smaller(model)
    start = predict(model, images(4))
    np.testing.assert_allclose(predict(small, images(4)), start, rtol=1e-4, atol=1e-5)
    train(model, optimizer)
    train(small, optimizer)
    assert np.abs(predict(model, images(4)) - start).max() > 0.01
    return model, small


@pytest.mark.on("tensorflow")
@pytest.mark.parametrize("name", tiny.marked(OPTIMIZERS, ["momentum and clipnorm"]))
def test_masked_training_equals_compact_training(name):
    if keras.config.backend() == "tensorflow":
        keras.config.set_dtype_policy("float64")
        tolerance = 1e-10
    else:  # JAX computes in float32.
        tolerance = 2e-3 if name in ("adam", "adamw", "lamb", "rmsprop") else 1e-4
    model, small = trained_pair(OPTIMIZERS[name])
    expected = smaller(model)
    for mine, other in zip(small.weights, expected.weights, strict=True):
        mine, other = (keras.ops.convert_to_numpy(v) for v in (mine, other))
        np.testing.assert_allclose(mine, other, rtol=tolerance, atol=tolerance)
    masked = predict(model, images(16))
    scale = np.abs(masked).max()
    difference = np.abs(predict(small, images(16)) - masked).max()
    assert difference <= tolerance * scale


@pytest.mark.matrix
@pytest.mark.parametrize("name", DIFFERENT)
def test_some_optimizers_train_masked_models_differently(name):
    model, small = trained_pair(DIFFERENT[name])
    masked = predict(model, images(16))
    assert np.abs(predict(small, images(16)) - masked).max() > 1e-3
