"""The names of tensorflow-model-optimization: literal expectations, and beside it."""

import contextlib
import copy
import gc
import glob
import io
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tiny
from keras import layers as kl
from test_tfmot import compiled, peer, same  # noqa: F401  `peer` is a fixture

import tf_tickets as tt
from tf_tickets import tfmot, wrapping
from tf_tickets.pruning.schedules import firings
from tf_tickets.tfmot import pruning_schedules, remaining

pytestmark = pytest.mark.turns
ON_TENSORFLOW = pytest.mark.skipif(
    keras.config.backend() != "tensorflow", reason="tfmot trains with TensorFlow only"
)
STEPS = 4  # Of an epoch.


def quiet(function, *args, **kwargs):
    with contextlib.redirect_stdout(io.StringIO()):
        return function(*args, **kwargs)


def prune(model, *args, **kwargs):
    return quiet(tfmot.prune_low_magnitude, model, *args, **kwargs)


def dense(library=keras):
    layers = library.layers
    first = layers.Dense(8, activation="relu", name="first")
    return library.Sequential(
        [layers.InputLayer((6,)), first, layers.Dense(3, name="last")], name="net"
    )


def fit(model, callbacks, fits=(1,)):
    x, y = tiny.data()
    for epochs in fits:
        model.fit(
            x,
            y,
            batch_size=16,
            epochs=epochs,
            shuffle=False,
            verbose=0,
            callbacks=callbacks,
        )
    return model


