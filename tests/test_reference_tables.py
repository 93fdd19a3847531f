"""Compares the algorithms with numbers that the original code computed.

Each file in `tests/references` has the numbers of one repository. Every entry names the
commit, the file, the function and the inputs. The inputs are values of `wave`, so that
no random generator matters. Deliberate differences are computed and tested, too.
"""

import functools
import json
import math
import pathlib

import keras
import numpy as np
import pytest
import tiny
from gradients import gradient
from keras import layers as kl

import tf_tickets as tt
from tf_tickets import distillation as dl
from tf_tickets import wrapping
from tf_tickets.masks.annealing import ExponentialTemperature, GrowingPenalty
from tf_tickets.masks.penalized import PenalizedMask
from tf_tickets.pruning import (
    allocation,
    criteria,
    curvature,
    derivatives,
    saliency,
    schedules,
    selection,
)

pytestmark = pytest.mark.turns("tensorflow")

FOLDER = pathlib.Path(__file__).parent / "references"


def wave(shape, shift):
    """Returns sines of 1.7, 3.4, 5.1, ... after a shift."""
    return np.sin(shift + 1.7 * np.arange(1, math.prod(shape) + 1)).reshape(shape)


def wave32(shape, shift, factor=1.0):
    return (factor * wave(shape, shift)).astype("float32")


@functools.cache
def entries(repository):
    return json.loads((FOLDER / f"{repository}.json").read_text("utf-8"))["entries"]


def mask_of(digits, shape):
    """Returns the boolean mask written as a string of 0 and 1."""
    return np.array([digit == "1" for digit in digits]).reshape(shape)


def close(found, expected, tolerance):
    """Asserts that all differences are below a fraction of the largest value."""
    expected = np.asarray(expected)
    difference = np.abs(np.asarray(found).reshape(expected.shape) - expected).max()
    assert difference <= tolerance * np.abs(expected).max()


def test_every_entry_names_its_source():
    for path in FOLDER.glob("*.json"):
        content = json.loads(path.read_text("utf-8"))
        assert content["repository"].startswith("https://github.com/")
        commit = content["commit"]
        assert len(commit) == 40 or commit.startswith("release "), path
        for name, entry in content["entries"].items():
            assert entry["file"] and entry["function"] and entry["fed"], name


# Iterative magnitude pruning.

SHAPES = {"a": (6, 10), "b": (10, 5), "c": (5, 3)}
RATES = {"a": 0.2, "b": 0.2, "c": 0.1}


def magnitudes(shift, growth=0.0):
    magnitude = criteria.get("magnitude")
    return {
        path: magnitude((1.0 + growth * place) * wave(shape, 0.3 * place + shift))
        for place, (path, shape) in enumerate(SHAPES.items())
    }


def tied_magnitudes():
    magnitude = criteria.get("magnitude")
    return {
        path: magnitude(np.round(4.0 * wave(shape, 0.3 * place)) / 4.0)
        for place, (path, shape) in enumerate(SHAPES.items())
    }


def all_kept():
    return {path: np.ones(shape, bool) for path, shape in SHAPES.items()}


def masks_of(strings):
    return {path: mask_of(strings[path], shape) for path, shape in SHAPES.items()}


def assert_same_masks(found, expected):
    assert {p: m.tolist() for p, m in found.items()} == {
        p: m.tolist() for p, m in expected.items()
    }


def test_layerwise_masks_are_those_of_the_lottery_ticket_code_but_for_one_weight():
    """Their code prunes one weight more than asked in each kernel."""
    masks = all_kept()
    for round_, strings in enumerate(
        entries("lottery-ticket-hypothesis")["rounds"]["kept"]
    ):
        scores, theirs = magnitudes(round_), masks_of(strings)
        counts = allocation.after_rates(masks, RATES)
        fewer = {path: count - 1 for path, count in counts.items()}
        assert_same_masks(selection.choose(scores, masks, fewer), theirs)
        for path, mask in selection.choose(scores, masks, counts).items():
            [spared] = scores[path][mask & ~theirs[path]]
            assert spared == scores[path][mask].min()
        masks = theirs


