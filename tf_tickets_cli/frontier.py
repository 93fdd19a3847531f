"""`tf-tickets frontier`: compare searches by sparsity and accuracy."""

import argparse

from tf_tickets_cli import arguments, choices

SUMMARY = "compare searches by sparsity and accuracy"
DESCRIPTION = f"""\
Runs several searches from the same weights, trains all their tickets under the same
conditions and shows which are Pareto-optimal. Run the same command again to resume
an interrupted comparison.

{choices.METHODS_HELP}
There is a search of cs for each of --scores, and of kdlts, snip, grasp and synflow for
each of --sparsities.
"""
EPILOG = """\
examples:
  tf-tickets frontier --methods cs imp --scores -0.2 -0.1 0.0
  tf-tickets frontier --data images.npz --model my_model.py:build
  tf-tickets frontier --methods imp dlth unilth unidlth threshold
  tf-tickets frontier --methods imp kdlts snip grasp synflow --sparsities 0.9 0.98
"""
RESUMES = True
LOADS_TENSORFLOW = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    arguments.add_data(parser)
    group = parser.add_argument_group("searches")
    group.add_argument(
        "--methods",
        nargs="+",
        choices=choices.METHODS,
        default=["cs", "imp"],
        metavar="METHOD",
        help="the methods to compare, see above (default: cs imp)",
    )
    group.add_argument(
        "--scores",
        nargs="+",
        type=float,
        metavar="S",
        default=[-0.2, -0.1, 0.0],
        help="initial scores of cs; a greater score gives a denser ticket (default: "
        "-0.2 -0.1 0)",
    )
    group.add_argument(
        "--sparsities",
        nargs="+",
        type=float,
        metavar="S",
        default=[0.8, 0.9, 0.95],
        help="sparsities of kdlts, snip, grasp and synflow (default: 0.8 0.9 0.95)",
    )
    arguments.add_rounds(group)
    arguments.add_out(
        parser.add_argument_group("results"), default="tickets/DATA-MODEL-frontier"
    )
    arguments.add_settings(parser)


def run(options: argparse.Namespace) -> None:
    """Runs the searches and prints the frontier."""
    import tf_tickets as tt
    from tf_tickets_cli import methods
    from tf_tickets_cli.progress import Progress
    from tf_tickets_cli.recording import Recorder
    from tf_tickets_cli.settings import Setting

    folder = arguments.results_folder(options, "-frontier")
    setting = Setting.from_options(options)
    searches = methods.build_searches(
        setting, options.methods, options.scores, options.sparsities
    )
    methods.check_model(searches, setting)
    recorder = Recorder(folder, options, setting.effective())
    with Progress() as progress:
        progress.say(setting.summary())
        watch = recorder.watching(progress.of_training)
        methods.teach(searches, setting, folder / "teachers", watch)
        comparison = progress.of_comparison(searches, setting.recipe.epochs)
        frontier = tt.find_frontier(
            setting.build_model,
            setting.data,
            searches,
            folder,
            setting.seed,
            epochs=setting.recipe.epochs,
            monitor=setting.reported,
            batch_size=setting.fit_batch_size,
            watch=recorder.watching(comparison),
        )
        recorder.write()
    print(frontier)
    print(f"Tickets, frontier.json and frontier.png are in {folder}")
