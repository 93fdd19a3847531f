"""Compares Distiller with explicit steps and with Keras's; runs searches in it."""

import keras
import numpy as np
import pytest
import tiny
from keras import layers as kl

import tf_tickets as tt
from tf_tickets import wrapping
from tf_tickets.distillation.losses import FeatureDistillation, LogitsDistillation
from tf_tickets.distillation.relations import DistanceDistillation

pytestmark = pytest.mark.turns("tensorflow")

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def plain(regularizer=None):
    return keras.Sequential(
        [
            keras.Input((6,)),
            kl.Dense(10, activation="relu", kernel_regularizer=regularizer, name="a"),
            kl.BatchNormalization(name="norm"),
            kl.Dense(3, name="b"),
        ],
        name="net",
    )


def losses():
    return [
        LogitsDistillation(2.0),
        FeatureDistillation("a"),
        DistanceDistillation("a"),
    ]


def distiller(student=None, teachers=2, given=None, optimizer=None, **kwargs):
    keras.utils.set_random_seed(1)
    taught = [plain() for _ in range(teachers)]
    keras.utils.set_random_seed(0)
    student = student or tt.wrap(plain(), verbose=False)
    compiling = {k: kwargs.pop(k) for k in list(kwargs) if k in COMPILING}
    model = tt.Distiller(taught, student, given or losses(), **kwargs)
    compiling.setdefault("jit_compile", tiny.JIT)
    model.compile(optimizer or keras.optimizers.SGD(0.1), LOSS, **compiling)
    return model


COMPILING = ("jit_compile", "steps_per_execution", "metrics")


def evaluated(model, **kwargs):
    return model.evaluate(*tiny.data(), batch_size=64, verbose=0, **kwargs)


def test_the_loss_is_the_sum_of_its_parts():
    student = tt.wrap(plain(keras.regularizers.L2(0.3)), verbose=False)
    weights = [0.5, 2.0, 0.25]
    arguments = {"distillation_loss_weights": weights, "student_loss_weight": 0.7}
    model = distiller(student, **arguments)
    x, y = tiny.data()

    def of(net):
        return np.asarray(net(x)), np.asarray(net.get_layer("a")(x))

    own, hidden = of(student)
    said = [of(teacher) for teacher in model.teachers]
    expected = 0.7 * float(LOSS(y, own)) + float(sum(student.losses))
    for loss, weight, place in zip(losses(), weights, (0, 1, 1), strict=True):
        mine = (own, hidden)[place]
        expected += weight * float(loss.compute_loss([s[place] for s in said], mine))
    assert evaluated(model, return_dict=True)["loss"] == pytest.approx(expected, 1e-5)


def test_with_no_weight_on_teachers_it_trains_as_the_student_alone():
    def weights_of(model):
        model.fit(*tiny.data(), batch_size=16, epochs=3, shuffle=False, verbose=0)
        return model.get_weights()

    taught = distiller(distillation_loss_weights=[0.0] * 3, student_loss_weight=1.0)
    alone = distiller().student
    alone.compile(keras.optimizers.SGD(0.1), LOSS, jit_compile=tiny.JIT)
    for left, right in zip(weights_of(taught), weights_of(alone), strict=True):
        np.testing.assert_allclose(left, right, rtol=0, atol=1e-6)


def test_teachers_are_not_trained_nor_seen():
    model = distiller()
    before = [teacher.get_weights() for teacher in model.teachers]
    model.fit(*tiny.data(), batch_size=16, epochs=2, verbose=0)
    after = [teacher.get_weights() for teacher in model.teachers]
    assert [tiny.same(a, b) for a, b in zip(before, after, strict=True)] == [True] * 2
    assert len(model.weights) == len(model.student.weights)
    kernels = set(wrapping.kernels(model).variables)
    assert (
        kernels
        == set(wrapping.kernels(model.student).variables)
        == {"net/a/kernel", "net/b/kernel"}
    )
    assert all(teacher.trainable for teacher in model.teachers)


