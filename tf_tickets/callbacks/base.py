"""Pruning in the midst of a training: what its callbacks have in common."""

import keras

from tf_tickets import environment, wrapping
from tf_tickets.tickets.ticket import Ticket
from tf_tickets.training import snapshots
from tf_tickets.training.checks import check_fixed


class MidwayPruning(keras.callbacks.Callback):
    """Counts the steps of a `fit`; a subclass gives `advance(step)`.

    The model is touched through `self.model` only, and only where `advance` prunes:
    that is dear on JAX, whose trainer holds the state within an epoch.
    """

    method = "midway"
    seed = 0

    def __init__(self) -> None:
        super().__init__()
        self._step = 0
        self._steps_before = 0

    @property
    def ticket(self) -> Ticket:
        """The masks reached, with the present weights to start from."""
        state = snapshots.record(self.model)
        provenance = {
            "method": self.method,
            "step": snapshots.iteration(self.model),
            "versions": environment.versions(),
            "parent": None,
            "seed": self.seed,
        }
        weights = snapshots.start_weights(self.model, state)
        masks, scales = wrapping.masks(self.model), wrapping.scales(self.model)
        return Ticket(masks, weights, {}, provenance, scales)

    def advance(self, step: int) -> None:
        """Does what is due before a step of training."""
        raise NotImplementedError

    def on_train_begin(self, logs=None):
        check_fixed(self.model)
        self._step = 0

    def on_epoch_begin(self, epoch, logs=None):
        if epoch and not self._step:
            # A training that goes on (`initial_epoch`).
            self._step = epoch * (self.params.get("steps") or 0)
        self._steps_before = self._step

    def on_train_batch_begin(self, batch, logs=None):
        self.advance(self._steps_before + batch)

    def on_train_batch_end(self, batch, logs=None):
        self._step = self._steps_before + batch + 1

    def on_epoch_end(self, epoch, logs=None):
        self.advance(self._step)
        logs["sparsity"] = wrapping.sparsity(self.model)

    def on_train_end(self, logs=None):
        # Keras has just written averaged weights (use_ema) over the kernels.
        self.set_masks(wrapping.masks(self.model))

    def set_masks(self, masks: dict) -> None:
        """Sets masks, in the weights and in the optimizer too."""
        wrapping.set_masks(self.model, masks)
        snapshots.zero_slots(self.model)
