"""Splits, standardization, .npz files, tensorflow-datasets and errors."""

import functools
import os
import sys

import numpy as np
import pytest

from tf_tickets.experiments import datasets, recipes

pytestmark = pytest.mark.turns

_PARTS = ("x_train", "y_train", "x_val", "y_val", "x_test", "y_test")


def _arrays(rows=60, size=(4, 4, 3), classes=3):
    rng = np.random.default_rng(7)
    x = rng.integers(0, 256, (rows + 20, *size), dtype="uint8")
    y = np.arange(rows + 20) % classes
    parts = (x[:rows], y[:rows], x[rows:], y[rows:])
    return dict(zip(("x_train", "y_train", "x_test", "y_test"), parts, strict=True))


def _saved(folder, name="shapes", **changes):
    path = folder / f"{name}.npz"
    arrays = {**_arrays(), **changes}
    np.savez(path, **{k: v for k, v in arrays.items() if v is not None})
    return path


def test_digits_have_the_sizes_of_the_split():
    data = datasets.load("digits")
    assert [len(data.x_train), len(data.x_val), len(data.x_test)] == [1150, 287, 360]
    assert data.input_shape == (8, 8, 1)
    assert data.num_classes == 10
    assert (data.x_train.dtype, data.y_train.dtype) == (np.float32, np.int32)


def test_digits_are_those_of_scikit_learn_each_once():
    load_digits = pytest.importorskip("sklearn.datasets").load_digits
    data = datasets.load("digits")
    ours = np.concatenate([data.x_train, data.x_val, data.x_test]).reshape(1797, 64)
    low, step = ours.min(), np.ptp(ours) / 16
    ours = np.rint((ours - low) / step)
    theirs = load_digits().data
    assert sorted(map(tuple, ours)) == sorted(map(tuple, theirs))


@pytest.mark.parametrize("part", ["y_train", "y_val", "y_test"])
def test_every_split_of_digits_has_all_classes_in_proportion(part):
    counts = np.bincount(getattr(datasets.load("digits"), part))
    assert len(counts) == 10
    assert counts.max() - counts.min() <= 0.12 * counts.mean() + 1


def test_images_and_labels_stay_together(tmp_path):
    y = np.arange(60)
    x = np.zeros((60, 2, 2, 1), "uint8") + y[:, None, None, None].astype("uint8")
    path = _saved(tmp_path, x_train=x, y_train=y, x_test=x, y_test=y)
    data = datasets.load(path)
    ranks = np.argsort(np.argsort(data.x_train[:, 0, 0, 0]))
    assert ranks.tolist() == np.argsort(np.argsort(data.y_train)).tolist()
    assert np.unique(np.concatenate([data.y_train, data.y_val])).tolist() == y.tolist()


