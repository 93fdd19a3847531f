"""Distillation losses on logits and features.

Each loss compares a layer or the outputs of the student with those of one or more
teachers. Names and arguments follow `keras.distillation` where possible. Unlike there,
`sample_weight` weights the rows, and rows of weight 0 have no influence. `Distiller`
trains with these losses.
"""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from tf_tickets import arguments
from tf_tickets.masks.base import Tensor

_TINY = 1e-12
# Squared distances below this fraction of their mean are rounding errors.
_NEAR = 1e-6


class DistillationLoss(keras.layers.Layer):
    """Base class of distillation losses; subclasses implement `compute_loss`.

    Args:
        teacher_layer_name: Name or index of the layer of the teachers. None selects
            their outputs.
        student_layer_name: Name or index of the layer of the student. None selects
            the same as for the teachers.
    """

    def __init__(
        self,
        teacher_layer_name: str | int | None = None,
        student_layer_name: str | int | None = None,
        **kwargs: Any,
    ) -> None:
        _check_place(teacher_layer_name=teacher_layer_name)
        _check_place(student_layer_name=student_layer_name)
        super().__init__(**kwargs)
        self.teacher_layer_name = teacher_layer_name
        same = student_layer_name is None
        self.student_layer_name = teacher_layer_name if same else student_layer_name

    def prepare(self, teacher: tuple | None, student: tuple | None) -> None:
        """Validates the shapes and creates variables before training.

        Args:
            teacher: Output shape of the teachers' layer, including the batch
                dimension. None for a subclassed model.
            student: Output shape of the student's layer.
        """

    def compute_loss(
        self,
        teacher_outputs: Sequence[Tensor],
        student_outputs: Tensor,
        sample_weight: Tensor | None = None,
    ) -> Tensor:
        """Returns the loss of a batch.

        Args:
            teacher_outputs: List of the outputs of each teacher.
            student_outputs: Outputs of the student.
            sample_weight: One weight per row. None weights all rows by 1.

        Returns:
            A scalar.
        """
        raise NotImplementedError

    def get_config(self):
        return {
            **super().get_config(),
            "teacher_layer_name": self.teacher_layer_name,
            "student_layer_name": self.student_layer_name,
        }


