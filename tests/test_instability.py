"""Instability analysis: against NumPy, `evaluate` and convex problems; resumed."""

import dataclasses
import json

import keras
import numpy as np
import pytest
import tiny
from keras import layers as kl

import tf_tickets as tt
from tf_tickets import files, wrapping
from tf_tickets.analysis import interpolation, resumable_training
from tf_tickets.search import inputs
from tf_tickets.training import snapshots

pytestmark = pytest.mark.turns("jax")

SETTINGS = {"epochs": 2, "batch_size": 16, "seed": 3, "points": 5}
MOMENTS = ["init", "3 steps", 1]


def analyse(directory=None, build=tiny.build_compiled, data=None, **kwargs):
    data = tiny.splits() if data is None else data
    return tt.analysis.instability(build, data, directory, **{**SETTINGS, **kwargs})


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    directory = tmp_path_factory.mktemp("instability")
    return directory, analyse(directory, rewind_to=MOMENTS)


def stored(file):
    """Returns the arrays of a stored state by the end of their names."""
    _, arrays = files.read(file, "training")
    return {"/".join(name.split("/")[-2:]): array for name, array in arrays.items()}


def predicted(weights, x):
    """The network of `tiny.build` in inference, in NumPy."""
    hidden = np.maximum(x @ weights["hidden/kernel"] + weights["hidden/bias"], 0)
    scale = weights["norm/gamma"] / np.sqrt(weights["norm/moving_variance"] + 1e-3)
    hidden = (hidden - weights["norm/moving_mean"]) * scale + weights["norm/beta"]
    return hidden @ weights["output/kernel"] + weights["output/bias"]


def measured(weights, x, y):
    """Error and loss, in NumPy."""
    logits = predicted(weights, x)
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return np.mean(logits.argmax(axis=1) != y), -np.mean(logs[np.arange(len(y)), y])


@pytest.mark.both
def test_a_line_is_that_of_numpy(found):
    directory, result = found
    x, y = tiny.splits()[2]
    for line, folder in zip(result.lines, ["init", "3_steps", "1_epoch"], strict=True):
        first, second = (
            stored(directory / folder / f"seed_{seed}.state") for seed in line.seeds
        )
        names = [name for name in first if name.startswith(("hidden", "norm", "out"))]
        for place, error, loss in zip(
            line.positions, line.errors, line.losses, strict=True
        ):
            weights = {n: (1 - place) * first[n] + place * second[n] for n in names}
            expected = measured(weights, x, y)
            np.testing.assert_allclose((error, loss), expected, rtol=1e-4, atol=1e-6)
        trained = [name for name in names if "moving" not in name]
        gap = np.concatenate([(first[n] - second[n]).ravel() for n in trained])
        np.testing.assert_allclose(line.distance, np.linalg.norm(gap), rtol=1e-5)
        assert line.distance > 0.01
    assert result.rewind_points == ["init", "3 steps", "1 epoch"]


@pytest.mark.matrix
def test_the_ends_are_what_evaluate_returns(found):
    directory, result = found
    model = tiny.build_compiled()
    x, y = tiny.splits()[2]
    for line, folder in zip(result.lines, ["init", "3_steps", "1_epoch"], strict=True):
        for end, seed in zip((0, -1), line.seeds, strict=True):
            values = stored(directory / folder / f"seed_{seed}.state")
            for path, variable in wrapping.plain_paths(model).items():
                name = "/".join(path.split("/")[-2:])
                if "seed_generator" not in name:
                    variable.assign(values[name])
            metrics = model.evaluate(x, y, verbose=0, return_dict=True)
            assert line.errors[end] == pytest.approx(1 - metrics["accuracy"], abs=1e-6)
            assert line.losses[end] == pytest.approx(metrics["loss"], rel=1e-5)


