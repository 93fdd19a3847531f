import collections
import copy

import keras
import numpy as np
import pytest
import samples
import tiny
from keras import layers as kl
from keras import ops

import tf_tickets as tt
from tf_tickets import wrapping
from tf_tickets.wrapping import paths
from tf_tickets.wrapping.prunable import Prunable

pytestmark = pytest.mark.turns

X = np.random.default_rng(0).normal(size=(4, 6)).astype("float32")
Pair = collections.namedtuple("Pair", ["first", "second"])


def called(model):
    model(X)
    return model


def wrapped(model, **kwargs):
    return tt.wrap(model, verbose=False, **kwargs)


# What is wrapped, and what is not


def four():
    """Builds an embedding, not wrapped by default, three dense layers and attention."""
    inputs = keras.Input((5,), dtype="int32")
    x = kl.Embedding(9, 4, name="tokens")(inputs)
    x = kl.MultiHeadAttention(2, 2, name="attention")(x, x)
    x = kl.Dense(4, name="hidden")(kl.Flatten()(x))
    return keras.Model(inputs, kl.Dense(2, name="out")(x), name="net")


TO_OUTPUT = "attention/attention_output/kernel"
ATTENTION = {TO_OUTPUT, *(f"attention/{p}/kernel" for p in ("query", "key", "value"))}


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (None, ATTENTION | {"hidden/kernel", "out/kernel"}),
        (r"^(?!out$)", ATTENTION | {"hidden/kernel"}),
        ("hid|out", {"hidden/kernel", "out/kernel", TO_OUTPUT}),
        ("attention/query", {"attention/query/kernel"}),
        (["out", "key"], {"out/kernel", "attention/key/kernel"}),
        (("attention",), ATTENTION),
        ({"hidden"}, {"hidden/kernel"}),
        (lambda layer: isinstance(layer, kl.Dense), {"hidden/kernel", "out/kernel"}),
        (lambda layer: layer.name != "attention", {"hidden/kernel", "out/kernel"}),
    ],
)
def test_filters_choose_the_layers(filters, expected):
    assert set(wrapping.kernels(wrapped(four(), filters=filters)).variables) == expected


def test_filters_of_another_type_raise():
    with pytest.raises(TypeError, match="Received: 3"):
        tt.wrap(four(), filters=3)


def test_embeddings_are_wrapped_on_request():
    model = wrapped(four(), embeddings=True, filters="tokens")
    table = model.get_layer("tokens").layer.embeddings
    wrapping.kernels(model).set_masks({"tokens/embeddings": np.zeros((9, 4))})
    table.assign(np.ones((9, 4)))
    assert list(wrapping.kernels(model).variables) == ["tokens/embeddings"]
    assert not samples.array(model.get_layer("tokens")(np.ones((1, 5)))).any()


def test_a_model_with_nothing_to_prune_raises_with_every_reason():
    model = four()
    model.get_layer("hidden").trainable = False
    with pytest.raises(ValueError) as error:
        tt.wrap(model, filters="^(hidden|tokens)")
    for reason in (
        "tokens/embeddings: an embedding: pass embeddings=True",
        "attention/query/bias: a bias",
        "hidden/kernel: frozen",
        "out/kernel: excluded by filters",
        "out/bias: rank 1",
    ):
        assert reason in str(error.value)


def test_the_report_counts_kernels_and_the_rest(capsys):
    tt.wrap(keras.Sequential([keras.Input((3,)), kl.Dense(4), kl.Dense(2)]))
    assert capsys.readouterr().out == (
        "tf_tickets: 2 kernels of 20 weights are prunable; "
        "2 variables of 6 weights are not.\n"
    )


def test_frozen_layers_are_left_alone():
    model = samples.nested()
    model.layers[0].trainable = False
    result = wrapped(model)
    assert len(wrapping.kernels(result).variables) == 1
    kinds = [type(layer).__name__ for layer in result.layers]
    assert kinds == ["Functional", "Prunable"]


CALLBACKS = {
    "IMP": lambda: tt.IMP(rounds=1, epochs_per_round=1),
    "PruneAtInit": lambda: tt.PruneAtInit(0.5, criterion="random", epochs=1),
    "DLTH": lambda: tt.DLTH(0.5, epochs_per_round=1),
    "GradualPruning": lambda: tt.GradualPruning(tt.schedules.ConstantSparsity(0.5, 0)),
    "DynamicSparsity": lambda: tt.DynamicSparsity(0.5),
}


@pytest.mark.both
@pytest.mark.parametrize("name", CALLBACKS)
def test_kernels_frozen_after_wrapping_are_refused_before_training(name):
    search = CALLBACKS[name]()
    plain = samples.sequential()
    model = search.wrap(plain) if hasattr(search, "wrap") else wrapped(plain)
    model.layers[0].trainable = False
    before = model.get_weights()
    model.compile("adam", "mse")
    x, y = samples.data(model)
    with pytest.raises(ValueError, match=r"frozen after.*kernel'\]\. Unfreeze"):
        model.fit(x, y, epochs=9, verbose=0, callbacks=[search])
    np.testing.assert_equal(model.get_weights(), before)


