"""Tickets: saved, loaded, applied and compared."""

import dataclasses
import xml.etree.ElementTree

import keras
import numpy as np
import pytest
import tiny

import tf_tickets as tt
from tf_tickets import files, wrapping
from tf_tickets.training import snapshots

pytestmark = pytest.mark.turns("jax")

OTHER_NAMES = ("hidden_7", "norm_3", "output_1")


def ticket_of(model, **provenance):
    """Returns a ticket of half the weights that starts from the model's weights."""
    weights = snapshots.start_weights(model, snapshots.record(model))
    return tt.Ticket(tiny.half(model), weights, {"loss": 0.5}, provenance)


def searched(**kwargs):
    search = tiny.imp(rounds=1, epochs_per_round=1, **kwargs)
    result = tt.find_tickets(
        tiny.build_compiled, tiny.splits(), search, seed=3, batch_size=16, verbose=0
    )
    return result[0]


def test_saving_and_loading_keeps_everything(tmp_path):
    ticket = ticket_of(tiny.network(), round=2, parent=None, settings={"rate": 0.2})
    ticket.save(tmp_path / "a.ticket")
    loaded = tt.Ticket.load(tmp_path / "a.ticket")
    assert loaded.id == ticket.id
    assert list(loaded.weights) == list(ticket.weights)
    assert tiny.same(loaded.weights.values(), ticket.weights.values())
    assert (loaded.metrics, loaded.provenance) == (ticket.metrics, ticket.provenance)
    assert loaded.sparsity == ticket.sparsity == 0.5


def test_numpy_numbers_in_metrics_and_provenance_are_saved(tmp_path):
    ticket = tt.Ticket(
        {"k": [1, 0]}, None, {"loss": np.float32(0.5)}, {"step": np.int64(3), "a": (1,)}
    )
    ticket.save(tmp_path / "a.ticket")
    loaded = tt.Ticket.load(tmp_path / "a.ticket")
    assert (loaded.metrics, loaded.provenance) == ({"loss": 0.5}, {"step": 3, "a": [1]})


@pytest.mark.parametrize(
    "masks, message",
    [
        ({}, "at least one mask"),
        ({"k": [0, 2]}, r"\[0 2\] for 'k'"),
        ({"k": [0.5, 1]}, "0 .pruned. and 1"),
        (
            {"k": np.ones((0, 3))},
            r"at least one weight. Received: shape \(0, 3\) for 'k'",
        ),
        ({3: [1, 0]}, "path` must be a string. Received: 3"),
    ],
)
def test_wrong_masks_are_refused(masks, message):
    with pytest.raises(ValueError, match=message):
        tt.Ticket(masks)


def test_masks_of_another_shape_than_the_weights_are_refused():
    with pytest.raises(ValueError, match=r"of 'k' differ.*\(2,\) and \(3,\)"):
        tt.Ticket({"k": [1, 0]}, {"k": np.ones(3), "b": np.ones(5)})


@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
def test_scales_must_be_finite(scale):
    with pytest.raises(ValueError, match="`scales.k` must be a finite number"):
        tt.Ticket({"k": [1, 0]}, scales={"k": scale})


def forged(path, content, arrays):
    """Writes a file with correct checksums that `Ticket.save` does not write."""
    whole = {"metrics": {"loss": 0.5}, "provenance": {}, "scales": {}}
    arrays = {"masks/k": np.array([True, False])} if arrays is None else arrays
    content = content if content is None or not content else whole | content
    files.write(path, "ticket", content, arrays)
    return path


