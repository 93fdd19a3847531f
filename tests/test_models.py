"""Weight counts of the papers, shapes, and training by the recipes."""

import contextlib
import math

import keras
import numpy as np
import pytest
import tiny

from tf_tickets import augmentation, wrapping
from tf_tickets.experiments import models, recipes
from tf_tickets.pruning import allocation, selection
from tf_tickets.search import search_recipes

pytestmark = pytest.mark.turns

_NAMES = ["lenet300", "conv2", "conv4", "conv6"]
_NAMES += ["resnet8", "resnet20", "resnet18", "vgg16"]


@contextlib.contextmanager
def _without_weights():
    with keras.StatelessScope(initialize_variables=False):
        yield
    # Keras would create the missing weights later.
    keras.utils.clear_session(free_memory=False)


def _shapes(name, input_shape, width=1.0):
    """Returns the shapes of the kernels by path, without creating the weights."""
    with _without_weights():
        model = recipes.recipe(name).build(input_shape, 10, width)
    return {v.path: tuple(v.shape) for v in model.variables if v.name == "kernel"}


def _weights(shapes, part=""):
    return sum(math.prod(shape) for path, shape in shapes.items() if part in path)


def _batch(rows=8):
    rng = np.random.default_rng(0)
    return rng.normal(size=(rows, 8, 8, 3)).astype("float32"), np.arange(rows) % 4


def _narrow(name, **arguments):
    keras.utils.set_random_seed(0)
    return recipes.build(name, (8, 8, 3), 4, steps_per_epoch=4, width=0.02, **arguments)


@pytest.mark.parametrize(
    ("name", "shape", "weights"),
    [
        ("lenet300", (28, 28, 1), 266_200),
        ("conv2", (32, 32, 3), 4_300_992),
        ("conv4", (32, 32, 3), 2_425_024),
        ("conv6", (32, 32, 3), 2_261_184),
        ("resnet8", (32, 32, 3), 77_360),
        ("resnet20", (32, 32, 3), 270_896),
        ("resnet18", (32, 32, 3), 11_164_352),
        ("vgg16", (32, 32, 3), 14_715_584),
    ],
)
def test_the_number_of_prunable_weights_is_that_of_the_papers(name, shape, weights):
    assert _weights(_shapes(name, shape)) == weights


@pytest.mark.parametrize(
    ("name", "weights"), [("conv2", 38_592), ("conv4", 259_776), ("conv6", 1_144_512)]
)
def test_the_convolutions_have_the_weights_of_the_paper(name, weights):
    assert _weights(_shapes(name, (32, 32, 3)), part="conv") == weights


@pytest.mark.parametrize(
    ("name", "layers"),
    [("lenet300", 3), ("conv2", 5), ("conv4", 7), ("conv6", 9), ("vgg16", 14)],
)
def test_a_plain_network_has_as_many_kernels_as_layers(name, layers):
    assert len(_shapes(name, (32, 32, 3))) == layers


@pytest.mark.parametrize(
    ("name", "shortcuts"), [("resnet8", 2), ("resnet20", 2), ("resnet18", 3)]
)
def test_a_resnet_has_its_layers_and_1x1_shortcuts(name, shortcuts):
    shapes = _shapes(name, (32, 32, 3))
    result = [shape for path, shape in shapes.items() if "_shortcut/" in path]
    assert [shape[:2] for shape in result] == [(1, 1)] * shortcuts
    assert len(shapes) - shortcuts == int(name.removeprefix("resnet"))


def test_resnet8_is_that_of_mlperf_tiny():
    with _without_weights():
        model = models.resnet8()
    result = [
        (layer.name, layer.output.shape[1], layer.count_params())
        for layer in model.layers
        if layer.weights
    ]
    assert result == [
        ("stem", 32, 448),
        ("stem_bn", 32, 64),
        ("stage1_conv1", 32, 2320),
        ("stage1_bn1", 32, 64),
        ("stage1_conv2", 32, 2320),
        ("stage1_bn2", 32, 64),
        ("stage2_conv1", 16, 4640),
        ("stage2_bn1", 16, 128),
        ("stage2_conv2", 16, 9248),
        ("stage2_shortcut", 16, 544),
        ("stage2_bn2", 16, 128),
        ("stage3_conv1", 8, 18496),
        ("stage3_bn1", 8, 256),
        ("stage3_conv2", 8, 36928),
        ("stage3_shortcut", 8, 2112),
        ("stage3_bn2", 8, 256),
        ("output", 10, 650),
    ]
    assert model.count_params() == 78_666