@pytest.mark.parametrize("graph", ["sequential", "functional"])
def test_a_student_that_is_its_teacher_has_nothing_to_learn(graph):
    parent = plain() if graph == "sequential" else functional()
    teacher = keras.models.clone_model(parent)
    teacher.set_weights(parent.get_weights())
    # Layers that are not wrapped also belong to the graph of the parent.
    student = tt.wrap(parent, verbose=False)
    layers = ("a", "norm", "b")
    model = tt.Distiller(teacher, student, [FeatureDistillation(x) for x in layers])
    model.compile("sgd", LOSS, jit_compile=tiny.JIT)
    assert evaluated(model, return_dict=True)["distillation_loss"] < 1e-12
    wrapping.kernels(student).set_masks(tiny.half(student))
    assert evaluated(model, return_dict=True)["distillation_loss"] > 0.1


def test_a_teacher_that_is_trained_with_its_student_is_refused():
    parent = plain()
    with pytest.raises(ValueError, match="net/a/kernel.*clone_model"):
        tt.Distiller(parent, tt.wrap(parent, verbose=False), losses())


def functional():
    inputs = keras.Input((6,))
    hidden = kl.Dense(10, activation="relu", name="a")(inputs)
    both = kl.Add()([hidden, kl.BatchNormalization(name="norm")(hidden)])
    return keras.Model(inputs, kl.Dense(3, name="b")(both), name="net")


@pytest.mark.skipif(not hasattr(keras, "distillation"), reason="Keras before 3.12")
def test_penalties_and_sample_weights_count_which_keras_forgets():
    """This is the reason for a separate Distiller."""

    def keras_own(student):
        model = keras.distillation.Distiller(
            plain(), student, keras.distillation.LogitsDistillation(2.0)
        )
        model.compile("sgd", LOSS, jit_compile=False)
        return model

    def ours(student):
        return distiller(student, given=[LogitsDistillation(2.0)], teachers=1)

    x, y = tiny.data()
    half = np.arange(64) % 2.0

    def found(make, regularizer=None, weight=None):
        keras.utils.set_random_seed(0)
        model = make(plain(regularizer))
        arguments = {"sample_weight": weight, "return_dict": True, "verbose": 0}
        return model.evaluate(x, y, batch_size=64, **arguments)["loss"]

    heavy = keras.regularizers.L2(1000.0)
    changes = {
        make.__name__: [
            abs(found(make, heavy) - found(make)) > 100.0,
            abs(found(make, weight=half) - found(make)) > 1e-3,
        ]
        for make in (keras_own, ours)
    }
    assert changes == {"keras_own": [False, False], "ours": [True, True]}


