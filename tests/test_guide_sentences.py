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


def ratios(case, ours, *peers, key="seconds"):
    """Returns the ratios of this library to others, of every round."""
    return [
        results[f"tf_tickets on {ours}"][key] / results[peer][key]
        for results in load(f"peers/{case}")["rounds"]
        for peer in peers
        if peer in results
    ]


def small_steps(ours):
    """Returns the ratios of a small network's steps, but to those of tfmot."""
    return [
        ratio
        for case in ("lenet300", "lenet300-cs")
        for peer in ("torch", "torch, DataLoader", "PQuantML")
        for ratio in ratios(case, ours, peer, key="step_seconds")
    ]


KERAS, SEVERAL = "TensorFlow", "TensorFlow, 16 steps a call"

COMPACT = "guides/compact.md"
ANOTHER, STEP = "guides/another-task.md", "design/step.md"
PEERS, TIMES = "results/peers.md", "results/step-time.md"

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
    (PEERS, "takes a fifth to a third less time"): lambda: within(
        [
            ratio
            for case in ("lenet300", "lenet300-cs")
            for ratio in ratios(case, SEVERAL, f"tf_tickets on {KERAS}")
        ],
        0.66,
        0.84,
    ),
    (
        PEERS,
        "takes longer than in the PyTorch loops and in PQuantML, unless several",
    ): lambda: min(small_steps(KERAS)) > 1 > max(small_steps(SEVERAL)),
    (PEERS, "less time than in any of them. On JAX it does so anyway"): lambda: (
        max(small_steps("JAX")) < 1
    ),
    (PEERS, "about three times as long as with the others"): lambda: within(
        ratios("resnet8", "JAX", "torch", "tfmot"), 2.7, 3.3
    ),
    (TIMES, "half again as long"): lambda: within(
        ratios("resnet8", "TensorFlow, without oneDNN", f"tf_tickets on {KERAS}"),
        1.4,
        1.6,
    ),
}


@pytest.mark.parametrize(("page", "sentence"), SENTENCES)
def test_the_page_says_what_its_numbers_say(page, sentence):
    assert sentence in pages.words(page)
    assert SENTENCES[page, sentence]()