@pytest.mark.both
def test_kernels_frozen_before_wrapping_are_left_alone_by_a_search():
    plain = samples.sequential()
    plain.layers[0].trainable = False
    model = wrapped(plain)
    model.compile("adam", "mse")
    search = tt.IMP(rounds=1, epochs_per_round=1, monitor="loss")
    x, y = samples.data(model)
    model.fit(x, y, epochs=search.epochs, verbose=0, callbacks=[search])
    assert samples.array(plain.layers[0].kernel).all()
    assert wrapping.kernels(model).sparsity == pytest.approx(0.2, abs=0.02)


# Zeros of a plain model


def pruned_and_stripped():
    model = wrapped(four())
    masks = samples.half_masks(model)
    masks["out/kernel"] = np.zeros_like(masks["out/kernel"])
    wrapping.kernels(model).set_masks(masks)
    return tt.strip(model), masks


@pytest.mark.both
@pytest.mark.parametrize("mask", ["fixed", "penalized"])
def test_zeros_are_kept_on_request(mask):
    plain, masks = pruned_and_stripped()
    again = wrapping.kernels(wrapped(plain, mask=mask, keep_zeros=True)).masks
    kept = {**masks, "out/kernel": np.ones_like(masks["out/kernel"])}
    np.testing.assert_equal(again, kept)


def test_zeros_are_not_kept_otherwise():
    plain, _ = pruned_and_stripped()
    assert wrapping.kernels(wrapped(plain)).sparsity == 0


@pytest.mark.parametrize("keep_zeros", [True, False])
def test_zeros_that_are_kept_stay_in_training(keep_zeros):
    model = samples.sequential()
    kernel = samples.array(model.layers[-1].kernel)
    kernel[0] = 0
    model.layers[-1].kernel.assign(kernel)
    model = wrapped(model, keep_zeros=keep_zeros)
    x, y = samples.data(model)
    model.compile("adam", "mse")
    model.fit(x, y, verbose=0)
    table = samples.array(tt.strip(model).layers[-1].kernel)
    assert bool(table[0].any()) is not keep_zeros
    assert table[1:].all()


def test_zeros_are_not_kept_by_learned_masks():
    with pytest.raises(ValueError, match="`keep_zeros` requires.*SoftMask"):
        tt.wrap(four(), mask="soft", keep_zeros=True)


def test_quantized_kernels_are_left_alone():
    model = samples.sequential()
    model.layers[0].quantize("int8")
    result = wrapped(model)
    assert list(wrapping.kernels(result).variables) == [model.layers[-1].kernel.path]
    assert result.layers[0] is model.layers[0]


# Errors


def test_an_unbuilt_model_raises_and_names_what_is_unbuilt():
    with pytest.raises(ValueError, match=r"not built.*'hidden'"):
        tt.wrap(keras.Sequential([kl.Dense(3, name="hidden")]))


def test_a_layer_raises_and_points_to_the_wrapper():
    with pytest.raises(TypeError, match=r"keras\.src.*Prunable\(layer\)"):
        tt.wrap(kl.Dense(3))


def test_wrapping_twice_raises():
    with pytest.raises(ValueError, match="wrapped already"):
        tt.wrap(wrapped(samples.sequential()))


def test_stripping_a_plain_model_raises():
    with pytest.raises(ValueError, match="nothing to strip"):
        tt.strip(samples.sequential())


class Tied(keras.layers.Layer):
    """Multiplies with the transposed kernel of another layer."""

    def __init__(self, other, **kwargs):
        super().__init__(**kwargs)
        self.other = other

    def call(self, inputs):
        return ops.matmul(inputs, ops.transpose(self.other.kernel))


def tied():
    inputs = keras.Input((6,))
    first = kl.Dense(3, name="first", use_bias=False)
    x = Tied(first, name="second")(first(inputs))
    return keras.Model(inputs, kl.Dense(2, name="out")(x))


def test_a_kernel_of_two_layers_raises():
    with pytest.raises(ValueError, match="used by two layers"):
        tt.wrap(tied())


def test_a_kernel_of_two_layers_can_be_excluded():
    assert list(wrapping.kernels(wrapped(tied(), filters=["out"])).variables) == [
        "out/kernel"
    ]


class OwnConstructor(keras.Model):
    def __init__(self, units=2, **kwargs):
        inputs = keras.Input((6,))
        x = kl.Dense(units, name="hidden")(inputs)
        super().__init__(inputs, kl.Dense(2, name="out")(x), **kwargs)
        self.units = units
        self.words = kl.Normalization(name="words")
        self.words.adapt(X)

    def compile(self, more=1, **kwargs):
        super().compile(**{"optimizer": "sgd", "loss": "mse", **kwargs})
        self.more = more

    def get_config(self):
        return {"units": self.units}


class OwnStack(keras.Sequential):
    def __init__(self):
        super().__init__([keras.Input((6,)), kl.Dense(2)])


