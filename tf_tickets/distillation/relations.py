"""Distillation losses that compare relations between the examples of a batch."""

import keras
from keras import ops

from tf_tickets.distillation.losses import (
    _NEAR,
    _TINY,
    DistillationLoss,
    mean_over_rows,
    rows_of,
    unit,
)
from tf_tickets.masks.base import Tensor


@keras.saving.register_keras_serializable("tf_tickets")
class DistanceDistillation(DistillationLoss):
    """Compares pairwise distances between the rows of a batch (RKD-D).

    It computes the Huber loss. Distances are divided by their mean, in which those of
    equal rows count as zero. The loss does not depend on the offset, scale or number of
    the features.

    Args:
        teacher_layer_name: See `DistillationLoss`.
        student_layer_name: See `DistillationLoss`.

    Example:

    >>> loss = DistanceDistillation()
    >>> rows = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")
    >>> round(float(loss.compute_loss([rows], 3.0 * rows + 1.0)), 6)
    0.0
    """

    def compute_loss(self, teacher_outputs, student_outputs, sample_weight=None):
        pairs = _pairs(sample_weight)
        student = _distances(student_outputs, sample_weight)
        gaps = [huber(student - _distances(t, sample_weight)) for t in teacher_outputs]
        return mean_over_rows(sum(gaps) / len(gaps), pairs)


@keras.saving.register_keras_serializable("tf_tickets")
class AngleDistillation(DistillationLoss):
    """Compares the angles between the rows of a batch (RKD-A).

    It computes the Huber loss over all angles that three rows form. Its memory grows
    with the cube of the batch size.

    Args:
        teacher_layer_name: See `DistillationLoss`.
        student_layer_name: See `DistillationLoss`.

    Example:

    >>> loss = AngleDistillation()
    >>> rows = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")
    >>> round(float(loss.compute_loss([rows], 3.0 * rows + 1.0)), 6)
    0.0
    """

    def compute_loss(self, teacher_outputs, student_outputs, sample_weight=None):
        student = _angles(student_outputs, sample_weight)
        gaps = [huber(student - _angles(t, sample_weight)) for t in teacher_outputs]
        pairs = _pairs(sample_weight)
        triples = None if pairs is None else pairs[:, :, None] * sample_weight
        return mean_over_rows(sum(gaps) / len(gaps), triples)


@keras.saving.register_keras_serializable("tf_tickets")
class SimilarityDistillation(DistillationLoss):
    """Compares the similarities between the rows of a batch (Tung and Mori 2019).

    It computes the mean squared error between the matrices of inner products. The rows
    of the matrices are normalized.

    Args:
        teacher_layer_name: See `DistillationLoss`.
        student_layer_name: See `DistillationLoss`.

    Example:

    >>> loss = SimilarityDistillation()
    >>> rows = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")
    >>> round(float(loss.compute_loss([rows], 3.0 * rows)), 6)
    0.0
    """

    def compute_loss(self, teacher_outputs, student_outputs, sample_weight=None):
        pairs = _pairs(sample_weight)
        student = _similarities(student_outputs, pairs)
        gaps = [ops.square(student - _similarities(t, pairs)) for t in teacher_outputs]
        return mean_over_rows(sum(gaps) / len(gaps), pairs)


def huber(gap: Tensor) -> Tensor:
    """Returns the elementwise Huber loss with delta 1.

    Example:

    >>> np.asarray(huber(np.array([0.5, -3.0]))).tolist()
    [0.125, 2.5]
    """
    size = ops.abs(gap)
    return ops.where(size <= 1.0, 0.5 * ops.square(gap), size - 0.5)


def _pairs(weight):
    return None if weight is None else weight[:, None] * weight[None, :]


def _gram(outputs, weight):
    """Returns the inner products of the centered rows.

    Centering minimizes rounding errors. Rows of weight 0 are moved to the center.
    """
    rows = rows_of(outputs)
    if weight is None:
        rows = rows - ops.mean(rows, axis=0)
    else:
        counts = (weight > 0.0)[:, None]
        number = ops.sum(ops.cast(counts, "float32"))
        total = ops.sum(ops.where(counts, rows, 0.0), axis=0)
        rows = ops.where(counts, rows - total / ops.maximum(number, 1.0), 0.0)
    return ops.matmul(rows, ops.transpose(rows))


def _distances(outputs, weight):
    """Returns distances divided by their mean over all pairs of two rows.

    As in the authors' code, a pair of equal rows counts; a row and itself does not.
    """
    gram = _gram(outputs, weight)
    pairs = _pairs(weight)
    squares = ops.diagonal(gram)
    squares = squares[:, None] + squares[None, :] - 2.0 * gram
    distinct = squares > _NEAR * ops.mean(ops.abs(squares))
    # The gradient of the square root at 0 is infinite, so it is computed at 1 there.
    distances = ops.where(distinct, ops.sqrt(ops.where(distinct, squares, 1.0)), 0.0)
    counted = ops.ones_like(gram) if pairs is None else pairs
    number = ops.sum(counted) - ops.sum(ops.diagonal(counted))
    mean = ops.sum(distances * counted) / ops.maximum(number, _TINY)
    return distances / ops.maximum(mean, _TINY)


def _angles(outputs, weight):
    """Returns the cosine of the angle at row j between rows i and k, as [j, i, k]."""
    gram = _gram(outputs, weight)
    squares = ops.diagonal(gram)
    # (i - j) . (k - j) = ik - ij - jk + jj
    inner = gram[None] - gram[:, :, None] - gram[:, None, :] + squares[:, None, None]
    lengths = ops.diagonal(inner, axis1=1, axis2=2)
    distinct = lengths > _NEAR * ops.mean(lengths)
    inverse = ops.where(distinct, ops.rsqrt(ops.where(distinct, lengths, 1.0)), 0.0)
    return inner * inverse[:, :, None] * inverse[:, None, :]


def _similarities(outputs, pairs):
    rows = rows_of(outputs)
    gram = ops.matmul(rows, ops.transpose(rows))
    if pairs is None:
        return unit(gram)
    # A row of weight 0 must not change the norms of the others.
    counted = ops.cast(pairs > 0.0, "float32")
    return unit(gram * counted)
