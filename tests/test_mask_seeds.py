"""Each kernel of a model draws numbers of its own from the seed of its mask."""

import copy
import itertools
import json
import pathlib
import random

import keras
import numpy as np
import pytest
import tiny
from keras import layers as kl

import tf_tickets as tt
from tf_tickets import masks, wrapping

pytestmark = pytest.mark.turns

KINDS = {"stochastic": masks.StochasticMask, "topk": masks.TopKMask}
FROZEN = pathlib.Path(__file__).parent / "frozen" / "models"


def flat():
    names = [f"d{i}" for i in range(4)]
    return keras.Sequential([keras.Input((6,)), *(kl.Dense(6, name=n) for n in names)])


def nested():
    """Builds models in models, one of them called twice, and a shared layer."""
    inputs = keras.Input((6,))
    shared = kl.Dense(6, name="shared")
    twice = keras.Sequential([keras.Input((6,)), kl.Dense(6, name="in")], name="twice")
    deep = keras.Sequential([keras.Input((6,)), kl.Dense(6), flat(), kl.Dense(6)])
    x = shared(twice(kl.Dense(6, name="first")(inputs)))
    return keras.Model(inputs, shared(twice(deep(x))))


def recurrent():
    """Builds layers with several kernels of one shape."""
    layers = [kl.Bidirectional(kl.GRU(2, return_sequences=True)), kl.LSTM(4)]
    return keras.Sequential([keras.Input((3, 2)), *layers, kl.Dense(6), kl.Dense(6)])


