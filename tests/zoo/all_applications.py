"""All models of `keras.applications`, without pretrained weights."""

import inspect

import keras

# The smallest images that they accept, where 64 pixels are not enough.
_SIZES = {"InceptionResNetV2": 75, "InceptionV3": 75, "Xception": 71}
NAMES = sorted(
    name
    for name, build in vars(keras.applications).items()
    if inspect.isfunction(build) and name[0].isupper()
)


def size_of(name):
    """Returns the side of the images of a model."""
    return _SIZES.get(name, 64)


def build(name, classes=10):
    """Returns a model. It ends in logits."""
    size = size_of(name)
    arguments = {"include_top": True, "classes": classes, "classifier_activation": None}
    model = getattr(keras.applications, name)
    return model(weights=None, input_shape=(size, size, 3), **arguments)
