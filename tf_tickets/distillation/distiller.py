"""The trainer that teaches a model, wrapped or plain, what other models know."""

from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tf_tickets.distillation.losses import DistillationLoss
from tf_tickets.masks.base import Tensor
from tf_tickets.wrapping import rebuilding

_INPUTS = "distiller_inputs"
_ANSWERS = "distiller_answers"


@keras.saving.register_keras_serializable("tf_tickets")
class Distiller(keras.Model):
    """Trains a student on its data and on what one or several teachers say of them.

    The loss is `student_loss_weight` times what it is compiled with, plus the weighted
    distillation losses, plus the student's own `losses`: regularizers and the
    penalties of masks. `sample_weight` counts in all but the last. All ways of
    compiling a step are Keras's own; every search works under it as a callback of its
    `fit`, for to Keras and to a search it has the student's weights alone.

    Teachers are in inference mode, take no gradient, and are not among the weights of
    the model. On JAX their weights are those at the time a step is compiled: compile
    again after changing them.

    Args:
        teacher: A model, or a list of models.
        student: The model to train; wrap it before.
        distillation_losses: One of `tf_tickets.distillation` or a list of them.
        distillation_loss_weights: A weight for each; by default 1.
        student_loss_weight: Weight of the compiled loss, 0 to 1.

    Example:

    >>> def build():
    ...     return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> student = tt.wrap(build(), verbose=False)
    >>> answers = tt.distillation.LogitsDistillation(temperature=4.0)
    >>> distiller = Distiller(build(), student, answers)
    >>> distiller.compile("adam", keras.losses.CategoricalCrossentropy(True))
    >>> x, y = np.ones((8, 4)), np.eye(3)[[0] * 8]
    >>> search = tt.IMP(rounds=1, epochs_per_round=1, rate=0.5, monitor="loss")
    >>> history = distiller.fit(x, y, epochs=2, callbacks=[search], verbose=0)
    >>> tt.wrapping.sparsity(student)
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
        super().__init__(name=name, **kwargs)
        self.student = student
        self.distillation_losses = _listed(distillation_losses)
        weights = distillation_loss_weights
        count = len(self.distillation_losses)
        weights = [1.0] * count if weights is None else weights
        self.distillation_loss_weights = [float(weight) for weight in weights]
        self.student_loss_weight = float(student_loss_weight)
        teachers = _listed(teacher)
        self._check(teachers)
        self._views = _Views(teachers, self._named("teacher"))
        self._view = _Views([student], self._named("student"))
        self._prepare()
        self.student_loss = keras.metrics.Mean(name="student_loss")
        self.distillation_loss = keras.metrics.Mean(name="distillation_loss")
        self.built = True

    @property
    def teachers(self) -> list[keras.Model]:
        """The teachers."""
        return self._views.models

    def _named(self, who):
        """The layers that the losses compare."""
        return [getattr(x, f"{who}_layer_name") for x in self.distillation_losses]

    def _check(self, teachers):
        if not teachers:
            raise ValueError("Give a teacher, or several. Received: none.")
        for model in (*teachers, self.student):
            if not isinstance(model, keras.Model) or not model.built:
                raise TypeError(
                    "Teachers and student must be Keras models that are built. "
                    f"Received: {model!r}"
                )
        self._check_apart(teachers)
        for loss in self.distillation_losses:
            if not isinstance(loss, DistillationLoss):
                raise TypeError(
                    "A distillation loss must be one of tf_tickets.distillation. "
                    f"Received: {loss!r}"
                )
        self._check_weights()

    def _check_weights(self):
        if len(self.distillation_loss_weights) != len(self.distillation_losses):
            raise ValueError(
                "There must be a weight for each distillation loss. Received: "
                f"{len(self.distillation_losses)} losses, "
                f"distillation_loss_weights={self.distillation_loss_weights}"
            )
        if not all(0.0 <= w < float("inf") for w in self.distillation_loss_weights):
            raise ValueError(
                "`distillation_loss_weights` must be 0 or more. Received: "
                f"{self.distillation_loss_weights}"
            )
        if not 0.0 <= self.student_loss_weight <= 1.0:
            raise ValueError(
                "`student_loss_weight` must lie in [0, 1]. Received: "
                f"{self.student_loss_weight}"
            )

    def _check_apart(self, teachers):
        own = {id(variable) for variable in self.student.variables}
        taught = [v for teacher in teachers for v in teacher.variables]
        shared = [v.path for v in taught if id(v) in own]
        if shared:
            raise ValueError(
                f"A teacher shares {shared} with the student and would be trained with "
                "it: wrap(model) shares its variables with `model`. Give a copy: "
                "keras.models.clone_model(model), then set_weights."
            )

    def _prepare(self):
        [student] = self._view.shapes()
        for loss in self.distillation_losses:
            name = loss.teacher_layer_name
            shapes = {shape[name] for shape in self._views.shapes()}
            if len(shapes) > 1:
                raise ValueError(
                    f"The teachers' {name or 'outputs'!r} must have one shape. "
                    f"Received: {sorted(map(str, shapes))}"
                )
            loss.prepare(shapes.pop(), student[loss.student_layer_name])

    # What Keras calls.

    def call(self, inputs, training=None):
        if self._view.models[0] is not self.student:  # stripped in place
            self._view = _Views([self.student], self._named("student"))
        inputs = inputs[_INPUTS] if _is_remembered(inputs) else inputs
        [found] = self._view(inputs, training)
        self._view.seen = found
        return found[None]

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        replicas = _replicas()
        taught = self._taught(x, _row_weights(sample_weight))
        own = self._own_loss(x, y, y_pred, sample_weight, training)
        # As Keras's own mean of the loss: by the rows of a batch.
        rows = ops.shape(keras.tree.flatten(y_pred)[0])[0]
        self.student_loss.update_state(own * replicas, sample_weight=rows)
        self.distillation_loss.update_state(taught, sample_weight=rows)
        return own + ops.cast(taught / replicas, own.dtype)

    def _own_loss(self, x, y, y_pred, sample_weight, training):
        """The compiled loss by its weight, and the student's own losses as they are."""
        penalties = sum(self.losses, ops.zeros(())) / _replicas()
        if self.loss is None:
            return penalties
        weight = self.student_loss_weight
        both = super().compute_loss(x, y, y_pred, sample_weight, training)
        return weight * both + (1.0 - weight) * penalties

    def _taught(self, x, sample_weight):
        # What `call` has just seen, in the same step.
        seen, self._view.seen = self._view.seen, {}
        answers = self._answers(x)
        total = ops.zeros(())
        weighted = zip(
            self.distillation_losses, self.distillation_loss_weights, strict=True
        )
        for loss, weight in weighted:
            said = [ops.stop_gradient(a[loss.teacher_layer_name]) for a in answers]
            watched = seen[loss.student_layer_name]
            total += weight * loss.compute_loss(said, watched, sample_weight)
        return total

    def _answers(self, x):
        """For each teacher, a dict from a layer to what it gives."""
        if not _is_remembered(x):
            return self._views(x, training=False)
        remembered = x[_ANSWERS]
        return [
            {name: remembered[_key(name)][:, place] for name in self._named("teacher")}
            for place in range(len(self.teachers))
        ]

    def remember(self, x: Any, batch_size: int = 512) -> dict:
        """The inputs together with what the teachers say of them.

        Give the result to `fit` in place of `x`: the teachers are then not asked
        again. That is right where every epoch sees the same inputs, in any order, but
        not where they are augmented.

        Args:
            x: The inputs, an array or a nest of arrays.
            batch_size: Examples at a time.
        """
        parts = []
        size = len(keras.tree.flatten(x)[0])
        for begin in range(0, size, batch_size):
            rows = slice(begin, begin + batch_size)
            batch = keras.tree.map_structure(lambda a, rows=rows: a[rows], x)
            parts.append(self._stacked(self._views(batch, training=False)))
        joined = keras.tree.map_structure(lambda *p: np.concatenate(p), *parts)
        return {_INPUTS: x, _ANSWERS: joined}

    def _stacked(self, answers):
        """Dict from a layer to an array of (examples, teachers, ...)."""
        found = {}
        for name in self._named("teacher"):
            arrays = [ops.convert_to_numpy(answer[name]) for answer in answers]
            found[_key(name)] = np.stack(arrays, axis=1)
        return found

    # Teachers are saved too, by Keras, as the layers in a public attribute.

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
    """Models as functions from inputs to their outputs and to some of their layers.

    Held here, teachers are out of Keras's sight. A name of None is the output. `seen`
    is what a call within a step has given.
    """

    def __init__(self, models, names):
        self.models = models
        self.names = list(dict.fromkeys((None, *names)))
        self.views = [_view(model, self.names[1:]) for model in models]
        self.seen: dict[str | None, Tensor] = {}

    def __call__(self, x, training):
        return [self._named(view(x, training=training)) for view in self.views]

    def shapes(self):
        """For each model, a dict from a name to a shape; None where it is unknown."""
        return [self._shapes(view) for view in self.views]

    def _shapes(self, view):
        if not rebuilding.is_graph(view):
            return {None: None}
        found = self._named(view.outputs)
        return {name: tuple(tensor.shape) for name, tensor in found.items()}

    def _named(self, outputs):
        outputs = outputs if isinstance(outputs, list) else [outputs]
        return dict(zip(self.names, outputs, strict=True))