class Configless(OwnConstructor):
    def __init__(self, function):
        super().__init__(function(4))

    def get_config(self):
        raise NotImplementedError


OWN = {"OwnConstructor": OwnConstructor, "OwnStack": OwnStack}
OWN["Configless"] = lambda: Configless(lambda units: units)


def half_pruned(model, **kwargs):
    model = wrapped(model, **kwargs)
    wrapping.kernels(model).set_masks(samples.half_masks(model))
    return model


@pytest.mark.both
@pytest.mark.parametrize("name", OWN)
def test_a_model_with_a_constructor_of_its_own_comes_back_sparse(name):
    model = OWN[name]()
    model.compile(optimizer="sgd", loss="mse")
    before = samples.outputs(model, X)
    sparse = wrapped(model)
    assert isinstance(sparse, keras.Model) and not isinstance(sparse, type(model))
    np.testing.assert_array_equal(samples.outputs(sparse, X), before)
    wrapping.kernels(sparse).set_masks(samples.half_masks(sparse))
    masks = wrapping.kernels(sparse).masks
    sparse.fit(X, np.ones((len(X), 2)), verbose=0)
    expected = samples.outputs(sparse, X)
    assert tt.strip(sparse) is model
    np.testing.assert_array_equal(samples.outputs(model, X), expected)
    assert not model.compiled and model.optimizer is None
    for path, mask in masks.items():
        kernel = wrapping.plain_paths(model)[path]
        assert not samples.array(kernel)[~mask].any()
    assert wrapping.kernels(wrapped(model, keep_zeros=True)).sparsity == 0.5


@pytest.mark.both
def test_the_file_of_such_a_model_contains_the_model(tmp_path):
    sparse = half_pruned(OwnConstructor())
    sparse.save(tmp_path / "a.keras")
    again = keras.models.load_model(
        tmp_path / "a.keras", custom_objects={"OwnConstructor": OwnConstructor}
    )
    masks = wrapping.kernels(sparse).masks.values()
    np.testing.assert_equal(list(wrapping.kernels(again).masks.values()), list(masks))
    plain, original = tt.strip(again), tt.strip(sparse)
    assert type(plain) is OwnConstructor
    np.testing.assert_array_equal(
        samples.outputs(plain, X), samples.outputs(original, X)
    )
    # A layer that the model does not call is in the file, too.
    assert samples.array(plain.words.mean).any()
    np.testing.assert_array_equal(plain.words.mean, original.words.mean)


@pytest.mark.parametrize("name", ["OwnStack", "Configless"])
def test_the_file_of_a_model_without_a_configuration_contains_its_layers(
    name, tmp_path
):
    sparse = half_pruned(OWN[name]())
    sparse.save(tmp_path / "a.keras")
    again = keras.models.load_model(
        tmp_path / "a.keras", custom_objects={"OwnStack": OwnStack}
    )
    np.testing.assert_array_equal(samples.outputs(again, X), samples.outputs(sparse, X))
    np.testing.assert_array_equal(
        samples.outputs(tt.strip(again), X), samples.outputs(sparse, X)
    )


@pytest.mark.parametrize("name", OWN)
def test_learned_masks_are_stripped_to_a_copy_of_such_a_model(name):
    model = OWN[name]()
    before = model.get_weights()
    sparse = wrapped(model, mask="soft")
    plain = tt.strip(sparse)
    assert plain is not model and not wrapping.prunables(plain)
    assert (type(plain) is OwnConstructor) == (name == "OwnConstructor")
    np.testing.assert_equal(model.get_weights(), before)


@pytest.mark.both
def test_a_ticket_is_applied_to_a_model_with_a_constructor_of_its_own():
    ticket = tt.PruneAtInit(0.5, criterion="random").prune(wrapped(OwnConstructor()))
    model = OwnConstructor()
    sparse = ticket.apply(model)
    assert wrapping.kernels(sparse).sparsity == 0.5
    assert tt.strip(sparse) is model


def test_what_becomes_of_such_a_model_is_printed(capsys):
    tt.wrap(OwnConstructor())
    lines = capsys.readouterr().out.splitlines()
    assert "layers of this OwnConstructor. After training, tf_tickets.strip" in lines[1]
    assert "['words']: pass what a preprocessor returns" in lines[1]


def test_such_a_model_inside_a_subclassed_one_comes_back():
    class Around(keras.Model):
        def __init__(self):
            super().__init__()
            self.inner = OwnConstructor()

        def call(self, inputs):
            return self.inner(inputs)

    model = Around()
    inner = model.inner
    before = samples.outputs(model, X)
    half_pruned(model)
    assert not isinstance(model.inner, OwnConstructor)
    assert tt.strip(model).inner is inner
    assert not np.array_equal(samples.outputs(model, X), before)


class OwnCall(OwnConstructor):
    def call(self, inputs):
        return 2.0 * super().call(inputs)


class OwnLoss(OwnConstructor):
    def compute_loss(self, *args, **kwargs):
        return 2.0 * super().compute_loss(*args, **kwargs)


