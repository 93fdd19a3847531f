"""Tasks of KerasHub with preprocessors: text in, text out, before and after pruning."""

import keras
import numpy as np
import pytest
import samples
from zoo import hub

import tf_tickets as tt

keras_hub = pytest.importorskip("keras_hub", reason="requires the extra `hub`")

pytestmark = [
    pytest.mark.matrix,
    # KerasHub and TensorFlow warn of what they do themselves.
    pytest.mark.filterwarnings("ignore"),
]
TEXTS = ["a quick fox", "a fox", "quick a", "fox fox a quick"]


def writer():
    """Builds a GPT-2 that reads and writes three words."""
    merges = ["u i", "c k", "q ui", "qui ck", "o x", "f ox", "Ġ quick", "Ġ fox"]
    parts = ["<|endoftext|>", *"aquickfoxĠ", *(m.replace(" ", "") for m in merges)]
    vocabulary = {part: index for index, part in enumerate(dict.fromkeys(parts))}
    tokenizer = keras_hub.models.GPT2Tokenizer(vocabulary, merges)
    preprocessor = keras_hub.models.GPT2CausalLMPreprocessor(
        tokenizer, sequence_length=hub.LENGTH
    )
    model, _ = hub.task("GPT2CausalLM", preprocessor=preprocessor)
    model.compile("adam", sampler="greedy", weighted_metrics=[])
    return model


def trained(model, **kwargs):
    """Wraps a task, prunes half of it and trains it on texts."""
    wrapped = tt.wrap(model, verbose=False, **kwargs)
    if "mask" not in kwargs:
        tt.kernels(wrapped).set_masks(samples.half_masks(wrapped))
    x, y, weight = model.preprocessor(TEXTS)
    wrapped.fit(x, y, sample_weight=weight, verbose=0)
    return wrapped


def test_a_task_generates_text_after_pruning_and_from_its_file(tmp_path):
    task = writer()
    task.generate(TEXTS[:1], max_length=hub.LENGTH)
    wrapped = trained(task)
    wrapped.save(tmp_path / "wrapped.keras")
    assert tt.strip(wrapped) is task
    assert tt.summary(task).sparsity == pytest.approx(0.5, abs=0.01)
    written = task.generate(TEXTS, max_length=hub.LENGTH)
    assert all(isinstance(text, str) for text in written)
    task.save(tmp_path / "task.keras")
    again = keras.models.load_model(tmp_path / "task.keras")
    from_wrapped = tt.strip(keras.models.load_model(tmp_path / "wrapped.keras"))
    for other in (again, from_wrapped):
        assert type(other) is type(task)
        other.compile(sampler="greedy")
        assert other.generate(TEXTS, max_length=hub.LENGTH) == written


def test_a_task_with_learned_masks_is_stripped_to_a_task_that_generates():
    task = writer()
    wrapped = trained(task, mask="soft")
    plain = tt.strip(wrapped)
    assert type(plain) is type(task) and plain is not task
    plain.compile(sampler="greedy")
    assert len(plain.generate(TEXTS, max_length=hub.LENGTH)) == len(TEXTS)


def test_a_ticket_of_a_task_is_applied_to_another():
    wrapped = tt.wrap(writer(), verbose=False)
    search = tt.IMP(rounds=1, epochs_per_round=1, rate=0.5, monitor="loss")
    x, y, weight = writer().preprocessor(TEXTS)
    wrapped.fit(x, y, sample_weight=weight, epochs=2, callbacks=[search], verbose=0)
    task = writer()
    ticket = search.tickets[-1]
    assert tt.kernels(ticket.apply(task)).sparsity == ticket.sparsity == 0.5


def test_a_task_says_that_it_is_trained_without_its_preprocessor(capsys):
    task = writer()
    tt.wrap(task)
    out = capsys.readouterr().out
    assert f"without ['{task.preprocessor.name}']: pass what a preprocessor" in out


def test_a_model_around_a_task_is_pruned_with_it():
    task, x = hub.task("BertTextClassifier")
    outputs = keras.layers.Dense(2, name="more")(task(task.input))
    around = keras.Model(task.input, outputs)
    before = around.predict(x, verbose=0)
    wrapped = tt.wrap(around, verbose=False)
    np.testing.assert_array_equal(wrapped.predict(x, verbose=0), before)
    tt.kernels(wrapped).set_masks(samples.half_masks(wrapped))
    expected = wrapped.predict(x, verbose=0)
    tt.strip(wrapped)
    np.testing.assert_array_equal(around.predict(x, verbose=0), expected)
    assert tt.summary(task).sparsity == pytest.approx(0.5, abs=0.02)
