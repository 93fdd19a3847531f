"""The frontier over several searches: same conditions, stored, resumed, plotted."""

import json
import math
import sys
import xml.etree.ElementTree

import hypothesis
import keras
import numpy as np
import pytest
import tiny
from hypothesis import strategies as st

import tf_tickets as tt
from tf_tickets.search import frontier, frontier_lines


def searches():
    cs = tt.ContinuousSparsification(2, 2, monitor="val_accuracy")
    imp = tiny.imp(rounds=2, monitor="val_accuracy")
    return cs.varied(initial_score=[-0.1, 0.1]) | {"IMP": imp}


def find(directory=None, **kwargs):
    keras.utils.clear_session()
    arguments = {"epochs": 2, "batch_size": 16, "seed": 3, **kwargs}
    build = arguments.pop("build", tiny.build_without_dropout)
    return tt.find_frontier(build, tiny.splits(), searches(), directory, **arguments)


# On TensorFlow, the tests of the command line cover frontiers.
pytestmark = pytest.mark.on("jax")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    directory = tmp_path_factory.mktemp("frontier")
    return directory, find(directory)


def test_every_ticket_of_every_search_is_a_point(found):
    _, whole = found
    labels = ["initial_score=-0.1"] * 2 + ["initial_score=0.1"] * 2 + ["IMP"] * 2
    assert [p.label for p in whole.points] == labels
    assert [p.round for p in whole.points] == [1, 2] * 3
    assert [p.search_epochs for p in whole.points] == [2, 4] * 3
    assert all(p.sparsity == p.ticket.sparsity for p in whole.points)
    assert all("test_accuracy" in p.metrics for p in whole.points)


def test_all_start_from_the_same_weights_and_train_as_a_trainer_does(found):
    _, whole = found
    first = whole.points[0].ticket.weights
    for point in whole.points[1:]:
        for path, weight in point.ticket.weights.items():
            assert weight.tobytes() == first[path].tobytes()
    trainer = tt.TicketTrainer(
        tiny.build_without_dropout, tiny.splits(), seed=3, batch_size=16
    )
    for point in whole.points:
        assert trainer.train(point.ticket, 2)["test_loss"] == pytest.approx(
            point.metrics["test_loss"], rel=1e-6
        )


def test_the_dense_network_is_trained_from_the_same_start(found):
    _, whole = found
    trainer = tt.TicketTrainer(
        tiny.build_without_dropout, tiny.splits(), seed=3, batch_size=16
    )
    dense = trainer.dense_ticket()
    assert dense.sparsity == 0.0
    trained = trainer.train(dense, 2)
    assert whole.dense["test_loss"] == pytest.approx(trained["test_loss"], rel=1e-6)


def test_tickets_are_trained_anew_where_the_search_trained_them_otherwise():
    whole = find(epochs=3)
    last = whole.points[-1]
    assert last.metrics != last.ticket.metrics


def test_files_are_written_and_the_same_directory_trains_nothing(found, monkeypatch):
    directory, whole = found
    names = {path.name for path in directory.iterdir()}
    assert names == {
        "IMP",
        "frontier.json",
        "frontier.png",
        "initial_score=-0.1",
        "initial_score=0.1",
        "trainings.json",
    }
    kept = json.loads((directory / "frontier.json").read_text())
    assert kept["points"] == json.loads(json.dumps(whole.rows()))
    assert kept["provenance"]["searches"]["IMP"]["method"] == "imp"
    monkeypatch.setattr(keras.Model, "fit", None)
    again = find(directory)
    assert again.rows() == whole.rows() and again.dense == whole.dense


def points(*rows):
    ticket = tt.Ticket({"k": np.array([1, 0])})
    return [
        frontier.Point(f"{i}", 1, sparsity, cost, {"accuracy": accuracy}, ticket)
        for i, (sparsity, accuracy, cost) in enumerate(rows)
    ]


