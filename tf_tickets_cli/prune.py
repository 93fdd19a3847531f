"""`tf-tickets prune`: prune a trained model while fine-tuning it."""

import argparse
import functools
import pathlib

from tf_tickets_cli import arguments, choices

SUMMARY = "prune your trained model, and measure it before and after"
DESCRIPTION = """\
Prunes a trained model while fine-tuning it, keeps the best epoch after the last
pruning, and writes the pruned model, a .tflite file, the ticket and a report to one
folder. Prints metrics, weights, bytes, multiply-adds and latency before and after. Run
the same command again to resume an interrupted training.
"""
EPILOG = """\
examples:
  tf-tickets prune model.keras --data images.npz --sparsity 0.9 --out pruned
  tf-tickets prune model.keras --data photos/ --structure 4x1 --out pruned
  tf-tickets prune model.keras --data my_data.py:load --target macs=0.5 --out small
"""
RESUMES = True
LOADS_TENSORFLOW = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="the trained model, required: FILE.keras, plain or wrapped, or "
        "module:function or file.py:function, which returns it (default: none)",
    )
    group = parser.add_argument_group("data")
    arguments.add_data_source(group, default=None)
    arguments.add_draws(group, seeded="data order, splits and random layers")
    _add_pruning(parser.add_argument_group("pruning"))
    _add_training(parser.add_argument_group("fine-tuning"))
    group = parser.add_argument_group("results")
    group.add_argument(
        "--out",
        metavar="DIR",
        help="folder of the results, required (default: none)",
    )
    group.add_argument(
        "--precision",
        choices=choices.PRECISIONS,
        default="float32",
        help="precision of model.tflite; int8 and int16x8 are calibrated on the "
        "training data (default: float32)",
    )
    group.add_argument(
        "--no-tflite",
        action="store_true",
        help="write no model.tflite, which takes a while (default: write it)",
    )
    arguments.add_settings(parser)


def _add_pruning(group):
    group.add_argument(
        "--sparsity",
        type=float,
        metavar="S",
        help="fraction of the weights, or of the channels, to prune (default: 0.9, or "
        "what the structure allows; 0.5 of channels)",
    )
    group.add_argument(
        "--structure",
        metavar="S",
        help="which weights are kept or pruned together: 'unstructured', '2:4' or "
        "other numbers for N of M, '4x1' or other numbers for blocks, 'channels' "
        "(default: unstructured, or that of a wrapped model)",
    )
    group.add_argument(
        "--target",
        metavar="COST=F",
        help="fraction of the multiply-adds or parameters that remains, such as "
        "macs=0.5 or params=0.5, in place of --sparsity; prunes channels "
        "(default: none)",
    )
    group.add_argument(
        "--allocation",
        choices=choices.ALLOCATIONS,
        default="global",
        help="how the weights to prune are distributed among layers (default: global)",
    )
    group.add_argument(
        "--filters",
        metavar="REGEX",
        help="prune only layers whose name matches this regular expression; '^(?!a|b)' "
        "leaves out those that begin with a or b (default: all layers)",
    )


def _add_training(group):
    group.add_argument(
        "--epochs",
        type=int,
        default=20,
        metavar="N",
        help="number of epochs; the first half prunes (default: 20)",
    )
    group.add_argument(
        "--learning-rate",
        type=float,
        metavar="R",
        help="constant learning rate (default: that of the model's optimizer, or a "
        "tenth of the largest of its schedule)",
    )
    group.add_argument(
        "--batch-size", type=int, metavar="N", help="batch size (default: 32)"
    )
    group.add_argument(
        "--monitor",
        metavar="METRIC",
        help="metric that selects the best epoch, such as val_loss (default: the only "
        "metric of the model, or val_loss)",
    )
    group.add_argument(
        "--patience",
        type=int,
        default=5,
        metavar="N",
        help="stop after N epochs without improvement, once pruned (default: 5)",
    )


