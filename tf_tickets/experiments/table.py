"""Tables from CSV files: numbers, categories and a target."""

import csv
import dataclasses
import os
from collections.abc import Sequence

import numpy as np

from tf_tickets import arguments, files

TASKS = ("classification", "regression")
CATEGORIES = ("one-hot", "codes")
# How missing values are written, in small letters.
_MISSING = {"", "?", "na", "n/a", "nan", "null", "none"}
# Whole numbers with more different values than this are a target of regression.
_MAX_CLASSES = 20
# Categories with more different texts need `categories="codes"`.
_MAX_ONE_HOT = 100


@dataclasses.dataclass(frozen=True)
class Table:
    """Holds the columns of a table as arrays.

    Args:
        x: Inputs, float64, (rows, features).
        is_number: Whether each feature is a number rather than of a category.
        y: Targets: int32 classes or float32 numbers.
        class_names: Names of the classes, or None in regression.
        feature_names: Name of each feature; of a one-hot column "column=category".
    """

    x: np.ndarray
    is_number: np.ndarray
    y: np.ndarray
    class_names: tuple[str, ...] | None
    feature_names: tuple[str, ...]


def read_table(
    file: os.PathLike | str,
    target: str,
    task: str | None = None,
    categories: str = "one-hot",
    drop: Sequence[str] = (),
) -> Table:
    """Reads a CSV file with a header line.

    Args:
        file: Its path. In a file whose name ends in .tsv, tabs separate the values.
        target: Name of the column to predict.
        task: "classification", "regression", or None to decide by the target.
        categories: "one-hot" or "codes".
        drop: Names of columns to leave out.

    Example:

    >>> text = "size,color,price\\n1.5,red,10.5\\n2.5,blue,20.5\\n"
    >>> length = (tmp_path / "a.csv").write_text(text)
    >>> table = read_table(tmp_path / "a.csv", "price")
    >>> table.feature_names, table.x.tolist()
    (('size', 'color=blue', 'color=red'), [[1.5, 0.0, 1.0], [2.5, 1.0, 0.0]])
    """
    path = arguments.check_path(file=file).expanduser()
    arguments.check_type(str, target=target)
    arguments.check_choice((None, *TASKS), task=task)
    arguments.check_choice(CATEGORIES, categories=categories)
    drop = arguments.listed(str, drop=drop)
    columns = _columns(path)
    for name in (target, *drop):
        if name not in columns:
            raise ValueError(
                f"{path} has no column {name!r}. Found: {', '.join(columns)}."
            )
    columns = {name: texts for name, texts in columns.items() if name not in drop}
    if target not in columns or len(columns) < 2:
        raise ValueError(
            f"{path} must keep the column {target!r} and at least one other. "
            f"Received: drop={drop}"
        )
    _refuse_missing(columns, path)
    y, class_names = _target(columns.pop(target), target, task, path)
    parts, names, is_number = [], [], []
    for name, texts in columns.items():
        values, features = _features(name, texts, categories, path)
        parts.append(values)
        names += features
        is_number += [_numbers(texts) is not None] * len(features)
    x = np.concatenate(parts, axis=1).astype("float64")
    return Table(x, np.array(is_number), y, class_names, tuple(names))


def as_float32(values: np.ndarray, what: str) -> np.ndarray:
    """Returns numbers as float32; refuses those that float32 cannot tell apart.

    Args:
        values: One column of numbers.
        what: The column, in messages.

    Example:

    >>> as_float32(np.array([1.5, 2.5]), "column 'size'").dtype
    dtype('float32')
    """
    if np.abs(values).max() > np.finfo("float32").max:
        raise ValueError(
            f"The {what} has numbers that float32 cannot hold. Received: "
            f"{np.abs(values).max()}. Scale or drop the column."
        )
    single = values.astype("float32")
    different, left = len(np.unique(values)), len(np.unique(single))
    if left < different / 2:
        raise ValueError(
            f"The {what} has {different} different numbers, of which float32 can tell "
            f"only {left} apart. Received numbers from {values.min()} to "
            f"{values.max()}. Subtract the smallest number from the column, or drop it."
        )
    return single


