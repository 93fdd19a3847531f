"""Reads `.tflite` files as mutable objects and writes them.

The objects are those of the public schema in `ai-edge-litert`. Named metadata is also
read and written here.
"""

import collections
import contextlib
import struct
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

import numpy as np

_IDENTIFIER = b"TFL3"
# Maximum offset in the format.
_LIMIT = 2**31
# The schema requires this alignment of constants. The generated Python code ignores it.
_ALIGNMENT = 16
_END_OF_ZIP = b"PK\x05\x06"
_LENGTH_OF_END_OF_ZIP = 22
_NO_TENSORS = np.zeros(0, np.int32)
# Exceptions that a damaged file may raise.
_DAMAGE_ERRORS = (
    struct.error,
    ValueError,
    TypeError,
    IndexError,
    AttributeError,
    OverflowError,
)


def schema() -> ModuleType:
    """Returns the module with the schema classes: `ModelT`, `TensorT` and so on."""
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError as error:
        raise ImportError(
            "Reading .tflite files requires ai-edge-litert, which failed to import: "
            f"{error}. Install it: pip install ai-edge-litert"
        ) from error
    return schema_py_generated


def read(content: bytes) -> Any:
    """Parses the content of a file into a `ModelT`.

    Example:

    >>> read(b"no model")
    Traceback (most recent call last):
    ValueError: Expected the content of a .tflite file. Received 8 bytes: b'no model'...
    """
    _check_content(content)
    classes = schema()
    with refusing_damage():
        model = classes.ModelT.InitFromPackedBuf(bytes(content), 0)
        _fill_in_defaults(model)
        _check_references(model)
    _check_self_contained(model)
    return model


@contextlib.contextmanager
def refusing_damage() -> Iterator[None]:
    """Turns the errors that the contents of a damaged file raise into a `ValueError`.

    Example:

    >>> with refusing_damage():
    ...     [].pop()
    Traceback (most recent call last):
    ValueError: The .tflite file cannot be read: pop from empty list. It may be
        truncated or modified; convert the model again.
    """
    try:
        yield
    except _DAMAGE_ERRORS as error:
        raise ValueError(
            f"The .tflite file cannot be read: {error}. It may be truncated or "
            "modified; convert the model again."
        ) from error


def write(model: Any) -> bytes:
    """Serializes a `ModelT` deterministically."""
    size = sum(buffer.data.size for buffer in model.buffers if buffer.data is not None)
    builder = _builder(size)
    builder.Finish(model.Pack(builder), file_identifier=_IDENTIFIER)
    return bytes(builder.Output())


def metadata(content: bytes) -> dict[str, bytes]:
    """Returns the named metadata of a `.tflite` file.

    Args:
        content: Content of the file.

    Returns:
        Dict from name to bytes.

    Example:

    >>> metadata(b"no model")
    Traceback (most recent call last):
    ValueError: Expected the content of a .tflite file. Received 8 bytes: b'no model'...
    """
    model = read(content)
    entries = {}
    for entry in model.metadata:
        data = model.buffers[entry.buffer].data
        entries[entry.name.decode()] = b"" if data is None else data.tobytes()
    return entries


def set_metadata(content: bytes, entries: Mapping[str, bytes]) -> bytes:
    """Adds or replaces named metadata in a `.tflite` file.

    Args:
        content: Content of the file.
        entries: Dict from name to bytes. Runtimes ignore unknown names.

    Returns:
        Content of the new file.

    Example:

    >>> set_metadata(b"no model", {"ticket": b"..."})
    Traceback (most recent call last):
    ValueError: Expected the content of a .tflite file. Received 8 bytes: b'no model'...
    """
    model = read(content)
    for name, value in entries.items():
        _check_entry(name, value)
        _set_entry(model, name.encode(), value)
    return write(model)


def users(model: Any) -> collections.Counter[int]:
    """Counts the tensors and metadata entries that use each buffer."""
    tensors = (tensor for graph in model.subgraphs for tensor in graph.tensors)
    counts = collections.Counter(tensor.buffer for tensor in tensors)
    counts.update(entry.buffer for entry in model.metadata)
    counts.update(int(index) for index in model.metadataBuffer)
    return counts


