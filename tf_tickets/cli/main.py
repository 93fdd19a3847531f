"""The command `tf-tickets`."""

import argparse
import pathlib
import sys
from collections.abc import Sequence

_EXAMPLES = """\
examples:
  tf-tickets search
      a ticket for LeNet-300-100 on the 8x8 digits that come with scikit-learn
  tf-tickets search --dataset mnist --data-dir ~/tensorflow_datasets --epochs 10
  tf-tickets search --dataset cifar10 --model resnet20 --rewind-to "10 epochs"
  tf-tickets search --dataset my_images.npz --model conv4 --rounds 15
  tf-tickets frontier --methods cs imp --scores -0.2 -0.1 0.0
      learned masks against magnitude pruning, every ticket trained alike
  tf-tickets frontier --methods imp dlth unilth unidlth threshold
  tf-tickets frontier --methods imp kdlts snip grasp synflow --sparsities 0.9 0.98
  tf-tickets export tickets/digits-lenet300/model.keras lenet.tflite
  tf-tickets report tickets/digits-lenet300/model.keras
  tf-tickets compare one.ticket other.ticket

The Keras backend is the one in the environment variable KERAS_BACKEND (tensorflow or
jax), without it TensorFlow.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and gives its exit status."""
    options = _parser().parse_args(arguments)
    try:
        return _COMMANDS[options.command](options)
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f"tf-tickets: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ntf-tickets: interrupted; the same command goes on.", file=sys.stderr)
        return 130


