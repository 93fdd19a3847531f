"""`tf-tickets report`: show a ticket or a model by layer."""

import argparse

SUMMARY = "show the sparsity of a ticket or a model by layer"
DESCRIPTION = "Prints a table of the layers of a ticket or a model and their sparsity."
EPILOG = """\
examples:
  tf-tickets report tickets/digits-lenet300/best.ticket
  tf-tickets report tickets/digits-lenet300/model.keras
"""
RESUMES = False
LOADS_TENSORFLOW = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument("file", metavar="FILE", help="a .ticket or a .keras file")


def run(options: argparse.Namespace) -> None:
    """Prints the table."""
    import tf_tickets as tt
    from tf_tickets.reports import tables
    from tf_tickets_cli import loading

    if options.file.endswith(".keras"):
        print(tt.summary(loading.load_model(options.file)))
    else:
        print(tables.ticket_table(tt.Ticket.load(options.file)))
