"""Compares distillation losses with explicit loops."""

import keras
import numpy as np
import pytest
from gradients import gradient

from tf_tickets import distillation as dl

pytestmark = pytest.mark.turns("tensorflow")

ROWS = np.random.default_rng(0).normal(size=(3, 7, 5)).astype("float32")
EACH = {
    "response": dl.LogitsDistillation(2.0),
    "reverse response": dl.LogitsDistillation(2.0, reverse=True),
    "feature": dl.FeatureDistillation(),
    "standardized feature": dl.FeatureDistillation(normalize="standard"),
    "plain feature": dl.FeatureDistillation(normalize=None),
    "distance": dl.DistanceDistillation(),
    "angle": dl.AngleDistillation(),
    "similarity": dl.SimilarityDistillation(),
}


def value(loss, teachers, student, weight=None):
    return float(loss.compute_loss(list(teachers), student, weight))


def softmax(logits):
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def divergence(p, q):
    return float(np.mean(np.sum(p * np.log(p / q), -1)))


@pytest.mark.parametrize("name", EACH)
def test_who_knows_what_the_teachers_know_loses_nothing(name):
    assert value(EACH[name], ROWS[:1], ROWS[0]) == 0.0
    assert value(EACH[name], [ROWS[0]] * 3, ROWS[0]) == pytest.approx(0.0, abs=1e-5)
    assert value(EACH[name], ROWS[:1], ROWS[1]) > 1e-3


def test_responses_are_compared_with_the_mean_of_the_teachers():
    p, q = softmax(ROWS[1:] / 2.0), softmax(ROWS[0] / 2.0)
    forward = 4.0 * divergence(p.mean(0), q)
    assert value(EACH["response"], ROWS[1:], ROWS[0]) == pytest.approx(forward, 1e-4)
    middle = softmax(np.log(p).mean(0))
    backward = 4.0 * divergence(q, middle)
    result = value(EACH["reverse response"], ROWS[1:], ROWS[0])
    assert result == pytest.approx(backward, 1e-4)


@pytest.mark.parametrize("name", ["response", "reverse response"])
def test_the_gradient_of_an_ensemble_is_the_mean_of_its_teachers(name):
    student = keras.Variable(ROWS[0])
    loss = EACH[name]
    together = gradient(lambda: loss.compute_loss(ROWS[1:], student.value), student)
    each = [
        gradient(lambda t=t: loss.compute_loss([t], student.value), student)
        for t in ROWS[1:]
    ]
    np.testing.assert_allclose(together, np.mean(each, 0), atol=1e-7)
    assert np.abs(together).max() > 1e-3


def test_keras_own_loss_agrees_only_if_it_is_told_to_take_probabilities():
    """The guide to distillation shows these numbers."""
    taught = np.array([[2.0, 0.0, -1.0], [0.0, 3.0, 1.0]], "float32")
    answer = np.array([[0.0, 1.0, 0.0], [1.0, -1.0, 2.0]], "float32")
    p, q = softmax(taught / 2.0), softmax(answer / 2.0)
    assert 4.0 * divergence(p, q) == pytest.approx(1.967794)
    ours = dl.LogitsDistillation(2.0).compute_loss([taught], answer)
    assert float(ours) == pytest.approx(1.967794, rel=1e-5)
    theirs = keras.distillation.LogitsDistillation
    told = theirs(2.0, loss=keras.losses.KLDivergence()).compute_loss(taught, answer)
    assert float(told) == pytest.approx(1.967794, rel=1e-5)
    assert float(theirs(2.0).compute_loss(taught, answer)) == pytest.approx(15.9448)


def test_probabilities_are_taken_for_what_they_are():
    loss = dl.LogitsDistillation(1.0, from_logits=False)
    p, q = softmax(ROWS[1]), softmax(ROWS[0])
    assert value(loss, [p], q) == pytest.approx(divergence(p, q), rel=1e-4)


def test_an_output_of_one_unit_is_a_class_against_another():
    one, two = np.array([[0.3], [-2.0]]), np.array([[1.0], [0.5]])
    pair = [np.concatenate([np.zeros((2, 1)), logit], axis=1) for logit in (one, two)]
    loss = dl.LogitsDistillation(2.0)
    expected = value(loss, [pair[0]], pair[1])
    assert value(loss, [one], two) == pytest.approx(expected, rel=1e-5) != 0.0
    chances = [1 / (1 + np.exp(-logit)) for logit in (one, two)]
    loss = dl.LogitsDistillation(1.0, from_logits=False)
    expected = value(dl.LogitsDistillation(1.0), [pair[0]], pair[1])
    assert value(loss, [chances[0]], chances[1]) == pytest.approx(expected, rel=1e-4)


def test_answers_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\(None, 5\) of the teachers, \(None, 3\)"):
        dl.LogitsDistillation().prepare((None, 5), (None, 3))