def test_global_masks_are_those_of_openlth_but_for_the_count():
    """Their code rounds up, and prunes one weight more than that."""
    masks = all_kept()
    for round_, strings in enumerate(entries("open_lth")["rounds"]["kept"]):
        scores, theirs = magnitudes(round_, growth=0.5), masks_of(strings)
        alive = sum(int(mask.sum()) for mask in masks.values())
        count = alive - math.ceil(0.2 * alive) - 1
        assert_same_masks(selection.choose(scores, masks, count), theirs)
        ours = allocation.after_rate(masks, 0.2)
        assert ours == alive - round(0.2 * alive) > count
        kept = selection.choose(scores, masks, ours)
        for path, mask in theirs.items():
            assert (kept[path] & mask).sum() == mask.sum()
        masks = theirs


@pytest.mark.parametrize("repository", ["lottery-ticket-hypothesis", "open_lth"])
def test_of_tied_weights_their_code_prunes_all_and_ours_the_exact_number(repository):
    theirs = masks_of(entries(repository)["ties"]["kept"])
    scores, masks = tied_magnitudes(), all_kept()
    if repository == "open_lth":
        counts = allocation.global_(
            scores, masks, allocation.after_rate(masks, RATES["a"])
        )
        pooled = np.sort(np.concatenate([s.ravel() for s in scores.values()]))
        cutoffs = dict.fromkeys(SHAPES, pooled[25])
    else:
        counts = allocation.after_rates(masks, RATES)
        cutoffs = {
            path: np.sort(score.ravel())[score.size - counts[path]]
            for path, score in scores.items()
        }
    ours = selection.choose(scores, masks, counts)
    spared = 0
    for path, score in scores.items():
        assert (theirs[path] == (score > cutoffs[path])).all()
        assert ours[path].sum() == counts[path]
        assert (ours[path] | ~theirs[path]).all()
        assert (score[ours[path] & ~theirs[path]] == cutoffs[path]).all()
        spared += int((ours[path] & ~theirs[path]).sum())
    assert spared > 3  # A tie, not only their one weight more per kernel.


# Continuous Sparsification.


def constant(temperature):
    return ExponentialTemperature(temperature, temperature)


@pytest.mark.both
@pytest.mark.parametrize("temperature", ["1", "14.142", "200"])
def test_soft_masks_are_those_of_the_cs_code(temperature):
    entry = entries("continuous-sparsification")["mask"]
    schedule = constant(float(temperature))
    mask = tt.masks.SoftMask(entry["initial_score"], temperature=schedule)
    shape = (3, 3, 2, 3)
    mask.build(shape)
    mask.scores.assign(wave32(shape, 0.0))
    close(mask.factor("float32"), np.reshape(entry["soft"][temperature], shape), 3e-7)
    assert (mask.value() == mask_of(entry["ticket"], shape)).all()
    assert mask.kept_scale == pytest.approx(entry["ticket_scale"], rel=1e-7)


IMAGES = wave32((32, 6, 6, 1), 0.4)
CLASSES = np.arange(32) * 7 % 3


def convolutional(decay=None):
    """Returns the network of the CS runs: a convolution, a mean, a dense layer."""

    def regularizer():
        # PyTorch's decay d adds d * w to the gradient, as d / 2 * w ** 2 in the loss.
        return decay and keras.regularizers.L2(decay / 2)

    conv = kl.Conv2D(
        4, 3, padding="same", use_bias=False, kernel_regularizer=regularizer()
    )
    conv.name = "conv"
    dense = kl.Dense(
        3,
        kernel_regularizer=regularizer(),
        bias_regularizer=regularizer(),
        name="dense",
    )
    model = keras.Sequential(
        [keras.Input((6, 6, 1)), conv, kl.ReLU(), kl.GlobalAveragePooling2D(), dense],
        name="net",
    )
    conv.set_weights([wave32((3, 3, 1, 4), 1.0)])
    dense.set_weights([wave32((4, 3), 2.0), np.zeros(3)])
    return model