def test_the_numbers_follow_from_the_lines(found):
    _, result = found
    for line in result.lines:
        largest, ends = max(line.errors), (line.errors[0] + line.errors[-1]) / 2
        assert line.instability == pytest.approx(largest - ends)
        assert result.instability[line.rewind_to] == line.instability
        assert result.errors[line.rewind_to].tolist() == list(line.errors)
    assert (result.metric, result.part) == ("accuracy", "test")


def test_copies_differ_only_in_data_order_and_random_layers(found):
    directory, _ = found
    start = stored(directory / "3_steps" / "start.state")
    counters = [v for n, v in start.items() if n.endswith(":iteration")]
    assert counters == [3]
    ends = [stored(directory / "3_steps" / f"seed_{s}.state") for s in (0, 1)]
    seeds = [v for n in ends[0] if "seed_generator" in n for v in (ends[0][n],)]
    others = [v for n in ends[1] if "seed_generator" in n for v in (ends[1][n],)]
    assert seeds and all((a != b).any() for a, b in zip(seeds, others, strict=True))
    # Both took the three steps, and the whole training after a moment in steps.
    steps = [v for end in ends for n, v in end.items() if n.endswith(":iteration")]
    assert steps == [3 + 2 * 4] * 2


@pytest.mark.matrix
def test_the_rewind_point_is_that_of_a_search(tmp_path):
    """So a ticket that IMP rewound to it starts there."""
    search = tiny.imp(rounds=1, rewind_to="1 epochs", monitor="val_accuracy")
    settings = {"batch_size": 16, "seed": 3}
    tickets = tt.find_tickets(
        tiny.build_compiled, tiny.splits(), search, verbose=0, **settings
    )
    analyse(tmp_path, rewind_to=1)
    start = stored(tmp_path / "1_epoch" / "start.state")
    for path, value in tickets[0].weights.items():
        name = "/".join(path.split("/")[-2:])
        np.testing.assert_array_equal(start[name], value)


def logistic():
    model = keras.Sequential([keras.Input((6,)), kl.Dense(3, name="output")])
    return tiny.compiled(model, keras.optimizers.SGD(0.1))


def test_a_convex_problem_is_stable():
    result = analyse(None, logistic, rewind_to=["init", 5], epochs=8, seeds=(0, 1, 2))
    assert len(result.lines) == 6
    for line in result.lines:
        ends = np.interp(line.positions, [0, 1], [line.losses[0], line.losses[-1]])
        assert (np.array(line.losses) <= ends + 1e-6).all()
    by_loss = analyse(None, logistic, monitor="loss", epochs=8)
    assert by_loss.errors["init"].tolist() == by_loss.losses["init"].tolist()
    assert by_loss.is_stable()


def two_valleys():
    """Learns |x| by one hidden unit of either sign, whose mean is neither."""
    model = keras.Sequential(
        [
            keras.Input((1,)),
            kl.Dense(1, use_bias=False, kernel_initializer="zeros", name="a"),
            kl.Activation(keras.ops.abs),
        ]
    )
    model.compile(keras.optimizers.SGD(0.3), "mse", jit_compile=tiny.JIT)
    return model


def test_copies_in_two_valleys_are_unstable():
    """The result is made of two known networks, |x| and |-x|: between them lies 0."""
    model = two_valleys()
    states = [
        {"weights": {"a": np.full((1, 1), w)}, "statistics": {}} for w in (1.0, -1.0)
    ]
    x = np.linspace(-1, 1, 9, dtype="float32")[:, None]
    losses = []
    for place in (0, 0.25, 0.5, 1):
        between = interpolation.between(*states, place)
        model.layers[0].kernel.assign(between["weights"]["a"])
        losses.append(model.evaluate(x, np.abs(x), verbose=0))
    places = (0, 0.25, 0.5, 1)
    line = tt.analysis.Line("init", (0, 1), places, losses, losses)
    assert line.losses == pytest.approx([0, np.mean(x**2) / 4, np.mean(x**2), 0])
    result = tt.analysis.Instability([line], metric="loss")
    assert not result.is_stable()
    assert result.instability == {"init": pytest.approx(np.mean(x**2))}


