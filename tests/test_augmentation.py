"""Random crops and flips against all that are possible."""

import keras
import numpy as np
import pytest
import tiny

import tf_tickets as tt
from tf_tickets.augmentation import CropAndFlip


def _images(count=64, height=3, width=4):
    """Returns images whose pixels all differ, and none is 0."""
    size = (count, height, width, 2)
    return np.arange(1.0, np.prod(size) + 1).reshape(size).astype("float32")


def _possible(image, padding, flip):
    """Returns all crops of a padded image by place, and their mirror images."""
    height, width, _ = image.shape
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    crops = {}
    for top in range(2 * padding + 1):
        for left in range(2 * padding + 1):
            crop = padded[top : top + height, left : left + width]
            crops[top, left, False] = crop
            if flip:
                crops[top, left, True] = crop[:, ::-1]
    return crops


def _choices(layer, images):
    """Returns the place and flip of each image; fails if it is none that may be."""
    found = []
    cropped = keras.ops.convert_to_numpy(layer(images, training=True))
    assert cropped.shape == images.shape
    for image, result in zip(images, cropped, strict=True):
        crops = _possible(image, layer.padding, layer.flip)
        found.append([k for k, crop in crops.items() if (crop == result).all()])
    # Pixels differ, so a crop of this size is like no other.
    assert [len(places) for places in found] == [1] * len(images)
    return [places[0] for places in found]


@pytest.mark.parametrize(("padding", "flip"), [(0, True), (1, False), (1, True)])
def test_each_image_becomes_one_of_its_crops_and_all_occur(padding, flip):
    layer = CropAndFlip(padding, flip, seed=0)
    choices = {c for _ in range(3) for c in _choices(layer, _images())}
    assert choices == set(_possible(_images()[0], padding, flip))


def test_places_and_flips_are_equally_frequent():
    choices = np.array(_choices(CropAndFlip(1, seed=1), _images(1800)))
    for column, kinds in ((0, 3), (1, 3), (2, 2)):
        counts = np.bincount(choices[:, column], minlength=kinds)
        # Four standard deviations.
        np.testing.assert_allclose(counts, 1800 / kinds, atol=4 * 1800**0.5 / 2)


def test_each_call_differs_and_a_seed_repeats_the_calls():
    first, again = CropAndFlip(2, seed=5), CropAndFlip(2, seed=np.int64(5))
    calls = [_choices(first, _images()) for _ in range(2)]
    assert calls[0] != calls[1]
    assert [_choices(again, _images()) for _ in range(2)] == calls


@pytest.mark.parametrize("arguments", [{}, {"training": False}, {"training": None}])
def test_images_stay_as_they_are_outside_training(arguments):
    images = _images()
    model = keras.Sequential([keras.Input((3, 4, 2)), CropAndFlip(2)])
    result = keras.ops.convert_to_numpy(model(images, **arguments))
    np.testing.assert_array_equal(result, images)


@pytest.mark.parametrize("jit_compile", tiny.in_turns([False, True]))
def test_it_trains_in_a_compiled_step_with_a_smaller_last_batch(jit_compile):
    images = _images(10)
    model = keras.Sequential([keras.Input((3, 4, 2)), CropAndFlip(1, seed=0)])
    # It returns the images, so the loss is 0 if they are as they were.
    model.add(keras.layers.Dense(2, use_bias=False, kernel_initializer="identity"))
    model.compile(keras.optimizers.SGD(0.0), "mae", jit_compile=jit_compile)
    history = model.fit(images, images, batch_size=4, epochs=2, verbose=0).history
    assert history["loss"][0] > 0
    assert history["loss"][0] != history["loss"][1]
    assert model.evaluate(images, images, verbose=0) == 0


def test_a_saved_model_augments_on_with_the_same_settings(tmp_path):
    layer = CropAndFlip(3, flip=False, seed=7, name="shift")
    keras.Sequential([keras.Input((3, 4, 2)), layer]).save(tmp_path / "a.keras")
    again = keras.saving.load_model(tmp_path / "a.keras").layers[0]
    assert again.get_config() == layer.get_config()
    assert (again.padding, again.flip, again.seed) == (3, False, 7)


@pytest.mark.parametrize("padding", [-1, 1.5, None, True])
def test_bad_paddings_are_refused(padding):
    with pytest.raises(ValueError, match=f"`padding` .*Received: padding={padding}"):
        CropAndFlip(padding)


def _classifier():
    model = keras.Sequential([keras.Input((3, 4, 2)), CropAndFlip(1, name="crop")])
    model.add(keras.layers.Flatten())
    model.add(keras.layers.Dense(2, name="d"))
    return model


def _check_plain(model):
    kinds = [type(layer).__module__.split(".")[0] for layer in model.layers]
    assert kinds == ["keras"] * 3
    assert isinstance(model.layers[0], keras.layers.Identity)


def test_a_stripped_model_has_no_augmentation_and_equal_predictions():
    model = tt.wrap(_classifier(), verbose=False)
    before = model.predict(_images(), verbose=0)
    plain = tt.strip(model)
    _check_plain(plain)
    np.testing.assert_array_equal(plain.predict(_images(), verbose=0), before)


@pytest.mark.usefixtures("forked_interpreters")
@pytest.mark.on("tensorflow")
@pytest.mark.parametrize("wraps", tiny.marked([True, False], [False]))
def test_an_exported_file_can_be_loaded_without_this_library(tmp_path, wraps):
    model = _classifier()
    model = tt.wrap(model, verbose=False) if wraps else model
    # It is loaded in a process that does not import this library.
    tt.export(model, tmp_path / "a.keras", data=_images(4))
    loaded = keras.saving.load_model(tmp_path / "a.keras")
    _check_plain(loaded)
    np.testing.assert_array_equal(
        loaded.predict(_images(), verbose=0), model.predict(_images(), verbose=0)
    )


def test_channels_are_removed_behind_it_as_without_it():
    def build(augmentation):
        layers = [keras.Input((3, 4, 2)), *augmentation]
        layers += [keras.layers.Conv2D(4, 3), keras.layers.Flatten()]
        return keras.Sequential([*layers, keras.layers.Dense(2)])

    units, plain = tt.find_units(build([CropAndFlip(1)])), tt.find_units(build([]))
    assert units.size == plain.size == 4
    assert len(units.pinned) == len(plain.pinned)
    model = tt.wrap(build([CropAndFlip(1)]), structure="channels", verbose=False)
    search = tt.PruneAtInit(0.5, epochs=1, monitor="loss")
    search.prune(model)
    small = tt.compact(model)
    assert isinstance(small.layers[0], CropAndFlip)
    np.testing.assert_allclose(
        small.predict(_images(), verbose=0),
        model.predict(_images(), verbose=0),
        rtol=1e-5,
    )


def test_a_stripped_model_is_compacted_and_pruned_again():
    """The graph still passes `training` to the layer that takes its place."""
    layers = keras.layers
    inputs = keras.Input((4, 4, 2))
    x = layers.Conv2D(3, 3, name="conv")(CropAndFlip(1)(inputs))
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))
    plain = tt.strip(tt.wrap(model, structure="channels", verbose=False))
    small, report = tt.compact(plain, return_report=True)
    assert report.compact.macs == report.dense.macs == 2 * 2 * 3 * 18 + 12 * 2
    assert "kernel" in str(tt.summary(tt.wrap(small, verbose=False)))
