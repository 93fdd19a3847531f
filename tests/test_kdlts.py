"""Compares KDLTS with brute force; checks what the search must not change."""

import functools
import itertools

import keras
import numpy as np
import pytest
import tiny

import tf_tickets as tt
from tf_tickets import wrapping
from tf_tickets.distillation.losses import FeatureDistillation
from tf_tickets.search.methods import kdlts as kdlts_module
from tf_tickets.training import snapshots
from tf_tickets.wrapping import graphs

pytestmark = pytest.mark.turns

STEPS = 400


def planted(seed):
    """Returns the 12 weights of a network, a mask that keeps half, and inputs.

    The mask keeps 4 of 9 and 2 of 3 weights, as ERK would.
    """
    rng = np.random.default_rng(seed)
    weights = [rng.normal(size=shape) for shape in ((3, 3), (3, 1))]
    mask = np.concatenate([rng.permutation(9) < 4, rng.permutation(3) < 2])
    return weights, mask, rng.normal(size=(64, 3)).astype("float32")


def split(mask):
    return mask[:9].reshape(3, 3), mask[9:].reshape(3, 1)


def outputs(weights, mask, x):
    """Computes hidden layer and output in NumPy."""
    first, last = (w * m for w, m in zip(weights, split(mask), strict=True))
    hidden = np.tanh(x @ first)
    return hidden, hidden @ last


def small():
    dense = keras.layers.Dense
    layers = [dense(3, "tanh", use_bias=False), dense(1, use_bias=False)]
    model = keras.Sequential([keras.Input((3,)), *layers], name="net")
    adam = keras.optimizers.Adam(0.1)
    model.compile(adam, steps_per_execution=50, jit_compile=tiny.JIT)
    return model


def every_half():
    for chosen in itertools.combinations(range(12), 6):
        mask = np.zeros(12, bool)
        mask[list(chosen)] = True
        yield mask


def gap(weights, mask, truth, x):
    """Computes in NumPy what the search minimizes."""
    pairs = zip(outputs(weights, mask, x), outputs(weights, truth, x), strict=True)
    return sum(float(np.mean((a - b) ** 2)) for a, b in pairs)


CASES = {
    "budget": {"mask": "budget"},
    "topk": {"mask": "topk", "allocation": "erk"},
}


# Twenty searches, and selecting the top scores, are slow on TensorFlow.
@pytest.mark.on("jax")
@pytest.mark.parametrize("name", tiny.marked(list(CASES), ["budget"]))
def test_a_planted_ticket_is_found_as_brute_force_finds_it(name):
    given, teacher = CASES[name], small()
    losses = [FeatureDistillation(0, normalize=None)]
    losses.append(FeatureDistillation(normalize=None))
    search = tt.KDLTS(0.5, 1, losses, train_weights=False, monitor="loss", **given)
    model = search.taught_by(teacher).wrap(small(), verbose=False)
    found, better = [], []
    for seed in range(20):
        weights, truth, x = planted(seed)
        teacher.set_weights([w * m for w, m in zip(weights, split(truth), strict=True)])
        for variable, w in zip(
            wrapping.plain_paths(model.student).values(), weights, strict=True
        ):
            variable.assign(w)
        data = model.remember(np.tile(x, (STEPS, 1)))
        model.fit(data, batch_size=64, shuffle=False, callbacks=[search], verbose=0)
        mask = np.concatenate([m.ravel() for m in search.tickets[0].masks.values()])
        assert mask.sum() == 6
        all_gaps = [gap(weights, each, truth, x) for each in every_half()]
        own = gap(weights, mask, truth, x)
        found.append(own <= min(all_gaps) + 1e-12)
        better.append(own < np.median(all_gaps))
    assert sum(found) >= 12
    assert all(better)


def network(search, **kwargs):
    keras.utils.set_random_seed(0)
    return search.wrap(tiny.compiled(tiny.build(**kwargs)), verbose=False)


