"""Prunes a trained model while fine-tuning it: the whole job in one call."""

import dataclasses
import json
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import keras

from tf_tickets import arguments, files, wrapping
from tf_tickets.compaction.compacting import compact
from tf_tickets.exporting import exporter, keras_file
from tf_tickets.exporting import remarks as export_remarks
from tf_tickets.exporting.export_report import ExportReport
from tf_tickets.fine_tuning import learning_rates, measurements
from tf_tickets.fine_tuning.fine_tuning_callback import PruningAndFineTuning
from tf_tickets.fine_tuning.measurements import Clock, Measured
from tf_tickets.fine_tuning.parts import Parts
from tf_tickets.fine_tuning.prune_result import (
    HOW_TIMED,
    HOW_TIMED_TFLITE,
    PruneResult,
)
from tf_tickets.fine_tuning.result_remarks import Outcome, remarks
from tf_tickets.fine_tuning.target_kinds import compile_by_targets
from tf_tickets.pruning import allocation as allocations
from tf_tickets.pruning import targets
from tf_tickets.pruning.allocation import Allocation
from tf_tickets.pruning.schedules import PolynomialDecay
from tf_tickets.reports import tables
from tf_tickets.reports.summary import summary
from tf_tickets.search import inputs
from tf_tickets.search.inputs import Data
from tf_tickets.search.lock import LOCK
from tf_tickets.search.runner import STATE, find_tickets
from tf_tickets.structures import registry as structures
from tf_tickets.structures.channels import Channels
from tf_tickets.structures.structure import Structure, Unstructured
from tf_tickets.training import checks, input_checks, labels
from tf_tickets.training.data import titled
from tf_tickets.wrapping import compiling, graphs, rebuilding
from tf_tickets.wrapping.choosing import Filters

EPOCHS = 20
# The sparsity by default, as far as the structure allows it.
SPARSITY = 0.9
SPARSITY_OF_CHANNELS = 0.5
# The first pruning comes after this part of all steps, a twentieth.
_BEGIN = 20
# How many prunings there are.
_PRUNINGS = 40
# Examples to measure with, to calibrate int8, and to find out the kind of targets.
_EXAMPLES = 500
_FEW = 32
_TO_THE_ROUND = (
    "The order of these data is not known, so a training that is interrupted and "
    "resumed ends with other bits."
)
# A model with more zeros than this fraction was pruned before.
_FEW_ZEROS = 0.01
# The precision of files that nobody asked for.
_PRECISION = "float32"
# The files that are written, and the folder of an interrupted training.
FILES = {
    "model.keras": "the pruned model, compressed",
    "model.tflite": "the same for LiteRT",
    "report.txt": "all tables",
    "results.json": "all numbers and settings",
    "pruned.ticket": "masks and weights, in the shapes of the given model",
}
TRAINING = "training"
# Files that others may have put there before.
_SETTINGS = ("settings.toml", "settings.json")

Model: TypeAlias = keras.Model | os.PathLike | str | Callable[[], keras.Model]


