"""Kernels as matrices: which of their axes run over inputs, and which over outputs."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import keras
import numpy as np

from tf_tickets import arguments
from tf_tickets.structures.structure import Layout, Structure

_TRANSPOSED = (
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
)
_CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
_SEPARABLE = (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)
_RECURRENT = (
    keras.layers.LSTMCell,
    keras.layers.GRUCell,
    keras.layers.SimpleRNNCell,
)
# The cell of convolutional recurrent layers, which is not public.
_CONVOLUTIONAL_CELL = "ConvLSTMCell"


@dataclasses.dataclass(frozen=True)
class Matrix:
    """The axes of a kernel that form the inputs and outputs of matrices.

    Other axes number independent matrices: the places of a convolution's window.

    Args:
        shape: Shape of the kernel.
        inputs: Axes over inputs, outermost first.
        outputs: Axes over outputs, outermost first.

    Example:

    >>> transposed = Matrix((3, 3, 8, 4), inputs=(3,), outputs=(2,))
    >>> transposed.fold(np.zeros((3, 3, 8, 4))).shape
    (3, 3, 4, 8)
    """

    shape: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    @property
    def _order(self):
        inner = (*self.inputs, *self.outputs)
        return (*(a for a in range(len(self.shape)) if a not in inner), *inner)

    @property
    def folded_shape(self) -> tuple[int, ...]:
        """Shape of `fold`: the numbers of matrices, of inputs, and of outputs."""
        rest = self._order[: len(self.shape) - len(self.inputs) - len(self.outputs)]
        sizes = [self.shape[axis] for axis in rest]
        return (*sizes, self._size(self.inputs), self._size(self.outputs))

    def _size(self, axes):
        return math.prod(self.shape[axis] for axis in axes)

    def fold(self, array: np.ndarray) -> np.ndarray:
        """Returns the entries of a kernel as matrices, inputs before outputs."""
        return array.transpose(self._order).reshape(self.folded_shape)

    def unfold(self, matrices: np.ndarray) -> np.ndarray:
        """Returns what `fold` was given."""
        order = self._order
        ordered = matrices.reshape([self.shape[axis] for axis in order])
        return np.ascontiguousarray(ordered.transpose(np.argsort(order)))


def find(layer: keras.layers.Layer, variable: keras.Variable) -> Matrix | str:
    """Returns how a layer multiplies by one of its variables, or why it is no matrix.

    Args:
        layer: The layer that owns the variable.
        variable: Its kernel.

    Example:

    >>> layer = keras.layers.EinsumDense("abc,cde->abde", (None, 2, 3))
    >>> layer.build((None, 5, 4))
    >>> find(layer, layer.kernel)
    Matrix(shape=(4, 2, 3), inputs=(0,), outputs=(1, 2))
    """
    shape, name = tuple(variable.shape), variable.name
    rank = len(shape)
    if "depthwise" in name or isinstance(
        layer, keras.layers.DepthwiseConv1D | keras.layers.DepthwiseConv2D
    ):
        return "a depthwise kernel is no matrix of inputs and outputs"
    if isinstance(layer, keras.layers.Embedding):
        return "a table that is looked up is no matrix of inputs and outputs"
    if isinstance(layer, keras.layers.EinsumDense) and name == "kernel":
        return _of_equation(layer.equation, shape)
    if isinstance(layer, _TRANSPOSED) and name == "kernel":
        return Matrix(shape, (rank - 1,), (rank - 2,))
    if isinstance(layer, _CONVOLUTIONS) and name == "kernel":
        if layer.groups > 1 and shape[-2] == 1:
            return "a depthwise kernel is no matrix of inputs and outputs"
        return Matrix(shape, (rank - 2,), (rank - 1,))
    if _has_matrix(layer, name):
        return Matrix(shape, (rank - 2,), (rank - 1,))
    return (
        f"it is not known which axes of {name!r} in a {type(layer).__name__} run over "
        "inputs"
    )


def _has_matrix(layer, name):
    """Returns whether inputs and outputs are the last axes of a layer's variable."""
    if isinstance(layer, keras.layers.Dense):
        return name == "kernel"
    if isinstance(layer, _SEPARABLE):
        return name == "pointwise_kernel"
    kind = type(layer).__name__
    is_recurrent = isinstance(layer, _RECURRENT) or kind == _CONVOLUTIONAL_CELL
    return is_recurrent and name in ("kernel", "recurrent_kernel")


def _of_equation(equation, shape):
    """Returns the matrix of an EinsumDense layer."""
    given, result = equation.replace(".", "").replace(" ", "").split("->")
    given, kernel = given.split(",")
    inputs = [letter for letter in given if letter in kernel and letter not in result]
    outputs = [letter for letter in result if letter in kernel and letter not in given]
    if not inputs or not outputs:
        return f"the equation {equation!r} sums over no input, or makes no output"
    axes = [tuple(map(kernel.index, letters)) for letters in (inputs, outputs)]
    return Matrix(shape, *axes)


class MatrixLayout(Layout):
    """The units of a model's kernels as matrices.

    Args:
        structure: The structure of the units.
        kernels: Dict from path to the matrix of the kernel.
    """

    def __init__(self, structure: Any, kernels: dict[str, Matrix]) -> None:
        self.structure = structure
        self.kernels = kernels

    @classmethod
    def of(
        cls,
        structure: Structure,
        variables: Mapping[str, keras.Variable],
        owners: Mapping[str, keras.layers.Layer],
    ) -> Self:
        """Returns the layout of a model's kernels.

        Args:
            structure: The structure of the units.
            variables: Dict from path to kernel.
            owners: Dict from path to the layer that owns it.
        """
        found = {}
        for path, variable in variables.items():
            matrix = find(owners[path], variable)
            if isinstance(matrix, str):
                raise ValueError(
                    f"Kernel {path!r} cannot have structure {structure.name!r}: "
                    f"{matrix}. Received: {arguments.shown(owners[path])}. Wrap the "
                    f"model with tf_tickets.wrap(model, structure={structure.name!r}), "
                    "which leaves such kernels alone."
                )
            found[path] = matrix
        return cls(structure, found)

    def content(self) -> dict[str, Any]:
        return {
            path: [list(m.shape), list(m.inputs), list(m.outputs)]
            for path, m in self.kernels.items()
        }

    @classmethod
    def restored(cls, structure: Structure, content: dict[str, Any]) -> Self:
        """Returns the layout whose `content` was stored.

        Args:
            structure: The structure of the units.
            content: What `content` returned.
        """
        kernels = {path: Matrix(*map(tuple, rows)) for path, rows in content.items()}
        return cls(structure, kernels)


class MatrixStructure(Structure):
    """Base class of structures along the inputs and outputs of kernels."""

    # The layout of its units.
    of_kernels: ClassVar[type[MatrixLayout]]

    def why_not(
        self, layer: keras.layers.Layer, variable: keras.Variable
    ) -> str | None:
        matrix = find(layer, variable)
        return matrix if isinstance(matrix, str) else None

    def layout(
        self,
        model: keras.Model,
        variables: Mapping[str, keras.Variable],
        owners: Mapping[str, keras.layers.Layer],
    ) -> Layout:
        return self.of_kernels.of(self, variables, owners)

    def restored_layout(self, content: dict[str, Any]) -> Layout:
        return self.of_kernels.restored(self, content)
