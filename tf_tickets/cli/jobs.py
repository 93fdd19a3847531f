"""What the command line does, step by step, with everything kept in one folder."""

import json
import os
import pathlib
from collections.abc import Callable, Iterable

import keras
import numpy as np

from tf_tickets import files, wrapping
from tf_tickets.cli import search_by_name
from tf_tickets.cli.settings import Setting
from tf_tickets.environment import versions
from tf_tickets.reports import plots, summary, tables
from tf_tickets.search import runner
from tf_tickets.search.frontier import Frontier, find_frontier
from tf_tickets.search.methods.imp import IMP
from tf_tickets.tickets import controls
from tf_tickets.tickets.ticket import Ticket

_CONTROLS: dict[str, Callable[..., Ticket]] = {
    "reinit": controls.reinit,
    "shuffled": controls.shuffle_masks,
}


class SearchJob:
    """A search by IMP with its controls, from a data set to a folder of results.

    Every step looks first whether its result is there already, so that running
    the job again goes on where it was interrupted.

    Args:
        setting: A `Setting`.
        out: The folder.
        run_controls: Whether to train the controls too.
        say: Function that shows a line.
        bars: Function of a search that gives callbacks which show its progress.
    """

    def __init__(
        self,
        setting: Setting,
        out: os.PathLike | str,
        run_controls: bool = True,
        say: Callable[[str], object] = print,
        bars: Callable[[IMP], list[keras.callbacks.Callback]] | None = None,
    ) -> None:
        self.setting = setting
        self.search = setting.search()
        self.out = pathlib.Path(out)
        self.run_controls = run_controls
        self.say = say
        self.bars = bars or (lambda search: [])

    def run(self) -> dict:
        """Searches, runs the controls, writes the results; gives them as a dict."""
        found = self._path("results.json")
        already = found.exists()
        runner.find_tickets(
            self.setting.build_model,
            self.setting.data,
            self.search,
            self.out,
            self.setting.seed,
            batch_size=self.setting.batch_size,
            callbacks=self.bars(self.search),
            verbose=0,
        )
        if already:
            self.say(
                f"This search is complete; nothing was trained. It is in {self.out}."
            )
            return json.loads(found.read_text())
        rows = self._rows()
        self._write_best()
        return self._write_results(rows)

    def _path(self, name):
        return self.out / name

    def _rows(self):
        """Test accuracies of the tickets and of their controls, by round."""
        rows = [
            {
                "round": ticket.provenance["round"],
                "sparsity": ticket.sparsity,
                "kept": sum(ticket.kept.values()),
                "ticket": ticket.metrics["test_accuracy"],
                "val_accuracy": ticket.metrics["val_accuracy"],
            }
            for ticket in self.search.tickets
        ]
        if self.run_controls:
            measured = self._run_controls()
            rows = [row | measured[str(row["round"])] for row in rows]
        return rows

    def _run_controls(self):
        path = self._path("controls.json")
        measured = json.loads(path.read_text()) if path.exists() else {}
        trainer = None
        for ticket in self.search.tickets:
            row = measured.setdefault(str(ticket.provenance["round"]), {})
            for name in [name for name in _CONTROLS if name not in row]:
                trainer = trainer or self.setting.trainer()
                row[name] = self._train_control(trainer, name, ticket)
                _write_text(path, json.dumps(measured, indent=1))
        return measured

    def _train_control(self, trainer, name, ticket):
        control = _CONTROLS[name](ticket, seed=self.setting.seed + 1)
        epochs = self.search.epochs_of_tickets
        accuracy = trainer.train(control, epochs)["test_accuracy"]
        self.say(
            f"control {name}, round {ticket.provenance['round']}, sparsity "
            f"{ticket.sparsity:.1%}: test accuracy {accuracy:.2%}"
        )
        return accuracy

    def _write_best(self):
        """The best ticket, and the plain model trained from it."""
        best = self.search.best
        best.save(self._path("best.ticket"))
        trainer = self.setting.trainer()
        trainer.train(best, self.search.epochs_of_tickets)
        plain = wrapping.strip(trainer.model)
        with files.replacing(self._path("model.keras")) as draft:
            plain.save(draft)
        _write_text(self._path("model.txt"), f"{summary.summary(plain)}\n")

    def _write_results(self, rows):
        dense = self.search.dense["test_accuracy"]
        best = self.search.best
        setting = self.setting
        results = {
            "dense": dense,
            "dense_val_accuracy": self.search.dense["val_accuracy"],
            "rows": rows,
            "best_round": best.provenance["round"],
            "best_sparsity": best.sparsity,
            "dataset": setting.data.name,
            "model": setting.recipe.name,
            "options": setting.options,
            "seed": setting.seed,
            "batch_size": setting.batch_size,
            "settings": self.search.get_config(),
            "versions": versions(),
            "cores": os.cpu_count(),
        }
        title = (
            f"{setting.recipe.name} on {setting.data.name}, IMP, seed {setting.seed}"
        )
        plots.plot_search(rows, self._path("curve.png"), dense=dense, title=title)
        _write_text(self._path("table.txt"), f"{tables.search_table(rows, dense)}\n")
        # Last, for it is what says that the job is done.
        _write_text(self._path("results.json"), json.dumps(results, indent=1))
        return results