def cross_entropy():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def test_loss_and_gradients_are_those_of_the_cs_code():
    entry = entries("continuous-sparsification")["gradient"]
    temperature = constant(entry["temperature"])
    mask = tt.masks.SoftMask(entry["initial_score"], 1e-3, temperature)
    model = tt.wrap(convolutional(), filters="conv", mask=mask, verbose=False)
    kernel = wrapping.kernels(model).variables["net/conv/kernel"]
    [mask] = wrapping.kernels(model).mask_layers.values()
    scores = mask.scores
    scores.assign(wave32((3, 3, 1, 4), 0.7, 0.3))

    def loss():
        penalty = mask.after_forward(scores.value)
        return cross_entropy()(CLASSES[:8], model(IMAGES[:8])) + penalty

    assert float(loss()) == pytest.approx(entry["loss"], rel=1e-6)
    close(gradient(loss, kernel), np.reshape(entry["weight"], kernel.shape), 2e-6)
    close(gradient(loss, scores), np.reshape(entry["scores"], kernel.shape), 2e-6)


@pytest.mark.both
def test_a_round_of_16_steps_and_the_next_scores_are_those_of_the_cs_code():
    entry = entries("continuous-sparsification")["training"]
    search = tt.ContinuousSparsification(
        2,
        4,
        entry["initial_score"],
        ExponentialTemperature(1.0, 100.0, per="epoch"),
        penalty=1e-3,
        between_rounds="code",
        monitor="loss",
    )
    decay, seen = 1e-4, {}
    model = convolutional(decay)
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True)
    model.compile(optimizer, cross_entropy(), jit_compile=tiny.JIT)
    model = search.wrap(model, filters="conv", verbose=False)
    scores = wrapping.kernels(model).mask_layers["net/conv/kernel"].scores

    class Recorder(keras.callbacks.Callback):
        def record(self, when):
            values = {
                path: wrapping.to_numpy(variable)
                for path, variable in wrapping.plain_paths(self.model).items()
            }
            seen[when] = {"scores": wrapping.to_numpy(scores), **values}

        def on_epoch_begin(self, epoch, logs=None):
            self.record(f"begin {epoch}")

        def on_epoch_end(self, epoch, logs=None):
            self.record(f"end {epoch}")

    history = model.fit(
        IMAGES,
        CLASSES,
        batch_size=8,
        epochs=8,
        shuffle=False,
        verbose=0,
        callbacks=[search, Recorder()],
    ).history
    assert history["temperature"][:4] == pytest.approx(entry["temperatures"], rel=1e-5)
    # Keras reports the decay as a part of the loss, PyTorch does not.
    losses = np.add(entry["losses"], decay / 2 * np.array(entry["squared_norms"]))
    expected = losses.reshape(4, 4).mean(axis=1)
    assert history["loss"][:4] == pytest.approx(expected.tolist(), rel=2e-6)
    end = seen["end 3"]
    close(end["net/conv/kernel"].ravel(), entry["weight"], 5e-6)
    close(end["scores"].ravel(), entry["scores"], 5e-6)
    close(end["net/dense/kernel"].ravel(), entry["linear"], 5e-6)
    close(end["net/dense/bias"], entry["bias"], 5e-6)
    ticket = search.tickets[0].masks["net/conv/kernel"]
    assert (ticket == mask_of(entry["ticket"], ticket.shape)).all()
    close(seen["begin 4"]["scores"].ravel(), entry["scores_of_the_next_round"], 5e-6)


# Pruning at initialization.

IMAGES_2 = wave32((24, 5, 5, 2), 0.6)
CLASSES_2 = np.arange(24) * 5 % 3
KERNELS = {"c": (3, 3, 2, 4), "a": (4, 5), "b": (5, 3)}


