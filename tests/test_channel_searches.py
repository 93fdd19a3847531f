"""Searches and callbacks that prune channels, and their targets."""

import keras
import numpy as np
import pytest
import tiny
from keras import layers as kl

import tf_tickets as tt
from tf_tickets.structures.channels import ChannelLayout, Channels

pytestmark = pytest.mark.turns

SETTINGS = {"monitor": "loss"}


def build():
    """Two hidden layers of 12 and 8 units, with and without a gamma behind them."""
    return keras.Sequential(
        [
            keras.Input((6,)),
            kl.Dense(12, use_bias=False, name="a"),
            kl.BatchNormalization(name="n"),
            kl.ReLU(),
            kl.Dense(8, use_bias=False, name="b"),
            kl.BatchNormalization(scale=False, name="m"),
            kl.ReLU(),
            kl.Dense(3, name="out"),
        ],
        name="net",
    )


def network(structure="channels", optimizer=None, mask="fixed", **kwargs):
    keras.utils.set_random_seed(0)
    model = tt.wrap(build(), structure=structure, mask=mask, verbose=False, **kwargs)
    return tiny.compiled(model, optimizer or keras.optimizers.Adam(0.01))


def fit(model, callback, epochs=None, **kwargs):
    x, y = tiny.data(32)
    epochs = callback.epochs if epochs is None else epochs
    model.fit(x, y, batch_size=8, epochs=epochs, callbacks=[callback], verbose=0)
    return callback


class Interrupt(keras.callbacks.Callback):
    """Ends the program after an epoch, if it is told to."""

    at = None

    def on_epoch_end(self, epoch, logs=None):
        if epoch == self.at:
            raise KeyboardInterrupt


def widths(masks_of):
    """Returns the numbers of units that a ticket or a model keeps."""
    if isinstance(masks_of, tt.Ticket):
        _, layout = tt.structures.registry.restored(masks_of.provenance)
        masks = masks_of.masks
    else:
        kernels = tt.kernels(masks_of)
        layout, masks = kernels.layout, kernels.masks
    assert isinstance(layout, ChannelLayout)
    return [int(alive.sum()) for alive in layout.units(masks).values()]


def macs(first, second):
    return 6 * first + first * second + second * 3


def params(first, second):
    return macs(first, second) + 4 * first + 3 * second + 3


def check_target(measure, kept, fraction):
    """The next larger selection costs more than the target, this one does not."""
    cost = {"macs": macs, "params": params}[measure]
    limit = fraction * cost(12, 8)
    assert cost(*kept) <= limit
    larger = [(kept[0] + 1, kept[1]), (kept[0], kept[1] + 1)]
    assert max(cost(*row) for row in larger) > limit


def is_nested(inner, outer):
    return all((inner[path] <= outer[path]).all() for path in outer)


def test_imp_prunes_units_and_nests_them():
    search = fit(network(), tt.IMP(3, 1, rate=0.3, **SETTINGS))
    assert [sum(widths(ticket)) for ticket in search.tickets] == [14, 10, 7]
    first, second, third = (ticket.masks for ticket in search.tickets)
    assert is_nested(third, second) and is_nested(second, first)
    assert {"net/n/gamma", "net/m/moving_mean"} <= set(first)


@pytest.mark.parametrize("measure", tiny.in_turns(["macs", "params"]))
def test_imp_meets_a_target_within_one_unit_in_every_round(measure):
    structure = Channels(floor=0.0)
    search = tt.IMP(3, 1, structure=structure, target={measure: 0.3}, **SETTINGS)
    fit(network(structure), search)
    for round_, ticket in enumerate(search.tickets, 1):
        kept = widths(ticket)
        check_target(measure, kept, 0.3 ** (round_ / 3))
        assert ticket.provenance["remaining"] == {
            "macs": macs(*kept) / macs(12, 8),
            "params": params(*kept) / params(12, 8),
        }
        assert f"{macs(*kept) / macs(12, 8):.2%}" in str(search)


def test_a_ticket_gives_the_same_masks_to_a_plain_model(tmp_path):
    model = network(Channels(floor=0.3), filters="^(?!b$)")
    search = tt.IMP(2, 1, rate=0.4, criterion="gamma", **SETTINGS)
    ticket = fit(model, search).tickets[-1]
    ticket.save(tmp_path / "a.ticket")
    ticket = tt.Ticket.load(tmp_path / "a.ticket")
    applied = ticket.apply(build())
    kernels = tt.kernels(applied)
    assert kernels.structure == Channels(floor=0.3)
    assert list(kernels.layout.groups) == ["net/a/kernel"]
    assert all((kernels.masks[p] == m).all() for p, m in ticket.masks.items())
    assert widths(applied) == widths(ticket)
    again = ticket.apply(
        tt.wrap(build(), structure="channels", filters="^(?!b$)", verbose=False)
    )
    assert widths(again) == widths(ticket)


