"""Controls change one property of a ticket and keep all others."""

import keras
import numpy as np
import pytest
import tiny

import tf_tickets as tt
from tf_tickets.search.ticket_trainer import TicketTrainer, train_ticket
from tf_tickets.tickets import controls

pytestmark = pytest.mark.turns("jax")

DATA = tiny.splits()


def search_for(build=tiny.build_without_dropout, **kwargs):
    search = tiny.imp(monitor="val_accuracy", **kwargs)
    return tt.find_tickets(build, DATA, search, seed=3, batch_size=16, verbose=0)


@pytest.fixture(scope="module")
def tickets():
    return search_for(rewind_to="2 steps")


CONTROLS = {
    "reinit": controls.reinit,
    "shuffle": controls.shuffle_masks,
    "random": controls.random_masks,
    "random, global": lambda t, seed=1: controls.random_masks(t, "global", seed=seed),
    "random, uniform": lambda t, seed=1: controls.random_masks(t, "uniform", seed=seed),
    "random, erk": lambda t, seed=1: controls.random_masks(t, "erk", seed=seed),
}


@pytest.mark.parametrize("name", CONTROLS)
def test_a_control_has_the_sparsity_of_its_ticket_and_says_whose(name, tickets):
    before = tickets[1].id
    control = CONTROLS[name](tickets[1])
    assert sum(control.kept.values()) == sum(tickets[1].kept.values())
    assert control.provenance["parent"] == before == tickets[1].id
    assert control.provenance["round"] == 2
    assert control.metrics == {}


@pytest.mark.parametrize("name", CONTROLS)
def test_the_seed_decides(name, tickets):
    make = CONTROLS[name]
    assert make(tickets[1], seed=1).id == make(tickets[1], seed=1).id
    assert make(tickets[1], seed=1).id != make(tickets[1], seed=2).id


@pytest.mark.parametrize("name", ["shuffle", "random"])
def test_every_kernel_keeps_its_count_at_other_places(name, tickets):
    control = CONTROLS[name](tickets[1])
    assert control.kept == tickets[1].kept
    assert tiny.same(control.weights.values(), tickets[1].weights.values())
    for path, mask in tickets[1].masks.items():
        assert (control.masks[path] != mask).any()


def test_a_uniform_spread_is_uniform(tickets):
    kept = controls.random_masks(tickets[1], "uniform").kept
    assert kept == {"net/hidden/kernel": 29, "net/output/kernel": 15}


@pytest.mark.parametrize("build", [None, tiny.build_without_dropout, tiny.build])
def test_reinit_draws_every_weight_anew_and_keeps_the_masks(build, tickets):
    control = controls.reinit(tickets[1], build)
    assert tiny.same(control.masks.values(), tickets[1].masks.values())
    assert list(control.weights) == list(tickets[1].weights)
    for path in tickets[1].masks:
        assert (control.weights[path] != tickets[1].weights[path]).all()
    assert not control.weights["net/norm/moving_mean"].any()


def test_reinit_of_a_build_under_other_names_keeps_the_ticket_s(tickets):
    other = controls.reinit(
        tickets[1], lambda: tiny.build(names=("hidden_4", "norm_2", "output_9"))
    )
    assert other.id == controls.reinit(tickets[1], tiny.build).id


def test_reinit_of_another_model_is_refused(tickets):
    names = ("hidden", "other", "output")
    with pytest.raises(ValueError, match="another model than the ticket's"):
        controls.reinit(tickets[1], lambda: tiny.build(names=names))


def test_reinit_without_a_model_says_what_to_pass():
    search = tiny.imp(rounds=1, epochs_per_round=1)
    tiny.run(tiny.network(), search)
    with pytest.raises(ValueError, match="Pass build_model="):
        controls.reinit(search.tickets[0])


def test_an_unknown_spread_is_refused(tickets):
    with pytest.raises(ValueError, match="Received: 'even'"):
        controls.random_masks(tickets[1], "even")