def prune(
    model: Model,
    data: Data,
    sparsity: float | None = None,
    directory: os.PathLike | str | None = None,
    *,
    structure: str | Structure | None = None,
    target: dict[str, float] | None = None,
    epochs: int = EPOCHS,
    learning_rate: float | None = None,
    batch_size: int | None = None,
    monitor: str | None = None,
    patience: int = 5,
    allocation: str | Allocation = "global",
    filters: Filters = None,
    precision: str | None = _PRECISION,
    seed: int = 0,
    callbacks: Iterable[keras.callbacks.Callback] = (),
    say: Callable[[str], object] | None = None,
    verbose: str | int = 0,
) -> PruneResult:
    """Prunes a trained model while fine-tuning it, and measures it before and after.

    `GradualPruning` raises the sparsity from the first epoch to the middle of the
    training. The best of the epochs after that is kept. Zeros stay in a model of the
    same shapes; with channels the result is a smaller model.

    With a directory, a call that was interrupted, even killed, resumes after its last
    complete epoch when it is made again, and ends with the same bits.

    Args:
        model: A trained model, the path of its `.keras` file, or a function that
            returns it. Its weights, loss, metrics and the settings of its optimizer are
            kept. A model that is not compiled is compiled by the kind of its targets,
            and the notes say how. A wrapped model continues: its pruned weights stay
            pruned. A subclassed model is changed in place; pass a path or function to
            have its latency compared.
        data: As in `find_tickets`. Parts that are read once, such as generators, are
            refused: pass a function that returns a new one.
        sparsity: Fraction of the prunable weights, or of the channels, to prune. By
            default 0.9, or what the structure allows; 0.5 of channels.
        directory: Where to write `model.keras`, `model.tflite`, `pruned.ticket`,
            `report.txt` and `results.json`. It must be new, empty, or that of the same
            call.
        structure: As in `wrap`: "unstructured", "2:4", "4x1" or "channels". By default
            that of a wrapped model, "channels" with a target, or else "unstructured".
        target: `{"macs": 0.5}` or `{"params": 0.5}` for channels: the fraction that
            remains, in place of `sparsity`.
        epochs: Epochs of the training, at least 2.
        learning_rate: A constant learning rate. By default that of the model's
            optimizer; a tenth of the largest of its schedule if it has one.
        batch_size: Batch size of arrays, 32 by default.
        monitor: The metric by which the best epoch is chosen. By default the only
            metric of the model, or "val_loss".
        patience: Epochs without improvement, after the last pruning, after which the
            training stops.
        allocation: As in `GradualPruning`: "global", "uniform" or "erk".
        filters: Which layers to prune, as in `wrap`.
        precision: Precision of the `.tflite` file, as in `export`; None for no file.
        seed: Seed of data order and random layers.
        callbacks: Further Keras callbacks.
        say: Function that is called with a line about what happens, such as `print`.
        verbose: As in `model.fit`.

    Returns:
        A `PruneResult`. Printed, it is a table of the model before and after.

    Example:

    >>> keras.utils.set_random_seed(0)
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)])
    >>> model.compile("adam", "mse")
    >>> x, y = np.ones((16, 4)), np.ones((16, 5))
    >>> result = prune(model, ((x, y), (x, y)), 0.75, epochs=2, batch_size=4,
    ...                precision=None)
    >>> result.sparsity, result.after.nonzero, result.before.nonzero
    (0.75, 10, 25)
    """
    settings = _Settings(
        **_sparsity(sparsity, structure, target),
        epochs=epochs,
        learning_rate=learning_rate,
        batch_size=batch_size,
        monitor=monitor,
        patience=patience,
        allocation=allocation,
        filters=filters,
        precision=precision,
        seed=seed,
    )
    settings.check()
    callbacks = arguments.listed(keras.callbacks.Callback, callbacks=callbacks)
    inputs.check_fit(seed, batch_size, verbose)
    folder = None
    if directory is not None:
        folder = _checked_folder(arguments.check_path(directory=directory))
    if say is not None:
        arguments.check_functions(1, say=say)
    pruner = _Pruner(_Given(model, seed), data, settings, folder, say or _silent)
    return pruner.run(callbacks, verbose)


def _silent(line):
    """Says nothing."""


@dataclasses.dataclass
class _Settings:
    """The settings of `prune`; those that depend on the model are filled in later."""

    sparsity: float | None
    structure: Structure | None
    target: dict[str, float] | None
    epochs: int
    learning_rate: float | None
    batch_size: int | None
    monitor: str | None
    patience: int
    allocation: str | Allocation
    filters: Filters
    precision: str | None
    seed: int

    def check(self):
        arguments.check_counts(patience=self.patience)
        if not arguments.is_whole(self.epochs) or not 2 <= self.epochs < 2**31:
            raise ValueError(
                "`epochs` must be a whole number of at least 2: one to prune in, and "
                f"one after it. Received: {arguments.shown(self.epochs)}"
            )
        if self.learning_rate is not None:
            arguments.check_positive(learning_rate=self.learning_rate)
        if self.monitor is not None:
            arguments.check_type(str, monitor=self.monitor)
        if self.precision is not None:
            arguments.check_choice(exporter.PRECISIONS, precision=self.precision)
        allocations.get(self.allocation)

    def plain(self) -> dict[str, Any]:
        """Returns the settings as plain Python data."""
        table = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        table["structure"] = self.structure.name if self.structure else None
        for name in ("allocation", "filters"):
            value = table[name]
            if callable(value):
                table[name] = getattr(value, "__name__", repr(value))
        return json.loads(json.dumps(table, default=arguments.plain))


