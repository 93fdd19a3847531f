"""Ticket: the masks of a subnetwork, its start weights and its origin."""

import copy
import dataclasses
import hashlib
import os
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal, Self, overload

import keras
import numpy as np

from tf_tickets import arguments, files, schema, wrapping
from tf_tickets.compaction import compacting
from tf_tickets.masks.base import checked
from tf_tickets.reports import tables
from tf_tickets.structures import registry as structures
from tf_tickets.structures.structure import Structure
from tf_tickets.tickets import applying, matching, pairing
from tf_tickets.tickets.apply_report import ApplyReport
from tf_tickets.tickets.overlap import OverlapReport
from tf_tickets.training import snapshots
from tf_tickets.units.units import remaining
from tf_tickets.wrapping import onednn, paths

_CHECK_CONTENT = schema.fields(
    {"metrics": schema.mapping(schema.number), "provenance": schema.mapping()},
    {"scales": schema.mapping(schema.finite)},
)
_ORIGIN = {"model": schema.mapping(), "build_seed": schema.count, "step": schema.count}


@dataclasses.dataclass(eq=False, repr=False)
class Ticket:
    """A sparse subnetwork: which weights it keeps, and the values they start from.

    Two tickets are equal if their `id` is equal: the same masks, start weights and
    scales, bit for bit. Metrics and provenance do not count, since they say how a
    ticket was found and how it performed, not which subnetwork it is. The hash is
    that of the `id`, so tickets can be put into sets; do not change the masks,
    weights or scales of a ticket that is in a set.

    Args:
        masks: Dict from a kernel's path in the plain model to a boolean array that
            is true where a weight is kept.
        weights: Dict from path to start value, for all weights and statistics. None
            if seed and model configuration reproduce them.
        metrics: Dict from name to the value after training from this ticket.
        provenance: The origin: method, settings, versions, seed, round, step,
            dataset, parent ticket.
        scales: Dict from kernel path to the factor of its kept weights in the
            forward pass, where that is not 1.

    Example:

    >>> ticket = Ticket({"d/kernel": np.array([[True], [False]])})
    >>> ticket.sparsity
    0.5
    >>> ticket
    Ticket(sparsity 0.5000, 1 of 2 weights kept in 1 kernel, id 89cb7f11)
    >>> ticket == Ticket({"d/kernel": [[1], [0]]}, metrics={"accuracy": 0.9})
    True
    """

    masks: dict[str, np.ndarray]
    weights: dict[str, np.ndarray] | None = None
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    provenance: dict = dataclasses.field(default_factory=dict)
    scales: dict[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        arguments.check_type(Mapping, masks=self.masks, scales=self.scales)
        arguments.check_type(dict, metrics=self.metrics, provenance=self.provenance)
        self.masks = {path: checked(mask, path) for path, mask in self.masks.items()}
        if not self.masks:
            raise ValueError(
                "A ticket needs at least one mask. Received: masks={}. Pass a dict "
                "from kernel path to boolean array."
            )
        _check_masks(self.masks)
        _check_metrics(self.metrics)
        if self.weights is not None:
            arguments.check_type(Mapping, weights=self.weights)
            for path in self.weights:
                schema.text(path, "weights: path")
            self.weights = {
                p: arguments.array(weights=w) for p, w in self.weights.items()
            }
            _check_shapes(self.masks, self.weights)
        # The type after loading from a file: the id must not depend on saving.
        self.scales = {
            path: float(scale) if arguments.is_number(scale) else scale
            for path, scale in self.scales.items()
        }
        unknown = set(self.scales) - set(self.masks)
        if unknown:
            raise ValueError(
                "`scales` has paths without a mask. Received: "
                f"{sorted(unknown, key=str)}. Paths with a mask: {list(self.masks)}."
            )
        for path, scale in self.scales.items():
            schema.finite(scale, f"scales.{path}")

    @property
    def sparsity(self) -> float:
        """Fraction of zeros among the prunable weights."""
        return (self._size - sum(self.kept.values())) / self._size

    @property
    def kept(self) -> dict[str, int]:
        """Number of kept weights by kernel path."""
        return {path: int(mask.sum()) for path, mask in self.masks.items()}

    @property
    def structure(self) -> Structure:
        """Which weights were kept or pruned together when it was found."""
        return structures.restored(self.provenance)[0]

    @property
    def _size(self):
        return sum(mask.size for mask in self.masks.values())

    @property
    def id(self) -> str:
        """SHA-256 of masks, start weights and scales. Equal tickets have equal ids.

        A ticket that was saved without its weights has another id.
        """
        digest = hashlib.sha256()
        for table in (self.masks, self.weights or {}):
            for path in sorted(table):
                array = table[path]
                digest.update(f"{path} {array.dtype} {array.shape} ".encode())
                digest.update(files.raw(array))
        for path, scale in sorted(self.scales.items()):
            digest.update(f"{path} {scale!r} ".encode())
        return digest.hexdigest()

    def __eq__(self, other):
        if not isinstance(other, Ticket):
            return NotImplemented
        return self is other or self.id == other.id

    def __hash__(self):
        return hash(self.id)

    def __repr__(self):
        return f"Ticket({', '.join(self._facts())}, id {self.id[:8]})"

    def _repr_html_(self):
        return tables.ticket_html(self, caption=repr(self))

    def _facts(self):
        """The parts of the one-line description, without the id."""
        for name in ("method", "control"):
            if name in self.provenance:
                yield str(self.provenance[name])
        if "round" in self.provenance:
            yield f"round {self.provenance['round']}"
        yield f"sparsity {self.sparsity:.4f}"
        kernels = tables.count_of(len(self.masks), "kernel")
        kept = sum(self.kept.values())
        yield f"{kept:,} of {self._size:,} weights kept in {kernels}"
        name = self._main_metric()
        if name is not None:
            yield f"{name} {self.metrics[name]:.4f}"

    def _main_metric(self):
        """The metric that the search monitored, or else the first one."""
        monitor = _entry(_entry(self.provenance, "settings"), "monitor")
        if isinstance(monitor, dict):  # A serialized `Monitor`.
            monitor = _entry(_entry(monitor, "config"), "metric")
        known = isinstance(monitor, str) and monitor in self.metrics
        return monitor if known else next(iter(self.metrics), None)

    def save(self, path: os.PathLike | str, weights: bool = True) -> None:
        """Saves the ticket to one file, atomically.

        Args:
            path: The file to write.
            weights: Whether to save the start weights. Without them the file takes
                one bit per weight. Seed and model configuration must then reproduce
                the start weights, which is checked before anything is written.
        """
        path = arguments.check_path(path=path)
        arguments.check_flags(weights=weights)
        if not weights:
            self._check_rebuilds()
        arrays = {f"masks/{path_}": mask for path_, mask in self.masks.items()}
        if weights and self.weights is not None:
            arrays |= {f"weights/{path_}": w for path_, w in self.weights.items()}
        content = {
            "metrics": _plain(self.metrics),
            "provenance": _plain(self.provenance),
            "scales": _plain(self.scales),
        }
        _CHECK_CONTENT(content, "ticket")
        files.write(path, "ticket", content, arrays)

    @classmethod
    def load(
        cls, path: os.PathLike | str, max_bytes: int | None = files.MAX_BYTES
    ) -> Self:
        """Loads a ticket. A damaged or foreign file raises a ValueError.

        Args:
            path: The file.
            max_bytes: The largest size of masks and weights in memory. A small file
                may unpack to a very large ticket, so a larger one is refused before
                it is unpacked. None accepts any size.

        Example:

        >>> Ticket({"k": [1, 1, 0]}).save(tmp_path / "a.ticket")
        >>> Ticket.load(tmp_path / "a.ticket").kept
        {'k': 2}
        """
        path = arguments.check_path(path=path)
        if max_bytes is not None:
            arguments.check_not_negative(max_bytes=max_bytes)
        content, arrays = files.read(path, "ticket", max_bytes)
        with files.checking(path, "ticket"):
            _CHECK_CONTENT(content, "content")
            masks, weights = _split(arrays, "masks/"), _split(arrays, "weights/")
            _check_prefixes(arrays)
            return cls(
                masks,
                weights or None,
                content["metrics"],
                content["provenance"],
                content.get("scales", {}),
            )

    @overload
    def apply(
        self,
        model: keras.Model,
        strict: bool = True,
        rename: matching.Rename | None = None,
        masks_only: bool = False,
        return_report: Literal[False] = False,
    ) -> keras.Model: ...
    @overload
    def apply(
        self,
        model: keras.Model,
        strict: bool = True,
        rename: matching.Rename | None = None,
        masks_only: bool = False,
        *,
        return_report: Literal[True],
    ) -> tuple[keras.Model, ApplyReport]: ...
    def apply(
        self,
        model: keras.Model,
        strict: bool = True,
        rename: matching.Rename | None = None,
        masks_only: bool = False,
        return_report: bool = False,
    ) -> keras.Model | tuple[keras.Model, ApplyReport]:
        """Sets the masks and weights of a model to those that the ticket starts from.

        Args:
            model: A wrapped model, or a plain one, which is then wrapped.
            strict: Whether the model must have all masks and weights of the ticket.
                False applies those with a path and a shape that the model has, and
                warns of the others. Kernels of a wrapped model without a mask in the
                ticket keep their own. A ticket of which no mask fits is refused.
            rename: Dict from paths in the ticket to those in the model. A string
                stands for the path itself and for all paths below it
                (`{"conv1": "backbone/conv1"}`); of several the longest counts, and ""
                stands for all paths. A compiled regular expression must match the
                whole path, and the value is its replacement. Entries that fit no path,
                or lead to none, are refused.
            masks_only: Whether to leave the weights of the model, which may be
                pretrained, and the state of its optimizer. Pruned weights become zero.
                Factors of the kept weights (`scales`) are not applied.
            return_report: Whether to return the report too.

        Returns:
            The wrapped model, or with `return_report` a pair of it and an
            `ApplyReport`. If the model is compiled, its optimizer is reset and its
            learning-rate schedule is set to the ticket's first step, unless
            `masks_only`.

        Example:

        >>> masks = {"net/a/kernel": [[1, 0]], "net/b/kernel": [[1, 0, 0], [0, 1, 1]]}
        >>> start = {path: np.ones(np.shape(m), "float32") for path, m in masks.items()}
        >>> layers = [keras.layers.Dense(2, name="a"), keras.layers.Dense(5, name="b")]
        >>> model = keras.Sequential([keras.Input((1,)), *layers], name="net")
        >>> model, report = Ticket(masks, start).apply(
        ...     model, strict=False, return_report=True)
        >>> report.skipped[0].path, report.skipped[0].reason
        ('net/b/kernel', 'shape (2, 3) in the ticket, (2, 5) in the model')
        >>> np.asarray(model.layers[0].kernel).tolist()
        [[1.0, 0.0]]
        """
        arguments.check_type(keras.Model, model=model)
        arguments.check_flags(strict=strict, masks_only=masks_only)
        arguments.check_flags(return_report=return_report)
        matching.check_rename(rename)
        structure, layout = structures.restored(self.provenance)
        start = None if masks_only else self.start_weights()
        content = applying.content_of(self, start, rename, structure, layout)
        if rename:
            applying.check_renamed(content, rename, model)
        way = applying.apply_whole if strict else applying.apply_partly
        wrapped, report = way(content, model)
        if return_report:
            return wrapped, report
        if not strict:
            _warn_of_skipped(report)
        return wrapped

    @overload
    def transfer(
        self,
        model: keras.Model,
        rename: matching.Rename | None = None,
        masks_only: bool = False,
        return_report: Literal[False] = False,
    ) -> Self: ...
    @overload
    def transfer(
        self,
        model: keras.Model,
        rename: matching.Rename | None = None,
        masks_only: bool = False,
        *,
        return_report: Literal[True],
    ) -> tuple[Self, ApplyReport]: ...
    def transfer(
        self,
        model: keras.Model,
        rename: matching.Rename | None = None,
        masks_only: bool = False,
        return_report: bool = False,
    ) -> Self | tuple[Self, ApplyReport]:
        """Returns what fits of the ticket as a ticket of another model.

        The new ticket has all weights of that model: those of this ticket where they
        fit, and the present ones elsewhere. So `train_ticket`, `TicketTrainer`, the
        controls and `find_frontier` take it as they take a ticket that was found
        there.

        Args:
            model: A model of the new task, as in `apply`. It gets masks and weights.
            rename: As in `apply`.
            masks_only: As in `apply`: the ticket then starts from the weights that the
                model has.
            return_report: Whether to return the report too.

        Returns:
            The new ticket, without metrics, or with `return_report` a pair of it and
            an `ApplyReport`. Its provenance names this ticket as its parent, and what
            `apply` used.

        Example:

        >>> ticket = Ticket({"net/a/kernel": [[1, 0]]})
        >>> layers = [keras.layers.Dense(2, name="a"), keras.layers.Dense(5, name="b")]
        >>> model = keras.Sequential([keras.Input((1,)), *layers], name="net")
        >>> moved = ticket.transfer(model, masks_only=True)
        >>> moved.kept, list(moved.weights)[2:]
        ({'net/a/kernel': 1}, ['net/b/kernel', 'net/b/bias'])
        """
        arguments.check_flags(return_report=return_report)
        wrapped, report = self.apply(
            model, False, rename, masks_only, return_report=True
        )
        network = snapshots.network(wrapped)
        kernels = wrapping.kernels(network)
        moved = type(self)(
            kernels.masks,
            snapshots.present_weights(network),
            provenance=self._moved(kernels, report),
            scales=kernels.scales,
        )
        if return_report:
            return moved, report
        _warn_of_skipped(report)
        return moved

    def _moved(self, kernels, report):
        """Returns the provenance of this ticket in another model."""
        # What is true of the model that the ticket was found in only.
        old = ("model", "build_seed", "remaining", "structure", "step")
        kept = {name: v for name, v in self.provenance.items() if name not in old}
        used = {"masks": report.masks, "weights": report.weights}
        unused = {f"{row.part} of {row.path}": row.reason for row in report.skipped}
        return {
            **kept,
            **structures.stored(kernels.layout, kernels.structure),
            "step": self.provenance.get("step", 0) if report.weights else 0,
            "parent": self.id,
            "transferred": {**used, "not used": unused},
        }

    def train(
        self, model: keras.Model, x: Any, y: Any = None, *, epochs: int, **kwargs: Any
    ) -> keras.Model:
        """Trains the ticket and returns the trained network as a plain Keras model.

        The model is set to what the ticket starts from, trained with `fit` and
        stripped. `EarlyStopping(restore_best_weights=True)` among the callbacks gives
        the best epoch, since the masks do not change.

        Args:
            model: A compiled model, wrapped or plain. Its variables are trained.
            x: The inputs, as in `model.fit`.
            y: The targets, as in `model.fit`.
            epochs: How many epochs.
            **kwargs: Other arguments of `model.fit`, such as `validation_data`.

        Returns:
            The plain model, to be saved or exported, with zeros where the ticket
            prunes; of a `Distiller`, the student. Its `history` is that of the
            training. It is not compiled.

        Example:

        >>> x, y = np.ones((8, 2)), np.ones((8, 2))
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
        >>> model = tt.wrap(model, verbose=False)
        >>> model.compile("adam", "mse")
        >>> search = tt.IMP(rounds=1, epochs_per_round=1, rate=0.5, monitor="loss")
        >>> history = model.fit(x, y, epochs=2, callbacks=[search], verbose=0)
        >>> plain = search.best.train(model, x, y, epochs=3, verbose=0)
        >>> int(np.count_nonzero(plain.layers[0].kernel)), plain.history.epoch
        (2, [0, 1, 2])
        """
        arguments.check_type(keras.Model, model=model)
        arguments.check_counts(epochs=epochs)
        if not model.compiled:
            raise ValueError(
                f"`model` must be compiled. Received: {arguments.shown(model)}. Call "
                "model.compile(...) first."
            )
        wrapped = self.apply(model)
        wrapped.fit(x, y, epochs=epochs, **kwargs)
        plain = wrapping.strip(snapshots.network(wrapped))
        plain.history = wrapped.history
        return plain

    def compact(
        self, build_model: Callable[[], keras.Model] | keras.Model, data: Any = None
    ) -> keras.Model:
        """Returns the small network of the ticket, at its start weights.

        Units that the ticket leaves without a use are removed, as by
        `tf_tickets.compact`. To train the small network costs what its size costs. Its
        predictions are compared with those of the large network with the masks.

        Training the small network equals training the large one with the masks if the
        ticket prunes whole units. Otherwise the large network also trains the biases
        of units without a way in, which the small one no longer has.

        Args:
            build_model: Function that returns the dense model, or such a model. Its
                weights are set to the ticket's.
            data: Examples to compare the networks on. Random by default.

        Returns:
            A trainable model that is not compiled. If the ticket prunes single weights
            of the remaining units, it is wrapped and has their masks; otherwise it is
            plain. A ticket without units to remove raises a ValueError.

        Example:

        >>> def build_model():
        ...     return keras.Sequential(
        ...         [keras.Input((3,)), keras.layers.Dense(4, name="a"),
        ...          keras.layers.Dense(2, name="b")], name="net")
        >>> names = ["net/a/kernel", "net/a/bias", "net/b/kernel", "net/b/bias"]
        >>> weights = dict(zip(names, build_model().get_weights()))
        >>> masks = {"net/a/kernel": [[1, 0, 0, 0]] * 3}
        >>> small = Ticket(masks, weights).compact(build_model)
        >>> [layer.units for layer in small.layers]
        [1, 2]
        """
        is_model = isinstance(build_model, keras.Model)
        if not is_model:
            arguments.check_functions(0, build_model=build_model)
        model = build_model if is_model else build_model()
        wrapped = self.apply(model)
        result = compacting.compacted(snapshots.network(wrapped), data)
        if not result.report.removed:
            raise ValueError(
                f"This ticket has no units to remove. Received: {self!r}. "
                f"{result.report.why_nothing()} Ticket.apply trains it as it is."
            )
        onednn.warn(result.model)
        return _with_remaining_masks(snapshots.network(wrapped), result)

    def start_weights(self) -> dict[str, np.ndarray]:
        """Returns the start weights by path; rebuilds them if they were not saved."""
        if self.weights is not None:
            return self.weights
        return self._rebuild()

    def _rebuild(self):
        self._check_origin()
        config, seed = self.provenance.get("model"), self.provenance.get("build_seed")
        if config is None or seed is None or self.provenance.get("step", 0) != 0:
            raise ValueError(
                "This ticket needs its start weights: they cannot be rebuilt. Seed and "
                "model configuration reproduce them only for weights at initialization "
                "and a functional or Sequential model, if the ticket comes from "
                "find_tickets. Save it with weights=True."
            )
        keras.utils.set_random_seed(seed)
        model = keras.saving.deserialize_keras_object(copy.deepcopy(config))
        state = applying.trainable_state(model)
        return {path: wrapping.to_numpy(v) for path, v in state.items()}

    def _check_origin(self):
        for name, check in _ORIGIN.items():
            if self.provenance.get(name) is not None:
                check(self.provenance[name], f"provenance.{name}")

    def _check_rebuilds(self):
        if self.weights is None:
            return
        rebuilt = self._rebuild()
        names = paths.match(self.weights, rebuilt) or {}
        same = set(names) == set(self.weights) and all(
            np.array_equal(self.weights[p], rebuilt[q]) for p, q in names.items()
        )
        if not same:
            raise ValueError(
                "Seed and model configuration do not reproduce this ticket's start "
                "weights. They may be pretrained or rewound, or the build function "
                "draws random numbers in another order. Save it with weights=True."
            )

    def compare(self, other: Self) -> dict[str, float]:
        """Returns how much the masks of two tickets overlap.

        Returns:
            Dict from kernel path, and "all", to the number of weights that both
            tickets keep, divided by the number that at least one of them keeps.

        Example:

        >>> a, b = Ticket({"k": [1, 1, 0]}), Ticket({"k": [1, 0, 0]})
        >>> a.compare(b)
        {'k': 0.5, 'all': 0.5}
        """
        arguments.check_type(Ticket, other=other)
        names = applying.fit(self.masks, other.masks, "masks")
        pairs = {p: (self.masks[p], other.masks[q]) for p, q in names.items()}
        both = {p: int((a & b).sum()) for p, (a, b) in pairs.items()}
        either = {p: int((a | b).sum()) for p, (a, b) in pairs.items()}
        overlap = {p: both[p] / max(either[p], 1) for p in pairs}
        return overlap | {"all": sum(both.values()) / max(sum(either.values()), 1)}

    def overlap(
        self,
        other: Self,
        strict: bool = True,
        rename: matching.Rename | None = None,
    ) -> OverlapReport:
        """Compares the masks of two tickets with random masks.

        Tickets of equal sparsity overlap by chance too. The report has, for each kernel
        and in total, how many weights both keep, how many two random masks that keep as
        many would share, its standard deviation, and the z-score. If both tickets have
        the same structure, its units are counted: blocks, channels, or weights in their
        groups of N:M.

        Args:
            other: A ticket.
            strict: Whether both tickets must have the same kernels. False compares
                those that belong together by their names alone, and names the others:
                kernels with equal paths, or whose paths differ in the first part only
                if there is one such pair. Equal names may belong to layers in other
                places of the networks; pass `rename` where they do.
            rename: Dict from paths in this ticket to those in the other, as in
                `apply`.

        Example:

        >>> a, b = Ticket({"k": [1, 1, 0, 0]}), Ticket({"k": [1, 1, 0, 0]})
        >>> total = a.overlap(b).total
        >>> total.shared, total.expected, round(total.z, 3)
        (2, 1.0, 1.732)
        """
        arguments.check_type(Ticket, other=other)
        arguments.check_flags(strict=strict)
        return pairing.overlap(self, other, strict, rename)


def _warn_of_skipped(report):
    if report.skipped:
        warnings.warn(
            f"{report.title()}. {report.why_skipped()} Pass return_report=True for the "
            "whole report.",
            stacklevel=3,
        )


def _with_remaining_masks(wrapped, result):
    """Returns the small model, with the masks of weights that remain pruned."""
    kernels = wrapping.kernels(wrapped)
    masks, weights, scales = {}, {}, {}
    for path, (old, positions) in result.positions.items():
        if old in kernels:
            masks[path] = remaining(kernels[old].mask_layer.value(), positions)
            weights[path] = remaining(
                wrapping.to_numpy(kernels[old].variable), positions
            )
        if old in kernels.scales:
            scales[path] = kernels.scales[old]
    if not scales and all(mask.all() for mask in masks.values()):
        return result.model
    table = wrapping.plain_paths(result.model)
    kind = "scaled" if scales else "fixed"
    small = wrapping.wrap_kernels(result.model, [table[path] for path in masks], kind)
    for path, kernel in wrapping.kernels(small).items():
        kernel.variable.assign(weights[path])
    wrapping.kernels(small).set_masks(masks, scales)
    return small


def _check_masks(masks):
    for path, mask in masks.items():
        schema.text(path, "masks: path")
        if not mask.size:
            raise ValueError(
                f"A mask needs at least one weight. Received: shape {mask.shape} for "
                f"{path!r}. Leave out kernels without weights."
            )


def _check_metrics(metrics):
    for name, value in metrics.items():
        schema.text(name, "metrics: name")
        if not arguments.is_real(value):
            raise ValueError(
                f"`metrics.{name}` must be a number. Received: {arguments.shown(value)}"
            )


def _check_shapes(masks, weights):
    for path in masks.keys() & weights.keys():
        if masks[path].shape != weights[path].shape:
            raise ValueError(
                f"Mask and start weights of {path!r} differ in shape. Received: "
                f"{masks[path].shape} and {weights[path].shape}."
            )


def _check_prefixes(arrays):
    unknown = [n for n in arrays if not n.startswith(("masks/", "weights/"))]
    if unknown:
        raise ValueError(
            f"Its arrays must be named masks/... or weights/.... Received: {unknown}"
        )


def _entry(table, name):
    """Returns an entry of a dict, and None where there is no dict."""
    return table.get(name) if isinstance(table, dict) else None


def _split(arrays, prefix):
    return {
        n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)
    }


def _plain(value):
    """Converts NumPy numbers and tuples to what JSON can hold."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value.item() if isinstance(value, np.generic) else value