def test_rows_of_weight_zero_teach_nothing():
    x, y = tiny.data()
    weight = (np.arange(64) < 32).astype("float32")
    other = x.copy()
    other[32:] = 7.0
    found = [
        distiller().evaluate(data, y, sample_weight=weight, batch_size=64, verbose=0)
        for data in (x, other)
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    with pytest.raises(ValueError, match="one sample weight per row"):
        distiller().evaluate(x, y, sample_weight=np.ones((64, 3)), verbose=0)


def test_its_parts_are_means_over_rows_whatever_the_batches():
    model = distiller(metrics=["accuracy"])
    x, y = tiny.data()
    found = model.evaluate(x[:40], y[:40], batch_size=32, verbose=0, return_dict=True)
    parts = found["student_loss"] + found["distillation_loss"]
    assert parts == pytest.approx(found["loss"], rel=1e-5)


def steps(rows, length):
    keras.utils.set_random_seed(2)
    student = keras.Sequential([keras.Input((length, 4)), kl.Dense(3)])
    teacher = keras.Sequential([keras.Input((length, 4)), kl.Dense(3)])
    model = tt.Distiller(teacher, student, LogitsDistillation(), None, 0.0)
    model.compile("sgd", LOSS, jit_compile=tiny.JIT)
    x = np.random.default_rng(0).normal(size=(rows, length, 4)).astype("float32")
    return model, x, np.zeros((rows, length), int)


def test_a_row_of_several_steps_has_one_weight():
    model, x, y = steps(5, 5)
    weight = np.array([1.0, 1.0, 0.0, 0.0, 2.0], "float32")[:, None]
    arguments = {"sample_weight": weight, "verbose": 0, "return_dict": True}
    found = model.evaluate(x, y, **arguments)["distillation_loss"]
    x[2:4] = 100.0
    assert model.evaluate(x, y, **arguments)["distillation_loss"] == found > 0.0
    model, x, y = steps(5, 7)
    assert model.evaluate(x, y, **arguments)["distillation_loss"] > 0.0


def test_what_teachers_said_is_remembered_in_any_order():
    x, y = tiny.data()
    asked, remembered = distiller(), distiller()
    for model, data in ((asked, x), (remembered, remembered.remember(x, batch_size=9))):
        keras.utils.set_random_seed(3)
        model.fit(data, y, batch_size=16, epochs=2, verbose=0)
    for left, right in zip(asked.get_weights(), remembered.get_weights(), strict=True):
        np.testing.assert_allclose(left, right, atol=1e-6)
    # The teachers are not called again; the remembered outputs are used.
    data = remembered.remember(x)
    for teacher in remembered.teachers:
        teacher.set_weights([w + 1.0 for w in teacher.get_weights()])
    assert evaluated_on(remembered, data) == pytest.approx(evaluated_on(asked, x), 1e-4)


def evaluated_on(model, x):
    return model.evaluate(x, tiny.data()[1], batch_size=64, verbose=0)


SEARCHES = {
    "imp": lambda: tt.IMP(2, 1, 0.5, monitor="loss"),
    "cs": lambda: tt.ContinuousSparsification(2, 1, penalty=0.1, monitor="loss"),
    "dlth": lambda: tt.DLTH(0.5, 1, 3, 1, monitor="loss"),
}


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_runs_under_it_and_its_penalty_counts(name):
    search = SEARCHES[name]()
    student = plain()
    student.compile(keras.optimizers.SGD(0.1), LOSS, jit_compile=tiny.JIT)
    model = distiller(search.wrap(student, verbose=False), optimizer=student.optimizer)
    if name == "cs":
        optimizer = tt.optimizers.with_scores(keras.optimizers.SGD(0.1))
        model.compile(optimizer, LOSS, jit_compile=tiny.JIT)
    history = model.fit(
        *tiny.data(), batch_size=16, epochs=search.epochs, callbacks=[search], verbose=0
    ).history
    assert len(search.tickets) == search.rounds
    assert history["distillation_loss"][-1] > 0.0
    if name == "imp":
        assert [sum(t.kept.values()) for t in search.tickets] == [45, 23]
        assert wrapping.kernels(model.student).sparsity == 67 / 90
    if name == "dlth":
        assert max(history["penalty"]) > 0.0 and history["penalty_strength"][2] == 1.0
    if name == "cs":
        # The penalty is in the loss of the first epoch: 0.1 for each of 90 weights.
        assert history["student_loss"][0] > 4.0


@pytest.mark.on("jax")
def test_a_search_with_teachers_resumes_to_the_same_bytes(tmp_path):
    def build():
        keras.utils.set_random_seed(5)
        return distiller(optimizer=keras.optimizers.Adam(0.01))

    def found(directory, callbacks=()):
        search = tt.IMP(2, 2, 0.5, monitor="loss")
        tt.find_tickets(
            build,
            tiny.splits(),
            search,
            directory,
            batch_size=16,
            verbose=0,
            callbacks=callbacks,
        )
        return [file.read_bytes() for file in sorted(directory.glob("*.ticket"))]

    class Killed(Exception):
        pass

    class Kill(keras.callbacks.Callback):
        changes_results = False

        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 4:
                raise Killed

    whole = found(tmp_path / "whole")
    with pytest.raises(Killed):
        found(tmp_path / "killed", [Kill()])
    assert found(tmp_path / "killed") == whole and len(whole) == 2


@pytest.mark.parametrize(
    "policy, spe",
    tiny.checkered(["float32", "mixed_float16", "mixed_bfloat16"], [1, 4]),
)
def test_every_way_of_compiling_a_step(policy, spe):
    keras.config.set_dtype_policy(policy)
    # XLA is tested with only one of the two, since it takes TensorFlow seconds.
    model = distiller(steps_per_execution=spe, jit_compile=tiny.JIT or spe > 1)
    history = model.fit(*tiny.data(), batch_size=16, epochs=12, verbose=0).history
    parts = zip(history["student_loss"], history["distillation_loss"], strict=True)
    assert history["loss"] == pytest.approx([a + b for a, b in parts], rel=1e-2)
    assert history["distillation_loss"][-1] < 0.9 * history["distillation_loss"][0]


def test_it_is_saved_with_its_teachers(tmp_path):
    model = distiller(plain())
    model.fit(*tiny.data(), batch_size=16, verbose=0)
    model.save(tmp_path / "a.keras")
    loaded = keras.models.load_model(tmp_path / "a.keras")
    assert evaluated(loaded) == pytest.approx(evaluated(model), rel=1e-5)
    for left, right in zip(model.teachers, loaded.teachers, strict=True):
        assert tiny.same(left.get_weights(), right.get_weights())


def test_it_is_stripped_with_its_student():
    model = distiller()
    wrapping.kernels(model.student).set_masks(tiny.half(model.student))
    x, _ = tiny.data()
    before, loss = model.predict(x, verbose=0), evaluated(model)
    plain_one = tt.strip(model)
    assert wrapping.prunables(plain_one) == []
    np.testing.assert_allclose(plain_one.predict(x, verbose=0), before, atol=1e-6)
    assert evaluated(plain_one) == pytest.approx(loss, rel=1e-5)


def test_without_a_loss_the_teachers_alone_are_listened_to():
    model = tt.Distiller(plain(), plain(), losses())
    model.compile(keras.optimizers.SGD(0.1), jit_compile=tiny.JIT)
    history = model.fit(tiny.data()[0], batch_size=16, epochs=3, verbose=0).history
    assert history["loss"] == pytest.approx(history["distillation_loss"], rel=1e-5)
    assert history["loss"][-1] < history["loss"][0]


class Own(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = kl.Dense(3)

    def call(self, x):
        return self.dense(x)


def subclassed():
    model = Own()
    model(np.zeros((1, 6)))
    return model


def test_a_subclassed_student_is_taught_by_answers_only():
    model = distiller(subclassed(), given=[LogitsDistillation()])
    history = model.fit(*tiny.data(), batch_size=16, epochs=5, verbose=0).history
    assert history["distillation_loss"][-1] < history["distillation_loss"][0]
    with pytest.raises(ValueError, match="neither Sequential nor functional"):
        distiller(subclassed())


def two_outputs():
    inputs = keras.Input((6,))
    return keras.Model(inputs, [kl.Dense(3)(inputs), kl.Dense(2)(inputs)])


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: tt.Distiller(3, plain(), losses()), TypeError, "Received: 3"),
        (lambda: tt.Distiller(plain(), plain(), "kl"), TypeError, "Received: 'kl'"),
        (
            lambda: tt.Distiller(plain(), plain(), losses(), [1.0]),
            ValueError,
            "3 losses, distillation_loss_weights=.1.0.",
        ),
        (
            lambda: tt.Distiller(plain(), plain(), losses(), None, 1.5),
            ValueError,
            r"\[0, 1\]. Received: student_loss_weight=1.5",
        ),
        (
            lambda: tt.Distiller(plain(), plain(), [FeatureDistillation("c")]),
            ValueError,
            "No such layer: c",
        ),
        (
            lambda: tt.Distiller(two_outputs(), plain(), [LogitsDistillation()]),
            ValueError,
            "one output, .* is a list",
        ),
    ],
)
def test_bad_arguments_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


