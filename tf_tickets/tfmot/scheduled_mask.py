"""Masks that know the schedule by which they are pruned, and the present step."""

import weakref
from typing import Any

import keras
from keras import ops

from tf_tickets.masks.base import Tensor
from tf_tickets.masks.fixed import FixedMask
from tf_tickets.structures.channels import Channels
from tf_tickets.tfmot import pruning_schedules, remaining
from tf_tickets.tfmot.pruning_schedules import Schedule

NOT_FOLLOWED = (
    "The training prunes by a schedule, but nothing counts its steps. Received: a "
    "training step of layers from prune_low_magnitude, without UpdatePruningStep. Pass "
    "it: model.fit(..., callbacks=[tfmot.UpdatePruningStep()]). To train the remaining "
    "weights only, call strip_pruning(model), then tf_tickets.wrap(model, "
    "keep_zeros=True)."
)


def _nothing():
    """Stands for a weak reference to an object that no longer exists."""


@keras.saving.register_keras_serializable("tf_tickets.tfmot")
class ScheduledMask(FixedMask):
    """The 0/1 mask of `prune_low_magnitude`, which `UpdatePruningStep` sets.

    Beside the mask, it stores the number of training steps and the threshold of the
    last pruning. So a training that continues, also from a file, continues counting. A
    training step without `UpdatePruningStep` raises an error.

    Args:
        pruning_schedule: `schedule(step) -> (should_prune, sparsity)`.

    Example:

    >>> mask = ScheduledMask(tt.tfmot.ConstantSparsity(0.5, 0))
    >>> mask.build((3,))
    >>> mask.step, mask.present_threshold
    (0, 0.0)
    """

    scheduled = True
    counts_steps = True

    def __init__(
        self, pruning_schedule: Schedule | dict[str, Any], **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.pruning_schedule = pruning_schedules.get(pruning_schedule)
        # Whether the schedule has nothing left to prune.
        self.has_finished = False
        # What counts the steps of a training: `step`, `begin()` and `is_training()`.
        self._counter: Any = _nothing
        self._prunable: Any = _nothing

    def build(self, shape):
        super().build(shape)
        self.pruning_step = self.add_weight(
            shape=(),
            dtype="int32",
            initializer="zeros",
            trainable=False,
            name="pruning_step",
        )
        self.threshold = self.add_weight(
            shape=(),
            dtype="float32",
            initializer="zeros",
            trainable=False,
            autocast=False,
            name="threshold",
        )

    def factor(self, dtype: str, training: bool = False) -> Tensor:
        counter = self._counter()
        followed = counter is not None and counter.is_training()
        if training and not (followed or self.has_finished):
            raise ValueError(NOT_FOLLOWED)
        return super().factor(dtype)

    def enter(self, prunable: keras.layers.Layer) -> None:
        self._prunable = weakref.ref(prunable)

    def follow(self, counter: Any) -> None:
        """Stores the `step` of an object from now on, as long as that exists."""
        self._counter = weakref.ref(counter) if counter is not None else _nothing

    def save_own_variables(self, store):
        counter = self._counter()
        if counter is not None:
            self.pruning_step.assign(counter.step)
        super().save_own_variables(store)

    def load_own_variables(self, store):
        super().load_own_variables(store)
        counter = self._counter()
        if counter is not None:
            counter.begin()
        self.has_finished = self._is_finished()

    def _is_finished(self):
        """Returns whether the loaded mask has all that its schedule asks for."""
        prunable = self._prunable()
        if prunable is None or isinstance(prunable.structure, Channels):
            return False  # A mask alone does not know its units.
        pairs = zip(
            prunable.kernel_variables.items(), prunable.kernel_masks, strict=True
        )
        variables = dict(pair for pair, mask in pairs if mask is self)
        masks = {path: self.value() for path in variables}
        layout = remaining.layout(prunable, variables)
        return remaining.is_finished(layout, self.pruning_schedule, masks, self.step)

    @property
    def step(self) -> int:
        """The number of training steps until now."""
        return int(ops.convert_to_numpy(self.pruning_step.value))

    @property
    def present_threshold(self) -> float:
        """The smallest score that the last pruning kept."""
        return float(ops.convert_to_numpy(self.threshold.value))

    def get_config(self):
        config = super().get_config()
        del config["scaled"]
        schedule = keras.saving.serialize_keras_object(self.pruning_schedule)
        return {**config, "pruning_schedule": schedule}
