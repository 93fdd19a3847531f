"""`tf-tickets export`: write a model in another format."""

import argparse
import pathlib

from tf_tickets_cli import choices

SUMMARY = "write a model as SavedModel, .tflite, .keras or .onnx"
DESCRIPTION = """\
Writes a model so that its zeros take little space. The file is loaded in a fresh
process and compared with the model; a file that differs is not kept. Prints sizes,
errors and latency.
"""
EPILOG = """\
examples:
  tf-tickets export tickets/digits-lenet300/model.keras lenet.tflite
  tf-tickets export model.keras small.tflite --precision int8 --data images.npz
  tf-tickets export model.keras serving --overwrite
"""
RESUMES = False
LOADS_TENSORFLOW = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument(
        "model", metavar="MODEL", help="a .keras file, plain or wrapped"
    )
    suffixes = ", ".join(suffix for suffix in choices.FORMATS if suffix)
    parser.add_argument(
        "out",
        metavar="OUT",
        help=f"output path; its suffix selects the format ({suffixes}), a path "
        "without suffix is the folder of a SavedModel",
    )
    parser.add_argument(
        "--precision",
        choices=choices.PRECISIONS,
        default="float32",
        help="precision of a .tflite file (default: float32)",
    )
    parser.add_argument(
        "--data",
        metavar="FILE.npz",
        help="compares outputs on x_test, or calibrates int8 on x_train (default: "
        "random inputs, not for int8)",
    )
    parser.add_argument(
        "--ticket", metavar="TICKET", help="the ticket that the model was trained from"
    )
    parser.add_argument(
        "--trainable",
        action="store_true",
        help="keep the model trainable: pruned weights stay zero in training",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an existing file or folder"
    )
    parser.add_argument(
        "--report", metavar="FILE.json", help="write the report to this file too"
    )


def run(options: argparse.Namespace) -> None:
    """Exports the model and prints the report."""
    import tf_tickets as tt
    from tf_tickets.exporting import formats
    from tf_tickets_cli import loading

    formats.choose(pathlib.Path(options.out))
    model = loading.load_model(options.model, compile=False)
    ticket = tt.Ticket.load(options.ticket) if options.ticket else None
    with loading.data_option_named():
        report = tt.export(
            model if ticket is None else ticket,
            options.out,
            model=None if ticket is None else model,
            data=_examples(options.data, options.precision),
            precision=options.precision,
            trainable=options.trainable,
            overwrite=options.overwrite,
        )
    print(report)
    if options.report:
        report.save(options.report)


def _examples(file, precision):
    """Returns some inputs from an .npz file, or None without a file."""
    from tf_tickets_cli import loading

    if file is None:
        return None
    return loading.load_examples(file, "x_train" if precision == "int8" else "x_test")
