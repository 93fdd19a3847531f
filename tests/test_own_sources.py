"""Folders of images, tables and arrays of any shape, as data sets."""

import pickle

import keras
import numpy as np
import pytest

import tf_tickets as tt
from tf_tickets.experiments import datasets

pytestmark = pytest.mark.turns("jax")


def save_image(path, value, size=(6, 8), suffix=".png"):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.full((*size, 3), float(value))
    keras.utils.save_img(path.with_suffix(suffix), image, scale=False)


def fill(folder, classes=("cat", "dog"), each=10, first=0):
    """Writes images whose grey value is their number."""
    for label, name in enumerate(classes):
        for number in range(each):
            save_image(folder / name / f"{number:02}", first + 100 * label + number)
    return folder


def values(part):
    """Returns the grey values of a part's images, and their labels."""
    batches = [part[index] for index in range(len(part))]
    images = np.concatenate([x for x, _ in batches])
    return images[:, 0, 0, 0].tolist(), np.concatenate([y for _, y in batches]).tolist()


def load(folder, batch_size=4, **settings):
    return datasets.load_images(folder, batch_size=batch_size, **settings)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("photos"))


def test_a_folder_is_split_by_class_and_every_image_is_in_one_part(folder):
    data = load(folder, scaling="none", validation_split=0.2, test_split=0.2)
    assert isinstance(data, tt.TrainingData) and data.name == folder.name
    found, labels = zip(*(values(part) for part in data.parts.values()), strict=True)
    assert [len(part.paths) for part in data.parts.values()] == [12, 4, 4]
    assert sorted(sum(found, [])) == [*range(10), *range(100, 110)]
    assert [y.count(1) for y in labels] == [6, 2, 2]
    for grey, y in zip(found, labels, strict=True):
        assert [value >= 100 for value in grey] == [label == 1 for label in y]


def test_the_split_of_a_folder_depends_on_the_seed_only(folder):
    one, same, other = (load(folder, seed=s) for s in (3, 3, 4))
    assert one.train.paths == same.train.paths != other.train.paths
    assert one.train.identity() == same.train.identity() != other.train.identity()


def test_the_order_of_a_folder_is_a_function_of_the_key(folder):
    train = load(folder, scaling="none").train
    natural = values(train)
    orders = {}
    for key in [(0, 1, 0), (0, 1, 1), (0, 1, 0), (1, 1, 0)]:
        train.reorder(key)
        order = values(train)
        assert orders.setdefault(key, order) == order
    assert len({tuple(grey) for grey, _ in [natural, *orders.values()]}) == 4
    for grey, labels in orders.values():
        assert len(set(grey)) == len(grey) == 16
        assert [value >= 100 for value in grey] == [label == 1 for label in labels]


def test_only_training_drops_images_that_fill_no_batch(folder):
    data = load(folder, batch_size=3)
    assert len(data.train) == 16 // 3
    assert len(data.validation) == 1 and len(values(data.validation)[0]) == 2


@pytest.mark.parametrize(
    "scaling, low, high", [("none", 0, 109), ("unit", 0, 109 / 255)]
)
def test_pixels_are_scaled(folder, scaling, low, high):
    data = load(folder, scaling=scaling)
    grey = sum((values(part)[0] for part in data.parts.values()), [])
    assert (min(grey), max(grey)) == (low, pytest.approx(high))