def test_a_model_whose_layers_do_not_define_it_says_what_to_do():
    with pytest.raises(ValueError, match=r"OwnCall overrides `call`.*Move it into a"):
        tt.wrap(OwnCall())
    inputs = keras.Input((6,))
    with pytest.raises(ValueError, match="OwnCall overrides `call`"):
        tt.wrap(keras.Model(inputs, kl.Dense(2)(OwnCall()(inputs))))
    model = OwnLoss()
    with pytest.raises(ValueError, match=r"`compute_loss`.*Model\(model.inputs, mod"):
        tt.wrap(model)
    tt.strip(half_pruned(keras.Model(model.inputs, model.outputs)))
    assert not samples.array(model.layers[1].kernel).all()
    # Inside another model the loss is not used.
    assert wrapped(keras.Model(inputs, kl.Dense(2)(OwnLoss()(inputs))))


class Autoencoder(keras.Model):
    """A model with a training step but no `call`."""

    def __init__(self, encoder, decoder):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def train_step(self, *args):
        raise NotImplementedError


def test_a_model_without_call_names_the_models_to_wrap_instead():
    encoder, decoder = samples.sequential(), samples.sequential()
    encoder.name, decoder.name = "encoder", "decoder"
    with pytest.raises(ValueError, match=r"no `call`.*\['encoder', 'decoder'\]"):
        tt.wrap(Autoencoder(encoder, decoder))
    model = Autoencoder(wrapped(encoder), wrapped(decoder))
    assert len(wrapping.kernels(model)) == 4


@pytest.mark.both
@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
def test_quantizing_a_wrapped_model_is_refused():
    model = wrapped(samples.sequential())
    with pytest.raises(ValueError, match="strip"):
        model.quantize("int8")
    assert {v.dtype for v in wrapping.kernels(model).variables.values()} == {"float32"}
    plain = tt.strip(model)
    plain.quantize("int8")
    assert plain.layers[0].kernel.dtype == "int8"


def test_masks_for_what_is_no_kernel_raise():
    model = wrapped(four())
    with pytest.raises(ValueError, match="'out/bias'.*'out/kernel'"):
        wrapping.kernels(model).set_masks({"out/bias": np.ones(2)})


# What wrapping preserves


@pytest.mark.both
def test_variables_stay_the_same_objects_and_keep_their_values():
    model = samples.sequential()
    before = [samples.array(v) for v in model.variables]
    result = wrapped(model)
    assert all(
        one is other
        for one, other in zip(
            wrapping.plain_paths(result).values(), model.variables, strict=True
        )
    )
    again = tt.strip(result)
    assert [id(v) for v in again.variables] == [id(v) for v in model.variables]
    np.testing.assert_equal([samples.array(v) for v in again.variables], before)


def test_names_for_losses_and_logs_stay():
    inputs = keras.Input((6,))
    heads = [kl.Dense(1, name="one")(inputs), kl.Dense(1, name="two")(inputs)]
    model = wrapped(keras.Model(inputs, heads))
    model.compile("sgd", {"one": "mse", "two": "mae"}, jit_compile=False)
    targets = {"one": np.ones((4, 1)), "two": np.ones((4, 1))}
    logs = model.fit(X, targets, verbose=0).history
    assert set(logs) == {"loss", "one_loss", "two_loss"}
    assert model.get_layer("one").layer.name == "one"


def half_squared(truth, prediction):
    return 0.5 * ops.mean(ops.square(truth - prediction), axis=-1)


def test_a_compiled_model_stays_compiled_with_functions_of_the_users_own():
    model = samples.sequential()
    optimizer = keras.optimizers.Adam(0.125)
    metrics = [half_squared, "mae"]
    model.compile(optimizer, half_squared, metrics=metrics, steps_per_execution=2)
    result = wrapped(model)
    assert result.loss is half_squared
    assert result.steps_per_execution == 2
    assert float(result.optimizer.learning_rate) == 0.125
    assert result.optimizer is optimizer
    result.fit(X, np.ones((4, 4)), verbose=0)
    assert int(result.optimizer.iterations) == 1
    assert set(result.get_metrics_result()) == {"loss", "half_squared", "mae"}
    assert model.compiled
    assert not tt.strip(result).compiled