@pytest.mark.parametrize("name", _NAMES)
@pytest.mark.parametrize("size", [(8, 8, 1), (28, 28, 1), (32, 32, 3)])
def test_every_network_takes_every_data_set(name, size):
    with _without_weights():
        model = recipes.recipe(name).build(size, 7, 0.1)
    assert model.output_shape == (None, 7)
    assert (model.name, model.layers[-1].name) == (name, "output")


# XLA, which JAX always uses, takes half a minute to compile VGG-16.
_TRAINED = ["lenet300", "conv2", "resnet8", "resnet20", "vgg16"]


@pytest.mark.on("tensorflow")
@pytest.mark.parametrize("name", tiny.marked(_TRAINED, _TRAINED[:2]))
def test_a_compiled_network_trains_a_step(name):
    model = _narrow(name, jit_compile=tiny.JIT)
    x, y = _batch()
    before = [v.numpy() for v in model.trainable_variables]
    history = model.fit(x, y, batch_size=8, epochs=1, verbose=0).history
    after = [v.numpy() for v in model.trainable_variables]
    moved = [(b != a).any() for b, a in zip(before, after, strict=True)]
    assert np.mean(moved) > 0.8
    assert np.isfinite(history["loss"][0]) and "accuracy" in history


def test_the_output_is_logits():
    logits = _narrow("conv2").predict(100 * _batch()[0], verbose=0)
    assert (logits < 0).any() and not np.allclose(logits.sum(-1), 1)


def test_a_recipe_can_learn():
    model = recipes.build("lenet300", (8, 8, 3), 4, width=0.1, jit_compile=tiny.JIT)
    x, y = _batch(32)
    history = model.fit(x, y, batch_size=8, epochs=60, verbose=0).history
    assert history["accuracy"][-1] == 1.0


@pytest.mark.parametrize("name", ["lenet300", "resnet20"])
def test_initial_weights_follow_the_global_seed(name):
    first, again = (_narrow(name).layers[-1].kernel.numpy() for _ in range(2))
    other = recipes.build(name, (8, 8, 3), 4, steps_per_epoch=4, width=0.02)
    assert (first == again).all()
    assert (first != other.layers[-1].kernel.numpy()).any()


def test_layers_of_one_shape_start_differently():
    model = _narrow("conv2")
    kernels = [model.get_layer(name).kernel.numpy() for name in ("conv1", "conv2")]
    assert (kernels[0] != kernels[1]).any()


@pytest.mark.parametrize(
    ("name", "layer", "variance"),
    [
        ("lenet300", "fc1", 2 / (192 + 300)),
        ("conv2", "conv2", 2 / (576 + 576)),
        ("resnet18", "stage1_block1_conv2", 2 / 576),
    ],
)
def test_the_initial_variance_is_that_of_the_paper(name, layer, variance):
    with _without_weights():
        model = recipes.recipe(name).build((8, 8, 3), 4)
    result = model.get_layer(layer)
    drawn = keras.ops.convert_to_numpy(result.kernel_initializer(result.kernel.shape))
    assert drawn.var() == pytest.approx(variance, rel=0.05)


@pytest.mark.parametrize(
    ("step", "rate"), [(0, 0.1), (49, 0.1), (50, 0.01), (74, 0.01), (75, 0.001)]
)
def test_the_learning_rate_falls_after_a_half_and_three_quarters(step, rate):
    optimizer = recipes.recipe("resnet20").optimizer(100)
    optimizer.build([keras.Variable(np.ones(2, "float32"))])
    optimizer.iterations.assign(step)
    assert float(optimizer.learning_rate) == pytest.approx(rate)


@pytest.mark.parametrize(
    ("step", "rate"), [(0, 0.0), (5, 1.5e-3), (10, 3e-3), (105, 1.5e-3), (200, 0.0)]
)
def test_the_learning_rate_of_resnet8_rises_and_falls_as_a_cosine(step, rate):
    optimizer = recipes.recipe("resnet8").optimizer(200)
    optimizer.build([keras.Variable(np.ones(2, "float32"))])
    optimizer.iterations.assign(step)
    assert float(optimizer.learning_rate) == pytest.approx(rate, abs=1e-8)


