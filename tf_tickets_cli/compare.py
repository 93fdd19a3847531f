"""`tf-tickets compare`: show how many weights two tickets share, beside chance."""

import argparse

SUMMARY = "show how many weights two tickets share, beside chance"
DESCRIPTION = """\
Prints for each kernel how many weights both tickets keep, and how many two random
masks that keep as many would share. The overlap is the number of weights kept in both,
divided by the number kept in either. z is the distance from chance in standard
deviations. If both tickets have the same structure, its units are counted.
"""
EPILOG = """\
examples:
  tf-tickets compare round_01.ticket round_02.ticket
  tf-tickets compare digits.ticket mnist1d.ticket --partial --json overlap.json
"""
RESUMES = False
LOADS_TENSORFLOW = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument(
        "files", nargs=2, metavar="TICKET", help="a .ticket file, given twice"
    )
    parser.add_argument(
        "--partial",
        action="store_true",
        help="compare the kernels that both tickets have, and name the others "
        "(default: both must have the same kernels)",
    )
    parser.add_argument(
        "--json",
        metavar="FILE",
        help="also write the numbers to a JSON file (default: none)",
    )


def run(options: argparse.Namespace) -> None:
    """Prints the comparison."""
    import tf_tickets as tt

    first, second = (tt.Ticket.load(file) for file in options.files)
    report = first.overlap(second, strict=not options.partial)
    print(f"first:  {first}")
    print(f"second: {second}")
    print()
    print(report)
    if options.json is not None:
        report.to_json(options.json)
