"""N:M sparsity: in each group of M weights along the inputs, N are kept."""

import dataclasses
import itertools
import math

import keras
import numpy as np

from tf_tickets import arguments
from tf_tickets.structures import matrices
from tf_tickets.structures.structure import Tables


class NMLayout(matrices.MatrixLayout):
    """The groups of a model's kernels. Its units are weights.

    Args:
        structure: How many weights of how many are kept.
        kernels: Dict from path to the matrix of the kernel.

    Example:

    >>> kernel = matrices.Matrix((4, 1), (0,), (1,))
    >>> layout = NMLayout(NM(2, 4), {"a": kernel})
    >>> scores = {"a": np.array([[1.0], [4.0], [2.0], [3.0]])}
    >>> masks = {"a": np.ones((4, 1), bool)}
    >>> layout.protect(scores, masks)["a"].ravel().tolist()
    [1.0, inf, 2.0, inf]
    """

    def protect(
        self, scores: Tables, units: Tables, kept: Tables | None = None
    ) -> Tables:
        kept = {} if kept is None else kept
        return {
            path: self._protect(self.kernels[path], scores[path], alive, kept.get(path))
            for path, alive in units.items()
        }

    def _protect(self, kernel, scores, alive, kept):
        if scores.dtype.kind != "f":
            scores = scores.astype("float32" if scores.dtype.kind == "V" else "float64")
        limit = np.finfo(scores.dtype).max
        finite = np.clip(scores, -limit, limit)
        # Along the inputs: those that are not there any more come last.
        work = self._grouped(kernel, np.where(alive, finite, -np.inf), -np.inf)
        if kept is not None:
            work[self._grouped(kernel, kept, False)] = np.inf
        chosen = _places(work) < self._quota(kernel)
        chosen = self._ungrouped(kernel, chosen) & alive
        if kept is not None:
            chosen &= ~kept
        finite[chosen] += np.inf  # NaN stays, and is refused by the ranking.
        return finite

    def fewest(self, units: Tables) -> dict[str, int]:
        counts = {}
        for path, alive in units.items():
            kernel = self.kernels[path]
            present = self._grouped(kernel, alive, False).sum(axis=-2, keepdims=True)
            counts[path] = int(np.minimum(present, self._quota(kernel)).sum())
        return counts

    def strata(self, units: Tables) -> Tables:
        return {path: self._numbers(self.kernels[path]) for path in units}

    def _numbers(self, kernel):
        """Returns the number of the group of each weight of a kernel."""
        groups = self._grouped(kernel, np.zeros(kernel.shape, int), 0)
        *rest, m, outputs = groups.shape
        numbers = np.arange(math.prod(rest) * outputs).reshape(*rest, 1, outputs)
        return self._ungrouped(kernel, np.broadcast_to(numbers, groups.shape))

    def _grouped(self, kernel, array, padding):
        """Returns an array in groups: (..., groups, m, outputs)."""
        m, folded = self.structure.m, kernel.fold(array)
        *rest, inputs, outputs = folded.shape
        missing = -inputs % m
        if missing:
            more = np.full((*rest, missing, outputs), padding, folded.dtype)
            folded = np.concatenate([folded, more], axis=-2)
        return folded.reshape(*rest, -1, m, outputs)

    def _ungrouped(self, kernel, groups):
        *rest, inputs, outputs = kernel.folded_shape
        folded = groups.reshape(*rest, -1, outputs)[..., :inputs, :]
        return kernel.unfold(folded)

    def _quota(self, kernel):
        """Returns how many weights each group keeps, in the shape (groups, 1, 1)."""
        n, m = self.structure.n, self.structure.m
        inputs = kernel.folded_shape[-2]
        sizes = np.minimum(m, inputs - np.arange(0, inputs, m))
        return -(-n * sizes // m)[:, None, None]


@keras.saving.register_keras_serializable("tf_tickets")
@dataclasses.dataclass(frozen=True, repr=False)
class NM(matrices.MatrixStructure):
    """Keeps the best `n` of every `m` weights along the inputs of a kernel.

    The groups lie along the input axis of `Dense`, convolutions, `EinsumDense` and
    recurrent layers. That is the last axis of the kernels in TFLite, and the one that
    sparse tensor cores read. The `n` best weights of a group are protected. The others
    are pruned in the order of their scores, so a model may have any sparsity from 0 to
    `1 - n / m`. At that limit, every group keeps `n` weights. If `m` does not divide
    the inputs, the last group is shorter and keeps the same fraction, rounded up.

    Args:
        n: How many weights of a group are kept, 1 or more.
        m: How many weights form a group, more than `n`.

    Example:

    >>> NM(2, 4).name, NM(2, 4).most_sparse
    ('2:4', 0.5)
    """

    n: int
    m: int
    of_kernels = NMLayout

    def __post_init__(self):
        arguments.check_counts(n=self.n, m=self.m)
        if self.n >= self.m:
            raise ValueError(
                f"`n` must be less than `m`. Received: n={self.n}, m={self.m}. For "
                "weights without a structure, use 'unstructured'."
            )

    def __repr__(self):
        return f"NM({self.n}, {self.m})"

    @property
    def name(self) -> str:
        return f"{self.n}:{self.m}"

    @property
    def most_sparse(self) -> float:
        return 1.0 - self.n / self.m


def _places(groups):
    """Returns how many members of its group are better than each; of equals, the first.

    Args:
        groups: Scores in the shape (..., members, outputs).
    """
    count = groups.shape[-2]
    places = np.zeros(groups.shape, np.min_scalar_type(count))
    for first, second in itertools.combinations(range(count), 2):
        better = groups[..., second, :] > groups[..., first, :]
        places[..., first, :] += better
        places[..., second, :] += ~better
    return places
