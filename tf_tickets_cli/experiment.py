"""An IMP search with control experiments, stored in one folder."""

import json
import os
import pathlib
from collections.abc import Callable

import tf_tickets as tt
from tf_tickets import files, schema
from tf_tickets.environment import versions
from tf_tickets.reports import plots, tables
from tf_tickets_cli import methods
from tf_tickets_cli.progress import Progress
from tf_tickets_cli.settings import Setting

_CONTROLS: dict[str, Callable[..., tt.Ticket]] = {
    "reinit": tt.controls.reinit,
    "shuffled": tt.controls.shuffle_masks,
}
# The files of the best ticket.
_BEST = ("best.ticket", "model.keras", "model.txt")
_CHECK_CONTROLS = schema.mapping(schema.mapping(schema.number))
_ROW = schema.fields(
    {
        "round": schema.count,
        "sparsity": schema.finite,
        "kept": schema.count,
        "ticket": schema.number,
        "val_accuracy": schema.number,
    },
    {**dict.fromkeys(_CONTROLS, schema.number), "macs": schema.optional(schema.finite)},
)
_CHECK_RESULTS = schema.fields(
    {
        "dense": schema.number,
        "rows": schema.items(_ROW),
        "best_round": schema.count,
        "dataset": schema.text,
        "model": schema.text,
        "seed": schema.count,
    },
    others=True,
)
_REMEDY = "Delete it and run the same command again: what it lacks is then repeated."


def _check_results(content, name):
    _CHECK_RESULTS(content, name)
    rounds = [row["round"] for row in content["rows"]]
    if content["best_round"] not in rounds:
        raise ValueError(
            f"`{name}.best_round` must be one of the rounds {rounds}. Received: "
            f"{content['best_round']}"
        )


class ImpExperiment:
    """Searches a ticket, trains the controls, writes models, tables and numbers.

    Each step first looks for its result in the folder. So the same experiment on the
    same folder resumes where it was interrupted.

    Args:
        setting: A `Setting`.
        folder: Folder of all results.
        with_controls: Whether to train the controls too.
        progress: Where to show the progress; standard output by default.
    """

    def __init__(
        self,
        setting: Setting,
        folder: os.PathLike | str,
        with_controls: bool = True,
        progress: Progress | None = None,
    ) -> None:
        self.setting = setting
        self.search = methods.imp(setting)
        self.folder = pathlib.Path(folder)
        self.with_controls = with_controls
        self.progress = progress or Progress()

    def run(self) -> dict:
        """Runs all that is missing and returns the results as a dict."""
        results_file = self.folder / "results.json"
        complete = results_file.exists()
        if complete:
            results = files.read_json(results_file, _check_results, _REMEDY)
        # It also refuses a folder that holds another search.
        self._search()
        if complete:
            self._restore()
        else:
            results = self._complete(results_file)
        self._draw(results)
        return results

    def _restore(self):
        """Writes what was deleted from the folder of a complete search."""
        names = [name for name in _BEST if not (self.folder / name).exists()]
        if names:
            self._write_best()
            self.progress.say(f"Missing files were written again: {', '.join(names)}.")
        else:
            self.progress.say(
                f"This search is complete, nothing was trained. See {self.folder}."
            )

    def _search(self):
        tt.find_tickets(
            self.setting.build_model,
            self.setting.data,
            self.search,
            self.folder,
            self.setting.seed,
            batch_size=self.setting.batch_size,
            callbacks=self.progress.of_rounds(self.search),
            verbose=0,
        )

    def _complete(self, results_file):
        rows = self._rows()
        self._write_best()
        results = self._results(rows)
        table = tables.search_table(rows, results["dense"])
        _write_text(self.folder / "table.txt", f"{table}\n")
        # Last, because this file marks the experiment as complete.
        _write_text(results_file, json.dumps(results, indent=1))
        return results

    def _rows(self):
        """Test accuracies of the tickets and of their controls, by round."""
        rows = [
            {
                "round": ticket.provenance["round"],
                "sparsity": ticket.sparsity,
                "kept": sum(ticket.kept.values()),
                "ticket": ticket.metrics["test_accuracy"],
                "val_accuracy": ticket.metrics["val_accuracy"],
                **_macs(ticket),
            }
            for ticket in self.search.tickets
        ]
        if self.with_controls:
            measured = self._run_controls()
            rows = [row | measured[str(row["round"])] for row in rows]
        return rows

    def _run_controls(self):
        path = self.folder / "controls.json"
        measured = {}
        if path.exists():
            measured = files.read_json(path, _CHECK_CONTROLS, _REMEDY)
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
        title = f"control {name}, round {ticket.provenance['round']}"
        return self._train(trainer, control, title)["test_accuracy"]

    def _train(self, trainer, ticket, title):
        epochs = self.search.engine.plan.epochs_of_tickets
        return trainer.train(ticket, epochs, self.progress.of_training(title))

    def _write_best(self):
        """Writes the best ticket, and the plain model trained from it."""
        best = self.search.best
        best.save(self.folder / "best.ticket")
        trainer = self.setting.trainer()
        self._train(trainer, best, "model from the best ticket")
        plain = tt.strip(trainer.model)
        with files.replacing(self.folder / "model.keras") as draft:
            plain.save(draft)
        _write_text(self.folder / "model.txt", f"{tt.summary(plain)}\n")

    def _results(self, rows):
        setting, search = self.setting, self.search
        return {
            "dense": search.dense["test_accuracy"],
            "dense_val_accuracy": search.dense["val_accuracy"],
            "rows": rows,
            "best_round": search.best.provenance["round"],
            "best_sparsity": search.best.sparsity,
            "dataset": setting.data.name,
            "model": setting.recipe.name,
            "options": setting.options,
            "seed": setting.seed,
            "batch_size": setting.batch_size,
            "settings": search.get_config(),
            "versions": versions(),
            "cores": os.cpu_count(),
        }

    def _draw(self, results):
        """Draws the curve, unless it is there or matplotlib is missing."""
        path = self.folder / "curve.png"
        if path.exists():
            return
        title = (
            f"{results['model']} on {results['dataset']}, IMP, seed {results['seed']}"
        )
        try:
            plots.plot_search(results["rows"], path, results["dense"], title)
        except ImportError as error:
            self.progress.say(f"{path} was not drawn. {error}")


def _macs(ticket):
    """Returns the fraction of multiply-adds that a ticket of channels leaves."""
    left = ticket.provenance.get("remaining")
    return {"macs": left["macs"]} if left else {}


def _write_text(path, text):
    with files.replacing(path) as draft:
        draft.write_text(text)