@functools.cache
def teachers(count=2):
    """Returns teachers, trained once: no search changes them."""
    found = []
    for seed in range(count):
        keras.utils.set_random_seed(0)
        found.append(tiny.compiled(tiny.build()))
        keras.utils.set_random_seed(seed)
        found[-1].fit(*tiny.data(), batch_size=16, verbose=0)
    return found


def kdlts(count=2, **kwargs):
    arguments = {"final_sparsity": 0.8, "epochs": 3, "monitor": "loss", **kwargs}
    return tt.KDLTS(**arguments).taught_by(*teachers(count))


@pytest.mark.both
@pytest.mark.parametrize(
    "mask, allocation",
    tiny.in_turns(
        itertools.product(["budget", "soft", "topk"], ["global", "erk", "uniform"]),
        every=4,
    ),
)
def test_exactly_so_many_weights_are_kept(mask, allocation):
    if (mask, allocation) == ("topk", "global"):
        with pytest.raises(ValueError, match="Received: allocation='global'"):
            kdlts(mask=mask, allocation=allocation)
        return
    if mask == "soft":
        mask = tt.masks.SoftMask(penalty=1e-3, scale_mask=False)
    search = kdlts(allocation=allocation, mask=mask)
    model = network(search)
    history = tiny.run(model, search)
    [ticket] = search.tickets
    assert sum(ticket.kept.values()) == 18 and len(history["excess"]) == 3
    expected = {"erk": [10, 8], "uniform": [12, 6]}.get(allocation)
    assert expected in (None, list(ticket.kept.values()))


@pytest.mark.on("jax")
def test_the_lagrangian_comes_to_the_number_by_itself():
    """Without the final ranking, for a shared budget and for one per kernel."""
    for allocation in ("global", "uniform"):
        search = kdlts(epochs=30, allocation=allocation, score_optimizer="adam")
        search = tt.KDLTS.from_config(search.get_config())
        search.score_optimizer.learning_rate = 0.05
        model = network(search.taught_by(*teachers(1)))
        history = tiny.run(model, search)
        assert abs(history["excess"][-1]) < 0.06 and history["excess"][0] > 0.2


@pytest.mark.parametrize("count", tiny.in_turns([0, 2]))
def test_neither_validation_nor_teachers_move_the_budget(count):
    """The budget moves once per training step, however often losses are collected."""

    def found(**kwargs):
        search = kdlts(count, epochs=2)
        model = network(search, dropout=0.0)
        history = tiny.run(model, search, **kwargs)
        mask = next(iter(wrapping.kernels(model).mask_layers.values()))
        return float(mask.multiplier), search.tickets[0].masks, history

    alone, masks, _ = found()
    x, y = tiny.data(32, seed=1)
    watched, again, history = found(validation_data=(x, y), validation_batch_size=1)
    assert alone == watched > 0.0 and tiny.same(masks.values(), again.values())
    # The constraint is not part of the validation loss.
    assert history["val_loss"][-1] > 0.0