def compare_searches(
    setting: Setting,
    out: os.PathLike | str,
    names: Iterable[str] = ("cs", "imp"),
    scores: Iterable[float] = (-0.2, -0.1, 0.0),
    sparsities: Iterable[float] = (0.8, 0.9, 0.95),
) -> Frontier:
    """Runs searches of several methods, trains their tickets, draws the frontier.

    Args:
        setting: A `Setting`. Its rounds are those of the searches; "cs" has a third
            of them. Its rate decides how sparse "imp", "dlth", "unilth" and "unidlth"
            become.
        out: The folder; the same one again goes on where it stopped.
        names: The methods, of `tf_tickets.methods.NAMES`.
        scores: The initial scores of "cs", each a search of its own.
        sparsities: Those of "kdlts", "snip", "grasp" and "synflow", likewise.
    """
    found = search_by_name.searches(setting, names, scores, sparsities)
    _check_first(setting, found)
    search_by_name.teach(found, setting, pathlib.Path(out) / "teachers")
    epochs, batch = setting.recipe.epochs, setting.batch_size
    build, data, seed = setting.build_model, setting.data, setting.seed
    return find_frontier(build, data, found, out, seed, epochs=epochs, batch_size=batch)


def _check_first(setting, searches):
    """Refuses what a search cannot do before another one has trained for hours."""
    steps = len(setting.data.x_train) // setting.batch_size
    for label, search in searches.items():
        search.set_model(search.wrap(setting.build_model(), verbose=False))
        search.set_params({"steps": steps, "epochs": search.epochs})
        try:
            search.check_model()
        except ValueError as error:
            raise ValueError(f"Method {label!r}: {error}") from None


def train(
    ticket_file: os.PathLike | str, setting: Setting, out: os.PathLike | str
) -> dict[str, float]:
    """Trains a ticket from its file, writes the plain model, gives the metrics.

    Args:
        ticket_file: The ticket.
        setting: A `Setting`.
        out: The `.keras` file to write, not there yet.
    """
    out = pathlib.Path(out)
    if out.exists() or out.suffix != ".keras":
        raise ValueError(
            f"`out` must be a .keras file that does not exist yet. Received: {out}"
        )
    trainer = setting.trainer()
    ticket = Ticket.load(ticket_file)
    metrics = trainer.train(ticket, setting.recipe.epochs, verbose="auto")
    with files.replacing(out) as draft:
        wrapping.strip(trainer.model).save(draft)
    return metrics


def examples(file: os.PathLike | str | None, precision: str) -> np.ndarray | None:
    """The inputs that an export is compared on, out of an `.npz`.

    Args:
        file: The file, or None.
        precision: "int8" takes `x_train`, whose ranges are learned; others `x_test`.
    """
    if file is None:
        return None
    wanted = "x_train" if precision == "int8" else "x_test"
    with np.load(file) as kept:
        if wanted not in kept:
            raise ValueError(f"{file} has no {wanted}. Found: {sorted(kept)}")
        return kept[wanted][:_EXAMPLES]


# Of which an export learns and on which it compares.
_EXAMPLES = 500


def _write_text(path, text):
    with files.replacing(path) as draft:
        draft.write_text(text)
