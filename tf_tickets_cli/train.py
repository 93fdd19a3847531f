"""`tf-tickets train`: train a ticket and write the plain model."""

import argparse
import os
import pathlib

from tf_tickets_cli import arguments
from tf_tickets_cli.settings_file import NAME

SUMMARY = "train a ticket and write the plain model"
DESCRIPTION = "Trains the network from a ticket and writes the stripped Keras model."
EPILOG = """\
examples:
  tf-tickets train tickets/digits-lenet300/round_05.ticket --out trained.keras
  tf-tickets train best.ticket --data photos/ --model my_model.py:build --out a.keras
"""
RESUMES = False
LOADS_TENSORFLOW = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument("ticket", nargs="?", metavar="TICKET", help="a .ticket file")
    arguments.add_data(parser)
    group = parser.add_argument_group("training")
    arguments.add_training(group, epochs="number of epochs")
    group.add_argument(
        "--out",
        metavar="FILE.keras",
        help="output path, required; must not exist yet (default: none)",
    )
    arguments.add_settings(parser)


def run(options: argparse.Namespace) -> None:
    """Trains the ticket and writes the model."""
    import tf_tickets as tt
    from tf_tickets import files
    from tf_tickets_cli.progress import Progress
    from tf_tickets_cli.recording import Recorder
    from tf_tickets_cli.settings import Setting

    out = _checked(options)
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
    effective = {**setting.effective(), "ticket": os.path.abspath(options.ticket)}
    recorder = Recorder(out.parent, options, effective, f"{out.stem}.{NAME}")
    recorder.write()
    for name, value in metrics.items():
        print(f"{name:>16}  {value:.4f}")
    print(f"Stripped model: {out}")
    print(f"Settings: {recorder.path}")


def _checked(options):
    """Returns the path to write, before anything is loaded."""
    if options.ticket is None:
        raise ValueError("Which ticket? Pass the path of a .ticket file: TICKET.")
    if options.out is None:
        raise ValueError("Where to write the model? Pass --out FILE.keras.")
    out = pathlib.Path(options.out).expanduser()
    if out.suffix != ".keras":
        raise ValueError(f"--out must end in .keras. Received: {out}")
    if out.exists():
        raise ValueError(f"{out} exists already. Choose another path for --out.")
    return out
