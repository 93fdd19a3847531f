"""What a student is taught: its teachers' answers, features and relations.

Each loss compares one layer of the student, or its outputs, with the same of one or
several teachers. Names and arguments are those of `keras.distillation` where it has
them; unlike there, a row counts by its `sample_weight`, and rows of weight 0 not at
all. `Distiller` trains with them.
"""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from tf_tickets.masks.base import Tensor

_TINY = 1e-12
# Squared distances below this share of their mean are rounding.
_NEAR = 1e-6


class DistillationLoss(keras.layers.Layer):
    """How far a student is from its teachers; a subclass gives `compute_loss`.

    Args:
        teacher_layer_name: The layer of the teachers, by its name or its place among
            their layers; None for their output.
        student_layer_name: The layer of the student; None for the same.
    """

    def __init__(
        self,
        teacher_layer_name: str | int | None = None,
        student_layer_name: str | int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.teacher_layer_name = teacher_layer_name
        same = student_layer_name is None
        self.student_layer_name = teacher_layer_name if same else student_layer_name

    def prepare(self, teacher: tuple | None, student: tuple | None) -> None:
        """Sees the shapes of what is compared, rows included, before any training.

        Args:
            teacher: Shape of the teachers' layer; None for a subclassed model.
            student: Shape of the student's.
        """

    def compute_loss(
        self,
        teacher_outputs: Sequence[Tensor],
        student_outputs: Tensor,
        sample_weight: Tensor | None = None,
    ) -> Tensor:
        """The loss of a batch, a number.

        Args:
            teacher_outputs: What each teacher gives, a list of tensors.
            student_outputs: What the student gives.
            sample_weight: How much each row counts, one number a row; None for 1.
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
    """Response: the divergence from the teachers' probabilities, times T².

    Several teachers are one: for the forward divergence, KL(teacher, student), the
    mean of their probabilities, for the reverse one, KL(student, teacher), the mean
    of their logarithms. Their gradients are those of the mean over the teachers. An
    output of one unit is that of a class against another. Where a row has several
    outputs (the steps of a sequence), it is their mean, padding included.

    Args:
        temperature: T, by which logits are divided.
        reverse: Whether it is the reverse divergence.
        from_logits: Whether the outputs are logits, or probabilities.
        teacher_layer_name: As in `DistillationLoss`.
        student_layer_name: As in `DistillationLoss`.

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
        if not 0.0 < temperature < float("inf"):
            raise ValueError(
                f"`temperature` must be above 0. Received: temperature={temperature}"
            )
        self.temperature = float(temperature)
        self.reverse = reverse
        self.from_logits = from_logits

    def prepare(self, teacher: tuple | None, student: tuple | None) -> None:
        if teacher is not None and student is not None and teacher[1:] != student[1:]:
            raise ValueError(
                "Answers are compared class by class and must have one shape. "
                f"Received: {teacher} of the teachers, {student} of the student."
            )

    def compute_loss(self, teacher_outputs, student_outputs, sample_weight=None):
        taught = self._together([self._log(t) for t in teacher_outputs])
        found = self._log(student_outputs)
        p, q = (found, taught) if self.reverse else (taught, found)
        rows = means_of_rows(ops.sum(ops.exp(p) * (p - q), axis=-1))
        return self.temperature**2 * mean_over_rows(rows, sample_weight)

    def _together(self, logs):
        """The one teacher that several are."""
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
    """Feature: the squared distance between layers, mean over the teachers.

    Features are only alike between networks that began with the same weights; else
    use a relation, which does not care about their order.

    Args:
        teacher_layer_name: As in `DistillationLoss`.
        student_layer_name: As in `DistillationLoss`.
        normalize: "l2": each row is divided by its length; "standard": each row gets
            mean 0 and deviation 1, and the distance is divided by its size; None:
            the mean squared error.
        project: Whether a linear map, which is trained too, leads from the
            student's features to the teachers', which may then have another shape.

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
        if normalize not in ("l2", "standard", None):
            raise ValueError(
                f"`normalize` must be 'l2', 'standard' or None. Received: {normalize!r}"
            )
        self.normalize = normalize
        self.project = project
        self.projection: Any = None

    def prepare(self, teacher: tuple | None, student: tuple | None) -> None:
        if teacher is None or student is None:
            if self.project:
                raise ValueError("A projection needs models of known shapes.")
            return
        sizes = [_size(shape) for shape in (teacher, student)]
        if self.project and self.projection is None:
            self.projection = keras.layers.Dense(
                sizes[0], use_bias=False, dtype="float32", name="projection"
            )
            self.projection.build((None, sizes[1]))
        elif not self.project and sizes[0] != sizes[1]:
            raise ValueError(
                f"The features of the teachers' {self.teacher_layer_name!r} have shape "
                f"{teacher}, those of the student's {self.student_layer_name!r} "
                f"{student}. Give project=True, or layers of one shape."
            )

    def compute_loss(self, teacher_outputs, student_outputs, sample_weight=None):
        found = rows_of(student_outputs)
        if self.projection is not None:
            found = self.projection(found)
        found = self._normal(found)
        distances = [
            ops.sum(ops.square(found - self._normal(rows_of(t))), axis=-1)
            for t in teacher_outputs
        ]
        rows = sum(distances) / len(distances)
        rows = rows if self.normalize == "l2" else rows / found.shape[-1]
        return mean_over_rows(rows, sample_weight)

    def _normal(self, rows):
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


def mean_over_rows(values: Tensor, weight: Tensor | None = None) -> Tensor:
    """The mean of weighted values, by their number, as Keras's losses take it.

    Example:

    >>> float(mean_over_rows(np.array([1.0, 3.0]), np.array([0.0, 1.0])))
    1.5
    """
    return ops.mean(values if weight is None else values * weight)


def means_of_rows(values: Tensor) -> Tensor:
    """The mean of each example's values, one number a row.

    Example:

    >>> np.asarray(means_of_rows(np.array([[1.0, 3.0], [5.0, 5.0]]))).tolist()
    [2.0, 5.0]
    """
    others = tuple(range(1, len(values.shape)))
    return ops.mean(values, axis=others) if others else values


def rows_of(outputs: Tensor) -> Tensor:
    """Each example's values in one row, in float32.

    Example:

    >>> rows_of(np.zeros((2, 3, 4))).shape == (2, 12)
    True
    """
    size = _size(outputs.shape)
    return ops.reshape(ops.cast(outputs, "float32"), (-1, size))


def unit(rows: Tensor) -> Tensor:
    """Rows of length 1; those of zeros stay.

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
                "Features are compared row by row and need a known shape. Received: "
                f"{tuple(shape)}"
            )
        size *= length
    return size