def test_the_optimal_points_are_those_that_none_dominates():
    rows = [(0.5, 0.9, 1), (0.6, 0.95, 2), (0.9, 0.8, 3), (0.8, 0.7, 4), (0.6, 0.9, 5)]
    whole = tt.Frontier(points(*rows), {"accuracy": 0.93}, "accuracy")
    assert [(p.sparsity, p.search_epochs) for p in whole.optimal] == [
        (0.9, 3),
        (0.6, 2),
    ]
    dominated = [
        p
        for p in whole.points
        if any(
            q.sparsity >= p.sparsity
            and q.metrics["accuracy"] >= p.metrics["accuracy"]
            and q is not p
            for q in whole.points
        )
    ]
    assert [p for p in whole.points if p not in dominated] == sorted(
        whole.optimal, key=lambda p: p.sparsity
    )


def test_a_frontier_prints_as_a_table():
    rows = [(0.5, 0.9, 1), (0.9, 0.8, 3)]
    whole = tt.Frontier(points(*rows), {"accuracy": 0.93}, "accuracy")
    assert str(whole).splitlines() == [
        "search  round  search epochs  kept weights  accuracy",
        "dense                              100.00%   0.9300",
        "0           1              1        50.00%   0.9000*",
        "1           1              3        10.00%   0.8000*",
        "* Pareto-optimal by accuracy, selected and reported on the same data, so "
        "optimistic.",
    ]
    assert repr(whole) == "Frontier(2 points of 2 searches, accuracy, dense 0.9300)"


def test_the_repr_of_a_frontier_is_short_without_its_metric_too():
    whole = tt.Frontier(points((0.5, 0.9, 1)), {}, "val_accuracy")
    assert repr(whole) == "Frontier(1 point of 1 search, val_accuracy)"


def test_notebooks_show_a_frontier_as_an_escaped_table():
    [point] = points((0.5, 0.9, 1))
    point.label = "<i>"
    text = tt.Frontier([point], {"accuracy": 0.93}, "accuracy")._repr_html_()
    table = xml.etree.ElementTree.fromstring(text)
    rows = [[cell.text for cell in row] for row in table.iter("tr")]
    assert rows[-1] == ["<i>", "1", "1", "50.00%", "0.9000*"]
    assert table.findtext("caption").startswith("Frontier(1 point")


