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
    group.add_argument(
        "--dataset",
        default="digits",
        metavar="NAME",
        help=f"{', '.join(choices.DATASETS)}, or the path of an .npz file with "
        "x_train, y_train, x_test and y_test (default: digits)",
    )
    group.add_argument(
        "--data-dir",
        metavar="DIR",
        help="folder with mnist.npz or cifar10.npz, or with the data that "
        "tensorflow-datasets has prepared (default: TF_TICKETS_DATA_DIR, then "
        "TFDS_DATA_DIR)",
    )
    group.add_argument(
        "--model",
        default="lenet300",
        choices=choices.NETWORKS,
        metavar="NAME",
        help=f"{', '.join(choices.NETWORKS)} (default: lenet300)",
    )
    group.add_argument(
        "--width",
        type=float,
        metavar="W",
        help="factor for the number of units in each layer (default: 1)",
    )
    group.add_argument(
        "--take",
        type=int,
        metavar="N",
        help="train on the first N examples only (default: all)",
    )
    group.add_argument(
        "--scaling",
        choices=choices.SCALINGS,
        default="standard",
        help="standard: pixels with mean 0 and standard deviation 1; unit: pixels "
        "from 0 to 1 (default: standard)",
    )
    group.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="seed of weights, data order and controls (default: 0)",
    )


def add_rounds(group: Parser) -> None:
    """Adds the options of a search in rounds."""
    group.add_argument(
        "--rounds",
        type=int,
        metavar="N",
        help="number of pruning rounds (default: 12)",
    )
    add_training(group, epochs="epochs per round")
    group.add_argument(
        "--rewind-to",
        metavar="WHEN",
        help="point of the first training that tickets start from: 'init', "
        "'N steps' or 'N epochs' (default: as in the paper)",
    )


def add_training(group: Parser, epochs: str) -> None:
    """Adds the number of epochs and the batch size.

    Args:
        group: A parser, or a group of one.
        epochs: What the epochs are.
    """
    group.add_argument(
        "--epochs", type=int, metavar="N", help=f"{epochs} (default: as in the paper)"
    )
    group.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help="batch size (default: as in the paper)",
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

    >>> options = argparse.Namespace(out=None, dataset="a/b.npz", model="conv2")
    >>> results_folder(options, "-frontier").as_posix()
    'tickets/b-conv2-frontier'
    """
    if options.out:
        return pathlib.Path(options.out)
    name = options.dataset
    if name.endswith(".npz"):
        name = pathlib.Path(name).stem
    return pathlib.Path("tickets") / f"{name}-{options.model}{ending}"