@pytest.mark.parametrize(
    "content, message",
    [
        ({}, "`content` must have the fields 'metrics', 'provenance'. Missing"),
        ({"metrics": None}, "`content.metrics` must be a dict. Received: None"),
        ({"metrics": {"loss": "x"}}, "`content.metrics.loss` must be a number"),
        ({"metrics": {"loss": [1]}}, "`content.metrics.loss` must be a number"),
        ({"metrics": {"loss": True}}, "`content.metrics.loss` must be a number"),
        ({"metrics": {"loss": 10**400}}, "`content.metrics.loss` must be a number"),
        ({"provenance": [1]}, r"`content.provenance` must be a dict. Received: \[1\]"),
        ({"scales": None}, "`content.scales` must be a dict. Received: None"),
        ({"scales": {"k": "x"}}, "`content.scales.k` must be a number. Received: 'x'"),
        ({"scales": {"k": float("nan")}}, "`content.scales.k` must be a finite number"),
        ({"scales": {"j": 2.0}}, "`scales` has paths without a mask"),
        ({"more": 1}, "Unexpected: 'more'"),
    ],
)
def test_forged_content_is_refused_with_the_name_of_the_field(
    tmp_path, content, message
):
    path = forged(tmp_path / "a.ticket", content, None)
    with pytest.raises(ValueError, match=f"a.ticket is not a valid ticket.*{message}"):
        tt.Ticket.load(path)


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({}, "at least one mask"),
        ({"masks/k": np.ones((0, 3), bool)}, "at least one weight"),
        ({"masks/k": np.array([0.5])}, "only 0 .pruned. and 1"),
        ({"masks/k": np.array([np.nan])}, "only 0 .pruned. and 1"),
        ({"masks/k": np.ones(2, bool), "k": np.ones(2)}, r"Received: \['k'\]"),
        ({"masks/k": np.ones(2, bool), "weights/k": np.ones(3)}, "differ in shape"),
    ],
)
def test_forged_arrays_are_refused(tmp_path, arrays, message):
    path = forged(tmp_path / "a.ticket", {"metrics": {}}, arrays)
    with pytest.raises(ValueError, match=f"a.ticket is not a valid ticket.*{message}"):
        tt.Ticket.load(path)


@pytest.mark.parametrize(
    "provenance",
    [
        {"settings": [1]},
        {"settings": {"monitor": ["loss"]}},
        {"settings": {"monitor": {"config": 3}}},
        {"settings": {"monitor": {"config": {"metric": {"a": 1}}}}},
        {"round": {}, "method": 3, "control": [1]},
    ],
)
def test_any_provenance_is_shown(tmp_path, provenance):
    path = forged(tmp_path / "a.ticket", {"provenance": provenance}, None)
    ticket = tt.Ticket.load(path)
    assert "loss 0.5000" in repr(ticket) and ticket._repr_html_()


@pytest.mark.parametrize(
    "changes, field",
    [
        ({"model": 3}, "provenance.model"),
        ({"build_seed": "x"}, "provenance.build_seed"),
        ({"build_seed": -1}, "provenance.build_seed"),
        ({"step": [0]}, "provenance.step"),
    ],
)
def test_a_forged_origin_is_refused_where_weights_are_rebuilt(changes, field):
    origin = {"model": {}, "build_seed": 0, "step": 0} | changes
    with pytest.raises(ValueError, match=f"`{field}` must be"):
        tt.Ticket({"k": [1, 0]}, provenance=origin).start_weights()


def test_metrics_that_could_not_be_loaded_are_not_saved(tmp_path):
    ticket = tt.Ticket({"k": [1]})
    ticket.metrics["loss"] = "low"
    with pytest.raises(ValueError, match="`ticket.metrics.loss` must be a number"):
        ticket.save(tmp_path / "a.ticket")
    assert list(tmp_path.iterdir()) == []


def test_a_ticket_that_unpacks_to_more_than_the_limit_is_refused(tmp_path):
    tt.Ticket({"k": np.ones(10_000)}).save(tmp_path / "a.ticket")
    with pytest.raises(ValueError, match="take 10000 bytes.*max_bytes=9999"):
        tt.Ticket.load(tmp_path / "a.ticket", max_bytes=9_999)
    assert tt.Ticket.load(tmp_path / "a.ticket", max_bytes=None).sparsity == 0.0


