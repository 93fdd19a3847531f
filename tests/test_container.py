"""Files that cannot be rewritten raise errors; metadata survives a round trip."""

import io
import struct
import zipfile

import numpy as np
import pytest

from tf_tickets.exporting.tflite import file, rewriter

pytestmark = pytest.mark.turns

converted = pytest.importorskip("converted", reason="needs TensorFlow and LiteRT")


@pytest.mark.parametrize(
    "content",
    [b"", b"TFL3", b"\x08\0\0\0TFL3", b"PK\x03\x04" * 9, b"\xff" * 4 + b"TFL3"],
)
def test_what_is_no_file_of_a_model_is_refused(content):
    with pytest.raises(ValueError, match=r"\.tflite file"):
        rewriter.encode(content)


@pytest.mark.parametrize("part", [0.01, 0.1, 0.3, 0.5, 0.7, 0.9])
def test_a_file_that_was_cut_off_is_refused(part):
    content = converted.dense("dense 16")
    with pytest.raises(ValueError, match=r"\.tflite file"):
        rewriter.encode(content[: int(part * len(content))])


def test_what_is_no_bytes_is_refused():
    with pytest.raises(TypeError, match="Received: str"):
        rewriter.encode("model.tflite")


def test_weights_outside_the_flatbuffer_are_refused():
    def move(model):
        model.buffers[2].offset = 4096

    content = converted.changed(converted.dense("dense 16"), move)
    with pytest.raises(ValueError, match="outside its flatbuffer"):
        rewriter.encode(content)


def test_a_zip_behind_the_model_is_not_lost():
    file = io.BytesIO()
    file.write(converted.dense("dense 16"))
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("labels.txt", "cat")
    with pytest.raises(ValueError, match="associated files"):
        rewriter.encode(file.getvalue())


def test_a_buffer_that_is_not_there_is_refused():
    def point(model):
        model.subgraphs[0].tensors[0].buffer = 99

    content = converted.changed(converted.dense("dense 16"), point)
    with pytest.raises(ValueError, match="refers to buffers"):
        rewriter.encode(content)


def test_metadata_is_added_and_comes_back_after_encoding():
    content = converted.pruned("dense 16", 0.9)
    before = file.metadata(content)
    entries = {"tf_tickets.ticket": b"\0provenance", "empty": b""}
    result = rewriter.set_metadata(content, entries)
    assert rewriter.metadata(result) == before | entries
    assert rewriter.metadata(rewriter.encode(result)[0]) == before | entries
    x = converted.inputs((16,), 2)
    assert np.array_equal(converted.predict(content, x), converted.predict(result, x))


def test_metadata_of_the_same_name_is_replaced():
    content = rewriter.set_metadata(converted.dense("dense 16"), {"a": b"1", "b": b"2"})
    buffers = len(file.read(content).buffers)
    content = rewriter.set_metadata(content, {"a": b"longer"})
    result = rewriter.metadata(content)
    assert (result["a"], result["b"]) == (b"longer", b"2")
    assert len(file.read(content).buffers) == buffers


def test_replacing_metadata_spares_others_with_the_same_bytes():
    def share(model):
        model.metadata[-1].buffer = model.metadata[-2].buffer

    entries = {"a": b"1", "b": b"1"}
    content = rewriter.set_metadata(converted.dense("dense 16"), entries)
    content = converted.changed(content, share)
    result = rewriter.metadata(rewriter.set_metadata(content, {"b": b"2"}))
    assert (result["a"], result["b"]) == (b"1", b"2")


@pytest.mark.parametrize("entries", [{"a": "text"}, {1: b""}, {"a": None}])
def test_metadata_of_other_types_is_refused(entries):
    with pytest.raises(TypeError, match="map a str to bytes"):
        rewriter.set_metadata(converted.dense("dense 16"), entries)


def test_damaged_files_are_told_as_such():
    content = bytearray(converted.dense("dense 16"))
    struct.pack_into("<I", content, 0, len(content) + 64)
    with pytest.raises(ValueError, match="cannot be read"):
        rewriter.metadata(bytes(content))
