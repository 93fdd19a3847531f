"""The parser of the command line, its errors and its exit status."""

import argparse
import contextlib
import difflib
import os
import sys
import warnings
from collections.abc import Iterator, Sequence

from tf_tickets_cli import (
    choices,
    compact,
    compare,
    export,
    frontier,
    prune,
    quiet,
    report,
    search,
    settings_file,
    train,
)

_COMMANDS = {
    "search": search,
    "prune": prune,
    "frontier": frontier,
    "train": train,
    "compact": compact,
    "export": export,
    "report": report,
    "compare": compare,
}
_EPILOG = """\
examples:
  tf-tickets search
      find a ticket of LeNet-300-100 on the 8x8 digits that come with scikit-learn
  tf-tickets prune model.keras --data images.npz --out pruned
      prune your trained model, and measure it before and after
  tf-tickets frontier --methods cs imp
      compare learned masks with magnitude pruning
  tf-tickets export tickets/digits-lenet300/model.keras lenet.tflite

Each command explains its options: tf-tickets search --help.
Set the environment variable KERAS_BACKEND to tensorflow (the default) or jax.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        arguments: The words after `tf-tickets`; by default those of this process.

    Returns:
        The exit status: 0, 2 after an error, 130 after Ctrl-C, 141 if the reader of the
        output has ended, such as `head`.
    """
    top, commands = parsers()
    options, unknown = top.parse_known_args(arguments)
    if unknown:
        _refuse_unknown(commands[options.command], unknown)
    command = _COMMANDS[options.command]
    try:
        options = settings_file.applied(top, commands, options, arguments)
        with _warnings_in_one_line():
            _limit_threads(getattr(options, "threads", None))
            quiet.import_library(options.backend_logs, command.LOADS_TENSORFLOW)
            command.run(options)
            sys.stdout.flush()
    except (ValueError, TypeError, OSError, ImportError) as error:
        if isinstance(error, BrokenPipeError) and _has_no_reader(sys.stdout):
            return 141
        if options.traceback:
            raise
        print(f"tf-tickets: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\ntf-tickets: Interrupted.{_advice(command)}", file=sys.stderr)
        return 130
    return 0


def _has_no_reader(stream):
    """Returns whether nobody reads a stream any more; what is left goes nowhere then.

    Otherwise Python would report the same error again when it ends.
    """
    try:
        stream.flush()
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        return True
    return False


def parser() -> argparse.ArgumentParser:
    """Returns the parser of all commands."""
    return parsers()[0]


def parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """Returns the parser of all commands, and a dict of the parser of each."""
    raw = argparse.RawDescriptionHelpFormatter
    top = argparse.ArgumentParser(
        prog="tf-tickets",
        description="Find and use lottery tickets in Keras models.",
        epilog=_EPILOG,
        formatter_class=raw,
    )
    added = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands = {}
    for name, command in _COMMANDS.items():
        one = commands[name] = added.add_parser(
            name,
            help=command.SUMMARY,
            description=command.DESCRIPTION,
            epilog=command.EPILOG,
            formatter_class=raw,
        )
        command.add_arguments(one)
        _add_diagnostics(one)
    return top, commands


def _refuse_unknown(command, words):
    """Ends the process with the usage of the command, and the nearest options."""
    known = [
        option
        for action in command._actions
        if action.help != argparse.SUPPRESS
        for option in action.option_strings
    ]
    names = [word.partition("=")[0] for word in words if word.startswith("-")]
    near = [
        match for name in names for match in difflib.get_close_matches(name, known, 1)
    ]
    advice = f"did you mean {', '.join(near)}?" if near else f"see {command.prog} -h"
    command.error(f"unrecognized arguments: {' '.join(words)}; {advice}")


def _add_diagnostics(command):
    group = command.add_argument_group("diagnostics")
    group.add_argument(
        "--backend-logs",
        action="store_true",
        help="show the log lines of TensorFlow, XLA and JAX",
    )
    group.add_argument(
        "--traceback",
        action="store_true",
        help="show the full traceback of an error",
    )


def _limit_threads(threads):
    """Sets what the backend reads when it starts."""
    if threads is not None:
        os.environ.update({name: str(threads) for name in choices.THREADS})


def _advice(command):
    return " Run the same command again to resume." if command.RESUMES else ""


@contextlib.contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    with warnings.catch_warnings():
        # From libraries, about their own next versions.
        warnings.simplefilter("ignore", FutureWarning)
        warnings.showwarning = _show_warning
        yield


def _show_warning(message, category, filename, lineno, file=None, line=None):
    print(f"tf-tickets: warning: {message}", file=sys.stderr)
