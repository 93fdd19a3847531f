"""`tf-tickets search`: find a ticket by iterative magnitude pruning."""

import argparse
import pathlib

from tf_tickets_cli import arguments

SUMMARY = "find a ticket by iterative magnitude pruning"
DESCRIPTION = """\
Trains, prunes and rewinds a network round by round, trains the control experiments,
and keeps everything in one folder. Run the same command again to resume an
interrupted search.
"""
EPILOG = """\
examples:
  tf-tickets search
  tf-tickets search --dataset mnist --data-dir ~/tensorflow_datasets --epochs 10
  tf-tickets search --dataset cifar10 --model resnet20 --rewind-to "10 epochs"
  tf-tickets search --dataset my_images.npz --model conv4 --rounds 15
  tf-tickets search --structure 2:4
  tf-tickets search --target macs=0.5
"""
RESUMES = True
LOADS_TENSORFLOW = True

_FILES = {
    "best.ticket": "the best ticket: masks and start weights",
    "model.keras": "plain Keras model trained from it, pruned weights are zero",
    "model.txt": "its layers, weights kept and multiplications",
    "curve.png": "accuracy by weights kept",
    "table.txt": "the table above",
    "results.json": "all numbers and settings",
    "round_NN.ticket": "the ticket of each round",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    arguments.add_data(parser)
    group = parser.add_argument_group("search")
    arguments.add_rounds(group)
    group.add_argument(
        "--rate",
        type=float,
        metavar="R",
        help="fraction of the kept weights that each round prunes, 0 to 1 (default: "
        "as in the paper)",
    )
    group.add_argument(
        "--tolerance",
        type=float,
        metavar="T",
        help="maximum drop in validation accuracy of the best ticket (default: 0.01)",
    )
    group.add_argument(
        "--structure",
        metavar="S",
        help="which weights are kept or pruned together: '2:4' or other numbers for "
        "N of M, '4x1' or other numbers for blocks, 'channels' (default: single "
        "weights). The search stops where the structure allows no more",
    )
    group.add_argument(
        "--target",
        metavar="COST=F",
        help="fraction of the multiply-adds or parameters that the last round leaves, "
        "such as macs=0.5 or params=0.5, in place of --rate; prunes channels",
    )
    group.add_argument(
        "--no-controls",
        action="store_true",
        help="skip random reinitialization and shuffled masks, which take two thirds "
        "of the time",
    )
    arguments.add_out(
        parser.add_argument_group("results"), default="tickets/DATASET-MODEL"
    )


def run(options: argparse.Namespace) -> None:
    """Runs the search and prints its results."""
    from tf_tickets.reports import tables
    from tf_tickets_cli.imp_experiment import ImpExperiment
    from tf_tickets_cli.progress import Progress
    from tf_tickets_cli.settings import Setting

    folder = arguments.results_folder(options)
    setting = Setting.from_options(options)
    with Progress() as progress:
        progress.say(setting.summary())
        experiment = ImpExperiment(setting, folder, not options.no_controls, progress)
        results = experiment.run()
    print(tables.search_table(results["rows"], results["dense"]))
    print(_verdict(results))
    for line in _listing(folder):
        print(line)


def _verdict(results):
    row = next(r for r in results["rows"] if r["round"] == results["best_round"])
    return (
        f"Best: round {row['round']}, sparsity {row['sparsity']:.1%}, test accuracy "
        f"{row['ticket']:.2%} (dense {results['dense']:.2%})."
    )


def _listing(folder: pathlib.Path):
    yield "Files:"
    for name, meaning in _FILES.items():
        if list(folder.glob(name.replace("NN", "*"))):
            yield f"  {folder / name}  {meaning}"
