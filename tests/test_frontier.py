"""The frontier over several searches: same conditions, stored, resumed, plotted."""

import json
import xml.etree.ElementTree

import keras
import numpy as np
import pytest
import tiny

import tf_tickets as tt
from tf_tickets.search import frontier


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
        "dense                              100.00%    0.9300",
        "0           1              1        50.00%   0.9000*",
        "1           1              3        10.00%   0.8000*",
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