class Stop(Exception):
    pass


def stops_in(training, epoch):
    """Returns `watch`, which raises an error before an epoch of a training ends."""

    def end(number, logs):
        if number == epoch:
            raise Stop

    def watch(name):
        if name != training:
            return []
        return [keras.callbacks.LambdaCallback(on_epoch_begin=end)]

    return watch


@pytest.mark.parametrize(
    "training, epoch",
    [
        ("1 epoch seed 1", 1),
        *tiny.marked([("shared", 0), ("init seed 0", 1), ("3 steps seed 0", 1)], []),
    ],
)
def test_an_interrupted_analysis_ends_with_the_same_bits(
    found, tmp_path, training, epoch
):
    with pytest.raises(Stop):
        analyse(tmp_path, rewind_to=MOMENTS, watch=stops_in(training, epoch))
    result = analyse(tmp_path, rewind_to=MOMENTS)
    assert result.lines == found[1].lines


@pytest.mark.matrix
def test_the_shared_training_goes_on_after_its_last_epoch(tmp_path):
    settings = {"rewind_to": [2], "epochs": 3}
    with pytest.raises(Stop):
        analyse(tmp_path / "a", watch=stops_in("shared", 1), **settings)
    begun = []

    def watch(name):
        begin = lambda epoch, logs: begun.append((name, epoch))  # noqa: E731
        return [keras.callbacks.LambdaCallback(on_epoch_begin=begin)]

    result = analyse(tmp_path / "a", watch=watch, **settings)
    assert begun[0] == ("shared", 1)
    assert result.lines == analyse(tmp_path / "b", **settings).lines


def test_a_copy_that_stopped_early_is_refused_and_continued(tmp_path):
    def watch(name):
        def stop(epoch, logs):
            callback.model.stop_training = True

        callback = keras.callbacks.LambdaCallback(on_epoch_end=stop)
        return [callback]

    with pytest.raises(ValueError, match="stopped after epoch 1 of 2"):
        analyse(tmp_path, logistic, watch=watch)
    assert analyse(tmp_path, logistic).lines == analyse(None, logistic).lines


def test_no_two_trainings_share_a_global_seed():
    orders = [resumable_training._FIRST_ROUND, *range(2_000_000, 2_000_005)]
    seeds = {
        resumable_training._global_seed(3, order, epoch)
        for order in orders
        for epoch in range(40)
    }
    assert len(seeds) == 40 * len(orders)
    assert resumable_training._global_seed(3, 0, 2) == inputs.round_seed(3, 2)


@pytest.mark.matrix
def test_a_directory_is_extended_without_repeating_a_training(tmp_path):
    names = []

    def watch(name):
        names.append(name)
        return []

    first = analyse(tmp_path, watch=watch)
    second = analyse(tmp_path, watch=watch, seeds=(0, 1, 2), rewind_to=["init", 1])
    assert first.lines[0] == second.lines[0]
    trained = [n for n in names if list(names).count(n) == 1]
    assert {"shared", "init seed 2", "1 epoch seed 0"} <= set(trained)
    loaded = tt.analysis.Instability.load(tmp_path)
    assert loaded == second
    assert (tmp_path / "instability.png").stat().st_size > 10_000
    with pytest.raises(ValueError, match="another analysis: .*epochs: 2 there, 3 here"):
        analyse(tmp_path, epochs=3)


def ticket_of(model):
    return tt.Ticket(tiny.half(model), snapshots.present_weights(model))