def test_each_channel_of_the_training_split_is_standardized(tmp_path):
    x = _arrays()["x_train"] // np.array([1, 2, 5], "uint8")
    data = datasets.load(_saved(tmp_path, x_train=x))
    np.testing.assert_allclose(data.x_train.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(data.x_train.std((0, 1, 2)), 1, atol=1e-5)


def test_the_test_set_is_standardized_by_the_training_split(tmp_path):
    path = _saved(tmp_path)
    data = datasets.load(path, validation=1)
    twin = datasets.load(
        _saved(tmp_path, "twin", x_test=np.full((20, 4, 4, 3), 9, "uint8")),
        validation=1,
    )
    held_out = _arrays()["x_test"]
    assert (data.x_train == twin.x_train).all()
    assert np.ptp(twin.x_test, axis=(0, 1, 2)).tolist() == [0, 0, 0]
    np.testing.assert_array_equal(
        np.argsort(data.x_test[..., 0].ravel(), kind="stable"),
        np.argsort(held_out[..., 0].ravel(), kind="stable"),
    )


def test_a_constant_channel_becomes_zero(tmp_path):
    x = np.full((60, 4, 4, 3), 200, "uint8")
    assert (datasets.load(_saved(tmp_path, x_train=x)).x_train == 0).all()


@pytest.mark.parametrize("seed", [1, 2])
def test_the_seed_moves_the_validation_split_but_not_the_test_set(seed):
    data, other = datasets.load("digits"), datasets.load("digits", seed=seed)
    assert data.y_test.tolist() == other.y_test.tolist()
    assert data.y_val.tolist() != other.y_val.tolist()
    assert data.digest() != other.digest()


def test_loading_twice_gives_equal_data():
    first, second = datasets.load("digits", seed=3), datasets.load("digits", seed=3)
    assert first.digest() == second.digest()
    assert (first.x_train == second.x_train).all()


@pytest.mark.parametrize("part", ["x_train", "y_val", "y_test"])
def test_the_digest_sees_one_changed_number(part):
    data = datasets.load("digits")
    changed = {name: getattr(data, name).copy() for name in _PARTS}
    changed[part].flat[5] += 1
    assert datasets.Dataset(name="digits", **changed).digest() != data.digest()


def test_the_digest_does_not_depend_on_the_name_or_the_memory_layout():
    data = datasets.load("digits")
    parts = {name: np.asfortranarray(getattr(data, name)) for name in _PARTS}
    assert datasets.Dataset(name="other", **parts).digest() == data.digest()


def test_take_gives_the_first_training_rows_and_says_so():
    data = datasets.load("digits")
    small = data.take(100)
    assert small.name == "digits[:100]"
    assert (small.x_train == data.x_train[:100]).all()
    assert (len(small.y_train), len(small.x_val)) == (100, 287)
    assert small.digest() != data.digest()


@pytest.mark.parametrize("n", [0, -1, 1151])
def test_take_refuses_what_is_not_there(n):
    with pytest.raises(ValueError, match=f"1150 training rows.*Received: n={n}"):
        datasets.load("digits").take(n)


@pytest.mark.parametrize("validation", [0, 1437, -5, 0.1])
def test_a_validation_split_that_cannot_be_made_is_refused(validation):
    with pytest.raises(ValueError, match=f"Received: validation={validation}"):
        datasets.load("digits", validation=validation)


@pytest.mark.parametrize(("rows", "expected"), [(60, 12), (30000, 5000)])
def test_the_validation_split_is_5000_rows_or_a_fifth(tmp_path, rows, expected):
    path = tmp_path / "data.npz"
    np.savez(path, **_arrays(rows, size=(1, 2, 1)))
    data = datasets.load(path)
    assert (len(data.x_val), len(data.x_train)) == (expected, rows - expected)


def test_grey_images_without_a_channel_axis_get_one(tmp_path):
    x = _arrays()["x_train"][..., 0]
    data = datasets.load(_saved(tmp_path, x_train=x, x_test=x[:20]))
    assert data.input_shape == (4, 4, 1)


def test_labels_may_come_as_a_column(tmp_path):
    data = datasets.load(_saved(tmp_path, y_train=_arrays()["y_train"][:, None]))
    assert data.y_train.shape == (48,)


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_a_file_in_data_dir_is_used_without_tensorflow(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    _saved(tmp_path, name)
    assert datasets.load(name, data_dir=tmp_path).input_shape == (4, 4, 3)


def test_a_file_in_the_folder_of_the_environment_is_used(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    monkeypatch.setenv("TF_TICKETS_DATA_DIR", str(tmp_path))
    _saved(tmp_path, "mnist")
    assert datasets.load("mnist").name == "mnist"


@pytest.mark.parametrize(
    ("name", "module", "line"),
    [
        ("digits", "sklearn.datasets", "pip install scikit-learn"),
        ("mnist1d", "mnist1d.data", "pip install mnist1d"),
        ("mnist", "tensorflow", "pip install tensorflow"),
    ],
)
def test_a_missing_package_gives_the_pip_line(
    tmp_path, monkeypatch, name, module, line
):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=line):
        datasets.load(name, data_dir=tmp_path)


def _few_signals(monkeypatch):
    """Lets MNIST-1D have 200 signals instead of 5,000, which take seconds."""
    pytest.importorskip("mnist1d")
    few = functools.partial(datasets._make_mnist1d, rows=200)
    monkeypatch.setattr(datasets, "_make_mnist1d", few)


# By mnist1d.data.make_dataset itself, with its seed 42 and 43.
_SIGNALS = {
    0: ([-0.24992, 0.24872, 0.32742, 0.87255, 1.34934], [8, 2, 8, 8, 3, 7, 6, 6, 6, 5]),
    1: (
        [-1.44047, -1.28372, -1.3933, -1.26492, -1.05307],
        [3, 9, 7, 7, 8, 6, 1, 2, 5, 6],
    ),
}


@pytest.mark.parametrize("seed", _SIGNALS)
def test_signals_of_a_seed_are_those_of_the_generator(seed):
    pytest.importorskip("mnist1d")
    made = datasets._make_mnist1d(seed, rows=200)
    signal, labels = _SIGNALS[seed]
    assert made["x_train"].shape == (160, 40, 1) and made["x_test"].shape == (40, 40, 1)
    np.testing.assert_allclose(made["x_train"][0, :5, 0], signal, atol=1e-5)
    assert made["y_test"][:10].tolist() == labels


def test_mnist1d_is_split_scaled_and_accepted_by_a_recipe(monkeypatch):
    _few_signals(monkeypatch)
    data = datasets.load("mnist1d")
    assert [len(data.x_train), len(data.x_val), len(data.x_test)] == [128, 32, 40]
    assert (data.input_shape, data.num_classes) == ((40, 1), 10)
    assert data.x_train.mean() == pytest.approx(0, abs=1e-6)
    assert data.x_train.std() == pytest.approx(1, abs=1e-5)
    model = recipes.build("lenet300", data.input_shape, data.num_classes, width=0.1)
    assert model.predict(data.x_test, verbose=0).shape == (40, 10)
    with pytest.raises(ValueError, match=r"height, width.*Received: \(40, 1\)"):
        recipes.build("conv2", data.input_shape, data.num_classes)


def test_the_seed_of_mnist1d_draws_other_signals_and_leaves_the_global_state(
    monkeypatch,
):
    _few_signals(monkeypatch)
    np.random.seed(5)
    expected = np.random.random()
    np.random.seed(5)
    first, again, other = (datasets.load("mnist1d", seed=s) for s in (3, 3, 4))
    assert np.random.random() == expected
    assert first.digest() == again.digest() != other.digest()
    assert (first.x_test != other.x_test).any()


@pytest.mark.matrix
def test_the_whole_mnist1d_is_the_published_one():
    pytest.importorskip("mnist1d")
    data = datasets.load("mnist1d")
    assert [len(data.x_train), len(data.x_val), len(data.x_test)] == [3200, 800, 1000]
    assert data.y_test[:10].tolist() == [2, 6, 3, 9, 4, 3, 1, 9, 5, 2]
    counts = np.bincount(data.y_test).tolist()
    assert counts == [102, 104, 89, 106, 106, 98, 99, 96, 98, 102]


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="'mnits'.*'digits', .*, 'cifar10'.*npz"):
        datasets.load("mnits")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_test": None}, "lacks the arrays y_test.*Received"),
        ({"x_train": np.zeros((60, 5))}, "x_train.*rows, height.*60, 5"),
        ({"x_train": np.zeros((60, 4, 4, 3), "U1")}, "must contain numbers"),
        ({"x_test": np.zeros((20, 5, 4, 3))}, "same shape.*4, 4, 3.*5, 4, 3"),
        (
            {"x_train": np.full((60, 4, 4, 3), np.nan)},
            "x_train contains NaN or infinity.*60 such rows of 60; .* index 0",
        ),
        ({"y_train": np.array(["cat", "dog"] * 30)}, "texts.*'cat'.*return_inverse"),
        ({"y_train": np.zeros(59, int)}, "y_train.*60 images.*59"),
        ({"y_train": np.eye(60, dtype=int)}, "one-hot"),
        ({"y_train": np.zeros(60)}, "integer.*float64"),
        ({"y_test": np.full(20, -1)}, "0 or more.*-1"),
        ({"y_train": np.array([None] * 60)}, "without object arrays"),
    ],
)
def test_a_file_with_other_contents_is_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        datasets.load(_saved(tmp_path, **changes))