def test_what_an_optimizer_leaves_out_of_weight_decay_stays_left_out():
    model = samples.sequential()
    optimizer = keras.optimizers.SGD(0.1, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    model.compile(optimizer, lambda y, p: 0.0 * ops.sum(p, axis=-1))
    result = wrapped(model)
    bias = next(v for v in result.trainable_variables if v.name == "bias")
    bias.assign(np.ones(bias.shape))
    result.fit(X, np.ones((4, 4)), verbose=0)
    assert samples.array(bias).tolist() == [1.0] * bias.shape[0]


class OwnTraining(keras.Model):
    def train_step(self, *args):
        return {**super().train_step(*args), "own": 1.0}


def test_the_class_with_its_train_step_stays():
    inputs = keras.Input((6,))
    model = wrapped(OwnTraining(inputs, kl.Dense(2)(inputs)))
    assert type(model) is OwnTraining
    assert type(tt.strip(model)) is OwnTraining


class OwnCompile(keras.Model):
    def compile(self, strength, **kwargs):
        super().compile(**kwargs)
        self.strength = strength


def test_a_model_with_a_compile_of_its_own_says_that_it_must_be_compiled():
    inputs = keras.Input((6,))
    model = OwnCompile(inputs, kl.Dense(2)(inputs))
    model.compile(3, loss="mse")
    with pytest.warns(UserWarning, match="OwnCompile overrides `compile`"):
        result = wrapped(model)
    assert not result.compiled


def test_a_shared_layer_has_one_mask():
    model = wrapped(samples.siamese())
    assert len(wrapping.prunables(model)) == 3
    assert len(model.get_layer("shared_tower").layers) == 1


# Depthwise convolutions


def separable():
    layers = [kl.Conv2D(4, 3, name="conv"), kl.DepthwiseConv2D(3, name="depthwise")]
    layers += [kl.Conv2D(4, 1, groups=4, name="grouped"), kl.Conv2D(4, 1, groups=2)]
    layers[-1].name = "halves"
    layers += [kl.SeparableConv2D(2, 2, name="separable")]
    return keras.Sequential([keras.Input((8, 8, 2)), *layers], name="net")


SPARED = {"depthwise/kernel", "grouped/kernel", "separable/depthwise_kernel"}
REST = {"conv/kernel", "halves/kernel", "separable/pointwise_kernel"}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, REST),
        ({"depthwise": True}, REST | SPARED),
        ({"filters": lambda layer: layer.name != "conv"}, REST - {"conv/kernel"}),
        ({"filters": "^(?!conv)"}, REST - {"conv/kernel"}),
        (
            {"filters": "^(?!conv)", "depthwise": True},
            (REST | SPARED) - {"conv/kernel"},
        ),
        ({"filters": "depth"}, {"depthwise/kernel"}),
        ({"filters": ["grouped", "conv"]}, {"grouped/kernel", "conv/kernel"}),
        (
            {"filters": ["separable"]},
            {"separable/depthwise_kernel", "separable/pointwise_kernel"},
        ),
    ],
)
def test_depthwise_kernels_are_wrapped_on_request(arguments, expected):
    model = tt.PruneAtInit(0.5, criterion="random").wrap(
        separable(), verbose=False, **arguments
    )
    paths = {path.removeprefix("net/") for path in wrapping.kernels(model)}
    assert paths == expected


def test_depthwise_kernels_left_alone_are_said(capsys):
    tt.wrap(separable())
    assert (
        "tf_tickets: 3 depthwise kernels of 56 weights are left alone; pass "
        "depthwise=True to prune them.\n"
    ) in capsys.readouterr().out
    tt.wrap(separable(), depthwise=True)
    assert "depthwise" not in capsys.readouterr().out
    only = keras.Sequential([keras.Input((8, 8, 2)), kl.DepthwiseConv2D(3)])
    with pytest.raises(ValueError, match="pass depthwise=True to prune it"):
        tt.wrap(only)


@pytest.mark.both
def test_a_ticket_of_depthwise_kernels_is_applied_to_a_plain_model():
    ticket = tt.PruneAtInit(0.5, criterion="random", allocation="uniform").prune(
        wrapped(separable(), depthwise=True)
    )
    masks = wrapping.kernels(ticket.apply(separable())).masks
    np.testing.assert_equal(masks, ticket.masks)
    plain = tt.strip(ticket.apply(separable()))
    assert tt.summary(plain).sparsity == ticket.sparsity


# Paths


@pytest.mark.parametrize("name", ["nested to three levels", "Sequential", "residual"])
def test_paths_after_a_reload_are_those_of_the_reloaded_plain_model(name, tmp_path):
    plain = samples.built(samples.TOPOLOGIES[name][0])
    plain.save(tmp_path / "plain.keras")
    plain_again = keras.models.load_model(tmp_path / "plain.keras")
    model = wrapped(plain)
    model.save(tmp_path / "wrapped.keras")
    again = keras.models.load_model(tmp_path / "wrapped.keras")
    without_seeds = [v.path for v in plain_again.variables if "seed" not in v.path]
    result = [path for path in wrapping.plain_paths(again) if "seed" not in path]
    assert result == without_seeds
    assert list(
        paths.match(
            wrapping.kernels(model).variables, wrapping.kernels(again).variables
        )
    ) == list(wrapping.kernels(model).variables)


def test_a_layer_built_by_its_wrapper_has_the_path_of_a_plain_one():
    block = kl.Bidirectional(kl.GRU(2, name="gru"), name="both")
    model = keras.Sequential([Prunable(block, name="other")], name="net")
    model(np.ones((1, 3, 2)))
    assert list(wrapping.kernels(model).variables)[:2] == [
        "net/both/forward_gru/gru_cell/kernel",
        "net/both/forward_gru/gru_cell/recurrent_kernel",
    ]