MIRRORED = """
import numpy as np, tensorflow as tf
devices = [tf.config.LogicalDeviceConfiguration()] * 2
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, devices)
import keras, tiny
import tf_tickets as tt
from keras.layers import Dense
from tf_tickets.distillation import FeatureDistillation, LogitsDistillation

def network(seed):
    keras.utils.set_random_seed(seed)
    hidden = Dense(10, "relu", kernel_regularizer="l2", name="a")
    return keras.Sequential([keras.Input((6,)), hidden, Dense(3)], name="net")

def losses(model):
    found = model.fit(*tiny.data(), batch_size=32, epochs=2, shuffle=False, verbose=0)
    return [found.history[name] for name in ("loss", "student_loss")]

def distiller():
    student = tt.wrap(network(0), verbose=False)
    given = [LogitsDistillation(2.0), FeatureDistillation("a")]
    model = tt.Distiller(network(1), student, given)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss, jit_compile=False)
    return model

alone = losses(distiller())
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    model = distiller()
np.testing.assert_allclose(losses(model), alone, rtol=1e-5)
print("as one on", strategy.num_replicas_in_sync)
"""


@pytest.mark.skipif(
    keras.config.backend() != "tensorflow", reason="tf.distribute is TensorFlow's"
)
def test_two_replicas_learn_as_one_model():
    out, errors = tiny.printed(MIRRORED)
    assert "as one on 2" in out, errors
