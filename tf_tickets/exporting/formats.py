"""The formats of an export and their suffixes."""

import pathlib

from tf_tickets import arguments

SUFFIXES = {"saved_model": "", "tflite": ".tflite", "keras": ".keras", "onnx": ".onnx"}


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
    if suffix and path.suffix != suffix:
        raise ValueError(
            f"The path of a {format} file must end in {suffix!r}. Received: {path} "
            f"with format={format!r}. Change the suffix or the format."
        )
    if not suffix and path.suffix and path.suffix in SUFFIXES.values():
        raise ValueError(
            f"format={format!r} writes a folder, but {path.suffix!r} is the suffix of "
            f"a file in another format. Received: {path}. Change the path, or leave "
            "out `format` to infer it from the suffix."
        )
