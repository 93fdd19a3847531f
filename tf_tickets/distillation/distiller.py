"""Trains a student model from one or more teacher models."""

from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tf_tickets import arguments, distribution
from tf_tickets.distillation.losses import DistillationLoss
from tf_tickets.masks.base import Tensor
from tf_tickets.wrapping import graphs

_INPUTS = "distiller_inputs"
_OUTPUTS = "distiller_outputs"


@keras.saving.register_keras_serializable("tf_tickets")
class Distiller(keras.Model):
    """Trains a student on labels and on the outputs of one or more teachers.

    The loss is the sum of three terms:

    - `student_loss_weight` times the compiled loss,
    - the weighted distillation losses,
    - the `losses` of the student: regularizers and penalties of masks.

    `sample_weight` applies to the first two. A distiller compiles and trains like any
    Keras model. Its weights are those of the student, and searches work as callbacks of
    its `fit`.

    Teachers run in inference mode and receive no gradient. Their weights are not part
    of the weights of this model. On JAX the compiled step contains the weights of the
    teachers; compile again after changing them.

    Args:
        teacher: A model, or a list of models.
        student: The model to train. To prune it, wrap it first.
        distillation_losses: A loss from `tf_tickets.distillation`, or a list of them.
        distillation_loss_weights: List of one weight per distillation loss. Defaults
            to 1 for each.
        student_loss_weight: Weight of the compiled loss, from 0 to 1.

    Example:

    >>> def build():
    ...     return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> student = tt.wrap(build(), verbose=False)
    >>> loss = tt.distillation.LogitsDistillation(temperature=4.0)
    >>> distiller = Distiller(build(), student, loss)
    >>> distiller.compile("adam", keras.losses.CategoricalCrossentropy(True))
    >>> x, y = np.ones((8, 4)), np.eye(3)[[0] * 8]
    >>> search = tt.IMP(rounds=1, epochs_per_round=1, rate=0.5, monitor="loss")
    >>> history = distiller.fit(x, y, epochs=2, callbacks=[search], verbose=0)
    >>> tt.kernels(student).sparsity
    0.5
    """

    def __init__(
        self,
        teacher: keras.Model | Sequence[keras.Model],
        student: keras.Model,
        distillation_losses: DistillationLoss | Sequence[DistillationLoss],
        distillation_loss_weights: Sequence[float] | None = None,
        student_loss_weight: float = 0.5,
        name: str = "distiller",
        **kwargs: Any,
    ) -> None:
        arguments.check_between(0.0, 1.0, student_loss_weight=student_loss_weight)
        arguments.check_type(str, name=name)
        teachers = _as_list(teacher, keras.Model, "teacher")
        losses = _as_list(distillation_losses, DistillationLoss, "distillation_losses")
        _check_built("student", student)
        weights = distillation_loss_weights
        weights = [1.0] * len(losses) if weights is None else check_weights(weights)
        super().__init__(name=name, **kwargs)
        self.student = student
        self.distillation_losses = losses
        self.distillation_loss_weights = weights
        self.student_loss_weight = float(student_loss_weight)
        self._check(teachers)
        self._teacher_views = _Views(teachers, self._layer_names("teacher"))
        self._student_view = _Views([student], self._layer_names("student"))
        self._prepare()
        self.student_loss = keras.metrics.Mean(name="student_loss")
        self.distillation_loss = keras.metrics.Mean(name="distillation_loss")
        self.built = True

    @property
    def teachers(self) -> list[keras.Model]:
        """The teachers."""
        return self._teacher_views.models

    def _layer_names(self, role):
        """Returns the layers of the "teacher" or "student" that the losses compare."""
        return [getattr(x, f"{role}_layer_name") for x in self.distillation_losses]

    def _check(self, teachers):
        for model in teachers:
            _check_built("teacher", model)
        self._check_not_shared(teachers)
        if len(self.distillation_loss_weights) != len(self.distillation_losses):
            raise ValueError(
                "`distillation_loss_weights` must have one weight per loss. Received: "
                f"{len(self.distillation_losses)} losses, "
                f"distillation_loss_weights={self.distillation_loss_weights}"
            )

    def _check_not_shared(self, teachers):
        student_ids = {id(variable) for variable in self.student.variables}
        variables = [v for teacher in teachers for v in teacher.variables]
        shared = [v.path for v in variables if id(v) in student_ids]
        if shared:
            raise ValueError(
                f"A teacher shares the variables {shared} with the student, and would "
                "be trained with it. wrap(model) shares its variables with `model`. "
                "Pass a copy: keras.models.clone_model(model), then set_weights."
            )

    def _prepare(self):
        [student] = self._student_view.shapes()
        for loss in self.distillation_losses:
            name = loss.teacher_layer_name
            shapes = {shape[name] for shape in self._teacher_views.shapes()}
            if len(shapes) > 1:
                raise ValueError(
                    f"The {name or 'outputs'!r} of all teachers must have the same "
                    f"shape. Received: {sorted(map(str, shapes))}"
                )
            loss.prepare(shapes.pop(), student[loss.student_layer_name])

    # Methods called by Keras.

    def call(self, inputs, training=None):
        if self._student_view.models[0] is not self.student:  # stripped in place
            self._student_view = _Views([self.student], self._layer_names("student"))
        inputs = inputs[_INPUTS] if _is_remembered(inputs) else inputs
        [outputs] = self._student_view(inputs, training)
        self._student_view.seen = outputs
        return outputs[None]

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        replicas = distribution.replicas()
        distillation = self._distillation_loss(x, _row_weights(sample_weight))
        student = self._student_loss(x, y, y_pred, sample_weight, training)
        # Weighted by the batch size, like the mean loss that Keras reports.
        rows = ops.shape(keras.tree.flatten(y_pred)[0])[0]
        self.student_loss.update_state(student * replicas, sample_weight=rows)
        self.distillation_loss.update_state(distillation, sample_weight=rows)
        return student + ops.cast(distillation / replicas, student.dtype)

    def _student_loss(self, x, y, y_pred, sample_weight, training):
        """Returns the weighted compiled loss plus the unweighted penalties."""
        penalties = sum(self.losses, ops.zeros(())) / distribution.replicas()
        if self.loss is None:
            return penalties
        weight = self.student_loss_weight
        total = super().compute_loss(x, y, y_pred, sample_weight, training)
        return weight * total + (1.0 - weight) * penalties

    def _distillation_loss(self, x, sample_weight):
        # The outputs of `call` in the same step.
        seen, self._student_view.seen = self._student_view.seen, {}
        teacher_outputs = self._teacher_outputs(x)
        total = ops.zeros(())
        weighted = zip(
            self.distillation_losses, self.distillation_loss_weights, strict=True
        )
        for loss, weight in weighted:
            targets = [
                ops.stop_gradient(outputs[loss.teacher_layer_name])
                for outputs in teacher_outputs
            ]
            outputs = seen[loss.student_layer_name]
            total += weight * loss.compute_loss(targets, outputs, sample_weight)
        return total

    def _teacher_outputs(self, x):
        """Returns, for each teacher, a dict from a layer name to its outputs."""
        if not _is_remembered(x):
            return self._teacher_views(x, training=False)
        remembered = x[_OUTPUTS]
        names = self._layer_names("teacher")
        return [
            {name: remembered[_key(name)][:, index] for name in names}
            for index in range(len(self.teachers))
        ]

    def remember(self, x: Any, batch_size: int = 512) -> dict:
        """Precomputes the outputs of the teachers.

        Pass the result to `fit` instead of `x`. The teachers are then not called during
        training. Use it only if the inputs are not augmented; their order may change.

        Args:
            x: Inputs, an array or a nested structure of arrays.
            batch_size: Number of examples per call of the teachers.

        Returns:
            Dict of the inputs and the outputs of the teachers.
        """
        arguments.check_counts(batch_size=batch_size)
        parts = []
        size = _rows(x)
        for begin in range(0, size, batch_size):
            rows = slice(begin, begin + batch_size)
            batch = keras.tree.map_structure(lambda a, rows=rows: a[rows], x)
            parts.append(self._stack(self._teacher_views(batch, training=False)))
        joined = keras.tree.map_structure(lambda *p: np.concatenate(p), *parts)
        return {_INPUTS: x, _OUTPUTS: joined}

    def _stack(self, teacher_outputs):
        """Returns a dict from a layer to an array of (examples, teachers, ...)."""
        stacked = {}
        for name in self._layer_names("teacher"):
            arrays = [
                ops.convert_to_numpy(outputs[name]) for outputs in teacher_outputs
            ]
            stacked[_key(name)] = np.stack(arrays, axis=1)
        return stacked

    # Keras also saves the teachers, as layers in a public attribute.

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        return {
            "name": self.name,
            "teacher": [serialize(teacher) for teacher in self.teachers],
            "student": serialize(self.student),
            "distillation_losses": [serialize(x) for x in self.distillation_losses],
            "distillation_loss_weights": self.distillation_loss_weights,
            "student_loss_weight": self.student_loss_weight,
        }

    @classmethod
    def from_config(cls, config):
        read = keras.saving.deserialize_keras_object
        return cls(
            **{
                **config,
                "teacher": [read(teacher) for teacher in config["teacher"]],
                "student": read(config["student"]),
                "distillation_losses": [read(x) for x in config["distillation_losses"]],
            }
        )


