"""The user's own model: a .keras file, or a function that builds one."""

import os
import pathlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

import tf_tickets as tt
from tf_tickets.fine_tuning import target_kinds
from tf_tickets_cli import choices, loading, own_data, references


def is_built_in(spec: str) -> bool:
    """Returns whether `--model` names a network of this library; refuses other texts.

    Example:

    >>> is_built_in("lenet300"), is_built_in("model.keras")
    (True, False)
    """
    if spec in choices.NETWORKS:
        return True
    if spec.endswith(".keras") or references.is_reference(spec):
        return False
    raise ValueError(
        f"--model: unknown network. Received: {spec!r}. Expected one of "
        f"{', '.join(choices.NETWORKS)}, a file FILE.keras, module:function or "
        "file.py:function."
    )


class OwnModel:
    """Builds new models from a file's configuration or by calling a function.

    A model from a file has its layers and compile settings, but new weights. Kept are
    the weights of frozen layers, which training cannot adapt, and the states of layers
    with `adapt`, such as `Normalization`. It is pickled by its spec.

    Args:
        spec: FILE.keras, module:function or file.py:function.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> model.compile("adam", "mse")
    >>> model.save(tmp_path / "a.keras")
    >>> own = OwnModel(str(tmp_path / "a.keras"))
    >>> own.build().loss, own.name
    ('mse', 'a')
    """

    def __init__(self, spec: str) -> None:
        self.spec = spec
        self.is_file = spec.endswith(".keras")
        self._stored: keras.Model | None = None
        self._function: Callable[..., Any] = _no_function
        self.notes: tuple[str, ...] = ()
        if self.is_file:
            self._stored, self._compile_config, self.notes = _stored(spec)
        else:
            self._function = references.resolve(spec, "--model")

    def __reduce__(self):
        spec = self.spec
        if self.is_file or spec.rpartition(":")[0].endswith(".py"):
            spec = os.path.abspath(os.path.expanduser(spec))
        return type(self), (spec,)

    @property
    def name(self) -> str:
        """The name in reports and of the folder."""
        if self.is_file:
            return pathlib.Path(self.spec).stem
        return self.spec.rpartition(":")[2]

    def build(
        self,
        input_shape: tuple[int | None, ...] | None = None,
        num_classes: int | None = None,
    ) -> keras.Model:
        """Returns a new model; it is compiled if the file or the function says how.

        Args:
            input_shape: Shape of one input, for functions with this parameter.
            num_classes: Number of classes, for functions with this parameter.
        """
        if self._stored is not None:
            return _redrawn(self._stored, self._compile_config, self.spec)
        values = {"input_shape": input_shape, "num_classes": num_classes}
        text = f"--model {self.spec}"
        model = references.call(self._function, values, text)
        if not isinstance(model, keras.Model):
            raise TypeError(
                f"{text} must return a Keras model. Received: {type(model).__name__}"
            )
        if not model.built:
            raise ValueError(
                f"{text} must return a built model, whose layers have their weights. "
                f"Received: {model.name}. Begin it with keras.Input(shape), or call it "
                "on some data in the function."
            )
        return model


def _no_function():
    raise NotImplementedError("A model from a file is built from its configuration.")


def builder(
    spec: str, seed: int | None = None, data: own_data.OwnData | None = None
) -> Callable[[], keras.Model]:
    """Returns a function without arguments that builds a new, compiled model.

    Args:
        spec: As in `OwnModel`.
        seed: Seed that each call sets, or None if the caller sets it.
        data: The data that the model is for: they decide how a model is compiled that
            is not.

    Example:

    >>> def build():
    ...     return keras.Sequential([keras.Input((64,)), keras.layers.Dense(10)])
    >>> import sys, types
    >>> sys.modules["project"] = types.SimpleNamespace(build=build)
    >>> data = own_data.load("digits")
    >>> builder("project:build", 0, data)().loss.from_logits
    True
    """
    own = OwnModel(spec)

    def build() -> keras.Model:
        if seed is not None:
            keras.utils.set_random_seed(seed)
        if data is None:
            return own.build()
        model = own.build(data.input_shape, data.num_classes)
        text = f"--model {spec}"
        compile_by_targets(model, data.sample, text, data.known_targets)
        return model

    return build