@pytest.mark.parametrize(
    "other",
    [
        tt.Ticket({"k": [1, 1, 0, 1]}),
        tt.Ticket({"j": [1, 0, 0, 1]}),
        tt.Ticket({"k": [[1, 0], [0, 1]]}),
        tt.Ticket({"k": [1, 0, 0, 1]}, {"k": [1.0] * 4}),
    ],
)
def test_the_id_tells_tickets_apart(other):
    ticket = tt.Ticket({"k": [1, 0, 0, 1]})
    assert ticket.id == tt.Ticket({"k": [True, False, False, True]}).id
    assert ticket.id != other.id


def test_the_id_is_of_masks_and_weights_only():
    left, right = tt.Ticket({"k": [1]}, None, {"a": 1}), tt.Ticket({"k": [1]})
    assert left.id == right.id


def test_tickets_are_equal_by_masks_weights_and_scales():
    def ticket(**changes):
        arguments = {"masks": {"k": [1, 0]}, "weights": {"k": np.ones(2)}, "scales": {}}
        return tt.Ticket(**{**arguments, **changes})

    others = [
        ticket(masks={"k": [0, 1]}),
        ticket(weights={"k": np.ones(2, "float32")}),
        ticket(weights=None),
        ticket(scales={"k": 2.0}),
    ]
    assert all(ticket() != other for other in others)
    assert len({ticket(), ticket(), *others}) == 5
    assert ticket() in [*others, ticket()] and ticket() not in others
    assert (ticket() == 1, ticket() == "k") == (False, False)


def test_equality_ignores_metrics_and_provenance():
    left = tt.Ticket({"k": [1, 0]}, None, {"loss": 0.1}, {"round": 1})
    right = tt.Ticket({"k": [1, 0]})
    assert left == right and hash(left) == hash(right)
    before = hash(left)
    left.metrics["loss"] = 0.2
    assert hash(left) == before and left == right


@pytest.mark.parametrize("scale", [2, np.float32(1.5), np.float64(0.1)])
def test_a_saved_ticket_is_equal_to_the_loaded_one(tmp_path, scale):
    ticket = ticket_of(tiny.network())
    ticket = dataclasses.replace(ticket, scales={next(iter(ticket.masks)): scale})
    ticket.save(tmp_path / "a.ticket")
    loaded = tt.Ticket.load(tmp_path / "a.ticket")
    assert loaded == ticket and hash(loaded) == hash(ticket)


def test_the_repr_is_one_short_line():
    provenance = {"method": "imp", "round": 3, "control": "reinit"}
    ticket = ticket_of(tiny.network(), **provenance)
    text = repr(ticket)
    assert (
        text
        == str(ticket)
        == (
            "Ticket(imp, reinit, round 3, sparsity 0.5000, 45 of 90 weights kept in "
            f"2 kernels, loss 0.5000, id {ticket.id[:8]})"
        )
    )


@pytest.mark.parametrize(
    "monitor, shown",
    [
        ("val_accuracy", "val_accuracy 0.9000"),
        ({"config": {"metric": "val_accuracy"}}, "val_accuracy 0.9000"),
        ("test_accuracy", "loss 0.2500"),
        (None, "loss 0.2500"),
    ],
)
def test_the_repr_shows_the_monitored_metric(monitor, shown):
    metrics = {"loss": 0.25, "val_accuracy": 0.9}
    provenance = {"settings": {"monitor": monitor}}
    assert shown in repr(tt.Ticket({"k": [1, 0]}, None, metrics, provenance))


def test_a_ticket_of_a_search_has_method_round_and_metric_in_its_repr():
    search = tiny.imp(rounds=1, epochs_per_round=1)
    tiny.run(tiny.network(), search)
    [ticket] = search.tickets
    accuracy = ticket.metrics["accuracy"]
    assert repr(ticket).startswith("Ticket(imp, round 1, sparsity 0.3000, 63 of 90")
    assert f"accuracy {accuracy:.4f}, id" in repr(ticket)