def test_a_frontier_is_plotted_in_the_format_of_the_suffix(tmp_path):
    pytest.importorskip("matplotlib")
    whole = tt.Frontier(points((0.5, 0.9, 1)), {"accuracy": 0.93}, "accuracy")
    starts = {"a.svg": b"<?xml", "a.pdf": b"%PDF-", "a.png": b"\x89PNG"}
    for name, start in starts.items():
        whole.plot(tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(start)
    with pytest.raises(ValueError, match=r"'.png', '.svg'\]. Received: .*a.gif'"):
        whole.plot(tmp_path / "a.gif")
    assert {path.name for path in tmp_path.iterdir()} == set(starts)


def test_the_cheapest_ticket_as_good_as_the_dense_network():
    rows = [(0.5, 0.95, 4), (0.6, 0.95, 2), (0.9, 0.92, 1), (0.95, 0.94, 9)]
    whole = tt.Frontier(points(*rows), {"accuracy": 0.93}, "accuracy")
    assert whole.first_matching().search_epochs == 2
    assert whole.first_matching(sparsity=0.9).search_epochs == 9
    assert whole.first_matching(tolerance=0.02).search_epochs == 1
    assert whole.first_matching(sparsity=0.99) is None


def test_variations_name_one_argument():
    search = tt.ContinuousSparsification(2, 3)
    varied = search.varied(penalty=[0.0, 1e-3])
    assert [s.penalty for s in varied.values()] == [0.0, 1e-3]
    assert list(varied) == ["penalty=0.0", "penalty=0.001"]
    assert [s.rounds for s in varied.values()] == [2, 2]
    for wrong in ({}, {"speed": [1]}, {"rounds": [1], "penalty": [1.0]}):
        with pytest.raises(ValueError, match="one of the search's settings"):
            search.varied(**wrong)


def test_a_metric_that_nobody_logged_is_named():
    whole = tt.Frontier(points((0.5, 0.9, 1)), {"accuracy": 0.9}, "val_accuracy")
    with pytest.raises(ValueError, match="no metric 'val_accuracy'"):
        whole.optimal  # noqa: B018


def test_a_directory_is_trained_anew_for_other_epochs(tmp_path):
    short, long = find(tmp_path), find(tmp_path, epochs=3)
    assert short.dense != long.dense
    assert all(
        p.metrics != q.metrics for p, q in zip(short.points, long.points, strict=True)
    )


def test_the_dense_network_of_another_model_is_trained_anew(tmp_path):
    def tanh():
        model = tiny.build_without_dropout()
        model.get_layer("hidden").activation = keras.activations.tanh
        return model

    def dense(build, label):
        searches = {label: tiny.imp(rounds=1, epochs_per_round=1, monitor="val_loss")}
        arguments = {"seed": 3, "epochs": 1, "batch_size": 16}
        data = tiny.splits()
        return tt.find_frontier(build, data, searches, tmp_path, **arguments).dense

    relu = dense(tiny.build_without_dropout, "first")
    assert dense(tiny.build_without_dropout, "second") == relu
    assert dense(tanh, "third")["test_loss"] != relu["test_loss"]


@pytest.mark.parametrize(
    "searches, epochs, message",
    [
        ({}, 1, "dict from a label"),
        (None, 1, "dict from a label"),
        ({"a b": tiny.imp(), "a_b": tiny.imp()}, 1, "must differ"),
        ({"a": tiny.imp()}, 0, "`epochs`.*Received: 0"),
    ],
)
def test_bad_arguments_are_refused_at_once(searches, epochs, message):
    with pytest.raises(ValueError, match=message):
        tt.find_frontier(tiny.build_compiled, tiny.splits(), searches, epochs=epochs)


def test_the_dense_network_is_the_same_whatever_search_comes_first():
    def dense(*searches):
        found = tt.find_frontier(
            tiny.build_without_dropout,
            tiny.splits(),
            {search.method: search for search in searches},
            epochs=1,
            batch_size=16,
        )
        return found.dense

    def pair():
        # The start weights of its tickets are trained weights with zeros.
        dlth = tt.DLTH(0.5, 1, 2, 1, train="none")
        return dlth, tt.IMP(1, 1, 0.5, monitor="loss")

    first, second = pair()
    assert dense(first, second) == dense(*reversed(pair()))


def measured(label, seeds, *rounds, first=1):
    """Returns points with a (sparsity, validation, test) for each seed of a round."""
    return [
        frontier.Point(
            label,
            number,
            sparsity,
            4 * number,
            {"val_accuracy": val, "test_accuracy": test},
            seed=seed,
        )
        for number, by_seed in enumerate(rounds, first)
        for seed, (sparsity, val, test) in zip(seeds, by_seed, strict=False)
    ]


def three_seeds(**kwargs):
    """Two rounds of one search; round 2 exists for two seeds only."""
    first = [(0.5, 0.91, 0.90), (0.6, 0.92, 0.92), (0.7, 0.93, 0.94)]
    second = [(0.8, 0.99, 0.99), (0.8, 0.99, 0.97)]
    dense = {
        seed: {"val_accuracy": 0.9 + 0.01 * seed, "test_accuracy": 0.9}
        for seed in (0, 1, 2)
    }
    fields = {
        "points": measured("a", (0, 1, 2), first, second),
        "dense": {"val_accuracy": 0.91, "test_accuracy": 0.9},
        "monitor": "test_accuracy",
        "provenance": {"epochs": 3, "searches": {"a": {"method": "imp"}}},
        "dense_by_seed": dense,
    }
    return tt.Frontier(**{**fields, **kwargs})


def test_points_of_one_round_have_a_mean_over_seeds():
    first, second = three_seeds().means
    assert (first.label, first.round, first.seeds) == ("a", 1, [0, 1, 2])
    assert first.sparsity == pytest.approx(0.6) and first.search_epochs == 4
    assert first.metrics["test_accuracy"] == pytest.approx(0.92)
    # 0.90, 0.92, 0.94: squared deviations 4 + 0 + 4, over 2, in units of 1e-4.
    test = first.statistic("test_accuracy")
    assert test.deviation == pytest.approx(0.02) and test.count == 3
    # t is 4.3027 for two degrees of freedom.
    half = 4.3027 * 0.02 / 3**0.5
    assert test.interval() == pytest.approx((0.92 - half, 0.92 + half), abs=1e-5)
    assert first.statistic("sparsity").deviation == pytest.approx(0.1)
    assert second.seeds == [0, 1]
    with pytest.raises(ValueError, match="one of the metrics .*Received: 'loss'"):
        first.statistic("loss")


def test_a_round_of_fewer_seeds_is_not_optimal_since_the_others_may_be_worse():
    whole = three_seeds()
    [best] = whole.optimal
    assert (best.round, best.seeds) == (1, [0, 1, 2])
    assert [row["optimal"] for row in whole.rows()] == [True] * 3 + [False] * 2
    assert [row["optimal"] for row in whole.rows(mean=True)] == [True, False]
    # Dense networks have 0.91 in the mean, the first round 0.92 of validation data.
    assert whole.first_matching().round == 1
    assert whole.first_matching(sparsity=0.7) is None
    assert whole.first_matching(tolerance=-0.02) is None


def test_each_seed_has_its_own_frontier():
    one = three_seeds().of_seed(1)
    assert one.seeds == [1] and one.dense["val_accuracy"] == 0.91
    assert [point.round for point in one.optimal] == [2]
    assert all(point.seed == 1 for point in one.points)
    with pytest.raises(ValueError, match=r"one of \[0, 1, 2\]. Received: 3"):
        three_seeds().of_seed(3)


def test_many_seeds_print_as_means_and_deviations():
    assert str(three_seeds()).splitlines() == [
        "search  round  seeds  search epochs     kept weights     test_accuracy",
        "dense              3                         100.00%  0.9000 ± 0.0000",
        "a           1      3              4  40.00% ± 10.00%  0.9200 ± 0.0200*",
        "a           2      2              8           20.00%  0.9800 ± 0.0141",
        "Mean ± standard deviation over the seeds 0, 1 and 2.",
        "Means over fewer than 3 seeds cannot be optimal: the missing seeds may be "
        "worse.",
        "* Pareto-optimal by val_accuracy, which selects; test_accuracy is reported.",
    ]
    assert repr(three_seeds()) == (
        "Frontier(5 points of 1 search and 3 seeds, test_accuracy, dense 0.9000)"
    )
    table = xml.etree.ElementTree.fromstring(three_seeds()._repr_html_())
    assert "over the seeds 0, 1 and 2. Means" in table.findtext("caption")
    rows = [[cell.text for cell in row] for row in table.iter("tr")]
    assert rows[2] == ["a", "1", "3", "4", "40.00% ± 10.00%", "0.9200 ± 0.0200*"]


def test_validation_data_choose_and_test_data_are_reported():
    # The second is better by test data, the third by validation data.
    rounds = [[(0.5, 0.90, 0.90)], [(0.6, 0.91, 0.95)], [(0.7, 0.94, 0.92)]]
    dense = {"val_accuracy": 0.915, "test_accuracy": 0.95}
    whole = tt.Frontier(measured("a", [0], *rounds), dense, "test_accuracy")
    assert whole.selected_by == "val_accuracy"
    assert [point.round for point in whole.optimal] == [3]
    assert whole.first_matching().round == 3
    assert str(whole).splitlines()[4].endswith("0.9200*")
    by_test = tt.Frontier(
        measured("a", [0], *rounds), dense, "test_accuracy", selected_by="test_accuracy"
    )
    assert [point.round for point in by_test.optimal] == [3, 2]
    assert by_test.first_matching().round == 2
    assert str(by_test).splitlines()[-1] == (
        "* Pareto-optimal by test_accuracy, selected and reported on the same data, "
        "so optimistic."
    )


@pytest.mark.parametrize(
    "change",
    [
        {"monitor": "val_accuracy"},
        {"dense": {"test_accuracy": 0.9}, "dense_by_seed": {}},
        {"points": [frontier.Point("a", 1, 0.5, 1, {"test_accuracy": 0.9})]},
    ],
)
def test_one_metric_chooses_and_is_reported_where_validation_data_lack_it(change):
    whole = three_seeds(**change)
    assert whole.selected_by == whole.monitor
    assert "the same data, so optimistic" in str(whole)


def test_another_metric_of_the_same_data_is_said_to_be_that():
    whole = three_seeds(monitor="val_accuracy", selected_by="val_accuracy")
    for point in whole.points:
        point.metrics["val_loss"] = 1 - point.metrics["val_accuracy"]
    whole.selected_by = "val_loss"
    assert str(whole).splitlines()[-1] == (
        "* Pareto-optimal by val_loss; val_accuracy is reported on the same data, so "
        "optimistic."
    )


NUMBERS = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0, float("nan")])