def load(spec: str, data: own_data.OwnData | None = None) -> keras.Model:
    """Returns the model of a file with its weights, compiled if the file was.

    Args:
        spec: As in `OwnModel`. A function's model has the weights that it returns.
        data: As in `builder`, for a function's arguments.
    """
    if spec.endswith(".keras"):
        return loading.load_model(spec)
    own = OwnModel(spec)
    return (
        own.build() if data is None else own.build(data.input_shape, data.num_classes)
    )


def compile_by_targets(
    model: keras.Model,
    sample: tuple[Any, Any] | None,
    text: str,
    targets: Mapping[str, np.ndarray] | None = None,
    **settings: Any,
) -> str | None:
    """Compiles a model that is not, with the loss that its targets call for.

    Args:
        model: The model. A compiled one stays as it is.
        sample: Some rows (x, y) of the training data, or None where unknown.
        text: The option and its text, in messages.
        targets: Dict from the name of a part to all of its targets, where these are
            known. Those of "train" decide instead of the sample.
        **settings: More arguments of `keras.Model.compile`.

    Returns:
        How it was compiled, or None if it was compiled before.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> x, y = np.ones((2, 4)), np.array([0, 2])
    >>> compile_by_targets(model, (x, y), "--model m:f")
    'Adam, sparse categorical cross-entropy from logits'
    """
    if model.compiled:
        return None
    kind = _kind(model, sample, text, targets or {})
    model.compile("adam", loss=kind.loss, metrics=[kind.metric], **settings)
    return f"Adam, {kind.name}" + (f" from {kind.scale}" if kind.scale else "")


def _kind(model, sample, text, targets):
    """Returns the kind of the targets."""
    y = targets.get("train", None if sample is None else sample[1])
    output = getattr(model, "output_shape", None)
    if not isinstance(y, np.ndarray) or not isinstance(output, tuple):
        raise ValueError(
            f"{text} is not compiled. Compile it: model.compile(optimizer, loss). No "
            "loss can be chosen for it, because its targets or outputs are unknown, or "
            "more than one array."
        )
    shape = (len(y), *output[1:])
    try:
        kind = target_kinds.kind_of(y, shape, target_kinds.last_activation(model))
        for part, others in targets.items():
            target_kinds.check_kind(kind, others, part)
    except ValueError as error:
        raise ValueError(f"{text} is not compiled. {error}") from error
    return kind


def _stored(spec):
    """Returns the plain model of a file, its compile settings and notes about it."""
    with warnings.catch_warnings():
        # The optimizer is made again too, so its state does not matter.
        warnings.filterwarnings("ignore", "Skipping variable loading for optimizer")
        warnings.filterwarnings("ignore", "A total of .* objects could not be loaded")
        model = loading.load_model(spec)
    config = model.get_compile_config() if model.compiled else None
    notes = []
    wrapped = tt.kernels(model)
    if wrapped:
        masks = wrapped.mask_layers.values()
        if wrapped.scales or any(mask.learned for mask in masks):
            raise ValueError(
                f"{spec} has learned masks, which belong to another search. Strip it "
                "first: tf_tickets.strip(model).save(file)."
            )
        model = tt.strip(model)
        notes.append(f"{spec} was wrapped; its masks are not used")
    kept = [layer.name for layer, _ in _kept_pairs(model, model)]
    if kept:
        shown = ", ".join(kept[:3]) + ", ..." * (len(kept) > 3)
        notes.append(f"frozen or adapted layers keep their weights: {shown}")
    return model, config, tuple(notes)


def _redrawn(stored, compile_config, spec):
    """Returns a model of the same configuration with new weights."""
    try:
        model = keras.models.clone_model(stored)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ValueError(
            f"{spec} cannot be built again from its configuration: {error} Pass "
            "a function that builds the model instead: --model file.py:function."
        ) from error
    if not model.built:
        model.build(stored.input_shape)
    for old, new in _kept_pairs(stored, model):
        new.set_weights(old.get_weights())
    if compile_config is not None:
        model.compile_from_config(compile_config)
    return model


def _kept_pairs(stored, model):
    """Returns pairs of layers whose weights are not drawn again."""
    pairs = zip(_leaves(stored), _leaves(model), strict=True)
    return [
        (old, new)
        for old, new in pairs
        if old.weights and (not old.trainable or hasattr(old, "adapt"))
    ]


def _leaves(model):
    """Yields the layers of a model, those of nested models included."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _leaves(layer)
        else:
            yield layer
