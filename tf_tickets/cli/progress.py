"""A progress bar a round, for the command line."""

import keras
from rich import console, progress

from tf_tickets.search.ticket_search import TicketSearch


class Bars:
    """Shows one bar for each round of a search.

    Example:

    >>> with Bars() as bars:
    ...     bars.say("ready")
    ready
    """

    def __init__(self) -> None:
        self.console = console.Console(highlight=False, soft_wrap=True)
        self.progress = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("epochs"),
            progress.TimeElapsedColumn(),
            progress.TextColumn("{task.fields[result]}"),
            console=self.console,
        )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.progress.stop()

    def say(self, line: str) -> None:
        """Shows a line above the bars."""
        self.console.print(line)

    def callbacks(self, search: TicketSearch) -> list[keras.callbacks.Callback]:
        """The callbacks that draw the bars of a search."""
        return [_RoundBars(self.progress, search)]


class _RoundBars(keras.callbacks.Callback):
    """Comes before the search in the callbacks, so it counts for itself."""

    def __init__(self, bars, search):
        super().__init__()
        self.bars = bars
        self.search = search
        self.task = None
        self.round = None

    def on_train_batch_begin(self, batch, logs=None):
        if batch == 0 and self.search.round != self.round:
            self.round = self.search.round
            name = "dense  " if self.round == 0 else f"round {self.round:<2}"
            self.bars.start()
            self.task = self.bars.add_task(
                f"{name} sparsity {self.search.sparsity:6.1%}",
                result="",
                total=self.search.engine.plan.epochs_of(self.round),
            )

    def on_epoch_end(self, epoch, logs=None):
        result = (
            f"val_accuracy {logs['val_accuracy']:.4f}" if "val_accuracy" in logs else ""
        )
        self.bars.update(self.task, advance=1, result=result)
