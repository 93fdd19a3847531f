"""Sentences of the CIFAR-10 page whose numbers were typed, against the JSON files."""

import functools
import json

import pages
import pytest
from pages import within

from tf_tickets.reports.statistics import Mean

RESULTS = pages.RESULTS / "cifar10"

pytestmark = pytest.mark.turns("jax")

LEVELS = (50, 80, 90, 95)
DENSE, TWICE = "dense recipe", "dense twice"
IMP, LATE, GRADUAL = "IMP init", "IMP late", "GradualPruning trained"
LOW, HIGH = (f"ContinuousSparsification {kind}-score" for kind in ("low", "high"))
SEARCHED = (IMP, LATE, GRADUAL, LOW, HIGH)
RANDOM, NARROW = "random erk", "narrow width"
DECODER = 12_000  # bytes of code


@functools.cache
def points(name):
    """Returns the networks of a method, by seed and per mille of weights left."""
    found = {}
    for path in sorted(RESULTS.glob("*.json")):
        run = json.loads(path.read_text("utf-8"))
        if f"{run.get('method')} {run.get('setting')}" == name:
            for point in run["points"]:
                found[run["seed"], round(1000 * point["kept"])] = point
    assert found, name
    return found


@functools.cache
def at(name, level=None):
    """Returns the networks of a method by seed, within 2 % of a sparsity if pruned."""
    found = {}
    for (seed, kept), point in points(name).items():
        if name in (DENSE, TWICE) or abs(kept - 1000 + 10 * level) < 20:
            found[seed] = point
    return found


def accuracy(point):
    return 100 * point["test_accuracy"]


def by_seed(first, second, level):
    """Returns the differences of two methods in points, one for each common seed."""
    ours, theirs = at(first, level), at(second, level)
    common = ours.keys() & theirs.keys()
    assert common, (first, second, level)
    return [accuracy(ours[seed]) - accuracy(theirs[seed]) for seed in sorted(common)]


def differences(first, second, *levels):
    """Yields the mean difference of two methods in points, over common seeds."""
    for level in levels:
        yield Mean.of(by_seed(first, second, level))


def lead(first, second, *levels):
    """Returns the mean differences of two methods in points, over common seeds."""
    return [found.mean for found in differences(first, second, *levels)]


def signs(first, second, *levels):
    """Returns 1 or -1 where the interval of 95 % excludes 0, and 0 elsewhere."""
    return [pages.sign(found) for found in differences(first, second, *levels)]


def of_weights(name, percent):
    """Returns the accuracy of seed 0's network with so many percent of the weights."""
    [found] = [
        point
        for (seed, kept), point in points(name).items()
        if seed == 0 and round(kept / 10) == percent
    ]
    return accuracy(found)


def work(name):
    """Returns FLOPs of all trainings over those of the dense network, for seed 0."""
    dense = at(DENSE)[0]["training_flops"]
    return [
        point["training_flops"] / dense
        for (seed, _), point in points(name).items()
        if seed == 0
    ]


def narrower(size):
    """Returns the accuracy that narrower networks have at a size, between two sizes."""
    known = sorted(
        (point["int8_bytes"], accuracy(point))
        for name in (NARROW, DENSE)
        for (seed, _), point in points(name).items()
        if seed == 0
    )
    for (a, low), (b, high) in zip(known, known[1:], strict=False):
        if a <= size <= b:
            return low + (high - low) * (size - a) / (b - a)
    raise AssertionError(f"no network is as small as {size} bytes, or as large")


def lead_in_bytes(name, level, code):
    """Returns the lead over narrower networks of as many bytes, for seed 0."""
    point = at(name, level)[0]
    return accuracy(point) - narrower(point["int8_bytes"] + code)