@pytest.mark.parametrize(("augment", "count"), [(True, 1), (False, 0)])
def test_a_recipe_augments_in_the_network_if_asked(augment, count):
    model = _narrow("resnet8", augment=augment)
    kinds = [isinstance(layer, augmentation.CropAndFlip) for layer in model.layers]
    assert sum(kinds) == count
    assert kinds[1] == augment


def test_augmentation_adds_no_weights_and_changes_no_prediction():
    model, plain = (_narrow("resnet8", augment=a) for a in (True, False))
    plain.set_weights(model.get_weights())
    x = _batch()[0]
    np.testing.assert_array_equal(
        model.predict(x, verbose=0), plain.predict(x, verbose=0)
    )


@pytest.mark.parametrize(("name", "shrinks"), [("kernel", True), ("bias", False)])
def test_weight_decay_pulls_kernels_as_under_momentum_but_not_biases(name, shrinks):
    variable = keras.Variable(np.ones(2, "float32"), name=name)
    optimizer = recipes.recipe("vgg16").optimizer(10)
    optimizer.apply([keras.ops.zeros(2)], [variable])
    # Learning rate 0.1 times weight decay 1e-4 over (1 - momentum 0.9).
    assert variable.numpy() == pytest.approx(1 - 1e-4 * shrinks, abs=1e-7)


@pytest.mark.parametrize(
    ("name", "path", "rate"),
    [
        ("lenet300", "fc2/kernel", 0.2),
        ("lenet300", "output/kernel", 0.1),
        ("conv2", "conv2/fc1/kernel", 0.2),
        ("conv2", "conv2/kernel", 0.1),
        ("conv4", "conv4/conv1/kernel", 0.1),
        ("conv6", "conv6/kernel", 0.15),
        ("conv6", "conv6/output/kernel", 0.1),
    ],
)
def test_every_kernel_loses_the_rate_of_the_paper(name, path, rate):
    masks = {path: np.ones(1000, bool)}
    kept = allocation.after_rates(masks, recipes.recipe(name).rate)
    assert kept[path] == round(1000 * (1 - rate))


@pytest.mark.parametrize(
    ("rounds", "left"), [(3, 0.513), (7, 0.211), (12, 0.070), (15, 0.036), (18, 0.019)]
)
def test_lenet_loses_weights_as_in_the_paper(rounds, left):
    counts = {
        path: math.prod(s) for path, s in _shapes("lenet300", (28, 28, 1)).items()
    }
    for _ in range(rounds):
        masks = {path: np.ones(count, bool) for path, count in counts.items()}
        counts = allocation.after_rates(masks, recipes.recipe("lenet300").rate)
    assert sum(counts.values()) / 266_200 == pytest.approx(left, abs=5e-4)


@pytest.mark.parametrize(
    ("epochs", "rewind_to"), [(160, "10 epochs"), (32, "2 epochs"), (2, "1 epochs")]
)
def test_the_rewind_point_moves_with_the_length(epochs, rewind_to):
    recipe = recipes.recipe("resnet18").with_epochs(epochs)
    assert (recipe.epochs, recipe.rewind_to) == (epochs, rewind_to)


@pytest.mark.parametrize("name", ["resnet18", "lenet300"])
def test_with_one_epoch_the_rewind_point_is_the_beginning(name):
    assert recipes.recipe(name).with_epochs(1).rewind_to == "init"


@pytest.mark.parametrize(
    ("arguments", "attribute", "value"),
    [
        ({"jit_compile": False}, "jit_compile", False),
        ({"steps_per_execution": 3}, "steps_per_execution", 3),
    ],
)
def test_compile_arguments_reach_the_model(arguments, attribute, value):
    assert getattr(_narrow("lenet300", **arguments), attribute) == value


@pytest.mark.parametrize("name", ["lenet", "ResNet20", ""])
def test_an_unknown_network_lists_the_known_ones(name):
    with pytest.raises(ValueError, match=f"Received: '{name}'.*lenet300, .*, vgg16"):
        recipes.build(name, (8, 8, 1), 10)


@pytest.mark.parametrize("name", ["resnet8", "resnet20", "vgg16"])
def test_a_falling_learning_rate_needs_the_number_of_steps(name):
    with pytest.raises(ValueError, match="steps_per_epoch=None"):
        recipes.build(name, (8, 8, 1), 10, width=0.05)