def _fill_in_defaults(model):
    """Replaces missing vectors by equivalent empty ones."""
    _default(model, subgraphs=[], buffers=[], metadata=[], metadataBuffer=[])
    for graph in model.subgraphs:
        _default(graph, tensors=[], operators=[], outputs=[])
        for tensor in graph.tensors:
            _default(tensor, shape=[], name=b"")
        for operator in graph.operators:
            _default(operator, inputs=_NO_TENSORS, outputs=_NO_TENSORS)


def _default(table, **values):
    for name, value in values.items():
        if getattr(table, name) is None:
            setattr(table, name, value)


def _set_entry(model, name, value):
    classes = schema()
    buffer = classes.BufferT(data=np.frombuffer(value, np.uint8))
    entry = next((e for e in model.metadata if e.name == name), None)
    if entry is None:
        entry = classes.MetadataT(name=name)
        model.metadata.append(entry)
    elif users(model)[entry.buffer] == 1:
        model.buffers[entry.buffer] = buffer
        return
    entry.buffer = len(model.buffers)
    model.buffers.append(buffer)


def _builder(size):
    import flatbuffers

    class Aligned(flatbuffers.Builder):
        def StartVector(self, elemSize, numElems, alignment):
            minimum = _ALIGNMENT if elemSize == 1 else 4
            return super().StartVector(elemSize, numElems, max(alignment, minimum))

    return Aligned(max(size, 1024))


def _check_content(content):
    if not isinstance(content, bytes | bytearray | memoryview):
        raise TypeError(
            "The content of a .tflite file must be bytes. Received: "
            f"{type(content).__name__}. Read it with pathlib.Path(path).read_bytes()."
        )
    if bytes(content[4:8]) != _IDENTIFIER:
        raise ValueError(
            f"Expected the content of a .tflite file. Received {len(content)} bytes: "
            f"{bytes(content[:8])!r}..."
        )
    if len(content) >= _LIMIT:
        raise ValueError(
            f"Only .tflite files below 2 GB can be rewritten. Received: {len(content)} "
            "bytes. Convert the model in parts."
        )
    end = bytes(content[-_LENGTH_OF_END_OF_ZIP:])
    if end.startswith(_END_OF_ZIP):
        raise ValueError(
            "The .tflite file contains a zip of associated files, which would be lost. "
            "Encode the model first and add the files afterwards."
        )


def _check_references(model):
    """Raises for invalid references, which occur in damaged files."""
    if not model.subgraphs or not model.buffers:
        raise ValueError("it has no graph")
    known = range(len(model.buffers))
    if any(index not in known for index in users(model)):
        raise ValueError(f"it refers to buffers beyond its {len(known)} buffers")
    for graph in model.subgraphs:
        # An absent input is -1.
        tensors = range(-1, len(graph.tensors))
        for operator in graph.operators:
            model.operatorCodes[operator.opcodeIndex]
            indices = [*operator.inputs, *operator.outputs]
            if any(index not in tensors for index in indices):
                raise ValueError(f"it refers to tensors that {graph.name!r} lacks")


def _check_self_contained(model):
    operators = [op for graph in model.subgraphs for op in graph.operators]
    tensors = [tensor for graph in model.subgraphs for tensor in graph.tensors]
    external = (
        any(buffer.offset or buffer.size for buffer in model.buffers)
        or any(operator.largeCustomOptionsOffset for operator in operators)
        or any(tensor.externalBuffer for tensor in tensors)
    )
    if external:
        raise ValueError(
            "The .tflite file stores weights outside its flatbuffer, as files above 2 "
            "GB do, and cannot be rewritten. Convert the model in parts below 2 GB."
        )


def _check_entry(name, value):
    if not isinstance(name, str) or not isinstance(value, bytes):
        raise TypeError(
            "Metadata must map a str to bytes. Received: "
            f"{name!r} of {type(name).__name__} to {type(value).__name__}."
        )
