"""Options that several commands share."""

import argparse
import pathlib
from typing import Protocol

from tf_tickets_cli import choices


class Parser(Protocol):
    """An `ArgumentParser` or one of its argument groups."""

    def add_argument(self, *flags: str, **settings) -> argparse.Action: ...


def add_data(parser: argparse.ArgumentParser) -> None:
    """Adds the options that select the data, the network and the seed."""
    group = parser.add_argument_group("data and network")
    add_data_source(group, default="digits")
    group.add_argument(
        "--model",
        default="lenet300",
        metavar="MODEL",
        help=f"{', '.join(choices.NETWORKS)}, or your own network: FILE.keras, whose "
        "weights are drawn again by the seed, module:function or file.py:function, "
        "which returns a model and may have the parameters input_shape and "
        "num_classes (default: lenet300)",
    )
    group.add_argument(
        "--width",
        type=float,
        metavar="W",
        help="factor for the number of units in each layer; not for your own networks "
        "(default: 1)",
    )
    add_draws(group, seeded="weights, data order, splits and controls")


def add_draws(group: Parser, seeded: str) -> None:
    """Adds the number of training examples and the seed.

    Args:
        group: A parser, or a group of one.
        seeded: What the seed decides.
    """
    group.add_argument(
        "--take",
        type=int,
        metavar="N",
        help="train on the first N examples only (default: all)",
    )
    group.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help=f"seed of {seeded} (default: 0)",
    )


def add_data_source(group: Parser, default: str | None) -> None:
    """Adds the options that name data and say how they are read.

    Args:
        group: A parser, or a group of one.
        default: The built-in data, or None for commands that need no data.
    """
    group.add_argument(
        "--data",
        default=default,
        metavar="DATA",
        help=f"{', '.join(choices.DATASETS)}; or your own: FILE.npz with x_train, "
        "y_train, x_test, y_test and optionally x_val, y_val; a FOLDER of images by "
        "class, which are streamed; FILE.csv with --target-column; module:function or "
        "file.py:function, which returns a TrainingData or a pair or triple of parts "
        f"(default: {default or 'none'})",
    )
    # The former name.
    group.add_argument(
        "--dataset", dest="data", default=argparse.SUPPRESS, help=argparse.SUPPRESS
    )
    group.add_argument(
        "--data-dir",
        metavar="DIR",
        help="folder with mnist.npz or cifar10.npz, or with the data that "
        "tensorflow-datasets has prepared (default: TF_TICKETS_DATA_DIR, then "
        "TFDS_DATA_DIR)",
    )
    group.add_argument(
        "--target-column",
        metavar="NAME",
        help="column of a CSV file to predict (default: none; a CSV file needs it)",
    )
    group.add_argument(
        "--task",
        choices=choices.TASKS,
        help="what the target of a CSV file is (default: texts, and whole numbers of "
        "at most 20 values, are classes; other numbers are for regression)",
    )
    group.add_argument(
        "--drop-columns",
        nargs="+",
        metavar="NAME",
        help="columns of a CSV file to leave out (default: none)",
    )
    group.add_argument(
        "--image-size",
        nargs="+",
        type=int,
        metavar="N",
        help="height and width, or one number for both, to which the images of a "
        "folder are resized (default: the size of the first image)",
    )
    group.add_argument(
        "--scaling",
        choices=choices.SCALINGS,
        help="standard: each channel or column with mean 0 and standard deviation 1; "
        "unit: values from 0 to 1; none: as they are (default: standard; none for "
        "files and folders of your own, tables included, with a network of your own)",
    )


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Adds the option that reads other options from a file."""
    parser.add_argument_group("settings").add_argument(
        "--settings",
        metavar="FILE.toml",
        help="read options from this file, such as the settings.toml that is written "
        "beside every result; options of the command line come before it (default: "
        "none)",
    )


def add_rounds(group: Parser) -> None:
    """Adds the options of a search in rounds."""
    group.add_argument(
        "--rounds",
        type=int,
        metavar="N",
        help="number of rounds (default: 12; 4 for cs)",
    )
    add_training(group, epochs="epochs per round")
    group.add_argument(
        "--rewind-to",
        metavar="WHEN",
        help="point of the first training that tickets start from: 'init', "
        "'N steps' or 'N epochs' (default: as in the paper; init for your own network)",
    )


def add_training(group: Parser, epochs: str) -> None:
    """Adds the number of epochs and the batch size.

    Args:
        group: A parser, or a group of one.
        epochs: What the epochs are.
    """
    group.add_argument(
        "--epochs",
        type=int,
        metavar="N",
        help=f"{epochs} (default: as in the paper; 15 for digits, 10 for your own "
        "network)",
    )
    group.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help="batch size (default: as in the paper; 32 for digits and for your own "
        "network)",
    )


def add_out(parser: Parser, default: str) -> None:
    """Adds the folder of the results."""
    parser.add_argument(
        "--out", metavar="DIR", help=f"folder of the results (default: {default})"
    )


def results_folder(options: argparse.Namespace, ending: str = "") -> pathlib.Path:
    """Returns the folder of the results: `--out`, or one named after the data.

    Args:
        options: The parsed options.
        ending: Suffix of the default folder's name.

    Example:

    >>> options = argparse.Namespace(out=None, data="a/b.npz", model="models:small")
    >>> results_folder(options, "-frontier").as_posix()
    'tickets/b-small-frontier'
    """
    if options.out:
        return pathlib.Path(options.out).expanduser()
    names = f"{_short(options.data)}-{_short(options.model)}"
    return pathlib.Path("tickets") / f"{names}{ending}"


def _short(spec):
    """Returns the name of a file without suffix, of a folder or of a function."""
    name = spec.rpartition(":")[2]
    return pathlib.Path(name).expanduser().absolute().stem
