"""What the command line does, step by step, with everything kept in one folder."""

import json
import math
import os
import pathlib
from collections.abc import Callable, Iterable

import keras

from tf_tickets import (
    controls,
    curves,
    datasets,
    files,
    recipes,
    report,
    tables,
    tickets,
    wrapping,
)
from tf_tickets.search import finding, training
from tf_tickets.search.cs import ContinuousSparsification
from tf_tickets.search.dlth import DLTH
from tf_tickets.search.frontier import Frontier, find_frontier
from tf_tickets.search.imp import IMP
from tf_tickets.search.iss import StochasticSparsification
from tf_tickets.search.rounds import RoundSearch
from tf_tickets.search.threshold import ThresholdPruning
from tf_tickets.search.unilth import UniDLTH, UniLTH
from tf_tickets.version import versions

# Not a paper's: small enough to be done in two minutes on two cores.
_DIGITS = {"rounds": 12, "epochs": 15, "batch_size": 32}
_OPTIONS = (
    "epochs",
    "batch_size",
    "width",
    "take",
    "scaling",
    "rounds",
    "rate",
    "rewind_to",
    "tolerance",
)
_CONTROLS: dict[str, Callable[..., tickets.Ticket]] = {
    "reinit": controls.reinit,
    "shuffled": controls.shuffle_masks,
}


