"""Sentences of guides and design pages whose numbers come from benchmarks."""

import json

import pages
import pytest
from pages import within

pytestmark = pytest.mark.turns("jax")


def load(name):
    return json.loads((pages.RESULTS / f"{name}.json").read_text("utf-8"))


def saved(network, *runtimes):
    """Returns the saved time over the saved multiply-adds of a network."""
    return [
        (1 - row["ratio"]["median"]) / (1 - row["macs"])
        for row in load("shrink_latency")["rows"]
        if row["network"] == network and row["runtime"] in runtimes
    ]


TFLITE = ("tflite", "int8")


def lead(first, second):
    """Returns how many points of accuracy one network is ahead on another task."""
    found = load("another_task")["results"]
    return 100 * (found[first]["mean"] - found[second]["mean"])


def moved(step):
    """Returns the bytes that a training step reads and writes."""
    return load("step_bytes")["bytes"][step]


COMPACT = "guides/compact.md"
ANOTHER, STEP = "guides/another-task.md", "design/step.md"

SENTENCES = {
    (
        COMPACT,
        "save six tenths of their share of the time or more for Conv-6",
    ): lambda: all(
        min(saved(name, *TFLITE)) >= 0.6 for name in ("conv6", "mobilenetv2")
    ),
    (COMPACT, "and a fifth to four fifths for ResNet-8"): lambda: within(
        saved("resnet8", *TFLITE), 0.2, 0.82
    ),
    (COMPACT, "They save less in a SavedModel"): lambda: all(
        less < more
        for name in ("resnet8", "conv6", "mobilenetv2")
        for kind in TFLITE
        for less, more in zip(
            saved(name, "saved_model"), saved(name, kind), strict=True
        )
    ),
    (ANOTHER, "how many weights each layer keeps, and also which ones"): lambda: (
        lead("random_by_layer", "random_uniform")
        > lead("ticket", "random_by_layer")
        > 2
    ),
    (ANOTHER, "With its start values it is hardly better than with new"): lambda: (
        within([lead("ticket", "new_weights")], -1, 1)
    ),
    (STEP, "at most the ratio of bytes, 1.18"): lambda: (
        round(moved("masks") / moved("dense"), 2) == 1.18
    ),
}


@pytest.mark.parametrize(("page", "sentence"), SENTENCES)
def test_the_page_says_what_its_numbers_say(page, sentence):
    assert sentence in pages.words(page)
    assert SENTENCES[page, sentence]()
