"""Images in folders, one folder per class, decoded batch by batch."""

import hashlib
import importlib
import os
import pathlib
from collections.abc import Sequence
from typing import Any, Self

import keras
import numpy as np

from tf_tickets import arguments, files
from tf_tickets.experiments import splits
from tf_tickets.training.data import TrainingData

_SUFFIXES = {
    *(".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"),
}
_CHANNELS = {"rgb": 3, "grayscale": 1, "rgba": 4}
_SCALINGS = ("none", "standard", "unit")
# The folders of a split, by part.
_PARTS = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid"),
    "test": ("test", "testing"),
}
# Images from which the scaling is computed.
_SAMPLE = 1000
_LAYOUT = (
    "Expected one folder of images per class, such as FOLDER/cat/1.jpg, or such "
    "folders in FOLDER/train, FOLDER/val and FOLDER/test."
)


class ImageFolder(keras.utils.PyDataset):
    """Batches of images that are decoded from their files when they are needed.

    `load_images` makes them from a folder. After `reorder(key)` the order of the images
    is a function of the key only, so a search that streams them resumes to the bit.

    Args:
        paths: The files.
        labels: The class of each file, integers from 0.
        class_names: The names of the classes.
        image_size: Height and width to which images are resized.
        batch_size: Number of images per batch.
        color_mode: "rgb", "grayscale" or "rgba".
        offset: Number that is subtracted from each pixel: one, or one per channel.
        scale: Number that each pixel is divided by then: one, or one per channel.
        drop_remainder: Whether to drop the images that do not fill a batch. After
            `reorder` they differ from epoch to epoch.
        workers: Number of threads that decode images.

    Example:

    >>> for name in "ab":
    ...     image = np.full((4, 4, 3), 51.0)
    ...     keras.utils.save_img(tmp_path / f"{name}.png", image, scale=False)
    >>> paths = [tmp_path / "a.png", tmp_path / "b.png"]
    >>> batches = ImageFolder(paths, [0, 1], ["x", "y"], (2, 2), 1, scale=255)
    >>> len(batches), batches.input_shape, batches.num_classes
    (2, (2, 2, 3), 2)
    >>> images, labels = batches[1]
    >>> images.shape, round(float(images.max()), 2), labels.tolist()
    ((1, 2, 2, 3), 0.2, [1])
    """

    def __init__(
        self,
        paths: Sequence[os.PathLike | str],
        labels: Sequence[int] | np.ndarray,
        class_names: Sequence[str],
        image_size: tuple[int, int],
        batch_size: int = 32,
        color_mode: str = "rgb",
        offset: float | Sequence[float] | np.ndarray = 0.0,
        scale: float | Sequence[float] | np.ndarray = 1.0,
        drop_remainder: bool = False,
        workers: int = 1,
    ) -> None:
        arguments.check_counts(batch_size=batch_size, workers=workers)
        arguments.check_choice(sorted(_CHANNELS), color_mode=color_mode)
        arguments.check_flags(drop_remainder=drop_remainder)
        super().__init__(workers=int(workers))
        listed = arguments.listed(object, paths=paths)
        self.paths = [str(arguments.check_path(paths=path)) for path in listed]
        self.class_names = tuple(arguments.listed(str, class_names=class_names))
        self.labels = _checked_labels(labels, len(self.paths), len(self.class_names))
        self.image_size = _checked_size(image_size)
        self.batch_size = int(batch_size)
        self.color_mode = color_mode
        self.offset = _per_channel(self.channels, offset=offset)
        self.scale = _per_channel(self.channels, scale=scale)
        if not (self.scale > 0).all():
            raise ValueError(
                f"`scale` must be above 0. Received: {arguments.shown(scale)}"
            )
        self.drop_remainder = bool(drop_remainder)
        self._order = np.arange(len(self.paths))
        if len(self) == 0:
            raise ValueError(
                f"`batch_size` must be at most the {len(self.paths)} images that a "
                f"folder has, or no batch is full. Received: {batch_size}"
            )

    @property
    def channels(self) -> int:
        """The number of channels of the decoded images."""
        return _CHANNELS[self.color_mode]

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """The shape of one image."""
        return (*self.image_size, self.channels)

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    def __len__(self):
        full, rest = divmod(len(self.paths), self.batch_size)
        return full + bool(rest and not self.drop_remainder)

    def __getitem__(self, index):
        first = range(len(self))[index] * self.batch_size
        rows = self._order[first : first + self.batch_size]
        return self._images(rows), self.labels[rows]

    def reorder(self, key: Sequence[int]) -> None:
        """Shuffles the images in an order that depends on the key only.

        Args:
            key: Integers, such as (seed, round, epoch).
        """
        numbers = arguments.listed(object, key=key)
        for number in numbers:
            arguments.check_not_negative(key=number)
        self._order = np.random.default_rng(numbers).permutation(len(self.paths))

    def take(self, n: int) -> Self:
        """Returns the batches of the first `n` images only.

        Args:
            n: Number of images.
        """
        arguments.check_counts(n=n)
        if n > len(self.paths):
            raise ValueError(
                f"`n` must be between 1 and the {len(self.paths)} images. Received: {n}"
            )
        return self._of(np.arange(n))

    def balanced(self, each: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Returns a balanced random subset of the images, decoded.

        Args:
            each: Maximum number of images per class.
            seed: Seed of the random choice.

        Returns:
            Images and labels.
        """
        arguments.check_counts(each=each)
        arguments.check_seed(seed)
        rng = np.random.default_rng(seed)
        rows = [
            rng.permutation(np.flatnonzero(self.labels == label))[:each]
            for label in np.unique(self.labels)
        ]
        chosen = np.concatenate(rows)
        return self._images(chosen), self.labels[chosen]

    def identity(self) -> str:
        """Returns a SHA-256 digest by which searches tell the images from others.

        It covers the last two parts and the size of each file, its label and how it is
        decoded. The contents of the files are not read.
        """
        sha256 = hashlib.sha256()
        settings = [self.image_size, self.color_mode, self.class_names]
        settings += [self.batch_size, self.drop_remainder]
        settings += [self.offset.tolist(), self.scale.tolist()]
        sha256.update(repr(settings).encode())
        for path, label in zip(self.paths, self.labels.tolist(), strict=True):
            name = "/".join(pathlib.Path(path).parts[-2:])
            sha256.update(f"{name} {os.stat(path).st_size} {label}\n".encode())
        return sha256.hexdigest()

    def _of(self, rows, **changes) -> Self:
        settings: dict[str, Any] = {
            "paths": [self.paths[row] for row in rows],
            "labels": self.labels[rows],
            "class_names": self.class_names,
            "image_size": self.image_size,
            "batch_size": self.batch_size,
            "color_mode": self.color_mode,
            "offset": self.offset,
            "scale": self.scale,
            "drop_remainder": self.drop_remainder,
            "workers": self.workers,
        }
        return type(self)(**{**settings, **changes})

    def _images(self, rows):
        images = np.stack([self._image(self.paths[row]) for row in rows])
        images -= self.offset
        images /= self.scale
        return images

    def _image(self, path):
        remedy = "Replace it, or remove it from the folder."
        with files.reading(path, "an image", remedy):
            image = keras.utils.load_img(
                path,
                color_mode=self.color_mode,
                target_size=self.image_size,
                interpolation="bilinear",
            )
            array = np.asarray(image, "float32")
        return array if array.ndim == 3 else array[..., np.newaxis]

    def __repr__(self):
        return (
            f"<ImageFolder of {len(self.paths)} images, {self.input_shape}, "
            f"{self.num_classes} classes>"
        )


def load_images(
    folder: os.PathLike | str,
    image_size: tuple[int, int] | int | None = None,
    batch_size: int = 32,
    *,
    color_mode: str = "rgb",
    scaling: str = "standard",
    validation_split: float = 0.1,
    test_split: float = 0.1,
    seed: int = 0,
    workers: int = 1,
) -> TrainingData:
    """Returns the images of a folder as training data that are never all in memory.

    The folder has one folder of images per class, or the folders train, val (or
    validation) and test, which have one per class. Without these, validation and test
    images are split off, stratified by class; with a folder train but without a folder
    val, validation images are split off from those of train.

    Images are decoded by Pillow when they are needed, on both backends. Their order is
    a function of (seed, round, epoch), so an interrupted search resumes to the bit.

    Args:
        folder: The folder.
        image_size: Height and width to which images are resized, or one number for
            both. Defaults to the size of the first image by name.
        batch_size: Number of images per batch.
        color_mode: "rgb", "grayscale" or "rgba".
        scaling: "standard" subtracts the mean and divides by the standard deviation of
            each channel, "unit" divides by the largest value of a pixel (255, or 65535
            for 16 bits). Both are computed from a sample of 1,000 training images.
            "none" leaves pixels as they are.
        validation_split: Fraction of the images to hold out for validation.
        test_split: Fraction of the images to hold out for the test.
        seed: Seed of the splits and of the sample.
        workers: Number of threads that decode images.

    Returns:
        `TrainingData` whose parts are `ImageFolder`. There is no test part if the
        folder has train but no test.

    Example:

    >>> for name in ("cat", "dog"):
    ...     (tmp_path / name).mkdir()
    ...     for number in range(5):
    ...         image = np.full((6, 8, 3), 20.0 * number)
    ...         keras.utils.save_img(tmp_path / name / f"{number}.png", image)
    >>> data = load_images(tmp_path, batch_size=2, scaling="unit", test_split=0.2)
    >>> data.train, data.test
    (<ImageFolder of 7 images, (6, 8, 3), 2 classes>, <ImageFolder of 2 images, ...>)
    """
    arguments.check_seed(seed)
    arguments.check_choice(_SCALINGS, scaling=scaling)
    _require_pillow()
    root = arguments.check_path(folder=folder).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"There is no folder {str(root)!r}. {_LAYOUT}")
    shares = {"validation": validation_split, "test": test_split}
    class_names, parts = _split_parts(root, shares, seed)
    if image_size is None:
        image_size = _size_of(min(parts["train"][0]), color_mode)
    if isinstance(image_size, int):
        image_size = (image_size, image_size)
    made = {
        name: ImageFolder(
            paths,
            labels,
            class_names,
            image_size,
            batch_size,
            color_mode,
            drop_remainder=name == "train",
            workers=workers,
        )
        for name, (paths, labels) in parts.items()
    }
    scaling_of = _scaling_of(made["train"], scaling, seed)
    scaled = {
        name: part._of(np.arange(len(part.paths)), **scaling_of)
        for name, part in made.items()
    }
    return TrainingData(name=root.resolve().name, **scaled)


def _split_parts(root, shares, seed):
    """Returns the class names, and a dict from a part to (paths, labels)."""
    folders = {part: _first_folder(root, names) for part, names in _PARTS.items()}
    if folders["train"] is None:
        if folders["validation"] or folders["test"]:
            found = [path.name for path in folders.values() if path]
            raise ValueError(
                f"{root} has the folders {', '.join(found)}, but no folder train. "
                f"{_LAYOUT}"
            )
        names, paths, labels = _images_by_class(root)
        return names, _split(paths, labels, shares, seed)
    names, paths, labels = _images_by_class(folders["train"])
    given = {}
    for part in ("validation", "test"):
        if folders[part] is not None:
            _, *given[part] = _images_by_class(folders[part], names)
    held_out = {} if "validation" in given else {"validation": shares["validation"]}
    return names, {**_split(paths, labels, held_out, seed), **given}


def _first_folder(root, names):
    return next((root / n for n in names if (root / n).is_dir()), None)


def _split(paths, labels, shares, seed):
    """Splits off shares of the images, stratified by class; both are shuffled."""
    counts = {
        part: splits.rows_of(share, len(paths), f"{part}_split")
        for part, share in shares.items()
    }
    if sum(counts.values()) >= len(paths):
        raise ValueError(
            f"The folder has {len(paths)} images, too few to hold out "
            f"{sum(counts.values())} of them. Add images, or lower `validation_split` "
            "and `test_split`."
        )
    rest, parts = np.arange(len(paths)), {}
    for part in reversed(counts):
        kept, chosen = splits.stratified(labels[rest], counts[part], seed)
        parts[part] = rest[chosen]
        rest = rest[kept]
    if not shares:
        rest = np.random.default_rng(seed).permutation(rest)
    return {
        part: ([paths[row] for row in rows], labels[rows])
        for part, rows in {"train": rest, **dict(reversed(parts.items()))}.items()
    }


def _images_by_class(root, names=None):
    """Returns class names, and paths and labels in the order of the names."""
    present = sorted(
        entry.name
        for entry in root.iterdir()
        if entry.is_dir() and not entry.name.startswith(".")
    )
    if names is not None and set(present) - set(names):
        raise ValueError(
            f"{root} has folders of classes that the training images lack: "
            f"{sorted(set(present) - set(names))}. Expected some of {list(names)}."
        )
    names = present if names is None else names
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        found = _image_files(root / name)
        if not found and name in present:
            raise ValueError(
                f"{root / name} has no images ({', '.join(sorted(_SUFFIXES))}). "
                f"{_LAYOUT}"
            )
        paths += found
        labels += [label] * len(found)
    if not paths or len(names) < 2:
        raise ValueError(
            f"{root} must have at least two folders with images. Received: "
            f"{arguments.shown(present)}. {_LAYOUT}"
        )
    return names, paths, np.array(labels, "int32")


def _image_files(folder):
    return sorted(
        os.path.join(at, name)
        for at, _, names in os.walk(folder)
        for name in names
        if os.path.splitext(name)[1].lower() in _SUFFIXES and not name.startswith(".")
    )


def _size_of(path, color_mode):
    with files.reading(path, "an image", "Replace it, or pass `image_size`."):
        image = keras.utils.load_img(path, color_mode=color_mode)
    return image.height, image.width


def _scaling_of(images, scaling, seed):
    """Returns the offset and scale of a scaling, from a sample of the images."""
    arguments.check_choice(_SCALINGS, scaling=scaling)
    if scaling == "none":
        return {"offset": 0.0, "scale": 1.0}
    rows = np.random.default_rng(seed).permutation(len(images.paths))[:_SAMPLE]
    total = np.zeros(images.channels)
    squares = np.zeros(images.channels)
    largest = 0.0
    for row in rows:
        pixels = images._image(images.paths[row]).astype("float64")
        largest = max(largest, float(pixels.max()))
        total += pixels.mean((0, 1))
        squares += (pixels**2).mean((0, 1))
    if scaling == "unit":
        return {"offset": 0.0, "scale": 255.0 if largest <= 255 else 65535.0}
    mean = total / len(rows)
    deviation = np.sqrt(np.maximum(squares / len(rows) - mean**2, 0.0))
    return {"offset": mean, "scale": np.where(deviation > 0, deviation, 1.0)}


def _per_channel(channels, **values):
    [(name, value)] = values.items()
    found = arguments.array(**values).astype("float32")
    if found.shape not in ((), (channels,)) or not np.isfinite(found).all():
        raise ValueError(
            f"`{name}` must be a finite number, or one for each of the {channels} "
            f"channels. Received: {arguments.shown(value)}"
        )
    return np.broadcast_to(found, (channels,)).copy()


def _checked_labels(labels, rows, classes):
    found = arguments.array(labels=labels)
    whole = found.dtype.kind in "ui" and found.shape == (rows,) and rows > 0
    if not whole or found.min() < 0 or found.max() >= classes:
        raise ValueError(
            f"`labels` must be one integer for each of the {rows} images, from 0 to "
            f"below the {classes} classes. Received: {arguments.shown(labels)}"
        )
    return found.astype("int32")


def _checked_size(size):
    pair = isinstance(size, tuple | list) and len(size) == 2
    if not pair or not all(arguments.is_whole(n) and n >= 1 for n in size):
        raise ValueError(
            "`image_size` must be a pair of whole numbers, (height, width). Received: "
            f"{arguments.shown(size)}"
        )
    return int(size[0]), int(size[1])


def _require_pillow():
    try:
        importlib.import_module("PIL.Image")
    except ImportError as error:
        raise ImportError(
            f"Images are decoded by Pillow, which failed to import ({error}). Install "
            "it: pip install pillow."
        ) from error
