"""`tf-tickets compare`: show how many weights two tickets share."""

import argparse

SUMMARY = "show how many weights two tickets share"
DESCRIPTION = """\
Prints for each kernel the weights that both tickets keep, as a fraction of the
weights that either of them keeps.
"""
EPILOG = """\
example:
  tf-tickets compare round_01.ticket round_02.ticket
"""
RESUMES = False
LOADS_TENSORFLOW = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument(
        "files", nargs=2, metavar="TICKET", help="a .ticket file, given twice"
    )


def run(options: argparse.Namespace) -> None:
    """Prints the comparison."""
    import tf_tickets as tt

    first, second = (tt.Ticket.load(file) for file in options.files)
    print(f"sparsity {first.sparsity:.4f} and {second.sparsity:.4f}")
    print("kept in both / kept in either:")
    for path, overlap in first.compare(second).items():
        print(f"  {overlap:.4f}  {path}")
