"""A search with the trainings that judge it, stored in one folder."""

import json
import os
import pathlib
from collections.abc import Callable, Iterable
from typing import Any

import keras

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
_CURVE = "curve.png"
_CHECK_CONTROLS = schema.mapping(schema.mapping(schema.number))
_CHECK_TRAININGS = schema.mapping(
    schema.fields(
        {
            "ticket": schema.text,
            "epochs": schema.count,
            "metrics": schema.mapping(schema.number),
        }
    )
)
_ROW = schema.fields(
    {
        "round": schema.count,
        "sparsity": schema.finite,
        "kept": schema.count,
        "ticket": schema.number,
    },
    {**dict.fromkeys(_CONTROLS, schema.number), "macs": schema.optional(schema.finite)},
    others=True,
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
    monitor = content.get("monitor", "val_accuracy")
    for index, row in enumerate(content["rows"]):
        schema.number(row.get(monitor), f"{name}.rows[{index}].{monitor}")
    rounds = [row["round"] for row in content["rows"]]
    if content["best_round"] not in rounds:
        raise ValueError(
            f"`{name}.best_round` must be one of the rounds {rounds}. Received: "
            f"{content['best_round']}"
        )


class Experiment:
    """Searches a ticket, trains what judges it, writes models, tables and numbers.

    Tickets that the search does not train are trained here, as is the dense network
    where the search trains none. IMP has control experiments too.

    Each step first looks for its result in the folder. So the same experiment on the
    same folder resumes where it was interrupted.

    Args:
        setting: A `Setting`.
        folder: Folder of all results.
        method: A name in `methods.BUILDERS`.
        with_controls: Whether to train the controls of IMP too.
        progress: Where to show the progress; standard output by default.
        callbacks: Further callbacks of all trainings.
        score: As in `methods.build_search`.
        sparsity: As in `methods.build_search`.
    """

    def __init__(
        self,
        setting: Setting,
        folder: os.PathLike | str,
        method: str = "imp",
        with_controls: bool = True,
        progress: Progress | None = None,
        callbacks: Iterable[keras.callbacks.Callback] = (),
        score: float | None = None,
        sparsity: float | None = None,
    ) -> None:
        self.setting = setting
        self.method = method
        self.search = methods.build_search(setting, method, score, sparsity)
        self.folder = pathlib.Path(folder)
        self.with_controls = with_controls and method == "imp"
        self.progress = progress or Progress()
        self.callbacks = list(callbacks)
        self._trainer: tt.TicketTrainer | None = None

    def run(self) -> dict:
        """Runs all that is missing and returns the results as a dict."""
        results_file = self.folder / "results.json"
        complete = results_file.exists()
        if complete:
            results = files.read_json(results_file, _check_results, _REMEDY)
        # It also refuses a folder that holds another search.
        self._search()
        if complete and self._has_settings_of(results):
            self._restore(results)
        else:
            files.remove(self.folder / _CURVE)
            results = self._complete(results_file)
        self._draw(results)
        return results

    def _has_settings_of(self, results):
        """Whether the settings that are not those of the search are the same."""
        tolerance = results.get("options", {}).get("tolerance", self.setting.tolerance)
        has_controls = all(set(_CONTROLS) <= set(row) for row in results["rows"])
        return tolerance == self.setting.tolerance and (
            has_controls or not self.with_controls
        )

    def _restore(self, results):
        """Writes what was deleted from the folder of a complete search."""
        names = [name for name in _BEST if not (self.folder / name).exists()]
        if names:
            self._write_best(self._ticket_of(results["best_round"]))
            self.progress.say(f"Missing files were written again: {', '.join(names)}.")
        else:
            self.progress.say(
                f"This search is complete, nothing was trained. See {self.folder}."
            )

    def _search(self):
        setting = self.setting
        if self.method != "imp":
            methods.check_model({self.method: self.search}, setting)
            methods.teach(
                {self.method: self.search},
                setting,
                self.folder / "teachers",
                lambda title: [*self.progress.of_training(title), *self.callbacks],
            )
        tt.find_tickets(
            setting.build_model,
            setting.data,
            self.search,
            self.folder,
            setting.seed,
            batch_size=setting.fit_batch_size,
            callbacks=[*self.progress.of_rounds(self.search), *self.callbacks],
            verbose=0,
        )

    def _complete(self, results_file):
        dense = self._dense()
        rows = self._rows()
        row, is_within = self.choose(rows, dense)
        best = self._ticket_of(row["round"])
        self._write_best(best)
        results = self._results(rows, dense, best)
        results["within_tolerance"] = is_within
        _write_text(self.folder / "table.txt", f"{table_of(results)}\n")
        # Last, because this file marks the experiment as complete.
        _write_text(results_file, json.dumps(results, indent=1))
        return results

    # The metrics of tickets and of the dense network.

    @property
    def _epochs(self):
        """Epochs of a ticket's training: the search's own, or those of a training."""
        return self._own_epochs or self.setting.recipe.epochs

    @property
    def _own_epochs(self):
        return self.search.engine.plan.epochs_of_tickets

    def _metrics(self, ticket):
        if self._own_epochs:
            return ticket.metrics
        return self._trained(f"round {ticket.provenance['round']}", ticket)

    def _dense(self):
        """Returns the metrics of the dense network."""
        if self._own_epochs and self.setting.reported in self.search.dense:
            return self.search.dense
        ticket = self._of_trainer().dense_ticket()
        return self._trained("dense network", ticket, self.setting.recipe.epochs)

    def _trained(self, title, ticket, epochs=None):
        """Trains a ticket once; its metrics are kept in a file."""
        epochs = epochs or self._epochs
        path = self.folder / "trainings.json"
        known = {}
        if path.exists():
            known = files.read_json(path, _CHECK_TRAININGS, _REMEDY)
        entry = known.get(title, {})
        if (entry.get("ticket"), entry.get("epochs")) != (ticket.id, epochs):
            metrics = self._train(title, ticket, epochs)
            entry = {"ticket": ticket.id, "epochs": epochs, "metrics": metrics}
            _write_text(path, json.dumps({**known, title: entry}, indent=1))
        return entry["metrics"]

    def _rows(self):
        """The metrics of the tickets and of their controls, by round."""
        setting = self.setting
        rows = []
        for ticket in self.search.tickets:
            metrics = self._metrics(ticket)
            rows.append(
                {
                    "round": ticket.provenance["round"],
                    "sparsity": ticket.sparsity,
                    "kept": sum(ticket.kept.values()),
                    "ticket": metrics[setting.reported],
                    setting.monitor: metrics[setting.monitor],
                    **_macs(ticket),
                }
            )
        if self.with_controls:
            measured = self._run_controls()
            rows = [row | measured[str(row["round"])] for row in rows]
        return rows

    def choose(
        self, rows: list[dict[str, Any]], dense: dict[str, float]
    ) -> tuple[dict[str, Any], bool]:
        """Returns the row of the sparsest ticket within tolerance, and True.

        If no ticket is within tolerance of the dense network, it is the row of the best
        ticket, and False.

        Args:
            rows: The rows of the results.
            dense: Metrics of the dense network.
        """
        monitor = tt.Monitor(self.setting.monitor, tolerance=self.setting.tolerance)
        good = [row for row in rows if not monitor.falls_below(row, dense)]
        if good:
            return max(good, key=lambda row: row["sparsity"]), True
        return max(rows, key=monitor.merit), False

    def _ticket_of(self, round_):
        return next(
            ticket
            for ticket in self.search.tickets
            if ticket.provenance["round"] == round_
        )

    # Trainings.

    def _run_controls(self):
        path = self.folder / "controls.json"
        measured = {}
        if path.exists():
            measured = files.read_json(path, _CHECK_CONTROLS, _REMEDY)
        for ticket in self.search.tickets:
            row = measured.setdefault(str(ticket.provenance["round"]), {})
            for name in [name for name in _CONTROLS if name not in row]:
                row[name] = self._train_control(name, ticket)
                _write_text(path, json.dumps(measured, indent=1))
        return measured

    def _train_control(self, name, ticket):
        control = _CONTROLS[name](ticket, seed=self.setting.seed + 1)
        title = f"control {name}, round {ticket.provenance['round']}"
        return self._train(title, control, self._epochs)[self.setting.reported]

    def _train(self, title, ticket, epochs):
        callbacks = [*self.progress.of_training(title), *self.callbacks]
        return self._of_trainer().train(ticket, epochs, callbacks)

    def _of_trainer(self):
        self._trainer = self._trainer or self.setting.trainer()
        return self._trainer

    # What is written.

    def _write_best(self, best):
        """Writes the best ticket, and the plain model trained from it."""
        best.save(self.folder / "best.ticket")
        self._train("model from the best ticket", best, self._epochs)
        plain = tt.strip(self._of_trainer().model)
        self._trainer = None
        with files.replacing(self.folder / "model.keras") as draft:
            plain.save(draft)
        _write_text(self.folder / "model.txt", f"{tt.summary(plain)}\n")

    def _results(self, rows, dense, best) -> dict[str, Any]:
        setting, search = self.setting, self.search
        return {
            "dense": dense[setting.reported],
            f"dense_{setting.monitor}": dense[setting.monitor],
            "rows": rows,
            "best_round": best.provenance["round"],
            "best_sparsity": best.sparsity,
            "method": self.method,
            "metric": setting.reported,
            "monitor": setting.monitor,
            "dataset": setting.own_data.name,
            "model": setting.recipe.name,
            "options": {
                **setting.effective(),
                "rounds": methods.rounds_of(setting, self.method),
            },
            "seed": setting.seed,
            "resume": search.tickets[0].provenance.get("resume"),
            "batch_size": setting.fit_batch_size,
            "settings": search.engine.origin()["settings"],
            "versions": versions(),
            "cores": os.cpu_count(),
        }

    def _draw(self, results):
        """Draws the curve, unless it is there or matplotlib is missing."""
        path = self.folder / _CURVE
        if path.exists():
            return
        title = (
            f"{results['model']} on {results['dataset']}, {self.method.upper()}, seed "
            f"{results['seed']}"
        )
        rows, dense = results["rows"], results["dense"]
        metric = results.get("metric", "test_accuracy")
        try:
            if "accuracy" in metric:
                plots.plot_search(rows, path, dense, title, metric)
            else:
                line = [(1 - row["sparsity"], row["ticket"]) for row in rows]
                lines = {self.method: line}
                plots.plot_frontier(lines, [], path, dense, metric, title)
        except ImportError as error:
            self.progress.say(f"{path} was not drawn. {error}")


def table_of(results: dict[str, Any]) -> str:
    """Returns the table of a search, and what its numbers are.

    Args:
        results: What `Experiment.run` returns.

    Example:

    >>> row = {"round": 1, "sparsity": 0.2, "ticket": 0.97}
    >>> print(table_of({"rows": [row], "dense": 0.96, "metric": "test_accuracy"}))
    round  sparsity  kept weights  ticket   dense  reinit  shuffled
        1    0.2000        80.00%  0.9700  0.9600       -         -
    Ticket, dense network and controls: test accuracy.
    """
    metric = metric_in_words(results.get("metric", "test_accuracy"))
    table = tables.search_table(results["rows"], results["dense"])
    return f"{table}\nTicket, dense network and controls: {metric}."


def metric_in_words(name: str) -> str:
    """Returns the name of a metric as words.

    Example:

    >>> metric_in_words("val_loss")
    'validation loss'
    """
    return name.replace("val_", "validation ").replace("_", " ")


def _macs(ticket):
    """Returns the fraction of multiply-adds that a ticket of channels leaves."""
    left = ticket.provenance.get("remaining")
    return {"macs": left["macs"]} if left else {}


def _write_text(path, text):
    with files.replacing(path) as draft:
        draft.write_text(text)
