"""Ticket: masks, the weights to start from, and where they come from."""

import copy
import dataclasses
import hashlib
import os
from typing import Self

import keras
import numpy as np

from tf_tickets import files, wrapping
from tf_tickets.masks.base import checked
from tf_tickets.training import snapshots
from tf_tickets.wrapping import paths


@dataclasses.dataclass
class Ticket:
    """A sparse subnetwork: which weights, starting from which values.

    Args:
        masks: Dict from a kernel's path in the plain model to a boolean array,
            true where the weight is kept.
        weights: Dict from path to start value, of all weights and statistics; or
            None where seed and model configuration stand in for them.
        metrics: What training from this ticket reached, by name.
        provenance: Where it comes from: method, settings, versions, seed, round,
            step, dataset, parent ticket.
        scales: Dict from path to what the kernel's kept weights are multiplied with
            on the forward pass, where that is not 1.

    Example:

    >>> ticket = Ticket({"d/kernel": np.array([[True], [False]])})
    >>> ticket.sparsity
    0.5
    """

    masks: dict[str, np.ndarray]
    weights: dict[str, np.ndarray] | None = None
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    provenance: dict = dataclasses.field(default_factory=dict)
    scales: dict[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        self.masks = {path: checked(mask, path) for path, mask in self.masks.items()}
        if not self.masks:
            raise ValueError("A ticket needs one mask at least. Received: masks={}")
        if self.weights is not None:
            self.weights = {path: np.asarray(w) for path, w in self.weights.items()}
        unknown = set(self.scales) - set(self.masks)
        if unknown:
            raise ValueError(
                f"`scales` has paths without a mask: {sorted(unknown)}. The masks: "
                f"{list(self.masks)}."
            )

    @property
    def sparsity(self) -> float:
        """Fraction of zeros among the prunable weights."""
        size = sum(m.size for m in self.masks.values())
        return (size - sum(self.kept.values())) / size

    @property
    def kept(self) -> dict[str, int]:
        """Number of weights kept, by kernel path."""
        return {path: int(mask.sum()) for path, mask in self.masks.items()}

    @property
    def id(self) -> str:
        """SHA-256 over masks, start weights and scales: equal for equal tickets.

        A ticket that was saved without its weights has another one.
        """
        digest = hashlib.sha256()
        for table in (self.masks, self.weights or {}):
            for path in sorted(table):
                array = table[path]
                digest.update(f"{path} {array.dtype} {array.shape} ".encode())
                digest.update(array.tobytes())
        for path, scale in sorted(self.scales.items()):
            digest.update(f"{path} {scale!r} ".encode())
        return digest.hexdigest()

    def save(self, path: os.PathLike | str, weights: bool = True) -> None:
        """Writes the ticket into one file, whole or not at all.

        Args:
            path: Where to.
            weights: Whether to write the start weights. Without them the file
                holds a bit a weight; seed and model configuration must then give
                the same weights again, which is tried before anything is written.
        """
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
        files.write(path, "ticket", content, arrays)

    @classmethod
    def load(cls, path: os.PathLike | str) -> Self:
        """Reads a ticket; a damaged or foreign file raises a ValueError."""
        content, arrays = files.read(path, "ticket")
        masks, weights = _split(arrays, "masks/"), _split(arrays, "weights/")
        return cls(
            masks,
            weights or None,
            content["metrics"],
            content["provenance"],
            content.get("scales", {}),
        )

    def apply(self, model: keras.Model) -> keras.Model:
        """Puts masks and start weights into a model and makes it train from there.

        Args:
            model: The wrapped model, or a plain one, which is wrapped.

        Returns:
            The wrapped model. If it is compiled, its optimizer is cleared and its
            learning-rate schedule stands where the ticket's training begins.
        """
        start = self.start_weights()
        table = _trainable_state(model)
        names = _fit(start, table, "weights")
        if not wrapping.prunables(model):
            wanted = _fit(self._masks_as(names), table, "masks", partial=True)
            kind = "scaled" if self.scales else "fixed"
            model = wrapping.wrap_kernels(model, [table[p] for p in wanted], kind)
        masks = self._masks_as(names)
        _fit(masks, wrapping.kernels(model).variables, "masks")
        for path, place in names.items():
            table[place].assign(start[path])
        scales = {names.get(p, p): scale for p, scale in self.scales.items()}
        wrapping.kernels(model).set_masks(masks, scales)
        if model.compiled and model.optimizer is not None:
            snapshots.reset_optimizer(model, self.provenance.get("step", 0))
        return model

    def _masks_as(self, names):
        """The masks under the model's names, which weights and masks share."""
        return {names.get(path, path): mask for path, mask in self.masks.items()}

    def start_weights(self) -> dict[str, np.ndarray]:
        """The start weights by path, rebuilt from seed and model where left out."""
        if self.weights is not None:
            return self.weights
        return self._rebuild()

    def _rebuild(self):
        config, seed = self.provenance.get("model"), self.provenance.get("build_seed")
        if config is None or seed is None or self.provenance.get("step", 0) != 0:
            raise ValueError(
                "This ticket cannot do without its start weights: they are given by "
                "seed and model configuration only if they are the weights at init "
                "and the ticket comes from find_tickets with a functional or "
                "Sequential model. Save it with weights=True."
            )
        keras.utils.set_random_seed(seed)
        model = keras.saving.deserialize_keras_object(copy.deepcopy(config))
        return {p: snapshots.to_numpy(v) for p, v in _trainable_state(model).items()}

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
                "Seed and model configuration do not give this ticket's start "
                "weights again (pretrained or rewound weights, or a build function "
                "that draws random numbers in another order). Save it with "
                "weights=True."
            )

    def compare(self, other: Self) -> dict[str, float]:
        """How far two tickets keep the same weights.

        Returns:
            Dict from kernel path, and "all", to kept-in-both over kept-in-either.

        Example:

        >>> a, b = Ticket({"k": [1, 1, 0]}), Ticket({"k": [1, 0, 0]})
        >>> a.compare(b)
        {'k': 0.5, 'all': 0.5}
        """
        names = _fit(self.masks, other.masks, "masks")
        pairs = {p: (self.masks[p], other.masks[q]) for p, q in names.items()}
        both = {p: int((a & b).sum()) for p, (a, b) in pairs.items()}
        either = {p: int((a | b).sum()) for p, (a, b) in pairs.items()}
        overlap = {p: both[p] / max(either[p], 1) for p in pairs}
        return overlap | {"all": sum(both.values()) / max(sum(either.values()), 1)}