def network_of_synflow(activation, bias):
    model = keras.Sequential(
        [
            keras.Input((5, 5, 2)),
            kl.Conv2D(4, 3, padding="same", activation=activation, name="c"),
            kl.GlobalAveragePooling2D(),
            kl.Dense(5, activation=activation, name="a"),
            kl.Dense(3, name="b"),
        ],
        name="net",
    )
    for place, (name, shape) in enumerate(KERNELS.items()):
        factor = 0.5 if name == "c" else 1.0
        kernel = wave32(shape, (place + 1) / 10, factor)
        layer = model.get_layer(name)
        layer.set_weights([kernel, wave32(shape[-1:], float(place), bias)])
    model = tt.wrap(model, verbose=False)
    model.compile("sgd", cross_entropy())
    return model


def by_name(scores):
    return {name: scores[f"net/{name}/kernel"] for name in KERNELS}


def assert_scores_and_masks(scores, entry, tolerance):
    found = np.concatenate([scores[name].ravel() for name in KERNELS])
    expected = np.concatenate([entry["scores"][name] for name in KERNELS])
    close(found, expected, tolerance)
    masks = {name: np.ones(shape, bool) for name, shape in KERNELS.items()}
    # Of 107 weights at a density of 0.35 their code keeps 107 - int(69.55), ours
    # 107 - round(69.55).
    theirs = {name: mask_of(entry["kept"][name], KERNELS[name]) for name in KERNELS}
    assert sum(int(mask.sum()) for mask in theirs.values()) == 38
    assert allocation.weights_at(0.65, masks) == 37
    assert_same_masks(selection.choose(scores, masks, 38), theirs)


def test_snip_scores_are_those_of_the_synflow_code():
    """Theirs are divided by their sum."""
    model = network_of_synflow("tanh", 0.5)
    scores = by_name(saliency.SNIP(IMAGES_2, CLASSES_2, batch_size=12)(model))
    total = sum(float(score.sum()) for score in scores.values())
    scores = {name: score / total for name, score in scores.items()}
    assert_scores_and_masks(scores, entries("Synaptic-Flow")["SNIP"], 2e-6)


def test_grasp_scores_are_those_of_the_synflow_code():
    """Theirs are divided by the absolute value of their sum plus 1e-10."""
    model = network_of_synflow("tanh", 0.5)
    scores = by_name(saliency.GraSP(IMAGES_2, CLASSES_2, batch_size=12)(model))
    entry = entries("Synaptic-Flow")["GraSP"]
    # The constant matters here, because the sum is small. It is taken out of theirs.
    total = sum(float(np.sum(entry["scores"][name])) for name in KERNELS)
    ours = sum(float(score.sum()) for score in scores.values())
    scores = {name: score / abs(ours) * abs(total) for name, score in scores.items()}
    assert_scores_and_masks(scores, entry, 1e-5)


@pytest.mark.parametrize("bias", [0.0, 0.5])
def test_synflow_scores_are_those_of_the_synflow_code_without_biases(bias):
    """Their code leaves absolute biases in the network, ours leaves them out."""
    model = network_of_synflow("relu", bias)
    scores = by_name(saliency.synflow(model))
    assert_scores_and_masks(scores, entries("Synaptic-Flow")["SynFlow"], 2e-6)
    if not bias:
        return
    flows = {
        name: np.abs(weights).astype("float64")
        for name, weights in by_name(wrapping.kernels(model).weights).items()
    }
    biases = [np.abs(wave((units,), shift) / 2) for shift, units in ((0, 4), (1, 5))]
    added = {
        "c": 0.0,
        "a": biases[0][:, None] * flows["a"] * flows["b"].sum(axis=1),
        "b": (biases[0] @ flows["a"] + biases[1])[:, None] * flows["b"],
    }
    scores = {name: scores[name] + added[name] for name in KERNELS}
    entry = entries("Synaptic-Flow")["SynFlow with biases"]
    assert_scores_and_masks(scores, entry, 2e-6)