class Setting:
    """Data, network and recipe: what the network is and what it is trained on.

    Args:
        dataset: "digits", "mnist", "cifar10" or a path to an `.npz`.
        model: A name of `tf_tickets.recipes.RECIPES`.
        data_dir: Where prepared data lie.
        seed: Seed of everything.
        options: Dict of `epochs`, `batch_size`, `width`, `take`, `scaling`, and for
            a search `rounds`, `rate`, `rewind_to`, `tolerance`; where left out or
            None, the recipe's.
    """

    def __init__(
        self,
        dataset: os.PathLike | str,
        model: str,
        data_dir: os.PathLike | str | None = None,
        seed: int = 0,
        options: dict | None = None,
    ) -> None:
        given = options or {}
        options = {k: given[k] for k in _OPTIONS if given.get(k) is not None}
        if dataset == "digits":
            options = {**_DIGITS, **options}
        scaling = options.get("scaling", "standard")
        self.data = datasets.load(dataset, data_dir, scaling=scaling)
        if "take" in options:
            self.data = self.data.take(options["take"])
        self.recipe = recipes.recipe(model)
        if "epochs" in options:
            self.recipe = self.recipe.with_epochs(options["epochs"])
        self.seed = seed
        self.options = options
        self.batch_size = options.get("batch_size", self.recipe.batch_size)
        self.width = options.get("width", 1.0)
        self.rewind_to = options.get("rewind_to", self.recipe.rewind_to)
        self.rounds = options.get("rounds", 12)
        self.rate = options.get("rate", self.recipe.rate)

    def build_model(self) -> keras.Model:
        """A compiled model by the recipe."""
        return recipes.build(
            self.recipe.name,
            self.data.input_shape,
            self.data.num_classes,
            steps_per_epoch=len(self.data.x_train) // self.batch_size,
            epochs=self.recipe.epochs,
            width=self.width,
            steps_per_execution=_steps_per_execution(self.rewind_to),
        )

    def search(self) -> IMP:
        """The search by the recipe."""
        return IMP(
            rounds=self.rounds,
            epochs_per_round=self.recipe.epochs,
            rate=self.rate,
            rewind_to=self.rewind_to,
            allocation=self.recipe.allocation or "uniform",
            tolerance=self.options.get("tolerance", 0.01),
            seed=self.seed,
        )

    def trainer(self) -> training.TicketTrainer:
        """Trains tickets as the search does."""
        return training.TicketTrainer(
            self.build_model, self.data, self.seed, self.batch_size
        )


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
        finding.find_ticket(
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
        _write_text(self._path("model.txt"), f"{report.summary(plain)}\n")

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
        curves.plot_search(rows, self._path("curve.png"), dense=dense, title=title)
        _write_text(self._path("table.txt"), f"{tables.search_table(rows, dense)}\n")
        # Last, for it is what says that the job is done.
        _write_text(self._path("results.json"), json.dumps(results, indent=1))
        return results


def compare_searches(
    setting: Setting,
    out: os.PathLike | str,
    methods: Iterable[str] = ("cs", "imp"),
    scores: Iterable[float] = (-0.2, -0.1, 0.0),
) -> Frontier:
    """Runs searches of several methods, trains their tickets, draws the frontier.

    Args:
        setting: A `Setting`. Its rounds are those of the searches; "cs" has a third
            of them. Its rate decides how sparse "imp", "dlth", "unilth" and "unidlth"
            become.
        out: The folder; the same one again goes on where it stopped.
        methods: Of "cs", "iss", "imp", "dlth", "unilth", "unidlth" and "threshold".
        scores: The initial scores of "cs", each a search of its own.
    """
    found: dict[str, RoundSearch] = {}
    for method in methods:
        if method == "cs":
            varied = _cs(setting).varied(initial_score=scores).items()
            found |= {f"cs {label}": search for label, search in varied}
        elif method in _SEARCHES:
            found[method] = _SEARCHES[method](setting)
        else:
            known = ["cs", *_SEARCHES]
            raise ValueError(f"Unknown method. Received: {method!r}. Known: {known}.")
    _check_first(setting, found)
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


def _cs(setting):
    rounds = max(1, setting.rounds // 3)
    return ContinuousSparsification(rounds, **_rewound(setting))


def _iss(setting):
    return StochasticSparsification(setting.rounds, **_rewound(setting))


def _threshold(setting):
    return ThresholdPruning(setting.rounds, setting.recipe.epochs)


def _rewound(setting):
    return {
        "epochs_per_round": setting.recipe.epochs,
        "rewind_to": setting.rewind_to,
        "seed": setting.seed,
    }


def _dlth(setting):
    return DLTH(**_growing(setting))


def _unilth(setting):
    return UniLTH(**_two_stages(setting), rewind_to=setting.rewind_to)


def _unidlth(setting):
    return UniDLTH(**_two_stages(setting))


def _two_stages(setting):
    return {**_growing(setting), "stage_one_epochs": setting.recipe.epochs}


def _growing(setting):
    """To where IMP comes; the tickets are not trained by the search."""
    return {
        "final_sparsity": _final_sparsity(setting),
        "rounds": setting.rounds,
        "penalty_epochs": setting.recipe.epochs,
        "epochs_per_round": setting.recipe.epochs,
        "allocation": setting.recipe.allocation or "uniform",
        "train": "none",
        "seed": setting.seed,
    }


def _final_sparsity(setting):
    rate = setting.rate
    if isinstance(rate, dict):
        return {key: 1 - (1 - r) ** setting.rounds for key, r in rate.items()}
    return 1 - (1 - rate) ** setting.rounds


_SEARCHES: dict[str, Callable[[Setting], RoundSearch]] = {
    "iss": _iss,
    "imp": Setting.search,
    "dlth": _dlth,
    "unilth": _unilth,
    "unidlth": _unidlth,
    "threshold": _threshold,
}


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
    ticket = tickets.Ticket.load(ticket_file)
    metrics = trainer.train(ticket, setting.recipe.epochs, verbose="auto")
    with files.replacing(out) as draft:
        wrapping.strip(trainer.model).save(draft)
    return metrics


def _write_text(path, text):
    with files.replacing(path) as draft:
        draft.write_text(text)


def _steps_per_execution(rewind_to):
    """Several steps a call save most of TensorFlow's overhead with small nets."""
    if keras.config.backend() != "tensorflow":
        return 1
    count, _, unit = rewind_to.partition(" ")
    return math.gcd(16, int(count)) if unit.startswith("step") else 16
