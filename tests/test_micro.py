"""Files for TensorFlow Lite Micro: written, read back, and run there if installed."""

import pathlib
import shutil
import subprocess

import micro_files
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from micro_files import Chain, mixed, values

pytest.importorskip("ai_edge_litert", reason="reads the schema of .tflite files")
# After `importorskip`, since these need the schema.
from tf_tickets.exporting.micro import (  # noqa: E402
    arena,
    bitmask,
    c_array,
    decoder,
    encoder,
    interpreter,
    model_file,
    operators,
)
from tf_tickets.exporting.tflite import file  # noqa: E402
from tf_tickets.exporting.verification import ExportError  # noqa: E402

KINDS = ["int8", "int16", "float32"]
HEADER = "02010000010000000000000000000000"


def same(first, second):
    """Returns whether two lists of arrays have the same types, shapes and bits."""
    return len(first) == len(second) and all(
        (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes())
        for x, y in zip(first, second, strict=True)
    )


def dense(content, names=True):
    return model_file.write(model_file.read(content), names)


def codes(encoded):
    return [row.encoding for row in encoded.rows]


# The encoding of one array.


def test_the_first_bit_of_a_mask_is_the_most_significant():
    packed = bitmask.pack(np.array([0, 5, 0, 0, -1, 0, 0, 0, 7, 0, 3], "int8"))
    assert packed.mask.tobytes().hex() == "48a0"
    assert packed.ancillary.tobytes().hex() == f"{HEADER}05ff0703"
    assert packed.nbytes == 22


def test_a_negative_zero_is_a_value():
    packed = bitmask.pack(np.array([[0.0, -0.0], [2.0, 0.0]], "float32"))
    assert packed.mask.tobytes().hex() == "60"
    assert packed.ancillary.tobytes().hex() == f"{HEADER}0000008000000040"


def test_an_array_of_zeros_has_no_values():
    packed = bitmask.pack(np.zeros((3, 3), "float32"))
    assert packed.mask.tobytes().hex() == "0000"
    assert packed.ancillary.tobytes().hex() == HEADER


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 9), min_size=2, max_size=4),
    st.sampled_from(["int8", "float32"]),
    st.floats(0, 1),
    st.integers(0, 2**32 - 1),
)
def test_unpacking_restores_every_bit(shape, dtype, zeros, seed):
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 256, (*shape, np.dtype(dtype).itemsize), "uint8")
    bits[rng.random(shape) < zeros] = 0
    array = bits.view(dtype)[..., 0]
    packed = bitmask.pack(array)
    restored = bitmask.unpack(packed.mask, packed.ancillary, array.dtype, array.shape)
    assert same([array], [restored])


@pytest.mark.parametrize(
    ("mask", "ancillary", "message"),
    [
        ("48", HEADER, "has 0 bytes of values, but its bitmask requires 2"),
        ("48", HEADER + "050607", "has 3 bytes of values, but its bitmask requires 2"),
        ("4800", HEADER + "0506", r"shape \(2, 4\) has 2 bytes"),
        ("48", "01" + HEADER[2:] + "0506", "has the header '01010000"),
        ("48", HEADER[:20], "has the header '02010000"),
    ],
)
def test_unpacking_refuses_damage(mask, ancillary, message):
    parts = [np.frombuffer(bytes.fromhex(part), np.uint8) for part in (mask, ancillary)]
    with pytest.raises(ValueError, match=message):
        bitmask.unpack(*parts, np.dtype("int8"), (2, 4))


# Whole files.


def test_a_file_holds_the_bytes_written_by_hand():
    kernel = np.zeros((32, 64), "int8")
    kernel[0, 1], kernel[0, 8], kernel[31, 63] = 5, -2, 7
    encoded = encoder.encode(Chain("int8", (1, 64)).dense(kernel).content())
    model = file.read(encoded.content)
    graph = model.subgraphs[0]
    decode, consumer = graph.operators
    code = model.operatorCodes[decode.opcodeIndex]
    assert (code.builtinCode, code.customCode) == (32, b"TFLM_DECODE")
    mask, ancillary = (graph.tensors[index] for index in decode.inputs)
    assert [t.type for t in (mask, ancillary)] == [file.schema().TensorType.UINT8] * 2
    assert [t.name for t in (mask, ancillary)] == [b"", b""]
    assert [t.shape.tolist() for t in (mask, ancillary)] == [[256], [19]]
    stored = [model.buffers[t.buffer].data.tobytes().hex() for t in (mask, ancillary)]
    assert stored == ["4080" + "00" * 253 + "01", HEADER + "05fe07"]
    # The weight keeps its tensor and quantization, and has lost its values.
    assert decode.outputs.tolist() == [1] and consumer.inputs.tolist() == [0, 1, -1]
    assert (graph.tensors[1].name, graph.tensors[1].buffer) == (b"constant_1", 0)
    assert len(graph.tensors[1].quantization.scale) == 32
    assert same(decoder.weights(encoded.content), [kernel])