def _parser():
    parser = argparse.ArgumentParser(
        prog="tf-tickets",
        description="Find and use lottery tickets in Keras models.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_search(commands)
    _add_frontier(commands)
    _add_train(commands)
    _add_export(commands)
    report = commands.add_parser("report", help="show a ticket or a model by layer")
    report.add_argument("file", help="a .ticket or a .keras file")
    compare = commands.add_parser("compare", help="how far two tickets agree")
    compare.add_argument("files", nargs=2, metavar="TICKET")
    return parser


_SEARCH_OPTIONS: dict[str, dict] = {
    "--rounds": {
        "type": int,
        "metavar": "N",
        "help": "how many times to prune (default: 12)",
    },
    "--epochs": {"type": int, "metavar": "N", "help": "epochs per round"},
    "--rate": {
        "type": float,
        "metavar": "R",
        "help": "fraction of the kept weights that a round prunes, 0..1",
    },
    "--rewind-to": {
        "metavar": "WHEN",
        "help": "'init', 'N steps' or 'N epochs' of the first training",
    },
    "--batch-size": {"type": int, "metavar": "N", "help": "examples a step"},
    "--tolerance": {
        "type": float,
        "metavar": "T",
        "help": "the best ticket may be so much less accurate than the "
        "dense network, in validation (default: 0.01)",
    },
    "--no-controls": {
        "action": "store_true",
        "help": "leave out random reinit and shuffled masks, and with "
        "them two thirds of the time",
    },
}
_FRONTIER_OPTIONS: dict[str, dict] = {
    "--methods": {
        "nargs": "+",
        "choices": (
            *("cs", "iss", "imp", "dlth", "unilth", "unidlth", "threshold"),
            *("kdlts", "snip", "grasp", "synflow"),
        ),
        "default": ["cs", "imp"],
        "help": "(default: cs imp)",
    },
    "--scores": {
        "nargs": "+",
        "type": float,
        "metavar": "S",
        "default": [-0.2, -0.1, 0.0],
        "help": "initial scores of cs: the greater, the denser (default: -0.2 -0.1 0)",
    },
    "--sparsities": {
        "nargs": "+",
        "type": float,
        "metavar": "S",
        "default": [0.8, 0.9, 0.95],
        "help": "of kdlts, snip, grasp and synflow (default: 0.8 0.9 0.95)",
    },
}
_DATA_OPTIONS: dict[str, dict] = {
    "--dataset": {
        "default": "digits",
        "metavar": "NAME",
        "help": "digits, mnist, cifar10 or a path to an .npz with x_train, "
        "y_train, x_test, y_test (default: digits)",
    },
    "--data-dir": {
        "metavar": "DIR",
        "help": "where tensorflow-datasets has prepared mnist and cifar10 "
        "(default: TFDS_DATA_DIR)",
    },
    "--model": {
        "default": "lenet300",
        "metavar": "NAME",
        "help": "lenet300, conv2, conv4, conv6, resnet20, resnet18 or vgg16 "
        "(default: lenet300)",
    },
    "--width": {
        "type": float,
        "metavar": "W",
        "help": "scales the layers of the network (default: 1)",
    },
    "--take": {
        "type": int,
        "metavar": "N",
        "help": "train on the first N examples only",
    },
    "--scaling": {
        "choices": ("standard", "unit"),
        "default": "standard",
        "help": "of the images: mean 0 and deviation 1, or 0 to 1 (default: standard)",
    },
    "--seed": {
        "type": int,
        "default": 0,
        "metavar": "N",
        "help": "seed of weights, data order and controls (default: 0)",
    },
}


def _add_search(commands):
    search = commands.add_parser(
        "search",
        help="find a ticket by iterative magnitude pruning",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=_EXAMPLES,
        description="Trains, prunes and rewinds round by round, trains the control "
        "experiments\nbeside it, and keeps everything in one folder. The same "
        "command again goes on\nwhere it was interrupted, or says that it is done.",
    )
    _add_data(search)
    what = search.add_argument_group("the search (by default as in the paper)")
    _add_options(what, _SEARCH_OPTIONS)
    out = search.add_argument_group("results")
    out.add_argument(
        "--out",
        metavar="DIR",
        help="folder of the results (default: tickets/DATASET-MODEL)",
    )


def _add_frontier(commands):
    frontier = commands.add_parser(
        "frontier",
        help="compare searches on one frontier of sparsity and accuracy",
        description="Runs Continuous Sparsification (cs) for several initial scores, "
        "stochastic sparsification (iss), iterative magnitude pruning (imp), growing "
        "penalties (dlth, unilth, unidlth), Han's thresholds (threshold), distillation "
        "(kdlts, with its teachers) and pruning at initialization (snip, grasp, "
        "synflow) from the same weights, and trains every ticket alike. The same "
        "command again goes on where it was interrupted.",
    )
    _add_data(frontier)
    what = frontier.add_argument_group("the searches")
    _add_options(what, _FRONTIER_OPTIONS)
    shared = ("--rounds", "--epochs", "--rewind-to", "--batch-size")
    _add_options(what, {name: _SEARCH_OPTIONS[name] for name in shared})
    frontier.add_argument(
        "--out",
        metavar="DIR",
        help="folder of the results (default: tickets/DATASET-MODEL-frontier)",
    )


def _add_train(commands):
    train = commands.add_parser("train", help="train a ticket and strip the model")
    train.add_argument("ticket", help="a .ticket file")
    _add_data(train)
    train.add_argument("--epochs", type=int, metavar="N", help="for how long")
    train.add_argument("--batch-size", type=int, metavar="N", help="examples a step")
    train.add_argument(
        "--out",
        required=True,
        metavar="FILE.keras",
        help="the stripped model; must not exist yet",
    )


_EXPORT_FLAGS = {
    "--trainable": "for training on with its zeros kept",
    "--overwrite": "replace what is there",
}


def _add_export(commands):
    export = commands.add_parser(
        "export",
        help="write a model for use elsewhere, checked, and small by its zeros",
        description="Writes a SavedModel, a .tflite, a deflated .keras or an .onnx "
        "file, runs it in a fresh interpreter beside the model, and tells its sizes, "
        "errors and times. What differs from the model is not kept.",
    )
    export.add_argument("model", help="a .keras file, plain or wrapped")
    export.add_argument(
        "out", help="where to; the suffix tells the format, a folder is a SavedModel"
    )
    export.add_argument(
        "--precision",
        choices=("float32", "float16", "dynamic", "int8"),
        default="float32",
        help="of a .tflite file (default: float32)",
    )
    export.add_argument(
        "--data",
        metavar="FILE.npz",
        help="its x_test is compared on, and int8 learns from its x_train; random "
        "inputs otherwise",
    )
    export.add_argument(
        "--ticket", metavar="FILE", help="the ticket that the model was trained from"
    )
    for flag, meaning in _EXPORT_FLAGS.items():
        export.add_argument(flag, action="store_true", help=meaning)
    export.add_argument("--report", metavar="FILE.json", help="write the report too")


def _add_data(parser):
    _add_options(parser.add_argument_group("data and network"), _DATA_OPTIONS)


def _add_options(group, options):
    for flag, settings in options.items():
        group.add_argument(flag, **settings)


def _setting(options):
    """The setting that the options describe; they are named as it names them."""
    from tf_tickets.cli.settings import Setting

    return Setting(
        options.dataset, options.model, options.data_dir, options.seed, vars(options)
    )


def _search(options):
    from tf_tickets.cli import jobs, progress
    from tf_tickets.reports import tables

    out = options.out or f"tickets/{_plain_name(options.dataset)}-{options.model}"
    setting = _setting(options)
    with progress.Bars() as bars:
        job = jobs.SearchJob(
            setting, out, not options.no_controls, bars.say, bars.callbacks
        )
        results = job.run()
    print(tables.search_table(results["rows"], results["dense"]))
    print(_verdict(results))
    for name, meaning in _FILES.items():
        print(f"  {pathlib.Path(out) / name}  {meaning}")
    return 0


_FILES = {
    "best.ticket": "the best ticket: masks and start weights",
    "model.keras": "plain Keras model, trained from it, zeros in place",
    "model.txt": "its layers, weights kept and multiplications",
    "curve.png": "accuracy by weights kept",
    "table.txt": "the table above",
    "results.json": "all numbers and settings",
    "round_NN.ticket": "the ticket of every round",
}


def _verdict(results):
    row = next(r for r in results["rows"] if r["round"] == results["best_round"])
    return (
        f"Best: round {row['round']}, sparsity {row['sparsity']:.1%}, test accuracy "
        f"{row['ticket']:.2%} (dense {results['dense']:.2%}).\nFiles:"
    )


def _plain_name(dataset):
    return pathlib.Path(dataset).stem if dataset.endswith(".npz") else dataset


def _frontier(options):
    from tf_tickets.cli import jobs
    from tf_tickets.reports import tables

    name = f"{_plain_name(options.dataset)}-{options.model}-frontier"
    out = pathlib.Path(options.out or f"tickets/{name}")
    wanted = options.methods, options.scores, options.sparsities
    found = jobs.compare_searches(_setting(options), out, *wanted)
    print(tables.frontier_table(found.rows(), found.dense, found.monitor))
    print(f"Tickets in the folders of {out}, the picture in {out / 'frontier.png'}")
    return 0


def _train(options):
    from tf_tickets.cli import jobs

    metrics = jobs.train(options.ticket, _setting(options), options.out)
    for name, value in metrics.items():
        print(f"{name:>16}  {value:.4f}")
    print(f"Stripped model: {options.out}")
    return 0


def _export(options):
    import keras

    from tf_tickets.cli import jobs
    from tf_tickets.exporting.exporter import export
    from tf_tickets.exporting.writer import SUFFIXES
    from tf_tickets.tickets.ticket import Ticket

    formats = {suffix: format for format, suffix in SUFFIXES.items()}
    model = keras.saving.load_model(options.model, compile=False)
    first, second = model, None
    if options.ticket:
        first, second = Ticket.load(options.ticket), model
    report = export(
        first,
        options.out,
        formats.get(pathlib.Path(options.out).suffix, "saved_model"),
        model=second,
        data=jobs.examples(options.data, options.precision),
        precision=options.precision,
        trainable=options.trainable,
        overwrite=options.overwrite,
    )
    print(report)
    if options.report:
        report.save(options.report)
    return 0


def _report(options):
    import keras

    from tf_tickets.reports import summary, tables
    from tf_tickets.tickets.ticket import Ticket

    if options.file.endswith(".keras"):
        print(summary.summary(keras.saving.load_model(options.file)))
        return 0
    print(tables.ticket_table(Ticket.load(options.file)))
    return 0


def _compare(options):
    from tf_tickets.tickets.ticket import Ticket

    first, second = (Ticket.load(file) for file in options.files)
    print(f"sparsity {first.sparsity:.4f} and {second.sparsity:.4f}")
    print("kept in both / kept in either:")
    for path, overlap in first.compare(second).items():
        print(f"  {overlap:.4f}  {path}")
    return 0


_COMMANDS = {
    "search": _search,
    "frontier": _frontier,
    "train": _train,
    "export": _export,
    "report": _report,
    "compare": _compare,
}

if __name__ == "__main__":
    sys.exit(main())