class _Views:
    """Calls models and returns their outputs and those of selected layers.

    Keras does not track models in this class. The name None stands for the output of a
    model. `seen` holds the result of the last call within a step.
    """

    def __init__(self, models, names):
        self.models = models
        self.names = list(dict.fromkeys((None, *names)))
        self.views = [_view(model, self.names[1:]) for model in models]
        self.seen: dict[str | None, Tensor] = {}

    def __call__(self, x, training):
        return [self._named(view(x, training=training)) for view in self.views]

    def shapes(self):
        """Returns, for each model, a dict from a layer name to a shape or None."""
        return [self._shapes(view) for view in self.views]

    def _shapes(self, view):
        if not graphs.is_graph(view):
            return {None: None}
        tensors = self._named(view.outputs)
        return {name: tuple(tensor.shape) for name, tensor in tensors.items()}

    def _named(self, outputs):
        outputs = outputs if isinstance(outputs, list) else [outputs]
        return dict(zip(self.names, outputs, strict=True))


def _view(model, layers):
    graph = graphs.is_graph(model)
    functional = isinstance(model, keras.Function)
    if functional and not hasattr(model.output, "shape"):
        raise ValueError(
            "Teachers and student must have one output, not a list or dict of them. "
            f"Received: {model.name!r}, whose output is a {type(model.output).__name__}"
        )
    if not layers:
        return model
    if not graph:
        raise ValueError(
            f"The outputs of the layers {layers} are not accessible because "
            f"{model.name!r} is neither Sequential nor functional. Compare the outputs "
            "of the models, or build it as keras.Model(inputs, outputs)."
        )
    inputs, output, layer_outputs = _new_graph(model)
    selected = [layer_outputs[id(_layer(model, name))] for name in layers]
    return keras.Model(inputs, [output, *selected])


