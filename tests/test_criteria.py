import functools

import numpy as np
import pytest

from tf_tickets.pruning import criteria

WEIGHT = np.array([[-3.0, 0.5], [0.0, 2.0]])
START = np.array([[1.0, -0.5], [2.0, 2.0]])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("magnitude", [[3.0, 0.5], [0.0, 2.0]]),
        ("magnitude_increase", [[2.0, 0.0], [-2.0, 0.0]]),
        ("movement", [[4.0, 1.0], [2.0, 0.0]]),
    ],
)
def test_a_criterion_gives_the_table_worked_out_by_hand(name, expected):
    scores = criteria.score(criteria.get(name), WEIGHT, START, None)
    assert scores.tolist() == expected


def test_negative_and_positive_weights_of_one_size_score_the_same():
    assert criteria.magnitude(np.array([-2.0])) == criteria.magnitude(np.array([2.0]))


def test_random_scores_repeat_with_the_generator_and_ignore_the_weights():
    first, second = np.random.default_rng(1), np.random.default_rng(1)
    a = criteria.score(criteria.get("random"), WEIGHT, START, first)
    b = criteria.score(criteria.get("random"), WEIGHT * 7, START, second)
    np.testing.assert_array_equal(a, b)
    assert len(np.unique(a)) == a.size


@pytest.mark.parametrize(
    "name", ["magnitude", "magnitude_increase", "movement", "random"]
)
def test_a_name_survives_get_and_serialize(name):
    assert criteria.serialize(criteria.get(name)) == name


def test_a_function_of_the_users_own_is_taken_as_it_is():
    def largest_first(weight, rng):
        return weight + 0 * rng.random(weight.shape)

    assert criteria.get(largest_first) is largest_first
    scores = criteria.score(largest_first, WEIGHT, START, np.random.default_rng(0))
    np.testing.assert_array_equal(scores, WEIGHT)


def test_an_unknown_name_raises_and_lists_the_known_ones():
    with pytest.raises(ValueError, match="'magnitud'.*magnitude"):
        criteria.get("magnitud")


def test_a_function_of_other_arguments_raises_and_names_them():
    with pytest.raises(ValueError, match="gradient"):
        criteria.get(lambda weight, gradient: weight * gradient)


def test_a_function_without_a_signature_raises_with_a_way_out():
    with pytest.raises(ValueError, match="lambda weight"):
        criteria.get(np.abs)


def test_an_unregistered_function_cannot_be_serialized():
    with pytest.raises(ValueError, match="register"):
        criteria.serialize(lambda weight: weight)


def test_a_partial_function_scores_but_cannot_be_serialized():
    power = functools.partial(np.power, 2)
    with pytest.raises(ValueError, match="register"):
        criteria.serialize(power)


def test_scores_of_another_shape_raise():
    with pytest.raises(ValueError, match=r"shape \(\).*\(2, 2\)"):
        criteria.score(lambda weight: weight.sum(), WEIGHT, START, None)


def test_the_name_of_a_block_criterion_leads_to_the_structure():
    with pytest.raises(ValueError, match=r"structure='4x1'\) and criterion='movement'"):
        criteria.get("movement in 4x1 blocks")
