"""Base class of callbacks that prune within one training."""

import keras
import numpy as np

from tf_tickets import wrapping
from tf_tickets.configuration import Configured
from tf_tickets.environment import versions
from tf_tickets.tickets.ticket import Ticket
from tf_tickets.training import checks, snapshots


class PruningCallback(Configured, keras.callbacks.Callback):
    """Counts the steps of one `fit`; a subclass defines `advance(step)`.

    The model is accessed only where `advance` prunes. On JAX, whose trainer holds the
    state within an epoch, each access is expensive.
    """

    method = "pruning"
    seed = 0

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
        }
        weights = snapshots.start_weights(self.model, state)
        return Ticket(kernels.masks, weights, {}, provenance, kernels.scales)

    def advance(self, step: int) -> None:
        """Called before each training step; prunes if it is due."""
        raise NotImplementedError

    def on_train_begin(self, logs=None):
        checks.check_fixed(self.model)
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