def test_standard_scaling_is_that_of_the_training_images(folder):
    data = load(folder, batch_size=16)
    images, _ = data.train[0]
    np.testing.assert_allclose(images.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(images.std((0, 1, 2)), 1, atol=1e-5)
    assert data.test.offset.tolist() == data.train.offset.tolist()


def test_images_are_resized_and_may_be_grey(folder):
    data = load(folder, image_size=5, color_mode="grayscale")
    assert data.train.input_shape == (5, 5, 1)
    assert data.train[0][0].shape[1:] == (5, 5, 1)
    assert load(folder).train.input_shape == (6, 8, 3)


def test_folders_of_a_split_are_used_as_they_are(tmp_path):
    fill(tmp_path / "train", each=5)
    fill(tmp_path / "valid", each=2, first=10)
    data = load(tmp_path, scaling="none", batch_size=10)
    assert sorted(values(data.train)[0]) == [*range(5), *range(100, 105)]
    assert sorted(values(data.validation)[0]) == [10, 11, 110, 111]
    assert data.test is None
    fill(tmp_path / "test", classes=["dog"], each=1, first=7)
    assert values(load(tmp_path, scaling="none").test) == ([7], [1])


def test_validation_images_are_split_off_from_a_folder_train(tmp_path):
    fill(tmp_path / "train", each=5)
    fill(tmp_path / "test", each=1, first=50)
    data = load(tmp_path, validation_split=0.2, scaling="none")
    assert [len(p.paths) for p in data.parts.values()] == [8, 2, 2]
    assert sorted(values(data.test)[0]) == [50, 150]


def test_a_folder_is_pickled_and_reduced(folder):
    train = load(folder).train
    copy = pickle.loads(pickle.dumps(train))
    np.testing.assert_array_equal(copy[0][0], train[0][0])
    assert copy.identity() == train.identity()
    few = train.take(5)
    assert few.paths == train.paths[:5] and few.scale.tolist() == train.scale.tolist()
    x, y = train.balanced(3, seed=1)
    assert len(x) == 6 and np.bincount(y).tolist() == [3, 3]


def broken(folder):
    fill(folder)
    (folder / "cat" / "00.png").write_bytes(b"no image")


@pytest.mark.parametrize(
    "make, settings, message",
    [
        (lambda folder: None, {}, "at least two folders with images"),
        (lambda folder: fill(folder, ["cat"]), {}, "at least two folders"),
        (lambda folder: fill(folder / "test"), {}, "but no folder train"),
        (lambda folder: fill(folder, each=1), {}, "too few to hold out"),
        (lambda folder: fill(folder), {"batch_size": 17}, "at most the 16 images"),
        (lambda folder: fill(folder), {"scaling": "log"}, "'none', 'standard', 'unit'"),
        (
            broken,
            {"image_size": 4},
            "00.png cannot be read as an image: cannot identify image file. Replace",
        ),
    ],
    ids=["empty", "one class", "no train", "few", "batch", "scaling", "broken"],
)
def test_folders_that_cannot_be_used_are_refused(tmp_path, make, settings, message):
    make(tmp_path)
    with pytest.raises(ValueError, match=message):
        load(tmp_path, seed=0, **settings)


def test_a_class_without_training_images_is_refused(tmp_path):
    fill(tmp_path / "train")
    fill(tmp_path / "val", ["cat", "emu"])
    with pytest.raises(ValueError, match=r"training images lack: \['emu'\]"):
        load(tmp_path)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no folder '.*nowhere'"):
        load(tmp_path / "nowhere")


def test_without_pillow_there_is_a_pip_line(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "PIL.Image", None)
    with pytest.raises(ImportError, match="pip install pillow"):
        load(tmp_path)


# Tables.


def write_table(folder, columns, name="t.csv"):
    rows = zip(*columns.values(), strict=True)
    lines = [",".join(columns), *(",".join(map(str, row)) for row in rows)]
    (folder / name).write_text("\n".join(lines), "utf-8")
    return folder / name


def columns(rows=40):
    rng = np.random.default_rng(5)
    return {
        "size": rng.normal(50, 9, rows).round(3).tolist(),
        "color": ["red", "blue", "green", "blue"] * (rows // 4),
        "kind": ["b", "a"] * (rows // 2),
        "price": rng.normal(size=rows).tolist(),
        "stars": [10, 2] * (rows // 2),
    }


def test_numbers_are_scaled_and_categories_become_zeros_and_ones(tmp_path):
    file = write_table(tmp_path, columns())
    data = datasets.load_table(file, "kind", drop=["stars"])
    assert data.class_names == ("a", "b") and data.num_classes == 2
    assert [len(data.x_train), len(data.x_val), len(data.x_test)] == [24, 8, 8]
    # size, color=blue, color=green, color=red, price
    assert data.input_shape == (5,) and data.x_train.dtype == np.float32
    for part in (data.x_train, data.x_val, data.x_test):
        assert set(part[:, 1:4].ravel().tolist()) == {0.0, 1.0}
        assert (part[:, 1:4].sum(1) == 1).all()
    np.testing.assert_allclose(data.x_train[:, [0, 4]].mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(data.x_train[:, [0, 4]].std(0), 1, atol=1e-5)
    assert abs(data.x_val[:, 0].mean()) > 1e-3
    for part in (data.y_train, data.y_val, data.y_test):
        assert part.sum() * 2 == len(part)


def test_rows_of_a_table_stay_together(tmp_path):
    content = {"a": list(range(30)), "b": [2 * n for n in range(30)]}
    content["y"] = [n + 0.5 for n in range(30)]
    data = datasets.load_table(write_table(tmp_path, content), "y", scaling="none")
    x = np.concatenate([data.x_train, data.x_val, data.x_test])
    y = np.concatenate([data.y_train, data.y_val, data.y_test])
    np.testing.assert_array_equal(x[:, 0] + 0.5, y)
    np.testing.assert_array_equal(x[:, 1], 2 * x[:, 0])
    assert sorted(x[:, 0].tolist()) == list(range(30))


@pytest.mark.parametrize(
    "target, task, names",
    [
        ("kind", None, ("a", "b")),
        ("stars", None, ("2", "10")),
        ("price", None, None),
        ("stars", "regression", None),
        ("color", "classification", ("blue", "green", "red")),
    ],
)
def test_the_kind_of_the_target_decides_the_task(tmp_path, target, task, names):
    file = write_table(tmp_path, columns())
    data = datasets.load_table(file, target, task=task, categories="codes")
    assert data.class_names == names
    assert data.has_labels == (names is not None)
    assert data.y_train.dtype == (np.int32 if names else np.float32)
    if names is None:
        with pytest.raises(ValueError, match="there are no classes"):
            data.num_classes  # noqa: B018
        with pytest.raises(ValueError, match="cannot be balanced"):
            data.balanced(1)
        assert "real targets" in repr(data)


def test_categories_may_be_codes(tmp_path):
    file = write_table(tmp_path, columns())
    data = datasets.load_table(file, "price", categories="codes", drop=["size"])
    assert set(data.x_train[:, 0].tolist()) == {0.0, 1.0, 2.0}


@pytest.mark.parametrize(
    "changes, settings, message",
    [
        ({"size": ["", *range(39)]}, {}, r"'size' of .* has 1 missing .* row 2 \(''\)"),
        ({"color": ["NA"] * 2 + ["x"] * 38}, {}, "'color' of .* has 2 missing"),
        ({"size": ["nan", *range(39)]}, {}, "'size' of .* has 1 missing"),
        ({}, {"target": "prize"}, "no column 'prize'. Found: size, color, kind"),
        ({}, {"drop": ["id"]}, "no column 'id'"),
        ({}, {"drop": ["kind"]}, "must keep the column 'kind'"),
        ({"kind": ["a"] * 40}, {}, "at least two different values"),
        ({"kind": ["a", "b"] * 20}, {"task": "regression"}, "must be numbers .* 'a'"),
        ({"size": [f"n{n}" for n in range(400)]}, {}, "400 different texts"),
        ({"size": [10.0**300, 1.0] * 20}, {}, "float32 cannot hold"),
        ({}, {"test_split": 0.9, "validation_split": 0.9}, "too few to hold out 72"),
        ({"w, 2": [""] * 40}, {}, "Row 2 of .* has 6 values, but .* names 7"),
        ({" ": [1] * 40}, {}, "names that differ"),
    ],
)
def test_tables_that_cannot_be_used_are_refused(tmp_path, changes, settings, message):
    rows = max([40, *(len(column) for column in changes.values())])
    file = write_table(tmp_path, {**columns(rows), **changes})
    target = settings.get("target", "kind")
    others = {key: value for key, value in settings.items() if key != "target"}
    with pytest.raises(ValueError, match=message):
        datasets.load_table(file, target, **others)


def test_large_numbers_keep_the_digits_in_which_they_differ(tmp_path):
    times = [1_700_000_000 + second for second in range(40)]
    file = write_table(tmp_path, {"time": times, "kind": ["a", "b"] * 20})
    x = datasets.load_table(file, "kind").x_train[:, 0]
    assert len(np.unique(x)) == 24
    np.testing.assert_allclose([x.mean(), x.std()], [0.0, 1.0], atol=1e-6)
    with pytest.raises(ValueError, match="float32 can tell only"):
        datasets.load_table(file, "kind", scaling="none")
    with pytest.raises(ValueError, match="The target 'time' of .* only 1 apart"):
        datasets.load_table(file, "time")


@pytest.mark.parametrize("number", [0.1, 1e9 + 0.1])
def test_a_column_of_one_number_becomes_zeros(tmp_path, number):
    file = write_table(tmp_path, {"a": [number] * 40, "kind": ["a", "b"] * 20})
    data = datasets.load_table(file, "kind")
    assert not any(x.any() for x in (data.x_train, data.x_val, data.x_test))


def test_numbers_that_are_written_differently_are_one_class(tmp_path):
    file = write_table(tmp_path, {"a": range(40), "b": ["1", "1.0", "2", "02"] * 10})
    assert datasets.load_table(file, "b").class_names == ("1", "2")


@pytest.mark.parametrize("text", ["12kg", "inf"])
def test_numbers_with_few_other_texts_are_no_categories(tmp_path, text):
    file = write_table(tmp_path, {"a": [*range(39), text], "b": [1, 2] * 20})
    with pytest.raises(ValueError, match=f"other texts in 1, .* row 41 .'{text}'"):
        datasets.load_table(file, "b")
    few = write_table(tmp_path, {"a": [0, 1, 2, "3+"] * 10, "b": [1, 2] * 20})
    assert datasets.load_table(few, "b").input_shape == (4,)


def test_tabs_separate_the_values_of_a_tsv_file(tmp_path):
    (tmp_path / "t.tsv").write_text("a\tb\n" + "1,5\tx\n2,5\ty\n" * 20, "utf-8")
    assert datasets.load_table(tmp_path / "t.tsv", "b").input_shape == (2,)


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no file '.*t.csv'"):
        datasets.load_table(tmp_path / "t.csv", "a")


# Arrays.


def save_arrays(folder, x_shape, y, **more):
    x = np.random.default_rng(0).normal(3, 2, (len(y), *x_shape))
    arrays = {"x_train": x, "y_train": y, "x_test": x[:9], "y_test": y[:9], **more}
    np.savez(folder / "a.npz", **arrays)
    return folder / "a.npz"


@pytest.mark.parametrize("x_shape", [(), (5,), (7, 3), (4, 4, 2), (2, 3, 2, 2)])
def test_arrays_may_have_any_shape(tmp_path, x_shape):
    y = np.linspace(0, 1, 30)[:, None] * [1.0, 2.0]
    file = save_arrays(tmp_path, x_shape, y)
    data = datasets.load(file, scaling="none", as_images=False)
    assert data.input_shape == (x_shape or (1,))
    assert data.y_train.shape[1:] == (2,) and data.y_train.dtype == np.float32
    with pytest.raises(ValueError, match="x_train must|y_train must"):
        datasets.load(file)


def test_validation_rows_of_a_file_are_used(tmp_path):
    y = np.arange(30) % 3
    x_val, y_val = np.full((4, 5), 8.5), np.array([0, 1, 2, 0])
    file = save_arrays(tmp_path, (5,), y, x_val=x_val, y_val=y_val)
    data = datasets.load(file, scaling="none", as_images=False)
    assert len(data.x_train) == 30 and data.y_val.tolist() == y_val.tolist()
    np.testing.assert_array_equal(data.x_val, x_val)
    assert data.num_classes == 3
    with pytest.raises(ValueError, match="its own validation rows"):
        datasets.load(file, validation=3, as_images=False)
    lacking = save_arrays(tmp_path, (5,), y, x_val=x_val)
    with pytest.raises(ValueError, match="lacks the arrays y_val"):
        datasets.load(lacking, as_images=False)


def test_token_numbers_stay_integers_without_scaling(tmp_path):
    tokens = np.arange(40).reshape(20, 2)
    y = np.arange(20) % 2
    more = {"x_train": tokens, "x_test": tokens[:9]}
    file = save_arrays(tmp_path, (2,), y, **more)
    data = datasets.load(file, scaling="none", as_images=False)
    assert data.x_train.dtype == np.int32
    assert datasets.load(file, as_images=False).x_train.dtype == np.float32


class Interrupt(keras.callbacks.Callback):
    """Stops a search as Ctrl-C does, in the first epoch of its second round."""

    changes_results = False

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 2:
            raise KeyboardInterrupt


@pytest.mark.matrix
def test_an_interrupted_search_over_a_folder_ends_with_the_same_bits(folder, tmp_path):
    data = load(folder, workers=2)

    def build():
        layers = [keras.layers.Flatten(name="flat"), keras.layers.Dense(2, name="d")]
        model = keras.Sequential([keras.Input((6, 8, 3)), *layers], name="net")
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("adam", loss, metrics=["accuracy"])
        return model

    def search(place, callbacks=()):
        imp = tt.IMP(rounds=2, epochs_per_round=1, rate=0.5)
        return tt.find_tickets(build, data, imp, place, callbacks=callbacks, verbose=0)

    whole = search(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "parts", [Interrupt()])
    assert search(tmp_path / "parts") == whole
    assert {ticket.provenance["resume"] for ticket in whole} == {"bit"}