def test_notebooks_show_the_kernels_as_an_escaped_table():
    masks = {"net/<b>/kernel": np.arange(6).reshape(2, 3) < 2, "b&c": [1, 1]}
    text = tt.Ticket(masks, None, {}, {"method": "<imp>"})._repr_html_()
    table = xml.etree.ElementTree.fromstring(text)
    rows = [["".join(cell.itertext()) for cell in row] for row in table.iter("tr")]
    assert rows == [
        ["kernel", "shape", "kept/total", "sparsity"],
        ["net/<b>/kernel", "2x3", "2/6", "66.67%"],
        ["b&c", "2", "2/2", "0.00%"],
        ["total", "", "4/8", "50.00%"],
    ]
    assert table.findtext("caption").startswith("Ticket(<imp>, sparsity 0.5000")


def test_notebooks_show_the_first_kernels_of_a_deep_network():
    text = tt.Ticket({f"k{i}": [1, 0] for i in range(32)})._repr_html_()
    assert "k29" in text and "k30" not in text
    assert "2 more kernels" in text and "32/64" in text


def wrapped_anew():
    return tiny.network(seed=9)


def plain_anew():
    return tiny.build()


def wrapped_with_other_names():
    return tiny.network(seed=9, names=OTHER_NAMES)


def plain_with_other_names():
    return tiny.build(names=OTHER_NAMES)


@pytest.mark.parametrize(
    "target",
    [wrapped_anew, plain_anew, wrapped_with_other_names, plain_with_other_names],
)
def test_a_ticket_fits_every_build_of_its_model(target):
    ticket = ticket_of(tiny.network())
    model = ticket.apply(target())
    assert tiny.same(wrapping.kernels(model).masks.values(), ticket.masks.values())
    kernels = [wrapping.to_numpy(v) for v in wrapping.kernels(model).variables.values()]
    expected = [ticket.weights[path] * mask for path, mask in ticket.masks.items()]
    assert all((a == b).all() for a, b in zip(kernels, expected, strict=True))


def test_statistics_and_biases_are_applied_too():
    source = tiny.network()
    tiny.run(source, tiny.imp(rounds=1, epochs_per_round=1))
    ticket = ticket_of(source)
    state = snapshots.record(ticket.apply(tiny.network(seed=9)))
    for part in ("weights", "statistics"):
        rest = [p for p in state[part] if p not in ticket.masks]
        assert all((state[part][p] == ticket.weights[p]).all() for p in rest)
    assert state["statistics"]["net/norm/moving_mean"].any()


def test_a_ticket_of_some_layers_wraps_these_only():
    model = tt.wrap(tiny.build(), filters="output", verbose=False)
    ticket = ticket_of(tiny.compiled(model))
    applied = ticket.apply(plain_with_other_names())
    assert list(wrapping.kernels(applied).variables) == ["net/output_1/kernel"]


def three_alike(first):
    """Builds three layers of one shape whose names Keras numbers."""
    layers = [keras.layers.Dense(4, name=f"dense_{first + i}") for i in range(3)]
    return keras.Sequential([keras.Input((4,)), *layers], name=f"net_{first}")


def test_running_numbers_do_not_lead_to_another_layer():
    model = tt.wrap(three_alike(1), filters=["dense_2"], verbose=False)
    ticket = ticket_of(tiny.compiled(model))
    assert list(ticket.masks) == ["net_1/dense_2/kernel"]
    applied = ticket.apply(three_alike(2))
    assert list(wrapping.kernels(applied).variables) == ["net_2/dense_3/kernel"]


def test_applying_clears_the_optimizer_and_places_the_schedule():
    model = tiny.network()
    tiny.run(model, tiny.imp(rounds=1))
    ticket_of(model, step=7).apply(model)
    assert snapshots.iteration(model) == 7
    assert not any(a.any() for a in snapshots.record(model)["optimizer"].values())


def test_applying_goes_on_from_other_masks():
    model = tiny.network()
    wrapping.kernels(model).set_masks(tiny.half(model, seed=5))
    ticket = ticket_of(tiny.network())
    ticket.apply(model)
    assert tiny.same(wrapping.kernels(model).masks.values(), ticket.masks.values())
    assert tiny.pruned_weights(model).tolist() == [0.0] * 45


