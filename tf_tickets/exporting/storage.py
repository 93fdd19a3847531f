"""Recommends how to store the weights of a quantized file, by the bytes it takes."""

import gzip

from tf_tickets.exporting.micro import encoder, operators
from tf_tickets.exporting.micro.micro_file import DECODER_CODE
from tf_tickets.exporting.tflite import rewriter


def recommendation(dense: bytes, sizes: dict[str, int], format: str) -> str:
    """Compares the encodings of a file, and names the smallest for each use.

    Args:
        dense: Content of the dense file.
        sizes: The sizes of an `ExportReport`.
        format: "tflite" or "tflite-micro".

    Example:

    >>> _sentence({"dense": 90_000, "gzip": 50_000, "sparse rows": 80_000})
    'Bytes by encoding: dense 90,000, gzip 50,000, sparse rows 80,000. Smallest to ...'
    """
    table = {"dense": sizes["dense"], "gzip": _gzipped(dense)}
    if format == "tflite":
        table["sparse rows"] = sizes["sparse"]
        decoded = _decoded_size(dense)
        if decoded is not None:
            table["DECODE"] = decoded
    else:
        table["sparse rows"] = len(rewriter.encode(dense)[0])
        table["DECODE"] = sizes["sparse"]
    # LiteRT may not open the files of TensorFlow Lite Micro, dense ones included.
    return _sentence(table, for_litert=format == "tflite")


def _gzipped(content):
    return len(gzip.compress(content, 9, mtime=0))


def _decoded_size(dense):
    """Returns the size for microcontrollers, or None if they cannot run the file."""
    try:
        missing = operators.unsupported(dense)
        return None if missing else len(encoder.encode(dense).content)
    except ValueError:
        return None


def _sentence(table, for_litert=True):
    parts = ", ".join(f"{name} {size:,}" for name, size in table.items())
    to_load = min(("dense", "sparse rows"), key=table.__getitem__)
    to_send = min(("gzip", "sparse rows"), key=table.__getitem__)
    text = f"Bytes by encoding: {parts}. Smallest to send: {to_send}. "
    if for_litert:
        text += f"Smallest that LiteRT loads as it is: {to_load}. "
    if "DECODE" not in table:
        return text.strip()
    saved = table["dense"] - table["DECODE"]
    flash = "DECODE (format='tflite-micro')" if saved > DECODER_CODE else "dense"
    return (
        f"{text}Smallest in the flash of a microcontroller, with the decoder's code "
        f"of about 12 kB: {flash}."
    )