def _sparsity(sparsity, structure, target):
    """Returns sparsity, structure and target, checked against each other."""
    chosen = structures.optional(structure)
    if target is not None:
        found = targets.Target.get(target)
        if sparsity is not None:
            raise ValueError(
                "`target` says how much remains, so it takes the place of `sparsity`. "
                f"Received: sparsity={sparsity!r}, target={target}. Pass one of them."
            )
        if chosen is not None and not isinstance(chosen, Channels):
            raise ValueError(
                "`target` prunes channels, since other structures make no network "
                f"cheaper. Received: structure={chosen.name!r}, target={target}. Pass "
                "structure='channels', or a sparsity in place of the target."
            )
        chosen = chosen or Channels()
        sparsity = 1.0 - found.fraction
    if sparsity is not None:
        if not arguments.is_real(sparsity) or not 0.0 < sparsity < 1.0:
            raise ValueError(
                "`sparsity` must be a number between 0 and 1, such as 0.9 to prune 90 "
                f"% of the weights. Received: {arguments.shown(sparsity)}"
            )
        sparsity = float(sparsity)
    return {"sparsity": sparsity, "structure": chosen, "target": target}


def _checked_folder(folder):
    """Refuses a folder that holds anything but an earlier call of `prune`."""
    if not folder.exists():
        return folder
    if not folder.is_dir():
        raise ValueError(
            f"{folder} is a file. Pass the path of a folder for the results."
        )
    others = sorted(p.name for p in folder.iterdir() if p.name not in _SETTINGS)
    if others and not _has_begun(folder, others):
        raise ValueError(
            f"{folder} holds other files, such as {others[0]}. Pass the path of a new "
            "or empty folder, or of one that prune has written."
        )
    return folder


def _has_begun(folder, others):
    """Returns whether a folder is that of an earlier call, by its training."""
    training = folder / TRAINING
    if (training / STATE).is_file():
        return True
    # A call that was interrupted before its first epoch leaves nothing but a lock.
    if others != [TRAINING] or not training.is_dir():
        return False
    return all(p.name.startswith((".", LOCK)) for p in training.iterdir())


class _Given:
    """The model that is pruned, made anew as often as it is needed.

    Args:
        model: A model, the path of its file, or a function that returns it.
        seed: Seed of what a function draws.
    """

    def __init__(self, model, seed):
        self._model = model
        self._seed = seed
        if isinstance(model, str | os.PathLike):
            self._make = lambda: keras_file.load(model)
        elif isinstance(model, keras.Model):
            self._make = lambda: model
        elif callable(model):
            arguments.check_build(model)
            self._make = model
        else:
            raise TypeError(
                "`model` must be a trained Keras model, the path of a .keras file or a "
                f"function that returns a model. Received: {arguments.shown(model)}"
            )
        made = self._made()
        # What stands for the settings of `compile`, and is measured as "before".
        self.reference, self.structure = _plain(made)
        self.in_place = made is model and not graphs.is_graph(made)
        if made is self.reference is model and not (self.in_place or made.compiled):
            # It will be compiled.
            self.reference = rebuilding.copy(made)

    def _made(self):
        keras.utils.set_random_seed(self._seed)
        model = self._make()
        if not isinstance(model, keras.Model):
            raise TypeError(
                "`model` must return a Keras model. Received: "
                f"{arguments.shown(self._model)}, which returns "
                f"{arguments.shown(model)}"
            )
        if not model.built:
            raise ValueError(
                f"Model {model.name!r} is not built, so it has no trained weights. "
                "Call it on data, or start it with keras.Input(shape)."
            )
        return model

    def build(self) -> keras.Model:
        """Returns a plain model with the given weights, not compiled."""
        if self.in_place:
            return self.reference
        if isinstance(self._model, keras.Model):
            return rebuilding.copy(self.reference)
        return _plain(self._made())[0]


