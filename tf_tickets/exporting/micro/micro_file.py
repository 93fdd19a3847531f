"""Writes models for TensorFlow Lite Micro, as `.tflite` files or C arrays."""

import pathlib
import re

from tf_tickets.exporting.conversion_runner import CALIBRATED
from tf_tickets.exporting.micro import c_array, encoder, operators
from tf_tickets.exporting.micro.encoder import Encoded
from tf_tickets.exporting.order import MicroOptions, Order, Written
from tf_tickets.exporting.tflite import converter, layers, zeros
from tf_tickets.exporting.verification import ExportError

SUFFIX = ".tflite"
ARRAY_SUFFIX = ".cc"
# Size of the code that decodes kernels on the device (x86-64, -Os).
DECODER_CODE = 12_300
# Precisions of other formats, and why TensorFlow Lite Micro does not run them.
REFUSED = {
    "dynamic": "it has no kernels for 8-bit weights with float32 activations",
    "float16": "it has no kernels for float16 weights",
}
_CLAIMS = (
    "Only flash is saved: inference is not faster, and RAM grows by decoded kernels. "
    "LiteRT and TensorFlow Lite cannot open the file. On the device, register the "
    "decoder: resolver.AddDecode()."
)
_ALL_DENSE = (
    "No kernel is encoded, so the file is a dense one. The table names the reasons."
)


def check_precision(precision: str) -> None:
    """Refuses precisions that TensorFlow Lite Micro does not run.

    Args:
        precision: See `export`.

    Example:

    >>> check_precision("int8")
    """
    if precision in REFUSED:
        raise ValueError(
            f"TensorFlow Lite Micro does not run precision={precision!r}: "
            f"{REFUSED[precision]}. Received: format='tflite-micro', "
            f"precision={precision!r}. Use 'int8', 'int16x8' or 'float32'."
        )


def check_batch(batch: int | None) -> None:
    """Refuses fixed batch sizes other than 1.

    Args:
        batch: The fixed batch size of the model, or None.

    Example:

    >>> check_batch(None)
    """
    if batch not in (None, 1):
        raise ValueError(
            "TensorFlow Lite Micro runs one example at a time. Received: a model with "
            f"a fixed batch size of {batch}. Build it with keras.Input(shape), without "
            "`batch_size`."
        )


def array_name(path: pathlib.Path) -> str:
    """Returns the name of the C array for a path, or "" if it is no C++ file.

    Args:
        path: The output path.

    Example:

    >>> import pathlib
    >>> array_name(pathlib.Path("lenet-300.cc")), array_name(pathlib.Path("a.tflite"))
    ('g_lenet_300', '')
    """
    if path.suffix != ARRAY_SUFFIX:
        return ""
    words = re.findall(r"[A-Za-z0-9]+", path.stem)
    return "_".join(["g", *(words or ["model"])])


def named(dense: pathlib.Path) -> pathlib.Path:
    """Returns the path of the converter's file, which has names and a signature.

    Args:
        dense: Path of the dense file with the options of the export.

    Example:

    >>> import pathlib
    >>> named(pathlib.Path("dense.tflite")).name
    'dense-named.tflite'
    """
    return dense.with_name(f"{dense.stem}-named{dense.suffix}")


def write(order: Order, artefacts: dict[str, pathlib.Path]) -> Written:
    """Writes an encoded file, and a dense one with the same options.

    Args:
        order: The export to perform.
        artefacts: Dict with the paths of "sparse" and "dense".

    Returns:
        What was `Written`.
    """
    content = _convert(order, named(artefacts["dense"]))
    check_operators(content)
    dense, encoded = encoded_pair(content, order.micro, order.subject.provenance)
    artefacts["dense"].write_bytes(dense.content)
    artefacts["sparse"].write_bytes(encoded.content)
    explained = _flash(len(dense.content), len(encoded.content))
    explained += _ram(dense.arena_after, encoded.arena_after, order.micro.max_ram)
    if order.precision in CALIBRATED:
        explained.append(zeros.explain(content, order.subject))
    return Written(
        converter.stored(encoded.rows),
        arena={"sparse": encoded.arena_after, "dense": dense.arena_after},
        remarks=explained,
    )


def check_operators(content: bytes) -> None:
    """Raises an `ExportError` that names operators that cannot run.

    Args:
        content: Content of a dense `.tflite` file.

    Example:

    >>> check_operators(b"no model")
    Traceback (most recent call last):
    ValueError: Expected the content of a .tflite file. Received 8 bytes: b'no model'...
    """
    missing = operators.unsupported(content)
    if missing:
        raise ExportError(
            "TensorFlow Lite Micro does not have these operators of the model: "
            f"{', '.join(missing)}; nothing was written. Replace the layers that lead "
            "to them, or export with format='tflite'."
        )


def encoded_pair(
    content: bytes, options: MicroOptions, provenance: dict | None = None
) -> tuple[Encoded, Encoded]:
    """Returns a file as dense and as encoded, both with the same options.

    Args:
        content: Content of a dense file.
        options: The options of the format.
        provenance: Provenance to store, if the names are kept.
    """
    if options.names:
        content = converter.with_provenance(content, provenance or {})
    # No kernel fits into a single byte, so that all stay dense.
    dense = encoder.encode(content, max_ram=1, names=options.names)
    encoded = encoder.encode(content, max_ram=options.max_ram, names=options.names)
    return dense, encoded


def write_array(path: pathlib.Path, name: str) -> pathlib.Path:
    """Writes a file as a C array next to it, and returns the path of the array.

    Args:
        path: Path of the `.tflite` file.
        name: Name of the array.
    """
    array = path.with_suffix(ARRAY_SUFFIX)
    array.write_text(c_array.text(path.read_bytes(), name), "utf-8")
    return array


def _convert(order, path):
    """Converts the model for one example at a time; returns the file's content."""
    conversion = converter.Conversion(
        path,
        order.precision,
        integer_interface=order.precision in CALIBRATED,
        per_tensor_dense=order.micro.per_tensor_dense,
    )
    files = [conversion]
    if order.verify and order.precision in CALIBRATED:
        files.append(converter.Conversion(layers.counterpart(path)))
    takes = converter.one_by_one(order.takes)
    converter.write(order.subject.plain, takes, files, order.inputs, order.isolated)
    return path.read_bytes()


def _flash(dense, encoded):
    if encoded >= dense:
        return [_ALL_DENSE]
    text = f"Flash: {dense:,} -> {encoded:,} bytes, plus the decoder's code, "
    text += "about 12 kB"
    if dense - encoded < DECODER_CODE:
        text += (
            ", which is more than this file saves: use the dense file unless the "
            "program has the decoder anyway"
        )
    return [f"{text}.", _CLAIMS]


def _ram(dense, encoded, most):
    if encoded <= dense or most is not None:
        return []
    return [
        f"RAM: {dense:,} -> {encoded:,} bytes of the tensor arena, as a kernel is "
        "decoded as a whole. To limit it, pass micro=tt.MicroOptions(max_ram=...), on "
        "the command line --max-ram: large kernels then stay dense."
    ]
