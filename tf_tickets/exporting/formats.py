"""The formats of an export and their suffixes."""

import pathlib

from tf_tickets import arguments

# The suffix by which a path selects each format.
SUFFIXES = {
    "saved_model": "",
    "tflite": ".tflite",
    "keras": ".keras",
    "onnx": ".onnx",
    "tflite-micro": ".cc",
}
# Formats of TensorFlow Lite, which have precisions, and all that TensorFlow writes.
TFLITE = ("tflite", "tflite-micro")
BY_TENSORFLOW = ("saved_model", *TFLITE)
# Other suffixes of a format, which select another one unless `format` is passed.
_OTHERS = {"tflite-micro": (".tflite",)}


def choose(path: pathlib.Path, format: str | None = None) -> str:
    """Returns the format of an export from its path, or checks the given format.

    Args:
        path: The path of the export.
        format: A format, or None to infer it from the suffix of the path.

    Example:

    >>> import pathlib
    >>> choose(pathlib.Path("net.tflite")), choose(pathlib.Path("net"))
    ('tflite', 'saved_model')
    >>> choose(pathlib.Path("net-0.5"), "saved_model")
    'saved_model'
    >>> choose(pathlib.Path("net.cc")), choose(pathlib.Path("a.tflite"), "tflite-micro")
    ('tflite-micro', 'tflite-micro')
    """
    if format is None:
        return _inferred(path)
    if not arguments.is_one_of(format, SUFFIXES):
        raise ValueError(
            f"`format` must be one of {sorted(SUFFIXES)}, or None to infer it from the "
            f"suffix of the path. Received: {arguments.shown(format)}"
        )
    _check_suffix(path, format)
    return format


def _inferred(path):
    for format, suffix in SUFFIXES.items():
        if path.suffix == suffix:
            return format
    known = sorted(suffix for suffix in SUFFIXES.values() if suffix)
    raise ValueError(
        f"The suffix {path.suffix!r} is no export format. Received: {path}. Known "
        f"suffixes: {', '.join(known)}, or no suffix for the folder of a SavedModel. "
        "For a SavedModel in a folder of this name, pass format='saved_model'."
    )


def _check_suffix(path, format):
    suffix = SUFFIXES[format]
    suffixes = (suffix, *_OTHERS.get(format, ()))
    if suffix and path.suffix not in suffixes:
        raise ValueError(
            f"The path of a {format} file must end in "
            f"{' or '.join(map(repr, suffixes))}. Received: {path} with "
            f"format={format!r}. Change the suffix or the format."
        )
    if not suffix and path.suffix and path.suffix in SUFFIXES.values():
        raise ValueError(
            f"format={format!r} writes a folder, but {path.suffix!r} is the suffix of "
            f"a file in another format. Received: {path}. Change the path, or leave "
            "out `format` to infer it from the suffix."
        )
