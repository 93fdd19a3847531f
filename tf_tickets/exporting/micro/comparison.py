"""Compares a file for TensorFlow Lite Micro with its dense form and with the model."""

import pathlib

import numpy as np

from tf_tickets.exporting import artefact_runner, verification
from tf_tickets.exporting.conversion_runner import CALIBRATED
from tf_tickets.exporting.micro import decoder, interpreter, micro_file
from tf_tickets.exporting.order import Order
from tf_tickets.exporting.tflite import converter, file, layers
from tf_tickets.exporting.verification import Check, ExportError

_NOT_RUN = (
    "Not run by TensorFlow Lite Micro, which is not installed: the weights were "
    "decoded in NumPy, and LiteRT ran the dense file. To run it, install it: pip "
    "install tflite-micro"
)
_RUN = (
    "TensorFlow Lite Micro computes from the encoded file the same bits as from the "
    "dense one: outputs of {rows} examples, and all {weights} weights."
)


def check(order: Order, artefacts: dict[str, pathlib.Path]) -> Check:
    """Compares the encoded file with the dense file, and with the model.

    TensorFlow Lite Micro runs both files if it is installed. Otherwise LiteRT runs the
    dense file.

    Args:
        order: The export.
        artefacts: Dict with the paths of "sparse" and "dense".

    Returns:
        A `Check`. Raises an `ExportError` if the files or the outputs differ.
    """
    dense, sparse = (artefacts[kind].read_bytes() for kind in ("dense", "sparse"))
    check_weights(dense, sparse)
    named = micro_file.named(artefacts["dense"])
    compared = None
    if order.precision in CALIBRATED:
        compared = layers.comparison(named, layers.counterpart(named))
    takes = converter.one_by_one(order.takes)
    outputs, errors = verification.run_tflite(named, takes, order.rows, compared)
    remark = _NOT_RUN
    if interpreter.is_installed():
        outputs, remark = _run(order, named.read_bytes(), dense, sparse)
    rows = len(next(iter(order.rows.values())))
    error = verification.checked_error(
        outputs, order.expected, 1, order.tolerance, rows=rows
    )
    return Check({1: error}, {}, errors, [remark])


def check_weights(dense: bytes, encoded: bytes) -> None:
    """Raises an `ExportError` unless two files hold the same weights, bit by bit.

    Args:
        dense: Content of the dense file.
        encoded: Content of the encoded file.
    """
    pairs = zip(decoder.weights(dense), decoder.weights(encoded), strict=True)
    differing = [i for i, (x, y) in enumerate(pairs) if x.tobytes() != y.tobytes()]
    if differing:
        raise ExportError(
            f"The weights {differing} of the encoded file differ from those of the "
            "dense file; nothing was written. Choose another format, and report this."
        )


def _run(order, named, dense, sparse):
    """Runs both files in TensorFlow Lite Micro; returns outputs and a remark."""
    ports = _Ports(named)
    inputs = [order.rows[name] for name in ports.inputs]
    runs = interpreter.run({"dense": dense, "sparse": sparse}, inputs)
    interpreter.check_equal(runs["dense"], runs["sparse"])
    found = runs["sparse"]
    remark = _RUN.format(rows=len(inputs[0]), weights=len(found.weights))
    return ports.real_outputs(found.outputs), remark


class _Ports:
    """The inputs and outputs of a file, in their order.

    Args:
        content: Content of a file with a signature.
    """

    def __init__(self, content):
        model = file.read(content)
        graph, signature = model.subgraphs[0], model.signatureDefs[0]
        self.inputs = _names(signature.inputs, graph.inputs)
        self.outputs = _names(signature.outputs, graph.outputs)
        self._tensors = [graph.tensors[index] for index in graph.outputs]

    def real_outputs(self, arrays):
        """Returns the real values of the outputs by name, without the axis of 1."""
        found = {}
        for name, array, tensor in zip(
            self.outputs, arrays, self._tensors, strict=True
        ):
            values = artefact_runner.real(array, _details(tensor))
            found[name] = values.reshape(len(array), *array.shape[2:])
        return found


def _names(maps, order):
    names = {int(entry.tensorIndex): entry.name.decode() for entry in maps}
    return [names[int(index)] for index in order]


def _details(tensor):
    scales = tensor.quantization.scale if tensor.quantization else None
    if scales is None or not len(scales):
        return {"quantization": (0.0, 0)}
    point = tensor.quantization.zeroPoint[0]
    return {"quantization": (np.float64(scales[0]), int(point))}