@pytest.mark.parametrize(
    ("wanted", "available", "expected"),
    [
        (["a/k"], ["b/k", "a/k"], ["a/k"]),
        (["d_3/k", "d_4/k"], ["d/k", "d_1/k"], ["d/k", "d_1/k"]),
        (["net/a/k", "net/b/k"], ["a/k", "b/k"], ["a/k", "b/k"]),
        (["a/k", "a/k#2"], ["x/a/k", "y/a/k"], ["x/a/k", "y/a/k"]),
        (["a_1/k"], ["a_2/k", "b/k"], ["a_2/k"]),
    ],
)
def test_names_are_matched(wanted, available, expected):
    assert list(paths.match(wanted, available).values()) == expected


@pytest.mark.parametrize(
    ("wanted", "available"),
    [
        (["conv/k"], ["dense/k"]),
        (["d_3/k"], ["d/k", "d_1/k"]),
        (["a/k", "b/k"], ["a/k"]),
        (["xa/k"], ["a/k"]),
        (["a/k", "b/k"], ["b/k", "a_1/k"]),
    ],
)
def test_names_that_do_not_fit_are_not_matched(wanted, available):
    assert paths.match(wanted, available) is None


# Subclassed models, which are changed in place


def test_a_subclassed_model_is_wrapped_in_its_containers():
    plain = samples.subclassed()
    model = wrapped(plain)
    assert model is plain
    assert len(wrapping.kernels(model).variables) == 8
    held = [
        model.stem,
        model.blocks[0],
        model.blocks[1][0],
        model.pair[0],
        model.heads["main"],
        model.tail.layers[0],
        model.inner,
    ]
    assert all(isinstance(layer, Prunable) for layer in held)
    assert isinstance(model.pair[1], kl.ReLU)


@pytest.mark.both
def test_a_subclassed_model_trains_bit_identically_and_holds_its_zeros():
    plain = samples.compiled(samples.built(samples.subclassed))
    model = samples.compiled(wrapped(samples.built(samples.subclassed)))
    targets = X[:, :4]
    losses = [samples.fit(m, X, targets, epochs=2) for m in (plain, model)]
    assert losses[0] == losses[1]
    np.testing.assert_equal(samples.weights(model), samples.weights(plain))
    masks = samples.half_masks(model)
    wrapping.kernels(model).set_masks(masks)
    samples.fit(model, X, targets)
    before = samples.outputs(model, X)
    tt.strip(model)
    np.testing.assert_array_equal(samples.outputs(model, X), before)
    table = wrapping.plain_paths(model)
    pruned = [samples.array(table[path])[~mask] for path, mask in masks.items()]
    assert not np.concatenate(pruned).any()


def test_a_subclassed_model_that_has_trained_can_be_wrapped():
    model = samples.compiled(samples.built(samples.subclassed))
    samples.fit(model, X, X[:, :4])
    wrapped(model)
    masks = {
        path: np.zeros(m.shape) for path, m in wrapping.kernels(model).masks.items()
    }
    wrapping.kernels(model).set_masks(masks)
    kernel = wrapping.kernels(model).variables["subclassed/inner/out/kernel"]
    kernel.assign(np.ones(kernel.shape))
    spread = np.ptp(model.predict(X, verbose=0), axis=0)
    np.testing.assert_array_equal(spread, np.zeros(4))


def test_the_weights_of_a_subclassed_model_stay_and_keep_their_order():
    model = samples.subclassed()
    before = [id(v) for v in model.variables]
    wrapped(model)
    assert [id(v) for v in wrapping.plain_paths(model).values()] == before
    assert tt.strip(model) is model
    assert wrapping.prunables(model) == []
    assert [id(v) for v in model.variables] == before


def test_the_weights_of_a_wrapped_subclassed_model_go_through_a_file(tmp_path):
    model = wrapped(samples.subclassed())
    masks = samples.half_masks(model)
    wrapping.kernels(model).set_masks(masks)
    model.save_weights(tmp_path / "model.weights.h5")
    again = wrapped(samples.subclassed())
    again.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(samples.outputs(again, X), samples.outputs(model, X))
    result = list(wrapping.kernels(again).masks.values())
    np.testing.assert_equal(result, list(masks.values()))


@pytest.fixture
def known():
    with keras.saving.custom_object_scope({"Subclassed": samples.Subclassed}):
        yield


def through_a_file(model, folder):
    model.save(folder / "model.keras")
    return keras.saving.load_model(folder / "model.keras")


@pytest.mark.both
@pytest.mark.parametrize("mask", ["fixed", "soft"])
@pytest.mark.parametrize("again", [through_a_file, lambda m, _: copy.deepcopy(m)])
def test_a_wrapped_subclassed_model_is_loaded_wrapped(mask, again, known, tmp_path):
    plain = samples.subclassed()
    before = type(plain)
    model = tt.wrap(plain, filters="stem|b1|inner", mask=mask, verbose=False)
    if mask == "fixed":
        wrapping.kernels(model).set_masks(samples.half_masks(model))
    loaded = again(model, tmp_path)
    assert isinstance(loaded, before) and len(wrapping.kernels(loaded)) == 4
    masks = [list(wrapping.kernels(m).masks.values()) for m in (model, loaded)]
    np.testing.assert_equal(*masks)
    np.testing.assert_array_equal(samples.outputs(loaded, X), samples.outputs(model, X))
    assert type(tt.strip(loaded)) is type(tt.strip(model)) is before