def fast(model, optimizer=None):
    """Compiles a model; without an optimizer its weights do not move."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer or keras.optimizers.SGD(0.0), loss, jit_compile=tiny.JIT)
    return model


def masks(model):
    kernels = wrapping.kernels(model).masks
    return {path.split("/")[-2]: mask for path, mask in kernels.items()}


def zeros(model):
    return {name: int((~mask).sum()) for name, mask in masks(model).items()}


class Watch(keras.callbacks.Callback):
    """Counts the zeros of all masks before each step."""

    def __init__(self):
        super().__init__()
        self.zeros = []

    def on_train_batch_begin(self, batch, logs=None):
        self.zeros.append(sum(zeros(self.model).values()))


# Schedules.


@pytest.mark.parametrize(
    "size, sparsity, expected",
    [
        (48, 0.5, 24),
        (45, 0.5, 22),  # Half of an odd number: to even.
        (47, 0.5, 24),
        (10, 0.75, 2),
        (10, 0.99, 1),
        (7, 0.0, 7),
        (20_280, 0.8, 4056),
    ],
)
def test_the_number_of_kept_weights(size, sparsity, expected):
    assert remaining.kept(size, sparsity) == expected


def test_a_decay_prunes_at_the_steps_and_sparsities_of_the_other_library():
    schedule = tfmot.PolynomialDecay(0.5, 0.8, 0, 844, frequency=100)
    fires, sparsities = firings(schedule, np.arange(1, 1000))
    assert (np.flatnonzero(fires) + 1).tolist() == list(range(100, 801, 100))
    expected = [0.5, 0.5945, 0.66672, 0.71967, 0.75632, 0.77969, 0.79818, 0.79996]
    steps = [0, 100, 200, 300, 400, 500, 690, 800]
    result = [float(schedule(step)[1]) for step in steps]
    np.testing.assert_allclose(result, expected, atol=2e-5)
    assert schedule(np.arange(3))[1].dtype == np.float32


@pytest.mark.parametrize(
    "schedule, message",
    [
        (lambda: tfmot.ConstantSparsity(0.5, 0, 50), "never prune.*end_step=50.*50 or"),
        (lambda: tfmot.PolynomialDecay(0.0, 0.5, 0, 99), "never prune"),
        (lambda: tfmot.PolynomialDecay(0.8, 0.5, 0, 200), "stay pruned.*0.8"),
        (lambda: tfmot.PolynomialDecay(0.0, 0.5, 9, -1), "Received.*end_step=-1"),
        (lambda: tfmot.ConstantSparsity(1.0, 0), "Received.*1.0"),
    ],
)
def test_schedules_that_cannot_be_followed_are_refused(schedule, message):
    with pytest.raises(ValueError, match=message):
        prune(dense(), schedule())


@pytest.mark.parametrize("schedule", [0.5, tfmot.ConstantSparsity, lambda step: 1 / 0])
def test_what_is_no_stored_schedule_is_refused(schedule):
    with pytest.raises(TypeError, match="pruning_schedule.*Received"):
        prune(dense(), schedule)


@keras.saving.register_keras_serializable("test_tfmot_names")
class Late(tfmot.PruningSchedule):
    """A schedule as users of the other library write them."""

    def __init__(self, at):
        self.at = at

    def __call__(self, step):
        return self._should_prune_in_step(step, self.at, -1, 1), 0.5

    def get_config(self):
        return {"class_name": "Late", "config": {"at": self.at}}


def test_a_schedule_of_ones_own_is_followed_and_stored():
    model = fast(prune(dense(), Late(3)))
    fit(model, [tfmot.UpdatePruningStep()])
    assert zeros(model) == {"first": 24, "last": 12}
    again = keras.models.clone_model(model)
    mask = next(iter(wrapping.kernels(again).values())).mask_layer
    assert mask.pruning_schedule.at == 3


@pytest.mark.parametrize(
    "schedule, steps, expected",
    [
        (tfmot.ConstantSparsity(0.5, 0, frequency=5), (1, 5, 6), (0.5, 0.5, 0.5)),
        (tfmot.ConstantSparsity(0.5, 0, 9, frequency=5), (5, 6), (0.5, 0.0)),
        (tfmot.PolynomialDecay(0.0, 0.5, 0, 9, 1, 4), (8, 9), (4 / 9, 0.0)),
        (tfmot.PolynomialDecay(0.0, 0.5, 2, 6, 1, 4), (1, 6, 7), (0.5, 0.5, 0.0)),
        (Late(1), (1, 99), (1.0, 1.0)),
    ],
    ids=["constant", "constant that ends", "decay", "short decay", "own"],
)
def test_the_largest_sparsity_that_is_still_to_come(schedule, steps, expected):
    result = [pruning_schedules.largest_from(schedule, step) for step in steps]
    np.testing.assert_allclose(result, expected, rtol=1e-6)


# Masks. The weights do not move, so that they follow from the first ones.


def expected_masks(model, share, block=(1, 1), pool=np.mean):
    """Returns the masks that keep the largest blocks, computed block by block."""
    result = {}
    for layer in model.layers:
        weights = np.abs(np.array(layer.kernel))
        rows, columns = weights.shape
        corners = [
            (i, j)
            for i in range(0, rows, block[0])
            for j in range(0, columns, block[1])
        ]
        parts = [
            np.s_[i : i + block[0], j : j + block[1]]
            for i, j in corners  # Those at the edges are smaller.
        ]
        order = sorted(parts, key=lambda part: -pool(weights[part].astype("float64")))
        result[layer.name] = np.zeros(weights.shape, bool)
        for part in order[: round(len(parts) * (1 - share))]:
            result[layer.name][part] = True
    return result


@pytest.mark.parametrize(
    "settings, block, pool",
    [
        ({}, (1, 1), np.mean),
        ({"block_size": (3, 2)}, (3, 2), np.mean),
        ({"block_size": [4, 1], "block_pooling_type": "MAX"}, (4, 1), np.max),
    ],
    ids=["weights", "blocks", "blocks by their largest"],
)
def test_each_kernel_keeps_its_largest_weights_or_blocks(settings, block, pool):
    plain = dense()
    expected = expected_masks(plain, 0.5, block, pool)
    schedule = tfmot.ConstantSparsity(0.5, 3, frequency=4)
    model = fast(prune(plain, schedule, **settings))
    watch = Watch()
    fit(model, [tfmot.UpdatePruningStep(), watch])
    assert [count > 0 for count in watch.zeros] == [False, False, True, True]
    found = masks(model)
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_two_of_four_are_pruned_once_at_the_first_step():
    plain = dense()
    weights = np.abs(np.array(plain.layers[0].kernel))
    # The schedule is not used, as there.
    schedule = tfmot.ConstantSparsity(0.9, 1000)
    model = fast(prune(plain, schedule, sparsity_m_by_n=(2, 4)))
    fit(model, [tfmot.UpdatePruningStep()])
    found = masks(model)["first"]
    for column in range(8):
        best = np.argsort(-weights[:4, column])[:2]
        assert np.flatnonzero(found[:4, column]).tolist() == sorted(best)
        # A last group of two: one of them is kept.
        assert found[4:, column].tolist() == [
            weights[4, column] >= weights[5, column],
            weights[4, column] < weights[5, column],
        ]
    assert wrapping.kernels(model).structure == tt.NM(2, 4)
    [mask, _] = wrapping.kernels(model).mask_layers.values()
    assert mask.step == STEPS and mask.present_threshold == 0.0


@pytest.mark.matrix
def test_one_of_four_and_three_of_four():
    for zeros_of_four in (1, 3):
        model = prune(dense(), sparsity_m_by_n=(zeros_of_four, 4))
        assert wrapping.kernels(model).structure == tt.NM(4 - zeros_of_four, 4)


# Which layers.


def mixed(library=keras):
    """Builds a model of layers that both libraries prune, or leave alone."""
    layers = library.layers
    return library.Sequential(
        [
            layers.InputLayer((4,)),
            layers.Embedding(5, 6, name="embedding"),
            layers.Conv1D(4, 2, name="conv1d"),
            layers.Reshape((3, 4, 1)),
            layers.Conv2D(4, 2, name="conv2d", padding="same"),
            layers.DepthwiseConv2D(2, name="depthwise"),
            layers.SeparableConv2D(4, 2, name="separable", padding="same"),
            layers.Conv2DTranspose(4, 2, name="transposed"),
            layers.BatchNormalization(),
            layers.Reshape((3, 16)),
            layers.LSTM(3, return_sequences=True, name="lstm"),
            layers.GRU(3, name="gru"),
            layers.Dropout(0.5),
            layers.Dense(3, name="dense"),
        ]
    )


PRUNED = [
    "embedding/embeddings",
    "conv1d/kernel",
    "conv2d/kernel",
    "separable/pointwise_kernel",
    "transposed/kernel",
    *("lstm/lstm_cell/kernel", "lstm/lstm_cell/recurrent_kernel"),
    *("gru/gru_cell/kernel", "gru/gru_cell/recurrent_kernel"),
    "dense/kernel",
]


def short(path):
    first, *rest = path.removeprefix("sequential/").split("/")
    return "/".join([first.rstrip("_0123456789"), *rest])


def test_the_same_kernels_are_pruned_and_the_rest_is_named(capsys):
    whole = tfmot.prune_low_magnitude(mixed())
    assert "2 depthwise kernels of 32 weights are left alone" in capsys.readouterr().out
    single = keras.models.clone_model(
        mixed(), clone_function=lambda layer: tfmot.prune_low_magnitude(layer)
    )
    for model in (whole, single):
        paths = [p.partition("/")[2] for p in wrapping.kernels(model)]
        assert paths == PRUNED
    output = capsys.readouterr().out
    assert "the depthwise kernel of 'depthwise' is left alone" in output


@ON_TENSORFLOW
@pytest.mark.matrix
def test_the_other_library_prunes_the_same_kernels(peer):  # noqa: F811
    tf_keras, sparsity = peer
    model = sparsity.prune_low_magnitude(mixed(tf_keras))
    shapes = [
        tuple(weight.shape)
        for layer in model.layers
        for weight, _, _ in getattr(layer, "pruning_vars", ())
    ]
    ours = wrapping.kernels(prune(mixed())).variables.values()
    assert [tuple(variable.shape) for variable in ours] == shapes


@pytest.mark.matrix
def test_layers_that_are_built_later_have_the_same_kernels():
    fresh = [
        layer.__class__.from_config(layer.get_config()) for layer in mixed().layers
    ]
    wrapped = prune(fresh)
    kept = [kl.BatchNormalization, kl.Reshape, kl.Dropout, kl.DepthwiseConv2D]
    assert {type(x) for x in wrapped} - {tt.layers.Prunable} == set(kept)
    assert prune(wrapped) == wrapped
    model = keras.Sequential([keras.Input((4,)), *wrapped])
    assert [p.partition("/")[2] for p in wrapping.kernels(model)] == PRUNED


def test_layers_may_have_schedules_and_structures_of_their_own():
    early, late = tfmot.ConstantSparsity(0.5, 1), tfmot.ConstantSparsity(0.75, 3)
    blocks = {"block_size": (4, 1), "block_pooling_type": "MAX"}
    model = keras.Sequential(
        [
            keras.Input((6,)),
            prune(kl.Dense(8, name="first"), early, **blocks),
            prune(kl.Dense(8, name="middle"), sparsity_m_by_n=(3, 4)),
            kl.Dense(8, name="plain"),
            prune(kl.Dense(3, name="last"), late),
        ],
        name="net",
    )
    fast(model)
    fit(model, [tfmot.UpdatePruningStep()])
    first = masks(model)["first"]
    assert (first[0] == first[3]).all() and (first[4] == first[5]).all()
    # Blocks at the edge have 2 weights.
    kept = first[[0, 4]].sum()
    assert kept == 8
    assert zeros(model)["middle"] == 48 and zeros(model)["last"] == 18
    steps = [k.mask_layer.step for k in wrapping.kernels(model).values()]
    assert steps == [STEPS] * 3
    plain = tfmot.strip_pruning(model)
    assert (np.array(plain.layers[1].kernel) == 0).sum() == 48


@pytest.mark.parametrize("built", [False, True])
def test_a_layer_without_a_matrix_says_why_it_has_no_blocks(built):
    layer = kl.Embedding(5, 4, name="table")
    if built:
        layer.build((None, 3))
    with pytest.raises(ValueError, match=r"(?s)'table' has no prunable.*is no matrix"):
        prune(layer, block_size=(2, 2)).build((None, 3))


class WithBias(kl.Dense, tfmot.PrunableLayer):
    def get_prunable_weights(self):
        return [self.kernel, self.bias]


class OnlyOne(kl.Layer):
    """Has the method, without the class."""

    def build(self, shape):
        self.left = self.add_weight(shape=(shape[-1], 4), name="left")
        self.right = self.add_weight(shape=(shape[-1], 4), name="right")
        super().build(shape)

    def call(self, x):
        return x @ self.left + x @ self.right

    def get_prunable_weights(self):
        return [self.right]


def test_layers_name_their_prunable_weights():
    layers = [keras.Input((6,)), OnlyOne(name="one"), WithBias(3, name="two")]
    expected = ["net/one/right", "net/two/kernel", "net/two/bias"]
    for function in (prune, lambda model: tt.wrap(model, verbose=False)):
        model = function(keras.Sequential(list(layers), name="net"))
        assert list(wrapping.kernels(model)) == expected
    model = keras.Sequential(
        [keras.Input((6,)), prune(OnlyOne(name="one")), prune(WithBias(4, name="two"))],
        name="net",
    )
    assert list(wrapping.kernels(model)) == expected
    with pytest.raises(NotImplementedError, match="WithBias|PrunableLayer"):
        tfmot.PrunableLayer().get_prunable_weights()


class NotLast(tfmot.PruningPolicy):
    def allow_pruning(self, layer):
        return layer.name != "last"


def test_a_policy_chooses_the_layers():
    model = prune(dense(), pruning_policy=NotLast())
    assert list(wrapping.kernels(model)) == ["net/first/kernel"]
    layers = prune([kl.Dense(2, name="last"), kl.Dense(2)], pruning_policy=NotLast())
    assert [type(layer) for layer in layers] == [kl.Dense, tt.layers.Prunable]


def for_xnnpack(library=keras, end=True, **changes):
    """Builds a network that XNNPACK runs sparsely, or one with another layer."""
    layers = library.layers
    options = {"padding": "valid", "strides": 2, "name": "start"}
    kernel = {"kernel_size": 1, **changes}
    inputs = library.Input((9, 9, 3))
    x = layers.ZeroPadding2D(1)(inputs)
    x = layers.Conv2D(4, 3, **options)(x)
    x = layers.BatchNormalization()(x)
    x = layers.ReLU()(x)
    y = layers.Conv2D(4, padding="same", name="point", **kernel)(x)
    y = layers.ZeroPadding2D(2)(y)
    y = layers.DepthwiseConv2D(5, name="depthwise")(y)
    x = layers.Activation("relu")(layers.Add()([x, y]))
    if end:
        x = layers.GlobalAveragePooling2D()(x)
    return library.Model(inputs, layers.Dense(2, name="last")(x))


POLICIES = {
    "fits": ({}, None),
    "no end": ({"end": False}, "GlobalAveragePooling2D"),
    "a large kernel": ({"kernel_size": 3}, "'point' of type Conv2D"),
    "dilated": ({"kernel_size": 1, "groups": 2}, "'point' of type Conv2D"),
}


@pytest.mark.parametrize("case", POLICIES)
def test_the_policy_for_xnnpack(case):
    changes, message = POLICIES[case]
    policy = tfmot.PruneForLatencyOnXNNPack()
    model = for_xnnpack(**changes)
    if message is None:
        pruned = prune(model, pruning_policy=policy)
        assert [p.split("/")[-2] for p in wrapping.kernels(pruned)] == ["point"]
    else:
        with pytest.raises(ValueError, match=message):
            prune(model, pruning_policy=policy)


@ON_TENSORFLOW
@pytest.mark.matrix
@pytest.mark.parametrize("case", POLICIES)
def test_the_policy_for_xnnpack_accepts_what_the_other_library_does(case, peer):  # noqa: F811
    tf_keras, sparsity = peer
    changes, message = POLICIES[case]
    policy = sparsity.PruneForLatencyOnXNNPack()
    model = for_xnnpack(tf_keras, **changes)
    if message is None:
        policy.ensure_model_supports_pruning(model)
    else:
        with pytest.raises(ValueError):
            policy.ensure_model_supports_pruning(model)


# Refusals.


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"block_size": (0, 1)}, r"block_size\[0\].*0"),
        ({"block_size": 4}, "`block_size` must be a pair.*4"),
        ({"block_size": (4, 1, 1)}, "`block_size` must be a pair"),
        ({"block_pooling_type": "AVERAGE"}, "'AVG', 'MAX'. Received: 'AVERAGE'"),
        ({"sparsity_m_by_n": (4, 4)}, r"Received: \(4, 4\)"),
        ({"sparsity_m_by_n": 2}, "must be a pair"),
        ({"sparsity_m_by_n": (2, 4), "block_size": (4, 1)}, "two structures"),
        ({"prunning_schedule": None}, "Received: .*prunning_schedule"),
        ({"pruning_policy": "all"}, "allow_pruning.*'all'"),
    ],
    ids=str,
)
def test_bad_settings_are_refused_by_name(settings, message):
    with pytest.raises((ValueError, TypeError), match=message):
        prune(dense(), **settings)


@pytest.mark.parametrize("value", [None, "model", 3, object()])
def test_what_is_no_model_and_no_layer_is_refused(value):
    with pytest.raises(TypeError, match="`to_prune` must be a model.*Received"):
        prune(value)
    with pytest.raises(TypeError, match="Received"):
        tfmot.strip_pruning(value)


def test_a_training_without_the_callback_is_refused_until_nothing_is_left_to_prune():
    schedule = tfmot.PolynomialDecay(0.0, 0.5, 1, 7, frequency=6)

    def begun():
        model = fast(prune(dense(), schedule))
        with pytest.warns(UserWarning, match="only 0.0000.*4 planned.*0.5000 at step"):
            return fit(model, [tfmot.UpdatePruningStep()])

    # On JAX, Keras has no weights any more after a step that raised an error.
    for model in (fast(prune(dense(), schedule)), begun()):
        with pytest.raises(ValueError, match="Pass it: model.fit.*UpdatePruningStep"):
            fit(model, [])
    model = begun()
    model.evaluate(*tiny.data(), verbose=0)
    fit(model, [tfmot.UpdatePruningStep()])
    fit(model, [])
    assert zeros(model) == {"first": 24, "last": 12}


def test_a_schedule_that_fires_at_no_planned_step_warns_beforehand():
    model = fast(prune(dense()))  # From step 0 on, every 100 steps.
    with pytest.warns(UserWarning, match="at none of the 4 planned steps, .* step 1"):
        fit(model, [tfmot.UpdatePruningStep()])
    assert zeros(model) == {"first": 0, "last": 0}


def test_the_callback_refuses_models_without_a_schedule():
    for model in (dense(), tt.wrap(dense(), verbose=False)):
        with pytest.raises(ValueError, match="Received|Prunable"):
            fit(fast(model), [tfmot.UpdatePruningStep()])


@pytest.mark.parametrize(
    "method",
    [
        tt.GradualPruning(tfmot.ConstantSparsity(0.5, 1)),
        tt.IMP(rounds=1, epochs_per_round=1, monitor="loss"),
    ],
    ids=lambda method: type(method).__name__,
)
def test_other_methods_refuse_layers_with_a_schedule_before_training(method):
    model = fast(prune(dense()))
    with pytest.raises(ValueError, match="have a pruning schedule.*net/first/kernel"):
        fit(model, [method], fits=(2,))
    assert zeros(model) == {"first": 0, "last": 0}


# Continuing.


def test_steps_continue_in_another_fit_and_from_a_file(tmp_path):
    schedule = tfmot.PolynomialDecay(0.0, 0.75, 2, 10, frequency=4)
    model = fast(prune(dense(), schedule))
    with pytest.warns(UserWarning, match="only 0.0000.*at step 10"):
        fit(model, [tfmot.UpdatePruningStep()])
    assert zeros(model) == {"first": 0, "last": 0}
    path = tmp_path / "model.keras"
    model.save(path)
    for again in (copy.copy(path), path):
        with tfmot.prune_scope():
            loaded = keras.models.load_model(again)
        fit(loaded, [tfmot.UpdatePruningStep()], fits=(2,))
        steps = [k.mask_layer.step for k in wrapping.kernels(loaded).values()]
        assert steps == [12, 12]
        assert zeros(loaded) == {"first": 36, "last": 18}
    assert isinstance(tfmot.strip_pruning(loaded).layers[0], kl.Dense)


def test_the_weights_are_sparse_for_callbacks_before_this_one(tmp_path):
    path = str(tmp_path / "{epoch}.weights.h5")
    save = keras.callbacks.ModelCheckpoint(path, save_weights_only=True)
    schedule = tfmot.ConstantSparsity(0.5, 1, frequency=1)
    model = fast(prune(dense(), schedule), keras.optimizers.Adam(0.01))
    fit(model, [save, tfmot.UpdatePruningStep()], fits=(2,))
    model.load_weights(path.format(epoch=1))
    stripped = tfmot.strip_pruning(model)
    assert [(np.array(layer.kernel) == 0).mean() for layer in stripped.layers] == [
        0.5
    ] * 2


@pytest.mark.matrix
def test_nothing_of_the_compiled_model_is_kept():
    plain = fast(dense())
    model = prune(plain)
    assert not model.compiled and plain.compiled
    assert model.layers[0].layer is plain.layers[0]


@pytest.mark.matrix
def test_steps_in_one_execution_wait_for_the_next():
    model = prune(dense(), tfmot.ConstantSparsity(0.5, 3))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, jit_compile=tiny.JIT, steps_per_execution=2)
    watch = Watch()
    fit(model, [tfmot.UpdatePruningStep(), watch])
    assert watch.zeros == [0, 36]


# Summaries.


def test_summaries_are_written_for_tensorboard(tmp_path):
    processing = "tensorboard.backend.event_processing.event_file_loader"
    loader = pytest.importorskip(processing)
    from tensorboard.util.tensor_util import make_ndarray

    model = fast(prune(dense(), tfmot.ConstantSparsity(0.5, 2)))
    smallest = np.sort(np.abs(np.array(model.layers[0].layer.kernel)), axis=None)[24]
    summaries = tfmot.PruningSummaries(str(tmp_path))
    fit(model, [tfmot.UpdatePruningStep(), summaries])
    [file] = glob.glob(f"{tmp_path}/metrics/*")
    rows = {
        (value.tag, event.step): make_ndarray(value.tensor)
        for event in loader.EventFileLoader(file).Load()
        for value in event.summary.value
    }
    path = "net/first/kernel"
    assert len(rows) == 8
    assert rows[f"{path}/sparsity", 0] == rows[f"{path}/threshold", 0] == 0.0
    assert rows[f"{path}/sparsity", 4] == 0.5
    assert rows[f"{path}/threshold", 4] == smallest
    for folder in ("", None, 3):
        with pytest.raises((TypeError, ValueError), match="Received"):
            tfmot.PruningSummaries(folder)


@pytest.mark.matrix
def test_importing_the_names_imports_neither_library():
    script = (
        "import sys\nfrom tf_tickets import tfmot\n"
        "print([name for name in ('tensorflow_model_optimization', 'tf_keras') "
        "if name in sys.modules])"
    )
    # A new process, not a fork of one that may have imported them.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    # The other library sets it on import, and TensorFlow then imports tf_keras.
    environment.pop("TF_USE_LEGACY_KERAS", None)
    result = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True
    )
    assert result.stdout.strip() == "[]", result.stderr


# Whole trainings beside the other library.


@pytest.mark.on("tensorflow")
@ON_TENSORFLOW
def test_a_training_loop_of_ones_own():
    import tensorflow as tf

    model = fast(prune(dense(), tfmot.ConstantSparsity(0.5, 3)))
    optimizer, loss = keras.optimizers.SGD(0.1), model.loss
    step_callback = tfmot.UpdatePruningStep()
    step_callback.set_model(model)
    x, y = tiny.data()
    step_callback.on_train_begin()
    counts = []
    for _ in range(2):
        for _ in range(2):
            step_callback.on_train_batch_begin(batch=-1)
            counts.append(sum(zeros(model).values()))
            with tf.GradientTape() as tape:
                value = loss(y, model(x, training=True))
            gradients = tape.gradient(value, model.trainable_variables)
            optimizer.apply_gradients(
                zip(gradients, model.trainable_variables, strict=True)
            )
        step_callback.on_epoch_end(batch=-1)
    assert counts == [0, 0, 36, 36]
    assert [k.mask_layer.step for k in wrapping.kernels(model).values()] == [4, 4]


def images(library):
    # Without BatchNormalization, whose variances Keras 3 computes in another way.
    layers = library.layers
    return library.Sequential(
        [
            layers.InputLayer((6,)),
            layers.Reshape((3, 2, 1)),
            layers.Conv2D(6, 2, activation="relu"),
            layers.Flatten(),
            layers.Dense(9, activation="relu"),
            layers.Dense(3),
        ]
    )


def optimizer_of(library, name):
    kinds = {
        "sgd": lambda: library.optimizers.SGD(0.1),
        "momentum": lambda: library.optimizers.SGD(0.02, momentum=0.9),
        "adam": lambda: library.optimizers.Adam(0.002),
        "clipped": lambda: library.optimizers.SGD(0.1, clipnorm=0.1),
    }
    return kinds[name]()


def trained(library, names, settings, start, fits, build, optimizer):
    """Returns the weights after a training with the names of one of the libraries."""
    kind, arguments, more = settings
    schedule = getattr(names, kind)(*arguments)
    keras.utils.set_random_seed(0)
    plain = build(library)
    if start is None:
        start = plain.get_weights()
    plain.set_weights(start)
    model = quiet(names.prune_low_magnitude, plain, pruning_schedule=schedule, **more)
    loss = library.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer_of(library, optimizer), loss, jit_compile=False)
    fit(model, [names.UpdatePruningStep()], fits)
    return start, names.strip_pruning(model).get_weights()


BLOCKS = {"block_size": (2, 2)}
TALL = {"block_size": (3, 1)}
LARGEST = {"block_pooling_type": "MAX"}
M_BY_N = {"sparsity_m_by_n": (2, 4)}
# The schedule, further settings, epochs of each `fit`, the model and the optimizer.
TRAININGS = {
    "odd numbers": (("ConstantSparsity", (0.3, 1, -1, 3), {}), (3,), dense, "sgd"),
    "blocks": (("PolynomialDecay", (0.1, 0.6, 1, 9, 2, 4), BLOCKS), (3,), dense, "sgd"),
    "largest in blocks": (
        ("PolynomialDecay", (0.1, 0.6, 1, 9, 2, 4), {**BLOCKS, **LARGEST}),
        (3,),
        dense,
        "sgd",
    ),
    "tall blocks": (
        ("ConstantSparsity", (0.5, 2, 8, 6), TALL),
        (3,),
        dense,
        "momentum",
    ),
    "tall, largest": (
        ("ConstantSparsity", (0.5, 2, 8, 6), {**TALL, **LARGEST}),
        (3,),
        dense,
        "adam",
    ),
    "2 by 4": (("ConstantSparsity", (0.5, 0), M_BY_N), (2,), images, "adam"),
    "1 by 2": (
        ("ConstantSparsity", (0.5, 0), {"sparsity_m_by_n": (1, 2)}),
        (2,),
        images,
        "momentum",
    ),
    "convolutions": (
        ("PolynomialDecay", (0.2, 0.7, 0, 10, 3, 5), {}),
        (3,),
        images,
        "sgd",
    ),
    "linear": (("PolynomialDecay", (0.0, 0.66, 2, 12, 1, 3), {}), (3,), images, "adam"),
    "power 5": (
        ("PolynomialDecay", (0.25, 0.9, 0, 12, 5, 2), {}),
        (3,),
        images,
        "momentum",
    ),
    "continued": (
        ("PolynomialDecay", (0.0, 0.7, 2, 10, 3, 2), {}),
        (1, 2),
        images,
        "adam",
    ),
    "continued blocks": (
        ("PolynomialDecay", (0.0, 0.7, 2, 10, 3, 4), BLOCKS),
        (1, 1, 1),
        dense,
        "sgd",
    ),
}
DEFAULT = ["largest in blocks"]


@ON_TENSORFLOW
@pytest.mark.filterwarnings("ignore:.*will reach only:UserWarning")
@pytest.mark.parametrize("case", tiny.marked(TRAININGS, DEFAULT))
def test_a_training_is_the_same_bit_for_bit(case, peer):  # noqa: F811
    settings, fits, build, optimizer = TRAININGS[case]
    tf_keras, sparsity = peer
    rest = fits, build, optimizer
    start, expected = trained(tf_keras, sparsity, settings, None, *rest)
    _, result = trained(keras, tfmot, settings, start, *rest)
    assert any((weight == 0).mean() > 0.2 for weight in expected)
    assert same(result, expected)


# Where the two differ, as the docstring of `prune_low_magnitude` says.


@ON_TENSORFLOW
@pytest.mark.matrix
def test_blocks_that_do_not_divide_a_kernel_are_scored_by_their_own_weights(peer):  # noqa: F811
    import tensorflow as tf
    from tensorflow_model_optimization.python.core.sparsity.keras import pruning_utils

    kernel = np.array([[0.0], [0.0], [0.0], [9.0], [1.0], [1.0]], "float32")
    pooled = pruning_utils.factorized_pool(
        tf.constant(kernel), (4, 1), "AVG", (4, 1), "SAME"
    )
    # The weight of 9 belongs to the first block, and counts for the second.
    assert pooled.numpy().ravel().tolist() == pytest.approx([0.0, 11 / 3])
    model = keras.Sequential([keras.Input((6,)), kl.Dense(1, name="d")], name="net")
    model.set_weights([kernel, np.zeros(1)])
    layout = wrapping.kernels(prune(model, block_size=(4, 1))).layout
    scores = layout.scores({"net/d/kernel": kernel}, {"net/d/kernel": kernel >= 0})
    assert scores["net/d/kernel"].ravel().tolist() == [2.25, 1.0]


@ON_TENSORFLOW
@pytest.mark.matrix
def test_a_pruned_weight_comes_back_there_and_stays_pruned_here(peer):  # noqa: F811
    tf_keras, sparsity = peer
    rest = (3,), dense, "adam"
    # Small weights, some of which training moves through zero.
    settings = ("ConstantSparsity", (0.5, 1, -1, 1), {})
    keras.utils.set_random_seed(0)
    start = [0.02 * weight for weight in dense(tf_keras).get_weights()]
    _, theirs = trained(tf_keras, sparsity, settings, start, *rest)
    _, ours = trained(keras, tfmot, settings, start, *rest)
    first = [np.abs(w) >= np.sort(np.abs(w), axis=None)[w.size // 2] for w in start]
    for index in (0, 2):
        assert ((ours[index] != 0) <= first[index]).all()
        assert (ours[index] == 0).mean() == 0.5
    assert any(((theirs[i] != 0) & ~first[i]).any() for i in (0, 2))
    assert compiled and not same(ours, theirs)


# Steps that are counted in other places than between whole fits.


@pytest.mark.filterwarnings("ignore:Your input ran out of data:UserWarning")
@pytest.mark.parametrize("known", tiny.marked([True, False], [True]))
def test_a_short_last_execution_counts_the_steps_it_has(known):
    model = prune(dense(), tfmot.ConstantSparsity(0.5, 4, frequency=1))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, jit_compile=tiny.JIT, steps_per_execution=3)
    x, y = tiny.data()

    def batches():
        for start in range(0, len(x), 16):
            yield x[start : start + 16], y[start : start + 16]

    for _ in range(2):
        if known:
            fit(model, [tfmot.UpdatePruningStep()], fits=(2,))
        else:
            # Keras reads a generator only once, so a fit is an epoch.
            for _ in range(2):
                step_callback = tfmot.UpdatePruningStep()
                model.fit(
                    batches(), shuffle=False, verbose=0, callbacks=[step_callback]
                )
    steps = [k.mask_layer.step for k in wrapping.kernels(model).values()]
    assert steps == [4 * STEPS] * 2
    assert int(np.asarray(model.optimizer.iterations)) == 4 * STEPS


EPOCHS = 3


class Crash(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise RuntimeError("crash")


def new(**settings):
    keras.utils.set_random_seed(0)
    schedule = tfmot.PolynomialDecay(0.0, 0.75, 0, EPOCHS * STEPS, frequency=3)
    return fast(prune(dense(), schedule), keras.optimizers.SGD(0.1, momentum=0.9))


def ends(model):
    """Returns all variables after a training, steps and momenta too."""
    optimizer = [v for v in model.optimizer.variables if "learning_rate" not in v.path]
    return [np.array(v) for v in [*model.variables, *optimizer]]


@pytest.fixture(scope="module")
def uninterrupted():
    model = fit(new(), [tfmot.UpdatePruningStep()], fits=(EPOCHS,))
    assert zeros(model) == {"first": 36, "last": 18}
    return ends(model)


@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
def test_a_restored_training_ends_as_if_uninterrupted(first, uninterrupted, tmp_path):
    def callbacks():
        both = [
            keras.callbacks.BackupAndRestore(str(tmp_path)),
            tfmot.UpdatePruningStep(),
        ]
        return both if first else both[::-1]

    with pytest.raises(RuntimeError, match="crash"):
        fit(new(), [*callbacks(), Crash()], fits=(EPOCHS,))
    model = fit(new(), callbacks(), fits=(EPOCHS,))
    assert [k.mask_layer.step for k in wrapping.kernels(model).values()] == [12, 12]
    assert same(ends(model), uninterrupted)


@pytest.mark.filterwarnings("ignore:.*will reach only:UserWarning")
@pytest.mark.parametrize("first", tiny.marked([True, False], [True]))
def test_checkpoints_store_the_steps_until_then(first, tmp_path):
    model = new()
    names = [str(tmp_path / f"{name}.weights.h5") for name in ("epoch", "batch")]
    saves = [
        keras.callbacks.ModelCheckpoint(name, save_weights_only=True, save_freq=often)
        for name, often in zip(names, ("epoch", 7), strict=True)
    ]
    step_callback = tfmot.UpdatePruningStep()
    fit(model, [*saves, step_callback] if first else [step_callback, *saves], (2,))
    for name, steps in zip(names, (2 * STEPS, 7), strict=True):
        model.load_weights(name)
        masks_ = wrapping.kernels(model).mask_layers.values()
        assert [mask.step for mask in masks_] == [steps] * 2
        assert int(np.asarray(model.optimizer.iterations)) == steps


@pytest.mark.parametrize("again", tiny.marked(["kept", "lost", "compiled"], ["kept"]))
def test_after_an_interrupted_fit_the_callback_is_still_asked_for(again):
    model = new()
    callbacks = [tfmot.UpdatePruningStep(), Crash()]
    with pytest.raises(RuntimeError, match="crash"):
        fit(model, callbacks, fits=(EPOCHS,))
    if again == "compiled":
        fast(model, model.optimizer)
    if again == "lost":
        callbacks.clear()
        gc.collect()
    with pytest.raises(ValueError, match="Pass it: model.fit.*UpdatePruningStep"):
        fit(model, [])


def test_after_an_interrupted_fit_the_training_continues(uninterrupted):
    model = new()
    callbacks = [tfmot.UpdatePruningStep()]
    with pytest.raises(RuntimeError, match="crash"):
        fit(model, [*callbacks, Crash()], fits=(EPOCHS,))
    fit(model, callbacks)
    assert same(ends(model), uninterrupted)
    fit(model, [])  # Nothing is left to prune.


@pytest.mark.filterwarnings("ignore:.*will reach only:UserWarning")
@pytest.mark.parametrize(
    "case", tiny.marked(["single", "blocks", "2 by 4"], ["blocks"])
)
def test_a_loaded_model_trains_on_without_the_callback_if_finished(case, tmp_path):
    settings = {"single": {}, "blocks": BLOCKS, "2 by 4": M_BY_N}[case]
    path = str(tmp_path / "model.keras")
    # It prunes again and again to the same sparsity.
    schedule = tfmot.ConstantSparsity(0.5, 5, frequency=3)
    model = fast(prune(dense(), schedule, **settings))
    if case != "2 by 4":
        with pytest.warns(UserWarning, match="at none of the 4"):
            fit(model, [tfmot.UpdatePruningStep()])
        model.save(path)
        with pytest.raises(ValueError, match="Pass it: model.fit"):
            fit(keras.models.load_model(path), [])
    fit(model, [tfmot.UpdatePruningStep()])
    model.save(path)
    expected = zeros(model)
    assert all(count > 0 for count in expected.values())
    loaded = fit(keras.models.load_model(path), [])
    assert zeros(loaded) == expected


@ON_TENSORFLOW
@pytest.mark.matrix
def test_clipnorm_counts_the_gradients_of_pruned_weights_there_only(peer):  # noqa: F811
    tf_keras, sparsity = peer
    settings = ("ConstantSparsity", (0.5, 1, -1, 100), {})
    rest = (1,), dense, "clipped"
    start, theirs = trained(tf_keras, sparsity, settings, None, *rest)
    _, ours = trained(keras, tfmot, settings, start, *rest)
    for index, (before, there, here) in enumerate(
        zip(start, theirs, ours, strict=True)
    ):
        if index % 2:  # Biases, which are not pruned.
            continue
        kept = here != 0
        assert np.array_equal(kept, there != 0) and kept.mean() == 0.5
        # What is kept has moved less where the norm counts more.
        moved = [np.abs(after - before)[kept].sum() for after in (there, here)]
        assert moved[0] < moved[1]
