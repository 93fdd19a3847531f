"""Blocks of a kernel's inputs and outputs that are kept or pruned as a whole."""

import dataclasses
from typing import Any

import keras
import numpy as np

from tf_tickets import arguments
from tf_tickets.structures import matrices
from tf_tickets.structures.structure import Tables


class BlocksLayout(matrices.MatrixLayout):
    """The blocks of a model's kernels.

    Args:
        structure: The size of a block.
        kernels: Dict from path to the matrix of the kernel.

    Example:

    >>> kernel = matrices.Matrix((3, 2), (0,), (1,))
    >>> layout = BlocksLayout(Blocks(2, 1), {"a": kernel})
    >>> masks = {"a": np.array([[1, 0], [0, 0], [1, 0]], bool)}
    >>> layout.units(masks)["a"].tolist()
    [[True, False], [True, False]]
    """

    noun = "block"

    def units(self, masks: Tables) -> Tables:
        return {
            path: self._reduced(np.logical_or, self.kernels[path].fold(mask))
            for path, mask in masks.items()
        }

    def scores(self, scores: Tables, masks: Tables) -> Tables:
        pooled = self._largest if self.structure.pooling == "max" else self._mean
        return {
            path: pooled(self.kernels[path], scores[path], mask)
            for path, mask in masks.items()
        }

    def _largest(self, kernel, scores, mask):
        """Returns the largest score of the weights of each block that are kept."""
        scores = np.where(mask, scores, -np.inf)
        return self._reduced(np.maximum, kernel.fold(scores))

    def _mean(self, kernel, scores, mask):
        """Returns the mean score of the weights of each block that are kept."""
        folded = kernel.fold(mask)
        some = self._reduced(np.logical_or, folded)
        if np.array_equal(some, self._reduced(np.logical_and, folded)):
            sizes = self._sizes(kernel)
        else:
            scores = np.where(mask, scores, 0)
            sizes = self._reduced(np.add, folded, dtype="int64")
        sums = self._reduced(np.add, kernel.fold(scores), dtype="float64")
        return sums / np.maximum(sizes, 1)

    def _sizes(self, kernel):
        """Returns how many weights each block of a kernel has."""
        *_, inputs, outputs = kernel.folded_shape
        rows, columns = self.structure.rows, self.structure.columns
        heights = np.minimum(rows, inputs - np.arange(0, inputs, rows))
        widths = np.minimum(columns, outputs - np.arange(0, outputs, columns))
        return heights[:, None] * widths

    def masks(self, units: Tables, masks: Tables) -> Tables:
        return {
            path: self._spread(self.kernels[path], units[path]) & mask
            for path, mask in masks.items()
        }

    def _reduced(self, function, folded, **kwargs):
        for axis, length in ((-2, self.structure.rows), (-1, self.structure.columns)):
            if length > 1:
                starts = np.arange(0, folded.shape[axis], length)
                folded = function.reduceat(folded, starts, axis, **kwargs)
        return folded

    def _spread(self, kernel, units):
        *_, inputs, outputs = kernel.folded_shape
        rows = np.repeat(units, self.structure.rows, axis=-2)[..., :inputs, :]
        blocks = np.repeat(rows, self.structure.columns, axis=-1)[..., :outputs]
        return kernel.unfold(blocks)


@keras.saving.register_keras_serializable("tf_tickets")
@dataclasses.dataclass(frozen=True, repr=False)
class Blocks(matrices.MatrixStructure):
    """Keeps or prunes blocks of weights, never a part of one.

    Blocks span the inputs and outputs of a kernel; a convolution has such blocks at
    each place of its window. TFLite stores and multiplies blocks of 4 inputs and 1
    output. Sparsities, rates and counts are those of blocks. Those at the edges of a
    kernel may be smaller.

    Args:
        rows: Number of inputs in a block.
        columns: Number of outputs in a block.
        pooling: The score of a block: "mean" or "max" of the scores of its weights.

    Example:

    >>> Blocks(4, 1).name, Blocks(4, 1, pooling="max").name
    ('4x1', '4x1-max')
    """

    rows: int = 4
    columns: int = 1
    pooling: str = "mean"
    of_kernels = BlocksLayout

    def __post_init__(self):
        arguments.check_counts(rows=self.rows, columns=self.columns)
        arguments.check_choice(("mean", "max"), pooling=self.pooling)

    def __repr__(self):
        pooling = "" if self.pooling == "mean" else f", pooling={self.pooling!r}"
        return f"Blocks({self.rows}, {self.columns}{pooling})"

    @property
    def name(self) -> str:
        pooling = "" if self.pooling == "mean" else f"-{self.pooling}"
        return f"{self.rows}x{self.columns}{pooling}"

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        # Files of blocks with the default can be read by versions that know only that.
        if self.pooling == "mean":
            del config["pooling"]
        return config