@keras.saving.register_keras_serializable("tf_tickets")
class LogitsDistillation(DistillationLoss):
    """Computes the KL divergence from the teachers' probabilities, times T².

    Several teachers are averaged into one. The forward divergence KL(teacher, student)
    averages their probabilities, the reverse divergence KL(student, teacher) their
    logarithms. The gradient is the mean of the gradients for each teacher. An output
    with one unit is treated as binary classification. If a row has several outputs,
    such as the steps of a sequence, the loss is their mean, including padding.

    Args:
        temperature: Divisor T of the logits.
        reverse: Whether to use the reverse divergence.
        from_logits: Whether the outputs are logits rather than probabilities.
        teacher_layer_name: See `DistillationLoss`.
        student_layer_name: See `DistillationLoss`.

    Example:

    >>> loss = LogitsDistillation(temperature=1.0)
    >>> teacher, student = np.log([[0.9, 0.1]]), np.log([[0.5, 0.5]])
    >>> round(float(loss.compute_loss([teacher], student)), 4)
    0.3681
    """

    def __init__(
        self,
        temperature: float = 3.0,
        reverse: bool = False,
        from_logits: bool = True,
        teacher_layer_name: str | int | None = None,
        student_layer_name: str | int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(teacher_layer_name, student_layer_name, **kwargs)
        arguments.check_positive(temperature=temperature)
        arguments.check_flags(reverse=reverse, from_logits=from_logits)
        self.temperature = float(temperature)
        self.reverse = reverse
        self.from_logits = from_logits

    def prepare(self, teacher: tuple | None, student: tuple | None) -> None:
        if teacher is not None and student is not None and teacher[1:] != student[1:]:
            raise ValueError(
                "Outputs are compared class by class and must have the same shape. "
                f"Received: {teacher} of the teachers, {student} of the student."
            )

    def compute_loss(self, teacher_outputs, student_outputs, sample_weight=None):
        teacher = self._average([self._log(t) for t in teacher_outputs])
        student = self._log(student_outputs)
        p, q = (student, teacher) if self.reverse else (teacher, student)
        rows = means_of_rows(ops.sum(ops.exp(p) * (p - q), axis=-1))
        return self.temperature**2 * mean_over_rows(rows, sample_weight)

    def _average(self, logs):
        """Averages the log probabilities of all teachers into one teacher."""
        if len(logs) == 1:
            return logs[0]
        if self.reverse:
            return ops.log_softmax(ops.mean(ops.stack(logs), axis=0), axis=-1)
        return ops.logsumexp(ops.stack(logs), axis=0) - ops.log(float(len(logs)))

    def _log(self, outputs):
        outputs = ops.cast(outputs, "float32")
        if outputs.shape[-1] == 1:
            other = ops.zeros_like(outputs) if self.from_logits else 1.0 - outputs
            outputs = ops.concatenate([other, outputs], axis=-1)
        if not self.from_logits:
            outputs = ops.log(ops.maximum(outputs, keras.config.epsilon()))
        return ops.log_softmax(outputs / self.temperature, axis=-1)

    def get_config(self):
        return {
            **super().get_config(),
            "temperature": self.temperature,
            "reverse": self.reverse,
            "from_logits": self.from_logits,
        }


@keras.saving.register_keras_serializable("tf_tickets")
class FeatureDistillation(DistillationLoss):
    """Computes the squared distance between features, averaged over the teachers.

    Features correspond only between networks that start from the same weights.
    Otherwise, use a relation, which does not depend on the order of the features.

    Args:
        teacher_layer_name: See `DistillationLoss`.
        student_layer_name: See `DistillationLoss`.
        normalize: "l2" divides each row by its norm. "standard" scales each row to
            mean 0 and standard deviation 1, and divides the distance by its size. None
            computes the mean squared error.
        project: Whether to train a linear projection of the student's features to the
            teachers' features. Their shapes may then differ.

    Example:

    >>> loss = FeatureDistillation(normalize=None)
    >>> float(loss.compute_loss([np.ones((2, 3))], np.zeros((2, 3))))
    1.0
    """

    def __init__(
        self,
        teacher_layer_name: str | int | None = None,
        student_layer_name: str | int | None = None,
        normalize: str | None = "l2",
        project: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(teacher_layer_name, student_layer_name, **kwargs)
        arguments.check_choice(("l2", "standard", None), normalize=normalize)
        arguments.check_flags(project=project)
        self.normalize = normalize
        self.project = project
        self.projection: Any = None

    def prepare(self, teacher: tuple | None, student: tuple | None) -> None:
        if teacher is None or student is None:
            if self.project:
                raise ValueError(
                    "project=True needs known shapes. Received: a subclassed model. "
                    "Build it as keras.Model(inputs, outputs)."
                )
            return
        sizes = [_size(shape) for shape in (teacher, student)]
        if self.project and self.projection is None:
            self.projection = keras.layers.Dense(
                sizes[0], use_bias=False, dtype="float32", name="projection"
            )
            self.projection.build((None, sizes[1]))
        elif not self.project and sizes[0] != sizes[1]:
            raise ValueError(
                "Features must have the same shape. Received: "
                f"{teacher} from {self.teacher_layer_name!r} of the teachers, "
                f"{student} from {self.student_layer_name!r} of the student. Pass "
                "project=True, or choose other layers."
            )

    def compute_loss(self, teacher_outputs, student_outputs, sample_weight=None):
        features = rows_of(student_outputs)
        if self.projection is not None:
            features = self.projection(features)
        features = self._normalize(features)
        distances = [
            ops.sum(ops.square(features - self._normalize(rows_of(t))), axis=-1)
            for t in teacher_outputs
        ]
        rows = sum(distances) / len(distances)
        rows = rows if self.normalize == "l2" else rows / features.shape[-1]
        return mean_over_rows(rows, sample_weight)

    def _normalize(self, rows):
        if self.normalize == "standard":
            rows = rows - ops.mean(rows, axis=-1, keepdims=True)
            return rows * ops.rsqrt(ops.mean(ops.square(rows), -1, True) + _TINY)
        return unit(rows) if self.normalize == "l2" else rows

    def get_config(self):
        return {
            **super().get_config(),
            "normalize": self.normalize,
            "project": self.project,
        }


def _check_place(**places):
    """Refuses what is neither a layer's name, nor its index, nor None."""
    for argument, place in places.items():
        named = place is None or isinstance(place, str)
        if not named and not arguments.is_whole(place):
            raise TypeError(
                f"`{argument}` must be the name of a layer, its index, or None for the "
                f"output of the model. Received: {arguments.shown(place)}"
            )


def mean_over_rows(values: Tensor, weight: Tensor | None = None) -> Tensor:
    """Returns the sum of weighted values divided by their number, as in Keras losses.

    Example:

    >>> float(mean_over_rows(np.array([1.0, 3.0]), np.array([0.0, 1.0])))
    1.5
    """
    return ops.mean(values if weight is None else values * weight)


def means_of_rows(values: Tensor) -> Tensor:
    """Returns the mean over all axes except the first.

    Example:

    >>> np.asarray(means_of_rows(np.array([[1.0, 3.0], [5.0, 5.0]]))).tolist()
    [2.0, 5.0]
    """
    others = tuple(range(1, len(values.shape)))
    return ops.mean(values, axis=others) if others else values


def rows_of(outputs: Tensor) -> Tensor:
    """Flattens the values of each example into a float32 row.

    Example:

    >>> rows_of(np.zeros((2, 3, 4))).shape == (2, 12)
    True
    """
    size = _size(outputs.shape)
    return ops.reshape(ops.cast(outputs, "float32"), (-1, size))


def unit(rows: Tensor) -> Tensor:
    """Scales rows to norm 1; rows of zeros stay zero.

    Example:

    >>> [round(float(x), 4) for x in unit(np.array([[3.0, 4.0]]))[0]]
    [0.6, 0.8]
    """
    return rows * ops.rsqrt(ops.sum(ops.square(rows), -1, True) + _TINY)


def _size(shape):
    size = 1
    for length in shape[1:]:
        if length is None:
            raise ValueError(
                "Features must have a known shape apart from the batch dimension. "
                f"Received: {tuple(shape)}. Build the model with a fixed input shape."
            )
        size *= length
    return size
