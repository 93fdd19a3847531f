"""Compiles a model by the kind of its targets, if its file was not compiled."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
import numpy as np

from tf_tickets import keras_internals
from tf_tickets.training.labels import is_labels

# Fine-tuning needs smaller steps than training from random weights.
LEARNING_RATE = 3e-4
# Layers and operations of Keras that are nothing but an activation.
_ACTIVATIONS = frozenset(
    ["elu", "gelu", "relu", "selu", "sigmoid", "silu", "softmax", "softplus", "tanh"]
)
_REMEDY = (
    "Compile the model with its loss and metrics before you save it: "
    "model.compile(optimizer, loss, metrics=[...])."
)


class Kind(NamedTuple):
    """A loss and a metric for one output.

    Args:
        loss: The loss.
        metric: The metric, or its name.
        description: What the targets are.
        scale: "logits" or "probabilities", which the outputs are. None for numbers.
    """

    loss: keras.losses.Loss
    metric: str | keras.metrics.Metric
    description: str
    scale: str | None

    @property
    def name(self) -> str:
        """The name of the loss in words."""
        return _words(self.loss)


def compile_by_targets(
    model: keras.Model,
    inputs: Any,
    targets: Any,
    others: Mapping[str, Any] | None = None,
) -> str:
    """Compiles a model by the kind of its targets; returns what was chosen.

    Args:
        model: A built model.
        inputs: A few inputs, an array or a nest of arrays.
        targets: All known targets, in the structure of the outputs.
        others: Dict from the name of another part to its targets. They must be of
            the same kind.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> compile_by_targets(model, np.ones((2, 4)), np.array([0, 2]))
    'integer labels of 3 classes (logits): Adam, sparse categorical cross-entropy'
    >>> model.loss.from_logits
    True
    """
    outputs = model(keras.tree.map_structure(keras.ops.convert_to_tensor, inputs))
    names = _names(model, outputs)
    arrays = [keras.ops.convert_to_numpy(x) for x in keras.tree.flatten(outputs)]
    values = _in_order(targets, outputs, names)
    names_of_ends = [last_activation(model, index) for index in range(len(arrays))]
    kinds = [
        kind_of(np.asarray(y), (len(y), *array.shape[1:]), name or _of_values(array))
        for y, array, name in zip(values, arrays, names_of_ends, strict=True)
    ]
    for part, given in (others or {}).items():
        for kind, y in zip(kinds, _in_order(given, outputs, names), strict=True):
            check_kind(kind, np.asarray(y), part)
    losses: Any = [kind.loss for kind in kinds]
    metrics: Any = [[kind.metric] for kind in kinds]
    if isinstance(outputs, dict):
        losses = dict(zip(names, losses, strict=True))
        metrics = dict(zip(names, metrics, strict=True))
    elif len(kinds) == 1:
        losses, metrics = losses[0], metrics[0]
    model.compile(keras.optimizers.Adam(LEARNING_RATE), losses, metrics=metrics)
    texts = [f"{k.description}: Adam, {k.name}" for k in kinds]
    if len(texts) == 1:
        return texts[0]
    return "; ".join(f"{n}: {text}" for n, text in zip(names, texts, strict=True))


def _names(model, outputs):
    if isinstance(outputs, dict):
        return sorted(outputs)
    count = len(keras.tree.flatten(outputs))
    return list(getattr(model, "output_names", ()) or map(str, range(count)))


def _in_order(targets, outputs, names):
    """Returns the targets in the order of the outputs."""
    if isinstance(targets, dict):
        if set(targets) != set(names):
            raise ValueError(
                "The targets do not fit the outputs of the model. Received targets "
                f"for {sorted(targets)}. Expected: {sorted(names)}."
            )
        return [targets[name] for name in names]
    flat = keras.tree.flatten(targets)
    if len(flat) != len(names):
        raise ValueError(
            "The targets do not fit the outputs of the model. Received: "
            f"{len(flat)} arrays of targets. Expected one for each output: {names}."
        )
    return flat


def last_activation(model: keras.Model, index: int = 0) -> str | None:
    """Returns the name of the activation that makes an output, also of nested models.

    None if it is not known: of a subclassed model, or before a layer such as `Reshape`.

    Args:
        model: A model.
        index: The number of the output.

    Example:

    >>> layers = [keras.Input((4,)), keras.layers.Dense(3), keras.layers.Softmax()]
    >>> last_activation(keras.Sequential(layers))
    'softmax'
    """
    layer: Any = model
    while isinstance(layer, keras.Sequential | keras.Function):
        layer, index = _maker(layer, index)
    activation = getattr(layer, "activation", None)
    if activation is not None:
        return getattr(activation, "__name__", type(activation).__name__).lower()
    kind = type(layer)
    is_of_keras = kind.__module__.partition(".")[0] == "keras"
    name = kind.__name__.lower()
    return name if is_of_keras and name in _ACTIVATIONS else None


def _maker(model, index):
    """Returns the last layer of a model before an output, and its number there."""
    if isinstance(model, keras.Sequential):
        return model.layers[-1], index
    # A layer may be called several times, and only one call makes the output.
    for call in keras_internals.calls(model):
        for place, tensor in enumerate(call.outputs):
            if tensor is model.outputs[index]:
                return call.operation, place
    return None, 0


def _of_values(output):
    """Returns the activation that outputs look like, of a model that is trained."""
    in_range = bool(((output >= 0) & (output <= 1)).all())
    if in_range and output.shape[-1] == 1:
        return "sigmoid"
    sums = output.sum(axis=-1)
    return "softmax" if in_range and np.allclose(sums, 1, atol=1e-3) else "linear"


def kind_of(y: np.ndarray, shape: tuple[int, ...], activation: str | None) -> Kind:
    """Returns loss and metric for the targets of one output, by one rule.

    Integers are classes, one-hot rows too, zeros and ones are labels of yes and no, and
    other floats are numbers. The last activation must be one that fits. Nothing else
    is guessed.

    Args:
        y: All known targets: a few may be zeros and ones by chance.
        shape: The shape of the model's outputs for them.
        activation: The name of the last activation.

    Example:

    >>> kind_of(np.array([0.5, 2.0]), (2, 1), "linear").description
    'numbers'
    """
    classes = shape[-1]
    is_whole = y.dtype.kind in "uib"
    is_linear = activation == "linear"
    scale = "logits" if is_linear else "probabilities"
    is_choice = is_linear or activation == "softmax"
    if is_whole and classes > 1 and is_labels(y, shape) and is_choice:
        return Kind(
            keras.losses.SparseCategoricalCrossentropy(from_logits=is_linear),
            "accuracy",
            f"integer labels of {classes} classes ({scale})",
            scale,
        )
    fits = y.shape == shape or (classes == 1 and y.shape == shape[:-1])
    are_bits = fits and _are_bits(y)
    if are_bits and classes > 1 and (y.sum(axis=-1) == 1).all() and is_choice:
        return Kind(
            keras.losses.CategoricalCrossentropy(from_logits=is_linear),
            "accuracy",
            f"one-hot labels of {classes} classes ({scale})",
            scale,
        )
    if are_bits and (is_linear or activation in ("sigmoid", "hard_sigmoid")):
        return Kind(
            keras.losses.BinaryCrossentropy(from_logits=is_linear),
            keras.metrics.BinaryAccuracy("accuracy", threshold=0.5 * (not is_linear)),
            f"labels of 0 and 1 ({scale})",
            scale,
        )
    if fits and is_linear and not are_bits and not is_whole:
        return Kind(keras.losses.MeanSquaredError(), "mae", "numbers", None)
    known = f"the last activation {activation!r}" if activation else "another end"
    raise ValueError(
        "The kind of the targets is not known. Received: targets of shape "
        f"{y.shape} and dtype {y.dtype} for outputs of shape {shape} with {known}. "
        "Expected: classes for 'linear' or 'softmax', zeros and ones for 'linear' or "
        "'sigmoid', floats for 'linear'; whole numbers are classes, one output for "
        f"each. {_REMEDY}"
    )


def _are_bits(y):
    return bool(((y == 0) | (y == 1)).all())


def check_kind(kind: Kind, y: np.ndarray, part: str) -> None:
    """Refuses targets of another part that contradict the kind of the training's.

    Args:
        kind: The kind of the training targets.
        y: The targets of the other part.
        part: Its name.

    Example:

    >>> bits = kind_of(np.array([0.0, 1.0]), (2, 1), "linear")
    >>> check_kind(bits, np.array([0.0, 2.5]), "validation")
    Traceback (most recent call last):
    ValueError: The targets are not of one kind. Received: labels of 0 and 1 (logits)
        for training, but values from 0 to 2.5 for validation. Expected: 0 and 1 in
        every part...
    """
    bits = keras.losses.BinaryCrossentropy | keras.losses.CategoricalCrossentropy
    if isinstance(kind.loss, bits) and not _are_bits(y):
        raise ValueError(
            f"The targets are not of one kind. Received: {kind.description} for "
            f"training, but values from {y.min():g} to {y.max():g} for {part}. "
            f"Expected: 0 and 1 in every part. {_REMEDY}"
        )


def _words(loss):
    name = "".join(f" {c.lower()}" if c.isupper() else c for c in type(loss).__name__)
    return name.strip().replace("crossentropy", "cross-entropy")