@hypothesis.settings(max_examples=60, deadline=None, derandomize=True, database=None)
@hypothesis.given(
    st.lists(st.tuples(NUMBERS.filter(lambda x: x == x), NUMBERS), max_size=12),
    st.booleans(),
)
def test_the_optimal_points_are_those_of_a_search_of_all_pairs(rows, smaller):
    metric = "loss" if smaller else "accuracy"
    sign = -1 if smaller else 1
    listed = [
        frontier.Point(f"{i}", 1, sparsity, 1, {metric: value})
        for i, (sparsity, value) in enumerate(rows)
    ]
    whole = tt.Frontier(listed, {}, metric)
    optimal = whole.optimal

    def beats(q, p):
        at_least = q[0] >= p[0] and sign * q[1] >= sign * p[1]
        return at_least and q != p

    valid = [row for row in rows if row[1] == row[1]]
    expected = {p for p in valid if not any(beats(q, p) for q in valid)}
    pairs = [(point.sparsity, point.metrics[metric]) for point in optimal]
    # Of equal points, one is there.
    assert sorted(pairs, reverse=True) == pairs and len(set(pairs)) == len(pairs)
    assert set(pairs) == expected


@hypothesis.settings(max_examples=20, deadline=None, derandomize=True, database=None)
@hypothesis.given(st.data())
def test_means_are_optimal_as_points_with_their_values_are(data):
    seeds = range(data.draw(st.integers(2, 3)))
    value = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])
    spot = st.tuples(value, value, value)
    rounds = data.draw(st.lists(st.tuples(*[spot] * len(seeds)), min_size=1))
    whole = tt.Frontier(measured("a", seeds, *rounds), {}, "val_accuracy")
    single = tt.Frontier(
        [
            frontier.Point("a", m.round, m.sparsity, 1, dict(m.metrics))
            for m in whole.means
        ],
        {},
        "val_accuracy",
    )
    actual = [point.round for point in whole.optimal]
    assert actual == [point.round for point in single.optimal]