# Erdos-Renyi-Kernel.


@pytest.mark.parametrize("net", ["lenet300", "resnet20", "vgg16"])
@pytest.mark.parametrize("sparsity", [0.5, 0.8, 0.9, 0.95])
def test_erk_counts_are_those_of_rigl_and_jaxpruner_but_for_rounding(net, sparsity):
    """Their code rounds every kernel on its own, ours keeps the total exact."""
    shapes = entries("rigl")["erk"]["shapes"][net]
    masks = {str(i): np.ones(shape, bool) for i, shape in enumerate(shapes)}
    sizes = [mask.size for mask in masks.values()]
    # They distribute the sum of size - floor(size * sparsity).
    shared = sum(size - math.floor(size * sparsity) for size in sizes)
    ours = list(allocation.erk({}, masks, shared).values())
    assert sum(ours) == shared
    for repository, rounding in (("rigl", (0, 1)), ("jaxpruner", (-1, 0, 1))):
        theirs = entries(repository)["erk"]["kept"][net][str(sparsity)]
        assert len(theirs) == len(ours)
        for own, other, size in zip(ours, theirs, sizes, strict=True):
            assert other - own in (rounding if own < size else (0,))
    keep = allocation.weights_at(sparsity, masks)
    exact = list(allocation.erk({}, masks, keep).values())
    assert sum(exact) == keep == sum(sizes) - round(sum(sizes) * sparsity)
    assert 0 <= shared - keep <= len(sizes)
    theirs = entries("rigl")["erk"]["kept"][net][str(sparsity)]
    assert max(abs(a - b) for a, b in zip(exact, theirs, strict=True)) <= 2


# RigL.


