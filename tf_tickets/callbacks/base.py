"""Base classes of callbacks that make a ticket within one training."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np

from tf_tickets import distribution, schema, wrapping
from tf_tickets.configuration import Configured
from tf_tickets.environment import versions
from tf_tickets.pruning import targets
from tf_tickets.structures import registry as structures
from tf_tickets.structures.structure import Structure
from tf_tickets.tickets.ticket import Ticket
from tf_tickets.training import checks, snapshots


class Progress(NamedTuple):
    """What an interrupted training needs to continue.

    Args:
        content: What can be stored as JSON.
        states: States of the model, by name.
    """

    content: dict[str, Any]
    states: dict[str, snapshots.State]


class ResumableCallback(Configured, keras.callbacks.Callback):
    """A callback whose training `find_tickets` can run and resume after any epoch.

    A subclass that counts anything returns it from `pack`, reads it in `unpack`, and
    names it in `_packed`.
    """

    # The method's name in provenance, tables and files.
    method = "training"
    seed = 0
    # The structure that it asks for; None for that of the model.
    structure: Structure | None = None
    # Set by callbacks that stop the training and go back to an earlier epoch.
    stopped_epoch: int | None = None
    rewound_epoch: int | None = None
    rewound_logs: Mapping[str, float] = {}
    # The check of each field that `pack` returns.
    _packed: Mapping[str, schema.Check] = {}

    @property
    def most_states(self) -> int:
        """The largest number of states that `pack` returns."""
        return 0

    @property
    def inner_callbacks(self) -> Iterable[keras.callbacks.Callback]:
        """Callbacks that this one calls."""
        return ()

    def may_resume(self, epoch: int) -> bool:
        """Returns whether a training may resume at an epoch.

        Args:
            epoch: The epoch that comes next.
        """
        return True

    def end_training(self, logs: dict[str, float]) -> Mapping[str, float]:
        """Called before the ticket is made; returns the logs of its weights.

        Args:
            logs: The logs of the last epoch.
        """
        return self.rewound_logs or logs

    def pack(self) -> Progress:
        """Returns what a training needs to continue.

        Called between two epochs, or after the last one.
        """
        return Progress({}, {})

    def unpack(self, progress: Progress, fresh: snapshots.State) -> None:
        """Continues from what `pack` returned; refuses other content.

        Args:
            progress: What `pack` returned.
            fresh: The state of the model when the training began.
        """
        schema.fields(self._packed)(progress.content, "notes.callback")


class PruningCallback(ResumableCallback):
    """Counts the steps of one `fit`; a subclass defines `advance(step)`.

    The model is accessed only where `advance` prunes. On JAX, whose trainer holds the
    state within an epoch, each access is expensive.
    """

    method = "pruning"
    # Whether it selects by the units of `kernels.layout`.
    follows_structures = False
    # Why it cannot prune channels; None if it can.
    without_channels: str | None = None
    _packed = {"step": schema.count}

    def __init__(self) -> None:
        super().__init__()
        self._step = 0
        self._steps_before = 0

    @property
    def ticket(self) -> Ticket:
        """A ticket of the current masks and weights."""
        kernels = wrapping.kernels(self.model)
        state = snapshots.record(self.model)
        provenance = {
            "method": self.method,
            "step": snapshots.iteration(self.model),
            "versions": versions(),
            "parent": None,
            "seed": self.seed,
            **structures.stored(kernels.layout, kernels.structure),
        }
        weights = snapshots.start_weights(self.model, state)
        return Ticket(kernels.masks, weights, {}, provenance, kernels.scales)

    def pack(self) -> Progress:
        return Progress({"step": self._step}, {})

    def unpack(self, progress: Progress, fresh: snapshots.State) -> None:
        super().unpack(progress, fresh)
        self._step = progress.content["step"]

    def advance(self, step: int) -> None:
        """Called before each training step; prunes if it is due."""
        raise NotImplementedError

    def on_train_begin(self, logs=None):
        distribution.check_outside_scope()
        distribution.check_one_process(self.model)
        checks.check_fixed(self.model)
        targets.check_pruner(self, wrapping.kernels(self.model))
        self._step = 0

    def on_epoch_begin(self, epoch, logs=None):
        if epoch and not self._step:
            # A training that continues (`initial_epoch`).
            self._step = epoch * (self.params.get("steps") or 0)
        self._steps_before = self._step

    def on_train_batch_begin(self, batch, logs=None):
        self.advance(self._steps_before + batch)

    def on_train_batch_end(self, batch, logs=None):
        self._step = self._steps_before + batch + 1

    def on_epoch_end(self, epoch, logs=None):
        self.advance(self._step)
        logs["sparsity"] = wrapping.kernels(self.model).sparsity

    def on_train_end(self, logs=None):
        # Keras has just written averaged weights (use_ema) over the kernels.
        self._set_masks(wrapping.kernels(self.model).masks)

    def _set_masks(self, masks: dict[str, np.ndarray]) -> None:
        """Sets masks, and clears what they prune in weights and optimizer slots."""
        wrapping.kernels(self.model).set_masks(masks)
        snapshots.zero_slots(self.model)
