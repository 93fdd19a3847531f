"""Whole trainings beside tensorflow-model-optimization, on the same weights and data.

Weights are compared bit for bit, except for the sign of zeros. The sparsities are such
that no kernel keeps a fraction of a weight: only then do both round alike.
"""

import warnings

import keras
import pytest
import tiny

import tf_tickets as tt
from tf_tickets.pruning import schedules

pytestmark = pytest.mark.skipif(
    keras.config.backend() != "tensorflow", reason="tfmot trains with TensorFlow only"
)

EPOCHS = 3  # Of 4 steps each.


@pytest.fixture(scope="module")
def peer():
    """Returns tf_keras and the schedules and wrappers of the other library."""
    tf_keras = pytest.importorskip("tf_keras")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tfmot = pytest.importorskip("tensorflow_model_optimization")
    return tf_keras, tfmot.sparsity.keras


def network(library):
    layers = library.layers
    first = layers.Dense(10, activation="relu")
    return library.Sequential([layers.InputLayer((6,)), first, layers.Dense(3)])


def compiled(library, model, **kwargs):
    loss = library.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(library.optimizers.SGD(0.1), loss, **kwargs)
    return model


def fit(model, callback, fits):
    """Trains in one `fit`, or in several that continue, up to the given epochs."""
    x, y = tiny.data()
    arguments = {"batch_size": 16, "shuffle": False, "verbose": 0}
    for begin, end in zip([0, *fits], fits, strict=False):
        model.fit(
            x, y, epochs=end, initial_epoch=begin, callbacks=[callback], **arguments
        )


def trained_by_peer(peer, schedule, fits=(EPOCHS,)):
    """Returns the weights before and after a training."""
    tf_keras, sparsity = peer
    keras.utils.set_random_seed(0)
    plain = network(tf_keras)
    start = plain.get_weights()
    model = sparsity.prune_low_magnitude(plain, pruning_schedule=schedule)
    compiled(tf_keras, model)
    fit(model, sparsity.UpdatePruningStep(), fits)
    return start, sparsity.strip_pruning(model).get_weights()


def trained_here(schedule, start, fits=(EPOCHS,), steps_per_execution=1):
    """Returns the weights after a training."""
    model = network(keras)
    model.set_weights(start)
    model = tt.wrap(model, verbose=False)
    compiled(keras, model, jit_compile=False, steps_per_execution=steps_per_execution)
    fit(model, tt.GradualPruning(schedule, allocation="uniform"), fits)
    return tt.strip(model).get_weights()


CASES = {
    "constant from step 0": ("ConstantSparsity", (0.5, 0, -1, 5)),
    "constant from step 1": ("ConstantSparsity", (0.5, 1, -1, 4)),
    "constant, last step": ("ConstantSparsity", (0.5, 12, -1, 1)),
    "polynomial": ("PolynomialDecay", (0.0, 0.5, 2, 8, 3, 2)),
    "polynomial from step 0": ("PolynomialDecay", (0.4, 0.8, 0, 12, 1, 6)),
}
NONE_PRUNED = [0, 0, 0, 0]


def same(left, right):
    return tiny.same([w + 0.0 for w in left], [w + 0.0 for w in right])


def zeros(weights):
    return [int((weight == 0.0).sum()) for weight in weights]


FIRST = ["constant from step 1", "constant, last step", "polynomial from step 0"]


@pytest.mark.parametrize("case", tiny.marked(list(CASES), FIRST))
def test_a_training_is_the_same_bit_for_bit(case, peer):
    name, arguments = CASES[case]
    theirs = getattr(peer[1], name)(*arguments)
    start, expected = trained_by_peer(peer, theirs)
    assert zeros(expected) != NONE_PRUNED
    ours = getattr(schedules, name)(*arguments)
    assert same(trained_here(ours, start), expected)
    assert same(trained_here(theirs, start), expected)


def test_a_training_that_continues_is_the_same_bit_for_bit(peer):
    name, arguments = CASES["polynomial"]
    start, expected = trained_by_peer(peer, getattr(peer[1], name)(*arguments), (1, 3))
    ours = getattr(schedules, name)(*arguments)
    with pytest.warns(UserWarning, match="0.5000 at step 8"):  # In the first `fit`.
        assert same(trained_here(ours, start, (1, 3)), expected)


def test_several_steps_in_one_execution_are_the_same_if_its_first_step_fires(peer):
    name, arguments = CASES["constant from step 1"]
    start, expected = trained_by_peer(peer, getattr(peer[1], name)(*arguments))
    ours = getattr(schedules, name)(*arguments)
    assert same(trained_here(ours, start, steps_per_execution=4), expected)


def test_step_0_of_either_library_leaves_the_untrained_network_alone(peer):
    for library in (peer[1], schedules):
        schedule = library.ConstantSparsity(0.5, 0, frequency=100)
        start = network(keras).get_weights()
        with pytest.warns(UserWarning, match="fires at none of the 12 planned steps"):
            assert zeros(trained_here(schedule, start))[0] == 0


def test_a_decay_of_the_other_library_that_misses_its_end_warns_beforehand(peer):
    schedule = peer[1].PolynomialDecay(0.0, 0.8, 0, 11, frequency=4)
    start = network(keras).get_weights()
    with pytest.warns(UserWarning, match="only 0.7838.*sparsity 0.8000 at step 12"):
        trained_here(schedule, start)
