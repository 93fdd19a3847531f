"""Gradual pruning within one training run (Zhu and Gupta 2017)."""

import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Self

import keras
import numpy as np

from tf_tickets import arguments, schema, wrapping
from tf_tickets.callbacks.base import Progress, PruningCallback
from tf_tickets.pruning import allocation as allocations
from tf_tickets.pruning import criteria, targets
from tf_tickets.pruning.allocation import Allocation
from tf_tickets.pruning.schedules import firings
from tf_tickets.structures import registry as structures
from tf_tickets.structures.structure import Structure
from tf_tickets.training import best_epochs, checks, snapshots
from tf_tickets.training.round_callbacks import RoundCallbacks


def _check_firing(value, name):
    """Refuses a stored row that is not a step and a sparsity."""
    schema.items(schema.finite, length=2)(value, name)
    arguments.check_between(0.0, 1.0, **{name: value[1]})


@keras.saving.register_keras_serializable("tf_tickets")
class GradualPruning(PruningCallback):
    """Prunes a wrapped model while it trains, by a schedule of sparsity.

    Between two prunings the callback only looks into a table of steps; the model is not
    touched. Masks are nested: a pruned weight stays pruned.

    Steps count optimizer updates from 1, as in tensorflow-model-optimization: at step
    `n`, the model is pruned before its `n`-th update. With `steps_per_execution`, a
    step within an execution prunes before the next execution, or at the end of the
    epoch. A `fit` with `initial_epoch` continues counting.

    Args:
        schedule: `schedule(step) -> (should_prune, sparsity)`, one of
            `tf_tickets.schedules` or of tensorflow-model-optimization.
        criterion: "magnitude", "magnitude_increase", "movement", "random" or a
            function; criteria that use start weights use those at the beginning of
            `fit`.
        allocation: "global", "uniform", "erk" or a function.
        seed: Seed of the "random" criterion.
        structure: Which weights are kept or pruned together, as in `tf_tickets.wrap`;
            None for what the model was wrapped with.
        target: The fraction of the multiply-adds or parameters that remains at the
            largest sparsity of the schedule, as in `tf_tickets.IMP`. Smaller
            sparsities remove less in proportion.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)])
    >>> model = tt.wrap(model, verbose=False)
    >>> model.compile("adam", "mse")
    >>> schedule = tt.schedules.ConstantSparsity(0.8, begin_step=2, frequency=1)
    >>> pruning = GradualPruning(schedule)
    >>> x, y = np.ones((32, 4)), np.ones((32, 5))
    >>> history = model.fit(x, y, batch_size=8, verbose=0, callbacks=[pruning])
    >>> pruning.ticket.sparsity
    0.8
    """

    method = "gradual"
    follows_structures = True
    _serializers = {"criterion": criteria.serialize}
    _packed = {
        **PruningCallback._packed,
        "asked": schema.optional(schema.number),
        "looked_at": schema.count,
        "due": schema.items(_check_firing),
    }

    def __init__(
        self,
        schedule: Callable[..., tuple],
        criterion: str | criteria.Criterion = "magnitude",
        allocation: str | Allocation = "global",
        seed: int = 0,
        structure: str | Structure | None = None,
        target: dict[str, float] | None = None,
    ) -> None:
        super().__init__()
        arguments.check_seed(seed)
        if inspect.isclass(schedule) or not arguments.is_callable(schedule, 1):
            raise TypeError(
                "`schedule` must be called as schedule(step) -> (should_prune, "
                f"sparsity). Received: {arguments.shown(schedule)}"
            )
        self.schedule = schedule
        self.criterion = criteria.get(criterion)
        self.allocation = allocation
        self._allocate = allocations.get(allocation)
        self.seed = seed
        self.structure = structures.optional(structure)
        self.target = target
        self._target = targets.optional(target)
        # The sparsity of the schedule that means the target.
        self._largest = 1.0
        self._due: list[tuple[int, float]] = []
        self._looked_at = 1
        self._asked = None
        self._warned = False
        self._once_pruned = RoundCallbacks()
        # The epoch at which its callbacks began, until they have ended.
        self._began: int | None = None

    def once_pruned(self, *callbacks: keras.callbacks.Callback) -> Self:
        """Adds callbacks that see what follows the last pruning as a training.

        Their epochs are counted from the first one that begins with the final sparsity.
        Pass callbacks here that keep the best epoch: `EarlyStopping` with
        `restore_best_weights`, `ModelCheckpoint` with `save_best_only`.

        Returns:
            The callback itself.
        """
        arguments.listed(keras.callbacks.Callback, callbacks=callbacks)
        self._once_pruned.add(*callbacks)
        return self

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        planned = self._planned_firings()
        self._first_epoch = self._epoch_after(planned)
        best_epochs.check_beside_schedule(self, self._first_epoch)
        self._attach()
        self._began = None
        kernels = wrapping.kernels(self.model)
        self._asked = None
        self._start = kernels.weights
        self._due = []
        self._looked_at = 1
        self._warned = False
        if self._target is not None:
            self._largest = self._sparsity_of_target(planned)
        if planned is not None:
            if planned[1].size and self._target is None:
                self._check_possible(kernels, planned[1].max())
            units = kernels.layout.units(kernels.masks)
            self._warn_beforehand(planned, 1.0 / _size(units))

    def on_epoch_begin(self, epoch, logs=None):
        super().on_epoch_begin(epoch, logs)
        if self.params.get("steps"):
            self._look_ahead(self._step + self.params["steps"])
        if self._once_pruned and epoch >= self._first_epoch:
            if self._began is None:
                self._began = epoch
                self._once_pruned.begin()
            self._once_pruned.tell("on_epoch_begin", epoch - self._began)

    def on_train_batch_begin(self, batch, logs=None):
        self.advance(self._steps_before + batch + 1)

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        if self._began is not None:
            seen = epoch - self._began
            if self._once_pruned.stopped(self.model, seen, logs):
                self.model.stop_training = True

    def on_train_end(self, logs=None):
        if self._began is not None:
            self._once_pruned.tell("on_train_end")
        super().on_train_end(logs)
        kernels = wrapping.kernels(self.model)
        units = kernels.layout.units(kernels.masks)
        size, kept = _size(units), sum(int(alive.sum()) for alive in units.values())
        fewest = sum(kernels.layout.fewest(units).values())
        asked, reached = self._sparsity_at(self._step), (size - kept) / size
        # Rounding, groups that are not whole and targets leave another sparsity.
        pruned_to = self._asked or 0.0
        if self._target is None:
            pruned_to = max(pruned_to, reached)
        if not self._warned and asked - pruned_to > 1.0 / size and kept > fewest:
            self._warn(
                f"The schedule asks for sparsity {asked:.4f} at step {self._step}, the "
                f"model has {reached:.4f}. Its last pruning was asked for "
                f"{self._asked}. Lower `frequency`, or train past `end_step`."
            )

    def _planned_firings(self):
        """Returns the steps that prune and their sparsities; None if unknown."""
        steps = self.params.get("steps")
        if not steps:
            return None
        planned = np.arange(1, steps * self.params["epochs"] + 1)
        fires, sparsities = firings(self.schedule, planned)
        return planned[fires], sparsities[fires]

    def _epoch_after(self, planned):
        """Returns the first epoch after the last pruning; None if that is unknown."""
        if planned is None:
            return None
        steps, sparsities = planned
        if not steps.size:
            return 0
        last = steps[np.argmax(sparsities)]
        return -(-int(last - 1) // self.params["steps"])

    def _attach(self):
        """Gives the callbacks of `once_pruned` their model and number of epochs."""
        if not self._once_pruned:
            return
        checks.check_length_known(self.params)
        epochs = self.params["epochs"] - self._first_epoch
        if epochs < 1:
            raise ValueError(
                "No epoch is left for the callbacks of `once_pruned`: the schedule "
                f"prunes last within epoch {self._first_epoch} of "
                f"{self.params['epochs']}. Train longer, or let the schedule end "
                "earlier."
            )
        self._once_pruned.attach(self.model, {**self.params, "epochs": epochs})

    # What `find_tickets` stores and asks for.

    @property
    def inner_callbacks(self) -> Iterable[keras.callbacks.Callback]:
        """The callbacks of `once_pruned`."""
        return self._once_pruned

    def may_resume(self, epoch: int) -> bool:
        """Returns whether the callbacks of `once_pruned` have not begun yet."""
        return not self._once_pruned or epoch <= self._first_epoch

    def end_training(self, logs: dict[str, float]) -> Mapping[str, float]:
        if self._began is None:
            return logs
        self._began = None
        return self._once_pruned.end(self.model, logs)

    def pack(self) -> Progress:
        content, states = super().pack()
        content |= {
            "asked": self._asked,
            "looked_at": self._looked_at,
            "due": [list(row) for row in self._due],
        }
        return Progress(content, states)

    def unpack(self, progress: Progress, fresh: snapshots.State) -> None:
        super().unpack(progress, fresh)
        content = progress.content
        if content["looked_at"] <= content["step"]:
            raise ValueError(
                "The schedule must have been read beyond the present step. Received: "
                f"step {content['step']}, next step to read {content['looked_at']}."
            )
        self._asked = content["asked"]
        self._looked_at = content["looked_at"]
        self._due = [(step, sparsity) for step, sparsity in content["due"]]
        first = {**fresh["weights"], **fresh["statistics"]}
        self._start = {path: first[path] for path in wrapping.kernels(self.model)}

    def _warn_beforehand(self, firing, tolerance):
        """Warns if the planned steps are too few for the schedule."""
        planned = self.params["steps"] * self.params["epochs"]
        _, sparsities = firing
        if sparsities.size:
            self._warn_if_short(planned, sparsities.max(), tolerance)
        else:
            self._warn(
                f"The schedule fires at none of the {planned} planned steps: nothing "
                "will be pruned. Lower its begin_step or frequency."
            )

    def _warn_if_short(self, planned, reached, tolerance):
        end = max(planned, getattr(self.schedule, "end_step", planned))
        asked = self._sparsity_at(end)
        if asked - reached > tolerance:
            self._warn(
                f"The schedule will reach only {reached:.4f} in the {planned} "
                f"planned steps; it asks for sparsity {asked:.4f} at step {end}. Train "
                "longer, or lower its `end_step` or `frequency`."
            )

    def _warn(self, message):
        self._warned = True
        warnings.warn(message, stacklevel=3)

    def _sparsity_at(self, step):
        return firings(self.schedule, np.array([step]))[1][0]

    def _look_ahead(self, until):
        """Stores when the schedule fires, from the last checked step to `until`."""
        if until < self._looked_at:
            return
        steps = np.arange(self._looked_at, until + 1)
        fires, sparsities = firings(self.schedule, steps)
        rows = zip(steps[fires].tolist(), sparsities[fires].tolist(), strict=True)
        self._due += rows
        self._looked_at = until + 1

    def advance(self, step: int) -> None:
        """Prunes to the sparsity of the last firing up to a step."""
        if step >= self._looked_at:
            self._look_ahead(step)
        due = [sparsity for at, sparsity in self._due if at <= step]
        if due:
            self._due = [(at, sparsity) for at, sparsity in self._due if at > step]
            self._prune(due[-1])

    def _prune(self, sparsity):
        self._asked = sparsity
        kernels = wrapping.kernels(self.model)
        keep: int | targets.Target
        if self._target is None:
            self._check_possible(kernels, sparsity)
            units = kernels.layout.units(kernels.masks)
            alive = sum(int(there.sum()) for there in units.values())
            keep = min(alive, allocations.weights_at(sparsity, units))
        else:
            keep = self._target.in_proportion(min(1.0, sparsity / self._largest))
        rng = np.random.default_rng([self.seed, self._step])
        scores = criteria.score_units(self.criterion, kernels, self._start, rng)
        self._set_masks(targets.choose(kernels, scores, keep, self._allocate))

    def _check_possible(self, kernels, sparsity):
        schedule = f"schedule={type(self.schedule).__name__}(...)"
        checks.check_possible(kernels.structure, **{schedule: sparsity})

    def _sparsity_of_target(self, planned):
        """Returns the largest sparsity of the schedule."""
        for name in ("final_sparsity", "target_sparsity"):
            largest = getattr(self.schedule, name, 0)
            if arguments.is_real(largest) and largest > 0:
                return float(largest)
        if planned is not None and planned[1].size and planned[1].max() > 0:
            return float(planned[1].max())
        raise ValueError(
            "`target` belongs to the largest sparsity of the schedule, which is not "
            f"known. Received: target={self.target}, {self.schedule!r}. Use "
            "PolynomialDecay or ConstantSparsity with a sparsity above 0, or pass "
            "steps_per_epoch to fit."
        )


def _size(units):
    return sum(table.size for table in units.values())
