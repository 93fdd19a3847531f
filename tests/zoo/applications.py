"""One network of each family in `keras.applications`, without pretrained weights."""

import functools

from keras import applications

from zoo.case import Builder, Case, compiled, floats, numbers


def _application(build, size, **arguments):
    model = build(weights=None, input_shape=(size, size, 3), classes=4, **arguments)
    # The networks end in a softmax.
    model = compiled(model, "sparse_categorical_crossentropy")
    return Case(model, floats(4, size, size, 3), numbers(4, 4), batch_size=2)


_SMALLEST = {
    "ConvNeXtTiny": (applications.ConvNeXtTiny, 32, {}),
    "DenseNet121": (applications.DenseNet121, 32, {}),
    "EfficientNetB0": (applications.EfficientNetB0, 32, {}),
    "EfficientNetV2B0": (applications.EfficientNetV2B0, 32, {}),
    "InceptionResNetV2": (applications.InceptionResNetV2, 75, {}),
    "InceptionV3": (applications.InceptionV3, 75, {}),
    "MobileNet": (applications.MobileNet, 32, {"alpha": 0.25}),
    "MobileNetV2": (applications.MobileNetV2, 32, {"alpha": 0.35}),
    "MobileNetV3Small": (applications.MobileNetV3Small, 32, {"alpha": 0.75}),
    "NASNetMobile": (applications.NASNetMobile, 32, {}),
    "ResNet50": (applications.ResNet50, 32, {}),
    "ResNet50V2": (applications.ResNet50V2, 32, {}),
    "VGG16": (applications.VGG16, 32, {}),
    "Xception": (applications.Xception, 71, {}),
}
MODELS: dict[str, Builder] = {
    name: functools.partial(_application, build, size, **arguments)
    for name, (build, size, arguments) in _SMALLEST.items()
}