def test_a_wrapped_subclassed_model_is_loaded_with_its_optimizer(known, tmp_path):
    model = wrapped(samples.compiled(samples.subclassed()))
    wrapping.kernels(model).set_masks(samples.half_masks(model))
    samples.fit(model, X, X[:, :4])
    loaded = through_a_file(model, tmp_path)
    values = [m.optimizer.variables for m in (model, loaded)]
    np.testing.assert_equal(*[[np.array(v) for v in vs] for vs in values])
    samples.fit(loaded, X, X[:, :4])
    masks = [list(wrapping.kernels(m).masks.values()) for m in (model, loaded)]
    np.testing.assert_equal(*masks)


@keras.saving.register_keras_serializable("tests")
class OfParts(keras.Model):
    """A model in its configuration, and a layer of its own."""

    def __init__(self, part, **kwargs):
        super().__init__(**kwargs)
        self.part, self.last = part, kl.Dense(2, name="last")

    def call(self, inputs):
        return self.last(self.part(inputs))

    def get_config(self):
        part = keras.saving.serialize_keras_object(self.part)
        return {**super().get_config(), "part": part}

    @classmethod
    def from_config(cls, config):
        part = keras.saving.deserialize_keras_object(config.pop("part"))
        return cls(part, **config)


def test_parts_that_are_saved_wrapped_are_not_wrapped_twice(tmp_path):
    part = keras.Sequential([keras.Input((6,)), kl.Dense(5), kl.Dense(4)])
    model = wrapped(called(OfParts(part)))
    wrapping.kernels(model).set_masks(samples.half_masks(model))
    loaded = through_a_file(model, tmp_path)
    masks = [list(wrapping.kernels(m).masks.values()) for m in (model, loaded)]
    np.testing.assert_equal(*masks)
    assert len(masks[0]) == 3
    np.testing.assert_array_equal(samples.outputs(loaded, X), samples.outputs(model, X))


class WithoutConfig(keras.Model):
    """A class that Keras cannot save either."""

    def __init__(self, layers):
        super().__init__()
        self.only = layers[0]

    def call(self, inputs):
        return self.only(inputs)


def test_a_class_without_configuration_is_named(tmp_path):
    model = wrapped(called(WithoutConfig([kl.Dense(2)])))
    with pytest.raises(NotImplementedError, match="WithoutConfig.*save_weights"):
        model.save(tmp_path / "model.keras")


class BuiltByNobody(keras.Model):
    """Keras cannot build it when it loads a file."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.only = kl.Dense(2)

    def call(self, inputs):
        return self.only(inputs["x"] if isinstance(inputs, dict) else inputs)

    def get_build_config(self):
        return None


def test_a_model_that_keras_cannot_build_says_how_to_load_it(tmp_path):
    model = wrapped(called(BuiltByNobody()))
    model.save(tmp_path / "model.keras")
    with keras.saving.custom_object_scope({"BuiltByNobody": BuiltByNobody}):
        message = "do not fit a new BuiltByNobody.*load_weights"
        with pytest.raises((ValueError, TypeError), match=message):
            keras.saving.load_model(tmp_path / "model.keras")
    again = wrapped(called(BuiltByNobody()))
    again.load_weights(tmp_path / "model.keras")
    np.testing.assert_array_equal(samples.outputs(again, X), samples.outputs(model, X))


def test_a_stripped_subclassed_model_can_be_saved(tmp_path):
    model = tt.strip(wrapped(samples.subclassed()))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(
        tmp_path / "model.keras", custom_objects={"Subclassed": samples.Subclassed}
    )
    np.testing.assert_array_equal(samples.outputs(again, X), samples.outputs(model, X))


class Containers(keras.Model):
    """A named tuple, a set, and a layer in two nested models and an attribute."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.pair = Pair(kl.Dense(6), kl.Dense(6))
        self.alone = {kl.Dense(6)}
        self.shared = kl.Dense(6, name="shared")
        self.one = keras.Sequential([keras.Input((6,)), self.shared])
        self.two = keras.Sequential([keras.Input((6,)), self.shared, kl.Dense(6)])

    def call(self, inputs):
        (alone,) = self.alone
        x = self.pair.second(self.pair.first(inputs))
        return self.two(self.one(alone(self.shared(x))))


def test_named_tuples_and_sets_keep_their_kind():
    model = wrapped(called(Containers()))
    assert isinstance(model.pair.first, Prunable)
    assert isinstance(model.pair.second, Prunable)
    assert all(isinstance(layer, Prunable) for layer in model.alone)
    assert samples.outputs(model, X)[0].shape == (4, 6)


