"""Converted Keras models, encoded for TensorFlow Lite Micro and run there."""

import pytest

converted = pytest.importorskip("converted", reason="needs TensorFlow and LiteRT")
pytest.importorskip("tflite_micro", reason="runs the files")
from tf_tickets.exporting.micro import (  # noqa: E402
    decoder,
    encoder,
    interpreter,
    operators,
)

NAMES = [name for name in converted.MODELS if name != "embedding"]
BY_DEFAULT = [("mixed", "int8")]
CASES = [
    pytest.param(
        name,
        kind,
        marks=[] if (name, kind) in BY_DEFAULT else pytest.mark.matrix,
    )
    for name in NAMES
    for kind in ("int8", "int16", "float32")
]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_converted_models_compute_the_same_bits(name, kind):
    dense = converted.pruned(name, 0.8, kind)
    encoded = encoder.encode(dense, names=False)
    assert "decode" in [row.encoding for row in encoded.rows]
    assert len(encoded.content) < 0.75 * len(dense)
    assert operators.unsupported(encoded.content) == []
    inputs = [converted.inputs(converted.MODELS[name][0], 2)]
    files = {"dense": dense, "encoded": encoded.content}
    runs = interpreter.run(files, inputs)
    interpreter.check_equal(runs["dense"], runs["encoded"])
    weights = [array.tobytes() for array in decoder.weights(dense)]
    assert [array.tobytes() for array in runs["encoded"].weights] == weights
    assert runs["dense"].tensors == encoded.arena_before
    assert runs["encoded"].tensors == encoded.arena_after


@pytest.mark.matrix
def test_layers_that_do_not_run_are_named_before():
    assert operators.unsupported(converted.dense("embedding")) == ["SELECT_V2 (int32)"]


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("kind", "message"),
    [("dynamic", "dynamic range"), ("float16", "no float16 weights")],
)
def test_other_precisions_are_refused(kind, message):
    with pytest.raises(ValueError, match=f"{message}.*Export with precision='int8'"):
        encoder.encode(converted.pruned("mixed", 0.8, kind))