def _columns(path):
    """Returns a dict from a column's name to its texts."""
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no file {str(path)!r}. Pass the path of a CSV file."
        )
    with (
        files.reading(path, "a CSV file", "Expected text with a header line."),
        open(path, encoding="utf-8-sig", newline="") as file,
    ):
        delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
        reader = csv.reader(file, strict=True, delimiter=delimiter)
        header, *rows = [row for row in reader if row] or [[]]
    if not header:
        raise ValueError(f"{path} is empty. Expected a header line and rows of data.")
    header = [name.strip() for name in header]
    repeated = sorted({name for name in header if header.count(name) > 1 or not name})
    if repeated:
        raise ValueError(
            f"The columns of {path} need names that differ. Received: {repeated}"
        )
    if not rows:
        raise ValueError(f"{path} has a header, but no rows. Add rows of data.")
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise ValueError(
                f"Row {number} of {path} has {len(row)} values, but the header names "
                f"{len(header)} columns. Quote values that contain commas."
            )
    texts = zip(*rows, strict=True)
    return {
        name: [text.strip() for text in column]
        for name, column in zip(header, texts, strict=True)
    }


def _refuse_missing(columns, path):
    for name, texts in columns.items():
        rows = [n for n, text in enumerate(texts, 2) if text.lower() in _MISSING]
        if rows:
            raise ValueError(
                f"Column {name!r} of {path} has {len(rows)} missing values, the first "
                f"in row {rows[0]} ({texts[rows[0] - 2]!r}). Fill them in, remove "
                "these rows, or drop the column."
            )


def _numbers(texts):
    """Returns texts as numbers, or None if one is no finite number."""
    try:
        values = np.array([float(text) for text in texts])
    except ValueError:
        return None
    return values if np.isfinite(values).all() else None


def _target(texts, name, task, path):
    """Returns the targets, and the names of their classes if they have some."""
    values = _numbers(texts)
    if task == "regression" and values is None:
        wrong = next(text for text in texts if _numbers([text]) is None)
        raise ValueError(
            f"The target {name!r} of {path} must be numbers for regression. Received: "
            f"{wrong!r}"
        )
    if task is None:
        task = "classification" if _are_classes(values) else "regression"
    if task == "regression":
        return as_float32(values, f"target {name!r} of {path}"), None
    if values is not None:
        # "1" and "1.0" are one class.
        texts = [str(int(v)) if v == int(v) else str(v) for v in values.tolist()]
    # Numbers in the order of their values, as "2" before "10".
    names = sorted(set(texts), key=None if values is None else float)
    if len(names) < 2:
        raise ValueError(
            f"The target {name!r} of {path} must have at least two different values. "
            f"Received: {names}"
        )
    codes = {text: code for code, text in enumerate(names)}
    return np.array([codes[text] for text in texts], "int32"), tuple(names)


def _are_classes(values):
    """Whether targets are classes: texts, or few whole numbers."""
    if values is None:
        return True
    different = np.unique(values)
    return len(different) <= _MAX_CLASSES and not (different % 1).any()


def _features(name, texts, categories, path):
    """Returns a column as an array (rows, features), and the names of these."""
    values = _numbers(texts)
    if values is not None:
        return values[:, None], [name]
    _refuse_mixed(name, texts, path)
    known = sorted(set(texts))
    codes = {text: code for code, text in enumerate(known)}
    column = np.array([codes[text] for text in texts])
    if categories == "codes":
        return column[:, None], [name]
    if len(known) > _MAX_ONE_HOT:
        raise ValueError(
            f"Column {name!r} of {path} has {len(known)} different texts, such as "
            f"{known[0]!r}; one-hot encoding takes at most {_MAX_ONE_HOT}. Drop the "
            'column, or pass categories="codes".'
        )
    return np.eye(len(known))[column], [f"{name}={text}" for text in known]


def _refuse_mixed(name, texts, path):
    """Refuses a column of numbers with some texts, which would become categories."""
    wrong = [row for row, text in enumerate(texts) if _numbers([text]) is None]
    is_rare = len(wrong) < len(texts) / 2
    # Few different ones may be categories, such as 0, 1, 2 and 3+.
    if is_rare and len(set(texts)) > _MAX_CLASSES:
        raise ValueError(
            f"Column {name!r} of {path} has finite numbers in most rows, but other "
            f"texts in {len(wrong)}, the first in row {wrong[0] + 2} "
            f"({texts[wrong[0]]!r}). Write numbers there, remove these rows, or drop "
            "the column."
        )
