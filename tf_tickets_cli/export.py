"""`tf-tickets export`: write a model in another format."""

import argparse
import pathlib

from tf_tickets_cli import arguments, choices

SUMMARY = "write a model as SavedModel, .tflite, .keras, .onnx or C array"
DESCRIPTION = """\
Writes a model so that its zeros take little space. The file is loaded in a fresh
process and compared with the model; a file that differs is not kept. Prints sizes,
errors and latency.
"""
EPILOG = """\
examples:
  tf-tickets export tickets/digits-lenet300/model.keras lenet.tflite
  tf-tickets export model.keras small.tflite --precision int8 --data images.npz
  tf-tickets export model.keras small.tflite --precision int8 --data photos/
  tf-tickets export model.keras serving --overwrite
  tf-tickets export model.keras model.cc --data images.npz --max-ram 100000
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
        "--format",
        choices=sorted(choices.FORMATS.values()),
        help="format, where the suffix of OUT does not select it, such as that of a "
        f".tflite file for microcontrollers, {choices.MICRO} (default: by the suffix)",
    )
    parser.add_argument(
        "--precision",
        choices=choices.PRECISIONS,
        help=f"precision of a .tflite file (default: float32, or int8 for "
        f"{choices.MICRO})",
    )
    parser.add_argument(
        "--ticket",
        metavar="TICKET",
        help="the ticket that the model was trained from (default: none)",
    )
    parser.add_argument(
        "--trainable",
        action="store_true",
        help="keep the model trainable: pruned weights stay zero in training",
    )
    _add_micro_arguments(parser)
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an existing file or folder"
    )
    parser.add_argument(
        "--report",
        metavar="FILE.json",
        help="write the report to this file too (default: none)",
    )
    group = parser.add_argument_group(
        "data",
        "Outputs are compared on the test data, and int8 and int16x8 are calibrated on "
        "the training data. Without data, outputs are compared on random inputs. Scale "
        "the data as in training. FILE.npz needs x_test or x_train only.",
    )
    arguments.add_data_source(group, default=None)


def _add_micro_arguments(parser):
    group = parser.add_argument_group(f"format {choices.MICRO}")
    group.add_argument(
        "--max-ram",
        type=int,
        metavar="BYTES",
        help="keep kernels dense whose decoded form does not fit into this arena "
        "(default: no limit)",
    )
    group.add_argument(
        "--drop-names",
        action="store_true",
        help="drop names and metadata, which a microcontroller does not read",
    )
    group.add_argument(
        "--per-tensor-dense",
        action="store_true",
        help="one scale for the kernel of a fully connected layer: smaller, less "
        "accurate",
    )


def run(options: argparse.Namespace) -> None:
    """Exports the model and prints the report."""
    import tf_tickets as tt
    from tf_tickets.exporting import formats
    from tf_tickets_cli import loading

    format = formats.choose(pathlib.Path(options.out), options.format)
    model = loading.load_model(options.model, compile=False)
    ticket = tt.Ticket.load(options.ticket) if options.ticket else None
    calibrated = options.precision in choices.CALIBRATED
    if options.precision is None:
        calibrated = format == choices.MICRO
    with loading.data_option_named():
        report = tt.export(
            model if ticket is None else ticket,
            options.out,
            format,
            model=None if ticket is None else model,
            data=_examples(options, calibrated),
            precision=options.precision,
            trainable=options.trainable,
            overwrite=options.overwrite,
            micro=_micro_options(tt, options),
        )
    print(report)
    if options.report:
        report.save(options.report)


def _micro_options(tt, options):
    """Returns the options of the format for microcontrollers, or None without any."""
    given = {
        "max_ram": options.max_ram,
        "names": not options.drop_names,
        "per_tensor_dense": options.per_tensor_dense,
    }
    found = tt.MicroOptions(**given)
    return None if found == tt.MicroOptions() else found


def _examples(options, calibrated):
    """Returns some inputs, or None without data."""
    from tf_tickets_cli import loading, own_data

    part = "train" if calibrated else "test"
    if options.data is None:
        return None
    kind = own_data.kind_of(options.data)
    if kind == "npz" and options.scaling is None:
        return loading.load_examples(options.data, f"x_{part}")
    given = {**vars(options), "own_model": True}
    if kind == "folder":
        # A batch of one image drops none.
        given["batch_size"] = 1
    return own_data.load(options.data, given).examples(part, loading.EXAMPLES)
