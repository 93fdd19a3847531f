"""The callbacks `UpdatePruningStep` and `PruningSummaries`."""

import os
import warnings
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from tf_tickets import arguments, keras_internals, wrapping
from tf_tickets.pruning import allocation, criteria, selection
from tf_tickets.pruning.schedules import firings
from tf_tickets.structures.nm import NM
from tf_tickets.tfmot import remaining
from tf_tickets.tfmot.scheduled_mask import NOT_FOLLOWED, ScheduledMask
from tf_tickets.training import checks, snapshots
from tf_tickets.wrapping.kernels import Kernel

# Steps for which a schedule is evaluated at once.
_AHEAD = 1000
# A schedule whose last steps bring less than this is not worth a warning.
_TOLERANCE = 0.01


class _Pruner:
    """Prunes the kernels of one layer by their schedule."""

    def __init__(
        self,
        layer,
        kernels: Mapping[str, Kernel],
        model,
        count: Callable[[], int],
        is_training: Callable[[], bool],
    ) -> None:
        self.kernels = kernels
        # Returns the steps since the training began, and whether it still goes on.
        self.count = count
        self.is_training = is_training
        self.masks = [kernel.mask_layer for kernel in kernels.values()]
        self.schedule = self.masks[0].pruning_schedule
        self.once = isinstance(layer.structure, NM)
        variables = {path: kernel.variable for path, kernel in kernels.items()}
        self.layout: Any = remaining.layout(layer, variables, model)
        self.begin()

    def begin(self):
        """Reads from the masks at which step the training is."""
        step = self.masks[0].step
        self.begun = step - self.count()
        self.looked_at = step + 1
        self.due: list[tuple[int, float]] = []

    @property
    def step(self):
        """The present step, which the masks store when they are saved."""
        return self.begun + self.count()

    def firings(self, first, last):
        """Returns the steps in a range that prune, with their sparsities."""
        steps = np.arange(first, last + 1)
        if self.once:
            return [(1, 1.0)] if first <= 1 <= last else []
        fires, sparsities = firings(self.schedule, steps)
        return list(zip(steps[fires].tolist(), sparsities[fires], strict=True))

    def sparsity_due(self, step):
        """Returns the sparsity of the last firing since the last call; None if none."""
        if step >= self.looked_at:
            until = max(step, self.looked_at + _AHEAD)
            self.due += self.firings(self.looked_at, until)
            self.looked_at = until + 1
        past = [sparsity for at, sparsity in self.due if at <= step]
        self.due = [row for row in self.due if row[0] > step]
        return past[-1] if past else None

    def prune(self, sparsity):
        """Sets masks, and stores the smallest score that is kept."""
        layout, kernels = self.layout, self.kernels
        masks = {path: k.mask_layer.value() for path, k in kernels.items()}
        scores = {
            path: criteria.magnitude(wrapping.to_numpy(k.variable))
            for path, k in kernels.items()
        }
        units, scores = layout.units(masks), layout.scores(scores, masks)
        kept = selection.choose_units(
            scores, units, self._counts(units, sparsity), allocation.uniform, layout
        )
        new = layout.masks(kept, masks)
        for path, kernel in kernels.items():
            kernel.mask_layer.assign(new[path])
            if not self.once:
                kernel.mask_layer.threshold.assign(scores[path][kept[path]].min())

    def _counts(self, units, sparsity):
        if self.once:
            return self.layout.fewest(units)
        return {
            path: min(int(alive.sum()), remaining.kept(alive.size, sparsity))
            for path, alive in units.items()
        }

    def is_finished(self, step):
        """Returns whether no later step can prune any more."""
        masks = {path: k.mask_layer.value() for path, k in self.kernels.items()}
        return remaining.is_finished(self.layout, self.schedule, masks, step)


def _pruners(model, *counter):
    """Returns the pruners of the layers that have a schedule."""
    kernels = wrapping.kernels(model)
    by_mask = {id(kernel.mask_layer): kernel for kernel in kernels.values()}
    pruners = []
    for layer in kernels.layers:
        if isinstance(layer.mask, ScheduledMask):
            own = [by_mask[id(mask)] for mask in layer.kernel_masks]
            pruners.append(_Pruner(layer, {k.path: k for k in own}, model, *counter))
    return pruners


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
        self._pruners: list[_Pruner] = []
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
        self._pruners = _pruners(model, self._present_steps, self._is_training)
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
        due = [(p, p.sparsity_due(p.begun + steps)) for p in self._pruners]
        due = [(pruner, sparsity) for pruner, sparsity in due if sparsity is not None]
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


class PruningSummaries(keras.callbacks.TensorBoard):
    """Writes sparsity and threshold of each kernel for TensorBoard.

    They are written at the beginning of each epoch and, unlike in
    tensorflow-model-optimization, at the end of the training, as
    `PATH/sparsity` and `PATH/threshold` into `LOG_DIR/metrics`, over the steps of the
    optimizer. The threshold is the smallest magnitude, or score of a block, that was
    kept; N:M sparsity has none. Requires TensorFlow and TensorBoard, also on JAX.

    Args:
        log_dir: Folder of the logs.
        update_freq: As in `keras.callbacks.TensorBoard`.
        **kwargs: As in `keras.callbacks.TensorBoard`.

    Example:

    >>> summaries = PruningSummaries(str(tmp_path))
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    >>> model = tt.tfmot.prune_low_magnitude(model)
    tf_tickets: 1 kernel of 32 weights is prunable; 1 variable of 4 weights is not.
    >>> model.compile("sgd", "mse")
    >>> summaries.set_model(model)
    >>> summaries.on_epoch_begin(0)
    >>> (tmp_path / "metrics").is_dir()
    True
    """

    def __init__(
        self,
        log_dir: str | os.PathLike,
        update_freq: str | int = "epoch",
        **kwargs: Any,
    ) -> None:
        log_dir = str(arguments.check_path(log_dir=log_dir))
        if not arguments.is_whole(update_freq):
            arguments.check_choice(("epoch", "batch"), update_freq=update_freq)
        else:
            arguments.check_counts(update_freq=update_freq)
        super().__init__(log_dir=log_dir, update_freq=update_freq, **kwargs)
        self._metrics_writer = self.summary.create_file_writer(f"{log_dir}/metrics")

    def on_epoch_begin(self, epoch, logs=None):
        if logs is not None:
            super().on_epoch_begin(epoch, logs)
        self._write()

    def on_train_end(self, logs=None):
        self._write()
        super().on_train_end(logs)

    def _write(self):
        model = self.model
        step = int(keras.ops.convert_to_numpy(model.optimizer.iterations))
        kernels = wrapping.kernels(model)
        by_mask = {id(m): layer for layer in kernels.layers for m in layer.kernel_masks}
        with self._metrics_writer.as_default():
            for path, kernel in kernels.items():
                mask = kernel.mask_layer
                sparsity = 1.0 - np.mean(mask.value())
                self.summary.scalar(f"{path}/sparsity", sparsity, step=step)
                structure = by_mask[id(mask)].structure
                if isinstance(mask, ScheduledMask) and not isinstance(structure, NM):
                    self.summary.scalar(
                        f"{path}/threshold", mask.present_threshold, step=step
                    )
        self._metrics_writer.flush()