def test_the_multiplier_is_that_of_the_formula():
    stays = keras.optimizers.SGD(1e-9)
    search = kdlts(0, epochs=1, mask=tt.masks.BudgetMask(3.0), score_optimizer=stays)
    model = network(search)
    seen = []

    class Look(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            masks = list(wrapping.kernels(self.model).mask_layers.values())
            seen.append([float(masks[0].multiplier), float(masks[0].target)])

    # With constant scores, half of the weights are kept at every step.
    tiny.run(model, search, [Look(), search])
    [(multiplier, target)] = seen
    comes_down = [target + 0.3 * max(1 - s / 2.4, 0) ** 3 for s in range(4)]
    expected = sum(3.0 * (0.5 - allowed) / 4 for allowed in comes_down)
    assert target == pytest.approx(0.2)
    assert multiplier == pytest.approx(expected, rel=1e-5)


# Keras warns that an optimizer that is not built yet ignores saved state.
@pytest.mark.filterwarnings("ignore:Skipping variable loading for optimizer")
def test_it_is_saved_while_it_learns(tmp_path):
    search = kdlts()
    model = network(search)
    tiny.run(model, search)
    model.save(tmp_path / "a.keras")
    loaded = keras.saving.load_model(tmp_path / "a.keras")
    assert tiny.same(model.get_weights(), loaded.get_weights())
    model.save_weights(tmp_path / "a.weights.h5")
    other = network(kdlts())
    other.load_weights(tmp_path / "a.weights.h5", skip_mismatch=True)
    assert tiny.same(model.get_weights(), other.get_weights())


@pytest.mark.filterwarnings("ignore:All weights of:UserWarning")
def test_its_metrics_tell_the_sparsity_of_the_ticket():
    search = kdlts(allocation="uniform", final_sparsity=0.99, mask="topk")
    tiny.run(network(search), search)
    [ticket] = search.tickets
    # One weight each, in the search and the ticket, instead of 0.9 and 0.1.
    assert list(ticket.kept.values()) == [1, 1]
    assert ticket.metrics["sparsity"] == pytest.approx(ticket.sparsity)
    assert ticket.metrics["ticket_sparsity"] == pytest.approx(ticket.sparsity)


def usual(layers):
    keras.utils.set_random_seed(0)
    model = tt.wrap(keras.Sequential([keras.Input((6,)), *layers]), verbose=False)
    return kdlts_module._default_losses(model)


def test_what_is_learned_by_default_fits_the_network():
    dense = keras.layers.Dense
    [answers, feature, _] = usual(
        [dense(4, name="a"), keras.layers.Dropout(0.5), dense(3)]
    )
    assert answers.from_logits and feature.teacher_layer_name == 0
    [answers, relation] = usual([dense(3, activation="softmax")])
    assert not answers.from_logits and relation.teacher_layer_name is None
    inside = keras.Sequential([keras.Input((6,)), dense(4), dense(3)])
    assert len(usual([keras.layers.Rescaling(2.0), inside])) == 2
    wide = keras.Input((6,))
    deep = dense(4, name="deep")(wide)
    both = [dense(3, name="head")(deep), dense(3, name="short")(wide)]
    model = keras.Model(wide, keras.layers.Add()(both))
    model = tt.wrap(model, verbose=False)
    heads = {layer.name: layer for layer in model.layers if wrapping.prunables(layer)}
    assert graphs.layer_before(model, heads["deep"]) is None
    assert graphs.layer_before(model, heads["head"]).name == "deep"
    # The last kernel is that of the head, or of the shortcut from the input.
    place = kdlts_module._before_last_kernel(model)
    assert place is None or model.layers[place].name == "deep"


def test_a_projection_is_no_part_of_the_ticket():
    answers = tt.distillation.FeatureDistillation(0, project=True)
    search = kdlts(distillation_losses=[answers])
    model = network(search)
    tiny.run(model, search)
    [ticket] = search.tickets
    assert not [path for path in ticket.weights if "projection" in path]
    trainer = tt.TicketTrainer(tiny.build_compiled, tiny.splits(), batch_size=16)
    assert trainer.train(ticket, 1)["val_loss"] > 0.0


def kernels_of(model):
    kernels = wrapping.kernels(model).variables.items()
    return {path: wrapping.to_numpy(variable) for path, variable in kernels}


@pytest.mark.both
@pytest.mark.parametrize("train_weights", [True, False])
def test_all_but_the_mask_is_as_it_was(train_weights):
    search = kdlts(train_weights=train_weights)
    model = network(search)
    before = kernels_of(model)
    teachers_before = [t.get_weights() for t in search.engine.plan.teachers]
    trained = {}

    class Look(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            trained.update(kernels_of(self.model))

    tiny.run(model, search, [Look(), search])
    ticket = search.tickets[0]
    now = wrapping.plain_paths(model)
    for path, weight in ticket.weights.items():
        assert (wrapping.to_numpy(now[path]) == weight).all()
    moved = [(before[path] != trained[path]).any() for path in before]
    assert moved == [train_weights] * 2
    for path, weight in before.items():
        assert ticket.weights[path].tobytes() == weight.tobytes()
    statistics = [w for p, w in ticket.weights.items() if "moving" in p]
    assert [set(w.tolist()) for w in statistics] == [{0.0}, {1.0}]
    # The model is the untrained ticket.
    assert tiny.same(wrapping.kernels(model).masks.values(), ticket.masks.values())
    assert wrapping.kernels(model).sparsity == 0.8
    for teacher, weights in zip(
        search.engine.plan.teachers, teachers_before, strict=True
    ):
        assert tiny.same(teacher.get_weights(), weights)


@pytest.mark.on("jax")
def test_teachers_labels_and_each_kind_of_information_change_the_ticket():
    def mask(**kwargs):
        search = kdlts(**{"final_sparsity": 0.5, "epochs": 5, **kwargs})
        tiny.run(network(search), search)
        return [m.tobytes() for m in search.tickets[0].masks.values()]

    answers = [tt.distillation.LogitsDistillation(4.0)]
    relations = [tt.distillation.DistanceDistillation("hidden")]
    found = [
        mask(),
        mask(count=1),
        mask(count=0),
        mask(distillation_losses=answers),
        mask(distillation_losses=relations),
        mask(student_loss_weight=0.0),
    ]
    assert mask() == found[0]
    assert len({tuple(f) for f in found}) == len(found)


def test_an_early_training_ticket_starts_from_a_later_moment():
    search = kdlts(rewind_to="2 steps")
    model = network(search)
    before = snapshots.record(model)["weights"]
    tiny.run(model, search)
    weights = search.tickets[0].weights
    kernel = next(path for path in before if path.endswith("kernel"))
    assert (weights[kernel] != before[kernel]).any()
    assert search.tickets[0].provenance["step"] == 2


@pytest.mark.on("jax")
def test_it_is_found_with_resuming_and_trained_like_every_ticket(tmp_path):
    search = kdlts(monitor="val_loss")
    arguments = {"batch_size": 16, "verbose": 0}
    data = tiny.splits()
    [ticket] = tt.find_tickets(tiny.build_compiled, data, search, tmp_path, **arguments)
    other = kdlts(monitor="val_loss")
    [again] = tt.find_tickets(tiny.build_compiled, data, other, tmp_path, **arguments)
    assert again.id == ticket.id
    trainer = tt.TicketTrainer(tiny.build_compiled, data, batch_size=16)
    metrics = trainer.train(ticket, 2)
    assert metrics == trainer.train(again, 2) and metrics["val_loss"] > 0.0
    assert wrapping.kernels(trainer.model).sparsity == 0.8
    with pytest.raises(ValueError, match="another search"):
        fewer = kdlts(1, monitor="val_loss")
        tt.find_tickets(tiny.build_compiled, data, fewer, tmp_path, **arguments)


def test_without_teachers_it_asks_for_them():
    with pytest.raises(ValueError, match="no teachers.*taught_by"):
        network(tt.KDLTS())
    search = kdlts()
    varied = search.varied(final_sparsity=[0.5, 0.6]).values()
    assert [len(other.engine.plan.teachers) for other in varied] == [2, 2]


def test_teachers_begin_alike_see_other_orders_and_are_kept(tmp_path):
    def found(epochs=(1, 1, 2), directory=tmp_path, build=tiny.build_compiled):
        return tt.train_teachers(build, tiny.splits(), epochs, directory, batch_size=16)

    def with_other_optimizer():
        return tiny.compiled(tiny.build(), "rmsprop")

    first = found()
    kernels = [teacher.get_weights()[0] for teacher in first]
    assert not (kernels[0] == kernels[1]).all() and len(first) == 3
    files = {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    again = found()
    for left, right in zip(first, again, strict=True):
        assert tiny.same(left.get_weights(), right.get_weights())
    assert files == {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    fresh = found(directory=None)
    assert tiny.same(fresh[2].get_weights(), first[2].get_weights())
    with pytest.raises(ValueError, match="other teachers"):
        found(epochs=(1, 1))
    with pytest.raises(ValueError, match="other teachers: optimizer"):
        found(build=with_other_optimizer)
    with pytest.raises(ValueError, match="Received: 0"):
        found(epochs=(0,), directory=None)