def one_layer(units=3, inputs=6, name="hidden", **kwargs):
    layer = keras.layers.Dense(units, name=name, **kwargs)
    return keras.Sequential([keras.Input((inputs,)), layer], name="net")


@pytest.mark.parametrize(
    "model, message",
    [
        (
            lambda: one_layer(units=4),
            r"net/hidden/kernel: \(6, 3\) in the ticket, \(6, 4\)",
        ),
        (
            lambda: one_layer(name="other"),
            "ticket: .*hidden/kernel.*model: .*other/kernel",
        ),
        (lambda: one_layer(dtype="float16"), "kernel: float32 in the ticket, float16"),
        (lambda: one_layer(use_bias=False), "Only in the ticket: .'net/hidden/bias'"),
        (tiny.build, "only in the model: .*net/output/kernel"),
    ],
)
def test_a_ticket_of_another_model_is_refused_with_what_differs(model, message):
    ticket = ticket_of(tiny.compiled(tt.wrap(one_layer(), verbose=False)))
    plain = model()
    before = [wrapping.to_numpy(v) for v in plain.variables]
    with pytest.raises(ValueError, match=message):
        ticket.apply(plain)
    assert tiny.same([wrapping.to_numpy(v) for v in plain.variables], before)


def test_other_wrapped_kernels_are_named():
    ticket = ticket_of(tiny.network())
    model = tiny.compiled(tt.wrap(tiny.build(), filters="output", verbose=False))
    with pytest.raises(ValueError, match="masks do not fit.*'net/hidden/kernel'"):
        ticket.apply(model)


def test_without_weights_seed_and_model_give_them_again(tmp_path):
    ticket = searched()
    ticket.save(tmp_path / "with")
    ticket.save(tmp_path / "without", weights=False)
    loaded = tt.Ticket.load(tmp_path / "without")
    assert loaded.weights is None
    keras.utils.set_random_seed(77)
    assert tiny.same(loaded.start_weights().values(), ticket.weights.values())
    assert tiny.same(
        tiny.flat(snapshots.record(loaded.apply(tiny.network(seed=9)))),
        tiny.flat(snapshots.record(ticket.apply(tiny.network(seed=9)))),
    )


def test_a_rewound_ticket_is_not_saved_without_weights(tmp_path):
    ticket = searched(rewind_to="2 steps")
    with pytest.raises(ValueError, match="weights=True"):
        ticket.save(tmp_path / "a", weights=False)
    assert list(tmp_path.iterdir()) == []


def test_a_ticket_of_trained_weights_is_not_saved_without_them(tmp_path):
    ticket = searched(fidelity="learning_rate")
    with pytest.raises(ValueError, match="do not reproduce this ticket's start"):
        ticket.save(tmp_path / "a", weights=False)


def test_a_ticket_from_fit_is_not_saved_without_weights(tmp_path):
    search = tiny.imp(rounds=1, epochs_per_round=1)
    tiny.run(tiny.network(), search)
    with pytest.raises(ValueError, match="comes from find_tickets"):
        search.tickets[0].save(tmp_path / "a", weights=False)


def test_masks_alone_cannot_be_applied():
    with pytest.raises(ValueError, match="needs its start weights"):
        tt.Ticket(tiny.half(tiny.network())).apply(tiny.network())


@pytest.mark.parametrize("data", [b"", b"\x80\x04\x95pickle", b"PK\x03\x04"])
def test_no_other_file_is_loaded_as_a_ticket(tmp_path, data):
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(ValueError, match="not a ticket file"):
        tt.Ticket.load(tmp_path / "a")


@pytest.mark.parametrize(
    "left, right, overlap",
    [
        ([1, 1, 0], [1, 1, 0], 1.0),
        ([1, 0, 0], [0, 1, 1], 0.0),
        ([1, 1, 0], [0, 1, 1], 1 / 3),
        ([0, 0, 0], [0, 0, 0], 0.0),
    ],
)
def test_comparing_gives_both_over_either(left, right, overlap):
    result = tt.Ticket({"k": left}).compare(tt.Ticket({"k": right}))
    assert result == {"k": overlap, "all": overlap}