def test_points_of_numpy_numbers_are_saved(tmp_path):
    numbers = {"round": np.int64(1), "search_epochs": np.int32(3), "seed": np.int64(2)}
    metrics = {"loss": np.float32(0.5)}
    point = frontier.Point("a", sparsity=np.float64(0.5), metrics=metrics, **numbers)
    tt.Frontier([point], {"loss": np.float32(0.25)}, "loss").save(tmp_path / "p.json")
    loaded = tt.Frontier.load(tmp_path / "p.json")
    [again] = loaded.points
    assert again == point and type(again.round) is type(again.seed) is int
    assert loaded.dense == {"loss": 0.25}


def test_a_frontier_is_saved_and_loaded(tmp_path):
    whole = three_seeds()
    whole.save(tmp_path / "frontier.json")
    again = tt.Frontier.load(tmp_path / "frontier.json")
    assert vars(again) == vars(whole) == vars(tt.Frontier.load(tmp_path))
    content = json.loads((tmp_path / "frontier.json").read_text())
    [first, _] = content["means"]
    assert first["deviations"]["test_accuracy"] == pytest.approx(0.02)
    assert str(again) == str(whole) and again.points[0].ticket is None


def test_a_file_of_an_older_version_is_loaded(tmp_path):
    rows = [
        {
            "label": "a",
            "round": 1,
            "sparsity": 0.5,
            "search_epochs": 3,
            "metrics": {"val_accuracy": 0.9, "test_accuracy": 0.8},
            "optimal": True,
        }
    ]
    old = {
        "monitor": "test_accuracy",
        "dense": {"val_accuracy": 0.9, "test_accuracy": 0.9},
        "points": rows,
        "provenance": {"seed": 3},
    }
    (tmp_path / "frontier.json").write_text(json.dumps(old, indent=1))
    whole = tt.Frontier.load(tmp_path / "frontier.json")
    assert whole.selected_by == "val_accuracy" and whole.seeds == [3]
    assert [point.round for point in whole.optimal] == [1]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"points": [{"label": "a"}]}, "must have the fields"),
        ({"points": 3}, "`content.points` must be a list"),
        ({"monitor": "loss"}, "There is no metric 'loss'"),
        ({"selected_by": "loss"}, "There is no metric 'loss'"),
        ({"dense_by_seed": {"x": {}}}, "must have seeds as keys. Received: 'x'"),
        ({"provenance": {"seed": -1}}, "whole number of 0 or more"),
        ({"speed": 1}, "Unexpected: 'speed'"),
    ],
)
def test_a_damaged_file_is_refused(change, message, tmp_path):
    path = tmp_path / "frontier.json"
    three_seeds().save(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=message) as refused:
        tt.Frontier.load(path)
    assert str(path) in str(refused.value)
    assert "Run the comparison again" in str(refused.value)


