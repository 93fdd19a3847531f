"""Files are written atomically, and their contents are checked on loading."""

import json
import os
import zipfile
import zlib

import keras
import ml_dtypes
import numpy as np
import pytest

from tf_tickets import files

pytestmark = pytest.mark.turns

ARRAYS = {
    "a": np.linspace(-1, 1, 12, dtype="float32").reshape(3, 4),
    "mask": np.arange(13) % 3 == 0,
}


def written(folder, arrays=None, content=None):
    path = folder / "a.file"
    files.write(path, "demo", content or {"n": [1, "x", None]}, arrays or ARRAYS)
    return path


def forge(path, **changes):
    """Writes the same zip with another manifest."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    manifest = json.loads(entries["manifest.json"]) | changes
    entries["manifest.json"] = json.dumps(manifest).encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)


def read_or_none(path):
    try:
        return files.read(path, "demo")
    except ValueError:
        return None


def as_bytes(found):
    content, arrays = found
    return content, {n: (a.dtype, a.shape, a.tobytes()) for n, a in arrays.items()}


@pytest.mark.parametrize("dtype", files.DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (11,), (3, 5), (2, 0, 3)])
def test_every_dtype_and_shape_comes_back_to_the_bit(tmp_path, dtype, shape):
    array = (np.arange(np.prod(shape)) % 2).reshape(shape).astype(dtype)
    result = files.read(written(tmp_path, {"a": array}), "demo")[1]["a"]
    assert (result.dtype, result.shape) == (array.dtype, array.shape)
    assert result.tobytes() == array.tobytes()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16"])
def test_infinities_nan_and_minus_zero_come_back(tmp_path, dtype):
    array = np.array([np.inf, -np.inf, np.nan, -0.0, 1e-7]).astype(dtype)
    result = files.read(written(tmp_path, {"a": array}), "demo")[1]["a"]
    assert result.tobytes() == array.tobytes()


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12).reshape(3, 4).T,
        np.arange(12)[::2],
        np.asfortranarray(ARRAYS["a"]),
        np.arange(5, dtype=">i4"),
        np.arange(5, dtype=">f8"),
        ARRAYS["mask"][::-1],
    ],
)
def test_other_layouts_in_memory_come_back_with_their_values(tmp_path, array):
    result = files.read(written(tmp_path, {"a": array}), "demo")[1]["a"]
    np.testing.assert_array_equal(result, array)


def test_what_is_read_can_be_written_to(tmp_path):
    for array in files.read(written(tmp_path), "demo")[1].values():
        array[...] = 0
        assert not array.any()


def test_masks_take_a_bit_a_weight(tmp_path):
    mask = np.random.default_rng(0).random(80_000) < 0.5
    assert written(tmp_path, {"m": mask}).stat().st_size < 10_000 + 1_000


def test_equal_content_gives_equal_bytes(tmp_path):
    first = written(tmp_path / "one").read_bytes()
    assert written(tmp_path / "two").read_bytes() == first


@pytest.mark.parametrize(
    "array", [np.array([{}]), np.array(["x"]), np.array([1j]), np.array([b"x"])]
)
def test_nothing_that_needs_a_pickle_is_written(tmp_path, array):
    with pytest.raises(TypeError, match="'a' has dtype"):
        written(tmp_path, {"a": array})
    assert list(tmp_path.iterdir()) == []


def test_a_keras_model_is_told_from_a_damaged_file(tmp_path):
    path = tmp_path / "my.keras"
    layers = [keras.Input((2,)), keras.layers.Dense(1)]
    keras.Sequential(layers).save(path)
    with pytest.raises(ValueError, match="is a Keras model.*saving.load_model"):
        files.read(path, "ticket")


def test_a_file_cut_off_anywhere_is_refused(tmp_path):
    path = written(tmp_path)
    whole = path.read_bytes()
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        with pytest.raises(ValueError, match="damaged or not a demo file"):
            files.read(path, "demo")


def test_a_flipped_byte_is_refused_or_changes_nothing(tmp_path):
    path = written(tmp_path)
    whole = path.read_bytes()
    truth = as_bytes(files.read(path, "demo"))
    results = []
    for index in range(len(whole)):
        path.write_bytes(
            whole[:index] + bytes([whole[index] ^ 0xFF]) + whole[index + 1 :]
        )
        results.append(read_or_none(path))
    assert all(as_bytes(r) == truth for r in results if r is not None)
    assert sum(r is None for r in results) > len(whole) // 2


@pytest.mark.parametrize("data", [b"", b"PK", b"not a zip", b"\x93NUMPY\x01\x00" * 40])
def test_another_kind_of_file_is_refused(tmp_path, data):
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(ValueError, match="not a demo file"):
        files.read(tmp_path / "a", "demo")


def test_a_foreign_zip_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="not a demo file"):
        files.read(tmp_path / "a.npz", "demo")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"format": "other"}, "not written by tf_tickets"),
        ({"kind": "ticket"}, "is a ticket file. Expected a demo file"),
        ({"version": 2}, "format version 2.*Install a newer"),
        ({"version": "x"}, "format version x"),
        (
            {"arrays": [["a", "float32", [10**9, 10**9]]]},
            "must have 4000000000000000000",
        ),
        ({"arrays": [["a", "float32", [-3, -4]]]}, r"shape \[-3, -4\]"),
        ({"arrays": [["a", "float32", [2.5]]]}, r"shape \[2.5\]"),
        ({"arrays": [["a", "float32", "ab"]]}, "shape ab"),
        (
            {"arrays": [["a", "float64", [3, 4]]]},
            "must have 96 bytes, but the file contains 48",
        ),
        ({"arrays": [["a", "object", [3, 4]]]}, "dtype 'object'"),
        ({"arrays": [["a", "float32,O", [3, 4]]]}, "dtype 'float32,O'"),
        ({"arrays": [["a", ["f4"], [3, 4]]]}, "unsupported dtype"),
        ({"arrays": [["a", "bool", [3, 4]]]}, "must have 2 bytes"),
        ({"arrays": [["a"]]}, "damaged"),
        ({"arrays": 3}, "damaged"),
        ({"arrays": [["a", "float32", [3, 4]]] * 3}, "damaged"),
    ],
)
def test_a_forged_description_is_refused(tmp_path, changes, message):
    path = written(tmp_path)
    forge(path, **changes)
    with pytest.raises(ValueError, match=message):
        files.read(path, "demo")


def test_no_file_is_told_from_a_damaged_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="no demo file"):
        files.read(tmp_path / "absent", "demo")


def test_a_manifest_that_is_no_dict_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a", "w") as archive:
        archive.writestr("manifest.json", "[1]")
    with pytest.raises(ValueError, match="not written by tf_tickets"):
        files.read(tmp_path / "a", "demo")


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failing_write_leaves_the_old_file_and_nothing_else(
    tmp_path, monkeypatch, failing
):
    path = written(tmp_path)
    before = path.read_bytes()

    def fail(*arguments):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(OSError, match="No space"):
        written(tmp_path, {"other": np.zeros(3)})
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [before]


def test_content_that_json_cannot_hold_leaves_the_old_file(tmp_path):
    before = written(tmp_path).read_bytes()
    with pytest.raises(TypeError):
        written(tmp_path, content={"f": print})
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [before]


def test_sweep_removes_drafts_and_keeps_files(tmp_path):
    path = written(tmp_path)
    (tmp_path / ".a.file.123.tmp").write_bytes(b"PK")
    files.sweep(tmp_path)
    assert list(tmp_path.iterdir()) == [path]


def test_bfloat16_is_no_other_type_after_reading(tmp_path):
    path = written(tmp_path, {"a": np.ones(3, ml_dtypes.bfloat16)})
    assert files.read(path, "demo")[1]["a"].dtype == ml_dtypes.bfloat16


# Zip bombs and other archives that `write` does not make.


def rewritten(path, entries, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return path


def entries_of(path):
    with zipfile.ZipFile(path) as archive:
        return [(name, archive.read(name)) for name in archive.namelist()]


def manifest(*arrays, **changes):
    content = {"format": "tf_tickets", "version": 1, "kind": "demo", "content": {}}
    return json.dumps(content | {"arrays": arrays} | changes)


@pytest.fixture
def nothing_is_unpacked(monkeypatch):
    def fail(*arguments):
        raise AssertionError("unpacked")

    monkeypatch.setattr(files, "_from_bytes", fail)


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_refused(tmp_path, compression, nothing_is_unpacked):
    path = written(tmp_path)
    rewritten(path, entries_of(path), compression)
    message = f"compression {compression}. Expected 0 .stored. or 8 .deflate."
    with pytest.raises(ValueError, match=message):
        files.read(path, "demo")


def test_stored_entries_are_read(tmp_path):
    path = written(tmp_path)
    truth = as_bytes(files.read(path, "demo"))
    rewritten(path, entries_of(path), zipfile.ZIP_STORED)
    assert as_bytes(files.read(path, "demo")) == truth


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path, nothing_is_unpacked):
    path = written(tmp_path, {"a": np.zeros(10**7, "int8"), "b": np.zeros(10, "bool")})
    assert path.stat().st_size < 10**5
    with pytest.raises(ValueError, match="take 10000010 bytes.*max_bytes=10000009"):
        files.read(path, "demo", max_bytes=10_000_009)


def test_the_limit_can_be_raised(tmp_path):
    path = written(tmp_path, {"a": np.zeros(100, "int8")})
    with pytest.raises(ValueError, match="pass a larger `max_bytes`"):
        files.read(path, "demo", max_bytes=99)
    for limit in (100, None):
        assert len(files.read(path, "demo", max_bytes=limit)[1]["a"]) == 100


def test_an_archive_of_many_bombs_is_refused_as_a_whole(tmp_path, nothing_is_unpacked):
    path = written(tmp_path, {str(n): np.zeros(10**6, "int8") for n in range(9)})
    with pytest.raises(ValueError, match="take 9000000 bytes"):
        files.read(path, "demo", max_bytes=8_000_000)


def test_a_long_manifest_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(json, "loads", None)
    path = rewritten(tmp_path / "a", [("manifest.json", b" " * (2**24 + 1))])
    with pytest.raises(
        ValueError, match="has 16777217 bytes. Expected at most 1677721"
    ):
        files.read(path, "demo")


def test_content_that_could_not_be_read_again_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="Put large values into arrays"):
        written(tmp_path, content={"text": "x" * 2**24})
    assert list(tmp_path.iterdir()) == []


def declare(path, index, size):
    """Changes the declared size of an entry in both headers of the zip."""
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\1\2", 24), (b"PK\3\4", 22)):
        start = -1
        for _ in range(index + 1):
            start = data.index(signature, start + 1)
        data[start + offset : start + offset + 4] = size.to_bytes(4, "little")
    path.write_bytes(data)


def test_a_declared_size_that_deflate_cannot_reach_is_refused(tmp_path):
    size = 2**30
    path = written(tmp_path, {"a": np.zeros(8, "int8")})
    forge(path, arrays=[["a", "int8", [size]]])
    declare(path, 1, size)
    with pytest.raises(ValueError, match=f"claims {size} bytes, but its . bytes"):
        files.read(path, "demo")


def test_no_more_than_the_declared_bytes_are_unpacked(tmp_path):
    path = written(tmp_path, {"a": np.zeros(10**6, "int8")})
    forge(path, arrays=[["a", "int8", [10]]])
    declare(path, 1, 10)
    with pytest.raises(ValueError, match="damaged.*CRC"):
        files.read(path, "demo")


def test_an_entry_that_is_shorter_than_declared_is_refused(tmp_path):
    path = written(tmp_path, {"a": np.zeros(10, "int8")})
    forge(path, arrays=[["a", "int8", [20]]])
    declare(path, 1, 20)
    with pytest.raises(ValueError, match="damaged"):
        files.read(path, "demo")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_entry_that_occurs_twice_is_refused(tmp_path):
    path = written(tmp_path)
    entries = entries_of(path)
    rewritten(path, [*entries, entries[-1]])
    with pytest.raises(ValueError, match=r"entries \['1.bin'\] occur twice"):
        files.read(path, "demo")


@pytest.mark.parametrize("name", ["2.bin", "01.bin", "../a", "notes.txt"])
def test_an_unexpected_entry_is_refused(tmp_path, name):
    path = written(tmp_path)
    rewritten(path, [*entries_of(path), (name, b"x")])
    with pytest.raises(ValueError, match="unexpected entries.*" + name):
        files.read(path, "demo")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"content": 3}, "`manifest.content` must be a dict. Received: 3"),
        ({"arrays": {"a": 1}}, "`manifest.arrays` must be a list. Received: {'a'"),
        (
            {"arrays": [[["a"], "int8", [1]]]},
            r"`manifest.arrays\[0\]\[0\]` must be a st",
        ),
        ({"arrays": [["a", "int8", [1]]] * 2}, r"not unique: \['a', 'a'\]"),
        ({"arrays": [["a", "int8", [True]]]}, r"invalid shape \[True\]"),
        ({"arrays": [["a", "int8", {"1": 1}]]}, "invalid shape {'1'"),
        ({"extra": 1}, "Unexpected: 'extra'"),
    ],
)
def test_a_manifest_that_breaks_the_schema_is_refused(tmp_path, changes, message):
    rows = changes.get("arrays", [])
    entries = [(f"{index}.bin", b"\0") for index in range(len(rows))]
    text = manifest(**changes)
    path = rewritten(tmp_path / "a", [("manifest.json", text), *entries])
    with pytest.raises(ValueError, match=message):
        files.read(path, "demo")


def test_the_content_is_read_without_the_arrays(tmp_path, nothing_is_unpacked):
    assert files.read_content(written(tmp_path), "demo") == {"n": [1, "x", None]}


def test_only_temporary_files_of_this_library_are_swept(tmp_path):
    kept = [".notes.tmpl", ".my.tmp_settings.json", ".a.tmp", ".b.c.tmp.txt"]
    drafts = [".a.12.tmp", ".a.12.tmp.keras", f".search.lock.{'0f' * 16}.tmp"]
    for name in [*kept, *drafts]:
        (tmp_path / name).write_text("")
    (tmp_path / ".cache.7.tmp").mkdir()
    files.sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*kept, ".cache.7.tmp"}


def compressions(path):
    with zipfile.ZipFile(path) as archive:
        return [entry.compress_type for entry in archive.infolist()[1:]]


def test_entries_are_deflated_by_the_fastest_level(tmp_path):
    array = np.arange(20_000) // 3
    path = written(tmp_path, {"a": array})
    fastest = zlib.compressobj(1, zlib.DEFLATED, -15)
    expected = fastest.compress(array.tobytes()) + fastest.flush()
    with zipfile.ZipFile(path) as archive:
        assert archive.infolist()[1].compress_size == len(expected)


def test_only_arrays_that_get_smaller_are_deflated(tmp_path):
    rng = np.random.default_rng(0)
    dense = rng.normal(size=(300, 300)).astype("float32")
    arrays = {
        "dense": dense,
        "sparse": dense * (rng.random(dense.shape) < 0.1),
        "mask": rng.random((900, 900)) < 0.02,
        "half of a mask": rng.random((2400, 2400)) < 0.5,
        "few": dense[0],
        "transposed": dense.T,
        "bfloat16": dense.astype("bfloat16")[:, :7],
        "empty": dense[:0],
        "scalar": np.float32(3),
    }
    path = written(tmp_path, arrays)
    deflated = dict(zip(arrays, compressions(path), strict=True))
    assert [name for name, how in deflated.items() if how == zipfile.ZIP_STORED] == [
        "dense",
        "half of a mask",
        "transposed",
    ]
    _, read = files.read(path, "demo")
    for name, array in arrays.items():
        assert read[name].dtype == np.asarray(array).dtype
        np.testing.assert_array_equal(read[name], array)