@pytest.mark.parametrize("kept", [0, 10, 300])
def test_a_truncated_file_is_refused(tmp_path, kept):
    path = _saved(tmp_path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match="cannot be read as an .npz"):
        datasets.load(path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_altered_file_is_refused(tmp_path, save):
    save(tmp_path / "data.npz", **_arrays())
    contents = bytearray((tmp_path / "data.npz").read_bytes())
    contents[1000] ^= 255
    (tmp_path / "data.npz").write_bytes(contents)
    with pytest.raises(ValueError, match="cannot be read as an .npz"):
        datasets.load(tmp_path / "data.npz")


def test_a_single_array_is_not_taken_for_a_data_set(tmp_path):
    np.save(tmp_path / "one.npy", np.zeros(3))
    path = (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    with pytest.raises(ValueError, match="cannot be read as an .npz"):
        datasets.load(path)


def test_a_compressed_file_is_read_too(tmp_path):
    np.savez_compressed(tmp_path / "small.npz", **_arrays())
    plain = datasets.load(_saved(tmp_path))
    assert datasets.load(tmp_path / "small.npz").digest() == plain.digest()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.npz"):
        datasets.load(tmp_path / "nowhere.npz")


@pytest.mark.filterwarnings("default")
def test_data_that_were_not_prepared_are_not_downloaded(tmp_path):
    pytest.importorskip("tensorflow_datasets")
    with pytest.raises(FileNotFoundError, match="TFDS_DATA_DIR.*tfds build mnist.*npz"):
        datasets.load("mnist", data_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(
    "TFDS_DATA_DIR" not in os.environ,
    reason="TFDS_DATA_DIR is not set: no folder of prepared tensorflow-datasets",
)
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("name", "shape", "sizes"),
    [
        ("mnist", (28, 28, 1), [55000, 5000, 10000]),
        ("cifar10", (32, 32, 3), [45000, 5000, 10000]),
    ],
)
def test_tensorflow_datasets_gives_the_whole_data_set(name, shape, sizes):
    pytest.importorskip("tensorflow_datasets")
    data = datasets.load(name)
    assert data.input_shape == shape
    assert [len(data.y_train), len(data.y_val), len(data.y_test)] == sizes
    assert np.bincount(data.y_test).min() > 800
    np.testing.assert_allclose(data.x_train.std((0, 1, 2), dtype="float64"), 1, 1e-4)