def _split(arrays, prefix):
    return {
        n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)
    }


def _trainable_state(model):
    """What a ticket has start weights for: all but masks and random generators."""
    table = wrapping.plain_paths(snapshots.network(model))
    return {p: v for p, v in table.items() if v.name != snapshots.SEED}


def _fit(wanted, available, what, partial=False):
    """Names of the ticket to names of the model; says all that differs."""
    found = paths.match(wanted, available)
    if found is None or (not partial and len(found) != len(available)):
        raise ValueError(
            f"The ticket's {what} do not fit the model. Only in the ticket: "
            f"{sorted(set(wanted) - set(available))}; only in the model: "
            f"{sorted(set(available) - set(wanted))}."
        )
    differing = [
        f"{p}: {tuple(wanted[p].shape)} in the ticket, {tuple(available[q].shape)} in "
        "the model"
        for p, q in found.items()
        if tuple(wanted[p].shape) != tuple(available[q].shape)
    ]
    if what == "weights":
        differing += [
            f"{p}: {wanted[p].dtype} in the ticket, {available[q].dtype} in the model"
            for p, q in found.items()
            if str(wanted[p].dtype) != str(available[q].dtype)
        ]
    if differing:
        raise ValueError(f"The ticket's {what} do not fit: " + "; ".join(differing))
    return found


def _plain(value):
    """Python's own numbers, as JSON wants them."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value.item() if isinstance(value, np.generic) else value