def _plain(model):
    """Returns the plain model of a given one, and the structure it is wrapped with."""
    if not wrapping.prunables(model):
        return model, None
    structure = wrapping.kernels(model).structure
    plain = wrapping.stripped_copy(model)
    if model.compiled and plain is not model:
        compiling.compile_like(plain, model)
    return plain, structure


class _Pruner:
    """One call of `prune`.

    Args:
        given: The model.
        data: The data.
        settings: The settings.
        folder: The folder of the results, or None.
        say: Function that is called with a line about what happens.
    """

    def __init__(self, given, data, settings, folder, say):
        self.say = say
        self.given = given
        self.data = data
        self.settings = settings
        self.folder = folder
        self.clock = Clock()
        self.notes: list[str] = []
        self.parts = Parts(data, settings.seed, settings.batch_size)
        x, _ = self.parts.examples("train", _EXAMPLES)
        for name in self.parts.names:
            inputs_of_part, _ = self.parts.examples(name, None)
            input_checks.check_inputs(given.reference, inputs_of_part, f"{name} data")
        # What latency is measured with, and files are calibrated and verified with.
        self._inputs = input_checks.fitted(given.reference, x)

    def run(self, callbacks, verbose) -> PruneResult:
        self._prepare()
        before_metrics = self._metrics(self.given.reference)
        self._choose_monitor(before_metrics)
        pruning = self._callback()
        with tempfile.TemporaryDirectory() as name:
            temporary = pathlib.Path(name)
            before = self._before(before_metrics, temporary)
            ticket = self._train(pruning, callbacks, verbose)
            result = self._finish(pruning, ticket, before, temporary)
        return result

    def _note(self, line):
        self.notes.append(line)
        self.say(line)

    # Before the training.

    def _prepare(self):
        """Fills in the settings that depend on the model, and refuses what is unfit."""
        model, settings = self.given.reference, self.settings
        if not model.compiled:
            x, _ = self.parts.examples("train", _FEW)
            parts = self.parts.names
            others = {name: self.parts.examples(name, None)[1] for name in parts}
            how = compile_by_targets(model, x, others.pop("train"), others)
            self._note(f"The model was not compiled, so it was for {how}.")
        for name in self.parts.names:
            _, y = self.parts.examples(name, None)
            labels.check_labels(model, y, f"the {titled(name)} data")
        structure = settings.structure or self.given.structure or Unstructured()
        settings.structure = structure
        self._note_zeros(model)
        if settings.sparsity is None:
            most = min(SPARSITY, structure.most_sparse)
            is_channels = isinstance(structure, Channels)
            settings.sparsity = SPARSITY_OF_CHANNELS if is_channels else most
        checks.check_possible(structure, sparsity=settings.sparsity)
        self._choose_rate()
        # Refuses what cannot be wrapped, and a structure that no kernel can have.
        if not self.given.in_place:
            self._wrapped(self._compiled_build())

    def _note_zeros(self, model):
        present = summary(model).sparsity
        if self.given.structure is None and present < _FEW_ZEROS:
            return
        was = "pruned" if self.given.structure is None else "wrapped"
        later = (
            "and stay zero"
            if self._keeps_zeros
            else ("and may be trained again, since the structure is another one")
        )
        self._note(
            f"The model was {was} before: {present:.1%} of its prunable weights are "
            f"zero, {later}."
        )

    @property
    def _keeps_zeros(self):
        return self.settings.structure == (self.given.structure or Unstructured())

    def _choose_rate(self):
        rate = self.settings.learning_rate
        if rate is None:
            rate, origin = learning_rates.fine_tuning_rate(
                self.given.reference.optimizer
            )
            self.settings.learning_rate = rate
            self._note(f"Learning rate {rate:g}, {origin}.")

    def _choose_monitor(self, metrics):
        names = [name for name in metrics if name.startswith("val_")]
        if self.settings.monitor is None:
            others = [name for name in names if not name.endswith("loss")]
            self.settings.monitor = others[0] if len(others) == 1 else "val_loss"
        if self.settings.monitor not in names:
            raise ValueError(
                f"`monitor` must be one of the metrics {names}. Received: "
                f"{self.settings.monitor!r}"
            )

    def _callback(self):
        settings = self.settings
        steps = self.parts.steps
        last = steps * (settings.epochs // 2)
        begin = min(last, max(1, steps * settings.epochs // _BEGIN))
        schedule = PolynomialDecay(
            0.0,
            settings.sparsity,
            begin_step=begin,
            end_step=last,
            frequency=max(1, (last - begin) // _PRUNINGS),
        )
        return PruningAndFineTuning(
            schedule,
            settings.allocation,
            structure=settings.structure,
            target=settings.target,
            monitor=settings.monitor,
            patience=settings.patience,
        )

    def _compiled_build(self):
        """Returns a plain model, compiled like the given one with a new optimizer."""
        model = self.given.build()
        rate = self.settings.learning_rate
        if self.given.in_place and type(model).compile is not keras.Model.compile:
            return model
        compiling.compile_like(
            model,
            self.given.reference,
            lambda optimizer: learning_rates.with_rate(optimizer, rate),
        )
        return model

    def _wrapped(self, model):
        return wrapping.wrap(
            model,
            self.settings.filters,
            verbose=False,
            keep_zeros=self._keeps_zeros,
            structure=self.settings.structure,
        )

    # The training.

    def _train(self, pruning, callbacks, verbose):
        training = None if self.folder is None else self.folder / TRAINING
        if training is not None:
            with files.writing(training):
                training.mkdir(parents=True, exist_ok=True)
        [ticket] = find_tickets(
            lambda: self._wrapped(self._compiled_build()),
            self.data,
            pruning,
            training,
            self.settings.seed,
            epochs=self.settings.epochs,
            batch_size=self.settings.batch_size,
            callbacks=callbacks,
            verbose=verbose,
        )
        if not pruning.has_begun:
            self.say("The training was complete, nothing was trained.")
        self.clock.seconds["training"] = pruning.seconds
        return ticket

    def _metrics(self, model):
        """Returns the metrics of a compiled model, as "val_*" and "test_*"."""
        return {
            f"{prefix}_{name}": value
            for prefix, part in (("val", "validation"), ("test", "test"))
            if part in self.parts.names
            for name, value in self.parts.evaluate(model, part).items()
        }

    # Measurements.

    def _before(self, metrics, temporary):
        model = self.given.reference
        sizes = measurements.keras_sizes(model, temporary)
        path = temporary / "before.tflite"
        if self.settings.precision is not None:
            with self.clock("export"):
                report = self._export(model, path, verify=False)
            if report is not None:
                sizes |= measurements.tflite_sizes(path)
        return Measured.of(model, metrics, sizes)

    def _export(self, model, path, verify=True) -> ExportReport | None:
        """Writes a `.tflite` file; notes why if that is not possible."""
        try:
            return exporter.export(
                model,
                path,
                data=self._inputs,
                precision=self.settings.precision,
                verify=verify,
                overwrite=True,
            )
        except (ValueError, TypeError, ImportError) as error:
            if self.settings.precision != _PRECISION and not verify:
                # It was asked for, and nothing has been trained yet.
                raise
            self._note(f"model.tflite was not written. {error}")
            self.settings.precision = None
            return None

    def _finish(self, pruning, ticket, before, temporary):
        model, compaction = self._final(pruning.model)
        sizes = measurements.keras_sizes(model, temporary)
        path = temporary / "after.tflite"
        export = None
        if self.settings.precision is not None:
            with self.clock("export"):
                export = self._export(model, path)
        if export is not None:
            sizes |= measurements.tflite_sizes(path)
        with self.clock("latency"):
            latency = self._latency(model, temporary, export)
        after = Measured.of(model, self._metrics(model), sizes)
        result = PruneResult(
            model,
            ticket,
            before,
            after,
            latency,
            summary(model),
            self.settings.plain(),
            self._remarks(pruning, before, after, latency, compaction, model),
            self._all_notes(pruning, ticket, latency),
            {name: round(value, 2) for name, value in self.clock.seconds.items()},
            compaction,
            export,
        )
        if self.folder is not None:
            self._write(result, path)
        return result

    def _final(self, trained):
        """Returns the plain model of a trained one, and the report of `compact`."""
        compaction = None
        if isinstance(self.settings.structure, Channels):
            with self.clock("compact"):
                model, compaction = compact(
                    trained, return_report=True, data=self._inputs
                )
        else:
            model = wrapping.strip(trained)
        if not (self.given.in_place and model.compiled):
            compiling.compile_like(
                model,
                self.given.reference,
                lambda given: learning_rates.with_rate(
                    given, self.settings.learning_rate
                ),
            )
        return model, compaction

    def _latency(self, model, temporary, export):
        x = self._inputs
        if self.given.in_place:
            self._note(
                "The model was changed in place, so its latency was not compared."
            )
            return {}
        latency = {"Keras": measurements.keras_latency(self.given.reference, model, x)}
        if export is not None:
            latency[".tflite"] = measurements.tflite_latency(
                temporary / "before.tflite", temporary / "after.tflite", model, x
            )
        return latency

    def _remarks(self, pruning, before, after, latency, compaction, model):
        ratios = latency.get(".tflite", {})
        return remarks(
            Outcome(
                before,
                after,
                latency,
                self.settings.structure,
                self.settings.monitor,
                pruning.best_epoch == pruning.trained - 1,
                compaction.removed if compaction else 0,
                export_remarks.remarks(
                    model, "tflite", self.settings.precision or _PRECISION, ratios
                )
                if ratios
                else (),
            )
        )

    def _all_notes(self, pruning, ticket, latency):
        seconds = self.clock.seconds
        early = " It stopped early." if pruning.trained < self.settings.epochs else ""
        fine_tuned = pruning.trained - pruning.first_epoch
        timed = HOW_TIMED + (HOW_TIMED_TFLITE if ".tflite" in latency else "")
        return [
            *self.notes,
            f"Pruned in the first {tables.count_of(pruning.first_epoch, 'epoch')}, "
            f"fine-tuned for {fine_tuned} more.{early} The best of these by "
            f"{self.settings.monitor} is kept: epoch {pruning.best_epoch + 1}.",
            *([timed] if latency else []),
            *([_TO_THE_ROUND] if ticket.provenance.get("resume") == "round" else []),
            "Seconds: "
            + ", ".join(f"{name} {value:.1f}" for name, value in seconds.items())
            + ".",
        ]

    def _write(self, result, tflite):
        """Writes the files; `results.json` comes last and marks them as complete."""
        folder = self.folder
        with tempfile.TemporaryDirectory() as name:
            stored = pathlib.Path(name) / "stored.keras"
            # Keras loads a compiled model only with the variables of its optimizer.
            result.model.optimizer.build(result.model.trainable_variables)
            result.model.save(stored)
            with files.replacing(folder / "model.keras") as draft:
                keras_file.deflate(stored, draft)
        if result.export is not None:
            with files.replacing(folder / "model.tflite") as draft:
                draft.write_bytes(tflite.read_bytes())
        else:
            files.remove(folder / "model.tflite")
        result.ticket.save(folder / "pruned.ticket")
        with files.replacing(folder / "report.txt") as draft:
            draft.write_text(f"{result.report()}\n", "utf-8")
        with files.replacing(folder / "results.json") as draft:
            draft.write_text(json.dumps(result.to_dict(), indent=1) + "\n", "utf-8")
