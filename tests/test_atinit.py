"""SNIP, GraSP and SynFlow satisfy their identities; pruning before training."""

import keras
import numpy as np
import pytest
import tiny
from gradients import gradient
from keras import layers as kl

import tf_tickets as tt
from tf_tickets import wrapping
from tf_tickets.pruning import saliency

pytestmark = pytest.mark.turns("tensorflow")

X, Y = tiny.data()


def network(activation="tanh", bias=True, **kwargs):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            kl.Dense(8, activation=activation, use_bias=bias, name="a"),
            kl.Dense(5, activation=activation, use_bias=bias, name="b"),
            kl.Dense(3, use_bias=bias, name="c"),
        ],
        name="net",
    )
    return tiny.compiled(tt.wrap(model, verbose=False), **kwargs)


def loss_of(model, scale=1.0):
    """Returns the loss with logits divided by `scale`."""
    logits = model(X) / scale
    result = keras.losses.sparse_categorical_crossentropy(Y, logits, from_logits=True)
    return keras.ops.mean(result)


def gradient_norm(model, scale):
    kernels = list(wrapping.kernels(model).variables.values())
    return sum(
        float(np.sum(gradient(lambda: loss_of(model, scale), v).astype("f8") ** 2))
        for v in kernels
    )


def slope(model, path, place, function, change):
    """Returns the derivative of a function with respect to one weight's mask."""
    kernel = wrapping.kernels(model).variables[path]
    whole = wrapping.to_numpy(kernel).copy()
    result = []
    for presence in (1.0 + change, 1.0 - change):
        changed = whole.copy()
        changed[place] *= presence
        kernel.assign(changed)
        result.append(function())
    kernel.assign(whole)
    return (result[0] - result[1]) / (2 * change)


def test_snip_is_the_slope_of_the_loss_by_the_presence_of_a_weight():
    model = network()
    scores = saliency.SNIP(X, Y, batch_size=24)(model)
    for path, place in (("net/a/kernel", (2, 3)), ("net/c/kernel", (4, 1))):
        result = abs(slope(model, path, place, lambda: float(loss_of(model)), 0.5))
        assert scores[path][place] == pytest.approx(result, rel=2e-2, abs=1e-5)


def test_what_grasp_scores_is_what_the_gradient_flow_loses():
    model = network()
    scores = saliency.GraSP(X, Y, batch_size=24, temperature=2.0)(model)
    before = gradient_norm(model, 2.0)
    for path, place in (("net/a/kernel", (2, 3)), ("net/b/kernel", (4, 1))):
        result = slope(model, path, place, lambda: gradient_norm(model, 2.0), 0.01)
        assert 2.0 * scores[path][place] == pytest.approx(result, abs=2e-3 * before)
        assert abs(result) > 1e-2 * before


def test_as_much_flows_into_a_layer_as_out_of_it_without_biases():
    model = network("relu", bias=False)
    scores = saliency.synflow(model)
    totals = [score.sum() for score in scores.values()]
    np.testing.assert_allclose(totals, totals[0], rtol=1e-5)
    inner, outer = scores["net/a/kernel"], scores["net/b/kernel"]
    np.testing.assert_allclose(inner.sum(0), outer.sum(1), rtol=1e-5)
    # Pruned weights contribute nothing, and biases are treated as zero.
    wrapping.kernels(model).set_masks(tiny.half(model))
    for path, score in saliency.synflow(model).items():
        assert (score[~wrapping.kernels(model).masks[path]] == 0.0).all()
    biased = network("relu")
    for variable in biased.trainable_variables:
        if variable.path.endswith("bias"):
            variable.assign(np.ones(variable.shape))
    result = saliency.synflow(biased)
    assert {path: s.tolist() for path, s in result.items()} == {
        path: s.tolist() for path, s in scores.items()
    }


@pytest.mark.on("tensorflow")
def test_synflow_in_many_passes_cuts_no_layer_where_magnitude_does():
    model = deep()
    with pytest.warns(UserWarning, match="would be pruned"):
        tt.PruneAtInit(0.999, criterion=_without_the_narrow).prune(model)
    model = deep()
    ticket = tt.PruneAtInit(0.99, criterion="synflow").prune(model)
    assert sum(ticket.kept.values()) == 208
    assert min(ticket.kept.values()) > 4


def deep():
    keras.utils.set_random_seed(1)
    sizes = (100, 100, 4, 100)
    layers = [kl.Dense(size, "relu", use_bias=False) for size in sizes]
    model = keras.Sequential([keras.Input((100,)), *layers], name="deep")
    return tt.wrap(model, verbose=False)


def _without_the_narrow(weight):
    return np.abs(weight) * (weight.size > 400)


CRITERIA = {
    "snip": lambda: saliency.SNIP(X, Y),
    "grasp": lambda: saliency.GraSP(X, Y),
    "synflow": lambda: "synflow",
    "magnitude": lambda: "magnitude",
    "random": lambda: "random",
}


