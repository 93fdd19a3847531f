"""What an export is to do, and what was written."""

import dataclasses

import numpy as np

from tf_tickets import arguments
from tf_tickets.exporting.export_report import Stored
from tf_tickets.exporting.source import Subject
from tf_tickets.wrapping.signature import Interface


@dataclasses.dataclass(frozen=True)
class MicroOptions:
    """Sets what only the format "tflite-micro" of `export` has.

    Args:
        max_ram: The largest tensor arena in bytes that decoding may lead to. Kernels
            whose decoded form would not fit stay dense. By default every kernel that
            makes the file smaller is encoded.
        names: Whether to keep the names of tensors, the signature and the metadata,
            which a microcontroller does not read. Without them the file is smaller.
        per_tensor_dense: Whether fully connected layers have one scale for the whole
            kernel instead of one for each output. It makes file and arena smaller,
            and predictions less accurate.

    Example:

    >>> MicroOptions(max_ram=20_000, names=False)
    MicroOptions(max_ram=20000, names=False, per_tensor_dense=False)
    """

    max_ram: int | None = None
    names: bool = True
    per_tensor_dense: bool = False

    def __post_init__(self):
        if self.max_ram is not None:
            arguments.check_counts(max_ram=self.max_ram)
        arguments.check_flags(names=self.names, per_tensor_dense=self.per_tensor_dense)


@dataclasses.dataclass(frozen=True)
class Order:
    """Describes an export.

    Args:
        subject: The model to export.
        takes: Interface of the model.
        inputs: Dict from input name to examples.
        expected: Dict from output name to the outputs for the first examples.
        format: See `export`.
        precision: See `export`.
        trainable: See `export`.
        verify: See `export`.
        tolerance: Maximum relative error.
        micro: See `export`.
        array: Name of the C array to write, or empty for a `.tflite` file.
        isolated: Whether code that may crash runs in a process of its own. Not needed
            in a process that only performs an export.
    """

    subject: Subject
    takes: Interface
    inputs: dict[str, np.ndarray]
    expected: dict[str, np.ndarray]
    format: str
    precision: str
    trainable: bool
    verify: bool
    tolerance: float
    micro: MicroOptions = MicroOptions()
    array: str = ""
    isolated: bool = True

    @property
    def rows(self) -> dict[str, np.ndarray]:
        """The examples for which `expected` contains the outputs."""
        count = len(next(iter(self.expected.values())))
        return {name: array[:count] for name, array in self.inputs.items()}


@dataclasses.dataclass(frozen=True)
class Written:
    """Describes the files of an export.

    Args:
        tensors: How each tensor is stored.
        arena: Predicted sizes of the tensor arena in bytes, "sparse" and "dense".
        remarks: Explanations.
    """

    tensors: list[Stored]
    arena: dict[str, int] = dataclasses.field(default_factory=dict)
    remarks: list[str] = dataclasses.field(default_factory=list)
