"""Reads and writes files of named arrays and JSON content.

A file is a zip archive of `manifest.json` and one raw entry per array. Booleans take
one bit each. Entries that a sample shows to become smaller are deflated, the others are
stored as they are. Files from untrusted sources are safe to read, since nothing in them
is executed. Every entry has a checksum, and files are written atomically.
"""

import contextlib
import errno
import json
import math
import os
import pathlib
import re
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

import ml_dtypes  # noqa: F401 (NumPy knows bfloat16 by name after this import)
import numpy as np

from tf_tickets import arguments, schema

VERSION = 1
# The default limit of the arrays of a file in memory, in bytes.
MAX_BYTES = 4 * 2**30
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
_MANIFEST = "manifest.json"
_MAX_MANIFEST_BYTES = 16 * 2**20
_COMPRESSIONS = {zipfile.ZIP_STORED: 1, zipfile.ZIP_DEFLATED: 1032}
# Deflate needs some bytes even for an empty entry.
_SLACK = 1032
_CHECK_MANIFEST = schema.fields(
    {
        "format": schema.text,
        "version": schema.count,
        "kind": schema.text,
        "content": schema.mapping(),
        "arrays": schema.items(schema.items(schema.accept, length=3)),
    }
)
# Entries are deflated if that saves a tenth of these samples. It saves 7 % of dense
# float32 weights, and then most of the time of writing goes into it.
_SAMPLES, _SAMPLE_BYTES = 8, 8192
_WORTHWHILE = 0.9
_LEVEL = 1
# Messages of other libraries may be long.
_MAX_REASON = 300
_ADDRESS = re.compile(r" ?<\S+ object at 0x[0-9a-fA-F]+>")
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
    draft = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield draft
            with open(draft, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(draft, path)
    finally:
        remove(draft)


@contextlib.contextmanager
def writing(path: os.PathLike | str) -> Iterator[None]:
    """Names the file in an OSError of the block that writes it, and what to do.

    Args:
        path: The file or folder that the block writes.

    Example:

    >>> with writing("a.ticket"):
    ...     raise OSError(errno.ENOSPC, "No space left on device")
    Traceback (most recent call last):
    OSError: [Errno 28] a.ticket could not be written: No space left on device. Free
        some space and run it again. Files that were complete before are unchanged.
    """
    try:
        yield
    except OSError as error:
        reason = (error.strerror or " ".join(str(error).split())).removesuffix(".")
        advice = _ADVICE.get(error.errno or 0, "Solve this problem and run it again.")
        text = f"{path} could not be written: {reason}. {advice} {_UNCHANGED}"
        raise (OSError(error.errno, text) if error.errno else OSError(text)) from error


_UNCHANGED = "Files that were complete before are unchanged."
_NO_SPACE = "Free some space and run it again."
_NO_RIGHT = "Choose a folder that you may write to, or change its permissions."
_NO_FOLDER = "Choose another path: a file stands where a folder is needed."
_ADVICE = {
    errno.ENOSPC: _NO_SPACE,
    errno.EDQUOT: _NO_SPACE,
    errno.EFBIG: _NO_SPACE,
    errno.EROFS: _NO_RIGHT,
    errno.EACCES: _NO_RIGHT,
    errno.EPERM: _NO_RIGHT,
    errno.EEXIST: _NO_FOLDER,
    errno.ENOTDIR: _NO_FOLDER,
}


def remove(path: pathlib.Path) -> None:
    """Removes a file, if it exists and can be removed.

    A file on a disk that has become read-only stays, so that the error which the disk
    caused before is the one that is raised. `sweep` removes it later.

    Example:

    >>> remove(tmp_path / "a.txt")
    """
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


# The names of temporary files: with the number of a process, or the token of a lock.
_DRAFT = re.compile(r"\..+\.(\d+|[0-9a-f]{32})(\.stale)?\.tmp(\..+)?")


def sweep(folder: os.PathLike | str) -> None:
    """Removes temporary files that interrupted writes left in a folder."""
    for draft in pathlib.Path(folder).glob(".*.tmp*"):
        if _DRAFT.fullmatch(draft.name) and draft.is_file():
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
    with zipfile.ZipFile(file, "w") as archive:
        # Entries have no date, so equal content results in equal bytes.
        _write_entry(archive, _MANIFEST, _manifest_text(manifest))
        for index, array in enumerate(arrays.values()):
            _write_entry(archive, _entry_name(index), _to_bytes(array))


def _manifest_text(manifest):
    text = json.dumps(manifest, sort_keys=True, default=arguments.plain).encode()
    if len(text) > _MAX_MANIFEST_BYTES:
        raise ValueError(
            f"The content of a file may have {_MAX_MANIFEST_BYTES} bytes as JSON. "
            f"Received: {len(text)} bytes. Put large values into arrays."
        )
    return text


def _write_entry(archive, name, data):
    info = zipfile.ZipInfo(name)
    deflates = _gets_smaller(data)
    info.compress_type = zipfile.ZIP_DEFLATED if deflates else zipfile.ZIP_STORED
    # The level of the archive does not apply to entries with a ZipInfo.
    archive.writestr(info, data, compresslevel=_LEVEL)


def _gets_smaller(data):
    """Returns whether deflating evenly spaced samples saves enough."""
    whole = memoryview(data)
    size, last = _SAMPLE_BYTES, len(whole) - _SAMPLE_BYTES
    if last <= size * _SAMPLES:
        return True
    starts = [last * n // (_SAMPLES - 1) for n in range(_SAMPLES)]
    packed = sum(len(zlib.compress(whole[s : s + size], _LEVEL)) for s in starts)
    return packed < _WORTHWHILE * size * _SAMPLES


def read(
    path: os.PathLike | str, kind: str, max_bytes: int | None = MAX_BYTES
) -> tuple[dict, dict[str, np.ndarray]]:
    """Reads and validates a file written by `write`.

    Args:
        path: Path of the file.
        kind: Expected kind of the file.
        max_bytes: The largest size of all arrays together, in memory. A larger file
            is refused before anything is unpacked. None accepts any size.

    Returns:
        The content and a dict from name to array.
    """
    with _opened(pathlib.Path(path), kind) as (archive, manifest):
        _check_total(manifest["arrays"], max_bytes, path)
        with _reporting_damage(path, kind):
            return manifest["content"], _read_arrays(archive, manifest["arrays"])


def read_content(path: os.PathLike | str, kind: str) -> dict:
    """Reads the content of a file without unpacking its arrays.

    Args:
        path: Path of the file.
        kind: Expected kind of the file.

    Example:

    >>> write(tmp_path / "a.file", "demo", {"n": 1}, {"m": np.zeros(1000)})
    >>> read_content(tmp_path / "a.file", "demo")
    {'n': 1}
    """
    with _opened(pathlib.Path(path), kind) as (_, manifest):
        return manifest["content"]


@contextlib.contextmanager
def checking(path: os.PathLike | str, kind: str) -> Iterator[None]:
    """Names the file in a ValueError about what was read from it.

    Example:

    >>> with checking("a.ticket", "ticket"):
    ...     schema.count("x", "round")
    Traceback (most recent call last):
    ValueError: a.ticket is not a valid ticket file: `round` must be a whole number of 0
        or more. Received: 'x'. The file was modified, or written by other software;
        use another copy.
    """
    try:
        yield
    except ValueError as error:
        reason = str(error).removesuffix(".")
        raise ValueError(
            f"{path} is not a valid {kind} file: {reason}. The file was modified, or "
            "written by other software; use another copy."
        ) from error


@contextlib.contextmanager
def reading(path: os.PathLike | str, what: str, remedy: str) -> Iterator[None]:
    """Turns any error of reading a file into a ValueError that names the file.

    Args:
        path: The file.
        what: What it should be, such as "a file of teachers".
        remedy: What to do about a damaged file.

    Example:

    >>> import io
    >>> with reading("a.npz", "a file of teachers", "Delete it."):
    ...     zipfile.ZipFile(io.BytesIO(b"damaged"))
    Traceback (most recent call last):
    ValueError: a.npz cannot be read as a file of teachers: File is not a zip file.
        Delete it.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    # Libraries raise errors of any kind about a damaged file.
    except Exception as error:
        # The address of an object in memory says nothing about the file.
        reason = _ADDRESS.sub("", " ".join(str(error).split()))
        reason = reason or type(error).__name__
        if len(reason) > _MAX_REASON:
            reason = f"{reason[:_MAX_REASON]}..."
        raise ValueError(
            f"{path} cannot be read as {what}: {reason.removesuffix('.')}. {remedy}"
        ) from error


def read_json(path: pathlib.Path, check: schema.Check, remedy: str) -> Any:
    """Reads and validates a JSON file.

    Args:
        path: The file.
        check: The check of its content.
        remedy: What to do about a damaged file.

    Example:

    >>> length = (tmp_path / "a.json").write_text('{"round": 1}')
    >>> read_json(tmp_path / "a.json", schema.mapping(schema.count), "Delete it.")
    {'round': 1}
    """
    with reading(path, "a JSON file of tf_tickets", remedy):
        content = json.loads(path.read_text())
        check(content, "content")
        return content


@contextlib.contextmanager
def _opened(path, kind):
    """Yields the zip archive and the manifest, after checking all declared sizes."""
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no {kind} file at {path}. Pass the path of an existing file."
        )
    with open(path, "rb") as file, contextlib.ExitStack() as stack:
        with _reporting_damage(path, kind):
            archive = stack.enter_context(zipfile.ZipFile(file))
        _check_no_model(archive, kind, path)
        with _reporting_damage(path, kind):
            _check_entries(archive.infolist(), path.stat().st_size)
            manifest = _read_manifest(archive)
        _check(manifest, kind, path)
        with _reporting_damage(path, kind):
            _CHECK_MANIFEST(manifest, "manifest")
            _check_arrays(archive, manifest["arrays"])
        yield archive, manifest


def _check_no_model(archive, kind, path):
    names = set(archive.namelist())
    if names >= {"metadata.json", "config.json"} and _MANIFEST not in names:
        raise ValueError(
            f"{path} is a Keras model. Expected a {kind} file. Load the model with "
            f"keras.saving.load_model({str(path)!r})."
        )


def _check_entries(entries, file_size):
    """Refuses duplicates, other compressions and sizes that cannot be true."""
    names = [entry.filename for entry in entries]
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"the entries {twice} occur twice")
    for entry in entries:
        _check_entry(entry)
    packed = sum(entry.compress_size for entry in entries)
    if packed > file_size:
        raise ValueError(
            f"its entries have {packed} bytes, but the file has {file_size}"
        )


def _check_entry(entry):
    if entry.compress_type not in _COMPRESSIONS:
        raise ValueError(
            f"entry {entry.filename!r} has the compression {entry.compress_type}. "
            "Expected 0 (stored) or 8 (deflate)"
        )
    possible = entry.compress_size * _COMPRESSIONS[entry.compress_type] + _SLACK
    if entry.file_size > possible:
        raise ValueError(
            f"entry {entry.filename!r} claims {entry.file_size} bytes, but its "
            f"{entry.compress_size} bytes unpack to {possible} at most"
        )


def _read_manifest(archive):
    entry = archive.getinfo(_MANIFEST)
    if entry.file_size > _MAX_MANIFEST_BYTES:
        raise ValueError(
            f"{_MANIFEST} has {entry.file_size} bytes. Expected at most "
            f"{_MAX_MANIFEST_BYTES}"
        )
    return json.loads(_unpacked(archive, entry))


def _unpacked(archive, entry):
    """Returns the bytes of an entry, never more than it declares."""
    with archive.open(entry) as stream:
        data = stream.read(entry.file_size)
    if len(data) != entry.file_size:
        raise ValueError(
            f"entry {entry.filename!r} has {len(data)} bytes. Expected "
            f"{entry.file_size}"
        )
    return data


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


def _check_arrays(archive, rows):
    """Validates the description of all arrays before any is unpacked."""
    for index, (name, dtype, shape) in enumerate(rows):
        schema.text(name, f"manifest.arrays[{index}][0]")
        entry = archive.getinfo(_entry_name(index))
        _check_size(name, dtype, shape, entry.file_size)
    names = [name for name, _, _ in rows]
    if len(set(names)) < len(names):
        raise ValueError(f"the names of its arrays are not unique: {names}")
    expected = {_MANIFEST, *map(_entry_name, range(len(rows)))}
    unexpected = set(archive.namelist()) - expected
    if unexpected:
        raise ValueError(f"it has the unexpected entries {sorted(unexpected)}")


def _check_total(rows, max_bytes, path):
    total = sum(math.prod(shape) * np.dtype(dtype).itemsize for _, dtype, shape in rows)
    if max_bytes is not None and total > max_bytes:
        raise ValueError(
            f"The arrays of {path} take {total} bytes in memory. Expected at most "
            f"max_bytes={max_bytes}. If you trust the file, pass a larger `max_bytes`."
        )


def _read_arrays(archive, rows):
    arrays = {}
    for index, (name, dtype, shape) in enumerate(rows):
        data = _unpacked(archive, archive.getinfo(_entry_name(index)))
        arrays[name] = _from_bytes(data, dtype, shape)
    return arrays


def _entry_name(index):
    return f"{index}.bin"


def _check_size(name, dtype, shape, received):
    """Validates the size of an entry in bytes before it is decompressed."""
    if dtype not in DTYPES:
        raise ValueError(f"array {name!r} has the unsupported dtype {dtype!r}")
    if not isinstance(shape, list) or not all(map(_is_length, shape)):
        raise ValueError(f"array {name!r} has the invalid shape {shape}")
    size = math.prod(shape)
    expected = (size + 7) // 8 if dtype == "bool" else size * np.dtype(dtype).itemsize
    if received != expected:
        raise ValueError(
            f"array {name!r} of shape {shape} and dtype {dtype} must have {expected} "
            f"bytes, but the file contains {received}"
        )


def _is_length(value):
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def raw(array: np.ndarray) -> memoryview:
    """Returns the bytes of an array, in the order of its rows, without a copy.

    Arrays that are not contiguous are copied.

    Example:

    >>> raw(np.array([1, 256], "<u2")).tolist()
    [1, 0, 0, 1]
    """
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _to_bytes(array):
    return raw(np.packbits(array.ravel()) if array.dtype == bool else array)


def _from_bytes(data, dtype, shape):
    if dtype == "bool":
        bits = np.unpackbits(np.frombuffer(data, np.uint8), count=math.prod(shape))
        return bits.astype(bool).reshape(shape)
    return np.frombuffer(data, np.dtype(dtype)).reshape(shape).copy()