@pytest.mark.parametrize("name", tiny.in_turns(CRITERIA))
def test_it_prunes_before_the_first_step_and_trains_from_the_first_weights(name):
    search = tt.PruneAtInit(0.8, 2, CRITERIA[name](), "erk", monitor="accuracy")
    model = tiny.network()
    kernels = wrapping.kernels(model).variables.items()
    first = {p: wrapping.to_numpy(v).copy() for p, v in kernels}
    history = tiny.run(model, search)
    [ticket] = search.tickets
    assert (
        search.epochs == 2 == len(history["loss"])
        and search.engine.epochs_before(1) == 0
    )
    assert sum(ticket.kept.values()) == 18 and history["sparsity"] == [0.8, 0.8]
    assert ticket.metrics["accuracy"] == history["accuracy"][-1]
    assert tiny.pruned_weights(model).tolist() == [0.0] * 72
    for path, weight in first.items():
        assert ticket.weights[path].tobytes() == weight.tobytes()
    # Scoring has not changed batch statistics or dropout seeds.
    moved = [weight for path, weight in ticket.weights.items() if "moving" in path]
    assert [set(weight.tolist()) for weight in moved] == [{0.0}, {1.0}]
    assert tiny.same(search.prune(tiny.network()).masks.values(), ticket.masks.values())


def test_its_ticket_is_trained_alike_by_hand():
    search = tt.PruneAtInit(0.8, 2, "magnitude", monitor="accuracy")
    given = tiny.build_compiled, tiny.splits()
    tickets = tt.find_tickets(*given, search, batch_size=16, verbose=0)
    trainer = tt.TicketTrainer(*given, batch_size=16)
    assert trainer.train(tickets[0], 2)["val_loss"] == tickets[0].metrics["val_loss"]


def test_a_criterion_of_data_serves_other_searches_too():
    search = tiny.imp(criterion=saliency.SNIP(X, Y))
    tiny.run(tiny.network(), search)
    assert [sum(t.kept.values()) for t in search.tickets] == [63, 44, 31]


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: tt.PruneAtInit(90), "final_sparsity=90"),
        (lambda: tt.PruneAtInit(criterion="snip"), "Received: 'snip'"),
        (lambda: tt.PruneAtInit(passes=0), "Received: 0"),
        (lambda: saliency.SNIP(X, Y[:3]), r"\(64, 6\) and \(3,\)"),
        (lambda: saliency.GraSP(X, Y, temperature=-1.0), "temperature=-1.0"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("policy", tiny.in_turns(["mixed_float16", "mixed_bfloat16"]))
def test_scores_do_not_vanish_in_half_precision(policy):
    result = {}
    for each in ("float32", policy):
        keras.config.set_dtype_policy(each)
        try:
            scores = saliency.GraSP(X, Y)(network())
        finally:
            keras.config.set_dtype_policy("float32")
        result[each] = np.concatenate([s.ravel() for s in scores.values()])
    exact, half = result.values()
    assert (half != 0).mean() > 0.95
    assert np.corrcoef(exact, half)[0, 1] > 0.9


def test_the_temperature_of_grasp_is_not_for_probabilities():
    model = keras.Sequential([keras.Input((6,)), kl.Dense(3, activation="softmax")])
    model = tiny.compiled(tt.wrap(model, verbose=False))
    with pytest.warns(UserWarning, match="outputs probabilities"):
        saliency.GraSP(X, Y)(model)


def test_frozen_layers_and_their_means_let_everything_flow():
    keras.utils.set_random_seed(0)
    dense = kl.Dense(8, name="a", bias_initializer="ones")
    norm = kl.BatchNormalization(name="n")
    layers = [keras.Input((6,)), dense, norm, kl.ReLU(), kl.Dense(3, name="c")]
    model = keras.Sequential(layers, name="net")
    norm.moving_mean.assign(np.full(8, 50.0))
    dense.trainable = norm.trainable = False
    scores = saliency.synflow(tt.wrap(model, verbose=False))
    assert all((score > 0.0).all() for score in scores.values())


def test_a_ticket_pruned_without_training_can_be_kept_and_trained(tmp_path):
    keras.utils.set_random_seed(0)
    model = tiny.network()
    ticket = tt.PruneAtInit(0.8, 2, saliency.SNIP(X, Y)).prune(model)
    ticket.save(tmp_path / "a.ticket")
    ticket = tt.Ticket.load(tmp_path / "a.ticket")
    assert ticket.provenance["settings"]["criterion"].startswith("snip(64 examples")
    trainer = tt.TicketTrainer(tiny.build_compiled, tiny.splits(), batch_size=16)
    assert trainer.train(ticket, 1)["val_loss"] > 0.0


def test_other_examples_are_another_search(tmp_path):
    def find(x):
        search = tt.PruneAtInit(0.8, 1, saliency.SNIP(x, Y), monitor="accuracy")
        given = tiny.build_compiled, tiny.splits(), search, tmp_path
        return tt.find_tickets(*given, batch_size=16, verbose=0)

    find(X)
    with pytest.raises(ValueError, match="criterion: 'snip"):
        find(X + 1.0)
    varied = tt.PruneAtInit(0.8, 1, saliency.SNIP(X, Y)).varied(passes=[1, 2])
    assert [search.passes for search in varied.values()] == [1, 2]


def test_a_softmax_at_the_end_is_refused_by_synflow():
    model = keras.Sequential([keras.Input((6,)), kl.Dense(3, activation="softmax")])
    with pytest.raises(ValueError, match="softmax"):
        tt.PruneAtInit(0.5, criterion="synflow").prune(tt.wrap(model, verbose=False))