def test_a_layer_shared_between_nested_models_is_wrapped_once():
    model = called(Containers())
    shared, before = model.shared, samples.outputs(model, X)
    wrapped(model)
    assert model.one.layers[0] is model.two.layers[0] is model.shared
    assert model.shared.layer is shared
    assert len(wrapping.prunables(model)) == 5
    np.testing.assert_array_equal(samples.outputs(model, X), before)


class Holder:
    def __init__(self, layer):
        self.layer = layer


class OutOfReach(keras.Model):
    """Holds a layer in a plain object; Keras knows it only through `build`."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.kept = kl.Dense(6, name="kept")
        self.holder = Holder(self.kept)
        self._layers.append(self.kept)
        del self.kept

    def call(self, inputs):
        return self.holder.layer(inputs)


def test_a_layer_that_cannot_be_replaced_raises():
    with pytest.raises(ValueError, match="'kept'.*cannot be replaced"):
        wrapped(called(OutOfReach()))


# Distribution

MIRRORED = """
import numpy as np, tensorflow as tf
devices = [tf.config.LogicalDeviceConfiguration()] * 2
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, devices)
import keras, tf_tickets as tt
from tf_tickets import wrapping
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
assert strategy.num_replicas_in_sync == 2
with strategy.scope():
    model = keras.Sequential([
        keras.Input((6,)), keras.layers.Dense(8, activation="relu"),
        keras.layers.BatchNormalization(), keras.layers.Dense(2)])
    model = tt.wrap(model, verbose=False)
    model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=False)
masks = {p: np.arange(m.size).reshape(m.shape) % 2 == 0
         for p, m in wrapping.kernels(model).masks.items()}
wrapping.kernels(model).set_masks(masks)
before = [v.numpy() for v in wrapping.kernels(model).variables.values()]
x = np.random.default_rng(0).normal(size=(8, 6))
model.fit(x, np.ones((8, 2)), batch_size=4, verbose=0)
for (path, v), old in zip(wrapping.kernels(model).variables.items(), before):
    assert (v.numpy()[~masks[path]] == 0).all() and (v.numpy() != old).any()
print("zeros held on", strategy.num_replicas_in_sync)
"""


@pytest.mark.skipif(
    keras.config.backend() != "tensorflow", reason="tf.distribute is TensorFlow's"
)
def test_masks_hold_under_a_mirrored_strategy():
    out, errors = tiny.printed(MIRRORED)
    assert "zeros held on 2" in out, errors


def _library_classes(model):
    layers = [model, *paths.walk(model)]
    return {type(x).__name__ for x in layers if type(x).__module__[:10] == "tf_tickets"}


class Backbone(keras.Model):
    """A functional model of a class with a constructor of its own."""

    def __init__(self, units, **kwargs):
        inputs = keras.Input((3,))
        super().__init__(inputs, kl.Dense(units)(inputs), **kwargs)
        self.units = units

    def get_config(self):
        return {"units": self.units, "name": self.name}


def test_a_head_on_a_wrapped_backbone_is_stripped_to_plain_layers(tmp_path):
    wrapped = tt.wrap(Backbone(8), verbose=False)
    inputs = keras.Input((3,))
    model = keras.Model(inputs, kl.Dense(2)(wrapped(inputs)))
    tt.kernels(model).set_masks({p: m * 0 for p, m in tt.kernels(model).masks.items()})
    x = np.ones((4, 3), "float32")
    before = model.predict(x, verbose=0)
    plain = tt.strip(model)
    assert _library_classes(plain) == set()
    np.testing.assert_array_equal(plain.predict(x, verbose=0), before)
    plain.save(tmp_path / "a.keras")
    loaded = keras.models.load_model(tmp_path / "a.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), before)


def test_a_copy_of_a_wrapped_backbone_is_stripped_to_plain_layers():
    wrapped = tt.wrap(Backbone(8), verbose=False)
    plain = tt.strip(keras.models.clone_model(wrapped))
    assert _library_classes(plain) == set()


def test_a_class_that_refuses_subclasses_leaves_its_model_as_it_is():
    class Tagged(keras.Model):
        def __init_subclass__(cls, *, tag, **kwargs):
            super().__init_subclass__(**kwargs)

    class Net(Tagged, tag=1):
        def __init__(self):
            super().__init__()
            self.d = kl.Dense(2)

        def call(self, x):
            return self.d(x)

    model = Net()
    model(np.ones((1, 3)))
    with pytest.raises(ValueError, match="Net refuses subclasses.*'tag'"):
        tt.wrap(model, verbose=False)
    assert type(model.d) is kl.Dense


def test_depthwise_kernels_that_a_filter_leaves_out_are_not_announced(capsys):
    layers = [keras.Input((4, 4, 2)), kl.DepthwiseConv2D(2), kl.Conv2D(2, 2)]
    tt.wrap(keras.Sequential(layers), lambda layer: isinstance(layer, kl.Conv2D))
    assert "depthwise" not in capsys.readouterr().out
