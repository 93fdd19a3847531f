"""`tf-tickets compact`: make a pruned model smaller."""

import argparse
import pathlib

SUMMARY = "make a pruned model smaller, with the same predictions"
DESCRIPTION = """\
Removes the channels and neurons that the zeros of a model leave without a use. The
result is an ordinary Keras model with the same predictions, which is checked on a few
examples. Prints the widths, parameters and multiply-adds before and after.
"""
EPILOG = """\
examples:
  tf-tickets compact tickets/digits-lenet300/model.keras small.keras
  tf-tickets compact model.keras small.keras --report small.json
"""
RESUMES = False
LOADS_TENSORFLOW = False

_SUFFIX = ".keras"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument(
        "model", metavar="MODEL", help="a .keras file, plain or wrapped"
    )
    parser.add_argument("out", metavar="OUT", help="the .keras file to write")
    parser.add_argument(
        "--data",
        metavar="FILE.npz",
        help="compares the models on x_test (default: on random inputs)",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an existing file"
    )
    parser.add_argument(
        "--report",
        metavar="FILE.json",
        help="write the report to this file too (default: none)",
    )


def run(options: argparse.Namespace) -> None:
    """Writes the smaller model and prints the report."""
    import tf_tickets as tt
    from tf_tickets import files
    from tf_tickets_cli import loading

    out = _checked(options.out, options.overwrite)
    model = loading.load_model(options.model, compile=False)
    data = loading.load_examples(options.data, "x_test") if options.data else None
    with loading.data_option_named():
        small, report = tt.compact(model, return_report=True, data=data)
    print(report)
    if options.report:
        report.to_json(options.report)
    if not report.removed:
        raise ValueError(f"{out} was not written. {report.why_nothing()}")
    with files.replacing(out) as draft:
        small.save(draft)


def _checked(path, overwrite):
    """Returns the path to write, before anything is loaded."""
    out = pathlib.Path(path)
    if out.suffix != _SUFFIX:
        raise ValueError(
            f"OUT must be a .keras file. Received: {path}. Other formats are written "
            "from it by tf-tickets export."
        )
    if out.exists() and not overwrite:
        raise FileExistsError(
            f"{path} exists already. Pass --overwrite to replace it, or another path."
        )
    return out