SENTENCES = {
    "better with half and with a fifth of the weights, and behind with fewer": lambda: (
        [found > 0 for found in lead(IMP, DENSE, *LEVELS)] == [True, True, False, False]
    ),
    "trained twice, it is better than any of them with every seed": lambda: (
        {seed for seed, _ in points(TWICE)} == {seed for seed, _ in points(IMP)}
        and all(
            accuracy(ticket) < accuracy(at(TWICE)[seed])
            for (seed, _), ticket in points(IMP).items()
        )
    ),
    "it loses little at 50 %, and more with each step of sparsity": lambda: (
        within(lead(GRADUAL, TWICE, 50), -1, 0)
        and lead(GRADUAL, TWICE, *LEVELS)
        == sorted(lead(GRADUAL, TWICE, *LEVELS), reverse=True)
    ),
    "rewound to init it is ahead at 50 % for as many epochs. At 80 and 90 %": lambda: (
        signs(GRADUAL, IMP, *LEVELS) == [1, 0, 0, 1]
        and [
            at(GRADUAL, level)[0]["epochs"] - at(IMP, level)[0]["epochs"]
            for level in LEVELS
        ]
        == [0, -12, -24, -36]
    ),
    "There, IMP rewound to epoch 2 is better than gradual pruning with every": lambda: (
        max(by_seed(GRADUAL, LATE, 95)) < 0 and signs(GRADUAL, LATE, 95) == [0]
    ),
    "its tickets with 46 and 17 % of the weights are better than IMP's": lambda: (
        of_weights(HIGH, 46) > of_weights(IMP, 50) + 0.5
        and of_weights(LOW, 17) > of_weights(IMP, 20) + 0.5
    ),
    "that with 34 % is as good as IMP's with half": lambda: (
        abs(of_weights(LOW, 34) - of_weights(IMP, 50)) < 0.5
    ),
    "Its ticket with 29 % is level with the dense network trained twice": lambda: (
        abs(of_weights(HIGH, 29) - of_weights(TWICE, 100)) < 0.5
    ),
    "behind tickets of IMP at every sparsity**, and most of all at 90 %": lambda: (
        min(lead(IMP, RANDOM, *LEVELS)) > 2
        and max(lead(IMP, RANDOM, *LEVELS)) == lead(IMP, RANDOM, 90)[0]
    ),
    "but with the decoder not in bytes up to 46 kB": lambda: (
        min(lead(RANDOM, NARROW, *LEVELS)) > 2
        and max(lead_in_bytes(RANDOM, level, DECODER) for level in LEVELS[1:]) < 0
        and round((at(RANDOM, 80)[0]["int8_bytes"] + DECODER) / 1000) == 46
    ),
    "helps only at 95 %**, by two to four points with every seed. At 50": lambda: (
        signs(LATE, IMP, *LEVELS) == [0, 0, 0, 1]
        and len(by_seed(LATE, IMP, 95)) == 3
        and within(map(round, by_seed(LATE, IMP, 95)), 2, 4)
    ),
    "are far behind tickets** with as many weights. In bytes of the int8": lambda: (
        min(lead(IMP, NARROW, *LEVELS)) > 5
        and all(
            lead_in_bytes(IMP, level, 0) < lead(IMP, NARROW, level)[0]
            for level in LEVELS
        )
    ),
    "tickets with 5 % of the weights have no clear lead over a dense network": lambda: (
        max(lead_in_bytes(name, 95, DECODER) for name in (IMP, LATE, GRADUAL)) < 1
    ),
    "Narrower networks took a twentieth to a half of the FLOPs": lambda: within(
        work(NARROW), 0.045, 0.55
    ),
    "and continuous sparsification 1.2 to 2.3 times as many": lambda: (
        round(min(map(min, map(work, SEARCHED))), 1) == 1.2
        and round(max(map(max, map(work, SEARCHED))), 1) == 2.3
    ),
}


@pytest.mark.parametrize("sentence", SENTENCES)
def test_the_page_says_what_its_numbers_say(sentence):
    assert sentence in pages.words("results/cifar10.md")
    assert SENTENCES[sentence]()


def test_the_claims_say_where_rewinding_does_not_help():
    sentence = "at the other three sparsities the mean of the seeds is a little below 0"
    assert sentence in pages.words("results/claims.md")
    assert within(lead(LATE, IMP, 50, 80, 90), -0.5, 0) and lead(LATE, IMP, 95)[0] > 3


def test_the_guide_says_that_the_dense_network_trained_twice_is_best():
    sentence = "is better than the dense network trained twice, of the same seed"
    assert sentence in pages.words("guides/choose-a-method.md")
    best = {seed: accuracy(point) for seed, point in at(TWICE).items()}
    for path in RESULTS.glob("*-*.json"):
        run = json.loads(path.read_text("utf-8"))
        for point in run["points"]:
            assert accuracy(point) <= best[run["seed"]], path.name
