"""The callback `UpdatePruningStep`."""

import warnings
import weakref
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from tf_tickets import keras_internals, wrapping
from tf_tickets.pruning.schedules import firings
from tf_tickets.tfmot.pruners import Pruner, pruners
from tf_tickets.tfmot.scheduled_mask import NOT_FOLLOWED
from tf_tickets.training import checks, snapshots

__all__ = [
    "UpdatePruningStep",
]

# A schedule whose last steps bring less than this is not worth a warning.
_TOLERANCE = 0.01


class _Counted:
    """The step of a training, as `fit` calls it, with an `UpdatePruningStep`."""

    def __init__(
        self,
        step: Callable,
        check: Callable[[], None],
        count: Callable[[], None],
    ) -> None:
        self.step = step
        self.check = check
        self.count = count

    def __call__(self, *args):
        self.check()
        outputs = self.step(*args)
        self.count()
        return outputs

    @classmethod
    def inside(cls, step):
        """Returns the step itself, without what counts it."""
        return step.step if isinstance(step, cls) else step


class UpdatePruningStep(keras.callbacks.Callback):
    """Counts the steps of a training, and prunes at those that the schedules name.

    Steps count from 1 and continue in every further `fit`, also of a loaded model. A
    mask is set before the update of its step. With `steps_per_execution`, it is set
    before the next execution, or at the end of the epoch. Checkpoints store the step at
    which they are written, so `keras.callbacks.BackupAndRestore` continues it.

    Unlike in tensorflow-model-optimization, a model without pruned layers is refused,
    a warning says beforehand if a schedule prunes at none of the planned steps or ends
    far below its last sparsity, and the weights are sparse for every other callback at
    any time. A training without this callback raises an error as there, but only as
    long as a schedule has something left to prune. In a training loop of your own, call
    the methods as there, with a `batch` of -1.

    Example:

    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    >>> schedule = tt.tfmot.PolynomialDecay(0.0, 0.5, 0, 4, frequency=2)
    >>> model = tt.tfmot.prune_low_magnitude(model, schedule)
    tf_tickets: 1 kernel of 32 weights is prunable; 1 variable of 4 weights is not.
    >>> model.compile("sgd", "mse")
    >>> x, y = np.ones((16, 8)), np.ones((16, 4))
    >>> history = model.fit(
    ...     x, y, batch_size=4, verbose=0, callbacks=[UpdatePruningStep()]
    ... )
    >>> history.history["sparsity"]
    [0.5]
    """

    def __init__(self) -> None:
        super().__init__()
        self._pruners: list[Pruner] = []
        # Steps since the training began.
        self._steps = 0
        self._steps_before = 0
        self._updates_before: int | None = None
        self._is_first_epoch = False
        self._batch = -1
        # Whether `on_train_batch_begin` was called for the next execution.
        self._has_begun = False
        # Whether the present execution is one of those.
        self._counts = False
        self._has_finished = False
        self._per_execution = 1
        self._network: Any = None
        self._step: weakref.ref[_Counted] | None = None

    def on_train_begin(self, logs=None):
        model = self.model
        checks.check_fixed(model)
        self._steps = self._steps_before = 0
        self._updates_before = None
        self._pruners = pruners(model, self._present_steps, self._is_training)
        if not self._pruners:
            raise ValueError(
                f"Model {model.name!r} has no layers with a pruning schedule. "
                "Received a model from tf_tickets.wrap. Train it with "
                "tf_tickets.GradualPruning, or make it by prune_low_magnitude."
            )
        self._is_first_epoch = True
        self._per_execution = model.steps_per_execution
        self._network, self._step = model, None
        if model.train_function is not None:  # It is None in a loop of one's own.
            step = _Counted.inside(model.train_function)
            step = _Counted(step, self._check_begun, self._count)
            model.train_function = step
            # Weakly, as JAX remembers what it traced as long as the function exists.
            self._step = weakref.ref(step)
        self._has_finished = False
        for pruner in self._pruners:
            for mask in pruner.masks:
                mask.follow(pruner)

    def on_epoch_begin(self, epoch, logs=None):
        if self._is_first_epoch:
            if self._steps == 0:
                # Callbacks after this one may have restored a checkpoint.
                for pruner in self._pruners:
                    pruner.begin()
            self._warn_beforehand(epoch)
        self._is_first_epoch = False
        self._steps_before = self._steps
        self._updates_before = self._updates()

    def on_train_batch_begin(self, batch, logs=None):
        self._batch = batch
        self._has_begun = True
        if batch < 0:
            self._steps += 1
            self._advance(self._steps)
        else:
            self._advance(self._steps_before + batch + 1)

    def on_train_batch_end(self, batch, logs=None):
        if batch >= 0:
            self._steps = self._steps_before + self._done(batch + 1)

    def _check_begun(self):
        """Refuses a step of a later `fit` without this callback.

        An exception ends a `fit` without `on_train_end`, and the next one calls the
        same compiled step.
        """
        if not (self._has_begun or self._has_finished):
            raise ValueError(NOT_FOLLOWED)
        self._counts, self._has_begun = self._has_begun, False

    def _is_training(self):
        """Returns whether a step may be traced: a model compiled again has another."""
        return self._step is None or self._step() is self._network.train_function

    def _count(self):
        """Counts the steps of an execution, before any callback may save the model."""
        # Not `self.model`, which on JAX copies the state of the training each time.
        if self._counts and self._batch >= 0:
            end = self._batch + self._per_execution
            self._steps = self._steps_before + self._done(end)

    # In a training loop, the argument is called `batch` there.
    def on_epoch_end(self, batch, logs=None):
        self._steps = self._present_steps()
        self._advance(self._steps)
        self._store()
        self._finish()
        if logs is not None:
            logs["sparsity"] = wrapping.kernels(self.model).sparsity

    def on_train_end(self, logs=None):
        model = self.model
        # Keras has just written averaged weights (use_ema) over the kernels.
        kernels = wrapping.kernels(model)
        kernels.set_masks(kernels.masks)
        snapshots.zero_slots(model)
        self._store()
        for pruner in self._pruners:
            for mask in pruner.masks:
                mask.follow(None)
        self._finish()
        # Unless it has finished, the next `fit` traces again, and asks for this one.
        model.train_function = (
            _Counted.inside(model.train_function) if self._has_finished else None
        )

    def _finish(self):
        """Lets models train without this callback if nothing is left to prune."""
        self._has_finished = all(
            pruner.is_finished(pruner.begun + self._steps) for pruner in self._pruners
        )
        for pruner in self._pruners:
            for mask in pruner.masks:
                mask.has_finished = self._has_finished

    def _done(self, steps):
        """Returns the steps of an epoch until now; an execution may have been short."""
        return min(steps, (self.params or {}).get("steps") or steps)

    def _present_steps(self):
        """Returns the number of steps since the training began."""
        if self._updates_before is None:
            return self._steps
        return self._steps_before + self._updates() - self._updates_before

    def _updates(self):
        """Returns the optimizer's count of steps; None if that is not needed."""
        model = self.model
        if model.steps_per_execution == 1 or (self.params or {}).get("steps"):
            return None
        variables = model.optimizer.variables
        counts = filter(keras_internals.is_step_counter, variables)
        return max(int(wrapping.to_numpy(count)) for count in counts)

    def _store(self):
        """Writes the number of steps into the masks."""
        _ = self.model  # On JAX, this copies the state of the training to the layers.
        for pruner in self._pruners:
            for mask in pruner.masks:
                mask.pruning_step.assign(pruner.begun + self._steps)

    def _advance(self, steps):
        asked = [(p, p.sparsity_due(p.begun + steps)) for p in self._pruners]
        due = [(pruner, sparsity) for pruner, sparsity in asked if sparsity is not None]
        if not due:
            return
        model = self.model
        for pruner, sparsity in due:
            pruner.prune(sparsity)
        kernels = wrapping.kernels(model)
        kernels.set_masks(kernels.masks)
        snapshots.zero_slots(model)

    def _warn_beforehand(self, epoch):
        params = self.params or {}
        if not params.get("steps"):
            return
        planned = params["steps"] * (params["epochs"] - epoch)
        messages = {self._warning(pruner, planned) for pruner in self._pruners}
        for message in sorted(messages - {None}):
            warnings.warn(message, stacklevel=2)

    def _warning(self, pruner, planned):
        """Returns what is wrong with the planned steps; None if nothing is."""
        if pruner.is_finished(pruner.begun):
            return None
        last = pruner.begun + planned
        sparsities = [s for _, s in pruner.firings(pruner.begun + 1, last)]
        if not sparsities:
            return (
                f"{pruner.schedule!r} fires at none of the {planned} planned steps, "
                f"which begin at step {pruner.begun + 1}: nothing will be pruned. "
                "Lower its begin_step or frequency, or train longer."
            )
        end = max(last, getattr(pruner.schedule, "end_step", last))
        asked = float(firings(pruner.schedule, np.array([end]))[1][0])
        if not pruner.once and asked - max(sparsities) > _TOLERANCE:
            return (
                f"{pruner.schedule!r} will reach only {max(sparsities):.4f} in the "
                f"{planned} planned steps; it asks for sparsity {asked:.4f} at step "
                f"{end}. Train longer, or lower its end_step or frequency."
            )
        return None
