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
from collections.abc import Sequence
from typing import Self

import keras
import numpy as np

from tf_tickets import arguments, files
from tf_tickets.experiments import splits, table
from tf_tickets.experiments.image_folder import ImageFolder, load_images
from tf_tickets.training import batches

__all__ = [
    "Dataset",
    "ImageFolder",
    "load",
    "load_images",
    "load_table",
]

_FROM_TFDS = ("mnist", "cifar10")
_NAMES = ("digits", "mnist1d", *_FROM_TFDS)
_ARRAYS = ("x_train", "y_train", "x_test", "y_test")
_HELD_OUT = ("x_val", "y_val")
_PIP_LINES = {
    "mnist1d": "pip install mnist1d",
    "sklearn": "pip install scikit-learn",
    "tensorflow": "pip install tensorflow",
    "tensorflow_datasets": "pip install tensorflow-datasets importlib-resources",
}


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Holds inputs, such as images, and their labels or targets in three splits.

    Args:
        name: Name of the data set in reports.
        x_train: Training inputs: images, float32, (rows, height, width, channels),
            signals, (rows, length, channels), or arrays of another shape.
        y_train: Training labels, integers from 0, or real-valued targets.
        x_val: Validation inputs, held out from the training set.
        y_val: Their labels or targets.
        x_test: Test inputs.
        y_test: Their labels or targets.
        class_names: Names of the classes, if known.

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
    class_names: Sequence[str] | None = None

    def __post_init__(self):
        arguments.check_type(str, name=self.name)
        if self.class_names is not None:
            names = arguments.listed(str, class_names=self.class_names)
            object.__setattr__(self, "class_names", tuple(names))
        for part in ("train", "val", "test"):
            _check_part(self, f"x_{part}", f"y_{part}")

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one input.

        Example:

        >>> load("digits").input_shape
        (8, 8, 1)
        """
        return self.x_train.shape[1:]

    @property
    def has_labels(self) -> bool:
        """Whether the targets are integers: labels of classes.

        Example:

        >>> load("digits").has_labels
        True
        """
        return self.y_train.dtype.kind in "ui"

    @property
    def num_classes(self) -> int:
        """The number of classes, 1 plus the largest label of all splits.

        Real-valued targets have none; this raises an error then.

        Example:

        >>> load("digits").num_classes
        10
        """
        if not self.has_labels:
            raise ValueError(
                f"The targets of {self.name} are real numbers, so there are no "
                f"classes. Received: {self.y_train.dtype}. Classes are integers from 0."
            )
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
        return batches.digest(
            [
                *(self.x_train, self.y_train, self.x_val, self.y_val),
                *(self.x_test, self.y_test),
            ]
        )

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
        if not self.has_labels or self.y_train.ndim != 1:
            raise ValueError(
                f"The rows of {self.name} cannot be balanced, because a row has no "
                f"single label. Received targets: {self.y_train.dtype} of shape "
                f"{self.y_train.shape}. Expected one integer per row."
            )
        rng = np.random.default_rng(seed)
        rows: list[np.ndarray] = []
        for label in np.unique(self.y_train):
            candidates = np.flatnonzero(self.y_train == label)
            rows.append(rng.permutation(candidates)[:each])
        chosen = np.concatenate(rows)
        return self.x_train[chosen], self.y_train[chosen]

    def __repr__(self):
        targets = f"{self.num_classes} classes" if self.has_labels else "real targets"
        return (
            f"<Dataset {self.name}: {len(self.x_train)} train, {len(self.x_val)} "
            f"validation, {len(self.x_test)} test, {self.input_shape}, {targets}>"
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
    as_images: bool = True,
) -> Dataset:
    """Loads a data set, splits off validation rows and scales the inputs.

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
              and y_test, and optionally x_val and y_val. It does not need TensorFlow.
        data_dir: Folder of the data. Defaults to the environment variable
            TF_TICKETS_DATA_DIR for .npz files, and to TFDS_DATA_DIR for
            tensorflow-datasets.
        validation: Number of training rows to hold out. Defaults to 5,000 or a fifth
            of the rows, whichever is smaller. Refused if a file has x_val and y_val.
        seed: Seed of the split, of the order of the training rows, and of the signals
            of "mnist1d".
        scaling: "standard" subtracts the mean and divides by the standard deviation of
            each channel in the training split. "unit" divides by the largest value in
            the training split, and black stays 0. "none" leaves the values as they
            are.
        as_images: Whether the inputs of a file must be images with integer labels.
            Images without a channel axis get one. With False, inputs and targets may
            have any shape, and targets may be real numbers.

    Returns:
        A `Dataset` of float32 inputs. With scaling "none", integers of more than 8
        bits stay integers.

    Example:

    >>> data = load("digits", validation=100)
    >>> data.x_train.shape, data.x_val.shape, data.x_test.shape
    ((1337, 8, 8, 1), (100, 8, 8, 1), (360, 8, 8, 1))
    """
    arguments.check_seed(seed)
    arguments.check_choice(sorted(_SCALERS), scaling=scaling)
    if data_dir is not None:
        data_dir = arguments.check_path(data_dir=data_dir)
    arguments.check_flags(as_images=as_images)
    title, arrays = _read(str(arguments.check_path(name=name)), data_dir, seed)
    parts = _checked(arrays, title, as_images and title != "mnist1d")
    if "val" in parts:
        if validation is not None:
            raise ValueError(
                f"{title} has its own validation rows, x_val, so `validation` must be "
                f"None. Received: validation={arguments.shown(validation)}"
            )
        train = np.random.default_rng(seed).permutation(len(parts["train"][1]))
    else:
        train = _hold_out(parts, validation, seed)
    x, y = parts["train"]
    scale = _SCALERS[scaling](x[train], source=title)
    return _dataset(title, {**parts, "train": (x[train], y[train])}, scale)


def load_table(
    file: os.PathLike | str,
    target: str,
    *,
    task: str | None = None,
    categories: str = "one-hot",
    drop: Sequence[str] = (),
    scaling: str = "standard",
    validation_split: float = 0.2,
    test_split: float = 0.2,
    seed: int = 0,
) -> Dataset:
    """Loads a table from a CSV file with a header line.

    Columns of numbers are features; columns of other texts are categories. Missing
    values are refused.

    Args:
        file: Path of the file. In a file whose name ends in .tsv, tabs separate the
            values.
        target: Name of the column to predict.
        task: "classification" or "regression". By default texts, and whole numbers of
            at most 20 different values, are classes; other numbers are the target of
            regression.
        categories: "one-hot" makes one feature of 0 and 1 per category, "codes" the
            number of the category in alphabetical order.
        drop: Names of columns to leave out, such as row numbers.
        scaling: As in `load`, for each column of numbers. Categories and targets stay
            as they are.
        validation_split: Fraction of the rows to hold out for validation.
        test_split: Fraction of the rows to hold out for the test.
        seed: Seed of the splits, which are stratified by class.

    Returns:
        A `Dataset` with float32 inputs of shape (rows, features).

    Example:

    >>> rows = [f"{n},{'cat' if n % 2 else 'dog'}" for n in range(20)]
    >>> lines = "\\n".join(["size,kind", *rows])
    >>> length = (tmp_path / "pets.csv").write_text(lines)
    >>> data = load_table(tmp_path / "pets.csv", "kind")
    >>> data, data.class_names
    (<Dataset pets: 12 train, 4 validation, 4 test, (1,), 2 classes>, ('cat', 'dog'))
    """
    arguments.check_seed(seed)
    arguments.check_choice(sorted(_SCALERS), scaling=scaling)
    content = table.read_table(file, target, task, categories, drop)
    rows = len(content.y)
    shares = {"test_split": test_split, "validation_split": validation_split}
    counts = {n: splits.rows_of(share, rows, n) for n, share in shares.items()}
    if sum(counts.values()) >= rows:
        raise ValueError(
            f"The table has {rows} rows, too few to hold out {sum(counts.values())}. "
            "Lower `validation_split` and `test_split`, or add rows. Received: "
            f"{file}"
        )
    title = pathlib.Path(file).stem
    labels = content.y if content.class_names else np.zeros(rows)
    rest, test = splits.stratified(labels, counts["test_split"], seed)
    kept, held = splits.stratified(labels[rest], counts["validation_split"], seed)
    x = _scaled(content, rest[kept], scaling, title)
    of = {"train": rest[kept], "val": rest[held], "test": test}
    parts = {part: (x[chosen], content.y[chosen]) for part, chosen in of.items()}
    return _dataset(title, parts, class_names=content.class_names)


def _scaled(content, train, scaling, title):
    """Returns the inputs of a table as float32, scaled by the training rows."""
    x = content.x
    numbers = np.flatnonzero(content.is_number)
    if scaling == "standard":
        # Subtracts the median first: large numbers, such as times, would lose the
        # digits in which they differ.
        x[:, numbers] -= np.sort(x[train][:, numbers], axis=0)[len(train) // 2]
    for column in numbers:
        name = f"column {content.feature_names[column]!r} of {title}"
        x[:, column] = table.as_float32(x[:, column], name)
    if len(numbers):
        scale = _SCALERS[scaling](x[np.ix_(train, numbers)], source=title)
        x[:, numbers] = scale(x[:, numbers])
    return x.astype("float32")


def _hold_out(parts, validation, seed):
    """Splits off the part "val"; returns the rows that stay in training."""
    x, y = parts["train"]
    # Without one label per row, the choice is random.
    labels = y if y.ndim == 1 and y.dtype.kind in "ui" else np.zeros(len(y))
    count = _validation_rows(validation, len(y))
    train, held_out = splits.stratified(labels, count, seed)
    parts["val"] = (x[held_out], y[held_out])
    return train


def _dataset(title, parts, scale=lambda x: x, class_names=None):
    arrays: dict[str, np.ndarray] = {}
    for part in ("train", "val", "test"):
        x, y = parts[part]
        arrays |= {f"x_{part}": scale(x), f"y_{part}": y}
    return Dataset(name=title, **arrays, class_names=class_names)


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
        members = [key for key in (*_ARRAYS, *_HELD_OUT) if key in names]
        arrays = {key: _member(stored, f"{key}.npy") for key in members}
    _check_names(arrays, names, file)
    return arrays


def _member(stored, name):
    with stored.open(name) as member:
        return np.lib.format.read_array(member, allow_pickle=False)


def _read_digits():
    digits = _import("sklearn.datasets").load_digits()
    x = digits.images.astype("uint8")
    rest, test = splits.stratified(digits.target, 360, seed=0)
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
    expected: tuple[str, ...] = _ARRAYS
    if set(_HELD_OUT) & set(arrays):
        expected = (*_ARRAYS, *_HELD_OUT)
    missing = [key for key in expected if key not in arrays]
    if missing:
        raise ValueError(
            f"{source} lacks the arrays {', '.join(missing)}. Received: "
            f"{names}. Expected: {', '.join(expected)}."
        )


def _checked(arrays, source, as_images):
    """Validates the arrays; returns a dict from "train", "test" and "val" to (x, y)."""
    inputs, targets = (_images, _labels) if as_images else (_inputs, _targets)
    parts = {}
    for part in ("train", "test", "val"):
        if f"x_{part}" in arrays:
            x = inputs(arrays[f"x_{part}"], f"{source}: x_{part}")
            y = targets(arrays[f"y_{part}"], len(x), f"{source}: y_{part}")
            parts[part] = x, y
    x, y = parts["train"]
    what = "images" if as_images else "inputs"
    for part in list(parts)[1:]:
        other_x, other_y = parts[part]
        if x.shape[1:] != other_x.shape[1:]:
            raise ValueError(
                f"{source}: the {what} in x_train and x_{part} must have the same "
                f"shape. Received: {x.shape[1:]} and {other_x.shape[1:]}"
            )
        if (y.shape[1:], y.dtype) != (other_y.shape[1:], other_y.dtype):
            raise ValueError(
                f"{source}: y_train and y_{part} must have the same shape and kind of "
                f"numbers. Received: {y.dtype} of shape {y.shape} and {other_y.dtype} "
                f"of shape {other_y.shape}"
            )
    return parts


def _check_finite(array, source):
    """Refuses NaN and infinity, with which every loss is NaN."""
    if array.dtype.kind != "f":
        return
    bad = np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(axis=1))
    if len(bad):
        raise ValueError(
            f"{source} contains NaN or infinity. Received: {len(bad):,} such rows of "
            f"{len(array):,}; the first has the index {bad[0]}. Expected: finite "
            "numbers. Remove these rows, or replace the values, as numpy.nan_to_num "
            "does."
        )


def _refuse_texts(y, source):
    if y.dtype.kind in "US":
        raise ValueError(
            f"{source} contains texts. Received: {y.dtype} of shape {y.shape}, such as "
            f"{y.flat[0].item()!r}. Expected: numbers. Encode the labels of all parts "
            "together: names, labels = numpy.unique(texts, return_inverse=True)."
        )


def _inputs(x, source):
    if x.ndim == 0 or x.size == 0 or x.dtype.kind not in "buif":
        raise ValueError(
            f"{source} must contain numbers, one row per example. Received: {x.dtype} "
            f"of shape {x.shape}"
        )
    _check_finite(x, source)
    return x if x.ndim > 1 else x[:, np.newaxis]


def _targets(y, rows, source):
    """Returns labels or other targets: int32 if they are integers, else float32."""
    _refuse_texts(y, source)
    if y.shape in ((rows,), (rows, 1)) and y.dtype.kind in "ui":
        return _labels(y, rows, source)
    if y.ndim == 0 or len(y) != rows or y.dtype.kind not in "buif":
        raise ValueError(
            f"{source} must contain numbers, one row for each of the {rows} examples. "
            f"Received: {y.dtype} of shape {y.shape}"
        )
    _check_finite(y, source)
    return y.astype("int32" if y.dtype.kind in "ui" else "float32")


def _images(x, source):
    if x.ndim not in (3, 4) or x.size == 0 or x.dtype.kind not in "uif":
        raise ValueError(
            f"{source} must contain numbers of shape (rows, height, width, channels) "
            f"or (rows, height, width). Received: {x.dtype} of shape {x.shape}"
        )
    _check_finite(x, source)
    return x if x.ndim == 4 else x[..., np.newaxis]


def _labels(y, rows, source):
    _refuse_texts(y, source)
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


def _standardizer(x, source):
    """Returns a function that standardizes images by mean and deviation of `x`."""
    x = x.astype("float32")
    rows = x.size // x.shape[-1]
    # These sums are exact for uint8; every machine computes the same images.
    flat = x.reshape(rows, x.shape[-1])
    mean = np.einsum("nc->c", flat, dtype="float64") / rows
    square = np.einsum("nc,nc->c", flat, flat, dtype="float64") / rows
    deviation = np.sqrt(np.maximum(square - mean**2, 0.0))
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


def _no_scaler(x, source):
    """Returns a function that leaves values as they are, as float32 or integers."""
    is_wide_integer = x.dtype.kind in "ui" and x.dtype.itemsize > 1
    return lambda values: values.astype("int32" if is_wide_integer else "float32")


_SCALERS = {"none": _no_scaler, "standard": _standardizer, "unit": _unit_scaler}