def _view(model, layers):
    graph = rebuilding.is_graph(model)
    functional = isinstance(model, keras.Function)
    if functional and not hasattr(model.output, "shape"):
        raise ValueError(
            "Teachers and student must have one output, not in a list or dict. "
            f"Received: {model.name!r}, whose output is a {type(model.output).__name__}"
        )
    if not layers:
        return model
    if not graph:
        raise ValueError(
            f"The layers {layers} of {model.name!r} cannot be watched, for it is "
            "neither Sequential nor functional. Compare outputs, or build it as "
            "keras.Model(inputs, outputs)."
        )
    inputs, output, seen = _called_anew(model)
    watched = [seen[id(_layer(model, name))] for name in layers]
    return keras.Model(inputs, [output, *watched])


def _called_anew(model):
    """Input, output and what each layer gives, by its id, in a graph of its own.

    The `output` that a layer has may belong to another model that shares the layer.
    """
    seen = {}

    def call(layer, *args, **kwargs):
        seen[id(layer)] = layer(*args, **kwargs)
        return seen[id(layer)]

    if isinstance(model, keras.Sequential):
        [first] = model.inputs
        inputs = output = keras.Input(batch_shape=first.shape, dtype=first.dtype)
        for layer in model.layers:
            output = call(layer, output)
        return inputs, output, seen
    clone = keras.models.clone_model(
        model, clone_function=lambda layer: layer, call_function=call
    )
    return clone.input, clone.outputs[0], seen


def _layer(model, name):
    if isinstance(name, int):
        return model.get_layer(index=name)
    return model.get_layer(name)


def _listed(given):
    return list(given) if isinstance(given, Iterable) else [given]


def _key(name):
    return "output" if name is None else f"layer {name}"


def _is_remembered(x):
    return isinstance(x, dict) and set(x) == {_INPUTS, _ANSWERS}


def _replicas():
    """Keras adds the losses of the replicas, each of which is a share of the mean."""
    if keras.config.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync


def _row_weights(sample_weight):
    """One weight a row, in float32."""
    if sample_weight is None:
        return None
    shape = tuple(sample_weight.shape)
    if any(length != 1 for length in shape[1:]):
        raise ValueError(
            "Distillation losses take one sample weight a row. Received weights of "
            f"shape {shape}."
        )
    return ops.reshape(ops.cast(sample_weight, "float32"), (-1,))
