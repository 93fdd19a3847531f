"""A `.tflite` file as objects that can be changed, and as bytes again.

The objects are those of the public schema that comes with `ai-edge-litert`. What lies
beside the model, its named metadata, is read and written here too.
"""

import collections
import struct
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np

_IDENTIFIER = b"TFL3"
# What the offsets of the format reach.
_LIMIT = 2**31
# The schema promises that a constant's bytes begin at a multiple of this, which the
# generated Python code knows nothing of.
_ALIGNMENT = 16
_END_OF_ZIP = b"PK\x05\x06"
_LENGTH_OF_END_OF_ZIP = 22
_NO_TENSORS = np.zeros(0, np.int32)
_SIGNS_OF_DAMAGE = (
    struct.error,
    ValueError,
    TypeError,
    IndexError,
    AttributeError,
    OverflowError,
)


def schema() -> ModuleType:
    """The classes of a TFLite file: `ModelT`, `TensorT` and so on."""
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError as error:
        raise ImportError(
            f"A .tflite file is read by ai-edge-litert, which did not import: {error}. "
            "Install it: pip install ai-edge-litert"
        ) from error
    return schema_py_generated


def read(content: bytes) -> Any:
    """A file's content as a `ModelT`.

    Example:

    >>> read(b"no model")
    Traceback (most recent call last):
    ValueError: Expected the content of a .tflite file. Received 8 bytes: b'no model'...
    """
    _check_content(content)
    classes = schema()
    try:
        model = classes.ModelT.InitFromPackedBuf(bytes(content), 0)
        _fill_in(model)
        _check_references(model)
    except _SIGNS_OF_DAMAGE as error:
        raise ValueError(
            f"The .tflite file cannot be read: {error}. It may be cut off or altered; "
            "convert the model again."
        ) from error
    _check_whole(model)
    return model


def write(model: Any) -> bytes:
    """The bytes of a `ModelT`, the same for the same model."""
    size = sum(buffer.data.size for buffer in model.buffers if buffer.data is not None)
    builder = _builder(size)
    builder.Finish(model.Pack(builder), file_identifier=_IDENTIFIER)
    return bytes(builder.Output())


def metadata(content: bytes) -> dict[str, bytes]:
    """What is kept in a `.tflite` file under a name, beside the model.

    Args:
        content: The file's bytes.

    Example:

    >>> metadata(b"no model")
    Traceback (most recent call last):
    ValueError: Expected the content of a .tflite file. Received 8 bytes: b'no model'...
    """
    model = read(content)
    found = {}
    for entry in model.metadata:
        data = model.buffers[entry.buffer].data
        found[entry.name.decode()] = b"" if data is None else data.tobytes()
    return found


def set_metadata(content: bytes, entries: Mapping[str, bytes]) -> bytes:
    """A `.tflite` file with entries added, or replaced where a name is there already.

    Args:
        content: The file's bytes.
        entries: From name to what to keep. Runtimes pass over names unknown to them.

    Returns:
        The new file's bytes.

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
    """How many tensors and entries of the metadata have the bytes of each buffer."""
    tensors = (tensor for graph in model.subgraphs for tensor in graph.tensors)
    found = collections.Counter(tensor.buffer for tensor in tensors)
    found.update(entry.buffer for entry in model.metadata)
    found.update(int(place) for place in model.metadataBuffer)
    return found


def _fill_in(model):
    """Empty vectors instead of absent ones, which mean the same."""
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
            least = _ALIGNMENT if elemSize == 1 else 4
            return super().StartVector(elemSize, numElems, max(alignment, least))

    return Aligned(max(size, 1024))


def _check_content(content):
    if not isinstance(content, bytes | bytearray | memoryview):
        raise TypeError(
            f"A .tflite file is given as bytes. Received: {type(content).__name__}. "
            "Read it with pathlib.Path(path).read_bytes()."
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
            "The .tflite file carries a zip of associated files, which would be lost. "
            "Rewrite the model first and add the files afterwards."
        )


def _check_references(model):
    """Reads what the rest relies on, so that a damaged file is found out here."""
    if not model.subgraphs or not model.buffers:
        raise ValueError("it has no graph")
    known = range(len(model.buffers))
    if any(place not in known for place in users(model)):
        raise ValueError(f"it names buffers that are not among its {len(known)}")
    for graph in model.subgraphs:
        # An absent input is -1.
        tensors = range(-1, len(graph.tensors))
        for operator in graph.operators:
            model.operatorCodes[operator.opcodeIndex]
            named = [*operator.inputs, *operator.outputs]
            if any(index not in tensors for index in named):
                raise ValueError(f"it names tensors that are not in {graph.name!r}")


def _check_whole(model):
    operators = [op for graph in model.subgraphs for op in graph.operators]
    tensors = [tensor for graph in model.subgraphs for tensor in graph.tensors]
    outside = [
        *(buffer.offset or buffer.size for buffer in model.buffers),
        *(operator.largeCustomOptionsOffset for operator in operators),
        *(tensor.externalBuffer for tensor in tensors),
    ]
    if any(outside):
        raise ValueError(
            "The .tflite file keeps weights outside its flatbuffer, as those above 2 "
            "GB do. They cannot be moved: convert the model in parts below 2 GB."
        )


def _check_entry(name, value):
    if not isinstance(name, str) or not isinstance(value, bytes):
        raise TypeError(
            "Metadata goes from a name to bytes. Received: "
            f"{name!r} of {type(name).__name__} to {type(value).__name__}."
        )