def test_a_ticket_stays_sparse_on_the_line(tmp_path):
    keras.utils.set_random_seed(7)
    ticket = ticket_of(tt.wrap(tiny.build(), verbose=False))
    own = analyse(tmp_path / "own", ticket=ticket)
    swept = analyse(tmp_path / "swept", ticket=ticket, rewind_to=["init", 1])
    assert own.rewind_points == ["init"]
    assert own.provenance["ticket"] == ticket.id
    for folder in ("own/ticket", "swept/init", "swept/1_epoch"):
        for seed in (0, 1):
            values = stored(tmp_path / folder / f"seed_{seed}.state")
            for path, mask in ticket.masks.items():
                kernel = values["/".join(path.split("/")[-2:])]
                assert not kernel[~mask].any()
                assert (kernel[mask] != 0).all()
    # Before the masks, the dense network was trained.
    start = stored(tmp_path / "swept/1_epoch/start.state")
    assert all((v != 0).all() for n, v in start.items() if n.endswith("kernel"))
    assert swept.lines[0] != own.lines[0]


def test_copies_of_a_ticket_with_factors_keep_them(tmp_path):
    keras.utils.set_random_seed(7)
    plain = ticket_of(tt.wrap(tiny.build(), verbose=False))
    [path] = [path for path in plain.masks if "hidden" in path]
    ticket = tt.Ticket(plain.masks, plain.weights, scales={path: 0.5})
    result = analyse(tmp_path, ticket=ticket)
    x, y = tiny.splits()[2]
    for end, seed in zip((0, -1), result.lines[0].seeds, strict=True):
        weights = stored(tmp_path / "ticket" / f"seed_{seed}.state")
        weights["hidden/kernel"] = 0.5 * weights["hidden/kernel"]
        expected = measured(weights, x, y)
        line = result.lines[0]
        found = line.errors[end], line.losses[end]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.matrix
def test_a_ticket_of_continuous_sparsification_is_analysed():
    search = tt.ContinuousSparsification(2, 2, penalty=0.0)
    tickets = tt.find_tickets(
        tiny.build_compiled, tiny.splits(), search, batch_size=16, verbose=0
    )
    assert tickets[-1].scales
    assert len(analyse(ticket=tickets[-1]).lines) == 1
    swept = analyse(ticket=tickets[-1], rewind_to=["init", 1])
    assert swept.rewind_points == ["init", "1 epoch"]


@pytest.mark.matrix
def test_a_ticket_names_the_moment_that_it_was_rewound_to():
    search = tiny.imp(rounds=1, rewind_to="1 epochs", monitor="val_accuracy")
    [ticket] = tt.find_tickets(
        tiny.build_without_dropout,
        tiny.splits(),
        search,
        batch_size=16,
        seed=3,
        verbose=0,
    )
    names = []
    result = analyse(
        None,
        tiny.build_without_dropout,
        ticket=ticket,
        watch=lambda name: names.append(name) or [],
    )
    assert result.rewind_points == ["1 epoch"]
    assert names == ["1 epoch seed 0", "1 epoch seed 1"]
    with pytest.raises(ValueError, match="more than those before the ticket's start"):
        analyse(None, tiny.build_without_dropout, ticket=ticket, epochs=1)


def annealed(steps):
    """Returns a build function with a schedule that ends after some steps."""

    def build():
        decay = keras.optimizers.schedules.CosineDecay(0.05, steps)
        return tiny.compiled(tiny.build(dropout=0.0), keras.optimizers.SGD(decay))

    return build


def ticket_at(step, **provenance):
    keras.utils.set_random_seed(7)
    ticket = ticket_of(tt.wrap(tiny.build(dropout=0.0), verbose=False))
    return dataclasses.replace(ticket, provenance={"step": step, **provenance})


REWOUND = {"rewind_to": {"config": {"moment": "1 epochs"}}}


