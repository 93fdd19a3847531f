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
  tf-tickets compare a.ticket b.ticket --rename conv1=stem dense=head
"""
# How many kernels a message names.
_SHOWN = 5
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
        "--rename",
        nargs="+",
        metavar="FIRST=SECOND",
        help="kernels with other names: the path in the first ticket, or the beginning "
        "of several, and that in the second (default: none)",
    )
    parser.add_argument(
        "--json",
        metavar="FILE",
        help="also write the numbers to a JSON file (default: none)",
    )


def run(options: argparse.Namespace) -> None:
    """Prints the comparison."""
    import tf_tickets as tt

    rename = _renames(options.rename)
    first, second = (tt.Ticket.load(file) for file in options.files)
    try:
        report = first.overlap(second, strict=not options.partial, rename=rename)
    except ValueError as error:
        raise ValueError(_explained(str(error), options, first, second)) from error
    print(f"first:  {first}")
    print(f"second: {second}")
    print()
    print(report)
    if _same(first.masks, second.masks):
        weights = "the same" if _same(first.weights, second.weights) else "other"
        print(f"The masks are identical, with {weights} start weights.")
    if options.json is not None:
        report.to_json(options.json)


def _renames(texts):
    """Returns the dict that `Ticket.overlap` takes, or None."""
    rename = {}
    for text in texts or ():
        first, equals, second = text.partition("=")
        if not (first and equals and second):
            raise ValueError(
                "--rename must be FIRST=SECOND, the names in both tickets, such as "
                f"conv1=stem. Received: {text!r}"
            )
        rename[first] = second
    return rename or None


def _same(first, second):
    """Returns whether two dicts of arrays are equal."""
    import numpy as np

    return set(first) == set(second) and all(
        np.array_equal(array, second[path]) for path, array in first.items()
    )


def _explained(text, options, first, second):
    """Returns what is wrong in terms of the options."""
    shapes = [
        {path: mask.shape for path, mask in ticket.masks.items()}
        for ticket in (first, second)
    ]
    if options.partial or options.rename or shapes[0] == shapes[1]:
        text = text.replace(
            "pass rename={'path in the first': 'path in the second'}",
            "pass --rename FIRST=SECOND",
        )
        return text.replace("`rename`", "--rename")
    rows = []
    for index, file in enumerate(options.files):
        only = [path for path in shapes[index] if path not in shapes[1 - index]]
        if only:
            more = ", ..." * (len(only) > _SHOWN)
            rows.append(f"only in {file}: {', '.join(only[:_SHOWN])}{more}")
    rows += [
        f"{path}: shapes {shape} and {shapes[1][path]}"
        for path, shape in shapes[0].items()
        if path in shapes[1] and shape != shapes[1][path]
    ][:_SHOWN]
    return (
        f"The tickets have different kernels: {'; '.join(rows)}. Pass --partial to "
        "compare those that both have, or --rename FIRST=SECOND if only names differ."
    )
