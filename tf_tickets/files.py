"""Reads and writes files of named arrays and JSON content.

A file is a zip archive of `manifest.json` and one raw entry per array. Booleans take
one bit each. Files from untrusted sources are safe to read, since nothing in them is
executed. Every entry has a checksum, and files are written atomically.
"""

import contextlib
import json
import math
import os
import pathlib
import zipfile
import zlib
from collections.abc import Iterator

import ml_dtypes  # noqa: F401 (NumPy knows bfloat16 by name after this import)
import numpy as np

VERSION = 1
DTYPES = (
    "bool",
    "bfloat16",
    "float16",
    "float32",
    "float64",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
)
# Exceptions that a damaged file may raise.
_DAMAGE_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    json.JSONDecodeError,
    UnicodeDecodeError,
    EOFError,
    KeyError,
    IndexError,
    TypeError,
    ValueError,
    OverflowError,
    NotImplementedError,
    RuntimeError,
    OSError,
)


def write(
    path: os.PathLike | str, kind: str, content: dict, arrays: dict[str, np.ndarray]
) -> None:
    """Writes a file atomically.

    Args:
        path: Path of the file. Missing folders are created.
        kind: Kind of the file, such as "ticket". `read` validates it.
        content: Other content, which must be serializable as JSON.
        arrays: Dict from name to array.

    Example:

    >>> write(tmp_path / "a.file", "demo", {"n": 1}, {"m": np.array([True, False])})
    >>> read(tmp_path / "a.file", "demo")
    ({'n': 1}, {'m': array([ True, False])})
    """
    arrays = {name: _storable(name, array) for name, array in arrays.items()}
    manifest = {
        "format": "tf_tickets",
        "version": VERSION,
        "kind": kind,
        "content": content,
        "arrays": [[n, a.dtype.name, list(a.shape)] for n, a in arrays.items()],
    }
    with replacing(path) as draft, open(draft, "wb") as file:
        _write_zip(file, manifest, arrays)


@contextlib.contextmanager
def replacing(path: os.PathLike | str) -> Iterator[pathlib.Path]:
    """Yields a temporary path that replaces `path` when the block succeeds.

    Example:

    >>> with replacing(tmp_path / "a.txt") as draft:
    ...     length = draft.write_text("whole")
    >>> (tmp_path / "a.txt").read_text()
    'whole'
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield draft
        with open(draft, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def sweep(folder: os.PathLike | str) -> None:
    """Removes temporary files that interrupted writes left in a folder."""
    for draft in pathlib.Path(folder).glob(".*.tmp*"):
        draft.unlink(missing_ok=True)


def _storable(name, array):
    array = np.asarray(array)
    if array.dtype.name not in DTYPES:
        raise TypeError(
            f"Array {name!r} has dtype {array.dtype}, which is not supported. Convert "
            f"it to one of {', '.join(DTYPES)}."
        )
    return array.astype(array.dtype.newbyteorder("<"), copy=False)


def _write_zip(file, manifest, arrays):
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        # Entries have no date, so equal content results in equal bytes.
        text = json.dumps(manifest, sort_keys=True).encode()
        _write_entry(archive, "manifest.json", text)
        for index, array in enumerate(arrays.values()):
            _write_entry(archive, f"{index}.bin", _to_bytes(array))


def _write_entry(archive, name, data):
    info = zipfile.ZipInfo(name)
    info.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(info, data)


def read(path: os.PathLike | str, kind: str) -> tuple[dict, dict[str, np.ndarray]]:
    """Reads and validates a file written by `write`.

    Args:
        path: Path of the file.
        kind: Expected kind of the file.

    Returns:
        The content and a dict from name to array.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no {kind} file at {path}. Pass the path of an existing file."
        )
    with open(path, "rb") as file, contextlib.ExitStack() as stack:
        with _reporting_damage(path, kind):
            archive = stack.enter_context(zipfile.ZipFile(file))
            manifest = json.loads(archive.read("manifest.json"))
        _check(manifest, kind, path)
        with _reporting_damage(path, kind):
            return manifest["content"], _read_arrays(archive, manifest["arrays"])


@contextlib.contextmanager
def _reporting_damage(path, kind):
    try:
        yield
    except _DAMAGE_ERRORS as error:
        raise ValueError(
            f"{path} is damaged or not a {kind} file: {error}. The file may be "
            "truncated or modified; use another copy."
        ) from error


def _check(manifest, kind, path):
    if not isinstance(manifest, dict) or manifest.get("format") != "tf_tickets":
        raise ValueError(
            f"{path} was not written by tf_tickets. Expected a {kind} file."
        )
    if manifest.get("version") not in range(1, VERSION + 1):
        raise ValueError(
            f"{path} has format version {manifest.get('version')}. This version of "
            f"tf_tickets reads versions up to {VERSION}. Install a newer tf_tickets."
        )
    if manifest.get("kind") != kind:
        raise ValueError(
            f"{path} is a {manifest.get('kind')} file. Expected a {kind} file."
        )


def _read_arrays(archive, rows):
    arrays = {}
    for index, (name, dtype, shape) in enumerate(rows):
        info = archive.getinfo(f"{index}.bin")
        _check_size(name, dtype, shape, info.file_size)
        arrays[name] = _from_bytes(archive.read(info), dtype, shape)
    return arrays


def _check_size(name, dtype, shape, received):
    """Validates the size of an entry in bytes before it is decompressed."""
    if dtype not in DTYPES:
        raise ValueError(f"array {name!r} has the unsupported dtype {dtype!r}")
    if not all(isinstance(n, int) and n >= 0 for n in shape):
        raise ValueError(f"array {name!r} has the invalid shape {shape}")
    size = math.prod(shape)
    expected = (size + 7) // 8 if dtype == "bool" else size * np.dtype(dtype).itemsize
    if received != expected:
        raise ValueError(
            f"array {name!r} of shape {shape} and dtype {dtype} must have {expected} "
            f"bytes, but the file contains {received}"
        )


def _to_bytes(array):
    return (
        np.packbits(array.ravel()).tobytes() if array.dtype == bool else array.tobytes()
    )


def _from_bytes(data, dtype, shape):
    if dtype == "bool":
        bits = np.unpackbits(np.frombuffer(data, np.uint8), count=math.prod(shape))
        return bits.astype(bool).reshape(shape)
    return np.frombuffer(data, np.dtype(dtype)).reshape(shape).copy()