@pytest.mark.parametrize(
    "step, provenance, batch_size, message",
    [
        (8, {}, 16, "a ticket of step 8, but 2 epochs have 8 steps"),
        (20, {}, 16, "a ticket of step 20, but 2 epochs have 8 steps"),
        # It was rewound to an epoch in smaller batches.
        (4, {"settings": REWOUND}, 64, "a ticket of step 4, but 2 epochs have 2 steps"),
    ],
    ids=["end", "past the end", "other batches"],
)
def test_a_ticket_of_the_end_is_refused_before_any_training(
    step, provenance, batch_size, message, monkeypatch
):
    """Its schedule would stand there: nothing is trained, and all seems stable."""

    def fit(*args, **kwargs):
        raise AssertionError("It was trained.")

    monkeypatch.setattr(keras.Model, "fit", fit)
    ticket = ticket_at(step, **provenance)
    with pytest.raises(ValueError, match=f"{message}.*Pass `rewind_to`.*more `epochs`"):
        analyse(None, annealed(8), ticket=ticket, batch_size=batch_size)


def test_a_ticket_of_the_end_is_analysed_as_the_message_says():
    ticket = ticket_at(8)
    rewound = analyse(None, annealed(8), ticket=ticket, rewind_to="init")
    longer = analyse(None, annealed(12), ticket=ticket, epochs=3)
    assert rewound.lines[0].distance > 0.01 and longer.lines[0].distance > 0.001


def test_copies_that_a_schedule_keeps_from_training_are_named():
    """The schedule ends with the first of two epochs."""
    with pytest.warns(UserWarning, match=r"equal weights.*points: \['1 epoch'\]"):
        result = analyse(None, annealed(4), rewind_to=["init", 1])
    assert result.lines[0].distance > 0 == result.lines[1].distance
    assert result.instability["1 epoch"] == 0


@pytest.mark.matrix
def test_a_ticket_of_gradual_pruning_is_one_of_the_end():
    pruning = tt.GradualPruning(tt.schedules.ConstantSparsity(0.5, 2, frequency=1))
    [ticket] = tt.find_tickets(
        annealed(8), tiny.splits(), pruning, epochs=2, batch_size=16, verbose=0
    )
    with pytest.raises(ValueError, match="a ticket of step 8, but 2 epochs have 8"):
        analyse(None, annealed(8), ticket=ticket)
    assert analyse(None, annealed(8), ticket=ticket, rewind_to=1).lines[0].distance > 0


@pytest.mark.matrix
def test_recomputed_statistics_are_means_over_batches():
    model = tiny.build_compiled()
    opened = inputs.Inputs(tiny.splits(), 0, 16)
    before = snapshots.record(model)
    interpolation.recompute_statistics(model, opened, (0, 5, 0), 3)
    batches = [x for x, _ in opened.sources["train"].read((0, 5, 0))][:3]
    kernel, bias = (np.array(v) for v in model.layers[0].weights)
    hidden = [np.maximum(x @ kernel + bias, 0) for x in batches]
    norm = model.layers[1]
    mean = np.mean([h.mean(axis=0) for h in hidden], axis=0)
    variance = np.mean([h.var(axis=0) for h in hidden], axis=0)
    np.testing.assert_allclose(np.array(norm.moving_mean), mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        np.array(norm.moving_variance), variance, rtol=1e-4, atol=1e-6
    )
    assert norm.momentum == 0.99
    after = snapshots.record(model)
    for part in ("weights", "seeds"):
        assert tiny.same(tiny.flat(after, [part]), tiny.flat(before, [part]))


def test_recomputed_statistics_change_the_line(found):
    directory, interpolated = found
    result = analyse(directory, batch_statistics="recomputed", statistics_batches=4)
    assert result.batch_statistics == "recomputed"
    assert result.lines[0].losses != interpolated.lines[0].losses
    assert result.lines[0].distance == interpolated.lines[0].distance
    assert "recomputed" in str(result)


def line(moment="init", seeds=(0, 1), top=0.4, places=(0.0, 0.5, 1.0)):
    values = [0.1, *[top] * (len(places) - 2), 0.1]
    return tt.analysis.Line(moment, seeds, places, values, values)