class Net(keras.Model):
    """A model that is wrapped in place, with a functional one in it."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.last = kl.Dense(6, name="last")
        self.inner, self.blocks = flat(), [kl.Dense(6), kl.Dense(6)]

    def build(self, shape):
        for block in (self.last, *self.blocks):
            block.build((None, 6))

    def call(self, x):
        return self.last(self.blocks[1](self.blocks[0](self.inner(x))))


def subclassed():
    model = Net(name="net")
    model.build((None, 6))
    return model


class Task(keras.Model):
    """A functional model with a constructor of its own."""

    def __init__(self, units, **kwargs):
        inputs = keras.Input((6,))
        x = kl.Dense(units)(kl.Dense(units)(inputs))
        super().__init__(inputs, kl.Dense(6)(x), **kwargs)
        self.units = units

    def get_config(self):
        return {"units": self.units, "name": self.name}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


BUILDS = {
    "flat": flat,
    "nested": nested,
    "recurrent": recurrent,
    "subclassed": subclassed,
    "task": lambda: Task(6, name="t"),
}


def wrapped(build, kind, seed=3, **kwargs):
    return tt.wrap(build(), mask=KINDS[kind](seed=seed), verbose=False, **kwargs)


def drawn(model):
    """Returns the masks of a forward pass in training, by the order of kernels."""
    return [
        of_forward_pass(mask) for mask in wrapping.kernels(model).mask_layers.values()
    ]


def of_forward_pass(mask):
    if isinstance(mask, masks.TopKMask):
        return mask.value()  # The same, and not compiled for each shape.
    return keras.ops.convert_to_numpy(mask.soft(training=True))


@pytest.mark.parametrize(("build", "kind"), tiny.checkered(BUILDS, KINDS))
def test_each_kernel_has_its_own_numbers_and_a_seed_repeats_them(build, kind):
    found = drawn(wrapped(BUILDS[build], kind))
    pairs = list(itertools.combinations(found, 2))
    assert any(a.shape == b.shape for a, b in pairs)
    for a, b in pairs:
        assert a.shape != b.shape or (a != b).any()
    assert tiny.same(drawn(wrapped(BUILDS[build], kind)), found)
    # Neither names of layers nor the global generator matter.
    keras.utils.set_random_seed(9)
    assert tiny.same(drawn(wrapped(BUILDS[build], kind)), found)
    for other in drawn(wrapped(BUILDS[build], kind, seed=4)):
        assert not any(tiny.same([other], [mask]) for mask in found)


@pytest.mark.both
@pytest.mark.parametrize("kind", KINDS)
def test_kernels_of_one_seed_are_independent(kind):
    layers = [keras.Input((200,)), *(kl.Dense(200) for _ in range(4))]
    model = wrapped(lambda: keras.Sequential(layers), kind)
    for a, b in itertools.combinations(drawn(model), 2):
        assert abs((a == b).mean() - 0.5) < 5 * 0.5 / 200


@pytest.mark.parametrize(("build", "kind"), tiny.checkered(BUILDS, KINDS))
def test_a_file_and_a_clone_draw_what_the_model_drew_at_first(build, kind, tmp_path):
    model = wrapped(BUILDS[build], kind)
    with keras.saving.custom_object_scope({"Net": Net, "Task": Task}):
        config = keras.saving.serialize_keras_object(model)
        copies = [keras.saving.deserialize_keras_object(config)]
        if build != "task":  # Its clone is a model of its layers.
            copies.append(keras.models.clone_model(model))
        model.save(tmp_path / "net.keras")
        loaded = keras.saving.load_model(tmp_path / "net.keras")
        loaded.save(tmp_path / "again.keras")
        copies += [loaded, keras.saving.load_model(tmp_path / "again.keras")]
    first = drawn(model)
    for other in copies:
        assert tiny.same(drawn(other), first)


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrapper_built_from_one_configuration_twice_draws_the_same(kind):
    layer = kl.LSTM(4, name="cells")
    config = tt.layers.Prunable(layer, mask=KINDS[kind](seed=3)).get_config()
    found = []
    for _ in range(2):
        prunable = tt.layers.Prunable.from_config(copy.deepcopy(config))
        prunable.build((None, 3, 4))
        masks_of = prunable.kernel_masks
        found.append([of_forward_pass(mask) for mask in masks_of])
    assert tiny.same(*found)
    assert found[0][0].shape == found[0][1].shape
    assert (found[0][0] != found[0][1]).any()


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_kernel_and_a_mask_alone_have_the_numbers_of_the_seed_itself(kind):
    mask = KINDS[kind](seed=3)
    mask.build((6, 6))
    first, *_ = wrapping.kernels(wrapped(flat, kind)).mask_layers.values()
    alone, model = map(of_forward_pass, (mask, first))
    assert alone.tolist() == model.tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_of_numpy_is_that_number(kind, tmp_path):
    model = wrapped(flat, kind, seed=np.int64(3))
    assert tiny.same(drawn(model), drawn(wrapped(flat, kind)))
    model.save(tmp_path / "model.keras")
    config = KINDS[kind](seed=np.uint8(3)).get_config()
    assert json.dumps(config["seed"]) == "3"


@pytest.mark.parametrize(("kind", "count"), [("stochastic", 5), ("topk", 4)])
def test_masks_without_a_seed_take_one_each_from_the_global_generator(kind, count):
    """Programs that set the global seed only find what they found before."""
    model = flat()
    keras.utils.set_random_seed(0)
    tt.wrap(model, mask=kind, verbose=False)
    following = random.random()
    keras.utils.set_random_seed(0)
    # One of them belongs to the stochastic mask that is copied.
    for _ in range(count):
        keras.random.SeedGenerator()
    assert random.random() == following


class Own(masks.SoftMask):
    """A mask of a user's, with a seed that need not be a number."""

    def __init__(self, seed=None, **kwargs):
        super().__init__(**kwargs)
        self.seed = seed

    def get_config(self):
        return {**super().get_config(), "seed": self.seed}


def test_masks_of_ones_own_with_a_seed_get_one_for_each_kernel_too():
    def seeds(seed):
        model = tt.wrap(flat(), mask=Own(seed), verbose=False)
        return [m.seed for m in wrapping.kernels(model).mask_layers.values()]

    assert seeds(7)[0] == 7 and len(set(seeds(7))) == 4
    assert seeds(-1)[0] == -1 and len(set(seeds(-1))) == 4
    assert seeds(None) == [None] * 4
    assert seeds("any") == ["any"] * 4


@tiny.needs_keras_3_15
def test_models_of_0_1_0_load_with_their_seeds():
    """Their kernels draw the numbers that they drew."""
    for name in KINDS:
        model = keras.saving.load_model(FROZEN / f"{name}.keras")
        layers = wrapping.kernels(model).mask_layers.values()
        assert [mask.seed for mask in layers] == [3, 3]