def test_a_ticket_of_single_weights_is_no_ticket_of_channels():
    search = tt.PruneAtInit(0.5, criterion="random")
    ticket = search.prune(network("unstructured", filters=["a", "b", "out"]))
    masks = tt.kernels(network()).masks | ticket.masks
    ticket = tt.Ticket(masks, ticket.weights)
    with pytest.raises(ValueError, match="parts of this model's channels"):
        ticket.apply(network())


def test_controls_draw_units():
    ticket = fit(network(), tt.IMP(1, 1, rate=0.5, **SETTINGS)).tickets[-1]
    for control in (
        tt.controls.shuffle_masks(ticket),
        tt.controls.random_masks(ticket),
    ):
        assert widths(control) == widths(ticket)
        assert control != ticket
        _, layout = tt.structures.registry.restored(control.provenance)
        everything = {p: np.ones_like(m) for p, m in control.masks.items()}
        expected = layout.masks(layout.units(control.masks), everything)
        assert all((expected[p] == m).all() for p, m in control.masks.items())
    with pytest.raises(ValueError, match="'erk'"):
        tt.controls.random_masks(ticket, "erk")


def test_gradual_pruning_removes_in_proportion_to_its_schedule():
    schedule = tt.schedules.PolynomialDecay(0.0, 0.8, 2, 10, power=1, frequency=4)
    structure = Channels(floor=0.0)
    model = network(structure)
    pruning = tt.GradualPruning(schedule, target={"macs": 0.4})
    seen = []

    class Look(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(widths(self.model))

    x, y = tiny.data(32)
    model.fit(x, y, batch_size=8, epochs=4, callbacks=[pruning, Look()], verbose=0)
    # After steps 4, 8, 12 and 16: the schedule was at 0, 0.4, 0.8 and 0.8.
    assert seen[0] == [12, 8]
    check_target("macs", seen[1], 0.7)
    check_target("macs", seen[2], 0.4)
    assert seen[3] == seen[2] == widths(pruning.ticket)


def test_gradual_pruning_without_a_target_counts_units():
    schedule = tt.schedules.ConstantSparsity(0.5, begin_step=2, frequency=1)
    pruning = fit(network(), tt.GradualPruning(schedule), epochs=1)
    assert sum(widths(pruning.ticket)) == 10


@pytest.mark.parametrize("allocation", ["global", "uniform"])
def test_pruning_at_initialization_meets_a_target(allocation):
    x, y = tiny.data(32)
    structure = Channels(floor=0.0)
    search = tt.PruneAtInit(
        criterion=tt.saliency.Taylor(x, y),
        target={"params": 0.5},
        allocation=allocation,
        passes=2,
    )
    ticket = search.prune(network(structure))
    check_target("params", widths(ticket), 0.5)
    if allocation == "uniform":
        first, second = widths(ticket)
        assert abs(first / 12 - second / 8) <= 1 / 8


@pytest.mark.parametrize(
    "criterion", ["magnitude", "magnitude_increase", "movement", "random", "synflow"]
)
def test_criteria_of_weights_are_pooled(criterion):
    search = tt.PruneAtInit(0.5, criterion=criterion, passes=1)
    assert sum(widths(search.prune(network()))) == 10


@pytest.mark.parametrize("allocation", ["global", "uniform"])
def test_floors_end_a_search_of_too_many_units(allocation):
    structure = Channels(floor=0.0, minimum=1)
    model = network(structure)
    for _ in range(2):
        search = tt.PruneAtInit(0.99, allocation=allocation)
        assert widths(search.prune(model)) == [1, 1]


@pytest.mark.on("tensorflow")
@pytest.mark.parametrize(
    "criterion",
    tiny.marked(
        [tt.saliency.SNIP, tt.saliency.GraSP, tt.curvature.OBD], [tt.saliency.SNIP]
    ),
)
def test_criteria_of_data_are_pooled(criterion):
    x, y = tiny.data(32)
    search = tt.PruneAtInit(0.5, criterion=criterion(x, y))
    assert sum(widths(search.prune(network()))) == 10


@pytest.mark.matrix
def test_the_student_of_a_distiller_is_pruned():
    student = tt.wrap(build(), structure="channels", verbose=False)
    model = tt.Distiller(build(), student, tt.distillation.LogitsDistillation())
    model.compile(keras.optimizers.Adam(0.01), "mse", jit_compile=tiny.JIT)
    x, y = tiny.data(32)
    search = tt.IMP(2, 1, target={"macs": 0.5}, **SETTINGS)
    y = keras.utils.to_categorical(y)
    model.fit(x, y, batch_size=8, epochs=3, callbacks=[search], verbose=0)
    check_target("macs", widths(search.tickets[-1]), 0.5)
    assert widths(student) == widths(search.tickets[-1])


def test_rounding_gives_units_back():
    structure = Channels(round_to=4, floor=0.0)
    search = fit(network(structure), tt.IMP(3, 1, rate=0.3, **SETTINGS))
    rounds = [widths(ticket) for ticket in search.tickets]
    assert all(width % 4 == 0 for row in rounds for width in row)
    assert [sum(row) for row in rounds] >= [14, 10, 7]
    assert is_nested(search.tickets[1].masks, search.tickets[0].masks)


@pytest.mark.on("tensorflow")
@pytest.mark.parametrize(
    "kind", tiny.marked([tt.UniLTH, tt.UniDLTH, tt.DLTH], [tt.UniLTH])
)
def test_growing_penalties_press_all_slices_of_units(kind):
    options = {} if kind is tt.DLTH else {"stage_one": 0}
    search = kind(
        0.5,
        rounds=1,
        penalty=20,
        epochs_per_round=1,
        structure="channels",
        **options,
        **SETTINGS,
    )
    model = build()
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    model = search.wrap(model, verbose=False)
    residues = []

    class Look(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            residues.append(logs["residue"])

    x, y = tiny.data(32)
    model.fit(
        x, y, batch_size=8, epochs=search.epochs, callbacks=[search, Look()], verbose=0
    )
    ticket = search.tickets[-1]
    assert sum(widths(ticket)) == 10
    assert residues[18] < 0.05 * residues[0]


def test_learned_masks_kdlts_and_others_are_refused_by_name():
    model = network()
    x, y = tiny.data(32)
    for method, reason in [
        (tt.ThresholdPruning(1, 1), "ThresholdPruning.*channels"),
        (tt.DynamicSparsity(0.5), "DynamicSparsity.*channels"),
        (tt.ContinuousSparsification(1, 1), "learned|ContinuousSparsification"),
    ]:
        with pytest.raises(ValueError, match=reason):
            model.fit(x, y, epochs=2, callbacks=[method], verbose=0)
    assert widths(model) == [12, 8]


@pytest.mark.parametrize(
    "structure, settings, reason",
    [
        ("unstructured", {"target": {"macs": 0.5}}, "requires.*channels"),
        ("2:4", {"criterion": "gamma", "rate": 0.1, "rounds": 1}, "'gamma'.*channels"),
        ("channels", {"allocation": "erk"}, "'erk'"),
        ("channels", {"target": {"macs": 0.01}}, "smallest possible fraction is 0.0"),
        (
            "channels",
            {"target": {"macs": 0.5}, "allocation": lambda s, m, k: {}},
            "'global' or 'uniform'",
        ),
        ("channels", {"structure": "2:4", "rounds": 1}, "'2:4'.*'channels'"),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_training(
    structure, settings, reason
):
    search = tt.IMP(epochs_per_round=1, **{"rounds": 2, **settings}, **SETTINGS)
    model = network(structure)
    before = model.get_weights()
    with pytest.raises(ValueError, match=reason):
        fit(model, search)
    assert all(map(np.array_equal, before, model.get_weights()))


@pytest.mark.parametrize(
    "cls, argument, value",
    [
        (tt.IMP, "rate", 0.5),
        (tt.IMP, "rate", {"out": 0.1}),
        (tt.IMP, "stop_at", 0.5),
        (tt.PruneAtInit, "final_sparsity", 0.5),
    ],
)
def test_a_target_replaces_other_settings(cls, argument, value):
    message = f"`target` replaces `{argument}`.*'macs': 0.3.*{argument}="
    with pytest.raises(ValueError, match=message):
        cls(target={"macs": 0.3}, **{argument: value})
    assert tt.IMP(target={"macs": 0.3}, stop_at="below_dense").target == {"macs": 0.3}


SCHEDULE = tt.schedules.PolynomialDecay(0.0, 0.8, 2, 5, frequency=1)
TARGET = {"structure": "channels", "target": {"macs": 0.5}}
RESUMED = {
    "IMP": lambda: (tt.IMP(2, 1, **TARGET, **SETTINGS), None),
    "GradualPruning": lambda: (tt.GradualPruning(SCHEDULE, **TARGET), 3),
    "PruneAtInit": lambda: (tt.PruneAtInit(epochs=3, **TARGET, **SETTINGS), None),
    "UniLTH": lambda: (
        tt.UniLTH(
            0.5, 2, stage_one=0, penalty=1, epochs_per_round=1, structure="channels"
        ),
        None,
    ),
}


@pytest.mark.on("jax")
@pytest.mark.parametrize("name", tiny.marked(RESUMED, ["IMP"]))
def test_a_search_of_channels_resumes(name, tmp_path):

    def compiled():
        return tiny.compiled(build())

    data = tiny.splits()

    def find(directory):
        search, epochs = RESUMED[name]()
        return tt.find_tickets(
            compiled,
            data,
            search,
            directory=directory,
            epochs=epochs,
            callbacks=[Interrupt()],
            verbose=0,
        )

    whole = find(tmp_path / "a")
    Interrupt.at = 1
    with pytest.raises(KeyboardInterrupt):
        find(tmp_path / "b")
    Interrupt.at = None
    assert [t.id for t in find(tmp_path / "b")] == [t.id for t in whole]


def test_a_trainer_tells_tickets_apart_whose_kernels_are_pruned_in_other_parts():
    def chain():
        dense = [kl.Dense(n, use_bias=False, name=f"d{n}") for n in (7, 6, 5, 2)]
        return keras.Sequential([keras.Input((6,)), *dense], name="chain")

    tickets = []
    for filters in (["d7", "d5"], ["d7", "d6", "d5"]):
        model = tt.wrap(chain(), filters, structure="channels", verbose=False)
        tickets.append(tt.PruneAtInit(0.5, epochs=1, monitor="loss").prune(model))
    assert [ticket.structure.spared for ticket in tickets] == [(1, 3), (3,)]
    assert tickets[0].structure == tickets[1].structure
    assert set(tickets[0].masks) == set(tickets[1].masks)
    x, y = tiny.data(16)
    data = ((x, y[:, None].repeat(2, 1)),) * 2

    def compiled():
        model = chain()
        model.compile("sgd", "mse")
        return model

    trainer = tt.TicketTrainer(compiled, data, batch_size=8)
    for ticket in [*tickets, tickets[0]]:
        trainer.train(ticket, 1)
        assert tt.kernels(trainer.model).structure.spared == ticket.structure.spared
    assert len(trainer._built) == 2


def test_a_target_of_unknown_multiply_adds_is_refused():
    layers = [keras.Input((None, 3)), keras.layers.LSTM(6), keras.layers.Dense(2)]
    model = tt.wrap(keras.Sequential(layers), structure="channels", verbose=False)
    search = tt.PruneAtInit(target={"macs": 0.5}, epochs=1, monitor="loss")
    with pytest.raises(ValueError, match="lstm_cell/kernel.* are unknown.*'params'"):
        search.prune(model)
    search = tt.PruneAtInit(target={"params": 0.5}, epochs=1, monitor="loss")
    assert search.prune(model).sparsity > 0


def test_scores_from_gradients_need_a_compiled_model():
    layers = [keras.Input((3,)), keras.layers.Dense(6), keras.layers.Dense(2)]
    model = tt.wrap(keras.Sequential(layers), structure="channels", verbose=False)
    taylor = tt.saliency.Taylor(np.ones((4, 3)), np.ones((4, 2)))
    search = tt.PruneAtInit(0.5, epochs=1, criterion=taylor, monitor="loss")
    with pytest.raises(ValueError, match="is not compiled"):
        search.prune(model)


def test_rounding_up_is_no_reason_for_a_warning():
    layers = [keras.Input((3,)), keras.layers.Dense(12), keras.layers.Dense(2)]
    structure = tt.Channels(round_to=8)
    model = tt.wrap(keras.Sequential(layers), structure=structure, verbose=False)
    model.compile("sgd", "mse", jit_compile=False)
    schedule = tt.schedules.ConstantSparsity(0.75, begin_step=1, frequency=1)
    pruning = tt.GradualPruning(schedule)
    model.fit(np.ones((8, 3)), np.ones((8, 2)), verbose=0, callbacks=[pruning])
    kernels = tt.kernels(model)
    [kept] = kernels.layout.units(kernels.masks).values()
    assert kept.sum() == 8