@pytest.mark.parametrize("names", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_all_kinds_of_kernels_are_encoded(kind, names):
    content = mixed(kind)
    encoded = encoder.encode(content, names=names)
    small = "dense" if kind != "float32" else "decode"
    assert [(row.operator, row.encoding) for row in encoded.rows] == [
        ("CONV_2D", "decode"),
        ("DEPTHWISE_CONV_2D", "decode"),
        ("TRANSPOSE_CONV", "decode"),
        ("CONV_2D", small),
    ]
    assert same(decoder.weights(content), decoder.weights(encoded.content))
    saved = sum(row.bytes_before - row.bytes_after for row in encoded.rows)
    tables = len(encoded.content) - len(dense(content, names)) + saved
    assert 0 < tables < 700
    assert encoder.encode(content, names=names) == encoded


def test_constants_are_aligned_to_16_bytes():
    content = encoder.encode(mixed()).content
    model = file.read(content)
    constants = [b.data.tobytes() for b in model.buffers if b.data is not None]
    assert len(constants) == 11
    assert all(content.find(data) % 16 == 0 for data in constants if len(data) > 15)


# The sparsity from which a DECODE pays: the first one of a file, and a further one.
@pytest.mark.parametrize(
    ("shape", "first", "further"),
    [
        ((16, 16), 0.95, 0.57),
        ((16, 32), 0.54, 0.35),
        ((32, 32), 0.33, 0.24),
        ((64, 64), 0.18, 0.16),
        ((256, 256), 0.13, 0.13),
    ],
)
def test_a_tensor_is_encoded_as_soon_as_it_pays(shape, first, further):
    def encoding(zeros, pruned):
        chain = Chain("int8", (1, shape[1])).dense(values(shape, zeros))
        if pruned:
            chain.dense(values((256, shape[0]), 0.9))
        return codes(encoder.encode(chain.content(), names=False))[0]

    for limit, pruned in ((first, False), (further, True)):
        found = [encoding(limit + step, pruned) for step in (-0.03, 0.03)]
        assert found == ["dense", "decode"]


@pytest.mark.parametrize("kind", KINDS)
def test_no_file_grows(kind):
    for zeros in np.linspace(0, 1, 11):
        content = micro_files.matrix(24, 32, zeros, kind)
        for names in (True, False):
            encoded = encoder.encode(content, names=names)
            pays = len(encoded.content) < len(dense(content, names))
            assert codes(encoded) == ["decode" if pays else "dense"]
            assert pays or encoded.content == dense(content, names)


def test_two_tensors_that_pay_together_are_encoded():
    """Checks tensors that share the cost of the operator's name."""
    chain = Chain("int8", (1, 32))
    for seed in range(2):
        chain.dense(values((32, 32), 0.3, seed=seed))
    assert codes(encoder.encode(chain.content(), names=False)) == ["decode"] * 2
    alone = micro_files.matrix(32, 32, 0.3)
    assert codes(encoder.encode(alone, names=False)) == ["dense"]


def test_names_and_metadata_can_be_dropped():
    content = file.set_metadata(mixed(), {"tf_tickets": b"x" * 99, "other": b"y" * 99})
    kept = encoder.encode(content)
    assert file.metadata(kept.content) == {"tf_tickets": b"x" * 99, "other": b"y" * 99}
    assert b"constant_1" in kept.content and b"built by hand" in kept.content
    bare = encoder.encode(content, names=False)
    model = file.read(bare.content)
    assert file.metadata(bare.content) == {} and model.description is None
    assert {t.name for t in model.subgraphs[0].tensors} == {b""}
    assert len(bare.content) < len(kept.content) - 400
    # The report still has the names.
    assert [row.tensor for row in bare.rows] == [row.tensor for row in kept.rows]


def test_metadata_that_counts_tensors_or_operators_is_dropped():
    entries = {
        "OfflineMemoryAllocation": b"\0" * 16,
        "model_control_dependencies": b"1",
    }
    content = encoder.encode(file.set_metadata(mixed(), {**entries, "z": b"1"})).content
    assert file.metadata(content) == {"z": b"1"}


# Shared weights.


def test_a_weight_with_two_readers_is_stored_once_and_decoded_twice():
    chain = Chain("int8", (1, 48))
    kernel = values((48, 48), 0.8)
    shared = chain.constant(kernel, 0)
    content = chain.dense(shared).dense(shared).content()
    encoded = encoder.encode(content)
    graph = file.read(encoded.content).subgraphs[0]
    decodes = [graph.operators[0], graph.operators[2]]
    assert [d.inputs.tolist() for d in decodes] == [decodes[0].inputs.tolist()] * 2
    targets = [int(d.outputs[0]) for d in decodes]
    assert targets[0] != targets[1]
    assert [int(graph.operators[i].inputs[1]) for i in (1, 3)] == targets
    assert same(decoder.weights(encoded.content), [kernel, kernel])
    assert codes(encoded) == ["decode"]


def test_tensors_that_share_a_buffer_are_stored_once():
    chain = Chain("int8", (1, 48))
    kernel = values((48, 48), 0.8)
    first = chain.constant(kernel, 0)
    second = chain.constant(kernel, 0, chain.graph.tensors[first].buffer)
    content = chain.dense(first).dense(second).content()
    encoded = encoder.encode(content)
    assert codes(encoded) == ["decode", "decode"]
    assert encoded.content.count(bitmask.pack(kernel).ancillary.tobytes()) == 1
    assert same(decoder.weights(encoded.content), [kernel, kernel])


def reasons(content):
    encoded = encoder.encode(content)
    assert codes(encoded) == ["dense"] * len(encoded.rows)
    return [row.reason for row in encoded.rows]


def test_weights_that_cannot_be_decoded_stay_dense():
    chain = Chain("int8", (1, 48))
    shared = chain.constant(values((48, 48), 0.8), 0)
    chain.dense(shared)
    chain.operator("ADD", [chain.last, shared], (48, 48))
    assert reasons(chain.content()) == ["ADD does not read decoded weights"]

    chain = Chain("int8", (1, 48))
    shared = chain.constant(values((48, 48), 0.8), 0)
    chain.dense(shared).content()
    chain.graph.outputs = [chain.last, shared]
    assert reasons(file.write(chain.model)) == ["it is an output of the model"]

    chain = Chain("int8", (1, 48)).dense(values((48, 48), 0.8))
    entry = chain.classes.MetadataT(name=b"copy", buffer=1)
    chain.model.metadata.append(entry)
    expected = "its buffer has a user that cannot read decoded values"
    assert reasons(chain.content()) == [expected]


def test_only_the_first_graph_is_encoded():
    chain = Chain("int8", (1, 48)).dense(values((48, 48), 0.8))
    chain.content()
    chain.model.subgraphs = [*chain.model.subgraphs, chain.graph]
    expected = "only the first graph of a file is encoded"
    assert reasons(file.write(chain.model)) == [expected] * 2
    other = Chain("int8", (1, 48)).dense(values((48, 48), 0.8))
    tensors = other.graph.tensors
    tensors[1].buffer = chain.buffer(other.model.buffers[1].data)
    other.content()
    chain.model.subgraphs = [chain.graph, other.graph]
    encoded = encoder.encode(file.write(chain.model))
    assert codes(encoded) == ["decode", "dense"]
    assert encoded.rows[1].reason == expected
    assert same(
        decoder.weights(encoded.content), decoder.weights(file.write(chain.model))
    )


# Memory.


def test_the_planner_places_the_last_of_equal_tensors_first():
    needs = {0: (16, 0, 1), 1: (32, 1, 2), 2: (32, 2, 3), 3: (48, 3, 4), 4: (16, 0, 2)}
    needs = {index: arena.Need(*need) for index, need in needs.items()}
    # 3 at 0, 2 at 48, 1 at 0, 4 at 32, 0 at 48.
    assert arena.plan(needs) == 80
    assert arena.plan({}) == 0


def test_sizes_are_rounded_up_to_16_bytes():
    chain = Chain("int8", (1, 3)).dense(values((5, 3), 0))
    encoded = encoder.encode(chain.content())
    assert (encoded.arena_before, encoded.arena_after) == (32, 32)


def test_decoded_weights_count_only_while_their_operator_runs():
    chain = Chain("int8", (1, 64)).dense(values((96, 64), 0.8))
    content = chain.dense(values((32, 96), 0.8, seed=1)).content()
    encoded = encoder.encode(content)
    assert encoded.arena_before == 64 + 96
    assert encoded.arena_after == 64 + 96 + 64 * 96


def test_max_ram_skips_what_does_not_fit():
    chain = Chain("int8", (1, 64)).dense(values((96, 64), 0.8))
    content = chain.dense(values((32, 96), 0.8, seed=1)).content()
    small = encoder.encode(content, max_ram=4000)
    assert codes(small) == ["dense", "decode"]
    assert (small.arena_before, small.arena_after) == (160, 96 + 32 + 32 * 96)
    assert small.rows[0].reason == (
        "decoded, it takes 6144 bytes of RAM, and the tensors together 6304, more than "
        "max_ram=4000"
    )
    none = encoder.encode(content, max_ram=100)
    assert codes(none) == ["dense", "dense"]
    assert none.arena_after == none.arena_before == 160
    expected = "the dense model already needs 160 bytes of RAM, more than max_ram=100"
    assert {row.reason for row in none.rows} == {expected}
    exact = encoder.encode(content, max_ram=6304)
    assert codes(exact) == ["decode", "decode"]


@pytest.mark.parametrize("max_ram", [0, -1, 1.5, "20 kB", True])
def test_max_ram_is_a_number_of_bytes(max_ram):
    with pytest.raises(ValueError, match="`max_ram` must be a whole number"):
        encoder.encode(mixed(), max_ram=max_ram)


# What is refused.


def test_other_precisions_are_refused():
    chain = Chain("float32", (1, 32)).dense(values((32, 32), 0.8))
    with pytest.raises(ValueError, match="dynamic range.*constant_1.*FULLY_CONNECTED"):
        encoder.encode(chain.content())
    half = values((32, 32), 0.8, "float32").astype("float16")
    chain = Chain("float32", (1, 32)).dense(half)
    with pytest.raises(ValueError, match="no float16 weights.*precision='int8'"):
        encoder.encode(chain.content())


def test_zero_points_of_weights_are_refused():
    chain = Chain("int8", (1, 32)).dense(values((32, 32), 0.8))
    chain.graph.tensors[1].quantization.zeroPoint[5] = -4
    with pytest.raises(ValueError, match="'constant_1' with the zero points -4, 0"):
        encoder.encode(chain.content())


def test_encoded_files_are_refused():
    content = encoder.encode(mixed()).content
    with pytest.raises(ValueError, match="Received: a file that is already encoded"):
        encoder.encode(content)
    other_encoder = file.set_metadata(mixed(), {"COMPRESSION_METADATA": b"1"})
    with pytest.raises(ValueError, match="already encoded"):
        encoder.encode(other_encoder)


def test_wrong_arguments_are_refused():
    with pytest.raises(TypeError, match="must be bytes. Received: str"):
        encoder.encode("model.tflite")
    with pytest.raises(ValueError, match="Expected the content of a .tflite file"):
        encoder.encode(b"PK" * 99)
    with pytest.raises(ValueError, match="`names` must be"):
        encoder.encode(mixed(), names="no")


# Damage.


def damaged(content, count, seed):
    """Yields truncated files, and files with a few other bytes."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        if number % 4 == 0:
            yield content[: rng.integers(len(content))]
        else:
            changed = bytearray(content)
            # Most bytes are values of weights, where nothing can be noticed.
            ends = (200, len(content)) if number % 4 == 1 else (len(content),) * 2
            for index in rng.integers(ends[number % 2], size=rng.integers(1, 5)):
                changed[index] ^= int(rng.integers(1, 256))
            yield bytes(changed)


def outcome(function, content):
    try:
        function(content)
    except ValueError as error:
        return str(error)
    return ""


def check_damage(count):
    contents = [mixed(), micro_files.matrix(8, 8, 0.5)]
    contents += [encoder.encode(content, names=False).content for content in contents]
    refused = 0
    for seed, content in enumerate(contents):
        for changed in damaged(content, count, seed):
            for function in (encoder.encode, decoder.weights, operators.unsupported):
                message = outcome(function, changed)
                refused += bool(message)
    return refused / (count * len(contents) * 3)


def test_damaged_files_raise_a_value_error():
    assert 0.2 < check_damage(30) < 1


@pytest.mark.matrix
def test_many_damaged_files_raise_a_value_error():
    assert 0.2 < check_damage(1000) < 1


# Operators.


def test_missing_operators_are_named():
    chain = Chain("int8", (1, 16))
    assert operators.unsupported(chain.content()) == []
    for name in ("TILE", "EXP", "RELU", "TILE", "GELU"):
        chain.operator(name, [chain.last], (1, 16))
    content = chain.content()
    assert operators.unsupported(content) == ["EXP (int8)", "GELU", "TILE"]
    chain.model.operatorCodes[0].builtinCode = 32
    chain.model.operatorCodes[0].deprecatedBuiltinCode = 32
    chain.model.operatorCodes[0].customCode = b"FlexErf"
    content = file.write(chain.model)
    assert "'FlexErf' (custom)" in operators.unsupported(content)
    assert operators.unsupported(encoder.encode(mixed()).content) == []


# Arrays of C.


def test_a_compiler_sees_the_bytes_aligned(tmp_path):
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    content = encoder.encode(mixed(), names=False).content
    (tmp_path / "net.cc").write_text(c_array.text(content, "net_int8"))
    (tmp_path / "main.cc").write_text(
        "#include <cstdint>\n#include <cstdio>\n"
        "extern const unsigned char net_int8[];\n"
        "extern const unsigned int net_int8_size;\n"
        "int main() {\n"
        "  if (reinterpret_cast<std::uintptr_t>(net_int8) % 16) return 1;\n"
        "  return std::fwrite(net_int8, 1, net_int8_size, stdout) != net_int8_size;\n"
        "}\n"
    )
    program = tmp_path / "main"
    flags = ["-std=c++11", "-Wall", "-Wextra", "-Werror", "-o", program]
    sources = [tmp_path / "net.cc", tmp_path / "main.cc"]
    subprocess.run([compiler, *flags, *sources], check=True)
    output = subprocess.run([program], check=True, capture_output=True).stdout
    assert output == content


@pytest.mark.parametrize("name", ["1x", "a-b", "", "int", "co_await", "a__b", "_a", 3])
def test_a_name_must_be_an_identifier(name):
    with pytest.raises(ValueError, match="`name` must be an identifier of C"):
        c_array.text(b"TFL3", name)


# Runs in TensorFlow Lite Micro.


def run(files, kind="int8"):
    pytest.importorskip("tflite_micro")
    return interpreter.run(files, [micro_files.inputs(kind)])


@pytest.fixture(scope="module")
def runs():
    """Runs of the dense and encoded mixed files, by kind, and those files."""
    pytest.importorskip("tflite_micro")
    found = {}
    for kind in KINDS:
        content = mixed(kind)
        encoded = {
            "names": encoder.encode(content),
            "bare": encoder.encode(content, names=False),
            "limited": encoder.encode(content, max_ram=16_000),
        }
        files = {name: each.content for name, each in encoded.items()}
        found[kind] = encoded, run({"dense": content, **files}, kind)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_and_weights_have_the_same_bits(runs, kind):
    encoded, results = runs[kind]
    assert len(results["dense"].weights) == 4
    assert len(np.unique(results["dense"].outputs[0])) > 30
    assert same(results["dense"].weights, decoder.weights(mixed(kind)))
    for name in encoded:
        interpreter.check_equal(results["dense"], results[name])
    count = {"int8": 3, "int16": 3, "float32": 3}[kind]
    assert codes(encoded["limited"]).count("decode") == count


@pytest.mark.parametrize("kind", KINDS)
def test_memory_is_as_predicted(runs, kind):
    encoded, results = runs[kind]
    for name, each in encoded.items():
        assert results["dense"].tensors == each.arena_before
        assert results[name].tensors == each.arena_after
        assert results[name].arena > each.arena_after
    assert (encoded["names"].arena_after > 16_000) == (kind == "float32")
    assert encoded["limited"].arena_after <= 16_000


def test_another_weight_is_noticed(runs):
    dense_run = runs["int8"][1]["dense"]
    changed = [array.copy() for array in dense_run.weights]
    changed[2].reshape(-1)[0] ^= 1
    with pytest.raises(ExportError, match=r"weights \[2\] are not the same bits"):
        interpreter.check_equal(dense_run, dense_run._replace(weights=changed))
    outputs = [-dense_run.outputs[0]]
    with pytest.raises(ExportError, match=r"outputs \[0\] are not the same bits"):
        interpreter.check_equal(dense_run, dense_run._replace(outputs=outputs))


def test_the_interpreter_says_what_it_lacks():
    content = Chain().operator("TILE", [0], micro_files.SHAPE).content()
    with pytest.raises(ExportError, match="Didn't find op for builtin opcode 'TILE'"):
        run({"dense": content})


def test_a_file_that_ends_the_interpreter_does_not_end_this_process():
    model = file.read(encoder.encode(mixed()).content)
    model.subgraphs[0].inputs = None
    with pytest.raises(ExportError, match=r"exit status -\d+.*\nnone; the file may be"):
        run({"dense": file.write(model)})


def test_a_run_has_a_time_limit():
    pytest.importorskip("tflite_micro")
    with pytest.raises(ExportError, match="within 0.01 seconds"):
        interpreter.run({"x": mixed()}, [micro_files.inputs()], seconds=0.01)


@pytest.mark.matrix
def test_damaged_files_never_end_this_process():
    pytest.importorskip("tflite_micro")
    content = encoder.encode(mixed(), names=False).content
    results = [
        outcome(lambda changed: run({"x": changed}), changed)
        for changed in damaged(content, 60, 8)
    ]
    assert 15 < sum(map(bool, results)) < 60


SIDES = st.integers(1, 3)


@st.composite
def chains(draw, kind):
    """Draws a file whose input has the same shape for all."""
    chain = Chain(kind)
    for seed in range(draw(st.integers(1, 4))):
        channels = chain.shape()[3]
        height, width = draw(SIDES), draw(SIDES)
        outputs = draw(st.integers(1, 48))
        zeros = draw(st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.8, 0.95, 1.0]))
        which = draw(st.sampled_from(["convolution", "depthwise", "transposed"]))
        if which == "depthwise":
            shape = (1, height, width, channels * draw(st.integers(1, 3)))
        else:
            shape = (outputs, height, width, channels)
        getattr(chain, which)(values(shape, zeros, kind, seed))
    return chain.content()


def check_chains(kind, count):
    """Encodes drawn files and runs all of them in one process."""
    contents = []

    @settings(max_examples=count, deadline=None, database=None, derandomize=True)
    @given(chains(kind))
    def draw(content):
        encoded = encoder.encode(content, names=len(contents) % 2)
        assert len(encoded.content) <= len(dense(content, bool(len(contents) % 2)))
        assert same(decoder.weights(content), decoder.weights(encoded.content))
        contents.append((content, encoded))

    draw()
    files = {}
    for index, (content, encoded) in enumerate(contents):
        files |= {f"dense {index}": content, f"encoded {index}": encoded.content}
    results = run(files, kind)
    for index, (_, encoded) in enumerate(contents):
        pair = results[f"dense {index}"], results[f"encoded {index}"]
        interpreter.check_equal(*pair)
        predicted = encoded.arena_before, encoded.arena_after
        assert tuple(part.tensors for part in pair) == predicted
    return [code for _, encoded in contents for code in codes(encoded)]


def test_drawn_files_compute_the_same_bits():
    assert set(check_chains("int8", 12)) == {"decode", "dense"}


@pytest.mark.matrix
@pytest.mark.parametrize("kind", KINDS)
def test_many_drawn_files_compute_the_same_bits(kind):
    assert set(check_chains(kind, 200)) == {"decode", "dense"}


def test_the_runtime_is_imported_in_the_child_only():
    folder = pathlib.Path(encoder.__file__).parent
    names = {
        p.name for p in folder.glob("*.py") if "import tflite_micro" in p.read_text()
    }
    names |= {
        p.name for p in folder.glob("*.py") if "from tflite_micro" in p.read_text()
    }
    assert names == {"runtime.py"}