def test_training_a_ticket_again_gives_its_metrics_to_the_bit(tickets, tmp_path):
    trainer = TicketTrainer(tiny.build_without_dropout, DATA, seed=3, batch_size=16)
    for number in (2, 0, 1):
        tickets[number].save(tmp_path / "a")
        metrics = trainer.train(tt.Ticket.load(tmp_path / "a"), epochs=2)
        assert metrics == {n: tickets[number].metrics[n] for n in metrics}
        assert {"loss", "val_loss", "test_loss"} <= set(metrics)


@pytest.mark.parametrize(
    "settings, epochs",
    tiny.in_turns(
        [
            ({}, 2),
            ({"fidelity": "learning_rate"}, 2),
            ({"rewind_to": "1 epoch"}, 1),
            ({"fidelity": "exact"}, 2),
        ]
    ),
)
def test_every_kind_of_rewinding_can_be_trained_again(settings, epochs):
    ticket = search_for(rounds=1, **settings)[0]
    trained = train_ticket(
        tiny.build_without_dropout,
        DATA,
        ticket,
        epochs,
        seed=3,
        batch_size=16,
        verbose=0,
    )[1]
    assert trained == {name: ticket.metrics[name] for name in trained}


def test_what_was_trained_before_does_not_matter():
    ticket = search_for(tiny.build_compiled, rounds=1)[0]
    trainer = TicketTrainer(tiny.build_compiled, DATA, seed=3, batch_size=16)
    first = trainer.train(ticket, epochs=1)
    trainer.model.optimizer.learning_rate = 0.5
    trainer.train(controls.reinit(ticket), epochs=1)
    assert trainer.train(ticket, epochs=1) == first


def test_a_trained_control_differs_and_keeps_its_zeros(tickets):
    control = controls.shuffle_masks(tickets[2])
    model, metrics = train_ticket(
        tiny.build_without_dropout, DATA, control, 2, seed=3, batch_size=16, verbose=0
    )
    assert not tiny.pruned_weights(model).any()
    assert np.isfinite(metrics["loss"])
    assert metrics["loss"] != tickets[2].metrics["loss"]


@pytest.mark.parametrize("layers", [["first"], ["depthwise", "first"]])
def test_a_ticket_of_other_kernels_than_those_by_default_is_trained(layers):
    def build():
        model = keras.Sequential(
            [
                keras.Input((4, 4, 2)),
                keras.layers.Conv2D(4, 2, name="first"),
                keras.layers.DepthwiseConv2D(2, name="depthwise"),
                keras.layers.GlobalAveragePooling2D(),
                keras.layers.Dense(2, name="last"),
            ],
            name="net",
        )
        model.compile("adam", "mse")
        return model

    def build_wrapped():
        return tt.wrap(build(), layers, verbose=False)

    rng = np.random.default_rng(0)
    pair = rng.normal(size=(16, 4, 4, 2)), rng.normal(size=(16, 2))
    search = tt.IMP(1, 1, 0.5, monitor="val_loss")
    data = pair, pair
    [ticket] = tt.find_tickets(build_wrapped, data, search, batch_size=4, verbose=0)
    trainer = TicketTrainer(build, data, batch_size=4)
    assert [path.split("/")[1] for path in ticket.masks] == sorted(layers)[::-1]
    assert trainer.train(ticket, 1)["val_loss"] == ticket.metrics["val_loss"]
    dense = trainer.dense_ticket()
    assert [path.split("/")[1] for path in dense.masks] == ["first", "last"]
    assert list(tt.kernels(trainer.model).masks) == list(dense.masks)
    trainer.train(ticket, 1)
    assert list(tt.kernels(trainer.model).masks) == list(ticket.masks)


def test_a_trainer_has_no_model_before_it_trains():
    trainer = TicketTrainer(tiny.build_compiled, DATA, batch_size=16)
    with pytest.raises(RuntimeError, match="No ticket has been trained"):
        _ = trainer.model
