"""Runs the examples of CONTRIBUTING as a reader would."""

import pathlib
import re

import numpy as np
import pytest
import tiny

import tf_tickets as tt

TEXT = pathlib.Path(__file__).parents[1].joinpath("CONTRIBUTING.md").read_text()


def block(heading, number):
    section = TEXT.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)[number]


@pytest.fixture(scope="module")
def search_class():
    names = {}
    exec(block("Add a search", 0), names)
    return names["RandomHalving"]


def test_the_example_search_is_short():
    assert len(block("Add a search", 0).splitlines()) <= 32


def test_the_example_search_finds_tickets(search_class):
    names = {}
    exec(block("Add a search", 0) + block("Add a search", 1), names)
    search = names["search"]
    assert [t.sparsity > 0.4 for t in search.tickets] == [True] * 3
    assert search.tickets[-1].sparsity > 0.75
    assert str(search).splitlines()[1].split() == ["round", "sparsity", "loss"]


@pytest.mark.on("jax")
def test_the_example_search_resumes_and_is_configured(search_class, tmp_path):
    def find(directory, rounds=3):
        search = search_class(rounds, 1)
        data = tiny.splits()
        tt.find_tickets(
            tiny.build_compiled, data, search, directory, batch_size=16, verbose=0
        )
        return [ticket.id for ticket in search.tickets]

    assert find(tmp_path) == find(tmp_path) == find(None)
    with pytest.raises(ValueError, match="settings.rounds: 3 there, 2 here"):
        find(tmp_path, rounds=2)
    search = search_class(5, 2, "1 epoch", seed=4)
    again = search_class.from_config(search.get_config())
    assert again.get_config() == search.get_config()
    with pytest.raises(AttributeError, match="`rounds` of RandomHalving cannot change"):
        search.rounds = 4


def test_a_plan_that_makes_no_ticket_is_an_error():
    class Idle(tt.TicketSearch):
        def __init__(self, rounds=1):
            self.rounds = rounds
            super().__init__(tt.RoundPlan(rounds, 1), monitor="loss")

    with pytest.raises(ValueError, match="without a ticket.*add_ticket"):
        tiny.run(tiny.network(), Idle())


def test_the_example_criterion_ranks_by_shrinkage():
    names = {}
    exec(block("Add a criterion", 0), names)
    scores = names["shrinkage"](np.array([1.0, -3.0]), np.array([2.0, 3.0]))
    assert scores.tolist() == [1.0, 0.0]
    assert tt.criteria.get("shrinkage") is names["shrinkage"]
