"""Tests every layer and topology with wrap, training, pruning, strip and copies."""

import copy

import keras
import numpy as np
import pytest
import samples
import tiny

import tf_tickets as tt
from tf_tickets import wrapping
from tf_tickets.wrapping import paths

pytestmark = pytest.mark.turns

CASES = samples.LAYERS | samples.TOPOLOGIES
# These run on both backends by default, the others alternate.
EVERYWHERE = ["Conv2D", "a kernel of its own", "nested to three levels"]
IN_TURNS = tiny.in_turns([name for name in CASES if name not in EVERYWHERE])


@pytest.fixture(scope="module", params=EVERYWHERE + IN_TURNS)
def case(request):
    eager = samples.runs_eagerly(request.param)
    return samples.twins(*CASES[request.param], run_eagerly=eager)


def assert_equal(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_every_kernel_is_found(case):
    assert len(wrapping.kernels(case.wrapped).variables) == case.count


def test_the_paths_are_those_of_the_plain_model(case):
    plain = [v.path for v in case.plain.variables]
    numbered = paths.match(wrapping.plain_paths(case.wrapped), plain)
    assert list(numbered.values()) == plain


def test_with_all_ones_masks_training_is_bit_identical(case):
    assert case.losses[0] == case.losses[1]
    assert_equal(*case.weights)


def test_pruned_weights_are_zero_for_the_layer_whatever_is_stored(case):
    pruned = [~mask for mask in case.masks.values()]
    kernels = wrapping.kernels(case.wrapped).variables.values()
    before = samples.outputs(case.wrapped, case.inputs)
    for off, kernel in zip(pruned, kernels, strict=True):
        kernel.assign(np.where(off, 1e3, samples.array(kernel)))
    assert_equal(samples.outputs(case.wrapped, case.inputs), before)
    for layer in wrapping.prunables(case.wrapped):
        layer.zero_pruned()
    for off, kernel in zip(pruned, kernels, strict=True):
        assert not samples.array(kernel)[off].any()
        assert samples.array(kernel)[~off].any()


def test_the_stripped_model_predicts_the_same_with_the_same_variables(case):
    plain = tt.strip(case.wrapped)
    assert wrapping.prunables(plain) == []
    kept = {id(v) for v in wrapping.plain_paths(case.wrapped).values()}
    assert {id(v) for v in plain.variables} == kept
    before = samples.outputs(case.wrapped, case.inputs)
    assert_equal(samples.outputs(plain, case.inputs), before)


def test_a_keras_file_gives_the_same_model_again(case, tmp_path):
    case.wrapped.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    before = samples.outputs(case.wrapped, case.inputs)
    assert_equal(samples.outputs(again, case.inputs), before)
    assert_equal(wrapping.kernels(again).masks.values(), case.masks.values())
    assert paths.match(case.masks, wrapping.kernels(again).variables) is not None


def through_a_file(model, make, folder):
    model.save_weights(folder / "model.weights.h5")
    again = tt.wrap(make(), depthwise=True, verbose=False)
    again.load_weights(folder / "model.weights.h5")
    return again


def through_its_config(model, make, folder):
    again = type(model).from_config(model.get_config())
    again.set_weights(model.get_weights())
    return again


def through_clone_model(model, make, folder):
    again = keras.models.clone_model(model)
    again.set_weights(model.get_weights())
    return again


def through_deepcopy(model, make, folder):
    return copy.deepcopy(model)


WAYS = [through_a_file, through_its_config, through_clone_model, through_deepcopy]


def test_a_copy_has_masks_and_weights_of_its_own(case, request, tmp_path):
    """Each case uses one of several ways to copy."""
    place = list(CASES).index(request.node.callspec.params["case"])
    check_copy(case, WAYS[place % len(WAYS)], tmp_path)


@pytest.mark.matrix
@pytest.mark.parametrize("way", WAYS)
def test_a_copy_in_every_way_has_masks_and_weights_of_its_own(case, way, tmp_path):
    check_copy(case, way, tmp_path)


def check_copy(case, way, tmp_path):
    again = way(case.wrapped, case.make, tmp_path)
    own = {id(v) for v in again.variables}
    assert not own & {id(v) for v in case.wrapped.variables}
    assert_equal(wrapping.kernels(again).masks.values(), case.masks.values())
    assert_equal(again.get_weights(), case.wrapped.get_weights())
    assert {id(v) for v in wrapping.kernels(again).variables.values()} <= {
        id(v) for v in again.trainable_variables
    }
