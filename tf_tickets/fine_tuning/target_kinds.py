"""Compiles a model by the kind of its targets, if its file was not compiled."""

from typing import Any, NamedTuple

import keras
import numpy as np

from tf_tickets.training.labels import is_labels

# Fine-tuning needs smaller steps than training from random weights.
LEARNING_RATE = 3e-4
_PROBABILITIES = ("softmax", "sigmoid", "hard_sigmoid")
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
    """

    loss: keras.losses.Loss
    metric: str | keras.metrics.Metric
    description: str


def compile_by_targets(model: keras.Model, inputs: Any, targets: Any) -> str:
    """Compiles a model by the kind of its targets; returns what was chosen.

    Args:
        model: A built model.
        inputs: A few inputs, an array or a nest of arrays.
        targets: Their targets, in the structure of the outputs.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> compile_by_targets(model, np.ones((2, 4)), np.array([0, 2]))
    'integer labels of 3 classes (logits): Adam, sparse categorical crossentropy'
    >>> model.loss.from_logits
    True
    """
    outputs = model(keras.tree.map_structure(keras.ops.convert_to_tensor, inputs))
    names = _names(model, outputs)
    arrays = [keras.ops.convert_to_numpy(x) for x in keras.tree.flatten(outputs)]
    values = _in_order(targets, outputs, names)
    layers = [_activation(model, index) for index in range(len(arrays))]
    kinds = [
        kind_of(np.asarray(y), array, activation)
        for y, array, activation in zip(values, arrays, layers, strict=True)
    ]
    losses: Any = [kind.loss for kind in kinds]
    metrics: Any = [[kind.metric] for kind in kinds]
    if isinstance(outputs, dict):
        losses = dict(zip(names, losses, strict=True))
        metrics = dict(zip(names, metrics, strict=True))
    elif len(kinds) == 1:
        losses, metrics = losses[0], metrics[0]
    model.compile(keras.optimizers.Adam(LEARNING_RATE), losses, metrics=metrics)
    texts = [f"{k.description}: Adam, {_words(k.loss)}" for k in kinds]
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


def _activation(model, index):
    """Returns the name of the last activation before an output, if it is known."""
    if not isinstance(model, keras.Sequential | keras.Function):
        return None
    tensor = model.outputs[index]
    for layer in reversed(keras.tree.flatten(model.layers)):
        made = getattr(layer, "output", None)
        if any(one is tensor for one in keras.tree.flatten(made)):
            if isinstance(layer, keras.layers.Softmax):
                return "softmax"
            function = getattr(layer, "activation", None)
            return getattr(function, "__name__", None)
    return None


def kind_of(y: np.ndarray, output: np.ndarray, activation: str | None = None) -> Kind:
    """Returns loss and metric for the targets of one output.

    Args:
        y: A few targets.
        output: The model's outputs for their inputs.
        activation: The name of the last activation, if known.

    Example:

    >>> kind_of(np.array([0.5, 2.0]), np.array([[0.1], [0.2]])).description
    'numbers'
    """
    classes = output.shape[-1]
    is_whole = y.dtype.kind in "uib"
    logits = not _are_probabilities(output, activation)
    scale = "logits" if logits else "probabilities"
    if is_whole and classes > 1 and is_labels(y, output.shape):
        return Kind(
            keras.losses.SparseCategoricalCrossentropy(from_logits=logits),
            "accuracy",
            f"integer labels of {classes} classes ({scale})",
        )
    if y.shape not in (output.shape, output.shape[:-1]) or (
        y.shape != output.shape and classes != 1
    ):
        raise ValueError(
            "The kind of the targets is not known. Received: targets of shape "
            f"{y.shape} and dtype {y.dtype} for outputs of shape {output.shape}. "
            f"{_REMEDY}"
        )
    if not np.isin(y, (0, 1)).all():
        return Kind(keras.losses.MeanSquaredError(), "mae", "numbers")
    if classes > 1 and (y.sum(axis=-1) == 1).all():
        return Kind(
            keras.losses.CategoricalCrossentropy(from_logits=logits),
            "accuracy",
            f"one-hot labels of {classes} classes ({scale})",
        )
    return Kind(
        keras.losses.BinaryCrossentropy(from_logits=logits),
        keras.metrics.BinaryAccuracy("accuracy", threshold=0.0 if logits else 0.5),
        f"labels of 0 and 1 ({scale})",
    )


def _are_probabilities(output, activation):
    if activation in _PROBABILITIES:
        return True
    if activation is not None:
        return False
    in_range = bool(((output >= 0) & (output <= 1)).all())
    sums = output.sum(axis=-1)
    return in_range and (output.shape[-1] == 1 or bool(np.allclose(sums, 1, atol=1e-3)))


def _words(loss):
    name = "".join(f" {c.lower()}" if c.isupper() else c for c in type(loss).__name__)
    return name.strip()