def test_a_result_is_stored_and_loaded(tmp_path):
    result = tt.analysis.Instability(
        [line(), line(seeds=(0, 2), top=0.2), line("2 epochs", top=0.1)],
        provenance={"epochs": 3},
    )
    result.save(tmp_path / "a.json")
    assert tt.analysis.Instability.load(tmp_path / "a.json") == result
    result.save(tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text().count("\n") == 10
    assert result.to_pandas().groupby("rewind_to").error.max().to_dict() == {
        "init": 0.4,
        "2 epochs": 0.1,
    }
    assert result.instability == pytest.approx({"init": 0.2, "2 epochs": 0.0})
    for name in ("a.png", "b.png"):
        result.plot(tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_first_stable_is_the_point_from_which_on_all_are():
    tops = {"init": 0.1, "1 epoch": 0.3, "2 epochs": 0.11, "4 epochs": 0.1}
    result = tt.analysis.Instability([line(m, top=t) for m, t in tops.items()])
    assert result.is_stable("init") and not result.is_stable(1)
    assert result.first_stable() == "2 epochs"
    assert result.first_stable(threshold=0.005) == "4 epochs"
    assert result.first_stable(threshold=0.5) == "init"
    assert result.first_stable(threshold=0.0) is None
    joined = tt.analysis.Instability.join([result, tt.analysis.Instability([line(8)])])
    assert joined.rewind_points == [*tops, "8 epochs"]


def test_rewind_points_are_in_the_order_of_the_training():
    tops = {"12 steps": 0.1, "2 epochs": 0.1, "init": 0.3, "1 epoch": 0.3}
    lines = [line(moment, top=top) for moment, top in tops.items()]
    result = tt.analysis.Instability(lines, provenance={"steps_per_epoch": 5})
    assert result.rewind_points == ["init", "1 epoch", "2 epochs", "12 steps"]
    assert list(result.instability) == result.rewind_points
    assert result.first_stable() == "2 epochs"
    longer = tt.analysis.Instability(lines, provenance={"steps_per_epoch": 10})
    assert longer.rewind_points == ["init", "1 epoch", "12 steps", "2 epochs"]
    joined = tt.analysis.Instability.join(
        [
            tt.analysis.Instability([each], provenance={"steps_per_epoch": 5})
            for each in lines
        ]
    )
    assert joined.first_stable() == "2 epochs"
    with pytest.raises(ValueError, match="steps_per_epoch.*in the same unit"):
        tt.analysis.Instability(lines).first_stable()
    only_epochs = tt.analysis.Instability(lines[1:])
    assert only_epochs.first_stable() == "2 epochs"


def test_a_network_without_a_finite_error_is_not_stable():
    result = tt.analysis.Instability([line(top=float("nan"))])
    assert not result.is_stable()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"rewind_to": []}, "at least one moment"),
        ({"rewind_to": [1, "1 epoch"]}, "each only once"),
        ({"rewind_to": 2}, "before the end of the first round"),
        ({"rewind_to": "8 steps"}, "2 epochs have 8 steps"),
        ({"rewind_to": "3 laps"}, "'N steps' or 'N epochs'"),
        ({"rewind_to": True}, "`rewind_to`"),
        ({"seeds": [1]}, "at least two different seeds"),
        ({"seeds": [1, 1]}, "at least two different seeds"),
        ({"points": 2}, "from 3"),
        ({"monitor": "auc"}, "compiled with: one of .*'accuracy', 'loss'"),
        ({"part": "dev"}, "one of the parts of the data"),
        ({"batch_statistics": "kept"}, "'interpolated', 'recomputed'"),
        ({"epochs": 0}, "`epochs` must be a whole number of 1 or more"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_what_cannot_be_analysed_is_refused(change, message, monkeypatch):
    def fit(*args, **kwargs):
        raise AssertionError("It was trained.")

    monkeypatch.setattr(keras.Model, "fit", fit)
    with pytest.raises((ValueError, TypeError), match=message):
        analyse(None, logistic, **change)


def test_steps_between_two_calls_of_the_compiled_step_are_needed():
    def build():
        model = keras.Sequential([keras.Input((6,)), kl.Dense(3)])
        return tiny.compiled(model, steps_per_execution=2)

    with pytest.raises(ValueError, match="steps_per_execution=2"):
        analyse(None, build, rewind_to="3 steps")


def test_learned_masks_and_generators_are_refused():
    def learned():
        return tiny.compiled(tt.wrap(tiny.build(), mask="soft", verbose=False))

    with pytest.raises(ValueError, match="SoftMask"):
        analyse(None, learned)
    x, y = tiny.data()
    batches = iter([(x[:16], y[:16])] * 4)
    data = tt.TrainingData(batches, (x, y), steps_per_epoch=2)
    with pytest.raises(ValueError, match="readable several times"):
        analyse(None, logistic, data, batch_size=None)


@pytest.mark.parametrize(
    "lines, message",
    [
        ([], "at least one line"),
        ([line(), line()], "Received twice: the line from 'init'"),
        ([line(), line(1, places=(0.0, 0.2, 0.5, 1.0))], "the same positions"),
    ],
    ids=["none", "twice", "other positions"],
)
def test_lines_that_do_not_belong_together_are_refused(lines, message):
    with pytest.raises(ValueError, match=message):
        tt.analysis.Instability(lines)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"positions": (0.0, 1.0)}, "rise from 0 to 1"),
        ({"positions": (0.0, 0.6, 0.5, 1.0)}, "rise from 0 to 1"),
        ({"errors": (0.1, 0.2)}, "one number for each of the 3 positions"),
        ({"seeds": (1,)}, "two seeds"),
        ({"losses": ("a", "b", "c")}, "a list of numbers"),
    ],
    ids=["two", "falling", "too few", "one seed", "texts"],
)
def test_a_line_that_is_none_is_refused(change, message):
    places = change.get("positions", (0.0, 0.5, 1.0))
    values = [0.1] * len(places)
    good = {"rewind_to": 0, "seeds": (0, 1), "positions": places}
    good |= {"errors": values, "losses": values}
    with pytest.raises((ValueError, TypeError), match=message):
        tt.analysis.Line(**good | change)