def test_comparing_tickets_of_other_shapes_is_refused():
    with pytest.raises(ValueError, match=r"k: \(2,\) in the ticket, \(3,\)"):
        tt.Ticket({"k": [1, 0]}).compare(tt.Ticket({"k": [1, 0, 1]}))


# From a ticket to a trained model.


def _found(search=None, model=None):
    search = search or tiny.imp(rounds=2, epochs_per_round=1)
    model = model or tiny.network()
    tiny.run(model, search)
    return model, search


@pytest.mark.both
def test_train_gives_the_plain_model_of_the_best_ticket(tmp_path):
    # Without dropout, whose generators go on from one training to the next.
    model = tt.wrap(tiny.build_without_dropout(), verbose=False)
    model, search = _found(model=model)
    x, y = tiny.data()
    arguments = {"epochs": 3, "batch_size": 16, "shuffle": False, "verbose": 0}
    validation = tiny.data(32, seed=1)
    plain = search.best.train(model, x, y, **arguments, validation_data=validation)
    by_hand = search.best.apply(tiny.build_without_dropout())
    history = by_hand.fit(x, y, **arguments, validation_data=validation).history
    assert plain.history.history == history
    for one, other in zip(plain.weights, tt.strip(by_hand).weights, strict=True):
        np.testing.assert_array_equal(wrapping.to_numpy(one), wrapping.to_numpy(other))
    assert not wrapping.prunables(plain)
    kernels = [w for w in plain.weights if w.name == "kernel"]
    zeros = [np.count_nonzero(wrapping.to_numpy(w)) for w in kernels]
    assert zeros == list(search.best.kept.values())
    plain.save(tmp_path / "best.keras")
    loaded = keras.models.load_model(tmp_path / "best.keras")
    np.testing.assert_array_equal(
        loaded.predict(x, verbose=0), plain.predict(x, verbose=0)
    )


def test_train_accepts_plain_models_and_those_with_learned_masks():
    x, y = tiny.data()
    search = tt.ContinuousSparsification(1, 2, monitor="loss")
    model = tiny.compiled(search.wrap(tiny.build(), verbose=False))
    _, search = _found(search, model)
    ticket = search.tickets[-1]
    for start in (model, tiny.build_compiled()):
        plain = ticket.train(start, x, y, epochs=2, verbose=0)
        kernels = [w for w in plain.weights if w.name == "kernel"]
        counts = [np.count_nonzero(wrapping.to_numpy(w)) for w in kernels]
        assert counts == list(ticket.kept.values())


def test_train_may_keep_its_best_epoch():
    model, search = _found()
    x, y = tiny.data()
    best = keras.callbacks.EarlyStopping("val_loss", restore_best_weights=True)
    validation = tiny.data(32, seed=1)
    plain = search.best.train(
        model, x, y, epochs=4, verbose=0, callbacks=[best], validation_data=validation
    )
    model.evaluate(*validation, verbose=0)
    lowest = min(plain.history.history["val_loss"])
    assert model.evaluate(*validation, verbose=0)[0] == pytest.approx(lowest, rel=1e-6)


@pytest.mark.parametrize(
    "model, epochs, message",
    [
        (tiny.build_compiled, 1, r"`model` must be .*Received: .*build_compiled"),
        (keras.Sequential([keras.Input((6,))]), 1, "Call model.compile"),
        ("model.keras", 1, "`model` must be .*Received: .*model.keras"),
        (None, 0, "`epochs`"),
    ],
)
def test_train_refuses_what_it_cannot_train(model, epochs, message):
    ticket = tt.Ticket({"k": [1, 0]}, {"k": np.ones(2, "float32")})
    if model is None:
        model = tiny.build_compiled()
    with pytest.raises((TypeError, ValueError), match=message):
        ticket.train(model, *tiny.data(), epochs=epochs)