def test_a_sparsity_beyond_1_and_a_missing_file_are_refused(tmp_path):
    path = tmp_path / "frontier.json"
    three_seeds().save(path)
    path.write_text(path.read_text().replace('"sparsity": 0.7', '"sparsity": 7'))
    with pytest.raises(ValueError, match="must be from 0 to 1. Received: 7"):
        tt.Frontier.load(path)
    three_seeds().save(tmp_path / "points.csv")
    with pytest.raises(ValueError, match="points.csv is a table .*Expected a .json"):
        tt.Frontier.load(tmp_path / "points.csv")
    with pytest.raises(FileNotFoundError, match="no frontier at .*other.json. Pass"):
        tt.Frontier.load(tmp_path / "other.json")


def some_ticket(kept=1):
    return tt.Ticket({"k": np.arange(4) < kept})


@pytest.mark.parametrize("folder", ["a b", "a b/seed_1", "a b/1"])
def test_tickets_beside_the_file_are_read_when_they_are_used(folder, tmp_path):
    ticket = some_ticket()
    points = [
        frontier.Point("a b", number, 0.75, 3, {"loss": 0.5}, ticket, seed=1)
        for number in (1, 2)
    ]
    tt.Frontier(points, {}, "loss").save(tmp_path / "frontier.json")
    file = tmp_path / folder.replace("a b", "a_b") / "round_01.ticket"
    ticket.save(file)
    first, second = tt.Frontier.load(tmp_path / "frontier.json").points
    assert second.ticket is None
    assert first.ticket == ticket and first.ticket is first.ticket
    # Of another run in the same folder.
    some_ticket(2).save(file)
    [other, _] = tt.Frontier.load(tmp_path / "frontier.json").points
    assert "ticket" not in repr(other)
    with pytest.raises(ValueError, match="sparsity 0.75. Received: the sparsity 0.5"):
        other.ticket  # noqa: B018
    file.write_bytes(b"damaged")
    [other, _] = tt.Frontier.load(tmp_path / "frontier.json").points
    with pytest.raises(ValueError, match="round_01.ticket"):
        other.ticket  # noqa: B018


def test_the_ticket_of_one_seed_is_not_taken_for_that_of_another(tmp_path):
    points = [
        frontier.Point("a", 1, 0.75, 3, {"loss": 0.5}, seed=seed) for seed in (0, 1)
    ]
    tt.Frontier(points, {}, "loss").save(tmp_path / "frontier.json")
    some_ticket().save(tmp_path / "a" / "round_01.ticket")
    some_ticket().save(tmp_path / "a" / "seed_1" / "round_01.ticket")
    loaded = tt.Frontier.load(tmp_path / "frontier.json").means[0].tickets
    assert loaded == {0: None, 1: some_ticket()}


@pytest.mark.parametrize("origin", [{"seed": 1}, {"seed": 1, "seeds": [1]}])
def test_a_directory_with_one_seed_and_with_several_keeps_their_tickets_apart(
    origin, tmp_path
):
    points = [frontier.Point("a", 1, 0.75, 3, {"loss": 0.5}, seed=1)]
    tt.Frontier(points, {}, "loss", origin).save(tmp_path / "frontier.json")
    own, other = ("a/seed_1", "a") if "seeds" in origin else ("a", "a/seed_1")
    some_ticket().save(tmp_path / own / "round_01.ticket")
    some_ticket(2).save(tmp_path / other / "round_01.ticket")
    assert tt.Frontier.load(tmp_path).points[0].ticket == some_ticket()


