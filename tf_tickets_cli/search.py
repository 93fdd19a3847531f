"""`tf-tickets search`: find a ticket, by default by iterative magnitude pruning."""

import argparse
import pathlib
from typing import Any

from tf_tickets_cli import arguments, choices

SUMMARY = "find a ticket, by default by iterative magnitude pruning"
DESCRIPTION = f"""\
Searches a ticket of a network, trains it, and keeps everything in one folder. IMP
trains, prunes and rewinds round by round, and trains control experiments. Run the same
command again to resume an interrupted search.

{choices.METHODS_HELP}"""
EPILOG = """\
examples:
  tf-tickets search
  tf-tickets search --data mnist --data-dir ~/tensorflow_datasets --epochs 10
  tf-tickets search --data cifar10 --model resnet20 --rewind-to "10 epochs"
  tf-tickets search --data my_images.npz --model conv4 --rounds 15
  tf-tickets search --data photos/ --image-size 64 --model my_model.py:build
  tf-tickets search --data wine.csv --target-column quality --model mine.keras
  tf-tickets search --method kdlts --sparsity 0.95
  tf-tickets search --settings tickets/digits-lenet300/settings.toml --out again
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
    "results.json": "all numbers",
    "settings.toml": "all settings, for tf-tickets search --settings",
    "round_NN.ticket": "the ticket of each round",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    arguments.add_data(parser)
    group = parser.add_argument_group("search")
    group.add_argument(
        "--method",
        choices=choices.METHODS,
        default="imp",
        metavar="METHOD",
        help="the method, see above (default: imp)",
    )
    arguments.add_rounds(group)
    group.add_argument(
        "--rate",
        type=float,
        metavar="R",
        help="fraction of the kept weights that each round of imp prunes, 0 to 1; "
        "dlth, unilth and unidlth come to the sparsity of as many such rounds "
        "(default: as in the paper; 0.2 for your own network)",
    )
    group.add_argument(
        "--score",
        type=float,
        metavar="S",
        help="initial score of cs; a greater one gives a denser ticket (default: 0)",
    )
    group.add_argument(
        "--sparsity",
        type=float,
        metavar="S",
        help="sparsity of kdlts, snip, grasp and synflow (default: 0.9)",
    )
    group.add_argument(
        "--tolerance",
        type=float,
        metavar="T",
        help="how much worse than the dense network the best ticket may be, in the "
        "validation metric; if none is that good, the best one is kept, and the output "
        "says so (default: 0.01)",
    )
    group.add_argument(
        "--structure",
        metavar="S",
        help="which weights are kept or pruned together: '2:4' or other numbers for "
        "N of M, '4x1' or other numbers for blocks, 'channels'; of imp only. The "
        "search stops where the structure allows no more (default: single weights)",
    )
    group.add_argument(
        "--target",
        metavar="COST=F",
        help="fraction of the multiply-adds or parameters that the last round leaves, "
        "such as macs=0.5 or params=0.5, in place of --rate; prunes channels; of imp "
        "only (default: none)",
    )
    group.add_argument(
        "--no-controls",
        action="store_true",
        help="skip random reinitialization and shuffled masks of imp, which take two "
        "thirds of the time",
    )
    arguments.add_out(
        parser.add_argument_group("results"),
        default="tickets/DATA-MODEL, for other methods than imp tickets/"
        "DATA-MODEL-METHOD",
    )
    arguments.add_settings(parser)


_TO_THE_ROUND = (
    "The order of these data is not a function of the seed, so a search that is "
    "interrupted and resumed ends with other bits."
)


def run(options: argparse.Namespace) -> None:
    """Runs the search and prints its results."""
    from tf_tickets_cli import methods
    from tf_tickets_cli.experiment import Experiment, table_of
    from tf_tickets_cli.progress import Progress
    from tf_tickets_cli.recording import Recorder
    from tf_tickets_cli.settings import Setting

    _refuse_idle(options)
    used = methods.used_options(options.method, options.score, options.sparsity)
    ending = "" if options.method == "imp" else f"-{options.method}"
    folder = arguments.results_folder(options, ending)
    setting = Setting.from_options(options)
    rounds = methods.rounds_of(setting, options.method)
    effective = {**setting.effective(), **used, "rounds": rounds}
    idle = dict.fromkeys(_idle_options(options.method))
    recorder = Recorder(folder, options, {**effective, **idle})
    with Progress() as progress:
        progress.say(setting.summary())
        experiment = Experiment(
            setting,
            folder,
            options.method,
            not options.no_controls,
            progress,
            [recorder.callback],
            **used,
        )
        results = experiment.run()
        recorder.write()
    print(table_of(results))
    print(verdict(results))
    if results.get("resume") == "round":
        print(_TO_THE_ROUND)
    for line in _listing(folder):
        print(line)


# The options that only some methods follow, by their attributes.
_FOLLOWED = {
    "rate": ("imp", "dlth", "unilth", "unidlth"),
    "structure": ("imp",),
    "target": ("imp",),
    "no_controls": ("imp",),
}


def _idle_options(method):
    return [name for name, methods in _FOLLOWED.items() if method not in methods]


def _refuse_idle(options):
    """Refuses options that the method does not follow."""
    for name in _idle_options(options.method):
        value = getattr(options, name)
        if value not in (None, False):
            option = f"--{name.replace('_', '-')}"
            raise ValueError(
                f"{option} belongs to the method {', '.join(_FOLLOWED[name])}. "
                f"Received: {option} {value} with --method {options.method}. Leave it "
                "out."
            )


def verdict(results: dict[str, Any]) -> str:
    """Returns a sentence about the ticket that is kept.

    Args:
        results: What `Experiment.run` returns.
    """
    from tf_tickets_cli.experiment import metric_in_words

    row = next(r for r in results["rows"] if r["round"] == results["best_round"])
    metric = results.get("metric", "test_accuracy")
    what = metric_in_words(metric)
    shown = ".2%" if "accuracy" in metric else ".4f"
    kept = "Best"
    if not results.get("within_tolerance", True):
        monitor = results["monitor"]
        kept = (
            f"No ticket is within the tolerance {results['options']['tolerance']:g} of "
            f"the dense network ({monitor} {results[f'dense_{monitor}']:.4f}). The "
            f"best by {monitor} ({row[monitor]:.4f}) is kept"
        )
    return (
        f"{kept}: round {row['round']}, sparsity {row['sparsity']:.1%}, {what} "
        f"{row['ticket']:{shown}} (dense {results['dense']:{shown}})."
    )


def _listing(folder: pathlib.Path):
    yield "Files:"
    for name, meaning in _FILES.items():
        if list(folder.glob(name.replace("NN", "*"))):
            yield f"  {folder / name}  {meaning}"