def test_distances_angles_and_similarities_by_hand():
    def distances(rows):
        actual = np.array([[np.linalg.norm(a - b) for b in rows] for a in rows])
        return actual / actual[actual > 0].mean()

    def angles(rows):
        actual = np.zeros((7, 7, 7))
        for j, i, k in np.ndindex(7, 7, 7):
            a, b = rows[i] - rows[j], rows[k] - rows[j]
            lengths = np.linalg.norm(a) * np.linalg.norm(b)
            actual[j, i, k] = a @ b / lengths if lengths else 0.0
        return actual

    def similarities(rows):
        gram = rows @ rows.T
        return gram / np.linalg.norm(gram, axis=1, keepdims=True)

    def bent(gap):
        size = np.abs(gap)
        return np.where(size <= 1, gap**2 / 2, size - 0.5).mean()

    pair = ROWS[0], 2.0 * ROWS[1] - 1.0
    hands = {"distance": (distances, bent), "angle": (angles, bent)}
    hands["similarity"] = similarities, lambda gap: np.mean(gap**2)
    for name, (relation, loss) in hands.items():
        expected = loss(relation(pair[1]) - relation(pair[0]))
        assert value(EACH[name], pair[:1], pair[1]) == pytest.approx(expected, 1e-4)


# The student's rows are 0, 0, 3. Its distances 0, 3, 3 have the mean 2: 0, 1.5, 1.5.
# The teacher's are 0, 1, 2. Its distances 1, 2, 1 have the mean 4/3: .75, 1.5, .75.
# The gaps .75, 0, .75 occur twice each among nine pairs.
# If the third row has weight 1/2, the pairs have 1, 1/2, 1/2. The means are 1.5, 1.25.
# The distances are 0, 2, 2 and .8, 1.6, .8. The gaps are .8, .4, 1.2.
@pytest.mark.both
@pytest.mark.parametrize(
    "weight, expected",
    [(None, 0.125), ([1.0, 1.0, 0.5], (2 * 0.32 + 0.08 + 0.7) / 9)],
)
def test_distances_of_equal_rows_count_in_the_mean(weight, expected):
    student = np.array([[0.0], [0.0], [3.0]], "float32")
    teacher = np.array([[0.0], [1.0], [2.0]], "float32")
    weight = None if weight is None else np.array(weight, "float32")
    result = value(EACH["distance"], [teacher], student, weight)
    assert result == pytest.approx(expected, 1e-5)


@pytest.mark.parametrize("name", ["distance", "angle"])
def test_a_relation_minds_neither_place_nor_scale_nor_turn(name):
    turn, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(5, 5)))
    moved = (3.0 * ROWS[0] @ turn + 10.0).astype("float32")
    assert value(EACH[name], ROWS[:1], moved) < 1e-8
    assert value(EACH["similarity"], ROWS[:1], 3.0 * ROWS[0] @ turn) < 1e-8


@pytest.mark.parametrize("name", EACH)
def test_a_row_of_weight_zero_does_not_count(name):
    weight = np.array([1, 1, 0, 1, 1, 1, 1], "float32")
    result = value(EACH[name], ROWS[1:2], ROWS[0], weight)
    assert result > 1e-3
    other = ROWS[0].copy()
    for far in (1.0, 1e4):
        other[2] = far * np.array([3, -1, 4, -1, 5])
        assert value(EACH[name], ROWS[1:2], other, weight) == pytest.approx(
            result, 1e-5
        )
    other[2] = [3, -1, 4, -1, 5]
    full = value(EACH[name], ROWS[1:2], other)
    assert abs(full - result) > 1e-3 * result
    ones = np.ones(7, "float32")
    assert value(EACH[name], ROWS[1:2], other, ones) == pytest.approx(full, 1e-6)


@pytest.mark.parametrize("name", EACH)
def test_equal_rows_have_finite_gradients(name):
    rows = ROWS[0].copy()
    rows[1] = rows[0]
    student = keras.Variable(rows)
    loss = EACH[name]
    result = gradient(lambda: loss.compute_loss(ROWS[1:], student.value), student)
    assert np.isfinite(result).all() and np.abs(result).max() > 0.0


def test_a_projection_leads_to_features_of_another_shape():
    loss = dl.FeatureDistillation(normalize=None, project=True)
    loss.prepare((None, 2), (None, 5))
    [kernel] = loss.trainable_variables
    kernel.assign(np.eye(5)[:, :2])
    assert value(loss, [ROWS[0][:, :2]], ROWS[0]) == 0.0
    with pytest.raises(ValueError, match=r"\(None, 2\).*\(None, 5\).*project=True"):
        dl.FeatureDistillation().prepare((None, 2), (None, 5))
    with pytest.raises(ValueError, match="known shape"):
        dl.FeatureDistillation().prepare((None, None), (None, 5))


@pytest.mark.parametrize(
    "cls, given, message",
    [
        (dl.LogitsDistillation, {"temperature": 0.0}, "temperature=0.0"),
        (dl.FeatureDistillation, {"normalize": "l1"}, "Received: 'l1'"),
    ],
)
def test_bad_arguments_are_refused(cls, given, message):
    with pytest.raises(ValueError, match=message):
        cls(**given)