def _new_graph(model):
    """Calls the layers of a model in a new graph.

    The attribute `layer.output` may belong to another model that shares the layer.

    Returns:
        The input, the output, and a dict from the id of a layer to its output.
    """
    layer_outputs = {}

    def call(layer, *args, **kwargs):
        layer_outputs[id(layer)] = layer(*args, **kwargs)
        return layer_outputs[id(layer)]

    if isinstance(model, keras.Sequential):
        [first] = model.inputs
        inputs = output = keras.Input(batch_shape=first.shape, dtype=first.dtype)
        for layer in model.layers:
            output = call(layer, output)
        return inputs, output, layer_outputs
    clone = keras.models.clone_model(
        model, clone_function=lambda layer: layer, call_function=call
    )
    return clone.input, clone.outputs[0], layer_outputs


def _layer(model, name):
    if isinstance(name, int):
        return model.get_layer(index=name)
    return model.get_layer(name)


def _as_list(value, kind, name):
    """Returns a list of instances, from one of them or several."""
    items = value if isinstance(value, Iterable) else [value]
    found = arguments.listed(kind, **{name: items})
    if not found:
        raise ValueError(
            f"`{name}` must have at least one item. Received: an empty list, []."
        )
    return found


def _check_built(role, model):
    if not isinstance(model, keras.Model) or not model.built:
        raise TypeError(
            f"Teachers and student must be built Keras models. Received: {role}="
            f"{arguments.shown(model)}"
        )


def check_weights(weights: Sequence[float]) -> list[float]:
    """Returns the weights of distillation losses; refuses other values.

    Example:

    >>> check_weights([1, 0.5])
    [1.0, 0.5]
    """
    is_list = isinstance(weights, list | tuple) or np.ndim(weights) == 1
    if not is_list or not all(
        arguments.is_number(weight) and 0.0 <= weight < float("inf")
        for weight in weights
    ):
        raise ValueError(
            "`distillation_loss_weights` must be a list of finite numbers of 0 or "
            f"more. Received: {arguments.shown(weights)}"
        )
    return [float(weight) for weight in weights]


def _rows(x):
    """Returns the number of examples of a nest of arrays."""
    arrays = keras.tree.flatten(x)
    shapes = [np.shape(arguments.array(x=array)) for array in arrays]
    if not arguments.have_equal_rows(shapes):
        raise ValueError(
            "`x` must be an array, or a nest of arrays, with one row per example. "
            f"Received: {arguments.shown(x)} with the shapes {shapes}"
        )
    return shapes[0][0]


def _key(name):
    return "output" if name is None else f"layer {name}"


def _is_remembered(x):
    return isinstance(x, dict) and set(x) == {_INPUTS, _OUTPUTS}


def _row_weights(sample_weight):
    """Returns one float32 weight per row."""
    if sample_weight is None:
        return None
    shape = tuple(sample_weight.shape)
    if any(length != 1 for length in shape[1:]):
        raise ValueError(
            "Distillation losses take one sample weight per row. Received: weights of "
            f"shape {shape}. Pass weights of shape (rows,)."
        )
    return ops.reshape(ops.cast(sample_weight, "float32"), (-1,))