@pytest.mark.parametrize("damage", ["{", '{"lines": []}', "no position"])
def test_a_damaged_file_is_refused(tmp_path, damage):
    path = tmp_path / "a.json"
    tt.analysis.Instability([line()]).save(path)
    if damage == "no position":
        content = json.loads(path.read_text())
        content["lines"][0]["positions"] = [0.5, 0.1, 0.2]
        damage = json.dumps(content)
    path.write_text(damage)
    with pytest.raises(ValueError, match="a.json"):
        tt.analysis.Instability.load(path)
    with pytest.raises(FileNotFoundError, match="no instability analysis"):
        tt.analysis.Instability.load(tmp_path / "absent")


@pytest.mark.matrix
@pytest.mark.parametrize("kind", ["function", "PyDataset"])
def test_data_of_other_kinds_give_lines(kind, tmp_path):
    x, y = tiny.data()

    class Rows(keras.utils.PyDataset):
        def __len__(self):
            return 4

        def __getitem__(self, index):
            rows = self.order[16 * index : 16 * index + 16]
            return x[rows], y[rows]

        def reorder(self, key):
            self.order = np.random.default_rng(list(key)).permutation(64)

    def of(key):
        order = np.random.default_rng(list(key)).permutation(64).reshape(4, 16)
        return ((x[rows], y[rows]) for rows in order)

    train = Rows() if kind == "PyDataset" else of
    data = tt.TrainingData(train, tiny.data(32, seed=1), steps_per_epoch=4)
    arguments = {"data": data, "batch_size": None, "rewind_to": ["init", 1]}
    result = analyse(tmp_path, **arguments, part="train", seeds=(5, 6))
    assert result.part == "train"
    assert all(line.distance > 0 for line in result.lines)
    assert analyse(**arguments, part="train", seeds=(5, 6)).lines == result.lines