def test_csv_has_a_row_for_each_point(tmp_path):
    whole = three_seeds()
    whole.points[0].metrics["round"] = 7.0
    whole.save(tmp_path / "points.csv")
    lines = (tmp_path / "points.csv").read_text().splitlines()
    assert lines[:2] == [
        "label,round,seed,sparsity,search_epochs,optimal,val_accuracy,test_accuracy",
        "a,1,0,0.5,4,True,0.91,0.9",
    ]
    assert len(lines) == 6
    with pytest.raises(ValueError, match="'.json', .* or '.csv'. Received: .*a.txt"):
        whole.save(tmp_path / "a.txt")


def test_points_and_means_as_a_data_frame():
    pandas = pytest.importorskip("pandas")
    table = three_seeds().to_pandas()
    assert isinstance(table, pandas.DataFrame) and len(table) == 5
    assert table["seed"].tolist() == [0, 1, 2, 0, 1]
    assert table.groupby("round")["test_accuracy"].std()[1] == pytest.approx(0.02)
    means = three_seeds().to_pandas(mean=True)
    assert means["seeds"].tolist() == [3, 2]
    assert means["test_accuracy"].tolist() == pytest.approx([0.92, 0.98])
    assert means["test_accuracy_deviation"][0] == pytest.approx(0.02)
    half = 4.3027 * 0.02 / 3**0.5
    assert means["test_accuracy_low"][0] == pytest.approx(0.92 - half, abs=1e-5)
    assert means["sparsity_deviation"][0] == pytest.approx(0.1)