class Exchanges(tt.DynamicSparsity):
    """Records the steps of exchanges and their fractions instead of exchanging."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.seen = {}

    def _exchange(self, fraction):
        self.seen[self._exchanges * self.interval] = fraction


def in_training(callback, model, steps=100):
    callback.set_model(model)
    callback.set_params({"steps": steps, "epochs": 1})
    callback.on_train_begin()
    return callback


def wrapped_dense(kernel, mask):
    model = keras.Sequential(
        [keras.Input(kernel.shape[:1]), kl.Dense(kernel.shape[1], use_bias=False)],
        name="net",
    )
    model.layers[0].name = "d"
    model.set_weights([kernel])
    model = tt.wrap(model, verbose=False)
    wrapping.kernels(model).set_masks(dict.fromkeys(wrapping.kernels(model), mask))
    model.compile("sgd", "mse", jit_compile=tiny.JIT)
    return model


def test_exchanges_happen_at_the_steps_and_with_the_fractions_of_rigl_and_jaxpruner():
    model = wrapped_dense(wave32((4, 5), 0.0), np.ones((4, 5), bool))
    training = in_training(Exchanges(0.5, interval=10), model)
    for step in range(1, 101):
        training.advance(step)
    theirs = entries("jaxpruner")
    assert list(training.seen) == theirs["firings"]["steps"]
    # In rigl this needs begin_step=interval. With 0, the first exchange is at step 1.
    assert list(training.seen) == entries("rigl")["firings"]["begin 10"]
    assert entries("rigl")["firings"]["begin 0"] == [s - 9 for s in range(10, 81, 10)]
    for cosine in (theirs["cosine"], entries("rigl")["cosine"]):
        found = [training.fraction(step) for step in cosine["steps"]]
        np.testing.assert_allclose(found, cosine["fraction"], atol=1e-7)
        fractions = dict(zip(cosine["steps"], cosine["fraction"], strict=True))
        for step, fraction in training.seen.items():
            assert fraction == pytest.approx(fractions[step], abs=1e-7)


def exchanged(case, fraction):
    """Returns the mask and the masked kernel after one exchange."""
    shape = (8, 6)
    before = mask_of(case["before"], shape)
    model = wrapped_dense(wave32(shape, 0.2), before)

    def dense_gradient(weight):
        return np.abs(wave(shape, 0.9))

    training = in_training(tt.DynamicSparsity(0.5, dense_gradient), model)
    training._exchange(fraction)
    [after] = wrapping.kernels(model).masks.values()
    [kernel] = wrapping.kernels(model).weights.values()
    return after, kernel * after


@pytest.mark.parametrize("name", ["half", "nearly dense", "rounded down", "rounding"])
def test_an_exchange_is_that_of_jaxpruner(name):
    case = entries("jaxpruner")["update"]["cases"][name]
    after, _ = exchanged(case, case["fraction"])
    assert (after == mask_of(case["after"], after.shape)).all()
    assert (after & ~mask_of(case["before"], after.shape)).any()


@pytest.mark.parametrize("name", ["half", "nearly dense", "rounded down"])
def test_an_exchange_is_that_of_rigl_which_rounds_down(name):
    case = entries("rigl")["update"]["cases"][name]
    count = case["before"].count("1")
    dropped = int(case["fraction"] * count)
    after, kernel = exchanged(case, dropped / count)
    assert (after == mask_of(case["after"], after.shape)).all()
    # Weights that grow start at 0, those dropped and grown at once keep their value.
    theirs = np.reshape(case["weights"], after.shape) * after
    np.testing.assert_allclose(kernel, theirs, atol=1e-7)
    rounded_up = round(case["fraction"] * count) > dropped
    assert rounded_up is (name == "rounded down" or name == "nearly dense")


# DLTH.


@pytest.mark.parametrize(
    ("schedule", "power"),
    tiny.marked([("x", 1), ("x^2", 2), ("x^3", 3)], [("x^3", 3)]),
)
def test_penalized_training_is_that_of_the_dlth_code(schedule, power):
    """Their strength ends one increment above the limit, ours at its cap."""
    entry = entries("DLTH")[schedule]
    capped = GrowingPenalty(0.02, interval=5, power=power, hold=19)
    steps = np.arange(0, 270, 10)
    ours = keras.ops.convert_to_numpy(capped(steps, 270, 3))
    np.testing.assert_allclose(ours, np.minimum(entry["strengths"], 1.0), rtol=5e-6)
    assert entry["last_strength"] == pytest.approx(1.02**power, rel=2e-6)
    assert entry["passed"] + 1 == capped.growth == 251
    # With their last strength as the cap, whole trainings agree.
    penalty = GrowingPenalty(0.02, interval=5, cap=1.02**power, power=power)
    model = keras.Sequential(
        [keras.Input((5,)), kl.Dense(4, use_bias=False, name="d")], name="net"
    )
    model.set_weights([wave32((5, 4), 0.0)])
    model = tt.wrap(model, mask=PenalizedMask(penalty), verbose=False)
    optimizer = keras.optimizers.SGD(0.05, momentum=0.9)
    model.compile(optimizer, "mse", jit_compile=tiny.JIT)
    [mask] = wrapping.kernels(model).mask_layers.values()
    mask.choose((np.arange(20) * 7 % 20 < 10).reshape(5, 4), 270, 3)
    inputs = np.tile(wave32((16, 5), 0.5), (45, 1))
    targets = np.tile(wave32((16, 4), 1.5), (45, 1))
    for weights in entry["weights"].values():  # After 90, 180 and 270 steps.
        model.fit(inputs, targets, batch_size=8, shuffle=False, verbose=0)
        [kernel] = wrapping.kernels(model).weights.values()
        close(kernel.ravel(), weights, 3e-6)
    assert mask.present_strength == pytest.approx(entry["last_strength"], rel=2e-6)


@pytest.mark.parametrize("rate", [0.3, 0.32, 0.5, 0.98])
def test_the_smallest_weights_are_picked_as_in_the_dlth_code(rate):
    """Their code rounds the number of weights to remove up, ours to the nearest."""
    picked = entries("DLTH")["picked"]["rates"][str(rate)]
    scores = {"d": criteria.get("magnitude")(wave((20,), 0.8))}
    masks = {"d": np.ones(20, bool)}
    assert len(picked) == min(math.ceil(20 * rate), 19)
    kept = selection.choose(scores, masks, 20 - len(picked))["d"]
    assert np.flatnonzero(~kept).tolist() == picked
    assert 20 - allocation.weights_at(rate, masks) == round(20 * rate)


# Edge-popup.


@pytest.mark.parametrize("fraction", ["0.5", "0.3", "0.27"])
def test_mask_loss_and_gradient_are_those_of_hidden_networks(fraction):
    """Their code rounds the number of pruned weights down, ours to the nearest."""
    entry = entries("hidden-networks")[f"kept {fraction}"]
    shape = (3, 3, 2, 3)
    theirs = mask_of(entry["kept"], shape)
    model = keras.Sequential(
        [
            keras.Input((5, 5, 2)),
            kl.Conv2D(3, 3, padding="same", use_bias=False, name="c"),
        ],
        name="net",
    )
    model.set_weights([wave32(shape, 0.3)])
    popup = tt.masks.TopKMask(sparsity=1.0 - entry["fraction"])
    model = tt.wrap(model, mask=popup, verbose=False)
    [mask] = wrapping.kernels(model).mask_layers.values()
    scores = wave32(shape, 1.1)
    mask.scores.assign(scores)
    pruned = round((1.0 - entry["fraction"]) * 54)
    assert mask.value().sum() == 54 - pruned
    assert theirs.sum() == 54 - int((1.0 - entry["fraction"]) * 54)
    spared = np.abs(scores)[theirs & ~mask.value()]
    assert spared.tolist() == [np.abs(scores)[theirs].min()] * (fraction == "0.3")
    mask.count.assign(int(theirs.sum()))
    assert (mask.value() == theirs).all()
    images = wave32((4, 5, 5, 2), 0.9)

    def loss():
        return keras.ops.mean(keras.ops.square(model(images)))

    assert float(loss()) == pytest.approx(entry["loss"], rel=1e-6)
    close(gradient(loss, mask.scores), np.reshape(entry["gradient"], shape), 1e-6)


# Distillation.

TEACHER, STUDENT = wave32((7, 5), 1.3, 2.0) + 1.0, wave32((7, 4), 0.2)
TEACHER_LOGITS, LOGITS = wave32((7, 5), 1.3, 3.0), wave32((7, 5), 0.2, 3.0)
LOSSES = {
    ("RKD", "distance"): (dl.DistanceDistillation, {}, TEACHER, STUDENT),
    ("RKD", "angle"): (dl.AngleDistillation, {}, TEACHER, STUDENT),
    ("RepDistiller", "similarity"): (dl.SimilarityDistillation, {}, TEACHER, STUDENT),
    ("RepDistiller", "logits at 4"): (
        dl.LogitsDistillation,
        {"temperature": 4.0},
        TEACHER_LOGITS,
        LOGITS,
    ),
    ("RepDistiller", "logits at 1"): (
        dl.LogitsDistillation,
        {"temperature": 1.0},
        TEACHER_LOGITS,
        LOGITS,
    ),
}


@pytest.mark.parametrize(("repository", "name"), LOSSES)
def test_values_and_gradients_of_distillation_losses(repository, name):
    entry = entries(repository)[name]
    cls, arguments, teacher, student = LOSSES[repository, name]
    distillation = cls(**arguments)
    variable = keras.Variable(student)

    def loss():
        return distillation.compute_loss([teacher], variable.value)

    assert float(loss()) == pytest.approx(entry["loss"], rel=2e-6)
    close(gradient(loss, variable), np.reshape(entry["gradient"], student.shape), 5e-6)


def test_relations_are_weighted_as_in_repdistiller():
    entry = entries("RepDistiller")["relations"]
    distance, angle = dl.DistanceDistillation(), dl.AngleDistillation()
    variable = keras.Variable(STUDENT)

    def loss():
        distances = distance.compute_loss([TEACHER], variable.value)
        return 25.0 * distances + 50.0 * angle.compute_loss([TEACHER], variable.value)

    assert float(loss()) == pytest.approx(entry["loss"], rel=2e-6)
    close(gradient(loss, variable), np.reshape(entry["gradient"], STUDENT.shape), 5e-6)


def test_a_distance_of_equal_rows_counts_as_in_the_rkd_code():
    """Their code computes 1e-6 instead of 0."""
    rows = STUDENT.copy()
    rows[3] = rows[0]
    value = float(dl.DistanceDistillation().compute_loss([TEACHER], rows))
    assert value == pytest.approx(entries("RKD")["equal rows"]["loss"], rel=4e-6)


# Schedules.

TFMOT = [
    (name, case)
    for name, entry in entries("tensorflow-model-optimization").items()
    for case in entry["cases"]
]


@pytest.mark.parametrize(("name", "case"), TFMOT)
def test_schedules_are_those_of_tensorflow_model_optimization(name, case):
    """Our `PolynomialDecay` also fires at its end."""
    schedule = getattr(schedules, name)(*case["arguments"])
    fires = [step for step in range(260) if schedule(step)[0]]
    end = {schedule.end_step} if name == "PolynomialDecay" else set()
    assert fires == sorted({*case["fires"], *end})
    found = [float(schedule(step)[1]) for step in case["steps"]]
    np.testing.assert_allclose(found, case["sparsity"], atol=1e-6)


# Second derivatives.


@pytest.fixture(scope="module")
def curved():
    """Returns the model and data of the second derivatives in `jax.json`."""
    model = keras.Sequential(
        [
            keras.Input((4,)),
            kl.Dense(5, activation="tanh", name="a"),
            kl.Dense(3, name="b"),
        ],
        name="net",
    )
    model.set_weights(
        [
            wave32((4, 5), 0.1),
            wave32((5,), 0.3, 0.5),
            wave32((5, 3), 0.2),
            wave32((3,), 0.6, 0.5),
        ]
    )
    model = tt.wrap(model, verbose=False)
    model.compile("sgd", cross_entropy())
    return model, wave32((12, 4), 0.4), np.arange(12) * 5 % 3


def flat(arrays):
    return np.concatenate([np.ravel(derivatives.numpy(array)) for array in arrays])


ESTIMATES = {"hessian": curvature.hutchinson, "gauss_newton": curvature.gauss_newton}


@pytest.mark.parametrize(("name", "draws"), [("hessian", 35), ("gauss_newton", 36)])
def test_over_unit_vectors_estimates_of_curvature_sum_to_the_diagonals_of_jax(
    name, draws, curved, monkeypatch
):
    """Draws one unit vector after another in place of random signs."""
    entries_of_units = iter(np.eye(draws, dtype="float32").ravel())

    def units(rng, shape):
        return np.fromiter(entries_of_units, "float32", math.prod(shape)).reshape(shape)

    monkeypatch.setattr(curvature, "_signs", units)
    diagonals = ESTIMATES[name](*curved, batch_size=12, draws=draws)
    assert next(entries_of_units, None) is None
    close(draws * flat(diagonals.values()), entries("jax")[name]["diagonal"], 2e-6)


@pytest.mark.parametrize("name", ESTIMATES)
def test_estimates_of_curvature_scatter_around_the_diagonals_of_jax(name, curved):
    """The errors must be as large as the computed deviation of the estimator."""
    entry = entries("jax")[name]
    draws = 100
    diagonals = ESTIMATES[name](*curved, batch_size=12, draws=draws, seed=1)
    errors = flat(diagonals.values()) - np.array(entry["diagonal"])
    scaled = errors * math.sqrt(draws) / np.array(entry["deviation"])
    assert np.abs(scaled).max() < 4.0
    assert 0.5 < np.square(scaled).mean() < 1.8
