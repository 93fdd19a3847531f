"""`tf-tickets train`: train a ticket and write the plain model."""

import argparse
import pathlib

from tf_tickets_cli import arguments

SUMMARY = "train a ticket and write the plain model"
DESCRIPTION = "Trains the network from a ticket and writes the stripped Keras model."
EPILOG = """\
example:
  tf-tickets train tickets/digits-lenet300/round_05.ticket --out trained.keras
"""
RESUMES = False
LOADS_TENSORFLOW = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument("ticket", metavar="TICKET", help="a .ticket file")
    arguments.add_data(parser)
    group = parser.add_argument_group("training")
    arguments.add_training(group, epochs="number of epochs")
    group.add_argument(
        "--out",
        required=True,
        metavar="FILE.keras",
        help="output path; must not exist yet",
    )


def run(options: argparse.Namespace) -> None:
    """Trains the ticket and writes the model."""
    import tf_tickets as tt
    from tf_tickets import files
    from tf_tickets_cli.progress import Progress
    from tf_tickets_cli.settings import Setting

    out = pathlib.Path(options.out)
    _check(out)
    ticket = tt.Ticket.load(options.ticket)
    setting = Setting.from_options(options)
    trainer = setting.trainer()
    with Progress() as progress:
        progress.say(setting.summary())
        metrics = trainer.train(
            ticket, setting.recipe.epochs, progress.of_training("ticket")
        )
    with files.replacing(out) as draft:
        tt.strip(trainer.model).save(draft)
    for name, value in metrics.items():
        print(f"{name:>16}  {value:.4f}")
    print(f"Stripped model: {out}")


def _check(out):
    if out.suffix != ".keras":
        raise ValueError(f"--out must end in .keras. Received: {out}")
    if out.exists():
        raise ValueError(f"{out} exists already. Choose another path for --out.")