def test_bad_widths_and_epochs_are_refused():
    with pytest.raises(ValueError, match="Received: width=0"):
        models.lenet300(width=0)
    with pytest.raises(ValueError, match="`epochs` must be .*Received: 0"):
        recipes.recipe("lenet300").with_epochs(0)


def test_vgg_spares_its_output_as_in_openlth():
    spared = recipes.recipe("vgg16").allocation
    masks = {"vgg16/conv1/kernel": np.ones(6, bool), "output/kernel": np.ones(4, bool)}
    scores = {"vgg16/conv1/kernel": np.arange(6.0), "output/kernel": np.zeros(4)}
    assert spared(scores, masks, 7) == {"vgg16/conv1/kernel": 3, "output/kernel": 4}
    assert spared(scores, masks, 2) == {"vgg16/conv1/kernel": 0, "output/kernel": 4}


def test_a_search_by_the_recipe_of_vgg_keeps_the_whole_output():
    recipe = recipes.recipe("vgg16")
    with _without_weights():
        model = recipe.build((8, 8, 3), 4, 0.02)
    paths = [v.path for v in model.variables if v.name == "kernel"]
    rng = np.random.default_rng(0)
    masks = {path: np.ones(10, bool) for path in paths}
    scores = {path: rng.random(10) * (path != "output/kernel") for path in paths}
    chosen = selection.choose(scores, masks, 70, recipe.allocation)
    assert sum(int(mask.sum()) for mask in chosen.values()) == 70
    assert chosen["output/kernel"].all()


@pytest.mark.parametrize("name", ["lenet300", "resnet20"])
def test_other_recipes_prune_the_output_as_their_papers(name):
    assert recipes.recipe(name).allocation in (None, "global")


_EXPECTED = {
    "cs_conv6": {
        "rounds": 4,
        "epochs_per_round": 40,
        "initial_score": 0.0,
        "final_temperature": 100.0,
        "penalty": 1e-10,
    },
    "cs_resnet20": {"epochs_per_round": 85, "penalty": 1e-8, "scale_mask": True},
    "dlth_resnet20": {"rounds": 1, "epochs_per_round": 200, "final_sparsity": 0.9},
}


@pytest.mark.parametrize("name", _EXPECTED)
def test_a_search_has_the_settings_of_its_paper(name):
    search = search_recipes.recipe(name).search()
    found = {key: getattr(search, key) for key in _EXPECTED[name]}
    assert found == _EXPECTED[name]


@pytest.mark.parametrize(
    ("name", "drops"),
    [("cs_resnet20", (56, 71, 85)), ("dlth_resnet20", (100, 150, 200))],
)
def test_the_learning_rate_drops_at_the_epochs_of_the_paper(name, drops):
    first, second, epochs = drops
    optimizer = search_recipes.recipe(name).optimizer(10 * epochs)
    optimizer.build([keras.Variable(np.ones(2, "float32"))])
    rates = []
    for step in (0, 10 * first - 1, 10 * first, 10 * second - 1, 10 * second):
        optimizer.iterations.assign(step)
        rates.append(float(optimizer.learning_rate))
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001])


@pytest.mark.parametrize(("name", "decay"), [("cs", 1e-4), ("dlth", 5e-4)])
def test_weight_decay_is_that_of_the_paper(name, decay):
    optimizer = search_recipes.recipe(f"{name}_resnet20").optimizer(100)
    # Of momentum 0.9.
    assert optimizer.weight_decay == pytest.approx(10 * decay)


@pytest.mark.parametrize(
    ("name", "spared"),
    [
        ("cs_conv6", []),
        ("cs_resnet20", ["output", "stage2_block1_shortcut", "stage3_block1_shortcut"]),
        ("dlth_resnet20", ["output", "stem"]),
    ],
)
def test_a_search_spares_the_layers_of_its_paper(name, spared):
    recipe = search_recipes.recipe(name)
    model = recipe.build((8, 8, 3), 4, steps_per_epoch=2, width=0.02)
    wrapped = {path.split("/")[-2] for path in wrapping.kernels(model)}
    kernels = {v.path.split("/")[-2] for v in model.variables if v.name == "kernel"}
    assert sorted(kernels - wrapped) == spared
    assert (model.optimizer.name == "grouped") == name.startswith("cs")


def test_an_unknown_search_lists_the_known_ones():
    with pytest.raises(ValueError, match="Received: 'cs'.*cs_conv6, .*, dlth_resnet20"):
        search_recipes.recipe("cs")
