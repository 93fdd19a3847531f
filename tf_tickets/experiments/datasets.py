"""Data sets as scaled NumPy arrays with a validation split.

The validation images are always part of the official training set. A search that
selects tickets by validation metrics therefore never uses the test set.
"""

import dataclasses
import functools
import importlib
import os
import pathlib
import random
import zipfile
from typing import Self

import keras
import numpy as np

from tf_tickets import arguments, files
from tf_tickets.training import batches

__all__ = [
    "Dataset",
    "load",
]

_FROM_TFDS = ("mnist", "cifar10")
_NAMES = ("digits", "mnist1d", *_FROM_TFDS)
_ARRAYS = ("x_train", "y_train", "x_test", "y_test")
_PIP_LINES = {
    "mnist1d": "pip install mnist1d",
    "sklearn": "pip install scikit-learn",
    "tensorflow": "pip install tensorflow",
    "tensorflow_datasets": "pip install tensorflow-datasets importlib-resources",
}


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Holds images or signals and their labels in three splits.

    Args:
        name: Name of the data set in reports.
        x_train: Training images, float32, (rows, height, width, channels), or signals,
            (rows, length, channels).
        y_train: Training labels, integers from 0.
        x_val: Validation images, held out from the training set.
        y_val: Validation labels.
        x_test: Test images.
        y_test: Test labels.

    Example:

    >>> load("digits")
    <Dataset digits: 1150 train, 287 validation, 360 test, (8, 8, 1), 10 classes>
    """

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_val: np.ndarray
    y_val: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray

    def __post_init__(self):
        arguments.check_type(str, name=self.name)
        for part in ("train", "val", "test"):
            _check_part(self, f"x_{part}", f"y_{part}")

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one image or signal.

        Example:

        >>> load("digits").input_shape
        (8, 8, 1)
        """
        return self.x_train.shape[1:]

    @property
    def num_classes(self) -> int:
        """The number of classes, 1 plus the largest label of all splits.

        Example:

        >>> load("digits").num_classes
        10
        """
        return 1 + int(max(y.max() for y in (self.y_train, self.y_val, self.y_test)))

    def digest(self) -> str:
        """Returns the SHA-256 digest of all six arrays in hexadecimal.

        It is computed once. Do not change the arrays in place.

        Example:

        >>> load("digits").digest() == load("digits").digest()
        True
        >>> load("digits").digest() == load("digits", seed=1).digest()
        False
        """
        return self._digest

    @functools.cached_property
    def _digest(self):
        names = [field.name for field in dataclasses.fields(self)[1:]]
        return batches.digest([getattr(self, name) for name in names])

    def take(self, n: int) -> Self:
        """Returns the data set with only the first `n` training rows.

        The rows are a random subset because the split shuffles them. They keep the
        scaling by the whole training split.

        Example:

        >>> small = load("digits").take(100)
        >>> small.name, len(small.x_train), len(small.x_val)
        ('digits[:100]', 100, 287)
        """
        if not arguments.is_whole(n) or not 1 <= n <= len(self.x_train):
            raise ValueError(
                f"`n` must be between 1 and the {len(self.x_train)} training rows "
                f"of {self.name}. Received: n={arguments.shown(n)}"
            )
        return dataclasses.replace(
            self,
            name=f"{self.name}[:{n}]",
            x_train=self.x_train[:n],
            y_train=self.y_train[:n],
        )

    def balanced(self, each: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Returns a balanced random subset of the training rows.

        Args:
            each: Maximum number of rows per class.
            seed: Seed of the random choice.

        Returns:
            Images and labels.

        Example:

        >>> x, y = load("digits").balanced(3)
        >>> np.bincount(y).tolist()
        [3, 3, 3, 3, 3, 3, 3, 3, 3, 3]
        """
        arguments.check_counts(each=each)
        arguments.check_seed(seed)
        rng = np.random.default_rng(seed)
        rows: list[np.ndarray] = []
        for label in np.unique(self.y_train):
            candidates = np.flatnonzero(self.y_train == label)
            rows.append(rng.permutation(candidates)[:each])
        chosen = np.concatenate(rows)
        return self.x_train[chosen], self.y_train[chosen]

    def __repr__(self):
        return (
            f"<Dataset {self.name}: {len(self.x_train)} train, {len(self.x_val)} "
            f"validation, {len(self.x_test)} test, {self.input_shape}, "
            f"{self.num_classes} classes>"
        )


def _check_part(data, images, labels):
    """Refuses what is no array of numbers, and numbers of rows that differ."""
    for name in (images, labels):
        arguments.check_type(np.ndarray, **{name: getattr(data, name)})
        arguments.array(**{name: getattr(data, name)})
    shapes = [np.shape(getattr(data, name)) for name in (images, labels)]
    if not arguments.have_equal_rows(shapes):
        raise ValueError(
            f"`{images}` and `{labels}` must have the same number of rows, at least 1. "
            f"Received arrays of shape {shapes[0]} and {shapes[1]}"
        )


def load(
    name: os.PathLike | str,
    data_dir: os.PathLike | str | None = None,
    validation: int | None = None,
    seed: int = 0,
    scaling: str = "standard",
) -> Dataset:
    """Loads a data set, splits off validation rows and scales the images.

    Args:
        name: One of

            - "digits": the 8x8 digits included in scikit-learn. 360 of them are the
              test set, independent of the seed.
            - "mnist1d": 5,000 signals of length 40, of which 1,000 are the test set,
              drawn by the generator of the package mnist1d. Seed 0 draws the published
              ones, another seed also another test set.
            - "mnist", "cifar10": the file `<name>.npz` in `data_dir` if it exists,
              otherwise the prepared data of tensorflow-datasets. Nothing is
              downloaded.
            - a path ending in `.npz`: a file with the arrays x_train, y_train, x_test
              and y_test. It does not need TensorFlow.
        data_dir: Folder of the data. Defaults to the environment variable
            TF_TICKETS_DATA_DIR for .npz files, and to TFDS_DATA_DIR for
            tensorflow-datasets.
        validation: Number of training rows to hold out. Defaults to 5,000 or a fifth
            of the rows, whichever is smaller.
        seed: Seed of the split, of the order of the training rows, and of the signals
            of "mnist1d".
        scaling: "standard" subtracts the mean and divides by the standard deviation of
            each channel in the training split. "unit" divides by the largest value in
            the training split, and black stays 0.

    Returns:
        A `Dataset` of float32 images or signals.

    Example:

    >>> data = load("digits", validation=100)
    >>> data.x_train.shape, data.x_val.shape, data.x_test.shape
    ((1337, 8, 8, 1), (100, 8, 8, 1), (360, 8, 8, 1))
    """
    arguments.check_seed(seed)
    arguments.check_choice(sorted(_SCALERS), scaling=scaling)
    if data_dir is not None:
        data_dir = arguments.check_path(data_dir=data_dir)
    title, arrays = _read(str(arguments.check_path(name=name)), data_dir, seed)
    x, y, x_test, y_test = _checked(arrays, title, is_signal=title == "mnist1d")
    train, held_out = _split(y, _validation_rows(validation, len(y)), seed)
    scale = _SCALERS[scaling](x[train], source=title)
    return Dataset(
        name=title,
        x_train=scale(x[train]),
        y_train=y[train],
        x_val=scale(x[held_out]),
        y_val=y[held_out],
        x_test=scale(x_test),
        y_test=y_test,
    )


def _read(name, data_dir, seed):
    """Returns the name for reports and the four arrays as stored."""
    if name.endswith(".npz"):
        return pathlib.Path(name).stem, _read_npz(pathlib.Path(name))
    if name == "digits":
        return name, _read_digits()
    if name == "mnist1d":
        return name, _make_mnist1d(seed)
    if name not in _FROM_TFDS:
        known = ", ".join(repr(n) for n in _NAMES)
        raise ValueError(
            f"Unknown data set. Received: {name!r}. Expected one of {known}, or a path "
            "ending in .npz (arrays x_train, y_train, x_test, y_test)."
        )
    file = _npz_path(name, data_dir)
    if file.is_file():
        return name, _read_npz(file)
    return name, _read_tfds(name, data_dir)


def _npz_path(name, data_dir):
    folder = data_dir or os.environ.get("TF_TICKETS_DATA_DIR", "")
    return pathlib.Path(folder).expanduser() / f"{name}.npz"


def _read_npz(file):
    file = file.expanduser()
    if not file.is_file():
        raise FileNotFoundError(
            f"File not found: {str(file)!r}. Expected an .npz file with the arrays "
            f"{', '.join(_ARRAYS)}."
        )
    remedy = "Write it again with numpy.savez, without object arrays."
    # np.load would also accept a file with a single array.
    with (
        files.reading(repr(str(file)), "an .npz file of plain arrays", remedy),
        zipfile.ZipFile(file) as stored,
    ):
        names = [name.removesuffix(".npy") for name in stored.namelist()]
        members = [key for key in _ARRAYS if key in names]
        arrays = {key: _member(stored, f"{key}.npy") for key in members}
    _check_names(arrays, names, file)
    return arrays


def _member(stored, name):
    with stored.open(name) as member:
        return np.lib.format.read_array(member, allow_pickle=False)


def _read_digits():
    digits = _import("sklearn.datasets").load_digits()
    x = digits.images.astype("uint8")
    rest, test = _split(digits.target, 360, seed=0)
    rest, test = np.sort(rest), np.sort(test)
    values = (x[rest], digits.target[rest], x[test], digits.target[test])
    return dict(zip(_ARRAYS, values, strict=True))


def _make_mnist1d(seed, rows=5000):
    generator = _import("mnist1d.data")
    settings = generator.get_dataset_args()
    settings.seed = (settings.seed + seed) % 2**32
    settings.num_samples = rows
    # The generator seeds the global states, which belong to the user.
    states = random.getstate(), np.random.get_state()
    try:
        made = generator.make_dataset(settings)
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
    signals, tests = (made[name][..., np.newaxis] for name in ("x", "x_test"))
    values = (signals, made["y"], tests, made["y_test"])
    return dict(zip(_ARRAYS, values, strict=True))


def _read_tfds(name, data_dir):
    tf, tfds = _import("tensorflow"), _import("tensorflow_datasets")
    _leave_accelerators(tf)
    folder = data_dir or os.environ.get("TFDS_DATA_DIR")
    try:
        with tf.device("CPU:0"):
            splits = tfds.load(
                name,
                data_dir=folder,
                download=False,
                split=["train", "test"],
                batch_size=-1,
                as_supervised=True,
            )
    except AssertionError as error:
        raise FileNotFoundError(_not_prepared(name, folder)) from error
    (x, y), (x_test, y_test) = tfds.as_numpy(splits)
    return dict(zip(_ARRAYS, (x, y, x_test, y_test), strict=True))


def _leave_accelerators(tf):
    """Hides GPUs from TensorFlow, which would allocate all their memory."""
    if keras.config.backend() == "tensorflow":
        return
    try:
        tf.config.set_visible_devices([], "GPU")
    except RuntimeError:
        return  # TensorFlow has already initialized its devices.


def _not_prepared(name, folder):
    return (
        f"tensorflow-datasets has no prepared {name} in "
        f"{str(folder or '~/tensorflow_datasets')!r}, and nothing is downloaded "
        f"automatically. Pass `data_dir` or set TFDS_DATA_DIR to the folder of "
        f"{name!r}, prepare it with `tfds build {name} --data_dir FOLDER`, or put a "
        f"{name}.npz (arrays {', '.join(_ARRAYS)}) into `data_dir` or "
        "TF_TICKETS_DATA_DIR."
    )


def _import(module):
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.split(".")[0]
        raise ImportError(
            f"This data set requires {package}, which failed to import ({error}). "
            f"Install it: {_PIP_LINES[package]}. Or load the data from an .npz file, "
            "which only requires NumPy."
        ) from error


def _check_names(arrays, names, source):
    missing = [key for key in _ARRAYS if key not in arrays]
    if missing:
        raise ValueError(
            f"{source} lacks the arrays {', '.join(missing)}. Received: "
            f"{names}. Expected: {', '.join(_ARRAYS)}."
        )


def _checked(arrays, source, is_signal=False):
    """Validates the arrays and returns (images, labels, test images, test labels)."""
    x, x_test = (arrays[name] for name in ("x_train", "x_test"))
    if not is_signal:
        x, x_test = (
            _images(x, f"{source}: x_train"),
            _images(x_test, f"{source}: x_test"),
        )
    y = _labels(arrays["y_train"], len(x), f"{source}: y_train")
    y_test = _labels(arrays["y_test"], len(x_test), f"{source}: y_test")
    if x.shape[1:] != x_test.shape[1:]:
        raise ValueError(
            f"{source}: the images in x_train and x_test must have the same shape. "
            f"Received: {x.shape[1:]} and {x_test.shape[1:]}"
        )
    return x, y, x_test, y_test


def _images(x, source):
    if x.ndim not in (3, 4) or x.size == 0 or x.dtype.kind not in "uif":
        raise ValueError(
            f"{source} must contain numbers of shape (rows, height, width, channels) "
            f"or (rows, height, width). Received: {x.dtype} of shape {x.shape}"
        )
    return x if x.ndim == 4 else x[..., np.newaxis]


def _labels(y, rows, source):
    flat = y.reshape(-1)
    if y.dtype.kind not in "ui" or y.shape not in ((rows,), (rows, 1)):
        raise ValueError(
            f"{source} must contain one integer for each of the {rows} images. "
            f"Received: {y.dtype} of shape {y.shape}. Convert one-hot labels with "
            "y.argmax(axis=1)."
        )
    if flat.min() < 0:
        raise ValueError(f"{source} must be 0 or more. Received: {flat.min()}")
    return flat.astype("int32")


def _validation_rows(validation, rows):
    count = min(5000, rows // 5) if validation is None else validation
    if not arguments.is_whole(count) or not 1 <= count < rows:
        raise ValueError(
            "`validation` must be a number of training rows, at least 1 and less "
            f"than {rows}. Received: validation={arguments.shown(validation)}"
        )
    return count


def _split(labels, count, seed):
    """Splits off `count` rows, stratified by class.

    Returns:
        Shuffled indices of the remaining rows and of the `count` rows.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    # Evenly spaced rows, sorted by class, are stratified and have an exact count.
    chosen = by_class[np.arange(count) * len(labels) // count]
    rest = order[~np.isin(order, chosen)]
    return rest, rng.permutation(chosen)


def _standardizer(x, source):
    """Returns a function that standardizes images by mean and deviation of `x`."""
    x = x.astype("float32")
    rows = x.size // x.shape[-1]
    # These sums are exact for uint8; every machine computes the same images.
    flat = x.reshape(rows, x.shape[-1])
    mean = np.einsum("nc->c", flat, dtype="float64") / rows
    square = np.einsum("nc,nc->c", flat, flat, dtype="float64") / rows
    deviation = np.sqrt(np.maximum(square - mean**2, 0.0))
    if not np.isfinite(deviation).all():
        raise ValueError(f"{source}: x_train must be finite. Received NaN or infinity.")
    scale = np.where(deviation > 0, deviation, 1.0).astype("float32")
    offset = mean.astype("float32")

    def standardize(images):
        images = images.astype("float32")
        images -= offset
        images /= scale
        return images

    return standardize


def _unit_scaler(x, source):
    """Returns a function that divides images by the largest value of `x`."""
    largest = float(x.max())
    if not np.isfinite(largest) or largest <= 0:
        raise ValueError(
            f"{source}: scaling='unit' needs finite images with a maximum above 0. "
            f"Received: a maximum of {largest}"
        )
    return lambda images: images.astype("float32") / np.float32(largest)


_SCALERS = {"standard": _standardizer, "unit": _unit_scaler}