def test_without_pandas_the_pip_line_is_given(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        three_seeds().to_pandas()


def test_frontiers_of_several_machines_are_joined():
    whole = three_seeds()
    parts = [whole.of_seed(seed) for seed in whole.seeds]
    for part in parts:
        part.dense_by_seed = {}
    joined = tt.Frontier.join(parts)
    assert joined.seeds == [0, 1, 2] and joined.dense_by_seed == whole.dense_by_seed
    assert joined.dense == pytest.approx(whole.dense)
    assert [m.metrics for m in joined.means] == [m.metrics for m in whole.means]
    assert joined.provenance["searches"] == {"a": {"method": "imp"}}
    with pytest.raises(ValueError, match="twice: label 'a', seed 0, round 1"):
        tt.Frontier.join([whole, parts[0]])
    with pytest.raises(ValueError, match="same `monitor`"):
        tt.Frontier.join([parts[0], three_seeds(monitor="val_accuracy")])
    other = tt.Frontier([], {}, "test_accuracy", {"epochs": 9})
    other.selected_by = "val_accuracy"
    with pytest.raises(ValueError, match=r"epochs \[3, 9\]"):
        tt.Frontier.join([parts[0], other])
    with pytest.raises(ValueError, match="at least one frontier"):
        tt.Frontier.join([])


def test_searches_with_other_settings_are_not_joined_under_one_label():
    def of_seed(seed, **settings):
        search = {"method": "imp", "seed": seed, "teachers": [seed], **settings}
        points = measured("a", [seed], [(0.5, 0.9, 0.9)])
        return three_seeds(points=points, provenance={"searches": {"a": search}})

    joined = tt.Frontier.join([of_seed(0, rate=0.2), of_seed(1, rate=0.2), of_seed(2)])
    assert joined.seeds == [0, 1, 2]
    with pytest.raises(ValueError, match="same settings.*'a' with rate 0.2 and 0.5"):
        tt.Frontier.join([of_seed(0, rate=0.2), of_seed(1, rate=0.5)])


def test_a_dense_network_that_diverged_is_no_line_and_is_named(tmp_path):
    points = measured("a", [0], [(0.5, 0.9, 0.9)])
    diverged = {"val_accuracy": math.nan, "test_accuracy": math.nan}
    found = three_seeds(points=points, dense=diverged, dense_by_seed={})
    found.plot(tmp_path / "a.svg")
    drawn = (tmp_path / "a.svg").read_text()
    assert "the dense network has no finite metric" in drawn


@pytest.mark.parametrize(
    "labels, searches, named, expected",
    [
        (["snip final_sparsity=0.9", "snip final_sparsity=0.95"], {}, {}, ["snip"] * 2),
        (["final_sparsity=0.9", "final_sparsity=0.95"], {}, {}, ["final_sparsity"] * 2),
        (["cs initial_score=0.1", "cs initial_score=0.2"], {}, {}, None),
        (["snip 0.9", "snip 0.95"], {}, {}, None),
        # Without another sparsity of the method, its label remains.
        (["snip final_sparsity=0.9", "imp"], {}, {}, None),
        # The method of both, but criteria differ.
        (
            ["s0.9", "s0.8", "g0.9", "g0.8"],
            {
                f"{name}{sparsity}": {
                    "method": "init",
                    "final_sparsity": sparsity,
                    "criterion": name,
                }
                for name in "sg"
                for sparsity in (0.9, 0.8)
            },
            {},
            ["init", "init", "g0.9, g0.8", "g0.9, g0.8"],
        ),
        (
            ["imp target={'macs': 0.5}", "imp target={'macs': 0.2}"],
            {},
            {},
            ["imp", "imp"],
        ),
        (["a 1", "a 2", "b"], {}, {"a 1": "a", "a 2": "a"}, ["a", "a", "b"]),
        (
            ["snip 0.9", "snip 0.95", "grasp"],
            {
                "snip 0.9": {"method": "init", "final_sparsity": 0.9, "seed": 0},
                "snip 0.95": {"method": "init", "final_sparsity": 0.95, "seed": 1},
                "grasp": {"method": "init", "final_sparsity": 0.9, "criterion": "g"},
            },
            {},
            ["snip", "snip", "grasp"],
        ),
        (
            ["final_sparsity=0.9", "final_sparsity=0.95"],
            {
                f"final_sparsity={s}": {"method": "m", "sparsity": s}
                for s in (0.9, 0.95)
            },
            {},
            ["m", "m"],
        ),
        # The same search twice, under two labels: not one line.
        (
            ["run 1", "run 2"],
            {f"run {i}": {"method": "imp", "final_sparsity": 0.9} for i in (1, 2)},
            {},
            None,
        ),
    ],
)
def test_searches_that_differ_in_sparsity_only_are_one_line(
    labels, searches, named, expected
):
    names = frontier_lines.lines_of(labels, searches, named)
    assert list(names.values()) == (labels if expected is None else expected)


def test_a_picture_has_one_line_a_method_and_bands_of_seeds(monkeypatch, tmp_path):
    drawn = {}
    monkeypatch.setattr(
        frontier.plots, "plot_frontier", lambda *args, **kw: drawn.update(a=args, k=kw)
    )
    points = [
        point
        for sparsity in (0.5, 0.8)
        for point in measured(
            f"snip final_sparsity={sparsity}",
            (0, 1, 2),
            [(sparsity, 0.9, test) for test in (0.90, 0.92, 0.94)],
        )
    ]
    three_seeds(points=points).plot(tmp_path / "a.svg", "Title", confidence=0.9)
    lines, optimal, _, dense, metric, title = drawn["a"]
    # t is 2.9200 for 90 % and two degrees of freedom.
    low, high = (0.92 + sign * 2.9200 * 0.02 / 3**0.5 for sign in (-1, 1))
    assert list(lines) == ["snip"]
    np.testing.assert_allclose(
        lines["snip"], [(0.5, 0.92, low, high), (0.2, 0.92, low, high)], atol=1e-5
    )
    np.testing.assert_allclose(optimal, [(0.2, 0.92)])
    assert (dense, metric, title) == (0.9, "test_accuracy", "Title")
    assert drawn["k"] == {
        "dense_interval": (0.9, 0.9),
        "smaller_is_better": False,
        "note": "mean of 3 seeds, band: 90 % interval; optimal: selected by val "
        "accuracy",
    }
    with pytest.raises(ValueError, match="labels of the searches, .*Received: .'snip'"):
        three_seeds().plot(tmp_path / "a.svg", lines={"snip": "s"})
    with pytest.raises(ValueError, match="`confidence`"):
        three_seeds().plot(tmp_path / "a.svg", confidence=2)


def test_a_loss_is_plotted_with_the_worst_at_the_top(monkeypatch):
    drawn = {}
    monkeypatch.setattr(
        frontier.plots, "plot_frontier", lambda *args, **kw: drawn.update(kw)
    )
    point = frontier.Point("a", 1, 0.5, 1, {"loss": 1.0})
    tt.Frontier([point], {}, "loss").plot("a.svg")
    assert drawn["smaller_is_better"] is True and drawn["dense_interval"] is None