# The options that a training in a folder must share with the one that resumes it.
_OF_TRAINING = (
    *("sparsity", "structure", "target", "allocation", "filters", "epochs"),
    *("learning_rate", "batch_size", "monitor", "patience", "seed", "take", "scaling"),
    *("target_column", "task", "drop_columns", "image_size"),
)


def run(options: argparse.Namespace) -> None:
    """Prunes the model and prints the table."""
    import tf_tickets as tt
    from tf_tickets.fine_tuning import pruner
    from tf_tickets.search import runner
    from tf_tickets_cli.progress import Progress
    from tf_tickets_cli.recording import Recorder

    out = _checked(options)
    recorder = Recorder(out, options, _effective(options))
    if (out / pruner.TRAINING / runner.STATE).is_file():
        recorder.check_same(_OF_TRAINING)
    data, target = _data(options), _target(options.target)
    with Progress() as progress:
        for note in (data.sizes(), *data.notes):
            progress.say(f"Data: {note}")
        result = tt.prune(
            _model(options, data),
            data.data,
            options.sparsity,
            out,
            structure=options.structure,
            target=target,
            epochs=options.epochs,
            learning_rate=options.learning_rate,
            batch_size=None if data.has_batches else options.batch_size,
            monitor=options.monitor,
            patience=options.patience,
            allocation=options.allocation,
            filters=options.filters,
            precision=None if options.no_tflite else options.precision,
            seed=options.seed,
            callbacks=[
                *progress.of_training("pruning", next(iter(target or ()), None)),
                recorder.callback,
            ],
            say=progress.say,
        )
    recorder.write()
    print(f"\n{result}\nFiles:")
    for name, meaning in {**pruner.FILES, recorder.path.name: "options"}.items():
        if (out / name).exists():
            print(f"  {out / name}  {meaning}")


def _checked(options):
    """Returns the folder of the results, before anything is loaded."""
    if options.model is None:
        raise ValueError("Which model? Pass a trained one: MODEL, such as model.keras.")
    if options.data is None:
        raise ValueError(
            "Which data? Pass those that the model was trained on: --data DATA."
        )
    if options.out is None:
        raise ValueError("Where to write the results? Pass --out DIR.")
    _check_model(options.model)
    return pathlib.Path(options.out).expanduser()


def _check_model(spec):
    """Refuses a model that does not exist, before the data are read."""
    from tf_tickets_cli import references

    kinds = "FILE.keras, module:function or file.py:function"
    if spec in choices.NETWORKS:
        raise ValueError(
            f"{spec} is a network without trained weights. Pass a trained one: "
            f"{kinds}. Or search for a ticket of it: tf-tickets search."
        )
    if references.is_reference(spec):
        return
    path = pathlib.Path(spec)
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no file {spec}. MODEL must be a trained model: {kinds}."
        )
    if path.suffix not in (".keras", ".ticket"):
        raise ValueError(
            f"MODEL must be a trained model: {kinds}. Received: {spec}. Save the model "
            "as such a file: model.save('model.keras')."
        )


def _model(options, data):
    """Returns a function that loads the model, with the weights of its file."""
    from tf_tickets_cli import own_model

    return functools.partial(own_model.load, options.model, data)


def _data(options):
    from tf_tickets_cli import own_data

    found = own_data.load(options.data, {**vars(options), "own_model": True})
    sets_batches = own_data.kind_of(options.data) != "function"
    if options.batch_size is None or not found.has_batches or sets_batches:
        return found
    if not own_data.takes_batch_size(options.data):
        raise ValueError(
            f"--batch-size does not apply to --data {options.data}, which makes its "
            "own batches. Give the function a parameter batch_size, or leave the "
            f"option out. Received: --batch-size {options.batch_size}"
        )
    return found


def _effective(options):
    from tf_tickets_cli import own_data, settings_file

    return {
        "data": own_data.absolute(options.data),
        "data_dir": options.data_dir and settings_file.full_path(options.data_dir),
        "model": own_data.absolute(options.model),
        "scaling": own_data.scaling_of(
            options.data, {**vars(options), "own_model": True}
        ),
    }


def _target(text):
    from tf_tickets_cli import settings

    return None if text is None else settings.parse_target(text)
