"""Which runs the comparison on CIFAR-10 has, and how long their trainings are."""

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import cifar10_methods as methods
from cifar10_methods import SCORES, SPARSITIES, TEACHERS, training
from cifar10_study import LATE, Study


class Run(NamedTuple):
    """One method in one setting.

    Args:
        method: The method, by its class.
        setting: What distinguishes it from the method's other runs.
        points: Generator of its points from a study.
        trainings: Function from the number of epochs to those of each folder.
        apart: Whether a point needs no other training of the run.
    """

    method: str
    setting: str
    points: Callable[[Study], Iterator[dict]]
    trainings: Callable[[int], dict[str, int]]
    apart: bool = False

    @property
    def name(self):
        return f"{self.method}-{self.setting}"

    def networks(self, length):
        """Returns how many trained networks the run reports."""
        names = self.trainings(length)
        tickets = [name for name in names if "-ticket-" in name]
        return len(tickets or names)


def each(method, setting, epochs):
    """Returns the trainings of a run with one for each sparsity."""

    def trainings(length):
        return {training(method, setting, s): epochs(length) for s in SPARSITIES}

    return trainings


def with_search(name, rounds, search):
    """Returns the trainings of a search and of its tickets."""

    def trainings(length):
        tickets = {f"{name}-ticket-{n + 1}": length for n in range(rounds)}
        return {name: search(length), **tickets}

    return trainings


def with_searches(method, search):
    """Returns the trainings of one search for each sparsity, and of its ticket."""

    def trainings(length):
        found = {}
        for sparsity in SPARSITIES:
            name = training(method, None, sparsity)
            found |= {name: search(length), f"{name}-ticket-1": length}
        return found

    return trainings


def whole(length):
    return length


def _rounds(length):
    return length + len(SPARSITIES) * (length // 3)


_at = functools.partial
FIRST = (
    Run("dense", "recipe", methods.dense, lambda length: {"dense": length}),
    Run(
        "dense",
        "twice",
        methods.dense_twice,
        lambda length: {"dense-twice": length},
        apart=True,
    ),
    Run("IMP", "init", _at(methods.imp, setting="init"), each("IMP", "init", whole)),
    Run(
        "IMP",
        "late",
        _at(methods.imp, setting="late"),
        each("IMP", "late", lambda length: length - LATE),
    ),
    Run(
        "GradualPruning",
        "trained",
        _at(methods.gradual, setting="trained"),
        each("GradualPruning", "trained", whole),
        apart=True,
    ),
    *(
        Run(
            "ContinuousSparsification",
            setting,
            _at(methods.continuous, setting=setting),
            with_search(
                f"ContinuousSparsification-{setting}", 2, lambda length: 2 * length
            ),
        )
        for setting in SCORES
    ),
    Run(
        "random",
        "erk",
        _at(methods.at_init, method="random"),
        each("random", None, whole),
        apart=True,
    ),
    Run("narrow", "width", methods.narrow, each("narrow", None, whole), apart=True),
)
SECOND = (
    *(
        Run(
            method,
            "4-rounds",
            _at(methods.uni, method=method),
            with_search(method, 4, _rounds),
        )
        for method in ("UniLTH", "UniDLTH")
    ),
    Run(
        "DLTH",
        "1-round",
        methods.dlth,
        with_searches("DLTH", lambda length: length // 2),
    ),
    Run(
        "KDLTS",
        "3-teachers",
        methods.kdlts,
        lambda length: {
            "KDLTS-teachers": TEACHERS * (length // 3),
            **with_searches("KDLTS", lambda length: length // 2)(length),
        },
    ),
    *(
        Run(
            method,
            "init",
            _at(methods.at_init, method=method),
            each(method, None, whole),
            apart=True,
        )
        for method in ("SNIP", "SynFlow")
    ),
    Run("RigL", "erk", methods.rigl, each("RigL", None, whole), apart=True),
    Run(
        "inverted", "init", methods.inverted, each("inverted", None, whole), apart=True
    ),
    Run(
        "GradualPruning",
        "scratch",
        _at(methods.gradual, setting="scratch"),
        each("GradualPruning", "scratch", lambda length: 2 * length),
        apart=True,
    ),
)
RUNS = {run.name: run for run in (*FIRST, *SECOND)}


def plan(seeds):
    """Returns pairs of a run and a seed, the most important ones first."""
    first = [(run, seed) for seed in seeds for run in FIRST]
    return first + [(run, seed) for run in SECOND for seed in seeds[:1]]
